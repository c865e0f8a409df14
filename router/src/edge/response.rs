//! Answers of the dialects as HTTP.

use axum::Json;
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, RETRY_AFTER};
use axum::response::{IntoResponse, Response};

use crate::dialect::Answer;
use crate::refusal::seconds;

pub(super) fn respond(answer: Answer) -> Response {
    let mut response = (answer.status, Json(answer.body)).into_response();
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(after) = &answer.retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds(after)));
    }
    if !answer.retry_helps {
        headers.insert("x-should-retry", HeaderValue::from_static("false"));
    }
    response
}
