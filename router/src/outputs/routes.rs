//! HTTP over a folder of outputs: replicas PUT with a signed URL, callers GET and HEAD. The signature is checked before a byte of
//! the body is read, and neither answer ever tells more than whether that one name exists.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Deserialize;

use super::signing::OutputName;
use super::{FolderStore, OUTPUT_LIMIT_BYTES, OutputError};
use crate::bounded_body::{BodyError, read_bounded};

/// The one route of outputs, as axum spells it.
pub const OUTPUT_ROUTE: &str = "/outputs/{file_name}";
/// A replica that sends an image for longer than this is given up.
const PUT_TIMEOUT: Duration = Duration::from_secs(60);
/// An output never changes once it is there.
const CACHE_FOR_EVER: &str = "public, max-age=31536000, immutable";

/// GET, HEAD and PUT of outputs.
pub fn routes(store: Arc<FolderStore>) -> Router {
    Router::new().route(OUTPUT_ROUTE, get(get_output).put(put_output)).with_state(store)
}

/// The signature of a PUT. Optional fields: a URL without them is refused like one with wrong ones.
#[derive(Deserialize)]
struct PutQuery {
    expires: Option<u64>,
    signature: Option<String>,
}

async fn get_output(State(store): State<Arc<FolderStore>>, Path(file_name): Path<String>, headers: HeaderMap) -> Response {
    let Some(name) = OutputName::parse(&file_name) else {
        return not_there();
    };
    let etag = format!("\"{}\"", name.file_name());
    match store.read_named(&name).await {
        Ok(Some(image)) => {
            let caching = [(ETAG, etag.as_str()), (CACHE_CONTROL, CACHE_FOR_EVER), (X_CONTENT_TYPE_OPTIONS, "nosniff")];
            if is_known_to_caller(&headers, &etag) {
                return (StatusCode::NOT_MODIFIED, caching).into_response();
            }
            (caching, [(CONTENT_TYPE, name.format().media_type())], image).into_response()
        }
        Ok(None) => not_there(),
        Err(error) => failed(&error),
    }
}

fn is_known_to_caller(headers: &HeaderMap, etag: &str) -> bool {
    let Some(known) = headers.get(IF_NONE_MATCH).and_then(|value| value.to_str().ok()) else {
        return false;
    };
    known.split(',').map(|entry| entry.trim().trim_start_matches("W/")).any(|entry| entry == "*" || entry == etag)
}

async fn put_output(
    State(store): State<Arc<FolderStore>>,
    Path(file_name): Path<String>,
    query: Result<Query<PutQuery>, QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let (name, query) = match (OutputName::parse(&file_name), query) {
        (Some(name), Ok(Query(PutQuery { expires: Some(expires), signature: Some(signature) }))) => (name, (expires, signature)),
        _ => return answer(StatusCode::FORBIDDEN, "this URL is not signed for writing"),
    };
    if !store.allows_put(&name, query.0, &query.1, SystemTime::now()) {
        return answer(StatusCode::FORBIDDEN, "this URL's signature is wrong or has expired");
    }
    let image = match read_bounded(&headers, body, OUTPUT_LIMIT_BYTES, PUT_TIMEOUT).await {
        Ok(image) => image,
        Err(BodyError::TooLarge { .. }) => return failed(&OutputError::TooLarge),
        Err(BodyError::Broken) => return answer(StatusCode::BAD_REQUEST, "the image did not arrive whole"),
        Err(BodyError::TimedOut) => return answer(StatusCode::REQUEST_TIMEOUT, "the image did not arrive in time"),
    };
    match store.write(&name, image).await {
        Ok(()) => StatusCode::CREATED.into_response(),
        Err(error) => failed(&error),
    }
}

pub(super) fn not_there() -> Response {
    // Never cached: the caller may ask again in a second, when it is there.
    (StatusCode::NOT_FOUND, [(CACHE_CONTROL, "no-store")], "no such image, or not yet\n").into_response()
}

fn answer(status: StatusCode, message: &'static str) -> Response {
    (status, [(CACHE_CONTROL, "no-store")], format!("{message}\n")).into_response()
}

pub(super) fn failed(error: &OutputError) -> Response {
    let status = match error {
        OutputError::Exists => StatusCode::PRECONDITION_FAILED,
        OutputError::OtherFormat { .. } => StatusCode::BAD_REQUEST,
        OutputError::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        OutputError::Open { .. } | OutputError::Read(_) | OutputError::Write(_) | OutputError::S3(_) => {
            tracing::error!(%error, "output store failed");
            return answer(StatusCode::INTERNAL_SERVER_ERROR, "the output store failed");
        }
    };
    (status, [(CACHE_CONTROL, "no-store")], format!("{error}\n")).into_response()
}

#[cfg(test)]
mod tests {
    use axum::http::Request;
    use bytes::Bytes;
    use futures::FutureExt;
    use runtime_api::OutputFormat;
    use tower::ServiceExt;
    use uuid::Uuid;

    use super::*;
    use crate::outputs::{OutputStore, Secret};

    const GENERATION: Uuid = Uuid::from_u128(0x0192_0000_0000_7000_8000_0000_0000_0001);

    struct House {
        store: Arc<FolderStore>,
        routes: Router,
        folder: tempfile::TempDir,
    }

    fn house() -> House {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(FolderStore::open(folder.path(), Secret::from_bytes([5; 32])).unwrap());
        House { routes: routes(store.clone()), store, folder }
    }

    const PNG: OutputFormat = OutputFormat::Png;

    fn png() -> Bytes {
        file(PNG)
    }

    fn file(format: OutputFormat) -> Bytes {
        let mut bytes = std::io::Cursor::new(Vec::new());
        let kind = image::ImageFormat::from_mime_type(format.media_type()).unwrap();
        image::RgbImage::new(2, 2).write_to(&mut bytes, kind).unwrap();
        bytes.into_inner().into()
    }

    impl House {
        fn put_path(&self, image: u32, lifetime: Duration) -> String {
            self.put_path_as(image, PNG, lifetime)
        }

        fn put_path_as(&self, image: u32, format: OutputFormat, lifetime: Duration) -> String {
            self.store.signed_put_url("", GENERATION, image, format, SystemTime::now() + lifetime).now_or_never().unwrap().unwrap()
        }

        async fn send(&self, method: &str, path: &str, body: Bytes) -> (StatusCode, HeaderMap, Bytes) {
            let request = Request::builder().method(method).uri(path).body(Body::from(body)).unwrap();
            let response = self.routes.clone().oneshot(request).await.unwrap();
            let (parts, body) = response.into_parts();
            (parts.status, parts.headers, axum::body::to_bytes(body, usize::MAX).await.unwrap())
        }

        fn files(&self) -> usize {
            fn count(folder: &std::path::Path) -> usize {
                std::fs::read_dir(folder)
                    .unwrap()
                    .map(Result::unwrap)
                    .map(|entry| if entry.path().is_dir() { count(&entry.path()) } else { 1 })
                    .sum()
            }
            count(self.folder.path())
        }
    }

    #[tokio::test]
    async fn output_is_404_until_it_is_put_and_then_served_for_ever() {
        let house = house();
        let path = house.store.public_path(GENERATION, 0, PNG);
        let (status, headers, _) = house.send("GET", &path, Bytes::new()).await;
        assert_eq!((status, headers[CACHE_CONTROL].to_str().unwrap()), (StatusCode::NOT_FOUND, "no-store"));
        assert_eq!(house.send("PUT", &house.put_path(0, PUT_TIMEOUT), png()).await.0, StatusCode::CREATED);
        let (status, headers, body) = house.send("GET", &path, Bytes::new()).await;
        assert_eq!((status, &body), (StatusCode::OK, &png()));
        assert_eq!(headers[CONTENT_TYPE], "image/png");
        assert!(headers[CACHE_CONTROL].to_str().unwrap().contains("immutable"));
        let (status, headers, body) = house.send("HEAD", &path, Bytes::new()).await;
        assert_eq!((status, body.len()), (StatusCode::OK, 0));
        assert_eq!(headers["content-length"].to_str().unwrap(), png().len().to_string());
        assert_eq!(house.store.read(GENERATION, 0, PNG).await.unwrap(), Some(png()));
        assert!(house.store.exists(GENERATION, 0, PNG).await.unwrap());
        assert!(!house.store.exists(GENERATION, 1, PNG).await.unwrap());
    }

    #[tokio::test]
    async fn caller_that_has_the_image_is_told_so() {
        let house = house();
        let path = house.store.public_path(GENERATION, 0, PNG);
        house.send("PUT", &house.put_path(0, PUT_TIMEOUT), png()).await;
        let (_, headers, _) = house.send("GET", &path, Bytes::new()).await;
        let request = Request::get(&path).header(IF_NONE_MATCH, headers[ETAG].clone()).body(Body::empty()).unwrap();
        assert_eq!(house.routes.clone().oneshot(request).await.unwrap().status(), StatusCode::NOT_MODIFIED);
    }

    #[tokio::test]
    async fn second_put_is_refused_and_changes_nothing() {
        let house = house();
        house.send("PUT", &house.put_path(0, PUT_TIMEOUT), png()).await;
        let mut other = std::io::Cursor::new(Vec::new());
        image::RgbImage::new(3, 3).write_to(&mut other, image::ImageFormat::Png).unwrap();
        let (status, _, _) = house.send("PUT", &house.put_path(0, PUT_TIMEOUT), other.into_inner().into()).await;
        assert_eq!(status, StatusCode::PRECONDITION_FAILED);
        assert_eq!(house.store.read(GENERATION, 0, PNG).await.unwrap(), Some(png()));
        assert_eq!(house.files(), 1, "nothing unfinished stays behind");
    }

    #[tokio::test]
    async fn put_without_a_good_signature_is_refused() {
        let house = house();
        let signed = house.put_path(0, PUT_TIMEOUT);
        let (path, query) = signed.split_once('?').unwrap();
        let expired = house.store.signed_put_url("", GENERATION, 0, PNG, SystemTime::UNIX_EPOCH + PUT_TIMEOUT).await.unwrap();
        let other_image = format!("{}?{query}", house.store.public_path(GENERATION, 1, PNG));
        for refused in [path.to_owned(), expired, other_image, format!("{path}?expires=x&signature=y"), format!("{signed}0")] {
            assert_eq!(house.send("PUT", &refused, png()).await.0, StatusCode::FORBIDDEN, "{refused}");
        }
        assert_eq!(house.files(), 0);
    }

    #[tokio::test]
    async fn each_format_is_taken_at_its_own_name_alone_and_served_as_what_it_is() {
        let house = house();
        for (image, format) in (0..).zip(OutputFormat::ALL) {
            let path = house.put_path_as(image, format, PUT_TIMEOUT);
            for other in OutputFormat::ALL.into_iter().filter(|other| *other != format) {
                let (status, _, body) = house.send("PUT", &path, file(other)).await;
                assert_eq!(status, StatusCode::BAD_REQUEST);
                assert!(String::from_utf8_lossy(&body).contains(format.name()), "{body:?}");
                let renamed = path.replace(&format!(".{}?", format.extension()), &format!(".{}?", other.extension()));
                assert_eq!(house.send("PUT", &renamed, file(other)).await.0, StatusCode::FORBIDDEN, "{renamed}");
            }
            assert_eq!(house.send("PUT", &path, file(format)).await.0, StatusCode::CREATED);
            let (status, headers, body) = house.send("GET", &house.store.public_path(GENERATION, image, format), Bytes::new()).await;
            assert_eq!((status, &body), (StatusCode::OK, &file(format)));
            assert_eq!(headers[CONTENT_TYPE], format.media_type());
        }
    }

    #[tokio::test]
    async fn what_is_no_whole_png_is_refused() {
        let house = house();
        let cut = png().slice(..png().len() - 1);
        for bytes in [Bytes::new(), Bytes::from_static(b"<html>"), cut] {
            assert_eq!(house.send("PUT", &house.put_path(0, PUT_TIMEOUT), bytes).await.0, StatusCode::BAD_REQUEST);
        }
        assert_eq!(house.files(), 0);
    }

    #[tokio::test]
    async fn put_that_announces_too_much_is_refused() {
        let house = house();
        let request =
            Request::put(house.put_path(0, PUT_TIMEOUT)).header("content-length", OUTPUT_LIMIT_BYTES + 1).body(Body::empty()).unwrap();
        assert_eq!(house.routes.clone().oneshot(request).await.unwrap().status(), StatusCode::PAYLOAD_TOO_LARGE);
    }

    #[tokio::test]
    async fn paths_of_the_callers_own_making_reach_no_file() {
        let house = house();
        std::fs::write(house.folder.path().join("secret.png"), png()).unwrap();
        for path in ["/outputs/secret.png", "/outputs/..%2fsecret.png", "/outputs/%2e%2e%2fsecret.png", "/outputs/unfinished"] {
            assert_eq!(house.send("GET", path, Bytes::new()).await.0, StatusCode::NOT_FOUND, "{path}");
        }
    }

    #[tokio::test]
    async fn reopening_keeps_outputs_and_removes_what_was_unfinished() {
        let house = house();
        house.send("PUT", &house.put_path(0, PUT_TIMEOUT), png()).await;
        std::fs::write(house.folder.path().join("unfinished").join("half"), b"half").unwrap();
        let reopened = FolderStore::open(house.folder.path(), Secret::from_bytes([5; 32])).unwrap();
        assert_eq!(reopened.read(GENERATION, 0, PNG).await.unwrap(), Some(png()));
        assert_eq!(house.files(), 1);
    }
}
