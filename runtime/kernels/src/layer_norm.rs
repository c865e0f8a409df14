//! Layer normalisation with scale and shift in one pass over each row.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, bail};
use rayon::prelude::*;

use crate::input;
use crate::vector::{SERIAL_ELEMENTS, moments, vectorised};

/// x […, C], weight and bias [C], f32 → the shape of x.
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
        if features == 0 || weight.len() != features || bias.len() != features {
            bail!("layer_norm: x {:?} and {} weights do not fit", x_layout.dims(), weight.len());
        }
        let mut y = vec![0.0; x.len()];
        let row = |(y, x): (&mut [f32], &[f32])| normalise(x, y, moments(x, self.epsilon), (weight, bias));
        if x.len() <= SERIAL_ELEMENTS {
            y.chunks_mut(features).zip(x.chunks(features)).for_each(row);
        } else {
            y.par_chunks_mut(features).zip(x.par_chunks(features)).for_each(row);
        }
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }
}
