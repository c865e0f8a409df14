//! Adapters that requests name and adapters that are merged into a model, with the real engine.

use std::collections::HashMap;
use std::path::Path;

use diffusion::{DType, Device, Tensor};
use runtime::engine::Diffusion;
use runtime::worker::Limits;
use runtime_api::{AdapterSource, AdapterUse, Dispatch, FailureReason, ModelSource};

use crate::house::House;
use crate::puppet::Gate;
use crate::tiny_model;

/// Any layer of the tiny model will do; this one is there whatever its sizes.
const MODULE: &str = "lora_unet_conv_out";

async fn house(limits: Limits) -> House {
    let gate = Gate::closed();
    gate.open();
    let house = House::with_engine(Diffusion::new(Device::Cpu, DType::F32), gate, limits).await;
    tiny_model::write(&house.models.path().join("demo"));
    house
}

/// A LoRA of rank 1 on the last convolution, all of one value.
fn write_adapter(house: &House, name: &str, module: &str, value: f32) {
    let weights = house.models.path().join("demo/unet/diffusion_pytorch_model.safetensors");
    let weight = candle_core_load(&weights, "conv_out.weight");
    let [outputs, channels, ..] = weight.dims() else { panic!("a convolution") };
    let filled = |shape: &[usize]| Tensor::full(value, shape, &Device::Cpu).unwrap();
    let tensors = HashMap::from([
        (format!("{module}.lora_down.weight"), filled(&[1, *channels, 3, 3])),
        (format!("{module}.lora_up.weight"), filled(&[*outputs, 1, 1, 1])),
    ]);
    safetensors::serialize_to_file(tensors.iter(), None, &house.models.path().join(name)).unwrap();
}

fn candle_core_load(path: &Path, name: &str) -> Tensor {
    use diffusion::weights::WeightSource;
    let file = diffusion::weights::open_file(path).unwrap();
    let shape = file.index().get(name).unwrap().shape.clone();
    file.tensor(name, &shape, DType::F32, &Device::Cpu).unwrap()
}

fn source(house: &House, name: &str) -> ModelSource {
    let uri = format!("file://{}", house.models.path().join(name).display());
    ModelSource { id: name.to_owned(), uri, config: None, sha256: None, vae: None, adapters: Vec::new() }
}

fn plain(house: &House, name: &str) -> Dispatch {
    let mut dispatch = house.dispatch(name);
    (dispatch.request.width, dispatch.request.height) = (Some(32), Some(16));
    dispatch.request.num_inference_steps = Some(2);
    dispatch
}

/// A request for `name` with adapters and their strengths.
fn adapted(house: &House, name: &str, adapters: &[(&str, f64)]) -> Dispatch {
    let mut dispatch = plain(house, name);
    dispatch.adapters = adapters.iter().map(|(adapter, _)| source(house, adapter)).collect();
    let asked = adapters.iter().map(|(adapter, scale)| AdapterUse { model: (*adapter).to_owned(), scale: *scale });
    dispatch.request.adapters = asked.collect();
    dispatch
}

#[tokio::test]
async fn adapters_of_a_request_change_its_picture_and_no_other() {
    let house = house(Limits::default()).await;
    write_adapter(&house, "one.safetensors", MODULE, 0.3);
    write_adapter(&house, "two.safetensors", MODULE, -0.2);
    house.send(&plain(&house, "before")).await.done().await;
    house.send(&adapted(&house, "one", &[("one.safetensors", 1.0)])).await.done().await;
    house.send(&adapted(&house, "both", &[("one.safetensors", 1.0), ("two.safetensors", 0.5)])).await.done().await;
    house.send(&adapted(&house, "none", &[("one.safetensors", 0.0)])).await.done().await;
    house.send(&plain(&house, "after")).await.done().await;
    let pixels = |name: &str| house.storage.pixels(name);
    assert_eq!(pixels("before"), pixels("after"));
    assert_eq!(pixels("before"), pixels("none"));
    assert_ne!(pixels("before"), pixels("one"));
    assert_ne!(pixels("both"), pixels("one"));
}

#[tokio::test]
async fn adapter_is_read_once_and_the_least_recently_used_goes() {
    // Each takes a few hundred bytes; there is room for one.
    let probe = house(Limits::default()).await;
    write_adapter(&probe, "a.safetensors", MODULE, 0.3);
    let bytes = diffusion::adapter::AdapterFile::open(&probe.models.path().join("a.safetensors")).unwrap().footprint(DType::F32);
    let house = house(Limits { adapter_bytes: bytes + bytes / 2, ..Limits::default() }).await;
    for name in ["a.safetensors", "b.safetensors"] {
        write_adapter(&house, name, MODULE, 0.3);
    }
    house.send(&adapted(&house, "first", &[("a.safetensors", 1.0)])).await.done().await;
    // Read already: its file is not looked at again.
    std::fs::write(house.models.path().join("a.safetensors"), b"no adapter any more").unwrap();
    house.send(&adapted(&house, "again", &[("a.safetensors", 1.0)])).await.done().await;
    assert_eq!(house.storage.pixels("first"), house.storage.pixels("again"));
    house.send(&adapted(&house, "other", &[("b.safetensors", 1.0)])).await.done().await;
    let (status, failure) = house.refusal(&adapted(&house, "gone", &[("a.safetensors", 1.0)])).await;
    assert_eq!((status, failure.reason), (400, FailureReason::InvalidRequest), "{failure:?}");
    assert!(failure.message.contains("a.safetensors"), "{failure:?}");
}

#[tokio::test]
async fn adapters_that_cannot_act_are_refused_and_the_next_request_works() {
    let limited = house(Limits { adapter_bytes: 10, ..Limits::default() }).await;
    write_adapter(&limited, "large.safetensors", MODULE, 0.3);
    let (_, failure) = limited.refusal(&adapted(&limited, "x", &[("large.safetensors", 1.0)])).await;
    assert!(failure.message.contains("10"), "{failure:?}");

    let house = house(Limits::default()).await;
    write_adapter(&house, "good.safetensors", MODULE, 0.3);
    write_adapter(&house, "foreign.safetensors", "lora_unet_double_blocks_0_img_attn_qkv", 0.3);
    write_adapter(&house, "broken.safetensors", MODULE, f32::NAN);
    let mut unnamed = adapted(&house, "x", &[("good.safetensors", 1.0)]);
    unnamed.adapters.clear();
    let mut outside = adapted(&house, "x", &[("good.safetensors", 1.0)]);
    outside.adapters[0].uri = "file:///etc/hostname".to_owned();
    let mut other = adapted(&house, "x", &[("good.safetensors", 1.0)]);
    other.adapters[0].sha256 = Some("0".repeat(64));
    let strong = adapted(&house, "x", &[("good.safetensors", 11.0)]);
    let broken = adapted(&house, "x", &[("broken.safetensors", 1.0)]);
    for (dispatch, word) in [(unnamed, "good.safetensors"), (outside, "outside"), (other, "sha256"), (strong, "scale"), (broken, "finite")]
    {
        let (status, failure) = house.refusal(&dispatch).await;
        assert_eq!((status, failure.reason), (400, FailureReason::InvalidRequest), "{failure:?}");
        assert!(failure.message.contains(word), "{failure:?}");
    }
    // Known only once the model is there.
    let foreign = house.send(&adapted(&house, "x", &[("foreign.safetensors", 1.0)])).await.failure().await;
    assert_eq!(foreign.0, FailureReason::InvalidRequest);
    assert!(foreign.1.contains("made for flux") && foreign.1.contains("sd15"), "{foreign:?}");
    house.send(&adapted(&house, "good", &[("good.safetensors", 1.0)])).await.done().await;
}

#[tokio::test]
async fn model_with_adapters_merged_is_a_model_of_its_own() {
    let house = house(Limits::default()).await;
    write_adapter(&house, "one.safetensors", MODULE, 0.3);
    write_adapter(&house, "foreign.safetensors", "lora_unet_double_blocks_0_img_attn_qkv", 0.3);
    let merged = |name: &str, adapter: &str, scale: f64| {
        let mut dispatch = plain(&house, name);
        let file = source(&house, adapter);
        dispatch.model.adapters = vec![AdapterSource { id: file.id, uri: file.uri, sha256: None, scale }];
        dispatch
    };
    house.send(&plain(&house, "plain")).await.done().await;
    house.send(&merged("merged", "one.safetensors", 1.0)).await.done().await;
    house.send(&adapted(&house, "asked", &[("one.safetensors", 1.0)])).await.done().await;
    let resident = house.state().await.resident;
    assert_eq!(resident.len(), 2, "{resident:?}");
    assert_ne!(resident[0].digest, resident[1].digest);
    assert_ne!(house.storage.pixels("plain"), house.storage.pixels("merged"));
    let (merged_pixels, asked) = (house.storage.pixels("merged"), house.storage.pixels("asked"));
    let furthest = merged_pixels.rgb.iter().zip(&asked.rgb).map(|(one, other)| one.abs_diff(*other)).max();
    assert!(furthest <= Some(1), "merging and asking differ by {furthest:?}");
    let refused = house.send(&merged("x", "foreign.safetensors", 1.0)).await.failure().await;
    assert_eq!(refused.0, FailureReason::InvalidModel);
    assert!(refused.1.contains("made for flux"), "{refused:?}");
}

#[tokio::test]
async fn image_that_overflows_fails_with_its_step_and_the_others_of_its_call_go_on() {
    let house = crate::images::house().await;
    // Each weight is finite; what they make together is not.
    write_adapter(&house, "overflowing.safetensors", MODULE, 1e30);
    let healthy = house.send(&plain(&house, "healthy")).await;
    let overflowing = house.send(&adapted(&house, "overflowing", &[("overflowing.safetensors", 1.0)])).await;
    house.gate.open();
    let (reason, message) = overflowing.failure().await;
    assert_eq!(reason, FailureReason::InvalidRequest);
    assert!(message.contains("evaluation 1 of 2"), "{message}");
    healthy.done().await;
    assert!(house.storage.picture("overflowing").is_none());
    house.send(&plain(&house, "alone")).await.done().await;
    assert_eq!(house.storage.pixels("healthy"), house.storage.pixels("alone"));
}
