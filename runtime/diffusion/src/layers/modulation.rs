//! Adaptive normalisation: layer norms whose scale and shift, and gates on what follows, come from the time embedding (Peebles & Xie 2023).

use candle_core::{Result, Tensor};

use super::{Linear, Parameters};
use crate::exec::Exec;
use crate::layers::Built;
use crate::ops;

/// Epsilon of these normalisations; not configurable in diffusers.
const EPSILON: f64 = 1e-6;

/// The linear layer that makes `parts` vectors of a time embedding: diffusers' `AdaLayerNormZero` and its kin.
#[derive(Clone, Debug)]
pub struct Modulation {
    linear: Linear,
    parts: usize,
}

impl Modulation {
    /// Parameters `linear` [parts·features, features].
    ///
    /// # Errors
    /// When a parameter is missing or has another shape.
    pub fn new(features: usize, parts: usize, parameters: &Parameters<'_>) -> Built<Self> {
        Ok(Self { linear: Linear::new(features, parts * features, &parameters.at("linear"))?, parts })
    }

    /// The time embedding through SiLU, [B, features] → `parts` of the same shape.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn forward(&self, time_silu: &Tensor, exec: &Exec) -> Result<Vec<Tensor>> {
        self.linear.forward(time_silu, exec)?.chunk(self.parts, 1)
    }
}

/// x [B, T, features], scale and shift [B, features] → `norm(x)·(1 + scale) + shift`.
///
/// # Errors
/// When the shapes do not fit.
pub fn modulated(x: &Tensor, scale: &Tensor, shift: &Tensor, exec: &Exec) -> Result<Tensor> {
    ops::modulated_layer_norm(x, scale, shift, EPSILON, exec.form())
}

/// `x + gate·update`: x and update [B, T, features], gate [B, features].
///
/// # Errors
/// When the shapes do not fit.
pub fn gated(x: &Tensor, gate: &Tensor, update: &Tensor) -> Result<Tensor> {
    x + update.broadcast_mul(&gate.unsqueeze(1)?)?
}
