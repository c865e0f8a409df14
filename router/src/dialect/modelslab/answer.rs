//! What callers of ModelsLab's dialect are answered.

use axum::http::StatusCode;
use crds::model_deployment::ModelKind;
use runtime_api::{Failure, FailureReason, ImageRequest, Task};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::Family;
use super::refusal::{ErrorBody, to_value};
use crate::dialect::cold_start::ColdStart;
use crate::dialect::safety::DEFAULT_STYLE;
use crate::dialect::{Answer, failure_status};
use crate::generation::{Generation, ModelListing, State};

/// What an answer needs beside the generation.
#[derive(Clone, Copy, Debug)]
pub struct Answering<'a> {
    /// The address callers reach, without a trailing slash.
    pub public_url: &'a str,
    pub family: Family,
    /// Whether the caller asked for base64; links to fetch then ask for it again.
    pub base64: bool,
}

/// The images are there.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = SuccessAnswer)]
pub struct Success {
    /// `success`.
    pub status: &'static str,
    /// Seconds from acceptance to the last image.
    #[serde(rename = "generationTime")]
    pub generation_time: f64,
    pub id: i32,
    /// URLs of the images, or the images as base64 texts where the caller asked for them.
    pub output: Vec<String>,
    pub proxy_links: Vec<String>,
    /// Whether `safety_checker` found any image unsafe; false where it was not asked for.
    pub nsfw_content_detected: bool,
    pub webhook_status: &'static str,
    pub tip: &'static str,
    pub track_id: Option<String>,
    pub meta: Meta,
    pub cold_start: ColdStart,
}

/// The images are being made.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = ProcessingAnswer)]
pub struct Processing {
    /// `processing`.
    pub status: &'static str,
    pub tip: &'static str,
    pub tip_1: String,
    /// Seconds until the images may be there.
    pub eta: f64,
    pub message: &'static str,
    pub messege: &'static str,
    pub webhook_status: &'static str,
    /// Where to ask for the images.
    pub fetch_result: String,
    pub id: i32,
    /// Empty, always: clients take anything in it for the finished image.
    #[schema(value_type = Vec<String>)]
    pub output: [String; 0],
    /// Where the images will be; 404 until they are.
    pub future_links: Vec<String>,
    pub track_id: Option<String>,
    pub meta: Meta,
    pub cold_start: ColdStart,
}

/// The generation ended without images. Told with HTTP status 200.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = FailedAnswer)]
pub struct Failed {
    /// `failed`.
    pub status: &'static str,
    pub id: i32,
    pub message: String,
    pub messege: String,
    #[schema(value_type = Vec<String>)]
    pub output: [String; 0],
    pub track_id: Option<String>,
    pub meta: Meta,
    pub cold_start: ColdStart,
}

/// What the images were made of, in both spellings that clients read. Switches are texts, as the vendor sends them.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Meta {
    pub prompt: String,
    pub model_id: String,
    pub negative_prompt: String,
    /// This, the size, the steps and the guidance are null where the call named none and the model's own files decided.
    pub scheduler: Option<String>,
    pub safety_checker: &'static str,
    pub safety_checker_type: &'static str,
    #[serde(rename = "W")]
    pub short_width: Option<u32>,
    #[serde(rename = "H")]
    pub short_height: Option<u32>,
    pub width: Option<u32>,
    pub height: Option<u32>,
    pub guidance_scale: Option<f64>,
    /// The seed that was used, also where it was drawn.
    pub seed: u64,
    pub steps: Option<u32>,
    pub num_inference_steps: Option<u32>,
    pub n_samples: u32,
    pub samples: u32,
    pub full_url: &'static str,
    pub upscale: &'static str,
    pub multi_lingual: &'static str,
    pub panorama: &'static str,
    pub self_attention: &'static str,
    pub use_karras_sigmas: &'static str,
    pub algorithm_type: String,
    /// Ids, with commas between them.
    pub embeddings: Option<String>,
    pub vae: Option<String>,
    /// Ids, with commas between them.
    pub lora: Option<String>,
    /// Of each LoRA, with commas between them.
    pub lora_strength: Option<String>,
    /// How far the picture of the call was left behind; null where there was none.
    pub strength: Option<f64>,
    /// Of an outpainting.
    pub overlap_width: Option<u32>,
    /// AUTOMATIC1111's counting, as in the call.
    pub clip_skip: u32,
    pub temp: &'static str,
    pub base64: &'static str,
}

/// A model, as the old lists show it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LegacyModel {
    pub model_id: String,
    /// `model_ready`, or `model_not_ready`.
    pub status: &'static str,
    /// `stable_diffusion` where `model_id` may name it; `lora` where `lora_model`, `embedding` where `embeddings_model` may.
    pub model_category: &'static str,
    /// RFC 3339.
    pub created_at: String,
    pub instance_prompt: Option<String>,
    pub model_name: String,
    pub description: String,
    pub screenshots: String,
}

/// The answer to a call that waited, or that did not want to: `images` are the finished ones as base64, where the caller asked for that.
/// A failure takes a real status here, and is an error like any other.
pub fn render_sync(generation: &Generation, images: Option<Vec<String>>, answering: Answering<'_>) -> Answer {
    let failure = match &generation.state {
        State::Failed(failure) => failure.clone(),
        State::Cancelled => cancelled(),
        State::Succeeded | State::Queued | State::Running { .. } => return render_fetch(generation, images, answering),
    };
    let (status, retry_helps) = failure_status(failure.reason);
    let body = ErrorBody { status: "error", messege: failure.message.clone(), message: failure.message, ..ErrorBody::default() };
    let mut body = to_value(&body);
    body["id"] = Value::from(generation.public_id);
    body["cold_start"] = to_value(&ColdStart::from(&generation.start));
    Answer { status, retry_after: None, retry_helps, body }
}

/// The answer to a fetch: status 200 whatever became of the generation.
pub fn render_fetch(generation: &Generation, images: Option<Vec<String>>, answering: Answering<'_>) -> Answer {
    let body = match &generation.state {
        State::Succeeded => to_value(&success(generation, images, answering)),
        State::Queued | State::Running { .. } => to_value(&processing(generation, answering)),
        State::Failed(failure) => to_value(&failed(generation, failure.message.clone(), answering)),
        State::Cancelled => to_value(&failed(generation, cancelled().message, answering)),
    };
    Answer::new(StatusCode::OK, body)
}

fn cancelled() -> Failure {
    Failure { reason: FailureReason::Cancelled, message: "the generation was cancelled; nothing was charged".to_owned() }
}

fn success(generation: &Generation, images: Option<Vec<String>>, answering: Answering<'_>) -> Success {
    let links = links(generation, answering.public_url);
    Success {
        status: "success",
        generation_time: rounded_seconds(generation.elapsed.as_secs_f64()),
        id: generation.public_id,
        output: images.unwrap_or_else(|| links.clone()),
        proxy_links: links,
        nsfw_content_detected: generation.nsfw_content_detected.contains(&true),
        webhook_status: "",
        tip: "",
        track_id: generation.track_id.clone(),
        meta: meta(&generation.request, answering.base64),
        cold_start: ColdStart::from(&generation.start),
    }
}

fn processing(generation: &Generation, answering: Answering<'_>) -> Processing {
    const MESSAGE: &str = "Try to fetch request after seconds estimated";
    let mut fetch_result = format!("{}{}/{}", answering.public_url, answering.family.fetch_path, generation.public_id);
    if answering.base64 {
        // Clients call this URL as it stands, so that what they asked for is not forgotten.
        fetch_result.push_str("?base64=true");
    }
    Processing {
        status: "processing",
        tip: "The fetch call waits for the image: one call is usually enough.",
        tip_1: format!("Your image is processing in background, you can get this image using fetch API: {fetch_result}"),
        // Never 0 while there is something to wait for: clients sleep that long.
        eta: rounded_seconds(generation.eta.as_secs_f64()).max(0.5),
        message: MESSAGE,
        messege: MESSAGE,
        webhook_status: "",
        fetch_result,
        id: generation.public_id,
        output: [],
        future_links: links(generation, answering.public_url),
        track_id: generation.track_id.clone(),
        meta: meta(&generation.request, answering.base64),
        cold_start: ColdStart::from(&generation.start),
    }
}

fn failed(generation: &Generation, message: String, answering: Answering<'_>) -> Failed {
    Failed {
        status: "failed",
        id: generation.public_id,
        messege: message.clone(),
        message,
        output: [],
        track_id: generation.track_id.clone(),
        meta: meta(&generation.request, answering.base64),
        cold_start: ColdStart::from(&generation.start),
    }
}

fn links(generation: &Generation, public_url: &str) -> Vec<String> {
    generation.output_paths.iter().map(|path| format!("{public_url}{path}")).collect()
}

fn rounded_seconds(seconds: f64) -> f64 {
    (seconds * 100.0).round() / 100.0
}

fn meta(request: &ImageRequest, base64: bool) -> Meta {
    let (width, height, steps) = (request.width, request.height, request.num_inference_steps);
    let karras = request.sampler_options.get("use_karras_sigmas").and_then(Value::as_bool).unwrap_or(false);
    let algorithm = request.sampler_options.get("algorithm_type").and_then(Value::as_str).unwrap_or("no");
    Meta {
        prompt: request.prompt.clone(),
        model_id: request.model.clone(),
        negative_prompt: request.negative_prompt.clone().unwrap_or_default(),
        scheduler: request.sampler.clone(),
        safety_checker: yes_or_no(request.safety_checker.is_some()),
        safety_checker_type: request.safety_checker.unwrap_or(DEFAULT_STYLE).name(),
        short_width: width,
        short_height: height,
        width,
        height,
        guidance_scale: request.guidance_scale,
        seed: request.seed.unwrap_or_default(),
        steps,
        num_inference_steps: steps,
        n_samples: request.samples,
        samples: request.samples,
        full_url: "no",
        upscale: "no",
        multi_lingual: "no",
        panorama: "no",
        self_attention: "no",
        use_karras_sigmas: yes_or_no(karras),
        algorithm_type: algorithm.to_owned(),
        embeddings: listed(request.embeddings.iter().cloned()),
        vae: None,
        lora: listed(request.adapters.iter().map(|adapter| adapter.model.clone())),
        lora_strength: listed(request.adapters.iter().map(|adapter| adapter.scale.to_string())),
        strength: request.strength,
        overlap_width: request.mask_blur.filter(|_| request.task == Task::Outpaint),
        clip_skip: request.clip_skip.unwrap_or(0).saturating_add(1),
        temp: "no",
        base64: yes_or_no(base64),
    }
}

fn listed(names: impl Iterator<Item = String>) -> Option<String> {
    let names: Vec<String> = names.collect();
    (!names.is_empty()).then(|| names.join(","))
}

fn yes_or_no(on: bool) -> &'static str {
    if on { "yes" } else { "no" }
}

/// The bare list that the old endpoints answer.
pub fn model_list(models: &[ModelListing]) -> Answer {
    let list: Vec<LegacyModel> = models
        .iter()
        .filter_map(|model| Some((model, category(model.kind)?)))
        .map(|(model, model_category)| LegacyModel {
            model_category,
            model_id: model.model_id.clone(),
            status: if model.ready { "model_ready" } else { "model_not_ready" },
            created_at: jiff::Timestamp::from_second(model.created_at).unwrap_or_default().to_string(),
            instance_prompt: None,
            model_name: model.model_id.clone(),
            description: model.family.clone().unwrap_or_default(),
            screenshots: String::new(),
        })
        .collect();
    Answer::success(to_value(&list))
}

/// `None` for what no call can name.
fn category(kind: ModelKind) -> Option<&'static str> {
    match kind {
        ModelKind::Checkpoint => Some("stable_diffusion"),
        ModelKind::Lora => Some("lora"),
        ModelKind::Embedding => Some("embedding"),
        ModelKind::Controlnet | ModelKind::Vae | ModelKind::Upscaler => None,
    }
}
