//! Textual inversion (Gal et al. 2022): words that are not in the vocabulary, learned as vectors of the text encoder's embedding table.
//!
//! Three file formats are read, all safetensors, told apart by their tensors' names:
//! - AUTOMATIC1111's: `emb_params` [n, D]. The prompt's word is the file's name, which only its owner knows.
//! - diffusers': the tensor is named by the word, such as `<cat-toy>`; [D] or [n, D].
//! - for models with several text encoders: a tensor for each of CLIP's, named by it, all with the same n; the word is the file's name.
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

/// Names of tensors for one of several text encoders.
const ENCODERS: [&str; 2] = ["clip_g", "clip_l"];
/// Names of tensors for T5, whose tokenizer takes no words.
const T5: [&str; 2] = ["t5xxl", "t5"];

/// Learned vectors, as a file holds them. Cheap to clone.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding {
    /// One for each text encoder; never empty, all with the same number of vectors.
    tables: Arc<[Table]>,
    word: Option<String>,
}

/// The vectors for one text encoder.
#[derive(Clone, Debug, PartialEq)]
struct Table {
    /// Which of several.
    encoder: Option<&'static str>,
    /// Row after row.
    values: Vec<f32>,
    width: usize,
}

impl Table {
    fn vectors(&self) -> usize {
        self.values.len() / self.width
    }
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
    /// It has vectors for T5.
    #[error(
        "{} holds vectors for T5 (`{name}`); words of a prompt stand for vectors of CLIP's text encoders alone ({}). Take the file without `{name}`, or train the embedding without T5",
        path.display(), ENCODERS.join(", ")
    )]
    T5 {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: &'static str,
    },
    /// Another number of vectors for each text encoder.
    #[error("{} holds another number of vectors for each text encoder; a word stands for equally many in all of them", path.display())]
    Uneven {
        /// The file.
        path: PathBuf,
    },
    /// It holds something else.
    #[error(
        "{} holds {count} tensors; an embedding holds one (`{PARAMETERS}`, or one that is named by its word), or one for each of several text encoders ({}). Is it a LoRA, or a model?",
        path.display(), ENCODERS.join(", ")
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
    /// Made for models with other text encoders.
    #[error("`{name}` has {found}, and this model needs {needed}. The embedding was made for another family of models")]
    Encoders {
        /// Its first word.
        name: String,
        /// What the embedding has.
        found: String,
        /// What the model has.
        needed: String,
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
        if let Some(name) = T5.into_iter().find(|name| file.index().get(name).is_some()) {
            return Err(EmbeddingFileError::T5 { path: path.to_path_buf(), name });
        }
        let encoder = |name: &str| ENCODERS.into_iter().find(|encoder| *encoder == name);
        let are_for_encoders = !tensors.is_empty() && tensors.iter().all(|(name, _)| encoder(name).is_some());
        if tensors.len() != 1 && !are_for_encoders {
            return Err(EmbeddingFileError::Tensors { path: path.to_path_buf(), count: tensors.len() });
        }
        // Shapes first: nothing is allocated for a file that is refused.
        let shapes = tensors.iter().map(|(name, info)| shape(path, name, info)).collect::<Result<Vec<_>, _>>()?;
        if shapes.iter().any(|(vectors, _)| *vectors != shapes[0].0) {
            return Err(EmbeddingFileError::Uneven { path: path.to_path_buf() });
        }
        let table = |((name, info), (_, width)): (&(&str, &TensorInfo), &(usize, usize))| {
            let tensor = file.tensor(name, &info.shape, DType::F32, &Device::Cpu)?;
            let values = tensor.flatten_all().and_then(|values| values.to_vec1::<f32>());
            let values = values.map_err(|source| WeightsError::Tensor { name: (*name).to_owned(), source })?;
            Ok(Table { encoder: encoder(name), values, width: *width })
        };
        let tables = tensors.iter().zip(&shapes).map(table).collect::<Result<_, EmbeddingFileError>>()?;
        let named = tensors.first().map(|(name, _)| *name).filter(|name| *name != PARAMETERS && !are_for_encoders);
        Ok(Self { tables, word: named.map(str::to_owned) })
    }

    /// The word that the file names, if its format has one.
    pub fn word(&self) -> Option<&str> {
        self.word.as_deref()
    }

    /// How many vectors a word stands for.
    pub fn vectors(&self) -> usize {
        self.tables.first().map_or(0, Table::vectors)
    }

    /// Features of a vector, for each text encoder.
    pub fn widths(&self) -> impl Iterator<Item = usize> {
        self.tables.iter().map(|table| table.width)
    }

    /// Bytes of memory it takes.
    pub fn bytes(&self) -> usize {
        self.tables.iter().map(|table| size_of_val::<[f32]>(&table.values)).sum()
    }

    /// The vectors for the model's text encoder `wanted`. A model with only one takes a file for only one, whatever it calls it.
    fn table(&self, wanted: Option<&'static str>) -> Option<&Table> {
        match (wanted, &*self.tables) {
            (None, [only]) => Some(only),
            _ => self.tables.iter().find(|table| table.encoder == wanted),
        }
    }
}

/// Vectors and width of a tensor.
fn shape(path: &Path, name: &str, info: &TensorInfo) -> Result<(usize, usize), EmbeddingFileError> {
    let (vectors, width) = match *info.shape.as_slice() {
        [width] => (1, width),
        [vectors, width] => (vectors, width),
        _ => (0, 0),
    };
    if (1..=MAX_EMBEDDING_VECTORS).contains(&vectors) && (1..=MAX_FEATURES).contains(&width) {
        return Ok((vectors, width));
    }
    Err(EmbeddingFileError::Shape { path: path.to_path_buf(), name: name.to_owned(), shape: info.shape.clone() })
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
        encoder_name: Option<&'static str>,
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
            let table = fitting(named, encoder_name, encoder.features(), tokenizer.room())?;
            words.name(named, next, tokenizer)?;
            next += table.vectors() as u32;
            let tensor = Tensor::from_slice(&table.values, (table.vectors(), table.width), &exec.device)?;
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

/// The vectors of an embedding for one text encoder, if they fit it.
fn fitting<'a>(
    named: &'a NamedEmbedding,
    encoder: Option<&'static str>,
    expected: usize,
    room: usize,
) -> Result<&'a Table, EmbeddingError> {
    let name = || named.names.first().map_or_else(String::new, |name| beginning(name));
    let Some(table) = named.embedding.table(encoder) else {
        let vectors = |encoder: Option<&str>| encoder.map_or("vectors for a single text encoder".to_owned(), |name| format!("`{name}`"));
        let found: Vec<String> = named.embedding.tables.iter().map(|table| vectors(table.encoder)).collect();
        return Err(EmbeddingError::Encoders { name: name(), found: found.join(" and "), needed: vectors(encoder) });
    };
    let (found, count) = (table.width, table.vectors());
    if found != expected {
        return Err(EmbeddingError::Width { name: name(), found, expected });
    }
    if count > room {
        return Err(EmbeddingError::Vectors { name: name(), count, room });
    }
    Ok(table)
}
