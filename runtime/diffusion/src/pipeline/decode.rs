//! Latents to pixels to bytes.

use candle_core::{Device, Tensor};

use super::step::is_finite;
use super::{ImageState, PipelineError};
use crate::picture::RgbImage;

/// The finished image: [3, height, width] f32 in 0 … 1, on the CPU. Follows diffusers' `VaeImageProcessor.postprocess`.
///
/// # Errors
/// When evaluations are left, or the engine fails.
pub fn decode(image: &ImageState) -> Result<Tensor, PipelineError> {
    if !image.is_finished() {
        let (done, total) = image.progress();
        return Err(PipelineError::OutOfOrder { done, total, asked: "its final picture" });
    }
    pixels(image, &image.latents)
}

/// What the image looks like so far, noise and all: [3, height, width] f32 in 0 … 1, on the CPU.
///
/// # Errors
/// When the engine fails.
pub fn preview(image: &ImageState) -> Result<Tensor, PipelineError> {
    if image.is_finished() {
        return pixels(image, &image.latents);
    }
    // Between evaluations the latents of some samplers are larger than what the autoencoder knows.
    let evaluation = image.course.sampler.evaluation(&image.course.schedule, image.sampler_state.at);
    pixels(image, &(&image.latents * f64::from(evaluation.input_scale))?)
}

fn pixels(image: &ImageState, latents: &Tensor) -> Result<Tensor, PipelineError> {
    let model = image.model();
    let pixels = model.vae().decode(&latents.unsqueeze(0)?, model.vae_exec())?.to_device(&Device::Cpu)?;
    if !is_finite(&pixels)? {
        return Err(PipelineError::NotFinitePicture);
    }
    let pixels = ((pixels * 0.5)? + 0.5)?.clamp(0_f32, 1_f32)?;
    Ok(pixels.squeeze(0)?)
}

/// What is handed out of `pixels` that [`decode`] or [`preview`] made of `image`: bytes, and outside of an inpainting's mask those of the
/// picture it began with. This goes beyond the reference, which leaves there what the autoencoder made of it.
///
/// # Errors
/// As [`to_rgb8`].
pub fn composed(image: &ImageState, pixels: &Tensor) -> Result<RgbImage, PipelineError> {
    let mut drawn = to_rgb8(pixels)?;
    if let Some(overlay) = &image.course.overlay {
        overlay.apply(&mut drawn);
    }
    Ok(drawn)
}

/// [3, height, width] f32 in 0 … 1 → bytes, rounded half to even as numpy does for diffusers' `numpy_to_pil`. NaN becomes 0.
///
/// # Errors
/// When the tensor is not of that shape or dtype.
pub fn to_rgb8(image: &Tensor) -> Result<RgbImage, PipelineError> {
    let (channels, height, width) = image.dims3()?;
    if channels != 3 {
        return Err(candle_core::Error::msg(format!("a picture has 3 channels, not {channels}")).into());
    }
    let values = image.permute((1, 2, 0))?.flatten_all()?.to_vec1::<f32>()?;
    // A cast from f32 saturates.
    let data = values.into_iter().map(|value| (value * 255.0).round_ties_even() as u8).collect();
    Ok(RgbImage { width, height, data })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_rounded_half_to_even_and_rows_come_from_the_top() {
        // 0.5 / 255 and 1.5 / 255 are not exact; 0.5 itself gives 127.5 exactly, which goes to the even 128.
        let planes: Vec<f32> = vec![0.0, 1.0, 0.5, 0.25, 0.75, 2.0, -1.0, f32::NAN, 0.1, 0.2, 0.3, 0.4];
        let image = Tensor::from_vec(planes, (3, 2, 2), &Device::Cpu).unwrap();
        let rgb = to_rgb8(&image).unwrap();
        assert_eq!((rgb.width, rgb.height), (2, 2));
        assert_eq!(rgb.data, [0, 191, 26, 255, 255, 51, 128, 0, 76, 64, 0, 102]);
    }
}
