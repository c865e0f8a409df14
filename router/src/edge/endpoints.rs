//! The table of what is served: routes and documentation are both made of it.

use axum::http::Method;
use runtime_api::Task;

use crate::dialect::modelslab::{FETCH_FAMILIES, Family, GENERATION_PATHS, MODEL_LIST_PATHS};
use crate::dialect::openai;
use crate::inputs::INPUT_ROUTE;
use crate::outputs::OUTPUT_ROUTE;

/// What is done at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Generate(Task, Family),
    FetchByBody(Family),
    FetchByPath(Family),
    ListLegacyModels,
    GenerateImages,
    EditImages,
    ListModels,
    FindModel,
    Index,
    Health,
    Ready,
    Metrics,
    OpenApi,
    Output,
    Input,
}

/// One path and the methods it is served under; HEAD comes with GET.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// As axum and OpenAPI both spell it: `/v1/models/{model}`.
    pub path: String,
    pub methods: &'static [Method],
    pub operation: Operation,
}

const GET: &[Method] = &[Method::GET];
const POST: &[Method] = &[Method::POST];
/// Clients of the vendor's older versions use either.
const GET_AND_POST: &[Method] = &[Method::GET, Method::POST];
const GET_AND_PUT: &[Method] = &[Method::GET, Method::PUT];

pub fn endpoints() -> Vec<Endpoint> {
    let endpoint = |path: &str, methods, operation| Endpoint { path: path.to_owned(), methods, operation };
    let mut endpoints = vec![
        endpoint(openai::GENERATIONS_PATH, POST, Operation::GenerateImages),
        endpoint(openai::EDITS_PATH, POST, Operation::EditImages),
        endpoint(openai::MODELS_PATH, GET, Operation::ListModels),
        endpoint(&format!("{}/{{model}}", openai::MODELS_PATH), GET, Operation::FindModel),
        endpoint("/", GET, Operation::Index),
        endpoint("/healthz", GET, Operation::Health),
        endpoint("/readyz", GET, Operation::Ready),
        endpoint("/metrics", GET, Operation::Metrics),
        endpoint("/openapi.json", GET, Operation::OpenApi),
        endpoint(OUTPUT_ROUTE, GET_AND_PUT, Operation::Output),
        endpoint(INPUT_ROUTE, GET, Operation::Input),
    ];
    endpoints.extend(GENERATION_PATHS.map(|(path, task, family)| endpoint(path, POST, Operation::Generate(task, family))));
    for family in FETCH_FAMILIES {
        endpoints.push(endpoint(family.fetch_path, GET_AND_POST, Operation::FetchByBody(family)));
        endpoints.push(endpoint(&format!("{}/{{id}}", family.fetch_path), GET_AND_POST, Operation::FetchByPath(family)));
    }
    endpoints.extend(MODEL_LIST_PATHS.iter().map(|path| endpoint(path, GET_AND_POST, Operation::ListLegacyModels)));
    endpoints
}
