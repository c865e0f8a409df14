//! What makes a model folder.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use diffusion::model::{Inspection, Model, ModelFiles, ModelFolder};
use diffusion::pipeline::{InjectedTensors, Request, decode, prepare, step};
use diffusion::weights::WeightSource;
use diffusion::{DType, Device, Tensor};
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
        assert_eq!(open.loaded_bytes(DType::F16), expected);
        let model = open.load(&Device::Cpu, DType::F16, &mut |_| {}).unwrap();
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
    let tensors: HashMap<String, Tensor> = tensors(folder.path(), "vae/diffusion_pytorch_model.safetensors")
        .into_iter()
        .map(|(name, tensor)| (renamed.iter().fold(name, |name, (new, old)| name.replace(new, old)), tensor))
        .collect();
    assert!(tensors.keys().any(|name| name.ends_with("attentions.0.proj_attn.weight")));
    safetensors::serialize_to_file(tensors.iter(), None, &path).unwrap();
    assert!(ModelFolder::open(folder.path()).is_ok());
}

const UNET: &str = "unet/diffusion_pytorch_model.safetensors";

fn tensors(folder: &Path, file: &str) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(folder.join(file), &Device::Cpu).unwrap()
}

/// Makes two files and an index of the UNet's one.
fn divide(folder: &Path) -> [PathBuf; 2] {
    let all = tensors(folder, UNET);
    let names = ["1-of-00002", "2-of-00002"].map(|part| format!("diffusion_pytorch_model-0000{part}.safetensors"));
    let file_of = |name: &str| usize::from(name > "mid_block");
    let map: serde_json::Map<String, Value> = all.keys().map(|name| (name.clone(), names[file_of(name)].clone().into())).collect();
    let paths = names.each_ref().map(|name| folder.join("unet").join(name));
    for (number, path) in paths.iter().enumerate() {
        safetensors::serialize_to_file(all.iter().filter(|(name, _)| file_of(name) == number), None, path).unwrap();
    }
    std::fs::remove_file(folder.join(UNET)).unwrap();
    let index = json!({"metadata": {}, "weight_map": map}).to_string();
    std::fs::write(folder.join("unet/diffusion_pytorch_model.safetensors.index.json"), index).unwrap();
    paths
}

#[test]
fn weights_in_several_files_are_those_of_one() {
    let folder = tempfile::tempdir().unwrap();
    TinyModel::default().write(folder.path());
    let load = || ModelFolder::open(folder.path()).unwrap().load(&Device::Cpu, DType::F32, &mut |_| {}).unwrap();
    let latents = Tensor::ones((1, 4, 8, 8), DType::F32, &Device::Cpu).unwrap();
    let [whole, divided] = [load(), {
        divide(folder.path());
        load()
    }];
    assert_eq!(whole.bytes(), divided.bytes());
    assert_ne!(whole.digest(), divided.digest());
    let request = Request { width: 64, height: 64, ..Request::with_defaults(&whole, "a") };
    let draw = |model: Model| {
        let model = Arc::new(model);
        let given = InjectedTensors { latents_init: Some(latents.clone()), ..Default::default() };
        let mut image = prepare(&model, &request, &given).unwrap().remove(0);
        assert!(step(&mut [&mut image]).outcomes[0].is_ok());
        crate::batching::bits(image.latents())
    };
    assert!(draw(whole) == draw(divided));
}

#[test]
fn files_that_are_cut_or_missing_are_named_before_any_is_read() {
    for (change, words) in [
        (&(|path: &Path| std::fs::remove_file(path).unwrap()) as &dyn Fn(&Path), ["00002-of-00002.safetensors", "No such file"]),
        (&|path| std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(5000).unwrap(), ["00002-of-00002", "truncated"]),
        (&|path| std::fs::write(path, (100_u64 << 20).to_le_bytes()).unwrap(), ["00002-of-00002", "claims 104857600 bytes"]),
        (&|path| std::fs::write(path, b"\x80\x02pickle").unwrap(), ["00002-of-00002", "pickle"]),
        (&|path| std::fs::write(path, b"<!DOCTYPE html>").unwrap(), ["00002-of-00002", "HTML"]),
    ] {
        let message = refusal(|folder| change(&divide(folder)[1]));
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
    }
}

#[test]
fn weights_that_are_no_numbers_are_named() {
    let loaded = |value: f32, dtype| {
        let folder = tempfile::tempdir().unwrap();
        TinyModel::default().write(folder.path());
        let mut unet = tensors(folder.path(), UNET);
        unet.insert("conv_out.bias".to_owned(), Tensor::new(&[0.0, value, 0.0, 0.0], &Device::Cpu).unwrap());
        safetensors::serialize_to_file(unet.iter(), None, &folder.path().join(UNET)).unwrap();
        let open = ModelFolder::open(folder.path()).unwrap();
        open.load(&Device::Cpu, dtype, &mut |_| {}).map(|_| ()).map_err(|error| error.to_string())
    };
    for value in [f32::NAN, f32::INFINITY] {
        let message = loaded(value, DType::F32).unwrap_err();
        assert!(message.contains("conv_out.bias") && message.contains("not finite; the file is damaged"), "{message}");
    }
    assert_eq!(loaded(1e6, DType::F32), Ok(()));
    let message = loaded(1e6, DType::F16).unwrap_err();
    assert!(message.contains("conv_out.bias") && message.contains("load it as f32 or bf16"), "{message}");
}

#[test]
fn weights_that_are_no_floats_of_up_to_32_bits_are_named_with_what_they_are() {
    for (dtype, name) in [(DType::F64, "F64"), (DType::I64, "I64"), (DType::U8, "U8")] {
        let message = refusal(|folder| {
            let mut unet = tensors(folder, UNET);
            let stored = unet["conv_out.bias"].to_dtype(dtype).unwrap();
            unet.insert("conv_out.bias".to_owned(), stored);
            safetensors::serialize_to_file(unet.iter(), None, &folder.join(UNET)).unwrap();
        });
        assert!(message.contains("unet") && message.contains(&format!("conv_out.bias ({name})")), "{message}");
    }
}

/// A tiny model in `folder`, and the weights of its autoencoder, changed a little, in a file elsewhere.
fn with_other_vae(folder: &Path) -> PathBuf {
    TinyModel::default().write(&folder.join("model"));
    let own = folder.join("model/vae/diffusion_pytorch_model.safetensors");
    let file = diffusion::weights::open_file(&own).unwrap();
    let changed = |(name, info): (&str, &diffusion::weights::TensorInfo)| {
        let tensor = file.tensor(name, &info.shape, DType::F32, &Device::Cpu).unwrap();
        (name.to_owned(), (tensor * 1.01).unwrap())
    };
    let tensors: HashMap<String, Tensor> = file.index().iter().map(changed).collect();
    let other = folder.join("other/sharp.safetensors");
    std::fs::create_dir_all(other.parent().unwrap()).unwrap();
    safetensors::serialize_to_file(tensors.iter(), None, &other).unwrap();
    other
}

/// One image of the model, decoded.
fn decoded(folder: &ModelFolder) -> Vec<f32> {
    let model = Arc::new(folder.load(&Device::Cpu, DType::F32, &mut |_| {}).unwrap());
    let request = Request { width: 64, height: 64, num_inference_steps: 1, ..Request::with_defaults(&model, "a") };
    let mut image = prepare(&model, &request, &InjectedTensors::default()).unwrap().remove(0);
    assert!(step(&mut [&mut image]).outcomes[0].is_ok());
    decode(&image).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// The model with that file as its autoencoder.
fn files_with_vae(model: &Path, vae: &Path) -> ModelFiles {
    ModelFiles { components: [("vae".to_owned(), vae.to_path_buf())].into(), ..ModelFiles::of(model) }
}

#[test]
fn other_autoencoder_decodes_as_if_it_were_the_folders_own() {
    let scratch = tempfile::tempdir().unwrap();
    let (folder, other) = (scratch.path().join("model"), with_other_vae(scratch.path()));
    let open = || ModelFolder::open(&folder).unwrap();
    let replaced = ModelFolder::open_files(&files_with_vae(&folder, &other)).unwrap();
    let own = open();
    assert_eq!(own.files_digest().unwrap(), replaced.files_digest().unwrap());
    assert_ne!(own.digest().unwrap(), replaced.digest().unwrap());
    assert_eq!(replaced.part_digest("vae").unwrap(), diffusion::weights::sha256_of_file(&other).unwrap());
    assert!(own.part_digest("vae").is_err());
    let elsewhere = scratch.path().join("elsewhere.safetensors");
    std::fs::copy(&other, &elsewhere).unwrap();
    let moved = ModelFolder::open_files(&files_with_vae(&folder, &elsewhere)).unwrap();
    assert_eq!(moved.digest().unwrap(), replaced.digest().unwrap(), "where a file lies is part of the digest");
    let (with_own, with_other) = (decoded(&own), decoded(&replaced));
    assert_ne!(with_own, with_other);
    std::fs::copy(&other, folder.join("vae/diffusion_pytorch_model.safetensors")).unwrap();
    assert!(decoded(&open()) == with_other, "the bits differ from those of a folder that holds it");
}

#[test]
fn model_without_weights_of_its_autoencoder_has_them_from_elsewhere() {
    let scratch = tempfile::tempdir().unwrap();
    let (folder, other) = (scratch.path().join("model"), with_other_vae(scratch.path()));
    std::fs::remove_file(folder.join("vae/diffusion_pytorch_model.safetensors")).unwrap();
    assert!(ModelFolder::open(&folder).is_err());
    assert!(ModelFolder::open_files(&files_with_vae(&folder, &other)).unwrap().digest().is_ok());
}

#[test]
fn autoencoder_that_is_for_other_latents_or_does_not_fit_is_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let (folder, other) = (scratch.path().join("model"), with_other_vae(scratch.path()));
    let open = || ModelFolder::open_files(&files_with_vae(&folder, &other)).map_err(Box::new);
    let beside = other.with_file_name("config.json");
    let own = std::fs::read_to_string(folder.join("vae/config.json")).unwrap();
    let describe = |key: &str, value: Value| {
        let mut config: Value = serde_json::from_str(&own).unwrap();
        config["_class_name"] = json!("AutoencoderKL");
        config[key] = value;
        std::fs::write(&beside, config.to_string()).unwrap();
    };
    describe("force_upcast", json!(false));
    open().unwrap();
    describe("scaling_factor", json!(0.13025));
    let refused = open().unwrap_err().to_string();
    assert!(refused.contains("0.13025, as those of Stable Diffusion XL") && refused.contains("Stable Diffusion 1 and 2"), "{refused}");
    describe("layers_per_block", json!(3));
    assert!(open().unwrap_err().to_string().contains("for another model"));
    // Some other part's configuration says nothing of it.
    std::fs::copy(folder.join("unet/config.json"), &beside).unwrap();
    open().unwrap();
    std::fs::remove_file(&beside).unwrap();
    let tensors = candle_core::safetensors::load(&other, &Device::Cpu).unwrap();
    let wider = |(name, tensor): (String, Tensor)| {
        let tensor = if name == "decoder.conv_in.bias" { Tensor::cat(&[&tensor, &tensor], 0).unwrap() } else { tensor };
        (name, tensor)
    };
    let channels = tensors["decoder.conv_in.bias"].elem_count();
    let wide: HashMap<String, Tensor> = tensors.into_iter().map(wider).collect();
    safetensors::serialize_to_file(wide.iter(), None, &other).unwrap();
    let refused = open().unwrap_err();
    let refused = format!("{refused}");
    let shapes = format!("decoder.conv_in.bias (configuration [{channels}], file [{}])", 2 * channels);
    assert!(refused.starts_with("vae does not fit") && refused.contains(&shapes), "{refused}");
}
