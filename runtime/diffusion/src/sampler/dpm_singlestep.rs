//! `DPMSolverSinglestepScheduler`: differences come from evaluations within one step, which each begin anew at its beginning.

use std::sync::Arc;

use super::blend::Blend;
use super::curve::CURVE_KEYS;
use super::dpm_solver::{Correction, DPM_KEYS, DpmOptions};
use super::log_snr::{self, FLOW_KEYS, Level};
use super::options::{Defaults, SpacingOptions, THRESHOLDING_KEYS, TRAINING_KEYS};
use super::schedule::{Schedule, Spacing, check_steps};
use super::select::Class;
use super::{Evaluation, NoiseMix, Sampler, SamplerError, ScheduleRequest, Update};
use crate::json::Config;

const NAME: &str = "DPMSolverSinglestepScheduler";

pub(super) const CLASS: Class = Class {
    name: NAME,
    options: &[TRAINING_KEYS, DPM_KEYS, CURVE_KEYS, THRESHOLDING_KEYS, FLOW_KEYS],
    takes_eta: false,
    is_flow: false,
    make: |config| Ok(Arc::new(DpmSinglestep::new(config)?)),
};

#[derive(Debug)]
struct DpmSinglestep {
    options: DpmOptions,
}

impl DpmSinglestep {
    fn new(config: &Config) -> Result<Self, SamplerError> {
        let algorithms = ["dpmsolver", "dpmsolver++", "sde-dpmsolver++"];
        // Its timesteps are always spaced evenly from end to end.
        let spacing = |_: &_| Ok(SpacingOptions { spacing: Spacing::Linspace, offset: 0 });
        Ok(Self { options: DpmOptions::read(NAME, config, Defaults::WITHOUT_ZERO_SNR, &algorithms, false, spacing)? })
    }

    /// The order that the schedule gives to evaluation `at` of `steps`: 1 to the solver's order again and again, lower at the end.
    fn planned_order(&self, steps: usize, at: usize) -> usize {
        let order = self.options.order;
        let ends_without_noise = self.options.ends_without_noise();
        if at + 1 == steps && ends_without_noise {
            return 1;
        }
        // The reference insists on it where the steps do not divide or no noise is left at the end.
        let lowers = self.options.lower_order_final || !steps.is_multiple_of(order) || ends_without_noise;
        match steps - at {
            1 if lowers && steps.is_multiple_of(order) => 1,
            _ => at % order + 1,
        }
    }

    /// The order that evaluation `at` can have: an image that enters in the middle of a step has fewer evaluations of it.
    fn order(&self, steps: usize, first: usize, at: usize) -> usize {
        self.planned_order(steps, at).min(at - first + 1)
    }
}

impl Sampler for DpmSinglestep {
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

    /// History: the sample that the step began with, then earlier predictions, newest first.
    fn update(&self, schedule: &Schedule, first: usize, at: usize) -> Update {
        let order = self.order(schedule.num_evaluations(), first, at);
        let current = self.options.converted(schedule, at);
        let (from, to) = (Level::at(schedule, at + 1 - order), Level::at(schedule, at + 1));
        let h = to.lambda - from.lambda;
        // How far into the step an evaluation lies, of the whole.
        let share = |back: usize| (Level::at(schedule, at - back).lambda - from.lambda) / h;
        let sample = if order == 1 { Blend::SAMPLE } else { Blend::history(0) };
        let (direction, correction) = match order {
            1 => (current, Correction::None),
            2 => {
                let begin = Blend::history(1);
                let slope = (current - begin) * share(0).recip();
                (begin, if self.options.heun { Correction::Taylor(slope, Blend::NOTHING) } else { Correction::Midpoint(slope) })
            }
            _ => {
                let (begin, middle) = (Blend::history(2), Blend::history(1));
                let (r0, r1) = (share(0), share(1));
                let (near, far) = ((middle - begin) * r1.recip(), (current - begin) * r0.recip());
                let apart = (r0 - r1).recip();
                let correction = match self.options.heun {
                    true => Correction::Taylor((near * r0 - far * r1) * apart, (far - near) * (2.0 * apart)),
                    false => Correction::Taylor(far, Blend::NOTHING),
                };
                (begin, correction)
            }
        };
        let next = self.options.algorithm.advance(sample, from, to, direction, correction);
        let earlier = [sample, current, Blend::history(1)].into_iter().take(1 + (at - first + 1).min(self.options.order - 1));
        Update::to(next).keeping(earlier).drawing_noise(self.options.algorithm.draws_noise())
    }

    fn noised(&self, schedule: &Schedule, at: usize) -> NoiseMix {
        log_snr::noised(schedule, at)
    }
}
