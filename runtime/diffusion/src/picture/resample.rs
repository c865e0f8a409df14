//! Resampling, bit for bit as Pillow's `Image.resize`: weights in fixed point, one pass a direction, bytes between, in
//! the order that Pillow 13 chooses.

use std::f64::consts::PI;

/// Lobes of the Lanczos kernel on each side.
const LOBES: f64 = 3.0;
/// Bits of a weight behind the point: an i32 then holds any sum of bytes, with two bits for the kernel's overshoot.
const PRECISION_BITS: u32 = 32 - 8 - 2;

/// How much a neighbour counts, by its distance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kernel {
    Lanczos,
    Bilinear,
}

impl Kernel {
    /// The distance from which on nothing counts.
    fn support(self) -> f64 {
        match self {
            Self::Lanczos => LOBES,
            Self::Bilinear => 1.0,
        }
    }

    fn at(self, x: f64) -> f64 {
        match self {
            Self::Lanczos => lanczos(x),
            Self::Bilinear => (1.0 - x.abs()).max(0.0),
        }
    }
}

/// What one output position takes from the input: weights from `first` on.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

/// `data` of `CHANNELS` interleaved bytes, from [width, height] to [width, height]. An empty side gives an empty picture.
pub(super) fn resized<const CHANNELS: usize>(data: &[u8], from: [usize; 2], to: [usize; 2], kernel: Kernel) -> Vec<u8> {
    let ([width, height], [new_width, new_height]) = (from, to);
    if [width, height, new_width, new_height].contains(&0) {
        return Vec::new();
    }
    let across = |data: Vec<u8>| match new_width == width {
        true => data,
        false => rows::<CHANNELS>(&data, width, &taps(width, new_width, kernel)),
    };
    let down = |data: Vec<u8>, width| match new_height == height {
        true => data,
        false => columns(&data, width * CHANNELS, &taps(height, new_height, kernel)),
    };
    if begins_with_columns(from, to) { across(down(data.to_vec(), width)) } else { down(across(data.to_vec()), new_width) }
}

/// In which order the two passes are made decides how their rounding adds up. Pillow begins with the direction that leaves less to do.
fn begins_with_columns([width, height]: [usize; 2], [new_width, new_height]: [usize; 2]) -> bool {
    let lost_across = width as i64 - new_width as i64;
    let lost_down = height as i64 - new_height as i64;
    lost_down > 0 && lost_down > 2 * lost_across
}

/// Each row by itself.
fn rows<const CHANNELS: usize>(data: &[u8], width: usize, taps: &[Taps]) -> Vec<u8> {
    let mut resampled = Vec::with_capacity(data.len() / width * taps.len());
    for row in data.chunks_exact(width * CHANNELS) {
        let pixels = row.as_chunks::<CHANNELS>().0;
        for tap in taps {
            let mut sums = [1_i32 << (PRECISION_BITS - 1); CHANNELS];
            for (pixel, weight) in pixels[tap.first..].iter().zip(&tap.weights) {
                for (sum, value) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(*value) * weight;
                }
            }
            resampled.extend(sums.map(byte));
        }
    }
    resampled
}

/// Each column by itself; `row_bytes` of them lie side by side.
fn columns(data: &[u8], row_bytes: usize, taps: &[Taps]) -> Vec<u8> {
    let mut resampled = Vec::with_capacity(row_bytes * taps.len());
    let mut sums = vec![0_i32; row_bytes];
    for tap in taps {
        sums.fill(1 << (PRECISION_BITS - 1));
        for (row, weight) in data[tap.first * row_bytes..].chunks_exact(row_bytes).zip(&tap.weights) {
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum += i32::from(*value) * weight;
            }
        }
        resampled.extend(sums.iter().map(|sum| byte(*sum)));
    }
    resampled
}

/// The weights of each of `count` output positions over `length` input ones. Shrinking widens the kernel, so that nothing is skipped.
fn taps(length: usize, count: usize, kernel: Kernel) -> Vec<Taps> {
    let scale = length as f64 / count as f64;
    let kernel_scale = scale.max(1.0);
    let support = kernel.support() * kernel_scale;
    let tap = |index: usize| {
        let center = (index as f64 + 0.5) * scale;
        // A cast from f64 saturates at 0.
        let first = (center - support + 0.5) as usize;
        let end = ((center + support + 0.5) as usize).min(length);
        let inverse = 1.0 / kernel_scale;
        let weights: Vec<f64> = (first..end).map(|at| kernel.at((at as f64 - center + 0.5) * inverse)).collect();
        let total: f64 = weights.iter().sum();
        let fixed = |weight: &f64| (weight / total * f64::from(1_u32 << PRECISION_BITS)).round() as i32;
        Taps { first, weights: weights.iter().map(fixed).collect() }
    };
    (0..count).map(tap).collect()
}

/// sinc(x) · sinc(x / 3) within three lobes, else 0.
fn lanczos(x: f64) -> f64 {
    let sinc = |x: f64| if x == 0.0 { 1.0 } else { (x * PI).sin() / (x * PI) };
    if (-LOBES..LOBES).contains(&x) { sinc(x) * sinc(x / LOBES) } else { 0.0 }
}

fn byte(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}
