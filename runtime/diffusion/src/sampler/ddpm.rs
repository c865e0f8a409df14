//! `DDPMScheduler`: "Denoising Diffusion Probabilistic Models" (arXiv 2006.11239), formulas 6 and 7 between the visited timesteps.

use std::sync::Arc;

use super::alpha_table::{self, AlphaTable, levels_to, whole};
use super::blend::Blend;
use super::options::{Defaults, SharedOptions, SpacingOptions, check_linear, with_own};
use super::schedule::{Schedule, Spacing, check_steps};
use super::select::Class;
use super::{Evaluation, NoiseMix, Sampler, SamplerError, ScheduleRequest, Update};
use crate::json::Config;

const NAME: &str = "DDPMScheduler";

pub(super) const CLASS: Class = Class {
    name: NAME,
    options: &with_own(&["variance_type"]),
    takes_eta: false,
    is_flow: false,
    make: |config| Ok(Arc::new(Ddpm::new(config)?)),
};

/// The reference's lower bound of the posterior variance.
const LEAST_VARIANCE: f64 = 1e-20;

#[derive(Debug)]
struct Ddpm {
    shared: SharedOptions,
    spacing: SpacingOptions,
    table: AlphaTable,
    /// `fixed_large`: the noise of the forward step instead of the posterior's.
    large_variance: bool,
}

impl Ddpm {
    fn new(config: &Config) -> Result<Self, SamplerError> {
        check_linear(config, true)?;
        // `learned` and `learned_range` need a network of two outputs; what the reference makes of `fixed_large_log` is not a number.
        let variances = ["fixed_small", "fixed_small_log", "fixed_large"];
        let large_variance = config.one_of("variance_type", &variances)? == Some("fixed_large");
        let shared = SharedOptions::read(config, Defaults { own_beta_schedule: Some("sigmoid"), ..Defaults::GENERAL })?;
        let spacing = SpacingOptions::read(config, shared.train_steps, Spacing::Leading)?;
        Ok(Self { table: AlphaTable::new(&shared, true), shared, spacing, large_variance })
    }
}

impl Sampler for Ddpm {
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
        let timestep = schedule.timesteps[at] as i64;
        let next = schedule.timesteps.get(at + 1).map_or(-1, |next| *next as i64);
        let (from, to) = (self.table.level(timestep), self.table.level(next));
        let kept = from.alpha / to.alpha;
        let added = 1.0 - kept;
        let share = (1.0 - to.alpha) / (1.0 - from.alpha);
        let original = self.shared.prediction.original(from.signal(), from.noise());
        let mean = original * (to.signal() * added / (1.0 - from.alpha)) + Blend::SAMPLE * (kept.sqrt() * share);
        if timestep == 0 {
            return Update::to(mean);
        }
        let variance = if self.large_variance { added } else { (share * added).max(LEAST_VARIANCE) };
        Update::to(mean + Blend::NOISE * variance.sqrt()).drawing_noise(true)
    }

    fn noised(&self, schedule: &Schedule, at: usize) -> NoiseMix {
        self.table.level(schedule.timesteps[at] as i64).mix()
    }
}
