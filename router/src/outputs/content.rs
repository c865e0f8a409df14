//! Whether a file is what its name announces, by its own bytes. Pure.

use runtime_api::OutputFormat;

const PNG_SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";
/// The IEND chunk that ends every whole PNG file: length 0, its name, its checksum.
const PNG_END: &[u8] = b"\0\0\0\0IEND\xaeB`\x82";
/// The mark "start of image", and the beginning of the next.
const JPEG_START: &[u8] = b"\xff\xd8\xff";
/// The mark "end of image".
const JPEG_END: &[u8] = b"\xff\xd9";
/// A RIFF file's name, length and kind.
const RIFF_HEADER_BYTES: usize = 12;

/// Whether `file` is a file of the format, from its first byte to its last.
pub(super) fn is_whole(file: &[u8], format: OutputFormat) -> bool {
    match format {
        OutputFormat::Png => file.starts_with(PNG_SIGNATURE) && file.ends_with(PNG_END),
        OutputFormat::Jpeg => file.starts_with(JPEG_START) && file.ends_with(JPEG_END),
        OutputFormat::Webp => {
            let Some((header, chunks)) = file.split_first_chunk::<RIFF_HEADER_BYTES>() else { return false };
            let announced = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
            header.starts_with(b"RIFF") && header.ends_with(b"WEBP") && announced as usize == chunks.len() + 4
        }
    }
}

#[cfg(test)]
mod tests {
    use image::ImageFormat;

    use super::*;

    fn file(format: ImageFormat) -> Vec<u8> {
        let mut bytes = std::io::Cursor::new(Vec::new());
        image::RgbImage::new(3, 2).write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    #[test]
    fn files_are_what_they_are_and_nothing_else() {
        let files = [file(ImageFormat::Png), file(ImageFormat::Jpeg), file(ImageFormat::WebP)];
        for (format, own) in OutputFormat::ALL.into_iter().zip(&files) {
            for other in &files {
                assert_eq!(is_whole(other, format), other == own, "{format:?}");
            }
            assert!(!is_whole(&own[..own.len() - 1], format) && !is_whole(&own[1..], format) && !is_whole(&[], format), "{format:?}");
            assert!(!is_whole(&[own.as_slice(), b"<script>"].concat(), format), "{format:?}");
        }
    }
}
