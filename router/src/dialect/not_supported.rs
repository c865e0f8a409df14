//! The one place that says "not supported": endpoints and fields that the dialects have, that we understand, and that are not served
//! yet. What would change the picture is refused, never dropped in silence; what would not is listed with the reason why it may be
//! ignored. A field that asks for nothing ("no", "", null) is no reason to refuse: clients send their defaults with every call.

use super::{Fields, lenient};
use crate::refusal::Refusal;

/// An endpoint by how its path begins and ends.
struct Endpoint {
    prefix: &'static str,
    suffix: &'static str,
    feature: &'static str,
}

const fn endpoint(prefix: &'static str, suffix: &'static str, feature: &'static str) -> Endpoint {
    Endpoint { prefix, suffix, feature }
}

/// Asked only for paths that nothing serves; the first match speaks.
const ENDPOINTS: [Endpoint; 26] = [
    endpoint("/api/v1/enterprise/", "", "the enterprise family of endpoints"),
    endpoint("/api/v6/realtime/", "text2img", "realtime text-to-image (call /api/v6/images/text2img)"),
    endpoint("/api/v6/realtime/", "", "realtime image editing"),
    endpoint("/api/v6/image_editing/", "", "image editing"),
    endpoint("/api/v5/", "controlnet", "ControlNet"),
    endpoint("/api/v5/", "super_resolution", "upscaling"),
    endpoint("/api/v5/", "outpaint", "outpainting"),
    endpoint("/api/", "/controlnet", "ControlNet"),
    endpoint("/api/", "/upscale", "upscaling"),
    endpoint("/api/", "/super_resolution", "upscaling"),
    endpoint("/api/", "/image-to-image", "image-to-image"),
    endpoint("/api/", "/img2img", "image-to-image"),
    endpoint("/api/", "/inpaint", "inpainting"),
    endpoint("/api/", "/outpaint", "outpainting"),
    endpoint("/api/", "/model_reload", "reloading a model by hand (models load when they are called)"),
    endpoint("/api/", "/load_model", "importing a model over the API (declare a ModelDeployment)"),
    endpoint("/api/v3/lora_fine_tune", "", "training"),
    endpoint("/api/v3/fine_tune", "", "training"),
    endpoint("/api/v3/finetune", "", "training"),
    endpoint("/api/", "base64_to_url", "uploading images"),
    endpoint("/api/", "base64_crop", "uploading images"),
    endpoint("/api/", "nsfw_image_check", "checking images"),
    endpoint("/v1/images/edits", "", "image edits"),
    endpoint("/v1/images/variations", "", "image variations"),
    endpoint("/v1/chat/", "", "chat"),
    endpoint("/v1/responses", "", "responses"),
];

/// Fields of a text-to-image call that would change the picture, and what they ask for.
const REFUSED_FIELDS: [(&str, &str); 22] = [
    ("init_image", "image-to-image (init_image)"),
    ("image", "image-to-image (image)"),
    ("mask_image", "inpainting (mask_image)"),
    ("mask", "inpainting (mask)"),
    ("control_image", "ControlNet (control_image)"),
    ("controlnet_model", "ControlNet (controlnet_model)"),
    ("controlnet_type", "ControlNet (controlnet_type)"),
    ("lora_model", "LoRA (lora_model)"),
    ("lora", "LoRA (lora)"),
    ("image_loras", "LoRA (image_loras)"),
    ("ip_adapter_id", "IP-Adapter (ip_adapter_id)"),
    ("ip_adapter_image", "IP-Adapter (ip_adapter_image)"),
    ("embeddings_model", "textual inversion (embeddings_model)"),
    ("embeddings", "textual inversion (embeddings)"),
    ("vae", "another VAE than the model's (vae)"),
    ("upscale", "upscaling (upscale)"),
    ("highres_fix", "high-resolution fix (highres_fix)"),
    ("panorama", "panoramas (panorama)"),
    ("self_attention", "self-attention guidance (self_attention)"),
    ("free_u", "FreeU (free_u)"),
    ("multi_lingual", "prompts in other languages (multi_lingual)"),
    ("webhook", "webhooks (webhook); fetch the image by its id instead"),
];

/// Fields that are understood and ignored, and why that is right.
pub const IGNORED_FIELDS: [(&str, &str); 15] = [
    ("enhance_prompt", "a wish for a better prompt; clients send it by default, and the prompt is drawn as it was written"),
    ("enhance_style", "belongs to enhance_prompt"),
    ("safety_checker", "no image is checked, and nsfw_content_detected is always false"),
    ("safety_checker_type", "belongs to safety_checker"),
    ("tomesd", "makes the vendor faster, not the picture different by intent"),
    ("watermark", "no image carries a watermark"),
    ("temp", "every image is kept under the plan's retention"),
    ("file_prefix", "names of outputs are unguessable on purpose"),
    ("lora_strength", "belongs to lora_model"),
    ("ip_adapter_scale", "belongs to ip_adapter_id"),
    ("strength", "belongs to init_image"),
    ("quality", "a wish; a model has one quality, and steps say how much work is spent"),
    ("style", "a wish of two retired models"),
    ("moderation", "no prompt is moderated"),
    ("user", "the key says who calls"),
];

/// What a path that nothing serves would be for.
pub fn endpoint_refusal(path: &str) -> Option<Refusal> {
    let path = path.trim_end_matches('/');
    let known = ENDPOINTS.iter().find(|endpoint| path.starts_with(endpoint.prefix) && path.ends_with(endpoint.suffix))?;
    Some(Refusal::NotSupported { feature: known.feature.to_owned() })
}

/// Refuses fields that ask for what is not served.
pub fn check_fields(fields: &Fields) -> Result<(), Refusal> {
    for (name, feature) in REFUSED_FIELDS {
        if fields.get(name).is_some_and(lenient::is_set) {
            return Err(Refusal::NotSupported { feature: feature.to_owned() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn fields(value: Value) -> Fields {
        match value {
            Value::Object(fields) => fields,
            _ => panic!("not an object"),
        }
    }

    #[test]
    fn endpoints_of_the_vendors_that_are_not_served_say_what_is_missing() {
        for (path, feature) in [
            ("/api/v7/images/image-to-image", "image-to-image"),
            ("/api/v6/images/img2img", "image-to-image"),
            ("/api/v7/images/inpaint", "inpainting"),
            ("/api/v5/controlnet", "ControlNet"),
            ("/api/v6/images/controlnet", "ControlNet"),
            ("/api/v7/images/upscale/", "upscaling"),
            ("/api/v6/realtime/img2img", "realtime"),
            ("/api/v6/image_editing/super_resolution", "image editing"),
            ("/api/v4/dreambooth/inpaint", "inpainting"),
            ("/v1/images/edits", "image edits"),
            ("/v1/images/variations", "image variations"),
        ] {
            match endpoint_refusal(path) {
                Some(Refusal::NotSupported { feature: found }) => assert!(found.contains(feature), "{path}: {found}"),
                other => panic!("{path}: {other:?}"),
            }
        }
        assert_eq!(endpoint_refusal("/api/v7/images/nonsense"), None);
        assert_eq!(endpoint_refusal("/"), None);
    }

    #[test]
    fn clients_defaults_pass_and_real_wishes_are_refused() {
        let defaults = json!({
            "upscale": "no", "lora_model": null, "controlnet_model": "", "panorama": "no", "self_attention": "no", "embeddings_model": null,
            "webhook": null, "highres_fix": false, "free_u": "no", "multi_lingual": "no", "vae": null, "init_image": "", "image_loras": [],
            "enhance_prompt": "yes", "tomesd": "yes", "safety_checker": "yes"
        });
        assert_eq!(check_fields(&fields(defaults)), Ok(()));
        for (name, value) in [
            ("upscale", json!("2")),
            ("lora_model", json!("3d-character")),
            ("webhook", json!("https://example.org/hook")),
            ("init_image", json!(["https://example.org/a.png"])),
            ("multi_lingual", json!("yes")),
        ] {
            let refused = check_fields(&fields(json!({ name: value })));
            assert!(matches!(&refused, Err(Refusal::NotSupported { feature }) if feature.contains(name)), "{name}: {refused:?}");
        }
    }

    #[test]
    fn no_field_is_both_refused_and_ignored() {
        for (name, _) in IGNORED_FIELDS {
            assert!(REFUSED_FIELDS.iter().all(|(refused, _)| *refused != name), "{name}");
        }
    }
}
