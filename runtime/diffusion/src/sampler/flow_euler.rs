//! `FlowMatchEulerDiscreteScheduler`: Euler along the flow, with the noise levels shifted by a constant or by the size of the image
//! ("Scaling Rectified Flow Transformers", arXiv 2403.03206), or stochastic: each step ends under fresh noise.

use std::sync::Arc;

use serde_json::json;

use super::blend::Blend;
use super::curve::{CURVE_KEYS, Curve};
use super::flow::{self, FlowOptions, check_sigmas};
use super::schedule::{Schedule, check_steps, linspace};
use super::select::Class;
use super::{Evaluation, MAX_STEPS, NoiseMix, Sampler, SamplerError, ScheduleRequest, Update};
use crate::json::{Config, ConfigError};

const NAME: &str = "FlowMatchEulerDiscreteScheduler";
/// The largest exponent of a shift: e¹⁰⁰ is far beyond any use, and far from overflow.
const MAX_EXPONENT: f64 = 100.0;

pub(super) const CLASS: Class = Class {
    name: NAME,
    options: &[
        CURVE_KEYS,
        &[
            "num_train_timesteps",
            "shift",
            "use_dynamic_shifting",
            "base_shift",
            "max_shift",
            "base_image_seq_len",
            "max_image_seq_len",
            "time_shift_type",
            "shift_terminal",
            "invert_sigmas",
            "stochastic_sampling",
        ],
    ],
    takes_eta: false,
    is_flow: true,
    make: |config| Ok(Arc::new(FlowEuler::new(config)?)),
};

#[derive(Debug)]
struct FlowEuler {
    options: FlowOptions,
    dynamic: Option<DynamicShift>,
    /// σ of the last step, to which the others are stretched.
    terminal: Option<f64>,
    curve: Option<Curve>,
    is_stochastic: bool,
}

/// A shift by the number of image tokens, linear between two of them.
#[derive(Debug)]
struct DynamicShift {
    tokens: (f64, f64),
    shifts: (f64, f64),
    is_exponential: bool,
}

impl DynamicShift {
    fn read(config: &Config) -> Result<Option<Self>, ConfigError> {
        if !config.bool("use_dynamic_shifting")?.unwrap_or(false) {
            return Ok(None);
        }
        let shift = |key: &str, default: f64| match config.f64(key)?.unwrap_or(default) {
            value if value.abs() <= MAX_EXPONENT => Ok(value),
            _ => Err(config.unaccepted(key, &format!("a number from -{MAX_EXPONENT} to {MAX_EXPONENT}"))),
        };
        let (base, most) = (config.usize("base_image_seq_len")?.unwrap_or(256), config.usize("max_image_seq_len")?.unwrap_or(4096));
        if base >= most {
            return Err(config.unaccepted("max_image_seq_len", &format!("more than {base}, the base_image_seq_len")));
        }
        Ok(Some(Self {
            tokens: (base as f64, most as f64),
            shifts: (shift("base_shift", 0.5)?, shift("max_shift", 1.15)?),
            is_exponential: config.one_of("time_shift_type", &["exponential", "linear"])? != Some("linear"),
        }))
    }

    /// The factor on the odds of noise in an image of so many tokens.
    fn factor(&self, image_tokens: usize) -> f64 {
        let slope = (self.shifts.1 - self.shifts.0) / (self.tokens.1 - self.tokens.0);
        let shift = image_tokens as f64 * slope + (self.shifts.0 - slope * self.tokens.0);
        if self.is_exponential { shift.min(MAX_EXPONENT).exp() } else { shift }
    }
}

impl FlowEuler {
    fn new(config: &Config) -> Result<Self, SamplerError> {
        // Runs from image to noise, for which no pipeline served here has a use.
        config.only("invert_sigmas", &[json!(false)])?;
        let terminal = match config.f64("shift_terminal")? {
            Some(value) if value != 0.0 && !(value > 0.0 && value < 1.0) => {
                return Err(config.unaccepted("shift_terminal", "a number of at least 0, below 1").into());
            }
            value => value.filter(|value| *value != 0.0),
        };
        Ok(Self {
            options: FlowOptions::read(config)?,
            dynamic: DynamicShift::read(config)?,
            terminal,
            curve: Curve::read(NAME, config)?,
            is_stochastic: config.bool("stochastic_sampling")?.unwrap_or(false),
        })
    }

    fn sigmas(&self, asked: ScheduleRequest) -> Vec<f32> {
        let (largest, smallest) = self.options.ends(self.dynamic.is_none());
        let steps = asked.steps;
        // What a pipeline hands over is f32, and the reference goes on in f32.
        let kept = |value: f64| if asked.even_sigmas { f64::from(value as f32) } else { value };
        let sigmas = if asked.even_sigmas { linspace(1.0, 1.0 / steps as f64, steps) } else { linspace(largest, smallest, steps) };
        let factor = self.dynamic.as_ref().map(|dynamic| dynamic.factor(asked.image_tokens));
        let shifted = |sigma: f64| match factor {
            Some(factor) => factor / (factor + (1.0 / sigma - 1.0)),
            None => self.options.shifted(sigma),
        };
        let mut sigmas: Vec<f64> = sigmas.into_iter().map(|sigma| kept(shifted(kept(sigma)))).collect();
        if let (Some(terminal), Some(last)) = (self.terminal, sigmas.last().copied()) {
            let scale = kept(kept(1.0 - last) / (1.0 - terminal));
            for sigma in &mut sigmas {
                *sigma = kept(1.0 - kept(kept(1.0 - *sigma) / scale));
            }
        }
        if let (Some(curve), [largest, ..]) = (self.curve, sigmas.as_slice()) {
            sigmas = curve.sigmas(*largest, sigmas[sigmas.len() - 1], steps);
        }
        sigmas.into_iter().map(|sigma| sigma as f32).collect()
    }
}

impl Sampler for FlowEuler {
    fn name(&self) -> &'static str {
        NAME
    }

    fn schedule(&self, asked: ScheduleRequest) -> Result<Schedule, SamplerError> {
        check_steps(asked.steps, MAX_STEPS)?;
        let mut sigmas = self.sigmas(asked);
        check_sigmas(NAME, &sigmas)?;
        let timesteps = self.options.timesteps(&sigmas);
        sigmas.push(0.0);
        Ok(Schedule { timesteps, sigmas, init_noise_sigma: 1.0, steps: asked.steps })
    }

    fn evaluation(&self, schedule: &Schedule, at: usize) -> Evaluation {
        flow::evaluation(schedule, at)
    }

    fn update(&self, schedule: &Schedule, _first: usize, at: usize) -> Update {
        let (sigma, next) = schedule.sigma_pair(at);
        if !self.is_stochastic {
            return Update::to(Blend::SAMPLE + Blend::OUTPUT * (next - sigma));
        }
        let original = Blend::SAMPLE - Blend::OUTPUT * sigma;
        Update::to(original * (1.0 - next) + Blend::NOISE * next).drawing_noise(true)
    }

    fn noised(&self, schedule: &Schedule, at: usize) -> NoiseMix {
        flow::noised(schedule, at)
    }
}
