//! The canonical image request: every dialect is a translation to it, and nothing more. Names are diffusers' own keyword names.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

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

    /// A request for one text-to-image picture with the model's defaults for everything else.
    pub fn text_to_image(model: impl Into<String>, prompt: impl Into<String>) -> Self {
        Self {
            task: Task::TextToImage,
            model: model.into(),
            prompt: prompt.into(),
            negative_prompt: None,
            prompt_syntax: PromptSyntax::Plain,
            width: None,
            height: None,
            samples: 1,
            seed: None,
            num_inference_steps: None,
            guidance_scale: None,
            guidance_rescale: None,
            eta: None,
            clip_skip: None,
            sampler: None,
            sampler_options: Map::new(),
            image: None,
            mask_image: None,
            mask_blur: None,
            strength: None,
            margins: None,
            adapters: Vec::new(),
            embeddings: Vec::new(),
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
