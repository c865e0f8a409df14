//! What is told of one generation, from the threads that work on it to whoever listens.

use futures::Stream;
use runtime_api::{Event, Failure, FailureReason};
use tokio::sync::{mpsc, oneshot};

/// Progress events that may wait for a slow listener. What does not fit is left out: the next event says more anyway.
const MAX_WAITING_EVENTS: usize = 256;

/// The listening end. Dropping it cancels the generation at its next step.
#[derive(Debug)]
pub struct Feed {
    progress: mpsc::Receiver<Event>,
    outcome: Option<oneshot::Receiver<Event>>,
}

/// The telling end. The outcome has a way of its own, so that no amount of progress can keep it out.
#[derive(Debug)]
pub(super) struct Teller {
    progress: mpsc::Sender<Event>,
    outcome: oneshot::Sender<Event>,
}

pub(super) fn feed() -> (Teller, Feed) {
    let (progress, progress_receiver) = mpsc::channel(MAX_WAITING_EVENTS);
    let (outcome, outcome_receiver) = oneshot::channel();
    (Teller { progress, outcome }, Feed { progress: progress_receiver, outcome: Some(outcome_receiver) })
}

impl Teller {
    /// Tells progress, if there is room for it. Never blocks.
    pub(super) fn tell(&self, event: Event) {
        // A full channel or a listener that is gone: either way there is nobody to tell it to now.
        let _ = self.progress.try_send(event);
    }

    /// A way to tell progress from elsewhere; the outcome is delivered once all of them are gone.
    pub(super) fn progress(&self) -> mpsc::Sender<Event> {
        self.progress.clone()
    }

    /// Whether nobody listens any more.
    pub(super) fn is_gone(&self) -> bool {
        self.outcome.is_closed()
    }

    /// Waits until nobody listens any more.
    pub(super) async fn gone(&mut self) {
        self.outcome.closed().await;
    }

    /// Tells how it ended.
    pub(super) fn end(self, outcome: Event) {
        // A listener that is gone has cancelled.
        let _ = self.outcome.send(outcome);
    }
}

impl Feed {
    /// The next event; the last one is `Done` or `Failed`, then there is none.
    pub async fn next(&mut self) -> Option<Event> {
        if let Some(event) = self.progress.recv().await {
            return Some(event);
        }
        let outcome = self.outcome.take()?;
        let lost = || {
            let message = "the replica gave the generation up; try it again".to_owned();
            Event::Failed(Failure { reason: FailureReason::Internal, message })
        };
        Some(outcome.await.unwrap_or_else(|_| lost()))
    }

    /// All events, as a stream.
    pub fn into_stream(self) -> impl Stream<Item = Event> + Send + 'static {
        futures::stream::unfold(self, |mut feed| async move { feed.next().await.map(|event| (event, feed)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(evaluation: u32) -> Event {
        Event::Step { image: 0, evaluation, evaluations: 9 }
    }

    fn done() -> Event {
        Event::Done { timings: Default::default(), nsfw_content_detected: Vec::new(), family: None }
    }

    async fn all(mut feed: Feed) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = feed.next().await {
            events.push(event);
        }
        events
    }

    #[tokio::test]
    async fn outcome_comes_last_and_once() {
        let (teller, feed) = feed();
        teller.tell(step(1));
        teller.end(done());
        assert_eq!(all(feed).await, [step(1), done()]);
    }

    #[tokio::test]
    async fn slow_listener_loses_progress_but_not_the_outcome() {
        let (teller, feed) = feed();
        for evaluation in 0..2 * MAX_WAITING_EVENTS as u32 {
            teller.tell(step(evaluation));
        }
        teller.end(done());
        let events = all(feed).await;
        assert_eq!(events.len(), MAX_WAITING_EVENTS + 1);
        assert!(matches!(events.last(), Some(Event::Done { .. })));
    }

    #[tokio::test]
    async fn lost_generation_ends_as_failed() {
        let (teller, feed) = feed();
        drop(teller);
        assert!(matches!(all(feed).await.as_slice(), [Event::Failed(Failure { reason: FailureReason::Internal, .. })]));
    }

    #[tokio::test]
    async fn dropped_feed_is_noticed() {
        let (mut teller, feed) = feed();
        assert!(!teller.is_gone());
        drop(feed);
        teller.gone().await;
        assert!(teller.is_gone());
    }
}
