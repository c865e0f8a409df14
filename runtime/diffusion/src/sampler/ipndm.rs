//! `IPNDMScheduler`: the multistep formulas of PNDM over a process of its own, `α·x₀ + β·ε` with `β = sin²(π·t/2)`; the network is
//! asked at times from 1 to 0.

use std::f32::consts::PI;
use std::sync::Arc;

use super::blend::Blend;
use super::schedule::{Schedule, check_steps, linspace_f32};
use super::select::Class;
use super::{Evaluation, MAX_STEPS, NoiseMix, Sampler, SamplerError, ScheduleRequest, Update};
use crate::json::Config;

const NAME: &str = "IPNDMScheduler";

pub(super) const CLASS: Class = Class {
    name: NAME,
    options: &[&["num_train_timesteps", "trained_betas"]],
    takes_eta: false,
    is_flow: false,
    make: |config| Ok(Arc::new(Ipndm { trained_betas: read_trained_betas(config)? })),
};

/// Below this α the reference divides by it.
const LEAST_ALPHA: f64 = 1e-8;

#[derive(Debug)]
struct Ipndm {
    trained_betas: Option<Vec<f32>>,
}

fn read_trained_betas(config: &Config) -> Result<Option<Vec<f32>>, SamplerError> {
    let Some(values) = config.f64s("trained_betas")? else { return Ok(None) };
    if values.iter().all(|value| (0.0..=1.0).contains(value)) {
        return Ok(Some(values.into_iter().map(|value| value as f32).collect()));
    }
    Err(config.unaccepted("trained_betas", "values from 0 to 1").into())
}

impl Ipndm {
    /// β before each step and after the last.
    fn betas(&self, steps: usize) -> Vec<f32> {
        let times = || linspace_f32(1.0, 0.0, steps + 1);
        self.trained_betas.clone().unwrap_or_else(|| times().into_iter().map(|time| (time * PI / 2.0).sin().powi(2)).collect())
    }

    /// α and β of evaluation `at`, which the schedule holds as σ = β/α.
    fn level(&self, schedule: &Schedule, at: usize) -> (f64, f64) {
        let beta = self.betas(schedule.steps)[at];
        (f64::from(alpha_of(beta)), f64::from(beta))
    }
}

fn alpha_of(beta: f32) -> f32 {
    (1.0 - beta * beta).sqrt()
}

impl Sampler for Ipndm {
    fn name(&self) -> &'static str {
        NAME
    }

    fn schedule(&self, ScheduleRequest { steps, .. }: ScheduleRequest) -> Result<Schedule, SamplerError> {
        check_steps(steps, MAX_STEPS)?;
        let betas = self.betas(steps);
        if betas.len() != steps + 1 {
            let reason = format!("its {} trained_betas are those of {} steps; ask for as many", betas.len(), betas.len().saturating_sub(1));
            return Err(SamplerError::Contradiction { sampler: NAME, reason });
        }
        let timesteps = betas[..steps].iter().map(|beta| beta.atan2(alpha_of(*beta)) / PI * 2.0).collect();
        // σ is infinite where nothing of the image is left; the largest finite number stands for it.
        let sigmas = betas.iter().map(|beta| (beta / alpha_of(*beta)).min(f32::MAX)).collect();
        Ok(Schedule { timesteps, sigmas, init_noise_sigma: 1.0, steps })
    }

    fn evaluation(&self, schedule: &Schedule, at: usize) -> Evaluation {
        Evaluation { timestep: schedule.timesteps[at], input_scale: 1.0, sigma: schedule.sigmas[at] }
    }

    fn update(&self, schedule: &Schedule, first: usize, at: usize) -> Update {
        let ((alpha, beta), (next_alpha, next_beta)) = (self.level(schedule, at), self.level(schedule, at + 1));
        let current = Blend::SAMPLE * beta + Blend::OUTPUT * alpha;
        let earlier = Blend::history;
        let direction = match at - first {
            0 => current,
            1 => current * 1.5 - earlier(0) * 0.5,
            2 => (current * 23.0 - earlier(0) * 16.0 + earlier(1) * 5.0) * (1.0 / 12.0),
            _ => (current * 55.0 - earlier(0) * 59.0 + earlier(1) * 37.0 - earlier(2) * 9.0) * (1.0 / 24.0),
        };
        let original = (Blend::SAMPLE - direction * beta) * alpha.max(LEAST_ALPHA).recip();
        let kept = &[current, earlier(0), earlier(1)][..=(at - first).min(2)];
        Update::to(original * next_alpha + direction * next_beta).keeping(kept.iter().copied())
    }

    fn noised(&self, schedule: &Schedule, at: usize) -> NoiseMix {
        let (alpha, beta) = self.level(schedule, at);
        NoiseMix { signal: alpha as f32, noise: beta as f32 }
    }
}
