//! Handlers of ModelsLab's paths.

use axum::extract::{Path, Request, State};
use axum::response::Response;
use runtime_api::Task;

use super::call::{Call, fill_in_model, read_images};
use super::response::respond;
use crate::dialect::modelslab::{self, Answering, Family, FetchFields, parse_fetch_id};
use crate::dialect::{Answer, Fields, fields};
use crate::generation::{self, Generation, Mode};
use crate::refusal::Refusal;
use crate::service::Service;

pub(super) async fn generate(State(service): State<Service>, task: Task, family: Family, request: Request) -> Response {
    answer(make(&service, task, family, request).await)
}

/// `id` stands in the path, or else in the body.
pub(super) async fn fetch(State(service): State<Service>, family: Family, id: Option<Path<String>>, request: Request) -> Response {
    answer(find(&service, family, id.map(|Path(id)| id), request).await)
}

pub(super) async fn model_list(State(service): State<Service>, request: Request) -> Response {
    answer(Call::read(&service, request).await.map(|call| modelslab::model_list(&service.models(&call.caller))))
}

fn answer(result: Result<Answer, Refusal>) -> Response {
    respond(result.unwrap_or_else(|refusal| modelslab::refuse(&refusal)))
}

async fn make(service: &Service, task: Task, family: Family, request: Request) -> Result<Answer, Refusal> {
    let call =
        if task == Task::TextToImage { Call::read(service, request).await? } else { Call::read_with_pictures(service, request).await? };
    let Call { content, caller, public_url, room } = call;
    let mut parsed = modelslab::parse(content, task, family)?;
    fill_in_model(service, &caller, "model_id", &mut parsed.submission)?;
    let waits = parsed.submission.mode == Mode::Attached;
    // From here to the answer, a caller that goes away drops the ticket, and with it the request.
    let ticket = service.submit(&caller, parsed.submission).await?;
    drop(room);
    let mut generation = ticket.generation.clone();
    if waits {
        generation = service.wait(&caller, generation.public_id, service.settings().sync_wait).await?;
    }
    if !generation.state.is_finished() {
        generation = ticket.detach().await;
    }
    let images = images(service, &generation, parsed.base64).await?;
    Ok(modelslab::render_sync(&generation, images, Answering { public_url: &public_url, family, base64: parsed.base64 }))
}

async fn find(service: &Service, family: Family, id_in_path: Option<String>, request: Request) -> Result<Answer, Refusal> {
    let Call { content, caller, public_url, .. } = Call::read(service, request).await?;
    let (id, base64) = read_fetch(content.fields, id_in_path)?;
    let generation = service.wait(&caller, id, service.settings().fetch_wait).await?;
    let images = images(service, &generation, base64).await?;
    Ok(modelslab::render_fetch(&generation, images, Answering { public_url: &public_url, family, base64 }))
}

fn read_fetch(fields: Fields, id_in_path: Option<String>) -> Result<(i32, bool), Refusal> {
    let fetch: FetchFields = fields::typed(fields)?;
    let id = parse_fetch_id(id_in_path.or(fetch.request_id).as_deref())?;
    Ok((id, fetch.base64 == Some(true)))
}

async fn images(service: &Service, generation: &Generation, base64: bool) -> Result<Option<Vec<String>>, Refusal> {
    if base64 && generation.state == generation::State::Succeeded {
        return read_images(service, generation).await.map(Some);
    }
    Ok(None)
}
