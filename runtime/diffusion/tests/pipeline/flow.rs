//! Models of flow matching: rows share calls and nobody notices, and what a folder and a request may say.

use std::path::Path;
use std::sync::Arc;

use diffusion::model::{Model, ModelFolder};
use diffusion::pipeline::{ImageState, InjectedTensors, Request, prepare, step};
use diffusion::text::PromptSyntax;
use diffusion::{DType, Device};
use serde_json::{Value, json};

use crate::batching::{alone, bits, image, inpainting};
use crate::tiny_model::{write, write_clip_tokenizer, write_weights};

/// Features of T5's tokens and of CLIP's.
const T5_WIDTH: usize = 48;
const CLIP_WIDTH: usize = 16;

/// The configuration files of a model, by part; free to be changed before it is written.
pub(crate) struct FlowModel(Vec<(&'static str, Value)>);

fn clip(vocabulary: usize) -> Value {
    json!({
        "vocab_size": vocabulary, "hidden_size": CLIP_WIDTH, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "max_position_embeddings": 77, "projection_dim": 12,
    })
}

fn t5() -> Value {
    json!({"vocab_size": 320, "d_model": T5_WIDTH, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 2, "feed_forward_proj": "gated-gelu"})
}

fn vae() -> Value {
    json!({
        "block_out_channels": [8, 8, 8, 16], "norm_num_groups": 4, "layers_per_block": 1, "latent_channels": 16, "scaling_factor": 1.5,
        "shift_factor": 0.06, "use_quant_conv": false, "use_post_quant_conv": false,
        "down_block_types": vec!["DownEncoderBlock2D"; 4], "up_block_types": vec!["UpDecoderBlock2D"; 4],
    })
}

impl FlowModel {
    pub(crate) fn flux(guidance: bool) -> Self {
        Self(vec![
            (
                "model_index.json",
                json!({
                    "_class_name": "FluxPipeline", "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
                    "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
                    "text_encoder_2": ["transformers", "T5EncoderModel"], "tokenizer_2": ["transformers", "T5TokenizerFast"],
                    "transformer": ["diffusers", "FluxTransformer2DModel"], "vae": ["diffusers", "AutoencoderKL"],
                }),
            ),
            ("scheduler/scheduler_config.json", json!({"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": true})),
            ("text_encoder/config.json", clip(55)),
            ("text_encoder_2/config.json", t5()),
            (
                "transformer/config.json",
                json!({
                    "in_channels": 64, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2,
                    "joint_attention_dim": T5_WIDTH, "pooled_projection_dim": CLIP_WIDTH, "guidance_embeds": guidance, "axes_dims_rope": [4, 4, 8],
                }),
            ),
            ("vae/config.json", vae()),
        ])
    }

    pub(crate) fn sd3() -> Self {
        Self(vec![
            (
                "model_index.json",
                json!({
                    "_class_name": "StableDiffusion3Pipeline", "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
                    "text_encoder": ["transformers", "CLIPTextModelWithProjection"], "tokenizer": ["transformers", "CLIPTokenizer"],
                    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"], "tokenizer_2": ["transformers", "CLIPTokenizer"],
                    "text_encoder_3": ["transformers", "T5EncoderModel"], "tokenizer_3": ["transformers", "T5TokenizerFast"],
                    "transformer": ["diffusers", "SD3Transformer2DModel"], "vae": ["diffusers", "AutoencoderKL"],
                }),
            ),
            ("scheduler/scheduler_config.json", json!({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0})),
            ("text_encoder/config.json", clip(55)),
            ("text_encoder_2/config.json", clip(55)),
            ("text_encoder_3/config.json", t5()),
            (
                "transformer/config.json",
                json!({
                    "sample_size": 8, "patch_size": 2, "in_channels": 16, "out_channels": 16, "num_layers": 2, "attention_head_dim": 8,
                    "num_attention_heads": 2, "joint_attention_dim": T5_WIDTH, "caption_projection_dim": 16, "pooled_projection_dim": 24,
                    "pos_embed_max_size": 8, "qk_norm": "rms_norm", "dual_attention_layers": [0],
                }),
            ),
            ("vae/config.json", vae()),
        ])
    }

    pub(crate) fn change(mut self, file: &str, key: &str, value: Value) -> Self {
        let found = self.0.iter_mut().find(|(name, _)| *name == file).unwrap();
        found.1[key] = value;
        self
    }

    pub(crate) fn write(&self, folder: &Path) {
        self.write_configurations(folder);
        write_weights(folder);
    }

    /// Without weights.
    fn write_configurations(&self, folder: &Path) {
        self.0.iter().for_each(|(name, value)| write(folder, name, &value.to_string()));
        for tokenizer in ["tokenizer", "tokenizer_2", "tokenizer_3"] {
            let encoder = tokenizer.replace("tokenizer", "text_encoder");
            let is_t5 = self.0.iter().any(|(name, value)| *name == format!("{encoder}/config.json") && value.get("d_model").is_some());
            if is_t5 {
                for file in ["tokenizer.json", "tokenizer_config.json"] {
                    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/unigram/vocabulary").join(file);
                    write(folder, &format!("{tokenizer}/{file}"), &std::fs::read_to_string(from).unwrap());
                }
            } else {
                write_clip_tokenizer(folder, tokenizer);
            }
        }
    }

    fn load(&self) -> Arc<Model> {
        let folder = tempfile::tempdir().unwrap();
        self.write(folder.path());
        let open = ModelFolder::open(folder.path()).unwrap();
        Arc::new(open.load(&Device::Cpu, DType::F32, &mut |_| {}).unwrap())
    }

    fn refusal(&self) -> String {
        let folder = tempfile::tempdir().unwrap();
        self.write_configurations(folder.path());
        ModelFolder::open(folder.path()).unwrap_err().to_string()
    }
}

/// Requests that differ in everything that may differ within a call, and in size and length of text, which may not.
fn mixed_requests(model: &Model) -> Vec<Request> {
    let short = Some(12);
    let base =
        Request { width: 64, height: 64, num_inference_steps: 3, max_sequence_length: short, ..Request::with_defaults(model, "a red cat") };
    let mut requests = vec![
        base.clone(),
        Request { seed: 1, guidance_scale: 1.0, num_inference_steps: 4, prompt: "no guidance".into(), ..base.clone() },
        Request { seed: 2, samples: 2, negative_prompt: Some("a dog".into()), guidance_scale: 6.0, ..base.clone() },
        Request { seed: 3, start: image(64, 0.7), ..base.clone() },
        Request { seed: 4, start: inpainting(64, 0.8), ..base.clone() },
        Request { seed: 5, width: 96, prompt_2: Some("another".into()), ..base.clone() },
        Request { seed: 6, max_sequence_length: Some(9), ..base.clone() },
        Request { seed: 7, prompt: "a (red:1.4) cat".into(), prompt_syntax: PromptSyntax::Weighted, ..base.clone() },
    ];
    if model.spec().heeds().contains(&"true_cfg_scale") {
        requests.push(Request { seed: 8, true_cfg_scale: 3.0, negative_prompt: Some("blur".into()), ..base });
    } else {
        requests.push(Request { seed: 8, sampler: Some("FlowMatchHeunDiscreteScheduler".into()), ..base });
    }
    requests
}

#[test]
fn rows_of_flow_matching_have_the_bits_they_have_alone() {
    for tiny in [FlowModel::flux(true), FlowModel::flux(false), FlowModel::sd3()] {
        let model = tiny.load();
        let prepared = || {
            let states =
                mixed_requests(&model).into_iter().flat_map(|request| prepare(&model, &request, &InjectedTensors::default()).unwrap());
            states.collect::<Vec<ImageState>>()
        };
        let expected: Vec<_> = prepared().into_iter().map(alone).collect();
        let mut images = prepared();
        let mut calls = 0;
        while images.iter().any(|image| !image.is_finished()) {
            let mut unfinished: Vec<_> = images.iter_mut().filter(|image| !image.is_finished()).collect();
            let report = step(&mut unfinished);
            assert!(report.outcomes.iter().all(Result::is_ok), "{:?}", report.outcomes);
            calls = calls.max(unfinished.len() - report.denoiser_calls);
        }
        assert!(calls >= 5, "rows share calls");
        for (image, expected) in images.iter().zip(expected) {
            assert_eq!(&bits(image.latents()), expected.last().unwrap(), "{}", model.family());
        }
    }
}

#[test]
fn family_follows_from_the_transformer() {
    let named = |tiny: FlowModel| tiny.load().family();
    assert_eq!(named(FlowModel::flux(true)), "flux-dev");
    assert_eq!(named(FlowModel::flux(false)), "flux-schnell");
    assert_eq!(named(FlowModel::sd3()), "sd35-medium");
    let of = |key: &str, value: Value| FlowModel::sd3().change("transformer/config.json", key, value);
    assert_eq!(named(of("dual_attention_layers", json!([]))), "sd35-large");
    assert_eq!(named(of("qk_norm", Value::Null).change("transformer/config.json", "dual_attention_layers", json!([]))), "sd3");
}

#[test]
fn configurations_that_do_not_fit_each_other_are_refused_by_key() {
    let transformer = "transformer/config.json";
    for (tiny, named) in [
        (FlowModel::flux(true).change(transformer, "axes_dims_rope", json!([4, 4, 6])), "axes_dims_rope"),
        (FlowModel::flux(true).change(transformer, "axes_dims_rope", json!([usize::MAX, 4, 8])), "axes_dims_rope"),
        (FlowModel::flux(true).change(transformer, "in_channels", json!(128)), "in_channels"),
        (FlowModel::flux(true).change(transformer, "out_channels", json!(16)), "out_channels"),
        (FlowModel::flux(true).change(transformer, "pooled_projection_dim", json!(17)), "pooled_projection_dim"),
        (FlowModel::flux(true).change("text_encoder_2/config.json", "d_model", json!(32)), "joint_attention_dim"),
        (FlowModel::flux(true).change("text_encoder_2/config.json", "feed_forward_proj", json!("relu")), "feed_forward_proj"),
        (FlowModel::flux(true).change("text_encoder_2/config.json", "vocab_size", json!(100)), "tokenizer_2"),
        (FlowModel::sd3().change(transformer, "dual_attention_layers", json!([2])), "dual_attention_layers"),
        (FlowModel::sd3().change(transformer, "caption_projection_dim", json!(8)), "caption_projection_dim"),
        (FlowModel::sd3().change(transformer, "joint_attention_dim", json!(16)), "joint_attention_dim"),
        (FlowModel::sd3().change(transformer, "qk_norm", json!("layer_norm")), "qk_norm"),
        (FlowModel::sd3().change("scheduler/scheduler_config.json", "_class_name", json!("DDIMScheduler")), "DDIMScheduler"),
        (FlowModel::sd3().change("model_index.json", "transformer", json!(["diffusers", "UNet2DConditionModel"])), "transformer"),
    ] {
        // The index's word on the scheduler counts.
        let tiny = if named == "DDIMScheduler" {
            tiny.change("model_index.json", "scheduler", json!(["diffusers", "DDIMScheduler"])).change(
                "scheduler/scheduler_config.json",
                "clip_sample",
                json!(false),
            )
        } else {
            tiny
        };
        let message = tiny.refusal();
        assert!(message.contains(named), "{named}: {message}");
    }
}
