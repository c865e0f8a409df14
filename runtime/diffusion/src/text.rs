//! Text to conditioning: the encoder of Stable Diffusion 1.x, and diffusers' plain prompt syntax.

mod clip;
mod clip_config;

pub use clip::ClipTextEncoder;
pub use clip_config::ClipTextConfig;

use candle_core::Tensor;

use crate::exec::Exec;
use crate::tokenizer::{Tokenizer, TokenizerError};

/// Prompts to text states.
#[derive(Debug)]
pub struct PromptEncoder {
    tokenizer: Tokenizer,
    encoder: ClipTextEncoder,
}

/// Why a prompt was not encoded.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// The text is not acceptable.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The network failed.
    #[error("the text encoder failed: {0}")]
    Tensor(#[from] candle_core::Error),
}

impl PromptEncoder {
    /// Joins the two halves.
    pub fn new(tokenizer: Tokenizer, encoder: ClipTextEncoder) -> Self {
        Self { tokenizer, encoder }
    }

    /// The largest `clip_skip`: the number of the encoder's layers.
    pub fn max_clip_skip(&self) -> usize {
        self.encoder.layers()
    }

    /// Plain syntax, exactly as diffusers: no weights, cut and padded to the model's length → states [1, T, D] in the compute dtype.
    ///
    /// `clip_skip` has diffusers' meaning: how many of the last layers are left out.
    ///
    /// # Errors
    /// When the tokenizer refuses the text or the encoder fails.
    pub fn encode(&self, prompt: &str, clip_skip: usize, exec: &Exec) -> Result<Tensor, EncodeError> {
        let tokens = self.tokenizer.encode_padded(prompt)?;
        Ok(self.encoder.forward(&tokens.ids, clip_skip, exec)?)
    }
}
