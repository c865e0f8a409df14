//! DPM-Solver and DPM-Solver++ (arXiv 2206.00927, 2211.01095): from one noise level to another, along the predicted noise or the
//! predicted image and its differences, as ordinary or stochastic differential equation. How the differences come about is the
//! multistep's or the singlestep's business.

use super::Prediction;
use super::blend::Blend;
use super::curve::Curve;
use super::log_snr::{self, End, Level, Levels, read_clipped, read_order};
use super::options::{Defaults, SharedOptions, SpacingOptions};
use super::{SamplerError, Schedule};
use crate::json::Config;

/// Options that both classes have beside those of the training, the curves, the thresholding and the flow.
pub(super) const DPM_KEYS: &[&str] =
    &["solver_order", "algorithm_type", "solver_type", "lower_order_final", "final_sigmas_type", "lambda_min_clipped", "variance_type"];

/// `algorithm_type`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithm {
    /// `dpmsolver`: along the noise.
    Noise,
    /// `dpmsolver++`: along the image.
    Image,
    /// `sde-dpmsolver`
    NoiseStochastic,
    /// `sde-dpmsolver++`
    ImageStochastic,
}

/// What follows the first-order term.
#[derive(Clone, Copy, Debug)]
pub(super) enum Correction {
    None,
    /// Half the first-order coefficient times a slope.
    Midpoint(Blend),
    /// First and second derivative, each with its exactly integrated coefficient.
    Taylor(Blend, Blend),
}

/// What both classes read.
#[derive(Debug)]
pub(super) struct DpmOptions {
    pub(super) levels: Levels,
    pub(super) algorithm: Algorithm,
    pub(super) order: usize,
    /// `solver_type`: `heun` instead of `midpoint`.
    pub(super) heun: bool,
    pub(super) lower_order_final: bool,
}

impl Algorithm {
    fn from_name(name: &str) -> Self {
        match name {
            "dpmsolver" => Self::Noise,
            "sde-dpmsolver" => Self::NoiseStochastic,
            "sde-dpmsolver++" => Self::ImageStochastic,
            _ => Self::Image,
        }
    }

    fn follows_image(self) -> bool {
        matches!(self, Self::Image | Self::ImageStochastic)
    }

    pub(super) fn draws_noise(self) -> bool {
        matches!(self, Self::NoiseStochastic | Self::ImageStochastic)
    }

    /// What is integrated: the image or the noise.
    pub(super) fn converted(self, prediction: Prediction, level: Level) -> Blend {
        match self.follows_image() {
            true => prediction.original(level.alpha, level.sigma),
            false => prediction.noise(level.alpha, level.sigma),
        }
    }

    /// From `sample` at one level to another, along `direction` and what corrects it.
    pub(super) fn advance(self, sample: Blend, from: Level, to: Level, direction: Blend, correction: Correction) -> Blend {
        let h = to.lambda - from.lambda;
        // The same level again (the curves' last and the training's least may be equal), where the formulas are 0/0.
        if h == 0.0 {
            return sample;
        }
        let (alpha, sigma) = (to.alpha, to.sigma);
        // Factors of the sample, the direction, its first and its second derivative, and the noise.
        let (kept, zeroth, first, second, noise) = match self {
            Self::Image => (sigma / from.sigma, -alpha * (-h).exp_m1(), alpha * h * phi_2(-h), alpha * h * phi_3(-h), 0.0),
            Self::Noise => (alpha / from.alpha, -sigma * h.exp_m1(), -sigma * h * phi_2(h), -sigma * h * phi_3(h), 0.0),
            Self::ImageStochastic => {
                let lost = -(-2.0 * h).exp_m1();
                let second = -alpha * (phi_2(-2.0 * h) + 0.5);
                let first = 2.0 * alpha * h * phi_2(-2.0 * h);
                (sigma / from.sigma * (-h).exp(), alpha * lost, first, second, sigma * lost.max(0.0).sqrt())
            }
            Self::NoiseStochastic => {
                let noise = sigma * (2.0 * h).exp_m1().max(0.0).sqrt();
                (alpha / from.alpha, -2.0 * sigma * h.exp_m1(), -2.0 * sigma * h * phi_2(h), 0.0, noise)
            }
        };
        let next = sample * kept + direction * zeroth + Blend::NOISE * noise;
        match correction {
            Correction::None => next,
            Correction::Midpoint(slope) => next + slope * (0.5 * zeroth),
            Correction::Taylor(slope, bend) => next + slope * first + bend * second,
        }
    }
}

impl DpmOptions {
    pub(super) fn read(
        sampler: &'static str,
        config: &Config,
        defaults: Defaults,
        algorithms: &[&str],
        lower_order_final: bool,
        spacing: impl Fn(&SharedOptions) -> Result<SpacingOptions, SamplerError>,
    ) -> Result<Self, SamplerError> {
        log_snr::check_served(config)?;
        if config.contains("variance_type") {
            let accepted = "null; a network that predicts variance has twice the outputs of a latent model";
            return Err(config.unaccepted("variance_type", accepted).into());
        }
        // The reference takes the other solvers' names for its own default, so that their configurations can be used.
        let algorithm = config.one_of("algorithm_type", &[algorithms, &["deis"]].concat())?.map_or(Algorithm::Image, Algorithm::from_name);
        let heun = config.one_of("solver_type", &["midpoint", "heun", "logrho", "bh1", "bh2"])? == Some("heun");
        let ends_at_minimum = config.one_of("final_sigmas_type", &["zero", "sigma_min"])? == Some("sigma_min");
        if !algorithm.follows_image() && !ends_at_minimum {
            return Err(config.unaccepted("final_sigmas_type", "sigma_min, with this algorithm_type").into());
        }
        let order = read_order(config)?;
        if algorithm == Algorithm::NoiseStochastic && order == 3 {
            return Err(config.unaccepted("solver_order", "1, 2 with algorithm_type sde-dpmsolver").into());
        }
        let shared = SharedOptions::read(config, defaults)?;
        let levels = Levels {
            spacing: spacing(&shared)?,
            curve: Curve::read(sampler, config)?,
            lu_lambdas: false,
            end: if ends_at_minimum { End::TableMinimum } else { End::Zero },
            clipped: read_clipped(config, &shared)?,
            rounds_timesteps: true,
            shared,
        };
        let lower_order_final = config.bool("lower_order_final")?.unwrap_or(lower_order_final);
        Ok(Self { levels, algorithm, order, heun, lower_order_final })
    }

    pub(super) fn ends_without_noise(&self) -> bool {
        self.levels.end == End::Zero
    }

    /// The network's output at an evaluation, as the image or the noise.
    pub(super) fn converted(&self, schedule: &Schedule, at: usize) -> Blend {
        self.algorithm.converted(self.levels.shared.prediction, Level::at(schedule, at))
    }
}

/// φ₂(z) = (eᶻ − 1 − z)/z²
fn phi_2(z: f64) -> f64 {
    if z.abs() < SERIES_BELOW { 0.5 + z / 6.0 + z * z / 24.0 } else { (z.exp_m1() - z) / (z * z) }
}

/// φ₃(z) = (eᶻ − 1 − z − z²/2)/z³
fn phi_3(z: f64) -> f64 {
    if z.abs() < SERIES_BELOW { 1.0 / 6.0 + z / 24.0 + z * z / 120.0 } else { (z.exp_m1() - z - 0.5 * z * z) / (z * z * z) }
}

/// Below this, the first terms of the series are closer than the difference of nearly equal numbers.
const SERIES_BELOW: f64 = 1e-3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phi_functions_meet_their_series_and_each_other() {
        for z in [-40.0, -3.0, -0.1, -1.001e-3, -0.999e-3, -1e-9, 1e-9, 0.999e-3, 1.001e-3, 0.1, 3.0] {
            // φ₂ = 1/2 + z·φ₃, and the series of eᶻ summed backwards.
            assert!((phi_2(z) - 0.5 - z * phi_3(z)).abs() < 1e-9, "{z}");
            let series = (2..120).rev().fold(0.0, |sum, n| (1.0 + sum * z / f64::from(n + 1)) / if n == 2 { 2.0 } else { 1.0 });
            if z > -5.0 {
                assert!((phi_2(z) / series - 1.0).abs() < 1e-9, "{z}: {} for {series}", phi_2(z));
            }
        }
    }
}
