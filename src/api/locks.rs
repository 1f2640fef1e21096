//! Deploy locks and freezes: the operator's.
//!
//! The audit log is written before a change is made: better a line about a change that was then refused than a change without
//! a line. Where the line cannot be written, nothing is changed.

use axum::extract::State;
use axum::http::StatusCode;

use super::auth::{Operator, Viewer};
use super::docs::{Guarded, InventoryPath, WithBody};
use super::error::ApiError;
use super::extract::{Json, Named, OptionalJson, optional_reason, reason};
use super::{Shared, view};
use crate::dispatch::Refusal;
use crate::model::ids::Inventory;
use crate::wire::{Because, FreezeRequest, FreezeView, LockList, Problem, UnlockRequest, Unlocked};

/// The longest freeze that ends by itself, in seconds.
const FREEZE_MAX: u64 = 366 * 24 * 3600;

/// List locks, queues and freezes
#[utoipa::path(
    get, path = "/api/v1/locks", tag = "locks", operation_id = "locks",
    responses((status = 200, description = "Locks, queues and freezes in force, by inventory", body = LockList), Guarded),
    security(("operator" = []), ("viewer" = []), ("releaser" = [])),
)]
pub(super) async fn list(State(api): State<Shared>, _: Viewer) -> Result<axum::Json<LockList>, ApiError> {
    let (locks, now) = api.dispatcher.store().locks().await?;
    Ok(axum::Json(LockList { locks: locks.into_iter().map(|lock| view::lock(lock, now)).collect() }))
}

/// Free a lock
///
/// Ends the job that holds it. Refused while its container runs, unless `force` is given: then the container is killed and seen
/// gone before the lock is freed.
#[utoipa::path(
    delete, path = "/api/v1/locks/{inventory}", tag = "locks", operation_id = "unlock",
    params(InventoryPath),
    request_body = UnlockRequest,
    responses(
        (status = 200, description = "Freed", body = Unlocked),
        (status = 404, description = "Nobody holds it", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The holder's container runs", body = Problem, content_type = "application/problem+json"),
        Guarded, WithBody,
    ),
    security(("operator" = [])),
)]
pub(super) async fn unlock(
    State(api): State<Shared>,
    Named(inventory): Named<Inventory>,
    Operator(by): Operator,
    Json(unlock): Json<UnlockRequest>,
) -> Result<axum::Json<Unlocked>, ApiError> {
    let why = reason(&unlock.reason)?.to_owned();
    let dispatcher = api.dispatcher.clone();
    let unlocking = async move {
        let what = match (unlock.force, unlock.engine_gone) {
            (true, true) => "unlock --force --engine-gone",
            (true, false) => "unlock --force",
            (false, _) => "unlock",
        };
        dispatcher.store().audit(by.as_str(), what, inventory.as_str(), &why).await?;
        let job = dispatcher.unlock(&inventory, &why, by.as_str(), unlock.force, unlock.engine_gone).await.map_err(
            |refusal| match refusal {
                Refusal::Unknown => ApiError::NotLocked,
                other => other.into(),
            },
        )?;
        tracing::warn!(inventory = %inventory, job.id = %job, by = %by, reason = why, force = unlock.force, "a lock was freed");
        Ok(Unlocked { inventory: inventory.into(), job_id: job.to_string() })
    };
    api.finishing(unlocking).await.unwrap_or_else(|what| Err(ApiError::NotReady(what))).map(axum::Json)
}

/// Freeze an inventory
///
/// Requests that say `reject` are refused, others wait. A job that runs goes on. A freeze that is there is replaced.
#[utoipa::path(
    put, path = "/api/v1/freezes/{inventory}", tag = "locks", operation_id = "freeze",
    params(InventoryPath),
    request_body = FreezeRequest,
    responses((status = 200, description = "Frozen", body = FreezeView), Guarded, WithBody),
    security(("operator" = [])),
)]
pub(super) async fn freeze(
    State(api): State<Shared>,
    Named(inventory): Named<Inventory>,
    Operator(by): Operator,
    Json(request): Json<FreezeRequest>,
) -> Result<axum::Json<FreezeView>, ApiError> {
    let why = reason(&request.reason)?.to_owned();
    if request.expires_in.is_some_and(|seconds| !(1..=FREEZE_MAX).contains(&seconds)) {
        return Err(ApiError::Invalid(format!("expires_in must be 1 to {FREEZE_MAX} seconds")));
    }
    let store = api.dispatcher.store();
    store.audit(by.as_str(), "freeze", inventory.as_str(), &why).await?;
    let freeze = store.freeze(&inventory, &why, by.as_str(), request.expires_in).await?;
    tracing::info!(inventory = %inventory, by = %by, reason = why, "frozen");
    Ok(axum::Json(view::freeze(freeze)))
}

/// Lift a freeze
///
/// The first job that waits gets the lock.
#[utoipa::path(
    delete, path = "/api/v1/freezes/{inventory}", tag = "locks", operation_id = "unfreeze",
    params(InventoryPath),
    request_body(content = Option<Because>, description = "May be left out"),
    responses(
        (status = 204, description = "Lifted"),
        (status = 404, description = "It is not frozen", body = Problem, content_type = "application/problem+json"),
        Guarded, WithBody,
    ),
    security(("operator" = [])),
)]
pub(super) async fn unfreeze(
    State(api): State<Shared>,
    Named(inventory): Named<Inventory>,
    Operator(by): Operator,
    OptionalJson(Because { reason: why }): OptionalJson<Because>,
) -> Result<StatusCode, ApiError> {
    let why = optional_reason(why.as_deref())?;
    let dispatcher = api.dispatcher.clone();
    let lifting = async move {
        dispatcher.store().audit(by.as_str(), "unfreeze", inventory.as_str(), &why).await?;
        if !dispatcher.store().unfreeze(&inventory).await? {
            return Err(ApiError::NotFrozen);
        }
        tracing::info!(inventory = %inventory, by = %by, "the freeze was lifted");
        // It is lifted whether or not the lock can be given right now; the reconciler gives it otherwise.
        if let Err(error) = dispatcher.grant(&inventory).await {
            tracing::warn!(inventory = %inventory, %error, "the lock could not be given after a freeze; the reconciler does it");
        }
        Ok(StatusCode::NO_CONTENT)
    };
    api.finishing(lifting).await.unwrap_or_else(|what| Err(ApiError::NotReady(what)))
}
