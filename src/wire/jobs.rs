//! Jobs: what is asked of the dispatcher, and how it goes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

pub use crate::model::job::{Outcome, WhenBusy};

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

/// One page of jobs, newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobPage {
    /// The jobs.
    pub jobs: Vec<Job>,
    /// Give this as `cursor` to get the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// Data of the SSE event `output`; its id is `offset` plus the bytes of `text`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OutputEvent {
    /// Byte offset at which `text` begins.
    pub offset: u64,
    /// The text.
    pub text: String,
}
