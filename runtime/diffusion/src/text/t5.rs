//! The encoder half of T5 version 1.1 (Raffel et al. 2020, Shazeer 2020): transformers' `T5EncoderModel`.
//!
//! Positions enter as a number added to each attention's scores, by the distance of the two tokens; scores are not scaled. What is handed from
//! layer to layer stays f32: some of it grows beyond what 16 bits hold.

use candle_core::{DType, Result, Tensor};

use super::T5Config;
use crate::exec::Exec;
use crate::layers::{Built, Linear, Parameters, RmsNorm};
use crate::ops::{self, Activation};

/// The encoder with its parameters.
#[derive(Clone, Debug)]
pub struct T5Encoder {
    token_embedding: Tensor,
    /// [buckets, heads]
    distance_bias: Tensor,
    config: T5Config,
    layers: Vec<Layer>,
    final_norm: RmsNorm,
}

impl T5Encoder {
    /// Builds the encoder from parameters in transformers' names.
    ///
    /// # Errors
    /// When a parameter is missing or has another shape.
    pub fn new(config: &T5Config, parameters: &Parameters<'_>) -> Built<Self> {
        let encoder = parameters.at("encoder");
        let layer = |i| Layer::new(config, &encoder.at("block").at(i).at("layer"));
        let first = encoder.at("block.0.layer.0.SelfAttention.relative_attention_bias");
        // One tensor under two names, of which files hold either.
        let embedding = parameters.at_any(&["shared", "encoder.embed_tokens"]);
        Ok(Self {
            token_embedding: embedding.get("weight", &[config.vocabulary, config.features])?,
            distance_bias: first.get("weight", &[config.distance_buckets, config.heads])?,
            config: config.clone(),
            layers: (0..config.layers).map(layer).collect::<Built<_>>()?,
            final_norm: RmsNorm::new(config.features, config.epsilon, &encoder.at("final_layer_norm"))?,
        })
    }

    /// Token ids of one text, padding included → states [1, T, features] in the compute dtype. Padding is attended to, as in diffusers.
    ///
    /// # Errors
    /// When a token has no embedding.
    pub fn forward(&self, tokens: &[u32], exec: &Exec) -> Result<Tensor> {
        let embedded = self.token_embedding.index_select(&Tensor::new(tokens, &exec.device)?, 0)?;
        let compute = embedded.dtype();
        let bias = self.bias(tokens.len(), exec)?;
        let mut x = embedded.to_dtype(DType::F32)?.unsqueeze(0)?;
        for layer in &self.layers {
            x = layer.forward(&x, &bias, compute, exec)?;
        }
        self.final_norm.forward(&x.to_dtype(compute)?, exec)
    }

    /// [heads, T, T] f32: what is added to each score.
    fn bias(&self, tokens: usize, exec: &Exec) -> Result<Tensor> {
        let (buckets, far) = (self.config.distance_buckets, self.config.max_distance);
        let kinds = (0..tokens).flat_map(|query| (0..tokens).map(move |key| bucket(query, key, buckets, far)));
        let kinds = Tensor::from_iter(kinds, &exec.device)?;
        let rows = self.distance_bias.to_dtype(DType::F32)?.index_select(&kinds, 0)?;
        rows.reshape((tokens, tokens, ()))?.permute((2, 0, 1))?.contiguous()
    }
}

/// The kind of the distance from `query` to `key`: half of the kinds are for what comes after; of each half, one for each small distance, then
/// evenly in the logarithm up to `max_distance`.
fn bucket(query: usize, key: usize, buckets: usize, max_distance: usize) -> u32 {
    let (half, exact) = (buckets / 2, buckets / 4);
    let distance = query.abs_diff(key);
    let bucket = match distance < exact {
        true => distance,
        false => {
            // In f32, as the reference: at powers of two the next kind begins, or not, by the last digit.
            let share = (distance as f32 / exact as f32).ln() / (max_distance as f64 / exact as f64).ln() as f32;
            (exact + (share * (half - exact) as f32) as usize).min(half - 1)
        }
    };
    // Far below 32 bits by the configuration's bound.
    (if key > query { half + bucket } else { bucket }) as u32
}

#[derive(Clone, Debug)]
struct Layer {
    norm1: RmsNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    heads: usize,
    norm2: RmsNorm,
    gate: Linear,
    widen: Linear,
    narrow: Linear,
}

impl Layer {
    fn new(config: &T5Config, parameters: &Parameters<'_>) -> Built<Self> {
        let (attention, feed_forward) = (parameters.at("0.SelfAttention"), parameters.at("1.DenseReluDense"));
        let (features, in_heads) = (config.features, config.heads * config.head_features);
        let linear = |inputs, outputs, parameters: Parameters<'_>| Linear::without_bias(inputs, outputs, &parameters);
        Ok(Self {
            norm1: RmsNorm::new(features, config.epsilon, &parameters.at("0.layer_norm"))?,
            query: linear(features, in_heads, attention.at("q"))?,
            key: linear(features, in_heads, attention.at("k"))?,
            value: linear(features, in_heads, attention.at("v"))?,
            output: linear(in_heads, features, attention.at("o"))?,
            heads: config.heads,
            norm2: RmsNorm::new(features, config.epsilon, &parameters.at("1.layer_norm"))?,
            gate: linear(features, config.inner_features, feed_forward.at("wi_0"))?,
            widen: linear(features, config.inner_features, feed_forward.at("wi_1"))?,
            narrow: linear(config.inner_features, features, feed_forward.at("wo"))?,
        })
    }

    /// x [1, T, features] f32 → the same.
    fn forward(&self, x: &Tensor, bias: &Tensor, compute: DType, exec: &Exec) -> Result<Tensor> {
        let normed = self.norm1.forward(&x.to_dtype(compute)?, exec)?;
        let (query, key) = (self.query.forward(&normed, exec)?, self.key.forward(&normed, exec)?);
        let mixed = ops::biased_attention(&query, &key, &self.value.forward(&normed, exec)?, self.heads, bias)?;
        let x = (x + self.output.forward(&mixed, exec)?.to_dtype(DType::F32)?)?;
        let normed = self.norm2.forward(&x.to_dtype(compute)?, exec)?;
        let gate = ops::activate(&self.gate.forward(&normed, exec)?, Activation::TanhGelu, exec.form())?;
        let wide = (gate * self.widen.forward(&normed, exec)?)?;
        x + self.narrow.forward(&wide, exec)?.to_dtype(DType::F32)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_fall_into_buckets_as_in_the_reference() {
        // T5Attention._relative_position_bucket(torch.tensor(distance), True, 32, 128)
        let expected = [
            (0, 0),
            (-1, 1),
            (-7, 7),
            (-8, 8),
            (-11, 8),
            (-12, 9),
            (-15, 9),
            (-16, 10),
            (-31, 11),
            (-32, 12),
            (-63, 13),
            (-64, 14),
            (-90, 14),
            (-91, 15),
            (-500, 15),
            (1, 17),
            (8, 24),
            (16, 26),
            (32, 28),
            (64, 30),
            (500, 31),
        ];
        for (distance, expected) in expected {
            let key = 1000_usize.checked_add_signed(distance).unwrap();
            assert_eq!(bucket(1000, key, 32, 128), expected, "{distance}");
        }
    }
}
