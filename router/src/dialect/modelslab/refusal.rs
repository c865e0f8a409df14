//! ModelsLab's table of errors: one row per refusal, its status as the vendor documents it.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::dialect::Answer;
use crate::refusal::{Refusal, seconds};

/// An error. Both spellings of the message are sent, since clients read either.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
#[schema(as = ErrorAnswer)]
pub struct ErrorBody {
    /// `error`.
    pub status: &'static str,
    pub message: String,
    pub messege: String,
    /// The message under the field it is about. Beside `message` and not in it, where it would break clients.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub errors: BTreeMap<String, Vec<String>>,
    /// Seconds after which another try makes sense.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
}

/// An error that is about no field.
pub fn error_body(message: &str) -> Value {
    to_value(&ErrorBody { status: "error", message: message.to_owned(), messege: message.to_owned(), ..ErrorBody::default() })
}

pub fn refuse(refusal: &Refusal) -> Answer {
    let (status, retry_after, retry_helps) = match refusal {
        Refusal::KeyMissing | Refusal::KeyInvalid => (StatusCode::UNAUTHORIZED, None, false),
        Refusal::ModelUnknown { .. }
        | Refusal::AdapterUnknown { .. }
        | Refusal::WrongKind { .. }
        | Refusal::Invalid { .. }
        | Refusal::NotSupported { .. }
        | Refusal::BodyMalformed { .. } => (StatusCode::BAD_REQUEST, None, false),
        Refusal::ModelNotReady { .. } => (StatusCode::SERVICE_UNAVAILABLE, None, false),
        Refusal::GenerationUnknown { .. } => (StatusCode::NOT_FOUND, None, false),
        Refusal::RateLimited { retry_after, .. }
        | Refusal::QuotaUsed { retry_after, .. }
        | Refusal::TenantQueueFull { retry_after, .. } => (StatusCode::TOO_MANY_REQUESTS, Some(*retry_after), true),
        Refusal::NoCapacity { retry_after } => (StatusCode::SERVICE_UNAVAILABLE, Some(*retry_after), true),
        Refusal::BodyTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, None, false),
        Refusal::BodyTimeout { .. } => (StatusCode::REQUEST_TIMEOUT, None, true),
        Refusal::Internal => (StatusCode::INTERNAL_SERVER_ERROR, None, true),
    };
    let message = refusal.to_string();
    let errors = match refusal {
        Refusal::Invalid { field, message } => BTreeMap::from([(field.clone(), vec![message.clone()])]),
        _ => BTreeMap::new(),
    };
    let body = ErrorBody { status: "error", messege: message.clone(), message, errors, retry_after: retry_after.as_ref().map(seconds) };
    Answer { status, retry_after, retry_helps, body: to_value(&body) }
}

pub(super) fn to_value(body: &impl Serialize) -> Value {
    serde_json::to_value(body).expect("answers have text keys and finite numbers")
}
