//! An adapter's patches on the layers of one model: fitted by name and shape, then at a strength.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{DType, Result, Tensor};

use super::patch::{Delta, Magnitude, WeightPatch};
use super::{Adapter, AdapterError, LayerTable, Leaf};
use crate::family;
use crate::ops::Form;

/// Below this, a length counts as this: a part of the weight that is zero stays zero.
const MIN_LENGTH: f64 = 1e-7;

/// An adapter whose every module is a layer of one model, in that layer's shape.
#[derive(Debug)]
pub struct FittedAdapter {
    patches: BTreeMap<Arc<str>, FittedPatch>,
}

/// A patch in the shape of its layer.
#[derive(Clone, Debug)]
struct FittedPatch {
    delta: Delta,
    factor: f64,
    bias: Option<Tensor>,
    /// Lengths in f32, and over what.
    magnitude: Option<(Tensor, Axis)>,
}

/// Parts of names that only T5's layers have; the last is what kohya's trainer puts before them.
const T5: [&str; 3] = ["SelfAttention", "DenseReluDense", "lora_te3_"];

/// What DoRA's lengths are over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Axis {
    Outputs,
    Inputs,
}

/// An adapter at a strength on one model: what the layers look up.
#[derive(Debug)]
pub struct BoundAdapter {
    patches: BTreeMap<Arc<str>, BoundPatch>,
}

/// A patch at a strength.
#[derive(Debug)]
pub(super) struct BoundPatch {
    fitted: FittedPatch,
    scale: f64,
    /// By how much DoRA stretches each output or input, shaped to broadcast over the layer's output or input.
    ratio: Option<(Tensor, Axis)>,
}

impl FittedAdapter {
    /// Finds each module's layer among `layers`, those of a model of `family`.
    ///
    /// # Errors
    /// [`AdapterError`] if one has none or another shape; where the adapter's family is known to be another, both are named.
    pub fn new(adapter: &Adapter, layers: &LayerTable, family: &'static str) -> std::result::Result<Self, AdapterError> {
        let misfit = |error: AdapterError| match adapter.family {
            Some(made_for) if !family::is_of(family, made_for) => {
                AdapterError::WrongFamily { adapter: made_for, model: family, reason: error.to_string() }
            }
            _ => error,
        };
        let mut patches = BTreeMap::new();
        let mut modules: BTreeMap<Arc<str>, &str> = BTreeMap::new();
        for (module, patch) in &adapter.modules {
            let found = layers.find(module).and_then(|path| Some((path, layers.weight(path)?)));
            let parts = match found {
                Some((path, weight)) => vec![(path, weight, patch.clone())],
                None => divided(module, patch, layers, family).map_err(misfit)?,
            };
            for (path, weight, patch) in parts {
                if let Some(first) = modules.insert(Arc::clone(path), module) {
                    return Err(AdapterError::SameLayer { first: first.to_owned(), second: module.clone(), layer: path.to_string() });
                }
                let fitted = FittedPatch::new(&patch, weight.dims())?.map_err(|reason| {
                    let (module, layer, expected) = (module.clone(), path.to_string(), weight.dims().to_vec());
                    misfit(AdapterError::LayerShape { module, layer, expected, reason })
                })?;
                patches.insert(Arc::clone(path), fitted);
            }
        }
        Ok(Self { patches })
    }

    /// This adapter at strength `scale` on the weights of `layers`, in the precision of each: a model's parts may differ in theirs.
    ///
    /// # Errors
    /// When the device refuses a tensor.
    pub(super) fn bind(self, layers: &LayerTable, scale: f64) -> Result<BoundAdapter> {
        let bind = |(path, mut fitted): (Arc<str>, FittedPatch)| {
            if let Some(weight) = layers.weight(&path) {
                fitted.delta = fitted.delta.to(weight.device(), weight.dtype())?;
                fitted.bias = fitted.bias.map(|bias| bias.to_dtype(weight.dtype())).transpose()?;
            }
            let ratio = match (&fitted.magnitude, layers.weight(&path)) {
                (Some((_, axis)), Some(weight)) => {
                    let ratio = fitted.ratio(&weight.to_dtype(DType::F32)?, scale)?;
                    let over_pixels = weight.rank() == 4;
                    let ratio = if over_pixels { ratio.reshape(((), 1, 1))? } else { ratio };
                    Some((ratio.to_dtype(weight.dtype())?, *axis))
                }
                _ => None,
            };
            Ok((path, BoundPatch { fitted, scale, ratio }))
        };
        Ok(BoundAdapter { patches: self.patches.into_iter().map(bind).collect::<Result<_>>()? })
    }

    /// Whether it changes the layer `path`.
    pub fn acts_on(&self, path: &str) -> bool {
        self.patches.contains_key(path)
    }

    /// What is added to `weight` (f32, of the layer `path`) at strength `scale`; `None` for a layer that this adapter leaves alone.
    ///
    /// # Errors
    /// When a tensor cannot be computed.
    pub fn weight_difference(&self, path: &str, weight: &Tensor, scale: f64) -> Result<Option<Tensor>> {
        let Some(patch) = self.patches.get(path) else { return Ok(None) };
        let difference = patch.difference(weight, scale)?;
        let Some((_, axis)) = &patch.magnitude else { return Ok(Some(difference)) };
        let ratio = patch.ratio(weight, scale)?;
        let mut shape = vec![1; weight.rank()];
        shape[usize::from(*axis == Axis::Inputs)] = ratio.elem_count();
        Ok(Some(((weight + difference)?.broadcast_mul(&ratio.reshape(shape)?)? - weight)?))
    }

    /// What is added to the bias of the layer `path` at strength `scale`: [outputs] f32.
    ///
    /// # Errors
    /// When a tensor cannot be computed.
    pub fn bias_difference(&self, path: &str, scale: f64) -> Result<Option<Tensor>> {
        let bias = self.patches.get(path).and_then(|patch| patch.bias.as_ref());
        bias.map(|bias| bias.to_dtype(DType::F32)? * scale).transpose()
    }
}

/// A layer's path, its weight, and what acts on it.
type OnLayer<'a> = (&'a Arc<str>, &'a Tensor, WeightPatch);

/// The layers of which `module` is the whole in the original code's spelling, each with its part of `patch`.
fn divided<'a>(
    module: &str,
    patch: &WeightPatch,
    layers: &'a LayerTable,
    family: &'static str,
) -> std::result::Result<Vec<OnLayer<'a>>, AdapterError> {
    let unknown = || match T5.iter().any(|part| module.contains(part)) {
        true => AdapterError::ActsOnT5 { module: module.to_owned() },
        false => AdapterError::UnknownModule { module: module.to_owned(), model: family },
    };
    let found = layers.find_fused(module).iter().map(|path| Some((path, layers.weight(path)?))).collect::<Option<Vec<_>>>();
    let found = found.filter(|found| !found.is_empty()).ok_or_else(unknown)?;
    let outputs = found.iter().map(|(_, weight)| weight.dims()[0]).sum();
    let (mut parts, mut first) = (Vec::with_capacity(found.len()), 0);
    for (path, weight) in &found {
        let Some(part) = patch.of_outputs(first, weight.dims()[0], outputs)? else {
            let layer = found.iter().map(|(path, _)| path.as_ref()).collect::<Vec<_>>().join(", ");
            let expected = [&[outputs], &weight.dims()[1..]].concat();
            let reason = format!("{} and does not divide by its outputs", describe(&patch.delta));
            return Err(AdapterError::LayerShape { module: module.to_owned(), layer, expected, reason });
        };
        parts.push((*path, *weight, part));
        first += weight.dims()[0];
    }
    Ok(parts)
}

impl FittedPatch {
    /// The patch in the shape of a weight, or what does not fit.
    fn new(patch: &WeightPatch, weight: &[usize]) -> Result<std::result::Result<Self, String>> {
        let Some(delta) = fit_delta(&patch.delta, weight)? else {
            return Ok(Err(describe(&patch.delta)));
        };
        let outputs = weight[0];
        if let Some(bias) = patch.bias.as_ref().filter(|bias| bias.elem_count() != outputs) {
            return Ok(Err(format!("its bias has {} values", bias.elem_count())));
        }
        let magnitude = match &patch.magnitude {
            None => None,
            Some(magnitude) => match axis(magnitude, outputs, weight[1]) {
                Some(axis) => Some((magnitude.lengths.clone(), axis)),
                None => return Ok(Err(format!("DoRA has {} lengths", magnitude.lengths.elem_count()))),
            },
        };
        Ok(Ok(Self { delta, factor: patch.factor, bias: patch.bias.clone(), magnitude }))
    }

    /// The difference in f32 at a strength, before DoRA, in the shape of `weight`.
    fn difference(&self, weight: &Tensor, scale: f64) -> Result<Tensor> {
        self.delta.dense()?.reshape(weight.shape())? * (self.factor * scale)
    }

    /// DoRA's lengths over the lengths that weight and difference have together. Ones where there is no DoRA.
    fn ratio(&self, weight: &Tensor, scale: f64) -> Result<Tensor> {
        let Some((lengths, axis)) = &self.magnitude else { return Tensor::ones(1, DType::F32, weight.device()) };
        let changed = (weight + self.difference(weight, scale)?)?;
        let by_part = if *axis == Axis::Inputs { changed.transpose(0, 1)?.contiguous()? } else { changed };
        let found = by_part.flatten_from(1)?.sqr()?.sum(1)?.sqrt()?.maximum(MIN_LENGTH)?;
        lengths / found
    }
}

fn axis(magnitude: &Magnitude, outputs: usize, inputs: usize) -> Option<Axis> {
    let count = magnitude.lengths.elem_count();
    match (count == outputs, count == inputs) {
        (true, true) => Some(if magnitude.shaped_for_inputs { Axis::Inputs } else { Axis::Outputs }),
        (true, false) => Some(Axis::Outputs),
        (false, true) => Some(Axis::Inputs),
        (false, false) => None,
    }
}

/// The difference's tensors in the shapes that the layer's operation takes; `None` where they do not fit.
fn fit_delta(delta: &Delta, weight: &[usize]) -> Result<Option<Delta>> {
    let [outputs, inputs, kernel @ ..] = weight else { return Ok(None) };
    let shape = |sides: &[usize], kernel: &[usize]| [sides, kernel].concat();
    let ones = vec![1; kernel.len()];
    Ok(match delta {
        Delta::Dense(dense) => fit(dense, weight)?.map(Delta::Dense),
        Delta::LowRank { down, mid: None, up } => {
            let rank = down.dim(0)?;
            let fitted = (fit(down, &shape(&[rank, *inputs], kernel))?, fit(up, &shape(&[*outputs, rank], &ones))?);
            let (Some(down), Some(up)) = fitted else { return Ok(None) };
            Some(Delta::LowRank { down, mid: None, up })
        }
        Delta::LowRank { down, mid: Some(mid), up } => {
            let (outer, inner, ..) = mid.dims4()?;
            let fitted = (
                fit(down, &shape(&[inner, *inputs], &ones))?,
                fit(mid, &shape(&[outer, inner], kernel))?,
                fit(up, &shape(&[*outputs, outer], &ones))?,
            );
            let (Some(down), Some(mid), Some(up)) = fitted else { return Ok(None) };
            Some(Delta::LowRank { down, mid: Some(mid), up })
        }
        Delta::Kronecker { left, right } => {
            let (left_outputs, left_inputs) = left.dims2()?;
            if outputs % left_outputs != 0 || inputs % left_inputs != 0 {
                return Ok(None);
            }
            let right = fit(right, &shape(&[outputs / left_outputs, inputs / left_inputs], kernel))?;
            right.map(|right| Delta::Kronecker { left: left.clone(), right })
        }
    })
}

/// The same values in the shape `wanted`, if that differs only by sides of 1 at the end, or by a kernel folded into the inputs.
fn fit(tensor: &Tensor, wanted: &[usize]) -> Result<Option<Tensor>> {
    let without_ones = |shape: &[usize]| shape[..shape.iter().rposition(|side| *side != 1).map_or(0, |at| at + 1)].to_vec();
    let found = tensor.dims();
    let folded = found.len() == 2 && found[0] == wanted[0] && tensor.elem_count() == wanted.iter().product::<usize>();
    if folded || without_ones(found) == without_ones(wanted) { tensor.reshape(wanted).map(Some) } else { Ok(None) }
}

fn describe(delta: &Delta) -> String {
    match delta {
        Delta::LowRank { down, mid: None, up } => format!("down has shape {:?}, up has {:?}", down.dims(), up.dims()),
        Delta::LowRank { down, mid: Some(mid), up } => {
            format!("down has shape {:?}, mid has {:?}, up has {:?}", down.dims(), mid.dims(), up.dims())
        }
        Delta::Kronecker { left, right } => format!("its factors have shapes {:?} and {:?}", left.dims(), right.dims()),
        Delta::Dense(dense) => format!("its difference has shape {:?}", dense.dims()),
    }
}

impl BoundAdapter {
    pub(super) fn patch(&self, path: &str) -> Option<&BoundPatch> {
        self.patches.get(path)
    }
}

impl BoundPatch {
    /// What is added to `base`, the layer's own output for `x`. A row's bits depend on no other row, as those of [`crate::ops`] do not.
    pub(super) fn side(&self, leaf: Leaf<'_>, x: &Tensor, base: &Tensor, form: Form) -> Result<Tensor> {
        let strength = self.fitted.factor * self.scale;
        let inner = |x: &Tensor| leaf.difference(&self.fitted.delta, x, form)? * strength;
        let side = match &self.ratio {
            None => inner(x)?,
            // (ratio · (W + Δ))·x − W·x, where the layer's own output is W·x and the bias.
            Some((ratio, Axis::Outputs)) => {
                let more = leaf.without_bias(base)?.broadcast_mul(&(ratio - 1.0)?)?;
                (inner(x)?.broadcast_mul(ratio)? + more)?
            }
            // (W + Δ)·(ratio · x) − W·x.
            Some((ratio, Axis::Inputs)) => {
                let stretched = x.broadcast_mul(ratio)?;
                (inner(&stretched)? + leaf.own(&(&stretched - x)?, form)?)?
            }
        };
        match &self.fitted.bias {
            Some(bias) => side.broadcast_add(&(leaf.over_outputs(bias)? * self.scale)?),
            None => Ok(side),
        }
    }
}
