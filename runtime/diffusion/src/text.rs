//! Text to states: prompts in two syntaxes, tokenizers' and text encoders' part of them. What a family makes of the states is its own.
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
//! layers are left out. A pooled text is that of the first chunk, which weights leave alone. Each row is encoded alone, so a prompt's states depend on nothing but the prompt.

mod chunks;
mod clip;
mod clip_config;
mod emphasis;
mod t5;
mod t5_config;
mod t5_prompt;
mod textual_inversion;
mod weighted;

pub use chunks::{COMMA_BACKTRACK_TOKENS, MAX_CHUNKS};
pub use clip::{ClipStates, ClipTextEncoder, Pooling, StatesFrom};
pub use clip_config::{ClipTextConfig, EndToken};
pub use t5::T5Encoder;
pub use t5_config::T5Config;
pub use t5_prompt::T5PromptEncoder;
pub use textual_inversion::{
    Embedding, EmbeddingError, EmbeddingFileError, EncoderWords, MAX_EMBEDDING_NAME_BYTES, MAX_EMBEDDING_VECTORS, MAX_EMBEDDINGS,
    NamedEmbedding, RequestWords,
};
pub use weighted::{MAX_NESTING, MAX_WEIGHT, Piece, PromptSyntaxError, parse_weighted};

use std::sync::Arc;

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

/// Prompts to the states of one CLIP text encoder.
#[derive(Debug)]
pub struct PromptEncoder {
    tokenizer: Arc<Tokenizer>,
    encoder: ClipTextEncoder,
    from: StatesFrom,
    /// What files of embeddings for several text encoders call this one's.
    embeddings: Option<&'static str>,
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
    /// A number of tokens that cannot be.
    #[error("max_sequence_length is {value}; it must be between 1 and {limit}")]
    SequenceLength {
        /// What was asked for.
        value: usize,
        /// The most.
        limit: usize,
    },
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
    #[error("{field}: {source}")]
    Prompt {
        /// The request's field.
        field: &'static str,
        /// Why not.
        source: PromptError,
    },
    /// The network failed.
    #[error("the text encoder failed: {0}")]
    Tensor(#[from] candle_core::Error),
}

impl PromptEncoder {
    /// Joins the two halves.
    pub fn new(tokenizer: Arc<Tokenizer>, encoder: ClipTextEncoder, from: StatesFrom) -> Self {
        Self { tokenizer, encoder, from, embeddings: None }
    }

    /// One of several text encoders: its embeddings are in the tensors `name` of their files.
    #[must_use]
    pub fn with_embeddings_named(self, name: &'static str) -> Self {
        Self { embeddings: Some(name), ..self }
    }

    /// Tokens of one row: of a prompt in the plain syntax, and of each chunk.
    pub fn row_tokens(&self) -> usize {
        self.tokenizer.model_max_length()
    }

    /// The largest `clip_skip`.
    pub fn max_clip_skip(&self) -> usize {
        self.encoder.max_skip(self.from)
    }

    /// Makes the embeddings of a request ready for its prompts.
    ///
    /// # Errors
    /// [`EmbeddingError`] for those that do not fit this encoder or each other.
    pub fn words(&self, embeddings: &[NamedEmbedding], exec: &Exec) -> Result<EncoderWords, EmbeddingError> {
        EncoderWords::new(embeddings, self.embeddings, &self.tokenizer, &self.encoder, exec)
    }

    /// The prompt in the request's `field` → states [1, 77·k, D] in the compute dtype; k is 1 in the plain syntax.
    ///
    /// `clip_skip` has diffusers' meaning: how many of the last layers are left out.
    ///
    /// # Errors
    /// When the prompt is not acceptable or the encoder fails.
    pub fn encode(
        &self,
        field: &'static str,
        prompt: &str,
        syntax: PromptSyntax,
        words: &EncoderWords,
        clip_skip: usize,
        exec: &Exec,
    ) -> Result<ClipStates, EncodeError> {
        self.encode_chunks(field, prompt, syntax, words, clip_skip, MAX_CHUNKS, exec)
    }

    /// The same of the first row alone, [1, 77, D], also in the weighted syntax: for networks whose text has a fixed number of tokens.
    ///
    /// # Errors
    /// When the prompt is not acceptable or the encoder fails.
    pub fn encode_first(
        &self,
        field: &'static str,
        prompt: &str,
        syntax: PromptSyntax,
        words: &EncoderWords,
        clip_skip: usize,
        exec: &Exec,
    ) -> Result<ClipStates, EncodeError> {
        self.encode_chunks(field, prompt, syntax, words, clip_skip, 1, exec)
    }

    #[expect(clippy::too_many_arguments, reason = "those of the public forms, and how much of the prompt is encoded")]
    fn encode_chunks(
        &self,
        field: &'static str,
        prompt: &str,
        syntax: PromptSyntax,
        words: &EncoderWords,
        clip_skip: usize,
        chunks: usize,
        exec: &Exec,
    ) -> Result<ClipStates, EncodeError> {
        let refused = |source| EncodeError::Prompt { field, source };
        let row = |ids: &[u32]| self.encoder.forward(ids, words.vectors(), self.from, clip_skip, exec);
        match syntax {
            PromptSyntax::Plain => {
                let tokens = self.tokenizer.encode_with(words.extra(), prompt).map_err(|error| refused(error.into()))?;
                Ok(row(&self.tokenizer.padded(tokens).ids)?)
            }
            PromptSyntax::Weighted => {
                let (mut rows, mut pooled) = (Vec::new(), None);
                for chunk in self.chunks(prompt, words.extra()).map_err(refused)?.iter().take(chunks) {
                    let states = row(&chunk.ids)?;
                    rows.push(emphasised(&states.tokens, &chunk.weights)?);
                    pooled = pooled.or(states.pooled);
                }
                Ok(ClipStates { tokens: Tensor::cat(&rows, 1)?, pooled })
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
