//! Network dimensions from configuration files, each with a named bound: a hostile file must not be able to ask for terabytes, nor a
//! broken one for zero channels. The bounds are far above any published model of the families served.

use crate::json::{Config, ConfigError};

/// Channels of any feature map, and features of any token.
pub const MAX_FEATURES: usize = 16_384;
/// Resolution levels of a UNet or a VAE.
pub const MAX_LEVELS: usize = 8;
/// Layers in one block.
pub const MAX_BLOCK_LAYERS: usize = 16;
/// Transformer blocks in one transformer.
pub const MAX_TRANSFORMER_DEPTH: usize = 32;
/// Blocks of a denoiser that is a transformer; Flux has 38 of one kind.
pub const MAX_TRANSFORMER_BLOCKS: usize = 128;
/// Layers of a text encoder.
pub const MAX_ENCODER_LAYERS: usize = 128;
/// Heads of an attention.
pub const MAX_HEADS: usize = 256;
/// Entries of a text encoder's vocabulary.
pub const MAX_VOCABULARY: usize = 1 << 20;
/// Tokens a text encoder takes.
pub const MAX_TOKENS: usize = 4096;

/// The whole number under `key`, `default` where it is absent, between 1 and `limit`.
///
/// # Errors
/// Naming file, key, value and bound.
pub fn dimension(config: &Config, key: &str, default: usize, limit: usize) -> Result<usize, ConfigError> {
    match config.usize(key)? {
        None => Ok(default),
        Some(value) if (1..=limit).contains(&value) => Ok(value),
        Some(_) => Err(config.unaccepted(key, &format!("a whole number from 1 to {limit}"))),
    }
}

/// One whole number for each of `count` levels (a single number stands for all), each between 1 and `limit`.
///
/// # Errors
/// Naming file, key, value and bound.
pub fn dimension_list(config: &Config, key: &str, count: usize, default: usize, limit: usize) -> Result<Vec<usize>, ConfigError> {
    let values = config.usize_list(key, count)?.unwrap_or_else(|| vec![default; count]);
    match values.iter().all(|value| (1..=limit).contains(value)) {
        true => Ok(values),
        false => Err(config.unaccepted(key, &format!("whole numbers from 1 to {limit}"))),
    }
}

/// Channels per level, `default` where absent: 1 to [`MAX_LEVELS`] numbers from 1 to [`MAX_FEATURES`].
///
/// # Errors
/// Naming file, key, value and bound.
pub fn level_channels(config: &Config, key: &str, default: &[usize]) -> Result<Vec<usize>, ConfigError> {
    let values = config.usizes(key)?.unwrap_or_else(|| default.to_vec());
    let accepted = (1..=MAX_LEVELS).contains(&values.len()) && values.iter().all(|value| (1..=MAX_FEATURES).contains(value));
    match accepted {
        true => Ok(values),
        false => Err(config.unaccepted(key, &format!("1 to {MAX_LEVELS} whole numbers from 1 to {MAX_FEATURES}"))),
    }
}

/// A positive number, `default` where absent.
///
/// # Errors
/// Naming file, key, value and what is accepted.
pub fn positive(config: &Config, key: &str, default: f64) -> Result<f64, ConfigError> {
    match config.f64(key)? {
        None => Ok(default),
        Some(value) if value.is_finite() && value > 0.0 => Ok(value),
        Some(_) => Err(config.unaccepted(key, "a number above 0")),
    }
}

/// Refuses channels that do not split into `groups` equal parts, naming `key`.
///
/// # Errors
/// Naming file, key and value.
pub fn divides(config: &Config, key: &str, groups: usize, channels: usize) -> Result<(), ConfigError> {
    match channels % groups {
        0 => Ok(()),
        _ => Err(config.unaccepted(key, &format!("a divisor of {channels}, the channels of a block"))),
    }
}
