//! Imported models: fetched once, checked chunk by chunk, kept within bounds, and never taken away from who uses them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use runtime_api::{
    CHUNK_BYTES, CONTENT_SCHEME, ContentFile, ContentListing, ContentManifest, ContentSource, Dispatch, Event, FailureReason, ModelSource,
    WeightsTier,
};
use sha2::{Digest, Sha256};

use crate::house::House;
use crate::puppet::GOOD;

/// A content store: what each path answers, and how often it was asked.
#[derive(Clone, Default)]
struct Store {
    state: Arc<Mutex<Shelf>>,
    base: String,
}

#[derive(Default)]
struct Shelf {
    files: BTreeMap<String, Vec<u8>>,
    asked: BTreeMap<String, usize>,
    /// Statuses that come before the file.
    refusals: BTreeMap<String, Vec<StatusCode>>,
}

async fn answer(State(store): State<Store>, Path(path): Path<String>) -> Response {
    let mut shelf = store.state.lock().unwrap();
    *shelf.asked.entry(path.clone()).or_default() += 1;
    if let Some(status) = shelf.refusals.get_mut(&path).and_then(Vec::pop) {
        return status.into_response();
    }
    shelf.files.get(&path).cloned().map_or_else(|| StatusCode::NOT_FOUND.into_response(), IntoResponse::into_response)
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

impl Store {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let store = Self { base: format!("http://{}", listener.local_addr().unwrap()), ..Self::default() };
        let routes = Router::new().route("/{*path}", get(answer)).with_state(store.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        store
    }

    /// A model whose weights are a whole chunk and some of the next.
    fn add(&self, name: &str) -> ContentSource {
        let mut weights = format!("{GOOD} {name} ").into_bytes();
        weights.resize(CHUNK_BYTES as usize + 100, b'.');
        let chunks: Vec<String> = weights.chunks(CHUNK_BYTES as usize).map(sha256).collect();
        let file =
            ContentFile { name: "weights".to_owned(), bytes: weights.len() as u64, sha256: sha256(&weights), chunks: chunks.clone() };
        let manifest = ContentManifest {
            sha256: file.sha256.clone(),
            files: vec![file],
            model: String::new(),
            config: None,
            family: None,
            sampler: None,
            tensors: 1,
            weight_bytes: 1,
        };
        let manifest = serde_json::to_string(&manifest).unwrap();
        let digest = sha256(manifest.as_bytes());
        // Relative, as a router's own are.
        let chunk_urls = vec![chunks.iter().map(|chunk| format!("/chunks/{chunk}")).collect()];
        let listing = ContentListing { manifest, chunk_urls };
        let mut shelf = self.state.lock().unwrap();
        for (chunk, bytes) in chunks.iter().zip(weights.chunks(CHUNK_BYTES as usize)) {
            shelf.files.insert(format!("chunks/{chunk}"), bytes.to_vec());
        }
        shelf.files.insert(format!("listings/{digest}"), serde_json::to_vec(&listing).unwrap());
        ContentSource { listing_url: format!("{}/listings/{digest}?signature=secret", self.base), digest }
    }

    fn asked(&self, prefix: &str) -> usize {
        self.state.lock().unwrap().asked.iter().filter(|(path, _)| path.starts_with(prefix)).map(|(_, count)| count).sum()
    }

    fn change(&self, change: impl FnOnce(&mut Shelf)) {
        change(&mut self.state.lock().unwrap());
    }
}

fn of_content(house: &House, source: &ContentSource, name: &str) -> Dispatch {
    let uri = format!("{CONTENT_SCHEME}{}", source.digest);
    let model = ModelSource { id: "imported".to_owned(), uri, config: None, sha256: None, vae: None, adapters: Vec::new() };
    Dispatch { model, contents: vec![source.clone()], ..house.dispatch(name) }
}

fn tier(events: &[Event]) -> WeightsTier {
    match events.last() {
        Some(Event::Done { timings, .. }) => timings.weights_from,
        other => panic!("{other:?}"),
    }
}

async fn refused(house: &House, dispatch: &Dispatch) -> (FailureReason, String) {
    house.send(dispatch).await.failure().await
}

#[tokio::test]
async fn content_is_fetched_once_however_many_ask_for_it() {
    let (house, store) = (House::open().await, Store::start().await);
    let source = store.add("a");
    let mut streams = Vec::new();
    for name in ["1", "2", "3", "4"] {
        streams.push(house.send(&of_content(&house, &source, name)).await);
    }
    let mut tiers = Vec::new();
    for stream in streams {
        let events = stream.done().await;
        assert!(matches!(events.first(), Some(Event::Queued { .. })), "{events:?}");
        tiers.push(tier(&events));
    }
    assert_eq!(tiers.iter().filter(|tier| **tier == WeightsTier::ContentStore).count(), 1, "{tiers:?}");
    assert_eq!((store.asked("listings"), store.asked("chunks")), (1, 2));
    let again = house.send(&of_content(&house, &source, "5")).await.done().await;
    assert_eq!(tier(&again), WeightsTier::Device);
    let told = again.last().map(|event| serde_json::to_value(event).unwrap()["timings"]["fetch_ms"].clone());
    assert_eq!(told, Some(0.into()));
    assert_eq!(store.asked(""), 3, "what is here is not asked for");
}

#[tokio::test]
async fn another_replica_of_the_machine_finds_what_one_has_fetched() {
    let (house, store) = (House::open().await, Store::start().await);
    let source = store.add("a");
    house.send(&of_content(&house, &source, "1")).await.done().await;
    let neighbour = House::beside(&house).await;
    let events = neighbour.send(&of_content(&neighbour, &source, "2")).await.done().await;
    assert_eq!(tier(&events), WeightsTier::Disk);
    assert_eq!(store.asked("chunks"), 2);
}

#[tokio::test]
async fn the_least_recently_used_goes_and_what_is_in_use_stays() {
    let (house, store) = (House::gated(runtime::worker::Limits::default()).await, Store::start().await);
    let [a, b, c] = ["a", "b", "c"].map(|name| store.add(name));
    let is_there = |source: &ContentSource| house.cache.path().join(&source.digest).is_dir();
    let is_here =
        |event: &Event| matches!(event, Event::Loading { bytes_done, bytes_total } if bytes_done == bytes_total && *bytes_total > 1000);
    let mut running = house.send(&of_content(&house, &a, "1")).await;
    running.until(is_here).await;
    // It waits behind the closed gate, and its weights are kept for it.
    let mut second = house.send(&of_content(&house, &b, "2")).await;
    second.until(is_here).await;
    // There is room for two: `a` and `b` are in use, and `c` is told so.
    let (reason, message) = refused(&house, &of_content(&house, &c, "3")).await;
    assert_eq!(reason, FailureReason::Busy, "{message}");
    house.gate.open();
    running.all().await;
    second.done().await;
    house.send(&of_content(&house, &a, "4")).await.done().await;
    house.send(&of_content(&house, &c, "5")).await.done().await;
    assert!(is_there(&a) && !is_there(&b) && is_there(&c));
}

#[tokio::test]
async fn a_damaged_chunk_is_never_used_and_a_mended_one_is() {
    let (house, store) = (House::open().await, Store::start().await);
    let source = store.add("a");
    let (path, bytes) = store
        .state
        .lock()
        .unwrap()
        .files
        .iter()
        .find(|(path, _)| path.starts_with("chunks"))
        .map(|(path, bytes)| (path.clone(), bytes.clone()))
        .unwrap();
    store.change(|shelf| drop(shelf.files.insert(path.clone(), vec![0; bytes.len()])));
    let (reason, message) = refused(&house, &of_content(&house, &source, "1")).await;
    assert_eq!(reason, FailureReason::Internal);
    assert!(message.contains("weights") && !message.contains("signature"), "{message}");
    assert!(!house.cache.path().join(&source.digest).exists());
    store.change(|shelf| drop(shelf.files.insert(path.clone(), bytes)));
    let before = store.asked("chunks");
    house.send(&of_content(&house, &source, "2")).await.done().await;
    assert_eq!(store.asked("chunks") - before, 1, "the other chunk is here already");
}

#[tokio::test]
async fn what_passes_is_asked_for_again_with_new_signatures() {
    let (house, store) = (House::open().await, Store::start().await);
    let source = store.add("a");
    let path = store.state.lock().unwrap().files.keys().find(|path| path.starts_with("chunks")).unwrap().clone();
    store.change(|shelf| drop(shelf.refusals.insert(path, vec![StatusCode::FORBIDDEN, StatusCode::SERVICE_UNAVAILABLE])));
    house.send(&of_content(&house, &source, "1")).await.done().await;
    assert_eq!(store.asked("listings"), 3, "signatures may have expired");
}

#[tokio::test]
async fn listings_of_other_contents_and_hostile_names_are_refused() {
    let (house, store) = (House::open().await, Store::start().await);
    let (a, b) = (store.add("a"), store.add("b"));
    let swapped = ContentSource { digest: a.digest.clone(), listing_url: b.listing_url.clone() };
    let (reason, message) = refused(&house, &of_content(&house, &swapped, "1")).await;
    assert_eq!(reason, FailureReason::Internal);
    assert!(message.contains("not what the digest names"), "{message}");
    let unnamed = Dispatch { contents: vec![b.clone()], ..of_content(&house, &a, "2") };
    assert_eq!(refused(&house, &unnamed).await.0, FailureReason::InvalidRequest);
    for digest in ["../../etc", "", &"A".repeat(64)] {
        let hostile = ContentSource { digest: digest.to_owned(), ..a.clone() };
        assert_eq!(refused(&house, &of_content(&house, &hostile, "3")).await.0, FailureReason::InvalidRequest, "{digest}");
    }
    assert_eq!(std::fs::read_dir(house.cache.path()).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_dir()).count(), 1);
}

#[tokio::test]
async fn a_model_that_is_larger_than_the_disks_share_is_told_so() {
    let (house, store) = (House::open().await, Store::start().await);
    let source = store.add("a");
    let listing = format!("listings/{}", source.digest);
    let mut huge: ContentListing = serde_json::from_slice(&store.state.lock().unwrap().files[&listing]).unwrap();
    let mut manifest: ContentManifest = serde_json::from_str(&huge.manifest).unwrap();
    manifest.files[0].bytes = CHUNK_BYTES * 10;
    manifest.files[0].chunks = vec!["0".repeat(64); 10];
    huge.manifest = serde_json::to_string(&manifest).unwrap();
    let digest = sha256(huge.manifest.as_bytes());
    store.change(|shelf| drop(shelf.files.insert(format!("listings/{digest}"), serde_json::to_vec(&huge).unwrap())));
    let source = ContentSource { listing_url: format!("{}/listings/{digest}", store.base), digest };
    let (reason, message) = refused(&house, &of_content(&house, &source, "1")).await;
    assert_eq!(reason, FailureReason::InvalidModel);
    assert!(message.contains("--content-cache-bytes"), "{message}");
    assert_eq!(store.asked("chunks"), 0);
}
