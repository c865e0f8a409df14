//! What a prediction is conditioned on: one branch of one image, immutable, shared by all samples of a request.
//!
//! ```text
//! Description ── Conditioner ─► Encoded ── Denoiser::prepare ─► Conditioning
//! (a request's words and sizes)  (text states, a vector)         (what every evaluation reads)
//! ```

use std::sync::Arc;

use candle_core::Tensor;

use crate::exec::Exec;
use crate::guidance::Branch;
use crate::layers::KeyValue;
use crate::text::{EmbeddingError, EncodeError, NamedEmbedding, PromptSyntax, RequestWords};

/// Text as the denoiser meets it. It does not change with the timestep, so this is computed once per image.
#[derive(Clone, Debug)]
pub enum Context {
    /// Keys and values of every cross-attention, in the order the network runs them. Text enters such a network nowhere else, so prompts of
    /// different lengths can share a call without padding.
    KeyValues(Vec<KeyValue>),
    /// Tokens [T, D] that take part in joint attention: rows of one call have equally many.
    Tokens(Tensor),
}

impl Context {
    /// How many tokens join those of the image; 0 where text enters by cross-attention.
    pub fn joint_tokens(&self) -> usize {
        match self {
            Self::KeyValues(_) => 0,
            // A tensor of no dimension cannot be made of tokens, and a network would refuse it.
            Self::Tokens(tokens) => tokens.dims().first().copied().unwrap_or_default(),
        }
    }
}

/// Conditioning of one branch of one image.
#[derive(Clone, Debug)]
pub struct Conditioning {
    /// The text.
    pub context: Arc<Context>,
    /// [1, P]: pooled text, sizes and the like, as the network adds them to its time embedding.
    pub vector: Option<Tensor>,
    /// The strength of guidance, where that is an input of the network.
    pub guidance: Option<f64>,
}

/// What a conditioner makes of one branch of a request, for [`crate::denoiser::Denoiser::prepare`].
#[derive(Clone, Debug)]
pub struct Encoded {
    /// Text states [1, S, D] in the compute dtype.
    pub states: Tensor,
    /// [1, P] f32: pooled text, and what else the family puts beside it.
    pub vector: Option<Tensor>,
}

/// Sizes and scores that some networks were told in training: "micro-conditioning" of arXiv 2307.01952. Sizes are [height, width] in pixels,
/// coordinates [top, left], names and defaults diffusers'.
#[derive(Clone, Debug, PartialEq)]
pub struct MicroConditioning {
    /// Of the picture before it was scaled; absent means the image's own.
    pub original_size: Option<[usize; 2]>,
    /// Absent means the image's own.
    pub target_size: Option<[usize; 2]>,
    /// Where the picture was cut.
    pub crops_coords_top_left: [usize; 2],
    /// For the negative prediction.
    pub negative_original_size: Option<[usize; 2]>,
    /// For the negative prediction.
    pub negative_target_size: Option<[usize; 2]>,
    /// For the negative prediction.
    pub negative_crops_coords_top_left: [usize; 2],
    /// How beautiful it is to be, 0 … 10.
    pub aesthetic_score: f64,
    /// For the negative prediction.
    pub negative_aesthetic_score: f64,
}

impl Default for MicroConditioning {
    fn default() -> Self {
        Self {
            original_size: None,
            target_size: None,
            crops_coords_top_left: [0, 0],
            negative_original_size: None,
            negative_target_size: None,
            negative_crops_coords_top_left: [0, 0],
            aesthetic_score: 6.0,
            negative_aesthetic_score: 2.5,
        }
    }
}

/// One branch of a request, in its words and numbers.
#[derive(Clone, Copy, Debug)]
pub struct Description<'a> {
    /// Which prediction it is for.
    pub branch: Branch,
    /// `prompt`, `prompt_2`, `prompt_3`, or the negative ones. Absent differs from empty.
    pub prompts: [Option<&'a str>; 3],
    /// How they are read.
    pub syntax: PromptSyntax,
    /// The request's embeddings, from [`Conditioner::words`].
    pub words: &'a RequestWords,
    /// How many of the text encoders' last layers are left out.
    pub clip_skip: usize,
    /// Tokens of text encoders that take more or fewer; absent means the family's own number.
    pub max_sequence_length: Option<usize>,
    /// Height and width of the image, in pixels.
    pub size: [usize; 2],
    /// Whether the image begins with a picture.
    pub from_picture: bool,
    /// What the request says of sizes and scores.
    pub micro: &'a MicroConditioning,
}

/// Turns a request's words into what the denoiser is conditioned on: text encoders, and what the family adds to their answers.
pub trait Conditioner: Send + Sync + std::fmt::Debug {
    /// The largest `clip_skip`.
    fn max_clip_skip(&self) -> usize;

    /// Makes the embeddings of a request ready for its prompts.
    ///
    /// # Errors
    /// [`EmbeddingError`] for those that do not fit the text encoders or each other.
    fn words(&self, embeddings: &[NamedEmbedding], exec: &Exec) -> Result<RequestWords, EmbeddingError>;

    /// One branch of a request. It depends on nothing but `asked` and the adapters of `exec`.
    ///
    /// # Errors
    /// When a prompt is not acceptable or an encoder fails.
    fn encode(&self, asked: &Description<'_>, exec: &Exec) -> Result<Encoded, EncodeError>;
}
