//! What an image is asked for with, in diffusers' names, and whether that can be.

use candle_core::Tensor;
use serde_json::{Map, Value};

use super::entry::check_image_latents;
use super::{InvalidRequest, PipelineError, Start};
use crate::adapter::{AdapterUse, MAX_ADAPTER_SCALE, MAX_ADAPTERS};
use crate::model::Model;
use crate::text::{NamedEmbedding, PromptSyntax};

/// Names and meanings are those of diffusers' Stable Diffusion pipelines.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// What to draw.
    pub prompt: String,
    /// What not to draw. Absent means the empty text.
    pub negative_prompt: Option<String>,
    /// How both prompts are read.
    pub prompt_syntax: PromptSyntax,
    /// Textual inversions that both prompts may name.
    pub embeddings: Vec<NamedEmbedding>,
    /// In pixels; a multiple of [`Model::size_multiple`].
    pub width: usize,
    /// In pixels; a multiple of [`Model::size_multiple`].
    pub height: usize,
    /// How many images (`num_images_per_prompt`).
    pub samples: usize,
    /// Solver steps.
    pub num_inference_steps: usize,
    /// Strength of guidance; 1 and below mean none.
    pub guidance_scale: f64,
    /// How far guidance's contrast is drawn back, 0 … 1.
    pub guidance_rescale: f64,
    /// DDIM's η, 0 … 1; other samplers leave it out.
    pub eta: f64,
    /// How many of the text encoder's last layers are left out, for the prompt but not the negative one.
    pub clip_skip: Option<usize>,
    /// diffusers' class name; absent means the model's own.
    pub sampler: Option<String>,
    /// Keys of that scheduler's configuration.
    pub sampler_options: Map<String, Value>,
    /// Image i draws its noise from (seed, i).
    pub seed: u64,
    /// What acts besides the weights, on text encoder and denoiser; at most [`MAX_ADAPTERS`].
    pub adapters: Vec<AdapterUse>,
    /// What the images begin with: the task.
    pub start: Start,
}

impl Request {
    /// A request with the model's defaults, one image, seed 0.
    pub fn with_defaults(model: &Model, prompt: impl Into<String>) -> Self {
        let defaults = model.defaults();
        Self {
            prompt: prompt.into(),
            negative_prompt: None,
            prompt_syntax: PromptSyntax::Plain,
            embeddings: Vec::new(),
            width: defaults.width,
            height: defaults.height,
            samples: 1,
            num_inference_steps: defaults.num_inference_steps,
            guidance_scale: defaults.guidance_scale,
            guidance_rescale: 0.0,
            eta: 0.0,
            clip_skip: None,
            sampler: None,
            sampler_options: Map::new(),
            seed: 0,
            adapters: Vec::new(),
            start: Start::Noise,
        }
    }

    /// Height and width of the latents.
    pub(super) fn latent_size(&self, model: &Model) -> [usize; 2] {
        [self.height / model.latent_scale(), self.width / model.latent_scale()]
    }

    /// Whether all numbers are ones that `model` can serve. Sampler, steps and prompts are checked where they are used.
    pub(super) fn check(&self, model: &Model) -> Result<(), InvalidRequest> {
        let limits = model.limits();
        let multiple = limits.size_multiple;
        for (name, value) in [("width", self.width), ("height", self.height)] {
            if value == 0 || value > limits.max_side_pixels || value % multiple != 0 {
                return Err(InvalidRequest::Size { name, value, multiple, limit: limits.max_side_pixels });
            }
        }
        if !(1..=limits.max_samples).contains(&self.samples) {
            return Err(InvalidRequest::Samples { value: self.samples, limit: limits.max_samples });
        }
        if let Some(value) = self.clip_skip.filter(|skip| *skip > limits.max_clip_skip) {
            return Err(InvalidRequest::ClipSkip { value, limit: limits.max_clip_skip });
        }
        let bounded = [("guidance_rescale", self.guidance_rescale), ("eta", self.eta)];
        if let Some((name, value)) = bounded.into_iter().find(|(_, value)| !(0.0..=1.0).contains(value)) {
            return Err(InvalidRequest::Number { name, value, accepted: "from 0 to 1" });
        }
        if !self.guidance_scale.is_finite() {
            let value = self.guidance_scale;
            return Err(InvalidRequest::Number { name: "guidance_scale", value, accepted: "a finite number" });
        }
        self.check_adapters()?;
        Ok(self.start.check(model, self.width, self.height)?)
    }

    fn check_adapters(&self) -> Result<(), InvalidRequest> {
        if self.adapters.len() > MAX_ADAPTERS {
            return Err(InvalidRequest::TooManyAdapters { value: self.adapters.len(), limit: MAX_ADAPTERS });
        }
        // NaN is in no range.
        let allowed = -MAX_ADAPTER_SCALE..=MAX_ADAPTER_SCALE;
        match self.adapters.iter().find(|asked| !allowed.contains(&asked.scale)) {
            Some(asked) => Err(InvalidRequest::Number { name: "adapters.scale", value: asked.scale, accepted: "from -10 to 10" }),
            None => Ok(()),
        }
    }
}

/// Tensors that take the place of random draws, to compare with another implementation.
#[derive(Clone, Debug, Default)]
pub struct InjectedTensors {
    /// [n, c, h, w], unit variance, before the sampler's initial scale, in place of the draw that the images begin with.
    pub latents_init: Option<Tensor>,
    /// The draws in the order the reference makes them, [n, c, h, w] each; empty means drawn from the seed.
    pub noise: Vec<Tensor>,
    /// [n or 1, c, h, w], scaled: in place of what the autoencoder makes of the image, and of its draw.
    pub image_latents: Option<Tensor>,
}

impl InjectedTensors {
    pub(super) fn check(&self, expected: &[usize], start: &Start) -> Result<(), PipelineError> {
        if let Some(latents) = self.latents_init.as_ref().filter(|latents| latents.dims() != expected) {
            let found = latents.dims().to_vec();
            return Err(InvalidRequest::LatentsShape { name: "initial", found, expected: expected.to_vec() }.into());
        }
        match &self.image_latents {
            Some(given) => Ok(check_image_latents(given, start, expected)?),
            None => Ok(()),
        }
    }
}
