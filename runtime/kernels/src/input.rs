//! Checked access to what candle hands a custom operation.

use candle_core::{CpuStorage, Layout, Result, bail};

/// The elements of a contiguous f32 tensor.
///
/// # Errors
/// When the tensor has another element type or is not contiguous; callers convert before they apply an operation.
pub(crate) fn slice<'a>(storage: &'a CpuStorage, layout: &Layout, operation: &str) -> Result<&'a [f32]> {
    let CpuStorage::F32(data) = storage else {
        bail!("{operation} takes f32 tensors, convert the input first");
    };
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&data[start..end]),
        None => bail!("{operation} takes contiguous tensors, call contiguous() on the input first"),
    }
}
