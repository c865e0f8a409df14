//! The comparison of all that a network needs with what there is.

use std::fmt;

use super::{StoredDtype, TensorIndex, WeightsError, counted, listed};

/// All that does not fit between what a model needs and what there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mismatch {
    /// Names that are needed and not there.
    pub missing: Vec<String>,
    /// Name, shape by the configuration, shape in the file.
    pub shapes: Vec<(String, Vec<usize>, Vec<usize>)>,
    /// Name and what is stored, which is nothing that weights are stored as.
    pub dtypes: Vec<(String, StoredDtype)>,
}

impl Mismatch {
    pub(super) fn compare(&mut self, index: &TensorIndex, name: &str, shape: &[usize]) {
        match index.get(name) {
            None => self.missing.push(name.to_owned()),
            Some(info) if info.shape != shape => {
                self.shapes.push((name.to_owned(), shape.to_vec(), info.shape.clone()));
            }
            Some(info) if !info.dtype.is_weight() => self.dtypes.push((name.to_owned(), info.dtype)),
            Some(_) => {}
        }
    }

    /// How many tensors do not fit.
    pub fn len(&self) -> usize {
        self.missing.len() + self.shapes.len() + self.dtypes.len()
    }

    /// Whether all fit.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn into_result(self) -> Result<(), WeightsError> {
        if self.is_empty() { Ok(()) } else { Err(WeightsError::Mismatch(self)) }
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
        if !self.dtypes.is_empty() {
            let names: Vec<String> = self.dtypes.iter().map(|(name, dtype)| format!("{name} ({dtype})")).collect();
            let count = counted(names.len(), "is", "are");
            write!(f, "; {count} stored as no float of 8 to 32 bits: {}", listed(&names))?;
        }
        Ok(())
    }
}
