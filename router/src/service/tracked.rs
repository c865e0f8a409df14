//! A request while this router works on it, in memory: how it stands, who watches it, how it is stopped. The journal is the truth of how it
//! ended; here is what happens until then.

use std::sync::Arc;
use std::time::{Duration, Instant};

use runtime_api::{Event, ImageRequest};
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::generation::{Generation, Progress, StartReport, State};
use crate::outputs::OutputStore;
use crate::store::{Entry, Outcome};

/// Previews kept for a watcher that reads slowly; older ones are skipped.
const PREVIEWS_KEPT: usize = 16;

/// One accepted request.
#[derive(Debug)]
pub(crate) struct Tracked {
    pub(crate) entry: Entry,
    /// The dialect as a metrics label.
    pub(crate) dialect: &'static str,
    pub(crate) partial_images: u32,
    pub(crate) accepted: Instant,
    /// Stops the work at its next step.
    pub(crate) cancel: CancellationToken,
    output_paths: Vec<String>,
    status: watch::Sender<Status>,
    previews: broadcast::Sender<Progress>,
}

#[derive(Clone, Debug)]
pub(crate) struct Status {
    pub(crate) state: State,
    pub(crate) start: StartReport,
    running_since: Option<Instant>,
    /// From acceptance to the end.
    finished_after: Option<Duration>,
    /// Of each image, once they were checked.
    nsfw_content_detected: Vec<bool>,
    /// Progress of each image, 0…1.
    images: Vec<f32>,
}

impl Tracked {
    /// `age` is how long ago the entry was accepted.
    pub(crate) fn new(entry: Entry, dialect: &'static str, partial_images: u32, age: Duration, outputs: &dyn OutputStore) -> Arc<Self> {
        let now = Instant::now();
        let status = Status {
            state: State::Queued,
            start: entry.start,
            running_since: None,
            finished_after: None,
            nsfw_content_detected: Vec::new(),
            images: vec![0.0; entry.request.samples as usize],
        };
        Arc::new(Self {
            output_paths: output_paths(entry.id, &entry.request, outputs),
            dialect,
            partial_images,
            accepted: now.checked_sub(age).unwrap_or(now),
            cancel: CancellationToken::new(),
            status: watch::Sender::new(status),
            previews: broadcast::Sender::new(PREVIEWS_KEPT),
            entry,
        })
    }

    pub(crate) fn key(&self) -> (Uuid, i32) {
        (self.entry.tenant, self.entry.public_id)
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.status.borrow().state.is_finished()
    }

    pub(crate) fn start(&self) -> StartReport {
        self.status.borrow().start
    }

    /// What the replica found; empty until it told, and where images are not checked.
    pub(crate) fn nsfw_content_detected(&self) -> Vec<bool> {
        self.status.borrow().nsfw_content_detected.clone()
    }

    pub(crate) fn subscribe(&self) -> (watch::Receiver<Status>, broadcast::Receiver<Progress>) {
        (self.status.subscribe(), self.previews.subscribe())
    }

    /// Waits until the request has finished.
    pub(crate) async fn finished(&self) {
        // The sender lives as long as `self`.
        let _ = self.status.subscribe().wait_for(|status| status.state.is_finished()).await;
    }

    pub(crate) fn note_start(&self, change: impl FnOnce(&mut StartReport)) {
        self.status.send_modify(|status| change(&mut status.start));
    }

    /// Takes in what a replica tells.
    pub(crate) fn note_event(&self, event: Event) {
        match event {
            Event::Queued { .. } | Event::Loading { .. } => {}
            Event::Step { image, evaluation, evaluations } => self.status.send_modify(|status| {
                let Some(progress) = status.images.get_mut(image as usize) else { return };
                *progress = (evaluation as f32 / evaluations.max(1) as f32).clamp(0.0, 1.0);
                status.running_since.get_or_insert_with(Instant::now);
                if !status.state.is_finished() {
                    status.state = State::Running { progress: status.images.iter().sum::<f32>() / status.images.len() as f32 };
                }
            }),
            Event::Preview { image, index, png_base64 } => {
                // Nobody may watch.
                let _ = self.previews.send(Progress::Preview { image, index, png_base64 });
            }
            Event::Done { timings, nsfw_content_detected, .. } => self.status.send_modify(|status| {
                status.start.replica = Some(timings);
                status.nsfw_content_detected = nsfw_content_detected;
            }),
            Event::Failed(_) => {}
        }
    }

    /// A new attempt begins from nothing.
    pub(crate) fn restart(&self) {
        self.status.send_modify(|status| {
            status.images.fill(0.0);
            status.running_since = None;
            status.state = State::Queued;
        });
    }

    /// The journal has the end: all who wait learn it. The first end stays.
    pub(crate) fn finish(&self, outcome: &Outcome) {
        self.status.send_if_modified(|status| {
            if status.state.is_finished() {
                return false;
            }
            status.state = state_of(outcome);
            status.nsfw_content_detected = detected(outcome);
            status.finished_after = Some(self.accepted.elapsed());
            true
        });
    }

    /// The request as it stands. `usual` is how long such requests took lately.
    pub(crate) fn generation(&self, usual: Duration) -> Generation {
        let status = self.status.borrow().clone();
        let elapsed = status.finished_after.unwrap_or_else(|| self.accepted.elapsed());
        Generation {
            id: self.entry.id,
            public_id: self.entry.public_id,
            eta: eta(&status, usual, Instant::now()),
            state: status.state,
            request: self.entry.request.clone(),
            output_paths: self.output_paths.clone(),
            track_id: self.entry.track_id.clone(),
            elapsed,
            start: status.start,
            nsfw_content_detected: status.nsfw_content_detected,
        }
    }
}

/// What remains, from the pace so far or else from how long such requests took lately.
fn eta(status: &Status, usual: Duration, now: Instant) -> Duration {
    match (&status.state, status.running_since) {
        (State::Running { progress }, Some(since)) if *progress > 0.0 => {
            let remaining = f64::from((1.0 - progress) / progress);
            now.saturating_duration_since(since).mul_f64(remaining.clamp(0.0, 1e4))
        }
        (state, _) if state.is_finished() => Duration::ZERO,
        _ => usual,
    }
}

pub(crate) fn state_of(outcome: &Outcome) -> State {
    match outcome {
        Outcome::Succeeded { .. } => State::Succeeded,
        Outcome::Failed { failure } => State::Failed(failure.clone()),
        Outcome::Cancelled => State::Cancelled,
    }
}

fn detected(outcome: &Outcome) -> Vec<bool> {
    match outcome {
        Outcome::Succeeded { nsfw_content_detected } => nsfw_content_detected.clone(),
        Outcome::Failed { .. } | Outcome::Cancelled => Vec::new(),
    }
}

pub(crate) fn output_paths(id: Uuid, request: &ImageRequest, outputs: &dyn OutputStore) -> Vec<String> {
    (0..request.samples).map(|image| outputs.public_path(id, image, request.output_format)).collect()
}

/// A request as the journal alone knows it: finished, or worked on by another router.
pub(crate) fn from_entry(entry: Entry, outputs: &dyn OutputStore, now_ms: i64) -> Generation {
    let elapsed_ms = entry.finished_at_ms.unwrap_or(now_ms).saturating_sub(entry.accepted_at_ms);
    Generation {
        id: entry.id,
        public_id: entry.public_id,
        state: entry.outcome.as_ref().map_or(State::Queued, state_of),
        output_paths: output_paths(entry.id, &entry.request, outputs),
        request: entry.request,
        track_id: entry.track_id,
        elapsed: Duration::from_millis(u64::try_from(elapsed_ms).unwrap_or(0)),
        eta: if entry.outcome.is_some() { Duration::ZERO } else { super::USUAL_DURATION },
        start: entry.start,
        nsfw_content_detected: entry.outcome.as_ref().map(detected).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(progress: f32, since: Instant) -> Status {
        Status {
            state: State::Running { progress },
            start: StartReport::default(),
            running_since: Some(since),
            finished_after: None,
            nsfw_content_detected: Vec::new(),
            images: vec![progress],
        }
    }

    #[test]
    fn what_remains_follows_the_pace_so_far() {
        let since = Instant::now();
        let usual = Duration::from_secs(9);
        let now = since + Duration::from_secs(10);
        assert_eq!(eta(&running(0.25, since), usual, now).as_secs(), 30);
        assert_eq!(eta(&running(0.0, since), usual, now), usual);
        assert_eq!(eta(&Status { state: State::Succeeded, ..running(1.0, since) }, usual, now), Duration::ZERO);
    }
}
