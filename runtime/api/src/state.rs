//! What a replica says of itself when a router asks.

use serde::{Deserialize, Serialize};

/// A snapshot; it may be out of date by the time it arrives, so the replica has the last word on each dispatch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReplicaState {
    pub resident: Vec<ResidentModel>,
    /// Bytes of weights held, and the most that may be held.
    pub resident_bytes: u64,
    pub resident_bytes_limit: u64,
    /// Generations waiting, and the most that may wait.
    pub queued: u32,
    pub queue_limit: u32,
    /// Generations whose images are being made.
    pub running: u32,
    /// Whether it still takes work; false once it drains.
    pub accepting: bool,
}

/// A model whose weights are in memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResidentModel {
    pub id: String,
    /// sha256 over the model's files, in hex.
    pub digest: String,
    pub bytes: u64,
    /// Whether a generation uses it now.
    pub in_use: bool,
}
