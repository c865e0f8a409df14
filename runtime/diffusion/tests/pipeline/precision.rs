//! Half precision on the CPU: each family draws nearly what it draws in f32, adapters of another precision act, and an autoencoder that would
//! overflow does not.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use diffusion::adapter::{AdapterFile, AdapterUse};
use diffusion::model::{Model, ModelFolder};
use diffusion::pipeline::{ImageState, InjectedTensors, PipelineError, Request, decode, prepare, step};
use diffusion::{DType, Device, Tensor};
use serde_json::json;

use crate::adapter_files::every_format;
use crate::batching::image;
use crate::flow::FlowModel;
use crate::tiny_model::TinyModel;

/// Of the largest latent, after three steps with guidance. f16 keeps 11 bits of a number, bf16 8; T5 stays f32 in f16.
const TOLERANCES: [(DType, f32); 2] = [(DType::F16, 0.02), (DType::BF16, 0.1)];
/// Of a picture from the same latents, in 0 … 1.
const PICTURE_TOLERANCE: f32 = 0.02;

/// Writes a model into a folder.
type Write<'a> = &'a dyn Fn(&Path);

fn load(folder: &Path, dtype: DType) -> Arc<Model> {
    let open = ModelFolder::open(folder).unwrap();
    Arc::new(open.load(&Device::Cpu, dtype, &mut |_| {}).unwrap())
}

fn draw(model: &Arc<Model>) -> ImageState {
    draw_with(model, Vec::new())
}

fn draw_with(model: &Arc<Model>, adapters: Vec<AdapterUse>) -> ImageState {
    let request = Request {
        width: 64,
        height: 64,
        num_inference_steps: 3,
        max_sequence_length: model.spec().is_flow().then_some(12),
        adapters,
        ..Request::with_defaults(model, "a red cat")
    };
    let request = if model.spec().needs_picture() { Request { start: image(64, 1.0), ..request } } else { request };
    let mut image = prepare(model, &request, &InjectedTensors::default()).unwrap().remove(0);
    while !image.is_finished() {
        step(&mut [&mut image]).outcomes.remove(0).unwrap();
    }
    image
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// The largest difference.
fn distance(one: &[f32], other: &[f32]) -> f32 {
    // Not `max`, which passes over NaN.
    one.iter().zip(other).map(|(one, other)| (one - other).abs()).fold(0.0, |worst, each| if each <= worst { worst } else { each })
}

fn second_version() -> TinyModel {
    let mut tiny = TinyModel::default();
    tiny.text_encoder["hidden_act"] = json!("gelu");
    tiny.scheduler["prediction_type"] = json!("v_prediction");
    tiny
}

#[test]
fn every_family_draws_nearly_the_same_in_half_precision() {
    let plain = |tiny: FlowModel| {
        tiny.change("transformer/config.json", "qk_norm", json!(null)).change("transformer/config.json", "dual_attention_layers", json!([]))
    };
    let families: [(&str, Write<'_>); 9] = [
        ("sd15", &|folder| TinyModel::default().write(folder)),
        ("sd21", &|folder| second_version().write(folder)),
        ("sdxl", &|folder| TinyModel::with_two_encoders().write(folder)),
        ("sdxl-refiner", &|folder| TinyModel::refiner().write(folder)),
        ("sd3", &|folder| plain(FlowModel::sd3()).write(folder)),
        ("sd35-medium", &|folder| FlowModel::sd3().write(folder)),
        ("sd35-large", &|folder| FlowModel::sd3().change("transformer/config.json", "dual_attention_layers", json!([])).write(folder)),
        ("flux-dev", &|folder| FlowModel::flux(true).write(folder)),
        ("flux-schnell", &|folder| FlowModel::flux(false).write(folder)),
    ];
    for (family, write) in families {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path());
        let single = draw(&load(folder.path(), DType::F32));
        assert_eq!(single.model().family(), family);
        let single = values(single.latents());
        let largest = single.iter().fold(0_f32, |largest, value| largest.max(value.abs()));
        for (dtype, tolerance) in TOLERANCES {
            let half = draw(&load(folder.path(), dtype));
            let share = distance(&values(half.latents()), &single) / largest;
            println!("{family} in {dtype:?}: {share:.4} of the largest latent");
            assert!(share > 0.0 && share <= tolerance, "{family} in {dtype:?}: {share} of the largest latent");
        }
    }
}

#[test]
fn adapters_act_on_models_of_another_precision() {
    let folder = tempfile::tempdir().unwrap();
    TinyModel::default().write(folder.path());
    let file = folder.path().join("adapter.safetensors");
    for (name, tensors) in every_format() {
        tensors.write(&file);
        let latents = |of_adapter, of_model| {
            let adapter = Arc::new(AdapterFile::open(&file).unwrap().load(&Device::Cpu, of_adapter, None).unwrap());
            let adapters = vec![AdapterUse { adapter, scale: 1.0 }];
            values(draw_with(&load(folder.path(), of_model), adapters).latents())
        };
        let expected = latents(DType::F32, DType::F32);
        let largest = expected.iter().fold(0_f32, |largest, value| largest.max(value.abs()));
        for (of_model, tolerance) in TOLERANCES.into_iter().chain([(DType::F32, 0.02)]) {
            let share = distance(&latents(DType::F16, of_model), &expected) / largest;
            assert!(share <= tolerance, "{name} in f16 on {of_model:?}: {share} of the largest latent");
        }
    }
}

/// As that of Stable Diffusion XL: numbers within the autoencoder are larger than half precision holds.
fn with_large_numbers(folder: &Path) {
    let path = folder.join("vae/diffusion_pytorch_model.safetensors");
    let mut tensors: HashMap<String, Tensor> = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    for name in ["decoder.conv_in.weight", "decoder.conv_in.bias"] {
        let larger = (tensors[name].clone() * 3e4).unwrap();
        tensors.insert(name.to_owned(), larger);
    }
    safetensors::serialize_to_file(tensors.iter(), None, &path).unwrap();
}

#[test]
fn autoencoder_that_overflows_in_half_precision_does_not_make_the_picture_black() {
    let write = |upcast: bool| {
        let folder = tempfile::tempdir().unwrap();
        let mut tiny = TinyModel::with_two_encoders();
        tiny.vae["force_upcast"] = json!(upcast);
        tiny.write(folder.path());
        with_large_numbers(folder.path());
        folder
    };
    let folder = write(true);
    let half = draw(&load(folder.path(), DType::F16));
    let picture = values(&decode(&half).unwrap());
    // The same latents, through the autoencoder in f32.
    let single = load(folder.path(), DType::F32);
    let pixels = single.vae().decode(&half.latents().unsqueeze(0).unwrap(), single.vae_exec()).unwrap();
    let expected = values(&((pixels * 0.5).unwrap() + 0.5).unwrap().clamp(0_f32, 1_f32).unwrap());
    assert!(distance(&picture, &expected) <= PICTURE_TOLERANCE, "{}", distance(&picture, &expected));
    let mean = picture.iter().sum::<f32>() / picture.len() as f32;
    assert!(picture.iter().any(|value| (value - mean).abs() > 0.1), "the picture is of one colour");

    // One that says wrongly that it was mended is told, and no black picture handed out.
    let folder = write(false);
    let error = decode(&draw(&load(folder.path(), DType::F16))).unwrap_err();
    assert!(matches!(error, PipelineError::NotFinitePicture), "{error}");
    assert!(error.to_string().contains("component vae"));
}
