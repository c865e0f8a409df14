//! Pixels to latents: diffusers' `Encoder` and `DiagonalGaussianDistribution`.

use candle_core::{Result, Tensor};

use super::VaeConfig;
use super::blocks::{EPSILON, Middle, resnet};
use crate::exec::Exec;
use crate::layers::Built;
use crate::layers::{Conv2d, Downsample, GroupNorm, Parameters, ResnetBlock};
use crate::ops::Padding;

/// Bounds of the logarithm of the variance, as in the reference.
const LOG_VARIANCE_BOUNDS: (f64, f64) = (-30.0, 20.0);

#[derive(Clone, Debug)]
pub(super) struct Encoder {
    conv_in: Conv2d,
    levels: Vec<(Vec<ResnetBlock>, Option<Downsample>)>,
    middle: Middle,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Encoder {
    pub(super) fn new(config: &VaeConfig, parameters: &Parameters<'_>) -> Built<Self> {
        let (finest, coarsest) = (config.channels[0], config.channels[config.channels.len() - 1]);
        let mut levels = Vec::with_capacity(config.channels.len());
        let mut before = finest;
        for (i, channels) in config.channels.iter().copied().enumerate() {
            let parameters = parameters.at("down_blocks").at(i);
            let mut resnets = Vec::with_capacity(config.layers);
            for layer in 0..config.layers {
                let inputs = if layer == 0 { before } else { channels };
                resnets.push(resnet(config, inputs, channels, &parameters.at("resnets").at(layer))?);
            }
            let downsample = match i + 1 < config.channels.len() {
                true => Some(Downsample::new(channels, Padding::BelowAndRight, &parameters.at("downsamplers.0"))?),
                false => None,
            };
            levels.push((resnets, downsample));
            before = channels;
        }
        Ok(Self {
            conv_in: Conv2d::three(config.image_channels, finest, &parameters.at("conv_in"))?,
            levels,
            middle: Middle::new(config, &parameters.at("mid_block"))?,
            norm_out: GroupNorm::new(coarsest, config.groups, EPSILON, &parameters.at("conv_norm_out"))?,
            conv_out: Conv2d::three(coarsest, config.latent_channels * 2, &parameters.at("conv_out"))?,
        })
    }

    pub(super) fn forward(&self, pixels: &Tensor, exec: &Exec) -> Result<Tensor> {
        let mut x = self.conv_in.forward(pixels, exec)?;
        for (resnets, downsample) in &self.levels {
            for resnet in resnets {
                x = resnet.forward(&x, None, exec)?;
            }
            if let Some(downsample) = downsample {
                x = downsample.forward(&x, exec)?;
            }
        }
        let x = self.middle.forward(&x, exec)?;
        self.conv_out.forward(&self.norm_out.forward_silu(&x, exec)?, exec)
    }
}

/// What an image's latents may be: an independent Gaussian at each position, [B, C, h, w] f32, unscaled inside.
#[derive(Clone, Debug)]
pub struct LatentDistribution {
    mean: Tensor,
    deviation: Tensor,
    scaling_factor: f64,
    shift_factor: f64,
}

impl LatentDistribution {
    /// `moments` [B, 2C, h, w]: means, then logarithms of variances.
    pub(super) fn new(moments: &Tensor, scaling_factor: f64, shift_factor: f64) -> Result<Self> {
        let halves = moments.chunk(2, 1)?;
        let [mean, log_variance] = halves.as_slice() else { candle_core::bail!("moments must split into two halves") };
        let (low, high) = LOG_VARIANCE_BOUNDS;
        let deviation = (log_variance.clamp(low, high)? * 0.5)?.exp()?;
        Ok(Self { mean: mean.contiguous()?, deviation, scaling_factor, shift_factor })
    }

    /// The most likely latents, scaled: [B, C, h, w] f32.
    ///
    /// # Errors
    /// When the device fails.
    pub fn mode(&self) -> Result<Tensor> {
        self.scaled(&self.mean)
    }

    /// Latents drawn with `noise` of unit variance, scaled: all [B, C, h, w] f32.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn sample(&self, noise: &Tensor) -> Result<Tensor> {
        self.scaled(&(&self.mean + (&self.deviation * noise)?)?)
    }

    fn scaled(&self, latents: &Tensor) -> Result<Tensor> {
        (latents - self.shift_factor)? * self.scaling_factor
    }
}
