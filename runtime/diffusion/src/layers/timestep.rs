//! Timesteps as features: the sinusoid of "Attention is all you need" and the two-layer network behind it.

use candle_core::{Device, Result, Tensor};

use super::resnet::silu;
use super::{Linear, Parameters};
use crate::exec::Exec;
use crate::layers::Built;

/// The largest period of the sinusoid, in timesteps.
const LARGEST_PERIOD: f32 = 10_000.0;

/// How a model wants its sinusoid, in diffusers' configuration names.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SinusoidOptions {
    /// Cosines before sines.
    pub flip_sin_to_cos: bool,
    /// Shortens the ladder of frequencies: exponent i / (half − shift).
    pub freq_shift: f64,
}

/// Timesteps [B] → [B, features] f32, always computed in f32: in 16 bits, timestep 999 would be rounded to 1000.
///
/// Follows diffusers' `get_timestep_embedding`.
///
/// # Errors
/// When the device refuses the tensor.
pub fn timestep_sinusoid(timesteps: &[f32], features: usize, options: SinusoidOptions, device: &Device) -> Result<Tensor> {
    let half = features / 2;
    let frequency = |i: usize| (-LARGEST_PERIOD.ln() * i as f32 / (half as f32 - options.freq_shift as f32)).exp();
    let frequencies: Vec<f32> = (0..half).map(frequency).collect();
    let mut values = Vec::with_capacity(timesteps.len() * features);
    for timestep in timesteps {
        let sines = frequencies.iter().map(|frequency| (timestep * frequency).sin());
        let cosines = frequencies.iter().map(|frequency| (timestep * frequency).cos());
        if options.flip_sin_to_cos {
            values.extend(cosines.chain(sines));
        } else {
            values.extend(sines.chain(cosines));
        }
        values.resize(values.len() + features % 2, 0.0);
    }
    Tensor::from_vec(values, (timesteps.len(), features), device)
}

/// linear → SiLU → linear: diffusers' `TimestepEmbedding`.
#[derive(Clone, Debug)]
pub struct TimestepEmbedding {
    first: Linear,
    second: Linear,
    condition: Option<Linear>,
}

impl TimestepEmbedding {
    /// Parameters `linear_1` and `linear_2`.
    ///
    /// # Errors
    /// When a parameter is missing or has another shape.
    pub fn new(features: usize, outputs: usize, parameters: &Parameters<'_>) -> Built<Self> {
        Ok(Self {
            first: Linear::new(features, outputs, &parameters.at("linear_1"))?,
            second: Linear::new(outputs, outputs, &parameters.at("linear_2"))?,
            condition: None,
        })
    }

    /// The same with `cond_proj`: a condition of `condition_features` is added to the sinusoid.
    ///
    /// # Errors
    /// When a parameter is missing or has another shape.
    pub fn conditioned(features: usize, condition_features: usize, outputs: usize, parameters: &Parameters<'_>) -> Built<Self> {
        let condition = Linear::without_bias(condition_features, features, &parameters.at("cond_proj"))?;
        Ok(Self { condition: Some(condition), ..Self::new(features, outputs, parameters)? })
    }

    /// Sinusoid [B, features] f32 → [B, outputs] in the compute dtype. The condition is [B, condition_features] f32 where there is a
    /// projection of it, and not there otherwise.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn forward(&self, sinusoid: &Tensor, condition: Option<&Tensor>, exec: &Exec) -> Result<Tensor> {
        let sinusoid = sinusoid.to_dtype(exec.compute)?;
        let sinusoid = match (&self.condition, condition) {
            (Some(projection), Some(condition)) => (sinusoid + projection.forward(&condition.to_dtype(exec.compute)?, exec)?)?,
            (None, None) => sinusoid,
            _ => candle_core::bail!("a time embedding takes a condition exactly where it has a projection of it"),
        };
        let hidden = silu(&self.first.forward(&sinusoid, exec)?, exec)?;
        self.second.forward(&hidden, exec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sinusoid_of_a_timestep_follows_its_definition() {
        let options = SinusoidOptions { flip_sin_to_cos: true, freq_shift: 0.0 };
        let row = timestep_sinusoid(&[999.0], 5, options, &Device::Cpu).unwrap().to_vec2::<f32>().unwrap().remove(0);
        let slow = 999.0 * 1e4_f64.powf(-0.5);
        let expected = [999.0_f64.cos(), slow.cos(), 999.0_f64.sin(), slow.sin(), 0.0];
        for (value, expected) in row.iter().zip(expected) {
            assert!((f64::from(*value) - expected).abs() < 1e-5, "{value} is not {expected}");
        }
    }
}
