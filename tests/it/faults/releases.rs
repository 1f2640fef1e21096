//! Release managers: each makes one release after the other and takes it to its decision, whatever happens meanwhile: brackets of two
//! services on inventories that everybody else deploys to as well, tests, a second stage; what fails is retried, and rejected in the end.
//!
//! What must hold: no service is deployed twice without having been undone or having failed in between; every container that ran for a
//! release stands in it; no bracket is left half-deployed without saying so; none is forgotten. A release that Redis lost when it was wiped is
//! unknown afterwards, which says so too.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::load::{Load, PACE, PATIENCE};
use super::observer::Marks;
use crate::support::service::OPERATOR_TOKEN;

/// How many there are.
const MANAGERS: u64 = 2;
/// So often a release that failed is tried again.
const RETRIES: u64 = 2;

const PIPELINE: &str = "\
pipeline: faults
product: faults
services:
  left: {first: app-0, second: app-2}
  right: {first: app-1, second: app-3}
stages:
  - stage: first
    steps:
      - {name: deploy, deploy: direct}
      - {name: tests, run: app-4}
    promote: auto
  - stage: second
    steps:
      - {name: deploy, deploy: blue_green}
    promote: manual
";

/// A release, as it was last seen; none: it is unknown, and Redis was wiped since it was made.
#[derive(Debug, Clone)]
pub(super) struct Managed {
    pub(super) id: String,
    pub(super) made: Instant,
    pub(super) seen: Instant,
    pub(super) last: Option<Value>,
    pub(super) settled: bool,
}

impl Load {
    /// Starts the managers.
    pub(super) fn manage(self: &Arc<Self>) -> Vec<tokio::task::JoinHandle<()>> {
        (0..MANAGERS).map(|n| tokio::spawn(self.clone().manager(n))).collect()
    }

    async fn manager(self: Arc<Self>, n: u64) {
        let mut count = 0;
        while !self.enough.load(Ordering::Relaxed) {
            count += 1;
            let made = Instant::now();
            let version = format!("{n}.{count}");
            let body = json!({"pipeline": "faults", "services": {"left": version, "right": version}});
            let Some(release) = self.ask(Method::POST, "/api/v1/releases", &body).await else { continue };
            let id = release["id"].as_str().expect("an id").to_owned();
            let managed =
                self.carry(Managed { id, made, seen: Instant::now(), last: Some(release), settled: false }).await;
            self.managed.lock().unwrap_or_else(PoisonError::into_inner).push(managed);
        }
    }

    /// Asks until there is an answer that says something; none: there is no such thing.
    async fn ask(&self, method: Method, path: &str, body: &Value) -> Option<Value> {
        let key = lockstep::clock::draw_name();
        let since = Instant::now();
        for which in (0..2).cycle() {
            let mut asked =
                self.here.http().request(method.clone(), self.here.url(which, path)).bearer_auth(OPERATOR_TOKEN);
            if method == Method::POST {
                asked = asked.header("Idempotency-Key", &key).json(body);
            }
            match asked.timeout(PATIENCE / 10).send().await {
                Ok(answer) if answer.status().is_success() => {
                    if let Ok(answer) = answer.json().await {
                        return Some(answer);
                    }
                }
                Ok(answer) if answer.status() == StatusCode::SERVICE_UNAVAILABLE => self.fed(answer).await,
                Ok(answer) if answer.status() == StatusCode::NOT_FOUND => {
                    let text = answer.text().await.unwrap_or_default();
                    if !text.contains("unknown-pipeline") {
                        return None;
                    }
                    let set = self
                        .here
                        .http()
                        .put(self.here.url(which, "/api/v1/pipelines/faults"))
                        .bearer_auth(OPERATOR_TOKEN);
                    let _ = set.body(PIPELINE).timeout(PATIENCE / 10).send().await;
                }
                // What was asked has been done by an earlier try, or something has come first.
                Ok(answer) if answer.status() == StatusCode::CONFLICT => return Some(Value::Null),
                Ok(answer) => panic!("{path} answered {}", answer.status()),
                Err(_) => {}
            }
            assert!(since.elapsed() < PATIENCE, "nobody answers {path}");
            tokio::time::sleep(PACE).await;
        }
        None
    }

    /// Takes a release to its decision.
    async fn carry(&self, mut it: Managed) -> Managed {
        let path = format!("/api/v1/releases/{}", it.id);
        let mut retries = 0;
        let since = Instant::now();
        loop {
            let Some(release) = self.ask(Method::GET, &path, &Value::Null).await else {
                (it.seen, it.last) = (Instant::now(), None);
                return it;
            };
            (it.seen, it.last) = (Instant::now(), Some(release.clone()));
            let enough = self.enough.load(Ordering::Relaxed);
            match release["state"].as_str().expect("a state") {
                "undecided" => {
                    drop(self.ask(Method::POST, &format!("{path}/decision"), &json!({"decision": "accepted"})).await)
                }
                "failed" if retries < RETRIES && !enough => {
                    retries += 1;
                    self.ask(Method::POST, &format!("{path}/retry"), &json!({})).await;
                }
                "failed" => {
                    drop(self.ask(Method::POST, &format!("{path}/reject"), &json!({"reason": "it fails"})).await)
                }
                "suspended" => drop(self.ask(Method::POST, &format!("{path}/lift"), &json!({"reason": "seen"})).await),
                "decided" | "superseded" if !is_busy(&release) => {
                    it.settled = true;
                    return it;
                }
                _ if since.elapsed() > PATIENCE * 3 => return it,
                _ => {}
            }
            tokio::time::sleep(PACE).await;
        }
    }
}

fn steps(release: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let stages = release["stages"].as_array().map_or(&[][..], Vec::as_slice);
    stages.iter().flat_map(|visit| {
        let stage = visit["stage"].as_str().unwrap_or_default();
        visit["steps"].as_array().map_or(&[][..], Vec::as_slice).iter().map(move |step| (stage, step))
    })
}

fn is_busy(release: &Value) -> bool {
    let busy = |service: &Value| ["deploying", "undoing"].contains(&service["state"].as_str().unwrap_or_default());
    steps(release).any(|(_, step)| step["services"].as_object().is_some_and(|services| services.values().any(busy)))
}

/// What is wrong with a release that has come to its end.
pub(super) fn faults(it: &Managed, marks: &BTreeMap<String, Marks>) -> Vec<String> {
    let Some(release) = &it.last else { return vec![] };
    let mut wrong = Vec::new();
    let mut named = BTreeSet::new();
    for (stage, step) in steps(release) {
        let at = format!("{} {stage}/{}", it.id, step["name"].as_str().unwrap_or_default());
        let mut there: BTreeMap<&str, bool> = BTreeMap::new();
        for ran in step["jobs"].as_array().map_or(&[][..], Vec::as_slice) {
            let job = ran["job_id"].as_str().unwrap_or_default();
            named.insert(job.to_owned());
            let outcome = ran["outcome"].as_str();
            let service = ran["service"].as_str().unwrap_or_default();
            let operation = ran["operation"].as_str().unwrap_or_default();
            let deployed = there.entry(service).or_default();
            if operation == "deploy" && *deployed {
                wrong.push(format!("{at}: {service} was deployed again by {job}"));
            }
            *deployed = operation == "deploy" && outcome == Some("succeeded");
            let end = marks.get(job).and_then(|marks| marks.end);
            if outcome == Some("succeeded") && end != Some(0) {
                wrong.push(format!("{at}: job {job} succeeded, it says, and ended with {end:?}"));
            }
            if outcome.is_none() && it.settled && step["kind"] == "deploy" {
                wrong.push(format!("{at}: nobody has seen how job {job} ended"));
            }
        }
        let services = step["services"].as_object().into_iter().flatten();
        let half = services.filter(|(_, service)| service["state"] == "deployed").count();
        if step["result"] == "fail" && half > 0 {
            wrong.push(format!("{at}: it failed, and {half} services stay deployed"));
        }
        if step["result"] == "fail" && step["note"].as_str().is_none_or(str::is_empty) {
            wrong.push(format!("{at}: it failed, and does not say why"));
        }
    }
    let ran = marks.iter().filter(|(_, marks)| marks.release.as_deref() == Some(it.id.as_str()));
    for (job, _) in ran.filter(|(job, _)| !named.contains(*job)) {
        wrong.push(format!("{}: job {job} ran for it, and it does not say so", it.id));
    }
    wrong
}
