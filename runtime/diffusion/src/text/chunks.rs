//! A weighted prompt as rows of the text encoder: how tokens are divided into chunks, as AUTOMATIC1111 divides them.

use super::PromptError;
use super::weighted::Piece;
use crate::tokenizer::{ExtraWords, Tokenizer};

/// The most chunks of one prompt: 1,200 tokens with CLIP's 75 a chunk. Each is a call of the encoder, and keys and values of every
/// cross-attention.
pub const MAX_CHUNKS: usize = 16;
/// How far before the end of a full chunk a comma may stand for the words after it to move on together; AUTOMATIC1111's default.
pub const COMMA_BACKTRACK_TOKENS: usize = 20;

/// One row of the text encoder.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Chunk {
    /// Begin, tokens, end, padding: [`Tokenizer::model_max_length`] ids.
    pub(super) ids: Vec<u32>,
    /// The weight of each id; 1 for begin, end and padding.
    pub(super) weights: Vec<f64>,
}

/// Divides a prompt: at least one chunk, each as full as commas and breaks allow.
pub(super) fn divide(pieces: &[Piece], tokenizer: &Tokenizer, words: &ExtraWords) -> Result<Vec<Chunk>, PromptError> {
    let mut divider = Divider { tokenizer, chunks: Vec::new(), ids: Vec::new(), weights: Vec::new(), last_comma: None };
    for piece in pieces {
        match piece {
            Piece::Break => divider.end_chunk()?,
            Piece::Text { text, weight } => {
                let ids = tokenizer.encode_with(words, text)?;
                let mut rest = ids.as_slice();
                while let Some(first) = rest.first() {
                    let (together, others) = rest.split_at(words.count(*first).min(rest.len()));
                    divider.add(together, *weight)?;
                    rest = others;
                }
            }
        }
    }
    if !divider.ids.is_empty() || divider.chunks.is_empty() {
        divider.end_chunk()?;
    }
    Ok(divider.chunks)
}

struct Divider<'a> {
    tokenizer: &'a Tokenizer,
    chunks: Vec<Chunk>,
    /// Of the chunk that is being filled.
    ids: Vec<u32>,
    weights: Vec<f64>,
    /// Where its last comma stands.
    last_comma: Option<usize>,
}

impl Divider<'_> {
    /// Adds ids that stay together; no more than a chunk holds.
    fn add(&mut self, ids: &[u32], weight: f64) -> Result<(), PromptError> {
        let room = self.tokenizer.room();
        if self.tokenizer.comma_id().is_some_and(|comma| ids == [comma]) {
            self.last_comma = Some(self.ids.len());
        } else if self.ids.len() >= room
            && let Some(comma) = self.last_comma
            && self.ids.len() - comma <= COMMA_BACKTRACK_TOKENS
        {
            let (ids, weights) = (self.ids.split_off(comma + 1), self.weights.split_off(comma + 1));
            self.end_chunk()?;
            (self.ids, self.weights) = (ids, weights);
        }
        if self.ids.len() + ids.len() > room {
            self.end_chunk()?;
        }
        self.ids.extend_from_slice(ids);
        self.weights.resize(self.ids.len(), weight);
        Ok(())
    }

    fn end_chunk(&mut self) -> Result<(), PromptError> {
        if self.chunks.len() >= MAX_CHUNKS {
            return Err(PromptError::TooManyChunks { room: self.tokenizer.room() });
        }
        let mut weights = vec![1.0];
        weights.append(&mut self.weights);
        weights.resize(self.tokenizer.model_max_length(), 1.0);
        self.chunks.push(Chunk { ids: self.tokenizer.framed(std::mem::take(&mut self.ids)), weights });
        self.last_comma = None;
        Ok(())
    }
}
