//! `EulerAncestralDiscreteScheduler`: an Euler step to below the next noise level, and fresh noise back up to it (after
//! k-diffusion's `sample_euler_ancestral` with η = 1).

use serde_json::{Map, Value};

use super::euler::{derivative, evaluation, initial_deviation};
use super::options::{SharedOptions, check_known};
use super::schedule::{Schedule, Spacing, check_steps, interpolate};
use super::{Combination, Evaluation, MAX_HISTORY, NoiseMix, Prediction, Sampler, SamplerError, Update};
use crate::json::Config;

pub(super) const NAME: &str = "EulerAncestralDiscreteScheduler";

#[derive(Debug)]
pub(super) struct EulerAncestral {
    shared: SharedOptions,
}

impl EulerAncestral {
    pub(super) fn new(config: &Config, options: &Map<String, Value>) -> Result<Self, SamplerError> {
        check_known(NAME, options, &[])?;
        let shared = SharedOptions::read(config, Spacing::Linspace)?;
        if shared.prediction == Prediction::Sample {
            return Err(config.unaccepted("prediction_type", "epsilon, v_prediction").into());
        }
        Ok(Self { shared })
    }
}

impl Sampler for EulerAncestral {
    fn name(&self) -> &'static str {
        NAME
    }

    fn schedule(&self, steps: usize) -> Result<Schedule, SamplerError> {
        check_steps(steps, self.shared.max_steps())?;
        let table = self.shared.sigmas();
        let timesteps: Vec<f32> = self.shared.timesteps(steps).into_iter().map(|timestep| timestep as f32).collect();
        let mut sigmas: Vec<f32> = timesteps.iter().map(|timestep| interpolate(&table, f64::from(*timestep)) as f32).collect();
        sigmas.push(0.0);
        let init_noise_sigma = initial_deviation(&sigmas, self.shared.spacing);
        Ok(Schedule { timesteps, sigmas, init_noise_sigma, steps })
    }

    fn evaluation(&self, schedule: &Schedule, at: usize) -> Evaluation {
        evaluation(schedule, at)
    }

    fn update(&self, schedule: &Schedule, _first: usize, at: usize) -> Update {
        let (sigma, next_sigma) = schedule.sigma_pair(at);
        let (variance, next_variance) = (sigma * sigma, next_sigma * next_sigma);
        // Rounding may leave a tiny negative number where two sigmas are equal.
        let up = (next_variance * (variance - next_variance) / variance).max(0.0).sqrt();
        let down = (next_variance - up * up).max(0.0).sqrt();
        let derivative = derivative(self.shared.prediction, sigma);
        let stride = down - sigma;
        Update {
            next: Combination {
                sample: (1.0 + stride * derivative.sample) as f32,
                output: (stride * derivative.output) as f32,
                history: [0.0; MAX_HISTORY],
                noise: up as f32,
            },
            keep: Vec::new(),
            // Also at the last step, where the coefficient is 0.
            draws_noise: true,
        }
    }

    fn noised(&self, schedule: &Schedule, at: usize) -> NoiseMix {
        NoiseMix { signal: 1.0, noise: schedule.sigmas[at] }
    }
}
