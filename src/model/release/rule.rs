//! What follows by itself for a release: the whole rule, without I/O and clock.
//!
//! [`advance`] is asked after every change and whenever something that it waits for may have happened. It takes the release as far as
//! the [`Facts`] allow and says in a [`Change`] what is to be carried out together with the recording of it: jobs that take their
//! locks together or not at all, and events. Asked again with the same facts it changes nothing.
//!
//! ```text
//!  deploy   pending ─▶ deploying ─▶ all deployed ─▶ (canary: the next share) ─▶ pass
//!                          └─ one failed: undo those that are deployed or failed ─▶ fail, naming each service and its state
//!  run      a job ─▶ pass, warning, or what its output `result` says; any other end than success is a fail
//!  check    every reporter of the frozen set ─▶ the worst of what they found; silence at the deadline is inconclusive
//!  approval so many of the groups' members ─▶ pass
//!  soak     time since the last deployment in the stage, anew after a redeployment ─▶ pass
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Map, Value, json};

pub use super::stages::begin;
use super::{Blocked, DeploymentState, Finding, Release, Report, StepRun, There, Visit, Work};
use crate::model::ids::{DeploymentId, Inventory, JobId, ReleaseId, Word};
use crate::model::job::Outcome;
use crate::model::pipeline::{Kind, Pipeline, Stage, Step};

/// A release whose jobs run, or that waits for locks, is looked at so often even if nobody says that they have ended, in milliseconds.
const LOOK_AGAIN_MS: u64 = 30_000;
/// And so often while another release is in its way.
const TRY_AGAIN_MS: u64 = 2_000;

/// A job that has ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Ended {
    /// How.
    pub outcome: Outcome,
    /// Why, where that was said.
    pub reason: Option<String>,
    /// What it has set for others.
    pub outputs: Map<String, Value>,
}

/// What is known besides the release.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// Milliseconds since 1970.
    pub now_ms: u64,
    /// Of the jobs whose end the release waits for, those that have ended.
    pub ended: BTreeMap<JobId, Ended>,
    /// Who is subscribed to its product.
    pub subscribers: BTreeSet<Word>,
    /// The apps that the feed lists, and their inventories.
    pub apps: BTreeMap<DeploymentId, Inventory>,
    /// What each app of its stage has last deployed for a release.
    pub there: BTreeMap<DeploymentId, There>,
    /// Of each app of its stage the newest job that succeeded, and when it ended.
    pub succeeded: BTreeMap<DeploymentId, (JobId, u64)>,
    /// Other releases that hold a place in the stage that it is to enter ([`Release::holds_place`]), and whether they are being deployed
    /// there ([`Release::is_deploying_in`]).
    pub occupants: BTreeMap<ReleaseId, bool>,
    /// Who is recorded in the places of its services in that stage, whether or not he holds them still: whoever takes them names him again.
    pub places: BTreeMap<Word, ReleaseId>,
    /// The release that holds automation in the stage that it is to enter, or else in the one that comes next.
    pub held: Option<ReleaseId>,
    /// Why the locks that it asked for could not be taken; nothing is asked for while that is so.
    pub blocked: Option<Blocked>,
}

/// An event to be told.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    /// What has happened, such as `tests.finished`.
    pub what: String,
    /// What is to be said of it.
    pub data: Map<String, Value>,
    /// Whom it concerns: people, groups, reporters.
    pub to: BTreeSet<Word>,
}

/// A job to be launched. All of a change get their locks together, or none does.
#[derive(Debug, Clone, PartialEq)]
pub struct Launch {
    /// Its id.
    pub job: JobId,
    /// Its app.
    pub app: DeploymentId,
    /// Its variables.
    pub vars: Map<String, Value>,
}

/// What is to be carried out in the step that records the release.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Change {
    /// In order.
    pub told: Vec<Told>,
    /// All, or none, and then nothing else either.
    pub launches: Vec<Launch>,
    /// What apps have deployed now; none: nothing of a release.
    pub there: Vec<(DeploymentId, Option<There>)>,
    /// Releases that are to be superseded before this is recorded, if they are still in the stage that it `occupies`.
    pub supersede: BTreeSet<ReleaseId>,
    /// A stage whose services it takes now.
    pub occupies: Option<Word>,
}

/// Takes a release as far as the facts allow. `draw` gives ids for jobs.
pub fn advance(pipeline: &Pipeline, release: &mut Release, facts: &Facts, draw: &mut dyn FnMut() -> JobId) -> Change {
    let mut rule = Rule { pipeline, facts, draw, change: Change::default() };
    while rule.go_on(release) {}
    rule.change
}

/// When it is to be looked at again although nothing has happened; none: never.
pub fn due_ms(release: &Release, now_ms: u64) -> Option<u64> {
    if release.is_over() || release.suspended.is_some() {
        return None;
    }
    if release.entering.is_some() {
        // Whoever lifts what holds it wakes it.
        return release.held_by.is_none().then_some(now_ms + TRY_AGAIN_MS);
    }
    let visit = release.visit()?;
    let step = visit.steps.get(visit.current()?)?;
    if step.blocked.is_some() || !step.busy_jobs().is_empty() {
        return Some(now_ms + LOOK_AGAIN_MS);
    }
    match &step.work {
        _ if step.result.is_some() => None,
        Work::Deploy { not_before_ms, .. } => *not_before_ms,
        Work::Check { deadline_ms, .. } => *deadline_ms,
        Work::Soak { until_ms, .. } => *until_ms,
        Work::Run { .. } | Work::Approval { .. } => None,
    }
}

/// Inventories whose locks it waits for.
pub fn wanted(pipeline: &Pipeline, release: &Release, apps: &BTreeMap<DeploymentId, Inventory>) -> BTreeSet<Inventory> {
    let blocked = release.visit().filter(|_| !release.is_over() && release.suspended.is_none()).and_then(|visit| {
        let step = visit.steps.get(visit.current()?)?;
        step.blocked.as_ref().map(|_| (visit, step))
    });
    let Some((visit, step)) = blocked else { return BTreeSet::new() };
    let of: Vec<&DeploymentId> = match &step.work {
        Work::Deploy { services, .. } => services.values().map(|it| &it.app).collect(),
        _ => {
            match pipeline.stage(&visit.stage).and_then(|(_, stage)| stage.steps.iter().find(|it| it.name == step.name))
            {
                Some(Step { kind: Kind::Run { app }, .. }) => vec![app],
                _ => vec![],
            }
        }
    };
    of.into_iter().filter_map(|app| apps.get(app).cloned()).collect()
}

/// Reporters that are asked and have not reported.
pub fn asked(release: &Release) -> BTreeSet<Word> {
    let visit = release.visit().filter(|_| !release.is_over() && release.entering.is_none());
    let Some(step) = visit.and_then(|visit| visit.steps.get(visit.current()?)).filter(|step| step.is_open()) else {
        return BTreeSet::new();
    };
    match &step.work {
        Work::Check { reporters, .. } => {
            reporters.iter().filter(|(_, report)| report.is_none()).map(|(name, _)| name.clone()).collect()
        }
        _ => BTreeSet::new(),
    }
}

/// An event of a release. `more` must be an object.
pub(super) fn told(what: impl Into<String>, more: Value, to: impl IntoIterator<Item = Word>) -> Told {
    let data = match more {
        Value::Object(map) => map.into_iter().filter(|(_, value)| !value.is_null()).collect(),
        _ => Map::new(),
    };
    Told { what: what.into(), data, to: to.into_iter().collect() }
}

pub(super) struct Rule<'a> {
    pub(super) pipeline: &'a Pipeline,
    pub(super) facts: &'a Facts,
    pub(super) draw: &'a mut dyn FnMut() -> JobId,
    pub(super) change: Change,
}

impl Rule<'_> {
    /// One move; false: nothing more follows.
    fn go_on(&mut self, release: &mut Release) -> bool {
        if release.is_over() {
            return self.wind_up(release);
        } else if !self.change.launches.is_empty() {
            return false;
        } else if release.suspended.is_some() {
            return self.stand_by(release);
        }
        let settled = release.is_settled();
        if release.entering.is_some() && !settled {
            return self.enter(release);
        }
        // Its steps are worked on beside it: they are told what the rest of it is.
        let Some(mut visit) = release.visits.pop() else { return false };
        let stage = self.pipeline.stage(&visit.stage).map(|(_, stage)| stage);
        let at = if settled { visit.steps.iter().position(StepRun::is_deploying) } else { visit.current() };
        let moved = match (stage, at) {
            (Some(stage), Some(at)) => Some(self.step(release, &mut visit, stage, at)),
            (None, _) | (_, None) => None,
        };
        release.visits.push(visit);
        match moved {
            Some(moved) => moved,
            None if settled => false,
            None => self.leave(release),
        }
    }

    /// Nothing follows for one that is suspended. How its jobs end is taken in all the same: their records are not kept for as long as it.
    fn stand_by(&mut self, release: &mut Release) -> bool {
        let Some(mut visit) = release.visits.pop() else { return false };
        let at = visit.steps.iter().position(|step| !step.busy_jobs().is_empty());
        let stage = self.pipeline.stage(&visit.stage).map(|(_, stage)| stage);
        if let Some((kind, at)) = at.and_then(|at| Some((stage?.steps.get(at)?, at))) {
            match &kind.kind {
                Kind::Deploy { strategy } => self.take_in(release, &mut visit, strategy, at),
                Kind::Run { app } => {
                    if let Some((result, note)) = self.run(release, &mut visit, app, at) {
                        self.finish(release, &mut visit, kind, at, result, note);
                    }
                }
                Kind::Check { .. } | Kind::Approval { .. } | Kind::Soak { .. } => {}
            }
        }
        release.visits.push(visit);
        false
    }

    fn step(&mut self, release: &mut Release, visit: &mut Visit, stage: &Stage, at: usize) -> bool {
        let Some(kind) = stage.steps.get(at) else { return false };
        if visit.steps[at].result.is_some() {
            return false;
        }
        if visit.steps[at].triggered_ms.is_none() {
            self.trigger(release, visit, kind, at);
        }
        let end = match &kind.kind {
            Kind::Deploy { strategy } => self.deploy(release, visit, strategy, at),
            Kind::Run { app } => self.run(release, visit, app, at),
            Kind::Check { .. } => self.check(visit, at),
            Kind::Approval { count, .. } => self.approval(visit, *count, at),
            Kind::Soak { time } => self.soak(visit, millis(*time), at),
        };
        let Some((result, note)) = end else { return false };
        self.finish(release, visit, kind, at, result, note);
        // Of a release that is over its stage is finished next.
        result.goes_on() || release.is_settled()
    }

    /// A step has ended.
    fn finish(
        &mut self,
        release: &mut Release,
        visit: &mut Visit,
        kind: &Step,
        at: usize,
        result: Finding,
        note: Option<String>,
    ) {
        let stage = &visit.stage;
        let step = &mut visit.steps[at];
        // Something may have been said on the way.
        step.note = match (note, step.note.take()) {
            (Some(note), Some(before)) => Some(format!("{note}; {before}")),
            (note, before) => note.or(before),
        };
        (step.ended_ms, step.result, step.blocked) = (Some(self.facts.now_ms), Some(result), None);
        let mut more =
            json!({"stage": stage, "step": step.name, "kind": kind.kind.word(), "result": result, "note": step.note});
        if let Work::Deploy { services, .. } = &step.work {
            more["services"] =
                services.iter().map(|(name, it)| (name.to_string(), json!(it.state))).collect::<Map<_, _>>().into();
        }
        if let Work::Check { reporters, .. } = &step.work {
            let found = |report: &Option<Report>| json!(report.as_ref().map(|report| report.result));
            more["results"] =
                reporters.iter().map(|(name, report)| (name.to_string(), found(report))).collect::<Map<_, _>>().into();
        }
        self.change.told.push(told(format!("{}.finished", step.name), more, []));
        if result.goes_on() {
            return;
        }
        let whom = || release.assigned.iter().cloned().chain([release.by.clone()]);
        if let (Work::Deploy { services, .. }, Some((held, _))) = (&step.work, &release.hold)
            && held == stage
        {
            let back = services.values().all(|it| it.state == DeploymentState::Undone);
            let result = if back { Finding::Pass } else { Finding::Fail };
            let more = json!({"stage": stage, "step": step.name, "result": result, "note": step.note});
            self.change.told.push(told("rollback.finished", more, whom()));
        }
        let group = kind.on_failure.clone().filter(|group| release.assigned.as_ref() != Some(group));
        if let Some(group) = group.filter(|_| !release.is_settled()) {
            let more = json!({"stage": stage, "step": kind.name, "group": group, "result": result});
            self.change.told.push(told("assigned", more, [group.clone()]));
            release.assigned = Some(group);
        }
    }

    /// It is a step's turn.
    fn trigger(&mut self, release: &Release, visit: &mut Visit, kind: &Step, at: usize) {
        let now = self.facts.now_ms;
        let deployed = visit.steps[..at].iter().filter(|step| matches!(step.work, Work::Deploy { .. }));
        let deployed_ms = deployed.filter_map(|step| step.ended_ms).max();
        let step = &mut visit.steps[at];
        step.triggered_ms = Some(now);
        let mut more = json!({"stage": visit.stage, "step": step.name, "kind": kind.kind.word()});
        let mut requests = Vec::new();
        match (&mut step.work, &kind.kind) {
            (Work::Deploy { .. }, Kind::Deploy { strategy }) => more["strategy"] = strategy.word().into(),
            (Work::Check { reporters, deadline_ms }, Kind::Check { deadline, action, .. }) => {
                *deadline_ms = Some(now.saturating_add(millis(*deadline)));
                more["action"] = json!(action);
                for name in reporters.iter().filter(|(_, report)| report.is_none()).map(|(name, _)| name) {
                    let request = json!({"stage": visit.stage, "step": step.name, "reporter": name, "action": action, "deadline_ms": deadline_ms, "services": release.services});
                    requests.push(told(format!("{}.requested", step.name), request, [name.clone()]));
                }
            }
            (Work::Approval { .. }, Kind::Approval { groups, count }) => {
                more["count"] = (*count).into();
                more["groups"] = json!(groups);
                requests.push(told(
                    format!("{}.requested", step.name),
                    json!({"stage": visit.stage, "step": step.name, "groups": groups, "count": count}),
                    groups.iter().cloned(),
                ));
            }
            (Work::Soak { since_ms, until_ms }, Kind::Soak { time }) => {
                let since = deployed_ms.unwrap_or(now);
                (*since_ms, *until_ms) = (Some(since), Some(since.saturating_add(millis(*time))));
                more["until_ms"] = json!(until_ms);
            }
            _ => {}
        }
        self.change.told.push(told(format!("{}.triggered", step.name), more, []));
        if !matches!(step.work, Work::Deploy { .. } | Work::Run { .. }) {
            step.started_ms = Some(now);
            let more = json!({"stage": visit.stage, "step": step.name, "kind": kind.kind.word()});
            self.change.told.push(told(format!("{}.started", step.name), more, []));
        }
        self.change.told.extend(requests);
    }
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
