//! What the tests of the edge play on: the real router on a real socket, its store and outputs in a folder of their own, and a replica
//! whose work can be held, let go and failed.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use axum::extract::State;
use axum::response::sse::{Event as SseEvent, Sse};
use axum::routing::post;
use axum::{Json, Router};
use runtime_api::{Dispatch, Event, Failure, GENERATIONS_PATH, OutputFormat, Timings, WeightsTier};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use crate::accounts::ApiKey;
use crate::catalog::tests::{lora, model, snapshot};
use crate::catalog::{Catalog, Snapshot};
use crate::dispatch::{DispatchSettings, Dispatcher};
use crate::edge::router;
use crate::inputs::{AddressRules, Fetcher, FolderInputs};
use crate::metrics::Metrics;
use crate::outputs::{FolderStore, Secret};
use crate::replicas::{Endpoint, Lease, LeaseGuard, ReplicaCounts, ReplicaError, ReplicaSet, Replicas, Work};
use crate::service::{Service, Settings};
use crate::store::Store;
use crate::store::sqlite::SqliteStore;

/// A test that waits longer than this for anything has failed.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// The replica's side: how it works, and what became of its work.
#[derive(Debug)]
pub(super) struct Replica {
    /// One permit lets one request finish.
    pub(super) gate: Semaphore,
    pub(super) failure: Mutex<Option<Failure>>,
    /// What reached the replica: each dispatch, with the bytes of its inputs.
    pub(super) received: Mutex<Vec<(Dispatch, Vec<Vec<u8>>)>>,
    /// Requests that reached the replica.
    pub(super) started: watch::Sender<u32>,
    /// Requests that the router took back before they were done.
    pub(super) cancelled: watch::Sender<u32>,
}

#[derive(Debug)]
struct OneReplica(Endpoint);

#[derive(Debug)]
struct Guard;

impl LeaseGuard for Guard {
    fn condemn(&self) {}
    fn note_resident(&self, _model_id: &str) {}
}

#[async_trait]
impl Replicas for OneReplica {
    async fn acquire(&self, _set: &ReplicaSet, _work: &Work) -> Result<Lease, ReplicaError> {
        Ok(Lease { endpoint: self.0.clone(), waited_for_start: Duration::from_millis(40), guard: Box::new(Guard) })
    }
    fn warm(&self, _set: &ReplicaSet) {}
    fn counts(&self) -> ReplicaCounts {
        ReplicaCounts { starting: 0, ready: 1 }
    }
    async fn stop_all(&self) {}
}

#[derive(Debug)]
struct Declared(watch::Sender<Arc<Snapshot>>);

impl Catalog for Declared {
    fn current(&self) -> Arc<Snapshot> {
        self.0.borrow().clone()
    }
    fn changes(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.0.subscribe()
    }
}

/// The router under test.
pub(super) struct Stage {
    pub(super) base: String,
    pub(super) key: String,
    pub(super) replica: Arc<Replica>,
    pub(super) client: reqwest::Client,
    pub(super) service: Service,
    _folder: tempfile::TempDir,
}

/// What the replica draws.
pub(super) fn picture() -> Vec<u8> {
    picture_as(OutputFormat::Png)
}

pub(super) fn picture_as(format: OutputFormat) -> Vec<u8> {
    let mut file = std::io::Cursor::new(Vec::new());
    let kind = image::ImageFormat::from_mime_type(format.media_type()).unwrap();
    image::RgbImage::new(2, 2).write_to(&mut file, kind).unwrap();
    file.into_inner()
}

impl Stage {
    /// A replica that finishes at once, and the settings as they ship.
    pub(super) async fn quick() -> Self {
        let stage = Self::new(Settings::default()).await;
        stage.replica.gate.add_permits(1000);
        stage
    }

    pub(super) async fn new(settings: Settings) -> Self {
        let replica = Arc::new(Replica {
            gate: Semaphore::new(0),
            failure: Mutex::new(None),
            received: Mutex::default(),
            started: watch::Sender::new(0),
            cancelled: watch::Sender::new(0),
        });
        let replica_base = serve(Router::new().route(GENERATIONS_PATH, post(work)).with_state(Arc::clone(&replica))).await;
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(SqliteStore::open(&folder.path().join("store.sqlite")).await.unwrap());
        let key = ApiKey::generate();
        store.add_key("acme", "test", key.hash()).await.unwrap();
        let outputs = Arc::new(FolderStore::open(&folder.path().join("outputs"), Secret::from_bytes([9; 32])).unwrap());
        let inputs = Arc::new(FolderInputs::open(&folder.path().join("inputs"), Secret::from_bytes([9; 32])).unwrap());
        let stores = crate::outputs::routes(Arc::clone(&outputs)).merge(crate::inputs::routes(Arc::clone(&inputs)));
        let mut declared = snapshot([model("demo"), model("other"), lora("ink")]);
        let plan = json!({ "requestsPerMinute": 1_000_000, "burst": 1_000_000, "parallelImages": 100, "queueDepth": 100 });
        declared.plans.insert("test".to_owned(), serde_json::from_value(plan).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let dispatcher = Dispatcher::new(
            DispatchSettings {
                hold_deadline: PATIENCE,
                store_base: base.clone(),
                content: crate::content::ContentLinks::new(crate::outputs::Secret::from_bytes([5; 32])),
            },
            store,
            outputs,
            inputs,
            Arc::new(OneReplica(Endpoint { base_url: replica_base, token: "token".to_owned() })),
            Arc::new(Declared(watch::Sender::new(Arc::new(declared)))),
            Arc::new(Metrics::default()),
        );
        let rules = AddressRules { networks: vec!["127.0.0.1/32".parse().unwrap()], ..AddressRules::default() };
        let service = Service::new(settings, dispatcher.unwrap(), Fetcher::new(rules));
        service.announce().await.unwrap();
        let routes = router(service.clone(), stores);
        tokio::spawn(async move { axum::serve(listener, routes).await });
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        Self { base, key: key.expose().to_owned(), replica, client, service, _folder: folder }
    }

    /// Posts with the key in the body; the status and the JSON that came back.
    pub(super) async fn post(&self, path: &str, mut body: Value) -> (u16, Value) {
        body["key"] = json!(self.key);
        read(self.client.post(format!("{}{path}", self.base)).json(&body)).await
    }

    /// Posts with the key as bearer.
    pub(super) async fn post_bearer(&self, path: &str, body: &Value) -> (u16, Value) {
        read(self.bearer(path, body)).await
    }

    pub(super) fn bearer(&self, path: &str, body: &Value) -> reqwest::RequestBuilder {
        self.client.post(format!("{}{path}", self.base)).bearer_auth(&self.key).json(body)
    }

    pub(super) async fn get(&self, path: &str) -> reqwest::Response {
        let url = if path.starts_with("http") { path.to_owned() } else { format!("{}{path}", self.base) };
        self.client.get(url).bearer_auth(&self.key).send().await.unwrap()
    }

    /// The last dispatch that reached the replica, with the bytes of its inputs.
    pub(super) fn last_received(&self) -> (Dispatch, Vec<Vec<u8>>) {
        self.replica.received.lock().unwrap().last().cloned().expect("something was dispatched")
    }

    pub(super) fn fail_with(&self, failure: Failure) {
        *self.replica.failure.lock().unwrap() = Some(failure);
        self.replica.gate.add_permits(1000);
    }
}

pub(super) async fn read(request: reqwest::RequestBuilder) -> (u16, Value) {
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

async fn serve(routes: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, routes).await });
    base
}

type Events = mpsc::Sender<Result<SseEvent, Infallible>>;

async fn work(State(replica): State<Arc<Replica>>, Json(dispatch): Json<Dispatch>) -> Sse<ReceiverStream<Result<SseEvent, Infallible>>> {
    let (events, receiver) = mpsc::channel(16);
    replica.started.send_modify(|count| *count += 1);
    tokio::spawn(async move {
        tokio::select! {
            () = events.closed() => replica.cancelled.send_modify(|count| *count += 1),
            () = draw(&replica, &dispatch, &events) => {}
        }
    });
    Sse::new(ReceiverStream::new(receiver))
}

async fn draw(replica: &Replica, dispatch: &Dispatch, events: &Events) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut inputs = Vec::new();
    for input in &dispatch.inputs {
        let response = client.get(&input.get_url).send().await.unwrap().error_for_status().unwrap();
        inputs.push(response.bytes().await.unwrap().to_vec());
    }
    replica.received.lock().unwrap().push((dispatch.clone(), inputs));
    send(events, &Event::Loading { bytes_done: 1, bytes_total: 1 }).await;
    for index in 0..dispatch.partial_images {
        send(events, &Event::Preview { image: 0, index, png_base64: "cHJl".to_owned() }).await;
    }
    replica.gate.acquire().await.unwrap().forget();
    let failure = replica.failure.lock().unwrap().clone();
    if let Some(failure) = failure {
        return send(events, &Event::Failed(failure)).await;
    }
    for output in &dispatch.outputs {
        client.put(&output.put_url).body(picture_as(dispatch.request.output_format)).send().await.unwrap().error_for_status().unwrap();
    }
    let timings = Timings { load_ms: 11, weights_from: WeightsTier::Disk, ..Timings::default() };
    // Whoever asks learns that every second image is unsafe.
    let samples = if dispatch.request.safety_checker.is_some() { dispatch.request.samples } else { 0 };
    let nsfw_content_detected = (0..samples).map(|image| image % 2 == 1).collect();
    send(events, &Event::Done { timings, nsfw_content_detected, family: None }).await;
}

async fn send(events: &Events, event: &Event) {
    let _ = events.send(Ok(SseEvent::default().data(serde_json::to_string(event).unwrap()))).await;
}
