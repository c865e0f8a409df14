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
}

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
        })
    }
}
