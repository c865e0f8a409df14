//! Opening a GPU.

use candle_core::cuda_backend::cudarc::driver::CudaContext;
use candle_core::{DType, Device, Result, Tensor};

use super::GpuError;
use super::doors;

/// The oldest driver that takes what the toolkit of this build makes: CUDA 13.0's.
const DRIVER: &str = "580";
const COMPUTE_CAPABILITY: &str = match option_env!("CUDA_COMPUTE_CAP") {
    Some(capability) => capability,
    None => "of the machine it was built on",
};

pub(super) fn count() -> usize {
    if doors::open_driver().is_err() {
        return 0;
    }
    CudaContext::device_count().ok().and_then(|count| usize::try_from(count).ok()).unwrap_or(0)
}

pub(super) fn memory_bytes(device: &Device) -> Option<u64> {
    let (_, total) = device.as_cuda_device().ok()?.cuda_stream().context().mem_get_info().ok()?;
    u64::try_from(total).ok()
}

pub(super) fn open(ordinal: usize) -> std::result::Result<Device, GpuError> {
    doors::open_driver()?;
    let count = count();
    if ordinal >= count {
        return Err(GpuError::NoDevice { ordinal, count });
    }
    doors::open_libraries()?;
    let unusable = |source| GpuError::Unusable { ordinal, driver: DRIVER, compute_capability: COMPUTE_CAPABILITY, source };
    let device = one_queue(ordinal).map_err(unusable)?;
    try_out(&device).map_err(unusable)?;
    Ok(device)
}

/// Candle's usual device has a queue for each thread, and weights read by one thread could be used by another before they have arrived.
#[expect(unsafe_code, reason = "turns off the bookkeeping between queues, of which there is one")]
fn one_queue(ordinal: usize) -> Result<Device> {
    let device = Device::new_cuda_with_stream(ordinal)?;
    // SAFETY: the device has one stream, on which everything of all threads is allocated, used and freed, in that order.
    unsafe { device.as_cuda_device()?.disable_event_tracking() };
    Ok(device)
}

/// A driver or a GPU too old for this build's kernels says so when the first of them is loaded, which would be amid a request.
fn try_out(device: &Device) -> Result<()> {
    let one = Tensor::zeros(1, DType::F32, device)?.affine(1.0, 1.0)?.to_vec1::<f32>()?;
    if one == [1.0] { Ok(()) } else { candle_core::bail!("0 + 1 made {one:?}") }
}
