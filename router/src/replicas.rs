//! Replicas as dispatch sees them: sets that grow from zero, leases that are given back. They are child processes, or pods of a cluster. It knows no requests and no tenants.

use std::fmt::Debug;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use crds::demand::ReplicaLoad;

mod bounded_lines;
mod children;
mod pods;
mod process;
mod set_state;

pub(crate) use bounded_lines::next_line;
pub use children::{ChildProcesses, ChildSettings, ContentCache};
pub use pods::{PodReplicas, PodSettings};
pub(crate) use process::SECRET_VARIABLES;

/// Which replicas may serve a model: those of a pool, or those of its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SetKey {
    /// By the RuntimePool's name.
    Pool(String),
    /// By the model id.
    Dedicated(String),
}

impl std::fmt::Display for SetKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pool(name) => write!(formatter, "pool/{name}"),
            Self::Dedicated(model) => write!(formatter, "model/{model}"),
        }
    }
}

/// A set of replicas that are alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaSet {
    pub key: SetKey,
    /// In a cluster, the namespace of its pods; empty on one machine.
    pub namespace: String,
    pub min_replicas: u32,
    pub max_replicas: u32,
    /// How long a replica above the minimum may be without work.
    pub idle_after: Duration,
    /// Folders that hold the models of the set.
    pub model_roots: Vec<PathBuf>,
}

/// What a lease is for, as far as it matters to the choice of a replica.
#[derive(Clone, Debug)]
pub struct Work {
    pub model_id: String,
    /// The model's folder and the files of its adapters; a replica that was started without one of them cannot serve the request.
    pub paths: Vec<PathBuf>,
}

/// Where a replica is reached.
#[derive(Clone)]
pub struct Endpoint {
    /// `http://127.0.0.1:4321`, without a trailing slash.
    pub base_url: String,
    /// What it wants as bearer token.
    pub token: String,
}

impl Debug for Endpoint {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Endpoint").field("base_url", &self.base_url).finish_non_exhaustive()
    }
}

/// What a lease tells its replica's keeper. Dropping it gives the lease back.
pub trait LeaseGuard: Send + Sync + Debug {
    /// The replica broke: it gets no new work, and ends once nobody works with it.
    fn condemn(&self);
    /// The replica has the model in memory now.
    fn note_resident(&self, model_id: &str);
}

/// The right to send one request to a replica. While it lives the replica is not stopped for being idle.
#[derive(Debug)]
pub struct Lease {
    pub endpoint: Endpoint,
    /// How long the lease waited for a replica to start; zero when one ran.
    pub waited_for_start: Duration,
    pub guard: Box<dyn LeaseGuard>,
}

/// How many replicas there are now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplicaCounts {
    pub starting: usize,
    pub ready: usize,
}

/// Why there is no replica.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplicaError {
    #[error("the replica did not start: {reason}")]
    Start { reason: String },
    #[error("replicas are being stopped")]
    Stopping,
}

/// Keeps sets of replicas.
#[async_trait]
pub trait Replicas: Send + Sync + Debug {
    /// A lease on the set's best replica for this work; starts one where none runs. All that wait for one start share it. Dropping the
    /// future gives up the wait, not the start.
    async fn acquire(&self, set: &ReplicaSet, work: &Work) -> Result<Lease, ReplicaError>;
    /// Where the set's replicas that take work are.
    fn ready(&self, _set: &ReplicaSet) -> Vec<Endpoint> {
        Vec::new()
    }
    /// Brings the set to its minimum.
    fn warm(&self, set: &ReplicaSet);
    fn counts(&self) -> ReplicaCounts;
    /// How much the pods of a cluster have to do, for whoever must stop some of them.
    fn loads(&self) -> Vec<ReplicaLoad> {
        Vec::new()
    }
    /// Ends every replica, and starts no more.
    async fn stop_all(&self);
}
