//! Apps, and the locks and freezes of their inventories.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::JobState;

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
