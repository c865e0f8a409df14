//! Waiting for one's turn: the fair queue with tasks around it. A turn is a guard, so that no end of a request can keep its place.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

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
    /// `None` once it was postponed.
    waiting: Option<Waiting>,
}

impl Turn {
    /// Gives the turn back because the tenant's images at other routers leave no room for it, and waits for it again: until one of the tenant's
    /// turns here has ended, or `pause` has passed. Dropping the future gives the place up.
    pub(super) async fn postpone(mut self, pause: Duration) -> Self {
        let turns = Arc::clone(&self.turns);
        let Some(waiting) = self.waiting.take() else { return self };
        let tenant = waiting.tenant;
        let (_place, mut granted) = turns.enter(waiting, FairQueue::postpone);
        tokio::select! {
            biased;
            granted = &mut granted => return turn_of(granted).await,
            () = tokio::time::sleep(pause) => {}
        }
        turns.lock().queue.release(tenant);
        turns.hand_out();
        turn_of(granted.await).await
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(waiting) = &self.waiting {
            self.turns.lock().queue.end(waiting);
            self.turns.hand_out();
        }
    }
}

async fn turn_of(granted: Result<Turn, oneshot::error::RecvError>) -> Turn {
    match granted {
        Ok(turn) => turn,
        // Only `Place` removes a sender, and it lives as long as who waits.
        Err(_) => std::future::pending().await,
    }
}

/// Takes the request out of the queue when its task stops waiting.
struct Place<'a> {
    turns: &'a Arc<Turns>,
    tenant: Uuid,
    id: Uuid,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        {
            let mut inner = self.turns.lock();
            inner.queue.remove(self.tenant, self.id);
            inner.grants.remove(&self.id);
        }
        // One that was postponed held its tenant's others back.
        self.turns.hand_out();
    }
}

impl Turns {
    /// Waits for the request's turn. Dropping the future gives the place up.
    pub(super) async fn wait(self: &Arc<Self>, waiting: Waiting) -> Turn {
        let (_place, granted) = self.enter(waiting, FairQueue::push);
        turn_of(granted.await).await
    }

    /// Puts a request into the queue.
    fn enter(self: &Arc<Self>, waiting: Waiting, put: fn(&mut FairQueue, Waiting)) -> (Place<'_>, oneshot::Receiver<Turn>) {
        let (sender, receiver) = oneshot::channel();
        let place = Place { turns: self, tenant: waiting.tenant, id: waiting.id };
        {
            let mut inner = self.lock();
            inner.grants.insert(waiting.id, sender);
            put(&mut inner.queue, waiting);
        }
        self.hand_out();
        (place, receiver)
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
                (inner.grants.remove(&waiting.id), Turn { turns: Arc::clone(self), waiting: Some(waiting) })
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
    async fn a_postponed_turn_comes_again_after_the_pause_and_holds_nobody_else_up() {
        let turns = Arc::new(Turns::default());
        let only_one = |id, tenant| Waiting { set_capacity: 1, tenant: Uuid::from_u128(tenant), ..request(id) };
        let first = turns.wait(only_one(1, 1)).await;
        let mut other = Box::pin(turns.wait(only_one(2, 2)));
        assert!(other.as_mut().now_or_never().is_none());
        let mut postponed = Box::pin(first.postpone(Duration::from_millis(1)));
        assert!(postponed.as_mut().now_or_never().is_none());
        drop(other.now_or_never().expect("the other tenant has its turn"));
        let first = postponed.await;
        // Its caller leaves: the tenant's next request has the turn at once.
        let mut next = Box::pin(turns.wait(only_one(3, 1)));
        assert!(next.as_mut().now_or_never().is_none());
        let mut postponed = Box::pin(first.postpone(Duration::MAX));
        assert!(postponed.as_mut().now_or_never().is_none() && next.as_mut().now_or_never().is_none());
        drop(postponed);
        assert!(next.now_or_never().is_some());
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
