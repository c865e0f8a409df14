//! `vae/config.json` of diffusers' `AutoencoderKL`, checked.

use serde_json::{Value, json};

use super::tiling::MAX_WHOLE_SIDE_PIXELS;
use crate::dimensions::{MAX_BLOCK_LAYERS, MAX_FEATURES, dimension, divides, level_channels, positive};
use crate::json::{Config, ConfigError};

/// Side of a tile, in pixels, where the configuration has none.
const DEFAULT_TILE_SIDE: usize = 512;
/// The fewest latent positions along a tile: fewer could not overlap.
const MIN_TILE_LATENT_SIDE: usize = 4;

/// A checked configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct VaeConfig {
    /// Channels of an image: 3.
    pub image_channels: usize,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Channels per level, from the finest to the coarsest.
    pub channels: Vec<usize>,
    /// Resnets per level in the encoder; one more in the decoder.
    pub layers: usize,
    /// Groups of all group normalisations.
    pub groups: usize,
    /// Latents are multiplied by this after encoding.
    pub scaling_factor: f64,
    /// And this was subtracted before.
    pub shift_factor: f64,
    /// Whether it needs more than half precision: activations overflow.
    pub force_upcast: bool,
    /// Whether a 1×1 convolution follows the encoder.
    pub quant_conv: bool,
    /// Whether a 1×1 convolution precedes the decoder.
    pub post_quant_conv: bool,
    /// Whether the coarsest level has attention.
    pub mid_attention: bool,
    /// Side of the tiles that large pictures are cut into, in pixels; a multiple of [`Self::scale`]. From `sample_size`.
    pub tile_side: usize,
}

impl VaeConfig {
    /// Reads and checks a configuration.
    ///
    /// # Errors
    /// Naming file, key and value: out of bounds, contradictory, or of a network that is not served.
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        config.only("act_fn", &[json!("silu"), json!("swish")])?;
        config.only("latents_mean", &[])?;
        config.only("latents_std", &[])?;
        config.only("in_channels", &[json!(3)])?;
        config.only("out_channels", &[json!(3)])?;
        let channels = level_channels(config, "block_out_channels", &[64])?;
        for (key, block) in [("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")] {
            let types = config.strings(key)?.unwrap_or_else(|| vec![block.to_owned()]);
            if types.len() != channels.len() || types.iter().any(|name| name != block) {
                return Err(config.unaccepted(key, &format!("a list of {} times {block}", channels.len())));
            }
        }
        let groups = dimension(config, "norm_num_groups", 32, MAX_FEATURES)?;
        for channels in &channels {
            divides(config, "norm_num_groups", groups, *channels)?;
        }
        let tile_side = tile_side(config, 1 << (channels.len() - 1));
        Ok(Self {
            image_channels: 3,
            latent_channels: dimension(config, "latent_channels", 4, MAX_FEATURES)?,
            channels,
            layers: dimension(config, "layers_per_block", 1, MAX_BLOCK_LAYERS)?,
            groups,
            scaling_factor: positive(config, "scaling_factor", 0.18215)?,
            shift_factor: match config.f64("shift_factor")?.unwrap_or(0.0) {
                shift if shift.is_finite() => shift,
                _ => return Err(config.unaccepted("shift_factor", "a finite number")),
            },
            force_upcast: config.bool("force_upcast")?.unwrap_or(true),
            quant_conv: config.bool("use_quant_conv")?.unwrap_or(true),
            post_quant_conv: config.bool("use_post_quant_conv")?.unwrap_or(true),
            mid_attention: config.bool("mid_block_add_attention")?.unwrap_or(true),
            tile_side,
        })
    }

    /// Pixels per latent position, along each side: each level but one halves the image.
    pub fn scale(&self) -> usize {
        1 << (self.channels.len() - 1)
    }
}

/// `sample_size`, the first number of a list, kept within what can be cut and is worth cutting.
fn tile_side(config: &Config, scale: usize) -> usize {
    let side = match config.value("sample_size") {
        Some(Value::Array(sides)) => sides.first(),
        side => side,
    };
    let side = side.and_then(Value::as_u64).map_or(DEFAULT_TILE_SIDE, |side| usize::try_from(side).unwrap_or(usize::MAX));
    side.clamp(MIN_TILE_LATENT_SIDE * scale, MAX_WHOLE_SIDE_PIXELS.max(MIN_TILE_LATENT_SIDE * scale)) / scale * scale
}
