//! Blocks in which an image's and a text's tokens attend to each other: diffusers' `JointTransformerBlock` and `FluxTransformerBlock`.

use candle_core::{DType, Result, Tensor};

use crate::exec::Exec;
use crate::layers::{Built, FeedForward, JointAttention, JointAttentionShape, Modulation, Parameters, TokenAttention, gated, modulated};
use crate::ops::Rotation;

/// Vectors that a block takes of the time embedding: shift, scale and gate, of attention and of what follows.
const PARTS: usize = 6;
/// Of a second attention, over the image alone.
const OWN_ATTENTION_PARTS: usize = 3;
/// Of the text in a block after which it ends: scale and shift.
const LAST_TEXT_PARTS: usize = 2;

/// What blocks of one network may differ in.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct JointBlockOptions {
    /// A second attention, over the image alone ("MMDiT-X").
    pub(super) own_attention: bool,
    /// The text is not needed after it.
    pub(super) last_of_text: bool,
}

#[derive(Clone, Debug)]
pub(super) struct JointBlock {
    image_modulation: Modulation,
    text_modulation: Modulation,
    attention: JointAttention,
    own_attention: Option<TokenAttention>,
    feed_forward: FeedForward,
    text_feed_forward: Option<FeedForward>,
}

impl JointBlock {
    pub(super) fn new(shape: JointAttentionShape, options: JointBlockOptions, parameters: &Parameters<'_>) -> Built<Self> {
        let JointBlockOptions { own_attention, last_of_text } = options;
        let features = shape.features();
        let image_parts = if own_attention { PARTS + OWN_ATTENTION_PARTS } else { PARTS };
        let text_parts = if last_of_text { LAST_TEXT_PARTS } else { PARTS };
        Ok(Self {
            image_modulation: Modulation::new(features, image_parts, &parameters.at("norm1"))?,
            text_modulation: Modulation::new(features, text_parts, &parameters.at("norm1_context"))?,
            attention: JointAttention::new(shape, !last_of_text, &parameters.at("attn"))?,
            own_attention: match own_attention {
                true => Some(TokenAttention::new(shape, &parameters.at("attn2"))?),
                false => None,
            },
            feed_forward: FeedForward::of_tokens(features, &parameters.at("ff"))?,
            text_feed_forward: match last_of_text {
                true => None,
                false => Some(FeedForward::of_tokens(features, &parameters.at("ff_context"))?),
            },
        })
    }

    /// image [B, N, features], text [B, T, features], time embedding through SiLU [B, features] → image and text; no text after the last.
    pub(super) fn forward(
        &self,
        image: &Tensor,
        text: &Tensor,
        time_silu: &Tensor,
        rotation: Option<&Rotation>,
        exec: &Exec,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let of_image = self.image_modulation.forward(time_silu, exec)?;
        let of_text = self.text_modulation.forward(time_silu, exec)?;
        let [shift, scale, gate, next_shift, next_scale, next_gate, own @ ..] = of_image.as_slice() else {
            candle_core::bail!("a block's modulation has {} parts", of_image.len());
        };
        let normed_text = match of_text.as_slice() {
            [scale, shift] | [shift, scale, ..] => modulated(text, scale, shift, exec)?,
            _ => candle_core::bail!("a text's modulation has {} parts", of_text.len()),
        };
        let (update, text_update) = self.attention.forward(&modulated(image, scale, shift, exec)?, &normed_text, rotation, exec)?;
        let mut x = gated(image, gate, &update)?;
        if let (Some(attention), [shift, scale, gate]) = (&self.own_attention, own) {
            x = gated(&x, gate, &attention.forward(&modulated(image, scale, shift, exec)?, None, exec)?)?;
        }
        let update = self.feed_forward.forward(&modulated(&x, next_scale, next_shift, exec)?, exec)?;
        let x = gated(&x, next_gate, &update)?;

        let (Some(update), Some(feed_forward), [_, _, gate, next_shift, next_scale, next_gate]) =
            (text_update, &self.text_feed_forward, of_text.as_slice())
        else {
            return Ok((x, None));
        };
        let text = gated(text, gate, &update)?;
        let update = feed_forward.forward(&modulated(&text, next_scale, next_shift, exec)?, exec)?;
        Ok((x, Some(bounded(&gated(&text, next_gate, &update)?)?)))
    }
}

/// The largest number of 16 bits in place of what lies beyond, as in the reference: some text tokens grow that large.
pub(super) fn bounded(x: &Tensor) -> Result<Tensor> {
    const LARGEST: f64 = 65_504.0;
    if x.dtype() == DType::F16 { x.clamp(-LARGEST, LARGEST) } else { Ok(x.clone()) }
}
