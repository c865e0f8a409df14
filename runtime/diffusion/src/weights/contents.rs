//! What a safetensors file is that is no checkpoint, by the names in its header: for messages.

use super::TensorIndex;

/// How many names a message repeats of a file that is nothing known.
const SHOWN_NAMES: usize = 3;

/// Parts of names, what they tell, and what to do with such a file. The first that is found counts.
const KINDS: [(&[&str], &str, &str); 11] = [
    (
        &[".lora_down.", ".lora_up.", ".lora_A.", ".lora_B.", ".lora.down.", ".hada_w1", ".lokr_w1", ".lokr_w2", ".dora_scale"],
        "an adapter (LoRA or LyCORIS)",
        "give it as an adapter beside the model that it was made for",
    ),
    (&["control_model.", "controlnet_cond_embedding.", "input_hint_block."], "a ControlNet", "give the checkpoint that it goes with"),
    (&["emb_params", "string_to_param"], "a textual inversion", "give it as an embedding beside a model"),
    (
        &["model.layers.", "model.embed_tokens.", "lm_head.", "transformer.h.", "transformer.wte."],
        "a language model",
        "give a checkpoint that makes images",
    ),
    (
        &["double_blocks.", "joint_blocks.", "model.diffusion_model."],
        "a diffusion model of a family that is not served",
        "see docs/checkpoints.md",
    ),
    (
        &["down_blocks.0.resnets.", "mid_block.resnets."],
        "a UNet or an autoencoder alone, in diffusers' names",
        "give the folder of the whole pipeline",
    ),
    (
        &["single_transformer_blocks.", "transformer_blocks.0."],
        "a transformer alone, in diffusers' names",
        "give the folder of the whole pipeline",
    ),
    (
        &["decoder.conv_in.weight", "first_stage_model.", "decoder.mid."],
        "an autoencoder (VAE) alone",
        "give a whole checkpoint, and this file as its component vae",
    ),
    (
        &["text_model.embeddings.", "transformer.resblocks.", "encoder.block.0.layer.0.SelfAttention", "shared.weight"],
        "a text encoder alone",
        "give a whole checkpoint, and this file as its text encoder",
    ),
    (&["body.0.rdb1", "RDB1.conv1", "conv_first.weight", "body.0.weight"], "an upscaler", "give a checkpoint that makes images"),
    (&["clip_l", "clip_g", "t5xxl"], "a textual inversion", "give it as an embedding beside a model"),
];

/// What the file is, and what to do.
pub(crate) fn describe(index: &TensorIndex) -> (String, &'static str) {
    let known = KINDS.iter().find(|(parts, _, _)| index.iter().any(|(name, _)| parts.iter().any(|part| name.contains(part))));
    if let Some((_, kind, remedy)) = known {
        return ((*kind).to_owned(), remedy);
    }
    let shown: Vec<String> = index.iter().take(SHOWN_NAMES).map(|(name, _)| name.chars().take(64).collect()).collect();
    let text = match index.len() {
        0 => "a file without tensors".to_owned(),
        count => format!("nothing known, with {count} tensors such as {}", shown.join(", ")),
    };
    (text, "see docs/checkpoints.md for what is recognised")
}
