//! `DEISMultistepScheduler`: "Fast Sampling of Diffusion Models with Exponential Integrator" (arXiv 2204.13902) in its logarithmic
//! form: the noise is the polynomial in ln ρ through the last evaluations, integrated exactly over ρ = σ/α.

use std::sync::Arc;

use serde_json::json;

use super::blend::Blend;
use super::curve::{CURVE_KEYS, Curve};
use super::dpm_multistep::SHORT_SCHEDULE;
use super::log_snr::{self, End, FLOW_KEYS, Level, Levels, read_order};
use super::options::{Defaults, SPACING_KEYS, SharedOptions, SpacingOptions, THRESHOLDING_KEYS, TRAINING_KEYS};
use super::schedule::{Schedule, Spacing, check_steps};
use super::select::Class;
use super::{Evaluation, NoiseMix, Sampler, SamplerError, ScheduleRequest, Update};
use crate::json::Config;

const NAME: &str = "DEISMultistepScheduler";

pub(super) const CLASS: Class = Class {
    name: NAME,
    options: &[
        TRAINING_KEYS,
        SPACING_KEYS,
        &["solver_order", "algorithm_type", "solver_type", "lower_order_final"],
        CURVE_KEYS,
        THRESHOLDING_KEYS,
        FLOW_KEYS,
    ],
    takes_eta: false,
    is_flow: false,
    make: |config| Ok(Arc::new(Deis::new(config)?)),
};

#[derive(Debug)]
struct Deis {
    levels: Levels,
    order: usize,
    lower_order_final: bool,
}

impl Deis {
    fn new(config: &Config) -> Result<Self, SamplerError> {
        log_snr::check_served(config)?;
        // Other solvers' names count as its own, so that their configurations can be used.
        config.only("algorithm_type", &["deis", "dpmsolver", "dpmsolver++"].map(|name| json!(name)))?;
        config.only("solver_type", &["logrho", "midpoint", "heun", "bh1", "bh2"].map(|name| json!(name)))?;
        let shared = SharedOptions::read(config, Defaults::WITHOUT_ZERO_SNR)?;
        let levels = Levels {
            spacing: SpacingOptions::read(config, shared.train_steps, Spacing::Linspace)?,
            curve: Curve::read(NAME, config)?,
            lu_lambdas: false,
            end: End::CurveMinimum,
            clipped: 0,
            rounds_timesteps: true,
            shared,
        };
        Ok(Self { levels, order: read_order(config)?, lower_order_final: config.bool("lower_order_final")?.unwrap_or(true) })
    }

    fn order(&self, evaluations: usize, known: usize, at: usize) -> usize {
        let remaining = evaluations - at;
        let limit = if self.lower_order_final && evaluations < SHORT_SCHEDULE { remaining } else { self.order };
        self.order.min(limit).min(known)
    }
}

/// The integral over ρ from `logs[0]` to `end` (both as ln ρ) of the polynomial in ln ρ that is 1 at `logs[own]` and 0 at the others.
fn weight(logs: &[f64], own: usize, end: f64) -> f64 {
    let others: Vec<f64> = (0..logs.len()).filter(|index| *index != own).map(|index| logs[index]).collect();
    let scale: f64 = others.iter().map(|other| logs[own] - other).product();
    // ∫ dρ of 1, of (ln ρ − c) and of (ln ρ − c)·(ln ρ − d)
    let integral = |log: f64| {
        let polynomial = match others.as_slice() {
            [] => 1.0,
            [c] => log - c - 1.0,
            [c, d, ..] => (log - c) * (log - d) - (log - c) - (log - d) + 2.0,
        };
        log.exp() * polynomial
    };
    (integral(end) - integral(logs[0])) / scale
}

impl Sampler for Deis {
    fn name(&self) -> &'static str {
        NAME
    }

    fn schedule(&self, ScheduleRequest { steps, .. }: ScheduleRequest) -> Result<Schedule, SamplerError> {
        check_steps(steps, self.levels.shared.max_steps())?;
        self.levels.schedule(NAME, steps)
    }

    fn evaluation(&self, schedule: &Schedule, at: usize) -> Evaluation {
        log_snr::evaluation(schedule, at)
    }

    /// History: the noise of earlier evaluations, newest first.
    fn update(&self, schedule: &Schedule, first: usize, at: usize) -> Update {
        let known = at - first + 1;
        let order = self.order(schedule.num_evaluations(), known, at);
        let (from, to) = (Level::at(schedule, at), Level::at(schedule, at + 1));
        let current = self.levels.shared.prediction.noise(from.alpha, from.sigma);
        let noises = [current, Blend::history(0), Blend::history(1)];
        let logs: Vec<f64> = (0..order).map(|back| -Level::at(schedule, at - back).lambda).collect();
        let weighted = (0..order).map(|own| noises[own] * weight(&logs, own, -to.lambda));
        let next = weighted.fold(Blend::SAMPLE * from.alpha.recip(), |sum, term| sum + term) * to.alpha;
        Update::to(next).keeping(noises.into_iter().take(known.min(self.order - 1)))
    }

    fn noised(&self, schedule: &Schedule, at: usize) -> NoiseMix {
        log_snr::noised(schedule, at)
    }
}
