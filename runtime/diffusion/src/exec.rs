//! How a model runs: device, compute precision, inference or training, the adapters of a call. It knows no layer and no request.

use candle_core::{DType, Device};

use crate::adapter::AdapterRows;
use crate::ops::Form;

/// What the layers are run for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The fastest forms; no gradients.
    Inference,
    /// Composed forms, which have gradients everywhere.
    Training,
}

/// How the layers of one model are run.
#[derive(Clone, Debug)]
pub struct Exec {
    /// Where the weights lie and the work is done.
    pub device: Device,
    /// Precision of weights and activations. Latents, timesteps, norms and softmax stay f32.
    pub compute: DType,
    /// Inference or training.
    pub mode: Mode,
    /// What acts on the rows of this call besides the weights; of a model itself: nothing.
    pub adapters: AdapterRows,
}

impl Exec {
    /// Inference on `device` in `compute` precision.
    pub fn inference(device: &Device, compute: DType) -> Self {
        Self { device: device.clone(), compute, mode: Mode::Inference, adapters: AdapterRows::default() }
    }

    /// The same for a call whose rows have these adapters.
    #[must_use]
    pub fn with_adapters(&self, adapters: AdapterRows) -> Self {
        Self { adapters, ..self.clone() }
    }

    /// Which form of the operations this mode asks for.
    pub fn form(&self) -> Form {
        match self.mode {
            Mode::Inference => Form::Fused,
            Mode::Training => Form::Composed,
        }
    }
}
