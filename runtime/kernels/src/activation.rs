//! Elementwise non-linearities, vectorised: candle's go through scalar library calls.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, bail};
use rayon::prelude::*;

use crate::input;
use crate::vector::{SERIAL_ELEMENTS, exp, vectorised};

/// `x · sigmoid(x)` of any f32 tensor.
#[derive(Clone, Copy, Debug)]
pub struct Silu;
/// `x · Φ(x)` of any f32 tensor, Φ within 2e-7.
#[derive(Clone, Copy, Debug)]
pub struct Gelu;
/// `x · sigmoid(1.702 x)` of any f32 tensor.
#[derive(Clone, Copy, Debug)]
pub struct QuickGelu;
/// `x · Φ(x)` of any f32 tensor in the approximation by a hyperbolic tangent that networks were trained with.
#[derive(Clone, Copy, Debug)]
pub struct TanhGelu;
/// […, 2C] f32 of value then gate → value · gelu(gate), […, C].
#[derive(Clone, Copy, Debug)]
pub struct Geglu;

#[inline(always)]
pub(crate) fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// Φ by formula 7.1.26 of Abramowitz & Stegun, whose error is below 1.5e-7.
#[inline(always)]
fn gelu(x: f32) -> f32 {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let mut p = 1.061_405_4;
    p = p * t - 1.453_152;
    p = p * t + 1.421_413_8;
    p = p * t - 0.284_496_74;
    p = p * t + 0.254_829_6;
    let tail = 0.5 * p * t * exp(-z * z);
    x * if x < 0.0 { tail } else { 1.0 - tail }
}

vectorised! {
    fn silu_all(x: &[f32], y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = silu(*x);
        }
    }
}

vectorised! {
    fn gelu_all(x: &[f32], y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = gelu(*x);
        }
    }
}

vectorised! {
    fn quick_gelu_all(x: &[f32], y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = x / (1.0 + exp(-1.702 * x));
        }
    }
}

vectorised! {
    fn tanh_gelu_all(x: &[f32], y: &mut [f32]) {
        /// 2·√(2/π): ½(1 + tanh u) is the logistic function of 2u.
        const FACTOR: f32 = 1.595_769;
        for (y, x) in y.iter_mut().zip(x) {
            *y = x / (1.0 + exp(-FACTOR * (x + 0.044_715 * x * x * x)));
        }
    }
}

vectorised! {
    fn geglu_all(value: &[f32], gate: &[f32], y: &mut [f32]) {
        for ((y, value), gate) in y.iter_mut().zip(value).zip(gate) {
            *y = value * gelu(*gate);
        }
    }
}

fn elementwise(x: &[f32], shape: &Shape, of: fn(&[f32], &mut [f32])) -> (CpuStorage, Shape) {
    let mut y = vec![0.0; x.len()];
    if x.len() <= SERIAL_ELEMENTS {
        of(x, &mut y);
    } else {
        y.par_chunks_mut(SERIAL_ELEMENTS).zip(x.par_chunks(SERIAL_ELEMENTS)).for_each(|(y, x)| of(x, y));
    }
    (CpuStorage::F32(y), shape.clone())
}

impl CustomOp1 for Silu {
    fn name(&self) -> &'static str {
        "silu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok(elementwise(input::slice(x, layout, "silu")?, layout.shape(), silu_all))
    }
}

impl CustomOp1 for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok(elementwise(input::slice(x, layout, "gelu")?, layout.shape(), gelu_all))
    }
}

impl CustomOp1 for QuickGelu {
    fn name(&self) -> &'static str {
        "quick_gelu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok(elementwise(input::slice(x, layout, "quick_gelu")?, layout.shape(), quick_gelu_all))
    }
}

impl CustomOp1 for TanhGelu {
    fn name(&self) -> &'static str {
        "tanh_gelu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok(elementwise(input::slice(x, layout, "tanh_gelu")?, layout.shape(), tanh_gelu_all))
    }
}

impl CustomOp1 for Geglu {
    fn name(&self) -> &'static str {
        "geglu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = input::slice(x, layout, "geglu")?;
        let mut shape = layout.dims().to_vec();
        let half = match shape.last_mut() {
            Some(last) if *last > 0 && *last % 2 == 0 => {
                *last /= 2;
                *last
            }
            _ => bail!("geglu takes an even number of features, got {:?}", layout.dims()),
        };
        let mut y = vec![0.0; x.len() / 2];
        let row = |(y, x): (&mut [f32], &[f32])| geglu_all(&x[..half], &x[half..], y);
        if x.len() <= SERIAL_ELEMENTS {
            y.chunks_mut(half).zip(x.chunks(2 * half)).for_each(row);
        } else {
            y.par_chunks_mut(half).zip(x.par_chunks(2 * half)).for_each(row);
        }
        Ok((CpuStorage::F32(y), shape.into()))
    }
}
