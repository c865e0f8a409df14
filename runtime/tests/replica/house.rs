//! A replica behind a real socket, with a storage, a folder of models, and the client's side of its protocol.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use runtime::content::ContentCache;
use runtime::engine::Engine;
use runtime::http::{Token, app};
use runtime::safety::SafetyChecker;
use runtime::source::ModelRoots;
use runtime::worker::{Limits, Replica, Stopped};
use runtime_api::{Dispatch, Event, Failure, FailureReason, GENERATIONS_PATH, ImageRequest, ModelSource, ReplicaState, STATE_PATH};
use tokio::sync::oneshot;

use crate::puppet::{GOOD, Gate, Puppet};
use crate::storage::Storage;

/// Room for two of the tests' imported models, and not for three.
pub(crate) const CONTENT_CACHE_BYTES: u64 = 40 << 20;
pub(crate) const TOKEN: &str = "let-me-in";
/// Longer than any test on any machine; reached only by a test that fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct House {
    pub(crate) replica: Arc<Replica>,
    pub(crate) stopped: Option<oneshot::Receiver<Stopped>>,
    pub(crate) storage: Storage,
    pub(crate) gate: Arc<Gate>,
    pub(crate) models: tempfile::TempDir,
    /// Of imported models.
    pub(crate) cache: Arc<tempfile::TempDir>,
    address: String,
    client: reqwest::Client,
}

impl House {
    /// With the model `demo`, and evaluations that wait for the gate.
    pub(crate) async fn gated(limits: Limits) -> Self {
        let gate = Gate::closed();
        let house = Self::with_engine(Puppet { gate: Arc::clone(&gate) }, gate, limits).await;
        house.add_model("demo", GOOD);
        house
    }

    pub(crate) async fn open() -> Self {
        let house = Self::gated(Limits::default()).await;
        house.gate.open();
        house
    }

    /// Without any model.
    pub(crate) async fn with_engine<E: Engine>(engine: E, gate: Arc<Gate>, limits: Limits) -> Self {
        Self::with_safety_checker(engine, gate, limits, None).await
    }

    pub(crate) async fn with_safety_checker<E: Engine>(
        engine: E,
        gate: Arc<Gate>,
        limits: Limits,
        safety_checker: Option<SafetyChecker>,
    ) -> Self {
        Self::with_cache(engine, gate, limits, safety_checker, Arc::new(tempfile::tempdir().unwrap())).await
    }

    /// Another replica of the machine that `neighbour` is on.
    pub(crate) async fn beside(neighbour: &Self) -> Self {
        let gate = Gate::closed();
        gate.open();
        let engine = Puppet { gate: Arc::clone(&gate) };
        Self::with_cache(engine, gate, Limits::default(), None, Arc::clone(&neighbour.cache)).await
    }

    async fn with_cache<E: Engine>(
        engine: E,
        gate: Arc<Gate>,
        limits: Limits,
        safety_checker: Option<SafetyChecker>,
        cache: Arc<tempfile::TempDir>,
    ) -> Self {
        let models = tempfile::tempdir().unwrap();
        let roots = ModelRoots::resolve(&[models.path().to_owned()]).unwrap();
        let content = Some(ContentCache::open(cache.path(), CONTENT_CACHE_BYTES).unwrap());
        let (replica, stopped) =
            Replica::start(engine, roots, content, safety_checker, limits, &tokio::runtime::Handle::current()).unwrap();
        let replica = Arc::new(replica);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let app = app(Arc::clone(&replica), Some(Token::new(TOKEN)));
        tokio::spawn(async move { axum::serve(listener, app).await });
        let client = reqwest::Client::new();
        Self { replica, stopped: Some(stopped), storage: Storage::start().await, gate, models, cache, address, client }
    }

    pub(crate) fn add_model(&self, name: &str, weights: &str) {
        let folder = self.models.path().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("weights"), weights).unwrap();
    }

    pub(crate) fn source(&self, name: &str) -> ModelSource {
        let folder = Path::new(self.models.path()).join(name);
        ModelSource {
            id: name.to_owned(),
            uri: format!("file://{}", folder.display()),
            config: None,
            sha256: None,
            vae: None,
            adapters: Vec::new(),
        }
    }

    /// One image of `demo`, stored as `name`.
    pub(crate) fn dispatch(&self, name: &str) -> Dispatch {
        let mut request = ImageRequest::text_to_image("demo", "a red circle");
        request.seed = Some(7);
        Dispatch {
            id: uuid::Uuid::nil(),
            model: self.source("demo"),
            inputs: Vec::new(),
            adapters: Vec::new(),
            refiner: None,
            contents: Vec::new(),
            request,
            outputs: vec![self.storage.target(name)],
            deadline_ms: PATIENCE.as_millis() as u64,
            partial_images: 0,
            metadata: Vec::new(),
        }
    }

    pub(crate) async fn post(&self, body: impl Into<reqwest::Body>, token: &str) -> reqwest::Response {
        let post = self.client.post(format!("{}{GENERATIONS_PATH}", self.address)).bearer_auth(token).body(body);
        post.send().await.unwrap()
    }

    pub(crate) async fn put(&self, path: &str, body: &impl serde::Serialize) -> reqwest::Response {
        self.client.put(self.url(path)).bearer_auth(TOKEN).json(body).send().await.unwrap()
    }

    /// Sends a dispatch that the door must let in.
    pub(crate) async fn send(&self, dispatch: &Dispatch) -> Stream {
        let answer = self.post(serde_json::to_vec(dispatch).unwrap(), TOKEN).await;
        assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
        Stream { body: answer.bytes_stream().boxed(), text: String::new() }
    }

    /// Sends a dispatch that the door must not let in.
    pub(crate) async fn refusal(&self, dispatch: &Dispatch) -> (u16, Failure) {
        let answer = self.post(serde_json::to_vec(dispatch).unwrap(), TOKEN).await;
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.address)
    }

    pub(crate) async fn get(&self, path: &str) -> reqwest::Response {
        self.client.get(format!("{}{path}", self.address)).bearer_auth(TOKEN).send().await.unwrap()
    }

    pub(crate) async fn state(&self) -> ReplicaState {
        self.get(STATE_PATH).await.json().await.unwrap()
    }

    /// Asks for the state until it is as wanted.
    pub(crate) async fn state_becomes(&self, wanted: impl Fn(&ReplicaState) -> bool) -> ReplicaState {
        let reached = async {
            loop {
                let state = self.state().await;
                if wanted(&state) {
                    return state;
                }
                tokio::task::yield_now().await;
            }
        };
        match tokio::time::timeout(PATIENCE, reached).await {
            Ok(state) => state,
            Err(_) => panic!("the state never became as wanted; it is {:?}", self.state().await),
        }
    }

    /// Whether a line of the metrics begins so and ends in this number.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").await.text().await.unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name} is not in\n{text}")).parse().unwrap()
    }
}

/// Server-sent events of one generation. Dropping it closes the connection.
pub(crate) struct Stream {
    body: futures::stream::BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    text: String,
}

impl Stream {
    pub(crate) async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(end) = self.text.find("\n\n") {
                let block: String = self.text.drain(..end + 2).collect();
                if let Some(data) = block.lines().find_map(|line| line.strip_prefix("data: ")) {
                    let event: Event = serde_json::from_str(data).unwrap();
                    let name = serde_json::to_value(&event).unwrap()["type"].as_str().unwrap().to_owned();
                    assert!(block.contains(&format!("event: {name}\n")), "{block}");
                    return Some(event);
                }
                continue;
            }
            let chunk = tokio::time::timeout(PATIENCE, self.body.next()).await.expect("the stream says nothing more")?;
            self.text.push_str(std::str::from_utf8(&chunk.unwrap()).unwrap());
        }
    }

    pub(crate) async fn until(&mut self, wanted: impl Fn(&Event) -> bool) -> Event {
        while let Some(event) = self.next().await {
            if wanted(&event) {
                return event;
            }
        }
        panic!("the stream ended without the wanted event");
    }

    pub(crate) async fn all(mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }

    pub(crate) async fn failure(self) -> (FailureReason, String) {
        match self.all().await.pop() {
            Some(Event::Failed(failure)) => (failure.reason, failure.message),
            other => panic!("it did not fail: {other:?}"),
        }
    }

    pub(crate) async fn done(self) -> Vec<Event> {
        let events = self.all().await;
        assert!(matches!(events.last(), Some(Event::Done { .. })), "{events:?}");
        events
    }
}
