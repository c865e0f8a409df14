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

impl WeightPatch {
    /// What acts on `count` outputs from `first` on of a layer with `outputs` of them; `None` where the form does not divide by outputs.
    pub(super) fn of_outputs(&self, first: usize, count: usize, outputs: usize) -> Result<Option<Self>> {
        let part = |tensor: &Tensor| if tensor.dim(0)? == outputs { tensor.narrow(0, first, count).map(Some) } else { Ok(None) };
        let delta = match &self.delta {
            Delta::LowRank { down, mid, up } => part(up)?.map(|up| Delta::LowRank { down: down.clone(), mid: mid.clone(), up }),
            Delta::Dense(weight) => part(weight)?.map(Delta::Dense),
            Delta::Kronecker { .. } => None,
        };
        let Some(delta) = delta else { return Ok(None) };
        let bias = self.bias.as_ref().map(part).transpose()?;
        let magnitude = match &self.magnitude {
            Some(Magnitude { shaped_for_inputs: true, .. }) => Some(None),
            Some(Magnitude { lengths, .. }) => Some(part(lengths)?),
            None => None,
        };
        if matches!(bias, Some(None)) || matches!(magnitude, Some(None)) {
            return Ok(None);
        }
        let magnitude = magnitude.flatten().map(|lengths| Magnitude { lengths, shaped_for_inputs: false });
        Ok(Some(Self { delta, factor: self.factor, bias: bias.flatten(), magnitude }))
    }
}
