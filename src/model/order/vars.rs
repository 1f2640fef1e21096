//! What jobs of an order are told: the variable `lockstep_order` of their playbooks (`ansible/README.md` describes it), and what services
//! are told in their environment.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::environment::{Host, Mode};
use super::file::{address_of, variable as variable_of};
use super::{Deployed, Order, Running, Spec};
use crate::model::ids::Word;

/// The name of the variable.
const VARIABLE: &str = "lockstep_order";

/// What a service is told that is not secret: what the mode says, who and what it is, and where those are that have a role.
pub(super) fn environment_of(
    spec: &Spec,
    mode_name: &Word,
    mode: &Mode,
    deployed: &Deployed,
    id: &Word,
    commit: &str,
) -> BTreeMap<String, String> {
    let mut told = mode.variables.clone();
    for (other, service) in &spec.services {
        let address = deployed.services.get(other).and_then(|placed| match &placed.running {
            // Its move did not succeed: what was there before still is.
            Some(runs) if other != id && placed.moves() && placed.doubtful => Some((&runs.address, runs.port)),
            _ => Some((&mode.host(&placed.host)?.address, placed.port?)),
        });
        if let Some((address, port)) = address {
            told.extend(service.roles.iter().map(|role| (address_of(role), format!("http://{address}:{port}"))));
        }
    }
    let roles = spec.services.get(id).map(|service| &service.roles).into_iter().flatten();
    let roles: Vec<&str> = roles.map(Word::as_str).collect();
    told.extend([
        ("SERVICE_ID".to_owned(), id.to_string()),
        ("SERVICE_COMMIT".to_owned(), commit.to_owned()),
        ("SERVICE_ROLES".to_owned(), roles.join(",")),
        ("ENVIRONMENT_ID".to_owned(), spec.environment.to_string()),
        ("ENVIRONMENT_MODE".to_owned(), mode_name.to_string()),
    ]);
    told
}

/// What is said to every job: which order it is of, its playbook, and the hosts that it concerns.
fn common<'a>(order: &Order, mode: &Mode, task: &str, hosts: impl Iterator<Item = &'a Host>) -> Map<String, Value> {
    let hosts: Vec<Value> = hosts
        .map(|host| {
            let Host { name, address, port, user, key, host_key, memory: _ } = host;
            json!({"name": name, "address": address, "port": port, "user": user, "key": key, "host_key": host_key})
        })
        .collect();
    let all = json!({
        "environment": order.id.environment,
        "mode": order.mode,
        "order": order.id.number,
        "action": order.spec.action,
        "task": task,
        "hosts": hosts,
        "proxy": {"host": mode.proxy.host, "port": mode.proxy.port},
    });
    match all {
        Value::Object(all) => all,
        _ => Map::new(),
    }
}

fn variable(mut all: Map<String, Value>, what: impl IntoIterator<Item = (&'static str, Value)>) -> Map<String, Value> {
    all.extend(what.into_iter().map(|(name, value)| (name.to_owned(), value)));
    Map::from_iter([(VARIABLE.to_owned(), Value::Object(all))])
}

/// The names of variables of the vault, as a service is told them.
fn names(variables: &BTreeSet<Word>) -> Vec<String> {
    variables.iter().map(variable_of).collect()
}

/// Of the first task. What is recorded is told, so that each host can say what of it is gone.
pub(super) fn domains(
    order: &Order,
    mode: &Mode,
    deployed: &Deployed,
    domains: &BTreeSet<String>,
) -> Map<String, Value> {
    let repositories: Vec<Value> = order
        .spec
        .services
        .iter()
        .filter(|(id, _)| !order.commits.contains_key(*id))
        .map(|(id, service)| {
            json!({"service": id, "url": service.repository.url, "revision": service.repository.revision})
        })
        .collect();
    let placed = order.spec.services.keys().filter_map(|id| Some((id, deployed.services.get(id)?)));
    let recorded: Vec<Value> = placed
        .map(|(id, placed)| {
            let runs = placed.running.as_ref().filter(|runs| runs.host == placed.host);
            let commit = runs.map(|runs| &runs.commit);
            let variables = placed.secrets.as_ref().map(names);
            json!({"service": id, "host": placed.host, "port": placed.port, "variables": variables, "commit": commit})
        })
        .collect();
    let all = common(order, mode, "domains", mode.hosts.iter());
    let told = [("domains", json!(domains)), ("repositories", json!(repositories)), ("recorded", json!(recorded))];
    variable(all, told)
}

/// Of the second.
pub(super) fn resources(order: &Order, mode: &Mode, deployed: &Deployed) -> Map<String, Value> {
    let taken = |host: &Word| -> BTreeSet<u16> {
        let recorded =
            deployed.services.values().filter(|placed| placed.host == *host).filter_map(|placed| placed.port);
        // What has moved away, or is to go, is there until the routes do not lead to it any more.
        let runs = deployed.services.values().filter_map(|placed| placed.running.as_ref());
        recorded.chain(runs.filter(|runs| runs.host == *host).map(|runs| runs.port)).collect()
    };
    let placements: Vec<Value> = order
        .spec
        .services
        .keys()
        .filter_map(|id| Some((id, deployed.services.get(id)?)))
        .map(|(id, placed)| {
            let ports = [mode.ports.0, mode.ports.1];
            json!({"service": id, "host": placed.host, "ports": ports, "taken": taken(&placed.host), "port": placed.port})
        })
        .collect();
    variable(common(order, mode, "resources", mode.hosts.iter()), [("placements", json!(placements))])
}

/// Of the third: `values` are put in their places by whoever has them.
pub(super) fn variables(order: &Order, mode: &Mode, hosts: &BTreeMap<Word, Word>) -> Map<String, Value> {
    let of: Map<String, Value> =
        hosts.iter().map(|(id, host)| (id.to_string(), json!({"host": host, "values": {}}))).collect();
    let concerned = mode.hosts.iter().filter(|host| hosts.values().any(|name| *name == host.name));
    variable(common(order, mode, "variables", concerned), [("variables", Value::Object(of))])
}

/// Puts the values of the vault into what the third task is told.
pub fn with_values(vars: &mut Map<String, Value>, service: &Word, values: Map<String, Value>) {
    let place = vars
        .get_mut(VARIABLE)
        .and_then(|all| all.get_mut("variables"))
        .and_then(|of| of.get_mut(service.as_str()))
        .and_then(|of| of.get_mut("values"));
    if let Some(place) = place {
        *place = Value::Object(values);
    }
}

/// Of the fourth, for one service.
pub(super) fn deploy(order: &Order, mode: &Mode, id: &Word, wanted: &Running) -> Map<String, Value> {
    let host = mode.hosts.iter().filter(|host| host.name == wanted.host);
    let service = json!({
        "id": id,
        "operation": "deploy",
        "type": wanted.kind,
        "host": wanted.host,
        "port": wanted.port,
        "repository": {"url": wanted.url, "commit": wanted.commit},
        "health": wanted.health,
        "environment": wanted.environment,
        "variables": names(&wanted.variables),
    });
    variable(common(order, mode, "service", host), [("service", service)])
}

/// Of the fifth: what leads where.
pub(super) fn routes(
    order: &Order,
    mode: &Mode,
    deployed: &Deployed,
    domains: &BTreeSet<String>,
) -> Map<String, Value> {
    let routes: Vec<Value> = super::plan::routes(&order.spec, deployed).iter().map(|route| json!(route)).collect();
    let proxy = mode.host(&mode.proxy.host).into_iter();
    variable(common(order, mode, "routes", proxy), [("domains", json!(domains)), ("routes", json!(routes))])
}

/// Of the fifth: what is removed.
pub(super) fn remove(order: &Order, mode: &Mode, id: &Word, host: &Host) -> Map<String, Value> {
    let service = json!({"id": id, "operation": "remove", "host": host.name});
    variable(common(order, mode, "service", std::iter::once(host)), [("service", service)])
}
