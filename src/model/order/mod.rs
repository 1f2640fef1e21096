//! Orders: an environment described in a file, carried out as a workflow of five tasks.
//!
//! ```text
//!  file ─▶ Spec ─▶ Plan: how it differs from what is Deployed ─▶ Order ─▶ domains ─▶ resources ─▶ variables ─▶ services ─▶ routes
//!                                                                          one job    one job      one job     one per     one job, then
//!                                                                                                              service     what is left over
//! ```
//!
//! * `file` reads what people write, with every mistake named by line and key. `environment` is what operators register: hosts, and
//!   what they hold.
//! * `plan` says what differs, and where a service that has no host yet goes.
//! * `rule` says what follows by itself: order, what is deployed, facts → what has changed, and which jobs are to be launched. It is a pure
//!   function, asked again after every change, by whichever dispatcher. What a task has still to do follows from what differs, so a
//!   task that is done is not done again, after a crash or in a retry.
//! * `command` is what people do to an order, `ends` what the end of a job means for what is deployed.
//! * This file is what is recorded: an order and what is deployed are each one JSON text, written together in one script.
//!
//! An environment carries out one order at a time. A newer one ends the one before it between tasks.

pub mod command;
mod ends;
pub mod environment;
pub mod file;
pub mod plan;
pub mod refs;
pub mod rule;
#[cfg(test)]
mod tests;
mod vars;

pub use vars::with_values;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::ids::{Inventory, JobId, NameError, Word};
use super::job::Outcome;

/// The app under which jobs of orders are recorded; no feed lists it.
pub const APP: &str = "lockstep.order";
/// The id that no service can have: its lock is that of the whole environment.
pub const WHOLE: &str = "environment";

/// Which order: an environment, and a number that grows with each of its orders. Written `3/7`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OrderId {
    /// The environment.
    pub environment: Word,
    /// The number, from 1.
    pub number: u64,
}

/// Why a text does not name an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an order is named by environment and number, such as 3/7")]
pub struct NoOrder;

impl fmt::Display for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.environment, self.number)
    }
}

impl FromStr for OrderId {
    type Err = NoOrder;

    fn from_str(text: &str) -> Result<Self, NoOrder> {
        let (environment, number) = text.rsplit_once('/').ok_or(NoOrder)?;
        let environment = environment.parse().map_err(|_: NameError| NoOrder)?;
        let number: u64 = number.parse().map_err(|_| NoOrder)?;
        let order = Self { environment, number };
        // One order has one name: no `+7`, no `007`.
        if number > 0 && order.to_string() == text { Ok(order) } else { Err(NoOrder) }
    }
}

impl TryFrom<String> for OrderId {
    type Error = NoOrder;

    fn try_from(text: String) -> Result<Self, NoOrder> {
        text.parse()
    }
}

impl From<OrderId> for String {
    fn from(id: OrderId) -> Self {
        id.to_string()
    }
}

/// What an order asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// The environment is to be as the file says: what it does not name is removed.
    Update,
    /// The services that the file names are to be removed; if it names none, all.
    Remove,
}

/// How a service is built and run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A process of Node.js.
    Node,
    /// A process of Python.
    Python,
    /// Files that `npm run build` makes.
    Angular,
    /// Files as they are in the repository.
    Static,
}

impl Kind {
    /// Whether nginx serves it: no process of its own is told anything, and no build either.
    pub fn is_files(self) -> bool {
        matches!(self, Self::Angular | Self::Static)
    }

    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Python => "python",
            Self::Angular => "angular",
            Self::Static => "static",
        }
    }
}

/// Where a service comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repository {
    /// Its address.
    pub url: String,
    /// A branch, a tag or a commit; none: what the repository shows first.
    pub revision: Option<String>,
}

/// A service as a file describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// The group of the file that it stands in, whose domains lead to it.
    pub group: Word,
    /// The beginning of the paths that lead to it: `/`, or `/core`.
    pub path: String,
    /// Where it comes from.
    pub repository: Repository,
    /// What it does for others: they are told where it is.
    pub roles: BTreeSet<Word>,
    /// The variables of the environment's vault that it is given.
    pub variables: BTreeSet<Word>,
    /// How it is built and run.
    pub kind: Kind,
    /// The room that it takes on its host, in MiB.
    pub memory: u32,
    /// Where it answers once it is up.
    pub health: String,
}

/// What a file asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// Whether to update or to remove.
    pub action: Action,
    /// The environment.
    pub environment: Word,
    /// The domains of each group.
    pub groups: BTreeMap<Word, BTreeSet<String>>,
    /// Services, by id; of [`Action::Remove`] see [`Spec::removed`].
    pub services: BTreeMap<Word, Service>,
    /// What [`Action::Remove`] names.
    pub removed: BTreeSet<Word>,
}

/// What leads to a service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Route {
    /// The domain.
    #[schema(example = "manager-api.lab.example")]
    pub domain: String,
    /// The beginning of the path. The longest that fits wins.
    #[schema(example = "/core")]
    pub path: String,
    /// The service.
    #[schema(value_type = String)]
    pub service: Word,
    /// The address of its host.
    pub address: String,
    /// Its port there.
    pub port: u16,
}

/// What runs of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// The repository's address.
    pub url: String,
    /// The commit, 40 hexadecimal digits.
    pub commit: String,
    /// How it was built.
    pub kind: Kind,
    /// Where it is asked whether it is well.
    pub health: String,
    /// What it is told that is not secret.
    pub environment: BTreeMap<String, String>,
    /// The variables of the vault that it is given.
    pub variables: BTreeSet<Word>,
    /// Where it runs: the name of the host,
    pub host: Word,
    /// its address,
    pub address: String,
    /// and the port.
    pub port: u16,
}

/// What is known of a service that is deployed, or on its way to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// The host that it was given.
    pub host: Word,
    /// The port that it was given there; none: not yet.
    pub port: Option<u16>,
    /// Whether the note of the port was found gone on the host.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unnoted: bool,
    /// The room that it takes, in MiB.
    pub memory: u32,
    /// Whether what runs may be something else than is recorded: a job that was at it did not succeed, or something of it was gone from
    /// its host.
    #[serde(default)]
    pub doubtful: bool,
    /// The variables of the vault that lie on the host for it; none: not yet.
    pub secrets: Option<BTreeSet<Word>>,
    /// What runs; none: nothing of it was ever started.
    pub running: Option<Running>,
    /// What is to run, as the job was told that is at it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begun: Option<Running>,
    /// Hosts on which it ran before it moved, and still lies.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub left_on: BTreeSet<Word>,
}

/// All that is deployed in a mode of an environment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployed {
    /// Services, by id.
    pub services: BTreeMap<Word, Placed>,
    /// What the proxy has been told: domains,
    pub domains: BTreeSet<String>,
    /// and routes.
    pub routes: BTreeSet<Route>,
    /// Whether it may have been told something else: a job that was at it did not succeed.
    #[serde(default)]
    pub routes_doubtful: bool,
    /// Which proxy that is: its host, the address, and the port.
    #[serde(default)]
    pub proxy: Option<(Word, String, u16)>,
}

/// The five tasks, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// The environment's configuration: its domain names.
    Domains,
    /// The allocation of resources: hosts and ports.
    Resources,
    /// Missing variables of the vault.
    Variables,
    /// Each service.
    Services,
    /// The proxy's routes, and what is not led to any more.
    Routes,
}

impl Task {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Domains, Self::Resources, Self::Variables, Self::Services, Self::Routes];

    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Domains => "domains",
            Self::Resources => "resources",
            Self::Variables => "variables",
            Self::Services => "services",
            Self::Routes => "routes",
        }
    }
}

/// How far a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// Its turn has not come.
    Waiting,
    /// Jobs of it run.
    Running,
    /// Done, or there was nothing to do.
    Done,
    /// Some of its jobs did not succeed.
    Failed,
}

/// What a job of an order does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// What its task does for the whole environment.
    Configure,
    /// Deploys a service.
    Deploy,
    /// Removes a service from a host.
    Remove,
}

/// A job that was run for an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Which.
    pub job: JobId,
    /// For which service; none: for the whole environment.
    pub service: Option<Word>,
    /// What it was to do.
    pub operation: Operation,
    /// On which host, if it concerns one.
    pub host: Option<Word>,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// What went wrong, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// In which try of the order, from 1.
    pub attempt: u32,
}

/// A task of an order, as far as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskRun {
    /// Which.
    pub task: Task,
    /// How far.
    pub state: TaskState,
    /// Its jobs, oldest first.
    pub runs: Vec<Run>,
}

/// Where an order is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Waits until the order before it has ended.
    Queued,
    /// Is carried out.
    Running,
    /// Is to end: its jobs are being ended.
    Canceling,
    /// All is as it says.
    Succeeded,
    /// All is as it says but for some services, which are named.
    Incomplete,
    /// A task that all depends on did not succeed.
    Failed,
    /// Somebody has ended it.
    Canceled,
    /// A newer order of the same environment took its place.
    Superseded,
}

impl State {
    /// Whether nothing more follows by itself.
    pub fn is_over(self) -> bool {
        !matches!(self, Self::Queued | Self::Running | Self::Canceling)
    }

    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Canceling => "canceling",
            Self::Succeeded => "succeeded",
            Self::Incomplete => "incomplete",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
            Self::Superseded => "superseded",
        }
    }
}

/// An order. Times are milliseconds since 1970 by Redis' clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Which.
    pub id: OrderId,
    /// The set of hosts and variables of the environment that it concerns.
    pub mode: Word,
    /// What it asks for.
    pub spec: Spec,
    /// The hosts and what belongs to them, as they were when it was begun.
    pub place: Option<environment::Mode>,
    /// The commit of each service, once it is known: a retry deploys the same.
    pub commits: BTreeMap<Word, String>,
    /// Who has given it.
    pub by: Word,
    /// When.
    pub created_ms: u64,
    /// When it was begun.
    pub started_ms: Option<u64>,
    /// When it ended.
    pub ended_ms: Option<u64>,
    /// Where it is.
    pub state: State,
    /// Why it ended so, where there is more to say.
    pub reason: Option<String>,
    /// Who has ended it.
    #[serde(default)]
    pub canceled_by: Option<Word>,
    /// Whether Redis came back older while it was carried out: nothing more of it is begun.
    #[serde(default)]
    pub overtaken: bool,
    /// How often it was begun, from 1.
    pub attempt: u32,
    /// Its tasks.
    pub tasks: Vec<TaskRun>,
}

impl Placed {
    /// Whether it is to run elsewhere than where it runs: on another host, or at another port.
    fn moves(&self) -> bool {
        self.running.as_ref().is_some_and(|runs| (&runs.host, Some(runs.port)) != (&self.host, self.port))
    }
}

impl Deployed {
    /// All of it may be otherwise than is recorded: each service is deployed anew, with its variables, and the proxy is told all.
    pub fn doubt(&mut self) {
        self.routes_doubtful = true;
        for placed in self.services.values_mut() {
            placed.doubtful = true;
            placed.secrets = None;
        }
    }
}

impl Order {
    /// A new one.
    pub fn new(id: OrderId, mode: Word, spec: Spec, by: Word, created_ms: u64) -> Self {
        let tasks = Task::ALL.map(|task| TaskRun { task, state: TaskState::Waiting, runs: Vec::new() });
        Self {
            id,
            mode,
            spec,
            place: None,
            commits: BTreeMap::new(),
            by,
            created_ms,
            started_ms: None,
            ended_ms: None,
            state: State::Queued,
            reason: None,
            canceled_by: None,
            overtaken: false,
            attempt: 1,
            tasks: tasks.into(),
        }
    }

    /// Whether it says all of its mode, so that older ones give way to it: not where it removes some services, nor where it was ended
    /// before it began.
    pub fn says_all(&self) -> bool {
        let whole = self.spec.action == Action::Update || self.spec.removed.is_empty();
        whole && (self.started_ms.is_some() || !self.state.is_over())
    }

    /// The jobs whose end it waits for.
    pub fn busy_jobs(&self) -> Vec<JobId> {
        self.busy_locks().into_iter().map(|(job, _)| job).collect()
    }

    /// The jobs whose end it waits for, each with its lock.
    pub fn busy_locks(&self) -> Vec<(JobId, Inventory)> {
        let runs = self.tasks.iter().flat_map(|task| &task.runs).filter(|run| run.outcome.is_none());
        runs.map(|run| (run.job, lock(&self.id.environment, run.service.as_ref()))).collect()
    }

    /// The last run for each service that did not succeed, in this attempt.
    pub fn failures(&self) -> Vec<&Run> {
        let runs = self.tasks.iter().flat_map(|task| &task.runs).filter(|run| run.attempt == self.attempt);
        runs.filter(|run| run.outcome.is_some_and(|outcome| outcome != Outcome::Succeeded)).collect()
    }
}

/// The lock of a service, or of the whole environment.
pub fn lock(environment: &Word, service: Option<&Word>) -> Inventory {
    let service = service.map_or(WHOLE, Word::as_str);
    // Two names of at most 64 characters each.
    Inventory::of_environment(environment, service)
}
