//! `/job-status/`: where a job is, and all that it has printed.
//!
//! Every existing client asks this every two seconds, until its job is over: one round trip to Redis, and the answer written once.
//! Output that is longer than a piece is read and written piece by piece, as the connection takes it: an answer costs the
//! dispatcher a piece of memory, however long the output is and however slowly it is read. An answer that was begun has its 200 behind it,
//! and existing clients ask again only after another status: so it waits for a Redis that is away for a moment.

use std::borrow::Cow;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use futures::{StreamExt as _, TryStreamExt as _};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::Shared;
use super::auth::Wanted;
use super::auth::peer;
use super::docs::SeedTrouble;
use super::error::ApiError;
use super::extract::{self, BODY_MAX};
use super::output::whole_characters;
use super::problem::{SeedError, SeedRefusal};
use super::seed::{deployment_id, json, read};
use crate::config::FinalStatus;
use crate::model::ids::JobId;
use crate::model::job::{Outcome, State as JobState};
use crate::store::{Store, StoreError};

/// The most bytes of output that are read at a time.
const PIECE: u64 = 64 * 1024;
/// How long an answer that was begun waits for the rest of its output,
const PATIENCE: Duration = Duration::from_secs(30);
/// and how often it is asked for.
const TRY_AGAIN: Duration = Duration::from_millis(250);
/// What stands before the output, a text of its own, in an answer.
const OUTPUT: &str = r#""output":"#;
/// An output that is to be put in between.
const EMPTY: &str = r#""""#;

/// Body of `/job-status/`. Unknown fields are passed over.
#[derive(Deserialize, utoipa::ToSchema)]
pub(super) struct StatusRequest<'a> {
    /// The app.
    #[serde(borrow)]
    #[schema(value_type = String, pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$", example = "app-one")]
    deployment_id: Cow<'a, str>,
    /// Its secret.
    #[serde(borrow)]
    #[schema(value_type = String, example = "secret123")]
    deployment_secret: Cow<'a, str>,
    /// The job, as `/app-deploy/` answered it.
    #[serde(borrow)]
    #[schema(value_type = String, pattern = r"^[0-7][0-9A-HJKMNP-TV-Z]{25}$", example = "01GZEC5GJHFKWMK4Z5A1NM9DPF")]
    job_id: Cow<'a, str>,
}

/// Where a job is.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Status<'a> {
    /// The job.
    #[schema(value_type = String)]
    pub(super) job_id: JobId,
    /// `success` or `error`, once it is finished.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub(super) outcome: Option<&'static str>,
    /// What its container has printed; only ever grows.
    #[schema(value_type = String)]
    pub(super) output: &'a str,
    /// Why the job ended as it did, where more is known than its output tells: a container that could not be started, a cancel.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub(super) reason: Option<&'a str>,
    /// `starting`, `running` or `finished` (with `compat.final_status` = `outcome`: `success` or `error` instead).
    #[schema(value_type = String)]
    pub(super) status: &'static str,
}

/// What a status request is answered with, or a refusal: both with 200.
#[derive(utoipa::ToSchema)]
#[schema(title = "StatusAnswer")]
#[serde(untagged)]
#[expect(dead_code, reason = "describes the answers, which are written field by field")]
pub(super) enum StatusAnswer {
    /// The job.
    Status(Status<'static>),
    /// A refusal.
    Refused(SeedRefusal),
}

/// Ask about a job
#[utoipa::path(
    post, path = "/job-status/", tag = "seed", operation_id = "job_status",
    request_body = StatusRequest,
    responses(
        (status = 200, description = "The job, or a refusal: wrong credentials, unknown job. `output` is there in every answer", body = StatusAnswer),
        SeedTrouble,
    ),
)]
pub(super) async fn job_status(State(api): State<Shared>, request: Request) -> Result<Response, SeedError> {
    let (parts, body) = request.into_parts();
    let asked = async {
        let from = peer(&parts)?;
        let body = extract::body(body, BODY_MAX).await?;
        let asked: StatusRequest<'_> = read(&body, &["deployment_id", "deployment_secret", "job_id"])?;
        let id = deployment_id(&asked.deployment_id)?;
        let job: JobId = asked.job_id.parse().map_err(|error| ApiError::Invalid(format!("job_id {error}")))?;
        let read = api.dispatcher.store().range(Some((&id, from)), job, 0, PIECE).await?;
        let app = api.check_door(read.door, &id, &asked.deployment_secret, from, Wanted::App).await?;
        let found = read.job.filter(|it| it.deployment_id == app.deployment_id && it.inventory == app.inventory);
        Ok::<_, ApiError>((job, found.ok_or(ApiError::UnknownJob)?, read.bytes, read.length))
    };
    let (job_id, found, first, length) = asked.await.map_err(SeedError::with_output)?;
    let (status, outcome) = words(found.state, api.final_status);
    let reason = outcome.filter(|outcome| *outcome == "error").and(found.reason.as_deref());
    let answer = serde_json::to_string(&Status { job_id, outcome, output: "", reason, status });
    let answer = answer.expect("a status is made of strings");
    // Job id and outcome come first, and hold no such text.
    let (head, tail) = answer.split_once(OUTPUT).unwrap_or_default();
    let tail = tail.strip_prefix(EMPTY).unwrap_or_default().to_owned();
    let rest = Rest { job: job_id, ended: found.state.is_ended(), offset: 0, end: length, tail };
    Ok(json(rest.body(&api, &[head, OUTPUT], first)))
}

/// What of an answer is still to be written: output from `offset` to `end`, then `tail`.
struct Rest {
    job: JobId,
    ended: bool,
    offset: u64,
    end: u64,
    tail: String,
}

impl Rest {
    /// The answer, from what has been written of it and the first piece of output on. Nearly always, that is all of it.
    fn body(mut self, api: &Shared, head: &[&str], first: Vec<u8>) -> Body {
        let head = Bytes::from(self.write(head, first));
        if self.tail.is_empty() {
            return Body::from(head);
        }
        let store = api.dispatcher.store().clone();
        let pieces = futures::stream::try_unfold((self, store), |(mut rest, store)| async move {
            if rest.tail.is_empty() {
                return Ok::<_, StoreError>(None);
            }
            let piece = rest.next_piece(&store).await?;
            // It goes on with the text that the piece before has begun.
            let text = Bytes::from(rest.write(&[], piece)).slice(1..);
            Ok(Some((text, (rest, store))))
        });
        // A read that fails breaks the answer off, which no client takes for a whole one.
        Body::from_stream(futures::stream::once(async { Ok(head) }).chain(pieces.inspect_err(move |error| {
            tracing::warn!(%error, "an answer was broken off because Redis did not give the rest of the output");
        })))
    }

    /// Reads on. A Redis that came back empty has the output again once that has been taken in anew.
    async fn next_piece(&self, store: &Store) -> Result<Vec<u8>, StoreError> {
        let begun = Instant::now();
        loop {
            let again = match store.output(self.job, self.offset, PIECE.min(self.end - self.offset)).await {
                Ok(Some((piece, _))) if !piece.is_empty() => return Ok(piece),
                Ok(None) => return Err(gone(self.job)),
                Ok(Some(_)) => gone(self.job),
                Err(error @ (StoreError::NotReached(_) | StoreError::Epoch)) => error,
                Err(error @ (StoreError::Stale(_) | StoreError::Unreadable(_))) => return Err(error),
            };
            if begun.elapsed() >= PATIENCE {
                return Err(again);
            }
            tokio::time::sleep(TRY_AGAIN).await;
        }
    }

    /// `head`, and a piece of output as the beginning of a text in JSON, or, with the last one, a whole one and the tail behind it.
    /// An incomplete character at the end of what a running job has printed is held back, because what is served only ever grows.
    fn write(&mut self, head: &[&str], mut piece: Vec<u8>) -> Vec<u8> {
        let last = self.offset + piece.len() as u64 >= self.end;
        if !(last && self.ended) {
            piece.truncate(whole_characters(&piece));
        }
        self.offset += piece.len() as u64;
        let mut text = Vec::with_capacity(piece.len() + piece.len() / 8 + 256);
        head.iter().for_each(|part| text.extend_from_slice(part.as_bytes()));
        // Checking is several times as fast as looking for what to replace, and what is stored is nearly always whole.
        let piece = std::str::from_utf8(&piece).map_or_else(|_| String::from_utf8_lossy(&piece), Cow::Borrowed);
        serde_json::to_writer(&mut text, &piece).expect("a text");
        if last {
            text.extend_from_slice(std::mem::take(&mut self.tail).as_bytes());
        } else {
            text.pop();
        }
        text
    }
}

/// Its retention has run out in between.
fn gone(job: JobId) -> StoreError {
    StoreError::Unreadable(format!("the output of job {job}, which is gone"))
}

/// `status` and `outcome` of a state.
fn words(state: JobState, form: FinalStatus) -> (&'static str, Option<&'static str>) {
    let outcome = match state {
        JobState::Queued | JobState::Starting => return ("starting", None),
        JobState::Running | JobState::Canceling => return ("running", None),
        JobState::Ended(Outcome::Succeeded) => "success",
        JobState::Ended(
            Outcome::Failed | Outcome::Canceled | Outcome::TimedOut | Outcome::Superseded | Outcome::Lost,
        ) => "error",
    };
    match form {
        FinalStatus::Finished => ("finished", Some(outcome)),
        FinalStatus::Outcome => (outcome, Some(outcome)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_have_the_words_of_existing_clients() {
        use FinalStatus::{Finished, Outcome as InPlace};
        for (state, form, expected) in [
            (JobState::Queued, Finished, ("starting", None)),
            (JobState::Starting, Finished, ("starting", None)),
            (JobState::Running, Finished, ("running", None)),
            (JobState::Canceling, InPlace, ("running", None)),
            (JobState::Ended(Outcome::Succeeded), Finished, ("finished", Some("success"))),
            (JobState::Ended(Outcome::Lost), Finished, ("finished", Some("error"))),
            (JobState::Ended(Outcome::Succeeded), InPlace, ("success", Some("success"))),
            (JobState::Ended(Outcome::TimedOut), InPlace, ("error", Some("error"))),
        ] {
            assert_eq!(words(state, form), expected, "{state:?} {form:?}");
        }
    }

    #[test]
    fn pieces_make_one_text_wherever_they_are_cut() {
        let text = "a\u{0}\"é€😀\\\n".repeat(3);
        for size in 4..9 {
            let end = text.len() as u64;
            let mut rest = Rest { job: JobId::new(1, 1), ended: false, offset: 0, end, tail: "]".into() };
            let mut written = b"[".to_vec();
            while !rest.tail.is_empty() {
                let from = rest.offset as usize;
                let piece = rest.write(&[], text.as_bytes()[from..text.len().min(from + size)].to_vec());
                written.extend_from_slice(&piece[usize::from(from > 0)..]);
            }
            assert_eq!(serde_json::from_slice::<(String,)>(&written).expect("JSON").0, text, "{size}");
        }
    }
}
