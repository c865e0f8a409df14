//! One attempt: hands a dispatch to a replica and follows its events to their end. Dropping the future closes the stream, which cancels
//! the work at the replica's next step.

use std::time::Duration;

use futures::StreamExt;
use reqwest::{Client, Response, StatusCode};
use runtime_api::{Dispatch, Event, Failure, FailureReason, GENERATIONS_PATH};
use tokio::time::timeout;

use super::sse::SseParser;
use crate::replicas::Endpoint;

/// Replicas send a comment every 5 seconds; one that says nothing for this long hangs, or its node is gone.
const STREAM_SILENCE: Duration = Duration::from_secs(20);
/// Bytes of a refusal's body that are read.
const REFUSAL_LIMIT_BYTES: usize = 64 * 1024;
/// To reach a replica at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// What a replica may take beyond its deadline before it counts as broken.
const DEADLINE_GRACE: Duration = Duration::from_secs(30);

/// How an attempt ended.
#[derive(Debug)]
pub(super) enum AttemptEnd {
    Done,
    /// The replica said why.
    Failed(Failure),
    /// The stream was cut, or never began: the replica is gone or sick.
    Broken(String),
}

/// The client for all replicas: no proxy stands before them, and nothing redirects.
pub(super) fn client() -> Result<Client, reqwest::Error> {
    Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).connect_timeout(CONNECT_TIMEOUT).build()
}

/// Sends the dispatch and passes each event on, the last one included.
pub(super) async fn attempt(client: &Client, endpoint: &Endpoint, dispatch: &Dispatch, on_event: impl FnMut(Event) + Send) -> AttemptEnd {
    let within = Duration::from_millis(dispatch.deadline_ms) + DEADLINE_GRACE;
    match timeout(within, follow(client, endpoint, dispatch, on_event)).await {
        Ok(end) => end,
        Err(_) => AttemptEnd::Broken(format!("it did not end within {} s", within.as_secs())),
    }
}

async fn follow(client: &Client, endpoint: &Endpoint, dispatch: &Dispatch, mut on_event: impl FnMut(Event) + Send) -> AttemptEnd {
    let request = client.post(format!("{}{GENERATIONS_PATH}", endpoint.base_url)).bearer_auth(&endpoint.token).json(dispatch).send();
    let response = match timeout(STREAM_SILENCE, request).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => return AttemptEnd::Broken(describe(&error)),
        Err(_) => return AttemptEnd::Broken("it did not answer".to_owned()),
    };
    if response.status() != StatusCode::OK {
        return refusal(response).await;
    }
    let mut parser = SseParser::default();
    let mut chunks = response.bytes_stream();
    loop {
        let chunk = match timeout(STREAM_SILENCE, chunks.next()).await {
            Ok(Some(Ok(chunk))) => chunk,
            Ok(Some(Err(error))) => return AttemptEnd::Broken(describe(&error)),
            Ok(None) => return AttemptEnd::Broken("its stream ended before the images were done".to_owned()),
            Err(_) => return AttemptEnd::Broken(format!("it was silent for {} s", STREAM_SILENCE.as_secs())),
        };
        let events = match parser.push(&chunk) {
            Ok(events) => events,
            Err(error) => return AttemptEnd::Broken(error.to_string()),
        };
        for data in events {
            match serde_json::from_str::<Event>(&data) {
                Ok(Event::Failed(failure)) => return AttemptEnd::Failed(failure),
                Ok(event) => {
                    let is_done = matches!(event, Event::Done { .. });
                    on_event(event);
                    if is_done {
                        return AttemptEnd::Done;
                    }
                }
                // A newer replica may tell what this router does not know.
                Err(error) => tracing::debug!("an event was not understood: {error}"),
            }
        }
    }
}

/// A status other than 200 comes with a failure as JSON.
async fn refusal(response: Response) -> AttemptEnd {
    let status = response.status();
    let mut body = Vec::new();
    let mut chunks = response.bytes_stream();
    while let Ok(Some(Ok(chunk))) = timeout(STREAM_SILENCE, chunks.next()).await {
        body.extend_from_slice(&chunk);
        if body.len() > REFUSAL_LIMIT_BYTES {
            break;
        }
    }
    match serde_json::from_slice::<Failure>(&body) {
        // A wrong token is no word about the request: the replica belongs to somebody else.
        Ok(failure) if status != StatusCode::UNAUTHORIZED => AttemptEnd::Failed(failure),
        _ if status == StatusCode::SERVICE_UNAVAILABLE => {
            AttemptEnd::Failed(Failure { reason: FailureReason::Busy, message: "the replica is busy".to_owned() })
        }
        _ => AttemptEnd::Broken(format!("it answered {status}")),
    }
}

/// An error with its causes, and without the address: that is the log line's business.
fn describe(error: &reqwest::Error) -> String {
    let mut text = String::new();
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
