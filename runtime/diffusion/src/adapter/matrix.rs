//! Products that make a dense difference, all in f32.

use candle_core::{Result, Tensor};

/// a [N, r] · core · b [r, M]: without a core the plain product [N, M]; with a core [r, r', h, w] the product over both ranks [N, M, h, w]
/// of a [N, r] and b [r', M].
pub(super) fn product(a: &Tensor, core: Option<&Tensor>, b: &Tensor) -> Result<Tensor> {
    let Some(core) = core else { return a.matmul(b) };
    let (outer, inner, height, width) = core.dims4()?;
    let (outputs, features) = (a.dim(0)?, b.dim(1)?);
    let left = a.matmul(&core.reshape((outer, inner * height * width))?)?.reshape((outputs, inner, height * width))?;
    let left = left.transpose(1, 2)?.contiguous()?.reshape((outputs * height * width, inner))?;
    let both = left.matmul(b)?.reshape((outputs, height * width, features))?;
    both.transpose(1, 2)?.contiguous()?.reshape((outputs, features, height, width))
}

/// left [o, i] ⊗ right [p, j, …] → [o·p, i·j, …].
pub(super) fn kronecker(left: &Tensor, right: &Tensor) -> Result<Tensor> {
    let (outputs, features) = left.dims2()?;
    let [inner_outputs, inner_features, kernel @ ..] = right.dims() else {
        candle_core::bail!("a Kronecker product takes a matrix or a kernel, not shape {:?}", right.dims());
    };
    let kernel_elements: usize = kernel.iter().product();
    let wide = right.reshape((1, *inner_outputs, 1, inner_features * kernel_elements))?;
    let all = left.reshape((outputs, 1, features, 1))?.broadcast_mul(&wide)?;
    let mut shape = vec![outputs * inner_outputs, features * inner_features];
    shape.extend(kernel);
    all.reshape(shape)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn tensor(values: &[f32], shape: &[usize]) -> Tensor {
        Tensor::from_slice(values, shape, &Device::Cpu).unwrap()
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn kronecker_product_follows_its_definition() {
        let (left, right) = (tensor(&[1.0, 2.0], &[1, 2]), tensor(&[3.0, 4.0, 5.0, 6.0], &[2, 2]));
        let both = kronecker(&left, &right).unwrap();
        assert_eq!(both.dims(), [2, 4]);
        assert_eq!(values(&both), [3.0, 4.0, 6.0, 8.0, 5.0, 6.0, 10.0, 12.0]);
    }

    #[test]
    fn product_with_a_core_sums_over_both_ranks() {
        // N = 1, M = 2, ranks 2 and 1, a kernel of 1×2: Σᵢ a[i]·core[i, 0, 0, w]·b[0, m].
        let (a, b) = (tensor(&[2.0, 3.0], &[1, 2]), tensor(&[5.0, 7.0], &[1, 2]));
        let core = tensor(&[1.0, 10.0, 100.0, 1000.0], &[2, 1, 1, 2]);
        let all = product(&a, Some(&core), &b).unwrap();
        assert_eq!(all.dims(), [1, 2, 1, 2]);
        // w = 0: 2·1 + 3·100 = 302; w = 1: 2·10 + 3·1000 = 3020.
        assert_eq!(values(&all), [302.0 * 5.0, 3020.0 * 5.0, 302.0 * 7.0, 3020.0 * 7.0]);
    }
}
