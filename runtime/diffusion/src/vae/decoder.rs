//! Latents to pixels: diffusers' `Decoder`.

use candle_core::{Result, Tensor};

use super::VaeConfig;
use super::blocks::{EPSILON, Middle, resnet};
use crate::exec::Exec;
use crate::layers::Built;
use crate::layers::{Conv2d, GroupNorm, Parameters, ResnetBlock, Upsample};

#[derive(Clone, Debug)]
pub(super) struct Decoder {
    conv_in: Conv2d,
    middle: Middle,
    levels: Vec<(Vec<ResnetBlock>, Option<Upsample>)>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Decoder {
    pub(super) fn new(config: &VaeConfig, parameters: &Parameters<'_>) -> Built<Self> {
        let (finest, coarsest) = (config.channels[0], config.channels[config.channels.len() - 1]);
        let mut levels = Vec::with_capacity(config.channels.len());
        let mut before = coarsest;
        for (i, channels) in config.channels.iter().copied().rev().enumerate() {
            let parameters = parameters.at("up_blocks").at(i);
            let mut resnets = Vec::with_capacity(config.layers + 1);
            for layer in 0..=config.layers {
                let inputs = if layer == 0 { before } else { channels };
                resnets.push(resnet(config, inputs, channels, &parameters.at("resnets").at(layer))?);
            }
            let upsample = match i + 1 < config.channels.len() {
                true => Some(Upsample::new(channels, &parameters.at("upsamplers.0"))?),
                false => None,
            };
            levels.push((resnets, upsample));
            before = channels;
        }
        Ok(Self {
            conv_in: Conv2d::three(config.latent_channels, coarsest, &parameters.at("conv_in"))?,
            middle: Middle::new(config, &parameters.at("mid_block"))?,
            levels,
            norm_out: GroupNorm::new(finest, config.groups, EPSILON, &parameters.at("conv_norm_out"))?,
            conv_out: Conv2d::three(finest, config.image_channels, &parameters.at("conv_out"))?,
        })
    }

    pub(super) fn forward(&self, latents: &Tensor, exec: &Exec) -> Result<Tensor> {
        let mut x = self.middle.forward(&self.conv_in.forward(latents, exec)?, exec)?;
        for (resnets, upsample) in &self.levels {
            for resnet in resnets {
                x = resnet.forward(&x, None, exec)?;
            }
            if let Some(upsample) = upsample {
                x = upsample.forward(&x, (x.dim(2)? * 2, x.dim(3)? * 2), exec)?;
            }
        }
        self.conv_out.forward(&self.norm_out.forward_silu(&x, exec)?, exec)
    }
}
