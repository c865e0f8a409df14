use super::InvalidStart;
use crate::adapter::AdapterError;
use crate::sampler::{NoiseError, SamplerError};
use crate::text::{EmbeddingError, EncodeError, PromptError};

/// Why an image was not made.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// The request asks for something that cannot be: its maker's to mend.
    #[error(transparent)]
    InvalidRequest(#[from] InvalidRequest),
    /// The latents hold infinities or NaN: the image is lost, its neighbours are not.
    #[error(
        "the latents are no longer finite after evaluation {evaluation} of {evaluations}; try another sampler, a lower guidance scale or f32"
    )]
    NotFinite {
        /// Counted from 1.
        evaluation: usize,
        /// How many there are.
        evaluations: usize,
    },
    /// The decoded picture holds infinities or NaN, which would be black.
    #[error(
        "the autoencoder made a picture that is not finite: its numbers are too large for this precision. Load the model as f32 or bf16, or give it a mended autoencoder as component vae"
    )]
    NotFinitePicture,
    /// The image was stepped after its last evaluation, or decoded before it.
    #[error("the image has done {done} of {total} evaluations and cannot be asked for {asked}")]
    OutOfOrder {
        /// Evaluations done.
        done: usize,
        /// All evaluations.
        total: usize,
        /// What was asked for.
        asked: &'static str,
    },
    /// The given noise does not suffice or has another shape.
    #[error(transparent)]
    Noise(#[from] NoiseError),
    /// The engine failed.
    #[error("the engine failed: {0}")]
    Tensor(#[from] candle_core::Error),
}

impl PipelineError {
    /// Whether the request is at fault, not the engine.
    pub fn is_invalid_request(&self) -> bool {
        matches!(self, Self::InvalidRequest(_) | Self::Noise(_))
    }
}

/// What is wrong with a request.
#[derive(Debug, thiserror::Error)]
pub enum InvalidRequest {
    /// A side that cannot be.
    #[error("{name} is {value}; it must be a multiple of {multiple} from {multiple} to {limit}")]
    Size {
        /// width or height.
        name: &'static str,
        /// What was asked for, in pixels.
        value: usize,
        /// Sides are multiples of this, in pixels.
        multiple: usize,
        /// The longest side, in pixels.
        limit: usize,
    },
    /// No image, or too many.
    #[error("samples is {value}; it must be from 1 to {limit}")]
    Samples {
        /// What was asked for.
        value: usize,
        /// The most.
        limit: usize,
    },
    /// A number that is not one, or out of bounds.
    #[error("{name} is {value}; it must be {accepted}")]
    Number {
        /// The request's field.
        name: &'static str,
        /// What was asked for.
        value: f64,
        /// What would be accepted.
        accepted: &'static str,
    },
    /// A field that networks of this family do not read.
    #[error("this model is of the family {family}, which does not use {field}; leave it out")]
    Unheeded {
        /// The request's field.
        field: &'static str,
        /// The model's family.
        family: &'static str,
    },
    /// No evaluation lies between the two shares.
    #[error("no step lies between denoising_start {} and denoising_end {}; move them apart, or ask for more steps", said(*start), said(*end))]
    NothingBetween {
        /// What was asked for.
        start: Option<f64>,
        /// What was asked for.
        end: Option<f64>,
    },
    /// More layers skipped than can be.
    #[error("clip_skip is {value}; of this model's text encoders at most {limit} layers can be left out")]
    ClipSkip {
        /// What was asked for.
        value: usize,
        /// The most.
        limit: usize,
    },
    /// The sampler, its options or the step count.
    #[error(transparent)]
    Sampler(#[from] SamplerError),
    /// More adapters than act at once.
    #[error("{value} adapters are too many; at most {limit} act on one image")]
    TooManyAdapters {
        /// What was asked for.
        value: usize,
        /// The most.
        limit: usize,
    },
    /// An adapter that does not fit the model.
    #[error("adapter {number}: {source}")]
    Adapter {
        /// Counted from 1, in the request's order.
        number: usize,
        /// Why not.
        source: Box<AdapterError>,
    },
    /// A prompt that is not acceptable.
    #[error("{field}: {source}")]
    Prompt {
        /// The request's field.
        field: &'static str,
        /// Why not.
        source: PromptError,
    },
    /// Embeddings that do not fit the model or each other.
    #[error("embeddings: {0}")]
    Embeddings(EmbeddingError),
    /// What the request begins with.
    #[error(transparent)]
    Start(#[from] InvalidStart),
    /// Given latents of another shape.
    #[error("the given {name} latents have shape {found:?}; this request needs {expected:?}")]
    LatentsShape {
        /// Initial or image.
        name: &'static str,
        /// The given shape.
        found: Vec<usize>,
        /// [n, c, h, w].
        expected: Vec<usize>,
    },
}

fn said(share: Option<f64>) -> String {
    share.map_or_else(|| "(absent)".to_owned(), |share| share.to_string())
}

impl InvalidRequest {
    /// Only a failing device is not the request's fault.
    pub(super) fn from_embeddings(error: EmbeddingError) -> PipelineError {
        match error {
            EmbeddingError::Tensor(source) => source.into(),
            error => Self::Embeddings(error).into(),
        }
    }

    /// A failed encoding is the request's fault only where the prompt was refused.
    pub(super) fn from_encoding(error: EncodeError) -> PipelineError {
        match error {
            EncodeError::Prompt { field, source } => Self::Prompt { field, source }.into(),
            EncodeError::Tensor(source) => source.into(),
        }
    }
}
