//! What callers of OpenAI's dialect are answered event by event.

use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::answer::size;
use super::refusal::refuse_failure;
use crate::dialect::cold_start::ColdStart;
use crate::generation::Generation;
use crate::refusal::Refusal;
use runtime_api::{Failure, Task};

/// One server-sent event; `type` is also its `event:` name.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = OpenAiImageEvent)]
pub struct StreamEvent {
    /// `image_generation.partial_image` or `image_generation.completed`; of an edit `image_edit.partial_image` or `image_edit.completed`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// A file, whole in itself: a preview is a PNG, the finished image what the call asked for.
    pub b64_json: String,
    /// Seconds since 1970.
    pub created_at: u64,
    pub size: String,
    pub quality: &'static str,
    pub background: &'static str,
    pub output_format: &'static str,
    /// Which of the request's images it is of, from 0.
    pub image_index: u32,
    /// Which preview of its image it is, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partial_image_index: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Whether the image was found unsafe and drawn over; left out where `safety_checker` was not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nsfw_content_detected: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cold_start: Option<ColdStart>,
}

/// Tokens, which nothing here is counted in: all are 0. Present because typed clients require it of a completed image.
#[derive(Clone, Copy, Debug, Default, Serialize, ToSchema)]
pub struct Usage {
    pub total_tokens: u32,
    pub input_tokens: u32,
    pub output_tokens: u32,
    pub input_tokens_details: InputTokens,
}

#[derive(Clone, Copy, Debug, Default, Serialize, ToSchema)]
pub struct InputTokens {
    pub text_tokens: u32,
    pub image_tokens: u32,
}

impl StreamEvent {
    fn new(kind: &'static str, generation: &Generation, image_index: u32, b64_json: String, created_at: u64) -> Self {
        Self {
            kind,
            b64_json,
            created_at,
            size: size(generation),
            quality: "auto",
            background: "opaque",
            output_format: "png",
            image_index,
            partial_image_index: None,
            usage: None,
            seed: None,
            nsfw_content_detected: None,
            cold_start: None,
        }
    }
}

/// A preview of image `image_index`.
pub fn partial(generation: &Generation, image_index: u32, preview_index: u32, b64_json: String, created_at: u64) -> StreamEvent {
    let kind = if is_edit(generation) { "image_edit.partial_image" } else { "image_generation.partial_image" };
    let event = StreamEvent::new(kind, generation, image_index, b64_json, created_at);
    StreamEvent { partial_image_index: Some(preview_index), ..event }
}

/// Image `image_index`, finished.
pub fn completed(generation: &Generation, image_index: u32, b64_json: String, created_at: u64) -> StreamEvent {
    let kind = if is_edit(generation) { "image_edit.completed" } else { "image_generation.completed" };
    let event = StreamEvent::new(kind, generation, image_index, b64_json, created_at);
    StreamEvent {
        output_format: generation.request.output_format.name(),
        usage: Some(Usage::default()),
        seed: generation.request.seed,
        nsfw_content_detected: generation.nsfw_content_detected.get(image_index as usize).copied(),
        cold_start: Some(ColdStart::from(&generation.start)),
        ..event
    }
}

fn is_edit(generation: &Generation) -> bool {
    generation.request.task != Task::TextToImage
}

/// The data of the last event of a stream that ends without its images; its `event:` name is `error`.
pub fn failed(failure: Option<&Failure>) -> Value {
    let answer = failure.map_or_else(|| super::refuse(&Refusal::Internal), refuse_failure);
    json!({ "type": "error", "error": answer.body["error"] })
}
