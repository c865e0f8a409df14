//! The text inside a picture that says how it was made, as the tools that read such pictures expect it. Pure.

use std::fmt::Write;

use runtime_api::ImageRequest;

/// PNG text fields, key and value. `parameters` is the field that image browsers of this domain read.
pub(super) fn metadata(request: &ImageRequest) -> Vec<(String, String)> {
    let mut parameters = request.prompt.clone();
    for adapter in &request.adapters {
        let _ = write!(parameters, " <lora:{}:{}>", adapter.model, adapter.scale);
    }
    if let Some(negative) = request.negative_prompt.as_deref().filter(|text| !text.is_empty()) {
        let _ = write!(parameters, "\nNegative prompt: {negative}");
    }
    let number = |value: Option<u32>| value.map_or_else(String::new, |value| value.to_string());
    let _ = write!(
        parameters,
        "\nSteps: {}, Sampler: {}, CFG scale: {}, Seed: {}, Size: {}x{}, Model: {}",
        number(request.num_inference_steps),
        request.sampler.as_deref().unwrap_or_default(),
        request.guidance_scale.map_or_else(String::new, |scale| scale.to_string()),
        request.seed.map_or_else(String::new, |seed| seed.to_string()),
        number(request.width),
        number(request.height),
        request.model,
    );
    if let Some(strength) = request.strength {
        let _ = write!(parameters, ", Denoising strength: {strength}");
    }
    // Counted as those tools count: 1 is the last layer.
    if let Some(skipped) = request.clip_skip {
        let _ = write!(parameters, ", Clip skip: {}", skipped.saturating_add(1));
    }
    vec![("Software".to_owned(), "Emulsion".to_owned()), ("parameters".to_owned(), parameters)]
}

#[cfg(test)]
mod tests {
    use runtime_api::AdapterUse;

    use super::*;

    #[test]
    fn parameters_are_one_text_that_ends_with_the_settings() {
        let request = ImageRequest {
            negative_prompt: Some("blurry".to_owned()),
            width: Some(64),
            height: Some(96),
            num_inference_steps: Some(20),
            guidance_scale: Some(7.5),
            sampler: Some("DDIMScheduler".to_owned()),
            seed: Some(42),
            ..ImageRequest::text_to_image("demo", "a circle")
        };
        assert_eq!(
            metadata(&request)[1].1,
            "a circle\nNegative prompt: blurry\nSteps: 20, Sampler: DDIMScheduler, CFG scale: 7.5, Seed: 42, Size: 64x96, Model: demo"
        );
        let adapters = vec![AdapterUse { model: "ink".to_owned(), scale: 0.5 }];
        let changed = ImageRequest { strength: Some(0.75), clip_skip: Some(1), adapters, ..request };
        let text = &metadata(&changed)[1].1;
        assert!(text.starts_with("a circle <lora:ink:0.5>\nNegative prompt"), "{text}");
        assert!(text.ends_with("Model: demo, Denoising strength: 0.75, Clip skip: 2"), "{text}");
    }
}
