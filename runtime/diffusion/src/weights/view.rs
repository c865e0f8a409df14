//! What a model is built from: a view of the weights below a path, and the comparison of all a model needs with what there is.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Tensor};

use super::{TensorIndex, WeightSource, WeightsError, counted, listed};

/// The most elements a tensor may be expected to have: beyond this, products of configuration values would overflow.
const MAX_ELEMENTS: u64 = 1 << 40;

/// Weights below a path; cheap to clone. All clones share the record of what was used.
#[derive(Clone)]
pub struct Weights {
    shared: Arc<Shared>,
    path: String,
}

struct Shared {
    source: Arc<dyn WeightSource>,
    dtype: DType,
    device: Device,
    record: Mutex<Record>,
    only_compare: bool,
}

#[derive(Default)]
struct Record {
    used: BTreeSet<String>,
    mismatch: Mismatch,
}

impl fmt::Debug for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Weights").field("path", &self.path).field("dtype", &self.shared.dtype).finish_non_exhaustive()
    }
}

impl Weights {
    /// All weights of `source`, to be loaded as `dtype` on `device`.
    pub fn new(source: Arc<dyn WeightSource>, dtype: DType, device: &Device) -> Self {
        Self::make(source, dtype, device, false)
    }

    /// As [`Self::new`], but nothing is read: [`Self::get`] hands out zeros that take no memory (one element, broadcast) and
    /// records what does not fit, for [`Self::compared`]. Building a model from it tells all that is wrong with a checkpoint
    /// before the first allocation.
    pub fn comparing(source: Arc<dyn WeightSource>, dtype: DType, device: &Device) -> Self {
        Self::make(source, dtype, device, true)
    }

    fn make(source: Arc<dyn WeightSource>, dtype: DType, device: &Device, only_compare: bool) -> Self {
        let record = Mutex::default();
        let shared = Shared { source, dtype, device: device.clone(), record, only_compare };
        Self { shared: Arc::new(shared), path: String::new() }
    }

    /// The view below `part`, which may hold dots itself.
    #[must_use]
    pub fn push(&self, part: impl fmt::Display) -> Self {
        Self { shared: Arc::clone(&self.shared), path: self.name(part) }
    }

    /// Where this view stands, without a dot at its end; empty at the top.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The full name of `part` below this path.
    pub fn name(&self, part: impl fmt::Display) -> String {
        if self.path.is_empty() { part.to_string() } else { format!("{}.{part}", self.path) }
    }

    /// The tensor `name` below this path, which must have `shape`.
    ///
    /// # Errors
    /// [`WeightsError`] if it is missing, has another shape, or is stored as something that is no float. Nothing is allocated
    /// before these are known.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Tensor, WeightsError> {
        let name = self.name(name);
        let shared = &self.shared;
        if shared.only_compare {
            let mut record = self.record();
            record.mismatch.compare(shared.source.index(), &name, shape);
            let made = nothing(shape, shared.dtype, &shared.device);
            let made = made.map_err(|source| WeightsError::Tensor { name: name.clone(), source });
            record.used.insert(name);
            return made;
        }
        let tensor = shared.source.tensor(&name, shape, shared.dtype, &shared.device)?;
        self.record().used.insert(name);
        Ok(tensor)
    }

    /// Whether there is a tensor `name` below this path.
    pub fn contains(&self, name: &str) -> bool {
        self.shared.source.index().get(&self.name(name)).is_some()
    }

    /// The stored shape of `name` below this path.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.shared.source.index().get(&self.name(name)).map(|info| info.shape.as_slice())
    }

    /// What tensors are loaded as.
    pub fn dtype(&self) -> DType {
        self.shared.dtype
    }

    /// Where tensors are loaded to.
    pub fn device(&self) -> &Device {
        &self.shared.device
    }

    /// Names in the source that nobody asked for, from the top, whatever this view's path.
    pub fn unused(&self) -> Vec<String> {
        let record = self.record();
        let all = self.shared.source.index().iter().map(|(name, _)| name);
        all.filter(|name| !record.used.contains(*name)).map(str::to_owned).collect()
    }

    /// All that did not fit so far, if this view only compares.
    ///
    /// # Errors
    /// [`WeightsError::Mismatch`].
    pub fn compared(&self) -> Result<(), WeightsError> {
        self.record().mismatch.clone().into_result()
    }

    fn record(&self) -> std::sync::MutexGuard<'_, Record> {
        // A set of names is whole whatever happened to a thread that held it.
        self.shared.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Zeros of a shape that occupy one element.
fn nothing(shape: &[usize], dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
    let count = shape.iter().try_fold(1_u64, |all, size| all.checked_mul(*size as u64));
    if count.is_none_or(|count| count > MAX_ELEMENTS) {
        candle_core::bail!("a tensor of shape {shape:?} is larger than any");
    }
    Tensor::zeros((), dtype, device)?.broadcast_as(shape)
}

/// All that does not fit between what a model needs and what there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mismatch {
    /// Names that are needed and not there.
    pub missing: Vec<String>,
    /// Name, shape by the configuration, shape in the file.
    pub shapes: Vec<(String, Vec<usize>, Vec<usize>)>,
}

impl Mismatch {
    pub(super) fn compare(&mut self, index: &TensorIndex, name: &str, shape: &[usize]) {
        match index.get(name) {
            None => self.missing.push(name.to_owned()),
            Some(info) if info.shape != shape => {
                self.shapes.push((name.to_owned(), shape.to_vec(), info.shape.clone()));
            }
            Some(_) => {}
        }
    }

    pub(super) fn into_result(self) -> Result<(), WeightsError> {
        let fits = self.missing.is_empty() && self.shapes.is_empty();
        if fits { Ok(()) } else { Err(WeightsError::Mismatch(self)) }
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the weights do not fit the configuration")?;
        if !self.missing.is_empty() {
            let count = counted(self.missing.len(), "tensor is", "tensors are");
            write!(f, "; {count} missing: {}", listed(&self.missing))?;
        }
        if !self.shapes.is_empty() {
            let describe =
                |(name, expected, found): &(String, Vec<usize>, Vec<usize>)| format!("{name} (configuration {expected:?}, file {found:?})");
            let shapes: Vec<String> = self.shapes.iter().map(describe).collect();
            let count = counted(shapes.len(), "has another shape", "have other shapes");
            write!(f, "; {count}: {}", listed(&shapes))?;
        }
        Ok(())
    }
}
