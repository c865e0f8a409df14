//! ModelsLab's clients.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use runtime_api::{Failure, FailureReason};
use serde_json::{Value, json};

use super::stage::{PATIENCE, Stage, picture, read};
use crate::service::Settings;

const V7: &str = "/api/v7/images/text-to-image";

fn call() -> Value {
    json!({ "model_id": "demo", "prompt": "a red circle", "width": "512", "height": "512", "samples": "1", "num_inference_steps": "20" })
}

#[tokio::test]
async fn call_that_waits_is_answered_with_its_image_and_what_the_start_cost() {
    let stage = Stage::quick().await;
    for path in [V7, "/api/v6/images/text2img", "/api/v4/dreambooth", "/api/v3/dreambooth", "/api/v3/text2img"] {
        let (status, body) = stage.post(path, call()).await;
        assert_eq!((status, &body["status"]), (200, &json!("success")), "{path}: {body}");
        assert!(body["id"].as_i64().is_some_and(|id| (1..1 << 31).contains(&id)), "{body}");
        assert_eq!((&body["meta"]["W"], &body["meta"]["steps"]), (&json!(512), &json!(20)));
        assert_eq!(body["cold_start"]["weights_from"], "disk");
        assert_eq!(body["cold_start"]["phases_ms"]["load"], 11);
        let link = body["output"][0].as_str().unwrap();
        assert!(link.starts_with(&stage.base), "{link}");
        let image = stage.get(link).await;
        assert_eq!(image.headers()["content-type"], "image/png");
        assert_eq!(image.bytes().await.unwrap(), picture());
    }
}

#[tokio::test]
async fn slow_call_is_answered_with_an_id_that_every_spelling_of_fetch_knows() {
    let settings = Settings { sync_wait: Duration::from_millis(50), fetch_wait: Duration::from_millis(50), ..Settings::default() };
    let stage = Stage::new(settings).await;
    let (status, body) = stage.post(V7, call()).await;
    assert_eq!((status, &body["status"], &body["output"]), (200, &json!("processing"), &json!([])));
    let id = body["id"].as_i64().unwrap();
    assert_eq!(body["fetch_result"], format!("{}/api/v7/images/fetch/{id}", stage.base));
    let link = body["future_links"][0].as_str().unwrap().to_owned();
    assert_eq!(stage.get(&link).await.status(), 404);
    let (status, body) = stage.post(&format!("/api/v6/images/fetch/{id}"), json!({})).await;
    assert_eq!((status, &body["status"], &body["output"]), (200, &json!("processing"), &json!([])));

    stage.replica.gate.add_permits(1);
    let fetched = tokio::time::timeout(PATIENCE, async {
        loop {
            let (_, body) = stage.post("/api/v7/images/fetch", json!({ "request_id": id.to_string() })).await;
            if body["status"] != "processing" {
                return body;
            }
        }
    });
    let body = fetched.await.unwrap();
    assert_eq!((&body["status"], &body["output"]), (&json!("success"), &json!([link])));

    for family in ["v7/images", "v6/images", "v6/realtime", "v6/image_editing", "v5/images", "v4/dreambooth", "v3/dreambooth", "v3"] {
        let path = format!("/api/{family}/fetch");
        for (path, fields) in [(path.clone(), json!({ "request_id": id })), (format!("{path}/{id}"), json!({}))] {
            let (status, fetched) = stage.post(&path, fields).await;
            assert_eq!((status, &fetched["output"]), (200, &body["output"]), "{path}");
        }
        let fetched: Value = stage.get(&format!("{path}/{id}")).await.json().await.unwrap();
        assert_eq!(fetched["output"], body["output"], "{path}");
    }
    let (status, body) = stage.post("/api/v7/images/fetch/1", json!({})).await;
    assert_eq!((status, &body["status"]), (404, &json!("error")));
}

#[tokio::test]
async fn long_fetch_waits_for_the_image() {
    let stage = Stage::new(Settings::default()).await;
    let (_, body) = stage.post(V7, json!({ "prompt": "a", "model_id": "demo", "instant_response": "true", "track_id": 9 })).await;
    assert_eq!((&body["status"], &body["track_id"]), (&json!("processing"), &json!("9")));
    let path = format!("/api/v7/images/fetch/{}", body["id"]);
    let fetch = stage.post(&path, json!({}));
    let (fetched, ()) = tokio::join!(fetch, async { stage.replica.gate.add_permits(1) });
    assert_eq!((fetched.0, &fetched.1["status"], &fetched.1["track_id"]), (200, &json!("success"), &json!("9")));
}

#[tokio::test]
async fn base64_gives_the_image_itself() {
    let stage = Stage::quick().await;
    let (_, body) = stage.post(V7, json!({ "prompt": "a", "base64": "yes", "samples": 2 })).await;
    let expected = STANDARD.encode(picture());
    assert_eq!(body["output"], json!([expected, expected]));
    let (_, body) = stage.post(&format!("/api/v7/images/fetch/{}?base64=true", body["id"]), json!({})).await;
    assert_eq!(body["output"], json!([expected, expected]));
}

#[tokio::test]
async fn failed_generation_is_an_error_at_once_and_a_state_later() {
    let stage = Stage::new(Settings::default()).await;
    let failure = Failure { reason: FailureReason::InvalidModel, message: "the checkpoint is truncated".to_owned() };
    stage.fail_with(failure);
    let (status, body) = stage.post(V7, call()).await;
    assert_eq!((status, &body["status"]), (503, &json!("error")));
    assert!(body["message"].as_str().unwrap().contains("truncated"), "{body}");
    let (status, body) = stage.post(&format!("/api/v7/images/fetch/{}", body["id"]), json!({})).await;
    assert_eq!((status, &body["status"], &body["output"]), (200, &json!("failed"), &json!([])));
}

#[tokio::test]
async fn caller_that_leaves_while_it_waits_cancels_its_request() {
    let stage = Stage::new(Settings::default()).await;
    let (mut started, mut cancelled) = (stage.replica.started.subscribe(), stage.replica.cancelled.subscribe());
    let waiting = tokio::spawn(stage.bearer(V7, &json!({ "prompt": "a" })).send());
    tokio::time::timeout(PATIENCE, started.wait_for(|count| *count == 1)).await.unwrap().unwrap();
    waiting.abort();
    tokio::time::timeout(PATIENCE, cancelled.wait_for(|count| *count == 1)).await.unwrap().unwrap();
}

#[tokio::test]
async fn key_counts_wherever_it_stands() {
    let stage = Stage::quick().await;
    let url = format!("{}/api/v4/dreambooth/model_list", stage.base);
    let (key, client) = (&stage.key, &stage.client);
    for request in [
        client.post(&url).json(&json!({ "key": key })),
        client.post(&url).body(format!("key={key}")),
        client.post(&url).bearer_auth(key),
        client.post(&url).header("key", key),
        client.post(&url).header("X-API-Key", key),
        client.get(format!("{url}?key={key}")),
    ] {
        let (status, body) = read(request).await;
        assert_eq!((status, &body[0]["model_id"], &body[0]["status"]), (200, &json!("demo"), &json!("model_ready")), "{body}");
    }
}

#[tokio::test]
async fn chunked_body_without_content_type_and_fields_in_the_query_are_read() {
    let stage = Stage::quick().await;
    let body = format!("{{\"key\": \"{}\", \"prompt\": \"a\"}}", stage.key);
    let (front, back) = body.split_at(9);
    let chunks = [front.to_owned(), back.to_owned()].map(Ok::<_, std::io::Error>);
    let body = reqwest::Body::wrap_stream(futures::stream::iter(chunks));
    let (status, body) = read(stage.client.post(format!("{}{V7}?width=512&seed=7", stage.base)).body(body)).await;
    assert_eq!((status, &body["meta"]["seed"], &body["meta"]["W"]), (200, &json!(7), &json!(512)), "{body}");
}

#[tokio::test]
async fn loras_are_listed_named_by_id_and_sent_with_the_work() {
    let stage = Stage::quick().await;
    let mut call = call();
    (call["lora_model"], call["lora_strength"]) = (json!("ink"), json!("0.6"));
    let (status, body) = stage.post(V7, call.clone()).await;
    assert_eq!((status, &body["meta"]["lora"], &body["meta"]["lora_strength"]), (200, &json!("ink"), &json!("0.6")), "{body}");
    let (dispatch, _) = stage.last_received();
    assert_eq!((dispatch.request.adapters[0].model.as_str(), dispatch.request.adapters[0].scale), ("ink", 0.6));
    assert_eq!(dispatch.adapters[0].uri, "file:///adapters/ink.safetensors");
    for (field, name, message) in [
        ("lora_model", "inc", "LoRA not found: inc (did you mean ink?)"),
        ("lora_model", "demo", "demo is a checkpoint, not a LoRA"),
        ("embeddings_model", "ink", "ink is a LoRA, not an embedding"),
        ("model_id", "ink", "ink is a LoRA, not a checkpoint"),
        ("lora_strength", "11", "lora_strength must be between -10 and 10"),
    ] {
        let mut call = call.clone();
        call[field] = json!(name);
        let (status, body) = stage.post(V7, call).await;
        assert_eq!((status, &body["message"]), (400, &json!(message)));
    }
    let (_, list) = stage.post("/api/v4/dreambooth/model_list", json!({})).await;
    let categories: Vec<&str> = list.as_array().unwrap().iter().map(|model| model["model_category"].as_str().unwrap()).collect();
    assert_eq!(categories, ["stable_diffusion", "lora", "stable_diffusion"]);
}
