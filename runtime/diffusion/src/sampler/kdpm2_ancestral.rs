//! `KDPM2AncestralDiscreteScheduler`: as KDPM2 down to below the next noise level, and fresh noise back up to it (after k-diffusion's
//! `sample_dpm_2_ancestral` with η = 1).

use std::sync::Arc;

use super::blend::Blend;
use super::kdpm2::{OPTIONS, noised_at_step, read_options, schedule_with_middles};
use super::schedule::{Schedule, check_steps};
use super::select::Class;
use super::sigma_levels::{self, SigmaOptions, ancestral, slope};
use super::{Evaluation, NoiseMix, Sampler, SamplerError, ScheduleRequest, Update};

const NAME: &str = "KDPM2AncestralDiscreteScheduler";

pub(super) const CLASS: Class = Class {
    name: NAME,
    options: OPTIONS,
    takes_eta: false,
    is_flow: false,
    make: |config| Ok(Arc::new(Kdpm2Ancestral { options: read_options(NAME, config)? })),
};

#[derive(Debug)]
struct Kdpm2Ancestral {
    options: SigmaOptions,
}

impl Sampler for Kdpm2Ancestral {
    fn name(&self) -> &'static str {
        NAME
    }

    fn schedule(&self, ScheduleRequest { steps, .. }: ScheduleRequest) -> Result<Schedule, SamplerError> {
        check_steps(steps, self.options.shared.max_steps())?;
        let middle = |sigma: f32, next: f32| (f64::from(sigma) * ancestral(sigma, next).0).sqrt() as f32;
        Ok(schedule_with_middles(&self.options, steps, middle))
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
        let begin = schedule.sigmas[at - 1];
        let (down, up) = ancestral(begin, schedule.sigmas[at + 1]);
        let lower = Blend::history(0) + slope * (down - f64::from(begin));
        Update::to(lower + Blend::NOISE * up).drawing_noise(true)
    }

    fn evaluations_per_step(&self) -> usize {
        2
    }

    fn noised(&self, schedule: &Schedule, at: usize) -> NoiseMix {
        noised_at_step(schedule, at)
    }
}
