//! `PNDMScheduler`: "Pseudo Numerical Methods for Diffusion Models on Manifolds" (arXiv 2202.09778): linear multistep (PLMS, formula
//! 12 of its appendix), begun by three Runge–Kutta steps of four evaluations each unless `skip_prk_steps` says otherwise.

use std::sync::Arc;

use super::alpha_table::{self, AlphaTable, levels_to, whole};
use super::blend::Blend;
use super::options::{Defaults, SPACING_KEYS, SharedOptions, SpacingOptions, TRAINING_KEYS};
use super::schedule::{Schedule, Spacing, check_steps};
use super::select::Class;
use super::{Evaluation, NoiseMix, Prediction, Sampler, SamplerError, ScheduleRequest, Update};
use crate::json::Config;

const NAME: &str = "PNDMScheduler";

pub(super) const CLASS: Class = Class {
    name: NAME,
    options: &[TRAINING_KEYS, SPACING_KEYS, &["skip_prk_steps", "set_alpha_to_one"]],
    takes_eta: false,
    is_flow: false,
    make: |config| Ok(Arc::new(Pndm::new(config)?)),
};

/// Evaluations of the Runge–Kutta steps.
const RUNGE_KUTTA_EVALUATIONS: usize = 12;
/// Solver steps that those need timesteps of.
const RUNGE_KUTTA_STEPS: usize = 4;

#[derive(Debug)]
struct Pndm {
    shared: SharedOptions,
    spacing: SpacingOptions,
    table: AlphaTable,
    skips_runge_kutta: bool,
}

impl Pndm {
    fn new(config: &Config) -> Result<Self, SamplerError> {
        let shared = SharedOptions::read_without_sample_prediction(config, Defaults::WITHOUT_ZERO_SNR)?;
        let spacing = SpacingOptions::read(config, shared.train_steps, Spacing::Leading)?;
        let table = AlphaTable::new(&shared, config.bool("set_alpha_to_one")?.unwrap_or(false));
        Ok(Self { shared, spacing, table, skips_runge_kutta: config.bool("skip_prk_steps")?.unwrap_or(false) })
    }

    fn stride(&self, steps: usize) -> i64 {
        (self.shared.train_steps / steps) as i64
    }

    /// From the latents at one timestep to those at another, by formula 11, along `direction`: a mean of the network's outputs.
    fn transfer(&self, sample: Blend, from: i64, to: i64, direction: Blend) -> Blend {
        let (from, to) = (self.table.level(from), self.table.level(to));
        let noise = match self.shared.prediction {
            Prediction::Velocity => direction * from.signal() + sample * from.noise(),
            _ => direction,
        };
        let divisor = from.alpha * to.noise() + (from.alpha * (1.0 - from.alpha) * to.alpha).sqrt();
        sample * (to.alpha / from.alpha).sqrt() - noise * ((to.alpha - from.alpha) / divisor)
    }

    /// History: the sample that the step began with, the weighted sum of its outputs, then the first output of each step before.
    fn runge_kutta(&self, schedule: &Schedule, at: usize, done: usize) -> Update {
        let half = self.stride(schedule.steps) / 2;
        let to = schedule.timesteps[at] as i64 - if done.is_multiple_of(2) { half } else { 0 };
        // As the reference, which counts from the table's beginning also for an image that enters later.
        let from = schedule.timesteps[done / 4 * 4] as i64;
        let earlier = |first: usize, count: usize| (first..first + count).map(Blend::history);
        match done % 4 {
            0 => {
                // The step before left its own sample and sum out, so that only first outputs remain.
                let kept = [Blend::SAMPLE, Blend::OUTPUT * (1.0 / 6.0), Blend::OUTPUT];
                Update::to(self.transfer(Blend::SAMPLE, from, to, Blend::OUTPUT)).keeping(kept.into_iter().chain(earlier(0, done / 4)))
            }
            1 | 2 => {
                let kept = [Blend::history(0), Blend::history(1) + Blend::OUTPUT * (1.0 / 3.0)];
                let next = self.transfer(Blend::history(0), from, to, Blend::OUTPUT);
                Update::to(next).keeping(kept.into_iter().chain(earlier(2, done / 4 + 1)))
            }
            _ => {
                let direction = Blend::history(1) + Blend::OUTPUT * (1.0 / 6.0);
                Update::to(self.transfer(Blend::history(0), from, to, direction)).keeping(earlier(2, done / 4 + 1))
            }
        }
    }

    /// History: earlier outputs, newest first; after the very first evaluation also the sample it began with.
    fn multistep(&self, schedule: &Schedule, at: usize, done: usize) -> Update {
        let timestep = schedule.timesteps[at] as i64;
        let stride = self.stride(schedule.steps);
        let earlier = Blend::history;
        if done == 1 {
            // The first step again, now with the mean of its two ends.
            let mean = (Blend::OUTPUT + earlier(0)) * 0.5;
            return Update::to(self.transfer(earlier(1), timestep + stride, timestep, mean)).keeping([earlier(0)]);
        }
        // Without the Runge–Kutta steps, the second evaluation left no output of its own.
        let known = if self.skips_runge_kutta { done.saturating_sub(1) } else { done };
        let direction = match known {
            0 => Blend::OUTPUT,
            1 => Blend::OUTPUT * 1.5 - earlier(0) * 0.5,
            2 => (Blend::OUTPUT * 23.0 - earlier(0) * 16.0 + earlier(1) * 5.0) * (1.0 / 12.0),
            _ => (Blend::OUTPUT * 55.0 - earlier(0) * 59.0 + earlier(1) * 37.0 - earlier(2) * 9.0) * (1.0 / 24.0),
        };
        let next = self.transfer(Blend::SAMPLE, timestep, timestep - stride, direction);
        let kept =
            if done == 0 { vec![Blend::OUTPUT, Blend::SAMPLE] } else { [Blend::OUTPUT, earlier(0), earlier(1)][..=known.min(2)].to_vec() };
        Update::to(next).keeping(kept)
    }
}

impl Sampler for Pndm {
    fn name(&self) -> &'static str {
        NAME
    }

    fn schedule(&self, ScheduleRequest { steps, .. }: ScheduleRequest) -> Result<Schedule, SamplerError> {
        check_steps(steps, self.shared.max_steps())?;
        let spaced = whole(self.spacing.timesteps(self.shared.train_steps, steps));
        let timesteps = if self.skips_runge_kutta {
            // The second timestep twice: see `multistep`.
            let again = spaced.get(1).copied();
            spaced[..1].iter().copied().chain(again).chain(spaced[1..].iter().copied()).collect()
        } else if spaced.len() < RUNGE_KUTTA_STEPS {
            let reason = format!("its Runge-Kutta steps need at least {RUNGE_KUTTA_STEPS} steps; ask for more or set skip_prk_steps");
            return Err(SamplerError::Contradiction { sampler: NAME, reason });
        } else {
            runge_kutta_timesteps(&spaced, (self.stride(steps) / 2) as f64)
        };
        self.table.schedule(NAME, self.shared.prediction, &timesteps, &levels_to(&timesteps, -1), steps)
    }

    fn evaluation(&self, schedule: &Schedule, at: usize) -> Evaluation {
        alpha_table::evaluation(schedule, at)
    }

    fn update(&self, schedule: &Schedule, first: usize, at: usize) -> Update {
        let done = at - first;
        match !self.skips_runge_kutta && done < RUNGE_KUTTA_EVALUATIONS {
            true => self.runge_kutta(schedule, at, done),
            false => self.multistep(schedule, at, done),
        }
    }

    fn noised(&self, schedule: &Schedule, at: usize) -> NoiseMix {
        self.table.level(schedule.timesteps[at] as i64).mix()
    }
}

/// Each of the first three steps is evaluated at its beginning, twice in its middle, and at its end.
fn runge_kutta_timesteps(spaced: &[f64], half: f64) -> Vec<f64> {
    let steps = spaced.windows(2).take(RUNGE_KUTTA_STEPS - 1);
    let evaluations = steps.flat_map(|pair| [pair[0], pair[1] + half, pair[1] + half, pair[1]]);
    evaluations.chain(spaced[RUNGE_KUTTA_STEPS - 1..].iter().copied()).collect()
}
