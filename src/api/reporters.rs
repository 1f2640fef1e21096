//! Reporters: which products each is subscribed to, and what awaits it.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use tokio::time::Instant;

use super::auth::{Operator, ReleaseReader, Viewer};
use super::docs::{Guarded, NamePath, WithBody};
use super::error::ApiError;
use super::events::LOOK_AGAIN;
use super::extract::{Json, Named, OptionalJson, Query, optional_reason, word};
use super::{Api, Shared, releases};
use crate::dispatch::ReleaseRefusal;
use crate::model::ids::Word;
use crate::store::{Recorded, StoredReporter};
use crate::wire::{Because, Pending, PendingRequest, Problem, ReporterList, ReporterRequest, ReporterView};

/// The most products that one reporter may be subscribed to.
const PRODUCTS_MAX: usize = 100;
/// The longest that an answer is waited for, in seconds.
const WAIT_MAX: u64 = 60;

fn view(stored: StoredReporter) -> ReporterView {
    let StoredReporter { name, products, by } = stored;
    ReporterView { name: name.into(), products: products.into_iter().map(Into::into).collect(), by }
}

/// List reporters
#[utoipa::path(
    get, path = "/api/v1/reporters", tag = "reporters", operation_id = "reporters",
    responses((status = 200, description = "The reporters, by name, and the products that they are subscribed to", body = ReporterList), Guarded),
    security(("operator" = []), ("viewer" = []), ("releaser" = [])),
)]
pub(super) async fn list(State(api): State<Shared>, _: Viewer) -> Result<axum::Json<ReporterList>, ApiError> {
    let reporters = api.dispatcher.store().reporters().await?;
    Ok(axum::Json(ReporterList { reporters: reporters.into_iter().map(view).collect() }))
}

/// Subscribe a reporter
///
/// To all of these products, and no others. It reports with a token of the same name whose role is reporter. Checks that have begun already
/// ask whom they have asked.
#[utoipa::path(
    put, path = "/api/v1/reporters/{name}", tag = "reporters", operation_id = "set_reporter",
    params(NamePath),
    request_body = ReporterRequest,
    responses(
        (status = 200, description = "Recorded", body = ReporterView),
        (status = 409, description = "There are too many", body = Problem, content_type = "application/problem+json"),
        Guarded, WithBody,
    ),
    security(("operator" = [])),
)]
pub(super) async fn set(
    State(api): State<Shared>,
    Named(name): Named<Word>,
    Operator(by): Operator,
    Json(ReporterRequest { products, reason }): Json<ReporterRequest>,
) -> Result<axum::Json<ReporterView>, ApiError> {
    let why = optional_reason(reason.as_deref())?;
    if products.len() > PRODUCTS_MAX {
        return Err(ApiError::Invalid(format!("products must be at most {PRODUCTS_MAX}")));
    }
    let products = products.into_iter().map(|product| word("a name in products", product));
    let products = products.collect::<Result<BTreeSet<Word>, _>>()?;
    let dispatcher = api.dispatcher.clone();
    let setting = async move {
        let store = dispatcher.store();
        let of = products.iter().map(Word::as_str).collect::<Vec<_>>().join(", ");
        store.audit(by.as_str(), "set-reporter", &format!("{name}: {of}"), &why).await?;
        match store.set_reporter(&name, &products, by.as_str()).await? {
            Recorded::Many(count) => return Err(ApiError::TooMany(count)),
            Recorded::New | Recorded::Changed | Recorded::Taken => {}
        }
        tracing::info!(reporter = %name, products = of, %by, "a reporter was subscribed");
        Ok(view(StoredReporter { name, products, by: by.into() }))
    };
    api.finishing(setting).await.unwrap_or_else(|what| Err(ApiError::NotReady(what))).map(axum::Json)
}

/// Remove a reporter
///
/// Its subscriptions: checks that ask it already go on asking, and its token is revoked by itself.
#[utoipa::path(
    delete, path = "/api/v1/reporters/{name}", tag = "reporters", operation_id = "remove_reporter",
    params(NamePath),
    request_body(content = Option<Because>, description = "May be left out"),
    responses(
        (status = 204, description = "Removed"),
        (status = 404, description = "There is none of that name", body = Problem, content_type = "application/problem+json"),
        Guarded, WithBody,
    ),
    security(("operator" = [])),
)]
pub(super) async fn remove(
    State(api): State<Shared>,
    Named(name): Named<Word>,
    Operator(by): Operator,
    OptionalJson(Because { reason }): OptionalJson<Because>,
) -> Result<StatusCode, ApiError> {
    let why = optional_reason(reason.as_deref())?;
    let dispatcher = api.dispatcher.clone();
    let removing = async move {
        let store = dispatcher.store();
        store.audit(by.as_str(), "remove-reporter", name.as_str(), &why).await?;
        if !store.remove_reporter(&name).await? {
            return Err(ApiError::UnknownReporter);
        }
        tracing::info!(reporter = %name, %by, reason = why, "a reporter was removed");
        Ok(StatusCode::NO_CONTENT)
    };
    api.finishing(removing).await.unwrap_or_else(|what| Err(ApiError::NotReady(what)))
}

/// How long to wait for something to report on.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Patience {
    /// Seconds to wait while there is nothing; 0 unless given
    #[serde(default)]
    #[param(minimum = 0, maximum = 60)]
    wait: u64,
}

/// See what awaits a reporter
///
/// Checks that ask it and have not heard from it, oldest first. A reporter sees its own.
#[utoipa::path(
    get, path = "/api/v1/reporters/{name}/pending", tag = "reporters", operation_id = "pending",
    params(NamePath, Patience),
    responses((status = 200, description = "What it is asked; empty where it is asked nothing", body = Pending), Guarded),
    security(("reporter" = []), ("operator" = []), ("viewer" = []), ("releaser" = [])),
)]
pub(super) async fn pending(
    State(api): State<Shared>,
    Named(name): Named<Word>,
    reader: ReleaseReader,
    Query(Patience { wait }): Query<Patience>,
) -> Result<axum::Json<Pending>, ApiError> {
    match reader {
        ReleaseReader::Reporter(own) if own != name => {
            return Err(ApiError::Forbidden("A reporter sees what awaits itself, and no other."));
        }
        ReleaseReader::All | ReleaseReader::Reporter(_) => {}
    }
    if wait > WAIT_MAX {
        return Err(ApiError::Invalid(format!("wait must be at most {WAIT_MAX} seconds")));
    }
    let until = Instant::now() + Duration::from_secs(wait);
    // Listening begins before the first look, so that nothing falls in between.
    let mut news = api.dispatcher.store().asking_news();
    loop {
        news.mark_unchanged();
        let requests = api.asked_of(&name).await?;
        if !requests.is_empty() || Instant::now() >= until || api.stop.is_cancelled() {
            return Ok(axum::Json(Pending { requests }));
        }
        tokio::select! {
            _ = news.changed() => {}
            () = tokio::time::sleep_until(until.min(Instant::now() + LOOK_AGAIN)) => {}
            () = api.stop.cancelled() => {}
        }
    }
}

impl Api {
    /// What a reporter is asked now.
    async fn asked_of(&self, reporter: &Word) -> Result<Vec<PendingRequest>, ApiError> {
        let mut requests = Vec::new();
        for id in self.dispatcher.store().asking(reporter).await? {
            match self.dispatcher.seen_release(id).await {
                Ok(seen) => requests.extend(releases::pending(&seen, reporter)),
                // Its retention has run out in between.
                Err(ReleaseRefusal::Unknown) => {}
                Err(refusal) => return Err(refusal.into()),
            }
        }
        Ok(requests)
    }
}
