//! A Gaussian blur as Pillow's `GaussianBlur` makes it: three box blurs of fractional width ("Theoretical Foundations of Gaussian
//! Convolution by Extended Box Filtering", SSVM 2011), first along rows, then along columns, bytes between.

/// Box blurs that stand for one Gaussian.
const PASSES: u32 = 3;
/// Bits of a weight behind the point.
const PRECISION_BITS: u32 = 24;

/// `data` of [width, height], blurred with a deviation of `radius` pixels. Beyond the edge is the edge.
pub(super) fn gaussian(data: &[u8], [width, height]: [usize; 2], radius: u32) -> Vec<u8> {
    if radius == 0 || width == 0 || height == 0 {
        return data.to_vec();
    }
    let radius = box_radius(radius as f32);
    let mut turned = transposed(&blurred_rows(data.to_vec(), width, radius), width);
    turned = blurred_rows(turned, height, radius);
    transposed(&turned, height)
}

/// Half the width of a box of which three make a Gaussian of this deviation, a whole part and a fraction. In f32, as the reference.
fn box_radius(deviation: f32) -> f32 {
    let variance = deviation * deviation / PASSES as f32;
    let length = (12.0 * f64::from(variance) + 1.0).sqrt() as f32;
    let whole = ((f64::from(length) - 1.0) / 2.0).floor() as f32;
    let numerator = (f64::from(2.0 * whole + 1.0) * (f64::from(whole * (whole + 1.0)) - 3.0 * f64::from(variance))) as f32;
    let denominator = 6.0 * f64::from(variance - (whole + 1.0) * (whole + 1.0));
    whole + (f64::from(numerator) / denominator) as f32
}

fn blurred_rows(mut data: Vec<u8>, width: usize, radius: f32) -> Vec<u8> {
    let mut row = vec![0; width];
    for line in data.chunks_exact_mut(width) {
        for _ in 0..PASSES {
            row.copy_from_slice(line);
            blur_row(&row, line, radius);
        }
    }
    data
}

/// One box blur: whole weights within the radius, a fraction of one on the pixel beyond on each side.
fn blur_row(row: &[u8], blurred: &mut [u8], radius: f32) {
    let reach = radius as usize;
    let whole = ((1_u32 << PRECISION_BITS) as f32 / (radius * 2.0 + 1.0)) as u32;
    let fraction = ((1 << PRECISION_BITS) - (reach as u32 * 2 + 1) * whole) / 2;
    let last = row.len() - 1;
    let value = |at: usize| u32::from(row[at.min(last)]);
    // The sum over the window around the position before the first.
    let mut sum = u32::from(row[0]) * (reach as u32 + 1) + (0..reach).map(value).sum::<u32>();
    for (at, blurred) in blurred.iter_mut().enumerate() {
        let left = value(at.saturating_sub(reach + 1));
        sum = sum + value(at + reach) - left;
        let far = left + value(at + reach + 1);
        *blurred = ((sum * whole + far * fraction + (1 << (PRECISION_BITS - 1))) >> PRECISION_BITS) as u8;
    }
}

/// Rows become columns.
fn transposed(data: &[u8], width: usize) -> Vec<u8> {
    let height = data.len() / width;
    (0..width).flat_map(|column| (0..height).map(move |row| data[row * width + column])).collect()
}
