//! A house whose replica is the test itself: each dispatch arrives as a [`Call`], whose events the test sends, or cuts off.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::sse::{self, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use futures::StreamExt;
use runtime_api::{Dispatch, Event, Failure, GENERATIONS_PATH, Timings};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::UnboundedReceiverStream;
use uuid::Uuid;

use crate::catalog::tests::{model, snapshot};
use crate::catalog::{Catalog, Snapshot};
use crate::dispatch::{DispatchSettings, Dispatcher};
use crate::generation::{Generation, Mode, Pictures, Submission};
use crate::inputs::{AddressRules, Fetcher, FolderInputs};
use crate::metrics::Metrics;
use crate::outputs::{FolderStore, OutputStore, Secret, routes};
use crate::replicas::{Endpoint, Lease, LeaseGuard, ReplicaCounts, ReplicaError, ReplicaSet, Replicas, Work};
use crate::service::{Service, Settings};
use crate::store::sqlite::SqliteStore;
use crate::store::{Caller, KeyHash, Store};

/// Until this has passed what a test waits for must have happened. Nothing is ever slept.
pub(super) const SOON: Duration = Duration::from_secs(20);

/// One dispatch at the fake replica.
pub(super) struct Call {
    pub(super) dispatch: Dispatch,
    answer: Option<oneshot::Sender<Answer>>,
}

enum Answer {
    Stream(mpsc::UnboundedReceiver<Event>),
    Refused(StatusCode, Failure),
}

/// The event stream of a dispatch that was taken. Dropping it cuts the stream.
pub(super) struct Stream {
    pub(super) dispatch: Dispatch,
    events: mpsc::UnboundedSender<Event>,
}

impl Call {
    pub(super) fn take(mut self) -> Stream {
        let (events, receiver) = mpsc::unbounded_channel();
        assert!(self.answer.take().unwrap().send(Answer::Stream(receiver)).is_ok(), "the router waits for the answer");
        Stream { dispatch: self.dispatch, events }
    }

    pub(super) fn refuse(mut self, status: StatusCode, failure: Failure) {
        assert!(self.answer.take().unwrap().send(Answer::Refused(status, failure)).is_ok(), "the router waits for the answer");
    }

    /// Makes the images and says so.
    pub(super) async fn complete(self) {
        self.take().complete().await;
    }
}

impl Stream {
    pub(super) fn tell(&self, event: Event) {
        assert!(self.events.send(event).is_ok(), "the router listens");
    }

    pub(super) async fn complete(self) {
        for target in &self.dispatch.outputs {
            put_picture(&target.put_url).await;
        }
        let timings = Timings { denoise_ms: 5, ..Timings::default() };
        self.tell(Event::Done { timings, nsfw_content_detected: Vec::new(), family: Some("sdxl".to_owned()) });
    }

    /// Waits until the router has let go.
    pub(super) async fn cancelled(&self) {
        tokio::time::timeout(SOON, self.events.closed()).await.expect("the router closed the stream");
    }
}

pub(super) async fn put_picture(url: &str) -> reqwest::StatusCode {
    let mut png = std::io::Cursor::new(Vec::new());
    image::RgbImage::new(8, 8).write_to(&mut png, image::ImageFormat::Png).unwrap();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = client.put(url).header("content-type", "image/png").body(png.into_inner());
    request.send().await.unwrap().status()
}

#[derive(Debug)]
pub(super) struct FakeReplicas {
    base_url: String,
    /// Whether a replica is ready.
    pub(super) ready: watch::Sender<bool>,
    pub(super) condemned: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct FakeGuard(Arc<AtomicUsize>);

impl LeaseGuard for FakeGuard {
    fn condemn(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn note_resident(&self, _: &str) {}
}

#[async_trait]
impl Replicas for FakeReplicas {
    async fn acquire(&self, _: &ReplicaSet, _: &Work) -> Result<Lease, ReplicaError> {
        let waits = !*self.ready.borrow();
        let _ = self.ready.subscribe().wait_for(|ready| *ready).await;
        Ok(Lease {
            endpoint: Endpoint { base_url: self.base_url.clone(), token: "token".to_owned() },
            waited_for_start: if waits { Duration::from_millis(7) } else { Duration::ZERO },
            guard: Box::new(FakeGuard(Arc::clone(&self.condemned))),
        })
    }

    fn warm(&self, _: &ReplicaSet) {}

    fn counts(&self) -> ReplicaCounts {
        ReplicaCounts::default()
    }

    async fn stop_all(&self) {}
}

#[derive(Debug)]
struct FixedCatalog(watch::Sender<Arc<Snapshot>>);

impl Catalog for FixedCatalog {
    fn current(&self) -> Arc<Snapshot> {
        Arc::clone(&self.0.borrow())
    }

    fn changes(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.0.subscribe()
    }
}

pub(super) struct House {
    pub(super) service: Service,
    pub(super) store: Arc<dyn Store>,
    pub(super) replicas: Arc<FakeReplicas>,
    catalog: Arc<FixedCatalog>,
    calls: mpsc::UnboundedReceiver<Call>,
    callers: Mutex<HashMap<String, Caller>>,
    _folder: tempfile::TempDir,
}

impl House {
    pub(super) async fn build() -> Self {
        Self::with_hold_deadline(SOON).await
    }

    pub(super) async fn with_hold_deadline(hold_deadline: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&folder.path().join("store.sqlite")).await.unwrap());
        let outputs = Arc::new(FolderStore::open(&folder.path().join("outputs"), Secret::from_bytes([7; 32])).unwrap());
        let inputs = Arc::new(FolderInputs::open(&folder.path().join("inputs"), Secret::from_bytes([7; 32])).unwrap());
        let stores = routes(Arc::clone(&outputs)).merge(crate::inputs::routes(Arc::clone(&inputs)));
        let store_base = serve(stores).await;
        let (sender, calls) = mpsc::unbounded_channel();
        let base_url = serve(Router::new().route(GENERATIONS_PATH, post(take_dispatch)).with_state(sender)).await;
        let replicas = Arc::new(FakeReplicas { base_url, ready: watch::Sender::new(true), condemned: Arc::default() });
        let catalog = Arc::new(FixedCatalog(watch::Sender::new(Arc::new(declared("720h")))));
        let dispatcher = Dispatcher::new(
            DispatchSettings {
                hold_deadline,
                store_base,
                content: crate::content::ContentLinks::new(crate::outputs::Secret::from_bytes([5; 32])),
            },
            Arc::clone(&store),
            outputs as Arc<dyn OutputStore>,
            inputs,
            Arc::clone(&replicas) as Arc<dyn Replicas>,
            Arc::clone(&catalog) as Arc<dyn Catalog>,
            Arc::new(Metrics::default()),
        )
        .unwrap();
        let service = Service::new(Settings::default(), dispatcher, Fetcher::new(AddressRules::default()));
        service.announce().await.unwrap();
        Self { service, store, replicas, catalog, calls, callers: Mutex::default(), _folder: folder }
    }

    /// Declares the plan anew: its outputs are kept for this long.
    pub(super) fn keep_outputs_for(&self, retention: &str) {
        self.catalog.0.send_replace(Arc::new(declared(retention)));
    }

    /// The next dispatch that reaches the replica.
    pub(super) async fn call(&mut self) -> Call {
        tokio::time::timeout(SOON, self.calls.recv()).await.expect("a dispatch arrives in time").unwrap()
    }

    /// The caller of a tenant, made when first named.
    pub(super) async fn caller(&self, tenant: &str) -> Caller {
        if let Some(caller) = self.callers.lock().unwrap().get(tenant) {
            return caller.clone();
        }
        let mut hash = [0; 32];
        hash[..tenant.len()].copy_from_slice(tenant.as_bytes());
        self.store.add_key(tenant, "free", KeyHash(hash)).await.unwrap();
        let caller = self.store.find_caller(KeyHash(hash)).await.unwrap().unwrap();
        self.callers.lock().unwrap().insert(tenant.to_owned(), caller.clone());
        caller
    }

    /// The request's end.
    pub(super) async fn end(&self, caller: &Caller, public_id: i32) -> Generation {
        let generation = self.service.wait(caller, public_id, SOON).await.unwrap();
        assert!(generation.state.is_finished(), "{:?}", generation.state);
        generation
    }

    pub(super) async fn calls_and_images(&self, tenant: Uuid) -> (u64, u64) {
        let usage = self.store.usage(tenant).await.unwrap();
        (usage.calls_today, usage.images)
    }
}

fn declared(retention: &str) -> Snapshot {
    let plan = serde_json::json!({
        "requestsPerMinute": 60_000, "burst": 1000, "parallelImages": 15, "queueDepth": 100, "retention": retention
    });
    let mut catalog = snapshot([model("demo")]);
    catalog.plans.insert("free".to_owned(), serde_json::from_value(plan).unwrap());
    catalog
}

pub(super) fn submission(mode: Mode) -> Submission {
    Submission {
        request: runtime_api::ImageRequest {
            width: Some(64),
            height: Some(64),
            ..runtime_api::ImageRequest::text_to_image("demo", "a circle")
        },
        pictures: Pictures::default(),
        mode,
        partial_images: 0,
        track_id: None,
        dialect: "test",
    }
}

async fn serve(app: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(axum::serve(listener, app).into_future());
    format!("http://{address}")
}

async fn take_dispatch(State(calls): State<mpsc::UnboundedSender<Call>>, Json(dispatch): Json<Dispatch>) -> Response {
    let (answer, answered) = oneshot::channel();
    if calls.send(Call { dispatch, answer: Some(answer) }).is_err() {
        return StatusCode::GONE.into_response();
    }
    match answered.await {
        Ok(Answer::Stream(events)) => {
            let data = |event: Event| Ok::<_, Infallible>(sse::Event::default().data(serde_json::to_string(&event).unwrap()));
            Sse::new(UnboundedReceiverStream::new(events).map(data)).into_response()
        }
        Ok(Answer::Refused(status, failure)) => (status, Json(failure)).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
