//! From the bytes of a file to pixels: PNG, JPEG or WebP, whatever its name says; of an animation the first frame. Sizes are compared with
//! their bounds before anything is inflated.

use std::io::Cursor;

use diffusion::picture::{GrayImage, RgbImage};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader};

/// The most bytes of one file.
pub const MAX_INPUT_BYTES: usize = 32 << 20;
/// The longest side of a picture, in pixels: that of the longest panoramas.
const MAX_INPUT_SIDE: u32 = 16_384;
/// The most pixels of a picture: 4096×4096.
const MAX_INPUT_PIXELS: u64 = 1 << 24;
/// The most bytes a decoder may take: twice 16 bits of four channels of the largest picture.
const MAX_DECODER_BYTES: u64 = MAX_INPUT_PIXELS * 16;
/// Formats that are read.
const FORMATS: [ImageFormat; 3] = [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP];

/// Why a picture cannot be used. The text is for the caller.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("the {name} is no picture that is read here: it must be a PNG, JPEG or WebP file")]
    Format { name: &'static str },
    #[error("the {name} is too large: at most {MAX_INPUT_SIDE} pixels a side, {MAX_INPUT_PIXELS} in all and {MAX_INPUT_BYTES} bytes")]
    TooLarge { name: &'static str },
    #[error("the {name} cannot be decoded; its file is damaged or of a kind that is not read here")]
    Damaged { name: &'static str, source: ImageError },
}

/// A picture as it is meant to be seen: turned as its EXIF orientation says, transparency on white, eight bits of red, green and blue.
///
/// # Errors
/// [`DecodeError`].
pub fn image(file: &[u8]) -> Result<RgbImage, DecodeError> {
    let decoded = decode(file, "image")?.into_rgba8();
    let (width, height) = decoded.dimensions();
    let on_white = |[red, green, blue, alpha]: &[u8; 4]| {
        let mixed = |value: u8| {
            let (value, alpha) = (u32::from(value), u32::from(*alpha));
            ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8
        };
        [mixed(*red), mixed(*green), mixed(*blue)]
    };
    let data = decoded.as_raw().as_chunks::<4>().0.iter().flat_map(on_white).collect();
    Ok(RgbImage { width: width as usize, height: height as usize, data })
}

/// A mask: the brightness of a picture, turned as its EXIF orientation says. Transparency is not looked at.
///
/// # Errors
/// [`DecodeError`].
pub fn mask(file: &[u8]) -> Result<GrayImage, DecodeError> {
    let decoded = decode(file, "mask")?.into_rgb8();
    let (width, height) = decoded.dimensions();
    Ok(RgbImage { width: width as usize, height: height as usize, data: decoded.into_raw() }.to_gray())
}

fn decode(file: &[u8], name: &'static str) -> Result<DynamicImage, DecodeError> {
    if file.len() > MAX_INPUT_BYTES {
        return Err(DecodeError::TooLarge { name });
    }
    let format = image::guess_format(file).ok().filter(|format| FORMATS.contains(format)).ok_or(DecodeError::Format { name })?;
    let damaged = |source| match source {
        ImageError::Limits(_) => DecodeError::TooLarge { name },
        source => DecodeError::Damaged { name, source },
    };
    let mut reader = ImageReader::with_format(Cursor::new(file), format);
    let mut limits = image::Limits::no_limits();
    limits.max_image_width = Some(MAX_INPUT_SIDE);
    limits.max_image_height = Some(MAX_INPUT_SIDE);
    limits.max_alloc = Some(MAX_DECODER_BYTES);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(damaged)?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > MAX_INPUT_PIXELS {
        return Err(DecodeError::TooLarge { name });
    }
    // A picture whose orientation cannot be read is shown as it lies, as viewers do.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut decoded = DynamicImage::from_decoder(decoder).map_err(damaged)?;
    decoded.apply_orientation(orientation);
    Ok(decoded)
}

#[cfg(test)]
mod tests {
    use image::{ExtendedColorType, ImageBuffer, ImageEncoder, Luma, LumaA, Rgb, Rgba, codecs};

    use super::*;

    fn encoded(picture: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
        let mut file = Cursor::new(Vec::new());
        picture.into().write_to(&mut file, format).unwrap();
        file.into_inner()
    }

    /// A PNG's header with these sides and nothing behind it that would fill them.
    fn png_bomb(width: u32, height: u32) -> Vec<u8> {
        let mut file = encoded(ImageBuffer::from_pixel(1, 1, Luma([0_u8])), ImageFormat::Png);
        file[16..20].copy_from_slice(&width.to_be_bytes());
        file[20..24].copy_from_slice(&height.to_be_bytes());
        let checksum = png_checksum(&file[12..29]);
        file[29..33].copy_from_slice(&checksum.to_be_bytes());
        file
    }

    fn png_checksum(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0_u32, |sum, byte| {
            (0..8).fold(sum ^ u32::from(*byte), |sum, _| if sum & 1 == 1 { (sum >> 1) ^ 0xedb8_8320 } else { sum >> 1 })
        })
    }

    /// A JPEG of 16×8 pixels, left half red and right half blue, that says which way up it is.
    fn jpeg(orientation: u8) -> Vec<u8> {
        let picture = ImageBuffer::from_fn(16, 8, |x, _| if x < 8 { Rgb([255_u8, 0, 0]) } else { Rgb([0, 0, 255]) });
        let mut file = Vec::new();
        let mut encoder = codecs::jpeg::JpegEncoder::new_with_quality(&mut file, 100);
        // Little-endian TIFF: one entry, tag 0x112 (orientation), one short.
        let exif = [b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".as_slice(), &[orientation, 0, 0, 0], &[0; 4]].concat();
        encoder.set_exif_metadata(exif).unwrap();
        encoder.write_image(&picture, 16, 8, ExtendedColorType::Rgb8).unwrap();
        file
    }

    #[test]
    fn every_format_and_depth_gives_eight_bits_of_three_channels() {
        let rgb: DynamicImage = ImageBuffer::from_pixel(3, 2, Rgb([200_u8, 100, 50])).into();
        for format in [ImageFormat::Png, ImageFormat::WebP] {
            let read = image(&encoded(rgb.clone(), format)).unwrap();
            assert_eq!((read.width, read.height, &read.data[..3]), (3, 2, &[200, 100, 50][..]), "{format:?}");
        }
        let deep: DynamicImage = ImageBuffer::from_pixel(1, 1, Rgb([0xc8c8_u16, 0, 0xffff])).into();
        assert_eq!(image(&encoded(deep, ImageFormat::Png)).unwrap().data, [200, 0, 255]);
        let gray: DynamicImage = ImageBuffer::from_pixel(1, 1, Luma([9_u8])).into();
        assert_eq!(image(&encoded(gray, ImageFormat::Png)).unwrap().data, [9, 9, 9]);
    }

    #[test]
    fn transparency_lies_on_white() {
        let faint: DynamicImage = ImageBuffer::from_pixel(1, 1, Rgba([0_u8, 100, 200, 51])).into();
        assert_eq!(image(&encoded(faint, ImageFormat::Png)).unwrap().data, [204, 224, 244]);
        let nothing: DynamicImage = ImageBuffer::from_pixel(1, 1, LumaA([0_u8, 0])).into();
        assert_eq!(image(&encoded(nothing.clone(), ImageFormat::Png)).unwrap().data, [255, 255, 255]);
        assert_eq!(mask(&encoded(nothing, ImageFormat::Png)).unwrap().data, [0]);
    }

    #[test]
    fn picture_is_turned_as_its_exif_orientation_says() {
        let is_red = |image: &RgbImage, at: usize| image.data[at * 3] > 200 && image.data[at * 3 + 2] < 50;
        let upright = image(&jpeg(1)).unwrap();
        assert_eq!((upright.width, upright.height), (16, 8));
        assert!(is_red(&upright, 0) && !is_red(&upright, 15));
        let turned = image(&jpeg(6)).unwrap();
        assert_eq!((turned.width, turned.height), (8, 16));
        assert!(is_red(&turned, 0) && is_red(&turned, 7) && !is_red(&turned, 8 * 15));
        let mirrored = image(&jpeg(2)).unwrap();
        assert!(!is_red(&mirrored, 0) && is_red(&mirrored, 15));
        assert_eq!((mask(&jpeg(6)).unwrap().width, image(&jpeg(99)).unwrap().width), (8, 16));
    }

    #[test]
    fn bombs_are_refused_by_what_their_header_says() {
        for (width, height) in [(50_000, 50_000), (16_385, 1), (1, 16_385), (4097, 4096)] {
            let refused = image(&png_bomb(width, height));
            assert!(matches!(refused, Err(DecodeError::TooLarge { .. })), "{width}×{height}: {refused:?}");
        }
        // The same file with sides that may be is only damaged.
        assert!(matches!(image(&png_bomb(4096, 4096)), Err(DecodeError::Damaged { .. })));
        assert!(matches!(image(&vec![0; MAX_INPUT_BYTES + 1]), Err(DecodeError::TooLarge { .. })));
    }

    #[test]
    fn what_is_no_picture_is_refused_in_words() {
        for file in [&b""[..], b"GIF89a\x01\0\x01\0", b"<svg/>", b"BM\0\0", &[0xff; 64]] {
            let refused = image(file).unwrap_err();
            assert!(refused.to_string().contains("PNG, JPEG or WebP"), "{refused}");
        }
        let whole = encoded(ImageBuffer::from_fn(64, 64, |x, y| Luma([(x * y) as u8])), ImageFormat::Png);
        assert!(matches!(image(&whole[..whole.len() / 2]), Err(DecodeError::Damaged { .. })));
    }
}
