use candle_core::{D, Result, Tensor};

use super::Form;

/// An elementwise non-linearity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x · sigmoid(x)`, also called swish.
    Silu,
    /// `x · Φ(x)` with the exact normal distribution function (torch's default `gelu`).
    Gelu,
    /// `x · sigmoid(1.702 x)`, as OpenAI's CLIP was trained with.
    QuickGelu,
    /// `½·x·(1 + tanh(√(2/π)·(x + 0.044715 x³)))`: torch's `gelu` with `approximate="tanh"`, transformers' `gelu_new`.
    TanhGelu,
}

/// Applies `activation` to every element of x, of any shape and float dtype.
///
/// # Errors
/// When the dtype is not a float.
pub fn activate(x: &Tensor, activation: Activation, form: Form) -> Result<Tensor> {
    if form.takes_cpu_kernel(x) {
        let x = x.contiguous()?;
        return match activation {
            Activation::Silu => x.apply_op1(kernels::Silu),
            Activation::Gelu => x.apply_op1(kernels::Gelu),
            Activation::QuickGelu => x.apply_op1(kernels::QuickGelu),
            Activation::TanhGelu => x.apply_op1(kernels::TanhGelu),
        };
    }
    match activation {
        Activation::Silu => silu(x),
        Activation::Gelu => x.gelu_erf(),
        Activation::QuickGelu => quick_gelu(x),
        Activation::TanhGelu => x.gelu(),
    }
}

pub(super) fn silu(x: &Tensor) -> Result<Tensor> {
    x.silu()
}

fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    let gate = ((x * -1.702)?.exp()? + 1.0)?.recip()?;
    x * gate
}

/// The gated linear unit of diffusers' `GEGLU` (Shazeer 2020): x […, 2C] holds value then gate; → value · gelu(gate), […, C].
///
/// # Errors
/// When the last dimension is odd.
pub fn geglu(x: &Tensor, form: Form) -> Result<Tensor> {
    if form.takes_cpu_kernel(x) {
        return x.contiguous()?.apply_op1(kernels::Geglu);
    }
    let half = x.dim(D::Minus1)? / 2;
    let value = x.narrow(D::Minus1, 0, half)?;
    let gate = x.narrow(D::Minus1, half, half)?.contiguous()?;
    value * gate.gelu_erf()?
}
