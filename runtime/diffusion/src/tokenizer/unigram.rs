//! T5's unigram tokenizer, read from a model's folder.
//!
//! The library `tokenizers` does the work, as it does for the `T5TokenizerFast` of transformers that diffusers runs. What a file may make it
//! do is checked before: no patterns of the file's own, and a table of characters whose every look-up stays within it, which the library takes
//! for granted.

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use tokenizers::Tokenizer;

use super::{MAX_TEXT_BYTES, TokenIds, TokenizerError, sentence_piece};
use crate::json::{Config, ConfigError};

/// The most added tokens: T5 has 100 beside its special ones.
const MAX_ADDED_TOKENS: usize = 10_000;
/// T5's special tokens, if nothing else is said: for the end of a text, for padding, for what is not known.
const DEFAULT_END: &str = "</s>";
const DEFAULT_PADDING: &str = "<pad>";
const DEFAULT_UNKNOWN: &str = "<unk>";
/// Words that T5 has beside those of its file, likewise.
const DEFAULT_EXTRA_IDS: usize = 100;
/// The only pattern that T5's normaliser has: runs of spaces.
const SPACES: &str = " {2,}";

/// A tokenizer as a model's folder describes it; immutable.
pub struct UnigramTokenizer {
    tokenizer: Tokenizer,
    end: u32,
    padding: u32,
    max_id: u32,
}

impl fmt::Debug for UnigramTokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnigramTokenizer").field("max_id", &self.max_id).finish_non_exhaustive()
    }
}

impl UnigramTokenizer {
    /// Reads a tokenizer's folder: `tokenizer.json`, or where there is none `spiece.model`; and where it exists `tokenizer_config.json`.
    ///
    /// # Errors
    /// [`TokenizerError`] for files that cannot be read or describe another tokenizer.
    pub fn open(folder: &Path) -> Result<Self, TokenizerError> {
        let config = folder.join("tokenizer_config.json");
        let config = if config.exists() { Config::open(config)? } else { Config::from_map(Map::new(), config) };
        for side in ["padding_side", "truncation_side"] {
            config.only(side, &[json!("right")])?;
        }
        let [end, padding, unknown] = [("eos_token", DEFAULT_END), ("pad_token", DEFAULT_PADDING), ("unk_token", DEFAULT_UNKNOWN)];
        let special = [named(&config, end)?, named(&config, padding)?, named(&config, unknown)?];
        let (file, model) = (folder.join("tokenizer.json"), folder.join("spiece.model"));
        let (declared, file) = match !file.exists() && model.exists() {
            true => (sentence_piece(&model, &config, special)?, model),
            false => (Config::open(&file)?, file),
        };
        let max_id = checked(&declared)?;
        let failed = |error: tokenizers::Error| TokenizerError::File { file: file.clone(), reason: error.to_string() };
        // Frame, padding and length are the pipeline's; the way back to text is nobody's.
        let keys = ["version", "added_tokens", "normalizer", "pre_tokenizer", "model"];
        let used: Map<String, Value> = keys.iter().filter_map(|key| Some(((*key).to_owned(), declared.value(key)?.clone()))).collect();
        let tokenizer: Tokenizer = serde_json::from_value(Value::Object(used)).map_err(|error| failed(error.into()))?;
        let id = |role: &'static str, token: &str| {
            tokenizer.token_to_id(token).ok_or_else(|| TokenizerError::SpecialToken { role, token: token.to_owned() })
        };
        Ok(Self { end: id(end.0, special[0])?, padding: id(padding.0, special[1])?, max_id, tokenizer })
    }

    /// The largest id that can occur; the embedding table must have a row for it.
    pub fn max_id(&self) -> u32 {
        self.max_id
    }

    /// Ids of a prompt with its end and padding, cut to `length`, as diffusers' pipelines ask for them (`padding="max_length"`,
    /// `truncation=True`).
    ///
    /// # Errors
    /// [`TokenizerError::TextTooLong`].
    pub fn encode_padded(&self, text: &str, length: usize) -> Result<TokenIds, TokenizerError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(TokenizerError::TextTooLong { bytes: text.len() });
        }
        let encoding = self.tokenizer.encode(text, false).map_err(|error| TokenizerError::Encode(error.to_string()))?;
        let mut ids = encoding.get_ids().to_vec();
        let room = length.saturating_sub(1);
        let truncated = ids.len().saturating_sub(room);
        ids.truncate(room);
        ids.push(self.end);
        let used = ids.len();
        ids.resize(length, self.padding);
        Ok(TokenIds { ids, used, truncated })
    }
}

/// A special token by its role, or the default of that role.
fn named<'a>(config: &'a Config, (role, default): (&str, &'a str)) -> Result<&'a str, ConfigError> {
    match config.value(role).map(|token| token.as_str().or_else(|| token.get("content").and_then(Value::as_str))) {
        None => Ok(default),
        Some(Some(token)) => Ok(token),
        Some(None) => Err(config.unaccepted(role, "a text, or an object with a text under `content`")),
    }
}

/// What a `tokenizer.json` beside the file would say.
fn sentence_piece(file: &Path, config: &Config, special: [&str; 3]) -> Result<Config, TokenizerError> {
    let extra_ids = config.usize("extra_ids")?.unwrap_or(DEFAULT_EXTRA_IDS);
    if extra_ids > MAX_ADDED_TOKENS {
        return Err(config.unaccepted("extra_ids", &format!("at most {MAX_ADDED_TOKENS}")).into());
    }
    let refused = |reason: String| TokenizerError::File { file: PathBuf::from(file), reason };
    let mut bytes = Vec::new();
    let read = File::open(file).and_then(|opened| opened.take(sentence_piece::MAX_FILE_BYTES + 1).read_to_end(&mut bytes));
    let count = read.map_err(|error| refused(error.to_string()))?;
    if count as u64 > sentence_piece::MAX_FILE_BYTES {
        return Err(refused(format!("has more than {} bytes", sentence_piece::MAX_FILE_BYTES)));
    }
    let values = sentence_piece::read(&bytes, extra_ids, &special).map_err(|reason| refused(reason.to_owned()))?;
    Ok(Config::from_map(values, file))
}

/// The largest id, if the file describes a tokenizer of this kind.
fn checked(declared: &Config) -> Result<u32, ConfigError> {
    let model = declared.value("model").and_then(Value::as_object);
    let model = model.filter(|model| model.get("type").and_then(Value::as_str).is_none_or(|kind| kind == "Unigram"));
    let vocabulary = model.and_then(|model| model.get("vocab")).and_then(Value::as_array);
    let is_entry = |entry: &Value| {
        let token = entry.get(0).and_then(Value::as_str);
        token.is_some_and(|token| !token.is_empty()) && entry.get(1).is_some_and(Value::is_number)
    };
    let vocabulary = vocabulary.filter(|entries| !entries.is_empty() && entries.iter().all(is_entry));
    let Some(vocabulary) = vocabulary else {
        return Err(declared.missing("model", "a Unigram model with a `vocab` of tokens and their scores"));
    };
    for (key, accepts) in [("normalizer", is_known_normalizer as fn(&Value) -> bool), ("pre_tokenizer", is_known_splitter)] {
        if declared.value(key).is_some_and(|value| !accepts(value)) {
            return Err(declared.unaccepted(key, "what T5's tokenizer has: Precompiled, Strip and Replace of spaces; Metaspace"));
        }
    }
    let added = declared.value("added_tokens").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let ids: Option<Vec<u32>> = added.iter().map(|token| u32::try_from(token.get("id")?.as_u64()?).ok()).collect();
    let last = u32::try_from(vocabulary.len() - 1).ok();
    match (ids, last) {
        (Some(ids), Some(last)) if ids.len() <= MAX_ADDED_TOKENS => Ok(ids.into_iter().fold(last, u32::max)),
        _ => Err(declared.unaccepted("added_tokens", &format!("at most {MAX_ADDED_TOKENS} tokens with an id of 32 bits"))),
    }
}

fn kind(value: &Value) -> &str {
    value.get("type").and_then(Value::as_str).unwrap_or_default()
}

/// Whether `value` is a sequence under `key` of nothing but what `accepts` takes. Sequences within sequences are not.
fn is_sequence(value: &Value, key: &str, accepts: impl Fn(&Value) -> bool) -> bool {
    kind(value) == "Sequence" && value.get(key).and_then(Value::as_array).is_some_and(|members| members.iter().all(accepts))
}

fn is_known_normalizer(value: &Value) -> bool {
    let is_single = |value: &Value| match kind(value) {
        "Strip" => true,
        "Replace" => value.get("pattern").is_some_and(|pattern| *pattern == json!({"Regex": SPACES})),
        "Precompiled" => {
            let table = value.get("precompiled_charsmap").and_then(Value::as_str).and_then(|table| STANDARD.decode(table).ok());
            table.is_some_and(|table| is_sound(&table))
        }
        _ => false,
    };
    is_single(value) || is_sequence(value, "normalizers", is_single)
}

fn is_known_splitter(value: &Value) -> bool {
    let is_single = |value: &Value| matches!(kind(value), "Metaspace" | "WhitespaceSplit");
    is_single(value) || is_sequence(value, "pretokenizers", is_single)
}

/// Whether every look-up in SentencePiece's table of characters stays within it: a double array (Aoe 1989) of 32-bit units after its length in
/// bytes, and then the replacements, each ended by a zero byte.
fn is_sound(table: &[u8]) -> bool {
    let Some((length, rest)) = table.split_first_chunk::<4>() else { return false };
    let Some((units, replacements)) = rest.split_at_checked(u32::from_le_bytes(*length) as usize) else { return false };
    let units: Vec<u32> = units.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
    let Ok(replacements) = std::str::from_utf8(replacements) else { return false };
    let offset = |unit: u32| ((unit >> 10) << ((unit & (1 << 9)) >> 6)) as usize;
    let Some(root) = units.first() else { return false };
    let (mut waiting, mut seen) = (vec![offset(*root)], HashSet::new());
    while let Some(node) = waiting.pop() {
        if !seen.insert(node) {
            continue;
        }
        for label in 1..=0xff_u32 {
            // Every label is looked at, also where no child has it.
            let Some(unit) = units.get(node ^ label as usize) else { return false };
            if unit & (1 << 31 | 0xff) != label {
                continue;
            }
            let child = node ^ label as usize ^ offset(*unit);
            let has_value = unit & (1 << 8) != 0;
            let value = units.get(child).map(|unit| (unit & !(1 << 31)) as usize);
            if has_value && !value.is_some_and(|at| replacements.is_char_boundary(at)) {
                return false;
            }
            waiting.push(child);
        }
    }
    true
}
