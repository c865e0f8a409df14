//! The one SQL store behind accounts, quota and the journal, as a narrow trait: SQLite and PostgreSQL implement it, and the
//! same tests (`store::contract`) run against both. It knows no HTTP, no dialects, no replicas, and its clock is the database's.
//!
//! The journal's life of one request: `admit` (quota, queue depth and the entry in one transaction) → `finish` (exactly once, which
//! settles or gives back what was reserved). A router that stops leaves its entries behind; `take_up` hands them to another under
//! a higher fence, and whatever the first one still says about them is refused.

use std::collections::HashSet;
use std::time::Duration;

use async_trait::async_trait;
use runtime_api::{Failure, ImageRequest};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::generation::{Mode, StartReport};

mod parallel;
pub mod postgres;
mod quota;
mod rate;
pub mod sqlite;

#[cfg(test)]
mod contract;

pub use parallel::{ImageClaim, ParallelImages};
pub use rate::{Rate, RateLease};

/// Public ids start below this, so that a tenant has a billion before 2³¹.
const PUBLIC_ID_START_BELOW: u32 = 1 << 30;

/// What a key is stored as: sha256 of the key's text. Keys carry 256 bits of entropy, so no slow hash is needed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyHash(pub [u8; 32]);

/// Whom a key belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    pub tenant: Uuid,
    pub tenant_name: String,
    /// Name of the tenant's plan, as declared by a TenantPlan.
    pub plan: String,
}

/// What a plan allows, as the store needs it. `None` is unlimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    pub calls_per_day: Option<u64>,
    pub calls_per_month: Option<u64>,
    /// Unfinished requests a tenant may have, running ones included.
    pub queue_depth: u32,
}

/// Everything the journal keeps of a request before it is acknowledged.
#[derive(Clone, Debug)]
pub struct Admission {
    pub id: Uuid,
    pub tenant: Uuid,
    pub router: Uuid,
    pub allowance: Allowance,
    /// With every default filled in.
    pub request: ImageRequest,
    pub mode: Mode,
    pub dialect: &'static str,
    pub track_id: Option<String>,
}

/// Why an admission was turned down. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum AdmitError {
    #[error("{calls} calls a {window} are used")]
    QuotaUsed { calls: u64, window: &'static str, retry_after: Duration },
    #[error("{depth} requests are unfinished")]
    QueueFull { depth: u32 },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// Billed.
    Succeeded {
        /// Of each image, in order; empty where they were not checked.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        nsfw_content_detected: Vec<bool>,
    },
    /// Not billed: the reservation is given back.
    Failed { failure: Failure },
    /// Not billed.
    Cancelled,
}

/// A request as the journal holds it.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub id: Uuid,
    pub public_id: i32,
    pub tenant: Uuid,
    pub plan: String,
    pub request: ImageRequest,
    pub mode: Mode,
    pub dialect: String,
    pub track_id: Option<String>,
    /// Milliseconds since 1970, by the database's clock.
    pub accepted_at_ms: i64,
    pub finished_at_ms: Option<i64>,
    pub outcome: Option<Outcome>,
    pub start: StartReport,
    /// Raised by each `take_up`; `finish` must name it.
    pub fence: i64,
    /// How often the entry was taken up from a router that had stopped.
    pub takeovers: u32,
}

impl Entry {
    /// What was just admitted: nothing has been done for it.
    fn admitted(admission: &Admission, plan: String, public_id: i32, accepted_at_ms: i64) -> Self {
        Self {
            id: admission.id,
            public_id,
            tenant: admission.tenant,
            plan,
            request: admission.request.clone(),
            mode: admission.mode,
            dialect: admission.dialect.to_owned(),
            track_id: admission.track_id.clone(),
            accepted_at_ms,
            finished_at_ms: None,
            outcome: None,
            start: StartReport::default(),
            fence: 0,
            takeovers: 0,
        }
    }
}

/// What a tenant used in the windows that run now, reservations included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub calls_today: u64,
    pub calls_this_month: u64,
    /// Settled images, ever.
    pub images: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the store cannot be opened at {path}: {source}")]
    Open { path: String, source: sqlx::Error },
    #[error("the store's schema cannot be brought up to date: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    #[error("the store did not answer: {0}")]
    Query(#[from] sqlx::Error),
    #[error("the store holds a row that cannot be read: {0}")]
    Corrupt(String),
}

#[async_trait]
pub trait Store: Send + Sync + std::fmt::Debug {
    /// Adds a key; makes the tenant if the name is new, and sets its plan.
    async fn add_key(&self, tenant_name: &str, plan: &str, key: KeyHash) -> Result<(), StoreError>;
    async fn find_caller(&self, key: KeyHash) -> Result<Option<Caller>, StoreError>;
    /// Reserves the quota and writes the entry, in one transaction, durable when it returns.
    async fn admit(&self, admission: &Admission) -> Result<Entry, AdmitError>;
    /// Takes slots of the tenant's rate, which no other router gets then, as many as [`Rate::lease_slots`] says or are free.
    async fn lease_rate(&self, tenant: Uuid, rate: &Rate) -> Result<RateLease, StoreError>;
    /// Counts the images of an unfinished request among those its tenant has made at once, if `limit` leaves room for them. They count
    /// until the request ends or is taken up by another router. One that finds no room has a claim before younger ones for some moments.
    async fn claim_images(&self, entry: &Entry, limit: ParallelImages) -> Result<ImageClaim, StoreError>;
    /// The caller was told an id and may leave: from now on the entry goes on by itself, also after a crash. Durable when it returns.
    async fn detach(&self, id: Uuid) -> Result<(), StoreError>;
    /// Ends a request once and settles it. False when the fence is old or it had ended: then nothing changed.
    async fn finish(&self, id: Uuid, fence: i64, outcome: &Outcome, start: &StartReport) -> Result<bool, StoreError>;
    /// Only the tenant's own; ids of others are unknown.
    async fn find_entry(&self, tenant: Uuid, public_id: i32) -> Result<Option<Entry>, StoreError>;
    /// Tells the others that this router lives.
    async fn heartbeat(&self, router: Uuid) -> Result<(), StoreError>;
    /// Hands over at most `limit` unfinished entries of routers without a heartbeat for `silence`, oldest first, each under a new fence.
    async fn take_up(&self, router: Uuid, silence: Duration, limit: u32) -> Result<Vec<Entry>, StoreError>;
    async fn usage(&self, tenant: Uuid) -> Result<Usage, StoreError>;
    /// The inputs, by sha256, of requests that are unfinished or ended less than `retention` ago: those of every router.
    async fn needed_inputs(&self, retention: Duration) -> Result<HashSet<String>, StoreError>;
    /// At most `limit` requests of tenants of `plan` that ended `retention` ago or earlier, oldest first.
    async fn expired(&self, plan: &str, retention: Duration, limit: u32) -> Result<Vec<Entry>, StoreError>;
    /// Removes a request that has ended: its id is unknown from now on. What it was billed for stays billed.
    async fn forget(&self, id: Uuid) -> Result<(), StoreError>;
    /// A secret that all routers of this store share, made when it is first asked for.
    async fn shared_secret(&self) -> Result<[u8; 32], StoreError>;
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn read_secret(bytes: &[u8]) -> Result<[u8; 32], StoreError> {
    bytes.try_into().map_err(|_| StoreError::Corrupt(format!("a secret of {} bytes", bytes.len())))
}

/// Where a tenant's public ids begin.
fn random_public_id() -> i32 {
    (rand::random::<u32>() % PUBLIC_ID_START_BELOW).cast_signed() + 1
}

fn to_json<T: serde::Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::Corrupt(error.to_string()))
}

fn from_json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::Corrupt(error.to_string()))
}
