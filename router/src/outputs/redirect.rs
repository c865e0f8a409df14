//! HTTP over a bucket of outputs: a caller is sent on to S3 with a URL that was signed just now. So links in answers stay good for as long
//! as the image is kept, any router of the bucket answers for them, and no image passes through one.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::routes::{OUTPUT_ROUTE, failed, not_there};
use super::signing::OutputName;
use super::{OutputError, S3Outputs};

/// GET and HEAD of outputs.
pub fn routes(outputs: Arc<S3Outputs>) -> Router {
    Router::new().route(OUTPUT_ROUTE, get(find_output)).with_state(outputs)
}

async fn find_output(State(outputs): State<Arc<S3Outputs>>, Path(file_name): Path<String>, method: Method) -> Response {
    let Some(name) = OutputName::parse(&file_name) else {
        return not_there();
    };
    let answer = if method == Method::HEAD { describe(&outputs, &name).await } else { send_on(&outputs, &name).await };
    answer.unwrap_or_else(|error| failed(&error))
}

async fn send_on(outputs: &S3Outputs, name: &OutputName) -> Result<Response, OutputError> {
    let Some(url) = outputs.link(name).await? else { return Ok(not_there()) };
    Ok((StatusCode::TEMPORARY_REDIRECT, [(LOCATION, url.as_str()), (CACHE_CONTROL, "no-store")]).into_response())
}

/// A URL that is signed for GET is not good for HEAD, so that this one is answered here.
async fn describe(outputs: &S3Outputs, name: &OutputName) -> Result<Response, OutputError> {
    let Some(bytes) = outputs.size(name).await? else { return Ok(not_there()) };
    Ok([(CONTENT_TYPE, name.format().media_type().to_owned()), (CONTENT_LENGTH, bytes.to_string())].into_response())
}
