//! What makes a model folder.

use std::path::Path;

use diffusion::model::{Inspection, ModelFolder};
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
        ("unet/config.json", "addition_embed_type", json!("text_time")),
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
    let inspection = Inspection::of(folder.path());
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
