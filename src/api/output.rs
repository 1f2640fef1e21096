//! A job's output by byte offset, the same while it runs and after.
//!
//! One round trip to Redis reads credentials, state and range together, and costs the range. A long-poll is woken by news of
//! the job, looks again, and is answered as soon as there is anything to say: bytes, a change of state, the end.

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::Response;
use serde::Deserialize;
use tokio::time::Instant;

use super::auth::Claim;
use super::docs::{Guarded, JobPath, OfJob};
use super::error::ApiError;
use super::extract::{Named, Query};
use super::{Shared, view};
use crate::model::ids::JobId;
use crate::store::Ranged;
use crate::wire::Problem;

/// The most bytes that one answer holds.
const ANSWER_MAX: u64 = 1024 * 1024;
/// The longest that an answer is waited for, in seconds.
const WAIT_MAX: u64 = 60;
/// A long-poll looks again after so long, should a wake-up be missed.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// Offset at which to read on.
const NEXT_OFFSET: HeaderName = HeaderName::from_static("lockstep-next-offset");
/// The job's state, read before the output.
const STATE: HeaderName = HeaderName::from_static("lockstep-state");
/// Whether the output is whole with this answer.
const COMPLETE: HeaderName = HeaderName::from_static("lockstep-output-complete");

/// Where to read, and how long to wait for something to read.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Range {
    /// First byte to read; 0 unless given
    #[serde(default)]
    #[param(minimum = 0, maximum = 9_007_199_254_740_991_i64)]
    offset: u64,
    /// Seconds to wait when there is nothing to read yet; 0 unless given
    #[serde(default)]
    #[param(minimum = 0, maximum = 60)]
    wait: u64,
}

/// Read a job's output
///
/// From a byte offset on, at most 1 MiB at a time. Read on at `Lockstep-Next-Offset` until `Lockstep-Output-Complete` is `true`.
/// With `wait`, an answer without bytes is held back until there are some, the job's state changes, or the time has passed.
#[utoipa::path(
    get, path = "/api/v1/jobs/{job_id}/output", tag = "jobs", operation_id = "output",
    params(JobPath, Range),
    responses(
        (status = 200, description = "The output from there on", body = String, content_type = "text/plain; charset=utf-8", headers(
            ("Lockstep-Next-Offset" = u64, description = "Offset at which to read on"),
            ("Lockstep-State" = String, description = "`queued`, `starting`, `running`, `canceling` or `finished`"),
            ("Lockstep-Output-Complete" = bool, description = "Whether the job is over and this answer ends its output"),
        )),
        (status = 416, description = "The offset lies beyond the end", body = Problem, content_type = "application/problem+json"),
        Guarded, OfJob,
    ),
    security(("app" = []), ("oidc" = []), ("operator" = []), ("viewer" = []), ("releaser" = [])),
)]
pub(super) async fn output(
    State(api): State<Shared>,
    Named(job): Named<JobId>,
    Query(range): Query<Range>,
    claim: Claim,
) -> Result<Response, ApiError> {
    if range.wait > WAIT_MAX {
        return Err(ApiError::Invalid(format!("wait must be at most {WAIT_MAX} seconds")));
    }
    let store = api.dispatcher.store();
    let offset = offset(range.offset)?;
    let mut news = (range.wait > 0).then(|| store.news(job));
    let mut read = store.range(claim.door(), job, offset, ANSWER_MAX).await?;
    let app = read.job.as_ref().map(|brief| &brief.deployment_id);
    let caller = api.admit(claim, std::mem::take(&mut read.door), app).await?;
    let until = Instant::now() + Duration::from_secs(range.wait);
    let mut first = None;
    loop {
        let brief = read.job.as_ref().filter(|brief| caller.owns(&brief.deployment_id, &brief.inventory));
        let brief = brief.ok_or(ApiError::UnknownJob)?;
        if offset > read.length {
            return Err(ApiError::OffsetBeyondEnd(read.length));
        }
        let Some(news) = news.as_mut() else { break };
        let changed = *first.get_or_insert(brief.state) != brief.state;
        let over = changed || brief.state.is_ended() || Instant::now() >= until || api.stop.is_cancelled();
        if over || !read.bytes.is_empty() {
            break;
        }
        let look_again = until.min(Instant::now() + LOOK_AGAIN);
        tokio::select! {
            _ = news.output.changed() => {}
            _ = news.state.changed() => {}
            () = tokio::time::sleep_until(look_again) => {}
            () = api.stop.cancelled() => {}
        }
        read = store.range(None, job, offset, ANSWER_MAX).await?;
    }
    answer(offset, read)
}

/// An offset that JSON, JavaScript and Redis all hold exactly.
pub(super) fn offset(offset: u64) -> Result<u64, ApiError> {
    const MAX: u64 = (1 << 53) - 1;
    if offset > MAX { Err(ApiError::Invalid(format!("an offset must be at most {MAX}"))) } else { Ok(offset) }
}

fn answer(offset: u64, mut read: Ranged) -> Result<Response, ApiError> {
    let state = read.job.as_ref().ok_or(ApiError::UnknownJob)?.state;
    let complete = state.is_ended() && offset + read.bytes.len() as u64 >= read.length;
    if !complete {
        read.bytes.truncate(whole_characters(&read.bytes));
    }
    let next = offset + read.bytes.len() as u64;
    let mut response = Response::new(Body::from(read.bytes));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    // Output is whatever a program printed: no browser may take it for anything but text.
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(NEXT_OFFSET, HeaderValue::from(next));
    headers.insert(STATE, HeaderValue::from_static(view::state_word(view::state(state))));
    headers.insert(COMPLETE, HeaderValue::from_static(if complete { "true" } else { "false" }));
    Ok(response)
}

/// How many bytes there are up to the last whole character; all of them where cutting would leave nothing.
pub(super) fn whole_characters(bytes: &[u8]) -> usize {
    let tail = bytes.len().saturating_sub(3);
    let Some(lead) = (tail..bytes.len()).rev().find(|&at| !(0x80..0xC0).contains(&bytes[at])) else {
        return bytes.len();
    };
    let length = match bytes[lead] {
        0xC2..=0xDF => 2,
        0xE0..=0xEF => 3,
        0xF0..=0xF4 => 4,
        _ => 1,
    };
    if lead + length <= bytes.len() || lead == 0 { bytes.len() } else { lead }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_with_a_whole_character() {
        let text = "aé€😀";
        for cut in 0..=text.len() {
            let whole = whole_characters(&text.as_bytes()[..cut]);
            assert!(whole <= cut);
            assert!(std::str::from_utf8(&text.as_bytes()[..whole]).is_ok(), "{cut}");
            assert!(text.is_char_boundary(cut) == (whole == cut), "{cut}");
        }
        // An offset inside a character is served as asked.
        assert_eq!(whole_characters(&text.as_bytes()[5..6]), 1);
        assert_eq!(whole_characters(&[0x80; 8]), 8);
    }
}
