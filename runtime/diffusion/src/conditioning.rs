//! What a prediction is conditioned on: one branch of one image, immutable, shared by all samples of a request.

use std::sync::Arc;

use crate::layers::KeyValue;

/// Text as the denoiser meets it: keys and values of every cross-attention layer, in the order the network runs them.
///
/// Text enters a UNet nowhere else, and it does not change with the timestep, so this is computed once per image; prompts of different
/// lengths can then share a call without padding.
pub type ContextKeyValues = Vec<KeyValue>;

/// Conditioning of one branch of one image.
#[derive(Clone, Debug)]
pub struct Conditioning {
    /// Keys and values for every cross-attention.
    pub context: Arc<ContextKeyValues>,
}
