//! Rotary positions: neighbouring features of each head turned by an angle that depends on the token's place.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, bail};
use rayon::prelude::*;

use crate::input;
use crate::vector::SERIAL_ELEMENTS;

/// x [B, T, heads, 2·P], cosines and sines [T, P], f32 → the shape of x. Features 2i and 2i + 1 are a point that is turned by angle i.
#[derive(Clone, Copy, Debug)]
pub struct Rotary;

impl CustomOp3 for Rotary {
    fn name(&self) -> &'static str {
        "rotary"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        cosines: &CpuStorage,
        cosines_layout: &Layout,
        sines: &CpuStorage,
        sines_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = input::slice(x, x_layout, "rotary")?;
        let (cosines, sines) = (input::slice(cosines, cosines_layout, "rotary")?, input::slice(sines, sines_layout, "rotary")?);
        let (_, tokens, heads, features) = x_layout.shape().dims4()?;
        let pairs = features / 2;
        let fits = features % 2 == 0 && cosines_layout.dims() == [tokens, pairs] && sines_layout.dims() == [tokens, pairs];
        if !fits || x.is_empty() {
            bail!("rotary: x {:?}, cosines {:?}, sines {:?} do not fit", x_layout.dims(), cosines_layout.dims(), sines_layout.dims());
        }
        let mut y = vec![0.0; x.len()];
        let token = |(index, (y, x)): (usize, (&mut [f32], &[f32]))| {
            let angles = index % tokens * pairs..(index % tokens + 1) * pairs;
            let (cosines, sines) = (&cosines[angles.clone()], &sines[angles]);
            for (y, x) in y.chunks_exact_mut(features).zip(x.chunks_exact(features)) {
                let points = y.as_chunks_mut::<2>().0.iter_mut().zip(x.as_chunks::<2>().0);
                for ((y, x), (cosine, sine)) in points.zip(cosines.iter().zip(sines)) {
                    *y = [x[0] * cosine - x[1] * sine, x[1] * cosine + x[0] * sine];
                }
            }
        };
        let size = heads * features;
        if x.len() <= SERIAL_ELEMENTS {
            y.chunks_mut(size).zip(x.chunks(size)).enumerate().for_each(token);
        } else {
            y.par_chunks_mut(size).zip(x.par_chunks(size)).enumerate().for_each(token);
        }
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }
}
