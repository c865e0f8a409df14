//! What callers of ModelsLab's dialect send.

use runtime_api::{ImageRequest, PromptSyntax, Task};
use serde::Deserialize;
use utoipa::ToSchema;

use super::Family;
use crate::dialect::extension::ExtensionFields;
use crate::dialect::{Content, Fields, adapters, fields, lenient, not_supported, pictures, safety, sampler};
use crate::generation::{Mask, Mode, Pictures, Submission};
use crate::refusal::Refusal;
use crate::validation::MASK_BLUR_LIMIT_PIXELS;

/// Layers skipped at most, in this dialect's counting.
const CLIP_SKIP_LIMIT: u32 = 8;
/// Kept and given back; longer ones are no names.
const TRACK_ID_LIMIT_BYTES: usize = 256;
/// The vendor's words for an outpainting that says nothing.
const OUTPAINT_PROMPT: &str = "high quality";
const OUTPAINT_NEGATIVE_PROMPT: &str = "low quality";

/// A call for images. Numbers and switches may be texts; `null` and `""` are as good as absent; unknown fields are ignored. What is
/// left out takes the model's own default, because the vendor's fixed ones (512×512, 31 steps) are wrong for most models.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
#[schema(as = TextToImageCall)]
pub struct TextToImageFields {
    /// The API key; also taken from `Authorization: Bearer`, the headers `key` and `X-API-Key`, and the query.
    #[serde(deserialize_with = "lenient::filled_text")]
    pub key: Option<String>,
    /// The model; may be left out, then it is the first of the list of models.
    #[serde(deserialize_with = "lenient::filled_text")]
    pub model_id: Option<String>,
    /// AUTOMATIC1111's syntax: `(a)`, `[a]`, `(a:1.2)`, `BREAK`, and `<lora:ID:STRENGTH>`; brackets that are meant are written `\(`.
    #[serde(deserialize_with = "lenient::text")]
    #[schema(example = "a red circle on a blue background")]
    pub prompt: Option<String>,
    #[serde(deserialize_with = "lenient::text")]
    pub negative_prompt: Option<String>,
    /// Pixels, divisible by 8.
    #[serde(deserialize_with = "lenient::whole")]
    pub width: Option<u32>,
    /// Pixels, divisible by 8.
    #[serde(deserialize_with = "lenient::whole")]
    pub height: Option<u32>,
    /// Images to make, 1 by default.
    #[serde(deserialize_with = "lenient::whole")]
    pub samples: Option<u32>,
    #[serde(deserialize_with = "lenient::whole")]
    pub num_inference_steps: Option<u32>,
    #[serde(deserialize_with = "lenient::number")]
    pub guidance_scale: Option<f64>,
    /// The same seed makes the same image; absent, null, "" and -1 draw one. 0 is a seed like any other.
    #[serde(deserialize_with = "lenient::seed")]
    pub seed: Option<u64>,
    /// A class name of diffusers or a name of AUTOMATIC1111, such as `EulerDiscreteScheduler` or `Euler a`.
    #[serde(deserialize_with = "lenient::filled_text")]
    pub scheduler: Option<String>,
    /// For schedulers that have it; ignored for others, and where no scheduler is named.
    #[serde(deserialize_with = "lenient::switch")]
    pub use_karras_sigmas: Option<bool>,
    /// For the DPM-Solver schedulers.
    #[serde(deserialize_with = "lenient::filled_text")]
    pub algorithm_type: Option<String>,
    /// AUTOMATIC1111's counting: 1 uses the text encoder's last layer, 2 the one before it, up to 8.
    #[serde(deserialize_with = "lenient::whole", alias = "clipskip")]
    pub clip_skip: Option<u32>,
    /// LoRAs by their ids, with commas between them or as a list. A prompt may name them, too: `<lora:ID:STRENGTH>`.
    #[serde(deserialize_with = "lenient::names")]
    #[schema(value_type = Option<String>, example = "ink-style,dots")]
    pub lora_model: Vec<String>,
    /// Their strengths, in the same order; LoRAs beyond the last take the last, and without any all take 1.
    #[serde(deserialize_with = "lenient::numbers")]
    #[schema(value_type = Option<String>, example = "0.45,0.55")]
    pub lora_strength: Vec<f64>,
    /// Textual inversions that the prompts name, by their ids, with commas between them or as a list.
    #[serde(deserialize_with = "lenient::names")]
    #[schema(value_type = Option<String>)]
    pub embeddings_model: Vec<String>,
    /// Whether images are checked for what is not safe for work; off by default.
    #[serde(deserialize_with = "lenient::switch")]
    pub safety_checker: Option<bool>,
    /// What an unsafe image becomes: `blur`, `pixelate`, `black` or `sensitive_content_text` (the default).
    #[serde(deserialize_with = "lenient::filled_text")]
    pub safety_checker_type: Option<String>,
    /// Answer `processing` at once; the image is fetched by its id.
    #[serde(deserialize_with = "lenient::switch")]
    pub instant_response: Option<bool>,
    /// Images as base64 texts in `output` instead of URLs.
    #[serde(deserialize_with = "lenient::switch")]
    pub base64: Option<bool>,
    /// Given back in every answer about this call.
    #[serde(deserialize_with = "lenient::filled_text")]
    pub track_id: Option<String>,
    /// Such as "16:9"; not supported without width and height.
    #[serde(deserialize_with = "lenient::filled_text")]
    pub aspect_ratio: Option<String>,
}

/// What calls that begin with a picture have beside the fields of the others. A picture is an http(s) URL, a data URI, base64, or a file of
/// a multipart body: PNG, JPEG or WebP, at most 16 MiB and 4096×4096 pixels.
#[derive(Clone, Debug, ToSchema)]
#[schema(as = PictureFields)]
pub struct PictureFields {
    /// The picture that is changed; of an outpainting also called `image`.
    #[schema(value_type = String)]
    pub init_image: (),
    /// Of an inpainting: white is drawn anew, black is kept.
    #[schema(value_type = Option<String>)]
    pub mask_image: (),
    /// How far the picture is left behind, above 0 and at most 1; also called `prompt_strength`. By default what diffusers' pipelines
    /// of the model's family take.
    #[schema(value_type = Option<f64>)]
    pub strength: (),
    /// Of an outpainting: pixels of the picture's edge over which the new fades into it, at most 256 and a quarter of its shorter side;
    /// 16 by default.
    #[schema(value_type = Option<u32>)]
    pub overlap_width: (),
}

/// Those of [`PictureFields`] that are no pictures.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct EditFields {
    #[serde(deserialize_with = "lenient::number")]
    strength: Option<f64>,
    #[serde(deserialize_with = "lenient::number")]
    prompt_strength: Option<f64>,
    #[serde(deserialize_with = "lenient::whole")]
    overlap_width: Option<u32>,
}

/// A fetch whose id stands in the body.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
#[schema(as = FetchCall)]
pub struct FetchFields {
    #[serde(deserialize_with = "lenient::filled_text")]
    pub key: Option<String>,
    /// The `id` of an earlier answer; not needed where the path names it.
    #[serde(deserialize_with = "lenient::filled_text", alias = "id")]
    #[schema(value_type = Option<i32>)]
    pub request_id: Option<String>,
    /// Images as base64 texts in `output` instead of URLs.
    #[serde(deserialize_with = "lenient::switch")]
    pub base64: Option<bool>,
}

/// A call, translated.
#[derive(Clone, Debug)]
pub struct Parsed {
    /// `request.model` is empty where the caller named none.
    pub submission: Submission,
    pub base64: bool,
}

/// A call for images, whatever it begins with.
pub fn parse(mut content: Content, task: Task, family: Family) -> Result<Parsed, Refusal> {
    let pictures = take_pictures(&mut content, task)?;
    not_supported::check(&content)?;
    let edit = if task == Task::TextToImage { EditFields::default() } else { take_edit_fields(&mut content.fields)? };
    let extension = ExtensionFields::read(&content.fields)?;
    let call: TextToImageFields = fields::typed(content.fields)?;
    let track_id = call.track_id.clone();
    let mode = if call.instant_response == Some(true) { Mode::Detached } else { Mode::Attached };
    let base64 = call.base64 == Some(true);
    check(&call)?;
    let mut request = extension.extend(translate(call)?);
    request.task = task;
    request.strength = edit.strength.or(edit.prompt_strength);
    if task == Task::Outpaint {
        outpaint(&mut request, edit.overlap_width);
    }
    let submission = Submission { request, pictures, mode, partial_images: 0, track_id, dialect: family.dialect };
    Ok(Parsed { submission, base64 })
}

/// The pictures of the task; those of others stay, and are refused with the rest.
fn take_pictures(content: &mut Content, task: Task) -> Result<Pictures, Refusal> {
    let names: &[&'static str] = match task {
        Task::ImageToImage | Task::Inpaint => &["init_image"],
        Task::Outpaint => &["image", "init_image"],
        _ => return Ok(Pictures::default()),
    };
    let image = pictures::require(pictures::take(content, names)?, names[0])?;
    let mask = if task == Task::Inpaint {
        Some(Mask::White(pictures::require(pictures::take(content, &["mask_image"])?, "mask_image")?))
    } else {
        None
    };
    Ok(Pictures { image: Some(image), mask })
}

fn take_edit_fields(fields: &mut Fields) -> Result<EditFields, Refusal> {
    let names = ["strength", "prompt_strength", "overlap_width"];
    fields::typed(names.into_iter().filter_map(|name| fields.remove_entry(name)).collect())
}

/// What an outpainting leaves open, as the vendor fills it in; its margins follow from the picture's size.
fn outpaint(request: &mut ImageRequest, overlap_width: Option<u32>) {
    if request.prompt.trim().is_empty() {
        OUTPAINT_PROMPT.clone_into(&mut request.prompt);
    }
    request.negative_prompt.get_or_insert_with(|| OUTPAINT_NEGATIVE_PROMPT.to_owned());
    // Moved into the bound: the vendor's own client sends more than the vendor takes.
    request.mask_blur = overlap_width.map(|pixels| pixels.min(MASK_BLUR_LIMIT_PIXELS));
}

fn check(call: &TextToImageFields) -> Result<(), Refusal> {
    if call.aspect_ratio.is_some() && (call.width.is_none() || call.height.is_none()) {
        return Err(Refusal::NotSupported { feature: "aspect_ratio without width and height".to_owned() });
    }
    if call.track_id.as_ref().is_some_and(|track_id| track_id.len() > TRACK_ID_LIMIT_BYTES) {
        let message = format!("track_id must not be longer than {TRACK_ID_LIMIT_BYTES} bytes");
        return Err(Refusal::Invalid { field: "track_id".to_owned(), message });
    }
    Ok(())
}

fn translate(call: TextToImageFields) -> Result<ImageRequest, Refusal> {
    let sampler = sampler::choose("scheduler", call.scheduler.as_deref(), call.use_karras_sigmas, call.algorithm_type.as_deref())?;
    let (prompt, tagged) = adapters::take_tags(&call.prompt.unwrap_or_default())?;
    let mut request = ImageRequest::text_to_image(call.model_id.unwrap_or_default().trim(), prompt);
    // The vendor's own examples are full of brackets.
    request.prompt_syntax = PromptSyntax::Weighted;
    request.negative_prompt = call.negative_prompt;
    request.width = call.width;
    request.height = call.height;
    request.samples = call.samples.unwrap_or(1);
    request.num_inference_steps = call.num_inference_steps;
    request.guidance_scale = call.guidance_scale;
    request.seed = call.seed;
    request.clip_skip = call.clip_skip.and_then(skipped_layers);
    request.sampler = sampler.sampler;
    request.sampler_options = sampler.options;
    request.adapters = adapters::uses(call.lora_model, &call.lora_strength)?;
    request.adapters.extend(tagged);
    request.embeddings = call.embeddings_model;
    request.safety_checker = safety::style(call.safety_checker, call.safety_checker_type.as_deref())?;
    Ok(request)
}

/// From this dialect's counting, where 1 is the last layer, to diffusers', where 0 is. `None` skips none.
fn skipped_layers(clip_skip: u32) -> Option<u32> {
    let skipped = clip_skip.min(CLIP_SKIP_LIMIT).saturating_sub(1);
    (skipped > 0).then_some(skipped)
}

/// The id of a fetch, from its path or from its body. What cannot be an id is the id of nothing.
pub fn parse_fetch_id(text: Option<&str>) -> Result<i32, Refusal> {
    let Some(text) = text else {
        return Err(Refusal::Invalid {
            field: "request_id".to_owned(),
            message: "request_id is required: the id of an earlier answer".to_owned(),
        });
    };
    let unknown = || Refusal::GenerationUnknown { id: text.chars().take(40).collect() };
    // 42.0: a client whose language has no whole numbers.
    let whole = text.trim().trim_end_matches(".0");
    whole.parse().ok().filter(|id: &i32| *id > 0).ok_or_else(unknown)
}
