//! Layers that are one operation and its parameters.

use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::Parameters;
use crate::adapter::Leaf;
use crate::exec::Exec;
use crate::layers::Built;
use crate::ops::{self, Padding};

/// `y = x·Wᵀ + b` over the last dimension, and what adapters add to it.
#[derive(Clone, Debug)]
pub struct Linear {
    path: Arc<str>,
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// `weight` [outputs, features] and `bias` [outputs].
    ///
    /// # Errors
    /// When a parameter is missing or has another shape.
    pub fn new(features: usize, outputs: usize, parameters: &Parameters<'_>) -> Built<Self> {
        let bias = Some(parameters.get("bias", &[outputs])?);
        Ok(Self { bias, ..Self::without_bias(features, outputs, parameters)? })
    }

    /// `weight` [outputs, features] alone.
    ///
    /// # Errors
    /// When the parameter is missing or has another shape.
    pub fn without_bias(features: usize, outputs: usize, parameters: &Parameters<'_>) -> Built<Self> {
        let (weight, path) = parameters.adaptable_weight(&[outputs, features])?;
        Ok(Self { path, weight, bias: None })
    }

    /// x [B, …, features] → [B, …, outputs].
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn forward(&self, x: &Tensor, exec: &Exec) -> Result<Tensor> {
        let y = ops::linear(x, &self.weight, self.bias.as_ref(), exec.form())?;
        exec.adapters.add(&self.path, Leaf::Linear { weight: &self.weight, bias: self.bias.as_ref() }, x, y, exec.form())
    }
}

/// 2-D convolution with bias, and what adapters add to it.
#[derive(Clone, Debug)]
pub struct Conv2d {
    path: Arc<str>,
    weight: Tensor,
    bias: Tensor,
    padding: Padding,
    stride: usize,
}

impl Conv2d {
    /// `weight` [outputs, channels, kernel, kernel] and `bias` [outputs]; `padding` and `stride` in pixels.
    ///
    /// # Errors
    /// When a parameter is missing or has another shape.
    pub fn new(
        channels: usize,
        outputs: usize,
        kernel: usize,
        (padding, stride): (Padding, usize),
        parameters: &Parameters<'_>,
    ) -> Built<Self> {
        let bias = parameters.get("bias", &[outputs])?;
        let (weight, path) = parameters.adaptable_weight(&[outputs, channels, kernel, kernel])?;
        Ok(Self { path, weight, bias, padding, stride })
    }

    /// A 3×3 convolution that keeps the size.
    ///
    /// # Errors
    /// When a parameter is missing or has another shape.
    pub fn three(channels: usize, outputs: usize, parameters: &Parameters<'_>) -> Built<Self> {
        Self::new(channels, outputs, 3, (Padding::Even(1), 1), parameters)
    }

    /// A 1×1 convolution: a linear layer over the channels of each pixel.
    ///
    /// # Errors
    /// When a parameter is missing or has another shape.
    pub fn one(channels: usize, outputs: usize, parameters: &Parameters<'_>) -> Built<Self> {
        Self::new(channels, outputs, 1, (Padding::Even(0), 1), parameters)
    }

    /// x [B, channels, H, W] → [B, outputs, H', W'].
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn forward(&self, x: &Tensor, exec: &Exec) -> Result<Tensor> {
        let (padding, stride) = (self.padding, self.stride);
        let y = ops::conv2d(x, &self.weight, &self.bias, padding, stride, exec.form())?;
        exec.adapters.add(&self.path, Leaf::Conv2d { weight: &self.weight, bias: &self.bias, padding, stride }, x, y, exec.form())
    }
}

/// Group normalisation with weight and bias per channel.
#[derive(Clone, Debug)]
pub struct GroupNorm {
    weight: Tensor,
    bias: Tensor,
    groups: usize,
    epsilon: f64,
}

impl GroupNorm {
    /// `weight` and `bias` [channels].
    ///
    /// # Errors
    /// When a parameter is missing or has another shape.
    pub fn new(channels: usize, groups: usize, epsilon: f64, parameters: &Parameters<'_>) -> Built<Self> {
        let bias = parameters.get("bias", &[channels])?;
        Ok(Self { weight: parameters.get("weight", &[channels])?, bias, groups, epsilon })
    }

    /// x [B, channels, H, W] → the same shape.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn forward(&self, x: &Tensor, exec: &Exec) -> Result<Tensor> {
        ops::group_norm(x, &self.weight, &self.bias, self.groups, self.epsilon, false, exec.form())
    }

    /// The same, followed by SiLU.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn forward_silu(&self, x: &Tensor, exec: &Exec) -> Result<Tensor> {
        ops::group_norm(x, &self.weight, &self.bias, self.groups, self.epsilon, true, exec.form())
    }
}

/// Layer normalisation with weight and bias.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    epsilon: f64,
}

impl LayerNorm {
    /// `weight` and `bias` [features].
    ///
    /// # Errors
    /// When a parameter is missing or has another shape.
    pub fn new(features: usize, epsilon: f64, parameters: &Parameters<'_>) -> Built<Self> {
        let bias = parameters.get("bias", &[features])?;
        Ok(Self { weight: parameters.get("weight", &[features])?, bias, epsilon })
    }

    /// x […, features] → the same shape.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn forward(&self, x: &Tensor, exec: &Exec) -> Result<Tensor> {
        ops::layer_norm(x, &self.weight, &self.bias, self.epsilon, exec.form())
    }
}

/// Root-mean-square normalisation with weight.
#[derive(Clone, Debug)]
pub struct RmsNorm {
    weight: Tensor,
    epsilon: f64,
}

impl RmsNorm {
    /// `weight` [features].
    ///
    /// # Errors
    /// When the parameter is missing or has another shape.
    pub fn new(features: usize, epsilon: f64, parameters: &Parameters<'_>) -> Built<Self> {
        Ok(Self { weight: parameters.get("weight", &[features])?, epsilon })
    }

    /// x […, features] → the same shape.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn forward(&self, x: &Tensor, exec: &Exec) -> Result<Tensor> {
        ops::rms_norm(x, &self.weight, self.epsilon, exec.form())
    }
}
