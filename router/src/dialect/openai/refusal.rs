//! OpenAI's table of errors: one row per refusal. Its clients choose their exception by the status.

use axum::http::StatusCode;
use runtime_api::{Failure, FailureReason};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::dialect::{Answer, failure_status};
use crate::refusal::Refusal;

#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = OpenAiError)]
pub struct ErrorBody {
    pub error: ErrorDetails,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ErrorDetails {
    pub message: String,
    /// `invalid_request_error`, `authentication_error`, `rate_limit_error` or `server_error`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The field it is about.
    pub param: Option<String>,
    pub code: Option<&'static str>,
}

const INVALID_REQUEST: &str = "invalid_request_error";
const AUTHENTICATION: &str = "authentication_error";
const RATE_LIMIT: &str = "rate_limit_error";
const SERVER: &str = "server_error";

pub fn error_body(message: &str, kind: &'static str, param: Option<&str>, code: Option<&'static str>) -> Value {
    let error = ErrorDetails { message: message.to_owned(), kind, param: param.map(str::to_owned), code };
    serde_json::to_value(ErrorBody { error }).expect("an error has text keys")
}

pub fn refuse(refusal: &Refusal) -> Answer {
    let (status, kind, code) = match refusal {
        Refusal::KeyMissing | Refusal::KeyInvalid => (StatusCode::UNAUTHORIZED, AUTHENTICATION, Some("invalid_api_key")),
        Refusal::ModelUnknown { .. } => (StatusCode::NOT_FOUND, INVALID_REQUEST, Some("model_not_found")),
        Refusal::AdapterUnknown { .. } => (StatusCode::BAD_REQUEST, INVALID_REQUEST, Some("model_not_found")),
        Refusal::WrongKind { .. } => (StatusCode::BAD_REQUEST, INVALID_REQUEST, Some("invalid_value")),
        Refusal::ModelNotReady { .. } => (StatusCode::SERVICE_UNAVAILABLE, SERVER, Some("model_not_ready")),
        Refusal::Invalid { .. } => (StatusCode::BAD_REQUEST, INVALID_REQUEST, Some("invalid_value")),
        Refusal::NotSupported { .. } => (StatusCode::BAD_REQUEST, INVALID_REQUEST, Some("not_supported")),
        Refusal::GenerationUnknown { .. } => (StatusCode::NOT_FOUND, INVALID_REQUEST, Some("not_found")),
        Refusal::RateLimited { .. } => (StatusCode::TOO_MANY_REQUESTS, RATE_LIMIT, Some("rate_limit_exceeded")),
        Refusal::QuotaUsed { .. } => (StatusCode::TOO_MANY_REQUESTS, RATE_LIMIT, Some("insufficient_quota")),
        Refusal::TenantQueueFull { .. } => (StatusCode::TOO_MANY_REQUESTS, RATE_LIMIT, Some("queue_full")),
        Refusal::NoCapacity { .. } => (StatusCode::SERVICE_UNAVAILABLE, SERVER, Some("no_capacity")),
        Refusal::BodyTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, INVALID_REQUEST, Some("body_too_large")),
        Refusal::BodyTimeout { .. } => (StatusCode::REQUEST_TIMEOUT, INVALID_REQUEST, Some("body_timeout")),
        Refusal::BodyMalformed { .. } => (StatusCode::BAD_REQUEST, INVALID_REQUEST, Some("invalid_body")),
        Refusal::Internal => (StatusCode::INTERNAL_SERVER_ERROR, SERVER, Some("internal_error")),
    };
    let retry_after = match refusal {
        Refusal::RateLimited { retry_after, .. }
        | Refusal::QuotaUsed { retry_after, .. }
        | Refusal::TenantQueueFull { retry_after, .. }
        | Refusal::NoCapacity { retry_after } => Some(*retry_after),
        _ => None,
    };
    // A quota is used until its window ends: retrying now, as these clients do, only costs.
    let retry_helps = !matches!(refusal, Refusal::QuotaUsed { .. } | Refusal::ModelNotReady { .. });
    let (param, message) = in_own_words(refusal);
    Answer { status, retry_after, retry_helps, body: error_body(&message, kind, param, code) }
}

/// The field it is about and the message, with this dialect's name for the field.
fn in_own_words(refusal: &Refusal) -> (Option<&str>, String) {
    match refusal {
        Refusal::Invalid { field, message } if field == "samples" => (Some("n"), message.replacen("samples", "n", 1)),
        Refusal::Invalid { field, message } => (Some(field), message.clone()),
        Refusal::ModelUnknown { .. } => (Some("model"), refusal.to_string()),
        _ => (None, refusal.to_string()),
    }
}

/// The answer to a call whose generation failed.
pub fn refuse_failure(failure: &Failure) -> Answer {
    let (status, retry_helps) = failure_status(failure.reason);
    let (kind, code) = match failure.reason {
        FailureReason::InvalidRequest => (INVALID_REQUEST, "invalid_value"),
        FailureReason::InvalidModel => (SERVER, "model_not_ready"),
        FailureReason::Busy | FailureReason::DeadlineExceeded => (SERVER, "no_capacity"),
        FailureReason::Cancelled => (INVALID_REQUEST, "cancelled"),
        FailureReason::OutputRejected | FailureReason::Internal => (SERVER, "internal_error"),
    };
    Answer { status, retry_after: None, retry_helps, body: error_body(&failure.message, kind, None, Some(code)) }
}
