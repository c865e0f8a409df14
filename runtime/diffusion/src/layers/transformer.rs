//! Transformers over the pixels of a feature map: diffusers' `Transformer2DModel` with `BasicTransformerBlock`s.

use candle_core::{Result, Tensor};

use super::{Attention, AttentionShape, Conv2d, GroupNorm, KeyValue, LayerNorm, Linear, Parameters};
use crate::exec::Exec;
use crate::layers::Built;
use crate::ops;

/// Epsilon of the normalisation before the blocks; not configurable in diffusers.
const GROUP_NORM_EPSILON: f64 = 1e-6;
/// Epsilon of the normalisations inside the blocks; not configurable for these blocks in diffusers.
const LAYER_NORM_EPSILON: f64 = 1e-5;
/// How much wider the feed-forward network is than its input.
const FEED_FORWARD_FACTOR: usize = 4;

/// The sizes of a [`SpatialTransformer`].
#[derive(Clone, Copy, Debug)]
pub struct SpatialTransformerShape {
    /// Channels of the feature map.
    pub channels: usize,
    /// Features of the text tokens.
    pub context_features: usize,
    /// Heads of all attentions.
    pub heads: usize,
    /// Number of transformer blocks.
    pub depth: usize,
    /// Groups of the normalisation before the blocks.
    pub groups: usize,
    /// Whether the projections around the blocks are linear layers instead of 1×1 convolutions; the same mathematics.
    pub linear_projection: bool,
}

#[derive(Clone, Debug)]
enum Projection {
    Linear(Linear),
    Convolution(Conv2d),
}

impl Projection {
    fn new(shape: &SpatialTransformerShape, parameters: &Parameters<'_>) -> Built<Self> {
        Ok(match shape.linear_projection {
            true => Self::Linear(Linear::new(shape.channels, shape.channels, parameters)?),
            false => Self::Convolution(Conv2d::one(shape.channels, shape.channels, parameters)?),
        })
    }
}

/// norm → projection → blocks → projection, plus the input.
#[derive(Clone, Debug)]
pub struct SpatialTransformer {
    norm: GroupNorm,
    proj_in: Projection,
    blocks: Vec<TransformerBlock>,
    proj_out: Projection,
}

impl SpatialTransformer {
    /// Parameters `norm`, `proj_in`, `transformer_blocks.i`, `proj_out`.
    ///
    /// # Errors
    /// When a parameter is missing or has another shape.
    pub fn new(shape: &SpatialTransformerShape, parameters: &Parameters<'_>) -> Built<Self> {
        let block = |i| TransformerBlock::new(shape, &parameters.at("transformer_blocks").at(i));
        Ok(Self {
            norm: GroupNorm::new(shape.channels, shape.groups, GROUP_NORM_EPSILON, &parameters.at("norm"))?,
            proj_in: Projection::new(shape, &parameters.at("proj_in"))?,
            blocks: (0..shape.depth).map(block).collect::<Built<_>>()?,
            proj_out: Projection::new(shape, &parameters.at("proj_out"))?,
        })
    }

    /// How many cross-attentions there are: one per block.
    pub fn depth(&self) -> usize {
        self.blocks.len()
    }

    /// Keys and values of a context [1, S, context_features] for each block.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn key_values(&self, context: &Tensor, exec: &Exec) -> Result<Vec<KeyValue>> {
        self.blocks.iter().map(|block| block.attn2.key_value(context, exec)).collect()
    }

    /// x [B, C, H, W]; `contexts[row]` holds one [`KeyValue`] per block → the shape of x.
    ///
    /// # Errors
    /// When the shapes do not fit, or a context is missing.
    pub fn forward(&self, x: &Tensor, contexts: &[&[KeyValue]], exec: &Exec) -> Result<Tensor> {
        let (batch, channels, height, width) = x.dims4()?;
        let tokens_last = |x: Tensor| x.reshape((batch, channels, height * width))?.transpose(1, 2)?.contiguous();
        let image = |x: Tensor| x.transpose(1, 2)?.contiguous()?.reshape((batch, channels, height, width));

        let hidden = self.norm.forward(x, exec)?;
        let mut tokens = match &self.proj_in {
            Projection::Linear(projection) => projection.forward(&tokens_last(hidden)?, exec)?,
            Projection::Convolution(projection) => tokens_last(projection.forward(&hidden, exec)?)?,
        };
        for (i, block) in self.blocks.iter().enumerate() {
            let contexts: Option<Vec<&KeyValue>> = contexts.iter().map(|of_row| of_row.get(i)).collect();
            let Some(contexts) = contexts else { candle_core::bail!("a row has no context for transformer block {i}") };
            tokens = block.forward(&tokens, &contexts, exec)?;
        }
        let hidden = match &self.proj_out {
            Projection::Linear(projection) => image(projection.forward(&tokens, exec)?)?,
            Projection::Convolution(projection) => projection.forward(&image(tokens)?, exec)?,
        };
        x + hidden
    }
}

#[derive(Clone, Debug)]
struct TransformerBlock {
    norm1: LayerNorm,
    attn1: Attention,
    norm2: LayerNorm,
    attn2: Attention,
    norm3: LayerNorm,
    feed_forward_in: Linear,
    feed_forward_out: Linear,
}

impl TransformerBlock {
    fn new(shape: &SpatialTransformerShape, parameters: &Parameters<'_>) -> Built<Self> {
        let SpatialTransformerShape { channels, context_features, heads, .. } = *shape;
        let norm = |name| LayerNorm::new(channels, LAYER_NORM_EPSILON, &parameters.at(name));
        let attention =
            |name, context_features| Attention::new(AttentionShape { features: channels, context_features, heads }, &parameters.at(name));
        let inner = channels * FEED_FORWARD_FACTOR;
        Ok(Self {
            norm1: norm("norm1")?,
            attn1: attention("attn1", channels)?,
            norm2: norm("norm2")?,
            attn2: attention("attn2", context_features)?,
            norm3: norm("norm3")?,
            feed_forward_in: Linear::new(channels, inner * 2, &parameters.at("ff.net.0.proj"))?,
            feed_forward_out: Linear::new(inner, channels, &parameters.at("ff.net.2"))?,
        })
    }

    fn forward(&self, x: &Tensor, contexts: &[&KeyValue], exec: &Exec) -> Result<Tensor> {
        let x = (self.attn1.forward_self(&self.norm1.forward(x, exec)?, exec)? + x)?;
        let x = (self.attn2.forward_cross(&self.norm2.forward(&x, exec)?, contexts, exec)? + &x)?;
        let wide = self.feed_forward_in.forward(&self.norm3.forward(&x, exec)?, exec)?;
        self.feed_forward_out.forward(&ops::geglu(&wide, exec.form())?, exec)? + x
    }
}
