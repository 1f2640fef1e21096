//! Errors as clients see them: one enum, one exhaustive match to status, type, title and detail.
//!
//! A client is told what happened and what to do; what happened inside stands in the log, with the whole chain, once, here.
//! `problem` writes the same face in two forms.

use std::borrow::Cow;

use axum::http::StatusCode;

use super::auth::Wanted;
use crate::dispatch::{OrderRefusal, Refusal, ReleaseRefusal};
use crate::engine::EngineError;
use crate::model::app::FeedError;
use crate::model::ids::{JobId, ReleaseId, Word};
use crate::model::mistakes::Mistakes;
use crate::model::release::Fault;
use crate::model::release::command::Refused;
use crate::model::vars::VarError;
use crate::store::{Freeze, StoreError};

/// Seconds after which trouble that may pass is worth another try.
pub(super) const RETRY_AFTER: u64 = 2;
/// Longest text from outside that is repeated in an answer, in characters.
const REPEATED_MAX: usize = 300;
/// Of what is wrong with a file, so much is told, in characters.
const MISTAKES_SHOWN: usize = 3000;

/// Every way in which a request is not done.
#[derive(Debug)]
pub(super) enum ApiError {
    /// The body is not JSON.
    MalformedBody(String),
    /// The body, a parameter or a header is not of the right form.
    Invalid(String),
    /// The body is longer than so many bytes.
    TooLarge(usize),
    /// The body did not arrive in time.
    SlowBody,
    /// The body is not declared as JSON.
    WrongMediaType,
    /// No credentials, or not the right ones: nobody is told which.
    Unauthorized(Wanted),
    /// Known, but without this right.
    Forbidden(&'static str),
    /// Too many failed attempts; so many seconds to wait.
    Barred(u64),
    /// There is no list of apps, so nothing can be said about credentials.
    NoApps,
    /// No such path.
    UnknownPath,
    /// The path has no such method.
    MethodNotAllowed,
    /// No such job, or not one of the caller's.
    UnknownJob,
    /// No such app (said to operators only).
    UnknownApp,
    /// Nobody holds the lock of the inventory.
    NotLocked,
    /// The inventory is not frozen.
    NotFrozen,
    /// There is no token of that name.
    UnknownToken,
    /// There is a token of that name.
    NameTaken,
    /// There is no webhook of that name.
    UnknownWebhook,
    /// There is no pipeline of that name, or no such version of it.
    UnknownPipeline,
    /// The file of a pipeline is wrong.
    Pipeline(Mistakes),
    /// The file of an order is wrong.
    OrderFile(Mistakes),
    /// The file of an environment is wrong.
    EnvironmentFile(Mistakes),
    /// There is no environment of that name.
    UnknownEnvironment(Word),
    /// An environment has no such mode.
    UnknownMode(String),
    /// There is no such order.
    UnknownOrder,
    /// An order cannot be carried out, or may not be changed so.
    OrderRefused(String),
    /// No such release, or none that the caller may see.
    UnknownRelease,
    /// What a release is to consist of, or where it is to begin, is wrong.
    Release(Fault),
    /// A release may not be changed so, or not by the caller.
    Refused(Refused),
    /// There is no log of that digest.
    UnknownLog,
    /// The log of a report is longer than so many bytes.
    LogTooLarge(usize),
    /// There is no reporter of that name.
    UnknownReporter,
    /// There are so many tokens, webhooks or pipelines that no further one is taken.
    TooMany(u64),
    /// The job is over.
    JobEnded,
    /// The inventory is taken; by this job, if the caller may know.
    Busy(Option<JobId>),
    /// A release waits for the inventory, and gets it next.
    Reserved(ReleaseId),
    /// The inventory is frozen.
    Frozen(Freeze),
    /// The `Idempotency-Key` was used with another request.
    KeyReused,
    /// Variables that the app does not accept.
    Vars(VarError),
    /// The list of apps is wrong.
    Feed(FeedError),
    /// The list of apps would be empty or shrink to less than half of so many.
    Shrunken(u64),
    /// The lock's holder runs, and force was not given.
    StillRunning(JobId),
    /// The offset lies beyond the end of the output, which has so many bytes.
    OffsetBeyondEnd(u64),
    /// The issuer of an ID token was not reached, so nothing can be said about the token.
    IssuerNotReached,
    /// Redis did not do what it was asked.
    Store(StoreError),
    /// The engine did not do what it was asked.
    Engine(EngineError),
    /// State is being rebuilt, or this dispatcher is shutting down.
    NotReady(&'static str),
    /// Something that must not happen.
    Internal(String),
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Busy { .. } => Self::Busy(None),
            Refusal::Reserved(release) => Self::Reserved(release),
            Refusal::Frozen(freeze) => Self::Frozen(freeze),
            Refusal::Vars(error) => Self::Vars(error),
            Refusal::KeyReused => Self::KeyReused,
            Refusal::Unknown => Self::UnknownJob,
            Refusal::StillRunning { holder } => Self::StillRunning(holder),
            Refusal::Store(error) => Self::Store(error),
            Refusal::Engine(error) => Self::Engine(error),
            Refusal::NotReady(what) => Self::NotReady(what),
        }
    }
}

impl From<ReleaseRefusal> for ApiError {
    fn from(refusal: ReleaseRefusal) -> Self {
        match refusal {
            ReleaseRefusal::Unknown => Self::UnknownRelease,
            ReleaseRefusal::UnknownPipeline => Self::UnknownPipeline,
            ReleaseRefusal::Fault(fault) => Self::Release(fault),
            ReleaseRefusal::Refused(refused) => Self::Refused(refused),
            ReleaseRefusal::KeyReused => Self::KeyReused,
            ReleaseRefusal::Other(refusal) => refusal.into(),
        }
    }
}

impl From<OrderRefusal> for ApiError {
    fn from(refusal: OrderRefusal) -> Self {
        match refusal {
            OrderRefusal::Unknown => Self::UnknownOrder,
            OrderRefusal::UnknownEnvironment(name) => Self::UnknownEnvironment(name),
            OrderRefusal::UnknownMode { .. } => Self::UnknownMode(refusal.to_string()),
            OrderRefusal::Problems(problems) => Self::OrderRefused(problems.join("; ")),
            OrderRefusal::Refused(refused) => Self::OrderRefused(refused.to_string()),
            OrderRefusal::KeyReused => Self::KeyReused,
            OrderRefusal::NoActions(_) => {
                Self::OrderRefused(format!("{refusal}: an operator adds them, as lockstep config shows"))
            }
            OrderRefusal::Sealed => Self::NotReady(
                "a variable of the vault cannot be read; an operator has to look whether the pepper was changed",
            ),
            OrderRefusal::Other(refusal) => refusal.into(),
        }
    }
}

/// An error as it is shown.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Face {
    pub(super) status: StatusCode,
    /// Completes the stable `type`.
    pub(super) word: &'static str,
    pub(super) title: &'static str,
    pub(super) detail: Cow<'static, str>,
    /// Seconds for `Retry-After`: the trouble may pass.
    pub(super) retry_after: Option<u64>,
    /// The seed's endpoints answer a refusal, being an answer to a request of the right form, with 200.
    pub(super) refusal: bool,
    /// What the seed's endpoints say instead of `detail`, word for word.
    pub(super) seed: Option<&'static str>,
    pub(super) job: Option<JobId>,
}

impl Face {
    fn new(status: StatusCode, word: &'static str, title: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { status, word, title, detail: detail.into(), retry_after: None, refusal: false, seed: None, job: None }
    }

    fn passing(word: &'static str, title: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { retry_after: Some(RETRY_AFTER), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, word, title, detail) }
    }

    fn refusal(self) -> Self {
        Self { refusal: true, ..self }
    }
}

impl ApiError {
    /// The one mapping. What is not in it is not said.
    pub(super) fn face(&self) -> Face {
        use StatusCode as S;
        match self {
            Self::MalformedBody(what) => Face::new(
                S::BAD_REQUEST,
                "malformed-body",
                "The body is not JSON",
                format!("Send a JSON document. {}", cut(what)),
            ),
            Self::Invalid(what) => Face::new(S::UNPROCESSABLE_ENTITY, "invalid", "The request is not of the right form", cut(what)),
            Self::TooLarge(limit) => Face::new(
                S::PAYLOAD_TOO_LARGE,
                "too-large",
                "The body is too large",
                format!("At most {limit} bytes are taken here."),
            ),
            Self::SlowBody => {
                Face::new(S::REQUEST_TIMEOUT, "timeout", "The body did not arrive in time", "Send the request again.")
            }
            Self::WrongMediaType => Face::new(
                S::UNSUPPORTED_MEDIA_TYPE,
                "wrong-media-type",
                "The body is not declared as JSON",
                "Send JSON with Content-Type: application/json.",
            ),
            Self::Unauthorized(wanted) => {
                Face::new(S::UNAUTHORIZED, "unauthorized", "The credentials do not open this", wanted.missing()).refusal()
            }
            Self::Forbidden(why) => Face::new(S::FORBIDDEN, "forbidden", "These credentials have no right to this", *why).refusal(),
            Self::Barred(seconds) => Face {
                retry_after: Some(*seconds),
                ..Face::new(
                    S::TOO_MANY_REQUESTS,
                    "barred",
                    "Too many failed attempts",
                    format!("Credentials are not looked at for another {seconds} s. Check them, then try again."),
                )
            },
            Self::NoApps => Face::passing(
                "no-apps",
                "No app is known at the moment",
                "The list of apps has not been posted yet, so credentials cannot be checked. Try again; if it lasts, run the feed.",
            ),
            Self::IssuerNotReached => Face {
                retry_after: Some(crate::oidc::RETRY_AFTER),
                ..Face::passing(
                    "issuer-not-reached",
                    "The issuer cannot be asked",
                    "The issuer of the ID token cannot be asked for its keys, so the token cannot be checked at the moment. Try again; if it lasts, the dispatcher's log says why.",
                )
            },
            Self::UnknownPath => {
                Face::new(S::NOT_FOUND, "unknown-path", "There is nothing here", "See /openapi.json or /docs for what there is.")
            }
            Self::MethodNotAllowed => Face::new(
                S::METHOD_NOT_ALLOWED,
                "method-not-allowed",
                "This path does not have that method",
                "The header Allow names the methods that it has.",
            ),
            Self::UnknownJob => Face::new(
                S::NOT_FOUND,
                "unknown-job",
                "There is no such job",
                "Unknown job_id: check it, and that these credentials are the job's. Jobs are kept for job.retention.",
            )
            .refusal(),
            Self::UnknownApp => Face::new(
                S::NOT_FOUND,
                "unknown-app",
                "There is no such app",
                "The list of apps does not name this deployment id. GET /api/v1/apps shows the list.",
            ),
            Self::NotLocked => Face::new(
                S::NOT_FOUND,
                "not-locked",
                "Nobody holds this lock",
                "No job holds the deploy lock of this inventory. GET /api/v1/locks shows the locks.",
            ),
            Self::NotFrozen => Face::new(
                S::NOT_FOUND,
                "not-frozen",
                "The inventory is not frozen",
                "There is no freeze to lift. GET /api/v1/locks shows the freezes.",
            ),
            Self::UnknownToken => Face::new(
                S::NOT_FOUND,
                "unknown-token",
                "There is no token of that name",
                "GET /api/v1/tokens lists those that were issued. Tokens of the configuration (auth.operators) are taken back there.",
            ),
            Self::NameTaken => Face::new(
                S::CONFLICT,
                "name-taken",
                "There is a token of that name",
                "A name stands for one token, so that the audit log says who it was. Revoke that token first, or give another name.",
            ),
            Self::UnknownWebhook => Face::new(
                S::NOT_FOUND,
                "unknown-webhook",
                "There is no webhook of that name",
                "GET /api/v1/webhooks lists those that there are.",
            ),
            Self::UnknownPipeline => Face::new(
                S::NOT_FOUND,
                "unknown-pipeline",
                "There is no such pipeline",
                "GET /api/v1/pipelines lists those that there are, with their newest versions.",
            ),
            Self::Pipeline(mistakes) => Face::new(
                S::UNPROCESSABLE_ENTITY,
                "invalid-pipeline",
                "The file of the pipeline is wrong",
                shortened(&mistakes.to_string().replace('\n', "; "), MISTAKES_SHOWN),
            ),
            Self::OrderFile(mistakes) => Face::new(
                S::UNPROCESSABLE_ENTITY,
                "invalid-order",
                "The file of the order is wrong",
                shortened(&mistakes.to_string().replace('\n', "; "), MISTAKES_SHOWN),
            ),
            Self::EnvironmentFile(mistakes) => Face::new(
                S::UNPROCESSABLE_ENTITY,
                "invalid-environment",
                "The file of the environment is wrong",
                shortened(&mistakes.to_string().replace('\n', "; "), MISTAKES_SHOWN),
            ),
            Self::UnknownEnvironment(name) => Face::new(
                S::NOT_FOUND,
                "unknown-environment",
                "There is no such environment",
                format!("No environment {name} is registered. GET /api/v1/environments lists those that are; an operator registers one with lockstep environment add."),
            ),
            Self::UnknownMode(what) => Face::new(
                S::NOT_FOUND,
                "unknown-mode",
                "The environment has no such mode",
                shortened(what, MISTAKES_SHOWN),
            ),
            Self::UnknownOrder => Face::new(
                S::NOT_FOUND,
                "unknown-order",
                "There is no such order",
                "lockstep order list, or GET /api/v1/orders, shows those that there are. Orders are kept for release.retention, and the newest of each environment for ever.",
            ),
            Self::OrderRefused(what) => Face::new(
                S::CONFLICT,
                "order-refused",
                "The order is refused",
                shortened(what, MISTAKES_SHOWN),
            ),
            Self::UnknownRelease => Face::new(
                S::NOT_FOUND,
                "unknown-release",
                "There is no such release",
                "Unknown release_id: check it, and that this token may see the release. GET /api/v1/releases lists those that it may.",
            ),
            Self::Release(fault) => Face::new(
                S::UNPROCESSABLE_ENTITY,
                "invalid-release",
                "Such a release cannot be made",
                shortened(&fault.to_string(), MISTAKES_SHOWN),
            ),
            Self::Refused(refused @ (Refused::NotOfGroup(_) | Refused::OwnRelease(_) | Refused::NotAsked { .. })) => Face::new(
                S::FORBIDDEN,
                "forbidden",
                "These credentials have no right to this",
                shortened(&refused.to_string(), MISTAKES_SHOWN),
            ),
            Self::Refused(
                refused @ (Refused::Over(_)
                | Refused::Superseded(_)
                | Refused::OtherStage { .. }
                | Refused::NotYet(..)
                | Refused::Twice(..)
                | Refused::TooLate(_)
                | Refused::NoApproval(_)
                | Refused::ApprovedAlready(_)
                | Refused::NothingGiven(_)
                | Refused::OutOfOrder { .. }
                | Refused::LastStage(_)
                | Refused::NotDone(_)
                | Refused::NotAtTheEnd(_)
                | Refused::NothingFailed(_)
                | Refused::NoBypass(_)
                | Refused::JobsRun
                | Refused::NothingDeployed
                | Refused::Held(_)
                | Refused::Suspended(_)
                | Refused::NothingHeld
                | Refused::Deploying),
            ) => Face::new(
                S::CONFLICT,
                "release-refused",
                "The release may not be changed so",
                shortened(&refused.to_string(), MISTAKES_SHOWN),
            ),
            Self::UnknownLog => Face::new(
                S::NOT_FOUND,
                "unknown-log",
                "There is no such log",
                "The release has no log of that digest. Its reports name theirs.",
            ),
            Self::LogTooLarge(limit) => Face::new(
                S::PAYLOAD_TOO_LARGE,
                "log-too-large",
                "The log is too large",
                format!("The log of a report may have {limit} bytes. Give its end, and a link to all of it."),
            ),
            Self::UnknownReporter => Face::new(
                S::NOT_FOUND,
                "unknown-reporter",
                "There is no reporter of that name",
                "GET /api/v1/reporters lists those that there are.",
            ),
            Self::TooMany(count) => Face::new(
                S::CONFLICT,
                "too-many",
                "No further one is taken",
                format!("There are {count} already. Remove those that are not used any more."),
            ),
            Self::JobEnded => Face::new(S::CONFLICT, "job-ended", "The job is over", "Nothing can be added to a job that is over."),
            Self::Busy(job) => Face {
                job: *job,
                seed: Some("App deployment is already running"),
                ..Face::new(
                    S::CONFLICT,
                    "busy",
                    "The inventory is taken by another job",
                    "Wait until that job is over, or ask with when_busy \"queue\" or \"fifo\" to have this one wait.",
                )
                .refusal()
            },
            Self::Reserved(release) => Face {
                seed: Some("App deployment is already running"),
                ..Face::new(
                    S::CONFLICT,
                    "reserved",
                    "The inventory is reserved for a release",
                    format!(
                        "Release {release} waits for it and gets it next. Ask again later, or ask with when_busy \"queue\" or \"fifo\" to have this one wait."
                    ),
                )
                .refusal()
            },
            Self::Frozen(freeze) => Face::new(
                S::CONFLICT,
                "frozen",
                "The inventory is frozen",
                format!("Deployments are frozen by {}: {}", freeze.by, cut(&freeze.reason)),
            )
            .refusal(),
            Self::KeyReused => Face::new(
                S::UNPROCESSABLE_ENTITY,
                "key-reused",
                "This Idempotency-Key stands for another request",
                "The same Idempotency-Key was used with another body within the last day. Use a new key for a new request.",
            ),
            Self::Vars(error) => Face::new(S::UNPROCESSABLE_ENTITY, "vars", "The app does not accept these vars", error.to_string()),
            Self::Feed(error) => {
                Face::new(S::UNPROCESSABLE_ENTITY, "invalid-feed", "The list of apps is wrong and was not taken", cut(&error.to_string()))
            }
            Self::Shrunken(count) => Face::new(
                S::CONFLICT,
                "shrunken-list",
                "The list of apps would shrink sharply and was not taken",
                format!(
                    "There are {count} apps now, and the new list has less than half of them. If that is meant, send it with ?force=true."
                ),
            )
            .refusal(),
            Self::StillRunning(job) => Face {
                job: Some(*job),
                ..Face::new(
                    S::CONFLICT,
                    "still-running",
                    "The holder's container is running",
                    "Cancel the job, or give force=true: the container is killed and seen gone before the lock is freed.",
                )
            },
            Self::OffsetBeyondEnd(length) => Face::new(
                S::RANGE_NOT_SATISFIABLE,
                "offset-beyond-end",
                "The offset lies beyond the end",
                format!("The output has {length} bytes so far. Read on from an offset of at most that."),
            ),
            Self::Store(StoreError::NotReached(_)) => Face::passing(
                "unavailable",
                "Redis is not reached",
                "Redis is not reached, so nothing is known at the moment. Nothing is lost; try again.",
            ),
            Self::Store(StoreError::Epoch | StoreError::Stale(_)) => Face::passing(
                "unavailable",
                "State is not known",
                "What Redis holds has to be compared with the engine, or made anew from it, before anything can be said. /readyz names what is not reached. Nothing is lost; try again.",
            ),
            Self::Engine(EngineError::NotReached { .. }) => Face::passing(
                "unavailable",
                "The engine is not reached",
                "The engine is not reached, so nothing is known at the moment. Nothing is lost; try again.",
            ),
            Self::NotReady(what) => Face::passing("unavailable", "Not ready", format!("Not ready: {what}. Try again.")),
            Self::Store(StoreError::Unreadable(_)) => Face::new(
                S::INTERNAL_SERVER_ERROR,
                "unreadable",
                "A record cannot be read",
                "Redis holds a record that cannot be read. The dispatcher's log names it. That of a job is made anew by itself, from its container; that of a release waits for somebody to mend it.",
            ),
            Self::Engine(
                EngineError::NameTaken { .. }
                | EngineError::NoContainer { .. }
                | EngineError::NoImage { .. }
                | EngineError::Refused { .. },
            ) => Face::new(
                S::INTERNAL_SERVER_ERROR,
                "engine-refused",
                "The engine refused",
                "The engine refused what this needs. The dispatcher's log says why.",
            ),
            Self::Internal(_) => Face::new(
                S::INTERNAL_SERVER_ERROR,
                "internal",
                "Something went wrong inside",
                "This is a fault of the dispatcher. Its log says more.",
            ),
        }
    }

    /// Writes down what the client is not told.
    pub(super) fn log(&self, face: &Face) {
        match self {
            Self::Store(error) => {
                tracing::warn!(error = %chain(error), answer = face.word, "Redis did not do what a request needs")
            }
            Self::Engine(error) => {
                tracing::warn!(error = %chain(error), answer = face.word, "the engine did not do what a request needs");
            }
            Self::Internal(what) => {
                tracing::error!(error = %what, answer = face.word, "a request met a fault of the dispatcher")
            }
            _ if face.status.is_server_error() => tracing::debug!(answer = face.word, "a request could not be served"),
            _ => {}
        }
    }
}

/// An error and its sources, joined.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// A text from outside, without control characters and of bounded length.
fn cut(text: &str) -> String {
    shortened(text, REPEATED_MAX)
}

fn shortened(text: &str, most: usize) -> String {
    text.chars().filter(|c| !c.is_control()).take(most).collect()
}

#[cfg(test)]
mod tests;
