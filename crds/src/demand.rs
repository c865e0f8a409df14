//! The demand report: what one router tells the operator about the work that waits and runs.
//!
//! Routers hold the requests, so demand does not vanish with the last replica. The report is a whole picture, not a
//! change: a lost one costs nothing, and the operator adds up the newest of each router. Everything is keyed so that a
//! later autoscaler can tell *how much* is wanted (queued and in flight, in work and in images), *how urgent* it is
//! (the oldest wait) and *whether it grows* (counters of arrivals and completions, which survive a missed report).
//!
//! Unlike manifests, a report tolerates fields it does not know, so that operator and routers may differ in version.

use serde::{Deserialize, Serialize};

/// Where a router serves its report.
pub const PATH: &str = "/internal/v1/demand";

/// What one router knows of demand at one moment.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct DemandReport {
    /// The router's name, unique among those that run.
    pub router: String,
    /// When this router process started, in milliseconds since 1970: counters begin anew with it.
    pub started_at_ms: u64,
    /// When the picture was taken, in milliseconds since 1970 by the router's clock.
    pub observed_at_ms: u64,
    /// Models with work, or with work since the router started. A model that is absent has no demand.
    pub models: Vec<ModelDemand>,
    /// Pools with replicas or work, as this router sees them.
    pub pools: Vec<PoolDemand>,
}

/// Demand for one model.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ModelDemand {
    /// The name callers use.
    pub model_id: String,
    /// The RuntimePool it is served from; absent for dedicated serving.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// What waits and runs.
    #[serde(flatten)]
    pub work: Work,
    /// When the last request came, in milliseconds since 1970; absent if none since the router started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_used_at_ms: Option<u64>,
}

/// Demand for one pool: the sum over its models, and what only the pool as a whole knows.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct PoolDemand {
    /// The RuntimePool's name.
    pub pool: String,
    /// What waits and runs.
    #[serde(flatten)]
    pub work: Work,
    /// Replicas this router may send work to.
    pub ready_replicas: u32,
    /// Replicas without work now, and for how long the idlest has had none: what scaling down reads.
    pub idle_replicas: u32,
    /// Milliseconds the idlest replica has been without work.
    pub longest_idle_ms: u64,
}

/// Work that waits and runs, with the counters that tell its rate.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Work {
    /// Requests that wait for a replica.
    pub queued_requests: u64,
    /// Images those requests ask for.
    pub queued_images: u64,
    /// What they cost, in steps × megapixels × images.
    pub queued_cost: f64,
    /// How long the oldest of them has waited, in milliseconds; 0 if none waits.
    pub oldest_wait_ms: u64,
    /// Requests that a replica works on.
    pub in_flight_requests: u64,
    /// Images those requests ask for.
    pub in_flight_images: u64,
    /// Requests accepted since the router started.
    pub arrived_total: u64,
    /// Requests that ended since the router started, however they ended.
    pub ended_total: u64,
    /// Cost of the requests that ended well since the router started, in steps × megapixels × images.
    pub completed_cost_total: f64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_report_of_another_version_is_still_read() {
        let report: DemandReport = serde_json::from_value(json!({
            "router": "router-0",
            "startedAtMs": 1,
            "observedAtMs": 2,
            "models": [{"modelId": "demo", "pool": "default", "queuedRequests": 3, "fromTheFuture": true}],
            "pools": [],
        }))
        .unwrap();
        assert_eq!(report.models[0].work.queued_requests, 3);
        assert_eq!(report.models[0].work.in_flight_images, 0);
    }

    #[test]
    fn work_stands_beside_the_model_it_is_for() {
        let report = DemandReport {
            pools: vec![PoolDemand {
                pool: "default".to_owned(),
                work: Work { in_flight_images: 2, ..Work::default() },
                ..PoolDemand::default()
            }],
            ..DemandReport::default()
        };
        let value = serde_json::to_value(&report).unwrap();
        assert_eq!(value["pools"][0]["inFlightImages"], 2);
        assert_eq!(serde_json::from_value::<DemandReport>(value).unwrap(), report);
    }
}
