//! Weights from safetensors files: hostile input until every offset is checked.
//!
//! ```text
//! open_component(dir) ─► SafetensorsFolder ── index() ─► TensorIndex      names, dtypes, shapes, byte ranges; all within the files
//! open_file(path)             │        ▲
//!                             │        └── MappedPart                       a part of a file with other names, by those that are asked for
//!                             ▼             │
//!              tensor(name, shape, dtype, device)                           shape compared before anything is allocated
//! ```
//! Headers are bounded and checked as a whole when a file is opened: sizes, dtypes, overlaps, gaps, duplicate names. Pickle
//! files are recognised by their content and refused, whatever they are called. This module knows no model: what a tensor
//! should look like is the caller's argument.

mod contents;
mod decode;
mod digest;
mod file;
mod flux;
mod folder;
mod header;
mod index;
mod key_map;
mod ldm_unet;
mod ldm_vae;
mod mapped;
mod mismatch;
mod mmdit;
mod open_clip;

use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};

pub(crate) use contents::describe;
pub(crate) use digest::sha256_of_component;
pub use digest::sha256_of_file;
pub use folder::{SafetensorsFolder, open_component, open_file};
pub use header::{HeaderError, MAX_HEADER_BYTES, MAX_NAME_BYTES, MAX_RANK, MAX_TENSORS, parse_header};
pub use index::{StoredDtype, TensorIndex, TensorInfo};
pub use key_map::{Arrangement, Layout, Names, Original};
pub(crate) use ldm_unet::LdmUnetNames;
pub use mapped::MappedPart;
pub use mismatch::Mismatch;

use crate::json::ConfigError;

/// How many names a message lists before it only counts.
const LISTED_NAMES: usize = 8;

/// Tensors by name, from wherever they lie.
pub trait WeightSource: Send + Sync {
    /// What there is.
    fn index(&self) -> &TensorIndex;

    /// Reads one tensor into `dtype` (f16, bf16, f32 or f64, whatever float is stored) on `device`.
    ///
    /// # Errors
    /// [`WeightsError`] if there is none of this name, or its shape is not `shape`; both are found before any allocation. Also if it holds
    /// NaN, an infinity, or a number that `dtype` cannot hold.
    fn tensor(&self, name: &str, shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor, WeightsError>;
}

/// Why weights could not be opened or read.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// A file or folder could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The path.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// No file of weights where one is expected.
    #[error("{} holds no weights; expected one of {expected}", folder.display())]
    NoWeights {
        /// The folder.
        folder: PathBuf,
        /// File names that would be taken.
        expected: String,
    },
    /// A network asks for a part that the model does not have: a defect of this program.
    #[error("the model has no part {folder}")]
    NoPart {
        /// The part's folder.
        folder: &'static str,
    },
    /// The file is something else than safetensors.
    #[error("{} is {kind}, not safetensors; {remedy}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What its first bytes say.
        kind: &'static str,
        /// What to do about it.
        remedy: &'static str,
    },
    /// The safetensors header is not acceptable.
    #[error("{}: {source}", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: HeaderError,
    },
    /// The index of a sharded checkpoint is not usable.
    #[error("{}: {reason}", path.display())]
    ShardIndex {
        /// The index file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The index of a sharded checkpoint is no JSON object.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Two files of one component hold a tensor of the same name.
    #[error("tensor `{name}` is in {} and in {}", first.display(), second.display())]
    DuplicateAcrossFiles {
        /// The tensor.
        name: String,
        /// One file.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// Tensors the model needs are not there.
    #[error("{} missing: {}", counted(names.len(), "tensor is", "tensors are"), listed(names))]
    Missing {
        /// Their names.
        names: Vec<String>,
    },
    /// A tensor has another shape than the configuration says.
    #[error("tensor `{name}` has shape {found:?}; the configuration says {expected:?}")]
    Shape {
        /// Its name.
        name: String,
        /// By the configuration.
        expected: Vec<usize>,
        /// In the file.
        found: Vec<usize>,
    },
    /// All that does not fit, found without reading.
    #[error("{0}")]
    Mismatch(Mismatch),
    /// A number that is none, or becomes none in the dtype that was asked for.
    #[error("tensor `{name}` holds {value}{}", if value.is_finite() { ", which this precision cannot hold; load it as f32 or bf16" } else { ", which is not finite; the file is damaged, or its training diverged" })]
    NotFinite {
        /// Its name.
        name: String,
        /// The first such number.
        value: f64,
    },
    /// The stored dtype is no float that can be read.
    #[error("tensor `{name}` is stored as {found}; weights must be F8_E4M3, F8_E5M2, F16, BF16 or F32")]
    StoredDtype {
        /// Its name.
        name: String,
        /// What is stored.
        found: StoredDtype,
    },
    /// A dtype was asked for that weights are not computed in.
    #[error("weights cannot be loaded as {dtype:?}; choose f16, bf16, f32 or f64")]
    LoadDtype {
        /// What was asked for.
        dtype: DType,
    },
    /// The tensor could not be made on the device.
    #[error("tensor `{name}`: {source}")]
    Tensor {
        /// Its name.
        name: String,
        /// candle's answer.
        source: candle_core::Error,
    },
}

fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// The first few names, and how many more there are.
fn listed(names: &[String]) -> String {
    let mut text = names.iter().take(LISTED_NAMES).map(String::as_str).collect::<Vec<_>>().join(", ");
    if names.len() > LISTED_NAMES {
        text.push_str(&format!(" and {} more", names.len() - LISTED_NAMES));
    }
    text
}
