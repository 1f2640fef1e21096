//! Orders, plans and environments as they are shown. Values of the vault are in none of these types.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::ids::{JobId, Word};
use crate::model::job::Outcome;
use crate::model::order::plan::{Plan, Way};
use crate::model::order::{Placed, Spec, Task, TaskState};
use crate::store::{LockState, StoredEnvironment, StoredOrder};
use crate::wire::{
    DeployedService, DomainChanges, EnvironmentView, ModeView, OrderJobView, OrderSummary, OrderView, PlanView,
    PlannedService, RouteChanges, TaskView, WayView, time,
};

/// A plan. `unchecked`: what could not be looked at from here.
pub(super) fn plan(spec: &Spec, mode: &Word, plan: Plan, unchecked: Vec<String>) -> PlanView {
    let Plan { services, domains, routes, generate, problems } = plan;
    let services = services.into_iter().map(|(id, it)| PlannedService {
        id: id.into(),
        change: it.change,
        host: it.host.map(Into::into),
        port: it.port,
        why: it.why,
    });
    let ways = |ways: BTreeSet<Way>| {
        ways.into_iter().map(|(domain, path, service)| WayView { domain, path, service: service.into() }).collect()
    };
    PlanView {
        environment: spec.environment.to_string(),
        mode: mode.to_string(),
        action: spec.action,
        services: services.collect(),
        domains: DomainChanges { add: domains.0.into_iter().collect(), remove: domains.1.into_iter().collect() },
        routes: RouteChanges { add: ways(routes.0), remove: ways(routes.1) },
        generate: generate.into_iter().map(Into::into).collect(),
        problems,
        unchecked,
    }
}

/// An order in a list.
pub(super) fn summary(stored: &StoredOrder) -> OrderSummary {
    let order = &stored.order;
    let at_it = |state: TaskState| state == TaskState::Running;
    let services = order.tasks.iter().find(|task| task.task == Task::Services);
    let unfinished: BTreeSet<&Word> = services
        .into_iter()
        .flat_map(|task| &task.runs)
        .filter(|run| run.attempt == order.attempt && run.outcome != Some(Outcome::Succeeded))
        .filter_map(|run| run.service.as_ref())
        .collect();
    let all = order.spec.services.len();
    let waits = services.is_some_and(|task| task.state == TaskState::Waiting);
    let left = services.filter(|task| task.state == TaskState::Running).map_or(0, |task| {
        let begun: BTreeSet<&Word> = task
            .runs
            .iter()
            .filter(|run| run.attempt == order.attempt)
            .filter_map(|run| run.service.as_ref())
            .collect();
        // Those that do not differ are never begun, and are not told from those that wait.
        all - begun.len()
    });
    OrderSummary {
        id: order.id.to_string(),
        environment: order.id.environment.to_string(),
        number: order.id.number,
        mode: order.mode.to_string(),
        action: order.spec.action,
        state: order.state,
        reason: order.reason.clone(),
        task: order.tasks.iter().position(|task| at_it(task.state)).map(|at| at + 1),
        services: all,
        services_done: if waits { 0 } else { all - unfinished.len() - left },
        by: order.by.to_string(),
        created_at: time(order.created_ms),
        started_at: order.started_ms.map(time),
        ended_at: order.ended_ms.map(time),
    }
}

/// An order. `waits` are those of its jobs that have not their lock.
pub(super) fn order(stored: &StoredOrder, waits: &BTreeMap<JobId, LockState>) -> OrderView {
    let order = &stored.order;
    let tasks = order.tasks.iter().map(|task| TaskView {
        task: task.task,
        state: task.state,
        jobs: task
            .runs
            .iter()
            .map(|run| OrderJobView {
                job_id: run.job.to_string(),
                service: run.service.as_ref().map(ToString::to_string),
                operation: run.operation,
                host: run.host.as_ref().map(ToString::to_string),
                outcome: run.outcome,
                trouble: run.trouble.clone(),
                waits_for: waits.get(&run.job).and_then(waits_for),
                attempt: run.attempt,
            })
            .collect(),
    });
    let failed: BTreeSet<String> =
        order.failures().iter().filter_map(|run| run.service.as_ref().map(ToString::to_string)).collect();
    OrderView {
        summary: summary(stored),
        revision: stored.revision,
        attempt: order.attempt,
        tasks: tasks.collect(),
        commits: order.commits.iter().map(|(id, commit)| (id.to_string(), commit.clone())).collect(),
        failed: failed.into_iter().collect(),
    }
}

/// What a job waits for that has not its lock. Nothing to be said where it is just being given.
fn waits_for(lock: &LockState) -> Option<String> {
    let inventory = &lock.inventory;
    match (&lock.freeze, lock.holder) {
        (Some(freeze), _) => Some(format!("{inventory} is frozen by {}: {}", freeze.by, freeze.reason)),
        (None, Some(holder)) => Some(format!("job {holder} has the lock of {inventory}")),
        (None, None) => None,
    }
}

/// An environment.
pub(super) fn environment(stored: StoredEnvironment) -> EnvironmentView {
    let StoredEnvironment { environment, file, by, made_ms, newest, holder, mut modes } = stored;
    let service = |(id, placed): (Word, Placed)| {
        let running = placed.running;
        DeployedService {
            id: id.into(),
            host: placed.host.into(),
            port: placed.port,
            memory: placed.memory,
            repository: running.as_ref().map(|runs| runs.url.clone()),
            commit: running.as_ref().map(|runs| runs.commit.clone()),
            kind: running.map(|runs| runs.kind),
            doubtful: placed.doubtful,
        }
    };
    let mode = |(name, registration): (Word, _)| {
        let (deployed, vault) = modes.remove(&name).unwrap_or_default();
        let view = ModeView {
            registration,
            services: deployed.services.into_iter().map(service).collect(),
            domains: deployed.domains.into_iter().collect(),
            routes: deployed.routes.into_iter().collect(),
            vault: vault.into_iter().map(Into::into).collect(),
        };
        (String::from(name), view)
    };
    EnvironmentView {
        id: environment.id.to_string(),
        modes: environment.modes.into_iter().map(mode).collect(),
        newest_order: newest,
        running_order: holder,
        file,
        by,
        made_at: time(made_ms),
    }
}
