//! A model's files, a folder in diffusers' layout or one file: opened and checked, then loaded.
//!
//! ```text
//! ModelFolder::open(path)    configurations parsed, headers read, every tensor's shape compared; no tensor is allocated
//!        │ merge(adapters)                    those declared for the model itself, if any: compared, not yet read into anything
//!        │ load(device, dtype, progress)      text encoders → denoiser → VAE
//!        ▼
//!      Model                 immutable, shared by all requests
//! ```
//! This module knows which files make a model, and no request.

mod error;
mod expectation;
mod files;
mod inspection;
mod origin;
mod replacement;
mod sources;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use candle_core::{DType, Device};
use serde_json::{Map, Value};

pub use error::ModelError;
pub use expectation::{CallBytes, Expectation, ExpectedLayout, ExpectedPart, ExpectedTensor, MemoryBytes};
pub use files::FilesDigest;
pub use inspection::{ComponentInspection, Inspection, TensorInspection};
pub use origin::ModelFiles;

use crate::adapter::{AdapterError, AdapterUse, BoundAdapter, FittedAdapter, LayerTable};
use crate::conditioning::Conditioner;
use crate::denoiser::Denoiser;
use crate::exec::Exec;
use crate::family::{self, Defaults, ModelSpec, Part};
use crate::json::{Config, ConfigError};
use crate::memory::Computing;
use crate::sampler::{self, SamplerError};
use crate::vae::Vae;
use crate::weights::{TensorIndex, sha256_of_file};
use origin::{Origin, PartWeights};
use replacement::Replacement;
use sources::{FileSources, ShapeRecorders};

/// The autoencoder's folder, in every family.
pub(crate) const VAE: &str = "vae";
/// The longest side of an image, in pixels: beyond this, attention over all positions costs more than any deadline allows.
pub const MAX_SIDE_PIXELS: usize = 2048;
/// The most images of one request.
pub const MAX_SAMPLES: usize = 64;

/// How far loading has come; told before each part and after each tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadProgress {
    /// The part's folder.
    pub component: &'static str,
    /// Bytes of all parts read so far, as stored.
    pub bytes: u64,
    /// Bytes of all parts, as stored.
    pub total_bytes: u64,
}

/// What sizes and numbers a request may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Both sides are multiples of this, in pixels.
    pub size_multiple: usize,
    /// The longest side, in pixels.
    pub max_side_pixels: usize,
    /// Images of one request.
    pub max_samples: usize,
    /// Solver steps of one image.
    pub max_steps: usize,
    /// The largest `clip_skip`.
    pub max_clip_skip: usize,
}

/// Files that were read as far as needed to know that they make a model: a folder, or one file.
#[derive(Debug)]
pub struct ModelFolder {
    origin: Origin,
    spec: Arc<dyn ModelSpec>,
    scheduler: Config,
    parts: Vec<OpenPart>,
    /// With tensors of no size.
    layers: LayerTable,
    /// Of parts that come from elsewhere.
    replacements: Vec<Replacement>,
    merges: Vec<Merge>,
    digest: OnceLock<String>,
}

/// An adapter that becomes part of the weights.
#[derive(Debug)]
struct Merge {
    adapter: FittedAdapter,
    digest: String,
    scale: f64,
}

/// The scheduler's configuration under the class that `model_index.json` names: as in diffusers, that one counts where the two differ.
fn open_scheduler(folder: &Path, model_index: &Config) -> Result<Config, ConfigError> {
    let scheduler = Config::open(folder.join("scheduler/scheduler_config.json"))?;
    let named = model_index.value("scheduler").and_then(|library_and_class| library_and_class.get(1));
    Ok(match named {
        Some(class @ Value::String(_)) => scheduler.overridden(&Map::from_iter([("_class_name".to_owned(), class.clone())])),
        _ => scheduler,
    })
}

struct OpenPart {
    part: Part,
    weights: PartWeights,
    /// Tensors of its folder that its network does not ask for.
    unused: Vec<String>,
}

impl std::fmt::Debug for OpenPart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenPart").field("part", &self.part).finish_non_exhaustive()
    }
}

impl OpenPart {
    fn index(&self) -> &TensorIndex {
        self.weights.source().index()
    }

    fn elements(&self) -> u64 {
        self.index().iter().map(|(_, info)| info.elements()).sum()
    }
}

impl ModelFolder {
    /// Opens a folder or a single file with built-in configurations: parses the configurations, reads the headers of the weights, and
    /// compares every shape.
    ///
    /// # Errors
    /// [`ModelError`] naming the file and what is wrong with it. All tensors that do not fit are named at once.
    pub fn open(model: &Path) -> Result<Self, ModelError> {
        Self::open_files(&ModelFiles::of(model))
    }

    /// As [`Self::open`], from wherever the files are.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_files(files: &ModelFiles) -> Result<Self, ModelError> {
        let origin = Origin::open(files)?;
        let folder = origin.folder.as_path();
        let model_index = Config::open(folder.join("model_index.json"))?;
        let spec: Arc<dyn ModelSpec> = Arc::from(family::open(folder)?);
        origin.check(spec.as_ref())?;
        let scheduler = open_scheduler(folder, &model_index)?;
        match sampler::from_config(&scheduler, None, &Map::new()) {
            Ok(own) => sampler::check_kind(own.name(), spec.is_flow())?,
            // Requests may name one that is served; only those that don't are refused.
            Err(SamplerError::UnknownSampler { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let asked = ShapeRecorders::of_nothing(spec.as_ref())?.into_asked();
        let open = |(part, asked): (Part, Vec<_>)| {
            let weights = origin.part(&part, spec.family(), &asked)?;
            Ok::<_, ModelError>(OpenPart { part, weights, unused: Vec::new() })
        };
        let mut parts = asked.into_iter().map(open).collect::<Result<Vec<_>, _>>()?;
        let expected = ShapeRecorders::of(&parts, spec.as_ref())?;
        expected.check()?;
        let unused = expected.unused();
        let layers = LayerTable::new(expected.into_layers());
        for (part, unused) in parts.iter_mut().zip(unused) {
            part.unused = unused;
        }
        let replaced = parts.iter().filter_map(|open| Some((open.part.folder, files.components.get(open.part.folder)?)));
        let replacements = replaced.map(|(part, path)| Replacement::new(&origin, part, path)).collect::<Result<_, _>>()?;
        Ok(Self { origin, spec, scheduler, parts, layers, replacements, merges: Vec::new(), digest: OnceLock::new() })
    }

    /// Tensors that no network asks for, in the order of their names.
    pub fn unused(&self) -> Vec<String> {
        let of_folder = |open: &OpenPart| open.unused.iter().map(|name| format!("{}/{name}", open.part.folder)).collect::<Vec<_>>();
        let of_folders = self.parts.iter().filter(|open| matches!(open.weights, PartWeights::Folder(_))).flat_map(of_folder);
        let of_file = self.origin.unused(self.parts.iter().map(|open| &open.weights));
        of_file.into_iter().chain(of_folders).collect()
    }

    /// Makes `adapters` part of the weights, besides those that already are; a strength of 0 is none at all. They must be in memory in f32
    /// on the CPU, so that each weight is rounded once.
    ///
    /// # Errors
    /// [`AdapterError`] if any of them does not fit this model.
    pub fn merge(mut self, adapters: &[AdapterUse]) -> Result<Self, AdapterError> {
        for AdapterUse { adapter, scale } in adapters.iter().filter(|asked| asked.scale != 0.0) {
            let (digest, scale) = (adapter.digest().to_owned(), *scale);
            self.merges.push(Merge { adapter: FittedAdapter::new(adapter, &self.layers, self.spec.family())?, digest, scale });
        }
        Ok(self)
    }

    /// What the folder holds.
    pub fn inspect(&self) -> Inspection {
        Inspection::of_open(self)
    }

    /// What decides an image besides the request: [`Self::files_digest`], and where it has parts from elsewhere or adapters SHA-256 in hex over
    /// it and them.
    ///
    /// # Errors
    /// [`ModelError`] when a file cannot be read.
    pub fn digest(&self) -> Result<String, ModelError> {
        let files = self.files_digest()?;
        let adapters = self.merges.iter().map(|merge| (merge.digest.as_str(), merge.scale));
        let replaced = self.replacements.iter().map(|replacement| replacement.part);
        let parts = replaced.map(|part| Ok((part, self.part_digest(part)?))).collect::<Result<Vec<_>, ModelError>>()?;
        Ok(if self.merges.is_empty() && parts.is_empty() { files } else { files::combined_digest(&files, &parts, adapters) })
    }

    /// SHA-256 in hex of the file that a part comes from elsewhere, or of the sorted list of digests and names of several. Files are streamed; the
    /// result is kept.
    ///
    /// # Errors
    /// [`ModelError`] when a file cannot be read, or the part is the model's own.
    pub fn part_digest(&self, part: &str) -> Result<String, ModelError> {
        let replacement = self.replacements.iter().find(|replacement| replacement.part == part);
        let open = self.parts.iter().find(|open| open.part.folder == part);
        let known = || self.replacements.iter().map(|replacement| replacement.part).collect();
        match replacement.zip(open) {
            Some((replacement, open)) => replacement.digest(open),
            None => Err(ModelError::UnknownComponent { name: part.to_owned(), known: known() }),
        }
    }

    /// SHA-256 in hex over configurations, vocabularies and weights with their names; of a single file with built-in configurations its own.
    /// Parts from elsewhere change nothing about it. Files are streamed; the result is kept.
    ///
    /// # Errors
    /// [`ModelError`] when a file cannot be read.
    pub fn files_digest(&self) -> Result<String, ModelError> {
        if let Some(digest) = self.digest.get() {
            return Ok(digest.clone());
        }
        let digest = match self.origin.only_file() {
            Some(file) => sha256_of_file(file)?,
            None => files::digest(&self.origin.folder, &self.deciding_paths())?,
        };
        Ok(self.digest.get_or_init(|| digest).clone())
    }

    /// The files that [`Self::files_digest`] is of, in its order; see [`FilesDigest`].
    pub fn deciding_files(&self) -> Vec<PathBuf> {
        self.deciding_paths().into_iter().collect()
    }

    fn deciding_paths(&self) -> BTreeSet<PathBuf> {
        let own = |part: &'_ OpenPart| {
            let replacement = self.replacements.iter().find(|replacement| replacement.part == part.part.folder);
            replacement.map_or_else(|| part.index().files().to_vec(), |replacement| replacement.own.clone())
        };
        files::deciding(&self.origin.folder, self.spec.as_ref(), self.parts.iter().flat_map(own))
    }

    /// The family's name, as manifests spell it.
    pub fn family(&self) -> &'static str {
        self.spec.family()
    }

    /// The class of its own sampler.
    pub fn own_sampler(&self) -> Option<&str> {
        self.scheduler.value("_class_name").and_then(Value::as_str)
    }

    /// Tensors of all parts.
    pub fn tensors(&self) -> usize {
        self.parts.iter().map(|part| part.index().len()).sum()
    }

    /// SHA-256 in hex that pins the model's source: that of a single file, whatever lies beside it, else [`Self::files_digest`].
    ///
    /// # Errors
    /// [`ModelError`] when a file cannot be read.
    pub fn source_digest(&self) -> Result<String, ModelError> {
        match self.origin.single_file() {
            Some(file) => Ok(sha256_of_file(file)?),
            None => self.files_digest(),
        }
    }

    /// Bytes of all weights, as stored.
    pub fn stored_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.index().bytes()).sum()
    }

    /// The 16 bits that the model's family is computed in where nobody says.
    pub fn half_precision(&self) -> DType {
        self.spec.half_precision()
    }

    /// Bytes of the parameters once loaded in `dtype`.
    pub fn loaded_bytes(&self, dtype: DType) -> u64 {
        let bytes = |open: &OpenPart| open.elements().saturating_mul(self.spec.part_dtype(open.part.folder, dtype).size_in_bytes() as u64);
        self.parts.iter().map(bytes).fold(0, u64::saturating_add)
    }

    /// What requests get where they do not say.
    pub fn defaults(&self) -> Defaults {
        self.spec.defaults()
    }

    /// What its networks take of memory when they run on `device` in `dtype`.
    pub fn computing(&self, device: &Device, dtype: DType) -> Computing {
        Computing::new(Arc::clone(&self.spec), device.is_cpu(), dtype)
    }

    /// Reads the weights onto `device` in `dtype` (whatever float they are stored as), in the order text encoders → denoiser → VAE.
    ///
    /// # Errors
    /// [`ModelError`] when a file cannot be read or the device refuses a tensor.
    pub fn load(&self, device: &Device, dtype: DType, progress: &mut dyn FnMut(LoadProgress)) -> Result<Model, ModelError> {
        let exec_of = |folder: &str| Exec::inference(device, self.spec.part_dtype(folder, dtype));
        let read = RefCell::new((0, progress));
        let total_bytes = self.stored_bytes();
        let report = |part: &Part, bytes: u64| {
            let mut read = read.borrow_mut();
            read.0 += bytes;
            let now = LoadProgress { component: part.folder, bytes: read.0, total_bytes };
            (read.1)(now);
        };
        let sources = FileSources::new(&self.parts, &self.merges, &|part| exec_of(part.folder), &report);
        let conditioner = self.spec.conditioner(&sources)?;
        let denoiser = self.spec.denoiser(&sources)?;
        let vae = self.spec.vae(&sources)?;
        Ok(Model {
            id: next_model_id(),
            spec: Arc::clone(&self.spec),
            digest: self.digest()?,
            bytes: self.loaded_bytes(dtype),
            scheduler: self.scheduler.clone(),
            conditioner,
            denoiser,
            vae,
            layers: LayerTable::new(sources.into_layers()),
            exec: Exec::inference(device, dtype),
            vae_exec: exec_of(VAE),
        })
    }
}

/// Distinguishes loaded models, also those of equal content, since rows of one call must share one set of tensors.
fn next_model_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A loaded model: immutable, shared by all requests.
#[derive(Debug)]
pub struct Model {
    id: u64,
    spec: Arc<dyn ModelSpec>,
    digest: String,
    bytes: u64,
    scheduler: Config,
    conditioner: Box<dyn Conditioner>,
    denoiser: Box<dyn Denoiser>,
    vae: Vae,
    layers: LayerTable,
    exec: Exec,
    vae_exec: Exec,
}

impl Model {
    /// Distinguishes loaded models within this process.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The family's name, as manifests spell it.
    pub fn family(&self) -> &'static str {
        self.spec.family()
    }

    /// What its configuration says.
    pub fn spec(&self) -> &dyn ModelSpec {
        self.spec.as_ref()
    }

    /// See [`ModelFolder::digest`].
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Bytes of the parameters on the device.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What its networks take of memory when they run.
    pub fn computing(&self) -> Computing {
        Computing::new(Arc::clone(&self.spec), self.exec.device.is_cpu(), self.exec.compute)
    }

    /// What requests get where they do not say.
    pub fn defaults(&self) -> Defaults {
        self.spec.defaults()
    }

    /// What sizes and numbers a request may ask for.
    pub fn limits(&self) -> Limits {
        Limits {
            size_multiple: self.spec.size_multiple(),
            max_side_pixels: self.spec.max_side_pixels().map_or(MAX_SIDE_PIXELS, |side| side.min(MAX_SIDE_PIXELS)),
            max_samples: MAX_SAMPLES,
            max_steps: sampler::MAX_STEPS,
            max_clip_skip: self.conditioner.max_clip_skip(),
        }
    }

    /// The class name of the folder's own scheduler.
    pub fn default_sampler(&self) -> &str {
        self.scheduler.class_name().ok().flatten().unwrap_or_default()
    }

    /// The folder's scheduler configuration.
    pub fn scheduler(&self) -> &Config {
        &self.scheduler
    }

    /// What turns prompts into conditioning.
    pub fn conditioner(&self) -> &dyn Conditioner {
        self.conditioner.as_ref()
    }

    /// The network that predicts noise.
    pub fn denoiser(&self) -> &dyn Denoiser {
        self.denoiser.as_ref()
    }

    /// The autoencoder.
    pub fn vae(&self) -> &Vae {
        &self.vae
    }

    /// Finds the layers that an adapter acts on.
    ///
    /// # Errors
    /// [`AdapterError`] if any part of it does not fit this model.
    pub fn bind(&self, asked: &AdapterUse) -> Result<Arc<BoundAdapter>, AdapterError> {
        asked.adapter.bind(&self.layers, self.id, self.family(), asked.scale)
    }

    /// How the model is run, but for its autoencoder.
    pub fn exec(&self) -> &Exec {
        &self.exec
    }

    /// How the autoencoder is run: in half precision, some overflow.
    pub fn vae_exec(&self) -> &Exec {
        &self.vae_exec
    }
}
