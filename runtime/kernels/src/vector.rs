//! Loops that the compiler turns into vector instructions, compiled once for each vector unit and chosen at run time.
//!
//! Results differ between vector units by no more than the order of a sum; on one machine they never do. No multiply-add is contracted
//! and every sum has a fixed number of lanes.

/// Lanes of a sum: two vectors of the widest unit.
const LANES: usize = 32;

/// Defines a function whose body is also compiled for AVX2 and AVX-512, and which picks the best one that this machine has.
macro_rules! vectorised {
    ($(#[$attribute:meta])* $visibility:vis fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block) => {
        $(#[$attribute])*
        #[expect(unsafe_code, reason = "calls into functions compiled for vector units that were detected at run time")]
        $visibility fn $name($($argument: $type),*) $(-> $result)? {
            #[inline(always)]
            fn body($($argument: $type),*) $(-> $result)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
                fn wide($($argument: $type),*) $(-> $result)? {
                    body($($argument),*)
                }
                #[target_feature(enable = "avx2")]
                fn medium($($argument: $type),*) $(-> $result)? {
                    body($($argument),*)
                }
                if is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                {
                    // SAFETY: the features that `wide` is compiled for were detected on this machine.
                    return unsafe { wide($($argument),*) };
                }
                if is_x86_feature_detected!("avx2") {
                    // SAFETY: the feature that `medium` is compiled for was detected on this machine.
                    return unsafe { medium($($argument),*) };
                }
            }
            body($($argument),*)
        }
    };
}
pub(crate) use vectorised;

/// e^x within two units in the last place; below −87 the smallest normal number, above 88 the value there. NaN stays NaN.
///
/// Cody–Waite reduction and the minimax polynomial of Cephes' `expf`, without branches.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    /// Adding it rounds to whole numbers and leaves them in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let whole = shifted - ROUND;
    let r = x - whole * 0.693_359_4 + whole * 2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let y = p * r * r + r + 1.0;
    let exponent = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32).wrapping_add(127);
    y * f32::from_bits((exponent as u32) << 23)
}

vectorised! {
    /// Σ values, in [`LANES`] partial sums.
    pub(crate) fn sum(values: &[f32]) -> f32 {
        let mut lanes = [0.0_f32; LANES];
        let chunks = values.chunks_exact(LANES);
        let rest = chunks.remainder();
        for chunk in chunks {
            for (lane, value) in lanes.iter_mut().zip(chunk) {
                *lane += value;
            }
        }
        lanes.iter().sum::<f32>() + rest.iter().sum::<f32>()
    }
}

vectorised! {
    /// Σ (value − mean)², in [`LANES`] partial sums.
    pub(crate) fn sum_of_squares(values: &[f32], mean: f32) -> f32 {
        let mut lanes = [0.0_f32; LANES];
        let chunks = values.chunks_exact(LANES);
        let rest = chunks.remainder();
        for chunk in chunks {
            for (lane, value) in lanes.iter_mut().zip(chunk) {
                *lane += (value - mean) * (value - mean);
            }
        }
        lanes.iter().sum::<f32>() + rest.iter().map(|value| (value - mean) * (value - mean)).sum::<f32>()
    }
}

/// How many values are summed in f32 before f64 takes over, so that large groups lose no precision.
const BLOCK: usize = 4096;

/// Mean, and the reciprocal of the deviation √(variance + epsilon).
pub(crate) fn moments(values: &[f32], epsilon: f64) -> (f32, f32) {
    let count = values.len().max(1) as f64;
    let mean = values.chunks(BLOCK).map(|block| f64::from(sum(block))).sum::<f64>() / count;
    let squares = values.chunks(BLOCK).map(|block| f64::from(sum_of_squares(block, mean as f32))).sum::<f64>();
    (mean as f32, (1.0 / (squares / count + epsilon).sqrt()) as f32)
}

/// The reciprocal of √(mean square + epsilon).
pub(crate) fn inverse_root_mean_square(values: &[f32], epsilon: f64) -> f32 {
    let squares = values.chunks(BLOCK).map(|block| f64::from(sum_of_squares(block, 0.0))).sum::<f64>();
    (1.0 / (squares / values.len().max(1) as f64 + epsilon).sqrt()) as f32
}

/// Elements below which threads cost more than they save. The result is the same either way.
pub(crate) const SERIAL_ELEMENTS: usize = 1 << 14;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponential_is_right_to_the_last_digits() {
        for step in -8700..8800 {
            let x = step as f32 / 100.0;
            let error = (f64::from(exp(x)) / f64::from(x).exp() - 1.0).abs();
            assert!(error < 3e-7, "exp({x}) is off by {error}");
        }
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(-1000.0) < 1e-37 && exp(1000.0) > 1e38);
    }

    #[test]
    fn moments_of_large_offsets_keep_their_precision() {
        let values: Vec<f32> = (0..100_003).map(|i| 1000.0 + (i % 7) as f32).collect();
        let mean = values.iter().map(|value| f64::from(*value)).sum::<f64>() / values.len() as f64;
        let variance = values.iter().map(|value| (f64::from(*value) - mean).powi(2)).sum::<f64>() / values.len() as f64;
        let (ours, inverse) = moments(&values, 0.0);
        assert!((f64::from(ours) - mean).abs() < 1e-4);
        assert!((f64::from(inverse) * variance.sqrt() - 1.0).abs() < 1e-5);
    }
}
