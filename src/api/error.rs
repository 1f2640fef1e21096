//! Errors as clients see them: one enum, one exhaustive match to status, type, title and detail.
//!
//! A client is told what happened and what to do; what happened inside stands in the log, with the whole chain, once, here.
//! v1 answers with `application/problem+json` (RFC 9457), the seed's endpoints with `{"status":"error","error":"…"}`: the
//! same face in two forms.

use std::borrow::Cow;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::dispatch::Refusal;
use crate::engine::EngineError;
use crate::model::app::FeedError;
use crate::model::ids::JobId;
use crate::model::vars::VarError;
use crate::store::{Freeze, StoreError};
use crate::wire::Problem;

/// Seconds after which trouble that may pass is worth another try.
const RETRY_AFTER: u64 = 2;
/// Longest text from outside that is repeated in an answer, in characters.
const REPEATED_MAX: usize = 300;

/// Whose credentials an endpoint asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// An app's: deployment id and secret.
    App,
    /// An app's or an operator's.
    AppOrOperator,
    /// An operator's.
    Operator,
    /// An operator's or the feed's.
    Feed,
    /// The token of this very job.
    JobToken,
}

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
    /// The job is over.
    JobEnded,
    /// The inventory is taken; by this job, if the caller may know.
    Busy(Option<JobId>),
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
    pub(super) job: Option<JobId>,
}

impl Face {
    fn new(status: StatusCode, word: &'static str, title: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { status, word, title, detail: detail.into(), retry_after: None, refusal: false, job: None }
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
                let detail = match wanted {
                    Wanted::App => "Unknown deployment_id or wrong deployment_secret",
                    Wanted::AppOrOperator => {
                        "Unknown credentials. Give deployment id and secret as Authorization: Basic, or an operator's token as Authorization: Bearer."
                    }
                    Wanted::Operator => "Unknown credentials. Give an operator's token as Authorization: Bearer.",
                    Wanted::Feed => {
                        "Unknown credentials. Give the feed's, an operator's or the feed job's token as Authorization: Bearer."
                    }
                    Wanted::JobToken => {
                        "Unknown credentials. Give the job's own token (/run/lockstep/token in its container) as Authorization: Bearer."
                    }
                };
                Face::new(S::UNAUTHORIZED, "unauthorized", "The credentials do not open this", detail).refusal()
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
            Self::JobEnded => Face::new(S::CONFLICT, "job-ended", "The job is over", "Nothing can be added to a job that is over."),
            Self::Busy(job) => Face {
                job: *job,
                ..Face::new(
                    S::CONFLICT,
                    "busy",
                    "The inventory is taken by another job",
                    "App deployment is already running",
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
                "State is being rebuilt",
                "Redis came back with another state, which is being rebuilt from the engine. Try again.",
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
                "Redis holds a record that cannot be read. The dispatcher's log names it; the reconciler settles it.",
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
    fn log(&self, face: &Face) {
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
    text.chars().filter(|c| !c.is_control()).take(REPEATED_MAX).collect()
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let face = self.face();
        self.log(&face);
        let problem = Problem {
            kind: format!("{}{}", Problem::PREFIX, face.word),
            title: face.title.to_owned(),
            status: face.status.as_u16(),
            detail: face.detail.clone().into_owned(),
            job_id: face.job.map(|job| job.to_string()),
        };
        let mut response = answer(face.status, "application/problem+json", &problem);
        if let Self::Unauthorized(_) = self {
            const BOTH: &str = r#"Basic realm="lockstep", charset="UTF-8", Bearer realm="lockstep""#;
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(BOTH));
        }
        if let Self::OffsetBeyondEnd(length) = self
            && let Ok(range) = HeaderValue::try_from(format!("bytes */{length}"))
        {
            response.headers_mut().insert(header::CONTENT_RANGE, range);
        }
        with_retry_after(response, face.retry_after)
    }
}

/// An error in the seed's form.
#[derive(Debug)]
pub(super) struct SeedError {
    error: ApiError,
    /// `/job-status/`: existing clients give up on an answer without a string `output`.
    output: bool,
}

impl SeedError {
    /// As every endpoint but one gives it.
    pub(super) fn plain(error: impl Into<ApiError>) -> Self {
        Self { error: error.into(), output: false }
    }

    /// As `/job-status/` gives it: with an empty `output`.
    pub(super) fn with_output(error: impl Into<ApiError>) -> Self {
        Self { error: error.into(), output: true }
    }
}

/// `{"error":"…","status":"error"}`, and `output` where a job was asked about.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct SeedRefusal {
    /// What happened, and what to do.
    #[schema(value_type = String)]
    pub error: Cow<'static, str>,
    /// Always empty; there in answers of `/job-status/`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub output: Option<&'static str>,
    /// Always `error`.
    #[schema(value_type = String)]
    pub status: &'static str,
}

impl IntoResponse for SeedError {
    fn into_response(self) -> Response {
        let face = self.error.face();
        self.error.log(&face);
        let status = if face.refusal { StatusCode::OK } else { face.status };
        let body = SeedRefusal { error: face.detail, output: self.output.then_some(""), status: "error" };
        with_retry_after(answer(status, "application/json", &body), face.retry_after)
    }
}

fn with_retry_after(mut response: Response, seconds: Option<u64>) -> Response {
    if let Some(seconds) = seconds {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    }
    response
}

/// A JSON answer.
pub(super) fn answer(status: StatusCode, kind: &'static str, body: &impl Serialize) -> Response {
    let body = serde_json::to_vec(body).expect("answers are structs of strings and numbers");
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
