use candle_core::{Result, Tensor};

use super::Form;

/// Nearest-neighbour resizing: x [B, C, H, W] → [B, C, height, width], as torch's `interpolate(mode="nearest")`:
/// target position i reads source position ⌊i · source / target⌋.
///
/// # Errors
/// When x is not an image batch.
pub fn upsample_nearest(x: &Tensor, height: usize, width: usize, _form: Form) -> Result<Tensor> {
    x.upsample_nearest2d(height, width)
}
