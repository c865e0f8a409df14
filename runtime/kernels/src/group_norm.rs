//! Group normalisation with scale, shift and SiLU in one pass over each group, where candle makes ten.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, bail};
use rayon::prelude::*;

use crate::activation::silu;
use crate::input;
use crate::vector::{moments, vectorised};

/// x [B, C, H, W], weight and bias [C], f32 → the shape of x.
#[derive(Clone, Copy, Debug)]
pub struct GroupNorm {
    /// C is a multiple of it.
    pub groups: usize,
    /// Added to the variance.
    pub epsilon: f64,
    /// Whether SiLU follows.
    pub then_silu: bool,
}

vectorised! {
    fn affine(x: &[f32], y: &mut [f32], scale: f32, shift: f32) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = x * scale + shift;
        }
    }
}

vectorised! {
    fn affine_silu(x: &[f32], y: &mut [f32], scale: f32, shift: f32) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = silu(x * scale + shift);
        }
    }
}

impl CustomOp3 for GroupNorm {
    fn name(&self) -> &'static str {
        "group_norm"
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
        let x = input::slice(x, x_layout, "group_norm")?;
        let (weight, bias) = (input::slice(weight, weight_layout, "group_norm")?, input::slice(bias, bias_layout, "group_norm")?);
        let (_, channels, height, width) = x_layout.shape().dims4()?;
        if self.groups == 0 || channels % self.groups != 0 || weight.len() != channels || bias.len() != channels {
            bail!("group_norm: {channels} channels, {} weights and {} groups do not fit", weight.len(), self.groups);
        }
        let (pixels, per_group) = (height * width, channels / self.groups);
        let mut y = vec![0.0; x.len()];
        if y.is_empty() {
            return Ok((CpuStorage::F32(y), x_layout.shape().clone()));
        }
        let apply = if self.then_silu { affine_silu } else { affine };
        let groups = y.par_chunks_mut(per_group * pixels).zip(x.par_chunks(per_group * pixels)).enumerate();
        groups.for_each(|(index, (y, x))| {
            let first = index % self.groups * per_group;
            let (mean, inverse) = moments(x, self.epsilon);
            let rows = y.chunks_mut(pixels).zip(x.chunks(pixels)).zip(weight[first..].iter().zip(&bias[first..]));
            for ((y, x), (weight, bias)) in rows {
                let scale = inverse * weight;
                apply(x, y, scale, bias - mean * scale);
            }
        });
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }
}
