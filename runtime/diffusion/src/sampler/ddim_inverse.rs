//! `DDIMInverseScheduler`: DDIM backwards, from the image to the noise it would be made of.

use std::sync::Arc;

use serde_json::json;

use super::alpha_table::{self, AlphaTable, Level, whole};
use super::options::{CLIPPING_KEYS, Defaults, SPACING_KEYS, SharedOptions, SpacingOptions, TRAINING_KEYS, ZERO_SNR_KEYS, check_linear};
use super::schedule::{Schedule, Spacing, check_steps};
use super::select::Class;
use super::{Evaluation, NoiseMix, Prediction, Sampler, SamplerError, ScheduleRequest, Update};
use crate::json::Config;

const NAME: &str = "DDIMInverseScheduler";

pub(super) const CLASS: Class = Class {
    name: NAME,
    options: &[TRAINING_KEYS, SPACING_KEYS, ZERO_SNR_KEYS, &["set_alpha_to_one"], CLIPPING_KEYS],
    takes_eta: false,
    is_flow: false,
    make: |config| Ok(Arc::new(DdimInverse::new(config)?)),
};

#[derive(Debug)]
struct DdimInverse {
    shared: SharedOptions,
    spacing: SpacingOptions,
    table: AlphaTable,
    starts_at_one: bool,
}

impl DdimInverse {
    fn new(config: &Config) -> Result<Self, SamplerError> {
        check_linear(config, true)?;
        config.only("timestep_spacing", &[json!("leading"), json!("trailing")])?;
        let shared = SharedOptions::read(config, Defaults::GENERAL)?;
        let spacing = SpacingOptions::read(config, shared.train_steps, Spacing::Leading)?;
        let starts_at_one = config.bool("set_alpha_to_one")?.unwrap_or(true);
        Ok(Self { table: AlphaTable::new(&shared, starts_at_one), shared, spacing, starts_at_one })
    }

    /// Where the latents are before an evaluation: one stride before its timestep.
    fn timestep_before(&self, timestep: i64, steps: usize) -> i64 {
        timestep - (self.shared.train_steps / steps) as i64
    }

    fn levels(&self, schedule: &Schedule, at: usize) -> (Level, Level) {
        let timestep = schedule.timesteps[at] as i64;
        (self.table.level(self.timestep_before(timestep, schedule.steps)), self.table.level(timestep))
    }
}

impl Sampler for DdimInverse {
    fn name(&self) -> &'static str {
        NAME
    }

    fn schedule(&self, ScheduleRequest { steps, .. }: ScheduleRequest) -> Result<Schedule, SamplerError> {
        check_steps(steps, self.shared.max_steps())?;
        let mut timesteps = whole(self.spacing.timesteps(self.shared.train_steps, steps));
        timesteps.reverse();
        let mut levels: Vec<i64> = timesteps.iter().map(|timestep| self.timestep_before(*timestep as i64, steps)).collect();
        levels.push(timesteps[timesteps.len() - 1] as i64);
        if self.starts_at_one && levels[0] < 0 && self.shared.prediction == Prediction::Sample {
            let reason = "predicting the clean image says nothing of the noise where the sample is clean; with prediction_type sample \
                          set set_alpha_to_one to false"
                .to_owned();
            return Err(SamplerError::Contradiction { sampler: NAME, reason });
        }
        self.table.schedule(NAME, self.shared.prediction, &timesteps, &levels, steps)
    }

    fn evaluation(&self, schedule: &Schedule, at: usize) -> Evaluation {
        alpha_table::evaluation(schedule, at)
    }

    fn update(&self, schedule: &Schedule, _first: usize, at: usize) -> Update {
        let (from, to) = self.levels(schedule, at);
        let original = self.shared.prediction.original(from.signal(), from.noise());
        let noise = self.shared.prediction.noise(from.signal(), from.noise());
        Update::to(original * to.signal() + noise * to.noise())
    }

    fn noised(&self, schedule: &Schedule, at: usize) -> NoiseMix {
        self.levels(schedule, at).0.mix()
    }
}
