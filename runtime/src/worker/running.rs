//! A generation whose images are being made.

use std::sync::Arc;
use std::time::{Duration, Instant};

use runtime_api::{Event, Timings, WeightsTier};
use tokio::sync::OwnedSemaphorePermit;

use super::generation::Generation;
use super::previews::preview_points;
use crate::engine::{Engine, Progress, Request};
use crate::picture::Pixels;

/// One sample.
#[derive(Debug)]
pub(super) struct Sample<I> {
    /// `None` while it is in a call, and once its pixels are there. A call that panics does not give it back.
    pub(super) image: Option<I>,
    pub(super) pixels: Option<Pixels>,
    /// What the model left for another.
    pub(super) left: Option<I>,
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

/// What an earlier model made of a generation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Since {
    /// Evaluations of each image.
    pub(super) evaluated: usize,
    /// When it began.
    pub(super) started: Instant,
    /// When it had ended.
    pub(super) left: Instant,
    pub(super) encode: Duration,
}

/// A generation with its images.
#[derive(Debug)]
pub(super) struct Running<E: Engine> {
    pub(super) generation: Generation,
    pub(super) samples: Vec<Sample<E::Image>>,
    /// What the model was asked for.
    pub(super) request: Request,
    /// Evaluations of each image before those of this model.
    pub(super) evaluated: usize,
    /// Evaluations of each image by this model.
    pub(super) evaluations: usize,
    /// When its first model began.
    pub(super) started: Instant,
    /// Between two models.
    paused: Duration,
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
        request: Request,
        images: Vec<(E::Image, Progress)>,
        model: Arc<E::Model>,
        (slots, started): (OwnedSemaphorePermit, Instant),
        since: Option<Since>,
    ) -> Self {
        // What is checked is shown only once it was.
        let is_hidden = generation.dispatch.request.safety_checker.is_some() || since.is_some();
        let partial_images = if is_hidden { 0 } else { generation.dispatch.partial_images.min(super::MAX_PARTIAL_IMAGES) };
        let sample = |(image, progress): (E::Image, Progress)| Sample {
            image: Some(image),
            pixels: None,
            left: None,
            passed_over: 0,
            previews: preview_points(progress.total, partial_images),
        };
        let evaluations = images.first().map_or(0, |(_, progress)| progress.total);
        let samples = images.into_iter().map(sample).collect();
        let encode = started.elapsed();
        let alone = Self {
            generation,
            samples,
            request,
            evaluated: 0,
            evaluations,
            started,
            paused: Duration::ZERO,
            encode,
            decode: Duration::ZERO,
            slots,
            _model: model,
        };
        match since {
            None => alone,
            Some(Since { evaluated, started: first, left, encode: before }) => {
                Self { evaluated, paused: started.saturating_duration_since(left), started: first, encode: before + encode, ..alone }
            }
        }
    }

    /// What listeners are told after `done` evaluations of one of its images. How many the second model will make is known once it has begun.
    pub(super) fn step(&self, sample: usize, done: usize) -> Event {
        let evaluations = match &self.generation.refiner {
            Some(refiner) => (self.evaluations as f64 / refiner.start).ceil() as usize,
            None => self.evaluated + self.evaluations,
        };
        Event::Step { image: sample as u32, evaluation: (self.evaluated + done) as u32, evaluations: evaluations as u32 }
    }

    pub(super) fn is_finished(&self) -> bool {
        self.samples.iter().all(|sample| sample.pixels.is_some() || sample.left.is_some())
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
            load_ms: milliseconds(loaded + self.paused),
            encode_ms: milliseconds(self.encode),
            denoise_ms: milliseconds(made.saturating_sub(self.encode + self.decode + self.paused)),
            decode_ms: milliseconds(self.decode),
            upload_ms: 0,
            weights_from,
        }
    }
}

pub(super) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
