//! Linear combinations of tensors while they are worked out: f64, rounded once.
//!
//! With these a solver's formula reads as in its paper: `SAMPLE * a + original * b + NOISE * c`, where `original` is itself a
//! combination of the sample and the network's output.

use std::ops::{Add, Mul, Sub};

use super::{Combination, MAX_HISTORY, Update};

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Blend {
    sample: f64,
    output: f64,
    history: [f64; MAX_HISTORY],
    noise: f64,
}

impl Blend {
    pub(super) const NOTHING: Self = Self { sample: 0.0, output: 0.0, history: [0.0; MAX_HISTORY], noise: 0.0 };
    pub(super) const SAMPLE: Self = Self { sample: 1.0, ..Self::NOTHING };
    pub(super) const OUTPUT: Self = Self { output: 1.0, ..Self::NOTHING };
    pub(super) const NOISE: Self = Self { noise: 1.0, ..Self::NOTHING };

    /// The tensor that was kept at `place`.
    pub(super) const fn history(place: usize) -> Self {
        let mut blend = Self::NOTHING;
        blend.history[place] = 1.0;
        blend
    }

    fn rounded(self) -> Combination {
        Combination {
            sample: self.sample as f32,
            output: self.output as f32,
            history: self.history.map(|factor| factor as f32),
            noise: self.noise as f32,
        }
    }

    fn zip(self, other: Self, with: impl Fn(f64, f64) -> f64) -> Self {
        Self {
            sample: with(self.sample, other.sample),
            output: with(self.output, other.output),
            history: std::array::from_fn(|place| with(self.history[place], other.history[place])),
            noise: with(self.noise, other.noise),
        }
    }
}

impl Add for Blend {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        self.zip(other, |left, right| left + right)
    }
}

impl Sub for Blend {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self.zip(other, |left, right| left - right)
    }
}

impl Mul<f64> for Blend {
    type Output = Self;

    fn mul(self, factor: f64) -> Self {
        self.zip(self, |value, _| value * factor)
    }
}

impl Update {
    /// To `next`, with an empty history.
    pub(super) fn to(next: Blend) -> Self {
        Self { next: next.rounded(), keep: Vec::new(), draws_noise: false }
    }

    /// With this history from now on.
    pub(super) fn keeping(mut self, kept: impl IntoIterator<Item = Blend>) -> Self {
        self.keep = kept.into_iter().map(Blend::rounded).collect();
        self
    }

    /// The reference draws noise here, or not, whatever its coefficient.
    pub(super) fn drawing_noise(mut self, draws: bool) -> Self {
        self.draws_noise = draws;
        self
    }
}
