//! Takes the pictures of a call out of its fields and files, before the rest is read: they are large, and come in many spellings.

use serde_json::Value;

use super::{Content, lenient};
use crate::inputs::Picture;
use crate::refusal::Refusal;

/// The one picture under any of `names`, the first of which is what messages call it. Files come before fields; a list of one is one.
pub fn take(content: &mut Content, names: &[&'static str]) -> Result<Option<Picture>, Refusal> {
    let field = names[0];
    let mut found = Vec::new();
    for file in content.files.extract_if(.., |file| names.contains(&file.name.as_str())) {
        found.push(Picture::from_bytes(field, file.bytes)?);
    }
    for name in names {
        match content.fields.remove(*name).filter(lenient::is_set) {
            Some(Value::Array(items)) => {
                for item in items.iter().filter(|item| lenient::is_set(item)) {
                    found.push(from_value(field, item)?);
                }
            }
            Some(value) => found.push(from_value(field, &value)?),
            None => {}
        }
    }
    if found.len() > 1 {
        return Err(Refusal::NotSupported { feature: format!("more than one picture ({field})") });
    }
    Ok(found.pop())
}

/// The picture that a call cannot do without.
pub fn require(picture: Option<Picture>, field: &str) -> Result<Picture, Refusal> {
    picture.ok_or_else(|| Refusal::Invalid { field: field.to_owned(), message: format!("{field} is required") })
}

fn from_value(field: &'static str, value: &Value) -> Result<Picture, Refusal> {
    match value {
        Value::String(text) => Picture::from_text(field, text),
        _ => Err(Refusal::Invalid {
            field: field.to_owned(),
            message: format!("{field} must be a text: an http:// or https:// URL, a data URI, or base64 of a PNG, JPEG or WebP file"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::json;

    use super::*;
    use crate::dialect::FilePart;
    use crate::inputs::PictureSource;

    fn content(fields: &Value, files: &[&str]) -> Content {
        let files = files.iter().map(|name| FilePart { name: (*name).to_owned(), bytes: Bytes::from_static(b"file") }).collect();
        Content { fields: fields.as_object().unwrap().clone(), files }
    }

    fn taken(fields: &Value, files: &[&str]) -> Result<Option<PictureSource>, String> {
        let taken = take(&mut content(fields, files), &["image", "image[]"]);
        taken.map(|picture| picture.map(|picture| picture.source)).map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn one_picture_is_found_wherever_it_stands() {
        let bytes = |text: &'static str| Ok(Some(PictureSource::Bytes(Bytes::from_static(text.as_bytes()))));
        assert_eq!(taken(&json!({}), &["image"]), bytes("file"));
        assert_eq!(taken(&json!({ "image": "" }), &["image[]", "other"]), bytes("file"));
        assert_eq!(taken(&json!({ "image": "dGV4dA==" }), &[]), bytes("text"));
        assert_eq!(taken(&json!({ "image[]": ["dGV4dA==", ""] }), &[]), bytes("text"));
        assert_eq!(taken(&json!({ "image": null, "other": "x" }), &[]), Ok(None));
    }

    #[test]
    fn several_pictures_and_other_things_are_refused() {
        for (fields, files) in [
            (json!({}), vec!["image", "image[]"]),
            (json!({ "image": "dGV4dA==" }), vec!["image"]),
            (json!({ "image": ["YQ==", "Yg=="] }), vec![]),
        ] {
            assert_eq!(taken(&fields, &files), Err("more than one picture (image) is not supported".to_owned()), "{fields}");
        }
        for value in [json!(5), json!({ "url": "x" }), json!([["YQ=="]])] {
            assert!(taken(&json!({ "image": value }), &[]).unwrap_err().starts_with("image must be a text"), "{value}");
        }
    }

    #[test]
    fn what_was_taken_is_gone_from_the_call() {
        let mut content = content(&json!({ "image": "YQ==", "prompt": "a" }), &["other"]);
        take(&mut content, &["image"]).unwrap();
        assert_eq!((content.fields.len(), content.files.len()), (1, 1));
    }
}
