//! The audit log: what operators did.

use axum::extract::State;
use serde::Deserialize;

use super::auth::Viewer;
use super::docs::Guarded;
use super::error::ApiError;
use super::extract::Query;
use super::{Shared, view};
use crate::wire::AuditPage;

/// Lines per answer unless the request says otherwise.
const PAGE: usize = 50;
/// The most lines of one answer.
const PAGE_MAX: usize = 1000;

/// Which part of the log.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    /// `cursor` of the page before
    #[param(pattern = r"^[0-9]{1,20}-[0-9]{1,20}$")]
    cursor: Option<String>,
    /// Lines per page; 50 unless given
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
}

/// Read the audit log
///
/// Newest first. The last 10,000 lines are kept.
#[utoipa::path(
    get, path = "/api/v1/audit", tag = "tokens", operation_id = "audit",
    params(Which),
    responses((status = 200, description = "What operators did", body = AuditPage), Guarded),
    security(("operator" = []), ("viewer" = []), ("releaser" = [])),
)]
pub(super) async fn lines(
    State(api): State<Shared>,
    _: Viewer,
    Query(which): Query<Which>,
) -> Result<axum::Json<AuditPage>, ApiError> {
    let limit = which.limit.unwrap_or(PAGE);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(ApiError::Invalid(format!("limit must be 1 to {PAGE_MAX}")));
    }
    let before = which.cursor.map(|text| text.parse()).transpose();
    let before = before.map_err(|error| ApiError::Invalid(format!("cursor {error}")))?;
    let lines = api.dispatcher.store().audit_lines(before, limit).await?;
    let cursor = lines.last().filter(|_| lines.len() == limit).map(|line| line.at.to_string());
    Ok(axum::Json(AuditPage { lines: lines.into_iter().map(view::audit).collect(), cursor }))
}
