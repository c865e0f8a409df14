//! From what was asked to what will be made: bounds are checked and missing values come from the model. Pure: no clock, no randomness.

use diffusion::adapter::{MAX_ADAPTER_SCALE, MAX_ADAPTERS};
use diffusion::text::MAX_EMBEDDINGS;
use runtime_api::{ImageRequest, Task};

use crate::engine::{Defaults, PromptSyntax, Request};

/// Sides are multiples of this, as latents of every served family are an eighth of the image.
pub const SIDE_MULTIPLE: u32 = 8;
/// The most bytes of one prompt.
pub const MAX_PROMPT_BYTES: usize = 32 * 1024;
/// The most keys of `sampler_options`; no scheduler has more.
pub const MAX_SAMPLER_OPTIONS: usize = 64;
/// Guidance beyond this is nonsense in every family and ends in overflow.
pub const MAX_GUIDANCE_SCALE: f64 = 1000.0;

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
    #[error("{field} is too long: at most {MAX_PROMPT_BYTES} bytes")]
    Prompt { field: &'static str },
    #[error("{field} {value} is not possible: it is a number from {low} to {high}")]
    Range { field: &'static str, value: f64, low: f64, high: f64 },
    #[error("sampler_options has more than {MAX_SAMPLER_OPTIONS} keys")]
    SamplerOptions,
    #[error("embeddings names {count}: at most {MAX_EMBEDDINGS} are taken")]
    Embeddings { count: usize },
    #[error("{count} adapters are too many: at most {MAX_ADAPTERS} act on one image")]
    Adapters { count: usize },
    #[error("this replica does not serve {what} yet")]
    Unserved { what: String },
}

/// `request` with every value decided: its own, else the model's; checked against `limits`. `seed` is used where it names none. Its
/// embeddings and adapters are files, which whoever calls opens.
///
/// # Errors
/// [`InvalidRequest`] names the field and what it may be.
pub fn complete(request: &ImageRequest, defaults: &Defaults, limits: &Limits, seed: u64) -> Result<Request, InvalidRequest> {
    check_kind(request)?;
    check_texts(request)?;
    check_adapters(request)?;
    let width = request.width.unwrap_or(small(defaults.width));
    let height = request.height.unwrap_or(small(defaults.height));
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
    Ok(Request {
        prompt: request.prompt.clone(),
        negative_prompt: request.negative_prompt.clone(),
        prompt_syntax: syntax(request.prompt_syntax)?,
        embeddings: Vec::new(),
        width: width as usize,
        height: height as usize,
        samples: request.samples as usize,
        num_inference_steps: steps as usize,
        guidance_scale: within("guidance_scale", request.guidance_scale, defaults.guidance_scale, 0.0, MAX_GUIDANCE_SCALE)?,
        guidance_rescale: within("guidance_rescale", request.guidance_rescale, 0.0, 0.0, 1.0)?,
        eta: within("eta", request.eta, 0.0, 0.0, 1.0)?,
        clip_skip: request.clip_skip.map(|skip| skip as usize),
        sampler: request.sampler.clone(),
        sampler_options: request.sampler_options.clone(),
        seed: request.seed.unwrap_or(seed),
        adapters: Vec::new(),
    })
}

/// What can be said of `request` before its model is known.
///
/// # Errors
/// As [`complete`].
pub fn check(request: &ImageRequest, limits: &Limits) -> Result<(), InvalidRequest> {
    // Stand-ins within every limit: only what the request itself says is judged.
    let stand_in = Defaults { width: SIDE_MULTIPLE as usize, height: SIDE_MULTIPLE as usize, num_inference_steps: 1, guidance_scale: 1.0 };
    complete(request, &stand_in, limits, 0).map(drop)
}

/// A model's own number; one beyond 32 bits is refused by the limits like any other that is too large.
fn small(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

fn check_kind(request: &ImageRequest) -> Result<(), InvalidRequest> {
    if request.task != Task::TextToImage {
        return Err(InvalidRequest::Unserved { what: format!("the task {:?}", request.task) });
    }
    if request.embeddings.len() > MAX_EMBEDDINGS {
        return Err(InvalidRequest::Embeddings { count: request.embeddings.len() });
    }
    if let Some(field) = request.extensions().find(|field| !["embeddings", "adapters"].contains(field)) {
        return Err(InvalidRequest::Unserved { what: format!("the field {field}") });
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
    if request.prompt.len() > MAX_PROMPT_BYTES {
        return Err(InvalidRequest::Prompt { field: "prompt" });
    }
    match &request.negative_prompt {
        Some(text) if text.len() > MAX_PROMPT_BYTES => Err(InvalidRequest::Prompt { field: "negative_prompt" }),
        _ => Ok(()),
    }
}

fn check_size(width: u32, height: u32, limits: &Limits) -> Result<(), InvalidRequest> {
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
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { max_pixels: 512 * 512, max_samples: 4, max_steps: 100 };

    fn defaults() -> Defaults {
        Defaults { width: 64, height: 128, num_inference_steps: 20, guidance_scale: 5.0 }
    }

    fn asked(change: impl FnOnce(&mut ImageRequest)) -> Result<Request, InvalidRequest> {
        let mut request = ImageRequest::text_to_image("demo", "a red circle");
        change(&mut request);
        complete(&request, &defaults(), &LIMITS, 99)
    }

    #[test]
    fn missing_values_are_the_models() {
        let made = asked(|_| ()).unwrap();
        assert_eq!((made.width, made.height, made.num_inference_steps, made.samples), (64, 128, 20, 1));
        assert_eq!((made.guidance_scale, made.seed, made.sampler), (5.0, 99, None));
    }

    #[test]
    fn given_values_win() {
        let made = asked(|request| {
            request.width = Some(256);
            request.seed = Some(0);
            request.num_inference_steps = Some(3);
            request.guidance_scale = Some(0.0);
        });
        let made = made.unwrap();
        assert_eq!((made.width, made.seed, made.num_inference_steps, made.guidance_scale), (256, 0, 3, 0.0));
    }

    #[test]
    fn sides_that_are_no_multiples_of_eight_are_refused() {
        for pixels in [0, 7, 60, 65, u32::MAX] {
            let refused = asked(|request| request.width = Some(pixels));
            assert_eq!(refused, Err(InvalidRequest::Side { field: "width", pixels }));
        }
    }

    #[test]
    fn area_is_bounded_without_overflow() {
        let refused = asked(|request| (request.width, request.height) = (Some(1 << 31), Some(1 << 31)));
        assert!(matches!(refused, Err(InvalidRequest::Pixels { .. })));
        assert!(asked(|request| (request.width, request.height) = (Some(512), Some(512))).is_ok());
        assert!(asked(|request| (request.width, request.height) = (Some(520), Some(512))).is_err());
    }

    #[test]
    fn counts_are_bounded_on_both_sides() {
        for samples in [0, 5] {
            assert!(matches!(asked(|request| request.samples = samples), Err(InvalidRequest::Samples { .. })));
        }
        for steps in [0, 101] {
            assert!(matches!(asked(|request| request.num_inference_steps = Some(steps)), Err(InvalidRequest::Steps { .. })));
        }
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        for value in [-0.1, 1000.1, f64::NAN, f64::INFINITY] {
            assert!(matches!(asked(|request| request.guidance_scale = Some(value)), Err(InvalidRequest::Range { .. })));
        }
        assert!(asked(|request| request.guidance_rescale = Some(1.1)).is_err());
        assert!(asked(|request| request.eta = Some(-1.0)).is_err());
    }

    #[test]
    fn prompts_beyond_their_bound_are_refused() {
        let long = "x".repeat(MAX_PROMPT_BYTES + 1);
        assert_eq!(asked(|request| request.prompt = long.clone()), Err(InvalidRequest::Prompt { field: "prompt" }));
        assert_eq!(asked(|request| request.negative_prompt = Some(long)), Err(InvalidRequest::Prompt { field: "negative_prompt" }));
    }

    #[test]
    fn prompts_are_read_in_the_syntax_that_is_asked_for() {
        assert_eq!(asked(|_| ()).unwrap().prompt_syntax, PromptSyntax::Plain);
        let made = asked(|request| request.prompt_syntax = runtime_api::PromptSyntax::Weighted).unwrap();
        assert_eq!(made.prompt_syntax, PromptSyntax::Weighted);
    }

    #[test]
    fn embeddings_are_bounded() {
        assert!(asked(|request| request.embeddings = vec!["x".to_owned(); MAX_EMBEDDINGS]).is_ok());
        let refused = asked(|request| request.embeddings = vec!["x".to_owned(); MAX_EMBEDDINGS + 1]);
        assert_eq!(refused, Err(InvalidRequest::Embeddings { count: MAX_EMBEDDINGS + 1 }));
    }

    #[test]
    fn number_and_strength_of_adapters_are_bounded() {
        let with = |count: usize, scale: f64| {
            let adapter = runtime_api::AdapterUse { model: "x".to_owned(), scale };
            asked(|request| request.adapters = vec![adapter; count])
        };
        assert!(with(MAX_ADAPTERS, -1.0).is_ok());
        assert_eq!(with(MAX_ADAPTERS + 1, 1.0), Err(InvalidRequest::Adapters { count: MAX_ADAPTERS + 1 }));
        for scale in [10.1, -10.1, f64::NAN] {
            assert!(matches!(with(1, scale), Err(InvalidRequest::Range { .. })), "{scale}");
        }
    }

    #[test]
    fn what_a_request_does_not_say_is_not_judged_at_the_door() {
        let small = Limits { max_pixels: 64, max_samples: 1, max_steps: 1 };
        assert_eq!(check(&ImageRequest::text_to_image("demo", ""), &small), Ok(()));
    }
}
