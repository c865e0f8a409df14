//! Checked images, in every dialect: what reaches the replica, what callers are told, and what is refused without the weights.

use runtime_api::SafetyStyle;
use serde_json::{Value, json};

use super::stage::Stage;
use crate::service::Settings;

const MODELSLAB: &str = "/api/v6/images/text2img";
const OPENAI: &str = "/v1/images/generations";

async fn stage() -> Stage {
    let stage = Stage::new(Settings { has_safety_checker: true, ..Settings::default() }).await;
    stage.replica.gate.add_permits(1000);
    stage
}

#[tokio::test]
async fn what_the_replica_found_is_told_at_once_and_at_every_fetch() {
    let stage = stage().await;
    for (call, style, detected) in [
        (json!({ "safety_checker": "yes", "samples": 1 }), Some(SafetyStyle::SensitiveContentText), false),
        (json!({ "safety_checker": true, "safety_checker_type": "black", "samples": 2 }), Some(SafetyStyle::Black), true),
        (json!({ "safety_checker": "no", "safety_checker_type": "blur", "samples": 2 }), None, false),
        (json!({ "samples": 2 }), None, false),
    ] {
        let mut call = call;
        call["prompt"] = json!("a cat");
        let (status, body) = stage.post(MODELSLAB, call).await;
        assert_eq!((status, &body["nsfw_content_detected"]), (200, &json!(detected)), "{body}");
        assert_eq!(stage.last_received().0.request.safety_checker, style);
        let (status, body) = stage.post(&format!("/api/v6/images/fetch/{}", body["id"]), json!({})).await;
        assert_eq!((status, &body["nsfw_content_detected"]), (200, &json!(detected)), "{body}");
    }
}

#[tokio::test]
async fn each_of_openais_images_says_what_was_found() {
    let stage = stage().await;
    let call = json!({ "prompt": "a cat", "n": 2, "response_format": "url", "safety_checker": true });
    let (status, body) = stage.post_bearer(OPENAI, &call).await;
    let found: Vec<&Value> = body["data"].as_array().unwrap().iter().map(|image| &image["nsfw_content_detected"]).collect();
    assert_eq!((status, found), (200, vec![&json!(false), &json!(true)]), "{body}");
    let (_, body) = stage.post_bearer(OPENAI, &json!({ "prompt": "a cat" })).await;
    assert!(body["data"][0]["nsfw_content_detected"].is_null(), "{body}");
}

#[tokio::test]
async fn without_the_weights_a_call_for_checked_images_is_refused_and_reaches_no_replica() {
    let stage = Stage::quick().await;
    let (status, body) = stage.post(MODELSLAB, json!({ "prompt": "a cat", "safety_checker": "yes" })).await;
    assert_eq!((status, &body["status"]), (400, &json!("error")), "{body}");
    assert!(body["message"].as_str().unwrap().contains("safety_checker"), "{body}");
    let (status, body) = stage.post_bearer(OPENAI, &json!({ "prompt": "a cat", "safety_checker": true })).await;
    assert_eq!((status, &body["error"]["code"]), (400, &json!("not_supported")), "{body}");
    assert!(stage.replica.received.lock().unwrap().is_empty());
    assert_eq!(stage.post(MODELSLAB, json!({ "prompt": "a cat", "safety_checker": "no" })).await.0, 200);
}
