//! The generator itself: Philox4x32-10 and Box–Muller with elementary functions of its own.

/// Multipliers and key increments of Philox4x32 as published.
const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const KEY_INCREMENTS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// `count` values of the unit normal distribution, f32.
///
/// Value i depends on (`seed`, `image`, `draw`, i) alone: not on `count`, not on earlier calls. Image and draw are taken
/// modulo 2³². The largest magnitude that can occur is 8.57.
pub fn gaussian(seed: u64, image: usize, draw: u32, count: usize) -> Vec<f32> {
    let key = [seed as u32, (seed >> 32) as u32];
    let mut values = Vec::with_capacity(count + 1);
    for block in 0..count.div_ceil(2) as u64 {
        let counter = [block as u32, (block >> 32) as u32, draw, image as u32];
        let words = philox(counter, key);
        values.extend(box_muller(uniform(words[0], words[1]), uniform(words[2], words[3])));
    }
    values.truncate(count);
    values
}

/// Ten rounds of Philox on one counter.
fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let ([mut a, mut b, mut c, mut d], [mut left, mut right]) = (counter, key);
    for _ in 0..ROUNDS {
        let first = u64::from(MULTIPLIERS[0]) * u64::from(a);
        let second = u64::from(MULTIPLIERS[1]) * u64::from(c);
        (a, b, c, d) = ((second >> 32) as u32 ^ b ^ left, second as u32, (first >> 32) as u32 ^ d ^ right, first as u32);
        left = left.wrapping_add(KEY_INCREMENTS[0]);
        right = right.wrapping_add(KEY_INCREMENTS[1]);
    }
    [a, b, c, d]
}

/// A number above 0 and up to 1 with 53 random bits.
fn uniform(high: u32, low: u32) -> f64 {
    let bits = (u64::from(high) << 32 | u64::from(low)) >> 11;
    (bits + 1) as f64 * 2.0_f64.powi(-53)
}

/// Two independent normal values from two uniform ones.
fn box_muller(radius: f64, turn: f64) -> [f32; 2] {
    let radius = (-2.0 * natural_logarithm(radius)).sqrt();
    let (sine, cosine) = sine_cosine_of_turn(turn);
    [(radius * cosine) as f32, (radius * sine) as f32]
}

/// ln x for a normal x in 0 … 1: exponent and mantissa apart, then 2·artanh as a series.
fn natural_logarithm(x: f64) -> f64 {
    let bits = x.to_bits();
    let mut exponent = ((bits >> 52) & 0x7ff) as i64 - 1023;
    let mut mantissa = f64::from_bits((bits & 0x000f_ffff_ffff_ffff) | (1023 << 52));
    if mantissa > std::f64::consts::SQRT_2 {
        mantissa *= 0.5;
        exponent += 1;
    }
    // mantissa within 1/√2 … √2, so |ratio| < 0.172 and ten terms leave less than 1e-16.
    let ratio = (mantissa - 1.0) / (mantissa + 1.0);
    let square = ratio * ratio;
    let series = (0..10).rev().fold(0.0, |sum, term| sum * square + 1.0 / f64::from(2 * term + 1));
    exponent as f64 * std::f64::consts::LN_2 + 2.0 * ratio * series
}

/// Sine and cosine of `turn` (0 … 1) full turns.
fn sine_cosine_of_turn(turn: f64) -> (f64, f64) {
    let quarters = turn * 4.0;
    let nearest = quarters.round();
    // Within an eighth of a turn to either side, where short series are exact to the last bits of an f64.
    let angle = (quarters - nearest) * std::f64::consts::FRAC_PI_2;
    let square = angle * angle;
    let series = |first: u32| {
        (0..9_u32).rev().fold(0.0, |sum, term| {
            let order = f64::from(2 * term + first);
            1.0 - square / ((order + 1.0) * (order + 2.0)) * if term == 8 { 1.0 } else { sum }
        })
    };
    let (sine, cosine) = (angle * series(1), series(0));
    match nearest as i64 % 4 {
        0 => (sine, cosine),
        1 => (cosine, -sine),
        2 => (-sine, -cosine),
        _ => (-cosine, sine),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_published_vectors() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn own_elementary_functions_equal_the_library_closely() {
        for step in 1..=100_000 {
            let x = f64::from(step) / 100_000.0;
            assert!((natural_logarithm(x) - x.ln()).abs() <= 1e-15 * (1.0 + x.ln().abs()), "ln {x}");
            let (sine, cosine) = sine_cosine_of_turn(x);
            let angle = x * std::f64::consts::TAU;
            assert!((sine - angle.sin()).abs() < 2e-15 && (cosine - angle.cos()).abs() < 2e-15, "turn {x}");
        }
        assert!((natural_logarithm(2.0_f64.powi(-53)) + 53.0 * std::f64::consts::LN_2).abs() < 1e-14);
    }

    #[test]
    fn values_are_fixed_for_all_time() {
        let bits: Vec<u32> = gaussian(42, 1, 3, 5).into_iter().map(f32::to_bits).collect();
        assert_eq!(bits, EXPECTED_BITS);
    }

    const EXPECTED_BITS: [u32; 5] = [1062674424, 3207176455, 1061355528, 3212075738, 1062980837];

    #[test]
    fn a_value_depends_on_seed_image_draw_and_position_alone() {
        let long = gaussian(7, 0, 0, 1001);
        assert_eq!(long[..10], gaussian(7, 0, 0, 10));
        assert_eq!(long, gaussian(7, 0, 0, 1001));
        for other in [gaussian(8, 0, 0, 1001), gaussian(7, 1, 0, 1001), gaussian(7, 0, 1, 1001), gaussian(7 + (1 << 32), 0, 0, 1001)] {
            let equal = long.iter().zip(&other).filter(|(one, two)| one == two).count();
            assert!(equal < 5, "{equal} equal values");
        }
    }

    #[test]
    fn moments_and_tails_are_those_of_the_normal_distribution() {
        let count = 1_000_000;
        let values = gaussian(123, 4, 5, count);
        let moment = |power: i32| values.iter().map(|v| f64::from(*v).powi(power)).sum::<f64>() / count as f64;
        // Four deviations of each estimate.
        assert!(moment(1).abs() < 0.004, "mean {}", moment(1));
        assert!((moment(2) - 1.0).abs() < 0.006, "variance {}", moment(2));
        assert!(moment(3).abs() < 0.016, "skewness {}", moment(3));
        assert!((moment(4) - 3.0).abs() < 0.04, "kurtosis {}", moment(4));
        let beyond_three = values.iter().filter(|v| v.abs() > 3.0).count();
        assert!((2490..2910).contains(&beyond_three), "{beyond_three} beyond 3");
        let neighbours: f64 = values.windows(2).map(|w| f64::from(w[0]) * f64::from(w[1])).sum();
        assert!((neighbours / count as f64).abs() < 0.004);
    }
}
