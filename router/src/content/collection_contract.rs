//! What the collection of content keeps to, in every store: what is named stays, what comes back is there, and ending at any write or working
//! beside others changes nothing of that.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use axum::http::{Method, StatusCode};
use bytes::Bytes;
use runtime_api::{ChunkPlace, ContentFile, ContentListing, ContentManifest};

use super::contract::{Stage, in_folder, secret};
use super::{Chunk, Collected, Content, ContentError, ContentStore, Document, Kind, Listed, Object, Place, S3Content, listing_routes};
use crate::s3;
use crate::sha256_name::Sha256Name;

const DAY: Duration = Duration::from_secs(24 * 3600);
const RETENTION: Duration = Duration::from_secs(7 * 24 * 3600);

/// A manifest of files that are one chunk each.
fn manifest(contents: &[&'static str]) -> Bytes {
    let file = |content: &&str| {
        let sha256 = Sha256Name::of(content.as_bytes()).text();
        ContentFile { name: (*content).to_owned(), bytes: content.len() as u64, sha256: sha256.clone(), chunks: vec![sha256] }
    };
    let manifest = ContentManifest {
        files: contents.iter().map(file).collect(),
        model: contents[0].to_owned(),
        config: None,
        family: None,
        sampler: None,
        tensors: 1,
        weight_bytes: 1,
        sha256: "0".repeat(64),
    };
    serde_json::to_vec(&manifest).unwrap().into()
}

impl Stage {
    async fn import(&self, contents: &[&'static str]) -> Sha256Name {
        for content in contents {
            let bytes = Bytes::from_static(content.as_bytes());
            let place = self.place(&bytes).await;
            if place.put_url.is_some() {
                assert!(self.put(&place, bytes).await.is_success());
            }
        }
        let manifest = manifest(contents);
        self.content.publish(manifest.clone()).await.unwrap();
        Sha256Name::of(&manifest)
    }

    async fn collect(&self, used: &[Sha256Name], after: Duration) -> Collected {
        let used = BTreeSet::from_iter(used.iter().copied());
        self.content.collect(&used, RETENTION, SystemTime::now() + after).await.unwrap()
    }

    /// Every chunk of a manifest, as a replica gets them that did not find one at first.
    async fn fetch(&self, digest: Sha256Name) -> Option<Vec<Bytes>> {
        let listed = |look: &str| {
            let source = self.content.links().source("", &digest.text(), SystemTime::now() + Duration::from_secs(60));
            let url = format!("{}{look}", source.listing_url);
            async move { self.send(Method::GET, &url, &[], Bytes::new()).await }
        };
        for look in ["", "&look=true"] {
            let (StatusCode::OK, listing) = listed(look).await else { return None };
            let listing: ContentListing = serde_json::from_slice(&listing).unwrap();
            let mut chunks = Vec::new();
            for url in listing.chunk_urls.iter().flatten() {
                match self.send(Method::GET, url, &[], Bytes::new()).await {
                    (StatusCode::OK, chunk) => chunks.push(chunk),
                    (status, _) => assert_eq!((status, look), (StatusCode::NOT_FOUND, "")),
                }
            }
            if chunks.len() == listing.chunk_urls.iter().flatten().count() {
                return Some(chunks);
            }
        }
        panic!("a manifest that can be read names what is not there")
    }
}

async fn what_is_named_stays_and_the_rest_goes_in_its_time(stage: &Stage) {
    let (kept, gone) = (stage.import(&["kept", "shared"]).await, stage.import(&["gone", "shared"]).await);
    assert_eq!(stage.collect(&[kept, gone], DAY * 2).await, Collected::default());
    assert_eq!(stage.collect(&[kept], Duration::from_secs(3600)).await, Collected::default(), "it may be named in a moment");
    assert_eq!(stage.collect(&[kept], DAY * 2).await, Collected { discarded: 2, ..Collected::default() });
    assert_eq!(stage.collect(&[kept], DAY * 3).await, Collected::default());
    // The model comes back.
    assert_eq!(stage.fetch(gone).await.unwrap(), ["gone", "shared"]);
    stage.collect(&[kept, gone], DAY * 4).await;
    assert_eq!(stage.fetch(gone).await.unwrap(), ["gone", "shared"]);
    // And goes for good.
    stage.collect(&[kept], DAY * 5).await;
    stage.collect(&[kept], RETENTION + DAY * 6).await;
    assert_eq!(stage.fetch(gone).await, None);
    assert!(stage.place(&Bytes::from_static(b"gone")).await.put_url.is_some(), "its own chunk is there still");
    assert_eq!(stage.fetch(kept).await.unwrap(), ["kept", "shared"]);
}

async fn an_import_under_way_loses_nothing(stage: &Stage) {
    let chunk = Bytes::from_static(b"early");
    assert!(stage.put(&stage.place(&chunk).await, chunk.clone()).await.is_success());
    stage.collect(&[], Duration::from_secs(6 * 3600)).await;
    assert_eq!(stage.place(&chunk).await.put_url, None);
    // It was told that the chunk is there, which then goes out of use before its manifest comes.
    stage.collect(&[], DAY * 2).await;
    let digest = stage.import(&["early"]).await;
    assert_eq!(stage.fetch(digest).await.unwrap(), ["early"]);
    // Its model's name comes late.
    stage.collect(&[], DAY * 2).await;
    stage.collect(&[digest], DAY * 2).await;
    assert_eq!(stage.fetch(digest).await.unwrap(), ["early"]);
}

/// A store whose process ends at one of its writes, before or after carrying it out.
#[derive(Debug)]
struct Ending {
    inner: Arc<dyn ContentStore>,
    writes_left: AtomicUsize,
    carried_out: bool,
}

impl Ending {
    async fn write<T>(&self, write: impl Future<Output = Result<T, ContentError>>) -> Result<T, ContentError> {
        if self.writes_left.fetch_sub(1, Ordering::Relaxed) > 1 {
            return write.await;
        }
        if self.carried_out {
            write.await?;
        }
        // Nothing more comes of it.
        self.writes_left.store(1, Ordering::Relaxed);
        Err(ContentError::Full)
    }
}

#[async_trait]
impl ContentStore for Ending {
    async fn has(&self, chunk: Chunk) -> Result<bool, ContentError> {
        self.inner.has(chunk).await
    }
    async fn place(&self, chunk: Chunk, expires: SystemTime) -> Result<ChunkPlace, ContentError> {
        self.inner.place(chunk, expires).await
    }
    async fn url(&self, chunk: Chunk, expires: SystemTime) -> Result<String, ContentError> {
        self.inner.url(chunk, expires).await
    }
    async fn read(&self, document: Document) -> Result<Option<Bytes>, ContentError> {
        self.inner.read(document).await
    }
    async fn write(&self, document: Document, bytes: Bytes) -> Result<(), ContentError> {
        self.inner.write(document, bytes).await
    }
    async fn list(&self, place: Place, kind: Kind) -> Result<Vec<Listed>, ContentError> {
        self.inner.list(place, kind).await
    }
    async fn discard(&self, object: Object) -> Result<(), ContentError> {
        self.write(self.inner.discard(object)).await
    }
    async fn restore(&self, object: Object) -> Result<bool, ContentError> {
        self.write(self.inner.restore(object)).await
    }
    async fn forget(&self, listed: &Listed) -> Result<(), ContentError> {
        self.write(self.inner.forget(listed)).await
    }
}

async fn a_collection_that_ends_at_a_write_is_finished_by_the_next(stage: &Stage, ends: std::ops::RangeInclusive<usize>) {
    let kept = stage.import(&["kept", "shared"]).await;
    for (at, carried_out) in ends.flat_map(|at| [(at, false), (at, true)]) {
        let gone = stage.import(&["gone", "more", "shared"]).await;
        let ending = |at| Arc::new(Ending { inner: Arc::clone(&stage.content.store), writes_left: AtomicUsize::new(at), carried_out });
        for after in [DAY * 2, RETENTION + DAY * 2] {
            let used = BTreeSet::from([kept]);
            // Ends, or had less to do than that.
            let _ = Content::new(ending(at), secret()).collect(&used, RETENTION, SystemTime::now() + after).await;
            assert_eq!(stage.fetch(kept).await.unwrap(), ["kept", "shared"], "{at} {carried_out}");
            // What is half out of use is whole for who asks.
            if after < RETENTION {
                assert_eq!(stage.fetch(gone).await.unwrap(), ["gone", "more", "shared"], "{at} {carried_out}");
            }
            stage.collect(&[kept], after).await;
        }
        stage.collect(&[kept], RETENTION + DAY * 2).await;
        assert_eq!((stage.fetch(gone).await, stage.fetch(kept).await.is_some()), (None, true), "{at} {carried_out}");
    }
}

async fn collections_beside_each_other_and_beside_imports_lose_nothing(stage: &Stage) {
    let kept = stage.import(&["kept", "shared"]).await;
    let used = [kept];
    for _ in 0..4 {
        let (one, other, imported) =
            tokio::join!(stage.collect(&used, DAY * 2), stage.collect(&used, DAY * 2), stage.import(&["gone", "new", "shared"]));
        assert!(one.removed + other.removed == 0, "{one:?} {other:?}");
        assert_eq!(stage.fetch(imported).await.unwrap(), ["gone", "new", "shared"]);
        assert_eq!(stage.fetch(kept).await.unwrap(), ["kept", "shared"]);
        stage.collect(&[kept], DAY * 2).await;
    }
}

#[tokio::test]
async fn a_folder_keeps_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let stage = |name: &str| in_folder(&folder.path().join(name));
    what_is_named_stays_and_the_rest_goes_in_its_time(&stage("times")).await;
    an_import_under_way_loses_nothing(&stage("import")).await;
    a_collection_that_ends_at_a_write_is_finished_by_the_next(&stage("ends"), 1..=6).await;
    collections_beside_each_other_and_beside_imports_lose_nothing(&stage("beside")).await;
}

#[tokio::test]
async fn a_bucket_keeps_the_contract() {
    let server = s3::server::start().await;
    let stage = async |name: &str| {
        let bucket = server.bucket(&format!("s3://images/{name}")).await;
        let content = Content::new(Arc::new(S3Content::new(Arc::new(bucket))), secret());
        Stage { routes: listing_routes(content.clone()), content }
    };
    what_is_named_stays_and_the_rest_goes_in_its_time(&stage("times").await).await;
    an_import_under_way_loses_nothing(&stage("import").await).await;
    // The same, where one write is two requests.
    a_collection_that_ends_at_a_write_is_finished_by_the_next(&stage("ends").await, 2..=3).await;
    collections_beside_each_other_and_beside_imports_lose_nothing(&stage("beside").await).await;
}
