//! Staying alive for the others, and taking up what a dead router left: its accepted requests are kept.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Service;
use super::tracked::Tracked;
use crate::dispatch::now_ms;
use crate::generation::Mode;
use crate::store::{Entry, StoreError};

/// Between two heartbeats, and between two looks for dead routers' work.
const BEAT_INTERVAL: Duration = Duration::from_secs(1);
/// A router without a heartbeat for this long is dead. With the interval this keeps the promise of five seconds.
const SILENCE: Duration = Duration::from_secs(3);
/// Requests taken up at one beat.
const TAKE_UP_LIMIT: u32 = 64;

/// Whether this router may say of others that they are dead. One that was asleep, as on a machine that is suspended or has far too much to do, finds
/// every heartbeat old, also of routers that slept beside it: those get the time to beat again.
#[derive(Debug)]
struct Wakefulness {
    last_beat: Instant,
    judges_from: Instant,
}

impl Wakefulness {
    fn new(now: Instant) -> Self {
        Self { last_beat: now, judges_from: now }
    }

    /// Asked once for each heartbeat.
    fn judges(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.last_beat) >= SILENCE {
            self.judges_from = now + SILENCE;
        }
        self.last_beat = now;
        now >= self.judges_from
    }
}

impl Service {
    /// Tells the others for the first time that this router lives. It may serve calls after that.
    pub async fn announce(&self) -> Result<(), StoreError> {
        self.store().heartbeat(self.house.router).await?;
        self.house.beats.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Beats and takes up, until the router stops.
    pub async fn keep_alive(self) {
        let mut wakefulness = Wakefulness::new(Instant::now());
        let mut beats = tokio::time::interval(BEAT_INTERVAL);
        beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.house.abandon.cancelled() => return,
                _ = beats.tick() => self.beat(wakefulness.judges(Instant::now())).await,
            }
        }
    }

    /// One heartbeat, and where it `judges` others, one look for work that they left.
    pub async fn beat(&self, judges: bool) {
        let alive = self.store().heartbeat(self.house.router).await;
        if let Err(error) = &alive {
            tracing::error!("no heartbeat: {error}");
        }
        self.house.beats.store(alive.is_ok(), Ordering::Relaxed);
        // A router that stops takes nothing new.
        if alive.is_err() || !judges || self.house.drives.is_closed() {
            return;
        }
        match self.store().take_up(self.house.router, SILENCE, TAKE_UP_LIMIT).await {
            Ok(entries) => {
                for entry in entries {
                    self.take_up(entry);
                }
            }
            Err(error) => tracing::error!("the work of dead routers was not looked for: {error}"),
        }
    }

    fn take_up(&self, entry: Entry) {
        self.house.dispatcher.metrics.takeovers.inc();
        let age = Duration::from_millis(u64::try_from(now_ms().saturating_sub(entry.accepted_at_ms)).unwrap_or(0));
        let (dialect, mode) = (dialect_label(&entry.dialect), entry.mode);
        tracing::info!(id = %entry.id, "taking up a request that another router left");
        let tracked = Tracked::new(entry, dialect, 0, age, self.outputs().as_ref());
        if mode == Mode::Attached {
            // Its caller's connection died with the other router. Driving it does no more than to settle that.
            tracked.cancel.cancel();
        }
        self.start(tracked, None);
    }
}

/// The journal holds texts; labels of metrics are a fixed set.
fn dialect_label(dialect: &str) -> &'static str {
    const KNOWN: [&str; 8] =
        ["modelslab/v3", "modelslab/v4", "modelslab/v5", "modelslab/v6", "modelslab/v7", "openai", "automatic1111", "huggingface"];
    KNOWN.into_iter().find(|known| *known == dialect).unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_router_that_slept_gives_others_time_before_it_judges() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut wakefulness = Wakefulness::new(start);
        assert!(wakefulness.judges(at(0)) && wakefulness.judges(at(1)) && wakefulness.judges(at(3)), "awake from the start");
        assert!(!wakefulness.judges(at(19)) && !wakefulness.judges(at(20)) && !wakefulness.judges(at(21)), "it slept for 16 s");
        assert!(wakefulness.judges(at(22)) && wakefulness.judges(at(23)));
    }
}
