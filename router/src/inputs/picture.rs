//! What a file shows without drawing it: format and size from its header, by its own bytes and never by what its sender says of it; and
//! the one conversion that is made here, from a transparent area to a mask. Pure.

use std::io::Cursor;

use bytes::Bytes;
use image::metadata::Orientation;
use image::{DynamicImage, GrayImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Luma};

use super::INPUT_LIMIT_BYTES;

/// The longest side of a picture, in pixels.
const SIDE_LIMIT: u32 = 16_384;
/// The most pixels of a picture: 4096×4096.
const PIXELS_LIMIT: u64 = 1 << 24;
/// Bytes that reading may take: four channels of 16 bits of the largest picture, twice.
const DECODER_LIMIT_BYTES: u64 = PIXELS_LIMIT * 16;
/// What replicas read, too.
const FORMATS: [ImageFormat; 3] = [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP];

/// Pixels of a picture as it is meant to be seen: turned as its EXIF orientation says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub width: u32,
    pub height: u32,
}

/// Why a file is no picture for us. The text follows the field's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PictureError {
    #[error("is no picture that is read here: a PNG, JPEG or WebP file is needed")]
    Format,
    #[error("is too large: at most {SIDE_LIMIT} pixels a side, {PIXELS_LIMIT} pixels in all and {INPUT_LIMIT_BYTES} bytes")]
    TooLarge,
    #[error("is a damaged file")]
    Damaged,
    #[error("has no transparent pixels: those are the ones that are drawn anew")]
    NothingTransparent,
}

/// The size of the picture that a file holds. Only its header is read: no pixel is inflated.
pub(super) fn size(file: &[u8]) -> Result<Size, PictureError> {
    let mut decoder = decoder(file)?;
    let (width, height) = decoder.dimensions();
    // A picture whose orientation cannot be read is shown as it lies, as viewers do.
    let is_turned = matches!(
        decoder.orientation().unwrap_or(Orientation::NoTransforms),
        Orientation::Rotate90 | Orientation::Rotate270 | Orientation::Rotate90FlipH | Orientation::Rotate270FlipH
    );
    Ok(if is_turned { Size { width: height, height: width } } else { Size { width, height } })
}

/// A mask, as a PNG that is white where the file is transparent and black where it is opaque.
pub(super) fn mask_of_transparency(file: &[u8]) -> Result<Bytes, PictureError> {
    let mut decoder = decoder(file)?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut picture = DynamicImage::from_decoder(decoder).map_err(|error| refused(&error))?;
    picture.apply_orientation(orientation);
    let picture = picture.into_rgba8();
    let mask = GrayImage::from_fn(picture.width(), picture.height(), |x, y| Luma([u8::MAX - picture.get_pixel(x, y).0[3]]));
    if mask.pixels().all(|pixel| pixel.0[0] == 0) {
        return Err(PictureError::NothingTransparent);
    }
    let mut png = Cursor::new(Vec::new());
    mask.write_to(&mut png, ImageFormat::Png).map_err(|error| refused(&error))?;
    Ok(png.into_inner().into())
}

fn decoder(file: &[u8]) -> Result<impl ImageDecoder + '_, PictureError> {
    if file.len() > INPUT_LIMIT_BYTES {
        return Err(PictureError::TooLarge);
    }
    let format = image::guess_format(file).ok().filter(|format| FORMATS.contains(format)).ok_or(PictureError::Format)?;
    let mut reader = ImageReader::with_format(Cursor::new(file), format);
    let mut limits = image::Limits::no_limits();
    limits.max_image_width = Some(SIDE_LIMIT);
    limits.max_image_height = Some(SIDE_LIMIT);
    limits.max_alloc = Some(DECODER_LIMIT_BYTES);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(|error| refused(&error))?;
    let (width, height) = decoder.dimensions();
    if width > SIDE_LIMIT || height > SIDE_LIMIT || u64::from(width) * u64::from(height) > PIXELS_LIMIT {
        return Err(PictureError::TooLarge);
    }
    if width == 0 || height == 0 { Err(PictureError::Damaged) } else { Ok(decoder) }
}

fn refused(error: &ImageError) -> PictureError {
    if matches!(error, ImageError::Limits(_)) { PictureError::TooLarge } else { PictureError::Damaged }
}

#[cfg(test)]
pub(crate) mod tests {
    use image::{ExtendedColorType, ImageEncoder, Rgba, RgbaImage};

    use super::*;

    pub(crate) fn png(width: u32, height: u32) -> Bytes {
        encode(&RgbaImage::from_pixel(width, height, Rgba([200, 30, 30, 255])))
    }

    fn encode(picture: &RgbaImage) -> Bytes {
        let mut bytes = Cursor::new(Vec::new());
        picture.write_to(&mut bytes, ImageFormat::Png).unwrap();
        bytes.into_inner().into()
    }

    /// A PNG that says it is this large, with hardly any data.
    pub(crate) fn bomb(width: u32, height: u32) -> Bytes {
        let mut bytes = png(1, 1).to_vec();
        bytes[16..20].copy_from_slice(&width.to_be_bytes());
        bytes[20..24].copy_from_slice(&height.to_be_bytes());
        let checksum = crc32(&bytes[12..29]);
        bytes[29..33].copy_from_slice(&checksum.to_be_bytes());
        bytes.into()
    }

    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(u32::MAX, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
        })
    }

    fn jpeg(width: u32, height: u32, orientation: u16) -> Bytes {
        let mut bytes = Vec::new();
        let pixels = vec![90; (width * height * 3) as usize];
        let mut encoder = image::codecs::jpeg::JpegEncoder::new(&mut bytes);
        let exif = [b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".as_slice(), &orientation.to_le_bytes(), &[0; 6]].concat();
        encoder.set_exif_metadata(exif).unwrap();
        encoder.write_image(&pixels, width, height, ExtendedColorType::Rgb8).unwrap();
        bytes.into()
    }

    fn webp(width: u32, height: u32) -> Bytes {
        let mut bytes = Vec::new();
        let pixels = vec![90; (width * height * 3) as usize];
        let encoder = image::codecs::webp::WebPEncoder::new_lossless(&mut bytes);
        encoder.write_image(&pixels, width, height, ExtendedColorType::Rgb8).unwrap();
        bytes.into()
    }

    #[test]
    fn size_is_read_from_every_format_and_turned_as_its_orientation_says() {
        assert_eq!(size(&png(5, 7)), Ok(Size { width: 5, height: 7 }));
        assert_eq!(size(&webp(5, 7)), Ok(Size { width: 5, height: 7 }));
        for (orientation, width, height) in [(1, 5, 7), (3, 5, 7), (5, 7, 5), (6, 7, 5), (8, 7, 5), (99, 5, 7)] {
            assert_eq!(size(&jpeg(5, 7, orientation)), Ok(Size { width, height }), "{orientation}");
        }
    }

    #[test]
    fn size_needs_no_pixel() {
        let whole = png(64, 64);
        let header = &whole[..whole.windows(4).position(|window| window == b"IDAT").unwrap() + 4];
        assert_eq!(size(header), Ok(Size { width: 64, height: 64 }));
    }

    #[test]
    fn bombs_are_refused_by_their_header() {
        for (width, height) in [(50_000, 50_000), (16_385, 1), (1, 16_385), (4097, 4097), (u32::MAX >> 1, u32::MAX >> 1)] {
            assert_eq!(size(&bomb(width, height)), Err(PictureError::TooLarge), "{width}×{height}");
            assert_eq!(mask_of_transparency(&bomb(width, height)), Err(PictureError::TooLarge), "{width}×{height}");
        }
        assert_eq!(size(&bomb(4096, 4096)), Ok(Size { width: 4096, height: 4096 }));
    }

    #[test]
    fn what_is_no_picture_is_told_from_one_that_is_damaged() {
        for file in [b"".as_slice(), b"<html>", b"GIF89a\x01\0\x01\0", b"%PDF-1.7", b"BM", b"\x89PNG"] {
            assert_eq!(size(file), Err(PictureError::Format), "{file:?}");
        }
        for file in [b"\x89PNG\r\n\x1a\n".as_slice(), b"\xff\xd8\xff\xe0", b"RIFF\x10\0\0\0WEBPVP8 ", &bomb(0, 5)] {
            assert_eq!(size(file), Err(PictureError::Damaged), "{file:?}");
        }
        assert_eq!(mask_of_transparency(&png(8, 8)[..60]), Err(PictureError::Damaged));
    }

    #[test]
    fn transparent_is_white_and_opaque_is_black() {
        let picture = RgbaImage::from_fn(3, 1, |x, _| Rgba([9, 9, 9, [255, 0, 100][x as usize]]));
        let mask = image::load_from_memory(&mask_of_transparency(&encode(&picture)).unwrap()).unwrap();
        assert_eq!(mask, DynamicImage::ImageLuma8(GrayImage::from_raw(3, 1, vec![0, 255, 155]).unwrap()));
        for opaque in [png(4, 4), jpeg(4, 4, 1)] {
            assert_eq!(mask_of_transparency(&opaque), Err(PictureError::NothingTransparent));
        }
    }
}
