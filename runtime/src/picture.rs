//! Pixels and PNG files. Knows no model and no request; parameters are text to it.

use std::borrow::Cow;
use std::io::Cursor;

use png::{BitDepth, ColorType, Compression};

/// The most metadata entries a PNG gets.
pub const MAX_TEXT_ENTRIES: usize = 64;
/// The most bytes of one entry's text: long enough for any prompt a router accepts.
pub const MAX_TEXT_BYTES: usize = 64 * 1024;
/// PNG's own bound of a keyword.
const MAX_KEYWORD_CHARS: usize = 79;

/// 8-bit RGB, rows from the top, no padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pixels {
    pub width: u32,
    pub height: u32,
    /// `width × height × 3` bytes.
    pub rgb: Vec<u8>,
}

/// Why a PNG could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    #[error("encode png")]
    Encode(#[source] png::EncodingError),
    #[error("decode png")]
    Decode(#[source] png::DecodingError),
    #[error("png metadata key `{key}` is not a keyword: 1 to 79 printable Latin-1 characters")]
    Keyword { key: String },
    #[error("png metadata is too large: at most {MAX_TEXT_ENTRIES} entries of {MAX_TEXT_BYTES} bytes")]
    TooMuchText,
}

/// Whether `text` may be written into a PNG.
///
/// # Errors
/// [`PictureError::Keyword`] or [`PictureError::TooMuchText`].
pub fn check_text(text: &[(String, String)]) -> Result<(), PictureError> {
    if text.len() > MAX_TEXT_ENTRIES || text.iter().any(|(_, value)| value.len() > MAX_TEXT_BYTES) {
        return Err(PictureError::TooMuchText);
    }
    let is_keyword = |key: &str| {
        let count = key.chars().count();
        (1..=MAX_KEYWORD_CHARS).contains(&count)
            && key.chars().all(|character| matches!(u32::from(character), 0x20..=0x7e | 0xa1..=0xff))
            && key.trim() == key
    };
    match text.iter().find(|(key, _)| !is_keyword(key)) {
        Some((key, _)) => Err(PictureError::Keyword { key: key.chars().take(MAX_KEYWORD_CHARS).collect() }),
        None => Ok(()),
    }
}

/// A PNG of `pixels` with `text` in it: `tEXt` where it is Latin-1, which every reader knows, `iTXt` where it is not.
///
/// # Errors
/// [`PictureError`] if the text is refused, or the pixels are not `width × height × 3` bytes.
pub fn encode_png(pixels: &Pixels, text: &[(String, String)]) -> Result<Vec<u8>, PictureError> {
    check_text(text)?;
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, pixels.width, pixels.height);
    encoder.set_color(ColorType::Rgb);
    encoder.set_depth(BitDepth::Eight);
    encoder.set_compression(Compression::Balanced);
    for (key, value) in text {
        let is_latin = value.chars().all(|character| matches!(u32::from(character), 0x0a | 0x20..=0x7e | 0xa1..=0xff));
        let added =
            if is_latin { encoder.add_text_chunk(key.clone(), value.clone()) } else { encoder.add_itxt_chunk(key.clone(), value.clone()) };
        added.map_err(PictureError::Encode)?;
    }
    let mut writer = encoder.write_header().map_err(PictureError::Encode)?;
    writer.write_image_data(&pixels.rgb).map_err(PictureError::Encode)?;
    writer.finish().map_err(PictureError::Encode)?;
    Ok(file)
}

/// The pixels of an 8-bit RGB PNG and its text entries.
///
/// # Errors
/// [`PictureError::Decode`] if it is no such PNG.
pub fn decode_png(file: &[u8]) -> Result<(Pixels, Vec<(String, String)>), PictureError> {
    let mut reader = png::Decoder::new(Cursor::new(file)).read_info().map_err(PictureError::Decode)?;
    let size = reader.output_buffer_size().unwrap_or_default();
    let mut rgb = vec![0; size];
    let frame = reader.next_frame(&mut rgb).map_err(PictureError::Decode)?;
    rgb.truncate(frame.buffer_size());
    let mut text = Vec::new();
    for chunk in &reader.info().uncompressed_latin1_text {
        text.push((chunk.keyword.clone(), chunk.text.clone()));
    }
    for chunk in &reader.info().utf8_text {
        text.push((chunk.keyword.clone(), chunk.get_text().map_err(PictureError::Decode)?));
    }
    Ok((Pixels { width: frame.width, height: frame.height, rgb }, text))
}

/// Text shortened to what one metadata entry holds, at a character's end.
pub fn bounded_text(text: &str) -> Cow<'_, str> {
    if text.len() <= MAX_TEXT_BYTES {
        return Cow::Borrowed(text);
    }
    let mut end = MAX_TEXT_BYTES;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    Cow::Owned(text[..end].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_by_one() -> Pixels {
        Pixels { width: 2, height: 1, rgb: vec![255, 0, 0, 0, 0, 255] }
    }

    fn entry(key: &str, value: &str) -> (String, String) {
        (key.to_owned(), value.to_owned())
    }

    #[test]
    fn pixels_and_text_come_back_as_they_were() {
        let text = vec![entry("prompt", "a café, señor"), entry("seed", "7"), entry("negative", "雪 and \"quotes\"\nline")];
        let (pixels, read) = decode_png(&encode_png(&two_by_one(), &text).unwrap()).unwrap();
        assert_eq!(pixels, two_by_one());
        assert_eq!(read, text);
    }

    #[test]
    fn keywords_that_png_forbids_are_refused() {
        for key in ["", " seed", "a\u{0}b", "雪", &"k".repeat(80)] {
            let refused = encode_png(&two_by_one(), &[entry(key, "v")]);
            assert!(matches!(refused, Err(PictureError::Keyword { .. })), "{key:?}");
        }
    }

    #[test]
    fn text_beyond_its_bounds_is_refused() {
        let long = [entry("prompt", &"x".repeat(MAX_TEXT_BYTES + 1))];
        assert!(matches!(encode_png(&two_by_one(), &long), Err(PictureError::TooMuchText)));
        let many = vec![entry("k", "v"); MAX_TEXT_ENTRIES + 1];
        assert!(matches!(encode_png(&two_by_one(), &many), Err(PictureError::TooMuchText)));
    }

    #[test]
    fn pixels_of_another_size_are_refused() {
        let wrong = Pixels { width: 3, height: 3, rgb: vec![0; 6] };
        assert!(encode_png(&wrong, &[]).is_err());
    }

    #[test]
    fn bounded_text_ends_at_a_character() {
        let text = "é".repeat(MAX_TEXT_BYTES);
        let bounded = bounded_text(&text);
        assert!(bounded.len() <= MAX_TEXT_BYTES && bounded.chars().all(|character| character == 'é'));
    }
}
