//! A model folder in diffusers' layout: opened and checked, then loaded.
//!
//! ```text
//! ModelFolder::open(dir)     configurations parsed, headers read, every tensor's shape compared; no tensor is allocated
//!        │ merge(adapters)                    those declared for the model itself, if any: compared, not yet read into anything
//!        │ load(device, dtype, progress)      text encoder → denoiser → VAE
//!        ▼
//!      Model                 immutable, shared by all requests
//! ```
//! This module knows which files make a model, and no request.

mod error;
mod files;
mod inspection;
mod sources;

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use candle_core::{DType, Device, Tensor};
use serde_json::{Map, Value};

pub use error::ModelError;
pub use inspection::{ComponentInspection, Inspection, TensorInspection};

use crate::adapter::{AdapterError, AdapterUse, BoundAdapter, FittedAdapter, LayerTable};
use crate::denoiser::Denoiser;
use crate::exec::Exec;
use crate::family::{self, Defaults, ModelSpec, PARTS, Part};
use crate::json::{Config, ConfigError};
use crate::sampler::{self, SamplerError};
use crate::text::PromptEncoder;
use crate::tokenizer::Tokenizer;
use crate::vae::Vae;
use crate::weights::{SafetensorsFolder, WeightSource, open_component};
use sources::{FileSource, ShapeRecorder};

/// diffusers' pipelines ask for sides divisible by this, whatever the VAE's scale.
const PIPELINE_SIZE_MULTIPLE: usize = 8;
/// The longest side of an image, in pixels: beyond this, attention over all positions costs more than any deadline allows.
pub const MAX_SIDE_PIXELS: usize = 2048;
/// The most images of one request.
pub const MAX_SAMPLES: usize = 64;

/// The parts whose layers adapters can act on.
const ADAPTABLE_PARTS: [&str; 2] = ["text_encoder", "unet"];

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

/// A folder whose files were read as far as needed to know that they make a model.
#[derive(Debug)]
pub struct ModelFolder {
    folder: PathBuf,
    spec: Box<dyn ModelSpec>,
    scheduler: Config,
    parts: Vec<OpenPart>,
    /// With tensors of no size.
    layers: LayerTable,
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

#[derive(Debug)]
struct OpenPart {
    part: Part,
    weights: SafetensorsFolder,
}

impl ModelFolder {
    /// Opens a folder: parses its configurations, reads the headers of its weights, and compares every shape.
    ///
    /// # Errors
    /// [`ModelError`] naming the file and what is wrong with it. All tensors that do not fit are named at once.
    pub fn open(folder: &Path) -> Result<Self, ModelError> {
        if !folder.is_dir() {
            return Err(ModelError::NotAFolder { path: folder.to_path_buf() });
        }
        let model_index = Config::open(folder.join("model_index.json"))?;
        let spec = family::detect(&model_index)?.read(folder)?;
        let scheduler = open_scheduler(folder, &model_index)?;
        match sampler::from_config(&scheduler, None, &Map::new()) {
            // Requests may name one that is served; only those that don't are refused.
            Ok(_) | Err(SamplerError::UnknownSampler { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let (mut parts, mut layers) = (Vec::new(), Vec::new());
        for part in PARTS {
            let (open, of_part) = OpenPart::open(folder, part, spec.as_ref())?;
            parts.push(open);
            layers.extend(if ADAPTABLE_PARTS.contains(&part.folder) { of_part } else { Vec::new() });
        }
        let (layers, merges) = (LayerTable::new(layers), Vec::new());
        let open = Self { folder: folder.to_path_buf(), spec, scheduler, parts, layers, merges, digest: OnceLock::new() };
        open.open_tokenizer()?;
        Ok(open)
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

    /// What decides an image besides the request: [`Self::files_digest`], and where adapters are merged SHA-256 in hex over it and them.
    ///
    /// # Errors
    /// [`ModelError`] when a file cannot be read.
    pub fn digest(&self) -> Result<String, ModelError> {
        let files = self.files_digest()?;
        let adapters = self.merges.iter().map(|merge| (merge.digest.as_str(), merge.scale));
        Ok(if self.merges.is_empty() { files } else { files::merged_digest(&files, adapters) })
    }

    /// SHA-256 in hex over configurations, vocabularies and weights with their names. Files are streamed; the result is kept.
    ///
    /// # Errors
    /// [`ModelError`] when a file cannot be read.
    pub fn files_digest(&self) -> Result<String, ModelError> {
        if let Some(digest) = self.digest.get() {
            return Ok(digest.clone());
        }
        let weights = self.parts.iter().flat_map(|part| part.weights.index().files());
        let digest = files::digest(&self.folder, weights)?;
        Ok(self.digest.get_or_init(|| digest).clone())
    }

    /// Bytes of all weights, as stored.
    pub fn stored_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.weights.index().bytes()).sum()
    }

    /// Reads the weights onto `device` in `dtype` (whatever float they are stored as), in the order text encoder → denoiser → VAE.
    ///
    /// # Errors
    /// [`ModelError`] when a file cannot be read or the device refuses a tensor.
    pub fn load(&self, device: &Device, dtype: DType, progress: &mut dyn FnMut(LoadProgress)) -> Result<Model, ModelError> {
        let exec = Exec::inference(device, dtype);
        let read = RefCell::new((0, progress));
        let total_bytes = self.stored_bytes();
        let source = |part: &Part| {
            let open = self.parts.iter().find(|open| open.part == *part).ok_or(ModelError::MissingPart { part: part.folder })?;
            let report = |bytes: u64| {
                let mut read = read.borrow_mut();
                read.0 += bytes;
                let now = LoadProgress { component: open.part.folder, bytes: read.0, total_bytes };
                (read.1)(now);
            };
            report(0);
            let merges = if ADAPTABLE_PARTS.contains(&part.folder) { self.merges.as_slice() } else { &[] };
            let (weights, report, layers) = (&open.weights, Box::new(report), RefCell::default());
            Ok::<_, ModelError>(FileSource { weights, merges, exec: &exec, report, layers })
        };
        let [text_part, denoiser_part, vae_part] = &PARTS;
        let tokenizer = self.open_tokenizer()?;
        let (text_source, denoiser_source) = (source(text_part)?, source(denoiser_part)?);
        let text_encoder = self.spec.text_encoder(&text_source)?;
        let denoiser = self.spec.denoiser(&denoiser_source)?;
        let layers = LayerTable::new(text_source.into_layers().into_iter().chain(denoiser_source.into_layers()));
        let vae = self.spec.vae(&source(vae_part)?)?;
        let elements: u64 = self.parts.iter().flat_map(|part| part.weights.index().iter()).map(|(_, info)| info.elements()).sum();
        Ok(Model {
            id: next_model_id(),
            family: self.spec.family(),
            digest: self.digest()?,
            bytes: elements * dtype.size_in_bytes() as u64,
            defaults: self.spec.defaults(),
            latent_channels: self.spec.latent_channels(),
            concat_channels: self.spec.concat_channels(),
            latent_scale: self.spec.latent_scale(),
            text: PromptEncoder::new(tokenizer, text_encoder),
            scheduler: self.scheduler.clone(),
            denoiser,
            vae,
            layers,
            exec,
        })
    }

    /// Also checks that the encoder has a row for every token and every position: an index out of range is no error of a request.
    fn open_tokenizer(&self) -> Result<Tokenizer, ModelError> {
        let tokenizer = Tokenizer::open(&self.folder.join("tokenizer"))?;
        let mismatch = |reason| Err(ModelError::TokenizerMismatch { reason });
        if tokenizer.max_id() as usize >= self.spec.text_vocabulary() {
            let (largest, rows) = (tokenizer.max_id(), self.spec.text_vocabulary());
            return mismatch(format!("its largest id is {largest}, the text encoder has {rows} embeddings"));
        }
        if tokenizer.model_max_length() > self.spec.text_tokens() {
            let (longest, positions) = (tokenizer.model_max_length(), self.spec.text_tokens());
            return mismatch(format!("it makes {longest} tokens, the text encoder has {positions} positions"));
        }
        Ok(tokenizer)
    }
}

impl OpenPart {
    /// Also tells the part's layers that adapters could act on.
    fn open(folder: &Path, part: Part, spec: &dyn ModelSpec) -> Result<(Self, Vec<(String, Tensor)>), ModelError> {
        let weights = open_component(&folder.join(part.folder))?;
        let mismatch = |source| ModelError::Mismatch { part: part.folder, source: Box::new(source) };
        let expected = ShapeRecorder::of(weights.index(), part, spec).map_err(mismatch)?;
        expected.check(weights.index()).map_err(mismatch)?;
        let layers = expected.layers();
        Ok((Self { part, weights }, layers))
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
    family: &'static str,
    digest: String,
    bytes: u64,
    defaults: Defaults,
    latent_channels: usize,
    concat_channels: usize,
    latent_scale: usize,
    text: PromptEncoder,
    scheduler: Config,
    denoiser: Box<dyn Denoiser>,
    vae: Vae,
    layers: LayerTable,
    exec: Exec,
}

impl Model {
    /// Distinguishes loaded models within this process.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The family's name, as manifests spell it.
    pub fn family(&self) -> &'static str {
        self.family
    }

    /// See [`ModelFolder::digest`].
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Bytes of the parameters on the device.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What requests get where they do not say.
    pub fn defaults(&self) -> Defaults {
        self.defaults
    }

    /// What sizes and numbers a request may ask for.
    pub fn limits(&self) -> Limits {
        Limits {
            size_multiple: self.size_multiple(),
            max_side_pixels: MAX_SIDE_PIXELS,
            max_samples: MAX_SAMPLES,
            max_steps: sampler::MAX_STEPS,
            max_clip_skip: self.text.max_clip_skip(),
        }
    }

    /// Both sides of an image are multiples of this, in pixels.
    pub fn size_multiple(&self) -> usize {
        // Both are powers of two.
        self.latent_scale.max(PIPELINE_SIZE_MULTIPLE)
    }

    /// The class name of the folder's own scheduler.
    pub fn default_sampler(&self) -> &str {
        self.scheduler.class_name().ok().flatten().unwrap_or_default()
    }

    /// The folder's scheduler configuration.
    pub fn scheduler(&self) -> &Config {
        &self.scheduler
    }

    /// Channels of the latents.
    pub fn latent_channels(&self) -> usize {
        self.latent_channels
    }

    /// Channels that the denoiser reads beside the latents; above 0 the model only inpaints.
    pub fn concat_channels(&self) -> usize {
        self.concat_channels
    }

    /// Pixels per latent position, along each side.
    pub fn latent_scale(&self) -> usize {
        self.latent_scale
    }

    /// The text encoder with its tokenizer.
    pub fn text(&self) -> &PromptEncoder {
        &self.text
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
        asked.adapter.bind(&self.layers, self.id, self.family, asked.scale)
    }

    /// How the model is run.
    pub fn exec(&self) -> &Exec {
        &self.exec
    }
}
