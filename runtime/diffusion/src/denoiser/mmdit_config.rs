//! `transformer/config.json` of diffusers' `SD3Transformer2DModel`, checked.

use super::time_text::TimeTextShape;
use crate::dimensions::{MAX_FEATURES, MAX_HEADS, MAX_TRANSFORMER_BLOCKS, dimension};
use crate::json::{Config, ConfigError};
use crate::layers::JointAttentionShape;

/// The largest side of a patch, in latent positions; every published model has 2.
const MAX_PATCH_SIDE: usize = 8;
/// The largest side of the table of positions, in patches; Stable Diffusion 3.5 medium has 384.
const MAX_POSITIONS_SIDE: usize = 1024;

/// A checked configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct MmditConfig {
    /// Side of the latents it was trained on.
    pub sample_size: usize,
    /// Side of a patch, in latent positions.
    pub patch_side: usize,
    /// Channels of the latents.
    pub in_channels: usize,
    /// Channels of the prediction.
    pub out_channels: usize,
    /// Number of blocks.
    pub blocks: usize,
    /// Heads of each attention.
    pub heads: usize,
    /// Features of one head.
    pub head_features: usize,
    /// Whether queries and keys are normalised.
    pub normed: bool,
    /// Blocks with a second attention over the image alone.
    pub own_attention_blocks: Vec<usize>,
    /// Features of a text token.
    pub text_features: usize,
    /// Features of the pooled text.
    pub pooled_features: usize,
    /// Side of the table of positions, in patches: the largest image.
    pub positions_side: usize,
}

impl MmditConfig {
    /// Reads and checks a configuration. Absent keys have diffusers' defaults.
    ///
    /// # Errors
    /// Naming file, key and value: out of bounds, contradictory, or of a network that is not served.
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        let heads = dimension(config, "num_attention_heads", 18, MAX_HEADS)?;
        let head_features = dimension(config, "attention_head_dim", 64, MAX_FEATURES)?;
        let features = heads * head_features;
        if dimension(config, "caption_projection_dim", 1152, MAX_FEATURES)? != features {
            let accepted = format!("{features}, as num_attention_heads and attention_head_dim say");
            return Err(config.unaccepted("caption_projection_dim", &accepted));
        }
        let in_channels = dimension(config, "in_channels", 16, MAX_FEATURES)?;
        let blocks = dimension(config, "num_layers", 18, MAX_TRANSFORMER_BLOCKS)?;
        let own_attention_blocks = config.usizes("dual_attention_layers")?.unwrap_or_default();
        if own_attention_blocks.iter().any(|block| *block >= blocks) {
            return Err(config.unaccepted("dual_attention_layers", &format!("numbers below {blocks}, the num_layers")));
        }
        Ok(Self {
            sample_size: dimension(config, "sample_size", 128, MAX_FEATURES)?,
            patch_side: dimension(config, "patch_size", 2, MAX_PATCH_SIDE)?,
            in_channels,
            out_channels: dimension(config, "out_channels", 16, MAX_FEATURES)?,
            blocks,
            heads,
            head_features,
            normed: config.one_of("qk_norm", &["rms_norm"])?.is_some(),
            own_attention_blocks,
            text_features: dimension(config, "joint_attention_dim", 4096, MAX_FEATURES)?,
            pooled_features: dimension(config, "pooled_projection_dim", 2048, MAX_FEATURES)?,
            positions_side: dimension(config, "pos_embed_max_size", 96, MAX_POSITIONS_SIDE)?,
        })
    }

    pub(super) fn attention(&self) -> JointAttentionShape {
        JointAttentionShape { heads: self.heads, head_features: self.head_features, normed: self.normed }
    }

    pub(super) fn time_text(&self) -> TimeTextShape {
        let (features, guidance) = (self.attention().features(), false);
        TimeTextShape { features, pooled_features: self.pooled_features, text_features: self.text_features, guidance }
    }
}
