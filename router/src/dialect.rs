//! The languages that callers speak. A dialect is a pure translation: fields → [`Submission`](crate::generation::Submission) or
//! [`Refusal`], and [`Generation`](crate::generation::Generation) or [`Refusal`] → answer. It reads no sockets, asks no service, and
//! knows no clock; the edge does that.

use std::time::Duration;

use axum::http::StatusCode;
use bytes::Bytes;
use runtime_api::FailureReason;
use serde_json::{Map, Value, json};

use crate::refusal::Refusal;

pub mod adapters;
pub mod cold_start;
pub mod extension;
pub mod fields;
pub mod lenient;
pub mod modelslab;
pub mod not_supported;
pub mod openai;
pub mod pictures;
mod safety;
pub mod sampler;

/// The fields of one call, from its body and its query.
pub type Fields = Map<String, Value>;

/// Everything that one call brings.
#[derive(Clone, Debug, Default)]
pub struct Content {
    pub fields: Fields,
    /// The file parts of a multipart body.
    pub files: Vec<FilePart>,
}

impl From<Fields> for Content {
    fn from(fields: Fields) -> Self {
        Self { fields, files: Vec::new() }
    }
}

/// A file of a multipart body. What its sender calls it, name and type, is not kept.
#[derive(Clone, Debug)]
pub struct FilePart {
    /// The field's.
    pub name: String,
    pub bytes: Bytes,
}

/// What is sent back: everything but the connection.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub status: StatusCode,
    /// Sent as `Retry-After`, in whole seconds.
    pub retry_after: Option<Duration>,
    /// False where trying again cannot help, even if the status looks so; sent as `x-should-retry: false`, which OpenAI's clients obey.
    pub retry_helps: bool,
    pub body: Value,
}

impl Answer {
    pub fn new(status: StatusCode, body: Value) -> Self {
        Self { status, retry_after: None, retry_helps: true, body }
    }

    /// The answer with status 200.
    pub fn success(body: Value) -> Self {
        Self::new(StatusCode::OK, body)
    }
}

/// Whose shape an error takes when no handler of a dialect was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    ModelsLab,
    OpenAi,
    /// The house's own pages: health, metrics, outputs.
    Plain,
}

impl Dialect {
    /// The dialect that speaks at a path.
    pub fn of_path(path: &str) -> Self {
        if path.starts_with("/api/") {
            Self::ModelsLab
        } else if path.starts_with("/v1/") {
            Self::OpenAi
        } else {
            Self::Plain
        }
    }

    pub fn refuse(self, refusal: &Refusal) -> Answer {
        match self {
            Self::ModelsLab => modelslab::refuse(refusal),
            Self::OpenAi => openai::refuse(refusal),
            Self::Plain => Answer { body: json!({ "error": refusal.to_string() }), ..modelslab::refuse(refusal) },
        }
    }

    /// For what is no refusal of the house: a path or a method that nobody serves.
    pub fn unrouted(self, status: StatusCode, message: &str) -> Answer {
        let body = match self {
            Self::ModelsLab => modelslab::error_body(message),
            Self::OpenAi => openai::error_body(message, "invalid_request_error", None, None),
            Self::Plain => json!({ "error": message }),
        };
        Answer::new(status, body)
    }
}

/// The status of a synchronous call whose generation failed, the same in every dialect, and whether trying again can help.
pub fn failure_status(reason: FailureReason) -> (StatusCode, bool) {
    match reason {
        FailureReason::InvalidRequest => (StatusCode::BAD_REQUEST, false),
        // The request was good and the house's model is not: an administrator must mend it.
        FailureReason::InvalidModel => (StatusCode::SERVICE_UNAVAILABLE, false),
        FailureReason::Busy | FailureReason::DeadlineExceeded => (StatusCode::SERVICE_UNAVAILABLE, true),
        // Only another call of the same caller cancels what somebody waits for.
        FailureReason::Cancelled => (StatusCode::CONFLICT, false),
        FailureReason::OutputRejected | FailureReason::Internal => (StatusCode::INTERNAL_SERVER_ERROR, true),
    }
}
