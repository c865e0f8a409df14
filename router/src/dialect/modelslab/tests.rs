//! Bodies as real clients send them, and answers as they read them.

use std::time::Duration;

use runtime_api::{Failure, FailureReason, ImageRequest, PromptSyntax, SafetyStyle, Task, Timings, WeightsTier};
use serde_json::{Value, json};
use uuid::Uuid;

use super::*;
use crate::dialect::{Fields, fields};
use crate::generation::{Generation, Mask, Mode, StartReport, State};
use crate::refusal::Refusal;

fn call(body: &Value) -> Fields {
    fields::read(None, body.to_string().as_bytes()).unwrap()
}

fn parse(body: &Value) -> Result<Parsed, Refusal> {
    parse_as(Task::TextToImage, body)
}

fn parse_as(task: Task, body: &Value) -> Result<Parsed, Refusal> {
    super::parse(call(body).into(), task, V7)
}

#[test]
fn body_of_the_quick_start_is_translated() {
    let parsed = parse(&json!({
        "key": "k", "model_id": "demo", "prompt": "a red circle on a blue background", "negative_prompt": "blurry", "width": 64,
        "height": 64, "samples": 1, "num_inference_steps": 20, "guidance_scale": 5
    }))
    .unwrap();
    let expected = ImageRequest {
        negative_prompt: Some("blurry".to_owned()),
        width: Some(64),
        height: Some(64),
        num_inference_steps: Some(20),
        guidance_scale: Some(5.0),
        prompt_syntax: PromptSyntax::Weighted,
        ..ImageRequest::text_to_image("demo", "a red circle on a blue background")
    };
    assert_eq!(parsed.submission.request, expected);
    assert_eq!((parsed.submission.mode, parsed.submission.dialect, parsed.base64), (Mode::Attached, "modelslab/v7", false));
}

/// The vendor's own example of a community call, as third-party clients copy it: everything is a text.
#[test]
fn body_of_texts_and_unset_fields_is_translated() {
    let parsed = parse(&json!({
        "key": "k", "model_id": "rev-animated-v1", "prompt": "ultra realistic portrait", "negative_prompt": null, "width": "512",
        "height": "768", "samples": "2", "num_inference_steps": "31", "safety_checker": "no", "enhance_prompt": "yes", "seed": "",
        "guidance_scale": "7.5", "multi_lingual": "no", "panorama": "no", "self_attention": "no", "upscale": "no",
        "embeddings_model": null, "lora_model": null, "lora_strength": "1.0", "tomesd": "yes", "clip_skip": "2",
        "use_karras_sigmas": "yes", "vae": null, "scheduler": "EulerDiscreteScheduler", "webhook": null, "track_id": 77, "base64": "no",
        "temp": "no", "instant_response": "no", "something_new": {"nested": [1, 2]}
    }))
    .unwrap();
    let request = &parsed.submission.request;
    assert_eq!((request.width, request.height, request.samples, request.num_inference_steps), (Some(512), Some(768), 2, Some(31)));
    assert_eq!((request.guidance_scale, request.seed, request.negative_prompt.as_deref()), (Some(7.5), None, None));
    assert_eq!(request.clip_skip, Some(1), "2 here is the layer before the last, which diffusers calls 1");
    assert_eq!(request.sampler.as_deref(), Some("EulerDiscreteScheduler"));
    assert_eq!(Value::Object(request.sampler_options.clone()), json!({ "use_karras_sigmas": true }));
    assert_eq!(parsed.submission.track_id.as_deref(), Some("77"));
}

/// What the vendor's Python client sends: set fields only, with their types.
#[test]
fn body_without_a_model_or_sizes_leaves_them_open() {
    let parsed = parse(&json!({ "key": "k", "prompt": "a cat" })).unwrap();
    let expected = ImageRequest { prompt_syntax: PromptSyntax::Weighted, ..ImageRequest::text_to_image("", "a cat") };
    assert_eq!(parsed.submission.request, expected);
}

#[test]
fn clip_skip_counts_from_one_and_is_bounded() {
    for (sent, expected) in [(0, None), (1, None), (2, Some(1)), (8, Some(7)), (900, Some(7)), (-3, None)] {
        let parsed = parse(&json!({ "prompt": "a", "clip_skip": sent })).unwrap();
        assert_eq!(parsed.submission.request.clip_skip, expected, "{sent}");
    }
}

#[test]
fn wishes_about_the_answer_are_read() {
    let parsed = parse(&json!({ "prompt": "a", "instant_response": true, "base64": "true" })).unwrap();
    assert_eq!((parsed.submission.mode, parsed.base64), (Mode::Detached, true));
}

#[test]
fn what_cannot_be_meant_is_refused_with_the_fields_name() {
    for (body, field) in [
        (json!({ "prompt": "a", "width": "wide" }), "width"),
        (json!({ "prompt": "a", "guidance_scale": "NaN" }), "guidance_scale"),
        (json!({ "prompt": ["a"] }), "prompt"),
        (json!({ "prompt": "a", "seed": -7 }), "seed"),
        (json!({ "prompt": "a", "seed": 1e300 }), "seed"),
        (json!({ "prompt": "a", "scheduler": "Magic" }), "scheduler"),
        (json!({ "prompt": "a", "base64": "perhaps" }), "base64"),
        (json!({ "prompt": "a", "safety_checker": "yes", "safety_checker_type": "fig leaf" }), "safety_checker_type"),
        (json!({ "prompt": "a", "track_id": "x".repeat(1000) }), "track_id"),
    ] {
        match parse(&body) {
            Err(Refusal::Invalid { field: found, message }) => {
                assert_eq!(found, field);
                assert!(message.starts_with(field), "{message}");
            }
            other => panic!("{body}: {other:?}"),
        }
    }
}

#[test]
fn what_is_not_served_is_refused_by_name() {
    for body in [
        json!({ "prompt": "a", "init_image": "https://example.org/a.png" }),
        json!({ "prompt": "a", "controlnet_model": "canny" }),
        json!({ "prompt": "a", "mask_image": "aGk=" }),
        json!({ "prompt": "a", "aspect_ratio": "16:9" }),
    ] {
        assert!(matches!(parse(&body), Err(Refusal::NotSupported { .. })), "{body}");
    }
    assert!(parse(&json!({ "prompt": "a", "aspect_ratio": "1:1", "width": 64, "height": 64 })).is_ok());
}

#[test]
fn loras_and_embeddings_are_named_in_lists_and_tags() {
    let parsed = parse(&json!({
        "prompt": "a cat <lora:dots:-0.5>", "lora_model": "ink, oil", "lora_strength": "0.45", "embeddings_model": "style-1,style-2"
    }))
    .unwrap();
    let request = &parsed.submission.request;
    let adapters: Vec<(&str, f64)> = request.adapters.iter().map(|adapter| (adapter.model.as_str(), adapter.scale)).collect();
    assert_eq!(adapters, [("ink", 0.45), ("oil", 0.45), ("dots", -0.5)]);
    assert_eq!(
        (request.prompt.as_str(), request.embeddings.as_slice()),
        ("a cat", ["style-1".to_owned(), "style-2".to_owned()].as_slice())
    );
    let made = Generation { request: request.clone(), ..generation(State::Succeeded) };
    let meta = &render_sync(&made, None, answering(false)).body["meta"];
    assert_eq!((&meta["lora"], &meta["lora_strength"]), (&json!("ink,oil,dots"), &json!("0.45,0.45,-0.5")));
    assert_eq!((&meta["embeddings"], &meta["strength"]), (&json!("style-1,style-2"), &json!(null)));
}

#[test]
fn pictures_are_taken_by_the_task_and_strength_by_either_name() {
    let body = json!({ "prompt": "a", "init_image": ["aGk="], "mask_image": "https://a.example/m.png", "strength": null, "prompt_strength": "0.7" });
    let parsed = parse_as(Task::Inpaint, &body).unwrap().submission;
    assert_eq!((parsed.request.task, parsed.request.strength), (Task::Inpaint, Some(0.7)));
    assert!(matches!(parsed.pictures.mask, Some(Mask::White(mask)) if mask.field == "mask_image"));
    assert_eq!(parsed.pictures.image.map(|image| image.field), Some("init_image"));
    let both = json!({ "prompt": "a", "init_image": "aGk=", "strength": 0.5, "prompt_strength": 0.9 });
    assert_eq!(parse_as(Task::ImageToImage, &both).unwrap().submission.request.strength, Some(0.5));
    let text = json!({ "prompt": "a", "strength": 0.5 });
    assert_eq!(parse(&text).unwrap().submission.request.strength, None, "clients send their default with every call");
}

#[test]
fn ids_are_read_from_texts_and_numbers() {
    assert_eq!(parse_fetch_id(Some("12202888")), Ok(12_202_888));
    assert_eq!(parse_fetch_id(Some(" 7.0 ")), Ok(7));
    for unknown in ["0", "-1", "2147483648", "abc", "7/../8", ""] {
        assert!(matches!(parse_fetch_id(Some(unknown)), Err(Refusal::GenerationUnknown { .. })), "{unknown}");
    }
    assert!(matches!(parse_fetch_id(None), Err(Refusal::Invalid { .. })));
    let fetch: FetchFields = fields::typed(call(&json!({ "key": "k", "request_id": 12_202_888 }))).unwrap();
    assert_eq!(fetch.request_id.as_deref(), Some("12202888"));
}

fn generation(state: State) -> Generation {
    Generation {
        id: Uuid::from_u128(1),
        public_id: 29_763_508,
        state,
        request: ImageRequest {
            width: Some(64),
            height: Some(96),
            num_inference_steps: Some(20),
            guidance_scale: Some(7.0),
            seed: Some(4_016_593_698),
            sampler: Some("DDIMScheduler".to_owned()),
            clip_skip: Some(2),
            ..ImageRequest::text_to_image("demo", "a red circle")
        },
        output_paths: vec!["/outputs/aa.png".to_owned()],
        track_id: Some("mine".to_owned()),
        elapsed: Duration::from_millis(1954),
        eta: Duration::from_millis(13_060),
        start: StartReport {
            cold: true,
            held_ms: 3,
            replica_start_ms: 120,
            replica: Some(Timings { load_ms: 450, denoise_ms: 900, weights_from: WeightsTier::Disk, ..Timings::default() }),
        },
        nsfw_content_detected: Vec::new(),
    }
}

fn answering(base64: bool) -> Answering<'static> {
    Answering { public_url: "http://127.0.0.1:8080", family: V6, base64 }
}

#[test]
fn success_has_everything_that_clients_read() {
    let answer = render_sync(&generation(State::Succeeded), None, answering(false));
    assert_eq!(answer.status, 200);
    let body = answer.body;
    assert_eq!(body["status"], "success");
    assert_eq!(body["id"], 29_763_508);
    assert_eq!(body["generationTime"], 1.95);
    assert_eq!(body["output"], json!(["http://127.0.0.1:8080/outputs/aa.png"]));
    assert_eq!(body["proxy_links"], body["output"]);
    assert_eq!(body["nsfw_content_detected"], false);
    assert_eq!((&body["webhook_status"], &body["track_id"]), (&json!(""), &json!("mine")));
    let meta = &body["meta"];
    assert_eq!((&meta["W"], &meta["width"], &meta["H"], &meta["height"]), (&json!(64), &json!(64), &json!(96), &json!(96)));
    assert_eq!((&meta["seed"], &meta["steps"], &meta["n_samples"]), (&json!(4_016_593_698_u64), &json!(20), &json!(1)));
    assert_eq!((&meta["model_id"], &meta["scheduler"]), (&json!("demo"), &json!("DDIMScheduler")));
    assert_eq!(meta["clip_skip"], 3, "counted as the caller counts");
    assert_eq!(body["cold_start"]["cold"], true);
    assert_eq!(body["cold_start"]["weights_from"], "disk");
    assert_eq!(body["cold_start"]["phases_ms"]["replica_start"], 120);
    assert_eq!(body["cold_start"]["phases_ms"]["load"], 450);
}

#[test]
fn checked_images_are_told_together_and_meta_names_the_style() {
    let mut made = generation(State::Succeeded);
    let meta = |made: &Generation| render_fetch(made, None, answering(false)).body["meta"].clone();
    assert_eq!((&meta(&made)["safety_checker"], &meta(&made)["safety_checker_type"]), (&json!("no"), &json!("sensitive_content_text")));
    made.request.safety_checker = Some(SafetyStyle::Blur);
    assert_eq!((&meta(&made)["safety_checker"], &meta(&made)["safety_checker_type"]), (&json!("yes"), &json!("blur")));
    for (found, told) in [(vec![false, false], false), (vec![false, true], true)] {
        made.nsfw_content_detected = found;
        assert_eq!(render_fetch(&made, None, answering(false)).body["nsfw_content_detected"], told);
    }
}

#[test]
fn processing_has_an_empty_output_and_says_where_to_fetch() {
    let answer = render_sync(&generation(State::Running { progress: 0.5 }), None, answering(false));
    assert_eq!(answer.status, 200);
    let body = answer.body;
    assert_eq!((&body["status"], &body["output"]), (&json!("processing"), &json!([])));
    assert_eq!(body["eta"], 13.06);
    assert_eq!(body["fetch_result"], "http://127.0.0.1:8080/api/v6/images/fetch/29763508");
    assert_eq!(body["future_links"], json!(["http://127.0.0.1:8080/outputs/aa.png"]));
    assert_eq!(body["message"], "Try to fetch request after seconds estimated");
    assert_eq!(body["message"], body["messege"]);
    assert!(body["tip_1"].as_str().unwrap().contains("29763508"));
    assert_eq!(body["meta"]["W"], 64);
}

#[test]
fn processing_never_promises_zero_seconds() {
    let waiting = Generation { eta: Duration::ZERO, ..generation(State::Queued) };
    assert!(render_fetch(&waiting, None, answering(false)).body["eta"].as_f64().unwrap() > 0.0);
}

#[test]
fn base64_is_given_raw_and_remembered_in_the_link_to_fetch() {
    let answer = render_sync(&generation(State::Succeeded), Some(vec!["aGk=".to_owned()]), answering(true));
    assert_eq!(answer.body["output"], json!(["aGk="]));
    let answer = render_sync(&generation(State::Queued), None, answering(true));
    assert_eq!(answer.body["fetch_result"], "http://127.0.0.1:8080/api/v6/images/fetch/29763508?base64=true");
}

#[test]
fn failure_is_an_error_to_who_waits_and_a_state_to_who_fetches() {
    for (reason, status) in [
        (FailureReason::InvalidRequest, 400),
        (FailureReason::InvalidModel, 503),
        (FailureReason::Busy, 503),
        (FailureReason::DeadlineExceeded, 503),
        (FailureReason::Cancelled, 409),
        (FailureReason::OutputRejected, 500),
        (FailureReason::Internal, 500),
    ] {
        let failed = generation(State::Failed(Failure { reason, message: "the weights are cut off".to_owned() }));
        let answer = render_sync(&failed, None, answering(false));
        assert_eq!((answer.status.as_u16(), &answer.body["status"]), (status, &json!("error")));
        assert_eq!(answer.body["message"], "the weights are cut off");
        let answer = render_fetch(&failed, None, answering(false));
        assert_eq!((answer.status.as_u16(), &answer.body["status"]), (200, &json!("failed")));
        assert_eq!((&answer.body["output"], &answer.body["message"]), (&json!([]), &json!("the weights are cut off")));
    }
    assert_eq!(render_fetch(&generation(State::Cancelled), None, answering(false)).body["status"], "failed");
}

#[test]
fn every_refusal_has_its_documented_status() {
    let wait = Duration::from_millis(1500);
    let text = || "x".to_owned();
    for (refusal, status, retry_after) in [
        (Refusal::KeyMissing, 401, None),
        (Refusal::KeyInvalid, 401, None),
        (Refusal::ModelUnknown { model: text(), nearest: None }, 400, None),
        (Refusal::AdapterUnknown { wanted: "LoRA", model: text(), nearest: None }, 400, None),
        (Refusal::WrongKind { model: text(), is: "a LoRA", wanted: "a checkpoint" }, 400, None),
        (Refusal::ModelNotReady { model: text(), reason: text() }, 503, None),
        (Refusal::Invalid { field: text(), message: text() }, 400, None),
        (Refusal::NotSupported { feature: text() }, 400, None),
        (Refusal::GenerationUnknown { id: text() }, 404, None),
        (Refusal::RateLimited { plan: text(), per_minute: 60, burst: 20, retry_after: wait }, 429, Some(2)),
        (Refusal::QuotaUsed { plan: text(), calls: 100, window: "day", retry_after: wait }, 429, Some(2)),
        (Refusal::TenantQueueFull { depth: 10, retry_after: wait }, 429, Some(2)),
        (Refusal::NoCapacity { retry_after: wait }, 503, Some(2)),
        (Refusal::BodyTooLarge { limit_bytes: 5 }, 413, None),
        (Refusal::BodyTimeout { limit: wait }, 408, None),
        (Refusal::BodyMalformed { message: text() }, 400, None),
        (Refusal::Internal, 500, None),
    ] {
        let answer = refuse(&refusal);
        assert_eq!(answer.status.as_u16(), status, "{refusal:?}");
        assert_eq!(answer.body["status"], "error");
        assert!(answer.body["message"].is_string(), "an object would break clients");
        assert_eq!(answer.body["retry_after"].as_u64(), retry_after, "{refusal:?}");
        assert_eq!(answer.retry_after.is_some(), retry_after.is_some());
    }
    let invalid = refuse(&Refusal::Invalid { field: "prompt".to_owned(), message: "prompt is required".to_owned() });
    assert_eq!(invalid.body["errors"], json!({ "prompt": ["prompt is required"] }));
}
