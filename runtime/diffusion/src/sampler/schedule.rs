//! Noise levels: from betas to timesteps and sigmas.
//!
//! The reference computes its tables partly in f32; small noise levels (1 − ᾱ near 1e-3) carry that rounding visibly, so it is
//! repeated here operation by operation. What follows from the tables is f64 and rounded once.

use super::SamplerError;

/// What one request's evaluations run through. Made by [`super::Sampler::schedule`].
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// The timestep of each evaluation, falling; one entry each.
    pub timesteps: Vec<f32>,
    /// The noise level σ of each evaluation in units of the data's deviation (`x = x₀ + σ·ε`), and after the last one.
    pub sigmas: Vec<f32>,
    /// The initial latents are unit Gaussian noise times this.
    pub init_noise_sigma: f32,
    /// The step count that was asked for. DDIM's stride follows from it.
    pub(super) steps: usize,
}

impl Schedule {
    /// How many times the denoiser is called.
    pub fn num_evaluations(&self) -> usize {
        self.timesteps.len()
    }

    /// σ of evaluation `at`, and of the one after it.
    pub(super) fn sigma_pair(&self, at: usize) -> (f64, f64) {
        (f64::from(self.sigmas[at]), f64::from(self.sigmas[at + 1]))
    }
}

/// How the training's noise grows: the reference's `beta_schedule`.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum BetaSchedule {
    /// Betas evenly spaced from start to end.
    Linear,
    /// Their roots evenly spaced.
    ScaledLinear,
    /// A squared cosine for ᾱ.
    SquaredCosine,
    /// `exp(−12·t)` for ᾱ.
    Exponential,
    /// Betas along a logistic curve from −6 to 6.
    Sigmoid,
    /// Given one by one.
    Trained(Vec<f64>),
}

impl BetaSchedule {
    /// By the reference's name; names that a class does not have never come here.
    pub(super) fn from_name(name: &str) -> Self {
        match name {
            "scaled_linear" => Self::ScaledLinear,
            "squaredcos_cap_v2" => Self::SquaredCosine,
            "exp" => Self::Exponential,
            "sigmoid" => Self::Sigmoid,
            _ => Self::Linear,
        }
    }
}

/// Where inference timesteps lie among the training's: `timestep_spacing`, table 2 of arXiv 2305.08891.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spacing {
    Linspace,
    Leading,
    Trailing,
}

/// Betas of the training process, f32 as the reference keeps them.
pub(super) fn betas(kind: &BetaSchedule, start: f64, end: f64, count: usize) -> Vec<f32> {
    match kind {
        BetaSchedule::Linear => linspace_f32(start, end, count),
        BetaSchedule::ScaledLinear => linspace_f32(start.sqrt(), end.sqrt(), count).into_iter().map(|root| root * root).collect(),
        BetaSchedule::SquaredCosine => betas_of(count, |t| ((t + 0.008) / 1.008 * std::f64::consts::PI / 2.0).cos().powi(2)),
        BetaSchedule::Exponential => betas_of(count, |t| (-12.0 * t).exp()),
        BetaSchedule::Sigmoid => {
            let share = |value: f32| 1.0 / (1.0 + (-value).exp());
            linspace_f32(-6.0, 6.0, count).into_iter().map(|value| share(value) * (end - start) as f32 + start as f32).collect()
        }
        BetaSchedule::Trained(values) => values.iter().map(|value| *value as f32).collect(),
    }
}

/// Betas that lead to `alpha_bar` of the time from 0 to 1.
fn betas_of(count: usize, alpha_bar: impl Fn(f64) -> f64) -> Vec<f32> {
    let at = |index: usize| alpha_bar(index as f64 / count as f64);
    (0..count).map(|index| (1.0 - at(index + 1) / at(index)).min(0.999) as f32).collect()
}

/// Algorithm 1 of arXiv 2305.08891: the last timestep becomes pure noise.
pub(super) fn rescaled_to_zero_snr(betas: &[f32]) -> Vec<f32> {
    let mut roots: Vec<f32> = alphas_cumprod(betas).into_iter().map(f32::sqrt).collect();
    let (Some(&first), Some(&last)) = (roots.first(), roots.last()) else { return Vec::new() };
    let factor = first / (first - last);
    for root in &mut roots {
        *root = (*root - last) * factor;
    }
    let alpha_bars: Vec<f32> = roots.into_iter().map(|root| root * root).collect();
    let ratios = alpha_bars.windows(2).map(|pair| 1.0 - pair[1] / pair[0]);
    std::iter::once(1.0 - alpha_bars[0]).chain(ratios).collect()
}

/// ᾱ: running products of `1 − β`. The running value is kept in f64, as the reference's `cumprod` does.
pub(super) fn alphas_cumprod(betas: &[f32]) -> Vec<f32> {
    let mut product = 1.0_f64;
    let next = |beta: &f32| {
        product *= f64::from(1.0 - beta);
        product as f32
    };
    betas.iter().map(next).collect()
}

/// σ of one ᾱ, in f32 as the reference's table.
pub(super) fn sigma_of(alpha_bar: f32) -> f32 {
    ((1.0 - alpha_bar) / alpha_bar).sqrt()
}

/// Inference timesteps, falling, before any sampler's own rounding. `trailing` may give one more than asked for, as in the
/// reference, when the stride does not divide exactly in f64.
pub(super) fn spaced_timesteps(spacing: Spacing, train_steps: usize, steps: usize, offset: i64) -> Vec<f64> {
    match spacing {
        Spacing::Linspace => linspace(0.0, (train_steps - 1) as f64, steps).into_iter().rev().collect(),
        Spacing::Leading => {
            let stride = train_steps / steps;
            (0..steps).rev().map(|index| (index * stride) as f64 + offset as f64).collect()
        }
        Spacing::Trailing => {
            let stride = train_steps as f64 / steps as f64;
            falling(train_steps as f64, stride).into_iter().map(|timestep| timestep.round_ties_even() - 1.0).collect()
        }
    }
}

/// From `start` down to above 0, with length and increment as numpy's arange computes them.
pub(super) fn falling(start: f64, stride: f64) -> Vec<f64> {
    let count = (start / stride).ceil() as usize;
    let increment = (start - stride) - start;
    (0..count).map(|index| start + index as f64 * increment).collect()
}

/// `count` values from `start` to `stop`, both included, as numpy computes them.
pub(super) fn linspace(start: f64, stop: f64, count: usize) -> Vec<f64> {
    let step = (stop - start) / (count.max(2) - 1) as f64;
    let value = |index: usize| {
        if index + 1 == count && count > 1 { stop } else { index as f64 * step + start }
    };
    (0..count).map(value).collect()
}

/// `count` f32 values from `start` to `stop` as torch computes them: from both ends to the middle, fused multiply-add.
pub(super) fn linspace_f32(start: f64, stop: f64, count: usize) -> Vec<f32> {
    let (start, stop) = (start as f32, stop as f32);
    if count == 1 {
        return vec![start];
    }
    let step = (stop - start) / (count - 1) as f32;
    let value = |index: usize| {
        if index < count / 2 { step.mul_add(index as f32, start) } else { (-step).mul_add((count - index - 1) as f32, stop) }
    };
    (0..count).map(value).collect()
}

/// The table's value at a fractional index, linear between entries and constant beyond the ends.
pub(super) fn interpolate(table: &[f32], at: f64) -> f64 {
    let last = table.len() - 1;
    let low = (at.max(0.0).floor() as usize).min(last);
    let (below, above) = (f64::from(table[low]), f64::from(table[(low + 1).min(last)]));
    let share = (at - low as f64).clamp(0.0, 1.0);
    (above - below) * share + below
}

/// The fractional timestep whose noise level is `sigma`, by interpolating in ln σ; `log_sigmas` rises.
pub(super) fn timestep_of_sigma(sigma: f64, log_sigmas: &[f32]) -> f64 {
    let wanted = sigma.max(1e-10).ln();
    let not_above = log_sigmas.iter().filter(|log_sigma| f64::from(**log_sigma) <= wanted).count();
    let low = not_above.saturating_sub(1).min(log_sigmas.len().saturating_sub(2));
    let (below, above) = (f64::from(log_sigmas[low]), f64::from(log_sigmas[low + 1]));
    let share = ((below - wanted) / (below - above)).clamp(0.0, 1.0);
    (1.0 - share) * low as f64 + share * (low + 1) as f64
}

/// Refuses step counts for which there is no schedule.
pub(super) fn check_steps(steps: usize, limit: usize) -> Result<(), SamplerError> {
    if steps == 0 || steps > limit { Err(SamplerError::Steps { steps, limit }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interpolation_is_constant_beyond_the_ends() {
        let table = [1.0, 3.0, 7.0];
        assert_eq!(interpolate(&table, -5.0), 1.0);
        assert_eq!(interpolate(&table, 0.5), 2.0);
        assert_eq!(interpolate(&table, 2.0), 7.0);
        assert_eq!(interpolate(&table, 99.0), 7.0);
    }

    #[test]
    fn timestep_of_a_table_entry_is_its_index() {
        let logs: Vec<f32> = [0.1_f32, 0.5, 2.0, 9.0].iter().map(|sigma| sigma.ln()).collect();
        for (index, log_sigma) in logs.iter().enumerate() {
            let found = timestep_of_sigma(f64::from(*log_sigma).exp(), &logs);
            assert!((found - index as f64).abs() < 1e-6, "{found} for {index}");
        }
        assert_eq!(timestep_of_sigma(0.0, &logs), 0.0);
        assert_eq!(timestep_of_sigma(1e9, &logs), 3.0);
    }

    #[test]
    fn rescaled_betas_end_in_pure_noise() {
        let betas = betas(&BetaSchedule::ScaledLinear, 0.00085, 0.012, 1000);
        let rescaled = alphas_cumprod(&rescaled_to_zero_snr(&betas));
        assert_eq!(rescaled[999], 0.0);
        assert!((rescaled[0] - alphas_cumprod(&betas)[0]).abs() < 1e-6);
    }
}
