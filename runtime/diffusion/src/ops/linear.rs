use candle_core::{Result, Tensor};

use super::Form;

/// `y = x·Wᵀ + b`: x [B, …, K], weight [N, K], bias [N] → [B, …, N], in the dtype of x.
///
/// On the CPU in f32 a row's bits depend neither on B nor on its place (see `kernels::linear` for the rule and its measurement).
///
/// # Errors
/// When the shapes do not fit or the dtypes differ.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, form: Form) -> Result<Tensor> {
    if form.takes_cpu_kernel(x) {
        let x = x.contiguous()?;
        return match bias {
            Some(bias) => x.apply_op3(weight, bias, kernels::Linear),
            None => x.apply_op2(weight, kernels::Linear),
        };
    }
    composed(x, weight, bias)
}

pub(super) fn composed(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (outputs, features) = weight.dims2()?;
    let mut shape = x.dims().to_vec();
    let y = x.reshape(((), features))?.matmul(&weight.t()?)?;
    if let Some(last) = shape.last_mut() {
        *last = outputs;
    }
    let y = y.reshape(shape)?;
    match bias {
        Some(bias) => y.broadcast_add(bias),
        None => Ok(y),
    }
}
