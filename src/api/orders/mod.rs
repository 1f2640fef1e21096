//! Orders: planned, given, followed, ended and tried again.

mod environments;
mod view;

use std::time::Duration;

use axum::extract::{FromRequestParts, Path, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use serde::Deserialize;
use tokio::time::Instant;

pub(super) use environments::*;

use super::auth::{Releaser, Viewer};
use super::docs::{Guarded, WithBody};
use super::error::ApiError;
use super::events::LOOK_AGAIN;
use super::extract::{OptionalJson, Query, Text, optional_reason, optional_word, word};
use super::jobs::Ask;
use super::problem::answer;
use super::{Api, Shared};
use crate::dispatch::{NewOrder, OrderCommand, OrderRefusal};
use crate::model::ids::Word;
use crate::model::order::{OrderId, Spec, file};
use crate::store::StoredOrder;
use crate::wire::{OrderList, OrderMove, OrderView, PlanView, Problem};

/// The longest that an answer is waited for, in seconds.
const WAIT_MAX: u64 = 60;
/// The most orders of an environment that are listed,
const LIMIT_MAX: usize = 200;
/// and of each, if no environment is named.
const LIMIT_OF_ALL: usize = 20;

/// The order in a path.
pub(super) struct Ordered(OrderId);

impl FromRequestParts<Shared> for Ordered {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &Shared) -> Result<Self, ApiError> {
        let read = Path::<(String, String)>::from_request_parts(parts, state).await;
        let Path((environment, number)) = read.map_err(|_| ApiError::Invalid("The path is not UTF-8".into()))?;
        let id = format!("{environment}/{number}").parse();
        id.map(Self)
            .map_err(|error: crate::model::order::NoOrder| ApiError::Invalid(format!("The path is wrong: {error}")))
    }
}

/// The order in a path.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "describes parameters that `Ordered` reads")]
pub(super) struct OrderPath {
    /// The environment
    #[param(pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", example = "3")]
    environment: String,
    /// The number of the order in it
    #[param(minimum = 1)]
    number: u64,
}

/// The mode that an order is for.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct For {
    /// The set of hosts and variables of the environment
    #[param(pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", example = "production")]
    mode: String,
}

/// The mode that an order is given anew for.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Anew {
    /// The set of hosts and variables of the environment; that of the older order unless given
    #[param(pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    mode: Option<String>,
}

/// Which orders are listed.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    /// Only of this environment
    #[param(pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    environment: Option<String>,
    /// At most so many of each environment, the newest ones; 20 unless given, which is the most if no environment is named
    #[param(minimum = 1, maximum = 200)]
    limit: Option<usize>,
}

/// How long to wait for something newer.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Newer {
    /// A revision: a newer one is waited for
    after: Option<u64>,
    /// Seconds to wait for it; 0 unless given
    #[serde(default)]
    #[param(minimum = 0, maximum = 60)]
    wait: u64,
}

fn read(text: &str) -> Result<Spec, ApiError> {
    file::read(text).map_err(ApiError::OrderFile)
}

/// Plan an order
///
/// What it would change, and why it could not be carried out. Nothing is changed. The body is the file, in YAML or JSON.
#[utoipa::path(
    post, path = "/api/v1/orders/plan", tag = "orders", operation_id = "plan_order",
    params(For),
    request_body(content = String, content_type = "application/yaml"),
    responses(
        (status = 200, description = "How it differs from what is deployed", body = PlanView),
        (status = 404, description = "There is no such environment, or no such mode of it", body = Problem, content_type = "application/problem+json"),
        Guarded, WithBody,
    ),
    security(("operator" = []), ("releaser" = [])),
)]
pub(super) async fn plan(
    State(api): State<Shared>,
    // A plan has repositories asked: not for those who only look.
    _: Releaser,
    Query(For { mode }): Query<For>,
    Text(text): Text,
) -> Result<axum::Json<PlanView>, ApiError> {
    let (spec, mode) = (read(&text)?, word("mode", mode)?);
    api.planned(&spec, &mode).await.map(axum::Json)
}

/// Give an order
///
/// It is carried out as five tasks, after the one that is carried out now has come to the end of its task. The body is the file, in YAML or
/// JSON. Answered as soon as it is recorded; refused, with nothing touched, where the plan shows that it cannot be carried out.
#[utoipa::path(
    post, path = "/api/v1/orders", tag = "orders", operation_id = "give_order",
    params(
        For,
        ("Idempotency-Key" = Option<String>, Header, pattern = "^[!-~]{1,255}$",
            description = "A name for this very request: repeated within a day, it is answered with the same order"),
    ),
    request_body(content = String, content_type = "application/yaml"),
    responses(
        (status = 202, description = "Recorded", body = OrderView, headers(("Location" = String, description = "The order"))),
        (status = 404, description = "There is no such environment, or no such mode of it", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "It cannot be carried out", body = Problem, content_type = "application/problem+json"),
        Guarded, WithBody,
    ),
    security(("operator" = []), ("releaser" = [])),
)]
pub(super) async fn give(
    State(api): State<Shared>,
    Releaser(by): Releaser,
    Query(For { mode }): Query<For>,
    ask: Ask,
    Text(text): Text,
) -> Result<Response, ApiError> {
    let (spec, mode) = (read(&text)?, word("mode", mode)?);
    api.give(NewOrder { spec, file: text, mode, by, idempotency_key: ask.idempotency_key }).await
}

/// Give an older order anew
///
/// What its file says, as a new order.
#[utoipa::path(
    post, path = "/api/v1/orders/{environment}/{number}/again", tag = "orders", operation_id = "give_order_again",
    params(
        OrderPath, Anew,
        ("Idempotency-Key" = Option<String>, Header, pattern = "^[!-~]{1,255}$",
            description = "A name for this very request: repeated within a day, it is answered with the same order"),
    ),
    responses(
        (status = 202, description = "Recorded", body = OrderView, headers(("Location" = String, description = "The order"))),
        (status = 404, description = "There is no such order, or no such mode", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "It cannot be carried out", body = Problem, content_type = "application/problem+json"),
        Guarded,
    ),
    security(("operator" = []), ("releaser" = [])),
)]
pub(super) async fn again(
    State(api): State<Shared>,
    Ordered(id): Ordered,
    Releaser(by): Releaser,
    Query(Anew { mode }): Query<Anew>,
    ask: Ask,
) -> Result<Response, ApiError> {
    let mode = optional_word("mode", mode)?;
    let older = api.dispatcher.seen_order(&id).await?;
    let file = api.dispatcher.store().order_file(&id).await?.ok_or(ApiError::UnknownOrder)?;
    let mode = mode.unwrap_or(older.order.mode);
    api.give(NewOrder { spec: read(&file)?, file, mode, by, idempotency_key: ask.idempotency_key }).await
}

/// List orders
#[utoipa::path(
    get, path = "/api/v1/orders", tag = "orders", operation_id = "orders",
    params(Filter),
    responses(
        (status = 200, description = "Orders by environment, newest first", body = OrderList),
        (status = 404, description = "There is no such environment", body = Problem, content_type = "application/problem+json"),
        Guarded,
    ),
    security(("operator" = []), ("viewer" = []), ("releaser" = [])),
)]
pub(super) async fn list(
    State(api): State<Shared>,
    _: Viewer,
    Query(Filter { environment, limit }): Query<Filter>,
) -> Result<axum::Json<OrderList>, ApiError> {
    let limit = limit.unwrap_or(LIMIT_OF_ALL);
    match environment {
        Some(_) if !(1..=LIMIT_MAX).contains(&limit) => {
            return Err(ApiError::Invalid(format!("limit must be 1 to {LIMIT_MAX}")));
        }
        None if !(1..=LIMIT_OF_ALL).contains(&limit) => {
            return Err(ApiError::Invalid(format!(
                "limit must be 1 to {LIMIT_OF_ALL}, unless an environment is named"
            )));
        }
        Some(_) | None => {}
    }
    let store = api.dispatcher.store();
    let named = optional_word("environment", environment)?;
    let environments = match &named {
        Some(environment) => vec![environment.clone()],
        None => store.environments().await?.into_iter().collect(),
    };
    let mut list = OrderList::default();
    let newest = store.newest_orders(&environments).await?;
    for (environment, newest) in environments.into_iter().zip(newest) {
        let newest = match newest {
            Some(newest) => newest,
            None if named.is_some() => return Err(OrderRefusal::UnknownEnvironment(environment).into()),
            // It was there when they were named.
            None => continue,
        };
        let numbers = (1..=newest).rev().take(limit);
        let ids: Vec<OrderId> = numbers.map(|number| OrderId { environment: environment.clone(), number }).collect();
        for (id, read) in store.orders(&ids).await? {
            match read {
                Ok(stored) => list.orders.push(view::summary(&stored)),
                Err(error) => {
                    tracing::error!(order = %id, %error, "an order cannot be listed");
                    list.unreadable.push(id.to_string());
                }
            }
        }
    }
    Ok(axum::Json(list))
}

/// Show an order
#[utoipa::path(
    get, path = "/api/v1/orders/{environment}/{number}", tag = "orders", operation_id = "order",
    params(OrderPath, Newer),
    responses(
        (status = 200, description = "The order, its tasks and its jobs", body = OrderView),
        (status = 404, description = "There is no such order", body = Problem, content_type = "application/problem+json"),
        Guarded,
    ),
    security(("operator" = []), ("viewer" = []), ("releaser" = [])),
)]
pub(super) async fn show(
    State(api): State<Shared>,
    Ordered(id): Ordered,
    _: Viewer,
    Query(Newer { after, wait }): Query<Newer>,
) -> Result<axum::Json<OrderView>, ApiError> {
    if wait > WAIT_MAX {
        return Err(ApiError::Invalid(format!("wait must be at most {WAIT_MAX} seconds")));
    }
    let until = Instant::now() + Duration::from_secs(wait);
    // Listening begins before the first look, so that nothing falls in between.
    let mut news = api.dispatcher.store().any_order_news();
    loop {
        news.mark_unchanged();
        let stored = api.dispatcher.seen_order(&id).await?;
        let newer = after.is_none_or(|after| stored.revision > after);
        if newer || Instant::now() >= until || api.stop.is_cancelled() {
            let waits = api.dispatcher.store().waits(&stored.order.busy_locks()).await?;
            return Ok(axum::Json(view::order(&stored, &waits)));
        }
        tokio::select! {
            _ = news.changed() => {}
            () = tokio::time::sleep_until(until.min(Instant::now() + LOOK_AGAIN)) => {}
            () = api.stop.cancelled() => {}
        }
    }
}

/// Show the file of an order
#[utoipa::path(
    get, path = "/api/v1/orders/{environment}/{number}/file", tag = "orders", operation_id = "order_file",
    params(OrderPath),
    responses(
        (status = 200, description = "As it was given", body = String, content_type = "application/yaml"),
        (status = 404, description = "There is no such order", body = Problem, content_type = "application/problem+json"),
        Guarded,
    ),
    security(("operator" = []), ("viewer" = []), ("releaser" = [])),
)]
pub(super) async fn file_of(State(api): State<Shared>, Ordered(id): Ordered, _: Viewer) -> Result<Response, ApiError> {
    let text = api.dispatcher.store().order_file(&id).await?.ok_or(ApiError::UnknownOrder)?;
    let mut response = Response::new(text.into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/yaml"));
    Ok(response)
}

/// End an order
///
/// Its jobs are ended, and nothing more of it is begun. What was done stays.
#[utoipa::path(
    post, path = "/api/v1/orders/{environment}/{number}/cancel", tag = "orders", operation_id = "cancel_order",
    params(OrderPath),
    request_body(content = Option<OrderMove>, description = "May be left out"),
    responses(
        (status = 202, description = "Recorded", body = OrderView),
        (status = 404, description = "There is no such order", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "It has ended", body = Problem, content_type = "application/problem+json"),
        Guarded, WithBody,
    ),
    security(("operator" = []), ("releaser" = [])),
)]
pub(super) async fn cancel(
    State(api): State<Shared>,
    Ordered(id): Ordered,
    Releaser(by): Releaser,
    OptionalJson(OrderMove { reason }): OptionalJson<OrderMove>,
) -> Result<Response, ApiError> {
    let reason = optional_reason(reason.as_deref())?;
    api.change_order(id, "cancel-order", by.clone(), reason.clone(), OrderCommand::Cancel { by, reason }).await
}

/// Try an order again
///
/// What has not succeeded, and what follows it.
#[utoipa::path(
    post, path = "/api/v1/orders/{environment}/{number}/retry", tag = "orders", operation_id = "retry_order",
    params(OrderPath),
    request_body(content = Option<OrderMove>, description = "May be left out"),
    responses(
        (status = 202, description = "Recorded", body = OrderView),
        (status = 404, description = "There is no such order", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "There is nothing to try again", body = Problem, content_type = "application/problem+json"),
        Guarded, WithBody,
    ),
    security(("operator" = []), ("releaser" = [])),
)]
pub(super) async fn retry(
    State(api): State<Shared>,
    Ordered(id): Ordered,
    Releaser(by): Releaser,
    OptionalJson(OrderMove { reason }): OptionalJson<OrderMove>,
) -> Result<Response, ApiError> {
    let reason = optional_reason(reason.as_deref())?;
    api.change_order(id, "retry-order", by.clone(), reason.clone(), OrderCommand::Retry { by, reason }).await
}

impl Api {
    /// The plan, with what the repositories say.
    async fn planned(&self, spec: &Spec, mode: &Word) -> Result<PlanView, ApiError> {
        // The environment first: nobody is asked for an order that concerns none.
        self.dispatcher.plan_order(spec, mode, &Default::default()).await?;
        let seen = self.repositories.look(spec).await;
        let (mut plan, _) = self.dispatcher.plan_order(spec, mode, &seen.commits).await?;
        plan.problems.extend(seen.problems);
        Ok(view::plan(spec, mode, plan, seen.unchecked))
    }

    async fn give(&self, new: NewOrder) -> Result<Response, ApiError> {
        // A request that comes again is answered with its order, whatever the repositories say by now.
        if new.idempotency_key.is_none() || !self.dispatcher.was_given(&new).await? {
            let plan = self.planned(&new.spec, &new.mode).await?;
            if !plan.problems.is_empty() {
                return Err(ApiError::OrderRefused(plan.problems.join("; ")));
            }
        }
        let dispatcher = self.dispatcher.clone();
        let giving = async move {
            let about = format!("{} {}", new.spec.environment, new.mode);
            dispatcher.store().audit(new.by.as_str(), "give-order", &about, "").await?;
            let stored = dispatcher.give_order(new).await?;
            Ok::<_, ApiError>(stored)
        };
        let stored = self.finishing(giving).await.unwrap_or_else(|what| Err(ApiError::NotReady(what)))?;
        Ok(accepted(&stored))
    }

    async fn change_order(
        &self,
        id: OrderId,
        what: &'static str,
        by: Word,
        reason: String,
        command: OrderCommand,
    ) -> Result<Response, ApiError> {
        let dispatcher = self.dispatcher.clone();
        let changing = async move {
            // No line about an order that there never was.
            dispatcher.seen_order(&id).await?;
            dispatcher.store().audit(by.as_str(), what, &id.to_string(), &reason).await?;
            let stored = dispatcher.change_order(&id, &command).await?;
            Ok::<_, ApiError>(stored)
        };
        let stored = self.finishing(changing).await.unwrap_or_else(|what| Err(ApiError::NotReady(what)))?;
        Ok(accepted(&stored))
    }
}

fn accepted(stored: &StoredOrder) -> Response {
    let mut response = answer(StatusCode::ACCEPTED, "application/json", &view::order(stored, &Default::default()));
    if let Ok(location) = HeaderValue::try_from(format!("/api/v1/orders/{}", stored.order.id)) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}
