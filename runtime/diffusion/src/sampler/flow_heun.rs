//! `FlowMatchHeunDiscreteScheduler`: an Euler step along the flow, then the same step again with the mean of the slopes at its two ends. The
//! last step, to σ = 0, is Euler's.

use std::sync::Arc;

use super::blend::Blend;
use super::flow::{self, FlowOptions, check_sigmas};
use super::schedule::{Schedule, check_steps, linspace};
use super::select::Class;
use super::{Evaluation, MAX_STEPS, NoiseMix, Sampler, SamplerError, ScheduleRequest, Update};

const NAME: &str = "FlowMatchHeunDiscreteScheduler";

pub(super) const CLASS: Class = Class {
    name: NAME,
    options: &[&["num_train_timesteps", "shift"]],
    takes_eta: false,
    is_flow: true,
    make: |config| Ok(Arc::new(FlowHeun { options: FlowOptions::read(config)? })),
};

#[derive(Debug)]
struct FlowHeun {
    options: FlowOptions,
}

impl Sampler for FlowHeun {
    fn name(&self) -> &'static str {
        NAME
    }

    fn schedule(&self, asked: ScheduleRequest) -> Result<Schedule, SamplerError> {
        check_steps(asked.steps, MAX_STEPS)?;
        if asked.even_sigmas {
            let reason = "it has noise levels of its own, and this model's pipeline wants to set them; use FlowMatchEulerDiscreteScheduler";
            return Err(SamplerError::Contradiction { sampler: NAME, reason: reason.to_owned() });
        }
        let (largest, smallest) = self.options.ends(true);
        let levels = linspace(largest, smallest, asked.steps).into_iter().map(|sigma| self.options.shifted(sigma) as f32);
        let levels: Vec<f32> = levels.collect();
        check_sigmas(NAME, &levels)?;
        // Two evaluations for each step but the last: the second one lies where the next step begins.
        let repeated = levels[1..].iter().flat_map(|sigma| [*sigma; 2]);
        let mut sigmas: Vec<f32> = levels[..1].iter().copied().chain(repeated).collect();
        let timesteps = self.options.timesteps(&sigmas);
        sigmas.push(0.0);
        Ok(Schedule { timesteps, sigmas, init_noise_sigma: 1.0, steps: asked.steps })
    }

    fn evaluation(&self, schedule: &Schedule, at: usize) -> Evaluation {
        flow::evaluation(schedule, at)
    }

    /// History between the two evaluations of a step: the sample it began with, and the slope there.
    fn update(&self, schedule: &Schedule, first: usize, at: usize) -> Update {
        if (at - first).is_multiple_of(2) {
            let (sigma, next) = schedule.sigma_pair(at);
            return Update::to(Blend::SAMPLE + Blend::OUTPUT * (next - sigma)).keeping([Blend::SAMPLE, Blend::OUTPUT]);
        }
        let (sigma, next) = schedule.sigma_pair(at - 1);
        Update::to(Blend::history(0) + (Blend::history(1) + Blend::OUTPUT) * (0.5 * (next - sigma)))
    }

    fn evaluations_per_step(&self) -> usize {
        2
    }

    fn noised(&self, schedule: &Schedule, at: usize) -> NoiseMix {
        flow::noised(schedule, at)
    }
}
