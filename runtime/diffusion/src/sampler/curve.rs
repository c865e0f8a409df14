//! Curves that noise levels may follow between the largest and the smallest, in place of the timesteps' own.

use super::SamplerError;
use super::beta_distribution::quantile;
use super::schedule::linspace;
use crate::json::Config;

pub(super) const CURVE_KEYS: &[&str] = &["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"];

/// ρ of the Karras spacing.
const KARRAS_RHO: f64 = 7.0;
/// Both parameters of the beta distribution.
const BETA_SHAPE: f64 = 0.6;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Curve {
    /// `use_karras_sigmas`: formula 5 of arXiv 2206.00364.
    Karras,
    /// `use_exponential_sigmas`: evenly in ln σ.
    Exponential,
    /// `use_beta_sigmas`: quantiles of Beta(0.6, 0.6), arXiv 2407.12173.
    Beta,
}

impl Curve {
    pub(super) fn read(sampler: &'static str, config: &Config) -> Result<Option<Self>, SamplerError> {
        let mut chosen = None;
        for (key, curve) in CURVE_KEYS.iter().zip([Self::Karras, Self::Exponential, Self::Beta]) {
            if !config.bool(key)?.unwrap_or(false) {
                continue;
            }
            if chosen.replace(curve).is_some() {
                let reason = format!("{} exclude each other; set one", CURVE_KEYS.join(", "));
                return Err(SamplerError::Contradiction { sampler, reason });
            }
        }
        Ok(chosen)
    }

    /// `steps` noise levels from `largest` down to `smallest`.
    pub(super) fn sigmas(self, largest: f64, smallest: f64, steps: usize) -> Vec<f64> {
        match self {
            Self::Karras => {
                let (top, bottom) = (largest.powf(1.0 / KARRAS_RHO), smallest.powf(1.0 / KARRAS_RHO));
                linspace(0.0, 1.0, steps).into_iter().map(|share| (top + share * (bottom - top)).powf(KARRAS_RHO)).collect()
            }
            Self::Exponential => linspace(largest.ln(), smallest.ln(), steps).into_iter().map(f64::exp).collect(),
            Self::Beta => {
                let shares = linspace(0.0, 1.0, steps).into_iter().map(|share| quantile(1.0 - share, BETA_SHAPE, BETA_SHAPE));
                shares.map(|share| smallest + share * (largest - smallest)).collect()
            }
        }
    }
}
