//! Large pictures in overlapping tiles whose overlaps are blended, as diffusers' `enable_tiling`: memory then follows the tile, not the
//! picture. A tile sees nothing beyond its edge, so the result differs from the whole picture's: of 1032×264 smooth pixels, the demo
//! model's autoencoder changes by 3.5/255 on average with tiles of 512 pixels, and by 16/255 with the 64 it was trained on. Whether there
//! are tiles follows from the picture's size alone, so that the same request gives the same picture everywhere.

use candle_core::{Device, Result, Tensor};

/// The longest side, in pixels, of a picture that is treated as a whole.
pub const MAX_WHOLE_SIDE_PIXELS: usize = 1024;
/// diffusers' `tile_overlap_factor`: the share of a tile that it has in common with the one before.
const OVERLAP: f64 = 0.25;

/// How pictures of one autoencoder are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tiling {
    /// Side of a tile, in pixels: diffusers' `tile_sample_min_size`.
    pub(super) side: usize,
    /// Pixels per latent position.
    pub(super) scale: usize,
}

/// Tiles of one direction: sides in positions of what goes in, the rest in positions of what comes out.
#[derive(Clone, Copy)]
struct Cut {
    tile: usize,
    stride: usize,
    blend: usize,
    keep: usize,
}

impl Tiling {
    /// Whether a picture with these sides, in pixels, is cut.
    pub(super) fn cuts(self, height: usize, width: usize) -> bool {
        height.max(width) > MAX_WHOLE_SIDE_PIXELS
    }

    /// Pixels [B, C, H, W] to what `encode` makes of each tile, joined.
    pub(super) fn encode(self, pixels: &Tensor, encode: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
        let (side, latent_side) = (self.side, self.side / self.scale);
        let blend = share(latent_side, OVERLAP);
        Cut { tile: side, stride: share(side, 1.0 - OVERLAP), blend, keep: latent_side - blend }.run(pixels, encode)
    }

    /// Latents [B, C, h, w] to what `decode` makes of each tile, joined.
    pub(super) fn decode(self, latents: &Tensor, decode: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
        let (side, latent_side) = (self.side, self.side / self.scale);
        let blend = share(side, OVERLAP);
        Cut { tile: latent_side, stride: share(latent_side, 1.0 - OVERLAP), blend, keep: side - blend }.run(latents, decode)
    }
}

impl Cut {
    fn run(self, input: &Tensor, work: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
        let (_, _, height, width) = input.dims4()?;
        let mut above: Vec<Tensor> = Vec::new();
        let mut rows = Vec::new();
        for top in (0..height).step_by(self.stride) {
            let line = input.narrow(2, top, self.tile.min(height - top))?;
            let mut row: Vec<Tensor> = Vec::new();
            for left in (0..width).step_by(self.stride) {
                let mut made = work(&line.narrow(3, left, self.tile.min(width - left))?.contiguous()?)?;
                // A neighbour is blended in as it was blended itself.
                if let Some(before) = above.get(row.len()) {
                    made = blended(before, &made, 2, self.blend)?;
                }
                if let Some(before) = row.last() {
                    made = blended(before, &made, 3, self.blend)?;
                }
                row.push(made);
            }
            let kept = row.iter().map(|made| made.narrow(2, 0, self.keep.min(made.dim(2)?))?.narrow(3, 0, self.keep.min(made.dim(3)?)));
            rows.push(Tensor::cat(&kept.collect::<Result<Vec<_>>>()?, 3)?);
            above = row;
        }
        Tensor::cat(&rows, 2)
    }
}

/// `tile` with its first `extent` positions along `dim` faded in over the last ones of the tile before it.
fn blended(before: &Tensor, tile: &Tensor, dim: usize, extent: usize) -> Result<Tensor> {
    let (length, length_before) = (tile.dim(dim)?, before.dim(dim)?);
    let extent = extent.min(length).min(length_before);
    if extent == 0 {
        return Ok(tile.clone());
    }
    let mut shape = [1; 4];
    shape[dim] = extent;
    let ramp: Vec<f32> = (0..extent).map(|at| (at as f64 / extent as f64) as f32).collect();
    let ramp = Tensor::from_vec(ramp, &shape, &Device::Cpu)?.to_device(tile.device())?.to_dtype(tile.dtype())?;
    let old = before.narrow(dim, length_before - extent, extent)?.broadcast_mul(&ramp.affine(-1.0, 1.0)?)?;
    let faded = (old + tile.narrow(dim, 0, extent)?.broadcast_mul(&ramp)?)?;
    Tensor::cat(&[faded, tile.narrow(dim, extent, length - extent)?], dim)
}

fn share(length: usize, share: f64) -> usize {
    (length as f64 * share) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A picture whose values are their positions, so that whatever is joined in the wrong place shows.
    fn ramp(height: usize, width: usize) -> Tensor {
        let values: Vec<f32> = (0..height * width).map(|at| at as f32).collect();
        Tensor::from_vec(values, (1, 1, height, width), &Device::Cpu).unwrap()
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn work_that_looks_at_one_position_alone_gives_the_same_in_tiles() {
        let tiling = Tiling { side: 16, scale: 1 };
        for (height, width) in [(40, 33), (16, 17), (12, 50), (25, 13)] {
            let input = ramp(height, width);
            for made in [tiling.decode(&input, |tile| tile * 3.0), tiling.encode(&input, |tile| tile * 3.0)] {
                let made = made.unwrap();
                assert_eq!(made.dims(), input.dims());
                for (made, input) in values(&made).iter().zip(values(&input)) {
                    assert!((made - 3.0 * input).abs() <= 1e-6 * made.abs(), "{made} for {input}");
                }
            }
        }
    }

    #[test]
    fn overlap_fades_from_one_tile_to_the_next() {
        // Each tile is flat, one higher than the one before.
        let count = std::cell::Cell::new(0.0_f64);
        let flat = |tile: &Tensor| {
            count.set(count.get() + 1.0);
            Tensor::ones_like(tile)? * count.get()
        };
        let made = Tiling { side: 8, scale: 1 }.decode(&ramp(1, 12), flat).unwrap();
        assert_eq!(values(&made), [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.5, 2.0, 2.0, 2.0, 2.0]);
    }
}
