//! From a call's query and body to its fields, whatever the Content-Type claims. JSON is read strictly where strictness protects (no
//! field twice, bounded depth) and types are read leniently later, by whoever knows the fields.

use std::fmt;

use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::Fields;
use crate::refusal::Refusal;

/// Lists within objects within lists…: no dialect needs more.
const DEPTH_LIMIT: u32 = 16;
/// Fields of one call, from the query or a form; the longest real bodies have forty.
const FIELD_LIMIT: usize = 256;

/// All fields of a call: the body's, then those of the query that the body does not name.
pub fn read(query: Option<&str>, body: &[u8]) -> Result<Fields, Refusal> {
    with_query(read_body(body)?, query)
}

/// `fields`, then those of the query that they do not name.
pub fn with_query(mut fields: Fields, query: Option<&str>) -> Result<Fields, Refusal> {
    for (name, value) in read_form(query.unwrap_or_default().as_bytes())? {
        fields.entry(name).or_insert(value);
    }
    Ok(fields)
}

/// JSON where it looks like JSON; else a form. Content-Type is not asked: clients send none, or a wrong one.
fn read_body(body: &[u8]) -> Result<Fields, Refusal> {
    let text = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body).trim_ascii();
    if text.is_empty() {
        return Ok(Fields::new());
    }
    if looks_like_form(text) {
        return read_form(text);
    }
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let value = Strict { depth: 0 }
        .deserialize(&mut deserializer)
        .and_then(|value| deserializer.end().map(|()| value))
        .map_err(|error| malformed(format!("the request body is not valid JSON: {error}")))?;
    match value {
        Value::Object(fields) => Ok(fields),
        _ => Err(malformed("the request body must be a JSON object, such as {\"prompt\": \"a red circle\"}".to_owned())),
    }
}

fn looks_like_form(text: &[u8]) -> bool {
    let name_length = text.iter().position(|byte| !(byte.is_ascii_alphanumeric() || *byte == b'_'));
    name_length.is_some_and(|length| length > 0 && text[length] == b'=')
}

fn read_form(text: &[u8]) -> Result<Fields, Refusal> {
    let mut fields = Fields::new();
    for (name, value) in form_urlencoded::parse(text) {
        if fields.len() == FIELD_LIMIT {
            return Err(malformed(format!("more than {FIELD_LIMIT} fields")));
        }
        if fields.insert(name.clone().into_owned(), Value::String(value.into_owned())).is_some() {
            return Err(malformed(format!("the field {name:?} is given twice")));
        }
    }
    Ok(fields)
}

/// Fields as a typed request. An error names the field as `Refusal::Invalid` does: "width must be a whole number, not \"wide\"".
pub fn typed<T: DeserializeOwned>(fields: Fields) -> Result<T, Refusal> {
    serde_path_to_error::deserialize(Value::Object(fields)).map_err(|error| {
        let field = error.path().to_string();
        let message = format!("{field} {}", error.inner());
        Refusal::Invalid { field, message }
    })
}

fn malformed(message: String) -> Refusal {
    Refusal::BodyMalformed { message }
}

/// Reads any JSON, but no field twice and nothing deeper than the limit.
#[derive(Clone, Copy)]
struct Strict {
    depth: u32,
}

impl Strict {
    fn deeper<E: Error>(self) -> Result<Self, E> {
        if self.depth == DEPTH_LIMIT {
            return Err(E::custom(format!("it is nested deeper than {DEPTH_LIMIT} levels")));
        }
        Ok(Self { depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut items = Vec::new();
        while let Some(item) = sequence.next_element_seed(inner)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut fields = Map::new();
        while let Some(name) = entries.next_key::<String>()? {
            if fields.contains_key(&name) {
                return Err(A::Error::custom(format!("the field {name:?} is given twice")));
            }
            fields.insert(name, entries.next_value_seed(inner)?);
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn message(query: Option<&str>, body: &str) -> String {
        match read(query, body.as_bytes()) {
            Err(Refusal::BodyMalformed { message }) => message,
            other => panic!("{body}: {other:?}"),
        }
    }

    #[test]
    fn query_fills_in_what_the_body_leaves_out() {
        let fields = read(Some("width=512&prompt=a+cat%21"), br#"{"width": 64}"#).unwrap();
        assert_eq!(Value::Object(fields), json!({ "width": 64, "prompt": "a cat!" }));
    }

    #[test]
    fn forms_and_empty_bodies_are_read() {
        assert_eq!(Value::Object(read(None, b"prompt=a+cat&samples=1").unwrap()), json!({ "prompt": "a cat", "samples": "1" }));
        assert!(read(None, b"").unwrap().is_empty());
        assert!(read(None, b" \r\n").unwrap().is_empty());
    }

    #[test]
    fn field_given_twice_is_refused() {
        assert!(message(None, r#"{"seed": 1, "seed": 2}"#).contains("\"seed\" is given twice"));
        assert!(message(None, r#"{"a": {"b": 1, "b": 2}}"#).contains("\"b\" is given twice"));
        assert!(message(Some("a=1&a=2"), "").contains("\"a\" is given twice"));
    }

    #[test]
    fn what_is_no_object_is_refused_with_the_reason() {
        for (body, reason) in [
            ("not json", "not valid JSON"),
            ("{\"prompt\": \"cut", "EOF"),
            ("[1]", "must be a JSON object"),
            ("\"text\"", "must be a JSON object"),
            ("{} {}", "trailing"),
            ("{\"a\": 1e999}", "out of range"),
            ("{\"a\": NaN}", "not valid JSON"),
        ] {
            assert!(message(None, body).contains(reason), "{body}: {}", message(None, body));
        }
        assert!(read(None, b"\xff\xfe").is_err());
        assert!(read(None, b"{\"a\": \"\xff\"}").is_err());
    }

    #[test]
    fn deep_nesting_is_refused_before_the_stack_is() {
        let deep = format!("{{\"a\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(message(None, &deep).contains("nested deeper"));
        assert!(read(None, format!("{{\"a\": {}{}}}", "[".repeat(15), "]".repeat(15)).as_bytes()).is_ok());
    }

    #[test]
    fn endless_queries_are_refused() {
        let query: Vec<String> = (0..=FIELD_LIMIT).map(|index| format!("f{index}=1")).collect();
        assert!(message(Some(&query.join("&")), "").contains("more than"));
    }
}
