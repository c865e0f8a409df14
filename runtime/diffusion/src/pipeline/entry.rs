//! How an image enters the schedule: from noise, or from a picture under noise. Computed once for all samples of a request.
//!
//! The random draws come in the order in which diffusers makes them: the picture's latents, the noise over them, the masked picture's
//! latents. There, one draw of a picture's latents serves all samples; here each sample makes its own, so that it is the same alone.

use candle_core::{DType, Tensor};

use super::{InjectedTensors, InvalidRequest, PipelineError, Request, Start};
use crate::model::Model;
use crate::picture::{GrayImage, RgbImage};
use crate::sampler::{NoiseMix, NoiseStream, Sampler, Schedule};
use crate::vae::LatentDistribution;

/// What the samples of a request begin with.
pub(super) struct Entry<'a> {
    /// [n, c, h, w] in place of the first noise.
    given_noise: Option<&'a Tensor>,
    image: Option<ImageLatents<'a>>,
    mask: Option<Mask>,
    /// The first evaluation.
    first: usize,
    mix: NoiseMix,
    latent_shape: [usize; 3],
}

/// What one sample begins with.
pub(super) struct Beginning {
    pub(super) first: usize,
    /// [c, h, w]
    pub(super) latents: Tensor,
    pub(super) blend: Option<MaskBlend>,
    /// [channels, h, w], read by the denoiser beside the latents.
    pub(super) concat: Option<Tensor>,
}

/// A picture's latents, or what they are drawn from.
enum ImageLatents<'a> {
    Encoded(LatentDistribution),
    Given(&'a Tensor),
}

/// Where to draw anew, as the latents see it.
struct Mask {
    /// [1, h, w] f32, 1 is drawn anew.
    mask: Tensor,
    /// For a denoiser that reads it: the picture with what is drawn anew at middle gray.
    masked: Option<LatentDistribution>,
}

/// Keeps what lies outside of a mask: after each update the picture's own latents are put back there, under the noise of the level reached.
#[derive(Clone, Debug)]
pub(super) struct MaskBlend {
    /// [1, h, w] f32, 1 is drawn anew.
    mask: Tensor,
    /// [c, h, w]
    image: Tensor,
    /// [c, h, w], the noise that the image began with.
    noise: Tensor,
}

impl<'a> Entry<'a> {
    pub(super) fn new(
        model: &Model,
        request: &'a Request,
        injected: &'a InjectedTensors,
        sampler: &dyn Sampler,
        schedule: &Schedule,
        first: usize,
    ) -> Result<Self, PipelineError> {
        let start = &request.start;
        let [height, width] = request.latent_size(model);
        let latent_shape = [model.spec().latent_channels(), height, width];
        let encode = |image: &RgbImage, keep: &dyn Fn(usize) -> bool| model.vae().encode(&pixels(image, keep)?, model.vae_exec());
        let encoded = |image: &RgbImage| match &injected.image_latents {
            Some(given) => Ok(ImageLatents::Given(given)),
            None => encode(image, &|_| true).map(ImageLatents::Encoded),
        };
        let from_noise = NoiseMix { signal: 0.0, noise: schedule.init_noise_sigma };
        // What was left off by another model is as noisy as it should be.
        let goes_on = request.denoising_start.is_some();
        let entered = if goes_on { NoiseMix { signal: 1.0, noise: 0.0 } } else { sampler.noised(schedule, first) };
        let (image, mask, mix) = match start {
            Start::Noise => (None, None, from_noise),
            Start::Image { image, .. } => (Some(encoded(image)?), None, entered),
            Start::Latents { latents, .. } => (Some(ImageLatents::Given(&latents.0)), None, entered),
            Start::Inpaint { image, mask, strength } => {
                let reads_mask = model.spec().concat_channels() > 0;
                let is_noise = *strength >= 1.0 && !goes_on;
                let masked = reads_mask.then(|| encode(image, &|at| mask.data[at] < 128)).transpose()?;
                let mask = Mask { mask: latent_mask(mask, model)?, masked };
                // A denoiser that reads the picture needs no blending, and from noise alone no latents of it.
                let image = if reads_mask && is_noise { None } else { Some(encoded(image)?) };
                (image, Some(mask), if is_noise { from_noise } else { entered })
            }
        };
        Ok(Self { given_noise: injected.latents_init.as_ref(), image, mask, first, mix, latent_shape })
    }

    /// The beginning of sample `index`, which draws from `noise`.
    pub(super) fn begin(&self, index: usize, noise: &mut NoiseStream, model: &Model) -> Result<Beginning, PipelineError> {
        let device = &model.exec().device;
        let image = self.image.as_ref().map(|image| image.of_sample(index, noise, &self.latent_shape, model)).transpose()?;
        let beginning = |latents| Beginning { first: self.first, latents, blend: None, concat: None };
        if let (Some(image), None, true) = (&image, &self.mask, self.mix.noise == 0.0) {
            // Diffusers draws no noise that it does not use, but for the sake of a mask.
            return Ok(beginning(image.clone()));
        }
        let unit = match self.given_noise {
            Some(latents) => latents.get(index)?.to_dtype(DType::F32)?.contiguous()?,
            None => noise.draw(&self.latent_shape)?,
        };
        let unit = unit.to_device(device)?;
        let mut latents = (&unit * f64::from(self.mix.noise))?;
        if let Some(image) = image.as_ref().filter(|_| self.mix.signal != 0.0) {
            latents = ((image * f64::from(self.mix.signal))? + latents)?;
        }
        let mut beginning = beginning(latents);
        if let Some(Mask { mask, masked }) = &self.mask {
            // Diffusers draws for the masked picture also where nothing reads it.
            let draw = noise.draw(&self.latent_shape)?.to_device(device)?;
            match (masked, image) {
                (Some(masked), _) => {
                    let masked = masked.sample(&draw.unsqueeze(0)?)?.squeeze(0)?;
                    beginning.concat = Some(Tensor::cat(&[mask, &masked], 0)?);
                }
                (None, Some(image)) => beginning.blend = Some(MaskBlend { mask: mask.clone(), image, noise: unit }),
                (None, None) => return Err(candle_core::Error::msg("a mask without a picture").into()),
            }
        }
        Ok(beginning)
    }
}

impl ImageLatents<'_> {
    /// [c, h, w] on the model's device.
    fn of_sample(&self, index: usize, noise: &mut NoiseStream, shape: &[usize; 3], model: &Model) -> Result<Tensor, PipelineError> {
        let device = &model.exec().device;
        match self {
            Self::Encoded(distribution) => {
                let draw = noise.draw(shape)?.to_device(device)?;
                Ok(distribution.sample(&draw.unsqueeze(0)?)?.squeeze(0)?)
            }
            // One serves all.
            Self::Given(given) if given.dim(0)? == 1 => Ok(given.get(0)?.to_dtype(DType::F32)?.to_device(device)?),
            Self::Given(given) => Ok(given.get(index)?.to_dtype(DType::F32)?.to_device(device)?),
        }
    }
}

impl MaskBlend {
    /// `latents` within the mask, the picture's own outside, mixed as `level` says.
    pub(super) fn blended(&self, latents: &Tensor, level: NoiseMix) -> candle_core::Result<Tensor> {
        let mut kept = (&self.image * f64::from(level.signal))?;
        if level.noise != 0.0 {
            kept = (kept + (&self.noise * f64::from(level.noise))?)?;
        }
        let outside = self.mask.affine(-1.0, 1.0)?;
        kept.broadcast_mul(&outside)? + latents.broadcast_mul(&self.mask)?
    }
}

/// [1, 3, h, w] f32 in −1 … 1; pixels that `keep` does not name, by their number, are 0.
fn pixels(image: &RgbImage, keep: &dyn Fn(usize) -> bool) -> candle_core::Result<Tensor> {
    let plane = |channel: usize| {
        let values = image.data.as_chunks::<3>().0.iter().enumerate();
        values.map(move |(at, pixel)| if keep(at) { f32::from(pixel[channel]) / 255.0 * 2.0 - 1.0 } else { 0.0 })
    };
    let values: Vec<f32> = (0..3).flat_map(plane).collect();
    Tensor::from_vec(values, (1, 3, image.height, image.width), &candle_core::Device::Cpu)
}

/// [1, h, w] f32 on the model's device: 1 where the first pixel of a position is white.
fn latent_mask(mask: &GrayImage, model: &Model) -> candle_core::Result<Tensor> {
    let scale = model.spec().latent_scale();
    let (height, width) = (mask.height / scale, mask.width / scale);
    let value = |at: usize| f32::from(mask.is_white(at % width * scale, at / width * scale));
    let values: Vec<f32> = (0..height * width).map(value).collect();
    Tensor::from_vec(values, (1, height, width), &model.exec().device)
}

/// Whether given latents can stand for the image of `start`.
pub(super) fn check_image_latents(given: &Tensor, start: &Start, expected: &[usize]) -> Result<(), InvalidRequest> {
    if !matches!(start, Start::Image { .. }) {
        return Err(super::InvalidStart::NoImageLatents.into());
    }
    check_given("image", given, expected)
}

/// Whether given latents have a shape that fits `expected`, [n, c, h, w], or one image's.
pub(super) fn check_given(name: &'static str, given: &Tensor, expected: &[usize]) -> Result<(), InvalidRequest> {
    let dims = given.dims();
    let fits = dims.len() == expected.len() && dims[1..] == expected[1..] && (dims[0] == 1 || dims[0] == expected[0]);
    if fits { Ok(()) } else { Err(InvalidRequest::LatentsShape { name, found: dims.to_vec(), expected: expected.to_vec() }) }
}
