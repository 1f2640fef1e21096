//! The rule as a play: an order, what is deployed, and jobs that end one way or another.

mod files;
mod hosts;
mod plans;
mod properties;
mod workflow;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::command;
use super::environment::{self, Environment};
use super::rule::{self, Change, Facts, Launch};
use super::{Deployed, Order, OrderId, State, Task, TaskState, file};
use crate::model::ids::{JobId, Word};
use crate::model::job::Outcome;
use crate::model::release::rule::Ended;

const ENVIRONMENT: &str = "\
environment: '3'
modes:
  production:
    hosts:
      - {name: one, address: 10.0.0.1, user: deploy, memory: 1000}
      - {name: two, address: two.lab.example, user: deploy, memory: 600}
    proxy: {host: one}
    ports: [20000, 20010]
    variables: {LOG_LEVEL: info}
";

const ORDER: &str = "\
action: update
environment_id: '3'
api:
  domains: [api.lab.example]
  services:
    - id: '6'
      path: /core
      repository: {url: 'https://git.example/auth.git'}
      roles: [auth, discovery]
      variables: [database-password]
      type: node
    - id: '7'
      path: /
      repository: {url: 'https://git.example/manager.git', revision: main}
      variables: [database-password, api-key]
      type: python
front:
  domains: [www.lab.example]
  services:
    - id: '8'
      path: /
      repository: {url: 'https://git.example/front.git'}
      type: static
";

fn word(text: &str) -> Word {
    text.parse().expect("a name")
}

fn commit(n: u8) -> String {
    format!("{n:02x}").repeat(20)
}

fn registered(text: &str) -> Environment {
    environment::read(text).expect("an environment")
}

/// An environment, and the orders that are given to it one after the other.
struct Play {
    environment: Environment,
    deployed: Deployed,
    vault: BTreeSet<Word>,
    newest: u64,
    /// What the first task says of the proxy,
    proxy_anew: bool,
    /// and what it, or a deployment, finds gone of each service.
    lost: BTreeMap<String, Vec<&'static str>>,
    holder: Option<u64>,
    orders: BTreeMap<u64, Order>,
    /// Jobs that run, with the order that they are of.
    running: BTreeMap<JobId, (u64, Launch)>,
    ended: BTreeMap<JobId, Ended>,
    drawn: u64,
    told: Vec<String>,
    parallel: usize,
    older: bool,
    sealed: bool,
    /// What each repository shows.
    commits: BTreeMap<String, String>,
}

impl Play {
    fn new() -> Self {
        Self {
            environment: registered(ENVIRONMENT),
            deployed: Deployed::default(),
            vault: BTreeSet::new(),
            newest: 0,
            proxy_anew: false,
            lost: BTreeMap::new(),
            holder: None,
            orders: BTreeMap::new(),
            running: BTreeMap::new(),
            ended: BTreeMap::new(),
            drawn: 0,
            told: Vec::new(),
            parallel: 2,
            older: false,
            sealed: false,
            commits: ["6", "7", "8", "9"].iter().zip(1..).map(|(id, n)| ((*id).to_owned(), commit(n))).collect(),
        }
    }

    /// Gives an order; its number.
    fn give(&mut self, text: &str) -> u64 {
        self.newest += 1;
        let id = OrderId { environment: word("3"), number: self.newest };
        let spec = file::read(text).expect("an order");
        self.orders.insert(self.newest, Order::new(id, word("production"), spec, word("ada"), 1));
        self.newest
    }

    fn facts(&self) -> Facts {
        Facts {
            now_ms: 1_000,
            newest: self
                .orders
                .values()
                .filter(|order| order.says_all())
                .map(|order| order.id.number)
                .max()
                .unwrap_or_default(),
            holder: self.holder,
            mode: self.environment.modes.get(&word("production")).cloned(),
            vault: self.vault.clone(),
            ended: self.ended.clone(),
            parallel: self.parallel,
            older: self.older,
            sealed: self.sealed,
        }
    }

    /// Takes an order as far as it goes; asked again, it changes nothing.
    fn look(&mut self, number: u64) -> Change {
        let facts = self.facts();
        let mut drawn = self.drawn;
        let mut draw = || {
            drawn += 1;
            JobId::new(drawn, 1)
        };
        let mut order = self.orders[&number].clone();
        let change = rule::advance(&mut order, &mut self.deployed, &facts, &mut draw);
        self.vault.extend(change.generate.iter().cloned());
        let facts = Facts {
            vault: self.vault.clone(),
            holder: if rule::holds(&order) { Some(number) } else { self.holder },
            ..facts
        };
        let (mut again, mut deployed) = (order.clone(), self.deployed.clone());
        let second = rule::advance(&mut again, &mut deployed, &facts, &mut draw);
        assert!(second.told.is_empty() && second.launches.is_empty(), "nothing more follows: {second:?}");
        assert_eq!((&again, &deployed), (&order, &self.deployed));
        self.drawn = drawn;
        if rule::holds(&order) {
            assert!(self.holder.is_none_or(|holder| holder == number), "one order at a time");
            self.holder = Some(number);
        } else if self.holder == Some(number) {
            self.holder = None;
        }
        for launch in &change.launches {
            self.running.insert(launch.job, (number, launch.clone()));
        }
        self.told.extend(change.told.iter().map(|told| told.what.clone()));
        self.orders.insert(number, order);
        change
    }

    /// Jobs that run: their actions and locks.
    fn at_work(&self) -> Vec<String> {
        let mut all: Vec<_> =
            self.running.values().map(|(_, launch)| format!("{} {}", launch.action, launch.lock)).collect();
        all.sort();
        all
    }

    /// What a job that succeeds says.
    fn outputs(&self, launch: &Launch) -> Map<String, Value> {
        let told = &launch.vars["lockstep_order"];
        let of = |key: &str| told[key].as_array().cloned().unwrap_or_default();
        let outputs = match launch.action {
            "order-domains" => {
                let known = |it: &Value| {
                    let id = it["service"].as_str().expect("a service").to_owned();
                    let commit = self.commits[&id].clone();
                    (id, Value::from(commit))
                };
                let commits = Map::from_iter(of("repositories").iter().map(known));
                json!({"commits": commits, "proxy_anew": self.proxy_anew, "lost": self.lost})
            }
            "order-resources" => {
                let mut ports = Map::new();
                for it in of("placements") {
                    let taken: Vec<u64> =
                        it["taken"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
                    let chosen: Vec<u64> = ports.values().filter_map(Value::as_u64).collect();
                    let free = (20_000..=20_010).find(|port| !taken.contains(port) && !chosen.contains(port));
                    ports
                        .insert(it["service"].as_str().expect("a service").into(), it["port"].as_u64().or(free).into());
                }
                json!({"ports": ports})
            }
            _ => json!({}),
        };
        outputs.as_object().cloned().expect("an object")
    }

    /// One job ends.
    fn end(&mut self, job: JobId, outcome: Outcome) -> Change {
        let (number, launch) = self.running.remove(&job).expect("it runs");
        let lost = Map::from_iter([("lost".to_owned(), json!(self.lost))]);
        let outputs = if outcome == Outcome::Succeeded { self.outputs(&launch) } else { lost };
        let reason = (outcome != Outcome::Succeeded).then(|| "it did not go well".to_owned());
        self.ended.insert(job, Ended { outcome, reason, outputs });
        self.look(number)
    }

    /// All jobs end well until nothing runs, but for those of services whose lock is named.
    fn play(&mut self, failing: &[&str]) {
        while let Some((job, lock)) =
            self.running.iter().map(|(job, (_, launch))| (*job, launch.lock.to_string())).next()
        {
            let outcome = if failing.contains(&lock.as_str()) { Outcome::Failed } else { Outcome::Succeeded };
            self.end(job, outcome);
        }
    }

    fn state(&self, number: u64) -> State {
        self.orders[&number].state
    }

    fn task(&self, number: u64, task: Task) -> TaskState {
        let order = &self.orders[&number];
        order.tasks.iter().find(|it| it.task == task).expect("a task").state
    }
}
