//! Options that the samplers share, read from a scheduler's configuration with a request's options on top.

use serde_json::json;

use super::schedule::{self, BetaSchedule, Spacing};
use super::{MAX_STEPS, Prediction, SamplerError};
use crate::json::Config;

/// The longest training process a configuration may declare; every known family has 1,000 timesteps.
const MAX_TRAIN_TIMESTEPS: usize = 10_000;

/// What the training did.
pub(super) const TRAINING_KEYS: &[&str] =
    &["num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type"];
pub(super) const SPACING_KEYS: &[&str] = &["timestep_spacing", "steps_offset"];
pub(super) const ZERO_SNR_KEYS: &[&str] = &["rescale_betas_zero_snr"];
/// Known keys of which only the value "off" is served; see [`check_linear`].
pub(super) const CLIPPING_KEYS: &[&str] = &["clip_sample", "clip_sample_range"];
pub(super) const THRESHOLDING_KEYS: &[&str] = &["thresholding", "dynamic_thresholding_ratio", "sample_max_value"];

/// What the classes on ᾱ have, beside keys of their own.
pub(super) const fn with_own(own: &'static [&'static str]) -> [&'static [&'static str]; 6] {
    [TRAINING_KEYS, SPACING_KEYS, ZERO_SNR_KEYS, own, CLIPPING_KEYS, THRESHOLDING_KEYS]
}

/// How the reference's classes differ in what they read of the training.
#[derive(Clone, Copy, Debug)]
pub(super) struct Defaults {
    pub(super) beta_start: f64,
    pub(super) beta_end: f64,
    pub(super) beta_schedule: &'static str,
    /// A kind of `beta_schedule` that only this class has.
    pub(super) own_beta_schedule: Option<&'static str>,
    /// Whether the class has `rescale_betas_zero_snr`.
    pub(super) has_zero_snr: bool,
}

impl Defaults {
    pub(super) const GENERAL: Self =
        Self { beta_start: 0.0001, beta_end: 0.02, beta_schedule: "linear", own_beta_schedule: None, has_zero_snr: true };
    pub(super) const WITHOUT_ZERO_SNR: Self = Self { has_zero_snr: false, ..Self::GENERAL };
    /// Of Heun and the KDPM2 classes.
    pub(super) const SECOND_ORDER: Self = Self { beta_start: 0.00085, beta_end: 0.012, ..Self::WITHOUT_ZERO_SNR };
    /// Of LCM and TCD.
    pub(super) const DISTILLED: Self = Self { beta_start: 0.00085, beta_end: 0.012, beta_schedule: "scaled_linear", ..Self::GENERAL };
}

/// What every sampler here needs of its configuration.
#[derive(Clone, Debug)]
pub(super) struct SharedOptions {
    pub(super) train_steps: usize,
    pub(super) prediction: Prediction,
    pub(super) zero_snr: bool,
    /// ᾱ for each training timestep.
    pub(super) alphas_cumprod: Vec<f32>,
}

impl SharedOptions {
    /// Reads and checks them.
    pub(super) fn read(config: &Config, defaults: Defaults) -> Result<Self, SamplerError> {
        let betas = read_betas(config, defaults)?;
        let zero_snr = defaults.has_zero_snr && config.bool("rescale_betas_zero_snr")?.unwrap_or(false);
        let betas = if zero_snr { schedule::rescaled_to_zero_snr(&betas) } else { betas };
        let prediction = config.one_of("prediction_type", &Prediction::NAMES)?.and_then(Prediction::from_name);
        Ok(Self {
            train_steps: betas.len(),
            prediction: prediction.unwrap_or(Prediction::Epsilon),
            zero_snr,
            alphas_cumprod: schedule::alphas_cumprod(&betas),
        })
    }

    /// As [`Self::read`], for a class that cannot tell the clean image's prediction.
    pub(super) fn read_without_sample_prediction(config: &Config, defaults: Defaults) -> Result<Self, SamplerError> {
        let shared = Self::read(config, defaults)?;
        if shared.prediction == Prediction::Sample {
            return Err(config.unaccepted("prediction_type", "epsilon, v_prediction").into());
        }
        Ok(shared)
    }

    /// The most steps a request can ask for.
    pub(super) fn max_steps(&self) -> usize {
        self.train_steps.min(MAX_STEPS)
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

/// `timestep_spacing` and `steps_offset`.
#[derive(Clone, Copy, Debug)]
pub(super) struct SpacingOptions {
    pub(super) spacing: Spacing,
    pub(super) offset: i64,
}

impl SpacingOptions {
    /// Reads and checks them; the default differs between the reference's classes.
    pub(super) fn read(config: &Config, train_steps: usize, default: Spacing) -> Result<Self, SamplerError> {
        let spacing = match config.one_of("timestep_spacing", &["linspace", "leading", "trailing"])? {
            Some("linspace") => Spacing::Linspace,
            Some("leading") => Spacing::Leading,
            Some(_) => Spacing::Trailing,
            None => default,
        };
        let offset = config.i64("steps_offset")?.unwrap_or(0);
        if offset.unsigned_abs() > train_steps as u64 {
            return Err(config.unaccepted("steps_offset", "an offset within the training's timesteps").into());
        }
        Ok(Self { spacing, offset })
    }

    /// Timesteps for `steps` steps, falling, unrounded.
    pub(super) fn timesteps(self, train_steps: usize, steps: usize) -> Vec<f64> {
        schedule::spaced_timesteps(self.spacing, train_steps, steps, self.offset)
    }
}

fn read_betas(config: &Config, defaults: Defaults) -> Result<Vec<f32>, SamplerError> {
    let mut kinds = vec!["linear", "scaled_linear", "squaredcos_cap_v2"];
    kinds.extend(defaults.own_beta_schedule);
    let named = config.one_of("beta_schedule", &kinds)?.unwrap_or(defaults.beta_schedule);
    let kind = match config.f64s("trained_betas")? {
        Some(values) => BetaSchedule::Trained(values),
        None => BetaSchedule::from_name(named),
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
    let start = config.f64("beta_start")?.unwrap_or(defaults.beta_start);
    let end = config.f64("beta_end")?.unwrap_or(defaults.beta_end);
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

/// Refuses what would make the update depend on each pixel's value: thresholding, and clipping, whose default differs between the
/// reference's classes. Latent models use neither, since latents are not bounded by 1.
pub(super) fn check_linear(config: &Config, clips_by_default: bool) -> Result<(), SamplerError> {
    config.only("thresholding", &[json!(false)])?;
    if config.bool("clip_sample")?.unwrap_or(clips_by_default) {
        let accepted = match clips_by_default {
            true => "false (true is also the default when the key is absent); clipping is not linear",
            false => "false; clipping is not linear",
        };
        return Err(config.unaccepted("clip_sample", accepted).into());
    }
    Ok(())
}
