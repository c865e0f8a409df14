//! What every content store keeps to, in one test for all of them.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Method, Request, StatusCode};
use bytes::Bytes;
use runtime_api::{CHUNK_BYTES, ChunkAsked, ChunkPlace, ChunksAsked, ContentFile, ContentManifest};
use tower::ServiceExt;

use super::{Content, ContentError, Document, FolderContent, S3Content, folder_routes, listing_routes};
use crate::outputs::Secret;
use crate::s3;
use crate::sha256_name::Sha256Name;

/// A store and how its URLs are reached.
pub(super) struct Stage {
    pub(super) content: Content,
    pub(super) routes: Router,
}

pub(super) fn secret() -> Secret {
    Secret::from_bytes([7; 32])
}

pub(super) fn in_folder(folder: &std::path::Path) -> Stage {
    let store = Arc::new(FolderContent::open(folder, secret()).unwrap());
    let content = Content::new(Arc::clone(&store) as _, secret());
    let routes = folder_routes(store).merge(listing_routes(content.clone()));
    Stage { content, routes }
}

impl Stage {
    pub(super) async fn send(&self, method: Method, url: &str, headers: &[(String, String)], body: Bytes) -> (StatusCode, Bytes) {
        if url.starts_with("http://") {
            let mut request = reqwest::Client::builder().no_proxy().build().unwrap().request(method, url).body(body);
            for (name, value) in headers {
                request = request.header(name, value);
            }
            let answer = request.send().await.unwrap();
            return (answer.status(), answer.bytes().await.unwrap());
        }
        let request = Request::builder().method(method).uri(url).body(Body::from(body)).unwrap();
        let answer = self.routes.clone().oneshot(request).await.unwrap();
        (answer.status(), to_bytes(answer.into_body(), 1 << 30).await.unwrap())
    }

    pub(super) async fn place(&self, bytes: &Bytes) -> ChunkPlace {
        let asked = ChunkAsked { sha256: Sha256Name::of(bytes).text(), bytes: bytes.len() as u64 };
        self.content.places(&ChunksAsked { chunks: vec![asked] }).await.unwrap().remove(0)
    }

    pub(super) async fn put(&self, place: &ChunkPlace, bytes: Bytes) -> StatusCode {
        self.send(Method::PUT, place.put_url.as_ref().unwrap(), &place.headers, bytes).await.0
    }
}

/// A file of two chunks, the second one short.
fn file() -> Bytes {
    let mut bytes = vec![b'a'; CHUNK_BYTES as usize];
    bytes.extend(b"the rest");
    bytes.into()
}

pub(super) fn manifest(file: &Bytes) -> Bytes {
    let chunks = file.chunks(CHUNK_BYTES as usize).map(|chunk| Sha256Name::of(chunk).text()).collect();
    let sha256 = Sha256Name::of(file).text();
    let name = "model.safetensors".to_owned();
    let file = ContentFile { name: name.clone(), bytes: file.len() as u64, sha256: sha256.clone(), chunks };
    let (tensors, weight_bytes) = (1, 1);
    let manifest =
        ContentManifest { files: vec![file], model: name, config: None, family: None, sampler: None, tensors, weight_bytes, sha256 };
    serde_json::to_vec(&manifest).unwrap().into()
}

async fn keeps_the_contract(stage: &Stage) {
    let file = file();
    let chunks: Vec<Bytes> = vec![file.slice(..CHUNK_BYTES as usize), file.slice(CHUNK_BYTES as usize..)];
    let manifest = manifest(&file);
    let digest = Sha256Name::of(&manifest);
    assert!(matches!(stage.content.publish(manifest.clone()).await, Err(ContentError::ChunkMissing { .. })), "nothing is there");

    let place = stage.place(&chunks[0]).await;
    assert!(!stage.put(&place, chunks[1].clone()).await.is_success(), "other bytes than those of its name");
    assert!(stage.put(&place, chunks[0].clone()).await.is_success());
    assert_eq!(stage.place(&chunks[0]).await.put_url, None, "what is there need not come again");
    let Err(ContentError::ChunkMissing { chunk }) = stage.content.publish(manifest.clone()).await else {
        panic!("half an import is visible")
    };
    assert_eq!(chunk, Sha256Name::of(&chunks[1]).text());
    assert_eq!(stage.content.listing(digest, false).await.unwrap(), None);
    assert!(stage.put(&stage.place(&chunks[1]).await, chunks[1].clone()).await.is_success());
    assert_eq!(stage.content.publish(manifest.clone()).await.unwrap().digest, digest.text());
    assert_eq!(stage.content.publish(manifest.clone()).await.unwrap().digest, digest.text(), "it may be published again");

    let source = stage.content.links().source("", &digest.text(), SystemTime::now() + Duration::from_secs(60));
    let (status, listing) = stage.send(Method::GET, &source.listing_url, &[], Bytes::new()).await;
    assert_eq!(status, StatusCode::OK);
    let listing: runtime_api::ContentListing = serde_json::from_slice(&listing).unwrap();
    assert_eq!(Sha256Name::of(listing.manifest.as_bytes()), digest);
    for (url, chunk) in listing.chunk_urls[0].iter().zip(&chunks) {
        assert_eq!(stage.send(Method::GET, url, &[], Bytes::new()).await, (StatusCode::OK, chunk.clone()));
    }
    assert_eq!(listing.chunk_urls[0].len(), 2);
}

async fn urls_are_good_for_one_thing(stage: &Stage) {
    let bytes = Bytes::from_static(b"chunk");
    let place = stage.place(&bytes).await;
    let put_url = place.put_url.clone().unwrap();
    let [own, foreign] = [&bytes[..], b"other"].map(|bytes| Sha256Name::of(bytes).text());
    let other = put_url.replace(&own, &foreign).replace(&format!("/{}/", &own[..2]), &format!("/{}/", &foreign[..2]));
    assert_eq!(stage.send(Method::PUT, &other, &place.headers, Bytes::from_static(b"other")).await.0, StatusCode::FORBIDDEN);
    assert_eq!(stage.send(Method::GET, &put_url, &[], Bytes::new()).await.0, StatusCode::FORBIDDEN);
    let digest = "0".repeat(64);
    let gone = stage.content.links().source("", &digest, SystemTime::now() + Duration::from_secs(60)).listing_url;
    assert_eq!(stage.send(Method::GET, &gone, &[], Bytes::new()).await.0, StatusCode::NOT_FOUND);
    let expired = stage.content.links().source("", &digest, SystemTime::UNIX_EPOCH).listing_url;
    for url in [expired, format!("/content/manifests/{digest}"), gone.replace("signature=", "signature=0")] {
        assert_eq!(stage.send(Method::GET, &url, &[], Bytes::new()).await.0, StatusCode::FORBIDDEN, "{url}");
    }
}

async fn what_is_asked_is_bounded(stage: &Stage) {
    let asked = |count: usize, bytes| ChunksAsked { chunks: vec![ChunkAsked { sha256: "0".repeat(64), bytes }; count] };
    for asked in [asked(0, 1), asked(65, 1), asked(1, 0), asked(1, CHUNK_BYTES + 1)] {
        assert!(stage.content.places(&asked).await.unwrap_err().is_refusal());
    }
    for manifest in ["", "{}", "[]", "null"] {
        assert!(stage.content.publish(Bytes::from_static(manifest.as_bytes())).await.unwrap_err().is_refusal(), "{manifest}");
    }
}

async fn documents_are_kept(stage: &Stage) {
    let name = Document::Import(Sha256Name::of(b"source"));
    assert_eq!(stage.content.read(name).await.unwrap(), None);
    for text in ["one", "two"] {
        stage.content.write(name, Bytes::from_static(text.as_bytes())).await.unwrap();
        assert_eq!(stage.content.read(name).await.unwrap().as_deref(), Some(text.as_bytes()));
    }
}

async fn all(stage: &Stage) {
    keeps_the_contract(stage).await;
    urls_are_good_for_one_thing(stage).await;
    what_is_asked_is_bounded(stage).await;
    documents_are_kept(stage).await;
}

#[tokio::test]
async fn a_folder_keeps_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    all(&in_folder(folder.path())).await;
    let reopened = in_folder(folder.path());
    let digest = Sha256Name::of(&manifest(&file()));
    assert!(reopened.content.listing(digest, false).await.unwrap().is_some(), "it outlives its process");
    assert_eq!(std::fs::read_dir(folder.path().join("unfinished")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_bucket_keeps_the_contract() {
    let server = s3::server::start().await;
    let bucket = server.bucket("s3://images/weights").await;
    let content = Content::new(Arc::new(S3Content::new(Arc::new(bucket))), secret());
    all(&Stage { routes: listing_routes(content.clone()), content }).await;
}

#[tokio::test]
async fn a_chunk_that_lost_bytes_is_asked_for_again() {
    let folder = tempfile::tempdir().unwrap();
    let stage = in_folder(folder.path());
    let bytes = Bytes::from_static(b"chunk");
    stage.put(&stage.place(&bytes).await, bytes.clone()).await;
    let name = Sha256Name::of(&bytes).text();
    std::fs::write(folder.path().join("chunks").join(&name[..2]).join(&name), "chu").unwrap();
    let place = stage.place(&bytes).await;
    assert!(stage.put(&place, bytes.clone()).await.is_success());
    assert_eq!(stage.place(&bytes).await.put_url, None);
}
