//! The endpoints that existing clients use, exactly as they know them.
//!
//! A refusal is an answer with status 200 and `{"status":"error","error":"…"}`; what is not of the right form is 4xx, and trouble
//! that may pass is 429 or 503, in the same form, because these clients stop on `error` with 200 and go on otherwise.
//! `/job-status/` has a file of its own, `poll`.

use std::borrow::Cow;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Shared;
use super::apps::Force;
use super::auth::Wanted;
use super::auth::{FeedReader, Feeder, peer};
use super::docs::SeedTrouble;
use super::error::ApiError;
use super::extract::{self, BODY_MAX, FEED_MAX};
use super::poll::{Status, StatusAnswer};
use super::problem::{SeedError, SeedRefusal};
use crate::dispatch;
use crate::model::app::Secret;
use crate::model::ids::DeploymentId;
use crate::model::job::WhenBusy;

/// Body of `/app-deploy/`. Unknown fields are passed over.
#[derive(Deserialize, utoipa::ToSchema)]
pub(super) struct Credentials<'a> {
    /// The app.
    #[serde(borrow)]
    #[schema(value_type = String, pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$", example = "app-one")]
    deployment_id: Cow<'a, str>,
    /// Its secret.
    #[serde(borrow)]
    #[schema(value_type = String, example = "secret123")]
    deployment_secret: Cow<'a, str>,
}

/// The apps that may be deployed.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Available {
    inventory: Vec<AvailableApp>,
    /// Always `ok`.
    #[schema(value_type = String, pattern = "^ok$")]
    status: &'static str,
}

/// An app, without its secret.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct AvailableApp {
    deployment_id: String,
    inventory: String,
}

/// The list of apps was taken.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Taken {
    /// Always `ok`.
    #[schema(value_type = String, pattern = "^ok$")]
    status: &'static str,
    /// What was passed over.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

/// What a request for the list is answered with, or a refusal: both with 200.
#[derive(utoipa::ToSchema)]
#[schema(title = "AvailableAnswer")]
#[serde(untagged)]
#[expect(dead_code, reason = "describes the answers")]
pub(super) enum AvailableAnswer {
    /// The apps.
    Available(Available),
    /// A refusal.
    Refused(SeedRefusal),
}

/// What a new list is answered with, or a refusal: both with 200.
#[derive(utoipa::ToSchema)]
#[schema(title = "TakenAnswer")]
#[serde(untagged)]
#[expect(dead_code, reason = "describes the answers")]
pub(super) enum TakenAnswer {
    /// Taken.
    Taken(Taken),
    /// A refusal.
    Refused(SeedRefusal),
}

/// Written into a buffer of about the right size at once.
fn ok(body: &impl Serialize, size: usize) -> Response {
    let mut bytes = Vec::with_capacity(size);
    serde_json::to_writer(&mut bytes, body).expect("answers are structs of strings");
    json(Body::from(bytes))
}

pub(super) fn json(body: Body) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Reads fields that are strings. On the usual way nothing but the answer is made; what is wrong is found out afterwards, so
/// that it can be named without repeating a value, which may be a secret.
pub(super) fn read<'a, T: Deserialize<'a>>(body: &'a [u8], fields: &[&str]) -> Result<T, ApiError> {
    if body.first() == Some(&b'{')
        && let Ok(read) = serde_json::from_slice(body)
    {
        return Ok(read);
    }
    let object: Map<String, Value> = extract::parse_object(body)?;
    for field in fields {
        match object.get(*field) {
            Some(Value::String(_)) => {}
            Some(_) => return Err(ApiError::Invalid(format!("{field} must be a string"))),
            None => return Err(ApiError::Invalid(format!("{field} is missing"))),
        }
    }
    serde_json::from_slice(body).map_err(|_| ApiError::Invalid("a field stands in the body twice".into()))
}

pub(super) fn deployment_id(text: &str) -> Result<DeploymentId, ApiError> {
    text.parse().map_err(|error| ApiError::Invalid(format!("deployment_id {error}")))
}

/// Ask for a deployment
#[utoipa::path(
    post, path = "/app-deploy/", tag = "seed", operation_id = "app_deploy",
    request_body = Credentials,
    responses(
        (status = 200, description = "The job, or a refusal: wrong credentials, `App deployment is already running`, frozen", body = StatusAnswer),
        SeedTrouble,
    ),
)]
pub(super) async fn app_deploy(State(api): State<Shared>, request: Request) -> Result<Response, SeedError> {
    let (parts, body) = request.into_parts();
    let asked = async {
        let from = peer(&parts)?;
        let body = extract::body(body, BODY_MAX).await?;
        let asked: Credentials<'_> = read(&body, &["deployment_id", "deployment_secret"])?;
        let id = deployment_id(&asked.deployment_id)?;
        let door = api.dispatcher.store().door(&id, from).await?;
        let app = api.check_door(door, &id, &asked.deployment_secret, from, Wanted::App).await?;
        let request = dispatch::Request {
            app,
            secret: Some(Secret::new(asked.deployment_secret.into_owned())),
            by: format!("app {id}"),
            vars: Map::new(),
            when_busy: WhenBusy::Reject,
            idempotency_key: None,
        };
        Ok::<_, ApiError>(api.submit(request).await?.job)
    };
    let job_id = asked.await.map_err(SeedError::plain)?;
    Ok(ok(&Status { job_id, outcome: None, output: "", reason: None, status: "starting" }, 96))
}

/// Replace the list of apps
///
/// Needs the feed's, an operator's or the feed job's token, or a peer in `auth.feed_networks`.
#[utoipa::path(
    post, path = "/set-available-apps/", tag = "seed", operation_id = "set_available_apps",
    params(Force),
    request_body(content = Vec<super::apps::FeedEntry>, description = "All apps"),
    responses((status = 200, description = "Taken, or a refusal", body = TakenAnswer), SeedTrouble),
    security(("feed" = []), ("operator" = []), ()),
)]
pub(super) async fn set_available_apps(State(api): State<Shared>, request: Request) -> Result<Response, SeedError> {
    let (parts, body) = request.into_parts();
    let asked = async {
        let force = axum::extract::Query::<Force>::try_from_uri(&parts.uri).map_err(|_| {
            ApiError::Invalid("The query may hold force=true or force=false, and reason, nothing else".into())
        })?;
        let feeder = Feeder::find(&parts, &api, true).await?;
        let body = extract::body(body, FEED_MAX).await?;
        api.take_feed(&feeder, &extract::parse(&body)?, force.0).await
    };
    let taken = asked.await.map_err(SeedError::plain)?;
    Ok(ok(&Taken { status: "ok", warnings: taken.warnings }, 64))
}

/// List the apps
///
/// Never with their secrets. Needs the same rights as replacing the list.
#[utoipa::path(
    get, path = "/get-available-apps/", tag = "seed", operation_id = "get_available_apps",
    responses((status = 200, description = "The apps, or a refusal", body = AvailableAnswer), SeedTrouble),
    security(("feed" = []), ("operator" = []), ()),
)]
pub(super) async fn get_available_apps(State(api): State<Shared>, request: Request) -> Result<Response, SeedError> {
    let (parts, _) = request.into_parts();
    let asked = async {
        FeedReader::find(&parts, &api, true).await?;
        api.dispatcher.store().apps().await?.ok_or(ApiError::NoApps)
    };
    let apps = asked.await.map_err(SeedError::plain)?;
    let inventory: Vec<_> = apps
        .into_iter()
        .map(|stored| AvailableApp {
            deployment_id: stored.app.deployment_id.into(),
            inventory: stored.app.inventory.into(),
        })
        .collect();
    let size = inventory.len() * 96 + 64;
    Ok(ok(&Available { inventory, status: "ok" }, size))
}

/// A method that an endpoint does not have, in the form of these endpoints.
pub(super) async fn method_not_allowed(uri: axum::http::Uri) -> SeedError {
    if uri.path().starts_with("/job-status") {
        return SeedError::with_output(ApiError::MethodNotAllowed);
    }
    SeedError::plain(ApiError::MethodNotAllowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_of_the_wrong_form_is_named_without_its_values() {
        let read = |text: &str| {
            read::<Credentials<'_>>(text.as_bytes(), &["deployment_id", "deployment_secret"])
                .map(|read| (read.deployment_id.into_owned(), read.deployment_secret.into_owned()))
                .map_err(|error| error.face().detail.into_owned())
        };
        let good = Ok(("a".to_owned(), "s\u{e9}c".to_owned()));
        assert_eq!(read(r#"{"deployment_id":"a","deployment_secret":"séc","other":[1]}"#), good);
        assert_eq!(read(" {\"deployment_id\":\"a\",\"deployment_secret\":\"s\\u00e9c\"} \n"), good);
        for (text, part) in [
            ("", "Send a JSON document"),
            ("deployment_id=a", "Send a JSON document"),
            (r#"["a","hush-hush"]"#, "must be a JSON object"),
            (r#"{"deployment_id":"a"}"#, "deployment_secret is missing"),
            (r#"{"deployment_id":"a","deployment_secret":["hush-hush"]}"#, "deployment_secret must be a string"),
            (r#"{"deployment_id":null,"deployment_secret":"hush-hush"}"#, "deployment_id must be a string"),
            (r#"{"deployment_id":"a","deployment_secret":"hush-hush","deployment_id":"b"}"#, "twice"),
        ] {
            let error = read(text).expect_err("an error");
            assert!(error.contains(part), "{text}: {error}");
            assert!(!error.contains("hush"), "{text}: {error}");
        }
    }
}
