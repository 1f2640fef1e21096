//! How an order differs from what is deployed, and where each service goes.
//!
//! Placement is stable: a service stays on its host as long as that is one of the mode's and has room. One without a host goes to the host
//! with the most room left, the largest first, so that the same order on the same hosts always comes out the same.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::environment::{Host, Mode};
use super::vars::environment_of;
use super::{Action, Deployed, Placed, Route, Running, Spec};
use crate::model::ids::Word;

/// What an order would do to a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// It is not there yet.
    Create,
    /// It is deployed anew where it is.
    Update,
    /// It goes to another host.
    Move,
    /// It is removed.
    Remove,
    /// Nothing, unless its repository shows another commit than the one that runs.
    Keep,
}

/// What an order would do to a service, where and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceChange {
    /// What.
    pub change: Change,
    /// The host that it is on afterwards, or is removed from.
    pub host: Option<Word>,
    /// Its port there, if it has one yet.
    pub port: Option<u16>,
    /// What differs, in words.
    pub why: Vec<String>,
}

/// How an order differs from what is deployed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Each service that is or is to be there.
    pub services: BTreeMap<Word, ServiceChange>,
    /// Domains that are new, and that go.
    pub domains: (BTreeSet<String>, BTreeSet<String>),
    /// Ways that are new or lead elsewhere, and that go: domain, path, service.
    pub routes: (BTreeSet<Way>, BTreeSet<Way>),
    /// Variables of the vault that are drawn.
    pub generate: BTreeSet<Word>,
    /// Why it cannot be carried out; empty: it can.
    pub problems: Vec<String>,
}

/// Domain, path and service.
pub type Way = (String, String, Word);

/// Compares. `commits` are those that are known; `vault` names the variables that there are.
pub fn plan(
    spec: &Spec,
    mode: (&Word, &Mode),
    deployed: &Deployed,
    vault: &BTreeSet<Word>,
    commits: &BTreeMap<Word, String>,
) -> Plan {
    let (name, mode) = mode;
    let mut after = deployed.clone();
    let problems = place(spec, mode, &mut after);
    let mut plan = Plan { problems, ..Plan::default() };
    for id in spec.services.keys() {
        let Some(placed) = after.services.get(id) else { continue };
        let before = deployed.services.get(id);
        let wanted = running(spec, name, mode, &after, id, commits.get(id).map(String::as_str));
        let (change, why) = change_of(before, placed, wanted.as_ref());
        let change = ServiceChange { change, host: Some(placed.host.clone()), port: placed.port, why };
        plan.services.insert(id.clone(), change);
    }
    let gone = gone(spec, deployed);
    if spec.action == Action::Remove {
        for id in spec.removed.difference(&gone) {
            plan.problems.push(format!("service {id} is not deployed, so it cannot be removed"));
        }
    }
    for id in gone {
        let host = deployed.services.get(&id).map(|placed| placed.host.clone());
        let why = vec!["the order does not have it".to_owned()];
        plan.services.insert(id, ServiceChange { change: Change::Remove, host, port: None, why });
    }
    let given = spec.services.values().flat_map(|service| &service.variables);
    plan.generate = given.filter(|name| !vault.contains(*name)).cloned().collect();
    let domains = domains(spec, deployed);
    let way = |route: &Route| (route.domain.clone(), route.path.clone(), route.service.clone());
    // Another proxy is told all of it.
    let (known, before): (BTreeSet<String>, BTreeSet<Way>) = if another_proxy(deployed, mode) {
        Default::default()
    } else {
        (deployed.domains.clone(), deployed.routes.iter().map(way).collect())
    };
    plan.domains = (domains.difference(&known).cloned().collect(), known.difference(&domains).cloned().collect());
    let after = ways(spec, deployed);
    plan.routes = (after.difference(&before).cloned().collect(), before.difference(&after).cloned().collect());
    plan
}

fn change_of(before: Option<&Placed>, placed: &Placed, wanted: Option<&Running>) -> (Change, Vec<String>) {
    let Some(before) = before else { return (Change::Create, Vec::new()) };
    let Some(runs) = &before.running else {
        return (Change::Create, vec!["it has a place, and was never started".into()]);
    };
    if before.host != placed.host || runs.host != placed.host {
        return (Change::Move, vec![format!("from {} to {}", runs.host, placed.host)]);
    }
    let Some(wanted) = wanted else { return (Change::Update, vec!["it has no port yet".into()]) };
    let mut why = differences(runs, wanted);
    if before.doubtful {
        why.push("a job that was at it did not succeed, or something of it was gone from its host".into());
    }
    (if why.is_empty() { Change::Keep } else { Change::Update }, why)
}

/// What differs between what runs and what is to run, in words; a commit that is not known does not differ.
pub fn differences(runs: &Running, wanted: &Running) -> Vec<String> {
    let mut why = Vec::new();
    let mut differs = |what: &str, from: &str, to: &str| {
        if from != to {
            why.push(format!("{what}: {from} to {to}"));
        }
    };
    differs("repository", &runs.url, &wanted.url);
    if !wanted.commit.is_empty() && wanted.commit != runs.commit {
        let short = |commit: &str| commit.chars().take(12).collect::<String>();
        differs("commit", &short(&runs.commit), &short(&wanted.commit));
    }
    differs("type", runs.kind.word(), wanted.kind.word());
    differs("health", &runs.health, &wanted.health);
    differs("host", runs.host.as_str(), wanted.host.as_str());
    differs("address", &runs.address, &wanted.address);
    differs("port", &runs.port.to_string(), &wanted.port.to_string());
    if wanted.kind.is_files() {
        return why;
    }
    let names: BTreeSet<&String> = runs.environment.keys().chain(wanted.environment.keys()).collect();
    for name in names {
        if name != "SERVICE_COMMIT" && runs.environment.get(name) != wanted.environment.get(name) {
            why.push(format!("{name} in its environment"));
        }
    }
    if runs.variables != wanted.variables {
        why.push("its variables of the vault".into());
    }
    why
}

/// Whether what the proxy was told is on another one than the mode has now.
pub fn another_proxy(deployed: &Deployed, mode: &Mode) -> bool {
    deployed.proxy.is_some() && deployed.proxy != mode.proxy_at()
}

/// Services that are deployed and that the order does not leave there.
pub fn gone(spec: &Spec, deployed: &Deployed) -> BTreeSet<Word> {
    let stays = |id: &Word| match spec.action {
        Action::Update => spec.services.contains_key(id),
        Action::Remove => !spec.removed.is_empty() && !spec.removed.contains(id),
    };
    deployed.services.keys().filter(|id| !stays(id)).cloned().collect()
}

/// The domains that the proxy is to know afterwards.
pub fn domains(spec: &Spec, deployed: &Deployed) -> BTreeSet<String> {
    match spec.action {
        Action::Update => spec.groups.values().flatten().cloned().collect(),
        Action::Remove if spec.removed.is_empty() => BTreeSet::new(),
        Action::Remove => {
            let left: BTreeSet<String> = ways(spec, deployed).into_iter().map(|(domain, _, _)| domain).collect();
            // One that led to nothing before is not this order's to drop.
            let led: BTreeSet<&String> = deployed.routes.iter().map(|route| &route.domain).collect();
            deployed.domains.iter().filter(|domain| left.contains(*domain) || !led.contains(domain)).cloned().collect()
        }
    }
}

/// The ways that there are to be afterwards, if every service runs.
fn ways(spec: &Spec, deployed: &Deployed) -> BTreeSet<Way> {
    match spec.action {
        Action::Update => spec
            .services
            .iter()
            .flat_map(|(id, service)| {
                let domains = spec.groups.get(&service.group).into_iter().flatten();
                domains.map(|domain| (domain.clone(), service.path.clone(), id.clone()))
            })
            .collect(),
        Action::Remove => {
            let gone = gone(spec, deployed);
            let stays = deployed.routes.iter().filter(|route| !gone.contains(&route.service));
            stays.map(|route| (route.domain.clone(), route.path.clone(), route.service.clone())).collect()
        }
    }
}

/// The routes that lead to what runs.
pub fn routes(spec: &Spec, deployed: &Deployed) -> BTreeSet<Route> {
    let lead = ways(spec, deployed).into_iter().filter_map(|(domain, path, service)| {
        let runs = deployed.services.get(&service)?.running.as_ref()?;
        Some(Route { domain, path, service, address: runs.address.clone(), port: runs.port })
    });
    lead.collect()
}

/// What is to run of a service; none: it has no port yet. Without a commit that is empty.
pub fn running(
    spec: &Spec,
    mode_name: &Word,
    mode: &Mode,
    deployed: &Deployed,
    id: &Word,
    commit: Option<&str>,
) -> Option<Running> {
    let service = spec.services.get(id)?;
    let placed = deployed.services.get(id)?;
    let host = mode.host(&placed.host)?;
    let commit = commit.unwrap_or_default();
    Some(Running {
        url: service.repository.url.clone(),
        commit: commit.to_owned(),
        kind: service.kind,
        health: service.health.clone(),
        environment: environment_of(spec, mode_name, mode, deployed, id, commit),
        variables: service.variables.clone(),
        host: host.name.clone(),
        address: host.address.clone(),
        port: placed.port?,
    })
}

/// A service keeps its host. A machine that has taken another's name has nothing of it.
fn stay(placed: &mut Placed, memory: u32, mode: &Mode) {
    placed.memory = memory;
    placed.left_on.remove(&placed.host);
    let address = mode.host(&placed.host).map(|host| &host.address);
    let moved = placed.running.as_ref().is_some_and(|runs| runs.host == placed.host && Some(&runs.address) != address);
    if moved {
        placed.port = None;
        placed.secrets = None;
    }
}

/// Gives every service of the order a host; one that changes its host loses its port. Returns what has no room, in words.
pub fn place(spec: &Spec, mode: &Mode, deployed: &mut Deployed) -> Vec<String> {
    let mut free: BTreeMap<&Word, i64> = mode.hosts.iter().map(|host| (&host.name, i64::from(host.memory))).collect();
    let mut homeless: Vec<(&Word, u32)> = Vec::new();
    for (id, service) in &spec.services {
        let room = deployed.services.get(id).and_then(|placed| free.get_mut(&placed.host));
        match room {
            Some(room) if *room >= i64::from(service.memory) => {
                *room -= i64::from(service.memory);
                if let Some(placed) = deployed.services.get_mut(id) {
                    stay(placed, service.memory, mode);
                }
            }
            Some(_) | None => homeless.push((id, service.memory)),
        }
    }
    homeless.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0)));
    let mut problems = Vec::new();
    for (id, memory) in homeless {
        let rank = |host: &Host| mode.hosts.iter().position(|other| other.name == host.name);
        let best = mode.hosts.iter().max_by_key(|host| (free.get(&host.name).copied(), std::cmp::Reverse(rank(host))));
        let Some(host) = best else { continue };
        let room = free.get(&host.name).copied().unwrap_or_default();
        if room < i64::from(memory) {
            let most = room.max(0);
            problems.push(format!(
                "no host has room for service {id}, which takes {memory} MiB: {} has the most left, {most} MiB",
                host.name
            ));
            continue;
        }
        free.insert(&host.name, room - i64::from(memory));
        let placed = Placed {
            host: host.name.clone(),
            port: None,
            unnoted: false,
            memory,
            doubtful: false,
            secrets: None,
            running: None,
            begun: None,
            left_on: BTreeSet::new(),
        };
        match deployed.services.get_mut(id) {
            Some(before) => {
                // What it was given there lies there still, also if it never ran there.
                if before.host != host.name && (before.port.is_some() || before.secrets.is_some() || before.doubtful) {
                    before.left_on.insert(before.host.clone());
                }
                before.left_on.remove(&host.name);
                *before = Placed {
                    running: before.running.take(),
                    left_on: std::mem::take(&mut before.left_on),
                    doubtful: before.doubtful,
                    ..placed
                }
            }
            None => {
                deployed.services.insert(id.clone(), placed);
            }
        }
    }
    problems
}
