//! Following a job as server-sent events.
//!
//! | event | data | id |
//! |---|---|---|
//! | `state` | the job, as `GET /api/v1/jobs/{job_id}` shows it, without progress | |
//! | `progress` | what the container last reported | |
//! | `output` | `{"offset": …, "text": "…"}` | byte offset after the text |
//! | `end` | the job; the last event | |
//!
//! The first event is `state`. Events of state say what is so now, not everything that was so in between. `Last-Event-ID`, which
//! only `output` sets, resumes the output at a byte.
//!
//! The stream is pulled: what is next is read from Redis when the connection can take it, at most [`PIECE`] at a time. So a
//! follower that does not read costs one piece; the connection ends when no byte has moved for a while (see `serve`).

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::Stream;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::auth::Claim;
use super::docs::{Guarded, JobPath, OfJob};
use super::error::ApiError;
use super::extract::{Named, Query};
use super::output::{offset, whole_characters};
use super::{Shared, view};
use crate::model::ids::JobId;
use crate::store::{JobView, News, StoreError};
use crate::wire::{Job, OutputEvent, Problem, Progress};

/// The most bytes of output in one event.
const PIECE: u64 = 64 * 1024;
/// A comment is sent after so long without an event, so that nothing in between takes the connection for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// The follower looks again after so long, should a wake-up be missed.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// A stream ends after so long, so that its credentials are checked anew: its reader resumes with `Last-Event-ID`.
pub(super) const STREAM_MAX: Duration = Duration::from_secs(15 * 60);
/// And after so long, when Redis did not answer.
pub(super) const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Where to begin.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Begin {
    /// First byte of the output to send; 0 unless given. `Last-Event-ID` counts more
    #[serde(default)]
    #[param(minimum = 0, maximum = 9_007_199_254_740_991_i64)]
    offset: u64,
}

/// Follow a job
///
/// Server-sent events `state`, `progress`, `output` (its id is the byte offset after it) and `end`, after which the stream ends. A
/// stream that breaks off before `end` is resumed with `Last-Event-ID`.
#[utoipa::path(
    get, path = "/api/v1/jobs/{job_id}/events", tag = "jobs", operation_id = "events",
    params(
        JobPath, Begin,
        ("Last-Event-ID" = Option<u64>, Header, description = "Offset at which to resume the output"),
    ),
    responses(
        (status = 200, description = "Events", body = String, content_type = "text/event-stream"),
        (status = 416, description = "The offset lies beyond the end of a job that is over", body = Problem, content_type = "application/problem+json"),
        Guarded, OfJob,
    ),
    security(("app" = []), ("oidc" = []), ("operator" = []), ("viewer" = []), ("releaser" = [])),
)]
pub(super) async fn events(
    State(api): State<Shared>,
    Named(job): Named<JobId>,
    Query(begin): Query<Begin>,
    headers: HeaderMap,
    claim: Claim,
) -> Result<Response, ApiError> {
    let offset = offset(last_event_id(&headers)?.unwrap_or(begin.offset))?;
    // Listening begins before the first look, so that nothing falls in between.
    let news = api.dispatcher.store().news(job);
    let (_, found) = api.job_of(claim, job).await?;
    // A job that goes on may have had more output before its record was made anew; what it prints comes back to that place.
    if found.record.state.is_ended() && offset > found.output_bytes {
        return Err(ApiError::OffsetBeyondEnd(found.output_bytes));
    }
    let mut follower = Follower {
        api,
        job,
        news,
        offset,
        shown: None,
        progress: None,
        next: VecDeque::new(),
        over: false,
        until: Instant::now() + STREAM_MAX,
    };
    follower.show(found);
    Ok(serve(follower.events()))
}

/// Serves events as they come.
pub(super) fn serve(events: impl Stream<Item = Result<Event, Infallible>> + Send + 'static) -> Response {
    let mut response = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response();
    // A buffering proxy would hold back what is to be seen at once.
    response.headers_mut().insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<u64>, ApiError> {
    let Some(value) = headers.get("last-event-id") else { return Ok(None) };
    let offset = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    offset
        .map(Some)
        .ok_or_else(|| ApiError::Invalid("Last-Event-ID must be a byte offset, as the id of an output event".into()))
}

/// One follower's place.
struct Follower {
    api: Shared,
    job: JobId,
    news: News,
    /// Next byte of output to send.
    offset: u64,
    /// The job as last sent.
    shown: Option<Job>,
    /// The report as last sent.
    progress: Option<Progress>,
    /// Events to be sent, never more than one piece of output among them.
    next: VecDeque<Event>,
    over: bool,
    /// When the stream ends, over or not.
    until: Instant,
}

impl Follower {
    fn events(self) -> impl Stream<Item = Result<Event, Infallible>> + Send {
        futures::stream::unfold(self, |mut follower| async move {
            let event = follower.next_event().await?;
            Some((Ok(event), follower))
        })
    }

    async fn next_event(&mut self) -> Option<Event> {
        let stop = self.api.stop.clone();
        loop {
            if let Some(event) = self.next.pop_front() {
                return Some(event);
            }
            if self.over {
                return None;
            }
            if Instant::now() >= self.until {
                return None;
            }
            // At the stop the stream ends without `end`: the client resumes elsewhere or later.
            stop.run_until_cancelled(self.look()).await?;
        }
    }

    /// Looks for something to send, and waits for news if there is nothing.
    async fn look(&mut self) {
        let read = self.read().await;
        if self.over || !self.next.is_empty() {
            return;
        }
        let pause = match read {
            Ok(()) => LOOK_AGAIN,
            Err(error) => {
                tracing::debug!(job.id = %self.job, %error, "a follower waits for Redis");
                TRY_AGAIN
            }
        };
        tokio::select! {
            _ = self.news.state.changed() => {
                // Marked again, so that the next look sees it.
                self.news.state.mark_changed();
            }
            _ = self.news.output.changed() => {}
            () = tokio::time::sleep(pause) => self.news.state.mark_changed(),
        }
    }

    async fn read(&mut self) -> Result<(), StoreError> {
        if self.news.state.has_changed().unwrap_or(true) {
            self.news.state.mark_unchanged();
            if let Err(error) = self.look_at_job().await {
                self.news.state.mark_changed();
                return Err(error);
            }
            if self.over {
                return Ok(());
            }
        }
        self.news.output.mark_unchanged();
        let store = self.api.dispatcher.store();
        let Some((mut bytes, ended)) = store.output(self.job, self.offset, PIECE).await? else {
            self.over = true;
            return Ok(());
        };
        let last = ended && (bytes.len() as u64) < PIECE;
        if !last {
            bytes.truncate(whole_characters(&bytes));
        }
        if !bytes.is_empty() {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let data = OutputEvent { offset: self.offset, text };
            self.offset += bytes.len() as u64;
            self.next.push_back(event("output", &data).id(self.offset.to_string()));
        }
        if last {
            self.look_at_job().await?;
            if let Some(job) = self.shown.clone() {
                self.next.push_back(event("end", &job));
            }
            self.over = true;
        }
        Ok(())
    }

    async fn look_at_job(&mut self) -> Result<(), StoreError> {
        match self.api.dispatcher.store().job(self.job, None).await?.0 {
            Some(found) => self.show(found),
            // Its retention has run out, or Redis lost it: asking again will say so.
            None => self.over = true,
        }
        Ok(())
    }

    /// Sends what has changed.
    fn show(&mut self, found: JobView) {
        let mut job = view::job(found);
        let progress = job.progress.take();
        let before = self.shown.as_ref();
        // How much output there is changes all the time, and is what `output` is for.
        let same = before.is_some_and(|before| *before == Job { output_bytes: before.output_bytes, ..job.clone() });
        if !same {
            self.next.push_back(event("state", &job));
        }
        self.shown = Some(job);
        if progress.is_some() && progress != self.progress {
            self.next.extend(progress.as_ref().map(|report| event("progress", report)));
            self.progress = progress;
        }
    }
}

pub(super) fn event(name: &str, data: &impl Serialize) -> Event {
    // Structs of strings and numbers can be written as JSON, and JSON has no line breaks.
    Event::default().event(name).json_data(data).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;

    use super::*;

    #[tokio::test]
    async fn output_is_one_line_of_json_with_its_offset_as_id() {
        let data = OutputEvent { offset: 3, text: "a\r\nb\u{1b}[31m\ndata: x".into() };
        let events = futures::stream::iter([Ok::<_, Infallible>(event("output", &data).id("20"))]);
        let body = to_bytes(Sse::new(events).into_response().into_body(), 1024).await.expect("a body");
        assert_eq!(
            std::str::from_utf8(&body).expect("text"),
            "event: output\ndata: {\"offset\":3,\"text\":\"a\\r\\nb\\u001b[31m\\ndata: x\"}\nid: 20\n\n"
        );
    }

    #[test]
    fn the_last_event_id_is_an_offset() {
        let read = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("last-event-id", HeaderValue::from_static(value));
            last_event_id(&headers).map_err(|_| ())
        };
        assert_eq!(read("17"), Ok(Some(17)));
        assert_eq!(read("-1"), Err(()));
        assert_eq!(read("x"), Err(()));
        assert!(matches!(last_event_id(&HeaderMap::new()), Ok(None)));
    }
}
