//! Webhooks: made, listed, replayed and removed by operators. They are sent by [`crate::webhooks`].

use axum::extract::State;
use axum::http::StatusCode;

use super::auth::{Operator, Viewer};
use super::docs::{Guarded, NamePath, WithBody};
use super::error::ApiError;
use super::extract::{Json, Named, OptionalJson, optional_reason};
use super::{Api, Shared, view};
use crate::model::event::Cursor;
use crate::model::ids::{DeploymentId, Word};
use crate::model::webhook::{self, TYPES_MAX, Webhook};
use crate::pepper;
use crate::store::Recorded;
use crate::webhooks::signing_key;
use crate::wire::{
    Because, DeadLetterList, Problem, ReplayRequest, WebhookList, WebhookRequest, WebhookSet, WebhookView,
};

/// List webhooks
#[utoipa::path(
    get, path = "/api/v1/webhooks", tag = "webhooks", operation_id = "webhooks",
    responses((status = 200, description = "The webhooks, by name, and how far each one is; never their secrets", body = WebhookList), Guarded),
    security(("operator" = []), ("viewer" = []), ("releaser" = [])),
)]
pub(super) async fn list(State(api): State<Shared>, _: Viewer) -> Result<axum::Json<WebhookList>, ApiError> {
    let webhooks = api.dispatcher.store().webhooks().await?;
    Ok(axum::Json(WebhookList { webhooks: webhooks.into_iter().map(view::webhook).collect() }))
}

/// Reads where a webhook is to go on.
async fn cursor(api: &Api, text: &str) -> Result<Cursor, ApiError> {
    let after: Cursor = text.parse().map_err(|error| ApiError::Invalid(format!("after {error}")))?;
    if after > api.dispatcher.store().newest_event().await? {
        return Err(ApiError::Invalid("after is later than the newest event; it must be the id of one, or 0-0".into()));
    }
    Ok(after)
}

/// Make or change a webhook
///
/// Events are sent as CloudEvents, signed as Standard Webhooks say, in order, at least once. A secret that is drawn is shown this once.
#[utoipa::path(
    put, path = "/api/v1/webhooks/{name}", tag = "webhooks", operation_id = "set_webhook",
    params(NamePath),
    request_body = WebhookRequest,
    responses(
        (status = 200, description = "Set", body = WebhookSet),
        (status = 409, description = "There are too many", body = Problem, content_type = "application/problem+json"),
        Guarded, WithBody,
    ),
    security(("operator" = [])),
)]
pub(super) async fn set(
    State(api): State<Shared>,
    Named(name): Named<Word>,
    Operator(by): Operator,
    Json(request): Json<WebhookRequest>,
) -> Result<axum::Json<WebhookSet>, ApiError> {
    let WebhookRequest { url, deployment_id, types, recipient, secret, after, reason } = request;
    let why = optional_reason(reason.as_deref())?;
    let invalid = |what: String| ApiError::Invalid(what);
    let url = webhook::receiver(&url, api.egress.allows_loopback()).map_err(|what| invalid(format!("url {what}")))?;
    api.egress.check(&url).map_err(|refused| invalid(format!("url: {refused}")))?;
    let deployment_id = deployment_id.map(DeploymentId::try_from).transpose();
    let deployment_id = deployment_id.map_err(|error| invalid(format!("deployment_id {error}")))?;
    let recipient = recipient.map(Word::try_from).transpose();
    let recipient = recipient.map_err(|error| invalid(format!("for {error}")))?;
    let (most, longest) = TYPES_MAX;
    let good = |kind: &String| (1..=longest).contains(&kind.len()) && kind.bytes().all(|byte| byte.is_ascii_graphic());
    if types.len() > most || !types.iter().all(good) {
        return Err(invalid(format!("types must be at most {most} texts of 1 to {longest} visible ASCII characters")));
    }
    let given = secret.map(crate::model::app::Secret::new);
    if given.as_ref().is_some_and(|secret| signing_key(secret).is_none()) {
        return Err(invalid("secret must be whsec_ and 24 to 64 bytes in base64".into()));
    }
    let after = match after {
        Some(after) => Some(cursor(&api, &after).await?),
        None => None,
    };
    let dispatcher = api.dispatcher.clone();
    let setting = async move {
        let store = dispatcher.store();
        let app = deployment_id.as_ref().map_or_else(|| "all apps".to_owned(), |app| format!("app {app}"));
        let whom = recipient.as_ref().map_or_else(String::new, |whom| format!(", what concerns {whom}"));
        let about = format!("{name}: {app}{whom} to {}", webhook::shown(&url));
        store.audit(by.as_str(), "set-webhook", &about, &why).await?;
        let replace = given.is_some();
        let secret = given.unwrap_or_else(pepper::draw_webhook_secret);
        let sealed = dispatcher.pepper().seal_webhook(&name, &secret);
        let webhook = Webhook { name: name.clone(), url, deployment_id, types, recipient };
        let drawn = match store.set_webhook(&webhook, &sealed, replace, by.as_str(), after).await? {
            Recorded::New if !replace => Some(secret.expose().to_owned()),
            Recorded::New | Recorded::Changed => None,
            Recorded::Many(count) => return Err(ApiError::TooMany(count)),
            Recorded::Taken => return Err(ApiError::NameTaken),
        };
        tracing::info!(webhook = about, %by, "a webhook was set");
        let stored = store.webhook(&name).await?.ok_or(ApiError::UnknownWebhook)?;
        Ok(WebhookSet { secret: drawn, view: view::webhook(stored) })
    };
    api.finishing(setting).await.unwrap_or_else(|what| Err(ApiError::NotReady(what))).map(axum::Json)
}

/// Remove a webhook
#[utoipa::path(
    delete, path = "/api/v1/webhooks/{name}", tag = "webhooks", operation_id = "remove_webhook",
    params(NamePath),
    request_body(content = Option<Because>, description = "May be left out"),
    responses(
        (status = 204, description = "Removed, its dead letters too"),
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
    let store = api.dispatcher.store();
    store.audit(by.as_str(), "remove-webhook", name.as_str(), &why).await?;
    if !store.remove_webhook(&name).await? {
        return Err(ApiError::UnknownWebhook);
    }
    tracing::info!(%name, %by, reason = why, "a webhook was removed");
    Ok(StatusCode::NO_CONTENT)
}

/// List dead letters
///
/// Events that were given up: the receiver was away for a day, or has refused them eight times.
#[utoipa::path(
    get, path = "/api/v1/webhooks/{name}/dead-letters", tag = "webhooks", operation_id = "dead_letters",
    params(NamePath),
    responses(
        (status = 200, description = "Oldest first: the last 1,000", body = DeadLetterList),
        (status = 404, description = "There is no webhook of that name", body = Problem, content_type = "application/problem+json"),
        Guarded,
    ),
    security(("operator" = []), ("viewer" = []), ("releaser" = [])),
)]
pub(super) async fn dead_letters(
    State(api): State<Shared>,
    Named(name): Named<Word>,
    _: Viewer,
) -> Result<axum::Json<DeadLetterList>, ApiError> {
    let store = api.dispatcher.store();
    store.webhook(&name).await?.ok_or(ApiError::UnknownWebhook)?;
    let letters = store.dead_letters(&name).await?;
    Ok(axum::Json(DeadLetterList { dead_letters: letters.into_iter().map(view::dead_letter).collect() }))
}

/// Send events once more
///
/// All that came after an event, in order; or leave out what lies before it. What was given up and is sent again is no dead letter any
/// more.
#[utoipa::path(
    post, path = "/api/v1/webhooks/{name}/replay", tag = "webhooks", operation_id = "replay",
    params(NamePath),
    request_body = ReplayRequest,
    responses(
        (status = 202, description = "Recorded; the webhook as it is now", body = WebhookView),
        (status = 404, description = "There is no webhook of that name", body = Problem, content_type = "application/problem+json"),
        Guarded, WithBody,
    ),
    security(("operator" = [])),
)]
pub(super) async fn replay(
    State(api): State<Shared>,
    Named(name): Named<Word>,
    Operator(by): Operator,
    Json(ReplayRequest { after, reason }): Json<ReplayRequest>,
) -> Result<(StatusCode, axum::Json<WebhookView>), ApiError> {
    let why = optional_reason(reason.as_deref())?;
    let after = cursor(&api, &after).await?;
    let store = api.dispatcher.store();
    store.audit(by.as_str(), "replay", &format!("{name} after {after}"), &why).await?;
    if !store.replay(&name, after).await? {
        return Err(ApiError::UnknownWebhook);
    }
    tracing::info!(%name, %after, %by, "a webhook is replayed");
    let stored = store.webhook(&name).await?.ok_or(ApiError::UnknownWebhook)?;
    Ok((StatusCode::ACCEPTED, axum::Json(view::webhook(stored))))
}
