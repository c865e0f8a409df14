//! Pixels and the files they become. Knows no model and no request; parameters are text to it.

mod exif;

use std::borrow::Cow;
use std::io::Cursor;

use image::codecs::jpeg::JpegEncoder;
use image::codecs::webp::WebPEncoder;
use image::{ExtendedColorType, ImageEncoder};
use png::{BitDepth, ColorType, Compression};
use runtime_api::OutputFormat;

use crate::infotext;

/// The most metadata entries a PNG gets.
pub const MAX_TEXT_ENTRIES: usize = 64;
/// The most bytes of one entry's text: long enough for any prompt a router accepts.
pub const MAX_TEXT_BYTES: usize = 64 * 1024;
/// The best quality of a JPEG file.
pub const MAX_QUALITY: u8 = 100;
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

/// How pixels become a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Encoding {
    pub format: OutputFormat,
    /// Of JPEG, 0 to 100; the others lose nothing.
    pub quality: Option<u8>,
}

/// Why a file could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    #[error("encode png")]
    Encode(#[source] png::EncodingError),
    #[error("encode {format}")]
    EncodeOther { format: &'static str, source: image::ImageError },
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

/// A file of `pixels`: PNG with all of `text`, JPEG and WebP with what [`infotext::KEY`] names.
///
/// # Errors
/// [`PictureError`] if the text is refused, or the pixels are not `width × height × 3` bytes.
pub fn encode(pixels: &Pixels, encoding: Encoding, text: &[(String, String)]) -> Result<Vec<u8>, PictureError> {
    if encoding.format == OutputFormat::Png {
        return encode_png(pixels, text);
    }
    check_text(text)?;
    let failed = |source| PictureError::EncodeOther { format: encoding.format.name(), source };
    let Pixels { width, height, rgb } = pixels;
    if u64::from(*width) * u64::from(*height) * 3 != rgb.len() as u64 {
        // The encoders' own answer to that is a panic.
        let wrong = image::error::ParameterError::from_kind(image::error::ParameterErrorKind::DimensionMismatch);
        return Err(failed(image::ImageError::Parameter(wrong)));
    }
    let mut file = Vec::new();
    let comment = text.iter().find(|(key, _)| key == infotext::KEY).map(|(_, value)| exif::user_comment(value));
    let written = match encoding.format {
        OutputFormat::Jpeg => {
            let quality = encoding.quality.unwrap_or(MAX_QUALITY).clamp(1, MAX_QUALITY);
            write(JpegEncoder::new_with_quality(&mut file, quality), pixels, comment)
        }
        OutputFormat::Png | OutputFormat::Webp => write(WebPEncoder::new_lossless(&mut file), pixels, comment),
    };
    written.map_err(failed)?;
    Ok(file)
}

fn write(mut encoder: impl ImageEncoder, pixels: &Pixels, comment: Option<Vec<u8>>) -> image::ImageResult<()> {
    if let Some(comment) = comment {
        encoder.set_exif_metadata(comment).map_err(image::ImageError::Unsupported)?;
    }
    encoder.write_image(&pixels.rgb, pixels.width, pixels.height, ExtendedColorType::Rgb8)
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
        for format in OutputFormat::ALL {
            assert!(encode(&wrong, Encoding { format, quality: None }, &[]).is_err(), "{format:?}");
        }
    }

    #[test]
    fn jpeg_and_webp_have_their_text_where_exif_data_goes() {
        let text = vec![entry("Software", "Emulsion"), entry(infotext::KEY, "a circle\nSteps: 4")];
        let comment = exif::user_comment("a circle\nSteps: 4");
        for (format, mark) in [(OutputFormat::Jpeg, &b"Exif\0\0"[..]), (OutputFormat::Webp, b"EXIF")] {
            let file = encode(&two_by_one(), Encoding { format, quality: None }, &text).unwrap();
            assert!(file.windows(comment.len()).any(|window| window == comment), "{format:?}");
            assert!(file.windows(mark.len()).any(|window| window == mark), "{format:?}");
            let plain = encode(&two_by_one(), Encoding { format, quality: None }, &text[..1]).unwrap();
            assert!(!plain.windows(mark.len()).any(|window| window == mark), "{format:?}");
        }
    }

    #[test]
    fn webp_loses_nothing_and_jpeg_as_much_as_its_quality_says() {
        let rgb: Vec<u8> = (0..64 * 64 * 3).map(|at: u32| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let pixels = Pixels { width: 64, height: 64, rgb };
        let read = |format, quality| {
            let file = encode(&pixels, Encoding { format, quality }, &[]).unwrap();
            (file.len(), image::load_from_memory(&file).unwrap().into_rgb8().into_raw())
        };
        assert_eq!(read(OutputFormat::Webp, Some(1)).1, pixels.rgb);
        assert_eq!(read(OutputFormat::Png, Some(1)).1, pixels.rgb);
        let [worst, low, best, usual] = [Some(0), Some(10), Some(100), None].map(|quality| read(OutputFormat::Jpeg, quality));
        assert!(worst.0 < low.0 && low.0 < best.0, "{} {} {}", worst.0, low.0, best.0);
        assert_eq!(best, usual);
        let furthest = best.1.iter().zip(&pixels.rgb).map(|(one, other)| one.abs_diff(*other)).max();
        assert!(furthest <= Some(8), "{furthest:?}");
    }

    #[test]
    fn bounded_text_ends_at_a_character() {
        let text = "é".repeat(MAX_TEXT_BYTES);
        let bounded = bounded_text(&text);
        assert!(bounded.len() <= MAX_TEXT_BYTES && bounded.chars().all(|character| character == 'é'));
    }
}
