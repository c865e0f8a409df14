//! A tensor's name in an adapter file: which module, and what it is to it. All formats' spellings are told apart by their ends.

use super::AdapterError;

/// What a tensor is to its module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Slot {
    Down,
    Up,
    Mid,
    Alpha,
    /// LyCORIS' spelling of DoRA: over outputs or inputs, as its shape says.
    DoraScale,
    /// peft's spelling of DoRA: over outputs.
    Magnitude,
    Hada1A,
    Hada1B,
    Hada1Core,
    Hada2A,
    Hada2B,
    Hada2Core,
    Lokr1,
    Lokr1A,
    Lokr1B,
    Lokr2,
    Lokr2A,
    Lokr2B,
    Lokr2Core,
    Full,
    FullBias,
}

impl Slot {
    /// What it is called in messages.
    pub(super) fn name(self) -> &'static str {
        ENDINGS.iter().find(|(_, slot)| *slot == self).map_or("part", |(ending, _)| ending.trim_start_matches('.'))
    }
}

/// How a name ends, by what it is. The longest ending counts.
const ENDINGS: [(&str, Slot); 34] = [
    // kohya
    (".lora_down.weight", Slot::Down),
    (".lora_up.weight", Slot::Up),
    (".lora_mid.weight", Slot::Mid),
    (".alpha", Slot::Alpha),
    // LyCORIS
    (".dora_scale", Slot::DoraScale),
    (".hada_w1_a", Slot::Hada1A),
    (".hada_w1_b", Slot::Hada1B),
    (".hada_t1", Slot::Hada1Core),
    (".hada_w2_a", Slot::Hada2A),
    (".hada_w2_b", Slot::Hada2B),
    (".hada_t2", Slot::Hada2Core),
    (".lokr_w1", Slot::Lokr1),
    (".lokr_w1_a", Slot::Lokr1A),
    (".lokr_w1_b", Slot::Lokr1B),
    (".lokr_w2", Slot::Lokr2),
    (".lokr_w2_a", Slot::Lokr2A),
    (".lokr_w2_b", Slot::Lokr2B),
    (".lokr_t2", Slot::Lokr2Core),
    (".diff", Slot::Full),
    (".diff_b", Slot::FullBias),
    // peft, and diffusers since it uses peft
    (".lora_A.weight", Slot::Down),
    (".lora_B.weight", Slot::Up),
    (".lora_A.default.weight", Slot::Down),
    (".lora_B.default.weight", Slot::Up),
    (".lora_magnitude_vector", Slot::Magnitude),
    (".lora_magnitude_vector.weight", Slot::Magnitude),
    (".lora_magnitude_vector.default.weight", Slot::Magnitude),
    // diffusers before that
    ("_lora.down.weight", Slot::Down),
    ("_lora.up.weight", Slot::Up),
    (".lora.down.weight", Slot::Down),
    (".lora.up.weight", Slot::Up),
    (".lora_linear_layer.down.weight", Slot::Down),
    (".lora_linear_layer.up.weight", Slot::Up),
    ("_lora.alpha", Slot::Alpha),
];

/// Parts of names that only formats have which are not served.
const UNSERVED: [(&str, &str); 8] = [
    (".oft_blocks", "OFT"),
    (".oft_diag", "OFT"),
    (".oft_R", "OFT"),
    (".boft_R", "BOFT"),
    (".on_input", "IA3"),
    (".ia3_l", "IA3"),
    (".a1.weight", "GLoRA"),
    (".w_norm", "a normalisation's difference"),
];

/// Names of textual inversions: the vectors themselves.
const EMBEDDINGS: [&str; 4] = ["emb_params", "clip_l", "clip_g", "string_to_param"];

/// Splits a tensor's name into its module's name and what it is to it.
pub(super) fn split(name: &str) -> Result<(&str, Slot), AdapterError> {
    let endings = ENDINGS.iter().filter_map(|(ending, slot)| Some((name.strip_suffix(ending)?, *slot)));
    if let Some((module, slot)) = endings.min_by_key(|(module, _)| module.len()) {
        return Ok((module, slot));
    }
    if EMBEDDINGS.contains(&name) || (name.starts_with('<') && name.ends_with('>')) {
        return Err(AdapterError::Embedding { name: name.to_owned() });
    }
    Err(match UNSERVED.iter().find(|(part, _)| name.contains(part)) {
        Some((_, format)) => AdapterError::UnservedFormat { name: name.to_owned(), format },
        None => AdapterError::UnknownTensor { name: name.to_owned() },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_is_split_into_module_and_part() {
        for (name, module, slot) in [
            ("lora_unet_mid_block_attentions_0_proj_in.lora_down.weight", "lora_unet_mid_block_attentions_0_proj_in", Slot::Down),
            ("lora_te_text_model_encoder_layers_0_mlp_fc1.alpha", "lora_te_text_model_encoder_layers_0_mlp_fc1", Slot::Alpha),
            ("unet.mid_block.attentions.0.proj_in.lora_A.weight", "unet.mid_block.attentions.0.proj_in", Slot::Down),
            ("mid_block.attn1.processor.to_out_lora.up.weight", "mid_block.attn1.processor.to_out", Slot::Up),
            ("text_encoder.q_proj.lora_linear_layer.up.weight", "text_encoder.q_proj", Slot::Up),
            ("unet.a.to_q.lora_magnitude_vector", "unet.a.to_q", Slot::Magnitude),
            ("m.lokr_w1", "m", Slot::Lokr1),
            ("m.lokr_w1_a", "m", Slot::Lokr1A),
            ("m.diff_b", "m", Slot::FullBias),
        ] {
            assert_eq!(split(name).unwrap(), (module, slot), "{name}");
        }
    }

    #[test]
    fn no_ending_hides_another() {
        for (ending, slot) in ENDINGS {
            assert_eq!(split(&format!("module{ending}")).unwrap(), ("module", slot), "{ending}");
        }
    }

    #[test]
    fn what_is_no_adapter_is_told_apart() {
        assert!(matches!(split("emb_params"), Err(AdapterError::Embedding { .. })));
        assert!(matches!(split("<cat-toy>"), Err(AdapterError::Embedding { .. })));
        assert!(matches!(split("lora_unet_x.oft_blocks"), Err(AdapterError::UnservedFormat { format: "OFT", .. })));
        assert!(matches!(split("model.diffusion_model.out.2.weight"), Err(AdapterError::UnknownTensor { .. })));
    }
}
