//! Environments: registered by operators, shown with what is deployed in them.

use axum::extract::State;

use super::super::auth::{Operator, Viewer};
use super::super::docs::{Guarded, NamePath, WithBody};
use super::super::error::ApiError;
use super::super::extract::{Named, Query, Text, optional_reason};
use super::super::pipelines::Why;
use super::{Shared, view};
use crate::model::ids::Word;
use crate::model::order::environment;
use crate::store::Recorded;
use crate::wire::{EnvironmentList, EnvironmentSet, EnvironmentView, Problem};

/// List environments
#[utoipa::path(
    get, path = "/api/v1/environments", tag = "orders", operation_id = "environments",
    responses((status = 200, description = "The environments", body = EnvironmentList), Guarded),
    security(("operator" = []), ("viewer" = []), ("releaser" = [])),
)]
pub(in crate::api) async fn environments(
    State(api): State<Shared>,
    _: Viewer,
) -> Result<axum::Json<EnvironmentList>, ApiError> {
    let names = api.dispatcher.store().environments().await?;
    Ok(axum::Json(EnvironmentList { environments: names.into_iter().map(Into::into).collect() }))
}

/// Show an environment
#[utoipa::path(
    get, path = "/api/v1/environments/{name}", tag = "orders", operation_id = "environment",
    params(NamePath),
    responses(
        (status = 200, description = "What is registered, and what is deployed", body = EnvironmentView),
        (status = 404, description = "There is none of that name", body = Problem, content_type = "application/problem+json"),
        Guarded,
    ),
    security(("operator" = []), ("viewer" = []), ("releaser" = [])),
)]
pub(in crate::api) async fn environment(
    State(api): State<Shared>,
    Named(name): Named<Word>,
    _: Viewer,
) -> Result<axum::Json<EnvironmentView>, ApiError> {
    Ok(axum::Json(view::environment(api.dispatcher.environment(&name).await?)))
}

/// Register an environment
///
/// The body is the file, in YAML or JSON. What is deployed stays as it is: the next order takes the change into account.
#[utoipa::path(
    put, path = "/api/v1/environments/{name}", tag = "orders", operation_id = "set_environment",
    params(NamePath, Why),
    request_body(content = String, content_type = "application/yaml"),
    responses(
        (status = 200, description = "Registered", body = EnvironmentSet),
        (status = 409, description = "There are too many", body = Problem, content_type = "application/problem+json"),
        Guarded, WithBody,
    ),
    security(("operator" = [])),
)]
pub(in crate::api) async fn set_environment(
    State(api): State<Shared>,
    Named(name): Named<Word>,
    Operator(by): Operator,
    Query(Why { reason }): Query<Why>,
    Text(text): Text,
) -> Result<axum::Json<EnvironmentSet>, ApiError> {
    let why = optional_reason(reason.as_deref())?;
    let environment = environment::read(&text).map_err(ApiError::EnvironmentFile)?;
    if environment.id != name {
        let about = &environment.id;
        return Err(ApiError::Invalid(format!("the file is about the environment {about}, and the path about {name}")));
    }
    let dispatcher = api.dispatcher.clone();
    let setting = async move {
        dispatcher.store().audit(by.as_str(), "set-environment", name.as_str(), &why).await?;
        let (new, left) = match dispatcher.register_environment(&environment, &text, by.as_str()).await? {
            (Recorded::Many(count), _) => return Err(ApiError::TooMany(count)),
            (recorded, left) => (recorded == Recorded::New, left),
        };
        tracing::info!(environment = %name, %by, "an environment was registered");
        Ok(EnvironmentSet { id: name.into(), new, left })
    };
    api.finishing(setting).await.unwrap_or_else(|what| Err(ApiError::NotReady(what))).map(axum::Json)
}
