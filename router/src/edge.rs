//! Where HTTP enters and leaves: bodies within bounds, keys wherever clients put them, and each call handed to its dialect and the
//! [`Service`]. It decides nothing about requests; what it serves stands in one table ([`endpoints`]) that the OpenAPI document is
//! made of too.

use std::time::Instant;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Method, StatusCode, Uri};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, on};

use crate::dialect::{Dialect, not_supported};
use crate::service::Service;

mod call;
pub mod endpoints;
mod modelslab;
mod multipart;
mod openai;
mod pages;
mod response;

#[cfg(test)]
mod tests;

use endpoints::{Operation, endpoints};
use response::respond;

/// Everything that is served; `stores` are the routes of outputs and inputs.
pub fn router(service: Service, stores: Router) -> Router {
    let mut router = Router::new();
    for endpoint in endpoints() {
        // The stores bring their own routes.
        if !matches!(endpoint.operation, Operation::Output | Operation::Input) {
            router = router.route(&endpoint.path, methods(endpoint.methods, endpoint.operation));
        }
    }
    let leaving = from_fn_with_state(service.clone(), part_when_leaving);
    let router = router.fallback(nothing_here).with_state(service).merge(stores).method_not_allowed_fallback(wrong_method);
    router.layer(leaving).layer(from_fn(log_call))
}

fn methods(methods: &'static [Method], operation: Operation) -> MethodRouter<Service> {
    let filter = methods
        .iter()
        .filter_map(|method| MethodFilter::try_from(method.clone()).ok())
        .reduce(MethodFilter::or)
        .expect("every endpoint has a method");
    match operation {
        Operation::Generate(task, family) => on(filter, move |state, request| modelslab::generate(state, task, family, request)),
        Operation::FetchByBody(family) => on(filter, move |state, request| modelslab::fetch(state, family, None, request)),
        Operation::FetchByPath(family) => on(filter, move |state, id, request| modelslab::fetch(state, family, Some(id), request)),
        Operation::ListLegacyModels => on(filter, modelslab::model_list),
        Operation::GenerateImages => on(filter, openai::generate),
        Operation::EditImages => on(filter, openai::edit),
        Operation::ListModels => on(filter, openai::models),
        Operation::FindModel => on(filter, openai::model),
        Operation::Index => on(filter, pages::index),
        Operation::Health => on(filter, pages::health),
        Operation::Ready => on(filter, pages::ready),
        Operation::Metrics => on(filter, pages::metrics),
        Operation::OpenApi => on(filter, pages::openapi),
        Operation::Output | Operation::Input => MethodRouter::new(),
    }
}

/// A path that nothing serves: what it would be for, where that is known, in the dialect of its prefix.
async fn nothing_here(uri: Uri) -> Response {
    let path = uri.path();
    let dialect = Dialect::of_path(path);
    respond(match not_supported::endpoint_refusal(path) {
        Some(refusal) => dialect.refuse(&refusal),
        None => {
            dialect.unrouted(StatusCode::NOT_FOUND, &format!("nothing is served at {}; GET /openapi.json lists what is", shortened(path)))
        }
    })
}

async fn wrong_method(method: Method, uri: Uri) -> Response {
    let message = format!("{method} is not served at {}; GET /openapi.json lists what is", shortened(uri.path()));
    respond(Dialect::of_path(uri.path()).unrouted(StatusCode::METHOD_NOT_ALLOWED, &message))
}

fn shortened(path: &str) -> String {
    path.chars().take(120).collect()
}

/// A caller that keeps its connection open would stay with a router that goes: it is asked to make another one.
async fn part_when_leaving(State(service): State<Service>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if service.is_leaving() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Never the query: keys and signatures stand in it.
async fn log_call(request: Request, next: Next) -> Response {
    let (method, path) = (request.method().clone(), shortened(request.uri().path()));
    let began = Instant::now();
    let response = next.run(request).await.into_response();
    tracing::debug!(%method, path, status = response.status().as_u16(), elapsed_ms = began.elapsed().as_millis() as u64, "call answered");
    response
}
