//! From stored bytes to a tensor: any stored float into any float, rounded to nearest. No alignment is assumed.
//!
//! 64-bit floats reach the 16-bit ones by way of 32 bits, as in the reference.

use candle_core::{DType, Device, Shape, Tensor, WithDType};
use half::{bf16, f16};

use super::{StoredDtype, TensorInfo, WeightsError};

/// Makes the tensor. `bytes` are those of `info.range`.
pub(super) fn tensor(name: &str, bytes: &[u8], info: &TensorInfo, dtype: DType, device: &Device) -> Result<Tensor, WeightsError> {
    let refused = || WeightsError::StoredDtype { name: name.to_owned(), found: info.dtype };
    let shape = Shape::from(info.shape.as_slice());
    let made = match dtype {
        DType::F32 => from_values(decoded::<f32>(bytes, info.dtype).ok_or_else(refused)?, shape, device),
        DType::F16 => from_values(decoded::<f16>(bytes, info.dtype).ok_or_else(refused)?, shape, device),
        DType::BF16 => from_values(decoded::<bf16>(bytes, info.dtype).ok_or_else(refused)?, shape, device),
        DType::F64 => from_values(decoded::<f64>(bytes, info.dtype).ok_or_else(refused)?, shape, device),
        dtype => return Err(WeightsError::LoadDtype { dtype }),
    };
    made.map_err(|source| WeightsError::Tensor { name: name.to_owned(), source })
}

fn from_values<T: WithDType>(values: Vec<T>, shape: Shape, device: &Device) -> candle_core::Result<Tensor> {
    Tensor::from_vec(values, shape, device)
}

/// A float to load into.
trait Float: Copy {
    fn from_f16(value: f16) -> Self;
    fn from_bf16(value: bf16) -> Self;
    fn from_f32(value: f32) -> Self;
    fn from_f64(value: f64) -> Self;
}

impl Float for f32 {
    fn from_f16(value: f16) -> Self {
        value.to_f32()
    }
    fn from_bf16(value: bf16) -> Self {
        value.to_f32()
    }
    fn from_f32(value: f32) -> Self {
        value
    }
    fn from_f64(value: f64) -> Self {
        value as Self
    }
}

impl Float for f64 {
    fn from_f16(value: f16) -> Self {
        value.to_f64()
    }
    fn from_bf16(value: bf16) -> Self {
        value.to_f64()
    }
    fn from_f32(value: f32) -> Self {
        Self::from(value)
    }
    fn from_f64(value: f64) -> Self {
        value
    }
}

impl Float for f16 {
    fn from_f16(value: f16) -> Self {
        value
    }
    fn from_bf16(value: bf16) -> Self {
        Self::from_f32(value.to_f32())
    }
    fn from_f32(value: f32) -> Self {
        Self::from_f32(value)
    }
    fn from_f64(value: f64) -> Self {
        Self::from_f32(value as f32)
    }
}

impl Float for bf16 {
    fn from_f16(value: f16) -> Self {
        Self::from_f32(value.to_f32())
    }
    fn from_bf16(value: bf16) -> Self {
        value
    }
    fn from_f32(value: f32) -> Self {
        Self::from_f32(value)
    }
    fn from_f64(value: f64) -> Self {
        Self::from_f32(value as f32)
    }
}

/// All elements as `T`; `None` if what is stored is no float of 16 bits or more.
fn decoded<T: Float>(bytes: &[u8], stored: StoredDtype) -> Option<Vec<T>> {
    Some(match stored {
        StoredDtype::F16 => elements(bytes, |element| T::from_f16(f16::from_le_bytes(element))),
        StoredDtype::BF16 => elements(bytes, |element| T::from_bf16(bf16::from_le_bytes(element))),
        StoredDtype::F32 => elements(bytes, |element| T::from_f32(f32::from_le_bytes(element))),
        StoredDtype::F64 => elements(bytes, |element| T::from_f64(f64::from_le_bytes(element))),
        _ => return None,
    })
}

fn elements<const BYTES: usize, T>(bytes: &[u8], read: impl Fn([u8; BYTES]) -> T) -> Vec<T> {
    bytes.as_chunks::<BYTES>().0.iter().map(|element| read(*element)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(stored: StoredDtype, bytes: &[u8], dtype: DType) -> Tensor {
        let count = bytes.len() / stored.bytes() as usize;
        let info = TensorInfo { dtype: stored, shape: vec![count], file: 0, range: 0..bytes.len() as u64 };
        tensor("t", bytes, &info, dtype, &Device::Cpu).unwrap()
    }

    #[test]
    fn every_stored_float_loads_as_every_float() {
        let values = [0.0_f32, -1.5, 3.25, 1024.0];
        let stored: [(StoredDtype, Vec<u8>); 4] = [
            (StoredDtype::F16, values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect()),
            (StoredDtype::BF16, values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect()),
            (StoredDtype::F32, values.iter().flat_map(|v| v.to_le_bytes()).collect()),
            (StoredDtype::F64, values.iter().flat_map(|v| f64::from(*v).to_le_bytes()).collect()),
        ];
        for (kind, bytes) in &stored {
            for dtype in [DType::F16, DType::BF16, DType::F32, DType::F64] {
                let loaded = load(*kind, bytes, dtype);
                assert_eq!(loaded.dtype(), dtype);
                let loaded = loaded.to_dtype(DType::F32).unwrap().to_vec1::<f32>().unwrap();
                assert_eq!(loaded, values, "{kind} as {dtype:?}");
            }
        }
    }

    #[test]
    fn rounding_is_to_nearest_with_ties_to_even() {
        for (value, expected) in [
            (1.0 + 2.0_f32.powi(-8), 1.0),
            (1.0 + 2.0_f32.powi(-8) + 2.0_f32.powi(-20), 1.0 + 2.0_f32.powi(-7)),
            (1.0 + 3.0 * 2.0_f32.powi(-8), 1.0 + 2.0_f32.powi(-6)),
        ] {
            let loaded = load(StoredDtype::F32, &value.to_le_bytes(), DType::BF16);
            assert_eq!(loaded.to_dtype(DType::F32).unwrap().to_vec1::<f32>().unwrap(), [expected]);
        }
    }

    #[test]
    fn what_is_no_float_is_refused_by_name() {
        let info = TensorInfo { dtype: StoredDtype::I64, shape: vec![1], file: 0, range: 0..8 };
        let error = tensor("position_ids", &[0; 8], &info, DType::F32, &Device::Cpu).unwrap_err();
        assert!(error.to_string().contains("position_ids") && error.to_string().contains("I64"), "{error}");
        let info = TensorInfo { dtype: StoredDtype::F32, shape: vec![2], file: 0, range: 0..8 };
        assert!(matches!(tensor("a", &[0; 8], &info, DType::U8, &Device::Cpu), Err(WeightsError::LoadDtype { .. })));
    }
}
