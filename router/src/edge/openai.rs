//! Handlers of OpenAI's paths.

use std::convert::Infallible;
use std::pin::Pin;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::{Path, Request, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt};
use runtime_api::Failure;

use super::call::{Call, fill_in_model, read_image, read_images};
use super::response::respond;
use crate::dialect::openai::{self, Parsed, StreamEvent};
use crate::dialect::{Answer, Content};
use crate::generation::{self, Generation, Progress};
use crate::refusal::Refusal;
use crate::service::{Service, Ticket};
use crate::store::Caller;

/// This dialect knows no "processing": the call is held until the images are there. The house gives a request up long before this; should
/// it ever not, the connection ends here and the request with it.
const HOLD_LIMIT: Duration = Duration::from_secs(60 * 60);
/// What such a caller is told.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(30);

pub(super) async fn generate(State(service): State<Service>, request: Request) -> Response {
    let call = Call::read(&service, request).await;
    answer(begin(service, call, openai::parse).await)
}

pub(super) async fn edit(State(service): State<Service>, request: Request) -> Response {
    let call = Call::read_with_pictures(&service, request).await;
    answer(begin(service, call, openai::parse_edit).await)
}

fn answer(result: Result<Response, Refusal>) -> Response {
    result.unwrap_or_else(|refusal| respond(openai::refuse(&refusal)))
}

pub(super) async fn models(State(service): State<Service>, request: Request) -> Response {
    let answer = Call::read(&service, request).await.map(|call| openai::model_list(&service.models(&call.caller)));
    respond(answer.unwrap_or_else(|refusal| openai::refuse(&refusal)))
}

pub(super) async fn model(State(service): State<Service>, Path(model): Path<String>, request: Request) -> Response {
    let answer = Call::read(&service, request).await.and_then(|call| {
        let models = service.models(&call.caller);
        let found = models.iter().find(|listing| listing.is_checkpoint() && listing.model_id == model).map(openai::model);
        found.ok_or_else(|| Refusal::ModelUnknown { model: model.chars().take(100).collect(), nearest: None })
    });
    respond(answer.unwrap_or_else(|refusal| openai::refuse(&refusal)))
}

async fn begin(service: Service, call: Result<Call, Refusal>, parse: fn(Content) -> Result<Parsed, Refusal>) -> Result<Response, Refusal> {
    let Call { content, caller, public_url, room } = call?;
    let mut parsed = parse(content)?;
    fill_in_model(&service, &caller, "model", &mut parsed.submission)?;
    let ticket = service.submit(&caller, parsed.submission).await?;
    drop(room);
    if parsed.stream {
        let events = Streaming::new(service, caller, ticket).into_events();
        return Ok(Sse::new(events).keep_alive(KeepAlive::default()).into_response());
    }
    let answer = hold(&service, &caller, &ticket, parsed.base64, &public_url).await?;
    Ok(respond(answer))
}

async fn hold(service: &Service, caller: &Caller, ticket: &Ticket, base64: bool, public_url: &str) -> Result<Answer, Refusal> {
    let generation = service.wait(caller, ticket.generation.public_id, HOLD_LIMIT).await?;
    match outcome(&generation) {
        Outcome::Succeeded => {
            let images = if base64 { Some(read_images(service, &generation).await?) } else { None };
            Ok(openai::render(&generation, images, public_url, now_seconds()))
        }
        Outcome::Failed(failure) => Ok(openai::refuse_failure(&failure)),
        Outcome::Unfinished => Err(Refusal::NoCapacity { retry_after: TRY_AGAIN_AFTER }),
    }
}

enum Outcome {
    Succeeded,
    Failed(Failure),
    Unfinished,
}

fn outcome(generation: &Generation) -> Outcome {
    match &generation.state {
        generation::State::Succeeded => Outcome::Succeeded,
        generation::State::Failed(failure) => Outcome::Failed(failure.clone()),
        generation::State::Cancelled => Outcome::Failed(Failure {
            reason: runtime_api::FailureReason::Cancelled,
            message: "the generation was cancelled; nothing was charged".to_owned(),
        }),
        generation::State::Queued | generation::State::Running { .. } => Outcome::Unfinished,
    }
}

/// Seconds since 1970.
fn now_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// A generation told event by event. It holds the ticket: when the caller goes away, the stream is dropped and the request with it.
struct Streaming {
    service: Service,
    caller: Caller,
    ticket: Ticket,
    progress: Pin<Box<dyn Stream<Item = Progress> + Send>>,
    stage: Stage,
}

enum Stage {
    /// Until it has finished, one way or the other.
    Watching,
    /// It succeeded; `next` is the image to send. One is read at a time, so that a slow caller holds one in memory.
    Sending {
        generation: Box<Generation>,
        next: u32,
    },
    Ended,
}

impl Streaming {
    fn new(service: Service, caller: Caller, ticket: Ticket) -> Self {
        let progress = Box::pin(service.watch(&ticket));
        Self { service, caller, ticket, progress, stage: Stage::Watching }
    }

    fn into_events(self) -> impl Stream<Item = Result<Event, Infallible>> + Send + 'static {
        futures::stream::unfold(self, |mut streaming| async move {
            let event = streaming.next_event().await?;
            Some((Ok(event), streaming))
        })
    }

    async fn next_event(&mut self) -> Option<Event> {
        loop {
            match &mut self.stage {
                Stage::Ended => return None,
                Stage::Sending { generation, next } if *next == generation.request.samples => self.stage = Stage::Ended,
                Stage::Sending { generation, next } => {
                    let image = *next;
                    *next += 1;
                    match read_image(&self.service, generation, image).await {
                        Ok(png) => return Some(event(&openai::completed(generation, image, png, now_seconds()))),
                        Err(_) => return Some(self.fail(None)),
                    }
                }
                Stage::Watching => match self.progress.next().await {
                    Some(Progress::Preview { image, index, png_base64 }) => {
                        return Some(event(&openai::partial(&self.ticket.generation, image, index, png_base64, now_seconds())));
                    }
                    Some(Progress::Changed(state)) if !state.is_finished() => {}
                    Some(Progress::Changed(_)) | None => {
                        if let Some(failure) = self.finish().await {
                            return Some(failure);
                        }
                    }
                },
            }
        }
    }

    /// Goes on to sending, or tells why not.
    async fn finish(&mut self) -> Option<Event> {
        match self.service.wait(&self.caller, self.ticket.generation.public_id, Duration::ZERO).await {
            Ok(generation) => match outcome(&generation) {
                Outcome::Succeeded => {
                    self.stage = Stage::Sending { generation: Box::new(generation), next: 0 };
                    None
                }
                Outcome::Failed(failure) => Some(self.fail(Some(&failure))),
                Outcome::Unfinished => Some(self.fail(None)),
            },
            Err(_) => Some(self.fail(None)),
        }
    }

    fn fail(&mut self, failure: Option<&Failure>) -> Event {
        self.stage = Stage::Ended;
        Event::default().event("error").data(openai::failed(failure).to_string())
    }
}

fn event(content: &StreamEvent) -> Event {
    Event::default().event(content.kind).data(serde_json::to_string(content).expect("an event has text keys and finite numbers"))
}
