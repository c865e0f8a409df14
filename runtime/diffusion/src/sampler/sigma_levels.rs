//! What the samplers share whose latents are `x₀ + σ·ε`: σ at each evaluation, and the slope `dx/dσ`.

use super::blend::Blend;
use super::curve::Curve;
use super::options::{SharedOptions, SpacingOptions};
use super::schedule::{Schedule, Spacing, interpolate, timestep_of_sigma};
use super::{Evaluation, NoiseMix, Prediction};

/// σ of each step and the timestep that belongs to it.
pub(super) struct Levels {
    pub(super) sigmas: Vec<f64>,
    /// Fractional with some spacings and with every curve.
    pub(super) timesteps: Vec<f64>,
}

impl Levels {
    /// As the timesteps' spacing gives them, f32 as the reference keeps these timesteps.
    pub(super) fn spaced(spacing: SpacingOptions, train_steps: usize, steps: usize, table: &[f32]) -> Self {
        let timesteps = spacing.timesteps(train_steps, steps).into_iter();
        let timesteps: Vec<f64> = timesteps.map(|timestep| f64::from(timestep as f32)).collect();
        Self { sigmas: timesteps.iter().map(|timestep| interpolate(table, *timestep)).collect(), timesteps }
    }

    /// Along `curve` between the ends of these levels, for `steps` steps.
    pub(super) fn curved(self, curve: Option<Curve>, steps: usize, table: &[f32]) -> Self {
        let Some(curve) = curve else { return self };
        let (largest, smallest) = (self.sigmas[0], self.sigmas[self.sigmas.len() - 1]);
        Self::between(curve, largest, smallest, steps, table)
    }

    /// Along `curve` between two noise levels.
    pub(super) fn between(curve: Curve, largest: f64, smallest: f64, steps: usize, table: &[f32]) -> Self {
        let sigmas = curve.sigmas(largest, smallest, steps);
        let logs = log_sigmas(table);
        Self { timesteps: sigmas.iter().map(|sigma| timestep_of_sigma(*sigma, &logs)).collect(), sigmas }
    }

    /// σ in f32, and 0 after the last.
    pub(super) fn sigmas_to_zero(&self) -> Vec<f32> {
        self.sigmas.iter().map(|sigma| *sigma as f32).chain([0.0]).collect()
    }

    /// Timesteps in f32.
    pub(super) fn timesteps_f32(&self) -> Vec<f32> {
        self.timesteps.iter().map(|timestep| *timestep as f32).collect()
    }
}

/// What the samplers of this family read beside their own options.
#[derive(Debug)]
pub(super) struct SigmaOptions {
    pub(super) shared: SharedOptions,
    pub(super) spacing: SpacingOptions,
    pub(super) curve: Option<Curve>,
}

impl SigmaOptions {
    /// The levels of `steps` steps, and the table they are taken from.
    pub(super) fn levels(&self, steps: usize) -> (Levels, Vec<f32>) {
        let table = self.shared.sigmas();
        (Levels::spaced(self.spacing, self.shared.train_steps, steps, &table).curved(self.curve, steps, &table), table)
    }

    /// A schedule of one entry per evaluation whose largest σ is the first.
    pub(super) fn schedule(&self, timesteps: Vec<f32>, sigmas: Vec<f32>, steps: usize) -> Schedule {
        Schedule { timesteps, init_noise_sigma: initial_deviation(&sigmas, self.spacing.spacing), sigmas, steps }
    }
}

/// ln σ of the table, f32 as the reference keeps it.
pub(super) fn log_sigmas(table: &[f32]) -> Vec<f32> {
    table.iter().map(|sigma| sigma.ln()).collect()
}

/// `dx/dσ = (x − x₀)/σ` as a function of the sample and the output. The network sees `x/√(σ²+1)`, for which velocity is
/// defined.
pub(super) fn slope(prediction: Prediction, sigma: f64) -> Blend {
    let variance = sigma * sigma + 1.0;
    match prediction {
        Prediction::Epsilon => Blend::OUTPUT,
        Prediction::Velocity => Blend::SAMPLE * (sigma / variance) + Blend::OUTPUT * variance.sqrt().recip(),
        Prediction::Sample => (Blend::SAMPLE - Blend::OUTPUT) * sigma.recip(),
    }
}

/// What the denoiser is asked where the latents carry noise of deviation σ.
pub(super) fn evaluation(schedule: &Schedule, at: usize) -> Evaluation {
    let sigma = schedule.sigmas[at];
    let input_scale = 1.0 / (f64::from(sigma).powi(2) + 1.0).sqrt();
    Evaluation { timestep: schedule.timesteps[at], input_scale: input_scale as f32, sigma }
}

/// How an image enters the schedule at an evaluation.
pub(super) fn noised(schedule: &Schedule, at: usize) -> NoiseMix {
    NoiseMix { signal: 1.0, noise: schedule.sigmas[at] }
}

/// The deviations of an ancestral step: down to below the next noise level, and of fresh noise back up to it. In f32 as the reference
/// has them: where σ falls steeply, the first is the small difference of two numbers, and its rounding shows.
pub(super) fn ancestral(sigma: f32, next: f32) -> (f64, f64) {
    let (variance, next_variance) = (sigma * sigma, next * next);
    // Rounding may leave a tiny negative number where two sigmas are equal.
    let up = (next_variance * (variance - next_variance) / variance).max(0.0).sqrt();
    let down = (next_variance - up * up).max(0.0).sqrt();
    (f64::from(down), f64::from(up))
}

/// The deviation of the initial latents: the largest σ, or with leading spacing (which starts below it) √(σ²+1).
fn initial_deviation(sigmas: &[f32], spacing: Spacing) -> f32 {
    let largest = sigmas.iter().copied().fold(0.0, f32::max);
    match spacing {
        Spacing::Linspace | Spacing::Trailing => largest,
        Spacing::Leading => (largest * largest + 1.0).sqrt(),
    }
}
