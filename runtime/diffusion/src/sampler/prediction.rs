//! What the network predicts, and how that becomes the clean image and the noise.
//!
//! With `x = a·x₀ + s·ε` (`a² + s² = 1`), both are linear in the sample and the output, so a prediction type is two pairs of
//! numbers. Follows diffusers' `prediction_type`; v as in "Progressive Distillation" (arXiv 2202.00512).

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

/// `sample·x + output·o`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Linear {
    pub(super) sample: f64,
    pub(super) output: f64,
}

impl Linear {
    /// `factor · self + other_factor · other`.
    pub(super) fn mix(self, factor: f64, other: Self, other_factor: f64) -> Self {
        Self { sample: factor * self.sample + other_factor * other.sample, output: factor * self.output + other_factor * other.output }
    }
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

    /// The clean image and the noise as functions of the sample and the output, where `x = signal·x₀ + noise·ε`.
    pub(super) fn original_and_noise(self, signal: f64, noise: f64) -> (Linear, Linear) {
        match self {
            Self::Epsilon => (Linear { sample: 1.0 / signal, output: -noise / signal }, Linear { sample: 0.0, output: 1.0 }),
            Self::Velocity => (Linear { sample: signal, output: -noise }, Linear { sample: noise, output: signal }),
            Self::Sample => (Linear { sample: 0.0, output: 1.0 }, Linear { sample: 1.0 / noise, output: -signal / noise }),
        }
    }
}
