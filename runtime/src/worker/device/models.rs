//! Bringing models into memory: which one next, and when it has its place. One model at a time is on the way, so that it is never read twice
//! and its bytes are never promised twice.

use std::sync::Arc;
use std::time::{Duration, Instant};

use runtime_api::{Event, FailureReason};

use super::{DeviceThread, Order, Report};
use crate::engine::{Engine, EngineError, Request, Weighed};
use crate::request::complete;
use crate::residency::{ModelKey, Room};

/// The model that is on the way.
#[derive(Debug)]
pub(super) enum Pending<F> {
    /// Its headers are being read.
    Opening { key: ModelKey, since: Instant },
    /// It waits for room.
    Opened { key: ModelKey, since: Instant, folder: F, bytes: u64 },
    /// Its weights are being read.
    Loading { key: ModelKey, since: Instant },
}

impl<F> Pending<F> {
    fn key(&self) -> &ModelKey {
        match self {
            Self::Opening { key, .. } | Self::Opened { key, .. } | Self::Loading { key, .. } => key,
        }
    }

    pub(super) fn needs_room(&self, key: &ModelKey) -> bool {
        matches!(self, Self::Opened { .. }) && self.key() == key
    }
}

impl<E: Engine> DeviceThread<E> {
    /// Orders the model of the oldest generation that waits for one, then warm ones, or moves the pending one on.
    pub(super) fn arrange_models(&mut self) {
        self.residency.note_use(Instant::now());
        match self.pending.take() {
            Some(Pending::Opened { key, since, folder, bytes }) => self.place(key, since, folder, bytes),
            Some(pending) => self.pending = Some(pending),
            None => self.order_next(),
        }
    }

    fn order_next(&mut self) {
        let missing = self.waiting.iter().map(|generation| &generation.key).find(|key| !self.residency.contains(key));
        let warm = || self.shared.warm.next(|key| self.residency.contains(key), Instant::now());
        let Some(key) = missing.cloned().or_else(warm) else { return };
        for generation in self.waiting.iter().filter(|generation| generation.key == key) {
            generation.ending.tell(Event::Loading { bytes_done: 0, bytes_total: 0 });
        }
        if self.loader.send(Order::Open { key: key.clone() }).is_ok() {
            self.pending = Some(Pending::Opening { key, since: Instant::now() });
        } else {
            self.fail_waiting(&key, FailureReason::Internal, "the thread that reads weights is gone; start the replica anew");
        }
    }

    fn place(&mut self, key: ModelKey, since: Instant, folder: E::Folder, bytes: u64) {
        self.refuse_too_large(&key, &folder);
        if !self.waiting.iter().any(|generation| generation.key == key) {
            return self.place_warm(key, since, folder, bytes);
        }
        match self.residency.evict_for(bytes, &self.shared.warm.keys()) {
            Room::After(_) => self.order_load(key, since, folder),
            Room::Wait => self.pending = Some(Pending::Opened { key, since, folder, bytes }),
            Room::Never => self.fail_waiting(&key, FailureReason::InvalidModel, &self.exceeds_limit(bytes)),
        }
    }

    /// A model that nobody waits for is read only if it shall be warm, and harms nobody: calls go first, and what they used lately stays.
    fn place_warm(&mut self, key: ModelKey, since: Instant, folder: E::Folder, bytes: u64) {
        let calls_wait = self.waiting.iter().any(|generation| !self.residency.contains(&generation.key));
        if calls_wait || self.shared.warm.name(&key).is_none() {
            return;
        }
        let (now, idle_for) = (Instant::now(), self.shared.limits.warm_return);
        let problem = match self.residency.evict_idle_for(bytes, &self.shared.warm.keys(), idle_for, now) {
            Room::After(_) => return self.order_load(key, since, folder),
            Room::Wait => format!(
                "it takes {bytes} bytes of memory; of the {} bytes that this replica may hold, too many are taken by other warm models and by \
                 models that were used in the last {} s",
                self.shared.limits.resident_bytes,
                idle_for.as_secs()
            ),
            Room::Never => self.exceeds_limit(bytes),
        };
        self.shared.warm.failed(&key, &problem, now);
    }

    fn order_load(&mut self, key: ModelKey, since: Instant, folder: E::Folder) {
        if self.loader.send(Order::Load { key: key.clone(), folder }).is_ok() {
            self.pending = Some(Pending::Loading { key, since });
        } else {
            self.fail_waiting(&key, FailureReason::Internal, "the thread that reads weights is gone; start the replica anew");
        }
    }

    fn exceeds_limit(&self, bytes: u64) -> String {
        let limit = self.shared.limits.resident_bytes;
        format!("the model takes {bytes} bytes of memory and this replica may hold {limit}; raise its --resident-bytes-limit")
    }

    /// Ends those whose image has no room beside the weights: nothing is read for them.
    fn refuse_too_large(&mut self, key: &ModelKey, folder: &E::Folder) {
        let defaults = self.engine.defaults(folder);
        for generation in std::mem::take(&mut self.waiting) {
            let asked = &generation.dispatch.request;
            let limits = &self.shared.limits.request;
            // What is wrong with it otherwise is said when it is prepared.
            let request = match &generation.begun {
                _ if generation.key != *key => None,
                Some(begun) => Some(begun.request.clone()),
                None => complete(asked, generation.canvas.as_ref(), &defaults, limits, generation.seed).ok(),
            };
            match request.and_then(|request| self.too_large(Weighed::Unread(folder), &request)) {
                Some(message) => generation.ending.failed(FailureReason::InvalidRequest, message),
                None => self.waiting.push_back(generation),
            }
        }
    }

    /// Why an image has no room beside the weights, if it has none.
    pub(super) fn too_large(&self, of: Weighed<'_, E::Folder, E::Model>, request: &Request) -> Option<String> {
        let (needed, limit) = (self.engine.image_bytes(of, request), self.shared.limits.computing_bytes);
        (needed > limit).then(|| {
            format!(
                "an image of {}×{} takes {needed} bytes of memory beside the model's weights, and this replica has {limit} for that; ask for a \
                 smaller one, or raise its --computing-bytes-limit",
                request.width, request.height
            )
        })
    }

    pub(super) fn take_report(&mut self, report: Report<E::Folder, E::Model>) {
        match (report, self.pending.take()) {
            (Report::Progress { bytes_done, bytes_total }, Some(pending)) => {
                for generation in self.waiting.iter().filter(|generation| generation.key == *pending.key()) {
                    generation.ending.tell(Event::Loading { bytes_done, bytes_total });
                }
                self.pending = Some(pending);
            }
            (Report::Opened { result: Ok((folder, bytes)) }, Some(Pending::Opening { key, since })) => {
                self.pending = Some(Pending::Opened { key, since, folder, bytes });
            }
            (Report::Opened { result: Err(error) } | Report::Loaded { result: Err(error), .. }, Some(pending)) => {
                self.refuse(pending.key(), &error);
            }
            (Report::Loaded { result: Ok(model), took }, Some(Pending::Loading { key, since })) => self.settle(key, since, model, took),
            // An answer to nothing that was asked; there is nothing to do with it.
            (_, pending) => self.pending = pending,
        }
    }

    /// A model has arrived.
    fn settle(&mut self, key: ModelKey, since: Instant, model: Arc<E::Model>, took: Duration) {
        let facts = self.engine.facts(&model);
        self.shared.metrics.load_seconds.observe(took.as_secs_f64());
        self.shared.metrics.load_bytes.inc_by(facts.bytes);
        let now = Instant::now();
        let mut id = self.shared.warm.name(&key).unwrap_or_default();
        for generation in self.waiting.iter_mut().filter(|generation| generation.key == key) {
            // Who came while it was on the way has waited only since then.
            // Between two models, that is told otherwise.
            if generation.begun.is_some() {
                continue;
            }
            generation.waited_for_weights = Some(now.saturating_duration_since(since.max(generation.accepted)));
            id.clone_from(&generation.dispatch.model.id);
        }
        tracing::info!(model = id, bytes = facts.bytes, milliseconds = took.as_millis(), "model is in memory");
        self.residency.insert(key, id, facts.digest, facts.bytes, model);
    }

    fn refuse(&mut self, key: &ModelKey, error: &EngineError) {
        tracing::warn!(folder = %key.folder.display(), %error, "model is refused");
        let reason = match error {
            EngineError::Internal(_) => FailureReason::Internal,
            EngineError::InvalidModel(_) | EngineError::InvalidRequest(_) => FailureReason::InvalidModel,
        };
        self.shared.warm.failed(key, &error.to_string(), Instant::now());
        self.fail_waiting(key, reason, &error.to_string());
    }

    fn fail_waiting(&mut self, key: &ModelKey, reason: FailureReason, message: &str) {
        for generation in std::mem::take(&mut self.waiting) {
            if generation.key == *key {
                generation.ending.failed(reason, message.to_owned());
            } else {
                self.waiting.push_back(generation);
            }
        }
    }
}
