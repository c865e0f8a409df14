//! What an import asks of the router, on the port that callers do not reach.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{post, put};
use axum::{Json, Router};
use bytes::Bytes;
use crds::ImportId;
use crds::import::IMPORTS_PATH;
use runtime_api::{CHUNKS_PATH, ChunksAsked, MANIFEST_LIMIT_BYTES, MANIFEST_PATH};
use sha2::{Digest, Sha256};

use crate::bounded_body::read_bounded;
use crate::content::Content;
use crate::content::routes::{answer, body_status, failed};

/// A question about some dozens of chunks.
const QUESTION_LIMIT_BYTES: usize = 64 * 1024;
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Clone)]
struct Door {
    content: Content,
    installation_token: String,
}

/// Serves who has the token of the import that the path names.
pub fn routes(content: Content, installation_token: &str) -> Router {
    let import = format!("{IMPORTS_PATH}/{{namespace}}/{{name}}/{{uid}}/{{generation}}");
    Router::new()
        .route(&format!("{import}{CHUNKS_PATH}"), post(places))
        .route(&format!("{import}{MANIFEST_PATH}"), put(publish))
        .with_state(Door { content, installation_token: installation_token.to_owned() })
}

type Named = Path<(String, String, String, i64)>;

async fn places(State(door): State<Door>, import: Named, headers: HeaderMap, body: Body) -> Response {
    let body = match door.let_in(import, &headers, body, QUESTION_LIMIT_BYTES).await {
        Ok((_, body)) => body,
        Err(refused) => return refused,
    };
    let Ok(asked) = serde_json::from_slice::<ChunksAsked>(&body) else {
        return answer(StatusCode::BAD_REQUEST, "the body does not ask for chunks");
    };
    door.content.places(&asked).await.map_or_else(|error| failed(&error), |places| Json(places).into_response())
}

async fn publish(State(door): State<Door>, import: Named, headers: HeaderMap, body: Body) -> Response {
    let (import, body) = match door.let_in(import, &headers, body, MANIFEST_LIMIT_BYTES).await {
        Ok(admitted) => admitted,
        Err(refused) => return refused,
    };
    match door.content.publish(body).await {
        Ok(published) => {
            tracing::info!(%import, digest = published.digest, "content is published");
            Json(published).into_response()
        }
        Err(error) => failed(&error),
    }
}

impl Door {
    /// The body, of who has the right token: nobody else's is read.
    async fn let_in(
        &self,
        Path((namespace, name, uid, generation)): Named,
        headers: &HeaderMap,
        body: Body,
        limit_bytes: usize,
    ) -> Result<(ImportId, Bytes), Response> {
        let import = ImportId { namespace, name, uid, generation };
        let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|value| value.strip_prefix("Bearer "));
        // Digests are compared: the time that takes tells nothing of the token.
        let expected = Sha256::digest(import.token(&self.installation_token).as_bytes());
        if given.is_none_or(|given| Sha256::digest(given.as_bytes()) != expected) {
            return Err(answer(StatusCode::UNAUTHORIZED, "the import's token is missing or wrong"));
        }
        match read_bounded(headers, body, limit_bytes, BODY_TIMEOUT).await {
            Ok(body) => Ok((import, body)),
            Err(error) => Err(answer(body_status(&error), &error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::http::Request;
    use tower::ServiceExt;

    use super::*;
    use crate::content::FolderContent;
    use crate::outputs::Secret;

    #[tokio::test]
    async fn an_import_has_no_say_in_another_one() {
        let folder = tempfile::tempdir().unwrap();
        let secret = Secret::from_bytes([7; 32]);
        let store = Arc::new(FolderContent::open(folder.path(), secret.clone()).unwrap());
        let routes = routes(Content::new(store, secret), "installation");
        let import = |generation| ImportId { namespace: "a".to_owned(), name: "m".to_owned(), uid: "u".to_owned(), generation };
        let ask = async |url: String, token: &str| {
            let body = serde_json::json!({"chunks": [{"sha256": "0".repeat(64), "bytes": 1}]}).to_string();
            let request = Request::post(url).header(AUTHORIZATION, format!("Bearer {token}")).body(Body::from(body)).unwrap();
            routes.clone().oneshot(request).await.unwrap().status()
        };
        let token = import(1).token("installation");
        assert_eq!(ask(import(1).url("") + CHUNKS_PATH, &token).await, StatusCode::OK);
        assert_eq!(ask(import(2).url("") + CHUNKS_PATH, &token).await, StatusCode::UNAUTHORIZED);
        for wrong in ["", "installation", &import(1).token("other")] {
            assert_eq!(ask(import(1).url("") + CHUNKS_PATH, wrong).await, StatusCode::UNAUTHORIZED, "{wrong}");
        }
    }
}
