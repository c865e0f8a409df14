//! `POST` of a dispatch, answered with its events as they happen.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use runtime_api::{Dispatch, Event, FailureReason};

use super::{House, refusal, status};

/// A dispatch is prompts, signed URLs and metadata.
const MAX_BODY_BYTES: usize = 8 << 20;
/// A router sends a dispatch at once; a body that does not end is no dispatch.
const BODY_TIMEOUT: Duration = Duration::from_secs(20);
/// How often a stream says that it lives while nothing happens, so that either side notices when the other is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

pub(super) async fn create(State(house): State<Arc<House>>, body: Body) -> Response {
    let dispatch = match read(body).await {
        Ok(dispatch) => dispatch,
        Err((status, message)) => return refusal(status, FailureReason::InvalidRequest, message),
    };
    match house.replica.submit(dispatch).await {
        Ok(feed) => {
            let events = feed.into_stream().map(|event| Ok::<_, Infallible>(server_sent(&event)));
            Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
        }
        Err(failure) => refusal(status(failure.reason), failure.reason, failure.message),
    }
}

async fn read(body: Body) -> Result<Dispatch, (StatusCode, String)> {
    let Ok(read) = tokio::time::timeout(BODY_TIMEOUT, to_bytes(body, MAX_BODY_BYTES)).await else {
        return Err((StatusCode::REQUEST_TIMEOUT, "the body did not end in time".to_owned()));
    };
    let bytes = read.map_err(|_| (StatusCode::PAYLOAD_TOO_LARGE, format!("the body is cut off or larger than {MAX_BODY_BYTES} bytes")))?;
    serde_json::from_slice(&bytes).map_err(|error| (StatusCode::BAD_REQUEST, format!("the body is not a dispatch: {error}")))
}

fn server_sent(event: &Event) -> sse::Event {
    let name = match event {
        Event::Queued { .. } => "queued",
        Event::Loading { .. } => "loading",
        Event::Step { .. } => "step",
        Event::Preview { .. } => "preview",
        Event::Done { .. } => "done",
        Event::Failed(_) => "failed",
    };
    // Events are numbers and strings: they always have a JSON form.
    sse::Event::default().event(name).data(serde_json::to_string(event).unwrap_or_default())
}
