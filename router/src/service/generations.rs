//! The requests this router knows in memory: all it works on, and the last ones that finished. The journal answers for the rest.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use uuid::Uuid;

use super::tracked::Tracked;

/// Finished requests kept for callers that ask again soon.
const FINISHED_LIMIT: usize = 1_000;
/// Weight of the newest in the moving average of durations.
const NEWEST_WEIGHT: f64 = 0.2;

#[derive(Debug, Default)]
pub(crate) struct Generations {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    by_key: HashMap<(Uuid, i32), Arc<Tracked>>,
    finished: VecDeque<(Uuid, i32)>,
    /// Moving average of how long requests took.
    usual: Option<Duration>,
}

impl Generations {
    pub(crate) fn insert(&self, tracked: &Arc<Tracked>) {
        self.lock().by_key.insert(tracked.key(), Arc::clone(tracked));
    }

    pub(crate) fn find(&self, tenant: Uuid, public_id: i32) -> Option<Arc<Tracked>> {
        self.lock().by_key.get(&(tenant, public_id)).cloned()
    }

    /// The request has finished: it may be forgotten once enough others have.
    pub(crate) fn retire(&self, tracked: &Tracked) {
        let mut inner = self.lock();
        let took = tracked.accepted.elapsed();
        inner.usual = Some(inner.usual.map_or(took, |usual| usual.mul_f64(1.0 - NEWEST_WEIGHT) + took.mul_f64(NEWEST_WEIGHT)));
        inner.finished.push_back(tracked.key());
        while inner.finished.len() > FINISHED_LIMIT {
            if let Some(oldest) = inner.finished.pop_front() {
                inner.by_key.remove(&oldest);
            }
        }
    }

    /// How long requests took lately.
    pub(crate) fn usual(&self) -> Duration {
        self.lock().usual.unwrap_or(super::USUAL_DURATION)
    }

    /// Requests that have not finished.
    pub(crate) fn unfinished(&self) -> usize {
        let inner = self.lock();
        inner.by_key.len().saturating_sub(inner.finished.len())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
