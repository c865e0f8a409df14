//! `DDIMScheduler`: "Denoising Diffusion Implicit Models" (arXiv 2010.02502), formula 12 with formula 16 for η.

use serde_json::{Map, Value};

use super::options::{SharedOptions, check_known, check_linear};
use super::schedule::{Schedule, Spacing, check_steps, sigma_of};
use super::{Combination, Evaluation, MAX_HISTORY, NoiseMix, Sampler, SamplerError, Update};
use crate::json::Config;

pub(super) const NAME: &str = "DDIMScheduler";

/// Options beside the shared ones. `dynamic_thresholding_ratio` and the two ranges only act with what is refused here.
const KEYS: &[&str] =
    &["clip_sample", "clip_sample_range", "set_alpha_to_one", "thresholding", "dynamic_thresholding_ratio", "sample_max_value"];

#[derive(Debug)]
pub(super) struct Ddim {
    shared: SharedOptions,
    /// ᾱ after the last step.
    final_alpha: f64,
    /// 0 = deterministic, 1 = as much noise as DDPM.
    eta: f64,
}

impl Ddim {
    pub(super) fn new(config: &Config, options: &Map<String, Value>) -> Result<Self, SamplerError> {
        check_known(NAME, options, KEYS)?;
        check_linear(config)?;
        // The reference's default is true; latent models switch it off, since latents are not bounded by 1.
        if config.bool("clip_sample")?.unwrap_or(true) {
            let accepted = "false (true is also the default when the key is absent); clipping is not linear";
            return Err(config.unaccepted("clip_sample", accepted).into());
        }
        let eta = config.f64("eta")?.unwrap_or(0.0);
        if !(0.0..=1.0).contains(&eta) {
            return Err(config.unaccepted("eta", "a number from 0 to 1").into());
        }
        let shared = SharedOptions::read(config, Spacing::Leading)?;
        let to_one = config.bool("set_alpha_to_one")?.unwrap_or(true);
        let final_alpha = if to_one { 1.0 } else { f64::from(shared.alphas_cumprod[0]) };
        Ok(Self { shared, final_alpha, eta })
    }

    /// ᾱ of an evaluation's timestep and of the one it steps to.
    fn alpha_pair(&self, schedule: &Schedule, at: usize) -> (f64, f64) {
        // Whole and within the table: `schedule` has seen to that.
        let timestep = schedule.timesteps[at] as usize;
        let stride = self.shared.train_steps / schedule.steps;
        let table = &self.shared.alphas_cumprod;
        let previous = timestep.checked_sub(stride).map_or(self.final_alpha, |earlier| f64::from(table[earlier]));
        (f64::from(table[timestep]), previous)
    }
}

impl Sampler for Ddim {
    fn name(&self) -> &'static str {
        NAME
    }

    fn schedule(&self, steps: usize) -> Result<Schedule, SamplerError> {
        check_steps(steps, self.shared.max_steps())?;
        let timesteps: Vec<f64> = self.shared.timesteps(steps).into_iter().map(f64::round_ties_even).collect();
        let last = (self.shared.train_steps - 1) as f64;
        if let Some(outside) = timesteps.iter().find(|timestep| !(0.0..=last).contains(*timestep)) {
            let reason =
                format!("{steps} steps would visit timestep {outside}, beyond 0 to {last}; use fewer steps or another steps_offset");
            return Err(SamplerError::Contradiction { sampler: NAME, reason });
        }
        let alpha = |timestep: &f64| self.shared.alphas_cumprod[*timestep as usize];
        let pure_noise = timesteps.iter().any(|timestep| alpha(timestep) == 0.0);
        if pure_noise && self.shared.prediction == super::Prediction::Epsilon {
            let reason =
                "predicting the noise says nothing where the sample is pure noise; with rescale_betas_zero_snr use v_prediction".to_owned();
            return Err(SamplerError::Contradiction { sampler: NAME, reason });
        }
        let mut sigmas: Vec<f32> = timesteps.iter().map(|timestep| sigma_of(alpha(timestep))).collect();
        sigmas.push(sigma_of(self.final_alpha as f32));
        let timesteps = timesteps.into_iter().map(|timestep| timestep as f32).collect();
        Ok(Schedule { timesteps, sigmas, init_noise_sigma: 1.0, steps })
    }

    fn evaluation(&self, schedule: &Schedule, at: usize) -> Evaluation {
        Evaluation { timestep: schedule.timesteps[at], input_scale: 1.0, sigma: schedule.sigmas[at] }
    }

    fn update(&self, schedule: &Schedule, _first: usize, at: usize) -> Update {
        let (alpha, previous) = self.alpha_pair(schedule, at);
        let variance = (1.0 - previous) / (1.0 - alpha) * (1.0 - alpha / previous);
        let deviation = self.eta * variance.max(0.0).sqrt();
        let direction = (1.0 - previous - deviation * deviation).max(0.0).sqrt();
        let (original, noise) = self.shared.prediction.original_and_noise(alpha.sqrt(), (1.0 - alpha).sqrt());
        let next = original.mix(previous.sqrt(), noise, direction);
        Update {
            next: Combination {
                sample: next.sample as f32,
                output: next.output as f32,
                history: [0.0; MAX_HISTORY],
                noise: deviation as f32,
            },
            keep: Vec::new(),
            draws_noise: self.eta > 0.0,
        }
    }

    fn noised(&self, schedule: &Schedule, at: usize) -> NoiseMix {
        let (alpha, _) = self.alpha_pair(schedule, at);
        NoiseMix { signal: alpha.sqrt() as f32, noise: (1.0 - alpha).sqrt() as f32 }
    }
}
