//! `config.json` of transformers' `T5EncoderModel`, checked.

use serde_json::json;

use crate::dimensions::{MAX_ENCODER_LAYERS, MAX_FEATURES, MAX_HEADS, MAX_VOCABULARY, dimension, positive};
use crate::json::{Config, ConfigError};

/// The most kinds of distance; every published model has 32.
const MAX_DISTANCE_BUCKETS: usize = 1024;
/// The largest distance that is told apart; every published model has 128.
const MAX_DISTANCE: usize = 1 << 20;

/// A checked configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct T5Config {
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
    /// Features of one head; all heads together may have more or fewer than a token.
    pub head_features: usize,
    /// Kinds of distance between two tokens.
    pub distance_buckets: usize,
    /// Distances from here on are one kind.
    pub max_distance: usize,
    /// Epsilon of all normalisations.
    pub epsilon: f64,
}

impl T5Config {
    /// Reads and checks a configuration. Absent keys have transformers' defaults.
    ///
    /// # Errors
    /// Naming file, key and value: out of bounds, contradictory, or of a network that is not served.
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        config.only("is_decoder", &[json!(false)])?;
        // The encoders of image models are of version 1.1, whose feed-forward networks are gated; the default is that of version 1.0.
        if config.one_of("feed_forward_proj", &["gated-gelu"])?.is_none() {
            return Err(config.missing("feed_forward_proj", "gated-gelu"));
        }
        config.only("dense_act_fn", &[json!("gelu_new")])?;
        let distance_buckets = dimension(config, "relative_attention_num_buckets", 32, MAX_DISTANCE_BUCKETS)?;
        if distance_buckets % 4 != 0 {
            return Err(config.unaccepted("relative_attention_num_buckets", "a multiple of 4"));
        }
        let max_distance = dimension(config, "relative_attention_max_distance", 128, MAX_DISTANCE)?;
        if max_distance <= distance_buckets / 4 {
            return Err(config.unaccepted("relative_attention_max_distance", &format!("more than {}", distance_buckets / 4)));
        }
        Ok(Self {
            vocabulary: dimension(config, "vocab_size", 32_128, MAX_VOCABULARY)?,
            features: dimension(config, "d_model", 512, MAX_FEATURES)?,
            inner_features: dimension(config, "d_ff", 2048, MAX_FEATURES * 4)?,
            layers: dimension(config, "num_layers", 6, MAX_ENCODER_LAYERS)?,
            heads: dimension(config, "num_heads", 8, MAX_HEADS)?,
            head_features: dimension(config, "d_kv", 64, MAX_FEATURES)?,
            distance_buckets,
            max_distance,
            epsilon: positive(config, "layer_norm_epsilon", 1e-6)?,
        })
    }
}
