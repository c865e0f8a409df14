//! What an adapter file holds for one module, read and brought into the form in which it acts.

use candle_core::{DType, Device, Result, Tensor};
use serde::Serialize;

use super::matrix;

/// How a module's difference is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PatchKind {
    /// LoRA and LoCon: up · (mid ·) down.
    LowRank,
    /// LoHa: (a·b) ∘ (c·d).
    Hadamard,
    /// LoKr: a ⊗ b.
    Kronecker,
    /// The difference itself.
    Full,
}

/// The difference of one layer's weight, before strength: `factor · …`.
#[derive(Clone, Debug)]
pub(super) enum Delta {
    /// down [r, features…], up [outputs, r…], between them mid [r, r, kernel, kernel].
    LowRank { down: Tensor, mid: Option<Tensor>, up: Tensor },
    /// left [o, i] ⊗ right [p, j, …].
    Kronecker { left: Tensor, right: Tensor },
    /// As large as the weight.
    Dense(Tensor),
}

/// What DoRA learned as lengths: of the weight's part for each output, or for each input.
#[derive(Clone, Debug)]
pub(super) struct Magnitude {
    /// f32, all its sides of 1 gone: as many as outputs or inputs.
    pub(super) lengths: Tensor,
    /// Whether its shape says that it is over inputs (`[1, inputs]`) where both would do.
    pub(super) shaped_for_inputs: bool,
}

/// What acts on one layer.
#[derive(Clone, Debug)]
pub(super) struct WeightPatch {
    pub(super) delta: Delta,
    /// alpha ÷ rank.
    pub(super) factor: f64,
    /// [outputs].
    pub(super) bias: Option<Tensor>,
    pub(super) magnitude: Option<Magnitude>,
}

impl Delta {
    /// The tensors, moved and rounded.
    pub(super) fn to(&self, device: &Device, dtype: DType) -> Result<Self> {
        let to = |tensor: &Tensor| tensor.to_dtype(dtype)?.to_device(device);
        Ok(match self {
            Self::LowRank { down, mid, up } => Self::LowRank { down: to(down)?, mid: mid.as_ref().map(to).transpose()?, up: to(up)? },
            Self::Kronecker { left, right } => Self::Kronecker { left: to(left)?, right: to(right)? },
            Self::Dense(weight) => Self::Dense(to(weight)?),
        })
    }

    /// The difference in f32, of as many elements as the weight, without its factor.
    pub(super) fn dense(&self) -> Result<Tensor> {
        let f32 = |tensor: &Tensor| tensor.to_dtype(DType::F32);
        match self {
            Self::LowRank { down, mid, up } => {
                let (up, down) = (f32(&up.flatten_from(1)?)?, f32(&down.flatten_from(1)?)?);
                matrix::product(&up, mid.as_ref().map(f32).transpose()?.as_ref(), &down)
            }
            Self::Kronecker { left, right } => matrix::kronecker(&f32(left)?, &f32(right)?),
            Self::Dense(weight) => f32(weight),
        }
    }
}
