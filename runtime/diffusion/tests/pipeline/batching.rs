//! Rows of any requests share calls, and nobody notices.

use std::sync::Arc;

use diffusion::adapter::{Adapter, AdapterUse};
use diffusion::conditioning::MicroConditioning;
use diffusion::model::Model;
use diffusion::picture::{GrayImage, RgbImage};
use diffusion::pipeline::{ImageState, InjectedTensors, PipelineError, Request, Start, composed, decode, prepare, step};
use diffusion::sampler::gaussian;
use diffusion::text::{Embedding, NamedEmbedding, PromptSyntax};
use diffusion::{Device, Tensor};
use serde_json::json;

use crate::adapter_files::{AdapterTensors, every_format};
use crate::tiny_model::{TinyModel, WIDTH};

/// A weighted prompt of so many chunks.
fn chunks(count: usize) -> String {
    vec!["(a cat:1.3), [on] a hill"; count].join(" BREAK ")
}

/// Two vectors that differ with `factor`.
fn embedding(name: &str, factor: f32) -> NamedEmbedding {
    let values: Vec<f32> = (0..2 * WIDTH).map(|at| factor * (at as f32).sin()).collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    let vectors = Tensor::from_vec(values, (2, WIDTH), &Device::Cpu).unwrap();
    safetensors::serialize_to_file([("emb_params", &vectors)], None, file.path()).unwrap();
    NamedEmbedding { names: vec![name.to_owned()], embedding: Embedding::open(file.path()).unwrap() }
}

/// Requests that differ in everything that may differ within a call, and in size, which may not.
fn mixed_requests(model: &Model, adapters: &[Arc<Adapter>]) -> Vec<Request> {
    let base = Request { width: 64, height: 64, num_inference_steps: 3, ..Request::with_defaults(model, "a cat") };
    let sampler = |name: &str| Some(name.to_owned());
    let weighted = Request { prompt_syntax: PromptSyntax::Weighted, ..base.clone() };
    let with = |chosen: &[(usize, f64)]| {
        let adapter = |at: usize| Arc::clone(&adapters[at % adapters.len()]);
        chosen.iter().map(|(at, scale)| AdapterUse { adapter: adapter(*at), scale: *scale }).collect()
    };
    if model.spec().concat_channels() > 0 {
        return vec![
            Request { start: inpainting(64, 1.0), ..base.clone() },
            Request { start: inpainting(64, 0.7), sampler: sampler("EulerDiscreteScheduler"), samples: 2, seed: 1, ..base.clone() },
            Request { start: inpainting(64, 1.0), guidance_scale: 1.0, prompt: "other".into(), seed: 2, ..base.clone() },
            Request { start: inpainting(128, 0.4), sampler: sampler("EulerAncestralDiscreteScheduler"), width: 128, seed: 3, ..base },
        ];
    }
    vec![
        Request { start: inpainting(64, 1.0), eta: 0.3, seed: 7, ..base.clone() },
        Request { start: inpainting(64, 0.7), sampler: sampler("EulerAncestralDiscreteScheduler"), samples: 2, seed: 8, ..base.clone() },
        Request { start: image(64, 0.7), sampler: sampler("EulerDiscreteScheduler"), num_inference_steps: 5, seed: 9, ..base.clone() },
        Request { start: image(128, 1.0), width: 128, guidance_scale: 1.0, seed: 10, ..base.clone() },
        base.clone(),
        Request { sampler: sampler("EulerDiscreteScheduler"), num_inference_steps: 4, seed: 1, ..base.clone() },
        Request { sampler: sampler("EulerAncestralDiscreteScheduler"), guidance_scale: 3.0, seed: 2, ..base.clone() },
        Request { guidance_scale: 1.0, prompt: "no guidance at all".into(), seed: 3, ..base.clone() },
        Request { sampler: sampler("HeunDiscreteScheduler"), seed: 20, ..base.clone() },
        Request { sampler: sampler("DPMSolverMultistepScheduler"), num_inference_steps: 5, seed: 21, ..base.clone() },
        Request { sampler: sampler("UniPCMultistepScheduler"), num_inference_steps: 4, guidance_scale: 1.0, seed: 22, ..base.clone() },
        Request { sampler: sampler("PNDMScheduler"), num_inference_steps: 4, samples: 2, seed: 23, ..base.clone() },
        Request { sampler: sampler("LMSDiscreteScheduler"), num_inference_steps: 5, seed: 24, ..base.clone() },
        Request { sampler: sampler("KDPM2AncestralDiscreteScheduler"), seed: 25, ..base.clone() },
        Request { sampler: sampler("DPMSolverSinglestepScheduler"), num_inference_steps: 4, seed: 26, ..base.clone() },
        Request { sampler: sampler("DEISMultistepScheduler"), guidance_scale: 1.0, seed: 27, ..base.clone() },
        Request { sampler: sampler("DDPMScheduler"), seed: 28, ..base.clone() },
        Request { sampler: sampler("IPNDMScheduler"), num_inference_steps: 4, guidance_scale: 1.0, seed: 29, ..base.clone() },
        Request { sampler: sampler("LCMScheduler"), num_inference_steps: 2, seed: 30, ..base.clone() },
        Request { sampler: sampler("TCDScheduler"), eta: 0.5, guidance_scale: 1.0, seed: 31, ..base.clone() },
        Request { eta: 0.7, samples: 2, negative_prompt: Some("a dog".into()), clip_skip: Some(1), seed: 4, ..base.clone() },
        Request { prompt: chunks(1), negative_prompt: Some(chunks(3)), seed: 7, ..weighted.clone() },
        Request { prompt: chunks(2), seed: 8, sampler: sampler("EulerDiscreteScheduler"), ..weighted.clone() },
        Request { prompt: chunks(3), guidance_scale: 1.0, seed: 9, ..weighted.clone() },
        Request { prompt: "a (<e>:1.2)".into(), embeddings: vec![embedding("<e>", 1.0)], seed: 10, ..weighted },
        Request { prompt: "a <e>".into(), embeddings: vec![embedding("<e>", -1.0)], seed: 10, ..base.clone() },
        Request { width: 128, seed: 5, guidance_rescale: 0.5, ..base.clone() },
        Request { width: 128, seed: 6, prompt: "wide".into(), guidance_scale: 0.0, ..base.clone() },
        Request { seed: 7, adapters: with(&[(0, 1.0)]), ..base.clone() },
        Request { seed: 8, adapters: with(&[(3, 0.8), (0, -0.5)]), guidance_scale: 1.0, ..base.clone() },
        Request { seed: 9, adapters: with(&[(1, 0.7), (2, 0.3)]), num_inference_steps: 4, ..base.clone() },
        Request { seed: 10, adapters: with(&[(0, 1.0)]), samples: 2, ..base.clone() },
        Request { seed: 11, adapters: with(&[(4, 0.2)]), sampler: sampler("EulerDiscreteScheduler"), ..base },
    ]
}

fn every_adapter() -> Vec<Arc<Adapter>> {
    every_format().into_iter().map(|(_, tensors)| tensors.load().unwrap()).collect()
}

/// Colours that no two neighbours share.
fn picture(width: usize) -> RgbImage {
    RgbImage { width, height: 64, data: (0..width * 64 * 3).map(|at| (at * 89 % 251) as u8).collect() }
}

pub(crate) fn image(width: usize, strength: f64) -> Start {
    Start::Image { image: Arc::new(picture(width)), strength }
}

/// White on the left, black on the right, a ramp between.
pub(crate) fn inpainting(width: usize, strength: f64) -> Start {
    let share = |at: usize| 255 - ((at % width).saturating_sub(width / 4) * 8).min(255) as u8;
    let mask = GrayImage { width, height: 64, data: (0..width * 64).map(share).collect() };
    Start::Inpaint { image: Arc::new(picture(width)), mask: Arc::new(mask), strength }
}

fn inpainting_model() -> Arc<Model> {
    let mut tiny = TinyModel::default();
    tiny.model_index["_class_name"] = json!("StableDiffusionInpaintPipeline");
    tiny.unet["in_channels"] = json!(9);
    tiny.load()
}

fn prepare_all(model: &Arc<Model>, adapters: &[Arc<Adapter>]) -> Vec<ImageState> {
    let images =
        mixed_requests(model, adapters).into_iter().flat_map(|request| prepare(model, &request, &InjectedTensors::default()).unwrap());
    images.collect()
}

pub(crate) fn bits(tensor: &Tensor) -> Vec<u32> {
    tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

/// Bits of the latents after each evaluation, run alone.
pub(crate) fn alone(mut image: ImageState) -> Vec<Vec<u32>> {
    let mut latents = vec![bits(image.latents())];
    while !image.is_finished() {
        let report = step(&mut [&mut image]);
        assert!(report.outcomes[0].is_ok(), "{:?}", report.outcomes);
        latents.push(bits(image.latents()));
    }
    latents
}

/// Joins and leaves at random until all are done, comparing after each step.
fn run_in_random_company(model: &Arc<Model>, adapters: &[Arc<Adapter>], expected: &[Vec<Vec<u32>>], seed: u64) {
    let mut images = prepare_all(model, adapters);
    for round in 0.. {
        let company = gaussian(seed, round, 0, images.len());
        let unfinished = images.iter_mut().enumerate().filter(|(_, image)| !image.is_finished());
        let mut chosen: Vec<(usize, &mut ImageState)> = unfinished.filter(|(index, _)| company[*index] > -0.5).collect();
        if chosen.is_empty() {
            if images.iter().all(ImageState::is_finished) {
                return;
            }
            continue;
        }
        // Also the order within a call is another one each time.
        chosen.sort_by_key(|(index, _)| company[*index].to_bits());
        let keys: std::collections::HashSet<_> = chosen.iter().map(|(_, image)| image.batch_key()).collect();
        let rows: usize = chosen.iter().map(|(_, image)| image.rows()).sum();
        let indices: Vec<usize> = chosen.iter().map(|(index, _)| *index).collect();
        let mut together: Vec<&mut ImageState> = chosen.into_iter().map(|(_, image)| image).collect();
        let report = step(&mut together);
        assert_eq!((report.denoiser_calls, report.rows), (keys.len(), rows));
        for (outcome, index) in report.outcomes.iter().zip(indices) {
            assert!(outcome.is_ok(), "{outcome:?}");
            let (done, _) = images[index].progress();
            assert!(bits(images[index].latents()) == expected[index][done], "image {index} differs after {done} evaluations");
        }
    }
}

#[test]
fn row_bits_do_not_depend_on_its_batch() {
    let linear_projection = TinyModel {
        unet: json!({
            "block_out_channels": [32, 48, 144], "layers_per_block": [1, 2, 1], "norm_num_groups": 16, "attention_head_dim": 4,
            "cross_attention_dim": 24, "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"], "sample_size": 8, "use_linear_projection": true,
            "transformer_layers_per_block": [1, 2, 1],
        }),
        ..TinyModel::default()
    };
    // Ranks on both sides of where the matrix product changes its way.
    let wide = AdapterTensors::default().low_rank("lora_unet_down_blocks_1_attentions_0_proj_in", &[130, 48], &[48, 130]).low_rank(
        "lora_unet_down_blocks_2_resnets_0_time_emb_proj",
        &[4, 128],
        &[144, 4],
    );
    let every = || (TinyModel::default().load(), every_adapter());
    let wide = (linear_projection.load(), vec![wide.load().unwrap()]);
    for (model, adapters) in [every(), wide, (inpainting_model(), every_adapter())] {
        let expected: Vec<_> = prepare_all(&model, &adapters).into_iter().map(alone).collect();
        for seed in 0..4 {
            run_in_random_company(&model, &adapters, &expected, seed);
        }
    }
}

/// Requests of each family that differ in what only it heeds.
fn family_requests(model: &Model) -> Vec<Request> {
    let start = if model.spec().needs_picture() { image(64, 1.0) } else { Start::Noise };
    let base = Request { width: 64, height: 64, num_inference_steps: 3, start, ..Request::with_defaults(model, "a cat") };
    let heeds = |field: &str| model.spec().heeds().contains(&field);
    let mut requests = vec![base.clone(), Request { seed: 1, guidance_scale: 1.0, prompt: "b".into(), ..base.clone() }];
    if heeds("prompt_2") {
        let weighted = Request { prompt: chunks(3), prompt_2: Some("c".into()), prompt_syntax: PromptSyntax::Weighted, ..base.clone() };
        requests.extend([Request { negative_prompt: Some("d".into()), seed: 2, ..base.clone() }, weighted]);
    }
    if heeds("original_size") {
        let micro = MicroConditioning { original_size: Some([7, 300]), ..MicroConditioning::default() };
        requests.push(Request { micro, seed: 3, ..base.clone() });
    }
    if heeds("denoising_end") {
        requests.push(Request { denoising_end: Some(0.5), num_inference_steps: 6, seed: 4, ..base });
    }
    requests
}

#[test]
fn rows_of_several_families_share_no_call_and_no_bit() {
    let mut distilled = TinyModel::with_two_encoders();
    distilled.unet["time_cond_proj_dim"] = json!(8);
    let models = [TinyModel::default(), TinyModel::with_two_encoders(), TinyModel::refiner(), distilled].map(|tiny| tiny.load());
    let every = || models.iter().flat_map(|model| family_requests(model).into_iter().map(move |request| (model, request)));
    let prepared = |(model, request): (&Arc<Model>, Request)| prepare(model, &request, &InjectedTensors::default()).unwrap().remove(0);
    let expected: Vec<_> = every().map(prepared).map(alone).collect();
    let mut images: Vec<ImageState> = every().map(prepared).collect();
    let first = step(&mut images.iter_mut().collect::<Vec<_>>());
    assert_eq!(first.denoiser_calls, models.len());
    loop {
        for (index, image) in images.iter().enumerate() {
            assert!(bits(image.latents()) == expected[index][image.progress().0], "image {index}");
        }
        let mut unfinished: Vec<&mut ImageState> = images.iter_mut().filter(|image| !image.is_finished()).collect();
        if unfinished.is_empty() {
            break;
        }
        // Their order within a call is another one each time.
        let middle = unfinished.len() / 2;
        unfinished.rotate_left(middle);
        assert!(step(&mut unfinished).outcomes.iter().all(Result::is_ok));
    }
}

#[test]
fn two_requests_that_differ_in_all_but_size_share_one_call() {
    let model = TinyModel::default().load();
    let mut images: Vec<ImageState> = prepare_all(&model, &every_adapter()).into_iter().skip(5).take(2).collect();
    let report = step(&mut images.iter_mut().collect::<Vec<_>>());
    assert_eq!((report.denoiser_calls, report.rows), (1, 4));
}

#[test]
fn prompts_of_any_number_of_chunks_share_one_call() {
    let model = TinyModel::default().load();
    let request = |count| Request {
        width: 64,
        height: 64,
        prompt: chunks(count),
        prompt_syntax: PromptSyntax::Weighted,
        ..Request::with_defaults(&model, "")
    };
    let mut images: Vec<ImageState> =
        (1..=3).flat_map(|count| prepare(&model, &request(count), &InjectedTensors::default()).unwrap()).collect();
    let report = step(&mut images.iter_mut().collect::<Vec<_>>());
    assert_eq!((report.denoiser_calls, report.rows), (1, 6));
}

#[test]
fn failed_row_leaves_its_neighbours_alone() {
    let model = TinyModel::default().load();
    let request = Request { width: 64, height: 64, num_inference_steps: 2, ..Request::with_defaults(&model, "a") };
    let healthy = prepare(&model, &request, &InjectedTensors::default()).unwrap().remove(0);
    let expected = alone(healthy.clone());
    let latents = Tensor::full(f32::NAN, (1, 4, 8, 8), &Device::Cpu).unwrap();
    let poisoned = InjectedTensors { latents_init: Some(latents), ..InjectedTensors::default() };
    let mut poisoned = prepare(&model, &request, &poisoned).unwrap().remove(0);
    let mut healthy = healthy;
    let report = step(&mut [&mut poisoned, &mut healthy]);
    assert!(matches!(report.outcomes[0], Err(PipelineError::NotFinite { evaluation: 1, evaluations: 2 })));
    assert!(report.outcomes[1].is_ok());
    assert!(bits(healthy.latents()) == expected[1]);
    assert_eq!(poisoned.progress(), (0, 2));
}

#[test]
fn finished_inpainting_is_its_picture_wherever_the_mask_is_black() {
    for model in [TinyModel::default().load(), inpainting_model()] {
        let start = inpainting(64, 1.0);
        let request =
            Request { width: 64, height: 64, num_inference_steps: 2, start: start.clone(), ..Request::with_defaults(&model, "a") };
        let mut inpainted = prepare(&model, &request, &InjectedTensors::default()).unwrap().remove(0);
        while !inpainted.is_finished() {
            assert!(step(&mut [&mut inpainted]).outcomes[0].is_ok());
        }
        let made = composed(&inpainted, &decode(&inpainted).unwrap()).unwrap();
        let Start::Inpaint { image, mask, .. } = start else { unreachable!("it is an inpainting") };
        let pixels = made.data.as_chunks::<3>().0.iter().zip(image.data.as_chunks::<3>().0).zip(&mask.data);
        let changed = |share: u8| pixels.clone().filter(|((made, original), of)| **of == share && made != original).count();
        assert_eq!(changed(0), 0);
        assert!(changed(255) > 500, "{}", changed(255));
    }
}

#[test]
fn what_a_model_cannot_begin_with_is_refused() {
    let (model, inpaints) = (TinyModel::default().load(), inpainting_model());
    let base = Request { width: 64, height: 64, num_inference_steps: 2, ..Request::with_defaults(&model, "a") };
    let black = GrayImage { width: 64, height: 64, data: vec![0; 64 * 64] };
    let short = RgbImage { width: 64, height: 64, data: vec![0; 7] };
    for (model, start, word) in [
        (&model, image(128, 0.5), "128×64"),
        (&model, image(64, 0.0), "strength"),
        (&model, image(64, f64::NAN), "strength"),
        (&model, image(64, 0.2), "5 steps"),
        (&model, Start::Image { image: Arc::new(short), strength: 1.0 }, "7 bytes"),
        (&model, Start::Inpaint { image: Arc::new(picture(64)), mask: Arc::new(black), strength: 1.0 }, "black everywhere"),
        (&inpaints, image(64, 1.0), "inpainting"),
        (&inpaints, Start::Noise, "inpainting"),
    ] {
        let error = prepare(model, &Request { start, ..base.clone() }, &InjectedTensors::default()).unwrap_err();
        assert!(error.is_invalid_request() && error.to_string().contains(word), "{error}");
    }
}

#[test]
fn samples_of_one_request_are_those_of_their_index_and_differ() {
    let model = TinyModel::default().load();
    let request = Request { width: 64, height: 64, num_inference_steps: 2, samples: 3, ..Request::with_defaults(&model, "a") };
    let three = prepare(&model, &request, &InjectedTensors::default()).unwrap();
    let one = prepare(&model, &Request { samples: 1, ..request }, &InjectedTensors::default()).unwrap();
    assert!(bits(three[0].latents()) == bits(one[0].latents()));
    assert!(bits(three[0].latents()) != bits(three[1].latents()));
    assert!(bits(three[1].latents()) != bits(three[2].latents()));
}

#[test]
fn image_is_decoded_at_its_size_once_it_is_finished() {
    let model = TinyModel::default().load();
    let request = Request { width: 128, height: 64, num_inference_steps: 1, ..Request::with_defaults(&model, "a") };
    let mut image = prepare(&model, &request, &InjectedTensors::default()).unwrap().remove(0);
    assert!(matches!(decode(&image), Err(PipelineError::OutOfOrder { done: 0, total: 1, .. })));
    assert!(step(&mut [&mut image]).outcomes[0].is_ok());
    assert_eq!(decode(&image).unwrap().dims(), [3, 64, 128]);
    assert!(matches!(step(&mut [&mut image]).outcomes[0], Err(PipelineError::OutOfOrder { done: 1, total: 1, .. })));
}
