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

pub(super) fn composed(x: &Tensor, weight: &Tensor, bias: &Tensor, epsilon: f64) -> Result<Tensor> {
    let wide = x.to_dtype(DType::F32)?;
    let centred = wide.broadcast_sub(&wide.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let normed = centred.broadcast_div(&(variance + epsilon)?.sqrt()?)?.to_dtype(x.dtype())?;
    normed.broadcast_mul(weight)?.broadcast_add(bias)
}
