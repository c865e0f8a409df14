//! JSON as diffusers and Python write it, and typed reading of configuration files.
//!
//! Python's `json` writes `NaN`, `Infinity` and `-Infinity`, which the standard forbids; diffusers' scheduler files hold them.
//! [`parse`] accepts these. [`Config`] is one configuration file: a map, and the path that error messages name. Other programs'
//! keys are left alone; only what a caller asks for is checked. This module knows files and values, and nothing about models.

mod config;

pub(crate) use config::read_text;

pub use config::{Config, ConfigError};
use serde_json::Value;

/// The largest text [`parse`] takes. Configuration files are below 10 kB and indices of sharded checkpoints below 1 MB; a parsed
/// value costs up to 32 bytes for two bytes of text, so this also bounds memory.
pub const MAX_JSON_BYTES: usize = 4 << 20;

/// Why a text was not accepted as JSON. The depth bound is serde_json's own: 128 levels.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// The text is longer than the bound.
    #[error("the JSON text has {bytes} bytes; at most {limit} are read")]
    TooLarge {
        /// What was given.
        bytes: usize,
        /// What would be taken.
        limit: usize,
    },
    /// Not JSON, or nested too deep.
    #[error("not valid JSON: {0}")]
    Syntax(#[from] serde_json::Error),
}

/// Parses JSON as Python writes it.
///
/// `NaN`, `Infinity` and `-Infinity` outside of strings become the strings `"NaN"`, `"Infinity"` and `"-Infinity"`, since a JSON
/// number cannot hold them; [`Config::f64`] turns these strings back into numbers. Of duplicate keys the last one counts, as in
/// Python. A byte order mark is skipped. Depth (128) and size ([`MAX_JSON_BYTES`]) are bounded.
///
/// # Errors
/// [`JsonError`] if the text is too large, too deep, or not JSON.
pub fn parse(text: &str) -> Result<Value, JsonError> {
    if text.len() > MAX_JSON_BYTES {
        return Err(JsonError::TooLarge { bytes: text.len(), limit: MAX_JSON_BYTES });
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if !text.contains("NaN") && !text.contains("Infinity") {
        return Ok(serde_json::from_str(text)?);
    }
    Ok(serde_json::from_str(&quote_non_finite(text))?)
}

/// Puts quotes around `NaN`, `Infinity` and `-Infinity` where they stand outside of strings.
fn quote_non_finite(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 16);
    let mut rest = text;
    let mut in_string = false;
    while let Some(first) = rest.chars().next() {
        let word = (!in_string).then(|| ["-Infinity", "Infinity", "NaN"].into_iter().find(|word| rest.starts_with(word)));
        if let Some(Some(word)) = word {
            quoted.push('"');
            quoted.push_str(word);
            quoted.push('"');
            rest = &rest[word.len()..];
            continue;
        }
        // Inside a string a backslash takes the next character with it, so that an escaped quote does not end the string.
        let taken = match first {
            '\\' if in_string => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
            _ => first.len_utf8(),
        };
        if first == '"' {
            in_string = !in_string;
        }
        quoted.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn python_constants_are_accepted_outside_of_strings_only() {
        let value = parse(r#"{"a": NaN, "b": [-Infinity, Infinity, -1], "c": "NaN, \" Infinity", "Infinity": null}"#).unwrap();
        assert_eq!(value, json!({"a": "NaN", "b": ["-Infinity", "Infinity", -1], "c": "NaN, \" Infinity", "Infinity": null}));
    }

    #[test]
    fn last_of_duplicate_keys_counts() {
        assert_eq!(parse(r#"{"a": 1, "a": 2}"#).unwrap(), json!({"a": 2}));
    }

    #[test]
    fn depth_and_size_are_bounded() {
        assert!(matches!(parse(&"[".repeat(100_000)), Err(JsonError::Syntax(_))));
        assert!(matches!(parse(&" ".repeat(MAX_JSON_BYTES + 1)), Err(JsonError::TooLarge { .. })));
    }

    #[test]
    fn broken_text_is_an_error_and_never_a_panic() {
        for text in ["", "{", "NaNa", "\"\\", "\"NaN\\", "-", "Infinit", "{\"a\": Infinity", "\u{feff}", "é NaN"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
