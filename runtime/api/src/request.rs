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
}

fn one() -> u32 {
    1
}

impl ImageRequest {
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
        }
    }
}

/// What kind of work a request is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Task {
    #[default]
    TextToImage,
}

/// How a prompt's text is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PromptSyntax {
    /// Exactly diffusers: the text as it stands, truncated to the text encoder's length.
    #[default]
    Plain,
}
