//! Multipart bodies: their text parts are fields like any others, their files are kept apart. The body was read within its bounds before.

use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use bytes::Bytes;
use multer::{Constraints, Multipart, SizeLimit};
use serde_json::Value;

use crate::dialect::{Content, FilePart};
use crate::refusal::Refusal;

/// Parts of one body: the longest real ones have twenty.
const PARTS_LIMIT: usize = 256;
/// Bytes of a part that is text: as much as a whole body without pictures.
const TEXT_LIMIT_BYTES: usize = 1024 * 1024;

/// The boundary, if these are the headers of a multipart form.
pub(super) fn boundary(headers: &HeaderMap) -> Option<String> {
    multer::parse_boundary(headers.get(CONTENT_TYPE)?.to_str().ok()?).ok()
}

/// Everything that the body holds.
pub(super) async fn read(boundary: String, body: Bytes) -> Result<Content, Refusal> {
    let constraints = Constraints::new().size_limit(SizeLimit::new().whole_stream(body.len() as u64));
    let whole = futures::stream::once(async move { Ok::<_, std::convert::Infallible>(body) });
    let mut parts = Multipart::with_constraints(whole, boundary, constraints);
    let mut content = Content::default();
    let mut count = 0;
    while let Some(part) = parts.next_field().await.map_err(|error| malformed(&error.to_string()))? {
        count += 1;
        if count > PARTS_LIMIT {
            return Err(malformed(&format!("it has more than {PARTS_LIMIT} parts")));
        }
        let Some(name) = part.name().map(str::to_owned) else { return Err(malformed("a part has no name")) };
        let is_file = part.file_name().is_some();
        let bytes = part.bytes().await.map_err(|error| malformed(&error.to_string()))?;
        if is_file {
            content.files.push(FilePart { name, bytes });
        } else {
            add_text(&mut content, name, &bytes)?;
        }
    }
    Ok(content)
}

fn add_text(content: &mut Content, name: String, bytes: &[u8]) -> Result<(), Refusal> {
    let named = |problem: &str| malformed(&format!("the field {:?} {problem}", name.chars().take(40).collect::<String>()));
    if bytes.len() > TEXT_LIMIT_BYTES {
        return Err(named(&format!("is longer than {TEXT_LIMIT_BYTES} bytes; send a picture as a file")));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| named("is no text; send a picture as a file, with a file name"))?;
    if content.fields.contains_key(&name) {
        return Err(named("is given twice"));
    }
    content.fields.insert(name, Value::String(text.to_owned()));
    Ok(())
}

fn malformed(reason: &str) -> Refusal {
    Refusal::BodyMalformed { message: format!("the request body is no valid multipart form: {reason}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read_text(body: &str) -> Result<Content, String> {
        let body = Bytes::from(body.replace('\n', "\r\n"));
        read("b".to_owned(), body).await.map_err(|refusal| refusal.to_string())
    }

    #[tokio::test]
    async fn texts_become_fields_and_files_stay_files() {
        let body = "--b\nContent-Disposition: form-data; name=\"prompt\"\n\na cat\n\
                    --b\nContent-Disposition: form-data; name=\"image[]\"; filename=\"../x.png\"\nContent-Type: text/html\n\n\x01\x02\n\
                    --b--\n";
        let content = read_text(body).await.unwrap();
        assert_eq!(Value::Object(content.fields), serde_json::json!({ "prompt": "a cat" }));
        assert_eq!(
            content.files.iter().map(|file| (file.name.as_str(), &*file.bytes)).collect::<Vec<_>>(),
            [("image[]", b"\x01\x02".as_slice())]
        );
    }

    #[tokio::test]
    async fn what_is_no_form_is_refused() {
        let twice = "--b\nContent-Disposition: form-data; name=\"a\"\n\n1\n".repeat(2) + "--b--\n";
        let nameless = "--b\nContent-Type: text/plain\n\n1\n--b--\n";
        let many =
            (0..300).map(|index| format!("--b\nContent-Disposition: form-data; name=\"f{index}\"\n\n1\n")).collect::<String>() + "--b--\n";
        for (body, reason) in [
            (twice.as_str(), "\"a\" is given twice"),
            (nameless, "no valid multipart form"),
            (&many, "more than 256 parts"),
            ("--b\nContent-Disposition: form-data; name=\"a\"\n\ncut", "no valid multipart form"),
            ("nothing", "no valid multipart form"),
        ] {
            let refusal = read_text(body).await.unwrap_err();
            assert!(refusal.contains(reason), "{body:.60}: {refusal}");
        }
    }

    #[test]
    fn boundaries_are_found_in_forms_alone() {
        let headers = |value: &'static str| HeaderMap::from_iter([(CONTENT_TYPE, value.parse().unwrap())]);
        assert_eq!(boundary(&headers("multipart/form-data; boundary=\"x y\"")).as_deref(), Some("x y"));
        assert_eq!(boundary(&headers("application/json")), None);
        assert_eq!(boundary(&headers("multipart/form-data")), None);
        assert_eq!(boundary(&HeaderMap::new()), None);
    }
}
