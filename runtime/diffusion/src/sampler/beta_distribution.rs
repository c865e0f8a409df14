//! The beta distribution's quantiles, for the noise levels of "Beta Sampling is All You Need" (arXiv 2407.12173).

/// Terms of the continued fraction; it converges in far fewer where it is used (at most the mean).
const MAX_TERMS: usize = 300;
/// Each step halves the bracket at least, so that this many reach the last bit of any normal f64.
const MAX_STEPS: usize = 1100;

/// The value below which a share `probability` of Beta(a, b) lies: x of `I_x(a, b) = probability`.
pub(super) fn quantile(probability: f64, a: f64, b: f64) -> f64 {
    if probability <= 0.0 || probability >= 1.0 {
        return probability.clamp(0.0, 1.0);
    }
    let (mut low, mut high) = (0.0, 1.0);
    // Where the density is a power of x alone, this is exact.
    let mut x = (probability * a * ln_beta(a, b).exp()).powf(1.0 / a).min(0.5);
    for _ in 0..MAX_STEPS {
        let excess = cumulative(x, a, b) - probability;
        if excess > 0.0 {
            high = x;
        } else {
            low = x;
        }
        let density = ((a - 1.0) * x.ln() + (b - 1.0) * (-x).ln_1p() - ln_beta(a, b)).exp();
        let newton = x - excess / density;
        let next = if newton > low && newton < high { newton } else { 0.5 * (low + high) };
        if (next - x).abs() <= f64::EPSILON * x {
            return next;
        }
        x = next;
    }
    x
}

/// `I_x(a, b)`, the regularised incomplete beta function: the share of Beta(a, b) below `x`.
pub(super) fn cumulative(x: f64, a: f64, b: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return x.clamp(0.0, 1.0);
    }
    // The fraction converges fast below the mean; above it the other tail is computed.
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - lower_tail(1.0 - x, b, a);
    }
    lower_tail(x, a, b)
}

/// DLMF 8.17.22, evaluated by Lentz's method.
fn lower_tail(x: f64, a: f64, b: f64) -> f64 {
    let front = (a * x.ln() + b * (-x).ln_1p() - ln_beta(a, b)).exp() / a;
    let nonzero = |value: f64| if value.abs() < f64::MIN_POSITIVE { f64::MIN_POSITIVE } else { value };
    let (mut c, mut d) = (1.0, nonzero(1.0 - (a + b) * x / (a + 1.0)).recip());
    let mut fraction = d;
    for term in 1..=MAX_TERMS {
        let m = term as f64;
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        let before = fraction;
        for factor in [even, odd] {
            d = nonzero(1.0 + factor * d).recip();
            c = nonzero(1.0 + factor / c);
            fraction *= c * d;
        }
        if (fraction - before).abs() <= f64::EPSILON * fraction.abs() {
            break;
        }
    }
    front * fraction
}

fn ln_beta(a: f64, b: f64) -> f64 {
    ln_gamma(a) + ln_gamma(b) - ln_gamma(a + b)
}

/// ln Γ(x) for x > 0: Stirling's series (DLMF 5.11.1) after the recurrence has moved x to where eight terms suffice.
fn ln_gamma(x: f64) -> f64 {
    const FAR: f64 = 12.0;
    // B₂ₖ / (2k·(2k − 1))
    const TERMS: [f64; 8] =
        [1.0 / 12.0, -1.0 / 360.0, 1.0 / 1260.0, -1.0 / 1680.0, 1.0 / 1188.0, -691.0 / 360_360.0, 1.0 / 156.0, -3617.0 / 122_400.0];
    let (mut far, mut product) = (x, 1.0);
    while far < FAR {
        product *= far;
        far += 1.0;
    }
    let series = TERMS.iter().rev().fold(0.0, |sum, term| sum / (far * far) + term) / far;
    (far - 0.5) * far.ln() - far + 0.5 * (2.0 * std::f64::consts::PI).ln() + series - product.ln()
}

#[cfg(test)]
mod tests {
    use std::f64::consts::PI;

    use super::*;

    /// Shares from both ends and the middle.
    fn shares() -> impl Iterator<Item = f64> {
        let middle = (1..100).map(|percent| f64::from(percent) / 100.0);
        middle.chain((3..12).flat_map(|digits| [10.0_f64.powi(-digits), 1.0 - 10.0_f64.powi(-digits)]))
    }

    /// What the neighbours of `x` differ by: near the ends the function is so steep that no f64 comes nearer.
    fn grain(x: f64, a: f64, b: f64) -> f64 {
        (cumulative(x.next_up(), a, b) - cumulative(x.next_down(), a, b)).abs()
    }

    #[test]
    fn ln_gamma_equals_its_closed_forms() {
        for (x, gamma) in [(1.0, 1.0), (2.0, 1.0), (5.0, 24.0), (0.5, PI.sqrt()), (1.5, PI.sqrt() / 2.0), (0.6, 1.489_192_248_812_817)] {
            assert!((ln_gamma(x) - f64::ln(gamma)).abs() < 1e-14, "{x}: {}", ln_gamma(x).exp());
        }
        let reflection = ln_gamma(0.3) + ln_gamma(0.7);
        assert!((reflection - (PI / (0.3 * PI).sin()).ln()).abs() < 1e-14);
    }

    #[test]
    fn cumulative_equals_its_closed_forms() {
        for x in shares() {
            for (a, b, expected) in [
                (1.0, 1.0, x),
                (0.5, 0.5, 2.0 / PI * x.sqrt().asin()),
                (0.6, 1.0, x.powf(0.6)),
                (1.0, 0.6, 1.0 - (1.0 - x).powf(0.6)),
                (2.0, 2.0, x * x * (3.0 - 2.0 * x)),
                (3.0, 1.0, x.powi(3)),
            ] {
                let found = cumulative(x, a, b);
                let allowed = 1e-13 * expected.max(1e-3) + grain(x, a, b);
                assert!((found - expected).abs() <= allowed, "I_{x}({a}, {b}) = {found} for {expected}");
            }
            assert!((cumulative(x, 0.6, 0.6) + cumulative(1.0 - x, 0.6, 0.6) - 1.0).abs() < 1e-13);
        }
    }

    #[test]
    fn quantile_is_the_inverse_of_cumulative() {
        for share in shares() {
            for (a, b) in [(0.6, 0.6), (0.5, 0.5), (1.0, 1.0), (2.0, 3.5), (0.6, 2.0)] {
                let x = quantile(share, a, b);
                let allowed = 1e-12 * share.max(1e-3) + grain(x, a, b);
                assert!((cumulative(x, a, b) - share).abs() <= allowed, "{share} of ({a}, {b}) at {x}");
            }
            let arcsine = (0.5 * PI * share).sin().powi(2);
            assert!((quantile(share, 0.5, 0.5) - arcsine).abs() <= 1e-12, "{share}");
        }
        assert_eq!((quantile(0.0, 0.6, 0.6), quantile(1.0, 0.6, 0.6)), (0.0, 1.0));
        assert!((quantile(0.5, 0.6, 0.6) - 0.5).abs() < 1e-15);
    }
}
