//! An image by two models: the first leaves the schedule, the second enters it there. Between them a generation waits like a new one, for the second
//! model's weights, with its latents and its places.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::OwnedSemaphorePermit;

use super::device::DeviceThread;
use super::running::{Running, Since};
use crate::engine::{Engine, Request};
use crate::residency::ModelKey;

/// The second model of a generation.
#[derive(Debug)]
pub(super) struct Refiner {
    pub(super) key: ModelKey,
    /// The share of the noise that is gone when it goes on.
    pub(super) start: f64,
}

/// A generation between its models.
#[derive(Debug)]
pub(super) struct Begun {
    /// What the second is asked for.
    pub(super) request: Request,
    pub(super) slots: OwnedSemaphorePermit,
    pub(super) since: Since,
}

impl<E: Engine> DeviceThread<E> {
    /// Lets the second model go on with what the first has left.
    pub(super) fn pass_on(&mut self, running: Running<E>, refiner: Refiner, left: Instant) {
        let Running { mut generation, samples, request, started, encode, slots, evaluations, .. } = running;
        let images: Vec<E::Image> = samples.into_iter().filter_map(|sample| sample.left).collect();
        let engine = Arc::clone(&self.engine);
        match self.guarded(|| engine.hand_over(&images, &request, refiner.start)) {
            Ok(request) => {
                generation.key = refiner.key;
                generation.passed_over = 0;
                generation.begun = Some(Begun { request, slots, since: Since { evaluated: evaluations, started, left, encode } });
                self.waiting.push_front(generation);
            }
            Err(error) => generation.ending.failed_in_engine(error),
        }
    }
}
