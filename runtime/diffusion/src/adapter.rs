//! Adapters: what is added to a model's weights without touching them. LoRA, LoCon, LoHa, LoKr, full differences, each with or without DoRA.
//!
//! ```text
//! AdapterFile::open(path)   names and shapes checked from the header; nothing is allocated
//!        │ load(device, dtype)
//!        ▼
//!     Adapter               a patch per module; read-only, shared by requests and by models of one family, whatever their precision
//!        │ bind(layers, scale)    module names resolved to this model's layers, every shape compared: all of it fits, or none is applied
//!        ▼
//!   BoundAdapter ─► AdapterSet ─► AdapterRows ─► each leaf layer adds its side path to the rows that asked for it
//!        └────────► merged into the weights when a model is loaded
//! ```
//! Where several adapters act on one layer, each one's difference is taken to the model's own weight, and the differences are added. A
//! strength of 0 is no adapter at all.
//!
//! This module knows no network and no request; what it must know of a model is its [`LayerTable`].

mod bound;
mod error;
mod file;
mod layer_table;
mod matrix;
mod names;
mod patch;
mod rows;
mod shapes;
mod training_record;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

pub use bound::{BoundAdapter, FittedAdapter};
pub use error::AdapterError;
pub use file::{AdapterFile, AdapterInspection, ModuleInspection};
pub use layer_table::LayerTable;
pub use patch::PatchKind;
pub use rows::{AdapterRows, AdapterSet, Leaf};

use patch::WeightPatch;

/// The largest file that is read as an adapter, in bytes of tensors. The largest public ones for the families served have below 1 GB.
pub const MAX_ADAPTER_BYTES: u64 = 2 << 30;
/// The most tensors of one file; the largest public ones have below 5,000.
pub const MAX_ADAPTER_TENSORS: usize = 20_000;
/// The largest rank: beyond it a full difference is smaller.
pub const MAX_ADAPTER_RANK: usize = 2048;
/// The most elements of one layer's difference; the largest layer of the families served, Flux', has 66 million.
pub const MAX_PATCH_ELEMENTS: u64 = 1 << 27;
/// The most adapters that act on one image at once.
pub const MAX_ADAPTERS: usize = 8;
/// Strengths reach from minus this to this.
pub const MAX_ADAPTER_SCALE: f64 = 10.0;
/// Bindings of one adapter that are kept: of so many models, or of so many strengths of one model.
const MAX_BINDINGS: usize = 8;

/// An adapter in memory.
#[derive(Debug)]
pub struct Adapter {
    digest: String,
    family: Option<&'static str>,
    modules: Vec<(String, WeightPatch)>,
    bytes: u64,
    bindings: Mutex<VecDeque<Binding>>,
}

/// A binding and what it is one of.
#[derive(Debug)]
struct Binding {
    model: u64,
    scale_bits: u64,
    bound: Arc<BoundAdapter>,
}

impl Adapter {
    /// sha256 of its file, in hex.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Bytes of its tensors on the device.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// This adapter at strength `scale` for the model called `model`, whose layers are `layers`. The last few bindings are kept, as the
    /// norms of DoRA take as long as an evaluation.
    ///
    /// # Errors
    /// [`AdapterError`] if any part of it does not fit, or the device refuses a tensor.
    pub fn bind(&self, layers: &LayerTable, model: u64, family: &'static str, scale: f64) -> Result<Arc<BoundAdapter>, AdapterError> {
        let scale_bits = scale.to_bits();
        if let Some(known) = self.bindings().iter().find(|known| known.model == model && known.scale_bits == scale_bits) {
            return Ok(Arc::clone(&known.bound));
        }
        let bound = Arc::new(FittedAdapter::new(self, layers, family)?.bind(layers, scale)?);
        let mut bindings = self.bindings();
        bindings.truncate(MAX_BINDINGS - 1);
        bindings.push_front(Binding { model, scale_bits, bound: Arc::clone(&bound) });
        Ok(bound)
    }

    fn bindings(&self) -> std::sync::MutexGuard<'_, VecDeque<Binding>> {
        // A list of bindings is whole whatever happened to a thread that held it.
        self.bindings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The same file makes the same adapter.
impl PartialEq for Adapter {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

/// An adapter and how strongly it acts.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterUse {
    /// What acts.
    pub adapter: Arc<Adapter>,
    /// 1 is as it was trained, 0 is not at all; from minus to plus [`MAX_ADAPTER_SCALE`].
    pub scale: f64,
}
