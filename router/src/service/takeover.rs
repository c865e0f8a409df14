//! Staying alive for the others, and taking up what a dead router left: its accepted requests are kept.

use std::sync::atomic::Ordering;
use std::time::Duration;

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

impl Service {
    /// Tells the others for the first time that this router lives. It may serve calls after that.
    pub async fn announce(&self) -> Result<(), StoreError> {
        self.store().heartbeat(self.house.router).await?;
        self.house.beats.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Beats and takes up, until the router stops.
    pub async fn keep_alive(self) {
        let mut beats = tokio::time::interval(BEAT_INTERVAL);
        beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.house.abandon.cancelled() => return,
                _ = beats.tick() => self.beat().await,
            }
        }
    }

    /// One heartbeat and one look for work that others left.
    pub async fn beat(&self) {
        let alive = self.store().heartbeat(self.house.router).await;
        if let Err(error) = &alive {
            tracing::error!("no heartbeat: {error}");
        }
        self.house.beats.store(alive.is_ok(), Ordering::Relaxed);
        // A router that stops takes nothing new.
        if alive.is_err() || self.house.drives.is_closed() {
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
