//! `EulerAncestralDiscreteScheduler`: an Euler step to below the next noise level, and fresh noise back up to it (after
//! k-diffusion's `sample_euler_ancestral` with η = 1).

use std::sync::Arc;

use super::blend::Blend;
use super::options::{Defaults, SPACING_KEYS, SharedOptions, SpacingOptions, TRAINING_KEYS, ZERO_SNR_KEYS};
use super::schedule::{Schedule, Spacing, check_steps};
use super::select::Class;
use super::sigma_levels::{self, SigmaOptions, ancestral, slope};
use super::{Evaluation, NoiseMix, Sampler, SamplerError, ScheduleRequest, Update};
use crate::json::Config;

const NAME: &str = "EulerAncestralDiscreteScheduler";

pub(super) const CLASS: Class = Class {
    name: NAME,
    options: &[TRAINING_KEYS, SPACING_KEYS, ZERO_SNR_KEYS],
    takes_eta: false,
    is_flow: false,
    make: |config| Ok(Arc::new(EulerAncestral::new(config)?)),
};

#[derive(Debug)]
struct EulerAncestral {
    options: SigmaOptions,
}

impl EulerAncestral {
    fn new(config: &Config) -> Result<Self, SamplerError> {
        let shared = SharedOptions::read_without_sample_prediction(config, Defaults::GENERAL)?;
        let spacing = SpacingOptions::read(config, shared.train_steps, Spacing::Linspace)?;
        Ok(Self { options: SigmaOptions { shared, spacing, curve: None } })
    }
}

impl Sampler for EulerAncestral {
    fn name(&self) -> &'static str {
        NAME
    }

    fn schedule(&self, ScheduleRequest { steps, .. }: ScheduleRequest) -> Result<Schedule, SamplerError> {
        check_steps(steps, self.options.shared.max_steps())?;
        let (levels, _) = self.options.levels(steps);
        Ok(self.options.schedule(levels.timesteps_f32(), levels.sigmas_to_zero(), steps))
    }

    fn evaluation(&self, schedule: &Schedule, at: usize) -> Evaluation {
        sigma_levels::evaluation(schedule, at)
    }

    fn update(&self, schedule: &Schedule, _first: usize, at: usize) -> Update {
        let (sigma, _) = schedule.sigma_pair(at);
        let (down, up) = ancestral(schedule.sigmas[at], schedule.sigmas[at + 1]);
        let lower = Blend::SAMPLE + slope(self.options.shared.prediction, sigma) * (down - sigma);
        // Noise is drawn also at the last step, where its coefficient is 0.
        Update::to(lower + Blend::NOISE * up).drawing_noise(true)
    }

    fn noised(&self, schedule: &Schedule, at: usize) -> NoiseMix {
        sigma_levels::noised(schedule, at)
    }
}
