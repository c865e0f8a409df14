//! What a caller holds of an accepted request: while it waits, letting go cancels.

use std::sync::{Arc, Mutex, PoisonError};

use futures::Stream;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};

use super::tracked::{Status, Tracked};
use crate::generation::{Generation, Progress};
use crate::store::Store;

type Subscription = (watch::Receiver<Status>, broadcast::Receiver<Progress>);

/// A request that was accepted. While its caller waits (`Mode::Attached`), dropping the ticket before `detach` or before the request
/// has finished cancels it, unbilled, at the next step.
#[derive(Debug)]
pub struct Ticket {
    /// As it was when it was accepted.
    pub generation: Generation,
    tracked: Arc<Tracked>,
    store: Arc<dyn Store>,
    cancels_on_drop: bool,
    /// Made before the work began, so that the first watcher misses nothing.
    subscription: Mutex<Option<Subscription>>,
}

impl Ticket {
    pub(super) fn new(generation: Generation, tracked: Arc<Tracked>, store: Arc<dyn Store>, attached: bool) -> Self {
        let subscription = Mutex::new(Some(tracked.subscribe()));
        Self { generation, tracked, store, cancels_on_drop: attached, subscription }
    }

    /// From here on the request goes on by itself: its caller is told an id. Durable when it returns, so answer after it.
    pub async fn detach(mut self) -> Generation {
        if self.cancels_on_drop && !self.tracked.is_finished() {
            // Without the mark the request still goes on; only a crash of this router would end it.
            if let Err(error) = self.store.detach(self.tracked.entry.id).await {
                tracing::error!(id = %self.tracked.entry.id, "{error}");
            }
        }
        self.cancels_on_drop = false;
        self.generation.clone()
    }

    pub(super) fn watch(&self) -> impl Stream<Item = Progress> + Send + 'static + use<> {
        let first = self.subscription.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (mut status, previews) = first.unwrap_or_else(|| self.tracked.subscribe());
        // The state at this moment is the first that is told.
        status.mark_changed();
        futures::stream::unfold(Some((status, previews)), |subscription| async {
            let (mut status, mut previews) = subscription?;
            loop {
                tokio::select! {
                    biased;
                    preview = previews.recv() => match preview {
                        Ok(preview) => return Some((preview, Some((status, previews)))),
                        // A slow watcher misses the older ones.
                        Err(RecvError::Lagged(_)) => {}
                        // The request is gone from memory, so its last state is in `status`.
                        Err(RecvError::Closed) => {
                            let state = status.borrow_and_update().state.clone();
                            return Some((Progress::Changed(state), None));
                        }
                    },
                    changed = status.changed() => {
                        changed.ok()?;
                        let state = status.borrow_and_update().state.clone();
                        let rest = (!state.is_finished()).then_some((status, previews));
                        return Some((Progress::Changed(state), rest));
                    }
                }
            }
        })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.cancels_on_drop && !self.tracked.is_finished() {
            self.tracked.cancel.cancel();
        }
    }
}
