//! What an image is asked for with, in diffusers' names, and whether that can be.

use candle_core::Tensor;
use serde_json::{Map, Value};

use super::entry::{check_given, check_image_latents};
use super::{InvalidRequest, InvalidStart, PipelineError, Start};
use crate::adapter::{AdapterUse, MAX_ADAPTER_SCALE, MAX_ADAPTERS};
use crate::conditioning::MicroConditioning;
use crate::model::Model;
use crate::text::{NamedEmbedding, PromptSyntax};

/// Names and meanings are those of diffusers' pipelines. What only some families heed is refused by the others.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// What to draw.
    pub prompt: String,
    /// What not to draw. Absent means the empty text.
    pub negative_prompt: Option<String>,
    /// What the second text encoder reads; absent means `prompt`.
    pub prompt_2: Option<String>,
    /// What the third text encoder reads; absent means `prompt`.
    pub prompt_3: Option<String>,
    /// What not to draw, for the second text encoder.
    pub negative_prompt_2: Option<String>,
    /// What not to draw, for the third text encoder.
    pub negative_prompt_3: Option<String>,
    /// Tokens of text encoders that can take more or fewer; absent means the family's own number.
    pub max_sequence_length: Option<usize>,
    /// How all prompts are read.
    pub prompt_syntax: PromptSyntax,
    /// Textual inversions that the prompts may name.
    pub embeddings: Vec<NamedEmbedding>,
    /// In pixels; a multiple of [`crate::family::ModelSpec::size_multiple`].
    pub width: usize,
    /// In pixels; a multiple of [`crate::family::ModelSpec::size_multiple`].
    pub height: usize,
    /// How many images (`num_images_per_prompt`).
    pub samples: usize,
    /// Solver steps.
    pub num_inference_steps: usize,
    /// Strength of guidance; 1 and below mean none.
    pub guidance_scale: f64,
    /// Strength of guidance by a negative prediction, for models whose `guidance_scale` is an input of the denoiser; 1 and below mean none.
    pub true_cfg_scale: f64,
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
    /// Sizes and scores that the denoiser is told.
    pub micro: MicroConditioning,
    /// Where the schedule is entered: the share of the noise that another model has taken away already. The picture then gets no noise.
    pub denoising_start: Option<f64>,
    /// Where the schedule is left, for another model to go on.
    pub denoising_end: Option<f64>,
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
            prompt_2: None,
            prompt_3: None,
            negative_prompt_2: None,
            negative_prompt_3: None,
            max_sequence_length: None,
            prompt_syntax: PromptSyntax::Plain,
            embeddings: Vec::new(),
            width: defaults.width,
            height: defaults.height,
            samples: 1,
            num_inference_steps: defaults.num_inference_steps,
            guidance_scale: defaults.guidance_scale,
            true_cfg_scale: 1.0,
            guidance_rescale: 0.0,
            eta: 0.0,
            clip_skip: None,
            sampler: None,
            sampler_options: Map::new(),
            seed: 0,
            micro: MicroConditioning::default(),
            denoising_start: None,
            denoising_end: None,
            adapters: Vec::new(),
            start: Start::Noise,
        }
    }

    /// Height and width of the latents.
    pub(super) fn latent_size(&self, model: &Model) -> [usize; 2] {
        let scale = model.spec().latent_scale();
        [self.height / scale, self.width / scale]
    }

    /// Fields that only some families heed, where they are set, by their names.
    fn family_fields(&self) -> impl Iterator<Item = &'static str> {
        let (micro, usual) = (&self.micro, MicroConditioning::default());
        let fields = [
            ("prompt_2", self.prompt_2.is_some()),
            ("prompt_3", self.prompt_3.is_some()),
            ("negative_prompt_2", self.negative_prompt_2.is_some()),
            ("negative_prompt_3", self.negative_prompt_3.is_some()),
            ("max_sequence_length", self.max_sequence_length.is_some()),
            ("true_cfg_scale", self.true_cfg_scale != 1.0),
            ("original_size", micro.original_size.is_some()),
            ("target_size", micro.target_size.is_some()),
            ("crops_coords_top_left", micro.crops_coords_top_left != usual.crops_coords_top_left),
            ("negative_original_size", micro.negative_original_size.is_some()),
            ("negative_target_size", micro.negative_target_size.is_some()),
            ("negative_crops_coords_top_left", micro.negative_crops_coords_top_left != usual.negative_crops_coords_top_left),
            ("aesthetic_score", micro.aesthetic_score != usual.aesthetic_score),
            ("negative_aesthetic_score", micro.negative_aesthetic_score != usual.negative_aesthetic_score),
            ("denoising_start", self.denoising_start.is_some()),
            ("denoising_end", self.denoising_end.is_some()),
        ];
        fields.into_iter().filter_map(|(name, is_set)| is_set.then_some(name))
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
        let scores = [("aesthetic_score", self.micro.aesthetic_score), ("negative_aesthetic_score", self.micro.negative_aesthetic_score)];
        let finite = [("guidance_scale", self.guidance_scale), ("true_cfg_scale", self.true_cfg_scale)].into_iter().chain(scores);
        if let Some((name, value)) = finite.into_iter().find(|(_, value)| !value.is_finite()) {
            return Err(InvalidRequest::Number { name, value, accepted: "a finite number" });
        }
        let heeded = model.spec().heeds();
        if let Some(field) = self.family_fields().find(|field| !heeded.contains(field)) {
            return Err(InvalidRequest::Unheeded { field, family: model.family() });
        }
        if self.denoising_start.is_some() && self.start == Start::Noise {
            return Err(InvalidStart::NothingToGoOnFrom.into());
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
        if let Start::Latents { latents, .. } = start {
            check_given("image", &latents.0, expected)?;
        }
        match &self.image_latents {
            Some(given) => Ok(check_image_latents(given, start, expected)?),
            None => Ok(()),
        }
    }
}
