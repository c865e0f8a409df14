//! Classifier-free guidance: which predictions an image needs at each evaluation, and how they become one.
//!
//! Follows diffusers' `StableDiffusionPipeline`: guidance is on when the scale is above 1; `guidance_rescale` follows
//! "Common Diffusion Noise Schedules and Sample Steps are Flawed" (arXiv 2305.08891), section 3.4. Knows no model.

use candle_core::{D, Result, Tensor};

/// One prediction that an image asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Branch {
    /// Conditioned on the negative prompt, or on the empty one.
    Negative,
    /// Conditioned on the prompt.
    Positive,
}

/// How strongly, and whether the result's deviation is drawn back.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Guidance {
    /// `guidance_scale`; 1 and below mean no guidance.
    pub scale: f32,
    /// `guidance_rescale`, 0 … 1; 0 means off.
    pub rescale: f32,
}

impl Guidance {
    /// Whether the negative branch takes part, as diffusers' `do_classifier_free_guidance`.
    pub fn is_on(&self) -> bool {
        self.scale > 1.0
    }

    /// The predictions needed, in the order diffusers puts them into its batch.
    pub fn branches(&self) -> &'static [Branch] {
        if self.is_on() { &[Branch::Negative, Branch::Positive] } else { &[Branch::Positive] }
    }

    /// `negative + scale · (positive − negative)`, then the rescale if it is above 0.
    ///
    /// Both are f32 of one shape: `[B, C, H, W]`, or `[C, H, W]` for one image. Each image is treated by itself.
    ///
    /// # Errors
    /// Shapes or dtypes that differ, or another rank if a rescale is asked for.
    pub fn combine(&self, negative: &Tensor, positive: &Tensor) -> Result<Tensor> {
        let difference = (positive - negative)?;
        let combined = (negative + (difference * f64::from(self.scale))?)?;
        if self.rescale > 0.0 { rescaled(&combined, positive, self.rescale) } else { Ok(combined) }
    }
}

/// Mixes `combined` with a copy of it whose deviation per image is that of `positive`.
fn rescaled(combined: &Tensor, positive: &Tensor, share: f32) -> Result<Tensor> {
    let factor = (deviation(positive)? / deviation(combined)?)?;
    let matched = combined.broadcast_mul(&factor)?;
    (matched * f64::from(share))? + (combined * (1.0 - f64::from(share)))?
}

/// The unbiased standard deviation over all but the batch dimension, shaped to broadcast.
fn deviation(values: &Tensor) -> Result<Tensor> {
    let (images, shape): (usize, &[usize]) = match values.rank() {
        3 => (1, &[1, 1, 1]),
        4 => (values.dim(0)?, &[values.dim(0)?, 1, 1, 1]),
        rank => candle_core::bail!("guidance takes [B, C, H, W] or [C, H, W], not rank {rank}"),
    };
    values.reshape((images, ()))?.var_keepdim(D::Minus1)?.sqrt()?.reshape(shape)
}
