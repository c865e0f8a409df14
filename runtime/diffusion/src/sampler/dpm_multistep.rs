//! `DPMSolverMultistepScheduler`: DPM++ 2M and its relatives; differences come from earlier evaluations.

use std::sync::Arc;

use super::blend::Blend;
use super::curve::CURVE_KEYS;
use super::dpm_solver::{Correction, DPM_KEYS, DpmOptions};
use super::log_snr::{self, FLOW_KEYS, Level};
use super::options::{Defaults, SPACING_KEYS, SpacingOptions, THRESHOLDING_KEYS, TRAINING_KEYS, ZERO_SNR_KEYS};
use super::schedule::{Schedule, Spacing, check_steps};
use super::select::Class;
use super::{Evaluation, NoiseMix, Sampler, SamplerError, ScheduleRequest, Update};
use crate::json::Config;

const NAME: &str = "DPMSolverMultistepScheduler";

pub(super) const CLASS: Class = Class {
    name: NAME,
    options: &[
        TRAINING_KEYS,
        SPACING_KEYS,
        ZERO_SNR_KEYS,
        DPM_KEYS,
        &["euler_at_final", "use_lu_lambdas"],
        CURVE_KEYS,
        THRESHOLDING_KEYS,
        FLOW_KEYS,
    ],
    takes_eta: false,
    is_flow: false,
    make: |config| Ok(Arc::new(DpmMultistep::new(config)?)),
};

/// `lower_order_final` acts on schedules shorter than this.
pub(super) const SHORT_SCHEDULE: usize = 15;

#[derive(Debug)]
struct DpmMultistep {
    options: DpmOptions,
    euler_at_final: bool,
}

impl DpmMultistep {
    fn new(config: &Config) -> Result<Self, SamplerError> {
        let algorithms = ["dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++"];
        let mut options = DpmOptions::read(NAME, config, Defaults::GENERAL, &algorithms, true, |shared| {
            SpacingOptions::read(config, shared.train_steps, Spacing::Linspace)
        })?;
        options.levels.lu_lambdas = config.bool("use_lu_lambdas")?.unwrap_or(false);
        options.levels.rounds_timesteps = config.string("beta_schedule")? != Some("squaredcos_cap_v2");
        Ok(Self { options, euler_at_final: config.bool("euler_at_final")?.unwrap_or(false) })
    }

    /// The order of the update: what is known, and less at the end.
    fn order(&self, evaluations: usize, known: usize, at: usize) -> usize {
        let lowers = self.options.lower_order_final && evaluations < SHORT_SCHEDULE;
        let limit = match evaluations - 1 - at {
            0 if self.euler_at_final || lowers || self.options.ends_without_noise() => 1,
            1 if lowers => 2,
            _ => self.options.order,
        };
        self.options.order.min(limit).min(known)
    }
}

impl Sampler for DpmMultistep {
    fn name(&self) -> &'static str {
        NAME
    }

    fn schedule(&self, ScheduleRequest { steps, .. }: ScheduleRequest) -> Result<Schedule, SamplerError> {
        check_steps(steps, self.options.levels.shared.max_steps())?;
        self.options.levels.schedule(NAME, steps)
    }

    fn evaluation(&self, schedule: &Schedule, at: usize) -> Evaluation {
        log_snr::evaluation(schedule, at)
    }

    /// History: earlier predictions, newest first.
    fn update(&self, schedule: &Schedule, first: usize, at: usize) -> Update {
        let current = self.options.converted(schedule, at);
        let known = at - first + 1;
        let order = self.order(schedule.num_evaluations(), known, at);
        let level = |back: usize| Level::at(schedule, at - back);
        let (from, to) = (level(0), Level::at(schedule, at + 1));
        let h = to.lambda - from.lambda;
        // Divided differences over steps in units of this one.
        let ratio = |back: usize| (level(back - 1).lambda - level(back).lambda) / h;
        let correction = match order {
            1 => Correction::None,
            2 => {
                let slope = (current - Blend::history(0)) * ratio(1).recip();
                if self.options.heun { Correction::Taylor(slope, Blend::NOTHING) } else { Correction::Midpoint(slope) }
            }
            _ => {
                let (r0, r1) = (ratio(1), ratio(2));
                let near = (current - Blend::history(0)) * r0.recip();
                let far = (Blend::history(0) - Blend::history(1)) * r1.recip();
                let bend = (near - far) * (r0 + r1).recip();
                Correction::Taylor(near + bend * r0, bend)
            }
        };
        let next = self.options.algorithm.advance(Blend::SAMPLE, from, to, current, correction);
        let kept = [current, Blend::history(0)].into_iter().take(known.min(self.options.order - 1));
        Update::to(next).keeping(kept).drawing_noise(self.options.algorithm.draws_noise())
    }

    fn noised(&self, schedule: &Schedule, at: usize) -> NoiseMix {
        log_snr::noised(schedule, at)
    }
}
