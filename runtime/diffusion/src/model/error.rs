use std::path::PathBuf;

use crate::adapter::AdapterError;
use crate::family::SpecError;
use crate::json::ConfigError;
use crate::sampler::SamplerError;
use crate::weights::WeightsError;

/// Why a folder is not a model that can be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// Nothing there.
    #[error("{} is not there; a model is a folder in diffusers' layout, with model_index.json in it, or one safetensors file", path.display())]
    NotFound {
        /// What was asked for.
        path: PathBuf,
    },
    /// A file that is no checkpoint.
    #[error("{} is {kind}, not a whole checkpoint; {remedy}", path.display())]
    NotACheckpoint {
        /// The file.
        path: PathBuf,
        /// What its header says that it is.
        kind: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A file with the tensors of several families.
    #[error("{} holds tensors of {}; two checkpoints were mixed up in it", path.display(), families.join(" and of "))]
    Mixed {
        /// The file.
        path: PathBuf,
        /// The families.
        families: Vec<&'static str>,
    },
    /// A file whose configuration is of another family.
    #[error("{} is {family} by its header, but {} describes {configured}; give the configuration that belongs to it", path.display(), folder.display())]
    OtherFamily {
        /// The file.
        path: PathBuf,
        /// Its family.
        family: &'static str,
        /// The folder of the configuration.
        folder: PathBuf,
        /// The family that it describes.
        configured: &'static str,
    },
    /// A file for which no built-in configuration is enough.
    #[error("{} is {family}, which reads text with T5, whose tokenizer is not built in; give a folder with it as --config (source.config of a ModelDeployment)", path.display())]
    NeedsConfig {
        /// The file.
        path: PathBuf,
        /// Its family.
        family: &'static str,
    },
    /// A configuration beside a folder, which has its own.
    #[error("{} is a folder with its own configuration; --config is for a single file", path.display())]
    ConfigForFolder {
        /// The folder.
        path: PathBuf,
    },
    /// A part that a single file does not have.
    #[error("{} is {family} without a {part}; give one as component {part}, or a whole model's folder as --config (source.config of a ModelDeployment)", path.display())]
    PartNotInFile {
        /// The file.
        path: PathBuf,
        /// Its family.
        family: &'static str,
        /// The part's folder.
        part: &'static str,
    },
    /// A component that the model does not have.
    #[error("the model has no component {name}; it has {}", known.join(", "))]
    UnknownComponent {
        /// What was asked for.
        name: String,
        /// What it has.
        known: Vec<&'static str>,
    },
    /// No such family.
    #[error("{name} is no family that is served; these are: {}", known.join(", "))]
    UnknownFamily {
        /// What was asked for.
        name: String,
        /// All that are served.
        known: Vec<&'static str>,
    },
    /// 8-bit weights that are not what is stored.
    #[error("{}: tensor `{name}` says that weights are scaled 8-bit numbers, which are not read; take the file with plain F8_E4M3, F16 or BF16 weights", path.display())]
    Scaled {
        /// The file.
        path: PathBuf,
        /// The tensor that tells.
        name: String,
    },
    /// No such folder.
    #[error("{} is not a folder; a configuration is a folder in diffusers' layout, with model_index.json in it", path.display())]
    NotAFolder {
        /// What was asked for.
        path: PathBuf,
    },
    /// A file that decides the image cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A configuration cannot be read, or names something that is not served.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The folder's own scheduler is not served.
    #[error("scheduler/scheduler_config.json: {0}")]
    Scheduler(#[from] SamplerError),
    /// The parts' configurations or tokenizers are not those of a model that is served.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// Weights cannot be opened or read.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// Weights are not those that the configuration describes.
    #[error("{part} does not fit its configuration: {source}")]
    Mismatch {
        /// The part's folder.
        part: &'static str,
        /// All that does not fit.
        source: Box<WeightsError>,
    },
    /// What was to take the place of a part is for another model.
    #[error("{part} {} is for another model: {reason}", path.display())]
    OtherComponent {
        /// The part's folder.
        part: &'static str,
        /// What was to take its place.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// An adapter that is to be merged into the weights does not fit them.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
}
