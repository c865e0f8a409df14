//! What the replica asks of a diffusion engine. The worker knows images only through this trait, so its decisions can be tested with an
//! engine that makes no pictures; [`Diffusion`] is the real one.

mod device;
mod pipeline;
mod refining;

use std::fmt::Write;
use std::sync::Arc;

pub use diffusion::adapter::{Adapter, AdapterFile, AdapterUse};
pub use diffusion::family::{Defaults, Strengths};
pub use diffusion::pipeline::Request;
pub use diffusion::text::{Embedding, NamedEmbedding, PromptSyntax};

pub use device::{DeviceError, DeviceName, Precision};
pub use pipeline::Diffusion;
pub use refining::before;

use crate::picture::Pixels;
use crate::residency::ModelKey;

/// A way of making images in steps. [`Engine::open`] and [`Engine::load`] are called by the thread that reads weights, all else by the one
/// that owns the device.
pub trait Engine: Send + Sync + 'static {
    /// A model folder whose configuration and headers were read.
    type Folder: Send + 'static;
    /// Weights in memory; read-only, shared by all images that use them.
    type Model: Send + Sync + 'static;
    /// One unfinished image: everything that changes from step to step.
    type Image: Send + 'static;

    /// Reads what is needed to know that the folder of `key` holds a model; allocates no tensor of it. Reads the adapters that are to be
    /// merged into it.
    ///
    /// # Errors
    /// [`EngineError::InvalidModel`] if it holds none that can be served, or an adapter does not fit it.
    fn open(&self, key: &ModelKey) -> Result<Self::Folder, EngineError>;

    /// Bytes of memory that the model will take.
    fn footprint(&self, folder: &Self::Folder) -> u64;

    /// What requests get of the model where they do not say.
    fn defaults(&self, folder: &Self::Folder) -> Defaults;

    /// Bytes of memory that an image takes beside the weights, at the worst moment.
    fn image_bytes(&self, of: Weighed<'_, Self::Folder, Self::Model>, request: &Request) -> u64;

    /// Reads the weights, telling bytes done and in all. `sha256` is the digest the model must have, in lowercase hex.
    ///
    /// # Errors
    /// [`EngineError::InvalidModel`] if the weights cannot be read or are others.
    fn load(&self, folder: &Self::Folder, sha256: Option<&str>, progress: &mut dyn FnMut(u64, u64)) -> Result<Self::Model, EngineError>;

    /// Bytes of memory that the adapter will take.
    fn adapter_footprint(&self, file: &AdapterFile) -> u64;

    /// Reads an adapter for all models of this engine; by any thread. `sha256` is the digest it must have, in lowercase hex.
    ///
    /// # Errors
    /// [`EngineError::InvalidRequest`] if it cannot be read or is another.
    fn load_adapter(&self, file: &AdapterFile, sha256: Option<&str>) -> Result<Adapter, EngineError>;

    /// What there is to know of a loaded model.
    fn facts(&self, model: &Self::Model) -> ModelFacts;

    /// Encodes the prompts and makes one state per sample.
    ///
    /// # Errors
    /// [`EngineError::InvalidRequest`] if the request does not fit the model.
    fn prepare(&self, model: &Arc<Self::Model>, request: &Request) -> Result<Vec<Self::Image>, EngineError>;

    /// Indices of images that share a denoiser call, in the order the calls should run, each within `limits` (or one image's, if that is
    /// more). Every image is in exactly one group.
    fn groups(&self, images: &[Candidate<'_, Self::Image>], limits: CallLimits) -> Vec<Vec<usize>>;

    /// Advances each image by one denoiser evaluation.
    fn step(&self, images: &mut [&mut Self::Image]) -> Stepped;

    /// How far an image is.
    fn progress(&self, image: &Self::Image) -> Progress;

    /// What another model is asked for, to go on from `start` with images that [`before`] made of `request`, all of its samples.
    ///
    /// # Errors
    /// [`EngineError::Internal`] if the device failed.
    fn hand_over(&self, images: &[Self::Image], request: &Request, start: f64) -> Result<Request, EngineError>;

    /// The finished image.
    ///
    /// # Errors
    /// [`EngineError::Internal`] if the decoder failed.
    fn decode(&self, image: &Self::Image) -> Result<Pixels, EngineError>;

    /// A look at an image that is not finished.
    ///
    /// # Errors
    /// [`EngineError::Internal`] if the decoder failed.
    fn preview(&self, image: &Self::Image) -> Result<Pixels, EngineError>;
}

/// A model before or after its weights were read.
#[derive(Debug)]
pub enum Weighed<'a, F, M> {
    Unread(&'a F),
    Read(&'a M),
}

/// How large one denoiser call may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallLimits {
    pub rows: usize,
    /// Beside the weights.
    pub bytes: u64,
}

/// An image that waits for its next evaluation.
#[derive(Debug)]
pub struct Candidate<'a, I> {
    pub image: &'a I,
    /// Calls that were run since this image's last one.
    pub passed_over: u64,
}

/// What there is to know of a loaded model.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelFacts {
    /// As manifests spell it.
    pub family: &'static str,
    /// Bytes of memory its weights take.
    pub bytes: u64,
    /// sha256 over its files, in hex.
    pub digest: String,
    pub defaults: Defaults,
    /// The sampler of its folder, diffusers' class name.
    pub sampler: String,
}

/// Denoiser evaluations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub done: usize,
    pub total: usize,
}

impl Progress {
    pub fn is_finished(self) -> bool {
        self.done >= self.total
    }
}

/// What one call of [`Engine::step`] did.
#[derive(Debug)]
pub struct Stepped {
    /// One for each image, in order.
    pub outcomes: Vec<Result<(), EngineError>>,
    /// How often the network ran.
    pub denoiser_calls: usize,
    /// Over how many rows in all.
    pub rows: usize,
}

/// Why the engine could not do something. The text is for people and says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    #[error("{0}")]
    InvalidRequest(String),
    #[error("{0}")]
    InvalidModel(String),
    #[error("{0}")]
    Internal(String),
}

/// An error and all its sources on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // A transparent error repeats its source; saying it once is enough.
        if !text.contains(&cause_text) {
            // Writing to a String cannot fail.
            let _ = write!(text, ": {cause_text}");
        }
        source = cause.source();
    }
    text
}
