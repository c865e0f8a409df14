//! The levels of the UNet: diffusers' `(CrossAttn)DownBlock2D`, `UNetMidBlock2D(CrossAttn)`, `(CrossAttn)UpBlock2D`.

use candle_core::{Result, Tensor};

use super::unet_config::{LevelConfig, MidBlock, UNetConfig};
use crate::exec::Exec;
use crate::layers::Built;
use crate::layers::{Downsample, KeyValue, Parameters, ResnetBlock, ResnetShape, SpatialTransformer, SpatialTransformerShape, Upsample};
use crate::ops::Padding;

/// What every layer of one call is given: the time embedding (through SiLU) and each row's context.
pub(super) struct Call<'a> {
    pub(super) time_silu: &'a Tensor,
    pub(super) contexts: Vec<&'a [KeyValue]>,
    pub(super) exec: &'a Exec,
}

/// A resnet, and a transformer where the level has attention; `first_context` is the place of its keys and values.
#[derive(Clone, Debug)]
struct Layer {
    resnet: ResnetBlock,
    transformer: Option<(SpatialTransformer, usize)>,
}

/// Counts the cross-attentions as they are built, which is the order in which the network runs them.
#[derive(Debug, Default)]
pub(super) struct ContextCounter(usize);

impl ContextCounter {
    fn place(&mut self, transformer: SpatialTransformer) -> (SpatialTransformer, usize) {
        let first = self.0;
        self.0 += transformer.depth();
        (transformer, first)
    }
}

fn resnet_shape(config: &UNetConfig, channels: usize, outputs: usize) -> ResnetShape {
    ResnetShape { channels, outputs, time_features: Some(config.time_features), groups: config.groups, epsilon: config.epsilon }
}

fn transformer(config: &UNetConfig, level: &LevelConfig, parameters: &Parameters<'_>) -> Built<SpatialTransformer> {
    let shape = SpatialTransformerShape {
        channels: level.channels,
        context_features: level.context_features,
        heads: level.heads,
        depth: level.transformer_depth,
        groups: config.groups,
        linear_projection: config.linear_projection,
    };
    SpatialTransformer::new(&shape, parameters)
}

impl Layer {
    fn forward(&self, x: &Tensor, call: &Call<'_>) -> Result<Tensor> {
        let x = self.resnet.forward(x, Some(call.time_silu), call.exec)?;
        match &self.transformer {
            Some(placed) => attend(placed, &x, call),
            None => Ok(x),
        }
    }

    fn key_values(&self, states: &Tensor, exec: &Exec, into: &mut Vec<KeyValue>) -> Result<()> {
        if let Some((transformer, _)) = &self.transformer {
            into.extend(transformer.key_values(states, exec)?);
        }
        Ok(())
    }
}

fn attend((transformer, first): &(SpatialTransformer, usize), x: &Tensor, call: &Call<'_>) -> Result<Tensor> {
    let range = *first..*first + transformer.depth();
    let contexts: Option<Vec<&[KeyValue]>> = call.contexts.iter().map(|row| row.get(range.clone())).collect();
    let Some(contexts) = contexts else { candle_core::bail!("the conditioning was prepared by another network") };
    transformer.forward(x, &contexts, call.exec)
}

/// One level on the way down.
#[derive(Clone, Debug)]
pub(super) struct DownBlock {
    layers: Vec<Layer>,
    downsample: Option<Downsample>,
}

impl DownBlock {
    pub(super) fn new(config: &UNetConfig, at: usize, counter: &mut ContextCounter, parameters: &Parameters<'_>) -> Built<Self> {
        let level = &config.levels[at];
        let before = if at == 0 { level.channels } else { config.levels[at - 1].channels };
        let mut layers = Vec::with_capacity(level.layers);
        for i in 0..level.layers {
            let channels = if i == 0 { before } else { level.channels };
            let resnet = ResnetBlock::new(resnet_shape(config, channels, level.channels), &parameters.at("resnets").at(i))?;
            let transformer = match level.down_attention {
                true => Some(counter.place(transformer(config, level, &parameters.at("attentions").at(i))?)),
                false => None,
            };
            layers.push(Layer { resnet, transformer });
        }
        let padding = if config.even_downsample_padding { Padding::Even(1) } else { Padding::BelowAndRight };
        let downsample = match at + 1 < config.levels.len() {
            true => Some(Downsample::new(level.channels, padding, &parameters.at("downsamplers.0"))?),
            false => None,
        };
        Ok(Self { layers, downsample })
    }

    pub(super) fn key_values(&self, states: &Tensor, exec: &Exec, into: &mut Vec<KeyValue>) -> Result<()> {
        self.layers.iter().try_for_each(|layer| layer.key_values(states, exec, into))
    }

    /// Every intermediate result goes onto `skips`, which the way up takes off again.
    pub(super) fn forward(&self, x: Tensor, skips: &mut Vec<Tensor>, call: &Call<'_>) -> Result<Tensor> {
        let mut x = x;
        for layer in &self.layers {
            x = layer.forward(&x, call)?;
            skips.push(x.clone());
        }
        if let Some(downsample) = &self.downsample {
            x = downsample.forward(&x, call.exec)?;
            skips.push(x.clone());
        }
        Ok(x)
    }
}

/// The coarsest level.
#[derive(Clone, Debug)]
pub(super) struct Middle {
    first: ResnetBlock,
    rest: Option<((SpatialTransformer, usize), ResnetBlock)>,
}

impl Middle {
    pub(super) fn new(config: &UNetConfig, counter: &mut ContextCounter, parameters: &Parameters<'_>) -> Built<Option<Self>> {
        let Some(level) = config.levels.last() else { return Ok(None) };
        let resnet = |i| ResnetBlock::new(resnet_shape(config, level.channels, level.channels), &parameters.at("resnets").at(i));
        Ok(match config.mid_block {
            MidBlock::Absent => None,
            MidBlock::Resnet => Some(Self { first: resnet(0)?, rest: None }),
            MidBlock::CrossAttention => {
                let transformer = counter.place(transformer(config, level, &parameters.at("attentions.0"))?);
                Some(Self { first: resnet(0)?, rest: Some((transformer, resnet(1)?)) })
            }
        })
    }

    pub(super) fn key_values(&self, states: &Tensor, exec: &Exec, into: &mut Vec<KeyValue>) -> Result<()> {
        if let Some(((transformer, _), _)) = &self.rest {
            into.extend(transformer.key_values(states, exec)?);
        }
        Ok(())
    }

    pub(super) fn forward(&self, x: &Tensor, call: &Call<'_>) -> Result<Tensor> {
        let x = self.first.forward(x, Some(call.time_silu), call.exec)?;
        match &self.rest {
            None => Ok(x),
            Some((transformer, last)) => last.forward(&attend(transformer, &x, call)?, Some(call.time_silu), call.exec),
        }
    }
}

/// One level on the way up.
#[derive(Clone, Debug)]
pub(super) struct UpBlock {
    layers: Vec<Layer>,
    upsample: Option<Upsample>,
}

impl UpBlock {
    /// `at` counts levels as on the way down: the last one is the first up block.
    pub(super) fn new(config: &UNetConfig, at: usize, counter: &mut ContextCounter, parameters: &Parameters<'_>) -> Built<Self> {
        let level = &config.levels[at];
        let coming = config.levels.get(at + 1).unwrap_or(level).channels;
        let finer = if at == 0 { level.channels } else { config.levels[at - 1].channels };
        let mut layers = Vec::with_capacity(level.layers + 1);
        for i in 0..=level.layers {
            let skip = if i == level.layers { finer } else { level.channels };
            let channels = if i == 0 { coming } else { level.channels };
            let resnet = ResnetBlock::new(resnet_shape(config, channels + skip, level.channels), &parameters.at("resnets").at(i))?;
            let transformer = match level.up_attention {
                true => Some(counter.place(transformer(config, level, &parameters.at("attentions").at(i))?)),
                false => None,
            };
            layers.push(Layer { resnet, transformer });
        }
        let upsample = match at > 0 {
            true => Some(Upsample::new(level.channels, &parameters.at("upsamplers.0"))?),
            false => None,
        };
        Ok(Self { layers, upsample })
    }

    pub(super) fn key_values(&self, states: &Tensor, exec: &Exec, into: &mut Vec<KeyValue>) -> Result<()> {
        self.layers.iter().try_for_each(|layer| layer.key_values(states, exec, into))
    }

    /// Takes its skips off the end of `skips`, and grows to the size of the next one, which need not be exactly double.
    pub(super) fn forward(&self, x: Tensor, skips: &mut Vec<Tensor>, call: &Call<'_>) -> Result<Tensor> {
        let mut x = x;
        for layer in &self.layers {
            let Some(skip) = skips.pop() else { candle_core::bail!("the way up has more layers than the way down") };
            x = layer.forward(&Tensor::cat(&[x, skip], 1)?, call)?;
        }
        match (&self.upsample, skips.last()) {
            (Some(upsample), Some(next)) => upsample.forward(&x, (next.dim(2)?, next.dim(3)?), call.exec),
            _ => Ok(x),
        }
    }
}
