//! What makes a model folder.

use std::path::Path;

use diffusion::model::{Inspection, ModelFiles, ModelFolder};
use diffusion::{DType, Device};
use serde_json::{Value, json};

use crate::tiny_model::TinyModel;

/// The refusal of a folder written whole and then changed.
fn refusal(change: impl FnOnce(&Path)) -> String {
    let folder = tempfile::tempdir().unwrap();
    TinyModel::default().write(folder.path());
    change(folder.path());
    ModelFolder::open(folder.path()).unwrap_err().to_string()
}

fn set(folder: &Path, file: &str, key: &str, value: Value) {
    let path = folder.join(file);
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    config[key] = value;
    std::fs::write(path, config.to_string()).unwrap();
}

#[test]
fn whole_folder_is_told_with_its_family_tensors_and_digest() {
    let folder = tempfile::tempdir().unwrap();
    TinyModel::default().write(folder.path());
    let inspection = ModelFolder::open(folder.path()).unwrap().inspect();
    assert_eq!(inspection.family.as_deref(), Some("sd15"));
    assert!(inspection.problems.is_empty());
    assert_eq!(inspection.digest.as_ref().map(String::len), Some(64));
    let unet = &inspection.components[1];
    assert_eq!(unet.name, "unet");
    assert!(unet.tensors.iter().any(|tensor| tensor.name == "conv_in.weight" && tensor.shape == [16, 4, 3, 3]));
}

#[test]
fn family_is_told_by_the_files_alone() {
    let mut second = TinyModel::default();
    second.text_encoder["hidden_act"] = json!("gelu");
    for (model, family, parts) in [
        (TinyModel::default(), "sd15", &["text_encoder", "unet", "vae"][..]),
        (second, "sd21", &["text_encoder", "unet", "vae"]),
        (TinyModel::with_two_encoders(), "sdxl", &["text_encoder", "text_encoder_2", "unet", "vae"]),
        (TinyModel::refiner(), "sdxl-refiner", &["text_encoder_2", "unet", "vae"]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        model.write(folder.path());
        let inspection = ModelFolder::open(folder.path()).unwrap().inspect();
        assert_eq!(inspection.family.as_deref(), Some(family));
        assert!(inspection.components.iter().map(|component| component.name.as_str()).eq(parts.iter().copied()));
    }
}

#[test]
fn parts_that_do_not_belong_together_are_refused_by_file_and_key() {
    for (file, key, value) in [
        ("unet/config.json", "projection_class_embeddings_input_dim", json!(13)),
        ("unet/config.json", "addition_time_embed_dim", json!(5)),
        ("unet/config.json", "addition_embed_type", json!(null)),
        ("unet/config.json", "cross_attention_dim", json!(24)),
        ("unet/config.json", "time_cond_proj_dim", json!(2)),
        ("text_encoder_2/config.json", "projection_dim", json!(1 << 30)),
        ("text_encoder_2/config.json", "eos_token_id", json!(1_u64 << 40)),
        ("model_index.json", "text_encoder_2", json!([null, null])),
        ("model_index.json", "text_encoder_2", json!(["transformers", "T5EncoderModel"])),
    ] {
        let folder = tempfile::tempdir().unwrap();
        TinyModel::with_two_encoders().write(folder.path());
        set(folder.path(), file, key, value);
        let message = ModelFolder::open(folder.path()).unwrap_err().to_string();
        assert!(message.contains(file) && message.contains(key), "{message}");
    }
}

#[test]
fn autoencoder_that_overflows_is_kept_in_single_precision() {
    for (upcast, bytes) in [(true, 4), (false, 2)] {
        let folder = tempfile::tempdir().unwrap();
        let mut model = TinyModel::with_two_encoders();
        model.vae["force_upcast"] = json!(upcast);
        model.write(folder.path());
        let open = ModelFolder::open(folder.path()).unwrap();
        let elements = |name: &str| {
            let component = open.inspect().components.into_iter().find(|component| component.name == name).unwrap();
            component.tensors.iter().map(|tensor| tensor.shape.iter().product::<usize>() as u64).sum::<u64>()
        };
        let others: u64 = ["text_encoder", "text_encoder_2", "unet"].into_iter().map(elements).sum();
        let expected = 2 * others + bytes * elements("vae");
        assert_eq!(open.loaded_bytes(DType::BF16), expected);
        let model = open.load(&Device::Cpu, DType::BF16, &mut |_| {}).unwrap();
        assert_eq!((model.bytes(), model.vae_exec().compute.size_in_bytes() as u64), (expected, bytes));
    }
}

#[test]
fn digest_changes_with_any_configuration() {
    let folder = tempfile::tempdir().unwrap();
    TinyModel::default().write(folder.path());
    let before = ModelFolder::open(folder.path()).unwrap().digest().unwrap();
    set(folder.path(), "scheduler/scheduler_config.json", "beta_start", json!(0.001));
    assert_ne!(ModelFolder::open(folder.path()).unwrap().digest().unwrap(), before);
}

#[test]
fn unserved_network_is_refused_by_file_key_and_value() {
    for (file, key, value) in [
        ("unet/config.json", "class_embed_type", json!("timestep")),
        ("unet/config.json", "addition_embed_type", json!("image")),
        ("unet/config.json", "down_block_types", json!(["AttnDownBlock2D", "DownBlock2D"])),
        ("unet/config.json", "attention_head_dim", json!(3)),
        ("unet/config.json", "norm_num_groups", json!(7)),
        ("unet/config.json", "cross_attention_dim", json!(32)),
        ("unet/config.json", "in_channels", json!(5)),
        ("vae/config.json", "act_fn", json!("relu")),
        ("text_encoder/config.json", "hidden_act", json!("relu")),
        ("model_index.json", "_class_name", json!("KandinskyPipeline")),
    ] {
        let message = refusal(|folder| set(folder, file, key, value));
        assert!(message.contains(file) && message.contains(key), "{message}");
    }
}

#[test]
fn dimensions_beyond_their_bounds_are_refused_before_anything_is_allocated() {
    for (file, key, value) in [
        ("unet/config.json", "block_out_channels", json!([1_u64 << 40, 32])),
        ("unet/config.json", "block_out_channels", json!([])),
        ("unet/config.json", "block_out_channels", json!(vec![16; 9])),
        ("unet/config.json", "layers_per_block", json!(1_000_000)),
        ("unet/config.json", "transformer_layers_per_block", json!(0)),
        ("unet/config.json", "attention_head_dim", json!(0)),
        ("text_encoder/config.json", "vocab_size", json!(1_u64 << 50)),
        ("text_encoder/config.json", "num_hidden_layers", json!(1 << 30)),
        ("vae/config.json", "scaling_factor", json!(0)),
        ("vae/config.json", "latent_channels", json!(1 << 30)),
    ] {
        let message = refusal(|folder| set(folder, file, key, value));
        assert!(message.contains(file) && message.contains(key), "{message}");
    }
}

#[test]
fn tensors_that_do_not_fit_their_configuration_are_named_at_once() {
    let message = refusal(|folder| set(folder, "text_encoder/config.json", "intermediate_size", json!(40)));
    assert!(message.contains("text_encoder") && message.contains("mlp.fc1.weight"), "{message}");
    let message = refusal(|folder| set(folder, "unet/config.json", "layers_per_block", json!(2)));
    assert!(message.contains("unet") && message.contains("down_blocks.0.resnets.1"), "{message}");
}

#[test]
fn folder_that_would_not_load_is_still_inspected() {
    let folder = tempfile::tempdir().unwrap();
    TinyModel::default().write(folder.path());
    std::fs::write(folder.path().join("unet/diffusion_pytorch_model.safetensors"), b"\x80\x02pickle").unwrap();
    let inspection = Inspection::of(&ModelFiles::of(folder.path()));
    assert_eq!(inspection.problems.len(), 1);
    assert!(inspection.problems[0].contains("pickle"), "{:?}", inspection.problems);
    assert_eq!(inspection.family.as_deref(), Some("sd15"));
    assert!(inspection.components.iter().any(|component| component.name == "vae"));
}

#[test]
fn old_names_of_the_autoencoders_attention_are_read() {
    let folder = tempfile::tempdir().unwrap();
    TinyModel::default().write(folder.path());
    let path = folder.path().join("vae/diffusion_pytorch_model.safetensors");
    let renamed = [("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")];
    let tensors = candle_core::safetensors::load(&path, &diffusion::Device::Cpu).unwrap();
    let tensors: std::collections::HashMap<String, diffusion::Tensor> =
        tensors.into_iter().map(|(name, tensor)| (renamed.iter().fold(name, |name, (new, old)| name.replace(new, old)), tensor)).collect();
    assert!(tensors.keys().any(|name| name.ends_with("attentions.0.proj_attn.weight")));
    safetensors::serialize_to_file(tensors.iter(), None, &path).unwrap();
    assert!(ModelFolder::open(folder.path()).is_ok());
}
