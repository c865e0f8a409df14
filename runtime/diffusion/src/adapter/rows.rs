//! Which adapters act on which rows of a call, and how they act at a layer.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::BoundAdapter;
use super::patch::Delta;
use crate::ops::{self, Form, Padding};

/// The adapters of one image, in the order in which they were asked for. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct AdapterSet(Arc<[Arc<BoundAdapter>]>);

impl AdapterSet {
    /// Of bound adapters.
    pub fn new(adapters: impl IntoIterator<Item = Arc<BoundAdapter>>) -> Self {
        Self(adapters.into_iter().collect())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether these are the very same adapters at the same strengths.
    fn is(&self, other: &Self) -> bool {
        self.0.len() == other.0.len() && self.0.iter().zip(other.0.iter()).all(|(one, other)| Arc::ptr_eq(one, other))
    }
}

/// The adapters of the rows of one call: runs of rows with the same set. A row in no segment has none.
#[derive(Clone, Debug, Default)]
pub struct AdapterRows {
    segments: Vec<Segment>,
}

#[derive(Clone, Debug)]
struct Segment {
    rows: Range<usize>,
    set: AdapterSet,
}

impl AdapterRows {
    /// The same adapters for every row there is.
    pub fn every(set: &AdapterSet) -> Self {
        let segment = Segment { rows: 0..usize::MAX, set: set.clone() };
        Self { segments: if set.is_empty() { Vec::new() } else { vec![segment] } }
    }

    /// One set for each row, in their order.
    pub fn of<'a>(sets: impl IntoIterator<Item = &'a AdapterSet>) -> Self {
        let mut segments: Vec<Segment> = Vec::new();
        for (row, set) in sets.into_iter().enumerate().filter(|(_, set)| !set.is_empty()) {
            match segments.last_mut().filter(|last| last.rows.end == row && last.set.is(set)) {
                Some(last) => last.rows.end += 1,
                None => segments.push(Segment { rows: row..row + 1, set: set.clone() }),
            }
        }
        Self { segments }
    }

    /// The output `y` of the layer `path` for `x` [rows, …], with what the adapters add to it.
    ///
    /// # Errors
    /// When a tensor cannot be computed.
    pub(crate) fn add(&self, path: &str, leaf: Leaf<'_>, x: &Tensor, y: Tensor, form: Form) -> Result<Tensor> {
        if self.segments.is_empty() {
            return Ok(y);
        }
        let batch = x.dim(0)?;
        let (mut pieces, mut done) = (Vec::new(), 0);
        for Segment { rows, set } in &self.segments {
            let mut patches = set.0.iter().filter_map(|adapter| adapter.patch(path)).peekable();
            let rows = rows.start..rows.end.min(batch);
            if patches.peek().is_none() || rows.is_empty() {
                continue;
            }
            if rows.start > done {
                pieces.push(y.narrow(0, done, rows.start - done)?);
            }
            let (x, base) = (x.narrow(0, rows.start, rows.len())?, y.narrow(0, rows.start, rows.len())?);
            let sum = patches.try_fold(base.clone(), |sum, patch| sum + patch.side(leaf, &x, &base, form)?)?;
            pieces.push(sum);
            done = rows.end;
        }
        if done < batch {
            pieces.push(y.narrow(0, done, batch - done)?);
        }
        if let [whole] = pieces.as_slice() { Ok(whole.clone()) } else { Tensor::cat(&pieces, 0) }
    }
}

/// A layer that adapters can act on, as they see it.
#[derive(Clone, Copy, Debug)]
pub enum Leaf<'a> {
    /// x [B, …, features] → [B, …, outputs].
    Linear {
        /// [outputs, features].
        weight: &'a Tensor,
        /// [outputs].
        bias: Option<&'a Tensor>,
    },
    /// x [B, channels, H, W] → [B, outputs, H', W'].
    Conv2d {
        /// [outputs, channels, kernel, kernel].
        weight: &'a Tensor,
        /// [outputs].
        bias: &'a Tensor,
        /// Around the image.
        padding: Padding,
        /// In pixels.
        stride: usize,
    },
}

impl Leaf<'_> {
    /// A vector over outputs, shaped to broadcast over the layer's output.
    pub(super) fn over_outputs(&self, vector: &Tensor) -> Result<Tensor> {
        match self {
            Self::Linear { .. } => Ok(vector.clone()),
            Self::Conv2d { .. } => vector.reshape(((), 1, 1)),
        }
    }

    /// The layer's output without its bias.
    pub(super) fn without_bias(&self, y: &Tensor) -> Result<Tensor> {
        let (Self::Linear { bias: Some(bias), .. } | Self::Conv2d { bias, .. }) = self else { return Ok(y.clone()) };
        y.broadcast_sub(&self.over_outputs(bias)?)
    }

    /// The layer's own weight on `x`, without the bias.
    pub(super) fn own(&self, x: &Tensor, form: Form) -> Result<Tensor> {
        let (Self::Linear { weight, .. } | Self::Conv2d { weight, .. }) = self;
        self.run(x, weight, form)
    }

    /// The layer's operation with another weight and no bias.
    fn run(&self, x: &Tensor, weight: &Tensor, form: Form) -> Result<Tensor> {
        match self {
            Self::Linear { .. } => ops::linear(x, weight, None, form),
            Self::Conv2d { padding, stride, .. } => convolve(x, weight, *padding, *stride, form),
        }
    }

    /// The layer's operation over a single pixel.
    fn run_on_pixels(&self, x: &Tensor, weight: &Tensor, form: Form) -> Result<Tensor> {
        match self {
            Self::Linear { .. } => ops::linear(x, weight, None, form),
            Self::Conv2d { .. } => convolve(x, weight, Padding::Even(0), 1, form),
        }
    }

    /// A difference, fitted to this layer, on `x`; without its factor.
    pub(super) fn difference(&self, delta: &Delta, x: &Tensor, form: Form) -> Result<Tensor> {
        match delta {
            Delta::LowRank { down, mid: None, up } => self.run_on_pixels(&self.run(x, down, form)?, up, form),
            Delta::LowRank { down, mid: Some(mid), up } => {
                let low = self.run(&self.run_on_pixels(x, down, form)?, mid, form)?;
                self.run_on_pixels(&low, up, form)
            }
            Delta::Dense(weight) => self.run(x, weight, form),
            Delta::Kronecker { left, right } => match self {
                Self::Linear { .. } => kronecker_linear(left, right, x, form),
                Self::Conv2d { .. } => self.kronecker_conv2d(left, right, x, form),
            },
        }
    }

    /// (left ⊗ right) on an image: `right` on each group of channels, then `left` across the groups.
    fn kronecker_conv2d(&self, left: &Tensor, right: &Tensor, x: &Tensor, form: Form) -> Result<Tensor> {
        let (batch, channels, height, width) = x.dims4()?;
        let (outputs, groups) = left.dims2()?;
        let grouped = x.contiguous()?.reshape((batch * groups, channels / groups, height, width))?;
        let y = self.run(&grouped, right, form)?;
        let (_, inner, height, width) = y.dims4()?;
        let across = y.reshape((batch, groups, inner * height * width))?.transpose(1, 2)?.contiguous()?;
        let y = ops::linear(&across, left, None, form)?;
        y.transpose(1, 2)?.contiguous()?.reshape((batch, outputs * inner, height, width))
    }
}

/// (left ⊗ right) on the last dimension: `right` on each group of features, then `left` across the groups. The first dimension stays, so that
/// what is computed for a row keeps its own shape.
fn kronecker_linear(left: &Tensor, right: &Tensor, x: &Tensor, form: Form) -> Result<Tensor> {
    let ((outputs, groups), (inner, features)) = (left.dims2()?, right.dims2()?);
    let batch = x.dim(0)?;
    let y = ops::linear(&x.contiguous()?.reshape((batch, (), features))?, right, None, form)?;
    let y = y.reshape((batch, (), groups, inner))?.transpose(2, 3)?.contiguous()?;
    let tokens = y.dim(1)?;
    let y = ops::linear(&y.reshape((batch, tokens * inner, groups))?, left, None, form)?;
    let mut shape = x.dims().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = outputs * inner;
    }
    y.reshape((batch, tokens, inner, outputs))?.transpose(2, 3)?.contiguous()?.reshape(shape)
}

fn convolve(x: &Tensor, weight: &Tensor, padding: Padding, stride: usize, form: Form) -> Result<Tensor> {
    let bias = Tensor::zeros(weight.dim(0)?, x.dtype(), x.device())?;
    ops::conv2d(x, weight, &bias, padding, stride, form)
}
