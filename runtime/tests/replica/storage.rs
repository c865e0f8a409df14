//! The far side of uploads and inputs: keeps what is put, gives what it has, and answers what a test told it to.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::routing::put;
use runtime::picture::{Pixels, decode_png};
use runtime_api::OutputTarget;
use tokio::sync::watch;

#[derive(Debug, Default)]
struct Kept {
    /// With their media types.
    files: HashMap<String, (Vec<u8>, String)>,
    /// Answers to give before any file is kept.
    refusals: VecDeque<StatusCode>,
    attempts: usize,
}

#[derive(Clone, Debug)]
pub(crate) struct Storage {
    address: SocketAddr,
    kept: Arc<Mutex<Kept>>,
    /// While true nothing is given.
    held: watch::Sender<bool>,
}

impl Storage {
    pub(crate) async fn start() -> Self {
        let kept = Arc::<Mutex<Kept>>::default();
        let held = watch::Sender::new(false);
        let state = (Arc::clone(&kept), held.clone());
        let app = Router::new().route("/{name}", put(keep).get(give)).with_state(state);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { address, kept, held }
    }

    pub(crate) fn target(&self, name: &str) -> OutputTarget {
        OutputTarget { put_url: format!("http://{}/{name}?signature=secret", self.address) }
    }

    pub(crate) fn give(&self, name: &str, file: Vec<u8>) {
        self.kept.lock().unwrap().files.insert(name.to_owned(), (file, String::new()));
    }

    pub(crate) fn hold(&self) {
        self.held.send_replace(true);
    }

    pub(crate) fn release(&self) {
        self.held.send_replace(false);
    }

    pub(crate) fn refuse(&self, statuses: &[StatusCode]) {
        self.kept.lock().unwrap().refusals.extend(statuses);
    }

    pub(crate) fn attempts(&self) -> usize {
        self.kept.lock().unwrap().attempts
    }

    pub(crate) fn picture(&self, name: &str) -> Option<(Pixels, Vec<(String, String)>)> {
        self.kept.lock().unwrap().files.get(name).map(|(file, _)| decode_png(file).unwrap())
    }

    /// A file that was put as what it is.
    pub(crate) fn file(&self, name: &str, media_type: &str) -> Vec<u8> {
        let (file, put_as) = self.kept.lock().unwrap().files[name].clone();
        assert_eq!(put_as, media_type);
        file
    }

    pub(crate) fn pixels(&self, name: &str) -> Pixels {
        self.picture(name).unwrap_or_else(|| panic!("{name} was not stored")).0
    }
}

type Shelves = (Arc<Mutex<Kept>>, watch::Sender<bool>);

async fn give(State((kept, held)): State<Shelves>, Path(name): Path<String>) -> Result<Vec<u8>, StatusCode> {
    // The sender lives in the state.
    let _ = held.subscribe().wait_for(|held| !held).await;
    let mut kept = kept.lock().unwrap();
    match kept.refusals.pop_front() {
        Some(status) => Err(status),
        None => kept.files.get(&name).map(|(file, _)| file.clone()).ok_or(StatusCode::NOT_FOUND),
    }
}

async fn keep(State((kept, _)): State<Shelves>, Path(name): Path<String>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let mut kept = kept.lock().unwrap();
    kept.attempts += 1;
    if let Some(status) = kept.refusals.pop_front() {
        return status;
    }
    let header = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).unwrap_or_default();
    if !header("content-type").starts_with("image/") || header("if-none-match") != "*" {
        return StatusCode::BAD_REQUEST;
    }
    kept.files.insert(name, (body.to_vec(), header("content-type").to_owned()));
    StatusCode::CREATED
}
