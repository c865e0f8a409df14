//! HTTP over the content store: replicas GET listings, and from a folder chunks, too; imports PUT chunks into a folder. All with signed URLs:
//! without a good signature nobody learns even whether something exists.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use runtime_api::CHUNK_BYTES;
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio_util::io::ReaderStream;

use super::{Content, ContentError, FolderContent};
use crate::bounded_body::{BodyError, read_bounded};
use crate::sha256_name::Sha256Name;

/// Chunks that are in memory at once while imports bring them.
const PUTS_AT_ONCE: usize = 8;
/// An import that sends a chunk for longer than this is given up.
const PUT_TIMEOUT: Duration = Duration::from_secs(120);

/// Optional fields: a URL without them is refused like one with wrong ones.
#[derive(Deserialize)]
struct Signed {
    expires: Option<u64>,
    signature: Option<String>,
}

/// Of a replica that did not find a chunk where the listing said.
#[derive(Deserialize)]
struct Looking {
    #[serde(default)]
    look: bool,
}

/// GET of listings.
pub fn listing_routes(content: Content) -> Router {
    Router::new().route("/content/manifests/{digest}", get(get_listing)).with_state(content)
}

/// GET and PUT of a folder's chunks.
pub fn folder_routes(folder: Arc<FolderContent>) -> Router {
    let state = Folder { folder, puts: Arc::new(Semaphore::new(PUTS_AT_ONCE)) };
    Router::new().route("/content/chunks/{sha256}", get(get_chunk).put(put_chunk)).with_state(state)
}

#[derive(Clone)]
struct Folder {
    folder: Arc<FolderContent>,
    puts: Arc<Semaphore>,
}

async fn get_listing(
    State(content): State<Content>,
    Path(digest): Path<String>,
    signed: Result<Query<Signed>, QueryRejection>,
    looking: Result<Query<Looking>, QueryRejection>,
) -> Response {
    let allow = |expires, signature: &str| content.links().allow(&digest, expires, signature);
    let (Some(name), true) = (Sha256Name::parse(&digest), is_good(signed, allow)) else { return forbidden() };
    let look = looking.is_ok_and(|Query(Looking { look })| look);
    match content.listing(name, look).await {
        Ok(Some(listing)) => ([(CACHE_CONTROL, "no-store")], Json(listing)).into_response(),
        Ok(None) => answer(StatusCode::NOT_FOUND, "no such content"),
        Err(error) => failed(&error),
    }
}

async fn get_chunk(State(state): State<Folder>, Path(sha256): Path<String>, signed: Result<Query<Signed>, QueryRejection>) -> Response {
    let Some(name) = Sha256Name::parse(&sha256) else { return forbidden() };
    if !is_good(signed, |expires, signature| state.folder.allows_get(&name, expires, signature)) {
        return forbidden();
    }
    match state.folder.open_chunk(&name).await {
        Ok(Some((file, bytes))) => {
            let headers = [(CONTENT_TYPE, "application/octet-stream".to_owned()), (CONTENT_LENGTH, bytes.to_string())];
            (headers, Body::from_stream(ReaderStream::with_capacity(file, 1 << 16))).into_response()
        }
        Ok(None) => answer(StatusCode::NOT_FOUND, "no such chunk"),
        Err(error) => failed(&error),
    }
}

async fn put_chunk(
    State(state): State<Folder>,
    Path(sha256): Path<String>,
    signed: Result<Query<Signed>, QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let Some(name) = Sha256Name::parse(&sha256) else { return forbidden() };
    if !is_good(signed, |expires, signature| state.folder.allows_put(&name, expires, signature)) {
        return forbidden();
    }
    let Ok(_room) = state.puts.acquire().await else { return answer(StatusCode::SERVICE_UNAVAILABLE, "the router stops") };
    let bytes = match read_bounded(&headers, body, CHUNK_BYTES as usize, PUT_TIMEOUT).await {
        Ok(bytes) => bytes,
        Err(error) => return answer(body_status(&error), &error.to_string()),
    };
    match state.folder.write_chunk(name, bytes).await {
        Ok(()) => StatusCode::CREATED.into_response(),
        Err(error) => failed(&error),
    }
}

fn is_good(signed: Result<Query<Signed>, QueryRejection>, allow: impl FnOnce(u64, &str) -> bool) -> bool {
    match signed {
        Ok(Query(Signed { expires: Some(expires), signature: Some(signature) })) => allow(expires, &signature),
        _ => false,
    }
}

pub(crate) fn body_status(error: &BodyError) -> StatusCode {
    match error {
        BodyError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        BodyError::TimedOut => StatusCode::REQUEST_TIMEOUT,
        BodyError::Broken => StatusCode::BAD_REQUEST,
    }
}

/// What went wrong, for whoever asked; what is the store's own fault is told without its paths.
pub(crate) fn failed(error: &ContentError) -> Response {
    if error.is_refusal() {
        return answer(StatusCode::BAD_REQUEST, &error.to_string());
    }
    tracing::error!("{error}");
    match error {
        ContentError::Full => answer(StatusCode::INSUFFICIENT_STORAGE, "no space is left in the content store"),
        _ => answer(StatusCode::INTERNAL_SERVER_ERROR, "the content store failed; the router's log says how"),
    }
}

fn forbidden() -> Response {
    answer(StatusCode::FORBIDDEN, "this URL is not signed for this, or has expired")
}

pub(crate) fn answer(status: StatusCode, message: &str) -> Response {
    (status, [(CACHE_CONTROL, "no-store")], format!("{message}\n")).into_response()
}
