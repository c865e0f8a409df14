use candle_core::{D, DType, Result, Tensor};

use super::Form;
use super::activation::silu;

/// Group normalisation (Wu & He 2018), optionally followed by SiLU: x [B, C, H, W], weight and bias [C] → [B, C, H, W].
///
/// Mean and (biased) variance are taken over each group of C/groups channels and all positions, in f32 whatever the dtype of x.
///
/// # Errors
/// When C is not a multiple of `groups`, or the shapes do not fit.
pub fn group_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, groups: usize, epsilon: f64, then_silu: bool, form: Form) -> Result<Tensor> {
    if form.takes_cpu_kernel(x) {
        return x.contiguous()?.apply_op3(weight, bias, kernels::GroupNorm { groups, epsilon, then_silu });
    }
    composed(x, weight, bias, groups, epsilon, then_silu)
}

pub(super) fn composed(x: &Tensor, weight: &Tensor, bias: &Tensor, groups: usize, epsilon: f64, then_silu: bool) -> Result<Tensor> {
    let (batch, channels, height, width) = x.dims4()?;
    if groups == 0 || channels % groups != 0 {
        candle_core::bail!("group_norm: {channels} channels do not split into {groups} groups");
    }
    let grouped = x.to_dtype(DType::F32)?.reshape((batch, groups, channels / groups * height * width))?;
    let centred = grouped.broadcast_sub(&grouped.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let normed = centred.broadcast_div(&(variance + epsilon)?.sqrt()?)?;
    let normed = normed.reshape((batch, channels, height, width))?.to_dtype(x.dtype())?;
    let y = normed.broadcast_mul(&weight.reshape((1, (), 1, 1))?)?.broadcast_add(&bias.reshape((1, (), 1, 1))?)?;
    if then_silu { silu(&y) } else { Ok(y) }
}
