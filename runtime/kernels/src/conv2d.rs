//! 2-D convolution as a matrix product over patches that are gathered tile by tile, so that the whole patch matrix (nine times the image)
//! never exists. A 1×1 convolution gathers nothing. Output comes in place, bias included.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, bail};
use gemm::Parallelism;
use rayon::prelude::*;

use crate::input;
use crate::matrix::{Destination, Strides, multiply};

/// Elements of one tile of patches: 2 MB, about one core's second-level cache.
const TILE_ELEMENTS: usize = 1 << 19;
/// Into how many parts the output channels are split for threads, and how many channels a part has at least. Looks at the layer alone.
const CHANNEL_PARTS: usize = 4;
const MIN_PART_CHANNELS: usize = 32;

/// x [B, C, H, W], weight [N, C, KH, KW], bias [N], f32 → [B, N, H', W'].
#[derive(Clone, Copy, Debug)]
pub struct Conv2d {
    /// Zeros above and left of the image, in pixels.
    pub padding_before: usize,
    /// Zeros below and right of the image, in pixels.
    pub padding_after: usize,
    /// Pixels from one output to the next.
    pub stride: usize,
}

/// Sizes of one image's convolution.
#[derive(Clone, Copy)]
struct Sizes {
    channels: usize,
    height: usize,
    width: usize,
    kernel_height: usize,
    kernel_width: usize,
    out_height: usize,
    out_width: usize,
    outputs: usize,
}

impl Sizes {
    fn patch(&self) -> usize {
        self.channels * self.kernel_height * self.kernel_width
    }
}

impl Conv2d {
    fn sizes(&self, x: &[usize], weight: &[usize], bias: &[usize]) -> Result<Sizes> {
        let ([_, channels, height, width], [outputs, weight_channels, kernel_height, kernel_width]) = (x, weight) else {
            bail!("conv2d takes x [B, C, H, W] and weight [N, C, KH, KW], got {x:?} and {weight:?}");
        };
        let padding = self.padding_before + self.padding_after;
        let fits = channels == weight_channels && bias == [*outputs] && self.stride > 0;
        if !fits || height + padding < *kernel_height || width + padding < *kernel_width || weight.contains(&0) {
            bail!("conv2d: x {x:?}, weight {weight:?}, bias {bias:?}, padding {padding} and stride {} do not fit", self.stride);
        }
        let out = |size: usize, kernel: usize| (size + padding - kernel) / self.stride + 1;
        Ok(Sizes {
            channels: *channels,
            height: *height,
            width: *width,
            kernel_height: *kernel_height,
            kernel_width: *kernel_width,
            out_height: out(*height, *kernel_height),
            out_width: out(*width, *kernel_width),
            outputs: *outputs,
        })
    }

    /// Patches of the output rows `rows`: one matrix row per (channel, y, x) of the kernel, one column per output pixel.
    fn gather(&self, x: &[f32], sizes: &Sizes, rows: std::ops::Range<usize>, patches: &mut [f32]) {
        let columns = rows.len() * sizes.out_width;
        let taps = sizes.kernel_height * sizes.kernel_width;
        for (index, patches) in patches.chunks_mut(columns).enumerate() {
            let (channel, tap) = (index / taps, index % taps);
            let (tap_y, tap_x) = (tap / sizes.kernel_width, tap % sizes.kernel_width);
            let image = &x[channel * sizes.height * sizes.width..][..sizes.height * sizes.width];
            for (out_y, line) in rows.clone().zip(patches.chunks_mut(sizes.out_width)) {
                match (out_y * self.stride + tap_y).checked_sub(self.padding_before).filter(|y| *y < sizes.height) {
                    Some(y) => self.gather_line(&image[y * sizes.width..][..sizes.width], tap_x, line),
                    None => line.fill(0.0),
                }
            }
        }
    }

    fn gather_line(&self, source: &[f32], tap_x: usize, line: &mut [f32]) {
        if self.stride == 1 {
            // Columns before `left` and from `right` on lie in the padding.
            let left = self.padding_before.saturating_sub(tap_x).min(line.len());
            let right = (source.len() + self.padding_before).saturating_sub(tap_x).min(line.len()).max(left);
            line[..left].fill(0.0);
            line[right..].fill(0.0);
            let from = left + tap_x - self.padding_before.min(left + tap_x);
            line[left..right].copy_from_slice(&source[from..from + right - left]);
            return;
        }
        for (out_x, value) in line.iter_mut().enumerate() {
            let x = (out_x * self.stride + tap_x).checked_sub(self.padding_before);
            *value = x.and_then(|x| source.get(x)).copied().unwrap_or(0.0);
        }
    }

    /// One image. `out` holds the bias already.
    fn image(&self, x: &[f32], weight: &[f32], sizes: &Sizes, out: &mut [f32]) {
        let (patch, pixels) = (sizes.patch(), sizes.out_height * sizes.out_width);
        let part = (sizes.outputs / CHANNEL_PARTS).max(MIN_PART_CHANNELS).next_multiple_of(16);
        let pointwise = patch == sizes.channels && self.stride == 1 && self.padding_before + self.padding_after == 0;
        let tile_rows = (TILE_ELEMENTS / (patch * sizes.out_width).max(1)).clamp(1, sizes.out_height);
        let mut patches = vec![0.0; if pointwise { 0 } else { patch * tile_rows * sizes.out_width }];
        for first in (0..sizes.out_height).step_by(tile_rows) {
            let rows = first..(first + tile_rows).min(sizes.out_height);
            let (start, columns) = (first * sizes.out_width, rows.len() * sizes.out_width);
            let (right, strides) = if pointwise {
                (&x[start..], Strides::row_major(pixels))
            } else {
                let patches = &mut patches[..patch * columns];
                self.gather(x, sizes, rows, patches);
                (&*patches, Strides::row_major(columns))
            };
            out.par_chunks_mut(part * pixels).zip(weight.par_chunks(part * patch)).for_each(|(out, weight)| {
                let outputs = weight.len() / patch;
                multiply(
                    (outputs, columns, patch),
                    &mut out[start..],
                    Strides::row_major(pixels),
                    Destination::Accumulate,
                    weight,
                    Strides::row_major(patch),
                    right,
                    strides,
                    1.0,
                    Parallelism::None,
                );
            });
        }
    }
}

impl CustomOp3 for Conv2d {
    fn name(&self) -> &'static str {
        "conv2d"
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
        let (x, weight) = (input::slice(x, x_layout, "conv2d")?, input::slice(weight, weight_layout, "conv2d")?);
        let bias = input::slice(bias, bias_layout, "conv2d")?;
        let sizes = self.sizes(x_layout.dims(), weight_layout.dims(), bias_layout.dims())?;
        let batch = x_layout.dims()[0];
        let pixels = sizes.out_height * sizes.out_width;
        let mut out = Vec::with_capacity(batch * sizes.outputs * pixels);
        for _ in 0..batch {
            bias.iter().for_each(|bias| out.extend(std::iter::repeat_n(*bias, pixels)));
        }
        let image_in = sizes.channels * sizes.height * sizes.width;
        if !out.is_empty() {
            let images = out.par_chunks_mut(sizes.outputs * pixels).zip(x.par_chunks(image_in));
            images.for_each(|(out, x)| self.image(x, weight, &sizes, out));
        }
        Ok((CpuStorage::F32(out), vec![batch, sizes.outputs, sizes.out_height, sizes.out_width].into()))
    }
}
