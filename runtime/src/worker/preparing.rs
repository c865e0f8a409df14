//! Before the device: fetches a generation's pictures, decodes them and makes its canvas, while the device works for others.

use std::sync::Arc;

use runtime_api::{Dispatch, FailureReason};
use tokio::sync::Semaphore;

use super::generation::Generation;
use crate::canvas::{Canvas, Pictures};
use crate::input::{self, FetchError, Fetcher};
use crate::request;

/// Generations whose pictures are fetched and decoded at once: bounds the memory that files and decoders take.
const PREPARING_AT_ONCE: usize = 4;

/// Makes canvases; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Preparation {
    fetcher: Fetcher,
    limits: request::Limits,
    turns: Arc<Semaphore>,
}

impl Preparation {
    pub(super) fn new(fetcher: Fetcher, limits: request::Limits) -> Self {
        Self { fetcher, limits, turns: Arc::new(Semaphore::new(PREPARING_AT_ONCE)) }
    }

    /// The generation with its canvas; `None` if it ended here: its pictures cannot be had or used, nobody listens, or its time is over.
    pub(super) async fn prepare(&self, mut generation: Box<Generation>) -> Option<Box<Generation>> {
        let Generation { dispatch, ending, deadline, .. } = generation.as_mut();
        let made = tokio::select! {
            made = self.canvas(dispatch) => made,
            () = ending.gone() => Err((FailureReason::Cancelled, "the router closed the stream".to_owned())),
            () = tokio::time::sleep_until((*deadline).into()) => {
                Err((FailureReason::DeadlineExceeded, "the deadline passed before the request's pictures were there".to_owned()))
            }
        };
        match made {
            Ok(canvas) => {
                generation.canvas = canvas;
                Some(generation)
            }
            Err((reason, message)) => {
                generation.ending.failed(reason, message);
                None
            }
        }
    }

    async fn canvas(&self, dispatch: &Dispatch) -> Result<Option<Canvas>, (FailureReason, String)> {
        let invalid = |error: &dyn std::error::Error| (FailureReason::InvalidRequest, error.to_string());
        let named = request::inputs(&dispatch.request).map_err(|error| invalid(&error))?;
        // The semaphore is never closed.
        let _turn = self.turns.acquire().await;
        let mut files = Vec::new();
        for (name, digest) in named {
            let source = dispatch.inputs.iter().find(|source| source.sha256 == digest);
            let Some(source) = source else {
                return Err((FailureReason::InvalidRequest, format!("the dispatch does not say where the {name} is")));
            };
            let file = self.fetcher.get(source, name).await.map_err(|error| (reason(&error), error.to_string()))?;
            files.push((name, file));
        }
        let (request, limits) = (dispatch.request.clone(), self.limits);
        let made = tokio::task::spawn_blocking(move || {
            let mut pictures = Pictures::default();
            for (name, file) in files {
                match name {
                    request::MASK => pictures.mask = Some(input::mask(&file).map_err(|error| error.to_string())?),
                    _ => pictures.image = Some(input::image(&file).map_err(|error| error.to_string())?),
                }
            }
            Canvas::new(&request, &pictures, &limits).map_err(|error| error.to_string())
        });
        match made.await {
            Ok(made) => made.map_err(|message| (FailureReason::InvalidRequest, message)),
            // Pictures are hostile: a decoder's panic is a bad picture.
            Err(_) => Err((FailureReason::InvalidRequest, "decoding the request's pictures ended in a panic; send others".to_owned())),
        }
    }
}

/// Only what the caller can mend is the caller's: another replica may reach what this one could not.
fn reason(error: &FetchError) -> FailureReason {
    match error {
        FetchError::Source | FetchError::TooLarge { .. } => FailureReason::InvalidRequest,
        FetchError::Refused { .. } | FetchError::Reach { .. } | FetchError::OtherDigest { .. } => FailureReason::Internal,
    }
}
