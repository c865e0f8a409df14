//! A tokenizer's files, as transformers reads them for the slow class.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;

use super::added::{AddedToken, AddedTokens};
use super::{BEGIN_OF_TEXT, END_OF_TEXT, TokenizerError, built_in};
use crate::json::{Config, read_text};

/// The largest `vocab.json` or `merges.txt`. CLIP's are 1.0 MB and 0.5 MB.
const MAX_FILE_BYTES: usize = 16 << 20;
/// Lines of `merges.txt` that count: the reference cuts the list where CLIP's vocabulary of 49,408 is full.
const MAX_MERGES: usize = 49_152 - 256 - 2;
/// The most added tokens: textual inversion adds a few.
const MAX_ADDED_TOKENS: usize = 10_000;
/// CLIP's text length, where a configuration does not say one (older files), or says transformers' "no limit".
const DEFAULT_LENGTH: usize = 77;
/// The longest text length that is believed.
const MAX_LENGTH: usize = 4096;
/// CLIP's token for the end of a text, for padding and for what is unknown, if nothing else is said.
const DEFAULT_END: &str = END_OF_TEXT;
const DEFAULT_BEGIN: &str = BEGIN_OF_TEXT;

/// The tokens with a role.
#[derive(Clone, Debug)]
pub(super) struct SpecialTokens {
    pub(super) begin: String,
    pub(super) end: String,
    pub(super) unknown: String,
    pub(super) padding: String,
}

/// All that a tokenizer is made from.
pub(super) struct Files {
    pub(super) vocabulary: HashMap<String, u32>,
    pub(super) merges: Vec<(String, String)>,
    pub(super) special: SpecialTokens,
    pub(super) added: AddedTokens,
    pub(super) max_length: usize,
}

impl Files {
    pub(super) fn read(folder: &Path) -> Result<Self, TokenizerError> {
        let (vocabulary, merges) = match crate::built_in::is_built_in(folder) {
            true => (built_in::vocabulary().ids.clone(), built_in::vocabulary().merges.clone()),
            false => (read_vocabulary(&folder.join("vocab.json"))?, read_merges(&folder.join("merges.txt"))?),
        };
        let config = read_optional(folder, "tokenizer_config.json")?;
        for side in ["padding_side", "truncation_side"] {
            config.only(side, &[Value::from("right")])?;
        }
        let mut added = AddedTokens::default();
        let mut special = Roles::default();
        special.read(&config)?;
        match config.value("added_tokens_decoder").and_then(Value::as_object) {
            // The newer form holds everything; the reference then looks at no other file.
            Some(tokens) => {
                for (id, token) in tokens {
                    let number = id.parse().map_err(|_| config.unaccepted("added_tokens_decoder", "ids as keys"))?;
                    added.insert(number, read_token(&config, "added_tokens_decoder", token)?);
                }
            }
            None => {
                special.read(&read_optional(folder, "special_tokens_map.json")?)?;
                read_legacy(&read_optional(folder, "added_tokens.json")?, &mut added)?;
            }
        }
        let special = special.register(&vocabulary, &mut added);
        if added.len() > MAX_ADDED_TOKENS {
            let reason = format!("{} added tokens; at most {MAX_ADDED_TOKENS} are taken", added.len());
            return Err(TokenizerError::File { file: config.origin().to_path_buf(), reason });
        }
        let max_length = read_length(&config)?;
        Ok(Self { vocabulary, merges, special, added, max_length })
    }
}

/// Special tokens as they are found; a later file overrides an earlier one.
#[derive(Default)]
struct Roles {
    begin: Option<AddedToken>,
    end: Option<AddedToken>,
    unknown: Option<AddedToken>,
    padding: Option<AddedToken>,
    others: Vec<AddedToken>,
}

impl Roles {
    fn read(&mut self, config: &Config) -> Result<(), TokenizerError> {
        let roles = [
            ("bos_token", &mut self.begin),
            ("eos_token", &mut self.end),
            ("unk_token", &mut self.unknown),
            ("pad_token", &mut self.padding),
        ];
        for (key, role) in roles {
            if let Some(value) = config.value(key) {
                *role = Some(read_token(config, key, value)?);
            }
        }
        if let Some(values) = config.value("additional_special_tokens").and_then(Value::as_array) {
            for value in values {
                self.others.push(read_token(config, "additional_special_tokens", value)?);
            }
        }
        Ok(())
    }

    /// Every special token is an added token too: it is split off wherever it stands in a text.
    fn register(self, vocabulary: &HashMap<String, u32>, added: &mut AddedTokens) -> SpecialTokens {
        let named = |token: Option<AddedToken>, default: &str| {
            token.unwrap_or_else(|| AddedToken { content: default.to_owned(), ..AddedToken::default() })
        };
        let begin = named(self.begin, DEFAULT_BEGIN);
        let end = named(self.end, DEFAULT_END);
        let unknown = named(self.unknown, DEFAULT_END);
        let padding = named(self.padding, DEFAULT_END);
        let names = SpecialTokens {
            begin: begin.content.clone(),
            end: end.content.clone(),
            unknown: unknown.content.clone(),
            padding: padding.content.clone(),
        };
        for token in [begin, end, unknown, padding].into_iter().chain(self.others) {
            if added.id(&token.content).is_some() {
                continue;
            }
            let beside = added.ids().filter(|id| !vocabulary.values().any(|known| known == id)).count();
            let new_id = || (vocabulary.len() + beside) as u32;
            let id = vocabulary.get(&token.content).copied().unwrap_or_else(new_id);
            added.insert(id, token);
        }
        names
    }
}

/// A token as a text, or as an object with its flags.
fn read_token(config: &Config, key: &str, value: &Value) -> Result<AddedToken, TokenizerError> {
    let flag = |name: &str| value.get(name).and_then(Value::as_bool).unwrap_or(false);
    let content = value.as_str().or_else(|| value.get("content").and_then(Value::as_str));
    match content {
        Some(content) => Ok(AddedToken {
            content: content.to_owned(),
            strip_left: flag("lstrip"),
            strip_right: flag("rstrip"),
            single_word: flag("single_word"),
        }),
        None => Err(config.unaccepted(key, "a text, or an object with a text under `content`").into()),
    }
}

/// `added_tokens.json`: ids by text.
fn read_legacy(config: &Config, added: &mut AddedTokens) -> Result<(), TokenizerError> {
    for content in config.keys() {
        let id = config.usize(content)?.and_then(|id| u32::try_from(id).ok());
        let id = id.ok_or_else(|| config.unaccepted(content, "an id of 32 bits"))?;
        added.insert(id, AddedToken { content: content.to_owned(), ..AddedToken::default() });
    }
    Ok(())
}

fn read_length(config: &Config) -> Result<usize, TokenizerError> {
    match config.f64("model_max_length")? {
        Some(length) if length > MAX_LENGTH as f64 => Ok(DEFAULT_LENGTH),
        _ => match config.usize("model_max_length")?.unwrap_or(DEFAULT_LENGTH) {
            // Begin, end, and something between.
            0..=2 => Err(config.unaccepted("model_max_length", "a whole number of at least 3").into()),
            length => Ok(length),
        },
    }
}

fn read_vocabulary(file: &Path) -> Result<HashMap<String, u32>, TokenizerError> {
    let text = read_text(file, MAX_FILE_BYTES)?;
    serde_json::from_str(&text)
        .map_err(|error| TokenizerError::File { file: file.to_path_buf(), reason: format!("expected an object of ids by token: {error}") })
}

fn read_merges(file: &Path) -> Result<Vec<(String, String)>, TokenizerError> {
    let text = read_text(file, MAX_FILE_BYTES)?;
    // The first line is a comment, whatever it holds. A line that is no pair takes a rank and can never match.
    let pair = |line: &str| {
        let mut parts = line.split_whitespace();
        match (parts.next(), parts.next(), parts.next()) {
            (Some(left), Some(right), None) => (left.to_owned(), right.to_owned()),
            _ => (String::new(), String::new()),
        }
    };
    Ok(text.trim().split('\n').skip(1).take(MAX_MERGES).map(pair).collect())
}

/// A file's object, or an empty one if there is no such file.
fn read_optional(folder: &Path, name: &str) -> Result<Config, TokenizerError> {
    let file = folder.join(name);
    if file.exists() || crate::built_in::file(&file).is_some() {
        return Ok(Config::open(file)?);
    }
    Ok(Config::from_map(serde_json::Map::new(), file))
}
