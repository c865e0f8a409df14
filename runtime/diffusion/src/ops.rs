//! The mathematics: each file documents one operation, holds its composed form on candle's primitives, and chooses the fused form.
//!
//! The composed forms have gradients everywhere and are the oracles of the fused forms' tests. The fused forms live in the crate
//! `kernels`. Nothing here knows a layer, a model or a request.
//!
//! On the CPU in f32 every operation keeps the promise on which shared calls stand: the bits of a batch row do not depend on the batch.

mod activation;
mod attention;
mod combine;
mod conv2d;
#[cfg(test)]
mod fused_tests;
mod group_norm;
mod layer_norm;
mod linear;
mod rms_norm;
mod rotary;
mod upsample;

pub use activation::{Activation, activate, geglu};
pub(crate) use attention::MAX_SCORES;
pub use attention::{attention, biased_attention, causal_attention};
pub use combine::{Term, combine};
pub(crate) use conv2d::MAX_PATCH_ELEMENTS;
pub use conv2d::{Padding, conv2d};
pub use group_norm::group_norm;
pub use layer_norm::{layer_norm, modulated_layer_norm};
pub use linear::linear;
pub use rms_norm::rms_norm;
pub use rotary::{Rotation, rotary};
pub use upsample::upsample_nearest;

use candle_core::{DType, Tensor};

/// Which form of an operation is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The fastest form there is for the device and element type; where none is written, the composed one.
    Fused,
    /// Candle's primitives, which have gradients everywhere: for training, and as the oracle of tests.
    Composed,
}

impl Form {
    /// Whether the CPU kernels apply to `x`.
    fn takes_cpu_kernel(self, x: &Tensor) -> bool {
        self == Self::Fused && x.device().is_cpu() && x.dtype() == DType::F32
    }
}
