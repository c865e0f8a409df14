//! Blocks in which text and image are one sequence with one set of weights: diffusers' `FluxSingleTransformerBlock`.

use candle_core::{D, Result, Tensor};

use super::joint_blocks::bounded;
use crate::exec::Exec;
use crate::layers::{Built, JointAttentionShape, Linear, Modulation, Parameters, TokenAttention, gated, modulated};
use crate::ops::{self, Activation, Rotation};

/// Shift, scale and gate.
const PARTS: usize = 3;
/// How much wider the feed-forward network is than its input.
const FEED_FORWARD_FACTOR: usize = 4;

/// Attention and a feed-forward network side by side, and one layer for what both say.
#[derive(Clone, Debug)]
pub(super) struct SingleBlock {
    modulation: Modulation,
    attention: TokenAttention,
    widen: Linear,
    out: Linear,
}

impl SingleBlock {
    pub(super) fn new(shape: JointAttentionShape, parameters: &Parameters<'_>) -> Built<Self> {
        let features = shape.features();
        let inner = features * FEED_FORWARD_FACTOR;
        Ok(Self {
            modulation: Modulation::new(features, PARTS, &parameters.at("norm"))?,
            attention: TokenAttention::without_output(shape, &parameters.at("attn"))?,
            widen: Linear::new(features, inner, &parameters.at("proj_mlp"))?,
            out: Linear::new(features + inner, features, &parameters.at("proj_out"))?,
        })
    }

    /// x [B, T + N, features], time embedding through SiLU [B, features] → the shape of x.
    pub(super) fn forward(&self, x: &Tensor, time_silu: &Tensor, rotation: &Rotation, exec: &Exec) -> Result<Tensor> {
        let parts = self.modulation.forward(time_silu, exec)?;
        let [shift, scale, gate] = parts.as_slice() else { candle_core::bail!("a block's modulation has {} parts", parts.len()) };
        let normed = modulated(x, scale, shift, exec)?;
        let wide = ops::activate(&self.widen.forward(&normed, exec)?, Activation::TanhGelu, exec.form())?;
        let mixed = self.attention.forward(&normed, Some(rotation), exec)?;
        let update = self.out.forward(&Tensor::cat(&[mixed, wide], D::Minus1)?, exec)?;
        bounded(&gated(x, gate, &update)?)
    }
}
