//! The variational autoencoder between pixels and latents: diffusers' `AutoencoderKL` (Rombach et al. 2022).
//!
//! Latents outside of this module are scaled to about unit variance; scaling and shift happen here. Pictures with a side beyond
//! [`MAX_WHOLE_SIDE_PIXELS`] go through in tiles. It knows no request.

mod blocks;
mod config;
mod decoder;
mod encoder;
mod memory;
mod tiling;

use candle_core::{DType, Result, Tensor};

pub use config::VaeConfig;
pub use encoder::LatentDistribution;
pub use tiling::MAX_WHOLE_SIDE_PIXELS;

use crate::exec::Exec;
use crate::layers::Built;
use crate::layers::{Conv2d, Parameters};
use decoder::Decoder;
use encoder::Encoder;
use tiling::Tiling;

/// The autoencoder with its parameters.
#[derive(Clone, Debug)]
pub struct Vae {
    encoder: Encoder,
    quant: Option<Conv2d>,
    post_quant: Option<Conv2d>,
    decoder: Decoder,
    scaling_factor: f64,
    shift_factor: f64,
    tiling: Tiling,
}

impl Vae {
    /// Builds the autoencoder from parameters in diffusers' names, old or new.
    ///
    /// # Errors
    /// When a parameter is missing or has another shape.
    pub fn new(config: &VaeConfig, parameters: &Parameters<'_>) -> Built<Self> {
        let quant = |present: bool, channels: usize, name: &str| match present {
            true => Conv2d::one(channels, channels, &parameters.at(name)).map(Some),
            false => Ok(None),
        };
        Ok(Self {
            encoder: Encoder::new(config, &parameters.at("encoder"))?,
            quant: quant(config.quant_conv, config.latent_channels * 2, "quant_conv")?,
            post_quant: quant(config.post_quant_conv, config.latent_channels, "post_quant_conv")?,
            decoder: Decoder::new(config, &parameters.at("decoder"))?,
            scaling_factor: config.scaling_factor,
            shift_factor: config.shift_factor,
            tiling: Tiling { side: config.tile_side, scale: config.scale() },
        })
    }

    /// Pixels per latent position, along each side.
    pub fn scale(&self) -> usize {
        self.tiling.scale
    }

    /// Latents [B, C, h, w] f32, scaled → pixels [B, 3, h·scale, w·scale] f32, about −1 … 1, not clamped.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn decode(&self, latents: &Tensor, exec: &Exec) -> Result<Tensor> {
        let latents = ((latents / self.scaling_factor)? + self.shift_factor)?.to_dtype(exec.compute)?;
        let decode = |latents: &Tensor| match &self.post_quant {
            Some(convolution) => self.decoder.forward(&convolution.forward(latents, exec)?, exec),
            None => self.decoder.forward(latents, exec),
        };
        let (_, _, height, width) = latents.dims4()?;
        let pixels = match self.tiling.cuts(height * self.scale(), width * self.scale()) {
            true => self.tiling.decode(&latents, decode)?,
            false => decode(&latents)?,
        };
        pixels.to_dtype(DType::F32)
    }

    /// Pixels [B, 3, H, W] f32 in −1 … 1, on any device, sides divisible by the scale → the distribution of their latents.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn encode(&self, pixels: &Tensor, exec: &Exec) -> Result<LatentDistribution> {
        let encode = |pixels: &Tensor| match &self.quant {
            Some(convolution) => convolution.forward(&self.encoder.forward(pixels, exec)?, exec),
            None => self.encoder.forward(pixels, exec),
        };
        let (_, _, height, width) = pixels.dims4()?;
        let pixels = pixels.to_device(&exec.device)?.to_dtype(exec.compute)?;
        let moments = if self.tiling.cuts(height, width) { self.tiling.encode(&pixels, encode)? } else { encode(&pixels)? };
        LatentDistribution::new(&moments.to_dtype(DType::F32)?, self.scaling_factor, self.shift_factor)
    }
}
