//! What people do to a release: approve it, promote it, decide it, reject it; retry or pass over a step; roll back, and lift what is held.
//!
//! Whether it may be done is the model's to say, in the same step in which it is recorded. The audit log is written before.

use axum::extract::State;

use super::Eyes;
use super::view;
use crate::api::auth::{Approver, Releaser};
use crate::api::docs::{Guarded, Moving, OfRelease, ReleasePath, WithBody};
use crate::api::error::ApiError;
use crate::api::extract::{Json, Named, OptionalJson, optional_reason, optional_word, reason};
use crate::api::{Api, Shared};
use crate::model::ids::{ReleaseId, Word};
use crate::model::release::Act;
use crate::model::release::command::Command;
use crate::model::token::Grant;
use crate::wire::{ApprovalRequest, Because, DecisionRequest, PromoteRequest, ReasonRequest, ReleaseView, Verdict};

/// What somebody wants of a release.
struct Move {
    by: Word,
    /// What the audit log calls it.
    what: &'static str,
    /// What else it is to say about the release.
    more: String,
    /// Why, where that was said.
    why: String,
}

impl Api {
    /// Has a release changed, whether or not the caller stays. `command` makes the command of who, why, and when.
    async fn change(
        &self,
        id: ReleaseId,
        Move { by, what, more, why }: Move,
        command: impl Fn(Act) -> Command + Send + Sync + 'static,
    ) -> Result<axum::Json<ReleaseView>, ApiError> {
        let dispatcher = self.dispatcher.clone();
        let changing = async move {
            // No line about a release that there never was.
            dispatcher.seen_release(id).await?;
            dispatcher.store().audit(by.as_str(), what, &format!("{id}{more}"), &why).await?;
            let act = |at_ms| Act { by: Some(by.clone()), reason: why.clone(), at_ms };
            let seen = dispatcher.change_release(id, |at_ms| command(act(at_ms))).await?;
            tracing::info!(release.id = %id, what, %by, reason = why, "a release was changed");
            Ok(view::release(&seen, Eyes::All))
        };
        self.finishing(changing).await.unwrap_or_else(|what| Err(ApiError::NotReady(what))).map(axum::Json)
    }
}

/// Approve a release
///
/// Certifies exactly this release. For members of the groups that its step asks, once each, and not for whoever has submitted it.
#[utoipa::path(
    post, path = "/api/v1/releases/{release_id}/approvals", tag = "releases", operation_id = "approve",
    params(ReleasePath),
    request_body(content = Option<ApprovalRequest>, description = "May be left out"),
    responses((status = 200, description = "Approved; the release as it is now", body = ReleaseView), Guarded, OfRelease, Moving, WithBody),
    security(("operator" = []), ("viewer" = []), ("releaser" = [])),
)]
pub(in crate::api) async fn approve(
    State(api): State<Shared>,
    Named(id): Named<ReleaseId>,
    Approver(Grant { name: by, groups, .. }): Approver,
    OptionalJson(ApprovalRequest { reason: why }): OptionalJson<ApprovalRequest>,
) -> Result<axum::Json<ReleaseView>, ApiError> {
    let why = optional_reason(why.as_deref())?;
    let it = Move { by, what: "approve-release", more: String::new(), why };
    api.change(id, it, move |act| Command::Approve { act, groups: groups.clone() }).await
}

/// Withdraw one's approval
///
/// As long as the step waits for others.
#[utoipa::path(
    delete, path = "/api/v1/releases/{release_id}/approvals", tag = "releases", operation_id = "withdraw_approval",
    params(ReleasePath),
    request_body(content = Option<Because>, description = "May be left out"),
    responses((status = 200, description = "Withdrawn; the release as it is now", body = ReleaseView), Guarded, OfRelease, Moving, WithBody),
    security(("operator" = []), ("viewer" = []), ("releaser" = [])),
)]
pub(in crate::api) async fn withdraw(
    State(api): State<Shared>,
    Named(id): Named<ReleaseId>,
    Approver(Grant { name: by, .. }): Approver,
    OptionalJson(Because { reason: why }): OptionalJson<Because>,
) -> Result<axum::Json<ReleaseView>, ApiError> {
    let why = optional_reason(why.as_deref())?;
    let it = Move { by, what: "withdraw-approval", more: String::new(), why };
    api.change(id, it, |act| Command::Withdraw { act }).await
}

/// Promote a release
///
/// To the next stage, once all is done in its own.
#[utoipa::path(
    post, path = "/api/v1/releases/{release_id}/promote", tag = "releases", operation_id = "promote",
    params(ReleasePath),
    request_body(content = Option<PromoteRequest>, description = "May be left out"),
    responses((status = 200, description = "Promoted; the release as it is now", body = ReleaseView), Guarded, OfRelease, Moving, WithBody),
    security(("operator" = []), ("releaser" = [])),
)]
pub(in crate::api) async fn promote(
    State(api): State<Shared>,
    Named(id): Named<ReleaseId>,
    Releaser(by): Releaser,
    OptionalJson(PromoteRequest { to, reason: why }): OptionalJson<PromoteRequest>,
) -> Result<axum::Json<ReleaseView>, ApiError> {
    let why = optional_reason(why.as_deref())?;
    let to = optional_word("to", to)?;
    let more = to.as_ref().map_or_else(String::new, |to| format!(": to {to}"));
    let it = Move { by, what: "promote-release", more, why };
    api.change(id, it, move |act| Command::Promote { act, to: to.clone() }).await
}

/// Why it is decided so. A rejection must say it, whichever way it comes.
fn why_decided(verdict: Verdict, why: Option<&str>) -> Result<String, ApiError> {
    match verdict {
        Verdict::Rejected => Ok(reason(why.unwrap_or_default())?.to_owned()),
        Verdict::Accepted | Verdict::AcceptedWithWarnings => optional_reason(why),
    }
}

/// Decide a release
///
/// It is accepted at the end of its last stage; it can be rejected at any time, with a reason.
#[utoipa::path(
    post, path = "/api/v1/releases/{release_id}/decision", tag = "releases", operation_id = "decide",
    params(ReleasePath),
    request_body = DecisionRequest,
    responses((status = 200, description = "Decided; the release as it is now", body = ReleaseView), Guarded, OfRelease, Moving, WithBody),
    security(("operator" = []), ("releaser" = [])),
)]
pub(in crate::api) async fn decide(
    State(api): State<Shared>,
    Named(id): Named<ReleaseId>,
    Releaser(by): Releaser,
    Json(DecisionRequest { decision: verdict, reason: why }): Json<DecisionRequest>,
) -> Result<axum::Json<ReleaseView>, ApiError> {
    let why = why_decided(verdict, why.as_deref())?;
    let it = Move { by, what: "decide-release", more: format!(": {}", verdict.word()), why };
    api.change(id, it, move |act| Command::Decide { act, verdict }).await
}

/// Reject a release
///
/// At any time before its decision. What a step has begun to deploy is undone first.
#[utoipa::path(
    post, path = "/api/v1/releases/{release_id}/reject", tag = "releases", operation_id = "reject",
    params(ReleasePath),
    request_body = ReasonRequest,
    responses((status = 200, description = "Rejected; the release as it is now", body = ReleaseView), Guarded, OfRelease, Moving, WithBody),
    security(("operator" = []), ("releaser" = [])),
)]
pub(in crate::api) async fn reject(
    State(api): State<Shared>,
    Named(id): Named<ReleaseId>,
    Releaser(by): Releaser,
    Json(ReasonRequest { reason: why }): Json<ReasonRequest>,
) -> Result<axum::Json<ReleaseView>, ApiError> {
    let why = reason(&why)?.to_owned();
    let it = Move { by, what: "reject-release", more: String::new(), why };
    api.change(id, it, |act| Command::Reject { act }).await
}

/// Try a step again
///
/// The one that failed or is inconclusive, as far as it is not good.
#[utoipa::path(
    post, path = "/api/v1/releases/{release_id}/retry", tag = "releases", operation_id = "retry",
    params(ReleasePath),
    request_body(content = Option<Because>, description = "May be left out"),
    responses((status = 200, description = "Begun anew; the release as it is now", body = ReleaseView), Guarded, OfRelease, Moving, WithBody),
    security(("operator" = []), ("releaser" = [])),
)]
pub(in crate::api) async fn retry(
    State(api): State<Shared>,
    Named(id): Named<ReleaseId>,
    Releaser(by): Releaser,
    OptionalJson(Because { reason: why }): OptionalJson<Because>,
) -> Result<axum::Json<ReleaseView>, ApiError> {
    let why = optional_reason(why.as_deref())?;
    let it = Move { by, what: "retry-release", more: String::new(), why };
    api.change(id, it, |act| Command::Retry { act }).await
}

/// Pass over a step
///
/// A check, a run or a soak: its result is a warning, and the release goes on.
#[utoipa::path(
    post, path = "/api/v1/releases/{release_id}/bypass", tag = "releases", operation_id = "bypass",
    params(ReleasePath),
    request_body = ReasonRequest,
    responses((status = 200, description = "Passed over; the release as it is now", body = ReleaseView), Guarded, OfRelease, Moving, WithBody),
    security(("operator" = []), ("releaser" = [])),
)]
pub(in crate::api) async fn bypass(
    State(api): State<Shared>,
    Named(id): Named<ReleaseId>,
    Releaser(by): Releaser,
    Json(ReasonRequest { reason: why }): Json<ReasonRequest>,
) -> Result<axum::Json<ReleaseView>, ApiError> {
    let why = reason(&why)?.to_owned();
    let it = Move { by, what: "bypass-release", more: String::new(), why };
    api.change(id, it, |act| Command::Bypass { act }).await
}

/// Roll back
///
/// Puts back what was there before the release was deployed in its stage, and holds automation until that is lifted.
#[utoipa::path(
    post, path = "/api/v1/releases/{release_id}/rollback", tag = "releases", operation_id = "rollback",
    params(ReleasePath),
    request_body = ReasonRequest,
    responses((status = 200, description = "Begun; the release as it is now", body = ReleaseView), Guarded, OfRelease, Moving, WithBody),
    security(("operator" = []), ("releaser" = [])),
)]
pub(in crate::api) async fn rollback(
    State(api): State<Shared>,
    Named(id): Named<ReleaseId>,
    Releaser(by): Releaser,
    Json(ReasonRequest { reason: why }): Json<ReasonRequest>,
) -> Result<axum::Json<ReleaseView>, ApiError> {
    let why = reason(&why)?.to_owned();
    let it = Move { by, what: "rollback-release", more: String::new(), why };
    api.change(id, it, |act| Command::RollBack { act }).await
}

/// Lift what is held
///
/// Automation that is held after a roll-back, or a release that is suspended.
#[utoipa::path(
    post, path = "/api/v1/releases/{release_id}/lift", tag = "releases", operation_id = "lift",
    params(ReleasePath),
    request_body = ReasonRequest,
    responses((status = 200, description = "Lifted; the release as it is now", body = ReleaseView), Guarded, OfRelease, Moving, WithBody),
    security(("operator" = []), ("releaser" = [])),
)]
pub(in crate::api) async fn lift(
    State(api): State<Shared>,
    Named(id): Named<ReleaseId>,
    Releaser(by): Releaser,
    Json(ReasonRequest { reason: why }): Json<ReasonRequest>,
) -> Result<axum::Json<ReleaseView>, ApiError> {
    let why = reason(&why)?.to_owned();
    let it = Move { by, what: "lift-release", more: String::new(), why };
    api.change(id, it, |act| Command::Lift { act }).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rejection_says_why() {
        for verdict in [Verdict::Accepted, Verdict::AcceptedWithWarnings] {
            assert_eq!(why_decided(verdict, None).ok().as_deref(), Some(""));
        }
        for none in [None, Some(""), Some("  ")] {
            assert!(matches!(why_decided(Verdict::Rejected, none), Err(ApiError::Invalid(_))), "{none:?}");
        }
        assert_eq!(why_decided(Verdict::Rejected, Some("slow")).ok().as_deref(), Some("slow"));
    }
}
