//! Events, and the webhooks that they go to.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::time;
use crate::model::event::Event;

/// Something that has happened: a CloudEvent 1.0 in JSON, its data a CDEvent 0.4.1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CloudEvent {
    /// Always `1.0`.
    pub specversion: String,
    /// Its place among all events, and the cursor to read on from.
    #[schema(example = "1700000000000-0")]
    pub id: String,
    /// The installation.
    #[schema(example = "/lockstep/lockstep")]
    pub source: String,
    /// What has happened.
    #[serde(rename = "type")]
    #[schema(example = "dev.cdevents.pipelinerun.finished.0.2.0")]
    pub kind: String,
    /// What it has happened to: a job's id.
    pub subject: String,
    /// When.
    pub time: String,
    /// Always `application/json`.
    pub datacontenttype: String,
    /// The CDEvent; what Lockstep itself says of the job is in `customData`.
    #[schema(value_type = Object)]
    pub data: Value,
}

impl CloudEvent {
    /// An event. `source` names the installation, `url` is where it is reached.
    pub fn new(event: &Event, source: &str, url: &str) -> Self {
        let time = time(event.at.ms());
        Self {
            specversion: "1.0".into(),
            id: event.at.to_string(),
            source: source.to_owned(),
            kind: event.kind_of_cloud_event(),
            subject: event.about.clone(),
            datacontenttype: "application/json".into(),
            data: event.cd_event(source, url, &time),
            time,
        }
    }
}

/// Body of `PUT /api/v1/webhooks/{name}`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WebhookRequest {
    /// The receiver: `https://…`.
    #[schema(max_length = 2048)]
    pub url: String,
    /// Only events of this app; none: of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
    pub deployment_id: Option<String>,
    /// Only events whose type begins with one of these; none: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 16)]
    pub types: Vec<String>,
    /// Only events that concern this person, group or reporter; none: whomever they concern.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    #[schema(pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    pub recipient: Option<String>,
    /// The key that signs: `whsec_` and 24 to 64 bytes in base64. Drawn for a new webhook, and kept for one that is there, unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// Begin after this event. Otherwise a new webhook begins with what happens next, and one that is there goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "1700000000000-0")]
    pub after: Option<String>,
    /// Why, for the audit log. 1 to 500 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 500, pattern = r"^[^\u0000-\u001F\u007F-\u009F]*$")]
    pub reason: Option<String>,
}

/// Answer to `PUT /api/v1/webhooks/{name}`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WebhookSet {
    /// The key that was drawn for it: shown this once, and kept encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// The webhook.
    #[serde(flatten)]
    pub view: WebhookView,
}

/// A webhook, and how far it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WebhookView {
    /// Its name.
    pub name: String,
    /// The receiver, without path and query, which may hold a secret.
    pub url: String,
    /// Only events of this app.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment_id: Option<String>,
    /// Only events whose type begins with one of these; empty: all.
    pub types: Vec<String>,
    /// Only events that concern this person, group or reporter.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub recipient: Option<String>,
    /// Who has made or changed it last.
    pub by: String,
    /// The last event that is dealt with.
    pub after: String,
    /// When an event last arrived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivered_at: Option<String>,
    /// Failures in a row; 0: all is well.
    pub failures: u32,
    /// Since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<String>,
    /// When the next event is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_try: Option<String>,
    /// What went wrong last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Events that were given up.
    pub dead_letters: u64,
}

/// The webhooks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WebhookList {
    /// By name.
    pub webhooks: Vec<WebhookView>,
}

/// An event that a webhook has given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeadLetterView {
    /// Which: read it at `/api/v1/events`, as long as events are kept.
    #[schema(example = "1700000000000-0")]
    pub event: String,
    /// When it was given up.
    pub given_up_at: String,
    /// Why.
    pub error: String,
}

/// The events that a webhook has given up, oldest first: the last 1,000.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeadLetterList {
    /// The events.
    pub dead_letters: Vec<DeadLetterView>,
}

/// Body of `POST /api/v1/webhooks/{name}/replay`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplayRequest {
    /// Go on after this event, which may lie behind what was sent; `0-0`: from the oldest that is kept.
    #[schema(example = "1700000000000-0", pattern = r"^[0-9]{1,20}-[0-9]{1,20}$")]
    pub after: String,
    /// Why, for the audit log. 1 to 500 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 500, pattern = r"^[^\u0000-\u001F\u007F-\u009F]*$")]
    pub reason: Option<String>,
}
