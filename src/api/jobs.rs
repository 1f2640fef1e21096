//! Jobs in v1: submit, read, cancel, and the container's own report.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::auth::{AtApp, Caller, Claim, Container, Operator, peer};
use super::docs::{AppPath, Guarded, JobPath, OfJob, WithBody};
use super::error::ApiError;
use super::extract::{Json, Named, OptionalJson, optional_reason};
use super::problem::answer;
use super::{Api, Shared, view};
use crate::clock;
use crate::dispatch::{Accepted, Refusal, Request};
use crate::model::app::App;
use crate::model::ids::{DeploymentId, JobId};
use crate::store::JobView;
use crate::wire::{self, Because, Job, JobRequest, Problem, Progress};

/// The longest `Idempotency-Key`, in characters.
const KEY_MAX: usize = 255;

/// Ask for a deployment
///
/// Answered as soon as the request is recorded; what is accepted is carried out whether or not the caller stays.
#[utoipa::path(
    post, path = "/api/v1/apps/{deployment_id}/jobs", tag = "jobs", operation_id = "submit",
    params(
        AppPath,
        ("Idempotency-Key" = Option<String>, Header, pattern = "^[!-~]{1,255}$",
            description = "A name for this very request: repeated within a day, it is answered with the same job"),
    ),
    request_body(content = Option<JobRequest>, description = "May be left out"),
    responses(
        (status = 202, description = "Accepted", body = Job, headers(("Location" = String, description = "The job"))),
        (status = 404, description = "No such app (said to operators only)", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "Busy or frozen, with `when_busy` = `reject`", body = Problem, content_type = "application/problem+json"),
        Guarded, WithBody,
    ),
    security(("app" = []), ("oidc" = []), ("operator" = [])),
)]
pub(super) async fn submit(
    State(api): State<Shared>,
    AtApp(deployment_id, caller): AtApp,
    ask: Ask,
    OptionalJson(body): OptionalJson<JobRequest>,
) -> Result<Response, ApiError> {
    let (app, secret) = match &caller {
        Caller::App(own) if own.app.deployment_id == deployment_id => (own.app.clone(), own.secret.clone()),
        Caller::App(_) => return Err(ApiError::Forbidden("These are the credentials of another app.")),
        Caller::Operator(Operator(name)) => {
            let app = api.app(&deployment_id, &ask).await?;
            api.dispatcher.store().audit(name.as_str(), "deploy", deployment_id.as_str(), "").await?;
            (app, None)
        }
        Caller::Viewer(viewer) => return Err(viewer.only_views()),
    };
    let request = Request {
        app: app.clone(),
        secret,
        by: caller.name(),
        vars: body.vars,
        when_busy: body.when_busy,
        idempotency_key: ask.idempotency_key,
    };
    let accepted = match api.submit(request).await {
        Ok(accepted) => accepted,
        Err(Refusal::Busy { holder }) => return Err(ApiError::Busy(api.if_owned(&caller, holder).await)),
        Err(refusal) => return Err(refusal.into()),
    };
    let job = api.accepted(&accepted, &app).await;
    let mut response = answer(StatusCode::ACCEPTED, "application/json", &job);
    if let Ok(location) = HeaderValue::try_from(format!("/api/v1/jobs/{}", accepted.job)) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// What a request says outside of its body.
pub(super) struct Ask {
    from: std::net::IpAddr,
    pub(super) idempotency_key: Option<String>,
}

impl axum::extract::FromRequestParts<Shared> for Ask {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut axum::http::request::Parts, _: &Shared) -> Result<Self, ApiError> {
        Ok(Self { from: peer(parts)?, idempotency_key: idempotency_key(&parts.headers)? })
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else { return Ok(None) };
    match value.to_str() {
        Ok(key)
            if values.next().is_none()
                && (1..=KEY_MAX).contains(&key.len())
                && key.bytes().all(|byte| byte.is_ascii_graphic()) =>
        {
            Ok(Some(key.to_owned()))
        }
        Ok(_) | Err(_) => Err(ApiError::Invalid(format!(
            "Idempotency-Key must be 1 to {KEY_MAX} visible ASCII characters, given once"
        ))),
    }
}

impl Api {
    /// Hands a request in, on a task of its own: a client that hangs up meanwhile changes nothing.
    pub(super) async fn submit(self: &Arc<Self>, request: Request) -> Result<Accepted, Refusal> {
        let dispatcher = self.dispatcher.clone();
        self.finishing(async move { dispatcher.submit(request).await })
            .await
            .unwrap_or_else(|what| Err(Refusal::NotReady(what)))
    }

    /// An app, for an operator.
    async fn app(&self, id: &DeploymentId, ask: &Ask) -> Result<App, ApiError> {
        let door = self.dispatcher.store().door(id, ask.from).await?;
        door.app.map(|stored| stored.app).ok_or(ApiError::UnknownApp)
    }

    /// A job that was accepted: as recorded or, when that cannot be read, as far as it is known. It was accepted either way.
    async fn accepted(&self, accepted: &Accepted, app: &App) -> Job {
        match self.dispatcher.store().job(accepted.job, None).await {
            Ok((Some(found), _)) => view::job(found),
            Ok((None, _)) | Err(_) => Job {
                job_id: accepted.job.to_string(),
                deployment_id: app.deployment_id.to_string(),
                inventory: app.inventory.to_string(),
                action: app.action.to_string(),
                state: if accepted.position.is_some() { wire::JobState::Queued } else { wire::JobState::Starting },
                outcome: None,
                exit_code: None,
                reason: None,
                created_at: view::time(clock::wall_ms()),
                started_at: None,
                ended_at: None,
                fence: None,
                image_digest: None,
                queue_position: accepted.position,
                superseded_by: None,
                output_bytes: 0,
                progress: None,
            },
        }
    }

    /// The job's id, if the caller may know it.
    async fn if_owned(&self, caller: &Caller, job: JobId) -> Option<JobId> {
        let record = self.dispatcher.store().record(job).await.ok().flatten()?;
        caller.owns(&record.deployment_id, &record.inventory).then_some(job)
    }

    /// Makes a caller of a claim, and reads a job of his.
    pub(super) async fn job_of(&self, claim: Claim, job: JobId) -> Result<(Caller, JobView), ApiError> {
        let (found, door) = self.dispatcher.store().job(job, claim.door()).await?;
        let app = found.as_ref().map(|found| &found.record.deployment_id);
        let caller = self.admit(claim, door, app).await?;
        let found = found.filter(|found| caller.owns(&found.record.deployment_id, &found.record.inventory));
        Ok((caller, found.ok_or(ApiError::UnknownJob)?))
    }
}

/// Read a job
#[utoipa::path(
    get, path = "/api/v1/jobs/{job_id}", tag = "jobs", operation_id = "job",
    params(JobPath),
    responses((status = 200, description = "The job", body = Job), Guarded, OfJob),
    security(("app" = []), ("oidc" = []), ("operator" = []), ("viewer" = []), ("releaser" = [])),
)]
pub(super) async fn job(
    State(api): State<Shared>,
    Named(job): Named<JobId>,
    claim: Claim,
) -> Result<axum::Json<Job>, ApiError> {
    let (_, found) = api.job_of(claim, job).await?;
    Ok(axum::Json(view::job(found)))
}

/// Cancel a job
///
/// Recorded at once; then SIGTERM, grace, SIGKILL. The lock is freed when the container is gone. A job that is over is left as
/// it is, and so is one that is being canceled.
#[utoipa::path(
    post, path = "/api/v1/jobs/{job_id}/cancel", tag = "jobs", operation_id = "cancel",
    params(JobPath),
    request_body(content = Option<Because>, description = "May be left out; the reason stands in the audit log, where an operator cancels"),
    responses((status = 202, description = "Recorded; the job as it is now", body = Job), Guarded, OfJob, WithBody),
    security(("app" = []), ("oidc" = []), ("operator" = [])),
)]
pub(super) async fn cancel(
    State(api): State<Shared>,
    Named(job): Named<JobId>,
    claim: Claim,
    OptionalJson(Because { reason: why }): OptionalJson<Because>,
) -> Result<(StatusCode, axum::Json<Job>), ApiError> {
    let (caller, _) = api.job_of(claim, job).await?;
    let why = optional_reason(why.as_deref())?;
    let this = api.clone();
    let by = caller.name();
    let canceling = async move {
        match &caller {
            Caller::Operator(Operator(name)) => {
                this.dispatcher.store().audit(name.as_str(), "cancel", &job.to_string(), &why).await?;
            }
            Caller::Viewer(viewer) => return Err(viewer.only_views()),
            Caller::App(_) => {}
        }
        this.dispatcher.cancel(job, &by).await.map_err(ApiError::from)?;
        let (found, _) = this.dispatcher.store().job(job, None).await?;
        found.ok_or(ApiError::UnknownJob)
    };
    let found = api.finishing(canceling).await.unwrap_or_else(|what| Err(ApiError::NotReady(what)))?;
    Ok((StatusCode::ACCEPTED, axum::Json(view::job(found))))
}

/// Report progress
///
/// For the container, with its job's token. A field that is there replaces the stored one. Best effort: a report that is lost
/// changes nothing about the job. Of a job of a release or an order, the last one may be left in `/run/lockstep/report.json` instead.
#[utoipa::path(
    post, path = "/api/v1/jobs/{job_id}/progress", tag = "jobs", operation_id = "progress",
    params(JobPath),
    request_body = Progress,
    responses(
        (status = 204, description = "Stored"),
        (status = 409, description = "The job is over", body = Problem, content_type = "application/problem+json"),
        Guarded, OfJob, WithBody,
    ),
    security(("job" = [])),
)]
pub(super) async fn progress(
    State(api): State<Shared>,
    Container(job): Container,
    Json(report): Json<Progress>,
) -> Result<Response, ApiError> {
    if api.dispatcher.take_report(job, report).await? {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    Err(ApiError::JobEnded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idempotency_key_is_visible_ascii_of_bounded_length() {
        let read = |values: &[&[u8]]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("Idempotency-Key", HeaderValue::from_bytes(value).expect("a header"));
            }
            idempotency_key(&headers).map_err(|_| ())
        };
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&[b"run-7/1"]), Ok(Some("run-7/1".to_owned())));
        for bad in [&[b"".as_slice()][..], &[b"a b"], &["é".as_bytes()], &[&[b'x'; 256]], &[b"a", b"b"]] {
            assert_eq!(read(bad), Err(()), "{bad:?}");
        }
    }
}
