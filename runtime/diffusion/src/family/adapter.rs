//! Which family an adapter file was made for, from the names of its modules and the widths of its matrices.

/// Names that only the networks of one family have; the first that is found counts. T5 alone is no family's.
const NAMES: [(&str, Option<&str>); 10] = [
    ("single_transformer_blocks", Some("flux")),
    ("single_blocks", Some("flux")),
    ("double_blocks", Some("flux")),
    ("joint_blocks", Some("sd3")),
    ("add_q_proj", Some("sd3")),
    ("lora_te3_", None),
    ("lora_te1_", Some("sdxl")),
    ("lora_te2_", Some("sdxl")),
    ("text_encoder_2.", Some("sdxl")),
    ("add_embedding", Some("sdxl")),
];

/// How wide text is where it enters the denoiser.
const CONTEXT_WIDTHS: [(usize, &str); 4] = [(768, "sd15"), (1024, "sd21"), (2048, "sdxl"), (1280, "sdxl-refiner")];

/// The family, where names or shapes say so; `modules` are names with the shape of the matrix that meets the layer's input.
pub(crate) fn of_adapter<'a>(modules: impl Iterator<Item = (&'a str, Option<&'a [usize]>)> + Clone) -> Option<&'static str> {
    // Flux and Stable Diffusion 3 share names; those of Flux alone come first in the table.
    let by_name = NAMES.iter().find(|(part, _)| modules.clone().any(|(name, _)| name.contains(part)));
    if let Some((_, family)) = by_name {
        return *family;
    }
    let enters = |name: &str| ["attn2_to_k", "attn2.to_k", "attn2_to_v", "attn2.to_v"].iter().any(|part| name.contains(part));
    let widths = modules.filter(|(name, _)| enters(name)).filter_map(|(_, shape)| shape?.get(1).copied());
    let mut families = widths.filter_map(|width| CONTEXT_WIDTHS.iter().find(|(known, _)| *known == width).map(|(_, family)| *family));
    families.next()
}

/// Whether a model of `family` is one of those that [`of_adapter`] tells apart as `made_for`: it knows Flux, not which of its models.
pub(crate) fn is_of(family: &str, made_for: &str) -> bool {
    match made_for {
        "flux" | "sd3" => family.starts_with(made_for),
        _ => family == made_for,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn family_is_known_by_names_then_by_the_width_of_text() {
        let of = |name: &str, shape: &[usize]| of_adapter([(name, Some(shape))].into_iter());
        for (name, width, family) in [
            ("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k", 768, Some("sd15")),
            ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v", 1024, Some("sd21")),
            ("lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k", 2048, Some("sdxl")),
            ("lora_te2_text_model_encoder_layers_0_mlp_fc1", 1280, Some("sdxl")),
            ("lora_unet_double_blocks_0_img_attn_qkv", 3072, Some("flux")),
            ("transformer.single_transformer_blocks.0.attn.to_q", 3072, Some("flux")),
            ("transformer.transformer_blocks.0.attn.add_q_proj", 1536, Some("sd3")),
            ("lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k", 32, None),
            ("lora_te3_encoder_block_0_layer_0_SelfAttention_q", 4096, None),
            ("lora_unet_mid_block_attentions_0_proj_in", 768, None),
        ] {
            assert_eq!(of(name, &[4, width]), family, "{name}");
        }
    }

    #[test]
    fn models_of_one_architecture_take_each_others_adapters() {
        for (family, made_for, is) in [
            ("flux-dev", "flux", true),
            ("flux-schnell", "flux", true),
            ("sd35-medium", "sd3", true),
            ("sd3", "sd3", true),
            ("sd15", "sd3", false),
            ("sdxl-refiner", "sdxl", false),
            ("sd3", "flux", false),
        ] {
            assert_eq!(is_of(family, made_for), is, "{family} {made_for}");
        }
    }
}
