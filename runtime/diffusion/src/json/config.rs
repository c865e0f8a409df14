//! One configuration file: a map of values with typed getters whose errors name the file, the key, what was found and what
//! would be accepted. `null` counts as absent, as diffusers writes it for "not set".

use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::{JsonError, MAX_JSON_BYTES, parse};
use crate::built_in;

/// How much of an unaccepted value an error message repeats.
const SHOWN_VALUE_CHARS: usize = 80;

/// A configuration: values by key, and where they came from.
#[derive(Clone, Debug)]
pub struct Config {
    values: Map<String, Value>,
    origin: PathBuf,
}

/// Why a configuration could not be read, or why one of its values is not usable.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read {}: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The file is not UTF-8.
    #[error("{} is not UTF-8 text", file.display())]
    NotText {
        /// The file.
        file: PathBuf,
    },
    /// The file is not JSON.
    #[error("{}: {source}", file.display())]
    Json {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        source: JsonError,
    },
    /// The file is JSON, but not an object.
    #[error("{} must hold a JSON object", file.display())]
    NotObject {
        /// The file.
        file: PathBuf,
    },
    /// A key that is needed is absent or null.
    #[error("{}: key `{key}` is missing; expected {accepted}", file.display())]
    Missing {
        /// The file.
        file: PathBuf,
        /// The key.
        key: String,
        /// What would be accepted.
        accepted: String,
    },
    /// A known key has a value that is not usable.
    #[error("{}: key `{key}` is {found}; accepted: {accepted}", file.display())]
    Value {
        /// The file.
        file: PathBuf,
        /// The key.
        key: String,
        /// The value as written, shortened.
        found: String,
        /// What would be accepted.
        accepted: String,
    },
}

impl Config {
    /// Reads a file, or a configuration that is built in.
    ///
    /// # Errors
    /// [`ConfigError`] if the file cannot be read, is too large, or is not a JSON object.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        let file = path.as_ref().to_path_buf();
        if built_in::is_built_in(&file) {
            return match built_in::file(&file) {
                Some(values) => Ok(Self::from_map(values, file)),
                None => Err(ConfigError::Read { file, source: std::io::ErrorKind::NotFound.into() }),
            };
        }
        let text = read_text(&file, MAX_JSON_BYTES)?;
        Self::parse(&text, file)
    }

    /// Parses a text; `origin` is the name errors use.
    ///
    /// # Errors
    /// [`ConfigError`] if it is not a JSON object.
    pub fn parse(text: &str, origin: impl Into<PathBuf>) -> Result<Self, ConfigError> {
        let file = origin.into();
        let value = parse(text).map_err(|source| ConfigError::Json { file: file.clone(), source })?;
        Self::from_value(value, file)
    }

    /// Wraps an already parsed object; `origin` is the name errors use.
    ///
    /// # Errors
    /// [`ConfigError::NotObject`] for any other value.
    pub fn from_value(value: Value, origin: impl Into<PathBuf>) -> Result<Self, ConfigError> {
        let origin = origin.into();
        match value {
            Value::Object(values) => Ok(Self { values, origin }),
            _ => Err(ConfigError::NotObject { file: origin }),
        }
    }

    /// Wraps a map.
    pub fn from_map(values: Map<String, Value>, origin: impl Into<PathBuf>) -> Self {
        Self { values, origin: origin.into() }
    }

    /// Where the values came from.
    pub fn origin(&self) -> &Path {
        &self.origin
    }

    /// The same configuration with `overrides` on top; null overrides are kept, since null means "not set".
    pub fn overridden(&self, overrides: &Map<String, Value>) -> Self {
        let mut values = self.values.clone();
        values.extend(overrides.iter().map(|(key, value)| (key.clone(), value.clone())));
        Self { values, origin: self.origin.clone() }
    }

    /// The value under `key` as it stands; null counts as absent.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.values.get(key).filter(|value| !value.is_null())
    }

    /// Whether `key` is present and not null.
    pub fn contains(&self, key: &str) -> bool {
        self.value(key).is_some()
    }

    /// All keys, those with null values too.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// diffusers' `_class_name`.
    ///
    /// # Errors
    /// [`ConfigError::Value`] if it is not a string.
    pub fn class_name(&self) -> Result<Option<&str>, ConfigError> {
        self.string("_class_name")
    }

    /// A whole number of at least 0. `4.0` counts as one.
    ///
    /// # Errors
    /// [`ConfigError::Value`] for any other value.
    pub fn usize(&self, key: &str) -> Result<Option<usize>, ConfigError> {
        self.convert(key, "a whole number of at least 0", as_usize)
    }

    /// A whole number, possibly negative.
    ///
    /// # Errors
    /// [`ConfigError::Value`] for any other value.
    pub fn i64(&self, key: &str) -> Result<Option<i64>, ConfigError> {
        self.convert(key, "a whole number", as_i64)
    }

    /// A number; infinities and NaN as Python writes them are numbers too.
    ///
    /// # Errors
    /// [`ConfigError::Value`] for any other value.
    pub fn f64(&self, key: &str) -> Result<Option<f64>, ConfigError> {
        self.convert(key, "a number", as_f64)
    }

    /// `true` or `false`.
    ///
    /// # Errors
    /// [`ConfigError::Value`] for any other value.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, ConfigError> {
        self.convert(key, "true or false", Value::as_bool)
    }

    /// A string.
    ///
    /// # Errors
    /// [`ConfigError::Value`] for any other value.
    pub fn string(&self, key: &str) -> Result<Option<&str>, ConfigError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.unaccepted(key, "a string")),
        }
    }

    /// A list of whole numbers, of any length.
    ///
    /// # Errors
    /// [`ConfigError::Value`] for any other value.
    pub fn usizes(&self, key: &str) -> Result<Option<Vec<usize>>, ConfigError> {
        self.convert(key, "a list of whole numbers of at least 0", |value| list(value, as_usize))
    }

    /// A list of numbers, of any length.
    ///
    /// # Errors
    /// [`ConfigError::Value`] for any other value.
    pub fn f64s(&self, key: &str) -> Result<Option<Vec<f64>>, ConfigError> {
        self.convert(key, "a list of numbers", |value| list(value, as_f64))
    }

    /// A list of strings, of any length.
    ///
    /// # Errors
    /// [`ConfigError::Value`] for any other value.
    pub fn strings(&self, key: &str) -> Result<Option<Vec<String>>, ConfigError> {
        self.convert(key, "a list of strings", |value| list(value, |item| item.as_str().map(str::to_owned)))
    }

    /// One whole number for all of `count` blocks, or a list with one for each.
    ///
    /// # Errors
    /// [`ConfigError::Value`] for any other value, or a list of another length.
    pub fn usize_list(&self, key: &str, count: usize) -> Result<Option<Vec<usize>>, ConfigError> {
        let accepted = format!("a whole number of at least 0, or a list of {count} of them");
        self.convert(key, &accepted, |value| broadcast(value, count, as_usize))
    }

    /// One `true`/`false` for all of `count` blocks, or a list with one for each.
    ///
    /// # Errors
    /// [`ConfigError::Value`] for any other value, or a list of another length.
    pub fn bool_list(&self, key: &str, count: usize) -> Result<Option<Vec<bool>>, ConfigError> {
        let accepted = format!("true or false, or a list of {count} of them");
        self.convert(key, &accepted, |value| broadcast(value, count, Value::as_bool))
    }

    /// Checks that `key` is absent, null, or one of `accepted` (numbers compare by value). For keys that change the
    /// computation and of which only some values are served.
    ///
    /// # Errors
    /// [`ConfigError::Value`] with the list of accepted values.
    pub fn only(&self, key: &str, accepted: &[Value]) -> Result<(), ConfigError> {
        let Some(found) = self.value(key) else { return Ok(()) };
        let equal = |value: &Value| value == found || (value.is_number() && value.as_f64() == found.as_f64());
        if accepted.iter().any(equal) {
            return Ok(());
        }
        let names: Vec<String> = accepted.iter().map(Value::to_string).collect();
        Err(self.unaccepted(key, &names.join(", ")))
    }

    /// The string under `key` if it is one of `accepted`; absent stays absent.
    ///
    /// # Errors
    /// [`ConfigError::Value`] with the list of accepted values.
    pub fn one_of<'a>(&self, key: &str, accepted: &[&'a str]) -> Result<Option<&'a str>, ConfigError> {
        let Some(found) = self.value(key) else { return Ok(None) };
        match accepted.iter().find(|name| found.as_str() == Some(name)) {
            Some(name) => Ok(Some(name)),
            None => Err(self.unaccepted(key, &accepted.join(", "))),
        }
    }

    /// The error for a needed key that is absent.
    pub fn missing(&self, key: &str, accepted: &str) -> ConfigError {
        ConfigError::Missing { file: self.origin.clone(), key: key.to_owned(), accepted: accepted.to_owned() }
    }

    /// The error for a key whose value is not usable.
    pub fn unaccepted(&self, key: &str, accepted: &str) -> ConfigError {
        let written = self.values.get(key).map_or_else(|| "absent".to_owned(), Value::to_string);
        let mut found: String = written.chars().take(SHOWN_VALUE_CHARS).collect();
        if found.len() < written.len() {
            found.push('…');
        }
        ConfigError::Value { file: self.origin.clone(), key: key.to_owned(), found, accepted: accepted.to_owned() }
    }

    fn convert<T>(&self, key: &str, accepted: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Option<T>, ConfigError> {
        match self.value(key) {
            None => Ok(None),
            Some(value) => read(value).map(Some).ok_or_else(|| self.unaccepted(key, accepted)),
        }
    }
}

/// Reads a regular text file of at most `limit` bytes.
pub(crate) fn read_text(file: &Path, limit: usize) -> Result<String, ConfigError> {
    let failed = |source| ConfigError::Read { file: file.to_path_buf(), source };
    // Asked before opening: opening a named pipe would wait for a writer.
    if !std::fs::metadata(file).map_err(failed)?.is_file() {
        return Err(failed(std::io::Error::other("not a regular file")));
    }
    let opened = std::fs::File::open(file).map_err(failed)?;
    let mut bytes = Vec::new();
    opened.take(limit as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > limit {
        let source = JsonError::TooLarge { bytes: bytes.len(), limit };
        return Err(ConfigError::Json { file: file.to_path_buf(), source });
    }
    String::from_utf8(bytes).map_err(|_| ConfigError::NotText { file: file.to_path_buf() })
}

fn as_i64(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| {
        let number = value.as_f64()?;
        // Beyond 2^53 a float no longer names one whole number.
        (number.fract() == 0.0 && number.abs() <= 9_007_199_254_740_992.0).then_some(number as i64)
    })
}

fn as_usize(value: &Value) -> Option<usize> {
    as_i64(value).and_then(|number| usize::try_from(number).ok())
}

fn as_f64(value: &Value) -> Option<f64> {
    match value {
        Value::String(text) => match text.as_str() {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        other => other.as_f64(),
    }
}

fn list<T>(value: &Value, read: impl Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
    value.as_array()?.iter().map(read).collect()
}

fn broadcast<T: Clone>(value: &Value, count: usize, read: impl Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
    match value {
        Value::Array(items) if items.len() == count => items.iter().map(read).collect(),
        Value::Array(_) => None,
        single => read(single).map(|item| vec![item; count]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config(value: Value) -> Config {
        Config::from_value(value, "unet/config.json").unwrap()
    }

    #[test]
    fn null_is_absent() {
        let config = config(json!({"a": null}));
        assert_eq!(config.usize("a").unwrap(), None);
        assert_eq!(config.string("b").unwrap(), None);
        assert!(!config.contains("a"));
    }

    #[test]
    fn wrong_type_names_file_key_value_and_what_is_accepted() {
        let message = config(json!({"layers_per_block": "two"})).usize("layers_per_block").unwrap_err().to_string();
        assert_eq!(message, "unet/config.json: key `layers_per_block` is \"two\"; accepted: a whole number of at least 0");
    }

    #[test]
    fn one_number_stands_for_all_blocks_and_a_list_must_have_one_each() {
        let config = config(json!({"one": 8, "many": [5, 10.0], "bad": [1, -1]}));
        assert_eq!(config.usize_list("one", 3).unwrap(), Some(vec![8, 8, 8]));
        assert_eq!(config.usize_list("many", 2).unwrap(), Some(vec![5, 10]));
        assert!(config.usize_list("many", 3).is_err());
        assert!(config.usize_list("bad", 2).is_err());
    }

    #[test]
    fn numbers_that_are_not_whole_or_too_large_are_refused_as_counts() {
        let config = config(json!({"half": 0.5, "huge": 1e30, "negative": -3, "exact": 77.0}));
        assert!(config.usize("half").is_err());
        assert!(config.usize("huge").is_err());
        assert!(config.usize("negative").is_err());
        assert_eq!(config.i64("negative").unwrap(), Some(-3));
        assert_eq!(config.usize("exact").unwrap(), Some(77));
    }

    #[test]
    fn python_infinities_are_numbers() {
        let config = Config::parse(r#"{"lambda_min_clipped": -Infinity, "n": NaN}"#, "x").unwrap();
        assert_eq!(config.f64("lambda_min_clipped").unwrap(), Some(f64::NEG_INFINITY));
        assert!(config.f64("n").unwrap().unwrap().is_nan());
    }

    #[test]
    fn only_listed_values_pass_and_absence_passes() {
        let config = config(json!({"act_fn": "relu", "factor": 1.0}));
        assert!(config.only("factor", &[json!(1)]).is_ok());
        assert!(config.only("absent", &[json!(1)]).is_ok());
        let message = config.only("act_fn", &[json!("silu"), json!("swish")]).unwrap_err().to_string();
        assert_eq!(message, "unet/config.json: key `act_fn` is \"relu\"; accepted: \"silu\", \"swish\"");
        assert!(config.one_of("act_fn", &["silu"]).is_err());
    }

    #[test]
    fn long_values_are_shortened_in_messages() {
        let message = config(json!({"a": "é".repeat(10_000)})).usize("a").unwrap_err().to_string();
        assert!(message.len() < 400 && message.contains('…'));
    }

    #[test]
    fn folders_and_missing_files_are_read_errors() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(Config::open(folder.path()), Err(ConfigError::Read { .. })));
        assert!(matches!(Config::open(folder.path().join("none")), Err(ConfigError::Read { .. })));
    }
}
