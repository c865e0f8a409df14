//! The router's figures, in Prometheus' format. Every label has a fixed, small set of values.

use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder};

/// Seconds; starts take between a tenth of a second and a minute.
const START_BUCKETS: [f64; 9] = [0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0];

/// All that the router counts.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    /// Requests that wait for their turn.
    pub queued: IntGauge,
    /// Requests that a replica works on, or whose replica starts.
    pub in_flight: IntGauge,
    pub replicas_ready: IntGauge,
    pub replicas_starting: IntGauge,
    replica_starts: IntCounterVec,
    replica_start_seconds: Histogram,
    /// Attempts that were repeated.
    pub retries: IntCounter,
    /// Requests taken up from a router that had stopped.
    pub takeovers: IntCounter,
    /// Warm models of pools that a replica has in memory, and those that none has.
    pub warm_models_resident: IntGauge,
    pub warm_models_missing: IntGauge,
}

/// How a call ended, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutcomeLabel {
    Succeeded,
    Failed,
    Cancelled,
    /// Not accepted.
    Refused,
}

impl OutcomeLabel {
    fn text(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Refused => "refused",
        }
    }
}

impl std::fmt::Display for OutcomeLabel {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.text())
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new().expect("the names of metrics are valid and differ")
    }
}

impl Metrics {
    fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let labelled = |name: &str, help: &str, labels: &[&str]| -> Result<IntCounterVec, prometheus::Error> {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let replica_start_seconds = Histogram::with_opts(
            HistogramOpts::new("emulsion_router_replica_start_seconds", "Time from starting a replica's process until it listens")
                .buckets(START_BUCKETS.to_vec()),
        )?;
        registry.register(Box::new(replica_start_seconds.clone()))?;
        Ok(Self {
            requests: labelled(
                "emulsion_router_requests_total",
                "Requests for images by dialect and how they ended",
                &["dialect", "outcome"],
            )?,
            queued: gauge("emulsion_router_queued_requests", "Requests that wait for their turn")?,
            in_flight: gauge("emulsion_router_in_flight_requests", "Requests that have their turn")?,
            replicas_ready: gauge("emulsion_router_replicas_ready", "Replicas that take work")?,
            replicas_starting: gauge("emulsion_router_replicas_starting", "Replicas that start")?,
            replica_starts: labelled("emulsion_router_replica_starts_total", "Starts of replicas by result", &["result"])?,
            replica_start_seconds,
            retries: counter("emulsion_router_retries_total", "Attempts at a request that were repeated")?,
            takeovers: counter("emulsion_router_takeovers_total", "Requests taken up from a router that had stopped")?,
            warm_models_resident: gauge("emulsion_router_warm_models_resident", "Warm models of pools that a replica has in memory")?,
            warm_models_missing: gauge("emulsion_router_warm_models_missing", "Warm models of pools that no replica has in memory")?,
            registry,
        })
    }

    /// `dialect` is one of the dialects' own constants.
    pub fn request_ended(&self, dialect: &'static str, outcome: OutcomeLabel) {
        self.requests.with_label_values(&[dialect, outcome.text()]).inc();
    }

    pub fn replica_started(&self, after: Duration) {
        self.replica_starts.with_label_values(&["ready"]).inc();
        self.replica_start_seconds.observe(after.as_secs_f64());
    }

    pub fn replica_start_failed(&self) {
        self.replica_starts.with_label_values(&["failed"]).inc();
    }

    pub fn render(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_rendered_with_their_labels() {
        let metrics = Metrics::default();
        metrics.request_ended("openai", OutcomeLabel::Succeeded);
        metrics.replica_started(Duration::from_millis(300));
        metrics.queued.set(3);
        let text = metrics.render();
        assert!(text.contains("emulsion_router_requests_total{dialect=\"openai\",outcome=\"succeeded\"} 1"), "{text}");
        assert!(text.contains("emulsion_router_replica_start_seconds_bucket{le=\"0.5\"} 1"), "{text}");
        assert!(text.contains("emulsion_router_queued_requests 3"), "{text}");
    }
}
