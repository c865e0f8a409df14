//! What the samplers share that step evenly-weighted in λ = ln(α/σ): DPM-Solver, DEIS, UniPC. The latents are `α·x₀ + σ·ε` with
//! `α² + σ² = 1`; a schedule holds the ratio σ/α, as the reference does.

use serde_json::json;

use super::curve::Curve;
use super::options::{SharedOptions, SpacingOptions, check_linear};
use super::schedule::{Schedule, Spacing, falling, interpolate, linspace, sigma_of, timestep_of_sigma};
use super::sigma_levels::log_sigmas;
use super::{Evaluation, NoiseMix, SamplerError};
use crate::json::Config;

/// Known keys of flow matching, of which only "off" is served.
pub(super) const FLOW_KEYS: &[&str] = &["use_flow_sigmas", "flow_shift", "use_dynamic_shifting", "time_shift_type"];

/// The highest order that any of these solvers is served with.
pub(super) const MAX_ORDER: usize = 3;

/// One noise level.
#[derive(Clone, Copy, Debug)]
pub(super) struct Level {
    pub(super) alpha: f64,
    pub(super) sigma: f64,
    /// σ/α
    pub(super) ratio: f64,
    /// ln(α/σ); infinite where no noise is left.
    pub(super) lambda: f64,
}

impl Level {
    /// Of evaluation `at`, or after the last one.
    pub(super) fn at(schedule: &Schedule, at: usize) -> Self {
        let ratio = f64::from(schedule.sigmas[at]);
        let alpha = (ratio * ratio + 1.0).sqrt().recip();
        Self { alpha, sigma: ratio * alpha, ratio, lambda: -ratio.ln() }
    }
}

/// Where the last update leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// No noise.
    Zero,
    /// The least noise of the training.
    TableMinimum,
    /// The least noise of the curve, or without one that of the training.
    CurveMinimum,
}

/// How a class makes its schedule.
#[derive(Debug)]
pub(super) struct Levels {
    pub(super) shared: SharedOptions,
    pub(super) spacing: SpacingOptions,
    pub(super) curve: Option<Curve>,
    /// `use_lu_lambdas`: evenly in λ. The Karras curve goes before it, the others after.
    pub(super) lu_lambdas: bool,
    pub(super) end: End,
    /// Training timesteps left out at the noisy end: those below `lambda_min_clipped`.
    pub(super) clipped: usize,
    /// Whether timesteps of the Karras and Lu curves are rounded rather than cut to whole numbers.
    pub(super) rounds_timesteps: bool,
}

impl Levels {
    /// # Errors
    /// [`SamplerError::Contradiction`] if two evaluations would have the same noise level: these solvers divide by the difference.
    pub(super) fn schedule(&self, sampler: &'static str, steps: usize) -> Result<Schedule, SamplerError> {
        let table = self.shared.sigmas();
        let logs = log_sigmas(&table);
        let (largest, smallest) = (table[table.len() - 1], table[0]);
        let curved = match (self.curve, self.lu_lambdas) {
            (Some(Curve::Karras), _) | (Some(_), false) => {
                self.curve.map(|curve| curve.sigmas(f64::from(largest), f64::from(smallest), steps))
            }
            (_, true) => {
                let (top, bottom) = (f64::from(logs[logs.len() - 1]), f64::from(logs[0]));
                let shares = linspace(0.0, 1.0, steps).into_iter();
                Some(shares.map(|share| (top + share * (bottom - top)).exp()).collect())
            }
            (None, false) => None,
        };
        let (sigmas, timesteps): (Vec<f64>, Vec<f64>) = match curved {
            Some(sigmas) => {
                let rounds = self.rounds_timesteps && (self.lu_lambdas || self.curve == Some(Curve::Karras));
                let whole = |timestep: f64| if rounds { timestep.round_ties_even() } else { timestep.trunc() };
                let timesteps = sigmas.iter().map(|sigma| whole(timestep_of_sigma(*sigma, &logs))).collect();
                (sigmas, timesteps)
            }
            None => {
                let timesteps = self.timesteps(steps);
                (timesteps.iter().map(|timestep| interpolate(&table, *timestep)).collect(), timesteps)
            }
        };
        let end = match self.end {
            End::Zero => 0.0,
            End::CurveMinimum if self.curve.is_some() => sigmas[sigmas.len() - 1] as f32,
            End::TableMinimum | End::CurveMinimum => smallest,
        };
        let mut sigmas: Vec<f32> = sigmas.into_iter().map(|sigma| sigma as f32).collect();
        if sigmas.windows(2).any(|pair| pair[0] <= pair[1]) {
            let reason =
                format!("{steps} steps would visit one noise level twice; use fewer steps, or another timestep_spacing or steps_offset");
            return Err(SamplerError::Contradiction { sampler, reason });
        }
        sigmas.push(end);
        let timesteps = timesteps.into_iter().map(|timestep| timestep as f32).collect();
        Ok(Schedule { timesteps, sigmas, init_noise_sigma: 1.0, steps })
    }

    /// Whole, falling, as if there were one step more, except with trailing spacing.
    fn timesteps(&self, steps: usize) -> Vec<f64> {
        let visited = self.shared.train_steps - self.clipped;
        match self.spacing.spacing {
            Spacing::Linspace => {
                let all = linspace(0.0, (visited.max(1) - 1) as f64, steps + 1);
                all.into_iter().skip(1).rev().map(f64::round_ties_even).collect()
            }
            Spacing::Leading => {
                let stride = visited / (steps + 1);
                (1..=steps).rev().map(|index| (index * stride) as f64 + self.spacing.offset as f64).collect()
            }
            Spacing::Trailing => {
                let stride = self.shared.train_steps as f64 / steps as f64;
                falling(visited as f64, stride).into_iter().map(|timestep| timestep.round_ties_even() - 1.0).collect()
            }
        }
    }
}

/// How many training timesteps lie below `lambda_min_clipped`.
pub(super) fn read_clipped(config: &Config, shared: &SharedOptions) -> Result<usize, SamplerError> {
    let least = config.f64("lambda_min_clipped")?.unwrap_or(f64::NEG_INFINITY);
    let lambda = |alpha: &f32| -> f64 { -f64::from(sigma_of(*alpha)).ln() };
    let clipped = shared.alphas_cumprod.iter().filter(|alpha| lambda(alpha) < least).count();
    if least.is_nan() || clipped + 1 >= shared.train_steps {
        return Err(config.unaccepted("lambda_min_clipped", "a number that leaves timesteps of the training").into());
    }
    Ok(clipped)
}

/// Refuses what none of these samplers is served with.
pub(super) fn check_served(config: &Config) -> Result<(), SamplerError> {
    check_linear(config, false)?;
    config.only("use_flow_sigmas", &[json!(false)])?;
    Ok(())
}

pub(super) fn read_order(config: &Config) -> Result<usize, SamplerError> {
    match config.usize("solver_order")?.unwrap_or(2) {
        order @ 1..=MAX_ORDER => Ok(order),
        _ => Err(config.unaccepted("solver_order", "1, 2, 3").into()),
    }
}

/// What the denoiser is asked: the latents as they are.
pub(super) fn evaluation(schedule: &Schedule, at: usize) -> Evaluation {
    Evaluation { timestep: schedule.timesteps[at], input_scale: 1.0, sigma: schedule.sigmas[at] }
}

/// How an image enters the schedule at an evaluation.
pub(super) fn noised(schedule: &Schedule, at: usize) -> NoiseMix {
    let level = Level::at(schedule, at);
    NoiseMix { signal: level.alpha as f32, noise: level.sigma as f32 }
}
