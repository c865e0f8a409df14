//! Removes images and their requests once the plan's retention is over.

use std::time::Duration;

use super::Service;
use crate::outputs::OutputError;
use crate::store::{Entry, StoreError};

/// Between two looks for requests whose time is up.
const LOOK_INTERVAL: Duration = Duration::from_secs(10 * 60);
/// Requests that one query takes out of the journal; the next follows at once while there are more.
const BATCH: u32 = 100;

#[derive(Debug, thiserror::Error)]
enum RetentionError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Outputs(#[from] OutputError),
}

impl Service {
    /// Removes what no plan keeps any more, until the router stops.
    pub async fn keep_retention(self) {
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        loop {
            tokio::select! {
                () = self.house.abandon.cancelled() => return,
                _ = looks.tick() => self.remove_expired().await,
            }
        }
    }

    /// One look. Several routers may do the same at once.
    pub async fn remove_expired(&self) {
        for (name, plan) in &self.catalog().plans {
            match self.remove_expired_of(name, plan.retention.as_duration()).await {
                Ok(0) => {}
                Ok(removed) => tracing::info!("removed {removed} requests that the plan {name} keeps no longer"),
                Err(error) => tracing::error!("what the plan {name} keeps no longer was not removed: {error}"),
            }
        }
    }

    async fn remove_expired_of(&self, plan: &str, retention: Duration) -> Result<usize, RetentionError> {
        let mut removed = 0;
        loop {
            let expired = self.store().expired(plan, retention, BATCH).await?;
            for entry in &expired {
                self.remove(entry).await?;
            }
            removed += expired.len();
            if expired.len() < BATCH as usize {
                return Ok(removed);
            }
        }
    }

    /// The images first: a request that is still in the journal is looked at again. Those of a request that failed may be there, too.
    async fn remove(&self, entry: &Entry) -> Result<(), RetentionError> {
        for image in 0..entry.request.samples {
            self.outputs().remove(entry.id, image, entry.request.output_format).await?;
        }
        Ok(self.store().forget(entry.id).await?)
    }
}
