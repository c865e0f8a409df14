//! `TCDScheduler`: strategic stochastic sampling of "Trajectory Consistency Distillation" (arXiv 2402.19159), algorithm 4.

use std::sync::Arc;

use super::alpha_table::{self, AlphaTable, levels_to};
use super::blend::Blend;
use super::ddim::read_eta;
use super::lcm::{DISTILLATION_KEYS, Distillation};
use super::options::{Defaults, SharedOptions, check_linear, with_own};
use super::schedule::Schedule;
use super::select::Class;
use super::{Evaluation, NoiseMix, Sampler, SamplerError, ScheduleRequest, Update};
use crate::json::Config;

const NAME: &str = "TCDScheduler";

pub(super) const CLASS: Class = Class {
    name: NAME,
    options: &with_own(DISTILLATION_KEYS),
    takes_eta: true,
    is_flow: false,
    make: |config| Ok(Arc::new(Tcd::new(config)?)),
};

#[derive(Debug)]
struct Tcd {
    shared: SharedOptions,
    distillation: Distillation,
    table: AlphaTable,
    /// γ of the paper: 0 = deterministic, 1 = LCM's amount of noise.
    eta: f64,
}

impl Tcd {
    fn new(config: &Config) -> Result<Self, SamplerError> {
        check_linear(config, false)?;
        let shared = SharedOptions::read(config, Defaults::DISTILLED)?;
        let distillation = Distillation::read(config, shared.train_steps)?;
        // As the reference's pipelines, which hand their own default over and not this class's 0.3.
        Ok(Self { table: AlphaTable::new(&shared, true), shared, distillation, eta: read_eta(config)? })
    }
}

impl Sampler for Tcd {
    fn name(&self) -> &'static str {
        NAME
    }

    fn schedule(&self, ScheduleRequest { steps, .. }: ScheduleRequest) -> Result<Schedule, SamplerError> {
        let timesteps = self.distillation.timesteps(steps)?;
        self.table.schedule(NAME, self.shared.prediction, &timesteps, &levels_to(&timesteps, 0), steps)
    }

    fn evaluation(&self, schedule: &Schedule, at: usize) -> Evaluation {
        alpha_table::evaluation(schedule, at)
    }

    fn update(&self, schedule: &Schedule, _first: usize, at: usize) -> Update {
        let next = schedule.timesteps.get(at + 1);
        let end = next.copied().unwrap_or(0.0);
        // In f32, whose rounding decides where the product is whole.
        let between = ((1.0 - self.eta) as f32 * end).floor();
        let (from, middle) = (self.table.level(schedule.timesteps[at] as i64), self.table.level(between as i64));
        let original = self.shared.prediction.original(from.signal(), from.noise());
        let noise = self.shared.prediction.noise(from.signal(), from.noise());
        let stepped = original * middle.signal() + noise * middle.noise();
        if self.eta == 0.0 || next.is_none() {
            return Update::to(stepped);
        }
        let kept = self.table.level(end as i64).alpha / middle.alpha;
        Update::to(stepped * kept.sqrt() + Blend::NOISE * (1.0 - kept).max(0.0).sqrt()).drawing_noise(true)
    }

    fn noised(&self, schedule: &Schedule, at: usize) -> NoiseMix {
        self.table.level(schedule.timesteps[at] as i64).mix()
    }
}
