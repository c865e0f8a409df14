//! `DDIMScheduler`: "Denoising Diffusion Implicit Models" (arXiv 2010.02502), formula 12 with formula 16 for η.

use std::sync::Arc;

use super::alpha_table::{self, AlphaTable, Level, levels_to, whole};
use super::blend::Blend;
use super::options::{Defaults, SharedOptions, SpacingOptions, check_linear, with_own};
use super::schedule::{Schedule, Spacing, check_steps};
use super::select::Class;
use super::{Evaluation, NoiseMix, Sampler, SamplerError, ScheduleRequest, Update};
use crate::json::Config;

const NAME: &str = "DDIMScheduler";

pub(super) const CLASS: Class = Class {
    name: NAME,
    options: &with_own(&["set_alpha_to_one"]),
    takes_eta: true,
    is_flow: false,
    make: |config| Ok(Arc::new(Ddim::new(config)?)),
};

#[derive(Debug)]
struct Ddim {
    shared: SharedOptions,
    spacing: SpacingOptions,
    table: AlphaTable,
    /// 0 = deterministic, 1 = as much noise as DDPM.
    eta: f64,
}

impl Ddim {
    fn new(config: &Config) -> Result<Self, SamplerError> {
        check_linear(config, true)?;
        let shared = SharedOptions::read(config, Defaults::GENERAL)?;
        let spacing = SpacingOptions::read(config, shared.train_steps, Spacing::Leading)?;
        let table = AlphaTable::new(&shared, config.bool("set_alpha_to_one")?.unwrap_or(true));
        Ok(Self { shared, spacing, table, eta: read_eta(config)? })
    }

    /// ᾱ of an evaluation's timestep and of the one it steps to.
    fn levels(&self, schedule: &Schedule, at: usize) -> (Level, Level) {
        let timestep = schedule.timesteps[at] as i64;
        let stride = (self.shared.train_steps / schedule.steps) as i64;
        (self.table.level(timestep), self.table.level(timestep - stride))
    }
}

/// η: how much fresh noise.
pub(super) fn read_eta(config: &Config) -> Result<f64, SamplerError> {
    let eta = config.f64("eta")?.unwrap_or(0.0);
    match (0.0..=1.0).contains(&eta) {
        true => Ok(eta),
        false => Err(config.unaccepted("eta", "a number from 0 to 1").into()),
    }
}

impl Sampler for Ddim {
    fn name(&self) -> &'static str {
        NAME
    }

    fn schedule(&self, ScheduleRequest { steps, .. }: ScheduleRequest) -> Result<Schedule, SamplerError> {
        check_steps(steps, self.shared.max_steps())?;
        let timesteps = whole(self.spacing.timesteps(self.shared.train_steps, steps));
        self.table.schedule(NAME, self.shared.prediction, &timesteps, &levels_to(&timesteps, -1), steps)
    }

    fn evaluation(&self, schedule: &Schedule, at: usize) -> Evaluation {
        alpha_table::evaluation(schedule, at)
    }

    fn update(&self, schedule: &Schedule, _first: usize, at: usize) -> Update {
        let (from, to) = self.levels(schedule, at);
        let variance = (1.0 - to.alpha) / (1.0 - from.alpha) * (1.0 - from.alpha / to.alpha);
        let deviation = self.eta * variance.max(0.0).sqrt();
        let direction = (1.0 - to.alpha - deviation * deviation).max(0.0).sqrt();
        let original = self.shared.prediction.original(from.signal(), from.noise());
        let noise = self.shared.prediction.noise(from.signal(), from.noise());
        Update::to(original * to.signal() + noise * direction + Blend::NOISE * deviation).drawing_noise(self.eta > 0.0)
    }

    fn noised(&self, schedule: &Schedule, at: usize) -> NoiseMix {
        self.levels(schedule, at).0.mix()
    }
}
