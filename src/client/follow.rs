//! Following a job: its output from a byte offset on, exactly once, and its end.
//!
//! Output is read by long-poll and not from the event stream, because each answer is whole or not an answer: it states the
//! offset at its end, so that one that was cut off, repeated or kept by a proxy is noticed, and nothing between here and the
//! dispatcher can hold back a part of it. What was not answered is asked for again; what was shown never is.
//!
//! ```text
//!          ┌───────── output at offset N, waiting ◀────────────┐
//!          ▼                                                   │ pause, longer each time
//!   bytes: shown, N grows ──▶ complete? ── job: ended? ──▶ end │
//!          │                      no ───────────┴──────────────┤
//!          └─ no answer, 5xx, 429, a proxy's page, nonsense ───┘ too long without an answer ──▶ given up
//! ```

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::Method;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::http::{CallError, Http};
use crate::model::ids::JobId;
use crate::wire::{Job, JobState};

/// The longest that the dispatcher's Retry-After is honoured while a job is followed.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
/// So many failures in a row are worth a word; a single one is repaired before anybody sees it.
const WORTH_A_WORD: u32 = 2;

/// What is seen of a job.
#[derive(Debug)]
pub enum Seen {
    /// The next bytes of its output.
    Output(Bytes),
    /// The job, now and then while it goes on.
    Job(Box<Job>),
    /// The dispatcher gives no answer; said once, until it does again.
    Trouble(String),
    /// The dispatcher answers again.
    Back,
    /// The job has ended, and its output has been seen whole.
    Ended(Box<Job>),
}

/// How far to follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// To the end of the job.
    End,
    /// To the end of what there is now.
    Now,
}

/// One answer about output.
struct Piece {
    bytes: Bytes,
    complete: bool,
}

/// Follows a job's output from its beginning and tells what is seen. Returns when the end was told, or nobody listens.
///
/// # Errors
/// The last error, once nothing usable was heard for longer than [`Patience::silence`](super::patience::Patience), or as
/// soon as it is one that time does not heal.
pub async fn follow(http: Arc<Http>, job: JobId, until: Until, tell: mpsc::Sender<Seen>) -> Result<(), CallError> {
    let patience = http.patience;
    let mut offset = 0;
    let mut failures = 0;
    let mut troubled: Option<Instant> = None;
    let mut unknown: Option<Instant> = None;
    loop {
        let error = match step(&http, job, until, &mut offset, &tell).await {
            Ok(Step::Go) => {
                if failures >= WORTH_A_WORD && tell.send(Seen::Back).await.is_err() {
                    return Ok(());
                }
                (failures, troubled, unknown) = (0, None, None);
                continue;
            }
            Ok(Step::Stop) => return Ok(()),
            Err(error) => error,
        };
        let now = Instant::now();
        let since = *troubled.get_or_insert(now);
        let is_unknown = matches!(error.problem(), Some((404, _)));
        unknown = is_unknown.then(|| unknown.unwrap_or(now));
        let until_when = match (&error, unknown) {
            // Redis may have come back empty: while state is rebuilt, a job can be unknown for a moment.
            (_, Some(unknown)) => unknown + patience.asking,
            // The same for output that is shorter than what was shown.
            _ if error.passes() || matches!(error.problem(), Some((416, _))) => since + patience.silence,
            // A proxy may answer with anything while the dispatcher behind it is away, and a certificate may be changing.
            (CallError::Foreign(_) | CallError::Untrusted(_), None) => since + patience.silence,
            _ => return Err(error),
        };
        let asked = error.retry_after().unwrap_or_default().min(RETRY_AFTER_MAX);
        let pause = patience.pause(failures).max(asked);
        if now + pause > until_when {
            return Err(error);
        }
        failures += 1;
        if failures == WORTH_A_WORD && tell.send(Seen::Trouble(error.to_string())).await.is_err() {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = tell.closed() => return Ok(()),
        }
    }
}

enum Step {
    Go,
    Stop,
}

/// One question, and what follows from its answer.
async fn step(
    http: &Http,
    job: JobId,
    until: Until,
    offset: &mut u64,
    tell: &mpsc::Sender<Seen>,
) -> Result<Step, CallError> {
    let asked = tokio::select! {
        piece = output(http, job, *offset, until) => piece,
        () = tell.closed() => return Ok(Step::Stop),
    };
    let complete = match asked {
        Ok(piece) => {
            let nothing_more = piece.complete || (until == Until::Now && piece.bytes.is_empty());
            if !piece.bytes.is_empty() {
                *offset += piece.bytes.len() as u64;
                if tell.send(Seen::Output(piece.bytes)).await.is_err() {
                    return Ok(Step::Stop);
                }
            }
            nothing_more
        }
        // The dispatcher has less output than was shown: that may be mended, or the job has ended so.
        Err(error) if matches!(error.problem(), Some((416, _))) => match self::job(http, job).await {
            Ok(found) if found.state == JobState::Finished => true,
            Ok(_) | Err(_) => return Err(error),
        },
        Err(error) => return Err(error),
    };
    if !complete {
        return Ok(Step::Go);
    }
    if until == Until::Now {
        return Ok(Step::Stop);
    }
    let found = self::job(http, job).await?;
    if found.state != JobState::Finished || found.outcome.is_none() {
        return Err(CallError::Garbled("output is said to be complete, and the job not to be over".into()));
    }
    if found.output_bytes > *offset {
        return Err(CallError::Garbled("output is said to be complete, and the job to have more".into()));
    }
    let _ = tell.send(Seen::Ended(Box::new(found))).await;
    Ok(Step::Stop)
}

/// Asks for output from an offset on. What is returned begins exactly there.
async fn output(http: &Http, job: JobId, offset: u64, until: Until) -> Result<Piece, CallError> {
    let wait = if until == Until::End { http.patience.wait_s } else { 0 };
    let (id, from, seconds) = (job.to_string(), offset.to_string(), wait.to_string());
    let request = http
        .request(Method::GET, &["jobs", &id, "output"], &[("offset", &from), ("wait", &seconds)])
        .timeout(http.patience.call + Duration::from_secs(wait));
    let answer = http.send(request).await?;
    let header = |name| answer.header(name).ok_or_else(|| CallError::Garbled(format!("{name} is missing")));
    let next: u64 = header("lockstep-next-offset")?
        .parse()
        .map_err(|_| CallError::Garbled("Lockstep-Next-Offset is not a number".into()))?;
    let finished = header("lockstep-state")? == "finished";
    // Where it begins follows from where it ends: an answer to an older question is cut or refused, never shown twice.
    let start = next.checked_sub(answer.body.len() as u64);
    let known = start.and_then(|start| offset.checked_sub(start)).filter(|_| next >= offset).ok_or_else(|| {
        CallError::Garbled(format!("asked for output at byte {offset}, it answered with something else"))
    })?;
    let known = usize::try_from(known).unwrap_or(usize::MAX);
    let bytes = answer.body.slice(known.min(answer.body.len())..);
    let said = answer.header("lockstep-output-complete") == Some("true");
    let complete = finished && (said || bytes.is_empty());
    Ok(Piece { bytes, complete })
}

/// Asks for a job, and makes sure that it is that one.
pub(super) async fn job(http: &Http, job: JobId) -> Result<Job, CallError> {
    let id = job.to_string();
    let found: Job = http.get(&["jobs", &id]).await?;
    if found.job_id != id {
        return Err(CallError::Garbled("it is about another job".into()));
    }
    Ok(found)
}

/// Looks at the job now and then, for state, place in the queue and progress, until nobody listens. Trouble is left to
/// [`follow`] to tell.
pub(super) async fn look(http: Arc<Http>, job: JobId, every: Duration, tell: mpsc::Sender<Seen>) {
    let mut timer = tokio::time::interval(every);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = timer.tick() => {}
            () = tell.closed() => return,
        }
        if let Ok(found) = self::job(&http, job).await
            && (found.state == JobState::Finished || tell.send(Seen::Job(Box::new(found))).await.is_err())
        {
            return;
        }
    }
}
