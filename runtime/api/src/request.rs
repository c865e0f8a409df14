//! The canonical image request: every dialect is a translation to it, and nothing more. Names are diffusers' own keyword names.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{OutputFormat, SafetyStyle};

/// What is asked for, after the dialect's own names, defaults and spellings are gone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageRequest {
    #[serde(default)]
    pub task: Task,
    /// The API's name of the model (`spec.modelId`); may be empty for the command line, which names a folder.
    #[serde(default)]
    pub model: String,
    pub prompt: String,
    /// Absent differs from empty: an absent one lets the pipeline choose its own unconditional branch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub negative_prompt: Option<String>,
    /// For the second text encoder of models that have one; absent or empty means `prompt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_2: Option<String>,
    /// For the third text encoder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_3: Option<String>,
    /// For the second text encoder; absent or empty means `negative_prompt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub negative_prompt_2: Option<String>,
    /// For the third text encoder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub negative_prompt_3: Option<String>,
    /// Tokens of text encoders that can take more or fewer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_sequence_length: Option<u32>,
    #[serde(default)]
    pub prompt_syntax: PromptSyntax,
    /// Pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    /// Pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub height: Option<u32>,
    /// Images of this request; image `i` is the same whether it is made alone or with others.
    #[serde(default = "one")]
    pub samples: u32,
    /// `None` is drawn by whoever accepts the request, so that a repeated dispatch makes the same picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_inference_steps: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guidance_scale: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guidance_rescale: Option<f64>,
    /// Strength of guidance by a negative prediction, for models that take `guidance_scale` as an input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub true_cfg_scale: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta: Option<f64>,
    /// diffusers' meaning: how many of the text encoder's last layers are skipped; `None` and 0 skip none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_skip: Option<u32>,
    /// diffusers' class name, such as `EulerDiscreteScheduler`; `None` is the model folder's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampler: Option<String>,
    /// Keys of that scheduler's config that this request overrides.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub sampler_options: Map<String, Value>,
    /// Height and width, in pixels, of the picture before it was scaled, as some models were told in training; absent means the image's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original_size: Option<[u32; 2]>,
    /// Height and width, in pixels; absent means the image's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_size: Option<[u32; 2]>,
    /// Top and left, in pixels, of where the picture was cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crops_coords_top_left: Option<[u32; 2]>,
    /// For the negative prediction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub negative_original_size: Option<[u32; 2]>,
    /// For the negative prediction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub negative_target_size: Option<[u32; 2]>,
    /// For the negative prediction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub negative_crops_coords_top_left: Option<[u32; 2]>,
    /// 0 to 10, for models that refine pictures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aesthetic_score: Option<f64>,
    /// For the negative prediction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub negative_aesthetic_score: Option<f64>,
    /// The share of the noise, above 0 and below 1, that is gone already: where the schedule is entered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub denoising_start: Option<f64>,
    /// Where the schedule is left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub denoising_end: Option<f64>,
    /// Who goes on where the model leaves the schedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refiner: Option<RefinerUse>,
    /// The picture that is changed: sha256, in hex, of an input that the dispatch says where to get.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// White is drawn anew, black is kept; an input like `image`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask_image: Option<String>,
    /// Pixels over which the mask's edge is softened (the radius of a Gaussian, as diffusers' `VaeImageProcessor.blur`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask_blur: Option<u32>,
    /// How far `image` is left behind: near 0 keeps it, 1 draws anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strength: Option<f64>,
    /// How much is drawn around `image` where the task is [`Task::Outpaint`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub margins: Option<Margins>,
    /// Low-rank adapters, together with what is declared for the model itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adapters: Vec<AdapterUse>,
    /// Textual inversions that the prompts may name, by the API's names of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub embeddings: Vec<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub output_format: OutputFormat,
    /// Of JPEG files: 100 keeps nearly all of the picture, 0 next to nothing; `None` is 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_quality: Option<u8>,
    /// What becomes of images that are not safe for work; `None`: they are not checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub safety_checker: Option<SafetyStyle>,
}

fn is_default(format: &OutputFormat) -> bool {
    *format == OutputFormat::default()
}

fn one() -> u32 {
    1
}

impl ImageRequest {
    /// The names of the fields that only tasks other than text-to-image and adapters use, where they are set.
    pub fn extensions(&self) -> impl Iterator<Item = &'static str> {
        let fields = [
            ("image", self.image.is_some()),
            ("mask_image", self.mask_image.is_some()),
            ("mask_blur", self.mask_blur.is_some()),
            ("strength", self.strength.is_some()),
            ("margins", self.margins.is_some()),
            ("adapters", !self.adapters.is_empty()),
            ("embeddings", !self.embeddings.is_empty()),
        ];
        fields.into_iter().filter_map(|(name, is_set)| is_set.then_some(name))
    }

    /// All texts with the names of their fields, where they are set.
    pub fn texts(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let texts = [
            ("prompt", Some(&self.prompt)),
            ("prompt_2", self.prompt_2.as_ref()),
            ("prompt_3", self.prompt_3.as_ref()),
            ("negative_prompt", self.negative_prompt.as_ref()),
            ("negative_prompt_2", self.negative_prompt_2.as_ref()),
            ("negative_prompt_3", self.negative_prompt_3.as_ref()),
        ];
        texts.into_iter().filter_map(|(field, text)| Some((field, text?.as_str())))
    }

    /// A request for one text-to-image picture with the model's defaults for everything else.
    pub fn text_to_image(model: impl Into<String>, prompt: impl Into<String>) -> Self {
        Self {
            task: Task::TextToImage,
            model: model.into(),
            prompt: prompt.into(),
            negative_prompt: None,
            prompt_2: None,
            prompt_3: None,
            negative_prompt_2: None,
            negative_prompt_3: None,
            max_sequence_length: None,
            prompt_syntax: PromptSyntax::Plain,
            width: None,
            height: None,
            samples: 1,
            seed: None,
            num_inference_steps: None,
            guidance_scale: None,
            guidance_rescale: None,
            true_cfg_scale: None,
            eta: None,
            clip_skip: None,
            sampler: None,
            sampler_options: Map::new(),
            original_size: None,
            target_size: None,
            crops_coords_top_left: None,
            negative_original_size: None,
            negative_target_size: None,
            negative_crops_coords_top_left: None,
            aesthetic_score: None,
            negative_aesthetic_score: None,
            denoising_start: None,
            denoising_end: None,
            refiner: None,
            image: None,
            mask_image: None,
            mask_blur: None,
            strength: None,
            margins: None,
            adapters: Vec::new(),
            embeddings: Vec::new(),
            output_format: OutputFormat::default(),
            output_quality: None,
            safety_checker: None,
        }
    }
}

/// An adapter and how strongly it acts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdapterUse {
    /// The API's name of the adapter.
    pub model: String,
    /// 0 leaves the model as it is, 1 is the strength it was trained at; negative ones push away.
    pub scale: f64,
}

/// A second model that finishes images: the first leaves the schedule at `start`, and this one enters it there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefinerUse {
    /// The API's name of the model.
    pub model: String,
    /// The share of the noise, above 0 and below 1, that is gone then.
    pub start: f64,
}

/// Pixels on each side of a picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Margins {
    #[serde(default)]
    pub left: u32,
    #[serde(default)]
    pub right: u32,
    #[serde(default)]
    pub top: u32,
    #[serde(default)]
    pub bottom: u32,
}

/// What kind of work a request is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Task {
    #[default]
    TextToImage,
    /// `image`, changed as far as `strength` says.
    ImageToImage,
    /// `image`, drawn anew where `mask_image` is white.
    Inpaint,
    /// `image` with `margins` drawn around it.
    Outpaint,
}

/// How a prompt's text is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PromptSyntax {
    /// Exactly diffusers: the text as it stands, truncated to the text encoder's length.
    #[default]
    Plain,
    /// AUTOMATIC1111's: `(a)`, `[a]`, `(a:1.2)`, `\(`, `BREAK`, and any length in chunks of 75 tokens.
    Weighted,
}
