//! The router's side of an import, as the import sees it: where chunks go, and the manifest's publication.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use egress::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use egress::{AddressRules, Body, Client, EgressError, Method, Request, Response, StatusCode, Url};
use runtime_api::{CHUNKS_PATH, ChunkAsked, ChunkPlace, ChunksAsked, ContentManifest, MANIFEST_PATH, Published};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::ImportError;
use super::catalogue::below;

/// One exchange with the router or the store.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(180);
/// Attempts at each.
const ATTEMPTS_LIMIT: u32 = 6;
/// Before the second attempt; it doubles from attempt to attempt.
const PAUSE_FIRST: Duration = Duration::from_millis(500);
/// Bytes of an answer.
const ANSWER_LIMIT_BYTES: usize = 1 << 20;
/// Characters of a refusal that are repeated.
const MESSAGE_LIMIT: usize = 500;

/// Where the router takes this import, and the token that it wants.
#[derive(Clone)]
pub struct RouterAddress {
    url: Url,
    authorization: HeaderValue,
}

impl RouterAddress {
    /// `None` where the token cannot stand in a header.
    pub fn new(url: Url, token: &str) -> Option<Self> {
        let mut authorization = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
        authorization.set_sensitive(true);
        Some(Self { url, authorization })
    }
}

impl std::fmt::Debug for RouterAddress {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("RouterAddress").field("url", &self.url.as_str()).finish_non_exhaustive()
    }
}

/// Puts chunks; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Store {
    /// Whoever started the import named the router, so that every address is good.
    client: Arc<Client>,
    router: RouterAddress,
}

impl Store {
    pub(super) fn new(router: RouterAddress) -> Self {
        Self { client: Arc::new(Client::new(AddressRules::anywhere())), router }
    }

    /// Puts a chunk, unless it is there. Durable when it returns.
    pub(super) async fn put(&self, sha256: String, bytes: Bytes) -> Result<(), ImportError> {
        let asked = ChunksAsked { chunks: vec![ChunkAsked { sha256, bytes: bytes.len() as u64 }] };
        let asked = Bytes::from(serde_json::to_vec(&asked).unwrap_or_default());
        let mut retries = Retries::default();
        loop {
            match self.put_once(asked.clone(), bytes.clone()).await {
                Err(error) => retries.pause(error).await?,
                Ok(()) => return Ok(()),
            }
        }
    }

    async fn put_once(&self, asked: Bytes, bytes: Bytes) -> Result<(), ImportError> {
        let places: Vec<ChunkPlace> = self.ask(Method::POST, CHUNKS_PATH, asked).await?;
        let Some(ChunkPlace { put_url: Some(url), headers }) = places.into_iter().next() else { return Ok(()) };
        let broken = || ImportError::Router(EgressError::Broken);
        let url = self.router.url.join(&url).map_err(|_| broken())?;
        let mut request = Request::builder().method(Method::PUT);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let (status, message) = self.exchange(&url, request.body(bytes).map_err(|_| broken())?).await?;
        match status {
            // Another import was faster.
            StatusCode::PRECONDITION_FAILED | StatusCode::CONFLICT => Ok(()),
            status if status.is_success() => Ok(()),
            status => Err(ImportError::StoreRefused { status: status.as_u16(), message: shown(&message) }),
        }
    }

    /// Makes the content visible; answers the manifest's digest.
    pub(super) async fn publish(&self, manifest: &ContentManifest) -> Result<String, ImportError> {
        let bytes = Bytes::from(serde_json::to_vec(manifest).unwrap_or_default());
        let mut retries = Retries::default();
        loop {
            match self.ask::<Published>(Method::PUT, MANIFEST_PATH, bytes.clone()).await {
                Err(error) => retries.pause(error).await?,
                Ok(published) => return Ok(published.digest),
            }
        }
    }

    async fn ask<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Result<T, ImportError> {
        let url = below(&self.router.url, path.trim_start_matches('/'));
        let mut request = Request::new(body);
        *request.method_mut() = method;
        request.headers_mut().insert(AUTHORIZATION, self.router.authorization.clone());
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let (status, answer) = self.exchange(&url, request).await?;
        if !status.is_success() {
            return Err(ImportError::RouterRefused { status: status.as_u16(), message: shown(&answer) });
        }
        serde_json::from_slice(&answer).map_err(|_| ImportError::Router(EgressError::Broken))
    }

    async fn exchange(&self, url: &Url, request: Request<Bytes>) -> Result<(StatusCode, Vec<u8>), ImportError> {
        let exchange = async {
            let response = self.client.send(url, request).await?;
            let status = response.status();
            read(response).await.map(|answer| (status, answer))
        };
        let ended = timeout(EXCHANGE_TIMEOUT, exchange).await.unwrap_or(Err(EgressError::Unreachable));
        ended.map_err(ImportError::Router)
    }
}

async fn read(response: Response<Body>) -> Result<Vec<u8>, EgressError> {
    let mut body = response.into_body();
    let mut answer = Vec::new();
    while let Some(piece) = body.chunk().await? {
        answer.extend_from_slice(&piece);
        if answer.len() > ANSWER_LIMIT_BYTES {
            return Err(EgressError::Broken);
        }
    }
    Ok(answer)
}

/// Attempts that failed, at one exchange.
#[derive(Debug, Default)]
struct Retries(u32);

impl Retries {
    /// Waits before the next attempt, or ends with the error where another would not help.
    async fn pause(&mut self, error: ImportError) -> Result<(), ImportError> {
        self.0 += 1;
        if self.0 >= ATTEMPTS_LIMIT || !is_passing(&error) {
            return Err(error);
        }
        tracing::warn!("{error}; trying again");
        tokio::time::sleep(PAUSE_FIRST * 2_u32.pow(self.0 - 1)).await;
        Ok(())
    }
}

/// Whether it may be otherwise soon. A signature that has expired is made anew with the next attempt.
fn is_passing(error: &ImportError) -> bool {
    match error {
        ImportError::Router(_) => true,
        ImportError::RouterRefused { status, .. } => *status == 408 || *status == 503,
        ImportError::StoreRefused { status, .. } => matches!(status, 403 | 408 | 429 | 500 | 502 | 503 | 504),
        _ => false,
    }
}

fn shown(message: &[u8]) -> String {
    String::from_utf8_lossy(message).trim().chars().filter(|character| !character.is_control()).take(MESSAGE_LIMIT).collect()
}
