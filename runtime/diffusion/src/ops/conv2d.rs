use candle_core::{D, DType, Result, Tensor};

use super::Form;

/// Zeros put around an image before a convolution, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    /// The same on all four sides.
    Even(usize),
    /// One row below and one column to the right: how diffusers' VAE encoder halves an image.
    BelowAndRight,
}

/// 2-D cross-correlation with bias: x [B, C, H, W], weight [N, C, KH, KW], bias [N] → [B, N, H', W'], in the dtype of x.
///
/// # Errors
/// When the shapes do not fit or the dtypes differ.
pub fn conv2d(x: &Tensor, weight: &Tensor, bias: &Tensor, padding: Padding, stride: usize, form: Form) -> Result<Tensor> {
    if !form.takes_cpu_kernel(x) {
        return composed(x, weight, bias, padding, stride);
    }
    let (padding_before, padding_after) = match padding {
        Padding::Even(pixels) => (pixels, pixels),
        Padding::BelowAndRight => (0, 1),
    };
    x.contiguous()?.apply_op3(weight, bias, kernels::Conv2d { padding_before, padding_after, stride })
}

/// Without cuDNN, candle lays out the patches of a whole convolution on a GPU, nine times the image: at most so many elements at once, 512 MB in
/// f32. (Its launch counts them in 32 bits, too.)
pub(crate) const MAX_PATCH_ELEMENTS: usize = 1 << 27;

pub(super) fn composed(x: &Tensor, weight: &Tensor, bias: &Tensor, padding: Padding, stride: usize) -> Result<Tensor> {
    if x.device().is_cpu() && x.dtype() == DType::BF16 {
        // Candle has no such convolution on a processor; the sums are f32, as a GPU's are.
        let wide = |tensor: &Tensor| tensor.to_dtype(DType::F32);
        return composed(&wide(x)?, &wide(weight)?, &wide(bias)?, padding, stride)?.to_dtype(DType::BF16);
    }
    let lays_out_patches = x.device().is_cuda() && !cfg!(feature = "cudnn");
    let y = convolved(x, weight, padding, stride, if lays_out_patches { MAX_PATCH_ELEMENTS } else { usize::MAX })?;
    y.broadcast_add(&bias.reshape((1, (), 1, 1))?)
}

/// Without bias; in bands of output rows that have at most `max_patch_elements`, though one row at least.
fn convolved(x: &Tensor, weight: &Tensor, padding: Padding, stride: usize, max_patch_elements: usize) -> Result<Tensor> {
    let (x, even) = match padding {
        Padding::Even(pixels) => (x.clone(), pixels),
        Padding::BelowAndRight => (padded(x, 0, 1)?, 0),
    };
    let (batch, channels, height, width) = x.dims4()?;
    let (_, _, kernel_height, kernel_width) = weight.dims4()?;
    let out = |size: usize, kernel: usize| (size + 2 * even).checked_sub(kernel).map_or(0, |room| room / stride + 1);
    let (rows, columns) = (out(height, kernel_height), out(width, kernel_width));
    let elements_of_row = batch * columns * channels * kernel_height * kernel_width;
    let rows_of_band = (max_patch_elements / elements_of_row.max(1)).max(1);
    if rows <= rows_of_band {
        return x.conv2d(weight, even, stride, 1, 1);
    }
    let x = padded(&x, even, even)?;
    let band = |first: usize| {
        let rows = rows_of_band.min(rows - first);
        x.narrow(2, first * stride, (rows - 1) * stride + kernel_height)?.conv2d(weight, 0, stride, 1, 1)
    };
    Tensor::cat(&(0..rows).step_by(rows_of_band).map(band).collect::<Result<Vec<_>>>()?, 2)
}

fn padded(x: &Tensor, before: usize, after: usize) -> Result<Tensor> {
    x.pad_with_zeros(D::Minus1, before, after)?.pad_with_zeros(D::Minus2, before, after)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::sampler::gaussian;

    fn random(draw: u32, shape: &[usize]) -> Tensor {
        Tensor::from_vec(gaussian(5, 0, draw, shape.iter().product()), shape, &Device::Cpu).unwrap()
    }

    #[test]
    fn bands_of_rows_make_the_whole_convolution() {
        for (padding, stride, kernel) in
            [(Padding::Even(1), 1, 3), (Padding::Even(1), 2, 3), (Padding::BelowAndRight, 2, 3), (Padding::Even(0), 1, 1)]
        {
            let (x, weight) = (random(0, &[2, 3, 14, 10]), random(1, &[4, 3, kernel, kernel]));
            let whole = convolved(&x, &weight, padding, stride, usize::MAX).unwrap();
            // One row, some rows with a rest, all but one row.
            let row = 2 * whole.dim(3).unwrap() * 3 * kernel * kernel;
            for max_patch_elements in [1, row * 4, row * (whole.dim(2).unwrap() - 1)] {
                let bands = convolved(&x, &weight, padding, stride, max_patch_elements).unwrap();
                assert_eq!(bands.dims(), whole.dims());
                let difference = (bands - &whole).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
                assert!(difference < 1e-5, "{padding:?}, stride {stride}: {difference}");
            }
        }
    }
}
