//! Prompts to the states of a T5 text encoder.

use std::sync::Arc;

use candle_core::Tensor;

use super::{EncodeError, Piece, PromptError, PromptSyntax, T5Encoder, parse_weighted};
use crate::exec::Exec;
use crate::tokenizer::UnigramTokenizer;

/// Tokenizer and encoder. It knows no weights: of the weighted syntax it reads the text without its brackets.
#[derive(Debug)]
pub struct T5PromptEncoder {
    tokenizer: Arc<UnigramTokenizer>,
    encoder: T5Encoder,
}

impl T5PromptEncoder {
    /// Joins the two halves.
    pub fn new(tokenizer: Arc<UnigramTokenizer>, encoder: T5Encoder) -> Self {
        Self { tokenizer, encoder }
    }

    /// The prompt in the request's `field` → states [1, length, D] in the compute dtype, cut and padded.
    ///
    /// # Errors
    /// When the prompt is not acceptable or the encoder fails.
    pub fn encode(
        &self,
        field: &'static str,
        prompt: &str,
        syntax: PromptSyntax,
        length: usize,
        exec: &Exec,
    ) -> Result<Tensor, EncodeError> {
        let refused = |source| EncodeError::Prompt { field, source };
        let text = match syntax {
            PromptSyntax::Plain => prompt.to_owned(),
            PromptSyntax::Weighted => without_weights(prompt).map_err(refused)?,
        };
        let tokens = self.tokenizer.encode_padded(&text, length).map_err(|error| refused(error.into()))?;
        Ok(self.encoder.forward(&tokens.ids, exec)?.to_dtype(exec.compute)?)
    }
}

/// The text of a weighted prompt: without its brackets, a space for each break.
fn without_weights(prompt: &str) -> Result<String, PromptError> {
    let pieces = parse_weighted(prompt)?.into_iter();
    let texts = pieces.map(|piece| match piece {
        Piece::Text { text, .. } => text,
        Piece::Break => " ".to_owned(),
    });
    Ok(texts.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_are_taken_away_and_escaped_ones_stay() {
        let text = without_weights(r"a (red:1.3) [blue] circle \(small\) BREAK on white").unwrap();
        assert_eq!(text.split_whitespace().collect::<Vec<_>>().join(" "), "a red blue circle (small) on white");
        assert!(without_weights(&"(".repeat(10_000)).is_err());
    }
}
