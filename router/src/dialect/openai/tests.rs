//! Bodies as OpenAI's clients send them, and answers as they read them.

use std::time::Duration;

use crds::model_deployment::ModelKind;
use runtime_api::{Failure, FailureReason, ImageRequest, OutputFormat, SafetyStyle};
use serde_json::{Value, json};
use uuid::Uuid;

use super::*;
use crate::dialect::fields;
use crate::generation::{Generation, ModelListing, StartReport, State};
use crate::refusal::Refusal;

fn parse_body(body: &Value) -> Result<Parsed, Refusal> {
    parse(fields::read(None, body.to_string().as_bytes()).unwrap().into())
}

#[test]
fn prompt_alone_is_a_whole_call() {
    let parsed = parse_body(&json!({ "prompt": "a cat" })).unwrap();
    assert_eq!(parsed.submission.request, ImageRequest::text_to_image("", "a cat"));
    assert!(parsed.base64 && !parsed.stream);
}

#[test]
fn fields_of_openai_and_those_beside_them_are_translated() {
    let parsed = parse_body(&json!({
        "prompt": "a cat", "model": "demo", "n": 2, "size": "64x96", "response_format": "url", "quality": "hd", "style": "vivid",
        "background": "auto", "moderation": "low", "output_format": "jpeg", "output_compression": 70, "safety_checker": true,
        "safety_checker_type": "black", "user": "u-1", "stream": true, "partial_images": 2,
        "negative_prompt": "blurry", "seed": 0, "steps": 12, "guidance_scale": 4.5, "scheduler": "Euler a", "clip_skip": 1
    }))
    .unwrap();
    let expected = ImageRequest {
        negative_prompt: Some("blurry".to_owned()),
        width: Some(64),
        height: Some(96),
        samples: 2,
        seed: Some(0),
        num_inference_steps: Some(12),
        guidance_scale: Some(4.5),
        clip_skip: Some(1),
        output_format: OutputFormat::Jpeg,
        output_quality: Some(70),
        safety_checker: Some(SafetyStyle::Black),
        sampler: Some("EulerAncestralDiscreteScheduler".to_owned()),
        ..ImageRequest::text_to_image("demo", "a cat")
    };
    assert_eq!(parsed.submission.request, expected);
    assert_eq!((parsed.submission.partial_images, parsed.base64, parsed.stream), (2, false, true));
}

#[test]
fn size_may_be_auto_or_given_in_other_fields() {
    for body in [json!({ "prompt": "a", "size": "auto" }), json!({ "prompt": "a", "size": null }), json!({ "prompt": "a", "size": "" })] {
        let request = parse_body(&body).unwrap().submission.request;
        assert_eq!((request.width, request.height), (None, None));
    }
    let request = parse_body(&json!({ "prompt": "a", "size": "auto", "width": 64, "height": 64 })).unwrap().submission.request;
    assert_eq!((request.width, request.height), (Some(64), Some(64)));
}

#[test]
fn what_cannot_be_meant_is_refused_with_the_fields_name() {
    for (body, field) in [
        (json!({ "prompt": "a", "size": "big" }), "size"),
        (json!({ "prompt": "a", "size": "64x" }), "size"),
        (json!({ "prompt": "a", "size": "-1x64" }), "size"),
        (json!({ "prompt": "a", "size": "99999999999x64" }), "size"),
        (json!({ "prompt": "a", "response_format": "jpeg" }), "response_format"),
        (json!({ "prompt": "a", "partial_images": 4 }), "partial_images"),
        (json!({ "prompt": "a", "n": "two" }), "n"),
        (json!({ "prompt": { "text": "a" } }), "prompt"),
        (json!({ "prompt": "a", "output_format": "gif" }), "output_format"),
        (json!({ "prompt": "a", "output_compression": 101 }), "output_compression"),
        (json!({ "prompt": "a", "safety_checker": "perhaps" }), "safety_checker"),
        (json!({ "prompt": "a", "safety_checker": true, "safety_checker_type": "fig leaf" }), "safety_checker_type"),
        (json!({ "prompt": "a", "background": "pink" }), "background"),
    ] {
        let refused = parse_body(&body);
        assert!(matches!(&refused, Err(Refusal::Invalid { field: found, .. }) if found == field), "{body}: {refused:?}");
    }
}

#[test]
fn what_is_not_served_is_refused_by_name() {
    for body in [json!({ "prompt": "a", "background": "transparent" }), json!({ "prompt": "a", "image": "aGk=" })] {
        assert!(matches!(parse_body(&body), Err(Refusal::NotSupported { .. })), "{body}");
    }
}

fn generation() -> Generation {
    Generation {
        id: Uuid::from_u128(1),
        public_id: 7,
        state: State::Succeeded,
        request: ImageRequest { width: Some(64), height: Some(96), samples: 2, seed: Some(5), ..ImageRequest::text_to_image("demo", "a") },
        output_paths: vec!["/outputs/aa.png".to_owned(), "/outputs/bb.png".to_owned()],
        track_id: None,
        elapsed: Duration::from_secs(1),
        eta: Duration::ZERO,
        start: StartReport { cold: true, held_ms: 1, replica_start_ms: 2, replica: None },
        nsfw_content_detected: Vec::new(),
    }
}

#[test]
fn images_are_given_as_base64_or_as_links() {
    let body = render(&generation(), Some(vec!["aa".to_owned(), "bb".to_owned()]), "http://h", 1_700_000_000).body;
    assert_eq!(body["created"], 1_700_000_000);
    assert_eq!(body["data"], json!([{ "b64_json": "aa" }, { "b64_json": "bb" }]));
    assert_eq!((&body["size"], &body["seed"], &body["cold_start"]["cold"]), (&json!("64x96"), &json!(5), &json!(true)));
    let body = render(&generation(), None, "http://h", 0).body;
    assert_eq!(body["data"], json!([{ "url": "http://h/outputs/aa.png" }, { "url": "http://h/outputs/bb.png" }]));
}

#[test]
fn checked_images_say_what_was_found_and_others_nothing() {
    let mut made = generation();
    made.nsfw_content_detected = vec![false, true];
    for (images, key) in [(None, "url"), (Some(vec!["aa".to_owned(), "bb".to_owned()]), "b64_json")] {
        let data = render(&made, images, "", 0).body["data"].clone();
        assert!(data[0][key].is_string());
        assert_eq!((&data[0]["nsfw_content_detected"], &data[1]["nsfw_content_detected"]), (&json!(false), &json!(true)));
    }
    let event = serde_json::to_value(completed(&made, 1, String::new(), 0)).unwrap();
    assert_eq!(event["nsfw_content_detected"], true);
    made.request.output_format = OutputFormat::Webp;
    assert_eq!(render(&made, None, "", 0).body["output_format"], "webp");
    assert_eq!(completed(&made, 0, String::new(), 0).output_format, "webp");
    assert_eq!(partial(&made, 0, 0, String::new(), 0).output_format, "png");
}

#[test]
fn events_have_the_fields_that_typed_clients_require() {
    let event = serde_json::to_value(partial(&generation(), 1, 0, "cHJl".to_owned(), 9)).unwrap();
    assert_eq!((&event["type"], &event["partial_image_index"]), (&json!("image_generation.partial_image"), &json!(0)));
    let event = serde_json::to_value(completed(&generation(), 1, "cG5n".to_owned(), 9)).unwrap();
    assert_eq!(event["type"], "image_generation.completed");
    for field in ["b64_json", "background", "created_at", "output_format", "quality", "size", "usage"] {
        assert!(!event[field].is_null(), "{field}");
    }
    assert_eq!(event["usage"]["input_tokens_details"]["image_tokens"], 0);
    let failure = Failure { reason: FailureReason::Internal, message: "broke".to_owned() };
    assert_eq!(failed(Some(&failure))["error"]["message"], "broke");
    assert!(failed(None)["error"]["message"].is_string());
}

#[test]
fn models_are_listed_as_openai_lists_them() {
    let listing = |id: &str, kind| ModelListing { model_id: id.to_owned(), kind, family: None, created_at: 5, ready: true };
    let body = model_list(&[listing("demo", ModelKind::Checkpoint), listing("ink", ModelKind::Lora)]).body;
    assert_eq!(body, json!({ "object": "list", "data": [{ "id": "demo", "object": "model", "created": 5, "owned_by": "emulsion" }] }));
}

#[test]
fn every_refusal_has_the_status_that_clients_choose_their_exception_by() {
    let wait = Duration::from_secs(2);
    let text = || "x".to_owned();
    for (refusal, status, kind, retries) in [
        (Refusal::KeyMissing, 401, "authentication_error", false),
        (Refusal::KeyInvalid, 401, "authentication_error", false),
        (Refusal::ModelUnknown { model: text(), nearest: None }, 404, "invalid_request_error", false),
        (Refusal::AdapterUnknown { wanted: "LoRA", model: text(), nearest: None }, 400, "invalid_request_error", false),
        (Refusal::WrongKind { model: text(), is: "a LoRA", wanted: "a checkpoint" }, 400, "invalid_request_error", false),
        (Refusal::ModelNotReady { model: text(), reason: text() }, 503, "server_error", false),
        (Refusal::Invalid { field: text(), message: text() }, 400, "invalid_request_error", false),
        (Refusal::NotSupported { feature: text() }, 400, "invalid_request_error", false),
        (Refusal::GenerationUnknown { id: text() }, 404, "invalid_request_error", false),
        (Refusal::RateLimited { plan: text(), per_minute: 60, burst: 20, retry_after: wait }, 429, "rate_limit_error", true),
        (Refusal::QuotaUsed { plan: text(), calls: 100, window: "day", retry_after: wait }, 429, "rate_limit_error", true),
        (Refusal::TenantQueueFull { depth: 10, retry_after: wait }, 429, "rate_limit_error", true),
        (Refusal::NoCapacity { retry_after: wait }, 503, "server_error", true),
        (Refusal::BodyTooLarge { limit_bytes: 5 }, 413, "invalid_request_error", false),
        (Refusal::BodyTimeout { limit: wait }, 408, "invalid_request_error", false),
        (Refusal::BodyMalformed { message: text() }, 400, "invalid_request_error", false),
        (Refusal::Internal, 500, "server_error", false),
    ] {
        let answer = refuse(&refusal);
        assert_eq!((answer.status.as_u16(), &answer.body["error"]["type"]), (status, &json!(kind)), "{refusal:?}");
        assert_eq!(answer.retry_after.is_some(), retries, "{refusal:?}");
        assert_eq!(answer.body.as_object().unwrap().len(), 1);
    }
    let samples = Refusal::Invalid { field: "samples".to_owned(), message: "samples must be between 1 and 4".to_owned() };
    let error = &refuse(&samples).body["error"];
    assert_eq!((&error["param"], &error["message"]), (&json!("n"), &json!("n must be between 1 and 4")));
}
