use candle_core::{D, DType, Device, Result, Tensor};

use super::Form;

/// Angles of a sequence's tokens: cosines and sines [T, pairs], f32.
#[derive(Clone, Debug)]
pub struct Rotation {
    cosines: Tensor,
    sines: Tensor,
}

impl Rotation {
    /// `positions[token][axis]` on axes that have `axis_features` features each (even numbers), side by side. Computed in f64 and rounded
    /// once, as diffusers' `FluxPosEmbed`: in 16 bits, positions above 256 would run together.
    ///
    /// # Errors
    /// When the device refuses the tensors.
    pub fn new<const AXES: usize>(
        positions: &[[usize; AXES]],
        axis_features: [usize; AXES],
        largest_period: f64,
        device: &Device,
    ) -> Result<Self> {
        let pairs: usize = axis_features.iter().map(|features| features / 2).sum();
        let (mut cosines, mut sines) = (Vec::with_capacity(positions.len() * pairs), Vec::with_capacity(positions.len() * pairs));
        for position in positions {
            for (place, features) in position.iter().zip(axis_features) {
                for pair in 0..features / 2 {
                    let frequency = 1.0 / largest_period.powf((2 * pair) as f64 / features as f64);
                    let (sine, cosine) = (*place as f64 * frequency).sin_cos();
                    cosines.push(cosine as f32);
                    sines.push(sine as f32);
                }
            }
        }
        let shape = (positions.len(), pairs);
        Ok(Self { cosines: Tensor::from_vec(cosines, shape, device)?, sines: Tensor::from_vec(sines, shape, device)? })
    }
}

/// Rotary positions (Su et al. 2021): x [B, T, heads·d] → the same shape; features 2i and 2i + 1 of each head are a point turned by angle i of
/// its token. In f32 whatever the dtype of x.
///
/// # Errors
/// When the shapes do not fit.
pub fn rotary(x: &Tensor, rotation: &Rotation, heads: usize, form: Form) -> Result<Tensor> {
    let (batch, tokens, features) = x.dims3()?;
    let by_head = x.contiguous()?.reshape((batch, tokens, heads, features / heads))?;
    let turned = match form.takes_cpu_kernel(x) {
        true => by_head.apply_op3(&rotation.cosines, &rotation.sines, kernels::Rotary)?,
        false => composed(&by_head, rotation)?,
    };
    turned.reshape((batch, tokens, features))
}

fn composed(x: &Tensor, Rotation { cosines, sines }: &Rotation) -> Result<Tensor> {
    let (batch, tokens, heads, features) = x.dims4()?;
    let points = x.to_dtype(DType::F32)?.reshape((batch, tokens, heads, features / 2, 2))?;
    let along = |place| points.narrow(D::Minus1, place, 1)?.squeeze(D::Minus1);
    let (first, second) = (along(0)?, along(1)?);
    let (cosines, sines) = (cosines.reshape((1, tokens, 1, ()))?, sines.reshape((1, tokens, 1, ()))?);
    let turned = [
        (first.broadcast_mul(&cosines)? - second.broadcast_mul(&sines)?)?,
        (second.broadcast_mul(&cosines)? + first.broadcast_mul(&sines)?)?,
    ];
    Tensor::stack(&turned, D::Minus1)?.reshape((batch, tokens, heads, features))?.to_dtype(x.dtype())
}
