//! The replica over HTTP, as `runtime_api` describes it. Translates only: decisions are the worker's.

mod generations;
mod token;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, middleware};
use runtime_api::{Failure, FailureReason, GENERATIONS_PATH, ReplicaState, STATE_PATH, WARM_MODELS_PATH, WarmModels};

pub use token::Token;

use crate::worker::Replica;

/// What every handler sees.
#[derive(Debug)]
struct House {
    replica: Arc<Replica>,
    /// `None` lets everybody in; only for a replica that nobody else can reach.
    token: Option<Token>,
}

/// The routes of one replica.
pub fn app(replica: Arc<Replica>, token: Option<Token>) -> Router {
    let house = Arc::new(House { replica, token });
    let guarded = Router::new()
        .route(GENERATIONS_PATH, post(generations::create))
        .route(STATE_PATH, get(state))
        .route(WARM_MODELS_PATH, put(keep_warm))
        .route_layer(middleware::from_fn_with_state(Arc::clone(&house), check_token));
    Router::new()
        .merge(guarded)
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(house)
}

async fn check_token(
    State(house): State<Arc<House>>,
    headers: HeaderMap,
    request: axum::extract::Request,
    next: middleware::Next,
) -> Response {
    match &house.token {
        Some(token) if !token.is_borne_by(&headers) => {
            let message = "the replica's token is missing or wrong; send it as Authorization: Bearer".to_owned();
            refusal(StatusCode::UNAUTHORIZED, FailureReason::InvalidRequest, message)
        }
        _ => next.run(request).await,
    }
}

async fn state(State(house): State<Arc<House>>) -> Json<ReplicaState> {
    Json(house.replica.state())
}

async fn keep_warm(State(house): State<Arc<House>>, Json(wanted): Json<WarmModels>) -> Response {
    match house.replica.keep_warm(wanted) {
        Ok(report) => Json(report).into_response(),
        Err(failure) => refusal(status(failure.reason), failure.reason, failure.message),
    }
}

async fn healthz(State(house): State<Arc<House>>) -> (StatusCode, &'static str) {
    if house.replica.is_alive() { (StatusCode::OK, "ok\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "the device thread hangs\n") }
}

async fn readyz(State(house): State<Arc<House>>) -> (StatusCode, &'static str) {
    if house.replica.is_accepting() { (StatusCode::OK, "ok\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "draining\n") }
}

async fn metrics(State(house): State<Arc<House>>) -> Response {
    match house.replica.metrics().render() {
        Ok(text) => ([("content-type", "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

fn refusal(status: StatusCode, reason: FailureReason, message: String) -> Response {
    (status, Json(Failure { reason, message })).into_response()
}

/// The one table from failures to statuses, for what is refused before a stream begins.
fn status(reason: FailureReason) -> StatusCode {
    match reason {
        FailureReason::InvalidRequest | FailureReason::InvalidModel => StatusCode::BAD_REQUEST,
        FailureReason::Busy => StatusCode::SERVICE_UNAVAILABLE,
        FailureReason::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        FailureReason::Cancelled | FailureReason::OutputRejected | FailureReason::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
