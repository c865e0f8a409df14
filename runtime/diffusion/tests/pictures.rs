//! Pictures change size, blur and lose their colours to the same bytes as in Pillow, which diffusers prepares them with.

use diffusion::picture::{GrayImage, RgbImage};
use serde::Deserialize;

#[derive(Deserialize)]
struct Reference {
    resized: Vec<Case>,
    resized_gray: Vec<Case>,
    blurred: Vec<Case>,
    gray: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    width: usize,
    height: usize,
    /// Bytes in hex.
    source: String,
    new_width: usize,
    new_height: usize,
    /// Bytes in hex.
    made: String,
    #[serde(default)]
    radius: u32,
}

impl Case {
    fn rgb(&self) -> RgbImage {
        RgbImage { width: self.width, height: self.height, data: bytes(&self.source) }
    }

    fn gray(&self) -> GrayImage {
        GrayImage { width: self.width, height: self.height, data: bytes(&self.source) }
    }

    fn compare(&self, made: &[u8]) {
        let (name, expected) = (format!("{}×{} to {}×{}", self.width, self.height, self.new_width, self.new_height), bytes(&self.made));
        assert!(made == expected, "{name}, radius {}: {made:?} is not {expected:?}", self.radius);
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().as_chunks::<2>().0;
    digits.iter().map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn reference() -> Reference {
    serde_json::from_str(include_str!("pictures/reference.json")).unwrap()
}

#[test]
fn sizes_change_to_the_reference_bytes() {
    for case in reference().resized {
        case.compare(&case.rgb().resized(case.new_width, case.new_height).data);
    }
    for case in reference().resized_gray {
        case.compare(&case.gray().resized(case.new_width, case.new_height).data);
    }
}

#[test]
fn blur_gives_the_reference_bytes() {
    for case in reference().blurred {
        case.compare(&case.gray().blurred(case.radius).data);
    }
}

#[test]
fn brightness_is_the_references() {
    for case in reference().gray {
        case.compare(&case.rgb().to_gray().data);
    }
}
