//! Asks every replica how it stands, again and again: which models it has in memory and how much others have sent it. A router that has just
//! started, and one of several, know no better. What a replica says is a hint: it has the last word on each dispatch.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use reqwest::Client;
use runtime_api::{ReplicaState, STATE_PATH};

use super::Inner;
use crate::replicas::Endpoint;

/// Between two rounds.
const INTERVAL: Duration = Duration::from_secs(5);
/// Replicas that are asked at once.
const CONCURRENCY: usize = 32;
/// For one answer; a replica that takes longer is asked in the next round.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes of an answer: replicas read hostile weights, and may say anything.
const ANSWER_LIMIT_BYTES: usize = 1 << 20;

pub(super) fn client() -> Result<Client, reqwest::Error> {
    Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).timeout(TIMEOUT).build()
}

/// Asks for as long as the router runs.
pub(super) async fn ask_all(inner: Arc<Inner>, client: Client) {
    let mut rounds = tokio::time::interval(INTERVAL);
    rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !inner.stopping.is_cancelled() {
        rounds.tick().await;
        ask_once(&inner, &client).await;
    }
}

async fn ask_once(inner: &Inner, client: &Client) {
    let asked = futures::stream::iter(inner.endpoints()).for_each_concurrent(CONCURRENCY, |(place, id, endpoint)| async move {
        match ask(client, &endpoint).await {
            Ok(state) => inner.hear(&place, id, &state),
            // Calls find out by themselves whether it works.
            Err(error) => tracing::debug!("the replica {} does not say how it stands: {error:#}", endpoint.base_url),
        }
    });
    asked.await;
}

async fn ask(client: &Client, endpoint: &Endpoint) -> anyhow::Result<ReplicaState> {
    let mut answer =
        client.get(format!("{}{STATE_PATH}", endpoint.base_url)).bearer_auth(&endpoint.token).send().await?.error_for_status()?;
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        anyhow::ensure!(body.len() + chunk.len() <= ANSWER_LIMIT_BYTES, "its answer is larger than {ANSWER_LIMIT_BYTES} bytes");
        body.extend_from_slice(&chunk);
    }
    Ok(serde_json::from_slice(&body)?)
}

#[cfg(test)]
mod tests {
    use axum::Json;
    use axum::http::HeaderMap;
    use axum::routing::get;
    use runtime_api::ResidentModel;

    use super::super::watching::ReadyPod;
    use super::*;
    use crate::replicas::SetKey;

    async fn replica() -> String {
        let state = |headers: HeaderMap| async move {
            let resident = vec![ResidentModel { id: "demo".to_owned(), digest: String::new(), bytes: 1, in_use: true }];
            let is_router = headers.get("authorization").is_some_and(|value| value == "Bearer token");
            Json(ReplicaState { resident, running: if is_router { 3 } else { 0 }, ..ReplicaState::default() })
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, axum::Router::new().route(STATE_PATH, get(state))).await });
        format!("http://{address}")
    }

    #[tokio::test]
    async fn replicas_that_answer_are_heard_and_others_stop_nobody() {
        let inner = Inner::default();
        let place = ("emulsion".to_owned(), SetKey::Pool("default".to_owned()));
        let ready = |base_url: String| ReadyPod {
            place: place.clone(),
            incarnation: "1".to_owned(),
            endpoint: Endpoint { base_url, token: "token".to_owned() },
        };
        let nobody = "http://127.0.0.1:1".to_owned();
        inner.take_in(vec![("a".to_owned(), Some(ready(nobody))), ("b".to_owned(), Some(ready(replica().await)))]);
        ask_once(&inner, &client().unwrap()).await;
        let state = inner.lock();
        let heard: Vec<_> = state.sets[&place].iter().map(|slot| (slot.resident.len(), slot.of_others)).collect();
        assert_eq!(heard, [(0, 0), (1, 3)]);
    }
}
