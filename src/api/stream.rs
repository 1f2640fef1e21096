//! Events: read by cursor, with long-poll, or followed as server-sent events. All of them, or those of one release.
//!
//! One order for all; an app sees its own, an operator or viewer all. Whoever keeps the id of the last event that it has dealt with misses nothing
//! and gets nothing twice, as long as it comes back within `job.retention`; if it comes later, it is told: by a header, or by an event
//! `missed`.
//!
//! Both forms pull: what is next is read from Redis when it is asked for, so a reader that does not read costs one piece.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::Response;
use axum::response::sse::Event as SseEvent;
use serde::Deserialize;
use serde_json::Map;
use tokio::sync::watch;
use tokio::time::Instant;

use super::auth::{Caller, Claim, Viewer};
use super::docs::{Guarded, OfRelease, ReleasePath};
use super::error::ApiError;
use super::events::{LOOK_AGAIN, STREAM_MAX, TRY_AGAIN, event, serve};
use super::extract::{Named, Query};
use super::{Api, Shared};
use crate::model::event::{Cursor, Event};
use crate::model::ids::{DeploymentId, ReleaseId};
use crate::store::{Events, StoreError};
use crate::wire::CloudEvent;

/// How many events an answer has unless the request says otherwise.
const PAGE: usize = 100;
/// The most events that an answer may have.
const PAGE_MAX: usize = 1000;
/// How many events are read from Redis at a time, and
const PIECE: usize = 200;
/// how many at most for one answer, whether or not they are the reader's: the next request reads on behind them.
const LOOKED_AT_MAX: usize = 10_000;
/// The longest that an answer is waited for, in seconds.
const WAIT_MAX: u64 = 60;
/// Where to read on.
const NEXT_CURSOR: HeaderName = HeaderName::from_static("lockstep-next-cursor");
/// Whether events behind the cursor may have been forgotten, or lost with an emptied Redis.
const MISSED: HeaderName = HeaderName::from_static("lockstep-events-missed");

/// Which events, and how long to wait for some.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    /// Only events after this one (its id, or `Lockstep-Next-Cursor` of an answer); `now`: those to come. The oldest that is kept unless
    /// given. `Last-Event-ID` counts more
    #[param(pattern = r"^(now|[0-9]+-[0-9]+)$")]
    after: Option<String>,
    /// Seconds to wait when there is none yet; 0 unless given
    #[serde(default)]
    #[param(minimum = 0, maximum = 60)]
    wait: u64,
    /// Events per answer; 100 unless given
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// Only of this app
    #[param(pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
    deployment_id: Option<String>,
}

/// Read or follow events
///
/// Every change of a job's state and all that happens to releases, in order. With `Accept: text/event-stream` as server-sent events whose id is the event's, resumed with
/// `Last-Event-ID` (`missed` comes first where events may have been missed); otherwise as a batch of CloudEvents: read on at `Lockstep-Next-Cursor`, also when the batch is empty. An app sees its
/// own, an operator all, an ID token those of the app that `deployment_id` names.
#[utoipa::path(
    get, path = "/api/v1/events", tag = "events", operation_id = "all_events",
    params(Which, ("Last-Event-ID" = Option<String>, Header, description = "Id of the last event that has been dealt with")),
    responses(
        (status = 200, description = "Events", content(
            (Vec<CloudEvent> = "application/cloudevents-batch+json"),
            (String = "text/event-stream"),
        ), headers(
            ("Lockstep-Next-Cursor" = String, description = "Where to read on"),
            ("Lockstep-Events-Missed" = bool, description = "Whether events after the given one may have been missed: it is not kept any more, or Redis was emptied"),
        )),
        Guarded,
    ),
    security(("app" = []), ("oidc" = []), ("operator" = []), ("viewer" = []), ("releaser" = [])),
)]
pub(super) async fn events(
    State(api): State<Shared>,
    Query(Which { after, wait, limit, deployment_id }): Query<Which>,
    headers: HeaderMap,
    claim: Claim,
) -> Result<Response, ApiError> {
    let asked = Asked::read(after, wait, limit, &headers)?;
    let only = deployment_id.map(DeploymentId::try_from).transpose();
    let only = only.map_err(|error| ApiError::Invalid(format!("deployment_id {error}")))?;
    let caller = api.admit_at(claim, only.as_ref()).await?;
    asked.answer(api, Source::All { caller, only }).await
}

/// Which events of a release, and how long to wait for some.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct WhichOfRelease {
    /// Only events after this one (its id, or `Lockstep-Next-Cursor` of an answer); `now`: those to come. All from the first unless given.
    /// `Last-Event-ID` counts more
    #[param(pattern = r"^(now|[0-9]+-[0-9]+)$")]
    after: Option<String>,
    /// Seconds to wait when there is none yet; 0 unless given
    #[serde(default)]
    #[param(minimum = 0, maximum = 60)]
    wait: u64,
    /// Events per answer; 100 unless given
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
}

/// Read or follow the events of a release
///
/// All that ever happened to it, in order, as long as it is kept; in the same forms as all events.
#[utoipa::path(
    get, path = "/api/v1/releases/{release_id}/events", tag = "releases", operation_id = "release_events",
    params(ReleasePath, WhichOfRelease, ("Last-Event-ID" = Option<String>, Header, description = "Id of the last event that has been dealt with")),
    responses(
        (status = 200, description = "Events", content(
            (Vec<CloudEvent> = "application/cloudevents-batch+json"),
            (String = "text/event-stream"),
        ), headers(
            ("Lockstep-Next-Cursor" = String, description = "Where to read on"),
            ("Lockstep-Events-Missed" = bool, description = "Whether events after the given one may have been missed: it is not kept any more, or Redis was emptied"),
        )),
        Guarded, OfRelease,
    ),
    security(("operator" = []), ("viewer" = []), ("releaser" = [])),
)]
pub(super) async fn release_events(
    State(api): State<Shared>,
    Named(release): Named<ReleaseId>,
    _: Viewer,
    Query(WhichOfRelease { after, wait, limit }): Query<WhichOfRelease>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let asked = Asked::read(after, wait, limit, &headers)?;
    api.dispatcher.store().release(release).await?.ok_or(ApiError::UnknownRelease)?;
    asked.answer(api, Source::Release(release)).await
}

/// What a request for events says.
struct Asked {
    /// None: it begins with the oldest.
    after: Option<After>,
    wait: Duration,
    limit: usize,
    follows: bool,
}

enum After {
    Now,
    Event(Cursor),
}

impl Asked {
    fn read(after: Option<String>, wait: u64, limit: Option<usize>, headers: &HeaderMap) -> Result<Self, ApiError> {
        let limit = limit.unwrap_or(PAGE);
        if !(1..=PAGE_MAX).contains(&limit) {
            return Err(ApiError::Invalid(format!("limit must be 1 to {PAGE_MAX}")));
        }
        if wait > WAIT_MAX {
            return Err(ApiError::Invalid(format!("wait must be at most {WAIT_MAX} seconds")));
        }
        let resumed = headers.get("last-event-id").map(|value| value.to_str().unwrap_or_default().trim());
        let after = match resumed.or(after.as_deref()) {
            None => None,
            Some("now") => Some(After::Now),
            Some(text) => {
                let at = text.parse().map_err(|error| ApiError::Invalid(format!("after {error}, or now")))?;
                Some(After::Event(at))
            }
        };
        let follows = headers.get_all(header::ACCEPT).iter().any(|value| {
            value.to_str().is_ok_and(|text| text.split(',').any(|kind| kind.trim().starts_with("text/event-stream")))
        });
        Ok(Self { after, wait: Duration::from_secs(wait), limit, follows })
    }

    async fn answer(self, api: Shared, source: Source) -> Result<Response, ApiError> {
        // Listening begins before the first look, so that nothing falls in between.
        let news = source.news(&api);
        let at = match self.after {
            None => Cursor::START,
            Some(After::Now) => source.newest(&api).await?,
            Some(After::Event(at)) => at,
        };
        let mut reader = Reader { api, source, news, at, missed: false, more: false };
        if self.follows {
            return Ok(follow(reader));
        }
        let until = Instant::now() + self.wait;
        let events = loop {
            let events = reader.read(self.limit).await?;
            if !events.is_empty() || reader.more || Instant::now() >= until || reader.api.stop.is_cancelled() {
                break events;
            }
            reader.wait(until).await;
        };
        let body = serde_json::to_vec(&events).map_err(|error| ApiError::Internal(error.to_string()))?;
        let mut response = Response::new(Body::from(body));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/cloudevents-batch+json"));
        headers.insert(NEXT_CURSOR, HeaderValue::try_from(reader.at.to_string()).expect("digits and a hyphen"));
        headers.insert(MISSED, HeaderValue::from_static(if reader.missed { "true" } else { "false" }));
        Ok(response)
    }
}

/// Where events are read from.
enum Source {
    /// All that there are; those that are this caller's, and of one app where that is wished.
    All { caller: Caller, only: Option<DeploymentId> },
    /// Those of one release, for whoever may see everything.
    Release(ReleaseId),
}

impl Source {
    fn news(&self, api: &Api) -> watch::Receiver<u64> {
        match self {
            Self::All { .. } => api.dispatcher.store().event_news(),
            Self::Release(release) => api.dispatcher.store().release_news(*release),
        }
    }

    async fn read(&self, api: &Api, after: Cursor, limit: usize) -> Result<Events, StoreError> {
        match self {
            Self::All { .. } => api.dispatcher.store().events(after, limit).await,
            Self::Release(release) => api.dispatcher.store().release_events(*release, after, limit).await,
        }
    }

    /// The place of the newest one so far.
    async fn newest(&self, api: &Api) -> Result<Cursor, StoreError> {
        let Self::Release(_) = self else { return api.dispatcher.store().newest_event().await };
        // A release has so few that they can be counted out.
        let mut at = Cursor::START;
        loop {
            let Events { next, last, .. } = self.read(api, at, PAGE_MAX).await?;
            at = next;
            if last {
                return Ok(at);
            }
        }
    }

    /// Whether an event is for this reader. What concerns no app, such as a release, is the operators' and viewers'.
    fn sees(&self, event: &Event) -> bool {
        let Self::All { caller, only } = self else { return true };
        let of_app = match (&event.deployment_id, &event.inventory) {
            (Some(app), Some(inventory)) => caller.owns(app, inventory),
            _ => matches!(caller, Caller::Operator(_) | Caller::Viewer(_)),
        };
        of_app && only.as_ref().is_none_or(|only| event.deployment_id.as_ref() == Some(only))
    }
}

/// One reader's place.
struct Reader {
    api: Shared,
    source: Source,
    news: watch::Receiver<u64>,
    at: Cursor,
    missed: bool,
    /// Whether there was more to look at.
    more: bool,
}

impl Reader {
    /// The next events for this reader, at most `limit`; none: nothing more so far, or much that is others'.
    async fn read(&mut self, limit: usize) -> Result<Vec<CloudEvent>, StoreError> {
        self.news.mark_unchanged();
        let (source, url) = (self.api.dispatcher.source(), self.api.dispatcher.public_url());
        let mut found = Vec::new();
        let mut looked_at = 0;
        loop {
            // Where the first ones were others', few of those behind them may be this reader's.
            let count = if looked_at == 0 { PIECE.min(limit) } else { PIECE };
            let Events { events, next, last, missed } = self.source.read(&self.api, self.at, count).await?;
            self.missed |= missed;
            looked_at += count;
            for event in &events {
                if self.source.sees(event) {
                    found.push(CloudEvent::new(event, &source, url));
                }
                self.at = event.at;
                if found.len() == limit {
                    self.more = true;
                    return Ok(found);
                }
            }
            self.at = next;
            if last || looked_at >= LOOKED_AT_MAX {
                self.more = !last;
                return Ok(found);
            }
        }
    }

    /// Waits for news, not beyond `until`.
    async fn wait(&mut self, until: Instant) {
        let until = until.min(Instant::now() + LOOK_AGAIN);
        tokio::select! {
            _ = self.news.changed() => {}
            () = tokio::time::sleep_until(until) => {}
            () = self.api.stop.cancelled() => {}
        }
    }
}

fn follow(reader: Reader) -> Response {
    let follower = Follower { until: Instant::now() + STREAM_MAX, told: None, ready: VecDeque::new(), reader };
    serve(futures::stream::unfold(follower, |mut follower| async move {
        let event = follower.next().await?;
        Some((Ok::<_, Infallible>(event), follower))
    }))
}

/// A reader that is sent what happens.
struct Follower {
    reader: Reader,
    ready: VecDeque<SseEvent>,
    /// The place that the other end knows, and since when.
    told: Option<(Cursor, Instant)>,
    until: Instant,
}

impl Follower {
    async fn next(&mut self) -> Option<SseEvent> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            // At the stop the stream ends: the reader resumes elsewhere or later.
            if self.reader.api.stop.is_cancelled() || Instant::now() >= self.until {
                return None;
            }
            match self.reader.read(PAGE).await {
                Ok(events) => self.take(&events),
                Err(error) => {
                    tracing::debug!(%error, "a reader of events waits for Redis");
                    self.reader.wait(Instant::now() + TRY_AGAIN).await;
                    continue;
                }
            }
            if self.ready.is_empty() && !self.reader.more {
                self.reader.wait(Instant::now() + LOOK_AGAIN).await;
            }
        }
    }

    fn take(&mut self, events: &[CloudEvent]) {
        if std::mem::take(&mut self.reader.missed) {
            self.ready.push_back(event("missed", &Map::new()));
        }
        self.ready.extend(events.iter().map(|it| event(&it.kind, it).id(&it.id)));
        // Where to resume is told also while all that happens is others': an id without data is remembered and no event.
        let due = self.told.is_none_or(|(at, since)| at != self.reader.at && since.elapsed() >= LOOK_AGAIN);
        if events.is_empty() && due {
            self.ready.push_back(SseEvent::default().id(self.reader.at.to_string()));
        }
        if due || !events.is_empty() {
            self.told = Some((self.reader.at, Instant::now()));
        }
    }
}
