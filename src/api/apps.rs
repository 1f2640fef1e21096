//! The list of apps: checked as a whole, then swapped in one step.

use std::sync::Arc;

use axum::extract::State;
use serde::Deserialize;
use serde_json::Value;
use utoipa::openapi::Ref;
use utoipa::openapi::schema::{
    AdditionalProperties, ArrayBuilder, ObjectBuilder, OneOfBuilder, Schema, SchemaType, Type,
};

use super::auth::{FeedReader, Feeder, Operator};
use super::docs::{Guarded, WithBody};
use super::error::ApiError;
use super::extract::{FeedJson, Query, optional_reason};
use super::{Api, Shared, view};
use crate::model::app::Feed;
use crate::store::StoredApp;
use crate::wire::{AppList, FeedTaken, Problem};

/// Whether a list that shrinks sharply is meant.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Force {
    /// Take a list that is empty, or has less than half of the apps that there are now
    #[serde(default)]
    force: bool,
    /// Why, for the audit log
    #[param(min_length = 1, max_length = 500)]
    reason: Option<String>,
}

impl Feeder {
    /// For records and logs.
    fn name(&self) -> String {
        match self {
            Self::Operator(Operator(name)) => name.to_string(),
            Self::Token => "feed".to_owned(),
            Self::Job(job) => format!("job {job}"),
            Self::Peer(address) => format!("peer {address}"),
        }
    }
}

impl Api {
    /// Takes a list of apps: all of it or nothing. The secrets go no further than their hashes.
    pub(super) async fn take_feed(
        self: &Arc<Self>,
        feeder: &Feeder,
        body: &Value,
        Force { force, reason }: Force,
    ) -> Result<FeedTaken, ApiError> {
        let why = optional_reason(reason.as_deref())?;
        let feed =
            Feed::check(body, &self.dispatcher.actions(), self.oidc.http_on_loopback()).map_err(ApiError::Feed)?;
        let pepper = self.dispatcher.pepper();
        let hashed = feed.entries.into_iter().map(|entry| {
            let id = &entry.app.deployment_id;
            let hash = entry.secret.map(|secret| pepper.secret_hash(id, secret.expose()));
            StoredApp { app: entry.app, hash }
        });
        let apps: Vec<StoredApp> = hashed.collect();
        let count = apps.len() as u64;
        let this = self.clone();
        let by = feeder.name();
        let what = if force { "set-apps --force" } else { "set-apps" };
        let taking = async move {
            let store = this.dispatcher.store();
            // The audit log is written first: better a line about a change that was then refused than a change without a line.
            store.audit(&by, what, &format!("{count} apps"), &why).await?;
            store.set_apps(&apps, force).await?.map_err(ApiError::Shrunken)?;
            tracing::info!(by, apps = count, "the list of apps was replaced");
            Ok(())
        };
        self.finishing(taking).await.unwrap_or_else(|what| Err(ApiError::NotReady(what)))?;
        Ok(FeedTaken { apps: count, warnings: feed.warnings })
    }
}

/// Replace the list of apps
///
/// Swapped in one step after all of it was checked. The body is an array of `{"deployment_id", "deployment_secret", "inventory",
/// "action"?, "vars"?, "oidc"?}`; unknown fields are answered with a warning.
#[utoipa::path(
    put, path = "/api/v1/apps", tag = "apps", operation_id = "set_apps",
    params(Force),
    request_body(content = Vec<FeedEntry>, description = "All apps"),
    responses(
        (status = 200, description = "Taken", body = FeedTaken),
        (status = 409, description = "The list is empty or shrinks sharply, and force is not given", body = Problem, content_type = "application/problem+json"),
        Guarded, WithBody,
    ),
    security(("feed" = []), ("operator" = [])),
)]
pub(super) async fn set(
    State(api): State<Shared>,
    Query(force): Query<Force>,
    feeder: Feeder,
    FeedJson(body): FeedJson,
) -> Result<axum::Json<FeedTaken>, ApiError> {
    api.take_feed(&feeder, &body, force).await.map(axum::Json)
}

/// List the apps
///
/// Never with their secrets.
#[utoipa::path(
    get, path = "/api/v1/apps", tag = "apps", operation_id = "apps",
    responses((status = 200, description = "The apps", body = AppList), Guarded),
    security(("feed" = []), ("operator" = []), ("viewer" = []), ("releaser" = [])),
)]
pub(super) async fn list(State(api): State<Shared>, _: FeedReader) -> Result<axum::Json<AppList>, ApiError> {
    let apps = api.dispatcher.store().apps().await?.ok_or(ApiError::NoApps)?;
    Ok(axum::Json(AppList { apps: apps.into_iter().map(view::app).collect() }))
}

/// An entry of the list as it is posted; read by `model::app`, described here.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes a body that is read as plain JSON, so that errors can name the entry")]
pub(super) struct FeedEntry {
    /// Unique in the list.
    #[schema(pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
    deployment_id: String,
    /// 8 to 1024 bytes, without control characters. Can be left out where there is `oidc`: then no secret opens the app.
    #[schema(min_length = 8, max_length = 1024, pattern = "^[ -~]*$")]
    deployment_secret: Option<String>,
    /// What it deploys to.
    #[schema(pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
    inventory: String,
    /// One of `runner.actions`; `app-deploy` unless given.
    #[schema(pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", example = "app-deploy")]
    action: Option<String>,
    /// Variables that requests may set.
    #[schema(schema_with = vars)]
    vars: Option<()>,
    /// Which ID tokens of a CI open it.
    #[schema(schema_with = oidc)]
    oidc: Option<()>,
}

fn oidc() -> Schema {
    let text = || ObjectBuilder::new().schema_type(Type::String).min_length(Some(1)).max_length(Some(1024));
    let value = SchemaType::from_iter([Type::String, Type::Integer, Type::Boolean]);
    let values = ArrayBuilder::new().items(ObjectBuilder::new().schema_type(value.clone()));
    let values = values.min_items(Some(1)).max_items(Some(32));
    let allowed = OneOfBuilder::new().item(ObjectBuilder::new().schema_type(value)).item(values);
    let claims = ObjectBuilder::new()
        .schema_type(Type::Object)
        .description(Some("Claims, each with the value or the values that are allowed, compared exactly. One of them must pin the project: repository_id (GitHub), project_id (GitLab)."))
        .additional_properties(Some(Schema::from(allowed)))
        .max_properties(Some(32));
    let rule = ObjectBuilder::new()
        .schema_type(Type::Object)
        .property("issuer", text().description(Some("Exactly the tokens' iss: an https URL.")))
        .property("audience", text().description(Some("One of the tokens' aud.")))
        .property("claims", claims)
        .required("issuer")
        .required("audience")
        .required("claims")
        .additional_properties(Some(AdditionalProperties::<Schema>::FreeForm(false)));
    ArrayBuilder::new()
        .schema_type(SchemaType::from_iter([Type::Array, Type::Null]))
        .description(Some("ID tokens of a CI that open the app: those that fit one of these rules."))
        .items(rule)
        .min_items(Some(1))
        .max_items(Some(16))
        .into()
}

fn vars() -> Schema {
    let name = ObjectBuilder::new().schema_type(Type::String).pattern(Some("^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"));
    ObjectBuilder::new()
        .schema_type(SchemaType::from_iter([Type::Object, Type::Null]))
        .description(Some("Variables that requests may set; names that begin with ansible_ or lockstep_ are refused."))
        .property_names(Some(name))
        .additional_properties(Some(Ref::from_schema_name("VarRule")))
        .into()
}
