//! HTTP over a folder of inputs: replicas GET with a signed URL. Without a good signature nobody learns even whether an input exists.

use std::sync::Arc;
use std::time::SystemTime;

use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Deserialize;

use super::FolderInputs;
use crate::sha256_name::Sha256Name;

/// The one route of inputs, as axum spells it.
pub const INPUT_ROUTE: &str = "/inputs/{sha256}";

/// GET and HEAD of inputs.
pub fn routes(inputs: Arc<FolderInputs>) -> Router {
    Router::new().route(INPUT_ROUTE, get(get_input)).with_state(inputs)
}

/// Optional fields: a URL without them is refused like one with wrong ones.
#[derive(Deserialize)]
struct GetQuery {
    expires: Option<u64>,
    signature: Option<String>,
}

async fn get_input(
    State(inputs): State<Arc<FolderInputs>>,
    Path(sha256): Path<String>,
    query: Result<Query<GetQuery>, QueryRejection>,
) -> Response {
    let (Some(name), Ok(Query(GetQuery { expires: Some(expires), signature: Some(signature) }))) = (Sha256Name::parse(&sha256), query)
    else {
        return answer(StatusCode::FORBIDDEN, "this URL is not signed for reading");
    };
    if !inputs.allows_get(&name, expires, &signature, SystemTime::now()) {
        return answer(StatusCode::FORBIDDEN, "this URL's signature is wrong or has expired");
    }
    match inputs.read(&name).await {
        // What a caller sent is never shown as what it claims to be.
        Ok(Some(bytes)) => {
            ([(CONTENT_TYPE, "application/octet-stream"), (X_CONTENT_TYPE_OPTIONS, "nosniff"), (CACHE_CONTROL, "no-store")], bytes)
                .into_response()
        }
        Ok(None) => answer(StatusCode::NOT_FOUND, "no such input"),
        Err(error) => {
            tracing::error!("{error}");
            answer(StatusCode::INTERNAL_SERVER_ERROR, "the store of inputs failed")
        }
    }
}

fn answer(status: StatusCode, message: &'static str) -> Response {
    (status, [(CACHE_CONTROL, "no-store")], format!("{message}\n")).into_response()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use bytes::Bytes;
    use tower::ServiceExt;

    use super::*;
    use crate::inputs::InputStore;
    use crate::outputs::Secret;

    #[tokio::test]
    async fn inputs_are_read_with_their_own_good_signature_alone() {
        let folder = tempfile::tempdir().unwrap();
        let inputs = Arc::new(FolderInputs::open(folder.path(), Secret::from_bytes([5; 32])).unwrap());
        let get = async |path: &str| {
            let response = routes(Arc::clone(&inputs)).oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
            (response.status().as_u16(), to_bytes(response.into_body(), 1000).await.unwrap())
        };
        let (name, other) = (inputs.put(Bytes::from_static(b"abc")).await.unwrap(), inputs.put(Bytes::from_static(b"def")).await.unwrap());
        let soon = SystemTime::now() + Duration::from_secs(60);
        let signed = inputs.signed_get_url("", &name, soon).await.unwrap();
        assert_eq!(get(&signed).await, (200, Bytes::from_static(b"abc")));
        let (path, query) = signed.split_once('?').unwrap();
        let expired = inputs.signed_get_url("", &name, SystemTime::UNIX_EPOCH).await.unwrap();
        for refused in [path.to_owned(), expired, format!("/inputs/{other}?{query}"), format!("{signed}0"), format!("/inputs/..?{query}")] {
            assert_eq!(get(&refused).await.0, 403, "{refused}");
        }
        assert_eq!(get(&inputs.signed_get_url("", &"0".repeat(64), soon).await.unwrap()).await.0, 404);
        assert_eq!(get(&inputs.signed_get_url("", "../../secret", soon).await.unwrap()).await.0, 404, "a bad name is the name of nothing");
    }
}
