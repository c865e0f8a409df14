//! The names people give to devices and precisions.

use std::fmt;
use std::str::FromStr;

use diffusion::gpu::{self, GpuError};
use diffusion::{DType, Device};

/// `auto`, `cpu`, `cuda` or `cuda:N`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceName {
    /// The first GPU if there is one that this build can use, else the processor.
    #[default]
    Auto,
    Cpu,
    Cuda(usize),
}

/// Why a device cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error("device `{name}` is not known; use auto, cpu, cuda or cuda:N")]
    Unknown { name: String },
    #[error("device {name} cannot be used")]
    Open { name: DeviceName, source: Box<GpuError> },
}

impl DeviceName {
    /// # Errors
    /// [`DeviceError::Open`] if there is no such device or this build cannot use it; for `auto` only if there is a GPU that lacks something.
    pub fn open(self) -> Result<Device, DeviceError> {
        let gpu = |ordinal| gpu::open(ordinal).map_err(|source| DeviceError::Open { name: self, source: Box::new(source) });
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Auto if gpu::count() == 0 => Ok(Device::Cpu),
            Self::Auto => gpu(0),
            Self::Cuda(ordinal) => gpu(ordinal),
        }
    }
}

impl FromStr for DeviceName {
    type Err = DeviceError;

    fn from_str(name: &str) -> Result<Self, DeviceError> {
        let unknown = || DeviceError::Unknown { name: name.to_owned() };
        match name.split_once(':') {
            None if name == "auto" => Ok(Self::Auto),
            None if name == "cpu" => Ok(Self::Cpu),
            None if name == "cuda" => Ok(Self::Cuda(0)),
            Some(("cuda", ordinal)) => ordinal.parse().map(Self::Cuda).map_err(|_| unknown()),
            _ => Err(unknown()),
        }
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => formatter.write_str("auto"),
            Self::Cpu => formatter.write_str("cpu"),
            Self::Cuda(ordinal) => write!(formatter, "cuda:{ordinal}"),
        }
    }
}

/// Precision of weights and activations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Precision {
    /// f32 on a processor; on a GPU the 16 bits that a model's family is published in.
    #[default]
    Auto,
    F32,
    F16,
    Bf16,
}

impl Precision {
    /// What every model is computed in on `device`; none where its family decides.
    pub fn dtype(self, device: &Device) -> Option<DType> {
        match self {
            Self::Auto if device.is_cpu() => Some(DType::F32),
            Self::Auto => None,
            Self::F32 => Some(DType::F32),
            Self::F16 => Some(DType::F16),
            Self::Bf16 => Some(DType::BF16),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_names_are_read_as_they_are_written() {
        for (name, device) in
            [("auto", DeviceName::Auto), ("cpu", DeviceName::Cpu), ("cuda:0", DeviceName::Cuda(0)), ("cuda:3", DeviceName::Cuda(3))]
        {
            assert_eq!(name.parse::<DeviceName>().unwrap(), device);
            assert_eq!(device.to_string(), name);
        }
        assert_eq!("cuda".parse::<DeviceName>().unwrap(), DeviceName::Cuda(0));
        for name in ["", "gpu", "cuda:", "cuda:-1", "cpu:0"] {
            assert!(name.parse::<DeviceName>().is_err(), "{name}");
        }
    }
}
