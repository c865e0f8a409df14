//! What a JPEG file of quality 75 with halved colours leaves of a picture, without the file: all that loses anything is computed, and
//! entropy coding, which does not, is left out.
//!
//! The arithmetic is that of libjpeg's default ("islow") in whole numbers, which every Pillow has, so that the same bytes come out: the
//! discrete cosine transform of Loeffler, Ligtenberg and Moschytz (1989), the tables of ITU-T T.81 annex K, and colours that come back
//! by its triangle filter.

use crate::picture::RgbImage;

const QUALITY: i32 = 75;
/// Samples a side of what is transformed at once.
const BLOCK: usize = 8;
/// Bits behind the point in colour conversions.
const COLOUR_BITS: u32 = 16;
/// Bits behind the point in the transform's constants, and in values between its two passes.
const CONST_BITS: u32 = 13;
const PASS_BITS: u32 = 2;

#[rustfmt::skip]
const BRIGHTNESS_TABLE: [i32; 64] = [
    16, 11, 10, 16, 24, 40, 51, 61,
    12, 12, 14, 19, 26, 58, 60, 55,
    14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62,
    18, 22, 37, 56, 68, 109, 103, 77,
    24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101,
    72, 92, 95, 98, 112, 100, 103, 99,
];
#[rustfmt::skip]
const COLOUR_TABLE: [i32; 64] = [
    17, 18, 24, 47, 99, 99, 99, 99,
    18, 21, 26, 66, 99, 99, 99, 99,
    24, 26, 56, 99, 99, 99, 99, 99,
    47, 66, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
];

/// One channel.
struct Plane {
    width: usize,
    data: Vec<u8>,
}

/// `image` as it comes out of such a file. Its sides must be multiples of 16.
pub(super) fn through_jpeg(image: &RgbImage) -> RgbImage {
    let [brightness, blue, red] = planes(image);
    let brightness = brightness.quantised(&BRIGHTNESS_TABLE);
    let [blue, red] = [blue, red].map(|colour| colour.halved().quantised(&COLOUR_TABLE).doubled());
    let pixels = brightness.data.iter().zip(&blue.data).zip(&red.data);
    let data = pixels.flat_map(|((brightness, blue), red)| rgb(*brightness, *blue, *red)).collect();
    RgbImage { width: image.width, height: image.height, data }
}

/// Brightness, and how much bluer and redder than gray.
fn planes(image: &RgbImage) -> [Plane; 3] {
    let half = 1 << (COLOUR_BITS - 1);
    let middle = (128 << COLOUR_BITS) + half - 1;
    let weights = [([19_595, 38_470, 7_471], half), ([-11_059, -21_709, 32_768], middle), ([32_768, -27_439, -5_329], middle)];
    weights.map(|([from_red, from_green, from_blue], offset)| {
        let value = |[red, green, blue]: &[u8; 3]| {
            let sum = i32::from(*red) * from_red + i32::from(*green) * from_green + i32::from(*blue) * from_blue;
            ((sum + offset) >> COLOUR_BITS) as u8
        };
        Plane { width: image.width, data: image.data.as_chunks::<3>().0.iter().map(value).collect() }
    })
}

fn rgb(brightness: u8, blue: u8, red: u8) -> [u8; 3] {
    let half = 1 << (COLOUR_BITS - 1);
    let [brightness, blue, red] = [i32::from(brightness), i32::from(blue) - 128, i32::from(red) - 128];
    let differences = [91_881 * red, -22_554 * blue - 46_802 * red, 116_130 * blue];
    differences.map(|difference| clamped(brightness + ((difference + half) >> COLOUR_BITS)))
}

impl Plane {
    /// Four samples become one; what is lost in rounding leans up and down in turn.
    fn halved(&self) -> Self {
        let rows: Vec<&[u8]> = self.data.chunks_exact(self.width).collect();
        let data = rows.as_chunks::<2>().0.iter().flat_map(|[upper, lower]| {
            let pairs = upper.as_chunks::<2>().0.iter().zip(lower.as_chunks::<2>().0);
            pairs.enumerate().map(|(at, ([a, b], [c, d]))| {
                let lean = 1 + at as u32 % 2;
                let sum: u32 = [a, b, c, d].into_iter().map(|value| u32::from(*value)).sum();
                ((sum + lean) >> 2) as u8
            })
        });
        Self { width: self.width / 2, data: data.collect() }
    }

    /// One sample becomes four: three quarters of the nearest and a quarter of the next, in both directions.
    fn doubled(&self) -> Self {
        let rows: Vec<&[u8]> = self.data.chunks_exact(self.width).collect();
        let mut data = Vec::with_capacity(self.data.len() * 4);
        for (at, row) in rows.iter().enumerate() {
            for neighbour in [at.saturating_sub(1), (at + 1).min(rows.len() - 1)] {
                let sums: Vec<u32> = row.iter().zip(rows[neighbour]).map(|(near, far)| u32::from(*near) * 3 + u32::from(*far)).collect();
                for (column, sum) in sums.iter().enumerate() {
                    let before = sums[column.saturating_sub(1)];
                    let after = sums[(column + 1).min(sums.len() - 1)];
                    data.push(((sum * 3 + before + 8) >> 4) as u8);
                    data.push(((sum * 3 + after + 7) >> 4) as u8);
                }
            }
        }
        Self { width: self.width * 2, data }
    }

    /// Each block there and back through the transform, its coefficients rounded to multiples of the table's steps.
    fn quantised(mut self, table: &[i32; 64]) -> Self {
        let steps = table.map(|step| ((step * (200 - 2 * QUALITY) + 50) / 100).clamp(1, 255));
        let width = self.width;
        for top in (0..self.data.len() / width).step_by(BLOCK) {
            for left in (0..width).step_by(BLOCK) {
                let place = |at: usize| (top + at / BLOCK) * width + left + at % BLOCK;
                let samples = std::array::from_fn(|at| i32::from(self.data[place(at)]) - 128);
                let coefficients = both_ways(samples, forward, CONST_BITS - PASS_BITS, CONST_BITS + PASS_BITS, false);
                let rounded = std::array::from_fn(|at| rounded_to_step(coefficients[at], steps[at]));
                let samples = both_ways(rounded, inverse, CONST_BITS - PASS_BITS, CONST_BITS + PASS_BITS + 3, true);
                for (at, sample) in samples.into_iter().enumerate() {
                    self.data[place(at)] = clamped(sample + 128);
                }
            }
        }
        self
    }
}

/// Coefficients come eight times as large as they are.
fn rounded_to_step(coefficient: i32, step: i32) -> i32 {
    let divisor = step * 8;
    (coefficient.abs() + divisor / 2) / divisor * coefficient.signum() * step
}

/// A transform of 8 values, over rows and over columns.
fn both_ways(
    mut block: [i32; 64],
    transform: fn([i32; BLOCK], u32) -> [i32; BLOCK],
    first_shift: u32,
    last_shift: u32,
    columns_first: bool,
) -> [i32; 64] {
    for (pass, shift) in [first_shift, last_shift].into_iter().enumerate() {
        let by_columns = (pass == 0) == columns_first;
        for line in 0..BLOCK {
            let place = |at: usize| if by_columns { at * BLOCK + line } else { line * BLOCK + at };
            let made = transform(std::array::from_fn(|at| block[place(at)]), shift);
            for (at, value) in made.into_iter().enumerate() {
                block[place(at)] = value;
            }
        }
    }
    block
}

/// Samples to coefficients.
fn forward(d: [i32; BLOCK], shift: u32) -> [i32; BLOCK] {
    let [s0, s1, s2, s3] = std::array::from_fn(|at| d[at] + d[7 - at]);
    let [d0, d1, d2, d3] = std::array::from_fn(|at| d[at] - d[7 - at]);
    let (outer, inner) = (s0 + s3, s1 + s2);
    let (outer_difference, inner_difference) = (s0 - s3, s1 - s2);
    let turn = (outer_difference + inner_difference) * 4433;
    let [o7, o5, o3, o1] = odd([d3, d2, d1, d0]);
    [
        (outer + inner) << CONST_BITS,
        o1,
        turn + outer_difference * 6270,
        o3,
        (outer - inner) << CONST_BITS,
        o5,
        turn - inner_difference * 15_137,
        o7,
    ]
    .map(|value| descaled(value, shift))
}

/// Coefficients to samples.
fn inverse(d: [i32; BLOCK], shift: u32) -> [i32; BLOCK] {
    let turn = (d[2] + d[6]) * 4433;
    let (near, far) = (turn + d[2] * 6270, turn - d[6] * 15_137);
    let (sum, difference) = ((d[0] + d[4]) << CONST_BITS, (d[0] - d[4]) << CONST_BITS);
    let even = [sum + near, difference + far, difference - far, sum - near];
    let [o3, o2, o1, o0] = odd([d[7], d[5], d[3], d[1]]);
    let odd = [o0, o1, o2, o3];
    std::array::from_fn(|at| descaled(if at < 4 { even[at] + odd[at] } else { even[7 - at] - odd[7 - at] }, shift))
}

/// The rotations of the odd half, the same in both directions.
fn odd([a, b, c, d]: [i32; 4]) -> [i32; 4] {
    let all = (a + c + b + d) * 9633;
    let (a_d, b_c) = ((a + d) * -7373, (b + c) * -20_995);
    let (a_c, b_d) = ((a + c) * -16_069 + all, (b + d) * -3196 + all);
    [a * 2446 + a_d + a_c, b * 16_819 + b_c + b_d, c * 25_172 + b_c + a_c, d * 12_299 + a_d + b_d]
}

fn descaled(value: i32, bits: u32) -> i32 {
    (value + (1 << (bits - 1))) >> bits
}

fn clamped(value: i32) -> u8 {
    value.clamp(0, 255) as u8
}
