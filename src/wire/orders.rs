//! Orders, their plans, and environments.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Outcome;
pub use crate::model::order::environment::Mode as ModeRegistration;
pub use crate::model::order::plan::Change;
pub use crate::model::order::{
    Action as OrderAction, Kind as ServiceKind, Operation as OrderOperation, Route, State as OrderState, Task,
    TaskState,
};

/// What an order would do to a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlannedService {
    /// The service.
    pub id: String,
    /// What would be done to it.
    pub change: Change,
    /// The host that it is on afterwards, or is removed from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Its port there, if it has one yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// What differs, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub why: Vec<String>,
}

/// A way to a service: what leads to it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub struct WayView {
    /// The domain.
    pub domain: String,
    /// The beginning of the path.
    pub path: String,
    /// The service.
    pub service: String,
}

/// What is new, and what goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DomainChanges {
    /// What is new.
    pub add: Vec<String>,
    /// What goes.
    pub remove: Vec<String>,
}

/// What is new or leads elsewhere, and what goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RouteChanges {
    /// What is new or leads elsewhere.
    pub add: Vec<WayView>,
    /// What goes.
    pub remove: Vec<WayView>,
}

/// How an order differs from what is deployed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlanView {
    /// The environment.
    pub environment: String,
    /// The set of its hosts and variables.
    pub mode: String,
    /// Whether to update or to remove.
    pub action: OrderAction,
    /// Each service that is or is to be there, by id.
    pub services: Vec<PlannedService>,
    /// Domains.
    pub domains: DomainChanges,
    /// Routes.
    pub routes: RouteChanges,
    /// Variables of the vault that would be drawn.
    pub generate: Vec<String>,
    /// Why it cannot be carried out; empty: it can.
    pub problems: Vec<String>,
    /// What could not be looked at from here, and is when the order is carried out.
    pub unchecked: Vec<String>,
}

/// A job that was run for an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OrderJobView {
    /// The job, which has the output.
    pub job_id: String,
    /// For which service; absent: for the whole environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// What it does.
    pub operation: OrderOperation,
    /// On which host, if it concerns one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// How it ended; absent: it has not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// What went wrong, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// What it waits for before it begins, in words: a freeze, or another job that has its lock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
    /// In which attempt at the order, from 1.
    pub attempt: u32,
}

/// A task of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TaskView {
    /// Which.
    pub task: Task,
    /// How far it is.
    pub state: TaskState,
    /// Its jobs, oldest first.
    pub jobs: Vec<OrderJobView>,
}

/// An order in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OrderSummary {
    /// Environment and number, such as `3/7`.
    pub id: String,
    /// The environment.
    pub environment: String,
    /// The number of the order in it, from 1.
    pub number: u64,
    /// The set of hosts and variables.
    pub mode: String,
    /// Whether to update or to remove.
    pub action: OrderAction,
    /// Where it is.
    pub state: OrderState,
    /// Why it ended so, where there is more to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The task that is carried out, from 1; absent: none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<usize>,
    /// Services that the order names.
    pub services: usize,
    /// Those of them that are as ordered.
    pub services_done: usize,
    /// Who has given it.
    pub by: String,
    /// When.
    pub created_at: String,
    /// When it was begun last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
}

/// An order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OrderView {
    /// What a list says of it.
    #[serde(flatten)]
    pub summary: OrderSummary,
    /// How often it was written: with `after`, a newer one is waited for.
    pub revision: u64,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// The five tasks, in order.
    pub tasks: Vec<TaskView>,
    /// The commit of each service, once it is known.
    pub commits: BTreeMap<String, String>,
    /// Services whose last job in this attempt did not succeed.
    pub failed: Vec<String>,
}

/// Orders by environment, newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OrderList {
    /// The orders.
    pub orders: Vec<OrderSummary>,
    /// Those that are there and cannot be read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreadable: Vec<String>,
}

/// Body of what is done to an order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OrderMove {
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 500)]
    pub reason: Option<String>,
}

/// A service that is deployed, or on its way to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeployedService {
    /// The service.
    pub id: String,
    /// Its host.
    pub host: String,
    /// Its port there; absent: not yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The room that it takes there, in MiB.
    pub memory: u32,
    /// What runs: the repository,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// and the commit; absent: it was never started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// How it is built and run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(rename = "type")]
    pub kind: Option<ServiceKind>,
    /// Whether something else may run than is said here: a job that was at it did not succeed, or something of it was gone from its host.
    pub doubtful: bool,
}

/// A mode of an environment: what is registered, and what is deployed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ModeView {
    /// What is registered.
    #[serde(flatten)]
    pub registration: ModeRegistration,
    /// What is deployed, by id.
    pub services: Vec<DeployedService>,
    /// Domains that the proxy knows.
    pub domains: Vec<String>,
    /// Its routes.
    pub routes: Vec<Route>,
    /// Names of the variables in its vault; the values are never shown.
    pub vault: Vec<String>,
}

/// An environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EnvironmentView {
    /// Its id.
    pub id: String,
    /// Its modes.
    pub modes: BTreeMap<String, ModeView>,
    /// The number of its newest order; 0: it had none.
    pub newest_order: u64,
    /// The number of the order that is carried out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running_order: Option<u64>,
    /// The file as it was written.
    pub file: String,
    /// Who has registered it.
    pub by: String,
    /// When.
    pub made_at: String,
}

/// An environment that was registered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EnvironmentSet {
    /// Its id.
    pub id: String,
    /// Whether it is new.
    pub new: bool,
    /// What lies on machines that it does not name any more, in words: no order gets there.
    #[serde(default)]
    pub left: Vec<String>,
}

/// The environments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EnvironmentList {
    /// Their ids, in order.
    pub environments: Vec<String>,
}
