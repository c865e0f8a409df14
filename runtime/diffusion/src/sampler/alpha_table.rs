//! What the samplers share that read ᾱ of whole timesteps from the training's table: the latents are `√ᾱ·x₀ + √(1 − ᾱ)·ε`.

use super::options::SharedOptions;
use super::schedule::{Schedule, sigma_of};
use super::{Evaluation, NoiseMix, Prediction, SamplerError};

/// The table of ᾱ, and what lies before its first timestep.
#[derive(Debug)]
pub(super) struct AlphaTable {
    alphas_cumprod: Vec<f32>,
    before_first: f32,
}

/// One ᾱ with the deviations of signal and noise.
#[derive(Clone, Copy, Debug)]
pub(super) struct Level {
    pub(super) alpha: f64,
}

impl Level {
    /// √ᾱ
    pub(super) fn signal(self) -> f64 {
        self.alpha.sqrt()
    }

    /// √(1 − ᾱ)
    pub(super) fn noise(self) -> f64 {
        (1.0 - self.alpha).sqrt()
    }

    /// How an image enters the schedule here.
    pub(super) fn mix(self) -> NoiseMix {
        NoiseMix { signal: self.signal() as f32, noise: self.noise() as f32 }
    }
}

impl AlphaTable {
    /// `ends_at_one`: below timestep 0 the image is clean (`set_alpha_to_one`), else as at timestep 0.
    pub(super) fn new(shared: &SharedOptions, ends_at_one: bool) -> Self {
        let before_first = if ends_at_one { 1.0 } else { shared.alphas_cumprod[0] };
        Self { alphas_cumprod: shared.alphas_cumprod.clone(), before_first }
    }

    fn alpha(&self, timestep: i64) -> f32 {
        match usize::try_from(timestep) {
            Ok(index) => self.alphas_cumprod[index.min(self.alphas_cumprod.len() - 1)],
            Err(_) => self.before_first,
        }
    }

    /// ᾱ at a timestep; below the first one what lies there, above the last one the last.
    pub(super) fn level(&self, timestep: i64) -> Level {
        Level { alpha: f64::from(self.alpha(timestep)) }
    }

    /// The schedule through these timesteps, whose latents lie at `levels` (one more: where the last update leads).
    ///
    /// # Errors
    /// [`SamplerError::Contradiction`] if a timestep lies outside of the table, or pure noise is left by predicting noise.
    pub(super) fn schedule(
        &self,
        sampler: &'static str,
        prediction: Prediction,
        timesteps: &[f64],
        levels: &[i64],
        steps: usize,
    ) -> Result<Schedule, SamplerError> {
        let last = (self.alphas_cumprod.len() - 1) as f64;
        if let Some(outside) = timesteps.iter().find(|timestep| !(0.0..=last).contains(*timestep)) {
            let reason =
                format!("{steps} steps would visit timestep {outside}, beyond 0 to {last}; use fewer steps or another steps_offset");
            return Err(SamplerError::Contradiction { sampler, reason });
        }
        let left = &levels[..timesteps.len()];
        if prediction == Prediction::Epsilon && left.iter().any(|timestep| self.alpha(*timestep) == 0.0) {
            let reason =
                "predicting the noise says nothing where the sample is pure noise; with rescale_betas_zero_snr use v_prediction".to_owned();
            return Err(SamplerError::Contradiction { sampler, reason });
        }
        let sigmas = levels.iter().map(|timestep| sigma_of(self.alpha(*timestep))).collect();
        let timesteps = timesteps.iter().map(|timestep| *timestep as f32).collect();
        Ok(Schedule { timesteps, sigmas, init_noise_sigma: 1.0, steps })
    }
}

/// What the denoiser is asked: the latents as they are.
pub(super) fn evaluation(schedule: &Schedule, at: usize) -> Evaluation {
    Evaluation { timestep: schedule.timesteps[at], input_scale: 1.0, sigma: schedule.sigmas[at] }
}

/// Timesteps as whole numbers, rounded as numpy does.
pub(super) fn whole(timesteps: Vec<f64>) -> Vec<f64> {
    timesteps.into_iter().map(f64::round_ties_even).collect()
}

/// The levels of a sampler that visits its own timesteps and ends at `end`.
pub(super) fn levels_to(timesteps: &[f64], end: i64) -> Vec<i64> {
    timesteps.iter().map(|timestep| *timestep as i64).chain([end]).collect()
}
