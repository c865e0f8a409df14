//! `LMSDiscreteScheduler`: linear multistep of order 4, the Adams–Bashforth formula of unequal steps: the slope is the polynomial
//! through the last four, integrated exactly from one σ to the next.

use std::sync::Arc;

use super::blend::Blend;
use super::curve::{CURVE_KEYS, Curve};
use super::options::{Defaults, SPACING_KEYS, SharedOptions, SpacingOptions, TRAINING_KEYS};
use super::schedule::{Schedule, Spacing, check_steps};
use super::select::Class;
use super::sigma_levels::{self, SigmaOptions, slope};
use super::{Evaluation, NoiseMix, Sampler, SamplerError, ScheduleRequest, Update};
use crate::json::Config;

const NAME: &str = "LMSDiscreteScheduler";

pub(super) const CLASS: Class = Class {
    name: NAME,
    options: &[TRAINING_KEYS, SPACING_KEYS, CURVE_KEYS],
    takes_eta: false,
    is_flow: false,
    make: |config| Ok(Arc::new(Lms::new(config)?)),
};

const ORDER: usize = 4;

#[derive(Debug)]
struct Lms {
    options: SigmaOptions,
}

impl Lms {
    fn new(config: &Config) -> Result<Self, SamplerError> {
        let shared = SharedOptions::read(config, Defaults::WITHOUT_ZERO_SNR)?;
        let spacing = SpacingOptions::read(config, shared.train_steps, Spacing::Linspace)?;
        Ok(Self { options: SigmaOptions { shared, spacing, curve: Curve::read(NAME, config)? } })
    }
}

/// The integral from `nodes[0]` to `end` of the polynomial that is 1 at `nodes[own]` and 0 at the others.
fn weight(nodes: &[f64], own: usize, end: f64) -> f64 {
    let basis = |at: f64| {
        let others = nodes.iter().enumerate().filter(|(index, _)| *index != own);
        others.map(|(_, node)| (at - node) / (nodes[own] - node)).product::<f64>()
    };
    // Simpson's rule is exact up to the third degree.
    let begin = nodes[0];
    (end - begin) / 6.0 * (basis(begin) + 4.0 * basis(0.5 * (begin + end)) + basis(end))
}

impl Sampler for Lms {
    fn name(&self) -> &'static str {
        NAME
    }

    fn schedule(&self, ScheduleRequest { steps, .. }: ScheduleRequest) -> Result<Schedule, SamplerError> {
        check_steps(steps, self.options.shared.max_steps())?;
        let (levels, _) = self.options.levels(steps);
        let schedule = self.options.schedule(levels.timesteps_f32(), levels.sigmas_to_zero(), steps);
        if schedule.sigmas.windows(2).any(|pair| pair[0] == pair[1]) {
            // The polynomial through the slopes needs different places.
            let reason = format!("{steps} steps lie so close that two have the same noise level; ask for fewer");
            return Err(SamplerError::Contradiction { sampler: NAME, reason });
        }
        Ok(schedule)
    }

    fn evaluation(&self, schedule: &Schedule, at: usize) -> Evaluation {
        sigma_levels::evaluation(schedule, at)
    }

    /// History: earlier slopes, newest first.
    fn update(&self, schedule: &Schedule, first: usize, at: usize) -> Update {
        let (sigma, next) = schedule.sigma_pair(at);
        // As the reference: the order follows from the place in the schedule, also for an image that entered later and has fewer slopes.
        let nodes: Vec<f64> = (0..ORDER.min(at + 1)).map(|back| f64::from(schedule.sigmas[at - back])).collect();
        let earlier = (0..ORDER - 1).map(Blend::history).take(at - first);
        let slopes: Vec<Blend> = std::iter::once(slope(self.options.shared.prediction, sigma)).chain(earlier).collect();
        let weighted = slopes.iter().enumerate().map(|(own, slope)| *slope * weight(&nodes, own, next));
        Update::to(weighted.fold(Blend::SAMPLE, |sum, term| sum + term)).keeping(slopes.iter().copied().take(ORDER - 1))
    }

    fn noised(&self, schedule: &Schedule, at: usize) -> NoiseMix {
        sigma_levels::noised(schedule, at)
    }
}
