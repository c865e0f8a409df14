//! `UNet2DConditionModel` of diffusers (Rombach et al. 2022), also with a vector beside the text (arXiv 2307.01952) and with the strength of
//! guidance as an input (arXiv 2210.03142).

use std::sync::Arc;

use candle_core::{DType, Result, Tensor};

use super::unet_blocks::{Call, ContextCounter, DownBlock, Middle, UpBlock};
use super::{Denoiser, Row, UNetConfig};
use crate::adapter::AdapterRows;
use crate::conditioning::{Conditioning, Context, Encoded};
use crate::exec::Exec;
use crate::layers::Built;
use crate::layers::{Conv2d, GroupNorm, Parameters, SinusoidOptions, TimestepEmbedding, silu, timestep_sinusoid};

/// The network with its parameters.
#[derive(Clone, Debug)]
pub struct UNet {
    sinusoid: SinusoidOptions,
    sinusoid_features: usize,
    time_embedding: TimestepEmbedding,
    add_embedding: Option<TimestepEmbedding>,
    guidance_features: Option<usize>,
    conv_in: Conv2d,
    down_blocks: Vec<DownBlock>,
    middle: Option<Middle>,
    up_blocks: Vec<UpBlock>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl UNet {
    /// Builds the network from parameters in diffusers' names.
    ///
    /// # Errors
    /// When a parameter is missing or has another shape.
    pub fn new(config: &UNetConfig, parameters: &Parameters<'_>) -> Built<Self> {
        let (first, count) = (config.levels[0].channels, config.levels.len());
        let (time, outputs) = (parameters.at("time_embedding"), config.time_features);
        let time_embedding = match config.guidance_features {
            Some(features) => TimestepEmbedding::conditioned(first, features, outputs, &time)?,
            None => TimestepEmbedding::new(first, outputs, &time)?,
        };
        let add_embedding = match config.addition {
            Some(addition) => Some(TimestepEmbedding::new(addition.features, outputs, &parameters.at("add_embedding"))?),
            None => None,
        };
        let mut counter = ContextCounter::default();
        let mut down_blocks = Vec::with_capacity(count);
        for at in 0..count {
            down_blocks.push(DownBlock::new(config, at, &mut counter, &parameters.at("down_blocks").at(at))?);
        }
        let middle = Middle::new(config, &mut counter, &parameters.at("mid_block"))?;
        let mut up_blocks = Vec::with_capacity(count);
        for (i, at) in (0..count).rev().enumerate() {
            up_blocks.push(UpBlock::new(config, at, &mut counter, &parameters.at("up_blocks").at(i))?);
        }
        Ok(Self {
            sinusoid: config.sinusoid,
            sinusoid_features: first,
            time_embedding,
            add_embedding,
            guidance_features: config.guidance_features,
            conv_in: Conv2d::three(config.in_channels, first, &parameters.at("conv_in"))?,
            down_blocks,
            middle,
            up_blocks,
            norm_out: GroupNorm::new(first, config.groups, config.epsilon, &parameters.at("conv_norm_out"))?,
            conv_out: Conv2d::three(first, config.out_channels, &parameters.at("conv_out"))?,
        })
    }
}

/// How the strength of guidance becomes features: as in the reference's `get_guidance_scale_embedding`.
const GUIDANCE_SINUSOID: SinusoidOptions = SinusoidOptions { flip_sin_to_cos: false, freq_shift: 1.0 };
/// A guidance scale of 1 is none, and this many of its sinusoid's units make 1.
const NO_GUIDANCE: f64 = 1.0;
const GUIDANCE_UNITS: f32 = 1000.0;

impl UNet {
    /// [B, time features]: each row's timestep, its strength of guidance, and what its conditioning adds.
    fn embedded_times(&self, rows: &[Row<'_>], exec: &Exec) -> Result<Tensor> {
        let timesteps: Vec<f32> = rows.iter().map(|row| row.timestep).collect();
        let sinusoid = timestep_sinusoid(&timesteps, self.sinusoid_features, self.sinusoid, &exec.device)?;
        let guidance = match self.guidance_features {
            Some(features) => {
                let scales = rows.iter().map(|row| row.conditioning.guidance.map(|scale| (scale - NO_GUIDANCE) as f32 * GUIDANCE_UNITS));
                let Some(scales) = scales.collect::<Option<Vec<f32>>>() else {
                    candle_core::bail!("this network takes the strength of guidance as an input");
                };
                Some(timestep_sinusoid(&scales, features, GUIDANCE_SINUSOID, &exec.device)?)
            }
            None => None,
        };
        let embedded = self.time_embedding.forward(&sinusoid, guidance.as_ref(), exec)?;
        if self.add_embedding.is_none() {
            return Ok(embedded);
        }
        let vectors: Option<Vec<&Tensor>> = rows.iter().map(|row| row.conditioning.vector.as_ref()).collect();
        let Some(vectors) = vectors else { candle_core::bail!("the conditioning was prepared by another network") };
        embedded + Tensor::cat(&vectors, 0)?
    }
}

impl Denoiser for UNet {
    fn prepare(&self, encoded: &Encoded, guidance: Option<f64>, exec: &Exec) -> Result<Conditioning> {
        let (states, mut context) = (&encoded.states, Vec::new());
        self.down_blocks.iter().try_for_each(|block| block.key_values(states, exec, &mut context))?;
        self.middle.iter().try_for_each(|block| block.key_values(states, exec, &mut context))?;
        self.up_blocks.iter().try_for_each(|block| block.key_values(states, exec, &mut context))?;
        let vector = match (&self.add_embedding, &encoded.vector) {
            (Some(embedding), Some(vector)) => Some(embedding.forward(vector, None, exec)?),
            (None, _) => None,
            (Some(_), None) => candle_core::bail!("this network takes a vector besides the text"),
        };
        Ok(Conditioning { context: Arc::new(Context::KeyValues(context)), vector, guidance })
    }

    fn forward(&self, rows: &[Row<'_>], exec: &Exec) -> Result<Tensor> {
        let exec = &exec.with_adapters(AdapterRows::of(rows.iter().map(|row| row.adapters)));
        let inputs = rows.iter().map(|row| match row.concat {
            Some(concat) => Tensor::cat(&[row.latents, concat], 0),
            None => Ok(row.latents.clone()),
        });
        let inputs = inputs.collect::<Result<Vec<_>>>()?;
        let time_silu = silu(&self.embedded_times(rows, exec)?, exec)?;
        let contexts = rows.iter().map(|row| match row.conditioning.context.as_ref() {
            Context::KeyValues(key_values) => Ok(key_values.as_slice()),
            Context::Tokens(_) => candle_core::bail!("the conditioning was prepared by a network of joint attention"),
        });
        let contexts = contexts.collect::<Result<_>>()?;
        let call = Call { time_silu: &time_silu, contexts, exec };

        let mut x = self.conv_in.forward(&Tensor::stack(&inputs, 0)?.to_dtype(exec.compute)?, exec)?;
        let mut skips = vec![x.clone()];
        for block in &self.down_blocks {
            x = block.forward(x, &mut skips, &call)?;
        }
        if let Some(middle) = &self.middle {
            x = middle.forward(&x, &call)?;
        }
        for block in &self.up_blocks {
            x = block.forward(x, &mut skips, &call)?;
        }
        self.conv_out.forward(&self.norm_out.forward_silu(&x, exec)?, exec)?.to_dtype(DType::F32)
    }
}
