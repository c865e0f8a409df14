//! `text_encoder/config.json` of transformers' `CLIPTextModel`, checked.

use serde_json::json;

use crate::dimensions::{MAX_ENCODER_LAYERS, MAX_FEATURES, MAX_HEADS, MAX_TOKENS, MAX_VOCABULARY, dimension, divides, positive};
use crate::json::{Config, ConfigError};
use crate::ops::Activation;

/// A checked configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct ClipTextConfig {
    /// Number of different tokens.
    pub vocabulary: usize,
    /// Features of a token.
    pub features: usize,
    /// Features inside the feed-forward networks.
    pub inner_features: usize,
    /// Number of layers.
    pub layers: usize,
    /// Heads of each attention.
    pub heads: usize,
    /// The longest text, in tokens.
    pub tokens: usize,
    /// Non-linearity of the feed-forward networks.
    pub activation: Activation,
    /// Epsilon of all normalisations.
    pub epsilon: f64,
    /// Features of the pooled text where the encoder has a projection for it.
    pub projection_features: usize,
    /// Which token of a text stands for the whole of it.
    pub end: EndToken,
}

/// Which token of a text stands for the whole of it: the one that ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndToken {
    /// The first of this id.
    Id(u32),
    /// The first of those with the largest id: how transformers reads configurations whose `eos_token_id` is 2, from before that key was
    /// right.
    Largest,
}

impl EndToken {
    /// Its place among `tokens`; the first where none is found, as in the reference.
    pub(super) fn place(self, tokens: &[u32]) -> usize {
        let wanted = match self {
            Self::Id(id) => Some(id),
            Self::Largest => tokens.iter().max().copied(),
        };
        tokens.iter().position(|token| Some(*token) == wanted).unwrap_or(0)
    }
}

/// transformers' `eos_token_id` that was never true.
const LEGACY_END: usize = 2;
/// transformers' default.
const DEFAULT_END: usize = 49_407;

impl ClipTextConfig {
    /// Reads and checks a configuration. Absent keys have transformers' defaults.
    ///
    /// # Errors
    /// Naming file, key and value: out of bounds, contradictory, or of a network that is not served.
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        config.only("use_attention_mask", &[json!(false)])?;
        let features = dimension(config, "hidden_size", 512, MAX_FEATURES)?;
        let heads = dimension(config, "num_attention_heads", 8, MAX_HEADS)?;
        divides(config, "num_attention_heads", heads, features)?;
        let activation = match config.one_of("hidden_act", &["quick_gelu", "gelu"])? {
            Some("gelu") => Activation::Gelu,
            _ => Activation::QuickGelu,
        };
        Ok(Self {
            vocabulary: dimension(config, "vocab_size", 49_408, MAX_VOCABULARY)?,
            features,
            inner_features: dimension(config, "intermediate_size", 2048, MAX_FEATURES * 4)?,
            layers: dimension(config, "num_hidden_layers", 12, MAX_ENCODER_LAYERS)?,
            heads,
            tokens: dimension(config, "max_position_embeddings", 77, MAX_TOKENS)?,
            activation,
            epsilon: positive(config, "layer_norm_eps", 1e-5)?,
            projection_features: dimension(config, "projection_dim", 512, MAX_FEATURES)?,
            end: end_token(config)?,
        })
    }
}

fn end_token(config: &Config) -> Result<EndToken, ConfigError> {
    match config.usize("eos_token_id")?.unwrap_or(DEFAULT_END) {
        LEGACY_END => Ok(EndToken::Largest),
        id if id < MAX_VOCABULARY => Ok(EndToken::Id(id as u32)),
        _ => Err(config.unaccepted("eos_token_id", "a token's id")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn end_of_a_text_is_found_as_the_reference_finds_it() {
        assert_eq!(EndToken::Id(7).place(&[3, 9, 7, 7]), 2);
        assert_eq!(EndToken::Id(8).place(&[3, 9, 7, 7]), 0);
        assert_eq!(EndToken::Largest.place(&[3, 9, 7, 9]), 1);
    }
}
