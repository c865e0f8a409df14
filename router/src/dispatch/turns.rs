//! Waiting for one's turn: the fair queue with tasks around it. A turn is a guard, so that no end of a request can keep its place.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use uuid::Uuid;

use super::fair_queue::{FairQueue, Waiting};

/// Hands out turns.
#[derive(Debug, Default)]
pub(super) struct Turns {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    queue: FairQueue,
    grants: HashMap<Uuid, oneshot::Sender<Turn>>,
}

/// The right to be served; dropping it lets the next one go.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Arc<Turns>,
    waiting: Waiting,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns.lock().queue.end(&self.waiting);
        self.turns.hand_out();
    }
}

/// Takes the request out of the queue when its task stops waiting.
struct Place<'a> {
    turns: &'a Turns,
    tenant: Uuid,
    id: Uuid,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut inner = self.turns.lock();
        inner.queue.remove(self.tenant, self.id);
        inner.grants.remove(&self.id);
    }
}

impl Turns {
    /// Waits for the request's turn. Dropping the future gives the place up.
    pub(super) async fn wait(self: &Arc<Self>, waiting: Waiting) -> Turn {
        let (sender, receiver) = oneshot::channel();
        let _place = Place { turns: self, tenant: waiting.tenant, id: waiting.id };
        {
            let mut inner = self.lock();
            inner.grants.insert(waiting.id, sender);
            inner.queue.push(waiting);
        }
        self.hand_out();
        match receiver.await {
            Ok(turn) => turn,
            // Only `Place` removes a sender, and it lives as long as this future.
            Err(_) => std::future::pending().await,
        }
    }

    /// Requests that wait.
    pub(super) fn waiting(&self) -> usize {
        self.lock().queue.waiting()
    }

    fn hand_out(self: &Arc<Self>) {
        loop {
            let (grant, turn) = {
                let mut inner = self.lock();
                let Some(waiting) = inner.queue.next() else { return };
                (inner.grants.remove(&waiting.id), Turn { turns: Arc::clone(self), waiting })
            };
            // A turn that nobody takes is dropped outside the lock, which gives it to the next.
            if let Some(grant) = grant {
                drop(grant.send(turn));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::replicas::SetKey;

    fn request(id: u128) -> Waiting {
        Waiting {
            id: Uuid::from_u128(id),
            tenant: Uuid::from_u128(1),
            weight: 1,
            priority: 0,
            images: 1,
            parallel_images: 1,
            cost: 1.0,
            set: SetKey::Pool("default".to_owned()),
            set_capacity: 8,
        }
    }

    #[tokio::test]
    async fn a_dropped_turn_goes_to_the_next_and_a_dropped_place_to_nobody() {
        let turns = Arc::new(Turns::default());
        let first = turns.wait(request(1)).await;
        let mut second = Box::pin(turns.wait(request(2)));
        let mut third = Box::pin(turns.wait(request(3)));
        assert!(second.as_mut().now_or_never().is_none());
        assert!(third.as_mut().now_or_never().is_none());
        assert_eq!(turns.waiting(), 2);
        drop(second);
        assert_eq!(turns.waiting(), 1);
        drop(first);
        let _turn = third.now_or_never().expect("the third has its turn");
        assert_eq!(turns.waiting(), 0);
    }

    #[tokio::test]
    async fn a_turn_granted_to_a_task_that_left_is_not_lost() {
        let turns = Arc::new(Turns::default());
        let first = turns.wait(request(1)).await;
        let mut second = Box::pin(turns.wait(request(2)));
        assert!(second.as_mut().now_or_never().is_none());
        drop(first);
        // Granted, but dropped before it was polled again.
        drop(second);
        assert!(turns.wait(request(3)).now_or_never().is_some());
    }
}
