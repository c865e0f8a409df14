//! `UniPCMultistepScheduler`: "UniPC: A Unified Predictor-Corrector Framework" (arXiv 2302.04867), both forms of B(h). Each evaluation
//! first corrects the step that led to it, then predicts the next.

use std::sync::Arc;

use serde_json::json;

use super::blend::Blend;
use super::curve::{CURVE_KEYS, Curve};
use super::log_snr::{self, End, FLOW_KEYS, Level, Levels, MAX_ORDER, read_order};
use super::options::{Defaults, SPACING_KEYS, SharedOptions, SpacingOptions, THRESHOLDING_KEYS, TRAINING_KEYS, ZERO_SNR_KEYS};
use super::schedule::{Schedule, Spacing, check_steps};
use super::select::Class;
use super::{Evaluation, NoiseMix, Sampler, SamplerError, ScheduleRequest, Update};
use crate::json::Config;

const NAME: &str = "UniPCMultistepScheduler";

pub(super) const CLASS: Class = Class {
    name: NAME,
    options: &[
        TRAINING_KEYS,
        SPACING_KEYS,
        ZERO_SNR_KEYS,
        &["solver_order", "solver_type", "predict_x0", "lower_order_final", "disable_corrector", "solver_p", "final_sigmas_type"],
        CURVE_KEYS,
        THRESHOLDING_KEYS,
        FLOW_KEYS,
    ],
    takes_eta: false,
    is_flow: false,
    make: |config| Ok(Arc::new(UniPc::new(config)?)),
};

#[derive(Debug)]
struct UniPc {
    levels: Levels,
    order: usize,
    /// `bh1` instead of `bh2`: B(h) = h instead of eʰ − 1.
    plain_b: bool,
    /// `predict_x0`: along the image instead of the noise.
    follows_image: bool,
    lower_order_final: bool,
    /// `disable_corrector`: evaluations whose step is not corrected afterwards.
    uncorrected: Vec<usize>,
}

impl UniPc {
    fn new(config: &Config) -> Result<Self, SamplerError> {
        log_snr::check_served(config)?;
        if config.contains("solver_p") {
            return Err(config.unaccepted("solver_p", "null; another scheduler as predictor is not served").into());
        }
        let kinds = ["bh1", "bh2", "midpoint", "heun", "logrho"];
        let plain_b = config.one_of("solver_type", &kinds)? == Some("bh1");
        let ends_at_minimum = config.one_of("final_sigmas_type", &["zero", "sigma_min"])? == Some("sigma_min");
        let shared = SharedOptions::read(config, Defaults::GENERAL)?;
        let levels = Levels {
            spacing: SpacingOptions::read(config, shared.train_steps, Spacing::Linspace)?,
            curve: Curve::read(NAME, config)?,
            lu_lambdas: false,
            end: if ends_at_minimum { End::CurveMinimum } else { End::Zero },
            clipped: 0,
            rounds_timesteps: true,
            shared,
        };
        let order = read_order(config)?;
        if order > 1 && !ends_at_minimum {
            // The step to no noise is infinitely long in λ: only the first order has a limit there.
            config.only("lower_order_final", &[json!(true)])?;
        }
        Ok(Self {
            levels,
            order,
            plain_b,
            follows_image: config.bool("predict_x0")?.unwrap_or(true),
            lower_order_final: config.bool("lower_order_final")?.unwrap_or(true),
            uncorrected: config.usizes("disable_corrector")?.unwrap_or_default(),
        })
    }

    /// The order of the step from evaluation `at`.
    fn order(&self, schedule: &Schedule, first: usize, at: usize) -> usize {
        let limit = if self.lower_order_final { schedule.num_evaluations() - at } else { self.order };
        self.order.min(limit).min(at - first + 1)
    }

    /// From `sample` at evaluation `at` to the next level, along the predictions there and before (`predictions`, newest first) and,
    /// as a corrector, along the one at the step's end.
    fn step(&self, schedule: &Schedule, at: usize, sample: Blend, predictions: &[Blend], end: Option<Blend>) -> Blend {
        let (from, to) = (Level::at(schedule, at), Level::at(schedule, at + 1));
        let h = to.lambda - from.lambda;
        if h == 0.0 {
            return sample;
        }
        let current = predictions[0];
        let (kept, base, scale, z) = match self.follows_image {
            true => (to.sigma / from.sigma, -to.alpha * (-h).exp_m1(), to.alpha, -h),
            // σ·(eʰ − 1), which has a limit where σ is 0.
            false => (to.alpha / from.alpha, to.sigma - to.alpha * from.ratio, to.sigma, h),
        };
        let next = sample * kept + current * base;
        // Where each other prediction lies, in units of the step; the step's own end is at 1.
        let mut places: Vec<f64> = (1..predictions.len()).map(|back| (Level::at(schedule, at - back).lambda - from.lambda) / h).collect();
        let mut slopes: Vec<Blend> =
            places.iter().zip(&predictions[1..]).map(|(place, earlier)| (*earlier - current) * place.recip()).collect();
        if let Some(end) = end {
            places.push(1.0);
            slopes.push(end - current);
        }
        let b = if self.plain_b { z } else { z.exp_m1() };
        let weights = match slopes.len() {
            0 => return next,
            // Simplified by the reference, as the paper's authors do.
            1 => vec![0.5],
            _ => solve(&places, &moments(z, b, slopes.len())),
        };
        slopes.iter().zip(weights).fold(next, |sum, (slope, weight)| sum - *slope * (scale * b * weight))
    }
}

/// The right-hand sides of the order conditions: `n!·φₙ₊₁(z)·z/B` for n from 1.
fn moments(z: f64, b: f64, count: usize) -> Vec<f64> {
    let mut phi = z.exp_m1() / z - 1.0;
    let mut factorial = 1.0;
    let mut moments = Vec::with_capacity(count);
    for n in 1..=count {
        moments.push(phi * factorial / b);
        factorial *= (n + 1) as f64;
        phi = phi / z - 1.0 / factorial;
    }
    moments
}

/// Weights w with `Σ placesⱼⁿ·wⱼ = momentsₙ` for n from 0, of at most three unknowns: the weights of a quadrature, each being what the
/// moments make of the polynomial that is 1 at its place and 0 at the others.
fn solve(places: &[f64], moments: &[f64]) -> Vec<f64> {
    let weight = |own: usize| {
        let others: Vec<f64> = (0..places.len()).filter(|index| *index != own).map(|index| places[index]).collect();
        let scale: f64 = others.iter().map(|other| places[own] - other).product();
        let value = match others.as_slice() {
            [] => moments[0],
            [c] => moments[1] - c * moments[0],
            [c, d, ..] => moments[2] - (c + d) * moments[1] + c * d * moments[0],
        };
        value / scale
    };
    (0..places.len()).map(weight).collect()
}

impl Sampler for UniPc {
    fn name(&self) -> &'static str {
        NAME
    }

    fn schedule(&self, ScheduleRequest { steps, .. }: ScheduleRequest) -> Result<Schedule, SamplerError> {
        check_steps(steps, self.levels.shared.max_steps())?;
        self.levels.schedule(NAME, steps)
    }

    fn evaluation(&self, schedule: &Schedule, at: usize) -> Evaluation {
        log_snr::evaluation(schedule, at)
    }

    /// History: the sample that the last step began with, then earlier predictions, newest first.
    fn update(&self, schedule: &Schedule, first: usize, at: usize) -> Update {
        let level = Level::at(schedule, at);
        let prediction = self.levels.shared.prediction;
        let current = match self.follows_image {
            true => prediction.original(level.alpha, level.sigma),
            false => prediction.noise(level.alpha, level.sigma),
        };
        let earlier: [Blend; MAX_ORDER] = std::array::from_fn(|back| Blend::history(1 + back));
        let corrected = match at > first && !self.uncorrected.contains(&(at - 1)) {
            true => {
                let order = self.order(schedule, first, at - 1);
                self.step(schedule, at - 1, Blend::history(0), &earlier[..order], Some(current))
            }
            false => Blend::SAMPLE,
        };
        let predictions = [current, earlier[0], earlier[1]];
        let next = self.step(schedule, at, corrected, &predictions[..self.order(schedule, first, at)], None);
        let known = (at - first + 1).min(self.order);
        Update::to(next).keeping(std::iter::once(corrected).chain(predictions.into_iter().take(known)))
    }

    fn noised(&self, schedule: &Schedule, at: usize) -> NoiseMix {
        log_snr::noised(schedule, at)
    }
}
