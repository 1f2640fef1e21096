//! Pipelines: recorded in versions that are never changed.

use std::collections::BTreeSet;

use axum::extract::State;
use serde::Deserialize;

use super::auth::{Operator, Viewer};
use super::docs::{Guarded, NamePath, WithBody};
use super::error::ApiError;
use super::extract::{Named, Query, Text, optional_reason};
use super::{Api, Shared, view};
use crate::model::ids::{DeploymentId, Word};
use crate::model::pipeline::{Kind, Pipeline, file};
use crate::store::Recorded;
use crate::wire::{PipelineEntry, PipelineList, PipelineSet, PipelineView, Problem};

/// Why a pipeline is recorded.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Why {
    /// Why, for the audit log
    #[param(min_length = 1, max_length = 500)]
    pub(super) reason: Option<String>,
}

/// Which version is shown.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    /// The version; the newest unless given
    #[param(minimum = 1)]
    version: Option<u64>,
}

/// List pipelines
#[utoipa::path(
    get, path = "/api/v1/pipelines", tag = "pipelines", operation_id = "pipelines",
    responses((status = 200, description = "The pipelines, by name, with their newest versions", body = PipelineList), Guarded),
    security(("operator" = []), ("viewer" = []), ("releaser" = [])),
)]
pub(super) async fn list(State(api): State<Shared>, _: Viewer) -> Result<axum::Json<PipelineList>, ApiError> {
    let found = api.dispatcher.store().pipelines().await?.into_iter();
    let pipelines = found.map(|(name, version)| PipelineEntry { name: name.into(), version }).collect();
    Ok(axum::Json(PipelineList { pipelines }))
}

/// Show a pipeline
#[utoipa::path(
    get, path = "/api/v1/pipelines/{name}", tag = "pipelines", operation_id = "pipeline",
    params(NamePath, Which),
    responses(
        (status = 200, description = "One version of it, with its file", body = PipelineView),
        (status = 404, description = "There is none of that name, or no such version", body = Problem, content_type = "application/problem+json"),
        Guarded,
    ),
    security(("operator" = []), ("viewer" = []), ("releaser" = [])),
)]
pub(super) async fn show(
    State(api): State<Shared>,
    Named(name): Named<Word>,
    _: Viewer,
    Query(Which { version }): Query<Which>,
) -> Result<axum::Json<PipelineView>, ApiError> {
    let found = api.dispatcher.store().pipeline(&name, version).await?;
    found.map(view::pipeline).map(axum::Json).ok_or(ApiError::UnknownPipeline)
}

/// Record a pipeline
///
/// The body is the file, in YAML. It becomes a new version if it says something else than the newest one; releases keep the version that
/// they started with.
#[utoipa::path(
    put, path = "/api/v1/pipelines/{name}", tag = "pipelines", operation_id = "set_pipeline",
    params(NamePath, Why),
    request_body(content = String, content_type = "application/yaml"),
    responses(
        (status = 200, description = "Recorded, or there already", body = PipelineSet),
        (status = 409, description = "There are too many", body = Problem, content_type = "application/problem+json"),
        Guarded, WithBody,
    ),
    security(("operator" = [])),
)]
pub(super) async fn set(
    State(api): State<Shared>,
    Named(name): Named<Word>,
    Operator(by): Operator,
    Query(Why { reason }): Query<Why>,
    Text(text): Text,
) -> Result<axum::Json<PipelineSet>, ApiError> {
    let why = optional_reason(reason.as_deref())?;
    let pipeline = file::read(&text).map_err(ApiError::Pipeline)?;
    if pipeline.name != name {
        return Err(ApiError::Invalid(format!(
            "the file is about the pipeline {}, and the path about {name}",
            pipeline.name
        )));
    }
    let warnings = api.warnings(&pipeline).await?;
    let dispatcher = api.dispatcher.clone();
    let setting = async move {
        let store = dispatcher.store();
        store.audit(by.as_str(), "set-pipeline", name.as_str(), &why).await?;
        let (recorded, version) = store.set_pipeline(&pipeline, &text, by.as_str()).await?;
        if let Recorded::Many(count) = recorded {
            return Err(ApiError::TooMany(count));
        }
        tracing::info!(%name, version, %by, "a pipeline was recorded");
        Ok(PipelineSet { name: name.into(), version, new: recorded == Recorded::New, warnings })
    };
    api.finishing(setting).await.unwrap_or_else(|what| Err(ApiError::NotReady(what))).map(axum::Json)
}

impl Api {
    /// Apps of a pipeline that the feed does not list, as far as there is a list.
    async fn warnings(&self, pipeline: &Pipeline) -> Result<Vec<String>, ApiError> {
        let Some(apps) = self.dispatcher.store().apps().await? else { return Ok(vec![]) };
        let listed: BTreeSet<_> = apps.iter().map(|stored| &stored.app.deployment_id).collect();
        let deployed = pipeline.services.values().flat_map(|service| service.apps.values());
        let steps = pipeline.stages.iter().flat_map(|stage| &stage.steps);
        let run = steps.filter_map(|step| match &step.kind {
            Kind::Run { app } => Some(app),
            Kind::Deploy { .. } | Kind::Check { .. } | Kind::Approval { .. } | Kind::Soak { .. } => None,
        });
        let unknown: BTreeSet<&DeploymentId> = deployed.chain(run).filter(|app| !listed.contains(app)).collect();
        Ok(unknown.into_iter().map(|app| format!("the feed lists no app {app}")).collect())
    }
}
