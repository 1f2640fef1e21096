//! The five kinds of step: what each does when it is its turn, and when it is done.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::rule::{Ended, Launch, Rule, millis, told};
use super::vars;
use super::{
    Artifact, Blocked, Deployment, DeploymentState, Finding, NOTE_MAX, OUTPUTS_MAX, Operation, RanJob, Release,
    StepRun, There, Visit, Work, listed,
};
use crate::model::ids::{DeploymentId, Inventory, JobId, Word};
use crate::model::job::Outcome;
use crate::model::pipeline::Strategy;

/// What came of a step, and what is to be said of it; none: it goes on.
pub(super) type End = Option<(Finding, Option<String>)>;

/// Each takes the work of its step as far as it goes.
impl Rule<'_> {
    pub(super) fn deploy(&mut self, release: &Release, visit: &mut Visit, strategy: &Strategy, at: usize) -> End {
        loop {
            self.take_in(release, visit, strategy, at);
            let step = &mut visit.steps[at];
            let Work::Deploy { turn, undoing, not_before_ms, services } = &mut step.work else { return None };
            let in_state = |state: DeploymentState, services: &BTreeMap<Word, Deployment>| -> Vec<Word> {
                services.iter().filter(|(_, it)| it.state == state).map(|(name, _)| name.clone()).collect()
            };
            if services.values().any(|it| it.state.is_busy()) {
                return None;
            }
            *undoing |= services.values().any(|it| it.state == DeploymentState::Failed);
            let pending = in_state(DeploymentState::Pending, services);
            if *undoing {
                let mut touched = in_state(DeploymentState::Deployed, services);
                touched.extend(in_state(DeploymentState::Failed, services));
                if *turn > 0 {
                    // A share of it is there.
                    touched.extend(pending);
                }
                if touched.is_empty() {
                    *undoing = false;
                    return Some((Finding::Fail, Some(summary(services))));
                } else if blocked(step, self.facts.blocked.as_ref()) {
                    return None;
                }
                let which = self.undoable(release, step, touched);
                if !which.is_empty() {
                    self.launch(release, visit, strategy, at, Operation::Undo, &which);
                    return None;
                }
            } else if !pending.is_empty() {
                let begun = *turn > 0;
                if blocked(step, self.facts.blocked.as_ref()) {
                    return None;
                }
                match self.unfit(step, &pending) {
                    None => {
                        self.launch(release, visit, strategy, at, Operation::Deploy, &pending);
                        return None;
                    }
                    Some(fault) if !begun => return Some((Finding::Fail, Some(fault))),
                    // The feed has changed in mid-deployment.
                    Some(fault) => {
                        let Work::Deploy { services, .. } = &mut step.work else { return None };
                        for it in services.values_mut().filter(|it| it.state == DeploymentState::Pending) {
                            it.state = DeploymentState::Failed;
                            trouble(it, fault.clone());
                        }
                    }
                }
            } else if *turn + 1 < strategy.turns() {
                let pause = match strategy {
                    Strategy::Canary { pause, .. } => millis(*pause),
                    Strategy::Direct | Strategy::BlueGreen => 0,
                };
                // Services are what they are until the next share begins: deployed.
                let next_ms = not_before_ms.unwrap_or_else(|| {
                    let next_ms = self.facts.now_ms.saturating_add(pause);
                    let more = json!({"stage": visit.stage, "step": step.name, "kind": "deploy", "share": strategy.share(*turn), "next_ms": next_ms});
                    self.change.told.push(told(format!("{}.shared", step.name), more, []));
                    next_ms
                });
                *not_before_ms = Some(next_ms);
                if next_ms > self.facts.now_ms {
                    return None;
                }
                *turn += 1;
                *not_before_ms = None;
                services.values_mut().for_each(|it| it.state = DeploymentState::Pending);
            } else {
                return Some((Finding::Pass, None));
            }
        }
    }

    /// Takes in how the jobs of a bracket ended.
    pub(super) fn take_in(&mut self, release: &Release, visit: &mut Visit, strategy: &Strategy, at: usize) {
        let mut outputs = Vec::new();
        let step = &mut visit.steps[at];
        let Work::Deploy { turn, services, .. } = &mut step.work else { return };
        for (name, it) in services.iter_mut().filter(|(_, it)| it.state.is_busy()) {
            let Some((job, ended)) = it.job.and_then(|job| Some((job, self.facts.ended.get(&job)?))) else { continue };
            let good = ended.outcome == Outcome::Succeeded;
            if let Some(ran) = step.jobs.iter_mut().find(|ran| ran.job == job) {
                ran.outcome = Some(ended.outcome);
            }
            it.job = None;
            if !good {
                trouble(it, why(job, ended));
            }
            it.state = match (it.state, good) {
                (DeploymentState::Undoing, true) => DeploymentState::Undone,
                (DeploymentState::Undoing, false) => DeploymentState::NotUndone,
                (_, true) => DeploymentState::Deployed,
                (_, false) => DeploymentState::Failed,
            };
            let there = |artifact: &Artifact| There {
                artifact: artifact.clone(),
                release: release.id,
                service: name.clone(),
                stage: visit.stage.clone(),
            };
            match it.state {
                DeploymentState::Deployed => {
                    outputs.push((name.to_string(), ended.outputs.clone()));
                    if *turn + 1 == strategy.turns() {
                        self.change.there.push((it.app.clone(), release.services.get(name).map(there)));
                    }
                }
                DeploymentState::Undone => self.change.there.push((it.app.clone(), it.previous.clone())),
                _ => {}
            }
        }
        for (service, set) in outputs {
            keep_outputs(visit, at, service, set);
        }
    }

    /// Why these services cannot be deployed together.
    fn unfit(&self, step: &StepRun, which: &[Word]) -> Option<String> {
        let Work::Deploy { services, .. } = &step.work else { return None };
        let mut taken: BTreeMap<&Inventory, &Word> = BTreeMap::new();
        for name in which {
            let it = services.get(name)?;
            let Some(inventory) = self.facts.apps.get(&it.app) else {
                return Some(format!("the feed lists no app {}, which deploys {name}", it.app));
            };
            if let Some(other) = taken.insert(inventory, name) {
                return Some(format!(
                    "{other} and {name} are deployed to one inventory, {inventory}; a bracket needs one for each service"
                ));
            }
        }
        None
    }

    /// Of services that are to be undone, those that can be now. What cannot be at all is said to be so, and hinders no other; the second of
    /// one inventory comes after the first.
    fn undoable(&self, release: &Release, step: &mut StepRun, touched: Vec<Word>) -> Vec<Word> {
        let Work::Deploy { services, .. } = &mut step.work else { return Vec::new() };
        let mut taken: BTreeSet<&Inventory> = BTreeSet::new();
        let mut which = Vec::new();
        for name in touched {
            let Some(it) = services.get_mut(&name) else { continue };
            let there = self.facts.there.get(&it.app);
            // Not over the head of who has deployed there since.
            let other = there.filter(|there| there.release != release.id && it.previous.as_ref() != Some(there));
            let fault = match (self.facts.apps.get(&it.app), other) {
                (None, _) => format!("the feed lists no app {}, which deploys {name}", it.app),
                (Some(_), Some(other)) => format!("release {} was deployed there since", other.release),
                (Some(inventory), None) => {
                    if taken.insert(inventory) {
                        which.push(name);
                    }
                    continue;
                }
            };
            it.state = DeploymentState::NotUndone;
            trouble(it, fault);
        }
        which
    }

    /// What was there before a service of this stage: what an earlier step of it found, and what was found before a retry, if that is
    /// where its own version stands still.
    fn previous(&self, release: &Release, visit: &Visit, at: usize, name: &Word) -> Option<There> {
        let of = |step: &StepRun| match &step.work {
            Work::Deploy { services, .. } => services.get(name).cloned(),
            _ => None,
        };
        if let Some(earlier) = visit.steps[..at].iter().find_map(of) {
            return earlier.previous;
        }
        let it = of(&visit.steps[at])?;
        match self.facts.there.get(&it.app) {
            Some(there) if there.release == release.id && there.stage == visit.stage => it.previous,
            there => there.cloned(),
        }
    }

    /// Launches the jobs of a bracket.
    fn launch(
        &mut self,
        release: &Release,
        visit: &mut Visit,
        strategy: &Strategy,
        at: usize,
        operation: Operation,
        which: &[Word],
    ) {
        let name = visit.steps[at].name.clone();
        let common =
            vars::common(self.pipeline, release, visit, &name, operation, |app| self.facts.apps.get(app).cloned());
        let previous: BTreeMap<Word, Option<There>> =
            which.iter().map(|name| (name.clone(), self.previous(release, visit, at, name))).collect();
        let step = &mut visit.steps[at];
        let Work::Deploy { turn, not_before_ms, services, .. } = &mut step.work else { return };
        *not_before_ms = None;
        let mut ran = Vec::new();
        for (name, previous) in previous {
            let (Some(it), Some(artifact)) = (services.get_mut(&name), release.services.get(&name)) else { continue };
            let job = (self.draw)();
            it.job = Some(job);
            it.state = match operation {
                Operation::Undo => DeploymentState::Undoing,
                Operation::Deploy | Operation::Run => DeploymentState::Deploying,
            };
            if operation == Operation::Deploy && *turn == 0 {
                it.previous = previous;
            }
            let vars = vars::of_service(common.clone(), &name, artifact, it, strategy, *turn);
            self.change.launches.push(Launch { job, app: it.app.clone(), vars: vars::variables(vars) });
            ran.push(RanJob { job, service: Some(name), operation, outcome: None });
        }
        let jobs: Map<String, Value> =
            ran.iter().filter_map(|it| Some((it.service.as_ref()?.to_string(), json!(it.job)))).collect();
        ran.into_iter().for_each(|it| step.note_job(it));
        let more = json!({"stage": visit.stage, "step": name, "kind": "deploy", "jobs": jobs});
        match operation {
            Operation::Undo => self.change.told.push(told(format!("{name}.undoing"), more, [])),
            _ if step.started_ms.is_none() => self.change.told.push(told(format!("{name}.started"), more, [])),
            _ => {}
        }
        step.started_ms.get_or_insert(self.facts.now_ms);
    }

    pub(super) fn run(&mut self, release: &Release, visit: &mut Visit, app: &DeploymentId, at: usize) -> End {
        let step = &mut visit.steps[at];
        let Work::Run { job } = &mut step.work else { return None };
        if let Some(running) = *job {
            let ended = self.facts.ended.get(&running)?;
            *job = None;
            if let Some(ran) = step.jobs.iter_mut().find(|ran| ran.job == running) {
                ran.outcome = Some(ended.outcome);
            }
            keep_outputs(visit, at, app.to_string(), ended.outputs.clone());
            return Some(found(running, ended));
        }
        if blocked(step, self.facts.blocked.as_ref()) {
            return None;
        } else if !self.facts.apps.contains_key(app) {
            return Some((Finding::Fail, Some(format!("the feed lists no app {app}"))));
        }
        let name = step.name.clone();
        let common =
            vars::common(self.pipeline, release, visit, &name, Operation::Run, |app| self.facts.apps.get(app).cloned());
        let job = (self.draw)();
        let step = &mut visit.steps[at];
        step.work = Work::Run { job: Some(job) };
        step.started_ms = Some(self.facts.now_ms);
        step.note_job(RanJob { job, service: None, operation: Operation::Run, outcome: None });
        self.change.launches.push(Launch { job, app: app.clone(), vars: vars::variables(common) });
        let more = json!({"stage": visit.stage, "step": name, "kind": "run", "jobs": {app.to_string(): job}});
        self.change.told.push(told(format!("{name}.started"), more, []));
        None
    }

    pub(super) fn check(&self, visit: &Visit, at: usize) -> End {
        let Work::Check { reporters, deadline_ms } = &visit.steps[at].work else { return None };
        if reporters.is_empty() {
            return Some((Finding::Inconclusive, Some("there is nobody to report".into())));
        }
        let found = reporters.values().flatten().map(|report| report.result).max();
        let silent: Vec<&Word> =
            reporters.iter().filter(|(_, report)| report.is_none()).map(|(name, _)| name).collect();
        if silent.is_empty() {
            let of = |result: Finding| {
                let such = reporters.iter().filter(|(_, it)| it.as_ref().is_some_and(|it| it.result == result));
                listed(such.map(|(name, _)| name))
            };
            return found.map(|worst| (worst, (worst != Finding::Pass).then(|| format!("{worst}: {}", of(worst)))));
        }
        let over = deadline_ms.is_some_and(|deadline| deadline <= self.facts.now_ms);
        over.then(|| {
            let note = format!("nothing was heard from {} until the deadline", listed(silent));
            (found.unwrap_or(Finding::Pass).max(Finding::Inconclusive), Some(note))
        })
    }

    pub(super) fn approval(&self, visit: &Visit, count: u32, at: usize) -> End {
        let Work::Approval { given } = &visit.steps[at].work else { return None };
        (given.len() >= count as usize).then(|| (Finding::Pass, Some(format!("approved by {}", listed(given.keys())))))
    }

    pub(super) fn soak(&mut self, visit: &mut Visit, time_ms: u64, at: usize) -> End {
        let ours: BTreeSet<JobId> = visit.steps.iter().flat_map(|step| &step.jobs).map(|ran| ran.job).collect();
        let deploying = visit.steps.iter().filter_map(|step| match &step.work {
            Work::Deploy { services, .. } => Some(services),
            _ => None,
        });
        let apps: BTreeSet<&DeploymentId> =
            deploying.flat_map(|services| services.values().map(|it| &it.app)).collect();
        let redeployed =
            apps.iter().filter_map(|app| self.facts.succeeded.get(*app).map(|(job, ended)| (*app, *job, *ended)));
        let redeployed = redeployed.filter(|(_, job, _)| !ours.contains(job)).max_by_key(|(_, _, ended)| *ended);
        let redeployed = redeployed.map(|(app, job, ended)| (app.clone(), job, ended));
        let (stage, step) = (visit.stage.clone(), &mut visit.steps[at]);
        let Work::Soak { since_ms: Some(since), until_ms: Some(until) } = &mut step.work else { return None };
        if let Some((app, job, ended)) = redeployed.filter(|(_, _, ended)| *ended > *since) {
            (*since, *until) = (ended, ended.saturating_add(time_ms));
            let more = json!({"stage": stage, "step": step.name, "app": app, "job": job, "until_ms": *until});
            self.change.told.push(told(format!("{}.restarted", step.name), more, []));
        }
        (*until <= self.facts.now_ms).then_some((Finding::Pass, None))
    }
}

/// Records what keeps locks from being taken, if anything does.
fn blocked(step: &mut StepRun, by: Option<&Blocked>) -> bool {
    step.blocked = by.cloned();
    step.blocked.is_some()
}

/// What a job of a step `run` has found.
fn found(job: JobId, ended: &Ended) -> (Finding, Option<String>) {
    let text = |name: &str| ended.outputs.get(name).and_then(Value::as_str);
    if ended.outcome != Outcome::Succeeded {
        return (Finding::Fail, Some(why(job, ended)));
    } else if !ended.outputs.contains_key("result") {
        return (Finding::Pass, None);
    }
    match text("result").map(str::parse::<Finding>) {
        Some(Ok(result)) => {
            let comment = text("comment").map(short);
            (result, comment.or((result != Finding::Pass).then(|| format!("job {job} says so"))))
        }
        Some(Err(_)) | None => {
            let note = format!("the output `result` of job {job} is none of pass, warning, inconclusive and fail");
            (Finding::Inconclusive, Some(note))
        }
    }
}

/// Keeps what a job has set for those after it, as long as there is room.
fn keep_outputs(visit: &mut Visit, at: usize, whose: String, outputs: Map<String, Value>) {
    if outputs.is_empty() {
        return;
    }
    let step = &mut visit.steps[at];
    // What an earlier turn has set would be taken for this one's.
    let of_step = visit.outputs.entry(step.name.clone()).or_default();
    of_step.remove(&whose);
    let size = |value: &Value| value.to_string().len();
    let room = OUTPUTS_MAX.saturating_sub(size(&json!(visit.outputs)));
    if size(&json!(outputs)) <= room {
        visit.outputs.entry(step.name.clone()).or_default().insert(whose, outputs);
    } else {
        let note = format!("outputs of {whose} are left out: those of a stage may have {OUTPUTS_MAX} bytes");
        step.note = Some(match step.note.take() {
            Some(before) => short(&format!("{before}; {note}")),
            None => note,
        });
    }
    visit.outputs.retain(|_, set| !set.is_empty());
}

/// Adds to what went wrong with a service.
fn trouble(it: &mut Deployment, what: String) {
    it.trouble = Some(match it.trouble.take() {
        Some(before) => short(&format!("{before}; {what}")),
        None => short(&what),
    });
}

fn why(job: JobId, ended: &Ended) -> String {
    match &ended.reason {
        Some(reason) => format!("job {job} {}: {reason}", ended.outcome),
        None => format!("job {job} {}", ended.outcome),
    }
}

/// Which service failed, and what state each is in.
fn summary(services: &BTreeMap<Word, Deployment>) -> String {
    let each = services.iter().map(|(name, it)| match &it.trouble {
        Some(trouble) => format!("{name} is {}: {trouble}", it.state.word().replace('_', " ")),
        None => format!("{name} is {}", it.state.word().replace('_', " ")),
    });
    each.collect::<Vec<_>>().join("; ")
}

/// As much of a text as is kept: what jobs say has any length.
fn short(text: &str) -> String {
    let end = text.floor_char_boundary(NOTE_MAX);
    text[..end].to_owned()
}
