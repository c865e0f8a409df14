//! What nobody should send, and paths that are not there: a clear answer in the dialect of the path.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::stage::{PATIENCE, Stage, read};
use crate::openapi;
use crate::service::Settings;

const MODELSLAB: &str = "/api/v7/images/text-to-image";
const OPENAI: &str = "/v1/images/generations";

/// The message, wherever the path's dialect has it.
fn message(body: &Value) -> String {
    let text = body["error"]["message"].as_str().or(body["message"].as_str()).or(body["error"].as_str());
    text.unwrap_or_else(|| panic!("no message in {body}")).to_owned()
}

#[tokio::test]
async fn call_without_a_good_key_is_turned_away() {
    let stage = Stage::quick().await;
    for path in [MODELSLAB, OPENAI, "/api/v7/images/fetch/1", "/api/v4/dreambooth/model_list"] {
        for body in [json!({ "prompt": "a" }), json!({ "prompt": "a", "key": "emk_wrong" })] {
            let (status, answer) = read(stage.client.post(format!("{}{path}", stage.base)).json(&body)).await;
            assert_eq!(status, 401, "{path}: {answer}");
            assert!(message(&answer).contains("API key"), "{answer}");
        }
    }
}

#[tokio::test]
async fn requests_that_cannot_be_meant_name_what_is_wrong() {
    let stage = Stage::quick().await;
    for (fields, named) in [
        (json!({ "prompt": " " }), "prompt is required"),
        (json!({ "prompt": "a", "width": 513 }), "width must be divisible by 8"),
        (json!({ "prompt": "a", "height": 99999 }), "height must be between"),
        (json!({ "prompt": "a", "samples": 50 }), "samples must be between"),
        (json!({ "prompt": "a", "model_id": "demoo" }), "did you mean demo?"),
        (json!({ "prompt": "a", "scheduler": "Magic" }), "scheduler"),
        (json!({ "prompt": "a", "scheduler": "KarrasVeScheduler" }), "models of pixels"),
        (json!({ "prompt": "a", "init_image": "http://127.0.0.2/a.png" }), "image-to-image at this path (init_image)"),
    ] {
        let (status, answer) = stage.post(MODELSLAB, fields).await;
        assert_eq!((status, &answer["status"]), (400, &json!("error")), "{answer}");
        assert!(message(&answer).contains(named), "{answer}");
    }
    let (status, answer) = stage.post(MODELSLAB, json!({ "prompt": "a", "num_inference_steps": 1_000_000 })).await;
    assert_eq!((status, &answer["status"]), (200, &json!("success")), "absurd steps are brought into range: {answer}");
}

#[tokio::test]
async fn bodies_that_are_no_object_too_large_or_endless_are_refused() {
    let settings = Settings { body_limit_bytes: 1000, body_timeout: Duration::from_millis(50), ..Settings::default() };
    let stage = Stage::new(settings).await;
    for path in [MODELSLAB, OPENAI] {
        let post = || stage.client.post(format!("{}{path}", stage.base)).bearer_auth(&stage.key);
        for body in ["not json", "[1]", "{\"prompt\": \"cut", "{\"a\": 1, \"a\": 2}"] {
            let (status, answer) = read(post().body(body)).await;
            assert_eq!(status, 400, "{body}: {answer}");
            assert!(!message(&answer).is_empty());
        }
        assert_eq!(read(post().body("x".repeat(1001))).await.0, 413);
        let endless = futures::stream::unfold((), |()| async {
            tokio::time::sleep(PATIENCE).await;
            Some((Ok::<_, std::io::Error>("{"), ()))
        });
        assert_eq!(read(post().body(reqwest::Body::wrap_stream(endless))).await.0, 408);
    }
}

#[tokio::test]
async fn paths_that_are_not_there_say_so_in_their_dialect() {
    let stage = Stage::quick().await;
    for (method, path, status, named) in [
        (Method::POST, "/api/v7/images/controlnet", 400, "ControlNet is not supported"),
        (Method::POST, "/v1/images/variations", 400, "image variations is not supported"),
        (Method::POST, "/api/v6/images/nonsense", 404, "/openapi.json"),
        (Method::GET, "/v1/nonsense", 404, "/openapi.json"),
        (Method::GET, "/nonsense", 404, "/openapi.json"),
        (Method::GET, MODELSLAB, 405, "GET is not served"),
        (Method::DELETE, OPENAI, 405, "DELETE is not served"),
        (Method::POST, "/healthz", 405, "POST is not served"),
    ] {
        let (found, answer) = read(stage.client.request(method, format!("{}{path}", stage.base))).await;
        assert_eq!(found, status, "{path}: {answer}");
        assert!(message(&answer).contains(named), "{answer}");
    }
}

#[tokio::test]
async fn house_tells_its_health() {
    let stage = Stage::quick().await;
    for (path, named) in [("/healthz", "ok"), ("/readyz", "ready"), ("/metrics", "emulsion_"), ("/", "/api/v7/images/text-to-image")] {
        let response = stage.get(path).await;
        assert_eq!(response.status(), 200, "{path}");
        assert!(response.text().await.unwrap().contains(named), "{path}");
    }
}

#[tokio::test]
async fn router_that_leaves_serves_what_comes_and_asks_callers_to_connect_anew() {
    let stage = Stage::quick().await;
    let call = json!({"model": "demo", "prompt": "a red circle"});
    let connection = |response: &reqwest::Response| response.headers().get("connection").map(|value| value.to_str().unwrap().to_owned());
    let before = stage.bearer(OPENAI, &call).send().await.unwrap();
    assert_eq!((before.status().as_u16(), connection(&before)), (200, None));
    stage.service.leave();
    assert_eq!(stage.get("/readyz").await.status(), 503);
    let after = stage.bearer(OPENAI, &call).send().await.unwrap();
    assert_eq!((after.status().as_u16(), connection(&after)), (200, Some("close".to_owned())));
}

#[tokio::test]
async fn every_documented_operation_is_served_and_no_other() {
    let stage = Stage::quick().await;
    let document: Value = stage.get("/openapi.json").await.json().await.unwrap();
    assert_eq!(document, serde_json::to_value(openapi::document()).unwrap());
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.contains_key(MODELSLAB) && paths.contains_key(OPENAI));
    for (path, operations) in paths {
        let url = format!("{}{}", stage.base, path.replace("{id}", "1").replace("{model}", "demo").replace("{file_name}", "a.png"));
        for method in [Method::GET, Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
            let response = stage.client.request(method.clone(), &url).send().await.unwrap();
            let documented = !operations[method.as_str().to_lowercase()].is_null();
            let status = response.status().as_u16();
            assert_eq!(documented, status != 405, "{method} {path} answered {status}");
            assert!(!response.text().await.unwrap().contains("nothing is served"), "{method} {path}");
        }
    }
}
