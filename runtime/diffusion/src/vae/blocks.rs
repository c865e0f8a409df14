//! What encoder and decoder share: the coarsest level, and chains of resnets.

use candle_core::{Result, Tensor};

use super::VaeConfig;
use crate::exec::Exec;
use crate::layers::Built;
use crate::layers::{GroupNorm, Linear, Parameters, ResnetBlock, ResnetShape};
use crate::ops;

/// Epsilon of every normalisation in the autoencoder; not configurable in diffusers.
pub(super) const EPSILON: f64 = 1e-6;

pub(super) fn resnet(config: &VaeConfig, channels: usize, outputs: usize, parameters: &Parameters<'_>) -> Built<ResnetBlock> {
    let shape = ResnetShape { channels, outputs, time_features: None, groups: config.groups, epsilon: EPSILON };
    ResnetBlock::new(shape, parameters)
}

/// resnet → attention of one head over all positions → resnet: diffusers' `UNetMidBlock2D`.
#[derive(Clone, Debug)]
pub(super) struct Middle {
    first: ResnetBlock,
    attention: Option<PixelAttention>,
    second: ResnetBlock,
}

impl Middle {
    pub(super) fn new(config: &VaeConfig, parameters: &Parameters<'_>) -> Built<Self> {
        let channels = config.channels[config.channels.len() - 1];
        let attention = match config.mid_attention {
            true => Some(PixelAttention::new(config, channels, &parameters.at("attentions.0"))?),
            false => None,
        };
        Ok(Self {
            first: resnet(config, channels, channels, &parameters.at("resnets.0"))?,
            attention,
            second: resnet(config, channels, channels, &parameters.at("resnets.1"))?,
        })
    }

    pub(super) fn forward(&self, x: &Tensor, exec: &Exec) -> Result<Tensor> {
        let mut x = self.first.forward(x, None, exec)?;
        if let Some(attention) = &self.attention {
            x = attention.forward(&x, exec)?;
        }
        self.second.forward(&x, None, exec)
    }
}

/// norm → attention, plus the input. Older files name the projections query, key, value and proj_attn.
#[derive(Clone, Debug)]
struct PixelAttention {
    norm: GroupNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
}

impl PixelAttention {
    fn new(config: &VaeConfig, channels: usize, parameters: &Parameters<'_>) -> Built<Self> {
        let projection = |names: &[&str]| Linear::new(channels, channels, &parameters.at_any(names));
        Ok(Self {
            norm: GroupNorm::new(channels, config.groups, EPSILON, &parameters.at("group_norm"))?,
            query: projection(&["to_q", "query"])?,
            key: projection(&["to_k", "key"])?,
            value: projection(&["to_v", "value"])?,
            output: projection(&["to_out.0", "proj_attn"])?,
        })
    }

    fn forward(&self, x: &Tensor, exec: &Exec) -> Result<Tensor> {
        let (batch, channels, height, width) = x.dims4()?;
        let tokens = self.norm.forward(x, exec)?.reshape((batch, channels, height * width))?.transpose(1, 2)?.contiguous()?;
        let (query, key) = (self.query.forward(&tokens, exec)?, self.key.forward(&tokens, exec)?);
        let mixed = ops::attention(&query, &key, &self.value.forward(&tokens, exec)?, 1, exec.form())?;
        let mixed = self.output.forward(&mixed, exec)?.transpose(1, 2)?.contiguous()?;
        mixed.reshape((batch, channels, height, width))? + x
    }
}
