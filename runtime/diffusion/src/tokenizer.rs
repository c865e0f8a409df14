//! CLIP's byte-pair tokenizer, read from a model's folder; T5's unigram tokenizer is [`UnigramTokenizer`].
//!
//! ```text
//! text ─► added tokens split off ─► repair (ftfy) ─► white space, lower case ─► words ─► byte pairs ─► ids ─► begin, end, padding
//! ```
//! Equal to the slow `CLIPTokenizer` of transformers 4.57 with ftfy installed, which is what diffusers runs; the fast tokenizer
//! differs on smart quotes and HTML entities. Knows text and ids, no model.

mod added;
mod built_in;
mod byte_pairs;
mod extra_words;
mod files;
mod repair;
mod sentence_piece;
mod unigram;

use std::fmt;
use std::path::{Path, PathBuf};

use regex::Regex;

use self::added::{AddedTokens, Piece};
use self::byte_pairs::BytePairs;
pub use self::extra_words::ExtraWords;
use self::files::Files;
pub use self::unigram::UnigramTokenizer;
use crate::json::ConfigError;

/// The longest text that is encoded. A prompt of 77 tokens has a few hundred bytes; repairing text costs more than linear time.
pub const MAX_TEXT_BYTES: usize = 32 << 10;

/// Splits repaired, lower-case text into words. The reference's pattern: the first five alternatives ignore case, for which
/// only `ſ` (whose simple case folding is `s`) is left in lower-case text. U+0345 alone is passed over: the reference's engine,
/// blind to case, takes it for no letter (it is none) and for no other character (it folds to iota).
const WORDS: &str = r"(?i:<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}\u{345}]+";

/// Begin and end.
const FRAME_TOKENS: usize = 2;

/// Words that are tokens as they stand, without an end-of-word mark.
const WHOLE_WORDS: [&str; 2] = [BEGIN_OF_TEXT, END_OF_TEXT];
const BEGIN_OF_TEXT: &str = "<|startoftext|>";
const END_OF_TEXT: &str = "<|endoftext|>";

/// Token ids of one prompt, as a text encoder takes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenIds {
    /// Begin, tokens, end, then padding; always [`Tokenizer::model_max_length`] of them.
    pub ids: Vec<u32>,
    /// How many ids come before the padding.
    pub used: usize,
    /// How many tokens of the prompt did not fit and were left out.
    pub truncated: usize,
}

/// A tokenizer as a model's folder describes it; immutable.
pub struct Tokenizer {
    words: Regex,
    byte_pairs: BytePairs,
    added: AddedTokens,
    begin: u32,
    end: u32,
    unknown: u32,
    padding: u32,
    comma: Option<u32>,
    max_length: usize,
    max_id: u32,
}

/// Why a tokenizer could not be read, or a text not encoded.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// A file could not be read, or holds a value that is not usable.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A vocabulary or list of merges that is not usable.
    #[error("{}: {reason}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A special token that has no id.
    #[error("the tokenizer's {role} `{token}` is not in its vocabulary")]
    SpecialToken {
        /// Its role: `unk_token`, say.
        role: &'static str,
        /// The token.
        token: String,
    },
    /// The splitting pattern could not be made; a defect of this program.
    #[error("the word pattern is not valid: {0}")]
    Pattern(#[from] regex::Error),
    /// The library could not encode a text.
    #[error("the text cannot be encoded: {0}")]
    Encode(String),
    /// The text is longer than any prompt.
    #[error("the text has {bytes} bytes; at most {MAX_TEXT_BYTES} are taken")]
    TextTooLong {
        /// Its length.
        bytes: usize,
    },
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer").field("max_length", &self.max_length).field("max_id", &self.max_id).finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Reads a tokenizer's folder: `vocab.json`, `merges.txt`, and where they exist `tokenizer_config.json`,
    /// `special_tokens_map.json` and `added_tokens.json`.
    ///
    /// # Errors
    /// [`TokenizerError`] for files that cannot be read or contradict each other.
    pub fn open(folder: &Path) -> Result<Self, TokenizerError> {
        let files = Files::read(folder)?;
        let id = |role: &'static str, token: &str| {
            let found = files.added.id(token).or_else(|| files.vocabulary.get(token).copied());
            found.ok_or_else(|| TokenizerError::SpecialToken { role, token: token.to_owned() })
        };
        let special = &files.special;
        let largest = files.vocabulary.values().copied().chain(files.added.ids()).max();
        Ok(Self {
            words: Regex::new(WORDS)?,
            begin: id("bos_token", &special.begin)?,
            end: id("eos_token", &special.end)?,
            unknown: id("unk_token", &special.unknown)?,
            padding: id("pad_token", &special.padding)?,
            max_length: files.max_length,
            max_id: largest.unwrap_or(0),
            comma: files.vocabulary.get(",</w>").copied(),
            byte_pairs: BytePairs::new(&files.vocabulary, &files.merges, |token| files.added.id(token)),
            added: files.added,
        })
    }

    /// How many ids a text encoder takes: 77 for all CLIP text encoders.
    pub fn model_max_length(&self) -> usize {
        self.max_length
    }

    /// How many tokens of a text fit between begin and end: 75 for all CLIP text encoders.
    pub fn room(&self) -> usize {
        // The files were checked to leave some.
        self.max_length.saturating_sub(FRAME_TOKENS)
    }

    /// The id of a comma that stands alone, if the vocabulary has one.
    pub fn comma_id(&self) -> Option<u32> {
        self.comma
    }

    /// The largest id that can occur; the embedding table must have a row for it.
    pub fn max_id(&self) -> u32 {
        self.max_id
    }

    /// The id that ends a prompt.
    pub fn end_id(&self) -> u32 {
        self.end
    }

    /// Ids of a prompt with begin, end and padding, cut to [`Self::model_max_length`], as diffusers' pipelines ask for them
    /// (`padding="max_length"`, `truncation=True`).
    ///
    /// # Errors
    /// [`TokenizerError::TextTooLong`].
    pub fn encode_padded(&self, text: &str) -> Result<TokenIds, TokenizerError> {
        Ok(self.padded(self.encode(text)?))
    }

    /// `tokens` with begin, end and padding, cut to fit.
    pub(crate) fn padded(&self, mut tokens: Vec<u32>) -> TokenIds {
        let truncated = tokens.len().saturating_sub(self.room());
        tokens.truncate(self.room());
        let used = tokens.len() + FRAME_TOKENS;
        TokenIds { ids: self.framed(tokens), used, truncated }
    }

    /// Begin, `tokens` (at most [`Self::room`]), end, then padding: [`Self::model_max_length`] ids.
    pub(crate) fn framed(&self, tokens: Vec<u32>) -> Vec<u32> {
        let mut ids = Vec::with_capacity(self.max_length);
        ids.push(self.begin);
        ids.extend(tokens);
        ids.push(self.end);
        ids.resize(self.max_length, self.padding);
        ids
    }

    /// Ids of a text alone: no begin, no end, no limit.
    ///
    /// # Errors
    /// [`TokenizerError::TextTooLong`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        self.encode_around(&self.added, |_| 1, text)
    }

    /// As [`Self::encode`], with words of the request's own among the text.
    pub(crate) fn encode_with(&self, words: &ExtraWords, text: &str) -> Result<Vec<u32>, TokenizerError> {
        self.encode_around(&words.added, |id| words.count(id), text)
    }

    /// No words beside the tokenizer's own.
    pub(crate) fn extra_words(&self) -> ExtraWords {
        ExtraWords::beside(self.added.clone())
    }

    /// Whether a text is one token already.
    pub fn is_token(&self, text: &str) -> bool {
        self.added.id(text).is_some() || self.encode(text).is_ok_and(|ids| matches!(ids.as_slice(), [id] if *id != self.unknown))
    }

    fn encode_around(&self, added: &AddedTokens, count: impl Fn(u32) -> usize, text: &str) -> Result<Vec<u32>, TokenizerError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(TokenizerError::TextTooLong { bytes: text.len() });
        }
        let mut ids = Vec::new();
        for piece in added.split(text) {
            match piece {
                Piece::Token(id) => ids.extend((id..).take(count(id))),
                Piece::Text(text) => self.encode_text(&text, &mut ids),
            }
        }
        Ok(ids)
    }

    /// A stretch of text that holds no added token.
    fn encode_text(&self, text: &str, ids: &mut Vec<u32>) {
        let repaired = repair::repaired(text);
        let cleaned = with_single_spaces(&repaired).to_lowercase();
        for word in self.words.find_iter(&cleaned) {
            let word = word.as_str();
            if WHOLE_WORDS.contains(&word) {
                ids.push(self.added.id(word).or_else(|| self.byte_pairs.whole(word)).unwrap_or(self.unknown));
            } else {
                self.byte_pairs.encode(word, self.unknown, ids);
            }
        }
    }
}

/// Runs of white space as one space each, none at the ends.
fn with_single_spaces(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
