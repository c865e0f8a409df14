//! What an image begins with besides its prompt, as a request says it.

use std::sync::Arc;

use candle_core::Tensor;

use super::InvalidRequest;
use crate::model::Model;
use crate::picture::{GrayImage, RgbImage};

/// What the first evaluation begins with. Pictures have the request's own size: [`RgbImage::resized`] as diffusers would.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Start {
    /// Noise alone: diffusers' `StableDiffusionPipeline`.
    #[default]
    Noise,
    /// A picture under noise: diffusers' `StableDiffusionImg2ImgPipeline`.
    Image {
        /// The picture.
        image: Arc<RgbImage>,
        /// How far the picture is left behind, above 0 and at most 1: the share of the steps that are run.
        strength: f64,
    },
    /// Latents in place of a picture: what another model left unfinished, say.
    Latents {
        /// Scaled, as the autoencoder would hand them on.
        latents: GivenLatents,
        /// As for [`Start::Image`].
        strength: f64,
    },
    /// A picture of which a part is drawn anew: diffusers' `StableDiffusionInpaintPipeline`.
    Inpaint {
        /// The picture.
        image: Arc<RgbImage>,
        /// White is drawn anew. What counts for the denoiser is the mask in black and white; its grays mix the finished picture.
        mask: Arc<GrayImage>,
        /// As for [`Start::Image`]; 1 begins with noise alone.
        strength: f64,
    },
}

/// Latents [n or 1, c, h, w] f32: one for each sample, or one for all.
#[derive(Clone, Debug)]
pub struct GivenLatents(pub Tensor);

/// The very same tensor.
impl PartialEq for GivenLatents {
    fn eq(&self, other: &Self) -> bool {
        self.0.id() == other.0.id()
    }
}

/// What is wrong with what a request begins with.
#[derive(Debug, thiserror::Error)]
pub enum InvalidStart {
    /// A share that is none.
    #[error("strength is {value}; it must be above 0 and at most 1")]
    Strength {
        /// What was asked for.
        value: f64,
    },
    /// So low a strength that nothing would be done.
    #[error("strength {strength} of {steps} steps leaves no step to make; ask for at least {least} steps, or for more strength")]
    NoStep {
        /// What was asked for.
        strength: f64,
        /// Steps of the whole schedule.
        steps: usize,
        /// Steps of which this strength leaves one.
        least: usize,
    },
    /// A picture that is not of the request's size.
    #[error("the {name} is {width}×{height} with {bytes} bytes; this request needs {expected_width}×{expected_height}")]
    PictureSize {
        /// Image or mask.
        name: &'static str,
        /// In pixels.
        width: usize,
        /// In pixels.
        height: usize,
        /// Of its pixels.
        bytes: usize,
        /// In pixels.
        expected_width: usize,
        /// In pixels.
        expected_height: usize,
    },
    /// Nothing to draw.
    #[error("the mask is black everywhere: nothing would be drawn anew; make white what should change")]
    BlackMask,
    /// White parts that fall between the latents' positions.
    #[error("the mask's white parts are too fine: one position of the latents is {scale}×{scale} pixels; make them wider")]
    FineMask {
        /// Pixels along each side.
        scale: usize,
    },
    /// Latents of a picture where none is begun with.
    #[error("image_latents stand for the image of image-to-image; other tasks do not take them")]
    NoImageLatents,
    /// A share of the schedule, and nothing that is so far.
    #[error("denoising_start goes on from a picture or from latents; this request has neither")]
    NothingToGoOnFrom,
    /// A model that only changes pictures.
    #[error("this model changes pictures and makes none of noise alone: it needs an image with each request")]
    NeedsPicture,
    /// A model that only inpaints.
    #[error("this model was made for inpainting: it needs an image and a mask with each request")]
    NeedsMask,
}

impl Start {
    /// Whether `model` can begin with it, at `width`×`height`.
    pub(super) fn check(&self, model: &Model, width: usize, height: usize) -> Result<(), InvalidStart> {
        let sized = |name, is_whole, [found_width, found_height]: [usize; 2], bytes| match is_whole {
            true if [found_width, found_height] == [width, height] => Ok(()),
            _ => Err(InvalidStart::PictureSize {
                name,
                width: found_width,
                height: found_height,
                bytes,
                expected_width: width,
                expected_height: height,
            }),
        };
        if let Some(value) = self.strength().filter(|strength| !(*strength > 0.0 && *strength <= 1.0)) {
            return Err(InvalidStart::Strength { value });
        }
        if let Self::Image { image, .. } | Self::Inpaint { image, .. } = self {
            sized("image", image.is_whole(), [image.width, image.height], image.data.len())?;
        }
        match self {
            Self::Inpaint { mask, .. } => {
                sized("mask", mask.is_whole(), [mask.width, mask.height], mask.data.len())?;
                check_mask(mask, model.spec().latent_scale())
            }
            _ if model.spec().concat_channels() > 0 => Err(InvalidStart::NeedsMask),
            Self::Noise if model.spec().needs_picture() => Err(InvalidStart::NeedsPicture),
            Self::Noise | Self::Image { .. } | Self::Latents { .. } => Ok(()),
        }
    }

    fn strength(&self) -> Option<f64> {
        match self {
            Self::Noise => None,
            Self::Image { strength, .. } | Self::Latents { strength, .. } | Self::Inpaint { strength, .. } => Some(*strength),
        }
    }

    /// The evaluation that comes first, as diffusers' `get_timesteps`; `per_step` of them make one of the `steps`. Where strength leaves a part
    /// of a step, pipelines of flow matching run that step, the others do not.
    pub(super) fn first_evaluation(&self, steps: usize, per_step: usize, is_flow: bool) -> Result<usize, InvalidRequest> {
        let Some(strength) = self.strength() else { return Ok(0) };
        // A cast from f64 rounds towards zero, as Python's int().
        if is_flow {
            let skipped = (steps as f64 - (steps as f64 * strength).min(steps as f64)) as usize;
            return Ok(skipped.min(steps.saturating_sub(1)) * per_step);
        }
        let kept = |steps: usize| ((steps as f64 * strength) as usize).min(steps);
        match kept(steps) {
            0 => {
                let near = (1.0 / strength) as usize;
                let least = if kept(near) > 0 { near } else { near.saturating_add(1) };
                Err(InvalidStart::NoStep { strength, steps, least }.into())
            }
            kept => Ok((steps - kept) * per_step),
        }
    }
}

/// The latents see one pixel of each position, the first: somewhere it must be white.
fn check_mask(mask: &GrayImage, scale: usize) -> Result<(), InvalidStart> {
    let is_any_white = |stride: usize| {
        let mut rows = (0..mask.height).step_by(stride);
        rows.any(|row| (0..mask.width).step_by(stride).any(|column| mask.is_white(column, row)))
    };
    match (is_any_white(scale), is_any_white(1)) {
        (true, _) => Ok(()),
        (false, true) => Err(InvalidStart::FineMask { scale }),
        (false, false) => Err(InvalidStart::BlackMask),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(strength: f64) -> Start {
        Start::Image { image: Arc::new(RgbImage { width: 0, height: 0, data: Vec::new() }), strength }
    }

    #[test]
    fn strength_decides_how_many_steps_are_left_out() {
        // 10 · 0.29 is 2.9 and 100 · 0.29 is 28.999999999999996, of which Python's int() keeps 2 and 28.
        for (steps, strength, first) in [(10, 1.0, 0), (10, 0.5, 5), (10, 0.29, 8), (100, 0.29, 72), (1, 1.0, 0)] {
            assert_eq!(image(strength).first_evaluation(steps, 1, false).unwrap(), first);
            assert_eq!(image(strength).first_evaluation(steps, 2, false).unwrap(), 2 * first);
        }
        assert_eq!(Start::Noise.first_evaluation(10, 1, false).unwrap(), 0);
    }

    #[test]
    fn models_of_flow_matching_run_a_step_that_strength_leaves_a_part_of() {
        for (steps, strength, first) in
            [(10, 1.0, 0), (10, 0.5, 5), (10, 0.29, 7), (10, 0.01, 9), (10, 1e-300, 9), (1, 0.1, 0), (28, 0.6, 11)]
        {
            assert_eq!(image(strength).first_evaluation(steps, 1, true).unwrap(), first);
            assert_eq!(image(strength).first_evaluation(steps, 2, true).unwrap(), 2 * first);
        }
    }

    #[test]
    fn strength_too_low_for_any_step_says_how_many_steps_it_takes() {
        for (strength, least) in [(0.1, "10 steps"), (0.3, "4 steps"), (0.001, "1000 steps")] {
            let refused = image(strength).first_evaluation(3, 1, false).unwrap_err().to_string();
            assert!(refused.contains(least), "{refused}");
        }
        assert!(image(1e-300).first_evaluation(1000, 1, false).is_err());
    }

    #[test]
    fn masks_that_leave_nothing_to_draw_are_told_apart() {
        let mask = |white: &[(usize, usize)]| {
            let mut mask = GrayImage { width: 16, height: 16, data: vec![127; 256] };
            white.iter().for_each(|(column, row)| mask.data[row * 16 + column] = 128);
            mask
        };
        assert!(matches!(check_mask(&mask(&[]), 8), Err(InvalidStart::BlackMask)));
        assert!(matches!(check_mask(&mask(&[(3, 8), (8, 9)]), 8), Err(InvalidStart::FineMask { scale: 8 })));
        assert!(check_mask(&mask(&[(8, 0)]), 8).is_ok());
    }
}
