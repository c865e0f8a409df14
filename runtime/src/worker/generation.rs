//! One accepted generation, and the promise that it ends exactly once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use runtime_api::{Dispatch, Event, Failure, FailureReason, Timings};
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};

use super::feed::Teller;
use super::opening::Opened;
use super::refining::{Begun, Refiner};
use crate::canvas::Canvas;
use crate::content::ContentLease;
use crate::engine::{AdapterUse, EngineError, NamedEmbedding};
use crate::metrics::Metrics;
use crate::residency::ModelKey;

/// Accepted work that waits for the device.
#[derive(Debug)]
pub(super) struct Generation {
    pub(super) dispatch: Dispatch,
    pub(super) key: ModelKey,
    /// What the request's prompts may name.
    pub(super) embeddings: Vec<NamedEmbedding>,
    /// What acts besides the weights.
    pub(super) adapters: Vec<AdapterUse>,
    /// Made of its pictures before it waits for the device; `None` where its task needs none.
    pub(super) canvas: Option<Canvas>,
    /// What each image is made with, for other tools; known once it starts.
    pub(super) infotexts: Vec<String>,
    /// Used where the request names none.
    pub(super) seed: u64,
    pub(super) accepted: Instant,
    pub(super) deadline: Instant,
    /// Keeps what was imported on the disk.
    pub(super) content: Vec<ContentLease>,
    /// How long it took to bring that there; `None` where it was.
    pub(super) fetched: Option<Duration>,
    /// How long it waited for weights; `None` while they are resident from the start.
    pub(super) waited_for_weights: Option<Duration>,
    /// Generations that were started before it, though they came later, while its model waited for room.
    pub(super) passed_over: u32,
    pub(super) ending: Ending,
    /// Its place in the queue, given back when it starts.
    pub(super) place: Option<OwnedSemaphorePermit>,
    /// Of the model, once it is known.
    pub(super) family: &'static str,
    /// Who goes on where the model leaves off; taken when it does.
    pub(super) refiner: Option<Refiner>,
    /// What another model made of it before.
    pub(super) begun: Option<Begun>,
}

/// What is known of a generation before anything that it names was found.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) seed: u64,
    pub(super) accepted: Instant,
    pub(super) deadline: Instant,
    pub(super) ending: Ending,
    pub(super) place: OwnedSemaphorePermit,
}

impl Arrival {
    pub(super) fn generation(self, opened: Opened) -> Box<Generation> {
        let Self { seed, accepted, deadline, ending, place } = self;
        let Opened { dispatch, key, refiner, embeddings, adapters } = opened;
        let refiner = refiner.zip(dispatch.request.refiner.as_ref()).map(|(key, asked)| Refiner { key, start: asked.start });
        Box::new(Generation {
            dispatch,
            key,
            embeddings,
            adapters,
            canvas: None,
            infotexts: Vec::new(),
            seed,
            accepted,
            deadline,
            content: Vec::new(),
            fetched: None,
            waited_for_weights: None,
            passed_over: 0,
            ending,
            place: Some(place),
            family: "",
            refiner,
            begun: None,
        })
    }
}

impl Generation {
    /// Why it need not go on, if it need not.
    pub(super) fn reason_to_stop(&self, now: Instant) -> Option<FailureReason> {
        if self.ending.is_gone() {
            Some(FailureReason::Cancelled)
        } else if now >= self.deadline {
            Some(FailureReason::DeadlineExceeded)
        } else {
            None
        }
    }

    pub(super) fn stop(self, reason: FailureReason) {
        let message = match reason {
            FailureReason::Cancelled => "the router closed the stream",
            FailureReason::DeadlineExceeded => "the deadline passed before the images were made; allow more time or ask for fewer steps",
            _ => "the generation was given up",
        };
        self.ending.failed(reason, message.to_owned());
    }
}

/// Ends a generation once: by name, or as `Internal` if it is dropped on the way, so that no panic and no early return leaves a caller waiting.
#[derive(Debug)]
pub(super) struct Ending {
    teller: Option<Teller>,
    metrics: Arc<Metrics>,
    _presence: Presence,
}

impl Ending {
    pub(super) fn new(teller: Teller, metrics: Arc<Metrics>, presence: Presence) -> Self {
        Self { teller: Some(teller), metrics, _presence: presence }
    }

    pub(super) fn tell(&self, event: Event) {
        if let Some(teller) = &self.teller {
            teller.tell(event);
        }
    }

    pub(super) fn progress(&self) -> Option<mpsc::Sender<Event>> {
        self.teller.as_ref().map(Teller::progress)
    }

    pub(super) fn is_gone(&self) -> bool {
        self.teller.as_ref().is_none_or(Teller::is_gone)
    }

    pub(super) async fn gone(&mut self) {
        if let Some(teller) = &mut self.teller {
            teller.gone().await;
        }
    }

    pub(super) fn done(mut self, timings: Timings, nsfw_content_detected: Vec<bool>, family: &str) {
        self.end(None, Event::Done { timings, nsfw_content_detected, family: Some(family.to_owned()) });
    }

    pub(super) fn failed(mut self, reason: FailureReason, message: String) {
        self.end(Some(reason), Event::Failed(Failure { reason, message }));
    }

    /// Ends without a word: the caller is told otherwise.
    pub(super) fn dismiss(mut self) {
        drop(self.teller.take());
    }

    pub(super) fn failed_in_engine(self, error: EngineError) {
        match error {
            EngineError::InvalidRequest(message) => self.failed(FailureReason::InvalidRequest, message),
            EngineError::InvalidModel(message) => self.failed(FailureReason::InvalidModel, message),
            EngineError::Internal(message) => self.failed(FailureReason::Internal, message),
        }
    }

    fn end(&mut self, failure: Option<FailureReason>, event: Event) {
        if let Some(teller) = self.teller.take() {
            // Done for nobody is still cancelled only if the images were not stored; they were.
            self.metrics.count_outcome(failure);
            teller.end(event);
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        let message = "the replica gave the generation up; try it again".to_owned();
        self.end(Some(FailureReason::Internal), Event::Failed(Failure { reason: FailureReason::Internal, message }));
    }
}

/// Counts a generation as in the house, from acceptance to its end.
#[derive(Debug)]
pub(super) struct Presence(watch::Sender<u32>);

impl Presence {
    pub(super) fn enter(house: &watch::Sender<u32>) -> Self {
        house.send_modify(|count| *count += 1);
        Self(house.clone())
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}
