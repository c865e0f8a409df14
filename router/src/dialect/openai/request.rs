//! What callers of OpenAI's dialect send.

use runtime_api::{ImageRequest, OutputFormat, Task};
use serde::Deserialize;
use utoipa::ToSchema;

use super::DIALECT;
use crate::dialect::extension::ExtensionFields;
use crate::dialect::{Content, adapters, fields, lenient, not_supported, pictures, safety, sampler};
use crate::generation::{Mask, Mode, Pictures, Submission};
use crate::refusal::Refusal;

/// Previews of one image at most, as OpenAI has it.
const PARTIAL_IMAGES_LIMIT: u32 = 3;
/// The best quality of a JPEG file.
const QUALITY_LIMIT: u32 = 100;

/// A call for images. Only `prompt` is required; what is left out takes the model's own default.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
#[schema(as = OpenAiImageCall)]
pub struct ImageCall {
    #[serde(deserialize_with = "lenient::text")]
    #[schema(example = "a red circle on a blue background")]
    pub prompt: Option<String>,
    /// The model; may be left out, then it is the first of the list of models.
    #[serde(deserialize_with = "lenient::filled_text")]
    pub model: Option<String>,
    /// Images to make, 1 by default.
    #[serde(deserialize_with = "lenient::whole")]
    pub n: Option<u32>,
    /// `WIDTHxHEIGHT` in pixels, or `auto` for the model's own size.
    #[serde(deserialize_with = "lenient::filled_text")]
    pub size: Option<String>,
    /// `b64_json` (the default) or `url`.
    #[serde(deserialize_with = "lenient::filled_text")]
    pub response_format: Option<String>,
    /// `png` (the default), `jpeg` or `webp`, which loses nothing.
    #[serde(deserialize_with = "lenient::filled_text")]
    pub output_format: Option<String>,
    /// Quality of a JPEG file, 0 to 100 (the default): less is smaller. The other formats lose nothing and stay as they are.
    #[serde(deserialize_with = "lenient::whole")]
    pub output_compression: Option<u32>,
    /// `auto` or `opaque`.
    #[serde(deserialize_with = "lenient::filled_text")]
    pub background: Option<String>,
    /// Answer with server-sent events.
    #[serde(deserialize_with = "lenient::switch")]
    pub stream: Option<bool>,
    /// Previews of each unfinished image in a stream, 0 to 3.
    #[serde(deserialize_with = "lenient::whole")]
    pub partial_images: Option<u32>,
    #[serde(deserialize_with = "lenient::text")]
    pub negative_prompt: Option<String>,
    /// Beside `size`: pixels.
    #[serde(deserialize_with = "lenient::whole")]
    pub width: Option<u32>,
    /// Beside `size`: pixels.
    #[serde(deserialize_with = "lenient::whole")]
    pub height: Option<u32>,
    /// The same seed makes the same image; absent, null and -1 draw one.
    #[serde(deserialize_with = "lenient::seed")]
    pub seed: Option<u64>,
    #[serde(deserialize_with = "lenient::whole")]
    pub steps: Option<u32>,
    /// Another name of `steps`, and the one that counts where both are given.
    #[serde(deserialize_with = "lenient::whole")]
    pub num_inference_steps: Option<u32>,
    #[serde(deserialize_with = "lenient::number")]
    pub guidance_scale: Option<f64>,
    /// A class name of diffusers or a name of AUTOMATIC1111.
    #[serde(deserialize_with = "lenient::filled_text")]
    pub scheduler: Option<String>,
    #[serde(deserialize_with = "lenient::switch")]
    pub use_karras_sigmas: Option<bool>,
    /// diffusers' counting: how many of the text encoder's last layers are skipped.
    #[serde(deserialize_with = "lenient::whole")]
    pub clip_skip: Option<u32>,
    /// LoRAs by their ids, with commas between them or as a list.
    #[serde(deserialize_with = "lenient::names")]
    #[schema(value_type = Option<String>)]
    pub lora_model: Vec<String>,
    /// Their strengths, in the same order; LoRAs beyond the last take the last, and without any all take 1.
    #[serde(deserialize_with = "lenient::numbers")]
    #[schema(value_type = Option<String>)]
    pub lora_strength: Vec<f64>,
    /// Textual inversions that the prompts name, by their ids, with commas between them or as a list.
    #[serde(deserialize_with = "lenient::names")]
    #[schema(value_type = Option<String>)]
    pub embeddings_model: Vec<String>,
    /// Whether images are checked for what is not safe for work; off by default. A stream of checked images has no previews.
    #[serde(deserialize_with = "lenient::switch")]
    pub safety_checker: Option<bool>,
    /// What an unsafe image becomes: `blur`, `pixelate`, `black` or `sensitive_content_text` (the default).
    #[serde(deserialize_with = "lenient::filled_text")]
    pub safety_checker_type: Option<String>,
}

/// What an edit has beside the fields of the others. A picture is a file of a multipart body, an http(s) URL, a data URI or base64: PNG,
/// JPEG or WebP, at most 16 MiB and 4096×4096 pixels. One picture is taken.
#[derive(Clone, Debug, ToSchema)]
#[schema(as = OpenAiEditFields)]
pub struct EditFields {
    /// The picture that is changed; also called `image[]`. The images are as large as it is where no size is named.
    #[schema(value_type = String, format = Binary)]
    pub image: (),
    /// What is transparent in it is drawn anew, what is opaque is kept. Without it the whole picture is changed.
    #[schema(value_type = Option<String>, format = Binary)]
    pub mask: (),
    /// How far the picture is left behind, above 0 and at most 1. By default what diffusers' pipelines of the model's family
    /// take.
    #[schema(value_type = Option<f64>)]
    pub strength: (),
}

/// Those of [`EditFields`] that are no pictures.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Strength {
    #[serde(deserialize_with = "lenient::number")]
    strength: Option<f64>,
}

/// A call, translated.
#[derive(Clone, Debug)]
pub struct Parsed {
    /// `request.model` is empty where the caller named none.
    pub submission: Submission,
    /// Images as base64 rather than as URLs.
    pub base64: bool,
    pub stream: bool,
}

/// A call for images of a text.
pub fn parse(content: Content) -> Result<Parsed, Refusal> {
    parse_call(content, Pictures::default())
}

/// A call that changes a picture.
pub fn parse_edit(mut content: Content) -> Result<Parsed, Refusal> {
    let image = pictures::require(pictures::take(&mut content, &["image", "image[]"])?, "image")?;
    let mask = pictures::take(&mut content, &["mask"])?.map(Mask::Transparent);
    let strength: Strength = fields::typed(content.fields.remove_entry("strength").into_iter().collect())?;
    let task = if mask.is_some() { Task::Inpaint } else { Task::ImageToImage };
    let mut parsed = parse_call(content, Pictures { image: Some(image), mask })?;
    parsed.submission.request.task = task;
    parsed.submission.request.strength = strength.strength;
    Ok(parsed)
}

fn parse_call(content: Content, pictures: Pictures) -> Result<Parsed, Refusal> {
    not_supported::check(&content)?;
    let extension = ExtensionFields::read(&content.fields)?;
    let call: ImageCall = fields::typed(content.fields)?;
    check_background(&call)?;
    let base64 = match call.response_format.as_deref() {
        None | Some("b64_json") => true,
        Some("url") => false,
        Some(_) => return Err(invalid("response_format", "must be \"b64_json\" or \"url\"")),
    };
    let stream = call.stream == Some(true);
    let partial_images = call.partial_images.unwrap_or(0);
    if partial_images > PARTIAL_IMAGES_LIMIT {
        return Err(invalid("partial_images", "must be between 0 and 3"));
    }
    let request = extension.extend(translate(call)?);
    let partial_images = if stream { partial_images } else { 0 };
    let submission = Submission { request, pictures, mode: Mode::Attached, partial_images, track_id: None, dialect: DIALECT };
    Ok(Parsed { submission, base64, stream })
}

fn output_format(asked: Option<&str>) -> Result<OutputFormat, Refusal> {
    let Some(asked) = asked else { return Ok(OutputFormat::default()) };
    let known = OutputFormat::ALL.into_iter().find(|format| format.name() == asked);
    known.ok_or_else(|| invalid("output_format", "must be \"png\", \"jpeg\" or \"webp\""))
}

fn output_quality(asked: Option<u32>) -> Result<Option<u8>, Refusal> {
    let checked = asked.map(|quality| if quality <= QUALITY_LIMIT { Ok(quality as u8) } else { Err(quality) }).transpose();
    checked.map_err(|_| invalid("output_compression", "must be between 0 and 100"))
}

fn check_background(call: &ImageCall) -> Result<(), Refusal> {
    match call.background.as_deref() {
        None | Some("auto" | "opaque") => Ok(()),
        Some("transparent") => Err(Refusal::NotSupported { feature: "a transparent background".to_owned() }),
        Some(_) => Err(invalid("background", "must be \"auto\" or \"opaque\"")),
    }
}

fn translate(call: ImageCall) -> Result<ImageRequest, Refusal> {
    let (width, height) = match call.size.as_deref().map(read_size).transpose()?.flatten() {
        Some((width, height)) => (Some(width), Some(height)),
        None => (call.width, call.height),
    };
    let sampler = sampler::choose("scheduler", call.scheduler.as_deref(), call.use_karras_sigmas, None)?;
    let mut request = ImageRequest::text_to_image(call.model.unwrap_or_default().trim(), call.prompt.unwrap_or_default());
    request.negative_prompt = call.negative_prompt;
    request.width = width;
    request.height = height;
    request.samples = call.n.unwrap_or(1);
    request.num_inference_steps = call.num_inference_steps.or(call.steps);
    request.guidance_scale = call.guidance_scale;
    request.seed = call.seed;
    request.clip_skip = call.clip_skip.filter(|skipped| *skipped > 0);
    request.sampler = sampler.sampler;
    request.sampler_options = sampler.options;
    request.adapters = adapters::uses(call.lora_model, &call.lora_strength)?;
    request.embeddings = call.embeddings_model;
    request.output_format = output_format(call.output_format.as_deref())?;
    request.output_quality = output_quality(call.output_compression)?;
    request.safety_checker = safety::style(call.safety_checker, call.safety_checker_type.as_deref())?;
    Ok(request)
}

/// `None` for `auto`.
fn read_size(size: &str) -> Result<Option<(u32, u32)>, Refusal> {
    let size = size.trim().to_ascii_lowercase();
    if size == "auto" {
        return Ok(None);
    }
    let sides = size.split_once(['x', '×']).and_then(|(width, height)| Some((width.trim().parse().ok()?, height.trim().parse().ok()?)));
    sides.map(Some).ok_or_else(|| invalid("size", "must be WIDTHxHEIGHT, such as \"512x512\", or \"auto\""))
}

fn invalid(field: &str, rule: &str) -> Refusal {
    Refusal::Invalid { field: field.to_owned(), message: format!("{field} {rule}") }
}
