//! What stands in the place of an image that is not safe for work: itself beyond recognition, or nothing of it. Pure.

use diffusion::picture::RgbImage;
use runtime_api::SafetyStyle;

use crate::picture::Pixels;

/// Squares along the longer side of a pixelated image.
const SQUARES: usize = 12;
/// A blur's deviation is this part of the longer side.
const BLUR_PART: usize = 10;
/// What is left of the brightness behind the words.
const DARKNESS: u16 = 3;
/// The words, on as few lines as they fit on.
const ONE_LINE: [&str; 1] = ["SENSITIVE CONTENT"];
const TWO_LINES: [&str; 2] = ["SENSITIVE", "CONTENT"];
/// Dots of a letter, and from one to the next, across and down.
const LETTER: [usize; 2] = [5, 7];
const PITCH: [usize; 2] = [6, 10];
/// Of the width, the words take at most nine tenths.
const TEXT_PART: [usize; 2] = [9, 10];

/// `pixels` in the style.
pub(super) fn drawn_over(pixels: Pixels, style: SafetyStyle) -> Pixels {
    match style {
        SafetyStyle::Black => Pixels { rgb: vec![0; pixels.rgb.len()], ..pixels },
        SafetyStyle::Blur => blurred(pixels),
        SafetyStyle::Pixelate => pixelated(pixels),
        SafetyStyle::SensitiveContentText => {
            let mut made = blurred(pixels);
            made.rgb.iter_mut().for_each(|value| *value = (u16::from(*value) / DARKNESS) as u8);
            write_words(&mut made);
            made
        }
    }
}

fn sides(pixels: &Pixels) -> [usize; 2] {
    [pixels.width as usize, pixels.height as usize]
}

fn blurred(pixels: Pixels) -> Pixels {
    let [width, height] = sides(&pixels);
    // Sides are far below 32 bits.
    let radius = (width.max(height) / BLUR_PART).max(1) as u32;
    let image = RgbImage { width, height, data: pixels.rgb }.blurred(radius);
    Pixels { rgb: image.data, ..pixels }
}

fn pixelated(mut pixels: Pixels) -> Pixels {
    let [width, height] = sides(&pixels);
    let square = width.max(height).div_ceil(SQUARES).max(1);
    for top in (0..height).step_by(square) {
        for left in (0..width).step_by(square) {
            let (bottom, right) = ((top + square).min(height), (left + square).min(width));
            let places = || (top..bottom).flat_map(move |row| (left..right).map(move |column| (row * width + column) * 3));
            let count = ((bottom - top) * (right - left)) as u64;
            for channel in 0..3 {
                let sum: u64 = places().map(|at| u64::from(pixels.rgb[at + channel])).sum();
                // The mean of bytes is one.
                let mean = (sum / count) as u8;
                places().for_each(|at| pixels.rgb[at + channel] = mean);
            }
        }
    }
    pixels
}

/// White, in the middle; nothing where there is no room for a dot a pixel.
fn write_words(pixels: &mut Pixels) {
    let [width, height] = sides(pixels);
    let dots = |lines: &[&str]| lines.iter().map(|line| line.len() * PITCH[0] - 1).max().unwrap_or(1);
    let scale = |lines: &[&str]| {
        let across = width * TEXT_PART[0] / TEXT_PART[1] / dots(lines);
        across.min(height / (lines.len() * PITCH[1]))
    };
    let lines: &[&str] = if scale(&ONE_LINE) > 0 { &ONE_LINE } else { &TWO_LINES };
    let scale = scale(lines);
    if scale == 0 {
        return;
    }
    let first_row = (height - (lines.len() * PITCH[1] - (PITCH[1] - LETTER[1])) * scale) / 2;
    for (number, line) in lines.iter().enumerate() {
        let first_column = (width - (line.len() * PITCH[0] - 1) * scale) / 2;
        for (place, letter) in line.bytes().enumerate() {
            let (left, top) = (first_column + place * PITCH[0] * scale, first_row + number * PITCH[1] * scale);
            for (row, dots) in glyph(letter).into_iter().enumerate() {
                for column in (0..LETTER[0]).filter(|column| dots >> (LETTER[0] - 1 - column) & 1 == 1) {
                    fill(pixels, left + column * scale, top + row * scale, scale);
                }
            }
        }
    }
}

fn fill(pixels: &mut Pixels, left: usize, top: usize, side: usize) {
    let width = pixels.width as usize;
    for row in top..top + side {
        let start = (row * width + left) * 3;
        pixels.rgb[start..start + side * 3].fill(u8::MAX);
    }
}

/// The letters that the words need: a row a number, the leftmost of five dots highest.
fn glyph(letter: u8) -> [u8; LETTER[1]] {
    match letter {
        b'C' => [0b01110, 0b10001, 0b10000, 0b10000, 0b10000, 0b10001, 0b01110],
        b'E' => [0b11111, 0b10000, 0b10000, 0b11110, 0b10000, 0b10000, 0b11111],
        b'I' => [0b01110, 0b00100, 0b00100, 0b00100, 0b00100, 0b00100, 0b01110],
        b'N' => [0b10001, 0b11001, 0b10101, 0b10101, 0b10101, 0b10011, 0b10001],
        b'O' => [0b01110, 0b10001, 0b10001, 0b10001, 0b10001, 0b10001, 0b01110],
        b'S' => [0b01111, 0b10000, 0b10000, 0b01110, 0b00001, 0b00001, 0b11110],
        b'T' => [0b11111, 0b00100, 0b00100, 0b00100, 0b00100, 0b00100, 0b00100],
        b'V' => [0b10001, 0b10001, 0b10001, 0b10001, 0b10001, 0b01010, 0b00100],
        _ => [0; LETTER[1]],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stripes of one pixel, black and white, behind a bright half.
    fn stripes(width: u32, height: u32) -> Pixels {
        let value = |at: u32| if (at % width).is_multiple_of(2) { 0 } else { 240 };
        Pixels { width, height, rgb: (0..width * height).flat_map(|at| [value(at), value(at) / 2, 60]).collect() }
    }

    fn white(pixels: &Pixels) -> usize {
        pixels.rgb.as_chunks::<3>().0.iter().filter(|pixel| **pixel == [u8::MAX; 3]).count()
    }

    #[test]
    fn nothing_is_left_of_what_was_fine_and_the_size_stays() {
        for (width, height) in [(64, 64), (8, 8), (512, 24), (24, 512), (200, 304)] {
            for style in SafetyStyle::ALL {
                let made = drawn_over(stripes(width, height), style);
                assert_eq!((made.width, made.height, made.rgb.len()), (width, height, (width * height * 3) as usize));
                if style == SafetyStyle::SensitiveContentText || (width, height) == (8, 8) {
                    continue;
                }
                // Neighbours in the middle hardly differ, where they were black and white.
                let at = ((height / 2 * width + width / 2) * 3) as usize;
                assert!(made.rgb[at].abs_diff(made.rgb[at + 3]) < 16, "{style:?} of {width}×{height}");
            }
        }
    }

    #[test]
    fn black_is_black_and_squares_are_means() {
        assert!(drawn_over(stripes(64, 64), SafetyStyle::Black).rgb.iter().all(|&value| value == 0));
        let squares = drawn_over(stripes(24, 24), SafetyStyle::Pixelate);
        assert!(squares.rgb.as_chunks::<3>().0.iter().all(|pixel| *pixel == [120, 60, 60]), "{:?}", &squares.rgb[..12]);
    }

    #[test]
    fn words_are_written_where_there_is_room() {
        let dots =
            |text: &str| text.bytes().map(|letter| glyph(letter).iter().map(|row| row.count_ones() as usize).sum::<usize>()).sum::<usize>();
        let all = dots("SENSITIVECONTENT");
        for (width, height, scale) in [(56, 56, 0), (64, 64, 1), (128, 64, 1), (512, 512, 4), (1024, 96, 9)] {
            let made = drawn_over(stripes(width, height), SafetyStyle::SensitiveContentText);
            assert_eq!(white(&made), all * scale * scale, "{width}×{height}");
        }
    }

    #[test]
    fn every_letter_of_the_words_has_a_shape_of_its_own() {
        let letters: std::collections::BTreeSet<u8> = ONE_LINE[0].bytes().collect();
        let shapes: std::collections::BTreeSet<[u8; 7]> = letters.iter().map(|letter| glyph(*letter)).collect();
        assert_eq!(letters.len(), shapes.len());
        assert_eq!(TWO_LINES.join(" "), ONE_LINE[0]);
    }
}
