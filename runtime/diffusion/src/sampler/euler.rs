//! `EulerDiscreteScheduler`: algorithm 2 of "Elucidating the Design Space of Diffusion-Based Generative Models"
//! (arXiv 2206.00364) without churn.

use std::sync::Arc;

use super::blend::Blend;
use super::curve::{CURVE_KEYS, Curve};
use super::options::{Defaults, SPACING_KEYS, SharedOptions, SpacingOptions, TRAINING_KEYS, ZERO_SNR_KEYS};
use super::schedule::{Schedule, Spacing, check_steps, linspace_f32};
use super::select::Class;
use super::sigma_levels::{self, Levels, SigmaOptions, slope};
use super::{Evaluation, NoiseMix, Prediction, Sampler, SamplerError, ScheduleRequest, Update};
use crate::json::Config;

const NAME: &str = "EulerDiscreteScheduler";

pub(super) const CLASS: Class = Class {
    name: NAME,
    options: &[
        TRAINING_KEYS,
        SPACING_KEYS,
        ZERO_SNR_KEYS,
        CURVE_KEYS,
        &["interpolation_type", "sigma_min", "sigma_max", "timestep_type", "final_sigmas_type"],
    ],
    takes_eta: false,
    is_flow: false,
    make: |config| Ok(Arc::new(Euler::new(config)?)),
};

#[derive(Debug)]
struct Euler {
    options: SigmaOptions,
    /// `log_linear`: evenly in ln σ, one more than there are steps; also where a curve takes its ends from.
    log_linear: bool,
    sigma_min: Option<f64>,
    sigma_max: Option<f64>,
    continuous_timesteps: bool,
    ends_at_sigma_min: bool,
}

impl Euler {
    fn new(config: &Config) -> Result<Self, SamplerError> {
        let shared = SharedOptions::read(config, Defaults::GENERAL)?;
        let spacing = SpacingOptions::read(config, shared.train_steps, Spacing::Linspace)?;
        let continuous = config.one_of("timestep_type", &["discrete", "continuous"])? == Some("continuous");
        Ok(Self {
            // The reference heeds it for velocity only.
            continuous_timesteps: continuous && shared.prediction == Prediction::Velocity,
            log_linear: config.one_of("interpolation_type", &["linear", "log_linear"])? == Some("log_linear"),
            sigma_min: read_positive(config, "sigma_min")?,
            sigma_max: read_positive(config, "sigma_max")?,
            ends_at_sigma_min: config.one_of("final_sigmas_type", &["zero", "sigma_min"])? == Some("sigma_min"),
            options: SigmaOptions { shared, spacing, curve: Curve::read(NAME, config)? },
        })
    }

    fn levels(&self, steps: usize, table: &[f32]) -> Levels {
        let SigmaOptions { shared, spacing, curve } = &self.options;
        let mut levels = Levels::spaced(*spacing, shared.train_steps, steps, table);
        if self.log_linear {
            let (largest, smallest) = (table[table.len() - 1].ln(), table[0].ln());
            let logs = linspace_f32(f64::from(largest), f64::from(smallest), steps + 1);
            levels.sigmas = logs.into_iter().map(|log_sigma| f64::from(log_sigma.exp())).collect();
        }
        let Some(curve) = curve else { return levels };
        let largest = self.sigma_max.unwrap_or(levels.sigmas[0]);
        let smallest = self.sigma_min.unwrap_or(levels.sigmas[levels.sigmas.len() - 1]);
        Levels::between(*curve, largest, smallest, steps, table)
    }
}

impl Sampler for Euler {
    fn name(&self) -> &'static str {
        NAME
    }

    fn schedule(&self, ScheduleRequest { steps, .. }: ScheduleRequest) -> Result<Schedule, SamplerError> {
        check_steps(steps, self.options.shared.max_steps())?;
        let table = self.options.shared.sigmas();
        let levels = self.levels(steps, &table);
        let mut sigmas = levels.sigmas_to_zero();
        if let (true, Some(last)) = (self.ends_at_sigma_min, sigmas.last_mut()) {
            *last = table[0];
        }
        let timesteps = match self.continuous_timesteps {
            true => sigmas[..sigmas.len() - 1].iter().map(|sigma| 0.25 * sigma.ln()).collect(),
            false => levels.timesteps_f32(),
        };
        Ok(self.options.schedule(timesteps, sigmas, steps))
    }

    fn evaluation(&self, schedule: &Schedule, at: usize) -> Evaluation {
        sigma_levels::evaluation(schedule, at)
    }

    fn update(&self, schedule: &Schedule, _first: usize, at: usize) -> Update {
        let (sigma, next) = schedule.sigma_pair(at);
        Update::to(Blend::SAMPLE + slope(self.options.shared.prediction, sigma) * (next - sigma))
    }

    fn noised(&self, schedule: &Schedule, at: usize) -> NoiseMix {
        sigma_levels::noised(schedule, at)
    }
}

fn read_positive(config: &Config, key: &str) -> Result<Option<f64>, SamplerError> {
    match config.f64(key)? {
        Some(value) if !(value > 0.0 && value.is_finite()) => Err(config.unaccepted(key, "a number above 0").into()),
        value => Ok(value),
    }
}
