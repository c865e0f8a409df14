//! Two linear layers with a non-linearity between them.

use candle_core::{Result, Tensor};

use super::{Linear, Parameters};
use crate::exec::Exec;
use crate::layers::Built;
use crate::ops::{self, Activation};

/// linear → activation → linear.
#[derive(Clone, Debug)]
pub struct FeedForward {
    widen: Linear,
    activation: Activation,
    narrow: Linear,
}

impl FeedForward {
    /// [features] → [inner] → [outputs], of layers with these names.
    ///
    /// # Errors
    /// When a parameter is missing or has another shape.
    pub fn new(
        [features, inner, outputs]: [usize; 3],
        activation: Activation,
        [first, second]: [&str; 2],
        parameters: &Parameters<'_>,
    ) -> Built<Self> {
        let widen = Linear::new(features, inner, &parameters.at(first))?;
        Ok(Self { widen, activation, narrow: Linear::new(inner, outputs, &parameters.at(second))? })
    }

    /// As diffusers' `FeedForward` with `gelu-approximate`: four times as wide inside, `net.0.proj` and `net.2`.
    ///
    /// # Errors
    /// When a parameter is missing or has another shape.
    pub fn of_tokens(features: usize, parameters: &Parameters<'_>) -> Built<Self> {
        Self::new([features, 4 * features, features], Activation::TanhGelu, ["net.0.proj", "net.2"], parameters)
    }

    /// x [B, …, features] → [B, …, outputs].
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn forward(&self, x: &Tensor, exec: &Exec) -> Result<Tensor> {
        self.narrow.forward(&ops::activate(&self.widen.forward(x, exec)?, self.activation, exec.form())?, exec)
    }
}
