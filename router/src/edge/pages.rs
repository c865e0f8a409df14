//! The house's own pages: health for machines, a greeting for people.

use std::sync::OnceLock;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

use crate::openapi;
use crate::service::Service;

const GREETING: &str = "\
Emulsion makes images with Stable Diffusion.

  POST /api/v7/images/text-to-image   {\"key\": \"…\", \"model_id\": \"demo\", \"prompt\": \"a red circle on a blue background\"}
  POST /api/v7/images/image-to-image  the same and \"init_image\": \"https://…\" or base64
  POST /api/v7/images/fetch/{id}      {\"key\": \"…\"}
  POST /v1/images/generations         {\"prompt\": \"…\"} with Authorization: Bearer …
  POST /v1/images/edits               prompt=… and image=… as a multipart form
  GET  /v1/models                     what can be named

Everything that is served: GET /openapi.json. Health: /healthz, /readyz, /metrics.
";

pub(super) async fn index() -> &'static str {
    GREETING
}

/// Whether this process answers at all.
pub(super) async fn health() -> &'static str {
    "ok\n"
}

/// Whether calls can be served; no replica needs to run for that.
pub(super) async fn ready(State(service): State<Service>) -> Response {
    if service.is_ready() { "ready\n".into_response() } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready\n").into_response() }
}

pub(super) async fn metrics(State(service): State<Service>) -> Response {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], service.render_metrics()).into_response()
}

pub(super) async fn openapi() -> Response {
    static DOCUMENT: OnceLock<String> = OnceLock::new();
    let document = DOCUMENT.get_or_init(|| openapi::document().to_json().expect("the document has text keys"));
    ([(CONTENT_TYPE, "application/json")], document.as_str()).into_response()
}
