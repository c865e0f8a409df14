//! The real engine: a thin layer over the crate `diffusion`.

use std::sync::Arc;

use diffusion::adapter::AdapterError;
use diffusion::denoiser::BatchKey;
use diffusion::model::{Model, ModelError, ModelFiles, ModelFolder};
use diffusion::pipeline::{self, ImageState, InjectedTensors, PipelineError, PlanLimits, Waiting};
use diffusion::{DType, Device, Tensor};

use super::{
    Adapter, AdapterFile, AdapterUse, CallLimits, Candidate, Defaults, DeviceError, DeviceName, Engine, EngineError, ModelFacts, Precision,
    Progress, Request, Stepped, Weighed, chain, refining,
};
use crate::picture::Pixels;
use crate::residency::{Merge, ModelKey};

/// Latent positions of one call, over all its rows: 64 rows of a 512×512 image. More would only make a step longer.
const MAX_LATENT_PIXELS: usize = 64 * 64 * 64;

/// What adapters are kept in where models differ: it holds the most of what is trained, and a layer's own precision is made of it.
const ADAPTER_DTYPE: DType = DType::F16;

/// Runs models on one device.
#[derive(Clone, Debug)]
pub struct Diffusion {
    device: Device,
    /// Of all models; none where each one's family decides.
    dtype: Option<DType>,
}

impl Diffusion {
    /// All models in one precision.
    pub fn new(device: Device, dtype: DType) -> Self {
        Self { device, dtype: Some(dtype) }
    }

    /// # Errors
    /// As [`DeviceName::open`].
    pub fn open(device: DeviceName, precision: Precision) -> Result<Self, DeviceError> {
        let device = device.open()?;
        let dtype = precision.dtype(&device);
        Ok(Self { device, dtype })
    }

    /// Where it runs.
    pub fn device(&self) -> &Device {
        &self.device
    }

    fn dtype(&self, folder: &ModelFolder) -> DType {
        self.dtype.unwrap_or_else(|| folder.half_precision())
    }

    fn adapter_dtype(&self) -> DType {
        self.dtype.unwrap_or(ADAPTER_DTYPE)
    }

    /// As [`Engine::prepare`], with tensors in place of random draws.
    ///
    /// # Errors
    /// As [`Engine::prepare`].
    pub fn prepare_injected(
        &self,
        model: &Arc<Model>,
        request: &Request,
        injected: &InjectedTensors,
    ) -> Result<Vec<ImageState>, EngineError> {
        pipeline::prepare(model, request, injected).map_err(|error| pipeline_error(&error))
    }
}

impl Engine for Diffusion {
    type Folder = ModelFolder;
    type Model = Model;
    type Image = ImageState;

    fn open(&self, key: &ModelKey) -> Result<ModelFolder, EngineError> {
        let components = key.components.iter().map(|(name, component)| (name.clone(), component.path.clone())).collect();
        let files = ModelFiles { model: key.folder.clone(), config: key.config.clone(), components };
        let folder = ModelFolder::open_files(&files).map_err(|error| model_error(&error))?;
        check_components(&folder, key)?;
        let unused = folder.unused();
        if let Some(first) = unused.first() {
            tracing::info!(model = %key.folder.display(), tensors = unused.len(), first, "tensors that no network asks for are left alone");
        }
        // In f32 on the CPU, whatever the model is computed in: merged weights are rounded once.
        let read = |merge: &Merge| {
            let load = |path| AdapterFile::open(path)?.load(&Device::Cpu, DType::F32, merge.sha256.as_deref());
            let adapter = load(&merge.file).map_err(|error| merge_error(merge, &error))?;
            Ok(AdapterUse { adapter: Arc::new(adapter), scale: merge.scale() })
        };
        let mut merges = key.merges.iter();
        merges.try_fold(folder, |folder, merge| folder.merge(&[read(merge)?]).map_err(|error| merge_error(merge, &error)))
    }

    fn adapter_footprint(&self, file: &AdapterFile) -> u64 {
        file.footprint(self.adapter_dtype())
    }

    fn load_adapter(&self, file: &AdapterFile, sha256: Option<&str>) -> Result<Adapter, EngineError> {
        file.load(&self.device, self.adapter_dtype(), sha256).map_err(|error| {
            let text = chain(&error);
            if error.is_engine_failure() { EngineError::Internal(text) } else { EngineError::InvalidRequest(text) }
        })
    }

    fn footprint(&self, folder: &ModelFolder) -> u64 {
        folder.loaded_bytes(self.dtype(folder))
    }

    fn defaults(&self, folder: &ModelFolder) -> Defaults {
        folder.defaults()
    }

    fn image_bytes(&self, of: Weighed<'_, ModelFolder, Model>, request: &Request) -> u64 {
        let computing = match of {
            Weighed::Unread(folder) => folder.computing(&self.device, self.dtype(folder)),
            Weighed::Read(model) => model.computing(),
        };
        pipeline::image_bytes(&computing, request)
    }

    fn load(&self, folder: &ModelFolder, sha256: Option<&str>, progress: &mut dyn FnMut(u64, u64)) -> Result<Model, EngineError> {
        if let Some(declared) = sha256 {
            let found = folder.source_digest().map_err(|error| model_error(&error))?;
            if found != declared {
                let text = format!("the model's sha256 is {found}, not the declared {declared}; declare that one or mend the files");
                return Err(EngineError::InvalidModel(text));
            }
        }
        let mut told = |now: diffusion::model::LoadProgress| progress(now.bytes, now.total_bytes);
        folder.load(&self.device, self.dtype(folder), &mut told).map_err(|error| model_error(&error))
    }

    fn facts(&self, model: &Model) -> ModelFacts {
        ModelFacts {
            family: model.family(),
            bytes: model.bytes(),
            digest: model.digest().to_owned(),
            defaults: model.defaults(),
            sampler: model.default_sampler().to_owned(),
        }
    }

    fn prepare(&self, model: &Arc<Model>, request: &Request) -> Result<Vec<ImageState>, EngineError> {
        self.prepare_injected(model, request, &InjectedTensors::default())
    }

    fn groups(&self, images: &[Candidate<'_, ImageState>], limits: CallLimits) -> Vec<Vec<usize>> {
        let waiting = |candidate: &Candidate<'_, ImageState>| {
            let key: BatchKey = candidate.image.batch_key();
            let (rows, row_bytes) = (candidate.image.rows(), candidate.image.row_bytes());
            Waiting { key, rows, row_bytes, passed_over: candidate.passed_over }
        };
        let waiting: Vec<Waiting> = images.iter().map(waiting).collect();
        let CallLimits { rows: max_rows, bytes: max_bytes } = limits;
        pipeline::plan(&waiting, PlanLimits { max_rows, max_latent_pixels: MAX_LATENT_PIXELS, max_bytes })
    }

    fn step(&self, images: &mut [&mut ImageState]) -> Stepped {
        let report = pipeline::step(images);
        let outcomes = report.outcomes.into_iter().map(|outcome| outcome.map_err(|error| pipeline_error(&error)));
        Stepped { outcomes: outcomes.collect(), denoiser_calls: report.denoiser_calls, rows: report.rows }
    }

    fn progress(&self, image: &ImageState) -> Progress {
        let (done, total) = image.progress();
        Progress { done, total }
    }

    fn hand_over(&self, images: &[ImageState], request: &Request, start: f64) -> Result<Request, EngineError> {
        let latents: Vec<&Tensor> = images.iter().map(ImageState::latents).collect();
        let latents = Tensor::stack(&latents, 0).map_err(|error| EngineError::Internal(error.to_string()))?;
        Ok(refining::after(request, latents, start))
    }

    fn decode(&self, image: &ImageState) -> Result<Pixels, EngineError> {
        pipeline::decode(image).and_then(|tensor| pixels(image, &tensor)).map_err(|error| pipeline_error(&error))
    }

    fn preview(&self, image: &ImageState) -> Result<Pixels, EngineError> {
        pipeline::preview(image).and_then(|tensor| pixels(image, &tensor)).map_err(|error| pipeline_error(&error))
    }
}

/// `[3, height, width]` f32 in 0…1 → bytes, outside of a mask those of the picture that was sent.
fn pixels(image: &ImageState, tensor: &Tensor) -> Result<Pixels, PipelineError> {
    let rgb = pipeline::composed(image, tensor)?;
    // Sides are bounded far below 32 bits by the engine's own limits.
    Ok(Pixels { width: rgb.width as u32, height: rgb.height as u32, rgb: rgb.data })
}

/// Parts from elsewhere must be those that were declared.
fn check_components(folder: &ModelFolder, key: &ModelKey) -> Result<(), EngineError> {
    for (name, component) in &key.components {
        let Some(declared) = &component.sha256 else { continue };
        let found = folder.part_digest(name).map_err(|error| model_error(&error))?;
        if found != *declared {
            let text = format!("the {name}'s sha256 is {found}, not the declared {declared}; declare that one or mend the file");
            return Err(EngineError::InvalidModel(text));
        }
    }
    Ok(())
}

fn merge_error(merge: &Merge, error: &AdapterError) -> EngineError {
    EngineError::InvalidModel(format!("adapter {}: {}", merge.file.display(), chain(error)))
}

fn model_error(error: &ModelError) -> EngineError {
    EngineError::InvalidModel(chain(error))
}

fn pipeline_error(error: &PipelineError) -> EngineError {
    let text = chain(error);
    // An image that overflows does so everywhere: trying it again elsewhere would only cost, and the caller can mend it.
    let is_callers = error.is_invalid_request() || matches!(error, PipelineError::NotFinite { .. });
    if is_callers { EngineError::InvalidRequest(text) } else { EngineError::Internal(text) }
}
