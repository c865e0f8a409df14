//! Models with another autoencoder than their own.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

use diffusion::weights::{WeightSource, open_file, sha256_of_file};
use diffusion::{DType, Device, Tensor};
use runtime::engine::Diffusion;
use runtime::picture::decode_png;
use runtime::worker::Limits;
use runtime_api::{Dispatch, FailureReason, VaeSource};

use crate::house::House;
use crate::puppet::Gate;
use crate::tiny_model;

async fn house() -> House {
    let house = House::with_engine(Diffusion::new(Device::Cpu, DType::F32), Gate::closed(), Limits::default()).await;
    tiny_model::write(&house.models.path().join("demo"));
    let own = open_file(&house.models.path().join("demo/vae/diffusion_pytorch_model.safetensors")).unwrap();
    let read = |name: &str, shape: &[usize]| own.tensor(name, shape, DType::F32, &Device::Cpu).unwrap();
    let own: HashMap<String, Tensor> = own.index().iter().map(|(name, info)| (name.to_owned(), read(name, &info.shape))).collect();
    for (name, factor) in [("sharp", 1.5), ("soft", 0.75)] {
        let changed: HashMap<&String, Tensor> = own.iter().map(|(name, tensor)| (name, (tensor * factor).unwrap())).collect();
        safetensors::serialize_to_file(changed.iter(), None, &house.models.path().join(format!("{name}.safetensors"))).unwrap();
    }
    house
}

fn dispatch(house: &House, name: &str, vae: Option<&str>) -> Dispatch {
    let mut dispatch = house.dispatch(name);
    dispatch.request.width = Some(32);
    dispatch.request.height = Some(16);
    dispatch.request.num_inference_steps = Some(3);
    dispatch.model.vae = vae.map(|vae| {
        let uri = format!("file://{}/{vae}.safetensors", house.models.path().display());
        VaeSource { id: vae.to_owned(), uri, sha256: None }
    });
    dispatch
}

/// What the command line draws of the same request.
fn drawn(models: &Path, vae: Option<&str>) -> runtime::picture::Pixels {
    let component = vae.map(|vae| format!("vae={vae}.safetensors"));
    let mut generate = Command::new(env!("CARGO_BIN_EXE_emulsion-runtime"));
    generate.env_clear().current_dir(models).args(["generate", "--model", "demo", "--prompt", "a red circle", "--seed", "7"]);
    generate.args(["--width", "32", "--height", "16", "--steps", "3", "--output", "drawn.png"]);
    generate.args(component.iter().flat_map(|component| ["--component", component]));
    let output = generate.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    decode_png(&std::fs::read(models.join("drawn.png")).unwrap()).unwrap().0
}

#[tokio::test]
async fn one_checkpoint_with_several_autoencoders_draws_with_each_of_them_at_once() {
    let house = house().await;
    let asked = [("own", None), ("one", Some("sharp")), ("two", Some("soft"))];
    let mut streams = Vec::new();
    for (name, vae) in asked {
        streams.push(house.send(&dispatch(&house, name, vae)).await);
    }
    for stream in streams {
        stream.done().await;
    }
    for (name, vae) in asked {
        assert_eq!(house.storage.pixels(name), drawn(house.models.path(), vae), "{name}");
    }
    assert_ne!(house.storage.pixels("one"), house.storage.pixels("two"));
    assert_ne!(house.storage.pixels("one"), house.storage.pixels("own"));
    let digests: std::collections::BTreeSet<String> = house.state().await.resident.into_iter().map(|model| model.digest).collect();
    assert_eq!(digests.len(), 3, "{digests:?}");
}

#[tokio::test]
async fn declared_digest_is_that_of_the_checkpoints_own_files_or_of_the_autoencoders() {
    let house = house().await;
    house.send(&dispatch(&house, "plain", None)).await.done().await;
    let digest = house.state().await.resident[0].digest.clone();
    let mut pinned = dispatch(&house, "pinned", Some("sharp"));
    pinned.model.sha256 = Some(digest);
    let sharp = house.models.path().join("sharp.safetensors");
    let vae = pinned.model.vae.as_mut().unwrap();
    vae.sha256 = Some(sha256_of_file(&sharp).unwrap());
    house.send(&pinned).await.done().await;
    let mut other = dispatch(&house, "other", Some("soft"));
    other.model.vae.as_mut().unwrap().sha256 = Some("0".repeat(64));
    let (reason, message) = house.send(&other).await.failure().await;
    assert_eq!(reason, FailureReason::InvalidModel);
    assert!(message.contains("the vae's sha256 is") && message.contains("000000"), "{message}");
}

#[tokio::test]
async fn file_that_is_no_autoencoder_of_the_model_is_refused_by_what_does_not_fit() {
    let house = house().await;
    let unet = house.models.path().join("demo/unet/diffusion_pytorch_model.safetensors");
    std::fs::copy(unet, house.models.path().join("unet.safetensors")).unwrap();
    let (reason, message) = house.send(&dispatch(&house, "x", Some("unet"))).await.failure().await;
    assert_eq!(reason, FailureReason::InvalidModel);
    assert!(message.starts_with("vae does not fit"), "{message}");
}
