//! What `model_index.json` declares, read the same way by every family.

use std::path::Path;
use std::sync::Arc;

use candle_core::DType;
use serde_json::Value;

use super::{Part, SpecError};
use crate::json::{Config, ConfigError};
use crate::text::{ClipTextConfig, EncodeError, PromptError, T5Config};
use crate::tokenizer::{Tokenizer, UnigramTokenizer};

/// The autoencoder, which every family has.
pub(super) const VAE: Part = Part { folder: "vae", class: "AutoencoderKL", layers: None };

/// Whether `model_index.json` says that there is no such part: as in the reference, by two nulls or by leaving it out.
pub(super) fn is_absent(model_index: &Config, folder: &str) -> bool {
    match model_index.value(folder) {
        None => true,
        Some(Value::Array(library_and_class)) => library_and_class.iter().all(Value::is_null),
        Some(_) => false,
    }
}

/// Checks that all `parts` are declared as what they must be.
///
/// # Errors
/// Naming the part whose class is another or that is not declared.
pub(super) fn check(model_index: &Config, parts: &[Part]) -> Result<(), ConfigError> {
    parts.iter().try_for_each(|part| match is_absent(model_index, part.folder) {
        true => Err(model_index.missing(part.folder, part.class)),
        false => match model_index.strings(part.folder)?.as_deref() {
            Some([_, class]) if class == part.class => Ok(()),
            _ => Err(model_index.unaccepted(part.folder, part.class)),
        },
    })
}

/// A text encoder's tokenizer. Also checks that the encoder has a row for every token and every position: an index out of range is no error
/// of a request.
pub(super) fn tokenizer(folder: &Path, name: &'static str, encoder: &ClipTextConfig) -> Result<Arc<Tokenizer>, SpecError> {
    let tokenizer = Tokenizer::open(&folder.join(name)).map_err(|source| SpecError::Tokenizer { folder: name, source })?;
    let mismatch = |reason| Err(SpecError::TokenizerMismatch { folder: name, reason });
    if tokenizer.max_id() as usize >= encoder.vocabulary {
        let (largest, rows) = (tokenizer.max_id(), encoder.vocabulary);
        return mismatch(format!("its largest id is {largest}, the text encoder has {rows} embeddings"));
    }
    if tokenizer.model_max_length() > encoder.tokens {
        let (longest, positions) = (tokenizer.model_max_length(), encoder.tokens);
        return mismatch(format!("it makes {longest} tokens, the text encoder has {positions} positions"));
    }
    Ok(Arc::new(tokenizer))
}

/// T5's tokenizer. Also checks that the encoder has a row for every token.
pub(super) fn unigram_tokenizer(folder: &Path, name: &'static str, encoder: &T5Config) -> Result<Arc<UnigramTokenizer>, SpecError> {
    let tokenizer = UnigramTokenizer::open(&folder.join(name)).map_err(|source| SpecError::Tokenizer { folder: name, source })?;
    if tokenizer.max_id() as usize >= encoder.vocabulary {
        let (largest, rows) = (tokenizer.max_id(), encoder.vocabulary);
        let reason = format!("its largest id is {largest}, the text encoder has {rows} embeddings");
        return Err(SpecError::TokenizerMismatch { folder: name, reason });
    }
    Ok(Arc::new(tokenizer))
}

/// Checks that the number under `key` is what another part says.
///
/// # Errors
/// Naming file, key and what it should be.
pub(super) fn is_that(file: &Config, key: &str, found: usize, expected: usize, of: &str) -> Result<(), ConfigError> {
    if found == expected { Ok(()) } else { Err(file.unaccepted(key, &format!("{expected}, {of}"))) }
}

/// The most tokens of T5 that the reference's pipelines take.
const MAX_SEQUENCE_LENGTH: usize = 512;

/// How many tokens T5 makes of a prompt, padding included.
pub(super) fn sequence_length(asked: Option<usize>, default: usize) -> Result<usize, EncodeError> {
    match asked.unwrap_or(default) {
        length if (1..=MAX_SEQUENCE_LENGTH).contains(&length) => Ok(length),
        value => {
            let source = PromptError::SequenceLength { value, limit: MAX_SEQUENCE_LENGTH };
            Err(EncodeError::Prompt { field: "max_sequence_length", source })
        }
    }
}

/// The precision of a part in a model that is computed in `compute`: T5's inner values are too large for f16.
pub(super) fn t5_dtype(is_t5: bool, compute: DType) -> DType {
    if is_t5 && compute == DType::F16 { DType::F32 } else { compute }
}
