//! `EulerDiscreteScheduler`: algorithm 2 of "Elucidating the Design Space of Diffusion-Based Generative Models"
//! (arXiv 2206.00364) without churn.

use serde_json::{Map, Value, json};

use super::options::{SharedOptions, check_known};
use super::prediction::Linear;
use super::schedule::{Schedule, Spacing, check_steps, interpolate, linspace, linspace_f32, timestep_of_sigma};
use super::{Combination, Evaluation, MAX_HISTORY, NoiseMix, Prediction, Sampler, SamplerError, Update};
use crate::json::Config;

pub(super) const NAME: &str = "EulerDiscreteScheduler";

const KEYS: &[&str] = &[
    "interpolation_type",
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "sigma_min",
    "sigma_max",
    "timestep_type",
    "final_sigmas_type",
];

/// ρ of the Karras spacing.
const KARRAS_RHO: f64 = 7.0;

/// How the sigmas lie between the largest and the smallest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Curve {
    /// As the timesteps' spacing gives them.
    Timesteps,
    /// Evenly in ln σ, one more than there are steps: `log_linear`.
    LogLinear,
    /// `use_karras_sigmas`.
    Karras,
    /// `use_exponential_sigmas`.
    Exponential,
}

#[derive(Debug)]
pub(super) struct Euler {
    shared: SharedOptions,
    curve: Curve,
    /// Which curve the end points of the Karras and exponential ones come from.
    log_linear_ends: bool,
    sigma_min: Option<f64>,
    sigma_max: Option<f64>,
    continuous_timesteps: bool,
    ends_at_sigma_min: bool,
}

impl Euler {
    pub(super) fn new(config: &Config, options: &Map<String, Value>) -> Result<Self, SamplerError> {
        check_known(NAME, options, KEYS)?;
        config.only("use_beta_sigmas", &[json!(false)])?;
        let shared = SharedOptions::read(config, Spacing::Linspace)?;
        let karras = config.bool("use_karras_sigmas")?.unwrap_or(false);
        let exponential = config.bool("use_exponential_sigmas")?.unwrap_or(false);
        let log_linear = config.one_of("interpolation_type", &["linear", "log_linear"])? == Some("log_linear");
        let curve = match (karras, exponential) {
            (true, true) => {
                let reason = "use_karras_sigmas and use_exponential_sigmas exclude each other; set one".to_owned();
                return Err(SamplerError::Contradiction { sampler: NAME, reason });
            }
            (true, false) => Curve::Karras,
            (false, true) => Curve::Exponential,
            (false, false) if log_linear => Curve::LogLinear,
            (false, false) => Curve::Timesteps,
        };
        let continuous = config.one_of("timestep_type", &["discrete", "continuous"])? == Some("continuous");
        Ok(Self {
            // The reference heeds it for velocity only.
            continuous_timesteps: continuous && shared.prediction == Prediction::Velocity,
            curve,
            log_linear_ends: log_linear,
            sigma_min: read_positive(config, "sigma_min")?,
            sigma_max: read_positive(config, "sigma_max")?,
            ends_at_sigma_min: config.one_of("final_sigmas_type", &["zero", "sigma_min"])? == Some("sigma_min"),
            shared,
        })
    }

    /// σ of each evaluation in f64, and the fractional timesteps that belong to them.
    fn sigmas_and_timesteps(&self, steps: usize, table: &[f32]) -> (Vec<f64>, Vec<f64>) {
        let timesteps: Vec<f64> = self.shared.timesteps(steps).into_iter().map(|timestep| f64::from(timestep as f32)).collect();
        let base: Vec<f64> = if self.log_linear_ends {
            let (largest, smallest) = (table[table.len() - 1].ln(), table[0].ln());
            let logs = linspace_f32(f64::from(largest), f64::from(smallest), steps + 1);
            logs.into_iter().map(|log_sigma| f64::from(log_sigma.exp())).collect()
        } else {
            timesteps.iter().map(|timestep| interpolate(table, *timestep)).collect()
        };
        let largest = self.sigma_max.unwrap_or(base[0]);
        let smallest = self.sigma_min.unwrap_or(base[base.len() - 1]);
        let curved: Vec<f64> = match self.curve {
            Curve::Timesteps | Curve::LogLinear => return (base, timesteps),
            Curve::Karras => {
                let (top, bottom) = (largest.powf(1.0 / KARRAS_RHO), smallest.powf(1.0 / KARRAS_RHO));
                let ramp = linspace(0.0, 1.0, steps).into_iter();
                ramp.map(|share| (top + share * (bottom - top)).powf(KARRAS_RHO)).collect()
            }
            Curve::Exponential => linspace(largest.ln(), smallest.ln(), steps).into_iter().map(f64::exp).collect(),
        };
        let logs: Vec<f32> = table.iter().map(|sigma| sigma.ln()).collect();
        let timesteps = curved.iter().map(|sigma| timestep_of_sigma(*sigma, &logs)).collect();
        (curved, timesteps)
    }
}

impl Sampler for Euler {
    fn name(&self) -> &'static str {
        NAME
    }

    fn schedule(&self, steps: usize) -> Result<Schedule, SamplerError> {
        check_steps(steps, self.shared.max_steps())?;
        let table = self.shared.sigmas();
        let (sigmas, timesteps) = self.sigmas_and_timesteps(steps, &table);
        let mut sigmas: Vec<f32> = sigmas.into_iter().map(|sigma| sigma as f32).collect();
        sigmas.push(if self.ends_at_sigma_min { table[0] } else { 0.0 });
        let timesteps = if self.continuous_timesteps {
            sigmas[..sigmas.len() - 1].iter().map(|sigma| 0.25 * sigma.ln()).collect()
        } else {
            timesteps.into_iter().map(|timestep| timestep as f32).collect()
        };
        let init_noise_sigma = initial_deviation(&sigmas, self.shared.spacing);
        Ok(Schedule { timesteps, sigmas, init_noise_sigma, steps })
    }

    fn evaluation(&self, schedule: &Schedule, at: usize) -> Evaluation {
        evaluation(schedule, at)
    }

    fn update(&self, schedule: &Schedule, _first: usize, at: usize) -> Update {
        let (sigma, next_sigma) = schedule.sigma_pair(at);
        let derivative = derivative(self.shared.prediction, sigma);
        let stride = next_sigma - sigma;
        Update {
            next: Combination {
                sample: (1.0 + stride * derivative.sample) as f32,
                output: (stride * derivative.output) as f32,
                history: [0.0; MAX_HISTORY],
                noise: 0.0,
            },
            keep: Vec::new(),
            draws_noise: false,
        }
    }

    fn noised(&self, schedule: &Schedule, at: usize) -> NoiseMix {
        NoiseMix { signal: 1.0, noise: schedule.sigmas[at] }
    }
}

/// `dx/dσ = (x − x₀)/σ` as a function of the sample and the output. The network sees `x/√(σ²+1)`, for which velocity is
/// defined.
pub(super) fn derivative(prediction: Prediction, sigma: f64) -> Linear {
    let variance = sigma * sigma + 1.0;
    match prediction {
        Prediction::Epsilon => Linear { sample: 0.0, output: 1.0 },
        Prediction::Velocity => Linear { sample: sigma / variance, output: 1.0 / variance.sqrt() },
        Prediction::Sample => Linear { sample: 1.0 / sigma, output: -1.0 / sigma },
    }
}

/// What the denoiser is asked where the latents carry noise of deviation σ.
pub(super) fn evaluation(schedule: &Schedule, at: usize) -> Evaluation {
    let sigma = schedule.sigmas[at];
    let input_scale = 1.0 / (f64::from(sigma).powi(2) + 1.0).sqrt();
    Evaluation { timestep: schedule.timesteps[at], input_scale: input_scale as f32, sigma }
}

/// The deviation of the initial latents: the largest σ, or with leading spacing (which starts below it) √(σ²+1).
pub(super) fn initial_deviation(sigmas: &[f32], spacing: Spacing) -> f32 {
    let largest = sigmas.iter().copied().fold(0.0, f32::max);
    match spacing {
        Spacing::Linspace | Spacing::Trailing => largest,
        Spacing::Leading => (largest * largest + 1.0).sqrt(),
    }
}

fn read_positive(config: &Config, key: &str) -> Result<Option<f64>, SamplerError> {
    match config.f64(key)? {
        Some(value) if !(value > 0.0 && value.is_finite()) => Err(config.unaccepted(key, "a number above 0").into()),
        value => Ok(value),
    }
}
