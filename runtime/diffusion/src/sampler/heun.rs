//! `HeunDiscreteScheduler`: algorithm 1 of "Elucidating the Design Space of Diffusion-Based Generative Models" (arXiv 2206.00364): an
//! Euler step, then the same step again with the mean of the slopes at its two ends. The last step, to σ = 0, is Euler's.

use std::sync::Arc;

use super::blend::Blend;
use super::curve::{CURVE_KEYS, Curve};
use super::options::{CLIPPING_KEYS, Defaults, SPACING_KEYS, SharedOptions, SpacingOptions, TRAINING_KEYS, check_linear};
use super::schedule::{Schedule, Spacing, check_steps};
use super::select::Class;
use super::sigma_levels::{self, SigmaOptions, slope};
use super::{Evaluation, NoiseMix, Sampler, SamplerError, ScheduleRequest, Update};
use crate::json::Config;

const NAME: &str = "HeunDiscreteScheduler";

pub(super) const CLASS: Class = Class {
    name: NAME,
    options: &[TRAINING_KEYS, SPACING_KEYS, CURVE_KEYS, CLIPPING_KEYS],
    takes_eta: false,
    is_flow: false,
    make: |config| Ok(Arc::new(Heun::new(config)?)),
};

#[derive(Debug)]
struct Heun {
    options: SigmaOptions,
}

impl Heun {
    fn new(config: &Config) -> Result<Self, SamplerError> {
        check_linear(config, false)?;
        let shared = SharedOptions::read(config, Defaults { own_beta_schedule: Some("exp"), ..Defaults::SECOND_ORDER })?;
        let spacing = SpacingOptions::read(config, shared.train_steps, Spacing::Linspace)?;
        Ok(Self { options: SigmaOptions { shared, spacing, curve: Curve::read(NAME, config)? } })
    }
}

impl Sampler for Heun {
    fn name(&self) -> &'static str {
        NAME
    }

    fn schedule(&self, ScheduleRequest { steps, .. }: ScheduleRequest) -> Result<Schedule, SamplerError> {
        check_steps(steps, self.options.shared.max_steps())?;
        let (levels, _) = self.options.levels(steps);
        let sigmas = levels.sigmas_to_zero();
        let inner = sigmas[1..sigmas.len() - 1].iter().flat_map(|sigma| [*sigma; 2]);
        let sigmas = sigmas[..1].iter().copied().chain(inner).chain([0.0]).collect();
        let timesteps = levels.timesteps_f32();
        let later = timesteps[1..].iter().flat_map(|timestep| [*timestep; 2]);
        let timesteps = timesteps[..1].iter().copied().chain(later).collect();
        Ok(self.options.schedule(timesteps, sigmas, steps))
    }

    fn evaluation(&self, schedule: &Schedule, at: usize) -> Evaluation {
        sigma_levels::evaluation(schedule, at)
    }

    /// History between the two evaluations of a step: the sample it began with, and the slope there.
    fn update(&self, schedule: &Schedule, first: usize, at: usize) -> Update {
        let slope_at = |sigma: f64| slope(self.options.shared.prediction, sigma);
        if (at - first).is_multiple_of(2) {
            let (sigma, next) = schedule.sigma_pair(at);
            let slope = slope_at(sigma);
            return Update::to(Blend::SAMPLE + slope * (next - sigma)).keeping([Blend::SAMPLE, slope]);
        }
        let (sigma, next) = schedule.sigma_pair(at - 1);
        let mean = (Blend::history(1) + slope_at(next)) * 0.5;
        Update::to(Blend::history(0) + mean * (next - sigma))
    }

    fn evaluations_per_step(&self) -> usize {
        2
    }

    fn noised(&self, schedule: &Schedule, at: usize) -> NoiseMix {
        sigma_levels::noised(schedule, at)
    }
}
