use candle_core::{D, DType, Result, Tensor};

use super::Form;

/// Layer normalisation (Ba et al. 2016) over the last dimension: x […, C], weight and bias [C] → […, C].
///
/// Mean and (biased) variance are taken in f32 whatever the dtype of x.
///
/// # Errors
/// When the shapes do not fit.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, epsilon: f64, form: Form) -> Result<Tensor> {
    if form.takes_cpu_kernel(x) {
        return x.contiguous()?.apply_op3(weight, bias, kernels::LayerNorm { epsilon });
    }
    composed(x, weight, bias, epsilon)
}

/// Layer normalisation with a scale and a shift of each row's own: x [B, T, C], scale and shift [B, C] → `norm(x)·(1 + scale) + shift`, the
/// adaptive normalisation of transformers for images (Peebles & Xie 2023).
///
/// # Errors
/// When the shapes do not fit.
pub fn modulated_layer_norm(x: &Tensor, scale: &Tensor, shift: &Tensor, epsilon: f64, form: Form) -> Result<Tensor> {
    let (weight, bias) = ((scale + 1.0)?, shift.contiguous()?);
    if form.takes_cpu_kernel(x) {
        return x.contiguous()?.apply_op3(&weight, &bias, kernels::LayerNorm { epsilon });
    }
    composed(x, &weight.unsqueeze(1)?, &bias.unsqueeze(1)?, epsilon)
}

pub(super) fn composed(x: &Tensor, weight: &Tensor, bias: &Tensor, epsilon: f64) -> Result<Tensor> {
    let wide = x.to_dtype(DType::F32)?;
    let centred = wide.broadcast_sub(&wide.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let normed = centred.broadcast_div(&(variance + epsilon)?.sqrt()?)?.to_dtype(x.dtype())?;
    normed.broadcast_mul(weight)?.broadcast_add(bias)
}
