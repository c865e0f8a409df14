//! `KDPM2DiscreteScheduler`: DPM-Solver-2 (arXiv 2206.00927) in the form of k-diffusion's `sample_dpm_2`: an Euler step to the
//! geometric mean of two noise levels, whose slope then leads from the one to the other.

use std::sync::Arc;

use super::blend::Blend;
use super::curve::{CURVE_KEYS, Curve};
use super::options::{Defaults, SPACING_KEYS, SharedOptions, SpacingOptions, TRAINING_KEYS};
use super::schedule::{Schedule, Spacing, check_steps, timestep_of_sigma};
use super::select::Class;
use super::sigma_levels::{self, Levels, SigmaOptions, log_sigmas, slope};
use super::{Evaluation, NoiseMix, Sampler, SamplerError, ScheduleRequest, Update};
use crate::json::Config;

const NAME: &str = "KDPM2DiscreteScheduler";

pub(super) const OPTIONS: &[&[&str]] = &[TRAINING_KEYS, SPACING_KEYS, CURVE_KEYS];

pub(super) const CLASS: Class = Class {
    name: NAME,
    options: OPTIONS,
    takes_eta: false,
    is_flow: false,
    make: |config| Ok(Arc::new(Kdpm2 { options: read_options(NAME, config)? })),
};

#[derive(Debug)]
struct Kdpm2 {
    options: SigmaOptions,
}

/// Options of both KDPM2 classes.
pub(super) fn read_options(sampler: &'static str, config: &Config) -> Result<SigmaOptions, SamplerError> {
    let shared = SharedOptions::read_without_sample_prediction(config, Defaults::SECOND_ORDER)?;
    let spacing = SpacingOptions::read(config, shared.train_steps, Spacing::Linspace)?;
    Ok(SigmaOptions { shared, spacing, curve: Curve::read(sampler, config)? })
}

/// The schedule of both KDPM2 classes, with an evaluation at σ `between(σ, next σ)` after each step's own.
pub(super) fn schedule_with_middles(options: &SigmaOptions, steps: usize, between: impl Fn(f32, f32) -> f32) -> Schedule {
    let (mut levels, table): (Levels, _) = options.levels(steps);
    if options.curve == Some(Curve::Karras) {
        levels.timesteps = levels.timesteps.into_iter().map(f64::round_ties_even).collect();
    }
    let logs = log_sigmas(&table);
    let own = levels.sigmas_to_zero();
    let own_timesteps = levels.timesteps_f32();
    let (mut sigmas, mut timesteps) = (Vec::new(), Vec::new());
    for (step, timestep) in own_timesteps.iter().enumerate() {
        sigmas.push(own[step]);
        timesteps.push(*timestep);
        if step + 1 < own_timesteps.len() {
            let middle = between(own[step], own[step + 1]);
            sigmas.push(middle);
            timesteps.push(timestep_of_sigma(f64::from(middle), &logs) as f32);
        }
    }
    sigmas.push(0.0);
    options.schedule(timesteps, sigmas, steps)
}

/// As the reference, which mixes at a step's end also where the evaluation lies in its middle.
pub(super) fn noised_at_step(schedule: &Schedule, at: usize) -> NoiseMix {
    sigma_levels::noised(schedule, at + at % 2)
}

impl Sampler for Kdpm2 {
    fn name(&self) -> &'static str {
        NAME
    }

    fn schedule(&self, ScheduleRequest { steps, .. }: ScheduleRequest) -> Result<Schedule, SamplerError> {
        check_steps(steps, self.options.shared.max_steps())?;
        let geometric_mean = |sigma: f32, next: f32| (f64::from(sigma) * f64::from(next)).sqrt() as f32;
        Ok(schedule_with_middles(&self.options, steps, geometric_mean))
    }

    fn evaluation(&self, schedule: &Schedule, at: usize) -> Evaluation {
        sigma_levels::evaluation(schedule, at)
    }

    /// History between the two evaluations of a step: the sample it began with.
    fn update(&self, schedule: &Schedule, first: usize, at: usize) -> Update {
        let (sigma, next) = schedule.sigma_pair(at);
        let slope = slope(self.options.shared.prediction, sigma);
        if (at - first).is_multiple_of(2) {
            return Update::to(Blend::SAMPLE + slope * (next - sigma)).keeping([Blend::SAMPLE]);
        }
        let (begin, _) = schedule.sigma_pair(at - 1);
        Update::to(Blend::history(0) + slope * (next - begin))
    }

    fn evaluations_per_step(&self) -> usize {
        2
    }

    fn noised(&self, schedule: &Schedule, at: usize) -> NoiseMix {
        noised_at_step(schedule, at)
    }
}
