use crate::weights::{StoredDtype, WeightsError};

use super::{MAX_ADAPTER_BYTES, MAX_ADAPTER_RANK, MAX_ADAPTER_TENSORS, MAX_PATCH_ELEMENTS};

/// Why a file is no adapter, or none for this model.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    /// The file cannot be opened or read as safetensors.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// More than is read as an adapter.
    #[error("the file has {bytes} bytes of tensors; an adapter has at most {MAX_ADAPTER_BYTES}")]
    TooLarge {
        /// Of all tensors.
        bytes: u64,
    },
    /// More than is read as an adapter.
    #[error("the file has {count} tensors; an adapter has at most {MAX_ADAPTER_TENSORS}")]
    TooManyTensors {
        /// Of the file.
        count: usize,
    },
    /// There is nothing in it.
    #[error("the file holds no tensors")]
    Empty,
    /// A name that no adapter format has.
    #[error("tensor `{name}` belongs to no adapter format that is served: LoRA, LoCon, LoHa, LoKr, full differences, with or without DoRA")]
    UnknownTensor {
        /// The tensor.
        name: String,
    },
    /// A format that is known and not served.
    #[error(
        "tensor `{name}` is of the format {format}, which is not served; convert the adapter to LoRA, or merge it into a model of its own"
    )]
    UnservedFormat {
        /// The tensor.
        name: String,
        /// The format's usual name.
        format: &'static str,
    },
    /// The file is an embedding.
    #[error("the file is a textual inversion embedding, not an adapter (tensor `{name}`); ask for it as an embedding")]
    Embedding {
        /// The tensor that says so.
        name: String,
    },
    /// Stored as something that is no weight of an adapter.
    #[error("tensor `{name}` is stored as {found}; an adapter's weights are F16, BF16 or F32")]
    StoredDtype {
        /// The tensor.
        name: String,
        /// What is stored.
        found: StoredDtype,
    },
    /// Two tensors for one purpose.
    #[error("`{module}` has two tensors for its {part}")]
    Twice {
        /// The module, as the file names it.
        module: String,
        /// What they both are.
        part: &'static str,
    },
    /// Part of a module is not there, or parts of two formats are.
    #[error("`{module}` does not make a patch: {reason}")]
    Incomplete {
        /// The module, as the file names it.
        module: String,
        /// What is missing.
        reason: String,
    },
    /// Tensors of one module that do not fit together.
    #[error("the tensors of `{module}` do not fit together: {reason}")]
    InnerShapes {
        /// The module, as the file names it.
        module: String,
        /// Which shapes.
        reason: String,
    },
    /// A rank beyond the bound.
    #[error("`{module}` has rank {rank}; at most {MAX_ADAPTER_RANK} are possible")]
    Rank {
        /// The module, as the file names it.
        module: String,
        /// Its rank.
        rank: usize,
    },
    /// A difference beyond the bound.
    #[error("the difference of `{module}` would have {elements} elements; at most {MAX_PATCH_ELEMENTS} are possible")]
    PatchTooLarge {
        /// The module, as the file names it.
        module: String,
        /// Of its difference.
        elements: u64,
    },
    /// Made for another family.
    #[error("the adapter was made for {adapter}, this model is {model}: {reason}")]
    WrongFamily {
        /// What the adapter's names and shapes say.
        adapter: &'static str,
        /// The model's.
        model: &'static str,
        /// The first thing that does not fit.
        reason: String,
    },
    /// A module that the model does not have, of an adapter whose family is not known.
    #[error("`{module}` is no layer of this model, which is {model}; an adapter acts as a whole or not at all")]
    UnknownModule {
        /// As the file names it.
        module: String,
        /// The model's family.
        model: &'static str,
    },
    /// A module of a network that adapters cannot act on.
    #[error(
        "`{module}` acts on T5; adapters act on the denoiser and on CLIP's text encoders alone. Take the adapter without T5's layers, or train it without T5"
    )]
    ActsOnT5 {
        /// As the file names it.
        module: String,
    },
    /// Two modules for one layer.
    #[error("`{first}` and `{second}` are both the layer {layer}")]
    SameLayer {
        /// One module.
        first: String,
        /// The other.
        second: String,
        /// The layer.
        layer: String,
    },
    /// A patch of another shape than the layer.
    #[error("`{module}` does not fit the model's layer {layer} of shape {expected:?}: {reason}")]
    LayerShape {
        /// The module, as the file names it.
        module: String,
        /// The layer.
        layer: String,
        /// The layer's weight.
        expected: Vec<usize>,
        /// What the adapter has.
        reason: String,
    },
    /// The digest is another than the declared one.
    #[error("the adapter's sha256 is {found}, not the declared {declared}; declare that one or mend the file")]
    Digest {
        /// The file's.
        found: String,
        /// What was declared.
        declared: String,
    },
    /// A tensor could not be computed.
    #[error("the engine failed: {0}")]
    Tensor(#[from] candle_core::Error),
}

impl AdapterError {
    /// Whether the engine is at fault, not the file.
    pub fn is_engine_failure(&self) -> bool {
        matches!(self, Self::Tensor(_))
    }
}
