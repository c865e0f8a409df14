//! Options that the samplers share, read from a scheduler's configuration with a request's options on top.

use serde_json::{Map, Value, json};

use super::schedule::{self, BetaSchedule, Spacing};
use super::{MAX_STEPS, Prediction, SamplerError};
use crate::json::Config;

/// The longest training process a configuration may declare; every known family has 1,000 timesteps.
const MAX_TRAIN_TIMESTEPS: usize = 10_000;

/// Keys every sampler here has.
pub(super) const SHARED_KEYS: &[&str] = &[
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "timestep_spacing",
    "steps_offset",
    "rescale_betas_zero_snr",
];

/// What every sampler here needs of its configuration.
#[derive(Clone, Debug)]
pub(super) struct SharedOptions {
    pub(super) train_steps: usize,
    pub(super) prediction: Prediction,
    pub(super) spacing: Spacing,
    pub(super) steps_offset: i64,
    pub(super) zero_snr: bool,
    /// ᾱ for each training timestep.
    pub(super) alphas_cumprod: Vec<f32>,
}

impl SharedOptions {
    /// Reads and checks them; `default_spacing` differs between the reference's classes.
    pub(super) fn read(config: &Config, default_spacing: Spacing) -> Result<Self, SamplerError> {
        let betas = read_betas(config)?;
        let zero_snr = config.bool("rescale_betas_zero_snr")?.unwrap_or(false);
        let betas = if zero_snr { schedule::rescaled_to_zero_snr(&betas) } else { betas };
        let prediction = match config.one_of("prediction_type", &Prediction::NAMES)? {
            Some(name) => Prediction::from_name(name).ok_or_else(|| config.unaccepted("prediction_type", &Prediction::NAMES.join(", ")))?,
            None => Prediction::Epsilon,
        };
        let spacing = match config.one_of("timestep_spacing", &["linspace", "leading", "trailing"])? {
            Some("linspace") => Spacing::Linspace,
            Some("leading") => Spacing::Leading,
            Some(_) => Spacing::Trailing,
            None => default_spacing,
        };
        let steps_offset = config.i64("steps_offset")?.unwrap_or(0);
        if steps_offset.unsigned_abs() > betas.len() as u64 {
            return Err(config.unaccepted("steps_offset", "an offset within the training's timesteps").into());
        }
        Ok(Self { train_steps: betas.len(), prediction, spacing, steps_offset, zero_snr, alphas_cumprod: schedule::alphas_cumprod(&betas) })
    }

    /// The most steps a request can ask for.
    pub(super) fn max_steps(&self) -> usize {
        self.train_steps.min(MAX_STEPS)
    }

    /// Timesteps for `steps` steps, falling, unrounded.
    pub(super) fn timesteps(&self, steps: usize) -> Vec<f64> {
        schedule::spaced_timesteps(self.spacing, self.train_steps, steps, self.steps_offset)
    }

    /// σ of each training timestep, rising. A ᾱ of 0 would be an infinite σ: the reference puts 2⁻²⁴ in its place.
    pub(super) fn sigmas(&self) -> Vec<f32> {
        let mut alphas = self.alphas_cumprod.clone();
        if let (true, Some(last)) = (self.zero_snr, alphas.last_mut()) {
            *last = 2.0_f32.powi(-24);
        }
        alphas.into_iter().map(schedule::sigma_of).collect()
    }
}

fn read_betas(config: &Config) -> Result<Vec<f32>, SamplerError> {
    let kinds = ["linear", "scaled_linear", "squaredcos_cap_v2"];
    let kind = match (config.f64s("trained_betas")?, config.one_of("beta_schedule", &kinds)?) {
        (Some(values), _) => BetaSchedule::Trained(values),
        (None, None | Some("linear")) => BetaSchedule::Linear,
        (None, Some("scaled_linear")) => BetaSchedule::ScaledLinear,
        (None, Some(_)) => BetaSchedule::SquaredCosine,
    };
    let declared = config.usize("num_train_timesteps")?.unwrap_or(1000);
    if !(2..=MAX_TRAIN_TIMESTEPS).contains(&declared) {
        let accepted = format!("2 to {MAX_TRAIN_TIMESTEPS}");
        return Err(config.unaccepted("num_train_timesteps", &accepted).into());
    }
    if matches!(&kind, BetaSchedule::Trained(values) if values.len() != declared) {
        let accepted = format!("{declared} numbers, as num_train_timesteps says");
        return Err(config.unaccepted("trained_betas", &accepted).into());
    }
    let start = config.f64("beta_start")?.unwrap_or(0.0001);
    let end = config.f64("beta_end")?.unwrap_or(0.02);
    let betas = schedule::betas(&kind, start, end, declared);
    // Outside of this range the noise would not grow from step to step.
    if betas.iter().all(|beta| *beta > 0.0 && *beta < 1.0) {
        return Ok(betas);
    }
    let key = match kind {
        BetaSchedule::Trained(_) => "trained_betas",
        _ if start > 0.0 && start < 1.0 => "beta_end",
        _ => "beta_start",
    };
    Err(config.unaccepted(key, "values above 0 and below 1").into())
}

/// Refuses options of a request that the sampler does not have. The configuration file may hold any key; a request that
/// sets one without effect would be misled. `eta` passes everywhere, as the reference's pipelines take it with any scheduler.
pub(super) fn check_known(sampler: &'static str, options: &Map<String, Value>, own_keys: &[&str]) -> Result<(), SamplerError> {
    let known = |key: &str| key == "eta" || SHARED_KEYS.contains(&key) || own_keys.contains(&key);
    match options.keys().find(|key| !known(key)) {
        None => Ok(()),
        Some(option) => {
            Err(SamplerError::UnknownOption { sampler, option: option.clone(), known: [own_keys, SHARED_KEYS].concat().join(", ") })
        }
    }
}

/// Keys that are known and of which only the value "off" is served: they would make the update depend on each pixel's value.
pub(super) fn check_linear(config: &Config) -> Result<(), SamplerError> {
    config.only("thresholding", &[json!(false)])?;
    Ok(())
}
