//! A model folder in diffusers' layout with the blocks of Flux.1 schnell, a few features wide, and random weights.

use std::path::Path;

use serde_json::{Value, json};

use crate::tiny_model::{put, put_text_encoder, write_weights};

/// Writes the model into `folder`.
pub(crate) fn write(folder: &Path) {
    put(
        folder,
        "model_index.json",
        &json!({
            "_class_name": "FluxPipeline", "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
            "text_encoder_2": ["transformers", "T5EncoderModel"], "tokenizer_2": ["transformers", "T5TokenizerFast"],
            "transformer": ["diffusers", "FluxTransformer2DModel"], "vae": ["diffusers", "AutoencoderKL"],
        }),
    );
    put(folder, "scheduler/scheduler_config.json", &json!({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 1.0}));
    put_text_encoder(folder, "text_encoder", "tokenizer");
    put_t5(folder);
    put(
        folder,
        "transformer/config.json",
        &json!({
            "in_channels": 64, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 8, "num_attention_heads": 2,
            "joint_attention_dim": 24, "pooled_projection_dim": 16, "guidance_embeds": false, "axes_dims_rope": [2, 2, 4],
        }),
    );
    put(
        folder,
        "vae/config.json",
        &json!({
            "in_channels": 3, "out_channels": 3, "latent_channels": 16, "layers_per_block": 1, "block_out_channels": [8, 8, 8, 8],
            "norm_num_groups": 4, "scaling_factor": 0.3611, "shift_factor": 0.1159, "use_quant_conv": false, "use_post_quant_conv": false,
            "down_block_types": vec!["DownEncoderBlock2D"; 4], "up_block_types": vec!["UpDecoderBlock2D"; 4],
        }),
    );
    write_weights(folder);
}

/// Two layers of T5, and its tokenizer of letters.
fn put_t5(folder: &Path) {
    let special = ["<pad>", "</s>", "<unk>"].map(|token| json!([token, 0.0]));
    let letters = ('a'..='z').map(|letter| json!([letter.to_string(), -3.0]));
    let vocabulary: Vec<Value> = special.into_iter().chain([json!(["\u{2581}", -2.0])]).chain(letters).collect();
    put(
        folder,
        "text_encoder_2/config.json",
        &json!({
            "vocab_size": vocabulary.len(), "d_model": 24, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2,
            "feed_forward_proj": "gated-gelu",
        }),
    );
    put(
        folder,
        "tokenizer_2/tokenizer.json",
        &json!({
            "version": "1.0", "added_tokens": [], "normalizer": null,
            "pre_tokenizer": {"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always", "split": true},
            "model": {"type": "Unigram", "unk_id": 2, "vocab": vocabulary, "byte_fallback": false},
        }),
    );
}
