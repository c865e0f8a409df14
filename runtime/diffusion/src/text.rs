//! Text to conditioning: prompts in two syntaxes, and the encoder of Stable Diffusion 1.x.
//!
//! ```text
//! plain      text ─► tokens, cut and padded to one row ─────────────────────────────► encoder ─► states [1, 77, D]
//! weighted   text ─► pieces with weights ─► tokens in chunks of 75, one row each ─► encoder, row by row ─► weights act ─► [1, 77·k, D]
//! ```
//! `plain` is diffusers, exactly. `weighted` reads AUTOMATIC1111's syntax ([`parse_weighted`] has the table) with these rules:
//! - **Chunks.** Tokens fill chunks of 75 (the encoder's length without begin and end). When a chunk is full and a comma stands within its
//!   last [`COMMA_BACKTRACK_TOKENS`] tokens, what follows the comma moves to the next chunk. `BREAK` ends a chunk at once, even an empty one.
//!   Each chunk is framed by begin and end, padded, and encoded as a row of its own; the rows' states are joined along the tokens.
//! - **Weights.** In each chunk by itself, every token's final state is multiplied by its weight, and then the whole chunk by one number that
//!   brings the mean over its tokens and features back to what it was.
//!
//! - **Embeddings.** A prompt names a textual inversion by its word; its vectors take the word's place before the encoder, in both syntaxes
//!   ([`NamedEmbedding`]). In the weighted one they stay in one chunk and have the weight of their word.
//!
//! So a prompt of one chunk without weights gives the same bits in both syntaxes. `clip_skip` means the same in both: that many of the last
//! layers are left out and the final normalisation applies. Each row is encoded alone, so a prompt's states depend on nothing but the prompt.

mod chunks;
mod clip;
mod clip_config;
mod emphasis;
mod textual_inversion;
mod weighted;

pub use chunks::{COMMA_BACKTRACK_TOKENS, MAX_CHUNKS};
pub use clip::ClipTextEncoder;
pub use clip_config::ClipTextConfig;
pub use textual_inversion::{
    Embedding, EmbeddingError, EmbeddingFileError, MAX_EMBEDDING_NAME_BYTES, MAX_EMBEDDING_VECTORS, MAX_EMBEDDINGS, NamedEmbedding,
    RequestWords,
};
pub use weighted::{MAX_NESTING, MAX_WEIGHT, Piece, PromptSyntaxError, parse_weighted};

use candle_core::Tensor;

use self::chunks::{Chunk, divide};
use self::emphasis::emphasised;
use crate::exec::Exec;
use crate::tokenizer::{ExtraWords, MAX_TEXT_BYTES, Tokenizer, TokenizerError};

/// How a prompt's text is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PromptSyntax {
    /// As it stands, cut to the encoder's length: diffusers.
    #[default]
    Plain,
    /// AUTOMATIC1111's brackets and chunks, of any length up to [`MAX_CHUNKS`].
    Weighted,
}

/// Prompts to text states.
#[derive(Debug)]
pub struct PromptEncoder {
    tokenizer: Tokenizer,
    encoder: ClipTextEncoder,
}

/// What is wrong with a prompt.
#[derive(Debug, thiserror::Error)]
pub enum PromptError {
    /// The tokenizer refuses it.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// Its brackets cannot be read.
    #[error(transparent)]
    Syntax(#[from] PromptSyntaxError),
    /// It is too long.
    #[error("the prompt is longer than {MAX_CHUNKS} chunks of {room} tokens; shorten it")]
    TooManyChunks {
        /// Tokens of one chunk.
        room: usize,
    },
}

/// Why a prompt was not encoded.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// The prompt is not acceptable.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// The network failed.
    #[error("the text encoder failed: {0}")]
    Tensor(#[from] candle_core::Error),
}

impl PromptEncoder {
    /// Joins the two halves.
    pub fn new(tokenizer: Tokenizer, encoder: ClipTextEncoder) -> Self {
        Self { tokenizer, encoder }
    }

    /// What turns text into ids.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The largest `clip_skip`: the number of the encoder's layers.
    pub fn max_clip_skip(&self) -> usize {
        self.encoder.layers()
    }

    /// Makes the embeddings of a request ready for its prompts.
    ///
    /// # Errors
    /// [`EmbeddingError`] for those that do not fit this encoder or each other.
    pub fn words(&self, embeddings: &[NamedEmbedding], exec: &Exec) -> Result<RequestWords, EmbeddingError> {
        RequestWords::new(embeddings, &self.tokenizer, &self.encoder, exec)
    }

    /// A prompt → states [1, 77·k, D] in the compute dtype; k is 1 in the plain syntax.
    ///
    /// `clip_skip` has diffusers' meaning: how many of the last layers are left out.
    ///
    /// # Errors
    /// When the prompt is not acceptable or the encoder fails.
    pub fn encode(
        &self,
        prompt: &str,
        syntax: PromptSyntax,
        words: &RequestWords,
        clip_skip: usize,
        exec: &Exec,
    ) -> Result<Tensor, EncodeError> {
        let row = |ids: &[u32]| self.encoder.forward(ids, words.vectors(), clip_skip, exec);
        match syntax {
            PromptSyntax::Plain => {
                let tokens = self.tokenizer.encode_with(words.extra(), prompt).map_err(PromptError::from)?;
                Ok(row(&self.tokenizer.padded(tokens).ids)?)
            }
            PromptSyntax::Weighted => {
                let chunks = self.chunks(prompt, words.extra())?;
                let rows = chunks.iter().map(|chunk| emphasised(&row(&chunk.ids)?, &chunk.weights));
                Ok(Tensor::cat(&rows.collect::<candle_core::Result<Vec<_>>>()?, 1)?)
            }
        }
    }

    fn chunks(&self, prompt: &str, words: &ExtraWords) -> Result<Vec<Chunk>, PromptError> {
        if prompt.len() > MAX_TEXT_BYTES {
            return Err(TokenizerError::TextTooLong { bytes: prompt.len() }.into());
        }
        divide(&parse_weighted(prompt)?, &self.tokenizer, words)
    }
}
