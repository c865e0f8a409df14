//! Textual inversion (Gal et al. 2022): words that are not in the vocabulary, learned as vectors of the text encoder's embedding table.
//!
//! Two file formats are read, both safetensors, told apart by their one tensor's name:
//! - AUTOMATIC1111's: `emb_params` [n, D]. The prompt's word is the file's name, which only its owner knows.
//! - diffusers': the tensor is named by the word, such as `<cat-toy>`; [D] or [n, D].
//!
//! A word is found as diffusers finds it after `load_textual_inversion`: anywhere in a prompt, letter by letter, the longest first. It stands
//! for all n vectors in order; `word_1`, `word_2`, … stand for one of them each. Vectors are looked up beside the model's table, which is
//! never changed: what one request brings along no other can see.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::ClipTextEncoder;
use crate::dimensions::MAX_FEATURES;
use crate::exec::Exec;
use crate::family;
use crate::tokenizer::{ExtraWords, Tokenizer};
use crate::weights::{TensorInfo, WeightSource, WeightsError, open_file};

/// The most vectors of one embedding: as many as tokens fit into one row of CLIP's text encoders.
pub const MAX_EMBEDDING_VECTORS: usize = 75;
/// The most embeddings of one request.
pub const MAX_EMBEDDINGS: usize = 32;
/// The longest word that names an embedding.
pub const MAX_EMBEDDING_NAME_BYTES: usize = 256;

/// AUTOMATIC1111's name for the tensor.
const PARAMETERS: &str = "emb_params";

/// Learned vectors, as a file holds them. Cheap to clone.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding {
    /// Row after row.
    values: Arc<[f32]>,
    width: usize,
    word: Option<String>,
}

/// An embedding and the words by which prompts name it.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedEmbedding {
    /// Those that the tokenizer knows as one token already are passed over; one must be left.
    pub names: Vec<String>,
    /// What they stand for.
    pub embedding: Embedding,
}

/// Why a file is no embedding.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddingFileError {
    /// It cannot be read, or is no safetensors file.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// It is for a family with other text encoders.
    #[error("{} is an embedding for {family}, which is not served; take the one made for this model's family", path.display())]
    Family {
        /// The file.
        path: PathBuf,
        /// The family.
        family: &'static str,
    },
    /// It holds something else.
    #[error(
        "{} holds {count} tensors; an embedding holds one: `{PARAMETERS}`, or one that is named by its word. Is it a LoRA, or a model?",
        path.display()
    )]
    Tensors {
        /// The file.
        path: PathBuf,
        /// How many there are.
        count: usize,
    },
    /// A tensor of another shape.
    #[error(
        "{}: the tensor `{name}` has shape {shape:?}; an embedding is [width] or [vectors, width], with 1 to {MAX_EMBEDDING_VECTORS} vectors",
        path.display()
    )]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// Infinities or NaN.
    #[error("{} holds values that are not finite; train or convert it again", path.display())]
    NotFinite {
        /// The file.
        path: PathBuf,
    },
}

/// Why embeddings cannot be used in a request.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddingError {
    /// Too many.
    #[error("{count} are too many; at most {MAX_EMBEDDINGS} are taken")]
    TooMany {
        /// What was given.
        count: usize,
    },
    /// A word that cannot be one.
    #[error(
        "`{}` is no word for an embedding; it has 1 to {MAX_EMBEDDING_NAME_BYTES} bytes, no control characters, and no space at its ends",
        name.escape_debug()
    )]
    Name {
        /// The beginning of the word.
        name: String,
    },
    /// No word is left that the tokenizer does not know.
    #[error("{} is a word of the model's vocabulary already; name the embedding otherwise", quoted(names))]
    Taken {
        /// All words that were given.
        names: Vec<String>,
    },
    /// Two embeddings with one word.
    #[error("`{name}` names two embeddings, or one vector of another; name one of them otherwise")]
    Ambiguous {
        /// The word.
        name: String,
    },
    /// Made for another text encoder.
    #[error(
        "`{name}` has vectors of {found} features; this model's text encoder has {expected}. The embedding was made for another family of models"
    )]
    Width {
        /// Its first word.
        name: String,
        /// Features of the embedding's vectors.
        found: usize,
        /// Features of the model's tokens.
        expected: usize,
    },
    /// More vectors than fit into a row.
    #[error("`{name}` has {count} vectors; this model's text encoder takes {room} tokens at once")]
    Vectors {
        /// Its first word.
        name: String,
        /// How many there are.
        count: usize,
        /// Tokens of one row.
        room: usize,
    },
    /// The device refuses the vectors.
    #[error("the vectors cannot be put on the device: {0}")]
    Tensor(#[from] candle_core::Error),
}

fn quoted(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

impl Embedding {
    /// Reads a file in either format, whatever float it stores. Nothing is allocated before its shape is known to be within bounds.
    ///
    /// # Errors
    /// [`EmbeddingFileError`].
    pub fn open(path: &Path) -> Result<Self, EmbeddingFileError> {
        let file = open_file(path)?;
        let tensors: Vec<(&str, &TensorInfo)> = file.index().iter().collect();
        if let Some(family) = family::of_embedding_tensors(tensors.iter().map(|(name, _)| *name)) {
            return Err(EmbeddingFileError::Family { path: path.to_path_buf(), family });
        }
        let [(name, info)] = tensors.as_slice() else {
            return Err(EmbeddingFileError::Tensors { path: path.to_path_buf(), count: tensors.len() });
        };
        let (vectors, width) = match *info.shape.as_slice() {
            [width] => (1, width),
            [vectors, width] => (vectors, width),
            _ => (0, 0),
        };
        if !(1..=MAX_EMBEDDING_VECTORS).contains(&vectors) || !(1..=MAX_FEATURES).contains(&width) {
            return Err(EmbeddingFileError::Shape { path: path.to_path_buf(), name: (*name).to_owned(), shape: info.shape.clone() });
        }
        let tensor = file.tensor(name, &info.shape, DType::F32, &Device::Cpu)?;
        let values = tensor.flatten_all().and_then(|values| values.to_vec1::<f32>());
        let values = values.map_err(|source| WeightsError::Tensor { name: (*name).to_owned(), source })?;
        if !values.iter().all(|value| value.is_finite()) {
            return Err(EmbeddingFileError::NotFinite { path: path.to_path_buf() });
        }
        let word = (*name != PARAMETERS).then(|| (*name).to_owned());
        Ok(Self { values: values.into(), width, word })
    }

    /// The word that the file names, if its format has one.
    pub fn word(&self) -> Option<&str> {
        self.word.as_deref()
    }

    /// How many vectors it has.
    pub fn vectors(&self) -> usize {
        self.values.len() / self.width
    }

    /// Features of a vector.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Bytes of memory it takes.
    pub fn bytes(&self) -> usize {
        size_of_val::<[f32]>(&self.values)
    }
}

/// The embeddings of one request, ready for its prompts: for each text encoder, in the conditioner's order.
#[derive(Clone, Debug)]
pub struct RequestWords(Vec<EncoderWords>);

impl RequestWords {
    /// Of every text encoder's.
    pub fn new(encoders: Vec<EncoderWords>) -> Self {
        Self(encoders)
    }

    /// Those of one text encoder.
    ///
    /// # Panics
    /// If there is no such encoder: words come from the conditioner that reads them.
    pub(crate) fn of(&self, encoder: usize) -> &EncoderWords {
        &self.0[encoder]
    }
}

/// The embeddings of one request as one text encoder takes them.
#[derive(Clone, Debug)]
pub struct EncoderWords {
    extra: ExtraWords,
    /// [all vectors, D] in the compute dtype.
    vectors: Option<Tensor>,
}

impl EncoderWords {
    pub(super) fn new(
        embeddings: &[NamedEmbedding],
        tokenizer: &Tokenizer,
        encoder: &ClipTextEncoder,
        exec: &Exec,
    ) -> Result<Self, EmbeddingError> {
        if embeddings.len() > MAX_EMBEDDINGS {
            return Err(EmbeddingError::TooMany { count: embeddings.len() });
        }
        let mut words = Self { extra: tokenizer.extra_words(), vectors: None };
        let mut tensors = Vec::with_capacity(embeddings.len());
        // Their ids follow those of the model; all counts are bounded far below 32 bits.
        let mut next = encoder.vocabulary() as u32;
        for named in embeddings {
            let embedding = &named.embedding;
            check_fit(named, encoder.features(), tokenizer.room())?;
            words.name(named, next, tokenizer)?;
            next += embedding.vectors() as u32;
            let tensor = Tensor::from_slice(&embedding.values, (embedding.vectors(), embedding.width), &exec.device)?;
            tensors.push(tensor.to_dtype(exec.compute)?);
        }
        if !tensors.is_empty() {
            words.vectors = Some(Tensor::cat(&tensors, 0)?);
        }
        Ok(words)
    }

    pub(super) fn extra(&self) -> &ExtraWords {
        &self.extra
    }

    pub(super) fn vectors(&self) -> Option<&Tensor> {
        self.vectors.as_ref()
    }

    /// Lets all names that are free stand for the vectors from `first` on.
    fn name(&mut self, named: &NamedEmbedding, first: u32, tokenizer: &Tokenizer) -> Result<(), EmbeddingError> {
        let mut free = HashSet::new();
        for name in &named.names {
            check_name(name)?;
            if !tokenizer.is_token(name) && free.insert(name) {
                self.claim(name, first, named.embedding.vectors())?;
            }
        }
        if free.is_empty() { Err(EmbeddingError::Taken { names: named.names.clone() }) } else { Ok(()) }
    }

    fn claim(&mut self, name: &str, first: u32, count: usize) -> Result<(), EmbeddingError> {
        let numbered = (1..count).map(|at| format!("{name}_{at}"));
        if let Some(name) = std::iter::once(name.to_owned()).chain(numbered).find(|name| self.extra.has(name)) {
            return Err(EmbeddingError::Ambiguous { name });
        }
        self.extra.insert(name, first, count as u32);
        Ok(())
    }
}

fn check_name(name: &str) -> Result<(), EmbeddingError> {
    let is_word = !name.is_empty() && name.len() <= MAX_EMBEDDING_NAME_BYTES && name.trim() == name && !name.contains(char::is_control);
    if is_word { Ok(()) } else { Err(EmbeddingError::Name { name: beginning(name) }) }
}

/// Enough of a word to be recognised in a message.
fn beginning(name: &str) -> String {
    name.chars().take(MAX_EMBEDDING_NAME_BYTES / 4).collect()
}

fn check_fit(named: &NamedEmbedding, expected: usize, room: usize) -> Result<(), EmbeddingError> {
    let name = || named.names.first().map_or_else(String::new, |name| beginning(name));
    let (found, count) = (named.embedding.width, named.embedding.vectors());
    if found != expected {
        return Err(EmbeddingError::Width { name: name(), found, expected });
    }
    if count > room {
        return Err(EmbeddingError::Vectors { name: name(), count, room });
    }
    Ok(())
}
