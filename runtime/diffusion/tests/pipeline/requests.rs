//! Which requests are refused, and that what they ask for matters.

use std::sync::Arc;

use diffusion::model::Model;
use diffusion::pipeline::{InjectedTensors, Request, prepare, step};
use diffusion::{DType, Device, Tensor};
use serde_json::json;

use crate::tiny_model::TinyModel;

fn request(model: &Model) -> Request {
    Request { width: 64, height: 64, num_inference_steps: 2, ..Request::with_defaults(model, "a cat") }
}

fn final_latents(model: &Arc<Model>, request: &Request) -> Vec<f32> {
    let mut image = prepare(model, request, &InjectedTensors::default()).unwrap().remove(0);
    while !image.is_finished() {
        assert!(step(&mut [&mut image]).outcomes[0].is_ok());
    }
    image.latents().flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn impossible_requests_are_the_requests_fault_and_say_what_would_do() {
    let model = TinyModel::default().load();
    let good = request(&model);
    let mut options = serde_json::Map::new();
    options.insert("timestep_spacing".into(), json!("sideways"));
    for (bad, word) in [
        (Request { width: 60, ..good.clone() }, "width"),
        (Request { height: 0, ..good.clone() }, "height"),
        (Request { width: 1 << 40, ..good.clone() }, "width"),
        (Request { samples: 0, ..good.clone() }, "samples"),
        (Request { samples: usize::MAX, ..good.clone() }, "samples"),
        (Request { num_inference_steps: 0, ..good.clone() }, "steps"),
        (Request { num_inference_steps: usize::MAX, ..good.clone() }, "steps"),
        (Request { guidance_scale: f64::NAN, ..good.clone() }, "guidance_scale"),
        (Request { guidance_rescale: 2.0, ..good.clone() }, "guidance_rescale"),
        (Request { eta: -1.0, ..good.clone() }, "eta"),
        (Request { clip_skip: Some(4), ..good.clone() }, "clip_skip"),
        (Request { sampler: Some("Magic".into()), ..good.clone() }, "Magic"),
        (Request { sampler_options: options, ..good.clone() }, "timestep_spacing"),
        (Request { prompt: "a".repeat(10_000_000), ..good.clone() }, "prompt"),
    ] {
        let error = prepare(&model, &bad, &InjectedTensors::default()).unwrap_err();
        assert!(error.is_invalid_request(), "{error}");
        assert!(error.to_string().contains(word), "{error}");
    }
    let injected = InjectedTensors {
        latents_init: Some(Tensor::zeros((1, 4, 8, 9), DType::F32, &Device::Cpu).unwrap()),
        ..InjectedTensors::default()
    };
    assert!(prepare(&model, &good, &injected).unwrap_err().is_invalid_request());
}

#[test]
fn what_is_asked_for_matters() {
    let model = TinyModel::default().load();
    let base = request(&model);
    let latents = final_latents(&model, &base);
    assert_eq!(final_latents(&model, &base), latents);
    for other in [
        Request { prompt: "a dog".into(), ..base.clone() },
        Request { negative_prompt: Some("blurry".into()), ..base.clone() },
        Request { guidance_scale: 2.0, ..base.clone() },
        Request { guidance_rescale: 0.7, ..base.clone() },
        Request { clip_skip: Some(1), ..base.clone() },
        Request { sampler: Some("EulerDiscreteScheduler".into()), ..base.clone() },
        Request { eta: 1.0, ..base.clone() },
        Request { seed: 9, ..base.clone() },
    ] {
        assert_ne!(final_latents(&model, &other), latents, "{other:?}");
    }
    // Absent and empty are the same text, and skipping no layer is not skipping.
    assert_eq!(final_latents(&model, &Request { negative_prompt: Some(String::new()), ..base.clone() }), latents);
    assert_eq!(final_latents(&model, &Request { clip_skip: Some(0), ..base }), latents);
}

#[test]
fn folder_with_an_unserved_sampler_draws_when_the_request_names_a_served_one() {
    let mut folder = TinyModel::default();
    folder.model_index["scheduler"][1] = json!("PNDMScheduler");
    let model = folder.load();
    let own = prepare(&model, &request(&model), &InjectedTensors::default()).unwrap_err();
    assert!(own.is_invalid_request() && own.to_string().contains("PNDMScheduler"), "{own}");
    let named = Request { sampler: Some("DDIMScheduler".into()), ..request(&model) };
    assert_eq!(final_latents(&model, &named), final_latents(&TinyModel::default().load(), &named));
}

#[test]
fn sampler_of_a_folder_is_the_one_its_model_index_names() {
    let mut folder = TinyModel::default();
    folder.model_index["scheduler"] = json!(["diffusers", "EulerDiscreteScheduler"]);
    assert_eq!(folder.load().default_sampler(), "EulerDiscreteScheduler");
    folder.model_index["scheduler"] = json!([null, null]);
    assert_eq!(folder.load().default_sampler(), "DDIMScheduler");
}
