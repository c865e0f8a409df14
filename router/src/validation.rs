//! Makes a request whole, or says what is wrong with it: fills in what it leaves open, holds it within the model's limits. Pure; the seed's
//! randomness is an argument. It knows no plans' quotas and no dialects.

use crds::model_deployment::{Family, Latents, Limits};
use runtime_api::{ImageRequest, Task};

use crate::catalog::Model;
use crate::inputs::Size;
use crate::refusal::Refusal;

mod adapters;
mod size;
mod task;

pub use adapters::{ADAPTER_SCALE_LIMIT, ADAPTERS_LIMIT, EMBEDDINGS_LIMIT};
pub use task::MASK_BLUR_LIMIT_PIXELS;

/// The samplers that the runtime serves, by diffusers' class names.
pub const SAMPLERS: [&str; 19] = [
    "DDIMScheduler",
    "DDPMScheduler",
    "PNDMScheduler",
    "LMSDiscreteScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
    "IPNDMScheduler",
    "LCMScheduler",
    "TCDScheduler",
    "DDIMInverseScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
];
/// How those begin that are for models of flow matching, and for no others.
const FLOW_SAMPLER_PREFIX: &str = "FlowMatch";
/// Names of the dialects that serve no latent model.
const PIXEL_SAMPLERS: [&str; 2] = ["KarrasVeScheduler", "ScoreSdeVeScheduler"];
/// For a model whose own sampler is not served: deterministic, and good at any step count.
const FALLBACK_SAMPLER: &str = "DDIMScheduler";
/// The same for models of flow matching.
const FALLBACK_FLOW_SAMPLER: &str = "FlowMatchEulerDiscreteScheduler";
/// Characters of a prompt. A text encoder reads 77 tokens; nobody writes a hundred times as many.
const PROMPT_LIMIT_CHARACTERS: usize = 10_000;
/// Above this a picture only burns.
const GUIDANCE_SCALE_LIMIT: f64 = 30.0;
/// diffusers' text encoders have at most 24 layers.
const CLIP_SKIP_LIMIT: u32 = 24;
/// T5 reads no more tokens in any family.
const SEQUENCE_LENGTH_LIMIT: u32 = 512;
/// Sides and places that a denoiser is told; far beyond any picture it has seen.
const TOLD_PIXELS_LIMIT: u32 = 16_384;
/// The scale on which pictures were judged for training.
const AESTHETIC_SCORE_LIMIT: f64 = 10.0;
/// The sides of an image whose model decides them, in pixels, and its steps: the largest that families draw where nobody says.
const UNKNOWN_SIDE_PIXELS: u32 = 1024;
const UNKNOWN_STEPS: u32 = 50;
/// Keys of a sampler's configuration that one request may set.
const SAMPLER_OPTIONS_LIMIT: usize = 32;

/// What can be said of a request before its pictures are here, so that nothing is fetched for one that cannot be served.
pub fn check(request: &ImageRequest, model: &Model) -> Result<(), Refusal> {
    check_prompts(request)?;
    check_numbers(request)?;
    check_conditions(request)?;
    task::check(request)?;
    adapters::check(request)?;
    let limits = &limits(model);
    size::check(request, limits)?;
    let max_samples = positive(limits.max_samples);
    if !(1..=max_samples).contains(&request.samples) {
        return Err(invalid("samples", format!("samples must be between 1 and {max_samples}")));
    }
    let defaults = model.defaults.effective(model.family, limits);
    sampler(request.sampler.clone(), defaults.sampler, model).map(drop)
}

/// The request with model, size, steps, guidance scale, sampler, strength and seed set, and nothing that the model cannot do. `image` is the
/// size of its image, where it has one. What depends on a family that nobody has declared is left open: the replica, which reads the weights,
/// fills it in.
///
/// Steps out of range are brought into it, as clients expect; everything else out of range is refused with the field's name.
pub fn normalise(
    request: ImageRequest,
    model: &Model,
    image: Option<Size>,
    draw_seed: impl FnOnce() -> u32,
) -> Result<ImageRequest, Refusal> {
    check(&request, model)?;
    task::check_pictures(&request)?;
    let limits = &limits(model);
    let defaults = model.defaults.effective(model.family, limits);
    let least = |side| positive(side).next_multiple_of(positive(limits.size_multiple_of).max(1));
    let default = |declared: Option<i32>, stand_in| declared.map_or_else(|| least(stand_in), positive);
    let default_size = Size { width: default(defaults.width, limits.min_width), height: default(defaults.height, limits.min_height) };
    let is_sized_by_image = image.is_some() && request.width.is_none() && request.height.is_none() && model.family.is_none();
    // Of a family that is unknown: a size that all families can draw.
    let drawn_by_all = in_multiples(limits, positive(Family::FluxDev.size_multiple()));
    let canvas = size::canvas(&request, if is_sized_by_image { &drawn_by_all } else { limits }, image, default_size)?;
    let decided =
        |asked: Option<u32>, declared: Option<i32>, side| (image.is_some() || asked.is_some() || declared.is_some()).then_some(side);
    let steps = request.num_inference_steps.or(defaults.steps.map(positive)).map(|steps| steps.clamp(1, positive(limits.max_steps).max(1)));
    let sampler = sampler(request.sampler.clone(), defaults.sampler, model)?;
    Ok(ImageRequest {
        model: model.model_id.clone(),
        width: decided(request.width, defaults.width, canvas.size.width),
        height: decided(request.height, defaults.height, canvas.size.height),
        margins: canvas.margins,
        mask_blur: canvas.mask_blur,
        num_inference_steps: steps,
        guidance_scale: request.guidance_scale.or(defaults.guidance_scale),
        sampler,
        strength: request.strength.or(task::default_strength(request.task, model.family)),
        seed: Some(request.seed.unwrap_or_else(|| u64::from(draw_seed()))),
        ..request
    })
}

/// What a request costs, in steps × megapixels × images. For requests that [`normalise`] made.
pub fn cost(request: &ImageRequest) -> f64 {
    let pixels = f64::from(request.width.unwrap_or(UNKNOWN_SIDE_PIXELS)) * f64::from(request.height.unwrap_or(UNKNOWN_SIDE_PIXELS));
    f64::from(request.num_inference_steps.unwrap_or(UNKNOWN_STEPS)) * pixels / 1e6 * f64::from(request.samples)
}

fn check_prompts(request: &ImageRequest) -> Result<(), Refusal> {
    if request.prompt.trim().is_empty() {
        return Err(invalid("prompt", "prompt is required".to_owned()));
    }
    for (field, text) in request.texts() {
        if text.chars().count() > PROMPT_LIMIT_CHARACTERS {
            return Err(invalid(field, format!("{field} must not be longer than {PROMPT_LIMIT_CHARACTERS} characters")));
        }
    }
    Ok(())
}

/// Not-a-number is within no range.
fn check_numbers(request: &ImageRequest) -> Result<(), Refusal> {
    for (field, value, limit) in [
        ("guidance_scale", request.guidance_scale, GUIDANCE_SCALE_LIMIT),
        ("guidance_rescale", request.guidance_rescale, 1.0),
        ("eta", request.eta, 1.0),
        ("true_cfg_scale", request.true_cfg_scale, GUIDANCE_SCALE_LIMIT),
        ("aesthetic_score", request.aesthetic_score, AESTHETIC_SCORE_LIMIT),
        ("negative_aesthetic_score", request.negative_aesthetic_score, AESTHETIC_SCORE_LIMIT),
    ] {
        if value.is_some_and(|value| !(0.0..=limit).contains(&value)) {
            return Err(invalid(field, format!("{field} must be between 0 and {limit}")));
        }
    }
    if request.clip_skip.is_some_and(|layers| layers > CLIP_SKIP_LIMIT) {
        return Err(invalid("clip_skip", format!("clip_skip must be between 0 and {CLIP_SKIP_LIMIT}")));
    }
    if request.sampler_options.len() > SAMPLER_OPTIONS_LIMIT {
        return Err(invalid("sampler_options", format!("sampler_options must not have more than {SAMPLER_OPTIONS_LIMIT} keys")));
    }
    Ok(())
}

/// What single families heed beside the prompt; whether the model is of one of them is the replica's to say.
fn check_conditions(request: &ImageRequest) -> Result<(), Refusal> {
    if request.max_sequence_length.is_some_and(|tokens| !(1..=SEQUENCE_LENGTH_LIMIT).contains(&tokens)) {
        return Err(invalid("max_sequence_length", format!("max_sequence_length must be between 1 and {SEQUENCE_LENGTH_LIMIT}")));
    }
    for (field, pair, least) in [
        ("original_size", request.original_size, 1),
        ("target_size", request.target_size, 1),
        ("crops_coords_top_left", request.crops_coords_top_left, 0),
        ("negative_original_size", request.negative_original_size, 1),
        ("negative_target_size", request.negative_target_size, 1),
        ("negative_crops_coords_top_left", request.negative_crops_coords_top_left, 0),
    ] {
        if pair.is_some_and(|pair| pair.iter().any(|pixels| !(least..=TOLD_PIXELS_LIMIT).contains(pixels))) {
            return Err(invalid(field, format!("{field} must be two numbers between {least} and {TOLD_PIXELS_LIMIT}")));
        }
    }
    for (field, share) in [("denoising_start", request.denoising_start), ("denoising_end", request.denoising_end)] {
        if share.is_some_and(|share| !(share > 0.0 && share < 1.0)) {
            return Err(invalid(field, format!("{field} must be above 0 and below 1")));
        }
    }
    if let Some(refiner) = &request.refiner {
        if !(refiner.start > 0.0 && refiner.start < 1.0) {
            return Err(invalid("refiner_start", "refiner_start must be above 0 and below 1".to_owned()));
        }
        if matches!(request.task, Task::Inpaint | Task::Outpaint) {
            return Err(invalid(
                "refiner",
                "refiner goes on with whole images: it cannot be used where part of a picture is kept".to_owned(),
            ));
        }
        if request.denoising_start.is_some() || request.denoising_end.is_some() {
            return Err(invalid(
                "refiner",
                "refiner and denoising_start or denoising_end cannot be used together: say refiner_start".to_owned(),
            ));
        }
    }
    match (request.denoising_start, request.denoising_end) {
        (Some(start), Some(end)) if start >= end => Err(invalid("denoising_end", "denoising_end must be above denoising_start".to_owned())),
        _ => Ok(()),
    }
}

/// The declared limits, with sides that the family can draw.
fn limits(model: &Model) -> Limits {
    // All models of flow matching read patches.
    let unknown = || if is_flow(model) == Some(true) { Family::FluxDev.size_multiple() } else { 1 };
    let of_family = positive(model.family.map_or_else(unknown, Family::size_multiple));
    in_multiples(&model.limits, of_family)
}

fn in_multiples(limits: &Limits, multiple: u32) -> Limits {
    let declared = positive(limits.size_multiple_of).max(1);
    let both = declared.saturating_mul(multiple / gcd(declared, multiple));
    Limits { size_multiple_of: i32::try_from(both).unwrap_or(i32::MAX), ..limits.clone() }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// `None` leaves it to the model's own files, which are not read here.
fn sampler(asked: Option<String>, declared: Option<String>, model: &Model) -> Result<Option<String>, Refusal> {
    let is_flow = is_flow(model);
    let is_served = |sampler: &String| {
        SAMPLERS.contains(&sampler.as_str()) && is_flow.is_none_or(|is_flow| sampler.starts_with(FLOW_SAMPLER_PREFIX) == is_flow)
    };
    match asked.or(declared) {
        Some(sampler) if is_served(&sampler) => Ok(Some(sampler)),
        Some(sampler) if PIXEL_SAMPLERS.contains(&sampler.as_str()) => {
            Err(Refusal::NotSupported { feature: format!("the scheduler {sampler}, which is for models of pixels and not of latents,") })
        }
        Some(sampler) => {
            let supported: Vec<&str> = SAMPLERS.into_iter().filter(|sampler| is_served(&(*sampler).to_owned())).collect();
            Err(Refusal::NotSupported { feature: format!("the scheduler {sampler} with this model (supported: {})", supported.join(", ")) })
        }
        None => {
            let fallback = if is_flow == Some(true) { FALLBACK_FLOW_SAMPLER } else { FALLBACK_SAMPLER };
            Ok(model.own_sampler.as_ref().map(|own| if is_served(own) { own.clone() } else { fallback.to_owned() }))
        }
    }
}

/// Whether the model was trained by flow matching, where its family or its own sampler tells.
fn is_flow(model: &Model) -> Option<bool> {
    let of_family = |family: Family| matches!(family.latents(), Latents::StableDiffusion3 | Latents::Flux);
    let own = || model.own_sampler.as_ref().filter(|own| SAMPLERS.contains(&own.as_str()));
    model.family.map(of_family).or_else(|| own().map(|own| own.starts_with(FLOW_SAMPLER_PREFIX)))
}

/// Manifests were checked against their schema, whose sizes and counts are never negative.
fn positive(number: i32) -> u32 {
    number.unsigned_abs()
}

fn invalid(field: &str, message: String) -> Refusal {
    Refusal::Invalid { field: field.to_owned(), message }
}

#[cfg(test)]
mod tests {
    use crds::model_deployment::{GenerationDefaults, Limits};
    use runtime_api::RefinerUse;

    use super::*;
    use crate::catalog::tests::model;

    fn demo() -> Model {
        Model {
            limits: Limits { max_width: 256, max_height: 128, max_steps: 50, ..Limits::default() },
            defaults: GenerationDefaults { steps: Some(20), width: Some(64), height: Some(64), ..GenerationDefaults::default() },
            ..model("demo")
        }
    }

    fn request() -> ImageRequest {
        ImageRequest::text_to_image("demo", "a red circle")
    }

    fn refusal(change: impl FnOnce(&mut ImageRequest)) -> String {
        let mut request = request();
        change(&mut request);
        normalise(request, &demo(), None, || 7).unwrap_err().to_string()
    }

    #[test]
    fn what_is_left_open_is_filled_in() {
        let whole = normalise(request(), &demo(), None, || 7).unwrap();
        assert_eq!((whole.width, whole.height, whole.num_inference_steps), (Some(64), Some(64), Some(20)));
        assert_eq!((whole.guidance_scale, whole.seed), (Some(7.5), Some(7)));
        assert_eq!(whole.sampler.as_deref(), Some("DDIMScheduler"));
        assert_eq!(whole.negative_prompt, None, "absent differs from empty");
    }

    #[test]
    fn what_was_asked_for_stays() {
        let asked = ImageRequest {
            width: Some(128),
            height: Some(96),
            seed: Some(u64::MAX),
            num_inference_steps: Some(3),
            guidance_scale: Some(0.0),
            sampler: Some("EulerDiscreteScheduler".to_owned()),
            samples: 4,
            ..request()
        };
        assert_eq!(normalise(asked.clone(), &demo(), None, || 7), Ok(asked));
    }

    #[test]
    fn out_of_range_is_refused_with_the_fields_name_and_bounds() {
        assert_eq!(refusal(|request| request.prompt = " \n".to_owned()), "prompt is required");
        assert_eq!(refusal(|request| request.width = Some(264)), "width must be between 64 and 256");
        assert_eq!(refusal(|request| request.width = Some(0)), "width must be between 64 and 256");
        assert_eq!(refusal(|request| request.height = Some(100)), "height must be divisible by 8");
        assert_eq!(refusal(|request| request.height = Some(u32::MAX)), "height must be between 64 and 128");
        assert_eq!(refusal(|request| request.samples = 0), "samples must be between 1 and 4");
        assert_eq!(refusal(|request| request.samples = 5), "samples must be between 1 and 4");
        for guidance_scale in [-0.1, 30.1, f64::NAN, f64::INFINITY] {
            assert_eq!(refusal(|request| request.guidance_scale = Some(guidance_scale)), "guidance_scale must be between 0 and 30");
        }
        assert!(refusal(|request| request.prompt = "x".repeat(10_001)).contains("10000 characters"));
        assert!(refusal(|request| request.negative_prompt = Some("x".repeat(10_001))).starts_with("negative_prompt"));
        assert!(refusal(|request| request.sampler = Some("FlowScheduler".to_owned())).contains("FlowScheduler"));
        assert!(refusal(|request| request.sampler = Some("KarrasVeScheduler".to_owned())).contains("models of pixels"));
    }

    #[test]
    fn steps_are_brought_into_range_and_never_refused() {
        for (asked, given) in [(0, 1), (1, 1), (50, 50), (51, 50), (u32::MAX, 50)] {
            let request = ImageRequest { num_inference_steps: Some(asked), ..request() };
            assert_eq!(normalise(request, &demo(), None, || 7).unwrap().num_inference_steps, Some(given));
        }
    }

    #[test]
    fn sides_are_those_that_the_family_can_draw() {
        let flux = |multiple: i32| Model {
            family: Some(Family::FluxDev),
            own_sampler: Some("FlowMatchEulerDiscreteScheduler".to_owned()),
            limits: Limits { size_multiple_of: multiple, ..Limits::default() },
            ..demo()
        };
        let sized = |width| ImageRequest { width: Some(width), height: Some(96), ..request() };
        let refused = check(&sized(72), &flux(8)).unwrap_err().to_string();
        assert!(refused.contains("divisible by 16"), "{refused}");
        assert!(check(&sized(80), &flux(8)).is_ok());
        assert!(check(&sized(80), &flux(64)).is_err());
        assert!(check(&sized(96), &flux(24)).is_ok());
        assert!(check(&sized(72), &demo()).is_ok());
        assert!(check(&sized(72), &Model { family: None, ..flux(8) }).is_err());
        assert!(check(&sized(72), &Model { family: None, own_sampler: None, ..flux(8) }).is_ok());
    }

    #[test]
    fn samplers_of_flow_matching_are_for_its_models_alone() {
        let flow = Model { family: Some(Family::FluxDev), own_sampler: Some("FlowMatchEulerDiscreteScheduler".to_owned()), ..demo() };
        let of = |sampler: &str, model: &Model| {
            let request = ImageRequest { sampler: Some(sampler.to_owned()), ..request() };
            normalise(request, model, None, || 7).map(|request| request.sampler.unwrap()).map_err(|refusal| refusal.to_string())
        };
        assert_eq!(of("FlowMatchHeunDiscreteScheduler", &flow).unwrap(), "FlowMatchHeunDiscreteScheduler");
        let refused = of("EulerDiscreteScheduler", &flow).unwrap_err();
        assert!(refused.contains("FlowMatchEulerDiscreteScheduler") && !refused.contains("DDIMScheduler"), "{refused}");
        let refused = of("FlowMatchEulerDiscreteScheduler", &demo()).unwrap_err();
        assert!(refused.contains("DDIMScheduler"), "{refused}");
        let unread = Model { own_sampler: None, ..flow };
        assert_eq!(normalise(request(), &unread, None, || 7).unwrap().sampler, None, "the replica reads it");
    }

    #[test]
    fn a_model_whose_own_sampler_is_not_served_gets_the_nearest() {
        let flow = Model { own_sampler: Some("FlowScheduler".to_owned()), ..demo() };
        assert_eq!(normalise(request(), &flow, None, || 7).unwrap().sampler.as_deref(), Some("DDIMScheduler"));
    }

    #[test]
    fn what_depends_on_an_unknown_family_is_left_to_the_replica() {
        let unread =
            Model { family: None, own_sampler: None, defaults: GenerationDefaults::default(), limits: Limits::default(), ..demo() };
        let open = normalise(request(), &unread, None, || 7).unwrap();
        assert_eq!((open.width, open.height, open.num_inference_steps, open.guidance_scale), (None, None, None, None));
        assert_eq!((open.sampler.clone(), open.seed), (None, Some(7)));
        assert!((cost(&open) - 50.0 * 1.048_576).abs() < 1e-9);
        let image = |family| {
            let asked = ImageRequest { task: runtime_api::Task::ImageToImage, image: Some("ab".repeat(32)), ..request() };
            let made = normalise(asked, &Model { family, ..unread.clone() }, Some(Size { width: 72, height: 96 }), || 7).unwrap();
            (made.width, made.height, made.strength)
        };
        assert_eq!(image(None), (Some(64), Some(96), None), "a size that every family draws");
        assert_eq!(image(Some(Family::Sdxl)), (Some(72), Some(96), Some(0.3)));
        // Where the limits leave less than a family may ask for, they decide.
        let narrow = Model { limits: Limits { max_width: 256, max_steps: 10, ..Limits::default() }, ..unread };
        let bound = normalise(request(), &narrow, None, || 7).unwrap();
        assert_eq!((bound.width, bound.height, bound.num_inference_steps), (Some(256), None, Some(10)));
        let half = normalise(ImageRequest { height: Some(64), ..request() }, &narrow, None, || 7).unwrap();
        assert_eq!((half.width, half.height), (Some(256), Some(64)));
    }

    #[test]
    fn what_families_heed_is_bounded() {
        for (refused, rule) in [
            (refusal(|request| request.max_sequence_length = Some(0)), "max_sequence_length must be between 1 and 512"),
            (refusal(|request| request.max_sequence_length = Some(513)), "max_sequence_length must be between 1 and 512"),
            (refusal(|request| request.true_cfg_scale = Some(30.5)), "true_cfg_scale must be between 0 and 30"),
            (refusal(|request| request.aesthetic_score = Some(10.5)), "aesthetic_score must be between 0 and 10"),
            (refusal(|request| request.negative_aesthetic_score = Some(f64::NAN)), "negative_aesthetic_score must be between 0 and 10"),
            (refusal(|request| request.original_size = Some([0, 8])), "original_size must be two numbers between 1 and 16384"),
            (refusal(|request| request.target_size = Some([8, 16_385])), "target_size must be two numbers between 1 and 16384"),
            (
                refusal(|request| request.crops_coords_top_left = Some([0, u32::MAX])),
                "crops_coords_top_left must be two numbers between 0 and 16384",
            ),
            (refusal(|request| request.denoising_end = Some(1.0)), "denoising_end must be above 0 and below 1"),
            (refusal(|request| request.denoising_start = Some(0.0)), "denoising_start must be above 0 and below 1"),
            (
                refusal(|request| request.refiner = Some(RefinerUse { model: "fine".to_owned(), start: 1.0 })),
                "refiner_start must be above 0 and below 1",
            ),
            (
                refusal(|request| {
                    request.refiner = Some(RefinerUse { model: "fine".to_owned(), start: 0.8 });
                    request.denoising_end = Some(0.9);
                }),
                "refiner and denoising_start or denoising_end cannot be used together: say refiner_start",
            ),
            (
                refusal(|request| {
                    request.refiner = Some(RefinerUse { model: "fine".to_owned(), start: 0.8 });
                    request.task = Task::Outpaint;
                }),
                "refiner goes on with whole images: it cannot be used where part of a picture is kept",
            ),
            (
                refusal(|request| (request.denoising_start, request.denoising_end) = (Some(0.8), Some(0.8))),
                "denoising_end must be above denoising_start",
            ),
        ] {
            assert_eq!(refused, rule);
        }
        let told =
            ImageRequest { crops_coords_top_left: Some([0, 0]), denoising_end: Some(0.8), prompt_2: Some("b".to_owned()), ..request() };
        assert_eq!(check(&told, &demo()), Ok(()));
    }

    #[test]
    fn cost_grows_with_steps_pixels_and_images() {
        let request = ImageRequest { width: Some(1000), height: Some(500), num_inference_steps: Some(10), samples: 2, ..request() };
        assert!((cost(&request) - 10.0).abs() < 1e-9);
    }
}
