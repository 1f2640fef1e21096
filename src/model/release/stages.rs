//! How a release enters a stage, leaves it, and ends.

use std::collections::BTreeMap;

use serde_json::json;

use super::rule::{Rule, Told, told};
use super::{Act, Deployment, DeploymentState, Entering, Finding, Release, StepRun, Verdict, Visit, Work};
use crate::model::ids::Word;
use crate::model::pipeline::{Kind, Promote, Reporters, Stage, Step};

/// Sends a release to a stage: what is told of it, and where it stands then. The stage that it leaves is finished with that.
pub(super) fn send_on(release: &mut Release, stage: &Word, act: Act) -> Vec<Told> {
    let mut events = Vec::new();
    if let Some(visit) = release.visits.last_mut() {
        let (from, by) = (visit.stage.clone(), act.by.clone());
        for word in ["triggered", "started", "finished"] {
            let more = json!({"stage": from, "next": stage, "by": by, "reason": said(&act.reason)});
            events.push(told(format!("promote.{word}"), more, []));
        }
        events.extend(close(visit, act.at_ms, None));
    }
    let more = json!({"stage": stage, "services": release.services, "by": act.by});
    events.push(told("configuration-change.triggered", more, []));
    release.entering = Some(Entering { stage: stage.clone(), act, blocked_by: None });
    events
}

/// What is told when a release is made that is to enter its first stage.
pub fn begin(release: &mut Release) -> Vec<Told> {
    match release.entering.clone() {
        Some(Entering { stage, act, .. }) => send_on(release, &stage, act),
        None => Vec::new(),
    }
}

/// Ends what goes on in a stage, once.
pub(super) fn close(visit: &mut Visit, now_ms: u64, result: Option<Finding>) -> Option<Told> {
    if visit.finished_ms.is_some() {
        return None;
    }
    visit.finished_ms = Some(now_ms);
    let worst = visit.steps.iter().filter_map(|step| step.result).max().unwrap_or(Finding::Pass);
    let more = json!({"stage": visit.stage, "result": result.unwrap_or(worst)});
    Some(told("configuration-change.finished", more, []))
}

/// Decides a release. If jobs of it run still, its stage is finished when they have ended.
pub(super) fn decide(release: &mut Release, verdict: Verdict, act: Act) -> Vec<Told> {
    let mut events = Vec::new();
    let result = (verdict == Verdict::Rejected).then_some(Finding::Fail);
    if !release.is_deploying()
        && let Some(visit) = release.visits.last_mut()
    {
        events.extend(close(visit, act.at_ms, result));
    }
    release.entering = None;
    let to = release.assigned.iter().cloned().chain([release.by.clone()]);
    let more = json!({"stage": release.visit().map(|visit| &visit.stage), "by": act.by, "reason": said(&act.reason), "submitter": release.by});
    events.push(told(verdict.word(), more, to));
    release.decision = Some((verdict, act));
    events
}

fn said(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

impl Rule<'_> {
    /// It is over: so is what goes on in its stage.
    pub(super) fn wind_up(&mut self, release: &mut Release) -> bool {
        let rejected = release.decision.as_ref().is_some_and(|(verdict, _)| *verdict == Verdict::Rejected);
        let result = match release.superseded_by {
            _ if rejected => Some(Finding::Fail),
            Some(_) => Some(Finding::Inconclusive),
            None => None,
        };
        let closed = release.visits.last_mut().and_then(|visit| close(visit, self.facts.now_ms, result));
        self.change.told.extend(closed);
        false
    }

    /// Enters the stage that it is to enter, if no other release is being deployed there.
    pub(super) fn enter(&mut self, release: &mut Release) -> bool {
        let Some(entering) = &mut release.entering else { return false };
        let Some((_, stage)) = self.pipeline.stage(&entering.stage) else { return false };
        release.held_by = self.facts.held.filter(|_| entering.act.by.is_none());
        if release.held_by.is_some() {
            // Held since it was sent there.
            entering.blocked_by = None;
            return false;
        }
        let deploys = stage.steps.iter().any(|step| matches!(step.kind, Kind::Deploy { .. }));
        if deploys {
            let deploying = self.facts.occupants.iter().find(|(_, deploying)| **deploying).map(|(other, _)| *other);
            entering.blocked_by = deploying;
            if deploying.is_some() {
                return false;
            }
            let newer = self.facts.occupants.keys().max().filter(|other| **other > release.id).copied();
            let by_itself = entering.act.by.is_none() || release.visits.is_empty();
            if let Some(newer) = newer.filter(|_| by_itself) {
                // By itself nothing goes back; who made this one did not know the newer one.
                let more = json!({"by": newer, "stage": stage.name});
                let to = release.assigned.iter().cloned().chain([release.by.clone()]);
                self.change.told.push(told("superseded", more, to));
                release.superseded_by = Some(newer);
                release.entering = None;
                return true;
            }
            self.change.supersede.extend(self.facts.occupants.keys());
            self.change.occupies = Some(stage.name.clone());
        }
        let act = entering.act.clone();
        release.entering = None;
        let steps = stage.steps.iter().map(|step| self.step_of(release, stage, step)).collect();
        release.visits.push(Visit {
            stage: stage.name.clone(),
            act,
            steps,
            outputs: BTreeMap::new(),
            finished_ms: None,
        });
        self.assign(release, stage.assign.as_ref());
        true
    }

    fn assign(&mut self, release: &mut Release, group: Option<&Word>) {
        // Where no group is named it belongs to nobody: a group has it while it is in that group's stage.
        let before = std::mem::replace(&mut release.assigned, group.cloned());
        if let Some(group) = group.filter(|group| before.as_ref() != Some(group)) {
            let more = json!({"stage": release.visit().map(|visit| &visit.stage), "group": group});
            self.change.told.push(told("assigned", more, [group.clone()]));
        }
    }

    /// A step that has not begun. Who reports is settled now.
    fn step_of(&self, release: &Release, stage: &Stage, step: &Step) -> StepRun {
        let work = match &step.kind {
            Kind::Deploy { .. } => {
                let deployments = release.services.keys().filter_map(|service| {
                    let app = self.pipeline.services.get(service)?.apps.get(&stage.name)?.clone();
                    let state = DeploymentState::Pending;
                    Some((service.clone(), Deployment { app, state, job: None, previous: None, trouble: None }))
                });
                Work::Deploy { turn: 0, undoing: false, not_before_ms: None, services: deployments.collect() }
            }
            Kind::Run { .. } => Work::Run { job: None },
            Kind::Check { reporters, .. } => {
                let names = match reporters {
                    Reporters::Named(names) => names,
                    Reporters::Subscribers => &self.facts.subscribers,
                };
                Work::Check { reporters: names.iter().map(|name| (name.clone(), None)).collect(), deadline_ms: None }
            }
            Kind::Approval { .. } => Work::Approval { given: BTreeMap::new() },
            Kind::Soak { .. } => Work::Soak { since_ms: None, until_ms: None },
        };
        StepRun {
            name: step.name.clone(),
            triggered_ms: None,
            started_ms: None,
            ended_ms: None,
            result: None,
            note: None,
            bypass: None,
            blocked: None,
            jobs: Vec::new(),
            work,
        }
    }

    /// All is done in its stage.
    pub(super) fn leave(&mut self, release: &mut Release) -> bool {
        let now = self.facts.now_ms;
        let Some(stage) = release.visit().and_then(|visit| self.pipeline.stage(&visit.stage)).map(|(_, stage)| stage)
        else {
            return false;
        };
        let act = Act { by: None, reason: String::new(), at_ms: now };
        release.held_by = self.facts.held.filter(|_| stage.promote == Promote::Auto);
        match (release.next_stage(self.pipeline), stage.promote) {
            (Some(next), Promote::Auto) if release.held_by.is_none() => {
                let events = send_on(release, &next.name, act);
                self.change.told.extend(events);
                true
            }
            (None, Promote::Auto) => {
                let verdict =
                    if release.worst() == Finding::Pass { Verdict::Accepted } else { Verdict::AcceptedWithWarnings };
                let events = decide(release, verdict, act);
                self.change.told.extend(events);
                false
            }
            (Some(_), Promote::Auto | Promote::Manual) | (None, Promote::Manual) => {
                let closed = release.visits.last_mut().and_then(|visit| close(visit, now, None));
                self.change.told.extend(closed);
                false
            }
        }
    }
}
