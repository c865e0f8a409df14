//! Pictures reach the safety classifier's network as the same bytes that Pillow and a JPEG file leave of them.

use diffusion::picture::RgbImage;
use diffusion::safety::prepared;
use serde::Deserialize;
use sha2::{Digest, Sha256};

#[derive(Deserialize)]
struct Reference {
    prepared: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    width: usize,
    height: usize,
    /// The first pixels of a row in the middle, in hex.
    row: String,
    /// Of all bytes, in hex.
    sha256: String,
}

/// As `make_reference.py` draws it.
fn picture(width: usize, height: usize) -> RgbImage {
    let pixel = |at: usize| {
        let (row, column) = (at / width, at % width);
        let red = column * 255 / (width - 1).max(1);
        let green = (row * 7 + column * 13) % 256;
        let blue = if (row / 3 + column / 5) % 2 == 0 { 255 } else { row * 255 / (height - 1).max(1) };
        [red, green, blue].map(|value| value as u8)
    };
    RgbImage { width, height, data: (0..width * height).flat_map(pixel).collect() }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn pictures_are_prepared_to_the_reference_bytes() {
    let reference: Reference = serde_json::from_str(include_str!("safety/reference.json")).unwrap();
    for Case { width, height, row, sha256 } in reference.prepared {
        let made = prepared(&picture(width, height));
        assert_eq!((made.width, made.height), (224, 224));
        assert_eq!(hex(&made.data[112 * 224 * 3..][..16 * 3]), row, "{width}×{height}");
        assert_eq!(hex(&Sha256::digest(&made.data)), sha256, "{width}×{height}");
    }
}

#[test]
fn an_empty_picture_stays_empty() {
    assert!(prepared(&RgbImage { width: 0, height: 5, data: Vec::new() }).data.is_empty());
}
