//! How weights act on what the text encoder says: AUTOMATIC1111's rule.

use candle_core::{DType, Result, Tensor};

/// Text states [1, T, D] of one chunk, T weights → the same shape and dtype.
///
/// The state of each token is multiplied by its weight; then all states of the chunk are multiplied by one number, so that their mean over
/// tokens and features is what it was before. Where that number is not finite (the weights left a mean of 0) the second step is left out.
/// Computed in 64 bits; where all weights are 1 the states are returned as they are.
pub(super) fn emphasised(states: &Tensor, weights: &[f64]) -> Result<Tensor> {
    if weights.iter().all(|weight| *weight == 1.0) {
        return Ok(states.clone());
    }
    let exact = states.to_dtype(DType::F64)?;
    let weights = Tensor::new(weights, states.device())?.reshape((1, weights.len(), 1))?;
    let weighted = exact.broadcast_mul(&weights)?;
    let ratio = mean(&exact)? / mean(&weighted)?;
    let restored = if ratio.is_finite() { (weighted * ratio)? } else { weighted };
    restored.to_dtype(states.dtype())
}

fn mean(states: &Tensor) -> Result<f64> {
    states.mean_all()?.to_scalar()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn states(values: &[f32]) -> Tensor {
        Tensor::from_slice(values, (1, values.len() / 2, 2), &Device::Cpu).unwrap()
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn each_token_is_weighted_and_the_mean_is_kept() {
        // Mean 2 before and 3 after the weights: everything is drawn back by 2/3.
        let weighted = emphasised(&states(&[1.0, 1.0, 2.0, 4.0]), &[3.0, 1.0]).unwrap();
        assert_eq!(values(&weighted), [2.0, 2.0, 4.0 / 3.0, 8.0 / 3.0]);
    }

    #[test]
    fn weights_of_one_change_no_bit() {
        let odd = states(&[0.1, -0.3, f32::MIN_POSITIVE, 1e30]);
        assert_eq!(values(&emphasised(&odd, &[1.0, 1.0]).unwrap()), values(&odd));
    }

    #[test]
    fn mean_of_zero_is_not_divided_by() {
        let weighted = emphasised(&states(&[1.0, 1.0, 2.0, 4.0]), &[0.0, 0.0]).unwrap();
        assert_eq!(values(&weighted), [0.0; 4]);
    }
}
