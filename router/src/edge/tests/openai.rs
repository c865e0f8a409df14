//! OpenAI's clients.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt;
use runtime_api::{Failure, FailureReason, OutputFormat};
use serde_json::{Value, json};

use super::stage::{PATIENCE, Stage, picture, picture_as};
use crate::service::Settings;

const PATH: &str = "/v1/images/generations";

#[tokio::test]
async fn images_come_as_base64_or_as_links() {
    let stage = Stage::quick().await;
    let (status, body) = stage.post_bearer(PATH, &json!({ "prompt": "a cat", "n": 2, "size": "512x512" })).await;
    let expected = STANDARD.encode(picture());
    assert_eq!((status, &body["data"]), (200, &json!([{ "b64_json": expected }, { "b64_json": expected }])), "{body}");
    assert!(body["created"].as_u64().is_some_and(|created| created > 1_600_000_000));
    assert_eq!(body["cold_start"]["weights_from"], "disk");
    let (_, body) = stage.post_bearer(PATH, &json!({ "prompt": "a cat", "model": "other", "response_format": "url" })).await;
    let image = stage.get(body["data"][0]["url"].as_str().unwrap()).await;
    assert_eq!(image.bytes().await.unwrap(), picture());
}

#[tokio::test]
async fn images_are_files_of_the_format_that_was_asked_for() {
    let stage = Stage::quick().await;
    for format in OutputFormat::ALL {
        let call = json!({ "prompt": "a cat", "output_format": format.name(), "output_compression": "80" });
        let (status, body) = stage.post_bearer(PATH, &call).await;
        assert_eq!((status, &body["output_format"]), (200, &json!(format.name())), "{body}");
        assert_eq!(body["data"][0]["b64_json"], STANDARD.encode(picture_as(format)));
        let request = stage.last_received().0.request;
        assert_eq!((request.output_format, request.output_quality), (format, Some(80)));
        let call = json!({ "prompt": "a cat", "output_format": format.name(), "response_format": "url" });
        let (_, body) = stage.post_bearer(PATH, &call).await;
        let url = body["data"][0]["url"].as_str().unwrap();
        assert!(url.ends_with(&format!(".{}", format.extension())), "{url}");
        let image = stage.get(url).await;
        assert_eq!(image.headers()["content-type"], format.media_type());
        assert_eq!(image.bytes().await.unwrap(), picture_as(format));
    }
}

#[tokio::test]
async fn call_is_held_beyond_the_wait_of_dialects_that_know_processing() {
    let stage = Stage::new(Settings { sync_wait: Duration::ZERO, ..Settings::default() }).await;
    let body = json!({ "prompt": "a cat" });
    let (answer, ()) = tokio::join!(stage.post_bearer(PATH, &body), async { stage.replica.gate.add_permits(1) });
    assert_eq!((answer.0, answer.1["data"].as_array().unwrap().len()), (200, 1));
}

#[tokio::test]
async fn models_are_listed_and_found() {
    let stage = Stage::quick().await;
    let list: Value = stage.get("/v1/models").await.json().await.unwrap();
    let ids: Vec<&str> = list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    assert_eq!((&list["object"], ids), (&json!("list"), vec!["demo", "other"]));
    let found: Value = stage.get("/v1/models/other").await.json().await.unwrap();
    assert_eq!((&found["id"], &found["object"]), (&json!("other"), &json!("model")));
    let missing = stage.get("/v1/models/none").await;
    assert_eq!(missing.status(), 404);
    assert_eq!(missing.json::<Value>().await.unwrap()["error"]["code"], "model_not_found");
}

#[tokio::test]
async fn errors_have_openais_shape_and_name_the_nearest_model() {
    let stage = Stage::quick().await;
    let (status, body) = stage.post_bearer(PATH, &json!({ "prompt": "a", "model": "demoo" })).await;
    assert_eq!((status, &body["error"]["code"], &body["error"]["param"]), (404, &json!("model_not_found"), &json!("model")));
    assert!(body["error"]["message"].as_str().unwrap().contains("did you mean demo?"), "{body}");
    let (status, body) = stage.post_bearer(PATH, &json!({ "prompt": "a", "n": 99 })).await;
    assert_eq!((status, &body["error"]["param"]), (400, &json!("n")), "{body}");
    let (status, body) = stage.post_bearer(PATH, &json!({ "prompt": "" })).await;
    assert_eq!((status, &body["error"]["param"]), (400, &json!("prompt")), "{body}");
    let (status, body) = stage.post_bearer(PATH, &json!({ "prompt": "a", "stream": true, "size": "7x7" })).await;
    assert_eq!((status, &body["error"]["type"]), (400, &json!("invalid_request_error")), "an error before the stream is plain JSON");
}

/// Every event: its name and its data.
async fn events(response: reqwest::Response) -> Vec<(String, Value)> {
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let text = response.text().await.unwrap();
    let field = |block: &str, name: &str| block.lines().find_map(|line| line.strip_prefix(name).map(|rest| rest.trim().to_owned()));
    text.split("\n\n").filter_map(|block| Some((field(block, "event:")?, serde_json::from_str(&field(block, "data:")?).unwrap()))).collect()
}

#[tokio::test]
async fn stream_tells_previews_and_then_each_image() {
    let stage = Stage::quick().await;
    let body = json!({ "prompt": "a cat", "stream": true, "partial_images": 2, "n": 2 });
    let events = events(stage.bearer(PATH, &body).send().await.unwrap()).await;
    let names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
    let (partial, completed) = ("image_generation.partial_image", "image_generation.completed");
    assert_eq!(names, [partial, partial, completed, completed]);
    for (name, data) in &events {
        assert_eq!(&data["type"], name);
    }
    assert_eq!((&events[0].1["b64_json"], &events[1].1["partial_image_index"]), (&json!("cHJl"), &json!(1)));
    assert_eq!((&events[3].1["b64_json"], &events[3].1["image_index"]), (&json!(STANDARD.encode(picture())), &json!(1)));
}

#[tokio::test]
async fn failure_ends_a_stream_with_an_error_and_a_call_with_a_status() {
    let stage = Stage::new(Settings::default()).await;
    stage.fail_with(Failure { reason: FailureReason::InvalidRequest, message: "the width does not fit".to_owned() });
    let events = events(stage.bearer(PATH, &json!({ "prompt": "a", "stream": true })).send().await.unwrap()).await;
    let (name, data) = events.last().unwrap();
    assert_eq!((events.len(), name.as_str()), (1, "error"));
    assert!(data["error"]["message"].as_str().unwrap().contains("width"), "{data}");
    let (status, body) = stage.post_bearer(PATH, &json!({ "prompt": "a" })).await;
    assert_eq!((status, &body["error"]["type"]), (400, &json!("invalid_request_error")));
}

#[tokio::test]
async fn caller_that_leaves_a_stream_cancels_its_request() {
    let stage = Stage::new(Settings::default()).await;
    let mut cancelled = stage.replica.cancelled.subscribe();
    let body = json!({ "prompt": "a", "stream": true, "partial_images": 1 });
    let mut stream = stage.bearer(PATH, &body).send().await.unwrap().bytes_stream();
    assert!(stream.next().await.unwrap().is_ok(), "the preview: the replica works on it");
    drop(stream);
    tokio::time::timeout(PATIENCE, cancelled.wait_for(|count| *count == 1)).await.unwrap().unwrap();
}
