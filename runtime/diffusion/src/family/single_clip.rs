//! Conditioning on one CLIP text encoder alone: Stable Diffusion 1.x and 2.x.

use crate::conditioning::{Conditioner, Description, Encoded};
use crate::exec::Exec;
use crate::guidance::Branch;
use crate::text::{EmbeddingError, EncodeError, NamedEmbedding, PromptEncoder, RequestWords};

/// The text encoder's states are all that the denoiser is told.
#[derive(Debug)]
pub(super) struct SingleClip {
    pub(super) encoder: PromptEncoder,
}

impl Conditioner for SingleClip {
    fn max_clip_skip(&self) -> usize {
        self.encoder.max_clip_skip()
    }

    fn words(&self, embeddings: &[NamedEmbedding], exec: &Exec) -> Result<RequestWords, EmbeddingError> {
        Ok(RequestWords::new(vec![self.encoder.words(embeddings, exec)?]))
    }

    /// An absent negative prompt is the empty one.
    fn encode(&self, asked: &Description<'_>, exec: &Exec) -> Result<Encoded, EncodeError> {
        let field = match asked.branch {
            Branch::Positive => "prompt",
            Branch::Negative => "negative_prompt",
        };
        let text = asked.prompts[0].unwrap_or_default();
        let encoded = self.encoder.encode(field, text, asked.syntax, asked.words.of(0), asked.clip_skip, exec)?;
        Ok(Encoded { states: encoded.tokens, vector: None })
    }
}
