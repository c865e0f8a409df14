//! What the replica counts, in Prometheus' text format. Names begin with `emulsion_runtime_`.

use prometheus::{Encoder, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder, core::Collector};
use runtime_api::FailureReason;

/// Outcome of a generation whose images were stored.
const DONE: &str = "done";
/// Upper bounds of the load histogram, seconds: from a small model in the page cache to a large one over a slow disk.
const LOAD_BUCKETS_SECONDS: [f64; 10] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0, 300.0];

/// All counters of one replica; cheap to share.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Generations that wait.
    pub queued: IntGauge,
    /// Generations whose images are being made or stored.
    pub running: IntGauge,
    /// How often a denoiser ran; fewer than the rows where requests share calls.
    pub denoiser_calls: IntCounter,
    /// Predictions made: one or two for each image and evaluation.
    pub denoiser_rows: IntCounter,
    /// Evaluations finished, over all images.
    pub steps: IntCounter,
    /// Images whose pixels were made.
    pub images: IntCounter,
    /// Time to read a model's weights.
    pub load_seconds: Histogram,
    /// Bytes of weights read into memory.
    pub load_bytes: IntCounter,
    /// Bytes of weights held.
    pub resident_bytes: IntGauge,
    /// Panics of the engine that were caught.
    pub panics: IntCounter,
    generations: IntCounterVec,
}

impl Metrics {
    /// # Errors
    /// Two metrics of one name: a mistake in this file, found by any test.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new_custom(Some("emulsion_runtime".to_owned()), None)?;
        let counter = |name: &str, help: &str| registered(&registry, IntCounter::new(name, help)?);
        let gauge = |name: &str, help: &str| registered(&registry, IntGauge::new(name, help)?);
        let load_seconds = HistogramOpts::new("load_seconds", "Time to read a model's weights").buckets(LOAD_BUCKETS_SECONDS.to_vec());
        let generations = Opts::new("generations_total", "Generations that ended, by outcome");
        Ok(Self {
            queued: gauge("queued", "Generations that wait")?,
            running: gauge("running", "Generations whose images are being made or stored")?,
            denoiser_calls: counter("denoiser_calls_total", "How often a denoiser ran")?,
            denoiser_rows: counter("denoiser_rows_total", "Predictions made by those calls")?,
            steps: counter("steps_total", "Evaluations finished, over all images")?,
            images: counter("images_total", "Images whose pixels were made")?,
            load_seconds: registered(&registry, Histogram::with_opts(load_seconds)?)?,
            load_bytes: counter("load_bytes_total", "Bytes of weights read into memory")?,
            resident_bytes: gauge("resident_bytes", "Bytes of weights held")?,
            panics: counter("panics_total", "Panics of the engine that were caught")?,
            generations: registered(&registry, IntCounterVec::new(generations, &["outcome"])?)?,
            registry,
        })
    }

    /// Counts the end of one generation.
    pub fn count_outcome(&self, failure: Option<FailureReason>) {
        let outcome = failure.map_or(DONE, outcome_label);
        self.generations.with_label_values(&[outcome]).inc();
    }

    /// How many generations ended so.
    pub fn outcomes(&self, failure: Option<FailureReason>) -> u64 {
        self.generations.with_label_values(&[failure.map_or(DONE, outcome_label)]).get()
    }

    /// Everything, in Prometheus' text format.
    ///
    /// # Errors
    /// Metrics that contradict each other: a mistake in this file.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

fn registered<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

fn outcome_label(reason: FailureReason) -> &'static str {
    match reason {
        FailureReason::InvalidRequest => "invalid_request",
        FailureReason::InvalidModel => "invalid_model",
        FailureReason::Busy => "busy",
        FailureReason::DeadlineExceeded => "deadline_exceeded",
        FailureReason::Cancelled => "cancelled",
        FailureReason::OutputRejected => "output_rejected",
        FailureReason::Internal => "internal",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_carries_the_products_name() {
        let metrics = Metrics::new().unwrap();
        metrics.count_outcome(Some(FailureReason::Cancelled));
        let text = metrics.render().unwrap();
        assert!(text.contains("emulsion_runtime_generations_total{outcome=\"cancelled\"} 1"), "{text}");
        assert!(text.lines().filter(|line| !line.starts_with('#')).all(|line| line.starts_with("emulsion_runtime_")), "{text}");
    }
}
