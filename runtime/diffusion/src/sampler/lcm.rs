//! `LCMScheduler`: multistep sampling of "Latent Consistency Models" (arXiv 2310.04378), algorithm 3.

use std::sync::Arc;

use super::alpha_table::{self, AlphaTable, levels_to};
use super::blend::Blend;
use super::options::{Defaults, SharedOptions, check_linear, with_own};
use super::schedule::{Schedule, check_steps};
use super::select::Class;
use super::{Evaluation, NoiseMix, Sampler, SamplerError, ScheduleRequest, Update};
use crate::json::Config;

const NAME: &str = "LCMScheduler";

/// Keys of this class and TCD. The end of ᾱ, and the spacing of the timesteps, are read by neither, which both have them.
pub(super) const DISTILLATION_KEYS: &[&str] = &["original_inference_steps", "timestep_scaling", "set_alpha_to_one"];

pub(super) const CLASS: Class = Class {
    name: NAME,
    options: &with_own(DISTILLATION_KEYS),
    takes_eta: false,
    is_flow: false,
    make: |config| Ok(Arc::new(Lcm::new(config)?)),
};

/// The data's deviation that the boundary condition assumes.
const DATA_DEVIATION: f64 = 0.5;

#[derive(Debug)]
struct Lcm {
    shared: SharedOptions,
    distillation: Distillation,
    table: AlphaTable,
    timestep_scaling: f64,
}

impl Lcm {
    fn new(config: &Config) -> Result<Self, SamplerError> {
        check_linear(config, false)?;
        let shared = SharedOptions::read(config, Defaults::DISTILLED)?;
        let timestep_scaling = config.f64("timestep_scaling")?.unwrap_or(10.0);
        if !(timestep_scaling > 0.0 && timestep_scaling.is_finite()) {
            return Err(config.unaccepted("timestep_scaling", "a number above 0").into());
        }
        let distillation = Distillation::read(config, shared.train_steps)?;
        Ok(Self { table: AlphaTable::new(&shared, true), shared, distillation, timestep_scaling })
    }
}

impl Sampler for Lcm {
    fn name(&self) -> &'static str {
        NAME
    }

    fn schedule(&self, ScheduleRequest { steps, .. }: ScheduleRequest) -> Result<Schedule, SamplerError> {
        let timesteps = self.distillation.timesteps(steps)?;
        self.table.schedule(NAME, self.shared.prediction, &timesteps, &levels_to(&timesteps, -1), steps)
    }

    fn evaluation(&self, schedule: &Schedule, at: usize) -> Evaluation {
        alpha_table::evaluation(schedule, at)
    }

    fn update(&self, schedule: &Schedule, _first: usize, at: usize) -> Update {
        let timestep = schedule.timesteps[at];
        let from = self.table.level(timestep as i64);
        let scaled = f64::from(timestep) * self.timestep_scaling;
        let spread = scaled * scaled + DATA_DEVIATION * DATA_DEVIATION;
        let original = self.shared.prediction.original(from.signal(), from.noise());
        let denoised = original * (scaled / spread.sqrt()) + Blend::SAMPLE * (DATA_DEVIATION * DATA_DEVIATION / spread);
        let Some(next) = schedule.timesteps.get(at + 1) else { return Update::to(denoised) };
        let to = self.table.level(*next as i64);
        Update::to(denoised * to.signal() + Blend::NOISE * to.noise()).drawing_noise(true)
    }

    fn noised(&self, schedule: &Schedule, at: usize) -> NoiseMix {
        self.table.level(schedule.timesteps[at] as i64).mix()
    }
}

/// The timesteps that a distilled model was taught, of which a request visits some.
#[derive(Clone, Copy, Debug)]
pub(super) struct Distillation {
    train_steps: usize,
    /// `original_inference_steps`
    taught: usize,
}

impl Distillation {
    pub(super) fn read(config: &Config, train_steps: usize) -> Result<Self, SamplerError> {
        let taught = config.usize("original_inference_steps")?.unwrap_or(50);
        if !(1..=train_steps).contains(&taught) {
            let accepted = format!("1 to {train_steps}, the number of training timesteps");
            return Err(config.unaccepted("original_inference_steps", &accepted).into());
        }
        Ok(Self { train_steps, taught })
    }

    /// Falling, from the last timestep that was taught.
    ///
    /// # Errors
    /// [`SamplerError::Steps`] if more are asked for than were taught.
    pub(super) fn timesteps(self, steps: usize) -> Result<Vec<f64>, SamplerError> {
        check_steps(steps, self.taught)?;
        let stride = self.train_steps / self.taught;
        // As numpy's linspace without its end.
        let spacing = self.taught as f64 / steps as f64;
        let timestep = |index: usize| ((self.taught - (index as f64 * spacing).floor() as usize) * stride - 1) as f64;
        Ok((0..steps).map(timestep).collect())
    }
}
