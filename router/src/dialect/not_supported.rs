//! The one place that says "not supported": endpoints and fields that the dialects have, that we understand, and that are not served
//! yet. What would change the picture is refused, never dropped in silence; what would not is listed with the reason why it may be
//! ignored. A field that asks for nothing ("no", "", null) is no reason to refuse: clients send their defaults with every call.

use super::{Content, lenient};
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
const ENDPOINTS: [Endpoint; 23] = [
    endpoint("/api/v1/enterprise/", "", "the enterprise family of endpoints"),
    endpoint("/api/v6/realtime/", "", "this kind of realtime call"),
    endpoint("/api/v6/image_editing/", "", "this kind of image editing"),
    endpoint("/api/v5/", "controlnet", "ControlNet"),
    endpoint("/api/v5/", "super_resolution", "upscaling"),
    endpoint("/api/", "/controlnet", "ControlNet"),
    endpoint("/api/", "/upscale", "upscaling"),
    endpoint("/api/", "/super_resolution", "upscaling"),
    endpoint("/api/", "/image-to-image", "image-to-image at this path (call /api/v7/images/image-to-image)"),
    endpoint("/api/", "/img2img", "image-to-image at this path (call /api/v6/images/img2img)"),
    endpoint("/api/", "/inpaint", "inpainting at this path (call /api/v6/images/inpaint)"),
    endpoint("/api/", "/outpaint", "outpainting at this path (call /api/v6/image_editing/outpaint)"),
    endpoint("/api/", "/model_reload", "reloading a model by hand (models load when they are called)"),
    endpoint("/api/", "/load_model", "importing a model over the API (declare a ModelDeployment)"),
    endpoint("/api/v3/lora_fine_tune", "", "training"),
    endpoint("/api/v3/fine_tune", "", "training"),
    endpoint("/api/v3/finetune", "", "training"),
    endpoint("/api/", "base64_to_url", "uploading images"),
    endpoint("/api/", "base64_crop", "uploading images"),
    endpoint("/api/", "nsfw_image_check", "checking images"),
    endpoint("/v1/images/variations", "", "image variations"),
    endpoint("/v1/chat/", "", "chat"),
    endpoint("/v1/responses", "", "responses"),
];

/// Fields that would change the picture, and what they ask for. The pictures that a path does take are taken out before this is asked.
const REFUSED_FIELDS: [(&str, &str); 23] = [
    ("init_image", "image-to-image at this path (init_image)"),
    ("init_image_2", "more than one picture (init_image_2)"),
    ("image", "image-to-image at this path (image)"),
    ("image[]", "image-to-image at this path (image[])"),
    ("images", "more than one picture (images)"),
    ("mask_image", "inpainting at this path (mask_image)"),
    ("mask", "inpainting at this path (mask)"),
    ("control_image", "ControlNet (control_image)"),
    ("controlnet_model", "ControlNet (controlnet_model)"),
    ("controlnet_type", "ControlNet (controlnet_type)"),
    ("lora", "LoRA under this name (lora; lora_model is)"),
    ("image_loras", "LoRA by URL (image_loras; lora_model names one by its id)"),
    ("ip_adapter_id", "IP-Adapter (ip_adapter_id)"),
    ("ip_adapter_image", "IP-Adapter (ip_adapter_image)"),
    ("embeddings", "textual inversion under this name (embeddings; embeddings_model is)"),
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
pub const IGNORED_FIELDS: [(&str, &str); 13] = [
    ("enhance_prompt", "a wish for a better prompt; clients send it by default, and the prompt is drawn as it was written"),
    ("enhance_style", "belongs to enhance_prompt"),
    ("tomesd", "makes the vendor faster, not the picture different by intent"),
    ("watermark", "no image carries a watermark"),
    ("temp", "every image is kept under the plan's retention"),
    ("file_prefix", "names of outputs are unguessable on purpose"),
    ("ip_adapter_scale", "belongs to ip_adapter_id"),
    ("strength", "where a call takes no picture: there is nothing to leave behind"),
    ("input_fidelity", "a wish; strength says how far the picture is left behind"),
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

/// Refuses fields and files that ask for what is not served.
pub fn check(content: &Content) -> Result<(), Refusal> {
    for (name, feature) in REFUSED_FIELDS {
        let is_file = content.files.iter().any(|file| file.name == name);
        if is_file || content.fields.get(name).is_some_and(lenient::is_set) {
            return Err(Refusal::NotSupported { feature: feature.to_owned() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn content(value: Value) -> Content {
        match value {
            Value::Object(fields) => fields.into(),
            _ => panic!("not an object"),
        }
    }

    #[test]
    fn endpoints_of_the_vendors_that_are_not_served_say_what_is_missing() {
        for (path, feature) in [
            ("/api/v5/img2img", "image-to-image"),
            ("/api/v5/inpaint", "inpainting"),
            ("/api/v7/images/outpaint", "outpainting"),
            ("/api/v5/controlnet", "ControlNet"),
            ("/api/v6/images/controlnet", "ControlNet"),
            ("/api/v7/images/upscale/", "upscaling"),
            ("/api/v6/realtime/img2video", "realtime"),
            ("/api/v6/image_editing/super_resolution", "image editing"),
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
            "enhance_prompt": "yes", "tomesd": "yes"
        });
        assert_eq!(check(&content(defaults)), Ok(()));
        for (name, value) in [
            ("upscale", json!("2")),
            ("lora", json!("3d-character")),
            ("webhook", json!("https://example.org/hook")),
            ("init_image", json!(["https://example.org/a.png"])),
            ("multi_lingual", json!("yes")),
        ] {
            let refused = check(&content(json!({ name: value })));
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
