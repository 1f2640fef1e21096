//! What is counted, for Prometheus.
//!
//! One registry for the process. Who has something to count registers it here, and keeps the handle; what is only known when it
//! is asked for (live jobs, the oldest lock) is set by the `/metrics` endpoint.

use std::sync::{Mutex, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::{Metric, Registry};

use crate::model::job::Outcome;

/// The registry, and the counters that no single part of the program owns.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    jobs_ended: Family<OfOutcome, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfOutcome {
    outcome: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self { registry: Mutex::new(Registry::with_prefix("lockstep")), jobs_ended: Family::default() };
        metrics.register("jobs_ended", "Jobs whose outcome was set by this dispatcher", metrics.jobs_ended.clone());
        metrics
    }
}

impl Metrics {
    /// Adds something that is counted. The name gets the prefix `lockstep_`, a counter's also the ending `_total`.
    pub fn register(&self, name: &str, help: &str, metric: impl Metric) {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner).register(name, help, metric);
    }

    /// A job has ended.
    pub fn job_ended(&self, outcome: Outcome) {
        self.jobs_ended.get_or_create(&OfOutcome { outcome: outcome.word() }).inc();
    }

    /// Everything in the OpenMetrics text format.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        // Writing into a String does not fail.
        let _ = encode(&mut text, &registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_shown() {
        let metrics = Metrics::default();
        metrics.job_ended(Outcome::TimedOut);
        let own: Counter = Counter::default();
        metrics.register("own", "Of my own", own.clone());
        own.inc_by(3);
        let text = metrics.text();
        assert!(text.contains("lockstep_jobs_ended_total{outcome=\"timed_out\"} 1\n"), "{text}");
        assert!(text.contains("lockstep_own_total 3\n"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }
}
