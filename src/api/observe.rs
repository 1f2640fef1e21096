//! What every request leaves behind: counts and durations by route, and a line of the log.

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use tokio::time::Instant;

use super::{Shared, unread};
use crate::metrics::Metrics;

/// Upper bounds of the durations that are told apart, in seconds.
const BOUNDS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0];

/// A route's template, never a path: what somebody sends makes no new series.
#[derive(Debug, Clone)]
struct Route(Option<MatchedPath>);

impl Route {
    fn text(&self) -> &str {
        self.0.as_ref().map_or("none", MatchedPath::as_str)
    }
}

impl PartialEq for Route {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

impl Eq for Route {}

impl std::hash::Hash for Route {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.text().hash(state);
    }
}

impl EncodeLabelValue for Route {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        EncodeLabelValue::encode(&self.text(), encoder)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRequest {
    route: Route,
    method: &'static str,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRoute {
    route: Route,
}

/// Counters of requests.
#[derive(Debug, Clone)]
pub(super) struct Requests {
    count: Family<OfRequest, Counter>,
    seconds: Family<OfRoute, Histogram>,
}

impl Requests {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let requests =
            Self { count: Family::default(), seconds: Family::new_with_constructor(|| Histogram::new(BOUNDS)) };
        metrics.register("http_requests", "Requests by route, method and status", requests.count.clone());
        metrics.register(
            "http_request_seconds",
            "Time until the first byte of the answer, by route",
            requests.seconds.clone(),
        );
        requests
    }
}

/// Methods are what somebody sends, too.
fn method_word(method: &axum::http::Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        _ => "other",
    }
}

/// Counts a request.
pub(super) async fn observe(State(api): State<Shared>, request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let route = Route(request.extensions().get::<MatchedPath>().cloned());
    let method = method_word(request.method());
    let response = unread::answered(request, next).await;
    let took = begun.elapsed();
    let status = response.status().as_u16();
    tracing::debug!(
        http.method = method,
        http.route = route.text(),
        http.status = status,
        took_us = took.as_micros(),
        "request"
    );
    let requests: &Requests = &Arc::as_ref(&api).requests;
    requests.seconds.get_or_create(&OfRoute { route: route.clone() }).observe(took.as_secs_f64());
    requests.count.get_or_create(&OfRequest { route, method, status }).inc();
    response
}
