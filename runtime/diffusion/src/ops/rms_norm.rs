use candle_core::{D, DType, Result, Tensor};

use super::Form;

/// Root-mean-square normalisation (Zhang & Sennrich 2019) over the last dimension: x […, C], weight [C] → […, C].
///
/// The mean square is taken in f32 whatever the dtype of x.
///
/// # Errors
/// When the shapes do not fit.
pub fn rms_norm(x: &Tensor, weight: &Tensor, epsilon: f64, form: Form) -> Result<Tensor> {
    if form.takes_cpu_kernel(x) {
        return x.contiguous()?.apply_op2(weight, kernels::RmsNorm { epsilon });
    }
    composed(x, weight, epsilon)
}

pub(super) fn composed(x: &Tensor, weight: &Tensor, epsilon: f64) -> Result<Tensor> {
    let wide = x.to_dtype(DType::F32)?;
    let deviation = (wide.sqr()?.mean_keepdim(D::Minus1)? + epsilon)?.sqrt()?;
    wide.broadcast_div(&deviation)?.to_dtype(x.dtype())?.broadcast_mul(weight)
}
