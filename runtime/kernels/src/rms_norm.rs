//! Root-mean-square normalisation in one pass over each row.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, bail};
use rayon::prelude::*;

use crate::input;
use crate::vector::{SERIAL_ELEMENTS, inverse_root_mean_square, vectorised};

/// x […, C], weight [C], f32 → the shape of x.
#[derive(Clone, Copy, Debug)]
pub struct RmsNorm {
    /// Added to the mean square.
    pub epsilon: f64,
}

vectorised! {
    fn normalise(x: &[f32], y: &mut [f32], inverse: f32, weight: &[f32]) {
        for ((y, x), weight) in y.iter_mut().zip(x).zip(weight) {
            *y = x * inverse * weight;
        }
    }
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, x_layout: &Layout, weight: &CpuStorage, weight_layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, weight) = (input::slice(x, x_layout, "rms_norm")?, input::slice(weight, weight_layout, "rms_norm")?);
        let features = x_layout.dims().last().copied().unwrap_or(0);
        if features == 0 || weight.len() != features {
            bail!("rms_norm: x {:?} and {} weights do not fit", x_layout.dims(), weight.len());
        }
        let mut y = vec![0.0; x.len()];
        let row = |(y, x): (&mut [f32], &[f32])| normalise(x, y, inverse_root_mean_square(x, self.epsilon), weight);
        if x.len() <= SERIAL_ELEMENTS {
            y.chunks_mut(features).zip(x.chunks(features)).for_each(row);
        } else {
            y.par_chunks_mut(features).zip(x.par_chunks(features)).for_each(row);
        }
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }
}
