//! Convolutional blocks: diffusers' `ResnetBlock2D`, `Downsample2D`, `Upsample2D`.

use candle_core::{Result, Tensor};

use super::{Conv2d, GroupNorm, Linear, Parameters};
use crate::exec::Exec;
use crate::layers::Built;
use crate::ops::{self, Activation, Padding};

/// The sizes of a [`ResnetBlock`].
#[derive(Clone, Copy, Debug)]
pub struct ResnetShape {
    /// Channels that come in.
    pub channels: usize,
    /// Channels that go out.
    pub outputs: usize,
    /// Features of the time embedding; none in a VAE.
    pub time_features: Option<usize>,
    /// Groups of both normalisations.
    pub groups: usize,
    /// Epsilon of both normalisations.
    pub epsilon: f64,
}

/// norm → SiLU → conv → (+ time) → norm → SiLU → conv, plus the input, through a 1×1 convolution where the channels change.
#[derive(Clone, Debug)]
pub struct ResnetBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    time_projection: Option<Linear>,
    norm2: GroupNorm,
    conv2: Conv2d,
    shortcut: Option<Conv2d>,
}

impl ResnetBlock {
    /// Parameters `norm1`, `conv1`, `time_emb_proj`, `norm2`, `conv2`, `conv_shortcut`.
    ///
    /// # Errors
    /// When a parameter is missing or has another shape.
    pub fn new(shape: ResnetShape, parameters: &Parameters<'_>) -> Built<Self> {
        let ResnetShape { channels, outputs, groups, epsilon, .. } = shape;
        let time_projection = match shape.time_features {
            Some(features) => Some(Linear::new(features, outputs, &parameters.at("time_emb_proj"))?),
            None => None,
        };
        let shortcut = match channels == outputs {
            true => None,
            false => Some(Conv2d::one(channels, outputs, &parameters.at("conv_shortcut"))?),
        };
        Ok(Self {
            norm1: GroupNorm::new(channels, groups, epsilon, &parameters.at("norm1"))?,
            conv1: Conv2d::three(channels, outputs, &parameters.at("conv1"))?,
            time_projection,
            norm2: GroupNorm::new(outputs, groups, epsilon, &parameters.at("norm2"))?,
            conv2: Conv2d::three(outputs, outputs, &parameters.at("conv2"))?,
            shortcut,
        })
    }

    /// x [B, channels, H, W], time (already through SiLU) [B, time_features] → [B, outputs, H, W].
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn forward(&self, x: &Tensor, time_silu: Option<&Tensor>, exec: &Exec) -> Result<Tensor> {
        let mut hidden = self.conv1.forward(&self.norm1.forward_silu(x, exec)?, exec)?;
        if let (Some(projection), Some(time)) = (&self.time_projection, time_silu) {
            let (batch, outputs) = (hidden.dim(0)?, hidden.dim(1)?);
            let time = projection.forward(time, exec)?.reshape((batch, outputs, 1, 1))?;
            hidden = hidden.broadcast_add(&time)?;
        }
        let hidden = self.conv2.forward(&self.norm2.forward_silu(&hidden, exec)?, exec)?;
        match &self.shortcut {
            Some(shortcut) => shortcut.forward(x, exec)? + hidden,
            None => x + hidden,
        }
    }
}

/// Halves an image by a 3×3 convolution of stride 2.
#[derive(Clone, Debug)]
pub struct Downsample(Conv2d);

impl Downsample {
    /// Parameters `conv` [channels, channels, 3, 3].
    ///
    /// # Errors
    /// When a parameter is missing or has another shape.
    pub fn new(channels: usize, padding: Padding, parameters: &Parameters<'_>) -> Built<Self> {
        Ok(Self(Conv2d::new(channels, channels, 3, (padding, 2), &parameters.at("conv"))?))
    }

    /// x [B, C, H, W] → [B, C, ⌈H/2⌉, ⌈W/2⌉] (even padding) or ⌊ ⌋ (below and right).
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn forward(&self, x: &Tensor, exec: &Exec) -> Result<Tensor> {
        self.0.forward(x, exec)
    }
}

/// Enlarges an image by repeating pixels, then a 3×3 convolution.
#[derive(Clone, Debug)]
pub struct Upsample(Conv2d);

impl Upsample {
    /// Parameters `conv` [channels, channels, 3, 3].
    ///
    /// # Errors
    /// When a parameter is missing or has another shape.
    pub fn new(channels: usize, parameters: &Parameters<'_>) -> Built<Self> {
        Ok(Self(Conv2d::three(channels, channels, &parameters.at("conv"))?))
    }

    /// x [B, C, H, W] → [B, C, height, width].
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn forward(&self, x: &Tensor, (height, width): (usize, usize), exec: &Exec) -> Result<Tensor> {
        self.0.forward(&ops::upsample_nearest(x, height, width, exec.form())?, exec)
    }
}

/// SiLU, as the blocks expect their time embedding.
pub(crate) fn silu(x: &Tensor, exec: &Exec) -> Result<Tensor> {
    ops::activate(x, Activation::Silu, exec.form())
}
