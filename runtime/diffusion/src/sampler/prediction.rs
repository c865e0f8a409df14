//! What the network predicts, and how that becomes the clean image and the noise.
//!
//! With `x = a·x₀ + s·ε` (`a² + s² = 1`), both are linear in the sample and the output, so a prediction type is two pairs of
//! numbers. Follows diffusers' `prediction_type`; v as in "Progressive Distillation" (arXiv 2202.00512).

use super::blend::Blend;

/// diffusers' `prediction_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prediction {
    /// The noise: `epsilon`.
    Epsilon,
    /// `a·ε − s·x₀`: `v_prediction`.
    Velocity,
    /// The clean image: `sample`.
    Sample,
}

impl Prediction {
    /// All names, for messages.
    pub(super) const NAMES: [&'static str; 3] = ["epsilon", "v_prediction", "sample"];

    /// By diffusers' name.
    pub(super) fn from_name(name: &str) -> Option<Self> {
        match name {
            "epsilon" => Some(Self::Epsilon),
            "v_prediction" => Some(Self::Velocity),
            "sample" => Some(Self::Sample),
            _ => None,
        }
    }

    /// The clean image, where `x = signal·x₀ + noise·ε`.
    pub(super) fn original(self, signal: f64, noise: f64) -> Blend {
        match self {
            Self::Epsilon => (Blend::SAMPLE - Blend::OUTPUT * noise) * signal.recip(),
            Self::Velocity => Blend::SAMPLE * signal - Blend::OUTPUT * noise,
            Self::Sample => Blend::OUTPUT,
        }
    }

    /// The noise, where `x = signal·x₀ + noise·ε`.
    pub(super) fn noise(self, signal: f64, noise: f64) -> Blend {
        match self {
            Self::Epsilon => Blend::OUTPUT,
            Self::Velocity => Blend::SAMPLE * noise + Blend::OUTPUT * signal,
            Self::Sample => (Blend::SAMPLE - Blend::OUTPUT * signal) * noise.recip(),
        }
    }
}
