//! The demand report: what one router tells the operator about the work that waits and runs.
//!
//! Routers hold the requests, so demand does not vanish with the last replica. The report is a whole picture, not a
//! change: a lost one costs nothing, and the operator adds up the newest of each router. It is asked for by long-poll:
//! `GET` [`PATH`]`?after=VERSION` is answered when the version is another one, or after [`LONGEST_WAIT`] as it is.
//!
//! Unlike manifests, a report tolerates fields it does not know, so that operator and routers may differ in version.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Where a router serves its report, on its internal port.
pub const PATH: &str = "/internal/v1/demand";
/// The longest a router holds a question for its demand.
pub const LONGEST_WAIT: Duration = Duration::from_secs(20);

/// What one router knows of demand at one moment.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct DemandReport {
    /// Grows with every change since the router started.
    pub version: u64,
    /// Models with work, or with work a short while ago. A model that is absent has no demand.
    pub models: Vec<ModelDemand>,
    /// Replicas that work or have models in memory. One that is absent has nothing to lose.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replicas: Vec<ReplicaLoad>,
    /// The models that pools name as warm. Every router tells all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warm_models: Vec<WarmModelReport>,
}

/// How a model stands that replicas of a pool shall have in memory before anybody asks.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct WarmModelReport {
    /// The RuntimePool that names it.
    pub pool: String,
    /// The name callers use.
    pub model_id: String,
    /// Replicas that have it in memory.
    pub replicas: u32,
    /// Why one has not; absent while it is on its way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// What would be lost with a replica.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct ReplicaLoad {
    /// The uid of its pod.
    pub pod_uid: String,
    /// Requests that this router has sent it and that have not ended.
    pub in_flight: u32,
    /// Models that it has in memory.
    pub resident_models: u32,
}

/// Demand for one model, as one set of replicas has it.
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
    /// The family that a replica found in its files, as manifests spell it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub family: Option<String>,
    /// When the last request came, in milliseconds since 1970 by the router's clock.
    pub last_used_at_ms: u64,
}

/// Work that waits and runs.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct Work {
    /// Requests that wait for a replica.
    pub queued_requests: u64,
    /// Images those requests ask for.
    pub queued_images: u64,
    /// How long the oldest of them has waited, in milliseconds; 0 if none waits.
    pub oldest_wait_ms: u64,
    /// Requests that a replica works on.
    pub in_flight_requests: u64,
    /// Images those requests ask for.
    pub in_flight_images: u64,
}

impl Work {
    /// Both together: what several routers or models have.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            queued_requests: self.queued_requests.saturating_add(other.queued_requests),
            queued_images: self.queued_images.saturating_add(other.queued_images),
            oldest_wait_ms: self.oldest_wait_ms.max(other.oldest_wait_ms),
            in_flight_requests: self.in_flight_requests.saturating_add(other.in_flight_requests),
            in_flight_images: self.in_flight_images.saturating_add(other.in_flight_images),
        }
    }

    /// Images that are asked for and not made.
    pub fn images(&self) -> u64 {
        self.queued_images.saturating_add(self.in_flight_images)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_report_of_another_version_is_still_read() {
        let report: DemandReport = serde_json::from_value(json!({
            "version": 2,
            "models": [{"modelId": "demo", "pool": "default", "queuedRequests": 3, "fromTheFuture": true}],
            "fromTheFuture": [],
        }))
        .unwrap();
        assert_eq!(report.models[0].work.queued_requests, 3);
        assert_eq!(report.models[0].work.in_flight_images, 0);
    }

    #[test]
    fn work_stands_beside_the_model_it_is_for() {
        let work = Work { in_flight_images: 2, ..Work::default() };
        let report = DemandReport {
            version: 1,
            models: vec![ModelDemand { model_id: "demo".to_owned(), work, ..ModelDemand::default() }],
            ..DemandReport::default()
        };
        let value = serde_json::to_value(&report).unwrap();
        assert_eq!(value["models"][0]["inFlightImages"], 2);
        assert_eq!(serde_json::from_value::<DemandReport>(value).unwrap(), report);
    }

    #[test]
    fn work_of_two_routers_adds_up_and_the_older_wait_counts() {
        let one = Work { queued_images: 1, oldest_wait_ms: 5, in_flight_images: 2, ..Work::default() };
        let both = one.and(Work { queued_images: 3, oldest_wait_ms: 4, ..Work::default() });
        assert_eq!((both.queued_images, both.oldest_wait_ms, both.images()), (4, 5, 6));
    }
}
