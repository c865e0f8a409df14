//! An engine without tensors: an image is a number that each evaluation stirs, so its pixels tell whether anything else was stirred in.
//! A gate decides how many evaluations may happen, so that tests never wait for time.

use std::sync::{Arc, Condvar, Mutex};

use diffusion::{DType, Device};
use runtime::engine::{
    Adapter, AdapterFile, CallLimits, Candidate, Defaults, Engine, EngineError, ModelFacts, Progress, Request, Stepped, Strengths, Weighed,
};
use runtime::picture::Pixels;
use runtime::residency::ModelKey;

/// A prompt with this word makes its evaluations panic.
pub(crate) const PANIC: &str = "panic";
/// A prompt with this word makes its evaluations fail.
pub(crate) const FAIL: &str = "fail";
/// Content of the file `weights` of a folder that loads; its length counts as the model's bytes.
pub(crate) const GOOD: &str = "good";

/// How many evaluations may still happen; `None` is any number.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    allowed: Mutex<Option<usize>>,
    changed: Condvar,
}

impl Gate {
    pub(crate) fn closed() -> Arc<Self> {
        Arc::new(Self { allowed: Mutex::new(Some(0)), changed: Condvar::new() })
    }

    pub(crate) fn allow(&self, evaluations: usize) {
        let mut allowed = self.allowed.lock().unwrap();
        *allowed = allowed.map(|allowed| allowed + evaluations);
        self.changed.notify_all();
    }

    pub(crate) fn open(&self) {
        *self.allowed.lock().unwrap() = None;
        self.changed.notify_all();
    }

    pub(crate) fn pass(&self) {
        let mut allowed = self.changed.wait_while(self.allowed.lock().unwrap(), |allowed| *allowed == Some(0)).unwrap();
        *allowed = allowed.map(|allowed| allowed - 1);
    }
}

#[derive(Debug, Default)]
pub(crate) struct Puppet {
    pub(crate) gate: Arc<Gate>,
}

#[derive(Debug)]
pub(crate) struct Model {
    bytes: u64,
    name: String,
}

#[derive(Debug)]
pub(crate) struct Image {
    model: Arc<Model>,
    request: Request,
    sample: usize,
    stirred: u64,
    done: usize,
}

impl Image {
    fn stir(&mut self) {
        let guidance = self.request.guidance_scale.to_bits();
        self.stirred = (self.stirred ^ guidance).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17);
        self.done += 1;
    }

    fn rows(&self) -> usize {
        if self.request.guidance_scale > 1.0 { 2 } else { 1 }
    }

    fn pixels(&self) -> Pixels {
        let count = self.request.width * self.request.height * 3;
        let rgb = (0..count).map(|index| self.stirred.rotate_left((index % 64) as u32) as u8).collect();
        Pixels { width: self.request.width as u32, height: self.request.height as u32, rgb }
    }
}

impl Engine for Puppet {
    type Folder = Model;
    type Model = Model;
    type Image = Image;

    fn open(&self, key: &ModelKey) -> Result<Model, EngineError> {
        let folder = &key.folder;
        let weights = std::fs::read_to_string(folder.join("weights")).map_err(|error| EngineError::InvalidModel(error.to_string()))?;
        assert!(!weights.starts_with(PANIC), "these weights make the reader panic");
        if !weights.starts_with(GOOD) {
            return Err(EngineError::InvalidModel("the weights are cut off".to_owned()));
        }
        Ok(Model { bytes: weights.len() as u64, name: folder.file_name().unwrap().to_string_lossy().into_owned() })
    }

    fn footprint(&self, folder: &Model) -> u64 {
        folder.bytes
    }

    fn adapter_footprint(&self, file: &AdapterFile) -> u64 {
        file.footprint(DType::F32)
    }

    fn load_adapter(&self, file: &AdapterFile, sha256: Option<&str>) -> Result<Adapter, EngineError> {
        file.load(&Device::Cpu, DType::F32, sha256).map_err(|error| EngineError::InvalidRequest(error.to_string()))
    }

    fn load(&self, folder: &Model, sha256: Option<&str>, progress: &mut dyn FnMut(u64, u64)) -> Result<Model, EngineError> {
        if sha256.is_some() {
            return Err(EngineError::InvalidModel("the sha256 is another".to_owned()));
        }
        progress(folder.bytes, folder.bytes);
        Ok(Model { bytes: folder.bytes, name: folder.name.clone() })
    }

    fn defaults(&self, _folder: &Model) -> Defaults {
        Defaults { width: 16, height: 8, num_inference_steps: 4, guidance_scale: 5.0, strength: Strengths { image: 0.8, inpaint: 1.0 } }
    }

    /// As many as it has pixels, for each row.
    fn image_bytes(&self, _of: Weighed<'_, Model, Model>, request: &Request) -> u64 {
        (request.width * request.height * if request.guidance_scale > 1.0 { 2 } else { 1 }) as u64
    }

    fn facts(&self, model: &Model) -> ModelFacts {
        let defaults = self.defaults(model);
        ModelFacts { family: "puppet", bytes: model.bytes, digest: model.name.clone(), defaults, sampler: String::new() }
    }

    fn prepare(&self, model: &Arc<Model>, request: &Request) -> Result<Vec<Image>, EngineError> {
        if request.sampler.as_deref() == Some("NoSuchScheduler") {
            return Err(EngineError::InvalidRequest("sampler `NoSuchScheduler` is not served".to_owned()));
        }
        let image = |sample| Image {
            model: Arc::clone(model),
            request: request.clone(),
            sample,
            stirred: request.seed ^ (sample as u64) << 32,
            done: 0,
        };
        Ok((0..request.samples).map(image).collect())
    }

    fn groups(&self, images: &[Candidate<'_, Image>], limits: CallLimits) -> Vec<Vec<usize>> {
        let mut groups: Vec<(Vec<usize>, usize)> = Vec::new();
        for (index, candidate) in images.iter().enumerate() {
            let image = candidate.image;
            let fits = |group: &&mut (Vec<usize>, usize)| {
                let first = images[group.0[0]].image;
                let is_alike = first.model.name == image.model.name && first.request.width == image.request.width;
                is_alike && group.1 + image.rows() <= limits.rows
            };
            match groups.iter_mut().find(fits) {
                Some((group, rows)) => {
                    group.push(index);
                    *rows += image.rows();
                }
                None => groups.push((vec![index], image.rows())),
            }
        }
        groups.into_iter().map(|(group, _)| group).collect()
    }

    fn step(&self, images: &mut [&mut Image]) -> Stepped {
        self.gate.pass();
        let rows = images.iter().map(|image| image.rows()).sum();
        let outcomes = images.iter_mut().map(|image| {
            assert!(!image.request.prompt.contains(PANIC), "this prompt makes the engine panic");
            if image.request.prompt.contains(FAIL) {
                return Err(EngineError::Internal("this prompt makes the engine fail".to_owned()));
            }
            image.stir();
            Ok(())
        });
        Stepped { outcomes: outcomes.collect(), denoiser_calls: 1, rows }
    }

    fn progress(&self, image: &Image) -> Progress {
        Progress { done: image.done, total: image.request.num_inference_steps }
    }

    /// The second model's stirring begins where the first's ended.
    fn hand_over(&self, images: &[Image], request: &Request, _start: f64) -> Result<Request, EngineError> {
        assert_eq!(images.len(), request.samples);
        Ok(Request { seed: images.iter().fold(0, |seed, image| seed ^ image.stirred), ..request.clone() })
    }

    fn decode(&self, image: &Image) -> Result<Pixels, EngineError> {
        assert!(image.sample < image.request.samples);
        Ok(image.pixels())
    }

    fn preview(&self, image: &Image) -> Result<Pixels, EngineError> {
        Ok(image.pixels())
    }
}
