//! From what was asked to what will be made: bounds are checked and missing values come from the model. Pure: no clock, no randomness.

use diffusion::adapter::{MAX_ADAPTER_SCALE, MAX_ADAPTERS};
use diffusion::conditioning::MicroConditioning;
use diffusion::pipeline::Start;
use diffusion::text::MAX_EMBEDDINGS;
use runtime_api::{ImageRequest, Margins, Task};

use crate::canvas::Canvas;
use crate::engine::{Defaults, PromptSyntax, Request, Strengths};
use crate::picture::MAX_QUALITY;

/// Sides are multiples of this, as latents of every served family are an eighth of the image.
pub const SIDE_MULTIPLE: u32 = 8;
/// The most bytes of one prompt.
pub const MAX_PROMPT_BYTES: usize = 32 * 1024;
/// The most keys of `sampler_options`; no scheduler has more.
pub const MAX_SAMPLER_OPTIONS: usize = 64;
/// Guidance beyond this is nonsense in every family and ends in overflow.
pub const MAX_GUIDANCE_SCALE: f64 = 1000.0;
/// The scale on which pictures were judged for training.
pub const MAX_AESTHETIC_SCORE: f64 = 10.0;
/// What messages call a request's `image`.
pub const IMAGE: &str = "image";
/// What messages call a request's `mask_image`.
pub const MASK: &str = "mask";
/// The widest blur of a mask, in pixels, and the widest overlap of an outpainting.
pub const MAX_MASK_BLUR: u32 = 256;
/// The fields that only some tasks use, and which those are.
const TASK_FIELDS: [(&str, &[Task]); 5] = [
    ("image", &[Task::ImageToImage, Task::Inpaint, Task::Outpaint]),
    ("mask_image", &[Task::Inpaint]),
    ("mask_blur", &[Task::Inpaint, Task::Outpaint]),
    ("strength", &[Task::ImageToImage, Task::Inpaint, Task::Outpaint]),
    ("margins", &[Task::Outpaint]),
];

/// What one request may ask of this replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Width × height.
    pub max_pixels: u32,
    pub max_samples: u32,
    pub max_steps: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_pixels: 2048 * 2048, max_samples: 16, max_steps: 1000 }
    }
}

/// Why a request cannot be served. The text is for the caller.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum InvalidRequest {
    #[error("{field} {pixels} is not possible: sides are multiples of {SIDE_MULTIPLE}, from {SIDE_MULTIPLE} on")]
    Side { field: &'static str, pixels: u32 },
    #[error("{width}×{height} is more than this replica makes: at most {limit} pixels in all")]
    Pixels { width: u32, height: u32, limit: u32 },
    #[error("samples {samples} is not possible: ask for 1 to {limit}")]
    Samples { samples: u32, limit: u32 },
    #[error("num_inference_steps {steps} is not possible: ask for 1 to {limit}")]
    Steps { steps: u32, limit: u32 },
    #[error("output_quality {quality} is not possible: ask for 0 to {MAX_QUALITY}")]
    Quality { quality: u8 },
    #[error("{field} is too long: at most {MAX_PROMPT_BYTES} bytes")]
    Prompt { field: &'static str },
    #[error("{field} {value} is not possible: it is a number from {low} to {high}")]
    Range { field: &'static str, value: f64, low: f64, high: f64 },
    #[error("{field} {value} is not possible: it is above 0 and below 1")]
    Share { field: &'static str, value: f64 },
    #[error(
        "a refiner goes on with whole images where the model left the schedule: not where a part is kept, nor with denoising_start or denoising_end"
    )]
    Refiner,
    #[error("sampler_options has more than {MAX_SAMPLER_OPTIONS} keys")]
    SamplerOptions,
    #[error("embeddings names {count}: at most {MAX_EMBEDDINGS} are taken")]
    Embeddings { count: usize },
    #[error("{count} adapters are too many: at most {MAX_ADAPTERS} act on one image")]
    Adapters { count: usize },
    #[error("this replica does not serve {what} yet")]
    Unserved { what: String },
    #[error("the task {task:?} needs {field}")]
    Missing { field: &'static str, task: Task },
    #[error("the task {task:?} does not use {field}; leave it out or ask for another task")]
    Unused { field: &'static str, task: Task },
    #[error("strength {value} is not possible: it is above 0 and at most 1")]
    Strength { value: f64 },
    #[error("mask_blur {pixels} is not possible: at most {MAX_MASK_BLUR} pixels")]
    MaskBlur { pixels: u32 },
    #[error("the image of {width}×{height} pixels is too small: a side has at least {SIDE_MULTIPLE}, or name width and height")]
    TooSmall { width: u32, height: u32 },
    #[error("the margins leave nothing of {width}×{height} pixels for the image itself; make them narrower")]
    Margins { width: u32, height: u32 },
}

/// `request` with every value decided: its own, else its canvas's, else the model's; checked against `limits`. `canvas` holds its
/// pictures if its task needs some; `seed` is used where it names none. Its embeddings and adapters are files, which whoever calls opens.
///
/// # Errors
/// [`InvalidRequest`] names the field and what it may be.
pub fn complete(
    request: &ImageRequest,
    canvas: Option<&Canvas>,
    defaults: &Defaults,
    limits: &Limits,
    seed: u64,
) -> Result<Request, InvalidRequest> {
    match (request.task, canvas) {
        (Task::TextToImage, _) => decide(request, &Canvas::blank(request, defaults), defaults, limits, seed),
        (_, Some(canvas)) => decide(request, canvas, defaults, limits, seed),
        (task, None) => Err(InvalidRequest::Missing { field: "image", task }),
    }
}

fn decide(request: &ImageRequest, canvas: &Canvas, defaults: &Defaults, limits: &Limits, seed: u64) -> Result<Request, InvalidRequest> {
    check_kind(request)?;
    check_texts(request)?;
    check_adapters(request)?;
    let Canvas { width, height, start } = canvas.clone();
    let start = if request.strength.is_some() { start } else { as_usual(start, request.task, defaults.strength) };
    check_size(width, height, limits)?;
    let steps = request.num_inference_steps.unwrap_or(small(defaults.num_inference_steps));
    if steps == 0 || steps > limits.max_steps {
        return Err(InvalidRequest::Steps { steps, limit: limits.max_steps });
    }
    if request.samples == 0 || request.samples > limits.max_samples {
        return Err(InvalidRequest::Samples { samples: request.samples, limit: limits.max_samples });
    }
    if request.sampler_options.len() > MAX_SAMPLER_OPTIONS {
        return Err(InvalidRequest::SamplerOptions);
    }
    if let Some(quality) = request.output_quality.filter(|quality| *quality > MAX_QUALITY) {
        return Err(InvalidRequest::Quality { quality });
    }
    Ok(Request {
        prompt: request.prompt.clone(),
        negative_prompt: request.negative_prompt.clone(),
        prompt_2: request.prompt_2.clone(),
        prompt_3: request.prompt_3.clone(),
        negative_prompt_2: request.negative_prompt_2.clone(),
        negative_prompt_3: request.negative_prompt_3.clone(),
        max_sequence_length: request.max_sequence_length.map(|tokens| tokens as usize),
        prompt_syntax: syntax(request.prompt_syntax)?,
        embeddings: Vec::new(),
        width: width as usize,
        height: height as usize,
        samples: request.samples as usize,
        num_inference_steps: steps as usize,
        guidance_scale: within("guidance_scale", request.guidance_scale, defaults.guidance_scale, 0.0, MAX_GUIDANCE_SCALE)?,
        true_cfg_scale: within("true_cfg_scale", request.true_cfg_scale, 1.0, 0.0, MAX_GUIDANCE_SCALE)?,
        guidance_rescale: within("guidance_rescale", request.guidance_rescale, 0.0, 0.0, 1.0)?,
        eta: within("eta", request.eta, 0.0, 0.0, 1.0)?,
        clip_skip: request.clip_skip.map(|skip| skip as usize),
        sampler: request.sampler.clone(),
        sampler_options: request.sampler_options.clone(),
        seed: request.seed.unwrap_or(seed),
        micro: micro(request)?,
        denoising_start: share("denoising_start", request.denoising_start)?,
        denoising_end: share("denoising_end", request.denoising_end)?,
        adapters: Vec::new(),
        start,
    })
}

/// A picture of which nobody says how far it is left behind is left behind as is usual for the model. What is drawn around one is drawn from
/// nothing.
fn as_usual(start: Start, task: Task, usual: Strengths) -> Start {
    match (task, start) {
        (Task::ImageToImage, Start::Image { image, .. }) => Start::Image { image, strength: usual.image },
        (Task::ImageToImage, Start::Latents { latents, .. }) => Start::Latents { latents, strength: usual.image },
        (Task::Inpaint, Start::Inpaint { image, mask, .. }) => Start::Inpaint { image, mask, strength: usual.inpaint },
        (_, start) => start,
    }
}

/// What can be said of `request` before its model and its pictures are known.
///
/// # Errors
/// As [`complete`].
pub fn check(request: &ImageRequest, limits: &Limits) -> Result<(), InvalidRequest> {
    // Stand-ins within every limit: only what the request itself says is judged.
    let side = SIDE_MULTIPLE as usize;
    let strength = Strengths { image: 1.0, inpaint: 1.0 };
    let stand_in = Defaults { width: side, height: side, num_inference_steps: 1, guidance_scale: 1.0, strength };
    decide(request, &Canvas::blank(request, &stand_in), &stand_in, limits, 0).map(drop)
}

/// The inputs of `request`: what messages call each, and its sha256.
///
/// # Errors
/// [`InvalidRequest::Missing`] if its task needs one that it does not name.
pub fn inputs(request: &ImageRequest) -> Result<Vec<(&'static str, &str)>, InvalidRequest> {
    let mut inputs = Vec::new();
    for (field, name, digest) in [("image", IMAGE, &request.image), ("mask_image", MASK, &request.mask_image)] {
        match digest {
            Some(digest) => inputs.push((name, digest.as_str())),
            None if uses(request.task, field) => return Err(InvalidRequest::Missing { field, task: request.task }),
            None => {}
        }
    }
    Ok(inputs)
}

/// A model's own number; one beyond 32 bits is refused by the limits like any other that is too large.
pub(crate) fn small(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

fn check_kind(request: &ImageRequest) -> Result<(), InvalidRequest> {
    if request.embeddings.len() > MAX_EMBEDDINGS {
        return Err(InvalidRequest::Embeddings { count: request.embeddings.len() });
    }
    for field in request.extensions().filter(|field| !["embeddings", "adapters"].contains(field)) {
        if !TASK_FIELDS.iter().any(|(name, _)| *name == field) {
            return Err(InvalidRequest::Unserved { what: format!("the field {field}") });
        }
        if !uses(request.task, field) {
            return Err(InvalidRequest::Unused { field, task: request.task });
        }
    }
    check_task(request)
}

/// Whether a field that only some tasks use is one of this task's.
pub(crate) fn uses(task: Task, field: &str) -> bool {
    TASK_FIELDS.iter().any(|(name, tasks)| *name == field && tasks.contains(&task))
}

fn check_task(request: &ImageRequest) -> Result<(), InvalidRequest> {
    if let Some(value) = request.strength.filter(|strength| !(*strength > 0.0 && *strength <= 1.0)) {
        return Err(InvalidRequest::Strength { value });
    }
    if let Some(pixels) = request.mask_blur.filter(|pixels| *pixels > MAX_MASK_BLUR) {
        return Err(InvalidRequest::MaskBlur { pixels });
    }
    let has_margins = request.margins.is_some_and(|margins| margins != Margins::default());
    if let Some(refiner) = &request.refiner {
        share("refiner.start", Some(refiner.start))?;
        if matches!(request.task, Task::Inpaint | Task::Outpaint) || request.denoising_start.is_some() || request.denoising_end.is_some() {
            return Err(InvalidRequest::Refiner);
        }
    }
    if request.task == Task::Outpaint && !has_margins {
        return Err(InvalidRequest::Missing { field: "margins", task: request.task });
    }
    Ok(())
}

fn syntax(asked: runtime_api::PromptSyntax) -> Result<PromptSyntax, InvalidRequest> {
    match asked {
        runtime_api::PromptSyntax::Plain => Ok(PromptSyntax::Plain),
        runtime_api::PromptSyntax::Weighted => Ok(PromptSyntax::Weighted),
        // A newer router may know more than this replica.
        newer => Err(InvalidRequest::Unserved { what: format!("the prompt syntax {newer:?}") }),
    }
}

fn check_adapters(request: &ImageRequest) -> Result<(), InvalidRequest> {
    if request.adapters.len() > MAX_ADAPTERS {
        return Err(InvalidRequest::Adapters { count: request.adapters.len() });
    }
    let scales = request.adapters.iter().map(|asked| Some(asked.scale));
    scales.map(|scale| within("adapters.scale", scale, 1.0, -MAX_ADAPTER_SCALE, MAX_ADAPTER_SCALE)).try_for_each(|scale| scale.map(drop))
}

fn check_texts(request: &ImageRequest) -> Result<(), InvalidRequest> {
    match request.texts().find(|(_, text)| text.len() > MAX_PROMPT_BYTES) {
        Some((field, _)) => Err(InvalidRequest::Prompt { field }),
        None => Ok(()),
    }
}

/// Sizes and scores that only some models read; those that do not refuse them.
fn micro(request: &ImageRequest) -> Result<MicroConditioning, InvalidRequest> {
    let pair = |pair: Option<[u32; 2]>| pair.map(|pair| pair.map(|side| side as usize));
    let usual = MicroConditioning::default();
    let score = |field, asked, usual| within(field, asked, usual, 0.0, MAX_AESTHETIC_SCORE);
    Ok(MicroConditioning {
        original_size: pair(request.original_size),
        target_size: pair(request.target_size),
        crops_coords_top_left: pair(request.crops_coords_top_left).unwrap_or(usual.crops_coords_top_left),
        negative_original_size: pair(request.negative_original_size),
        negative_target_size: pair(request.negative_target_size),
        negative_crops_coords_top_left: pair(request.negative_crops_coords_top_left).unwrap_or(usual.negative_crops_coords_top_left),
        aesthetic_score: score("aesthetic_score", request.aesthetic_score, usual.aesthetic_score)?,
        negative_aesthetic_score: score("negative_aesthetic_score", request.negative_aesthetic_score, usual.negative_aesthetic_score)?,
    })
}

/// A share of the schedule.
fn share(field: &'static str, asked: Option<f64>) -> Result<Option<f64>, InvalidRequest> {
    match asked {
        Some(value) if !(value > 0.0 && value < 1.0) => Err(InvalidRequest::Share { field, value }),
        asked => Ok(asked),
    }
}

pub(crate) fn check_size(width: u32, height: u32, limits: &Limits) -> Result<(), InvalidRequest> {
    for (field, pixels) in [("width", width), ("height", height)] {
        if pixels == 0 || pixels % SIDE_MULTIPLE != 0 {
            return Err(InvalidRequest::Side { field, pixels });
        }
    }
    if u64::from(width) * u64::from(height) > u64::from(limits.max_pixels) {
        return Err(InvalidRequest::Pixels { width, height, limit: limits.max_pixels });
    }
    Ok(())
}

fn within(field: &'static str, asked: Option<f64>, otherwise: f64, low: f64, high: f64) -> Result<f64, InvalidRequest> {
    let value = asked.unwrap_or(otherwise);
    // NaN is in no range.
    if (low..=high).contains(&value) { Ok(value) } else { Err(InvalidRequest::Range { field, value, low, high }) }
}

#[cfg(test)]
mod tests;
