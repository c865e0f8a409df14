//! What every answer tells of the start: whether a replica had to be started, where the weights came from, and the milliseconds of
//! each phase. The same object in every dialect, beside that dialect's own fields.

use runtime_api::WeightsTier;
use serde::Serialize;
use utoipa::ToSchema;

use crate::generation::StartReport;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ColdStart {
    /// Whether the request waited for a replica to start.
    pub cold: bool,
    /// Where the replica found the weights: `device` (they were resident), `disk`, or `content_store` (they were brought to the disk first). Null until it told.
    pub weights_from: Option<&'static str>,
    pub phases_ms: PhasesMs,
}

/// Milliseconds of each phase, in their order; null until the replica told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct PhasesMs {
    /// In the router's own queue.
    pub held: u64,
    /// Starting the replica; 0 when it ran.
    pub replica_start: u64,
    /// In the replica's queue.
    pub queue: Option<u64>,
    /// Bringing imported weights to the replica's disk; 0 when they were there.
    pub fetch: Option<u64>,
    /// Reading the weights; 0 when they were resident.
    pub load: Option<u64>,
    pub encode: Option<u64>,
    pub denoise: Option<u64>,
    pub decode: Option<u64>,
    pub upload: Option<u64>,
}

impl From<&StartReport> for ColdStart {
    fn from(report: &StartReport) -> Self {
        let replica = report.replica;
        Self {
            cold: report.cold,
            weights_from: replica.map(|timings| match timings.weights_from {
                WeightsTier::Device => "device",
                WeightsTier::Disk => "disk",
                WeightsTier::ContentStore => "content_store",
            }),
            phases_ms: PhasesMs {
                held: report.held_ms,
                replica_start: report.replica_start_ms,
                queue: replica.map(|timings| timings.queue_ms),
                fetch: replica.map(|timings| timings.fetch_ms),
                load: replica.map(|timings| timings.load_ms),
                encode: replica.map(|timings| timings.encode_ms),
                denoise: replica.map(|timings| timings.denoise_ms),
                decode: replica.map(|timings| timings.decode_ms),
                upload: replica.map(|timings| timings.upload_ms),
            },
        }
    }
}
