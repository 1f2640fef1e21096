//! What goes over HTTP in v1: request and response types, shared by server, client and the OpenAPI document.
//!
//! The seed's endpoints have a form of their own, which lives with them in `api::seed`. Times are RFC 3339 in UTC with
//! milliseconds. Fields that have no value yet are left out.

mod orders;
mod releases;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::model::event::Event;
pub use crate::model::job::{Outcome, WhenBusy};
pub use crate::model::token::Role;
pub use orders::*;
pub use releases::*;

/// Milliseconds since 1970 as RFC 3339 in UTC.
pub fn time(ms: u64) -> String {
    let ms = i64::try_from(ms).unwrap_or(i64::MAX);
    let at = Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX);
    format!("{at:.3}")
}

/// Body of `POST /api/v1/apps/{deployment_id}/jobs`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JobRequest {
    /// Extra variables for the playbook; the app's entry in the feed names those it accepts.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schema(value_type = BTreeMap<String, Value>)]
    pub vars: Map<String, Value>,
    /// What to do if the inventory is taken.
    #[serde(default)]
    pub when_busy: WhenBusy,
}

/// Where a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// Waits for the deploy lock of its inventory.
    Queued,
    /// Holds the lock; its container does not run yet.
    Starting,
    /// Its container runs.
    Running,
    /// It is being ended before its time.
    Canceling,
    /// Over; `outcome` says how.
    Finished,
}

/// A job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Job {
    /// Its ULID.
    pub job_id: String,
    /// The app that it was asked for.
    pub deployment_id: String,
    /// What it deploys to.
    pub inventory: String,
    /// What its container is asked to do.
    pub action: String,
    /// Where it is.
    pub state: JobState,
    /// How it ended; there once `state` is `finished`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// The container's exit code, once seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i64>,
    /// Why it ended as it did, where the exit code does not say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it was accepted.
    pub created_at: String,
    /// When its container was started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// When its outcome was set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
    /// The fence that it was given with the lock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fence: Option<u64>,
    /// The image that its container was made from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_digest: Option<String>,
    /// Its place in the queue, counted from 1, while it waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_position: Option<u64>,
    /// The job that took its place, when `outcome` is `superseded`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub superseded_by: Option<String>,
    /// Bytes of output that can be read now.
    pub output_bytes: u64,
    /// What the container last reported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
}

/// A container's own report, with the job's token. A field that is there replaces the stored one.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Progress {
    /// The play that runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub play: Option<String>,
    /// The task that runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// Tasks begun so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tasks_done: Option<u64>,
    /// Counts per host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recap: Option<BTreeMap<String, HostRecap>>,
    /// Tasks that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failures: Option<Vec<Failure>>,
    /// What the playbook set with `set_stats`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<BTreeMap<String, Value>>)]
    pub outputs: Option<Map<String, Value>>,
}

/// Ansible's counts for one host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct HostRecap {
    /// Tasks that went well.
    pub ok: u64,
    /// Tasks that changed something.
    pub changed: u64,
    /// Times the host was not reached.
    pub unreachable: u64,
    /// Tasks that failed.
    pub failed: u64,
    /// Tasks passed over.
    pub skipped: u64,
    /// Failures that a rescue block took up.
    pub rescued: u64,
    /// Failures that were ignored.
    pub ignored: u64,
}

/// A task that failed on a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Failure {
    /// The host.
    pub host: String,
    /// The task.
    pub task: String,
    /// What Ansible said.
    pub message: String,
}

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

/// One page of jobs, newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobPage {
    /// The jobs.
    pub jobs: Vec<Job>,
    /// Give this as `cursor` to get the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// An app as it is shown: never with its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AppView {
    /// Its id.
    pub deployment_id: String,
    /// The inventory that it deploys to.
    pub inventory: String,
    /// What its container is asked to do.
    pub action: String,
    /// The variables that it accepts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub vars: BTreeMap<String, crate::model::app::VarRule>,
    /// Which ID tokens of a CI open it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub oidc: Vec<crate::model::oidc::Rule>,
}

/// The apps that may be deployed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AppList {
    /// The apps, ordered by id.
    pub apps: Vec<AppView>,
}

/// Answer to the feed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FeedTaken {
    /// Apps in the list that is now in force.
    pub apps: u64,
    /// What was passed over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// The deploy lock of one inventory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LockView {
    /// The inventory.
    pub inventory: String,
    /// The job that holds the lock; absent where the inventory is only frozen, reserved or waited for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_id: Option<String>,
    /// The holder's app.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deployment_id: Option<String>,
    /// What the holder is doing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<JobState>,
    /// When the holder got it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// How long ago that was, in seconds by Redis' clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_seconds: Option<u64>,
    /// The holder's fence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fence: Option<u64>,
    /// Why it is held still.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The release that gets the lock next, together with all others that it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reserved_for: Option<String>,
    /// Jobs that wait for it, in order.
    pub waiting: Vec<String>,
    /// The freeze in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub freeze: Option<FreezeView>,
}

/// The locks and freezes in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LockList {
    /// One entry per inventory, ordered by name.
    pub locks: Vec<LockView>,
}

/// Body of `DELETE /api/v1/locks/{inventory}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UnlockRequest {
    /// Why, for the audit log. 1 to 500 characters.
    #[schema(min_length = 1, max_length = 500, pattern = r"^[^\u0000-\u001F\u007F-\u009F]*$")]
    pub reason: String,
    /// Kill the holder's container, if it runs.
    #[serde(default)]
    pub force: bool,
    /// With `force`: the holder's container is on an engine that will not come back; the job ends `lost`. Without effect if it is on
    /// the engine connected now.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub engine_gone: bool,
}

/// Body of a request that may say why.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Because {
    /// Why, for the audit log. 1 to 500 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 500, pattern = r"^[^\u0000-\u001F\u007F-\u009F]*$")]
    pub reason: Option<String>,
}

/// Answer to `DELETE /api/v1/locks/{inventory}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Unlocked {
    /// The inventory whose lock is free now.
    pub inventory: String,
    /// The job that held it.
    pub job_id: String,
}

/// A freeze: requests for the inventory are refused (or wait) until it is lifted or expires.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FreezeView {
    /// Why.
    pub reason: String,
    /// Who froze it.
    pub by: String,
    /// When it ends by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

/// Body of `PUT /api/v1/freezes/{inventory}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FreezeRequest {
    /// Why; shown to whoever is refused. 1 to 500 characters.
    #[schema(min_length = 1, max_length = 500, pattern = r"^[^\u0000-\u001F\u007F-\u009F]*$")]
    pub reason: String,
    /// Seconds until it ends by itself; none: until it is lifted. At most a year.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 31_622_400)]
    pub expires_in: Option<u64>,
}

/// Body of `POST /api/v1/tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// Whose it is: the name that stands in the audit log.
    #[schema(pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    pub name: String,
    /// What it opens.
    pub role: Role,
    /// Groups that its bearer belongs to, for approvals.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 32)]
    pub groups: Vec<String>,
    /// Seconds until it opens nothing any more; none: until it is revoked. At most ten years.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 316_224_000)]
    pub expires_in: Option<u64>,
    /// Why, for the audit log. 1 to 500 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 500, pattern = r"^[^\u0000-\u001F\u007F-\u009F]*$")]
    pub reason: Option<String>,
}

/// Answer to `POST /api/v1/tokens`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenIssued {
    /// The token: shown this once, and kept as a hash.
    pub token: String,
    /// What it opens.
    #[serde(flatten)]
    pub view: TokenView,
}

/// A token as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenView {
    /// Whose it is.
    pub name: String,
    /// What it opens.
    pub role: Role,
    /// Groups that its bearer belongs to.
    pub groups: Vec<String>,
    /// When it was issued.
    pub issued_at: String,
    /// Who issued it.
    pub by: String,
    /// From then on it opens nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
}

/// The tokens that were issued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenList {
    /// By name.
    pub tokens: Vec<TokenView>,
}

/// A line of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditView {
    /// Its place in the log.
    #[schema(example = "1700000000000-0")]
    pub id: String,
    /// When.
    pub time: String,
    /// Who.
    pub by: String,
    /// Did what.
    pub what: String,
    /// To what.
    pub about: String,
    /// Why; empty where that was not said.
    pub reason: String,
}

/// A page of the audit log, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditPage {
    /// The lines.
    pub lines: Vec<AuditView>,
    /// Give this as `cursor` to get the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
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

/// One version of a pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PipelineView {
    /// Its name.
    pub name: String,
    /// Which version, counted from 1. A release keeps the one that it started with.
    pub version: u64,
    /// The product that its releases are versions of.
    pub product: String,
    /// The names of its stages, in order.
    pub stages: Vec<String>,
    /// Who has recorded it.
    pub by: String,
    /// When.
    pub made_at: String,
    /// The file as it was written.
    pub file: String,
}

/// Answer to `PUT /api/v1/pipelines/{name}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PipelineSet {
    /// Its name.
    pub name: String,
    /// Its newest version.
    pub version: u64,
    /// Whether that is new; otherwise it says what the file says already.
    pub new: bool,
    /// What is no mistake and perhaps not meant, such as an app that the feed does not list.
    pub warnings: Vec<String>,
}

/// A pipeline in the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PipelineEntry {
    /// Its name.
    pub name: String,
    /// Its newest version.
    pub version: u64,
}

/// The pipelines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PipelineList {
    /// By name.
    pub pipelines: Vec<PipelineEntry>,
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

/// An error as in RFC 9457; `type` is stable, `detail` says what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `urn:lockstep:error:` and a word that does not change between versions.
    #[serde(rename = "type")]
    pub kind: String,
    /// The error in general.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// What happened here, and what to do.
    pub detail: String,
    /// The job in the way, where one is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id: Option<String>,
}

/// Data of the SSE event `output`; its id is `offset` plus the bytes of `text`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OutputEvent {
    /// Byte offset at which `text` begins.
    pub offset: u64,
    /// The text.
    pub text: String,
}

impl Problem {
    /// What `kind` begins with.
    pub const PREFIX: &'static str = "urn:lockstep:error:";
}
