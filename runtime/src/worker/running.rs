//! A generation whose images are being made.

use std::sync::Arc;
use std::time::{Duration, Instant};

use runtime_api::{Timings, WeightsTier};
use tokio::sync::OwnedSemaphorePermit;

use super::generation::Generation;
use super::previews::preview_points;
use crate::engine::{Engine, Progress};
use crate::picture::Pixels;

/// One sample.
#[derive(Debug)]
pub(super) struct Sample<I> {
    /// `None` while it is in a call, and once its pixels are there. A call that panics does not give it back.
    pub(super) image: Option<I>,
    pub(super) pixels: Option<Pixels>,
    /// Calls that were run since its last one.
    pub(super) passed_over: u64,
    /// Evaluations after which it is shown.
    previews: Vec<usize>,
}

impl<I> Sample<I> {
    /// The number of the preview that is due after `done` evaluations.
    pub(super) fn preview_due(&self, done: usize) -> Option<u32> {
        self.previews.iter().position(|&point| point == done).map(|index| index as u32)
    }
}

/// A generation with its images.
#[derive(Debug)]
pub(super) struct Running<E: Engine> {
    pub(super) generation: Generation,
    pub(super) samples: Vec<Sample<E::Image>>,
    pub(super) started: Instant,
    pub(super) encode: Duration,
    pub(super) decode: Duration,
    /// Its places among the images that are made at once, given back when all are stored.
    pub(super) slots: OwnedSemaphorePermit,
    /// Keeps the model from being evicted.
    pub(super) _model: Arc<E::Model>,
}

impl<E: Engine> Running<E> {
    pub(super) fn new(
        generation: Generation,
        images: Vec<(E::Image, Progress)>,
        model: Arc<E::Model>,
        slots: OwnedSemaphorePermit,
        started: Instant,
    ) -> Self {
        // What is checked is shown only once it was.
        let is_checked = generation.dispatch.request.safety_checker.is_some();
        let partial_images = if is_checked { 0 } else { generation.dispatch.partial_images.min(super::MAX_PARTIAL_IMAGES) };
        let sample = |(image, progress): (E::Image, Progress)| Sample {
            image: Some(image),
            pixels: None,
            passed_over: 0,
            previews: preview_points(progress.total, partial_images),
        };
        let samples = images.into_iter().map(sample).collect();
        Self { generation, samples, started, encode: started.elapsed(), decode: Duration::ZERO, slots, _model: model }
    }

    pub(super) fn is_finished(&self) -> bool {
        self.samples.iter().all(|sample| sample.pixels.is_some())
    }

    /// Where the time went, up to `now`; what is not known yet is 0.
    pub(super) fn timings(&self, now: Instant) -> Timings {
        let waited = self.started.saturating_duration_since(self.generation.accepted);
        let loaded = self.generation.waited_for_weights.unwrap_or_default();
        let fetched = self.generation.fetched.unwrap_or_default();
        let made = now.saturating_duration_since(self.started);
        let weights_from = match (self.generation.fetched, self.generation.waited_for_weights) {
            (Some(_), _) => WeightsTier::ContentStore,
            (None, Some(_)) => WeightsTier::Disk,
            (None, None) => WeightsTier::Device,
        };
        Timings {
            queue_ms: milliseconds(waited.saturating_sub(loaded + fetched)),
            fetch_ms: milliseconds(fetched),
            load_ms: milliseconds(loaded),
            encode_ms: milliseconds(self.encode),
            denoise_ms: milliseconds(made.saturating_sub(self.encode + self.decode)),
            decode_ms: milliseconds(self.decode),
            upload_ms: 0,
            weights_from,
        }
    }
}

pub(super) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
