//! Timestep, strength of guidance and pooled text as one vector: diffusers' `CombinedTimestep(Guidance)TextProjEmbeddings`; and what rows of
//! joint attention bring to a call.

use candle_core::{Result, Tensor};

use super::Row;
use crate::conditioning::{Conditioning, Context, Encoded};
use crate::exec::Exec;
use crate::layers::{Built, FeedForward, Linear, Parameters, SinusoidOptions, timestep_sinusoid};
use crate::ops::{self, Activation};

/// Features of the sinusoid; not configurable in diffusers.
const SINUSOID_FEATURES: usize = 256;
const SINUSOID: SinusoidOptions = SinusoidOptions { flip_sin_to_cos: true, freq_shift: 0.0 };
/// The network counts guidance as it counts timesteps.
const GUIDANCE_FACTOR: f32 = 1000.0;

/// The vector's parts, and the layer through which text tokens enter.
#[derive(Clone, Debug)]
pub(super) struct TimeTextEmbedding {
    timestep: FeedForward,
    guidance: Option<FeedForward>,
    pooled: FeedForward,
    tokens: Linear,
}

/// The widths of a [`TimeTextEmbedding`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct TimeTextShape {
    pub(super) features: usize,
    pub(super) pooled_features: usize,
    pub(super) text_features: usize,
    pub(super) guidance: bool,
}

/// The rows of one call, side by side in the compute dtype.
pub(super) struct Gathered {
    /// [B, C, H, W]
    pub(super) latents: Tensor,
    /// [B, T, features]
    pub(super) text: Tensor,
    /// [B, features], through SiLU.
    pub(super) time_silu: Tensor,
}

impl TimeTextEmbedding {
    /// Parameters `time_text_embed` and `context_embedder`.
    pub(super) fn new(shape: TimeTextShape, parameters: &Parameters<'_>) -> Built<Self> {
        let TimeTextShape { features, pooled_features, text_features, guidance } = shape;
        let embedder = |name, inputs| {
            let parameters = parameters.at("time_text_embed").at(name);
            FeedForward::new([inputs, features, features], Activation::Silu, ["linear_1", "linear_2"], &parameters)
        };
        Ok(Self {
            timestep: embedder("timestep_embedder", SINUSOID_FEATURES)?,
            guidance: if guidance { Some(embedder("guidance_embedder", SINUSOID_FEATURES)?) } else { None },
            pooled: embedder("text_embedder", pooled_features)?,
            tokens: Linear::new(text_features, features, &parameters.at("context_embedder"))?,
        })
    }

    /// What no timestep changes.
    pub(super) fn prepare(&self, encoded: &Encoded, guidance: Option<f64>, exec: &Exec) -> Result<Conditioning> {
        let Some(pooled) = &encoded.vector else { candle_core::bail!("the network needs a pooled text") };
        let tokens = self.tokens.forward(&encoded.states, exec)?.squeeze(0)?;
        let mut vector = self.pooled.forward(&pooled.to_dtype(exec.compute)?, exec)?;
        match (&self.guidance, guidance) {
            (Some(embedder), Some(strength)) => {
                let strength = strength as f32 * GUIDANCE_FACTOR;
                vector = (vector + self.embedded(embedder, &[strength], exec)?)?;
            }
            (Some(_), None) => candle_core::bail!("the network needs the strength of guidance"),
            (None, _) => {}
        }
        Ok(Conditioning { context: Context::Tokens(tokens).into(), vector: Some(vector), guidance })
    }

    /// What the rows bring.
    pub(super) fn gather(&self, rows: &[Row<'_>], exec: &Exec) -> Result<Gathered> {
        let (mut latents, mut texts, mut vectors) = (Vec::new(), Vec::new(), Vec::new());
        for Row { latents: of_row, conditioning, .. } in rows {
            let (Context::Tokens(text), Some(vector)) = (conditioning.context.as_ref(), &conditioning.vector) else {
                candle_core::bail!("the conditioning was prepared by a network of cross-attention");
            };
            latents.push(*of_row);
            texts.push(text);
            vectors.push(vector);
        }
        let timesteps: Vec<f32> = rows.iter().map(|row| row.timestep).collect();
        let time = (self.embedded(&self.timestep, &timesteps, exec)? + Tensor::cat(&vectors, 0)?)?;
        Ok(Gathered {
            latents: Tensor::stack(&latents, 0)?.to_dtype(exec.compute)?,
            text: Tensor::stack(&texts, 0)?,
            time_silu: ops::activate(&time, Activation::Silu, exec.form())?,
        })
    }

    fn embedded(&self, embedder: &FeedForward, numbers: &[f32], exec: &Exec) -> Result<Tensor> {
        let sinusoid = timestep_sinusoid(numbers, SINUSOID_FEATURES, SINUSOID, &exec.device)?;
        embedder.forward(&sinusoid.to_dtype(exec.compute)?, exec)
    }
}
