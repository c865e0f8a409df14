//! What files hold: names, dtypes, shapes and byte ranges, all checked.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Bound, Range};
use std::path::{Path, PathBuf};

use super::header::Header;
use super::{Mismatch, WeightsError};

/// The dtypes safetensors defines, as far as their size is known here. Only floats are read as weights; the others may lie in a file
/// (position ids are I64) and are indexed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StoredDtype {
    /// A byte per boolean.
    Bool,
    /// Unsigned 8 bits.
    U8,
    /// Signed 8 bits.
    I8,
    /// 8-bit float, 5 exponent bits.
    F8E5M2,
    /// 8-bit float, 4 exponent bits.
    F8E4M3,
    /// 8-bit exponent only.
    F8E8M0,
    /// Unsigned 16 bits.
    U16,
    /// Signed 16 bits.
    I16,
    /// IEEE half.
    F16,
    /// Brain float.
    BF16,
    /// Unsigned 32 bits.
    U32,
    /// Signed 32 bits.
    I32,
    /// IEEE single.
    F32,
    /// Unsigned 64 bits.
    U64,
    /// Signed 64 bits.
    I64,
    /// IEEE double.
    F64,
    /// Two singles.
    C64,
}

impl StoredDtype {
    const NAMES: [(&'static str, Self); 17] = [
        ("BOOL", Self::Bool),
        ("U8", Self::U8),
        ("I8", Self::I8),
        ("F8_E5M2", Self::F8E5M2),
        ("F8_E4M3", Self::F8E4M3),
        ("F8_E8M0", Self::F8E8M0),
        ("U16", Self::U16),
        ("I16", Self::I16),
        ("F16", Self::F16),
        ("BF16", Self::BF16),
        ("U32", Self::U32),
        ("I32", Self::I32),
        ("F32", Self::F32),
        ("U64", Self::U64),
        ("I64", Self::I64),
        ("F64", Self::F64),
        ("C64", Self::C64),
    ];

    /// By safetensors' name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, dtype)| *dtype)
    }

    /// safetensors' name.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, dtype)| *dtype == self).map_or("?", |(name, _)| name)
    }

    /// Whether the weights of a model may be stored so. Position ids and the like are something else.
    pub fn is_weight(self) -> bool {
        matches!(self, Self::F8E5M2 | Self::F8E4M3 | Self::F16 | Self::BF16 | Self::F32)
    }

    /// Bytes of one element.
    pub fn bytes(self) -> u64 {
        match self {
            Self::Bool | Self::U8 | Self::I8 | Self::F8E5M2 | Self::F8E4M3 | Self::F8E8M0 => 1,
            Self::U16 | Self::I16 | Self::F16 | Self::BF16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::C64 => 8,
        }
    }
}

impl fmt::Display for StoredDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where one tensor lies. The range is within the file, and as long as dtype and shape say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// How its elements are stored, little-endian, row-major.
    pub dtype: StoredDtype,
    /// Its shape; empty for a scalar.
    pub shape: Vec<usize>,
    /// Which of [`TensorIndex::files`].
    pub file: usize,
    /// Bytes from the file's beginning.
    pub range: Range<u64>,
}

impl TensorInfo {
    /// How many elements it has.
    pub fn elements(&self) -> u64 {
        (self.range.end - self.range.start) / self.dtype.bytes()
    }
}

/// All tensors of a component, by name.
#[derive(Clone, Debug, Default)]
pub struct TensorIndex {
    files: Vec<PathBuf>,
    tensors: BTreeMap<String, TensorInfo>,
    metadata: BTreeMap<String, String>,
}

impl TensorIndex {
    /// Adds a file's checked header.
    pub(super) fn add(&mut self, path: &Path, header: Header) -> Result<(), WeightsError> {
        let file = self.files.len();
        self.files.push(path.to_path_buf());
        self.metadata.extend(header.metadata);
        for (name, entry) in header.tensors {
            if let Some(earlier) = self.tensors.get(&name) {
                let first = self.files[earlier.file].clone();
                return Err(WeightsError::DuplicateAcrossFiles { name, first, second: path.to_path_buf() });
            }
            let info = TensorInfo { dtype: entry.dtype, shape: entry.shape, file, range: entry.range };
            self.tensors.insert(name, info);
        }
        Ok(())
    }

    /// Other tensors in the same files.
    pub(super) fn view(&self, tensors: BTreeMap<String, TensorInfo>) -> Self {
        Self { files: self.files.clone(), tensors, metadata: self.metadata.clone() }
    }

    /// What the files say of themselves under `key`; text that nobody checked.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }

    /// The tensor called `name`.
    pub fn get(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    /// The tensor called `name`, if its shape is `shape`.
    ///
    /// # Errors
    /// [`WeightsError::Missing`] or [`WeightsError::Shape`].
    pub fn expect(&self, name: &str, shape: &[usize]) -> Result<&TensorInfo, WeightsError> {
        let info = self.get(name).ok_or_else(|| WeightsError::Missing { names: vec![name.to_owned()] })?;
        if info.shape == shape {
            return Ok(info);
        }
        Err(WeightsError::Shape { name: name.to_owned(), expected: shape.to_vec(), found: info.shape.clone() })
    }

    /// Compares all that a model needs with what there is; nothing is read.
    ///
    /// # Errors
    /// [`WeightsError::Mismatch`] with every missing tensor and every other shape.
    pub fn check<'a>(&self, expected: impl IntoIterator<Item = (&'a str, &'a [usize])>) -> Result<(), WeightsError> {
        let mut mismatch = Mismatch::default();
        for (name, shape) in expected {
            mismatch.compare(self, name, shape);
        }
        mismatch.into_result()
    }

    /// All tensors in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &TensorInfo)> {
        self.tensors.iter().map(|(name, info)| (name.as_str(), info))
    }

    /// The tensors from `name` on, in the order of their names.
    pub fn iter_from(&self, name: &str) -> impl Iterator<Item = (&str, &TensorInfo)> {
        self.tensors.range::<str, _>((Bound::Included(name), Bound::Unbounded)).map(|(name, info)| (name.as_str(), info))
    }

    /// How many tensors there are.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// The files, in the order [`TensorInfo::file`] counts them.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        self.tensors.values().map(|info| info.range.end - info.range.start).sum()
    }
}
