//! What the end of a job means for what is deployed.
//!
//! What a job has done is believed if it succeeded. Of one that did not, nobody knows how far it came: what it was at is doubted, so that
//! the next one looks at it.

use serde_json::{Map, Value, json};

use super::environment::Mode;
use super::plan::{domains, gone, routes};
use super::rule::{Rule, result};
use super::{Deployed, Operation, Order, Task};
use crate::model::ids::Word;
use crate::model::job::Outcome;
use crate::model::release::rule::Ended;

/// As much is kept of what a job says of its failure, in bytes.
const TROUBLE_MAX: usize = 1024;

impl Rule<'_> {
    /// Notes which jobs have ended, and what that means for what is deployed.
    pub(super) fn take_ends(&mut self, order: &mut Order, deployed: &mut Deployed) {
        for at in 0..order.tasks.len() {
            for run in 0..order.tasks[at].runs.len() {
                let job = order.tasks[at].runs[run].job;
                let Some(ended) = self.facts.ended.get(&job) else { continue };
                if order.tasks[at].runs[run].outcome.is_some() {
                    continue;
                }
                let task = order.tasks[at].task;
                let trouble = self.effect(order, deployed, task, at, run, ended);
                let run = &mut order.tasks[at].runs[run];
                run.outcome = Some(if trouble.is_some() && ended.outcome == Outcome::Succeeded {
                    Outcome::Failed
                } else {
                    ended.outcome
                });
                run.trouble = trouble;
                if let Some(service) = &run.service {
                    let all = json!({"task": task, "service": service, "operation": run.operation, "job": job, "outcome": run.outcome,
                        "trouble": run.trouble, "result": result(run.outcome == Some(Outcome::Succeeded))});
                    let what = format!("{}.{service}.finished", task.word());
                    self.tell(&what, all);
                }
            }
        }
    }

    /// What a job's end means; says what is wrong with it.
    fn effect(
        &mut self,
        order: &mut Order,
        deployed: &mut Deployed,
        task: Task,
        at: usize,
        run: usize,
        ended: &Ended,
    ) -> Option<String> {
        let run = order.tasks[at].runs[run].clone();
        let good = ended.outcome == Outcome::Succeeded;
        match (task, run.operation, &run.service) {
            (Task::Domains, _, _) if good => {
                let proxy = order.place.as_ref().and_then(Mode::proxy_at);
                let anew = ended.outputs.get("proxy_anew").and_then(Value::as_bool).unwrap_or_default();
                if deployed.proxy.is_some() && (deployed.proxy != proxy || anew) {
                    // It knows the domains now, and no route yet: it is another one, or its configuration was gone.
                    deployed.routes_doubtful = true;
                }
                deployed.proxy = proxy;
                deployed.domains.extend(domains(&order.spec, deployed));
                lose(deployed, &ended.outputs);
                for id in order.spec.services.keys() {
                    let commit = text_of(&ended.outputs, "commits", id);
                    match commit
                        .filter(|commit| commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit()))
                    {
                        Some(commit) => {
                            order.commits.insert(id.clone(), commit.to_ascii_lowercase());
                        }
                        None if order.commits.contains_key(id) => {}
                        None => return Some(format!("the job did not say which commit service {id} is at")),
                    }
                }
            }
            // Perhaps the proxy was told of domains that nobody knows of.
            (Task::Domains, _, _) => deployed.routes_doubtful = true,
            (Task::Resources, _, _) if good => {
                let ports = ended.outputs.get("ports");
                for id in order.spec.services.keys() {
                    let Some(placed) = deployed.services.get_mut(id) else { continue };
                    let port = ports.and_then(|ports| ports.get(id.as_str())).and_then(Value::as_u64);
                    match (placed.port, port.and_then(|port| u16::try_from(port).ok())) {
                        (None, None) => return Some(format!("the job did not say which port service {id} has")),
                        (None, port) => placed.port = port,
                        (Some(_), _) => {}
                    }
                    placed.unnoted = false;
                }
            }
            (Task::Variables, _, _) if good => {
                for (id, service) in &order.spec.services {
                    if let Some(placed) = deployed.services.get_mut(id) {
                        placed.secrets = Some(service.variables.clone());
                    }
                }
            }
            (Task::Services, _, Some(id)) => {
                if let Some(placed) = deployed.services.get_mut(id) {
                    placed.doubtful = !good;
                    if let (Some(begun), true) = (placed.begun.take(), good) {
                        let before = placed.running.replace(begun);
                        placed.left_on.extend(before.map(|runs| runs.host));
                        placed.left_on.remove(&placed.host);
                    }
                }
                lose(deployed, &ended.outputs);
            }
            (Task::Routes, Operation::Remove, Some(id)) if good => {
                if let Some(host) = &run.host {
                    forget(order, deployed, id, host);
                }
            }
            (Task::Routes, Operation::Remove, Some(id)) => {
                // It may have got as far as that: what was there is not relied on any more.
                if let Some(placed) = deployed.services.get_mut(id) {
                    let runs = placed.running.as_ref().map(|runs| &runs.host);
                    if run.host.as_ref() == Some(&placed.host) || (run.host.is_some() && run.host.as_ref() == runs) {
                        placed.doubtful = true;
                        placed.secrets = None;
                        placed.port = None;
                    }
                }
            }
            (Task::Routes, Operation::Configure, _) if good => {
                deployed.routes_doubtful = false;
                deployed.proxy = order.place.as_ref().and_then(Mode::proxy_at);
                deployed.routes = routes(&order.spec, deployed);
                deployed.domains = domains(&order.spec, deployed);
            }
            _ => {}
        }
        (!good).then(|| trouble_of(ended))
    }
}

/// A service does not lie on a host any more.
pub(super) fn forget(order: &Order, deployed: &mut Deployed, id: &Word, host: &Word) {
    let gone = gone(&order.spec, deployed).contains(id);
    let Some(placed) = deployed.services.get_mut(id) else { return };
    placed.left_on.remove(host);
    if !gone {
        return;
    }
    placed.running = placed.running.take().filter(|runs| runs.host != *host);
    if placed.host != *host {
        return;
    }
    // It has a place on another host as well, or lies there: with a port and variables of that place, which nobody has noted.
    match placed.running.as_ref().map(|runs| &runs.host).or(placed.left_on.iter().next()).cloned() {
        Some(other) => {
            placed.host = other;
            placed.port = None;
            placed.secrets = None;
        }
        None => {
            deployed.services.remove(id);
        }
    }
}

/// What a job has found gone on its host, by service: somebody has removed it, or the machine was made anew. It is made again.
fn lose(deployed: &mut Deployed, outputs: &Map<String, Value>) {
    let lost = outputs.get("lost").and_then(Value::as_object);
    for (id, gone) in lost.into_iter().flatten() {
        let Some((_, placed)) = deployed.services.iter_mut().find(|(known, _)| known.as_str() == id) else { continue };
        let is_gone = |what: &str| gone.as_array().is_some_and(|all| all.iter().any(|one| one == what));
        placed.doubtful = true;
        if is_gone("variables") {
            placed.secrets = None;
        }
        placed.unnoted |= is_gone("port");
    }
}

fn text_of<'a>(outputs: &'a Map<String, Value>, name: &str, id: &Word) -> Option<&'a str> {
    outputs.get(name)?.get(id.as_str())?.as_str()
}

fn trouble_of(ended: &Ended) -> String {
    let why = ended.reason.clone().or_else(|| ended.outputs.get("trouble").and_then(Value::as_str).map(str::to_owned));
    let mut why = why.unwrap_or_else(|| format!("its job ended {}; its output says why", ended.outcome));
    if why.len() > TROUBLE_MAX {
        // What is wrong stands at the beginning, or at the end of what a program has said.
        let cut = why.floor_char_boundary(TROUBLE_MAX / 2)..why.ceil_char_boundary(why.len() - TROUBLE_MAX / 2);
        why.replace_range(cut, "\n…\n");
    }
    why
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_trouble_keeps_its_beginning_and_its_end() {
        let trouble = |reason: &str| {
            trouble_of(&Ended { outcome: Outcome::Failed, reason: Some(reason.to_owned()), outputs: Map::new() })
        };
        for letter in ["a", "ü", "€", "𝄞"] {
            let kept = trouble(&format!("what is wrong{}at last", letter.repeat(2000)));
            assert!(kept.starts_with("what is wrong") && kept.ends_with("at last") && kept.contains("\n…\n"), "{kept}");
            assert!(kept.len() <= TROUBLE_MAX + 5);
        }
        assert_eq!(trouble("short"), "short");
    }
}
