//! Operations: alive, ready, metrics, and the specification with its page.

use std::sync::atomic::AtomicU64;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use prometheus_client::metrics::gauge::Gauge;
use serde::Serialize;

use super::Shared;
use super::error::RETRY_AFTER;
use super::problem::{answer, with_retry_after};
use crate::metrics::Metrics;

/// It is alive.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Health {
    /// Always `ok`.
    #[schema(value_type = String)]
    status: &'static str,
    /// Version of the dispatcher.
    #[schema(value_type = String)]
    version: &'static str,
}

/// Whether the process is alive
///
/// Says nothing about what it depends on; that is `/readyz`.
#[utoipa::path(
    get, path = "/healthz", tag = "operations", operation_id = "healthz",
    responses((status = 200, description = "It is", body = Health)),
)]
pub(super) async fn healthz() -> axum::Json<Health> {
    axum::Json(Health { status: "ok", version: env!("CARGO_PKG_VERSION") })
}

/// Readiness, dependency by dependency: `ok` or `unavailable`. What exactly is wrong stands in the dispatcher's log.
#[derive(Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub(super) struct Ready {
    /// Whether requests can be served.
    ready: bool,
    /// Redis.
    #[schema(value_type = String)]
    redis: &'static str,
    /// The engine.
    #[schema(value_type = String)]
    engine: &'static str,
    /// The reconciler: Redis has been compared with the engine, and recently.
    #[schema(value_type = String)]
    reconciler: &'static str,
}

/// Whether requests can be served
#[utoipa::path(
    get, path = "/readyz", tag = "operations", operation_id = "readyz",
    responses(
        (status = 200, description = "They can", body = Ready),
        (status = 503, description = "They cannot; the answer names the dependency", body = Ready),
    ),
)]
pub(super) async fn readyz(State(api): State<Shared>) -> Response {
    let found = api.dispatcher.readiness().await;
    let word = |trouble: &Option<String>| if trouble.is_none() { "ok" } else { "unavailable" };
    let ready = Ready {
        ready: found.is_ready() && !api.stop.is_cancelled(),
        redis: word(&found.redis),
        engine: word(&found.engine),
        reconciler: word(&found.reconciler),
    };
    if !ready.ready {
        tracing::debug!(?found, "not ready");
    }
    if ready.ready {
        return answer(StatusCode::OK, "application/json", &ready);
    }
    with_retry_after(answer(StatusCode::SERVICE_UNAVAILABLE, "application/json", &ready), Some(RETRY_AFTER))
}

/// What is looked up when the metrics are asked for.
#[derive(Debug, Clone, Default)]
pub(super) struct Gauges {
    redis_up: Gauge,
    locks: Gauge,
    waiting: Gauge,
    freezes: Gauge,
    oldest_lock: Gauge<f64, AtomicU64>,
    supervised: Gauge,
    adopted: Gauge,
    rebuilt: Gauge,
    last_pass: Gauge<f64, AtomicU64>,
}

impl Gauges {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let gauges = Self::default();
        let of = |name: &str, help: &str, gauge: &Gauge| metrics.register(name, help, gauge.clone());
        of("redis_up", "Whether Redis answered when this was asked", &gauges.redis_up);
        of("live_jobs", "Jobs that hold a deploy lock, on all dispatchers", &gauges.locks);
        of("waiting_jobs", "Jobs that wait for a deploy lock, on all dispatchers", &gauges.waiting);
        of("freezes", "Inventories that are frozen", &gauges.freezes);
        of("supervised_jobs", "Jobs that this dispatcher supervises", &gauges.supervised);
        of("adopted_jobs", "Jobs that this dispatcher has adopted since its start", &gauges.adopted);
        of("rebuilds", "Rebuilds of Redis' state since the start of this dispatcher", &gauges.rebuilt);
        metrics.register(
            "oldest_lock_seconds",
            "Age of the oldest deploy lock; 0: there is none",
            gauges.oldest_lock.clone(),
        );
        metrics.register(
            "reconciler_last_pass_timestamp_seconds",
            "When the reconciler last passed, in seconds since 1970; 0: not yet",
            gauges.last_pass.clone(),
        );
        gauges
    }
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Metrics for Prometheus
#[utoipa::path(
    get, path = "/metrics", tag = "operations", operation_id = "metrics",
    responses((status = 200, description = "OpenMetrics text", body = String, content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8")),
)]
pub(super) async fn metrics(State(api): State<Shared>) -> Response {
    let gauges = &api.gauges;
    match api.dispatcher.store().locks().await {
        Ok((locks, now)) => {
            let oldest = locks.iter().filter_map(|lock| lock.record.as_ref()?.locked_ms).min();
            let frozen = locks.iter().filter(|lock| lock.freeze.is_some()).count();
            gauges.redis_up.set(1);
            gauges.locks.set(signed(locks.iter().filter(|lock| lock.holder.is_some()).count() as u64));
            gauges.waiting.set(signed(locks.iter().map(|lock| lock.waiting.len() as u64).sum()));
            gauges.freezes.set(signed(frozen as u64));
            gauges.oldest_lock.set(oldest.map_or(0.0, |since| now.saturating_sub(since) as f64 / 1000.0));
        }
        // The gauges of Redis keep their last values; this one says so.
        Err(_) => {
            gauges.redis_up.set(0);
        }
    }
    let counts = api.dispatcher.counts();
    gauges.supervised.set(signed(counts.supervised));
    gauges.adopted.set(signed(counts.adopted));
    gauges.rebuilt.set(signed(counts.rebuilt));
    gauges.last_pass.set(counts.last_pass_ms.map_or(0.0, |ms| ms as f64 / 1000.0));
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], api.metrics.text()).into_response()
}
