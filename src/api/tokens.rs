//! Tokens that operators issue.
//!
//! A token is shown once, when it is issued. The configuration's own (`auth.operators`) are not among them: they are what the first one
//! is issued with, and what is left when Redis has lost its memory.

use std::collections::BTreeSet;

use axum::extract::State;
use axum::http::StatusCode;

use super::auth::{Operator, Viewer};
use super::docs::{Guarded, NamePath, WithBody};
use super::error::ApiError;
use super::extract::{Json, Named, OptionalJson, optional_reason};
use super::{Shared, view};
use crate::model::ids::Word;
use crate::model::token::{GROUPS_MAX, Grant};
use crate::pepper;
use crate::store::{Recorded, StoredToken};
use crate::wire::{Because, Problem, TokenIssued, TokenList, TokenRequest};

/// The longest time for which a token that expires is issued, in seconds: ten years.
const EXPIRY_MAX: u64 = 3660 * 24 * 3600;

/// List tokens
#[utoipa::path(
    get, path = "/api/v1/tokens", tag = "tokens", operation_id = "tokens",
    responses((status = 200, description = "The tokens that were issued, by name; never what opens", body = TokenList), Guarded),
    security(("operator" = []), ("viewer" = []), ("releaser" = [])),
)]
pub(super) async fn list(State(api): State<Shared>, _: Viewer) -> Result<axum::Json<TokenList>, ApiError> {
    let tokens = api.dispatcher.store().tokens().await?;
    Ok(axum::Json(TokenList { tokens: tokens.into_iter().map(view::token).collect() }))
}

/// Issue a token
///
/// It is shown this once. A viewer sees everything and changes nothing, a releaser moves releases besides, a reporter reports on releases and
/// sees no more than these. Groups are for approvals.
#[utoipa::path(
    post, path = "/api/v1/tokens", tag = "tokens", operation_id = "issue_token",
    request_body = TokenRequest,
    responses(
        (status = 201, description = "Issued", body = TokenIssued),
        (status = 409, description = "There is a token of that name, or there are too many", body = Problem, content_type = "application/problem+json"),
        Guarded, WithBody,
    ),
    security(("operator" = [])),
)]
pub(super) async fn issue(
    State(api): State<Shared>,
    Operator(by): Operator,
    Json(request): Json<TokenRequest>,
) -> Result<(StatusCode, axum::Json<TokenIssued>), ApiError> {
    let TokenRequest { name, role, groups, expires_in, reason } = request;
    let why = optional_reason(reason.as_deref())?;
    let name: Word = name.parse().map_err(|error| ApiError::Invalid(format!("name {error}")))?;
    if groups.len() > GROUPS_MAX {
        return Err(ApiError::Invalid(format!("groups must be at most {GROUPS_MAX}")));
    }
    let groups = groups.into_iter().map(Word::try_from).collect::<Result<BTreeSet<_>, _>>();
    let groups = groups.map_err(|error| ApiError::Invalid(format!("a name in groups {error}")))?;
    let groups: Vec<_> = groups.into_iter().collect();
    if expires_in.is_some_and(|seconds| !(1..=EXPIRY_MAX).contains(&seconds)) {
        return Err(ApiError::Invalid(format!("expires_in must be 1 to {EXPIRY_MAX} seconds")));
    }
    if api.tokens.names(&name) {
        return Err(ApiError::NameTaken);
    }
    let dispatcher = api.dispatcher.clone();
    let issuing = async move {
        let store = dispatcher.store();
        let until = expires_in.map_or_else(|| "until revoked".to_owned(), |seconds| format!("for {seconds} s"));
        let of: String = groups.iter().map(|group| format!(", of {group}")).collect();
        store.audit(by.as_str(), "issue-token", &format!("{name}: {role}, {until}{of}"), &why).await?;
        let token = pepper::draw_token();
        let now = store.now_ms().await?;
        let stored = StoredToken {
            grant: Grant { name, role, groups },
            issued_ms: now,
            by: by.to_string(),
            expires_ms: expires_in.map(|seconds| now.saturating_add(seconds * 1000)),
        };
        match store.issue_token(&dispatcher.pepper().token_hash(token.expose()), &stored).await? {
            Recorded::Taken => return Err(ApiError::NameTaken),
            Recorded::Many(count) => return Err(ApiError::TooMany(count)),
            Recorded::New | Recorded::Changed => {}
        }
        tracing::info!(name = %stored.grant.name, %role, %by, "a token was issued");
        Ok(TokenIssued { token: token.expose().to_owned(), view: view::token(stored) })
    };
    let issued = api.finishing(issuing).await.unwrap_or_else(|what| Err(ApiError::NotReady(what)))?;
    Ok((StatusCode::CREATED, axum::Json(issued)))
}

/// Revoke a token
///
/// From then on it opens nothing.
#[utoipa::path(
    delete, path = "/api/v1/tokens/{name}", tag = "tokens", operation_id = "revoke_token",
    params(NamePath),
    request_body(content = Option<Because>, description = "May be left out"),
    responses(
        (status = 204, description = "Revoked"),
        (status = 404, description = "There is none of that name", body = Problem, content_type = "application/problem+json"),
        Guarded, WithBody,
    ),
    security(("operator" = [])),
)]
pub(super) async fn revoke(
    State(api): State<Shared>,
    Named(name): Named<Word>,
    Operator(by): Operator,
    OptionalJson(Because { reason }): OptionalJson<Because>,
) -> Result<StatusCode, ApiError> {
    let why = optional_reason(reason.as_deref())?;
    let store = api.dispatcher.store();
    store.audit(by.as_str(), "revoke-token", name.as_str(), &why).await?;
    if !store.revoke_token(&name).await? {
        return Err(ApiError::UnknownToken);
    }
    tracing::info!(%name, %by, reason = why, "a token was revoked");
    Ok(StatusCode::NO_CONTENT)
}
