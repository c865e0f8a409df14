//! Multi-head attention as diffusers' `Attention`: `to_q`, `to_k`, `to_v`, `to_out.0`.

use candle_core::{Result, Tensor};

use super::{Linear, Parameters};
use crate::exec::Exec;
use crate::layers::Built;
use crate::ops;

/// The sizes of an [`Attention`] layer.
#[derive(Clone, Copy, Debug)]
pub struct AttentionShape {
    /// Features of the tokens that ask.
    pub features: usize,
    /// Features of the tokens that are asked.
    pub context_features: usize,
    /// Number of heads; `features` is a multiple of it.
    pub heads: usize,
}

/// Keys and values of one row's context, computed once per image: each [1, S, features].
#[derive(Clone, Debug)]
pub struct KeyValue {
    /// Keys.
    pub key: Tensor,
    /// Values.
    pub value: Tensor,
}

/// Queries, keys and values without bias, output with bias.
#[derive(Clone, Debug)]
pub struct Attention {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    heads: usize,
}

impl Attention {
    /// Weights [features, features] and [features, context_features]; `to_out.0` with bias.
    ///
    /// # Errors
    /// When a parameter is missing or has another shape.
    pub fn new(shape: AttentionShape, parameters: &Parameters<'_>) -> Built<Self> {
        let AttentionShape { features, context_features, heads } = shape;
        Ok(Self {
            to_q: Linear::without_bias(features, features, &parameters.at("to_q"))?,
            to_k: Linear::without_bias(context_features, features, &parameters.at("to_k"))?,
            to_v: Linear::without_bias(context_features, features, &parameters.at("to_v"))?,
            to_out: Linear::new(features, features, &parameters.at("to_out.0"))?,
            heads,
        })
    }

    /// Self-attention: x [B, T, features] → the same shape.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn forward_self(&self, x: &Tensor, exec: &Exec) -> Result<Tensor> {
        let (query, key) = (self.to_q.forward(x, exec)?, self.to_k.forward(x, exec)?);
        let mixed = ops::attention(&query, &key, &self.to_v.forward(x, exec)?, self.heads, exec.form())?;
        self.to_out.forward(&mixed, exec)
    }

    /// Keys and values of a context [1, S, context_features].
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn key_value(&self, context: &Tensor, exec: &Exec) -> Result<KeyValue> {
        Ok(KeyValue { key: self.to_k.forward(context, exec)?, value: self.to_v.forward(context, exec)? })
    }

    /// Cross-attention, where each row has a context of its own, of any length: x [B, T, features], B contexts → the shape of x.
    ///
    /// # Errors
    /// When the shapes do not fit, or there are not B contexts.
    pub fn forward_cross(&self, x: &Tensor, contexts: &[&KeyValue], exec: &Exec) -> Result<Tensor> {
        if contexts.len() != x.dim(0)? {
            candle_core::bail!("{} rows but {} contexts", x.dim(0)?, contexts.len());
        }
        let query = self.to_q.forward(x, exec)?;
        let mixed = contexts
            .iter()
            .enumerate()
            .map(|(row, context)| ops::attention(&query.narrow(0, row, 1)?, &context.key, &context.value, self.heads, exec.form()));
        let mixed = Tensor::cat(&mixed.collect::<Result<Vec<_>>>()?, 0)?;
        self.to_out.forward(&mixed, exec)
    }
}
