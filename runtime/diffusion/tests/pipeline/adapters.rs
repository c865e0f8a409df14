//! What adapters do to an image, and which files are refused.

use std::sync::Arc;

use diffusion::adapter::{Adapter, AdapterError, AdapterUse, MAX_ADAPTERS};
use diffusion::model::{Model, ModelFolder};
use diffusion::pipeline::{InjectedTensors, Request, prepare, step};
use diffusion::{DType, Device, Tensor};

use crate::adapter_files::{AdapterTensors, QUERY, TEXT, every_format, full, low_rank};
use crate::tiny_model::TinyModel;

fn use_of(adapter: &Arc<Adapter>, scale: f64) -> AdapterUse {
    AdapterUse { adapter: Arc::clone(adapter), scale }
}

fn request(model: &Model, adapters: Vec<AdapterUse>) -> Request {
    Request { width: 64, height: 64, num_inference_steps: 2, adapters, ..Request::with_defaults(model, "a cat") }
}

fn latents(model: &Arc<Model>, adapters: Vec<AdapterUse>) -> Vec<f32> {
    let mut image = prepare(model, &request(model, adapters), &InjectedTensors::default()).unwrap().remove(0);
    while !image.is_finished() {
        assert!(step(&mut [&mut image]).outcomes[0].is_ok());
    }
    image.latents().flatten_all().unwrap().to_vec1().unwrap()
}

fn largest_difference(one: &[f32], other: &[f32]) -> f32 {
    one.iter().zip(other).map(|(one, other)| (one - other).abs()).fold(0.0, f32::max)
}

fn merged(folder: &std::path::Path, adapters: &[AdapterUse]) -> Arc<Model> {
    let open = ModelFolder::open(folder).unwrap().merge(adapters).unwrap();
    Arc::new(open.load(&Device::Cpu, DType::F32, &mut |_| {}).unwrap())
}

#[test]
fn what_is_asked_for_and_what_is_merged_draw_the_same_within_rounding() {
    let folder = tempfile::tempdir().unwrap();
    TinyModel::default().write(folder.path());
    let plain = merged(folder.path(), &[]);
    let base = latents(&plain, vec![]);
    let size = base.iter().fold(0.0_f32, |size, value| size.max(value.abs()));
    let adapters: Vec<_> = every_format().into_iter().map(|(name, tensors)| (name, tensors.load().unwrap())).collect();
    let alone = adapters.iter().flat_map(|(name, adapter)| [0.6, -1.0].map(|scale| (*name, vec![use_of(adapter, scale)])));
    let together = ("all at once", adapters.iter().map(|(_, adapter)| use_of(adapter, 0.3)).collect());
    for (name, asked) in alone.chain([together]) {
        let (side, merged) = (latents(&plain, asked.clone()), latents(&merged(folder.path(), &asked), vec![]));
        assert!(largest_difference(&side, &base) > 0.01 * size, "{name} changes nothing");
        assert!(largest_difference(&side, &merged) < 1e-4 * size, "{name}: {}", largest_difference(&side, &merged) / size);
    }
}

#[test]
fn strength_decides_and_zero_is_none() {
    let model = TinyModel::default().load();
    let base = latents(&model, vec![]);
    for (name, tensors) in every_format() {
        let adapter = tensors.load().unwrap();
        assert_eq!(latents(&model, vec![use_of(&adapter, 0.0)]), base, "{name}");
        let (half, whole) = (latents(&model, vec![use_of(&adapter, 0.5)]), latents(&model, vec![use_of(&adapter, 1.0)]));
        assert_ne!(half, base, "{name}");
        assert_ne!(half, whole, "{name}");
        // A binding that is found again draws the same.
        assert_eq!(latents(&model, vec![use_of(&adapter, 0.5)]), half, "{name}");
    }
}

#[test]
fn text_encoder_part_alone_changes_the_image() {
    let model = TinyModel::default().load();
    let text = AdapterTensors::default().low_rank(&format!("lora_te_{TEXT}"), &[4, 24], &[48, 4]);
    assert_ne!(latents(&model, vec![use_of(&text.load().unwrap(), 1.0)]), latents(&model, vec![]));
}

#[test]
fn merged_adapters_are_part_of_the_digest_and_the_folder_keeps_its_own() {
    let folder = tempfile::tempdir().unwrap();
    TinyModel::default().write(folder.path());
    let (one, two) = (low_rank().load().unwrap(), full().load().unwrap());
    let digest = |adapters: &[AdapterUse]| {
        let open = ModelFolder::open(folder.path()).unwrap().merge(adapters).unwrap();
        assert_eq!(open.files_digest().unwrap(), ModelFolder::open(folder.path()).unwrap().digest().unwrap());
        open.digest().unwrap()
    };
    let digests = [
        digest(&[]),
        digest(&[use_of(&one, 1.0)]),
        digest(&[use_of(&one, 0.5)]),
        digest(&[use_of(&two, 1.0)]),
        digest(&[use_of(&one, 1.0), use_of(&two, 1.0)]),
    ];
    for (at, digest) in digests.iter().enumerate() {
        assert_eq!(digest.len(), 64);
        assert!(!digests[..at].contains(digest), "{digests:?}");
    }
    assert_eq!(digest(&[use_of(&one, 0.0)]), digests[0]);
}

#[test]
fn adapter_acts_as_a_whole_or_not_at_all() {
    let model = TinyModel::default().load();
    let refused = |tensors: AdapterTensors| {
        let asked = vec![use_of(&low_rank().load().unwrap(), 1.0), use_of(&tensors.load().unwrap(), 1.0)];
        let error = prepare(&model, &request(&model, asked), &InjectedTensors::default()).unwrap_err();
        assert!(error.is_invalid_request(), "{error}");
        let message = error.to_string();
        assert!(message.starts_with("adapter 2: "), "{message}");
        message
    };
    let message = refused(low_rank().low_rank("lora_unet_no_such_layer", &[4, 16], &[16, 4]));
    assert!(message.contains("`lora_unet_no_such_layer`") && message.contains("sd15"), "{message}");
    let key = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k";
    let message = refused(AdapterTensors::default().low_rank(key, &[4, 2048], &[16, 4]));
    assert!(message.contains("made for sdxl") && message.contains("this model is sd15"), "{message}");
    let message = refused(AdapterTensors::default().low_rank("transformer.single_transformer_blocks.0.attn.to_q", &[4, 64], &[64, 4]));
    assert!(message.contains("made for flux") && message.contains("sd15"), "{message}");
    let message = refused(AdapterTensors::default().low_rank(key, &[4, 25], &[16, 4]));
    assert!(message.contains(key) && message.contains("[16, 24]") && message.contains("[4, 25]"), "{message}");
    let twice = low_rank().low_rank("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", &[4, 16], &[16, 4]);
    assert!(refused(twice).contains("both the layer"));
    let norms = AdapterTensors::default().low_rank("lora_te_text_model_embeddings_token_embedding", &[4, 24], &[54, 4]);
    assert!(refused(norms).contains("token_embedding"));
}

#[test]
fn number_and_strength_of_adapters_are_bounded() {
    let model = TinyModel::default().load();
    let adapter = low_rank().load().unwrap();
    let refused = |adapters| {
        let error = prepare(&model, &request(&model, adapters), &InjectedTensors::default()).unwrap_err();
        assert!(error.is_invalid_request(), "{error}");
        error.to_string()
    };
    assert!(refused(vec![use_of(&adapter, 0.1); MAX_ADAPTERS + 1]).contains("too many"));
    for scale in [10.1, -10.1, f64::NAN, f64::INFINITY] {
        assert!(refused(vec![use_of(&adapter, scale)]).contains("scale"), "{scale}");
    }
}

/// What a changed file is refused with.
fn refusal(change: impl FnOnce(AdapterTensors) -> AdapterTensors) -> String {
    change(low_rank()).load().unwrap_err().to_string()
}

#[test]
fn damaged_and_foreign_files_are_refused_by_name() {
    let query = |part: &str| format!("lora_unet_{QUERY}.{part}");
    let tensor = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let nan = Tensor::full(f32::NAN, (16, 4), &Device::Cpu).unwrap();
    for (message, words) in [
        (refusal(|file| file.with(&query("lora_up.weight"), nan)), ["lora_up.weight", "not finite"]),
        (refusal(|file| file.number(&query("alpha"), f32::INFINITY)), ["alpha", "not finite"]),
        (refusal(|file| file.with(&query("alpha"), tensor(&[2]))), ["alpha", "one number"]),
        (refusal(|file| file.with(&query("lora_up.weight"), tensor(&[16, 5]))), [QUERY, "[16, 5]"]),
        (refusal(|file| file.with(&query("lora_up.weight"), tensor(&[16, 4]).to_dtype(DType::F64).unwrap())), ["lora_up.weight", "F64"]),
        (refusal(|file| file.with(&query("lora_up.weight"), tensor(&[16, 4]).to_dtype(DType::I64).unwrap())), ["lora_up.weight", "I64"]),
        (refusal(|file| file.with("unet.conv_in.weight", tensor(&[2]))), ["unet.conv_in.weight", "no adapter format"]),
        (refusal(|file| file.with("lora_unet_x.oft_blocks", tensor(&[2]))), ["oft_blocks", "OFT"]),
        (refusal(|file| file.with("x.lora_down.weight", tensor(&[2, 2]))), ["`x`", "lora_up.weight is missing"]),
        (refusal(|file| file.with(&query("lokr_w1"), tensor(&[2, 2]))), [QUERY, "exactly one format"]),
        (refusal(|_| AdapterTensors::default().low_rank("x", &[2049, 2], &[2, 2049])), ["`x`", "2049"]),
        (refusal(|_| AdapterTensors::default().with("emb_params", tensor(&[2, 24]))), ["emb_params", "textual inversion"]),
        (refusal(|_| AdapterTensors::default()), ["holds", "no tensors"]),
    ] {
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
    }
}

#[test]
fn difference_that_would_fill_the_memory_is_refused_from_the_header() {
    let side = 1 << 14;
    let mut tensors = AdapterTensors::default();
    for (name, shape) in [("hada_w1_a", [side, 1]), ("hada_w1_b", [1, side]), ("hada_w2_a", [side, 1]), ("hada_w2_b", [1, side])] {
        tensors = tensors.with(&format!("x.{name}"), Tensor::zeros(&shape, DType::F32, &Device::Cpu).unwrap());
    }
    assert!(matches!(tensors.open(), Err(AdapterError::PatchTooLarge { elements, .. }) if elements == (side * side) as u64));
}

#[test]
fn pickles_and_another_digest_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("adapter.safetensors");
    std::fs::write(&path, b"\x80\x02}q\x00.pickle of some length, so that there is something to read").unwrap();
    let message = diffusion::adapter::AdapterFile::open(&path).unwrap_err().to_string();
    assert!(message.contains("pickle"), "{message}");
    low_rank().write(&path);
    let file = diffusion::adapter::AdapterFile::open(&path).unwrap();
    let declared = "0".repeat(64);
    assert!(matches!(file.load(&Device::Cpu, DType::F32, Some(&declared)), Err(AdapterError::Digest { .. })));
    let digest = file.digest().unwrap();
    assert_eq!(file.load(&Device::Cpu, DType::F32, Some(&digest)).unwrap().digest(), digest);
}
