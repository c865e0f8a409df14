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

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn tensor(values: &[f32], shape: &[usize]) -> Tensor {
        Tensor::from_slice(values, shape, &Device::Cpu).unwrap()
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn guidance_is_on_above_one_only() {
        for (scale, count) in [(0.0, 1), (1.0, 1), (1.0001, 2), (7.5, 2)] {
            assert_eq!(Guidance { scale, rescale: 0.0 }.branches().len(), count, "{scale}");
        }
    }

    #[test]
    fn prediction_moves_from_negative_towards_and_beyond_positive() {
        let negative = tensor(&[1.0, 2.0, 3.0, 4.0], &[1, 2, 2]);
        let positive = tensor(&[2.0, 0.0, 3.0, 5.0], &[1, 2, 2]);
        let guidance = Guidance { scale: 3.0, rescale: 0.0 };
        assert_eq!(values(&guidance.combine(&negative, &positive).unwrap()), [4.0, -4.0, 3.0, 7.0]);
    }

    #[test]
    fn full_rescale_gives_the_deviation_of_the_positive_prediction() {
        let negative = tensor(&[1.0, 2.0, 3.0, 4.0, 0.0, 1.0, 5.0, 9.0], &[2, 1, 2, 2]);
        let positive = tensor(&[2.0, 0.0, 3.0, 5.0, 1.0, 1.0, 2.0, 3.0], &[2, 1, 2, 2]);
        let combined = Guidance { scale: 3.0, rescale: 1.0 }.combine(&negative, &positive).unwrap();
        let (found, expected) = (deviation(&combined).unwrap(), deviation(&positive).unwrap());
        for (found, expected) in values(&found).into_iter().zip(values(&expected)) {
            assert!((found - expected).abs() < 1e-5, "{found} for {expected}");
        }
        // Unbiased: of 2, 0, 3, 5 the squared deviations sum to 13, over 3.
        assert!((values(&expected)[0] - (13.0_f32 / 3.0).sqrt()).abs() < 1e-6);
    }

    #[test]
    fn each_image_of_a_batch_comes_out_as_alone() {
        let negative: Vec<f32> = (0..24).map(|at| (at as f32).sin()).collect();
        let positive: Vec<f32> = (0..24).map(|at| (at as f32 * 1.7).cos()).collect();
        let guidance = Guidance { scale: 7.5, rescale: 0.7 };
        let both = guidance.combine(&tensor(&negative, &[2, 3, 2, 2]), &tensor(&positive, &[2, 3, 2, 2])).unwrap();
        for image in 0..2 {
            let part = image * 12..(image + 1) * 12;
            let (negative, positive) = (&negative[part.clone()], &positive[part.clone()]);
            let alone = guidance.combine(&tensor(negative, &[3, 2, 2]), &tensor(positive, &[3, 2, 2])).unwrap();
            assert_eq!(values(&alone), values(&both)[part]);
        }
    }
}
