//! From stored bytes to a tensor: any stored float into any float, rounded to nearest. No alignment is assumed.
//!
//! 64-bit floats reach the 16-bit ones by way of 32 bits, as in the reference.

use std::ops::Range;

use candle_core::{DType, Device, Shape, Tensor, WithDType};
use half::{bf16, f16};

use super::{StoredDtype, TensorInfo, WeightsError};

/// Stored bytes that are read before their memory is given back.
const CHUNK_BYTES: usize = 8 << 20;

/// Makes the tensor. `bytes` are those of `info.range`; `release` is told which of them were read.
pub(super) fn tensor(
    name: &str,
    bytes: &[u8],
    info: &TensorInfo,
    release: &dyn Fn(Range<u64>),
    dtype: DType,
    device: &Device,
) -> Result<Tensor, WeightsError> {
    let shape = Shape::from(info.shape.as_slice());
    let source = Stored { name, bytes, dtype: info.dtype, release };
    let made = match dtype {
        DType::F32 => from_values(source.decoded::<f32>()?, shape, device),
        DType::F16 => from_values(source.decoded::<f16>()?, shape, device),
        DType::BF16 => from_values(source.decoded::<bf16>()?, shape, device),
        DType::F64 => from_values(source.decoded::<f64>()?, shape, device),
        dtype => return Err(WeightsError::LoadDtype { dtype }),
    };
    made.map_err(|source| WeightsError::Tensor { name: name.to_owned(), source })
}

fn from_values<T: WithDType>(values: Vec<T>, shape: Shape, device: &Device) -> candle_core::Result<Tensor> {
    Tensor::from_vec(values, shape, device)
}

/// A float to load into.
trait Float: Copy {
    fn is_finite(self) -> bool;
    fn from_f16(value: f16) -> Self;
    fn from_bf16(value: bf16) -> Self;
    fn from_f32(value: f32) -> Self;
    fn from_f64(value: f64) -> Self;
}

impl Float for f32 {
    fn is_finite(self) -> bool {
        f32::is_finite(self)
    }
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
    fn is_finite(self) -> bool {
        f64::is_finite(self)
    }
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
    fn is_finite(self) -> bool {
        f16::is_finite(self)
    }
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
    fn is_finite(self) -> bool {
        bf16::is_finite(self)
    }
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

/// What is stored of one tensor.
struct Stored<'a> {
    name: &'a str,
    bytes: &'a [u8],
    dtype: StoredDtype,
    release: &'a dyn Fn(Range<u64>),
}

impl Stored<'_> {
    /// All elements as `T`.
    fn decoded<T: Float>(&self) -> Result<Vec<T>, WeightsError> {
        match self.dtype {
            StoredDtype::F8E4M3 => self.elements(|[byte]| T::from_f32(f8_e4m3(byte)), |[byte]| f8_e4m3(byte).into()),
            // The upper half of a 16-bit float.
            StoredDtype::F8E5M2 => {
                let value = |[byte]: [u8; 1]| f16::from_le_bytes([0, byte]);
                self.elements(|element| T::from_f16(value(element)), |element| value(element).to_f64())
            }
            StoredDtype::F16 => {
                self.elements(|element| T::from_f16(f16::from_le_bytes(element)), |element| f16::from_le_bytes(element).to_f64())
            }
            StoredDtype::BF16 => {
                self.elements(|element| T::from_bf16(bf16::from_le_bytes(element)), |element| bf16::from_le_bytes(element).to_f64())
            }
            StoredDtype::F32 => {
                self.elements(|element| T::from_f32(f32::from_le_bytes(element)), |element| f32::from_le_bytes(element).into())
            }
            StoredDtype::F64 => self.elements(|element| T::from_f64(f64::from_le_bytes(element)), f64::from_le_bytes),
            found => Err(WeightsError::StoredDtype { name: self.name.to_owned(), found }),
        }
    }

    fn elements<const BYTES: usize, T: Float>(
        &self,
        read: impl Fn([u8; BYTES]) -> T,
        exact: impl Fn([u8; BYTES]) -> f64,
    ) -> Result<Vec<T>, WeightsError> {
        let mut values = Vec::with_capacity(self.bytes.len() / BYTES);
        let mut done = 0;
        for chunk in self.bytes.chunks(CHUNK_BYTES) {
            let elements = chunk.as_chunks::<BYTES>().0;
            let first = values.len();
            values.extend(elements.iter().map(|element| read(*element)));
            if let Some(at) = values[first..].iter().position(|value| !value.is_finite()) {
                return Err(WeightsError::NotFinite { name: self.name.to_owned(), value: exact(elements[at]) });
            }
            let end = done + chunk.len() as u64;
            (self.release)(done..end);
            done = end;
        }
        Ok(values)
    }
}

/// One sign bit, four of exponent with a bias of 7, three of mantissa; no infinities (Micikevicius et al. 2022, "FP8 formats for deep learning").
fn f8_e4m3(byte: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(byte >> 3 & 0xf), f32::from(byte & 7));
    let magnitude = match (exponent, byte & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa / 8.0 * 2_f32.powi(-6),
        _ => (1.0 + mantissa / 8.0) * 2_f32.powi(exponent - 7),
    };
    if byte & 0x80 == 0 { magnitude } else { -magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(stored: StoredDtype, bytes: &[u8], dtype: DType) -> Tensor {
        let count = bytes.len() / stored.bytes() as usize;
        let info = TensorInfo { dtype: stored, shape: vec![count], file: 0, range: 0..bytes.len() as u64 };
        tensor("t", bytes, &info, &|_| (), dtype, &Device::Cpu).unwrap()
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
        let error = tensor("position_ids", &[0; 8], &info, &|_| (), DType::F32, &Device::Cpu).unwrap_err();
        assert!(error.to_string().contains("position_ids") && error.to_string().contains("I64"), "{error}");
        let info = TensorInfo { dtype: StoredDtype::F32, shape: vec![2], file: 0, range: 0..8 };
        assert!(matches!(tensor("a", &[0; 8], &info, &|_| (), DType::U8, &Device::Cpu), Err(WeightsError::LoadDtype { .. })));
    }

    #[test]
    fn eight_bit_floats_are_read_as_their_formats_say() {
        let values = |kind, bytes: &[u8]| load(kind, bytes, DType::F32).to_vec1::<f32>().unwrap();
        assert_eq!(
            values(StoredDtype::F8E4M3, &[0x00, 0x01, 0x08, 0x38, 0x3c, 0x7e, 0xb9]),
            [0.0, 0.001_953_125, 0.015_625, 1.0, 1.5, 448.0, -1.125]
        );
        assert_eq!(values(StoredDtype::F8E5M2, &[0x00, 0x01, 0x3c, 0xbe, 0x7b]), [0.0, 2.0_f32.powi(-16), 1.0, -1.5, 57344.0]);
    }

    #[test]
    fn numbers_that_are_none_are_refused_by_name() {
        let refused = |stored, bytes: &[u8], dtype| {
            let count = bytes.len() / StoredDtype::bytes(stored) as usize;
            let info = TensorInfo { dtype: stored, shape: vec![count], file: 0, range: 0..bytes.len() as u64 };
            tensor("w", bytes, &info, &|_| (), dtype, &Device::Cpu).unwrap_err().to_string()
        };
        let message = refused(StoredDtype::F32, &[1.0_f32.to_le_bytes(), f32::NAN.to_le_bytes()].concat(), DType::F32);
        assert!(message.contains("`w` holds NaN"), "{message}");
        assert!(refused(StoredDtype::F8E4M3, &[0x7f], DType::F16).contains("NaN"));
        assert!(refused(StoredDtype::F16, &f16::INFINITY.to_le_bytes(), DType::F32).contains("holds inf"));
        let message = refused(StoredDtype::F32, &70_000_f32.to_le_bytes(), DType::F16);
        assert!(message.contains("holds 70000, which this precision cannot hold"), "{message}");
    }

    #[test]
    fn memory_is_given_back_as_reading_goes_on() {
        let bytes = vec![0; CHUNK_BYTES + 4];
        let info = TensorInfo { dtype: StoredDtype::F32, shape: vec![bytes.len() / 4], file: 0, range: 0..bytes.len() as u64 };
        let told = std::cell::RefCell::new(Vec::new());
        tensor("w", &bytes, &info, &|done| told.borrow_mut().push(done), DType::BF16, &Device::Cpu).unwrap();
        let chunk = CHUNK_BYTES as u64;
        assert_eq!(told.into_inner(), [0..chunk, chunk..chunk + 4]);
    }
}
