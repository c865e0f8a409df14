//! How a call names a picture: a URL, a data URI, base64, or the bytes of a part of its body. Pure: nothing is fetched or decoded here.

use base64::Engine;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use url::Url;

use super::INPUT_LIMIT_BYTES;
use crate::refusal::Refusal;

/// Longer ones are refused: no server takes them.
const URL_LIMIT_BYTES: usize = 8 * 1024;
/// Encoders differ in their padding.
const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);

/// A picture of a call.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    /// The dialect's name of the field it came in, for messages.
    pub field: &'static str,
    pub source: PictureSource,
}

/// Where a picture's bytes are.
#[derive(Clone, PartialEq)]
pub enum PictureSource {
    /// To be fetched, under the rules for addresses.
    Url(Url),
    /// Whatever they are: nobody has looked at them yet.
    Bytes(Bytes),
}

impl std::fmt::Debug for PictureSource {
    /// A URL may hold secrets, and a picture is nobody's business.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Url(url) => formatter.debug_tuple("Url").field(&url.host_str()).finish(),
            Self::Bytes(bytes) => write!(formatter, "Bytes({} bytes)", bytes.len()),
        }
    }
}

impl Picture {
    /// From a field's text: `http(s)://…`, `data:…;base64,…`, or plain base64.
    pub fn from_text(field: &'static str, text: &str) -> Result<Self, Refusal> {
        let text = text.trim();
        let scheme = text.split_once(':').map(|(scheme, _)| scheme.to_ascii_lowercase());
        let source = match scheme.as_deref() {
            Some("http" | "https") => PictureSource::Url(url(field, text)?),
            Some("data") => PictureSource::Bytes(data_uri(field, text)?),
            Some(_) => return Err(unreadable(field)),
            None => PictureSource::Bytes(base64(field, text)?),
        };
        Ok(Self { field, source })
    }

    pub fn from_bytes(field: &'static str, bytes: Bytes) -> Result<Self, Refusal> {
        if bytes.len() > INPUT_LIMIT_BYTES {
            return Err(too_large(field));
        }
        Ok(Self { field, source: PictureSource::Bytes(bytes) })
    }
}

fn url(field: &str, text: &str) -> Result<Url, Refusal> {
    let url = Url::parse(text).ok().filter(|_| text.len() <= URL_LIMIT_BYTES).ok_or_else(|| unreadable(field))?;
    if url.host().is_none() { Err(unreadable(field)) } else { Ok(url) }
}

/// Its media type is not asked: what the bytes are is decided by the bytes.
fn data_uri(field: &str, text: &str) -> Result<Bytes, Refusal> {
    let (header, data) = text.split_once(',').ok_or_else(|| unreadable(field))?;
    if !header.trim_end().to_ascii_lowercase().ends_with(";base64") {
        return Err(unreadable(field));
    }
    base64(field, data)
}

fn base64(field: &str, text: &str) -> Result<Bytes, Refusal> {
    // A third more than the bytes, and some for line ends.
    if text.len() / 2 > INPUT_LIMIT_BYTES {
        return Err(too_large(field));
    }
    let packed: String = text.chars().filter(|character| !character.is_ascii_whitespace()).collect();
    let alphabet = if packed.contains(['-', '_']) { URL_SAFE } else { STANDARD };
    let bytes = GeneralPurpose::new(&alphabet, LENIENT).decode(packed).map_err(|_| unreadable(field))?;
    if bytes.is_empty() {
        return Err(unreadable(field));
    }
    if bytes.len() > INPUT_LIMIT_BYTES { Err(too_large(field)) } else { Ok(bytes.into()) }
}

fn unreadable(field: &str) -> Refusal {
    invalid(field, format!("{field} must be an http:// or https:// URL, a data URI, or base64 of a PNG, JPEG or WebP file"))
}

fn too_large(field: &str) -> Refusal {
    invalid(field, format!("{field} is larger than {INPUT_LIMIT_BYTES} bytes"))
}

fn invalid(field: &str, message: String) -> Refusal {
    Refusal::Invalid { field: field.to_owned(), message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<PictureSource, String> {
        Picture::from_text("init_image", text).map(|picture| picture.source).map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn every_spelling_of_a_picture_is_read() {
        let bytes = PictureSource::Bytes(Bytes::from_static(b"\xfb\xff\xfe?"));
        for text in ["+//+Pw==", "+//+Pw", " +//\r\n+Pw== ", "-__-Pw", "data:image/png;base64,+//+Pw==", "DATA:;BASE64,+//+Pw=="] {
            assert_eq!(read(text).as_ref(), Ok(&bytes), "{text}");
        }
        for text in ["http://a.example/x.png?y=1", "HTTPS://a.example:8443/x"] {
            assert!(matches!(read(text), Ok(PictureSource::Url(_))), "{text}");
        }
    }

    #[test]
    fn what_names_no_picture_is_refused_with_what_would() {
        let long = format!("http://a.example/{}", "x".repeat(9000));
        let texts =
            ["", "not base64!", "file:///etc/passwd", "ftp://a/b", "http://", "data:image/png,abc", "data:image/png;base64", "a=b", &long];
        for text in texts {
            let refusal = read(text).unwrap_err();
            assert!(refusal.starts_with("init_image must be an http:// or https:// URL"), "{text}: {refusal}");
        }
    }

    #[test]
    fn more_bytes_than_a_picture_may_have_are_refused() {
        let text = "A".repeat(INPUT_LIMIT_BYTES / 3 * 4 + 8);
        assert!(read(&text).unwrap_err().contains("larger than"));
        let endless = " ".repeat(INPUT_LIMIT_BYTES * 2 + 10) + "AAAA" + &" ".repeat(8) + "A";
        assert!(read(&format!("A{endless}")).unwrap_err().contains("larger than"));
        assert!(Picture::from_bytes("image", vec![0; INPUT_LIMIT_BYTES + 1].into()).is_err());
        assert!(Picture::from_bytes("image", vec![0; 10].into()).is_ok());
    }

    #[test]
    fn logs_show_neither_pictures_nor_queries() {
        let shown = format!("{:?}", Picture::from_text("image", "https://a.example/x?token=secret").unwrap());
        assert!(shown.contains("a.example") && !shown.contains("secret"), "{shown}");
    }
}
