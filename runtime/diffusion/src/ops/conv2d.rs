use candle_core::{D, Result, Tensor};

use super::Form;

/// Zeros put around an image before a convolution, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    /// The same on all four sides.
    Even(usize),
    /// One row below and one column to the right: how diffusers' VAE encoder halves an image.
    BelowAndRight,
}

/// 2-D cross-correlation with bias: x [B, C, H, W], weight [N, C, KH, KW], bias [N] → [B, N, H', W'], in the dtype of x.
///
/// # Errors
/// When the shapes do not fit or the dtypes differ.
pub fn conv2d(x: &Tensor, weight: &Tensor, bias: &Tensor, padding: Padding, stride: usize, form: Form) -> Result<Tensor> {
    if !form.takes_cpu_kernel(x) {
        return composed(x, weight, bias, padding, stride);
    }
    let (padding_before, padding_after) = match padding {
        Padding::Even(pixels) => (pixels, pixels),
        Padding::BelowAndRight => (0, 1),
    };
    x.contiguous()?.apply_op3(weight, bias, kernels::Conv2d { padding_before, padding_after, stride })
}

pub(super) fn composed(x: &Tensor, weight: &Tensor, bias: &Tensor, padding: Padding, stride: usize) -> Result<Tensor> {
    let y = match padding {
        Padding::Even(pixels) => x.conv2d(weight, pixels, stride, 1, 1)?,
        Padding::BelowAndRight => {
            let padded = x.pad_with_zeros(D::Minus1, 0, 1)?.pad_with_zeros(D::Minus2, 0, 1)?;
            padded.conv2d(weight, 0, stride, 1, 1)?
        }
    };
    y.broadcast_add(&bias.reshape((1, (), 1, 1))?)
}
