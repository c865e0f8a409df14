//! `transformer/config.json` of diffusers' `FluxTransformer2DModel`, checked.

use serde_json::json;

use super::time_text::TimeTextShape;
use crate::dimensions::{MAX_FEATURES, MAX_HEADS, MAX_TRANSFORMER_BLOCKS, dimension};
use crate::json::{Config, ConfigError};
use crate::layers::JointAttentionShape;

/// The axes of positions: one that is always 0, rows, columns.
pub(super) const AXES: usize = 3;
/// The features of each that diffusers assumes.
const DEFAULT_AXIS_FEATURES: [usize; AXES] = [16, 56, 56];
/// Latent positions in a token: two rows of two.
pub(super) const POSITIONS_PER_TOKEN: usize = 4;

/// A checked configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct FluxConfig {
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Blocks in which text and image have weights of their own.
    pub double_blocks: usize,
    /// Blocks in which they share them.
    pub single_blocks: usize,
    /// Heads of each attention.
    pub heads: usize,
    /// Features of one head.
    pub head_features: usize,
    /// How many of a head's features tell the position on each axis.
    pub axis_features: [usize; 3],
    /// Features of a text token.
    pub text_features: usize,
    /// Features of the pooled text.
    pub pooled_features: usize,
    /// Whether the strength of guidance is an input.
    pub guidance: bool,
}

impl FluxConfig {
    /// Reads and checks a configuration. Absent keys have diffusers' defaults.
    ///
    /// # Errors
    /// Naming file, key and value: out of bounds, contradictory, or of a network that is not served.
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        config.only("patch_size", &[json!(1)])?;
        let channels = dimension(config, "in_channels", 64, MAX_FEATURES)?;
        if channels % POSITIONS_PER_TOKEN != 0 {
            return Err(config.unaccepted("in_channels", "a multiple of 4"));
        }
        if dimension(config, "out_channels", channels, MAX_FEATURES)? != channels {
            let accepted = format!("{channels}, the in_channels; networks that read another picture beside the latents are not served");
            return Err(config.unaccepted("out_channels", &accepted));
        }
        let head_features = dimension(config, "attention_head_dim", 128, MAX_FEATURES)?;
        let axis_features = match config.usizes("axes_dims_rope")? {
            None => DEFAULT_AXIS_FEATURES,
            Some(features) => features.try_into().map_err(|_| config.unaccepted("axes_dims_rope", "three whole numbers"))?,
        };
        let in_all = axis_features.iter().try_fold(0_usize, |sum, features| sum.checked_add(*features));
        if in_all != Some(head_features) || axis_features.iter().any(|features| features % 2 != 0) {
            let accepted = format!("three even numbers that sum to {head_features}, the attention_head_dim");
            return Err(config.unaccepted("axes_dims_rope", &accepted));
        }
        Ok(Self {
            latent_channels: channels / POSITIONS_PER_TOKEN,
            double_blocks: dimension(config, "num_layers", 19, MAX_TRANSFORMER_BLOCKS)?,
            single_blocks: dimension(config, "num_single_layers", 38, MAX_TRANSFORMER_BLOCKS)?,
            heads: dimension(config, "num_attention_heads", 24, MAX_HEADS)?,
            head_features,
            axis_features,
            text_features: dimension(config, "joint_attention_dim", 4096, MAX_FEATURES)?,
            pooled_features: dimension(config, "pooled_projection_dim", 768, MAX_FEATURES)?,
            guidance: config.bool("guidance_embeds")?.unwrap_or(false),
        })
    }

    pub(super) fn attention(&self) -> JointAttentionShape {
        JointAttentionShape { heads: self.heads, head_features: self.head_features, normed: true }
    }

    pub(super) fn time_text(&self) -> TimeTextShape {
        let (features, guidance) = (self.attention().features(), self.guidance);
        TimeTextShape { features, pooled_features: self.pooled_features, text_features: self.text_features, guidance }
    }
}
