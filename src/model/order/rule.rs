//! What follows by itself for an order: the whole rule, without I/O and clock.
//!
//! [`advance`] is asked after every change and whenever something that it waits for may have happened. It takes order and what is
//! deployed as far as the [`Facts`] allow, and says in a [`Change`] what is to be carried out together with the recording of them. Asked
//! again with the same facts it changes nothing.
//!
//! ```text
//!  domains    one job: every repository and host is reached, nothing else is touched before; the commits are known from then on
//!  resources  one job, if a service has no port yet, or its host does not know it any more
//!  variables  one job, if a service has not what the vault has for it; what is missing in the vault is drawn before
//!  services   one job for each that differs, so many at a time; one that fails does not hold up the others
//!  routes     one job, if routes or domains differ; then one for each service that is left over somewhere
//! ```
//!
//! What a task has to do follows from what differs between order and what is deployed, not from what was done before: so a task that is
//! done is not done again. Each job is tried once in an attempt; another attempt is somebody's word ([`retry`](super::command::retry)).
//!
//! The first three tasks and the routes are what all services depend on: if one of their jobs does not succeed, the order has failed. A
//! service that does not succeed leaves the order incomplete.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::ends::forget;
use super::environment::Mode;
use super::plan::{another_proxy, differences, domains, gone, place, routes, running};
use super::{Deployed, Operation, Order, Placed, Run, Running, State, Task, TaskRun, TaskState, lock, vars};
use crate::model::ids::{Inventory, JobId, Word};
use crate::model::job::Outcome;
use crate::model::release::rule::Ended;

/// An order whose jobs run is looked at so often even if nobody says that they have ended, in milliseconds.
const LOOK_AGAIN_MS: u64 = 30_000;
/// Why no job is begun that needs a variable which cannot be read.
const SEALED: &str =
    "a variable of the vault cannot be read; was the pepper changed? Put it back, and try the order again";
/// What is known besides the order and what is deployed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// Milliseconds since 1970.
    pub now_ms: u64,
    /// The number of the newest order that says all of the mode ([`Order::says_all`]); 0: there is none.
    pub newest: u64,
    /// The number of the order that holds the environment.
    pub holder: Option<u64>,
    /// The mode as it is registered now.
    pub mode: Option<Mode>,
    /// The variables that the vault of the mode has.
    pub vault: BTreeSet<Word>,
    /// Of the jobs whose end the order waits for, those that have ended.
    pub ended: BTreeMap<JobId, Ended>,
    /// How many services are deployed at a time.
    pub parallel: usize,
    /// Whether Redis came back older since the order was written.
    pub older: bool,
    /// Whether a variable of the vault that a job would need cannot be read: no job that needs one is begun.
    pub sealed: bool,
}

/// An event to be told.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    /// What has happened, such as `services.finished`.
    pub what: String,
    /// What is to be said of it.
    pub data: Map<String, Value>,
}

/// A job to be launched.
#[derive(Debug, Clone, PartialEq)]
pub struct Launch {
    /// Its id.
    pub job: JobId,
    /// Its lock.
    pub lock: Inventory,
    /// What it is to do.
    pub action: &'static str,
    /// Its variables, without the values of the vault.
    pub vars: Map<String, Value>,
    /// Which values of the vault each service is to be given by it.
    pub values: BTreeMap<Word, BTreeSet<Word>>,
}

/// What is to be carried out in the step that records the order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Change {
    /// In order.
    pub told: Vec<Told>,
    /// Each gets its lock, or waits for it.
    pub launches: Vec<Launch>,
    /// Variables of the vault to be drawn.
    pub generate: BTreeSet<Word>,
    /// Jobs that are to end.
    pub cancel: Vec<JobId>,
}

/// Takes an order as far as the facts allow. `draw` gives ids for jobs.
pub fn advance(order: &mut Order, deployed: &mut Deployed, facts: &Facts, draw: &mut dyn FnMut() -> JobId) -> Change {
    let mut rule = Rule { facts, draw, change: Change::default() };
    rule.take_ends(order, deployed);
    while rule.go_on(order, deployed) {}
    rule.change
}

/// When it is to be looked at again although nothing has happened; none: never.
pub fn due_ms(order: &Order, now_ms: u64) -> Option<u64> {
    (!order.state.is_over()).then_some(now_ms + LOOK_AGAIN_MS)
}

/// Whether it holds its environment.
pub fn holds(order: &Order) -> bool {
    matches!(order.state, State::Running | State::Canceling)
}

pub(super) fn told(what: &str, data: Value) -> Told {
    let data = match data {
        Value::Object(data) => data,
        _ => Map::new(),
    };
    Told { what: what.to_owned(), data }
}

pub(super) struct Rule<'a> {
    pub(super) facts: &'a Facts,
    draw: &'a mut dyn FnMut() -> JobId,
    change: Change,
}

/// What a step of a task has come to.
enum Step {
    /// Jobs run.
    Waits,
    /// There is nothing more to do; whether all of it succeeded.
    Done(bool),
    /// It cannot go on, and with it the order.
    Failed(String),
}

impl Rule<'_> {
    pub(super) fn tell(&mut self, what: &str, data: Value) {
        self.change.told.push(told(what, data));
    }

    fn go_on(&mut self, order: &mut Order, deployed: &mut Deployed) -> bool {
        match order.state {
            State::Queued if self.facts.newest > order.id.number => self.end(
                order,
                State::Superseded,
                Some(format!("order {}/{} is newer", order.id.environment, self.facts.newest)),
            ),
            State::Queued if self.facts.holder.is_none_or(|holder| holder == order.id.number) => {
                self.begin(order, deployed);
                true
            }
            State::Queued => false,
            State::Canceling => {
                self.change.cancel = order.busy_jobs();
                self.change.cancel.is_empty() && {
                    for task in order.tasks.iter_mut().filter(|task| task.state == TaskState::Running) {
                        task.state = TaskState::Failed;
                    }
                    let reason = order.reason.clone();
                    self.end(order, State::Canceled, reason)
                }
            }
            State::Running => self.carry_out(order, deployed),
            State::Succeeded | State::Incomplete | State::Failed | State::Canceled | State::Superseded => false,
        }
    }

    fn begin(&mut self, order: &mut Order, deployed: &mut Deployed) {
        order.state = State::Running;
        order.started_ms = Some(self.facts.now_ms);
        self.tell("started", json!({"attempt": order.attempt}));
        let Some(mode) = self.facts.mode.clone() else {
            let reason = format!("environment {} has no mode {} any more", order.id.environment, order.mode);
            self.end(order, State::Failed, Some(reason));
            return;
        };
        let mut placed = deployed.clone();
        let problems = place(&order.spec, &mode, &mut placed);
        order.place = Some(mode);
        if problems.is_empty() {
            *deployed = placed;
        } else {
            self.end(order, State::Failed, Some(problems.join("; ")));
        }
    }

    fn end(&mut self, order: &mut Order, state: State, reason: Option<String>) -> bool {
        order.state = state;
        order.ended_ms = Some(self.facts.now_ms);
        order.reason = reason;
        let good = matches!(state, State::Succeeded);
        self.tell(
            "finished",
            json!({"state": state, "reason": order.reason, "attempt": order.attempt, "result": result(good)}),
        );
        true
    }

    fn carry_out(&mut self, order: &mut Order, deployed: &mut Deployed) -> bool {
        let Some(mode) = order.place.clone() else { return false };
        order.overtaken |= self.facts.older;
        if order.overtaken {
            if !order.busy_jobs().is_empty() {
                return false;
            }
            deployed.doubt();
            let reason = "Redis came back older than it was; try it again, which compares anew".to_owned();
            return self.end(order, State::Failed, Some(reason));
        }
        let over = |state: TaskState| matches!(state, TaskState::Done | TaskState::Failed);
        let Some(at) = order.tasks.iter().position(|task| !over(task.state)) else {
            let failed: BTreeSet<String> =
                order.failures().iter().filter_map(|run| run.service.as_ref().map(ToString::to_string)).collect();
            if failed.is_empty() {
                return self.end(order, State::Succeeded, None);
            }
            let all: Vec<String> = failed.into_iter().collect();
            let reason =
                format!("not as ordered: {} {}", if all.len() == 1 { "service" } else { "services" }, all.join(", "));
            return self.end(order, State::Incomplete, Some(reason));
        };
        let task = order.tasks[at].task;
        let newer = self.facts.newest > order.id.number;
        if order.tasks[at].state == TaskState::Waiting {
            if newer {
                return self.superseded(order);
            }
            order.tasks[at].state = TaskState::Running;
            self.tell(&format!("{}.started", task.word()), json!({"task": task, "n": at + 1, "of": Task::ALL.len()}));
        }
        let step = match task {
            Task::Domains => self.domains(order, &mode, deployed, at),
            Task::Resources => self.resources(order, &mode, deployed, at),
            Task::Variables => self.variables(order, &mode, deployed, at),
            Task::Services => self.services(order, &mode, deployed, at, newer),
            Task::Routes => self.routes(order, &mode, deployed, at),
        };
        let (state, failure) = match step {
            Step::Waits => return false,
            // A newer one has come, and services were left out because of it: that is not done.
            Step::Done(_) if newer && task == Task::Services => {
                order.tasks[at].state = TaskState::Waiting;
                return self.superseded(order);
            }
            Step::Done(true) => (TaskState::Done, None),
            Step::Done(false) => (TaskState::Failed, None),
            Step::Failed(why) => (TaskState::Failed, Some(why)),
        };
        order.tasks[at].state = state;
        let good = state == TaskState::Done;
        self.tell(
            &format!("{}.finished", task.word()),
            json!({"task": task, "n": at + 1, "of": Task::ALL.len(), "result": result(good), "trouble": failure}),
        );
        match failure {
            Some(why) => self.end(order, State::Failed, Some(format!("task {}: {why}", task.word()))),
            None => true,
        }
    }

    fn superseded(&mut self, order: &mut Order) -> bool {
        let by = format!("order {}/{} is newer", order.id.environment, self.facts.newest);
        self.end(order, State::Superseded, Some(by))
    }

    /// A task of one job: launched once in an attempt, if it is needed.
    fn one(
        &mut self,
        order: &mut Order,
        at: usize,
        needed: bool,
        job: impl FnOnce(&mut Self) -> (Map<String, Value>, BTreeMap<Word, BTreeSet<Word>>),
    ) -> Step {
        let attempt = order.attempt;
        let last = order.tasks[at]
            .runs
            .iter()
            .rev()
            .find(|run| run.attempt == attempt && run.operation == Operation::Configure);
        match last.map(|run| (run.outcome, run.trouble.clone())) {
            Some((None, _)) => Step::Waits,
            Some((Some(Outcome::Succeeded), _)) => Step::Done(true),
            Some((Some(outcome), trouble)) => {
                Step::Failed(trouble.unwrap_or_else(|| format!("its job ended {outcome}")))
            }
            None if !needed => Step::Done(true),
            None => {
                let task = order.tasks[at].task;
                let (vars, values) = job(self);
                let lock = lock(&order.id.environment, None);
                self.launch(
                    &mut order.tasks[at],
                    attempt,
                    lock,
                    action(task),
                    vars,
                    values,
                    (None, Operation::Configure, None),
                );
                Step::Waits
            }
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "a job has that many parts, and this is the one place that makes one"
    )]
    fn launch(
        &mut self,
        task: &mut TaskRun,
        attempt: u32,
        lock: Inventory,
        action: &'static str,
        vars: Map<String, Value>,
        values: BTreeMap<Word, BTreeSet<Word>>,
        (service, operation, host): (Option<Word>, Operation, Option<Word>),
    ) {
        let job = (self.draw)();
        if let Some(service) = &service {
            let what = format!("{}.{service}.started", task.task.word());
            self.tell(&what, json!({"task": task.task, "service": service, "operation": operation, "job": job}));
        }
        self.change.launches.push(Launch { job, lock, action, vars, values });
        task.runs.push(Run { job, service, operation, host, outcome: None, trouble: None, attempt });
    }

    fn domains(&mut self, order: &mut Order, mode: &Mode, deployed: &Deployed, at: usize) -> Step {
        let wanted = domains(&order.spec, deployed);
        let known = order.spec.services.keys().all(|id| order.commits.contains_key(id));
        let needed = !known || !wanted.is_subset(&deployed.domains) || another_proxy(deployed, mode);
        let vars = vars::domains(order, mode, deployed, &wanted);
        self.one(order, at, needed, |_| (vars, BTreeMap::new()))
    }

    fn resources(&mut self, order: &mut Order, mode: &Mode, deployed: &Deployed, at: usize) -> Step {
        let placed = |id| deployed.services.get(id);
        let needed = |id| placed(id).is_none_or(|placed: &Placed| placed.port.is_none() || placed.unnoted);
        let needed = order.spec.services.keys().any(needed);
        let vars = vars::resources(order, mode, deployed);
        self.one(order, at, needed, |_| (vars, BTreeMap::new()))
    }

    fn variables(&mut self, order: &mut Order, mode: &Mode, deployed: &mut Deployed, at: usize) -> Step {
        let lacking = order.spec.services.iter().filter_map(|(id, service)| {
            let placed = deployed.services.get(id)?;
            (placed.secrets.as_ref() != Some(&service.variables)).then(|| (id.clone(), placed.host.clone()))
        });
        let lacking: BTreeMap<Word, Word> = lacking.collect();
        let values: BTreeMap<Word, BTreeSet<Word>> = lacking
            .keys()
            .filter_map(|id| Some((id.clone(), order.spec.services.get(id)?.variables.clone())))
            .collect();
        let vars = vars::variables(order, mode, &lacking);
        let launched = order.tasks[at].runs.iter().any(|run| run.attempt == order.attempt);
        if self.facts.sealed && !launched && values.values().any(|names| !names.is_empty()) {
            return Step::Failed(SEALED.into());
        }
        self.one(order, at, !lacking.is_empty(), |rule| {
            let missing = values.values().flatten().filter(|name| !rule.facts.vault.contains(*name)).cloned();
            rule.change.generate.extend(missing);
            // Until the job has succeeded, nobody knows which lie there.
            for id in lacking.keys() {
                if let Some(placed) = deployed.services.get_mut(id) {
                    placed.secrets = None;
                }
            }
            (vars, values)
        })
    }

    fn services(&mut self, order: &mut Order, mode: &Mode, deployed: &mut Deployed, at: usize, newer: bool) -> Step {
        let attempt = order.attempt;
        let of_attempt = |order: &Order, id: &Word| {
            let mut runs = order.tasks[at].runs.iter().filter(|run| run.attempt == attempt);
            runs.any(|run| run.service.as_ref() == Some(id))
        };
        let mut ids: Vec<Word> = order.spec.services.keys().cloned().collect();
        let ready = |id: &Word| {
            let secrets = deployed.services.get(id).and_then(|placed| placed.secrets.as_ref());
            wanted(order, deployed, id).filter(|wanted| secrets == Some(&wanted.variables))
        };
        let unready = ids.iter().find(|id| !of_attempt(order, id) && ready(id).is_none());
        if let (Some(id), 0) = (unready, self.busy(order, at)) {
            return Step::Failed(format!("service {id} has no port or not its variables; try the order again"));
        }
        // Where those are that others are told of is known once their moves have ended: these go first.
        let goes_first = |id: &Word| {
            let told_of = order.spec.services.get(id).is_some_and(|service| !service.roles.is_empty());
            let mut runs = order.tasks[at].runs.iter().filter(|run| run.attempt == attempt && run.outcome.is_some());
            let moves = deployed.services.get(id).is_some_and(Placed::moves);
            told_of && moves && !runs.any(|run| run.service.as_ref() == Some(id))
        };
        if ids.iter().any(goes_first) {
            ids.retain(goes_first);
        }
        for id in ids {
            if newer || self.busy(order, at) >= self.facts.parallel.max(1) {
                break;
            }
            let Some(placed) = deployed.services.get(&id) else { continue };
            let Some(wanted) = wanted(order, deployed, &id) else { continue };
            let same = placed.running.as_ref().is_some_and(|runs| differences(runs, &wanted).is_empty());
            if of_attempt(order, &id) || (same && !placed.doubtful) {
                continue;
            }
            if self.facts.sealed && !wanted.variables.is_empty() {
                return if self.busy(order, at) > 0 { Step::Waits } else { Step::Failed(SEALED.into()) };
            }
            let vars = vars::deploy(order, mode, &id, &wanted);
            // It is told of no value, but its log may show one.
            let values = BTreeMap::from([(id.clone(), wanted.variables.clone())]);
            let lock = lock(&order.id.environment, Some(&id));
            let what = (Some(id.clone()), Operation::Deploy, Some(wanted.host.clone()));
            if let Some(placed) = deployed.services.get_mut(&id) {
                placed.begun = Some(wanted);
            }
            self.launch(&mut order.tasks[at], attempt, lock, action(Task::Services), vars, values, what);
        }
        self.done(order, at)
    }

    fn routes(&mut self, order: &mut Order, mode: &Mode, deployed: &mut Deployed, at: usize) -> Step {
        let wanted = domains(&order.spec, deployed);
        let differs = routes(&order.spec, deployed) != deployed.routes || wanted != deployed.domains;
        let needed = differs || deployed.routes_doubtful || another_proxy(deployed, mode);
        let vars = vars::routes(order, mode, deployed, &wanted);
        let launched = self.one(order, at, needed, |_| {
            deployed.routes_doubtful = true;
            (vars, BTreeMap::new())
        });
        match launched {
            Step::Done(true) => {}
            step => return step,
        }
        for (id, host) in left_over(order, deployed) {
            let attempt = order.attempt;
            let mut runs = order.tasks[at].runs.iter().filter(|run| run.attempt == attempt);
            if runs.any(|run| run.service.as_ref() == Some(&id) && run.host.as_ref() == Some(&host)) {
                continue;
            }
            let Some(there) = mode.host(&host) else {
                // Nobody can reach it any more.
                forget(order, deployed, &id, &host);
                self.tell(
                    "left",
                    json!({"service": id, "host": host, "reason": "the host is not registered any more"}),
                );
                continue;
            };
            if self.busy(order, at) >= self.facts.parallel.max(1) {
                break;
            }
            let vars = vars::remove(order, mode, &id, there);
            let lock = lock(&order.id.environment, Some(&id));
            let what = (Some(id.clone()), Operation::Remove, Some(host));
            self.launch(&mut order.tasks[at], attempt, lock, action(Task::Services), vars, BTreeMap::new(), what);
        }
        self.done(order, at)
    }

    fn busy(&self, order: &Order, at: usize) -> usize {
        order.tasks[at].runs.iter().filter(|run| run.outcome.is_none()).count()
    }

    fn done(&self, order: &Order, at: usize) -> Step {
        if self.busy(order, at) > 0 {
            return Step::Waits;
        }
        let mut runs = order.tasks[at].runs.iter().filter(|run| run.attempt == order.attempt);
        Step::Done(runs.all(|run| run.outcome == Some(Outcome::Succeeded)))
    }
}

/// The action of a task, as in `runner.actions`.
fn action(task: Task) -> &'static str {
    match task {
        Task::Domains => "order-domains",
        Task::Resources => "order-resources",
        Task::Variables => "order-variables",
        Task::Services => "order-service",
        Task::Routes => "order-routes",
    }
}

/// All actions of orders.
pub const ACTIONS: [&str; 5] = ["order-domains", "order-resources", "order-variables", "order-service", "order-routes"];

fn wanted(order: &Order, deployed: &Deployed, id: &Word) -> Option<Running> {
    let commit = order.commits.get(id).map(String::as_str);
    running(&order.spec, &order.mode, order.place.as_ref()?, deployed, id, commit)
}

/// Services that lie where no route is to lead, and the host.
fn left_over(order: &Order, deployed: &Deployed) -> Vec<(Word, Word)> {
    let gone = gone(&order.spec, deployed);
    let mut left = Vec::new();
    for (id, placed) in &deployed.services {
        // What has not moved yet, because its move failed, serves where it was.
        let serves = placed.running.as_ref().map(|runs| &runs.host);
        let elsewhere = placed.left_on.iter().filter(|host| Some(*host) != serves);
        left.extend(elsewhere.map(|host| (id.clone(), host.clone())));
        if gone.contains(id) {
            let runs = placed.running.as_ref().map_or(&placed.host, |runs| &runs.host);
            let hosts: BTreeSet<&Word> = [runs, &placed.host].into_iter().collect();
            left.extend(hosts.into_iter().map(|host| (id.clone(), host.clone())));
        }
    }
    left.sort();
    left.dedup();
    left
}

pub(super) fn result(good: bool) -> &'static str {
    if good { "pass" } else { "fail" }
}
