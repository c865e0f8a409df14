//! What the samplers of flow matching share: the latents are `(1 − σ)·x₀ + σ·ε` with σ from 1 to 0, and the network predicts `ε − x₀`, which is
//! the slope of the straight line between the two (Liu et al. 2022, Lipman et al. 2022).

use super::schedule::Schedule;
use super::{Evaluation, NoiseMix, SamplerError};
use crate::json::{Config, ConfigError};

/// The longest training process a configuration may declare; every known family has 1,000 timesteps.
const MAX_TRAIN_TIMESTEPS: usize = 10_000;
/// The largest shift a configuration may declare; published models have 1 to 7.
const MAX_SHIFT: f64 = 1000.0;

/// What both classes read.
#[derive(Clone, Copy, Debug)]
pub(super) struct FlowOptions {
    pub(super) train_steps: usize,
    /// Above 1 more steps are spent where the noise is large.
    pub(super) shift: f64,
}

impl FlowOptions {
    pub(super) fn read(config: &Config) -> Result<Self, ConfigError> {
        let train_steps = config.usize("num_train_timesteps")?.unwrap_or(1000);
        if !(2..=MAX_TRAIN_TIMESTEPS).contains(&train_steps) {
            return Err(config.unaccepted("num_train_timesteps", &format!("2 to {MAX_TRAIN_TIMESTEPS}")));
        }
        let shift = config.f64("shift")?.unwrap_or(1.0);
        if !(shift > 0.0 && shift <= MAX_SHIFT) {
            return Err(config.unaccepted("shift", &format!("a number above 0, at most {MAX_SHIFT}")));
        }
        Ok(Self { train_steps, shift })
    }

    /// The largest and the smallest σ of the training, f32 as the reference keeps them; shifted if the training was.
    pub(super) fn ends(self, shifted: bool) -> (f64, f64) {
        let smallest = 1.0 / self.train_steps as f32;
        let end = |sigma: f32| if shifted { self.shift as f32 * sigma / (1.0 + (self.shift - 1.0) as f32 * sigma) } else { sigma };
        (f64::from(end(1.0)), f64::from(end(smallest)))
    }

    /// σ with the noise shifted towards its beginning.
    pub(super) fn shifted(self, sigma: f64) -> f64 {
        self.shift * sigma / (1.0 + (self.shift - 1.0) * sigma)
    }

    /// The timesteps that belong to noise levels, f32 as the reference has them.
    pub(super) fn timesteps(self, sigmas: &[f32]) -> Vec<f32> {
        sigmas.iter().map(|sigma| sigma * self.train_steps as f32).collect()
    }
}

/// Refuses noise levels that are none: what a configuration asks for may have no meaning at some sizes or step counts.
pub(super) fn check_sigmas(sampler: &'static str, sigmas: &[f32]) -> Result<(), SamplerError> {
    match sigmas.iter().find(|sigma| !(**sigma > 0.0 && **sigma <= 1.0)) {
        None => Ok(()),
        Some(sigma) => {
            let reason =
                format!("the schedule has a noise level of {sigma}, which must be above 0 and at most 1; use other shifts, or more steps");
            Err(SamplerError::Contradiction { sampler, reason })
        }
    }
}

/// What the denoiser is asked: the latents as they are.
pub(super) fn evaluation(schedule: &Schedule, at: usize) -> Evaluation {
    Evaluation { timestep: schedule.timesteps[at], input_scale: 1.0, sigma: schedule.sigmas[at] }
}

/// How an image enters the schedule at an evaluation.
pub(super) fn noised(schedule: &Schedule, at: usize) -> NoiseMix {
    let sigma = schedule.sigmas[at];
    NoiseMix { signal: 1.0 - sigma, noise: sigma }
}
