use std::path::PathBuf;

use crate::adapter::AdapterError;
use crate::family::SpecError;
use crate::json::ConfigError;
use crate::sampler::SamplerError;
use crate::weights::WeightsError;

/// Why a folder is not a model that can be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// No such folder.
    #[error("{} is not a folder; a model is a folder in diffusers' layout, with model_index.json in it", path.display())]
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
    /// An adapter that is to be merged into the weights does not fit them.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
}
