//! `y = x·Wᵀ + b` with bits that do not depend on the batch.
//!
//! `gemm` chooses its algorithm by the number of rows it is given: one row takes a matrix-vector path, few rows and columns a dot-product
//! path or another split of the sum. Folding a batch into the rows, as is usual, therefore changes a row's low bits with its neighbours.
//! For wide outputs all choices above one row agree, so all rows are folded (a lone one is doubled); for narrow ones each batch row gets a
//! product of its own, whose shape the batch does not touch.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, bail};
use gemm::Parallelism;
use rayon::prelude::*;

use crate::input;
use crate::matrix::{Destination, Strides, multiply};

/// Above this many output features, any two or more rows take the same path through gemm 0.19, whatever their number.
const FOLDABLE_OUTPUT_FEATURES: usize = 128;

/// The operation: x [B, …, K] and weight [N, K], with or without bias [N], to [B, …, N]; f32.
#[derive(Clone, Copy, Debug)]
pub struct Linear;

impl Linear {
    fn forward(x: &[f32], x_shape: &[usize], weight: &[f32], weight_shape: &[usize], bias: Option<&[f32]>) -> Result<(CpuStorage, Shape)> {
        let ([batch, .., x_features], [outputs, features]) = (x_shape, weight_shape) else {
            bail!("linear takes x [batch, …, K] and weight [N, K], got {x_shape:?} and {weight_shape:?}");
        };
        if x_features != features || bias.is_some_and(|bias| bias.len() != *outputs) {
            bail!("linear: x {x_shape:?}, weight {weight_shape:?} and bias do not fit together");
        }
        let mut shape = x_shape.to_vec();
        *shape.last_mut().expect("matched above") = *outputs;
        let out = product(x, *batch, weight, (*outputs, *features), bias);
        Ok((CpuStorage::F32(out), shape.into()))
    }
}

fn product(x: &[f32], batch: usize, weight: &[f32], (outputs, features): (usize, usize), bias: Option<&[f32]>) -> Vec<f32> {
    let rows = x.len().checked_div(features).unwrap_or(0);
    let mut out = start(rows, outputs, bias);
    if rows == 0 || outputs == 0 {
        return out;
    }
    if outputs > FOLDABLE_OUTPUT_FEATURES {
        if rows == 1 {
            let doubled = [x, x].concat();
            let mut pair = start(2, outputs, bias);
            rows_product(&doubled, 2, weight, (outputs, features), &mut pair);
            pair.truncate(outputs);
            return pair;
        }
        rows_product(x, rows, weight, (outputs, features), &mut out);
    } else {
        let rows_each = rows / batch;
        let parts = out.par_chunks_mut(rows_each * outputs).zip(x.par_chunks(rows_each * features));
        parts.for_each(|(out, x)| rows_product(x, rows_each, weight, (outputs, features), out));
    }
    out
}

/// The bias in every row, to be added to.
fn start(rows: usize, outputs: usize, bias: Option<&[f32]>) -> Vec<f32> {
    match bias {
        Some(bias) => bias.repeat(rows),
        None => vec![0.0; rows * outputs],
    }
}

fn rows_product(x: &[f32], rows: usize, weight: &[f32], (outputs, features): (usize, usize), out: &mut [f32]) {
    multiply(
        (rows, outputs, features),
        out,
        Strides::row_major(outputs),
        // The destination holds the bias, or zeros.
        Destination::Accumulate,
        x,
        Strides::row_major(features),
        weight,
        Strides::transposed(features),
        1.0,
        Parallelism::Rayon(0),
    );
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, x_layout: &Layout, weight: &CpuStorage, weight_layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, weight) = (input::slice(x, x_layout, "linear")?, input::slice(weight, weight_layout, "linear")?);
        Self::forward(x, x_layout.dims(), weight, weight_layout.dims(), None)
    }
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, weight) = (input::slice(x, x_layout, "linear")?, input::slice(weight, weight_layout, "linear")?);
        let bias = input::slice(bias, bias_layout, "linear")?;
        Self::forward(x, x_layout.dims(), weight, weight_layout.dims(), Some(bias))
    }
}
