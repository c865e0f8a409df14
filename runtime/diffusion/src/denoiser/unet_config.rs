//! `unet/config.json` of diffusers' `UNet2DConditionModel`, checked.
//!
//! Keys that change the computation and have values that are not served are refused by name; other keys are left alone.

use serde_json::{Value, json};

use crate::dimensions::{
    MAX_BLOCK_LAYERS, MAX_FEATURES, MAX_HEADS, MAX_TRANSFORMER_DEPTH, dimension, dimension_list, divides, level_channels, positive,
};
use crate::json::{Config, ConfigError};
use crate::layers::SinusoidOptions;

/// Keys of which only these values (or absence, or null) are served: everything else is another network.
fn fixed_keys() -> Vec<(&'static str, Vec<Value>)> {
    vec![
        ("act_fn", vec![json!("silu"), json!("swish")]),
        ("addition_embed_type", vec![json!("text_time")]),
        ("addition_embed_type_num_heads", vec![json!(64)]),
        ("attention_type", vec![json!("default")]),
        ("center_input_sample", vec![json!(false)]),
        ("class_embed_type", vec![]),
        ("class_embeddings_concat", vec![json!(false)]),
        ("conv_in_kernel", vec![json!(3)]),
        ("conv_out_kernel", vec![json!(3)]),
        ("cross_attention_norm", vec![]),
        ("dual_cross_attention", vec![json!(false)]),
        ("encoder_hid_dim", vec![]),
        ("encoder_hid_dim_type", vec![]),
        ("mid_block_only_cross_attention", vec![json!(false)]),
        ("mid_block_scale_factor", vec![json!(1)]),
        // diffusers itself refuses this key; the number of heads is under `attention_head_dim`, see `heads` below.
        ("num_attention_heads", vec![]),
        ("num_class_embeds", vec![]),
        ("resnet_out_scale_factor", vec![json!(1)]),
        ("resnet_skip_time_act", vec![json!(false)]),
        ("resnet_time_scale_shift", vec![json!("default")]),
        ("reverse_transformer_layers_per_block", vec![]),
        ("time_embedding_act_fn", vec![]),
        ("time_embedding_type", vec![json!("positional")]),
        ("timestep_post_act", vec![]),
    ]
}

/// The dimensions of one resolution level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LevelConfig {
    /// Channels that leave the level.
    pub channels: usize,
    /// Resnet blocks going down; one more coming up.
    pub layers: usize,
    /// Heads of its attentions. diffusers' `attention_head_dim` is, for this network, the *number* of heads.
    pub heads: usize,
    /// Features of the text tokens.
    pub context_features: usize,
    /// Transformer blocks behind each resnet.
    pub transformer_depth: usize,
    /// Whether there are transformers going down.
    pub down_attention: bool,
    /// Whether there are transformers coming up.
    pub up_attention: bool,
}

/// How a vector besides the text enters: `addition_embed_type` `text_time`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdditionConfig {
    /// Of the whole vector.
    pub features: usize,
    /// Of the sinusoid of each number in it.
    pub id_features: usize,
}

/// What the middle of the network is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MidBlock {
    /// resnet, transformer, resnet.
    CrossAttention,
    /// A single resnet.
    Resnet,
    /// Nothing.
    Absent,
}

/// A checked configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct UNetConfig {
    /// Latent channels that come in.
    pub in_channels: usize,
    /// Latent channels that go out.
    pub out_channels: usize,
    /// From the finest level to the coarsest.
    pub levels: Vec<LevelConfig>,
    /// The middle.
    pub mid_block: MidBlock,
    /// Groups of all group normalisations.
    pub groups: usize,
    /// Epsilon of the resnets' and the output's normalisation.
    pub epsilon: f64,
    /// Whether transformers have linear projections.
    pub linear_projection: bool,
    /// How the timestep becomes features.
    pub sinusoid: SinusoidOptions,
    /// Features of the time embedding.
    pub time_features: usize,
    /// The vector that is added to the time embedding, if there is one.
    pub addition: Option<AdditionConfig>,
    /// Features of the guidance scale's sinusoid, where that is an input: `time_cond_proj_dim`.
    pub guidance_features: Option<usize>,
    /// Padding of the downsampling convolutions: true for one pixel all around, false for below and right.
    pub even_downsample_padding: bool,
    /// The side of the square latents it was trained on, if the file says so.
    pub sample_size: Option<usize>,
}

impl UNetConfig {
    /// Reads and checks a configuration.
    ///
    /// # Errors
    /// Naming file, key and value: out of bounds, contradictory, or of a network that is not served.
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        for (key, accepted) in fixed_keys() {
            config.only(key, &accepted)?;
        }
        let channels = level_channels(config, "block_out_channels", &[320, 640, 1280, 1280])?;
        let groups = dimension(config, "norm_num_groups", 32, MAX_FEATURES)?;
        for channels in &channels {
            divides(config, "norm_num_groups", groups, *channels)?;
        }
        let only_cross_attention = config.bool_list("only_cross_attention", channels.len())?;
        if only_cross_attention.is_some_and(|levels| levels.contains(&true)) {
            return Err(config.unaccepted("only_cross_attention", "false"));
        }
        let time_features = channels[0] * 4;
        Ok(Self {
            in_channels: dimension(config, "in_channels", 4, MAX_FEATURES)?,
            out_channels: dimension(config, "out_channels", 4, MAX_FEATURES)?,
            levels: levels(config, &channels)?,
            mid_block: mid_block(config)?,
            groups,
            epsilon: positive(config, "norm_eps", 1e-5)?,
            linear_projection: config.bool("use_linear_projection")?.unwrap_or(false),
            sinusoid: SinusoidOptions {
                flip_sin_to_cos: config.bool("flip_sin_to_cos")?.unwrap_or(true),
                freq_shift: config.f64("freq_shift")?.unwrap_or(0.0),
            },
            time_features: dimension(config, "time_embedding_dim", time_features, MAX_FEATURES * 4)?,
            addition: addition(config)?,
            guidance_features: match config.usize("time_cond_proj_dim")? {
                None => None,
                // Its sinusoid divides by half of them less one.
                Some(features @ 4..=MAX_FEATURES) => Some(features),
                Some(_) => return Err(config.unaccepted("time_cond_proj_dim", &format!("null, or 4 to {MAX_FEATURES}"))),
            },
            even_downsample_padding: match config.usize("downsample_padding")? {
                None | Some(1) => true,
                Some(0) => false,
                Some(_) => return Err(config.unaccepted("downsample_padding", "0 or 1")),
            },
            sample_size: config.usize("sample_size")?,
        })
    }

    /// Features of the text tokens that the first level takes.
    pub fn context_features(&self) -> usize {
        self.levels[0].context_features
    }
}

fn addition(config: &Config) -> Result<Option<AdditionConfig>, ConfigError> {
    if !config.contains("addition_embed_type") {
        return Ok(None);
    }
    let needed = |key: &str| match config.usize(key)? {
        Some(features) if (1..=MAX_FEATURES).contains(&features) => Ok(features),
        Some(_) => Err(config.unaccepted(key, &format!("a whole number from 1 to {MAX_FEATURES}"))),
        None => Err(config.missing(key, &format!("a whole number from 1 to {MAX_FEATURES}"))),
    };
    let (features, id_features) = (needed("projection_class_embeddings_input_dim")?, needed("addition_time_embed_dim")?);
    Ok(Some(AdditionConfig { features, id_features }))
}

fn levels(config: &Config, channels: &[usize]) -> Result<Vec<LevelConfig>, ConfigError> {
    let count = channels.len();
    let layers = dimension_list(config, "layers_per_block", count, 2, MAX_BLOCK_LAYERS)?;
    let heads = dimension_list(config, "attention_head_dim", count, 8, MAX_HEADS)?;
    let context = dimension_list(config, "cross_attention_dim", count, 1280, MAX_FEATURES)?;
    if context.iter().any(|features| *features != context[0]) {
        return Err(config.unaccepted("cross_attention_dim", "one number, or the same number for every level"));
    }
    let depth = dimension_list(config, "transformer_layers_per_block", count, 1, MAX_TRANSFORMER_DEPTH)?;
    let down = block_types(config, "down_block_types", count, ("CrossAttnDownBlock2D", "DownBlock2D"), |level| level + 1 < 4)?;
    let mut up = block_types(config, "up_block_types", count, ("CrossAttnUpBlock2D", "UpBlock2D"), |level| level > 0)?;
    up.reverse();
    (0..count)
        .map(|level| {
            if down[level] || up[level] || level + 1 == count {
                divides(config, "attention_head_dim", heads[level], channels[level])?;
            }
            Ok(LevelConfig {
                channels: channels[level],
                layers: layers[level],
                heads: heads[level],
                context_features: context[level],
                transformer_depth: depth[level],
                down_attention: down[level],
                up_attention: up[level],
            })
        })
        .collect()
}

/// Which blocks of a list have attention. Absent means diffusers' default, which is for four levels.
fn block_types(
    config: &Config,
    key: &str,
    count: usize,
    (with_attention, without): (&str, &str),
    default: impl Fn(usize) -> bool,
) -> Result<Vec<bool>, ConfigError> {
    let accepted = || format!("a list of {count} of {with_attention}, {without}");
    let Some(types) = config.strings(key)? else {
        return if count == 4 { Ok((0..count).map(default).collect()) } else { Err(config.missing(key, &accepted())) };
    };
    let known = types.iter().all(|name| name == with_attention || name == without);
    match known && types.len() == count {
        true => Ok(types.iter().map(|name| name == with_attention).collect()),
        false => Err(config.unaccepted(key, &accepted())),
    }
}

fn mid_block(config: &Config) -> Result<MidBlock, ConfigError> {
    // Absent means the default; an explicit null means that there is no such block.
    if config.keys().any(|key| key == "mid_block_type") && !config.contains("mid_block_type") {
        return Ok(MidBlock::Absent);
    }
    Ok(match config.one_of("mid_block_type", &["UNetMidBlock2DCrossAttn", "UNetMidBlock2D"])? {
        None | Some("UNetMidBlock2DCrossAttn") => MidBlock::CrossAttention,
        Some(_) => MidBlock::Resnet,
    })
}
