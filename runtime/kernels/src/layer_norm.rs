//! Layer normalisation with scale and shift in one pass over each row.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, bail};
use rayon::prelude::*;

use crate::input;
use crate::vector::{SERIAL_ELEMENTS, moments, vectorised};

/// x [B, …, C], weight and bias [C], or one for each row [B, C], f32 → the shape of x.
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm {
    /// Added to the variance.
    pub epsilon: f64,
}

vectorised! {
    fn normalise(x: &[f32], y: &mut [f32], moments: (f32, f32), affine: (&[f32], &[f32])) {
        let ((mean, inverse), (weight, bias)) = (moments, affine);
        for (((y, x), weight), bias) in y.iter_mut().zip(x).zip(weight).zip(bias) {
            *y = (x - mean) * inverse * weight + bias;
        }
    }
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
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
        let x = input::slice(x, x_layout, "layer_norm")?;
        let (weight, bias) = (input::slice(weight, weight_layout, "layer_norm")?, input::slice(bias, bias_layout, "layer_norm")?);
        let features = x_layout.dims().last().copied().unwrap_or(0);
        let rows = x_layout.dims().first().copied().unwrap_or(0);
        let per_row = weight_layout.dims() == [rows, features];
        if features == 0 || !(per_row || weight_layout.dims() == [features]) || weight_layout.dims() != bias_layout.dims() {
            bail!("layer_norm: x {:?}, weight {:?} and bias {:?} do not fit", x_layout.dims(), weight_layout.dims(), bias_layout.dims());
        }
        let mut y = vec![0.0; x.len()];
        // Vectors that share a weight.
        let group = if per_row { x.len() / features / rows.max(1) } else { usize::MAX };
        let vector = |(index, (y, x)): (usize, (&mut [f32], &[f32]))| {
            let affine = index / group * features..index / group * features + features;
            normalise(x, y, moments(x, self.epsilon), (&weight[affine.clone()], &bias[affine]));
        };
        if x.len() <= SERIAL_ELEMENTS {
            y.chunks_mut(features).zip(x.chunks(features)).enumerate().for_each(vector);
        } else {
            y.par_chunks_mut(features).zip(x.par_chunks(features)).enumerate().for_each(vector);
        }
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }
}
