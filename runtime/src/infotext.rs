//! The text `parameters` that tools of this domain read from pictures, in AUTOMATIC1111's form: the prompt, the negative prompt, and one
//! line of settings. Pure.

use std::fmt::Write;

use diffusion::pipeline::Start;
use runtime_api::{AdapterUse, RefinerUse};

use crate::engine::{ModelFacts, Request};
use crate::picture::bounded_text;

/// The text's key.
pub const KEY: &str = "parameters";
/// Digits of a model's digest that name it.
const MODEL_HASH_DIGITS: usize = 10;
/// The names by which those tools know diffusers' schedulers.
const SAMPLERS: [(&str, &str); 18] = [
    ("DDIMScheduler", "DDIM"),
    ("DDPMScheduler", "DDPM"),
    ("DEISMultistepScheduler", "DEIS"),
    ("DPMSolverMultistepScheduler", "DPM++ 2M"),
    ("DPMSolverSinglestepScheduler", "DPM++ 2S"),
    ("EulerAncestralDiscreteScheduler", "Euler a"),
    ("EulerDiscreteScheduler", "Euler"),
    ("FlowMatchEulerDiscreteScheduler", "Euler"),
    ("FlowMatchHeunDiscreteScheduler", "Heun"),
    ("HeunDiscreteScheduler", "Heun"),
    ("IPNDMScheduler", "IPNDM"),
    ("KDPM2AncestralDiscreteScheduler", "DPM2 a"),
    ("KDPM2DiscreteScheduler", "DPM2"),
    ("LCMScheduler", "LCM"),
    ("LMSDiscreteScheduler", "LMS"),
    ("PNDMScheduler", "PLMS"),
    ("TCDScheduler", "TCD"),
    ("UniPCMultistepScheduler", "UniPC"),
];

/// The names by which people know what a request was made with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Names<'a> {
    /// Empty where it has none.
    pub model: &'a str,
    pub adapters: &'a [AdapterUse],
}

/// What image number `sample` of `request` was made with.
pub fn infotext(request: &Request, facts: &ModelFacts, names: Names<'_>, sample: usize) -> String {
    let mut text = request.prompt.clone();
    // Writing to a String cannot fail.
    for adapter in names.adapters {
        let _ = write!(text, " <lora:{}:{}>", adapter.model, adapter.scale);
    }
    if let Some(negative) = request.negative_prompt.as_deref().filter(|negative| !negative.is_empty()) {
        let _ = write!(text, "\nNegative prompt: {negative}");
    }
    let settings: Vec<String> =
        settings(request, facts, names.model, sample).into_iter().map(|(key, value)| format!("{key}: {value}")).collect();
    let _ = write!(text, "\n{}", settings.join(", "));
    bounded_text(&text).into_owned()
}

/// What [`infotext`] said, of an image that another model, with these facts, went on with.
pub fn refined(text: &str, facts: &ModelFacts, refiner: Option<&RefinerUse>) -> String {
    let Some(RefinerUse { model, start }) = refiner else { return text.to_owned() };
    let hash: String = facts.digest.chars().take(MODEL_HASH_DIGITS).collect();
    bounded_text(&format!("{text}, Refiner: {}, Refiner switch at: {start}", quoted(&format!("{model} [{hash}]")))).into_owned()
}

fn settings(request: &Request, facts: &ModelFacts, model: &str, sample: usize) -> Vec<(&'static str, String)> {
    let class = request.sampler.as_deref().unwrap_or(&facts.sampler);
    let sampler = SAMPLERS.iter().find(|(name, _)| *name == class).map_or(class, |(_, known)| known);
    let mut settings = vec![("Steps", request.num_inference_steps.to_string()), ("Sampler", quoted(sampler))];
    let is_karras = request.sampler_options.get("use_karras_sigmas").and_then(serde_json::Value::as_bool) == Some(true);
    settings.extend(is_karras.then(|| ("Schedule type", "Karras".to_owned())));
    settings.extend([
        ("CFG scale", request.guidance_scale.to_string()),
        ("Seed", request.seed.to_string()),
        ("Size", format!("{}x{}", request.width, request.height)),
        ("Model hash", facts.digest.chars().take(MODEL_HASH_DIGITS).collect()),
    ]);
    settings.extend((!model.is_empty()).then(|| ("Model", quoted(model))));
    if let Start::Image { strength, .. } | Start::Inpaint { strength, .. } = &request.start {
        settings.push(("Denoising strength", strength.to_string()));
    }
    // Those tools count the layers that are used, diffusers those that are left out.
    let clip_skip = request.clip_skip.filter(|skip| *skip > 0);
    settings.extend(clip_skip.map(|skip| ("Clip skip", skip.saturating_add(1).to_string())));
    // All images of a request have its seed; this tells them apart.
    settings.extend((sample > 0).then(|| ("Image", sample.to_string())));
    settings.push(("Version", concat!("Emulsion ", env!("CARGO_PKG_VERSION")).to_owned()));
    settings
}

/// A value that would end early is quoted.
fn quoted(value: &str) -> String {
    if value.contains([',', ':', '\n', '"']) { serde_json::Value::from(value).to_string() } else { value.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use diffusion::picture::RgbImage;
    use runtime_api::ImageRequest;

    use super::*;
    use crate::engine::Defaults;
    use crate::request::{Limits, complete};

    fn facts() -> ModelFacts {
        let defaults = Defaults {
            width: 64,
            height: 96,
            num_inference_steps: 20,
            guidance_scale: 7.5,
            strength: crate::engine::Strengths { image: 0.8, inpaint: 1.0 },
        };
        ModelFacts { family: "sd15", bytes: 0, digest: "0123456789abcdef".to_owned(), defaults, sampler: "DDIMScheduler".to_owned() }
    }

    fn request(change: impl FnOnce(&mut ImageRequest)) -> Request {
        let mut request = ImageRequest { seed: Some(42), ..ImageRequest::text_to_image("demo", "a circle, red") };
        change(&mut request);
        complete(&request, None, &facts().defaults, &Limits::default(), 0).unwrap()
    }

    #[test]
    fn text_is_prompt_and_one_line_of_settings() {
        let version = env!("CARGO_PKG_VERSION");
        let expected = format!(
            "a circle, red\nSteps: 20, Sampler: DDIM, CFG scale: 7.5, Seed: 42, Size: 64x96, Model hash: 0123456789, Model: demo, Version: Emulsion {version}"
        );
        assert_eq!(infotext(&request(|_| ()), &facts(), Names { model: "demo", adapters: &[] }, 0), expected);
    }

    #[test]
    fn what_is_not_usual_is_told() {
        let mut unusual = request(|request| {
            request.negative_prompt = Some("blurry".to_owned());
            request.sampler = Some("EulerDiscreteScheduler".to_owned());
            request.sampler_options.insert("use_karras_sigmas".to_owned(), true.into());
            request.clip_skip = Some(1);
        });
        let image = RgbImage { width: 1, height: 1, data: vec![0; 3] };
        unusual.start = Start::Image { image: Arc::new(image), strength: 0.75 };
        let ink = AdapterUse { model: "ink".to_owned(), scale: 0.5 };
        let text = infotext(&unusual, &facts(), Names { model: "a, b", adapters: &[ink] }, 3);
        assert!(
            text.starts_with("a circle, red <lora:ink:0.5>\nNegative prompt: blurry\nSteps: 20, Sampler: Euler, Schedule type: Karras, "),
            "{text}"
        );
        assert!(text.contains(r#"Model: "a, b", Denoising strength: 0.75, Clip skip: 2, Image: 3, Version"#), "{text}");
    }
}
