//! NVIDIA GPUs, where the build has the feature `cuda` and the machine has one. Without either, everything here answers that there is none.
//!
//! A program that names CUDA's libraries the usual way is not even loaded where they are missing. This one defines their functions itself
//! ([`doors`]) and opens the libraries when a GPU is asked for, so that one binary serves machines with and without a driver.

#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "cuda")]
mod doors;

use candle_core::Device;

/// Why a GPU cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GpuError {
    /// A program for processors alone.
    #[error("this build is for processors alone; take one with the feature `cuda`, or the device cpu")]
    NotBuiltIn,
    /// The machine lacks something.
    #[error("{library} is not found; install {package}, or name its folder in LD_LIBRARY_PATH, or take the device cpu")]
    NoLibrary {
        /// The file that was looked for.
        library: &'static str,
        /// What brings it.
        package: &'static str,
    },
    /// The driver is there and counts less.
    #[error("there is no GPU {ordinal}: the driver shows {count} of them (CUDA_VISIBLE_DEVICES chooses which)")]
    NoDevice {
        /// Which was asked for, from 0.
        ordinal: usize,
        /// How many there are.
        count: usize,
    },
    /// There, but of no use to this build.
    #[error(
        "GPU {ordinal} does not run this build: it needs driver {driver} or later and compute capability {compute_capability} or later"
    )]
    Unusable {
        /// Which was asked for, from 0.
        ordinal: usize,
        /// The oldest driver for the toolkit of this build.
        driver: &'static str,
        /// Major and minor number without a point, as `CUDA_COMPUTE_CAP` had it.
        compute_capability: &'static str,
        /// What the driver said.
        source: candle_core::Error,
    },
}

/// How many GPUs can be opened: none without a driver.
pub fn count() -> usize {
    #[cfg(feature = "cuda")]
    return cuda::count();
    #[cfg(not(feature = "cuda"))]
    return 0;
}

/// Bytes of memory that `device` has in all, where it is a GPU.
pub fn memory_bytes(device: &Device) -> Option<u64> {
    #[cfg(feature = "cuda")]
    return cuda::memory_bytes(device);
    #[cfg(not(feature = "cuda"))]
    {
        let _ = device;
        None
    }
}

/// The GPU `ordinal`, from 0. All threads share one queue of work on it: what one thread enqueues, another can rely on.
///
/// # Errors
/// [`GpuError`] says what is missing and how to get it.
pub fn open(ordinal: usize) -> Result<Device, GpuError> {
    #[cfg(feature = "cuda")]
    return cuda::open(ordinal);
    #[cfg(not(feature = "cuda"))]
    {
        let _ = ordinal;
        Err(GpuError::NotBuiltIn)
    }
}
