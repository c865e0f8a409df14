//! The operator's metrics, and whether it is ready: one value that loop and listener share. What is known of any process (memory, time on
//! processors, open files) is there under its usual names, `process_*`.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use prometheus::{Encoder, IntCounterVec, IntGauge, Opts, Registry, TextEncoder, process_collector::ProcessCollector};

/// Counters of the reconcile loop, and readiness.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    /// Ended reconciliations by kind and result: `applied`, `unchanged`, `unreadable`, `failed`.
    pub reconciliations: IntCounterVec,
    /// What the API server was asked, by method (`WATCH` for a watch) and code of the answer (`none` where there was none).
    pub requests: IntCounterVec,
    /// 1 while this operator works, 0 while it stands by.
    pub leading: IntGauge,
    is_ready: Arc<AtomicBool>,
}

impl Metrics {
    /// Counters at zero, not ready.
    ///
    /// # Errors
    /// If a metric's name is taken, which is a mistake in this file.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let options = Opts::new("emulsion_operator_reconciliations_total", "Ended reconciliations by kind and result.");
        let reconciliations = IntCounterVec::new(options, &["kind", "result"])?;
        registry.register(Box::new(reconciliations.clone()))?;
        let options = Opts::new("emulsion_operator_api_requests_total", "Requests to the API server by method and code of the answer.");
        let requests = IntCounterVec::new(options, &["method", "code"])?;
        registry.register(Box::new(requests.clone()))?;
        registry.register(Box::new(ProcessCollector::for_self()))?;
        let leading = IntGauge::new("emulsion_operator_leading", "1 while this operator works, 0 while it stands by.")?;
        registry.register(Box::new(leading.clone()))?;
        Ok(Self { registry, reconciliations, requests, leading, is_ready: Arc::default() })
    }

    /// The API server has answered.
    pub fn set_ready(&self) {
        self.is_ready.store(true, Ordering::Relaxed);
    }

    /// Whether the API server has answered.
    pub fn is_ready(&self) -> bool {
        self.is_ready.load(Ordering::Relaxed)
    }

    /// All metrics in Prometheus' text format.
    ///
    /// # Errors
    /// If a metric cannot be written as text.
    pub fn text(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}
