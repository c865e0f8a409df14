//! What callers of OpenAI's dialect are answered, in one piece.

use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::dialect::Answer;
use crate::dialect::cold_start::ColdStart;
use crate::generation::{Generation, ModelListing};

/// Images. `usage` is left out: nothing here is counted in tokens.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = OpenAiImages)]
pub struct ImagesAnswer {
    /// Seconds since 1970.
    pub created: u64,
    pub data: Vec<ImageData>,
    pub background: &'static str,
    pub output_format: &'static str,
    pub quality: &'static str,
    /// `WIDTHxHEIGHT`.
    pub size: String,
    /// The seed that was used, also where it was drawn.
    pub seed: Option<u64>,
    pub cold_start: ColdStart,
}

/// One image, in one of two ways.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct ImageData {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub b64_json: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Whether it was found unsafe and drawn over; left out where `safety_checker` was not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nsfw_content_detected: Option<bool>,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = OpenAiModels)]
pub struct ModelList {
    /// `list`.
    pub object: &'static str,
    pub data: Vec<ModelEntry>,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = OpenAiModel)]
pub struct ModelEntry {
    pub id: String,
    /// `model`.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: i64,
    pub owned_by: &'static str,
}

/// The images of a generation that succeeded: `images` as base64, or links below `public_url`.
pub fn render(generation: &Generation, images: Option<Vec<String>>, public_url: &str, created: u64) -> Answer {
    let mut data: Vec<ImageData> = match images {
        Some(images) => images.into_iter().map(|image| ImageData { b64_json: Some(image), ..ImageData::default() }).collect(),
        None => {
            let url = |path| Some(format!("{public_url}{path}"));
            generation.output_paths.iter().map(|path| ImageData { url: url(path), ..ImageData::default() }).collect()
        }
    };
    for (image, detected) in data.iter_mut().zip(&generation.nsfw_content_detected) {
        image.nsfw_content_detected = Some(*detected);
    }
    let answer = ImagesAnswer {
        created,
        data,
        background: "opaque",
        output_format: generation.request.output_format.name(),
        quality: "auto",
        size: size(generation),
        seed: generation.request.seed,
        cold_start: ColdStart::from(&generation.start),
    };
    Answer::success(json!(answer))
}

pub(super) fn size(generation: &Generation) -> String {
    match (generation.request.width, generation.request.height) {
        (Some(width), Some(height)) => format!("{width}x{height}"),
        // The model's own files decided.
        _ => "auto".to_owned(),
    }
}

/// Checkpoints alone: what stands here is what `model` may name.
pub fn model_list(models: &[ModelListing]) -> Answer {
    let data = models.iter().filter(|model| model.is_checkpoint()).map(entry).collect();
    Answer::success(json!(ModelList { object: "list", data }))
}

pub fn model(model: &ModelListing) -> Answer {
    let entry: Value = json!(entry(model));
    Answer::success(entry)
}

fn entry(model: &ModelListing) -> ModelEntry {
    ModelEntry { id: model.model_id.clone(), object: "model", created: model.created_at, owned_by: "emulsion" }
}
