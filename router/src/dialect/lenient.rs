//! Reads fields as real clients write them: numbers and switches as text, unset fields as null or "". What cannot be meant is an error
//! that reads well after the field's name ("must be a whole number"); what lies outside a number's range is moved to the range's end,
//! because whoever validates has the last word on bounds.

use serde::Deserialize;
use serde::de::{Deserializer, Error};
use serde_json::{Number, Value};

/// Quoted in errors up to this many characters.
const QUOTED_CHARACTERS: usize = 40;

/// A text; `""` stays a text. Numbers are written out, since clients send numbers as names.
pub fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text)),
        Value::Number(number) => Ok(Some(number.to_string())),
        other => Err(D::Error::custom(format!("must be a text, not {}", kind(&other)))),
    }
}

/// A text; blank ones count as absent.
pub fn filled_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(text(deserializer)?.filter(|text| !text.trim().is_empty()))
}

/// A whole number; too small ones become 0, too large ones `u32::MAX`.
pub fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    let number = read_number(&value).map_err(|Unreadable| D::Error::custom(format!("must be a whole number, not {}", shown(&value))))?;
    let Some(number) = number else { return Ok(None) };
    if number.fract() != 0.0 {
        return Err(D::Error::custom(format!("must be a whole number, not {}", shown(&value))));
    }
    Ok(Some(number as u32)) // `as` moves to the nearest end of the range
}

/// A finite number.
pub fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    read_number(&value).map_err(|Unreadable| D::Error::custom(format!("must be a number, not {}", shown(&value))))
}

/// A seed: absent, null, "" and -1 ask for a random one (`None`); 0 is a seed like any other, so that whoever names one gets what they
/// named. Exact over the whole range, where a float would round.
pub fn seed<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    let unreadable = || D::Error::custom(format!("must be -1 (random) or a whole number from 0 to {}, not {}", u64::MAX, shown(&value)));
    match &value {
        Value::Number(number) => match (number.as_u64(), number.as_f64()) {
            (Some(seed), _) => Ok(Some(seed)),
            (None, Some(-1.0)) => Ok(None),
            // 42.0: some languages have no other numbers. Above 2⁵³ such a number no longer names one seed.
            (None, Some(float)) if float >= 0.0 && float.fract() == 0.0 && float <= 9_007_199_254_740_992.0 => Ok(Some(float as u64)),
            _ => Err(unreadable()),
        },
        Value::String(text) if is_unset_text(text) || text.trim() == "-1" => Ok(None),
        Value::String(text) => text.trim().parse().map(Some).map_err(|_| unreadable()),
        Value::Null => Ok(None),
        _ => Err(unreadable()),
    }
}

/// A switch: true/false, yes/no, on/off, 1/0.
pub fn switch<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<bool>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    let read = match &value {
        Value::Null => Some(None),
        Value::Bool(on) => Some(Some(*on)),
        Value::Number(number) => number.as_u64().and_then(bit).map(Some),
        Value::String(text) => match text.trim().to_ascii_lowercase().as_str() {
            "" | "null" | "none" => Some(None),
            "yes" | "true" | "on" | "1" => Some(Some(true)),
            "no" | "false" | "off" | "0" => Some(Some(false)),
            _ => None,
        },
        Value::Array(_) | Value::Object(_) => None,
    };
    read.ok_or_else(|| D::Error::custom(format!("must be true or false (or \"yes\" or \"no\"), not {}", shown(&value))))
}

/// Names: a list of texts, or one text with commas between them. Unset and blank ones count as absent.
pub fn names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    let name = |text: &str| Some(text.trim().to_owned()).filter(|text| !is_unset_text(text));
    match &value {
        Value::Null => Ok(Vec::new()),
        Value::String(text) => Ok(text.split(',').filter_map(name).collect()),
        Value::Number(number) => Ok(vec![number.to_string()]),
        Value::Array(items) => {
            let texts: Option<Vec<&str>> = items.iter().map(Value::as_str).collect();
            let texts = texts.ok_or_else(|| D::Error::custom("must be a list of texts, or one text with commas between names"))?;
            Ok(texts.into_iter().filter_map(name).collect())
        }
        _ => Err(D::Error::custom(format!("must be one or more names, not {}", shown(&value)))),
    }
}

/// Finite numbers: one, a list, or a text with commas between them.
pub fn numbers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f64>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    let items = match &value {
        Value::String(text) if text.contains(',') => text.split(',').map(|item| Value::String(item.to_owned())).collect(),
        Value::Array(items) => items.clone(),
        other => vec![other.clone()],
    };
    let read = items.iter().map(read_number).collect::<Result<Vec<_>, Unreadable>>();
    let read = read.map_err(|Unreadable| D::Error::custom(format!("must be one or more numbers, not {}", shown(&value))))?;
    Ok(read.into_iter().flatten().collect())
}

/// Two whole numbers: a list, or a text with a comma between them.
pub fn pair<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<[u32; 2]>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    if value.is_null() || value.as_str().is_some_and(is_unset_text) {
        return Ok(None);
    }
    let refused = || D::Error::custom(format!("must be two whole numbers, such as [1024, 1024], not {}", shown(&value)));
    let items: Vec<Value> = match &value {
        Value::String(text) => text.split(',').map(|item| Value::String(item.to_owned())).collect(),
        Value::Array(items) => items.clone(),
        _ => return Err(refused()),
    };
    let whole = |item: &Value| read_number(item).ok().flatten().filter(|number| number.fract() == 0.0 && *number >= 0.0);
    match items.iter().map(whole).collect::<Option<Vec<f64>>>().as_deref() {
        // `as` moves to the end of the range.
        Some([first, second]) => Ok(Some([*first as u32, *second as u32])),
        _ => Err(refused()),
    }
}

/// Whether a field asks for something: null, "", "no", "none", false, 0 and empty lists do not.
pub fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(on) => *on,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !is_unset_text(text) && !matches!(text.trim().to_ascii_lowercase().as_str(), "no" | "false" | "off" | "0"),
        Value::Array(items) => items.iter().any(is_set),
        Value::Object(fields) => !fields.is_empty(),
    }
}

fn is_unset_text(text: &str) -> bool {
    matches!(text.trim().to_ascii_lowercase().as_str(), "" | "null" | "none" | "undefined")
}

fn bit(number: u64) -> Option<bool> {
    (number <= 1).then_some(number == 1)
}

struct Unreadable;

fn read_number(value: &Value) -> Result<Option<f64>, Unreadable> {
    let number = match value {
        Value::Null => return Ok(None),
        Value::Number(number) => Number::as_f64(number).ok_or(Unreadable)?,
        Value::String(text) if is_unset_text(text) => return Ok(None),
        Value::String(text) => text.trim().parse().map_err(|_| Unreadable)?,
        _ => return Err(Unreadable),
    };
    number.is_finite().then_some(Some(number)).ok_or(Unreadable)
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => {
            let quoted: String = text.chars().take(QUOTED_CHARACTERS).collect();
            let more = if quoted.len() < text.len() { "…" } else { "" };
            format!("{quoted:?}{more}")
        }
        Value::Number(number) => number.to_string(),
        other => kind(other).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn whole_numbers_are_read_in_every_spelling() {
        for (value, expected) in [
            (json!(512), Some(512)),
            (json!("512"), Some(512)),
            (json!(" 512 "), Some(512)),
            (json!(20.0), Some(20)),
            (json!("31.0"), Some(31)),
            (json!(""), None),
            (json!(null), None),
            (json!("null"), None),
            (json!(-5), Some(0)),
            (json!(99_999_999_999_i64), Some(u32::MAX)),
        ] {
            assert_eq!(whole(&value).unwrap(), expected, "{value}");
        }
        for value in [json!("many"), json!(1.5), json!("NaN"), json!("inf"), json!([1]), json!({}), json!(true)] {
            assert!(whole(&value).is_err(), "{value}");
        }
    }

    #[test]
    fn numbers_must_be_finite() {
        assert_eq!(number(&json!("7.5")).unwrap(), Some(7.5));
        assert_eq!(number(&json!(7)).unwrap(), Some(7.0));
        assert_eq!(number(&json!("")).unwrap(), None);
        for value in [json!("NaN"), json!("Infinity"), json!("1e999"), json!("7,5"), json!(false)] {
            assert!(number(&value).is_err(), "{value}");
        }
    }

    #[test]
    fn seed_is_random_only_where_none_is_named() {
        for value in [json!(null), json!(""), json!(-1), json!("-1"), json!(-1.0), json!("null")] {
            assert_eq!(seed(&value).unwrap(), None, "{value}");
        }
        assert_eq!(seed(&json!(0)).unwrap(), Some(0));
        assert_eq!(seed(&json!("0")).unwrap(), Some(0));
        assert_eq!(seed(&json!(42.0)).unwrap(), Some(42));
        assert_eq!(seed(&json!(u64::MAX)).unwrap(), Some(u64::MAX));
        assert_eq!(seed(&json!("18446744073709551615")).unwrap(), Some(u64::MAX));
        for value in [json!(-2), json!(1.5), json!(1e30), json!("18446744073709551616"), json!("abc"), json!([1])] {
            assert!(seed(&value).is_err(), "{value}");
        }
    }

    #[test]
    fn switches_are_read_in_every_spelling() {
        for value in [json!(true), json!("yes"), json!("TRUE"), json!("1"), json!(1), json!("on")] {
            assert_eq!(switch(&value).unwrap(), Some(true), "{value}");
        }
        for value in [json!(false), json!("no"), json!("False"), json!("0"), json!(0)] {
            assert_eq!(switch(&value).unwrap(), Some(false), "{value}");
        }
        assert_eq!(switch(&json!("")).unwrap(), None);
        assert!(switch(&json!("maybe")).is_err());
        assert!(switch(&json!(2)).is_err());
    }

    #[test]
    fn lists_are_read_in_every_spelling() {
        for (value, expected) in [
            (json!("a"), vec!["a"]),
            (json!("a, b ,,none"), vec!["a", "b"]),
            (json!(["a", "b", ""]), vec!["a", "b"]),
            (json!(7), vec!["7"]),
            (json!(null), vec![]),
            (json!(""), vec![]),
        ] {
            assert_eq!(names(&value).unwrap(), expected, "{value}");
        }
        assert!(names(&json!({})).is_err() && names(&json!([1])).is_err() && names(&json!(true)).is_err());
        for (value, expected) in [
            (json!("0.45,0.55"), vec![0.45, 0.55]),
            (json!("1.0"), vec![1.0]),
            (json!(0.5), vec![0.5]),
            (json!([0.5, "0.6", null]), vec![0.5, 0.6]),
            (json!(""), vec![]),
            (json!(null), vec![]),
        ] {
            assert_eq!(numbers(&value).unwrap(), expected, "{value}");
        }
        for value in [json!("strong"), json!("0.5;0.6"), json!("NaN,1"), json!([[1]]), json!({}), json!(true)] {
            assert!(numbers(&value).is_err(), "{value}");
        }
    }

    #[test]
    fn unset_spellings_ask_for_nothing() {
        for value in
            [json!(null), json!(""), json!("no"), json!("None"), json!(false), json!(0), json!("0"), json!([]), json!([""]), json!({})]
        {
            assert!(!is_set(&value), "{value}");
        }
        for value in [json!("yes"), json!("2"), json!(true), json!(["a"]), json!("https://a.b/c.png"), json!(0.5)] {
            assert!(is_set(&value), "{value}");
        }
    }

    #[test]
    fn errors_quote_little_of_what_was_sent() {
        let error = whole(&json!("x".repeat(10_000))).unwrap_err().to_string();
        assert!(error.len() < 200, "{error}");
    }
}
