//! What people, reporters and other releases may change about a release, and why it is refused.
//!
//! A command changes the record and says what is told of it; what follows is [`super::rule::advance`]'s to say, in the same step. What is
//! refused changes nothing.

use std::collections::BTreeSet;

use serde_json::json;

use super::rule::millis;
use super::rule::{Told, told};
use super::stages::{decide, send_on};
use super::{Act, DeploymentState, Finding, Release, Report, StepRun, Verdict, Visit, Work};
use crate::model::ids::{ReleaseId, Word};
use crate::model::pipeline::{Kind, Pipeline};

/// What is to be changed.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// A reporter has found something.
    Report {
        /// Who.
        reporter: Word,
        /// In which stage: a report is about exactly one release and stage.
        stage: Word,
        /// For which step; none: the one that asks.
        step: Option<Word>,
        /// What.
        report: Report,
    },
    /// Somebody certifies exactly this release.
    Approve {
        /// Who, and why.
        act: Act,
        /// The groups that they belong to.
        groups: Vec<Word>,
    },
    /// An approval is taken back before it is used.
    Withdraw {
        /// Whose.
        act: Act,
    },
    /// It is to go on to the next stage.
    Promote {
        /// Who says so.
        act: Act,
        /// The stage that they mean; none: the next one.
        to: Option<Word>,
    },
    /// It is decided at the end.
    Decide {
        /// Who says so.
        act: Act,
        /// How.
        verdict: Verdict,
    },
    /// It is not good.
    Reject {
        /// Who says so, and why.
        act: Act,
    },
    /// The step that failed is to be tried again, as far as it failed.
    Retry {
        /// Who says so.
        act: Act,
    },
    /// A step is passed over.
    Bypass {
        /// Who says so, and why.
        act: Act,
    },
    /// What was deployed in its stage is to be undone, and automation held.
    RollBack {
        /// Who says so, and why.
        act: Act,
    },
    /// What holds automation, or the release, is lifted.
    Lift {
        /// Who says so, and why.
        act: Act,
    },
    /// Another release takes its place.
    Supersede {
        /// Which.
        by: ReleaseId,
        /// In which stage: if it has left that meanwhile, it goes on undisturbed.
        stage: Word,
    },
    /// Nothing follows by itself any more until somebody lifts it.
    Suspend {
        /// Why.
        why: String,
        /// When.
        at_ms: u64,
    },
}

/// Why a command was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is over.
    #[error("the release is {0} already")]
    Over(&'static str),
    /// Another release took its place, which makes its approvals void.
    #[error("the release was superseded by {0}; its approvals are void")]
    Superseded(ReleaseId),
    /// The report is about another stage.
    #[error("the report is about the stage {given}, and the release is {is}")]
    OtherStage {
        /// The report's.
        given: Word,
        /// Where it is, in words.
        is: String,
    },
    /// Nobody asks this reporter.
    #[error(
        "{reporter} is not asked in the stage {stage}; a report counts from those alone that the release asked when it entered the stage"
    )]
    NotAsked {
        /// Who.
        reporter: Word,
        /// Where.
        stage: Word,
    },
    /// The step is not asking yet.
    #[error("the step {0} does not ask yet; it is the turn of {1}")]
    NotYet(Word, Word),
    /// It has reported.
    #[error("{0} has reported already for the step {1}; what was reported stays")]
    Twice(Word, Word),
    /// The deadline has passed.
    #[error("the step {0} is over: the report came too late")]
    TooLate(Word),
    /// No approval is asked for.
    #[error("no approval is asked for; the release waits for {0}")]
    NoApproval(String),
    /// Not of these groups.
    #[error("an approval is asked for from {0}, and this token belongs to none of these groups")]
    NotOfGroup(String),
    /// One's own.
    #[error("the release was submitted by {0}, who cannot approve it")]
    OwnRelease(Word),
    /// Twice.
    #[error("{0} has approved already")]
    ApprovedAlready(Word),
    /// Nothing to withdraw.
    #[error("{0} has given no approval that could be withdrawn")]
    NothingGiven(Word),
    /// Out of order.
    #[error("the next stage is {next}, not {to}; stages are entered in order")]
    OutOfOrder {
        /// The one asked for.
        to: Word,
        /// The one that is next.
        next: Word,
    },
    /// There is no next stage.
    #[error("the stage {0} is the last one; decide the release instead")]
    LastStage(Word),
    /// Not done yet.
    #[error("not all is done in its stage: the release waits for {0}")]
    NotDone(String),
    /// Not at the end.
    #[error("a release is accepted at the end of its last stage; it is in {0}. It can be rejected at any time")]
    NotAtTheEnd(Word),
    /// Nothing failed.
    #[error("no step has failed; the release waits for {0}")]
    NothingFailed(String),
    /// Not that kind.
    #[error("a step {0} cannot be passed over: only check, run and soak can")]
    NoBypass(&'static str),
    /// Jobs run.
    #[error("jobs of it run; wait for their end, or cancel them")]
    JobsRun,
    /// Nothing to undo.
    #[error("nothing of it is deployed in its stage that could be undone")]
    NothingDeployed,
    /// Held.
    #[error("automation is held after a roll-back ({0}); lift that first")]
    Held(String),
    /// Suspended.
    #[error("the release is suspended ({0}); lift that first")]
    Suspended(String),
    /// Nothing to lift.
    #[error("nothing is held")]
    NothingHeld,
    /// A deployment of it is under way.
    #[error("it is being deployed")]
    Deploying,
}

/// Changes a release.
///
/// # Errors
/// Why not; nothing was changed then.
pub fn apply(pipeline: &Pipeline, release: &mut Release, command: Command) -> Result<Vec<Told>, Refused> {
    match &command {
        // Both may come to a release that is over, and say nothing new then.
        Command::Supersede { by, stage } => return supersede(release, *by, stage),
        Command::Suspend { why, at_ms } => return Ok(suspend(release, why, *at_ms)),
        Command::Lift { act } if release.hold.is_some() || release.suspended.is_some() => {
            return Ok(lift(pipeline, release, act));
        }
        // Whoever has not heard that it arrived says it again, when the release has long gone on because of it.
        Command::Report { reporter, stage, step, report }
            if has_reported(release, reporter, stage, step.as_ref(), report) =>
        {
            return Ok(Vec::new());
        }
        _ => {}
    }
    if let Some((verdict, _)) = &release.decision {
        return Err(Refused::Over(verdict.word()));
    } else if let Some(by) = release.superseded_by {
        return Err(Refused::Superseded(by));
    }
    match command {
        Command::Report { reporter, stage, step, report } => take_report(release, reporter, stage, step, report),
        Command::Approve { act, groups } => approve(pipeline, release, act, &groups),
        Command::Withdraw { act } => withdraw(release, act),
        Command::Promote { act, to } => promote(pipeline, release, act, to),
        Command::Decide { act, verdict: Verdict::Rejected } | Command::Reject { act } => Ok(reject(release, act)),
        Command::Decide { act, verdict } => {
            unheld(release)?;
            let Some(visit) = release.visit().filter(|_| release.entering.is_none()) else {
                return Err(Refused::NotDone(release.waits_for(pipeline).0));
            };
            if release.next_stage(pipeline).is_some() {
                return Err(Refused::NotAtTheEnd(visit.stage.clone()));
            } else if visit.current().is_some() {
                return Err(Refused::NotDone(release.waits_for(pipeline).0));
            }
            Ok(decide(release, verdict, act))
        }
        Command::Retry { act } => retry(pipeline, release, act),
        Command::Bypass { act } => bypass(pipeline, release, act),
        Command::RollBack { act } => roll_back(release, act),
        Command::Lift { .. } => Err(Refused::NothingHeld),
        Command::Supersede { .. } | Command::Suspend { .. } => Ok(Vec::new()),
    }
}

/// The step that is next, and the stage.
fn current(release: &mut Release) -> Option<(Word, usize, &mut StepRun)> {
    if release.entering.is_some() {
        return None;
    }
    let visit = release.visits.last_mut()?;
    let at = visit.current()?;
    Some((visit.stage.clone(), at, visit.steps.get_mut(at)?))
}

/// Whether a step has exactly this from a reporter.
fn has(step: &StepRun, reporter: &Word, report: &Report) -> bool {
    match &step.work {
        Work::Check { reporters, .. } => {
            reporters.get(reporter).is_some_and(|before| before.as_ref().is_some_and(|before| before.repeats(report)))
        }
        _ => false,
    }
}

/// Whether exactly this was reported before, and cannot be about a step that asks now.
fn has_reported(release: &Release, reporter: &Word, stage: &Word, step: Option<&Word>, report: &Report) -> bool {
    let steps = || release.visits.iter().filter(|visit| visit.stage == *stage).flat_map(|visit| &visit.steps);
    let asks = |it: &StepRun| match &it.work {
        Work::Check { reporters, .. } => it.is_open() && reporters.get(reporter) == Some(&None),
        _ => false,
    };
    steps().any(|it| step.is_none_or(|name| *name == it.name) && has(it, reporter, report))
        && (step.is_some() || release.is_settled() || !steps().any(asks))
}

fn take_report(
    release: &mut Release,
    reporter: Word,
    stage: Word,
    step: Option<Word>,
    report: Report,
) -> Result<Vec<Told>, Refused> {
    let elsewhere = |is: String| Refused::OtherStage { given: stage.clone(), is };
    if let Some(entering) = &release.entering {
        return Err(elsewhere(format!("about to enter {}", entering.stage)));
    }
    let Some(visit) = release.visits.last_mut() else { return Err(elsewhere("in none".into())) };
    if visit.stage != stage {
        return Err(elsewhere(format!("in {}", visit.stage)));
    }
    let turn = visit.current().and_then(|at| visit.steps.get(at)).map(|step| step.name.clone());
    let asks = |it: &StepRun| match &it.work {
        Work::Check { reporters, .. } => {
            reporters.contains_key(&reporter) && step.as_ref().is_none_or(|name| *name == it.name)
        }
        _ => false,
    };
    // The same words for another step are taken for a new report only if that step is named: they may be the old one, said again.
    let before = visit.steps.iter().find(|it| step.is_none() && has(it, &reporter, &report)).map(|it| it.name.clone());
    let mut asking: Vec<&mut StepRun> = visit.steps.iter_mut().filter(|it| asks(it)).collect();
    // The one that is open; else the last that was, about which it comes too late or twice.
    let at = asking.iter().position(|it| it.is_open());
    let at =
        at.or_else(|| asking.iter().rposition(|it| it.triggered_ms.is_some())).or((!asking.is_empty()).then_some(0));
    let Some(it) = at.map(|at| asking.swap_remove(at)) else { return Err(Refused::NotAsked { reporter, stage }) };
    let (is_open, triggered) = (it.is_open(), it.triggered_ms.is_some());
    let Work::Check { reporters, deadline_ms } = &mut it.work else {
        return Err(Refused::NotAsked { reporter, stage });
    };
    // What comes after the deadline is too late, whether or not somebody has looked at the clock since.
    let in_time = deadline_ms.is_none_or(|deadline| report.at_ms < deadline);
    match reporters.get_mut(&reporter) {
        Some(Some(_)) => Err(Refused::Twice(reporter, it.name.clone())),
        Some(None) if let Some(before) = before => Err(Refused::Twice(reporter, before)),
        Some(place) if is_open && in_time => {
            let more = json!({
                "stage": stage, "step": it.name, "reporter": reporter, "result": report.result, "link": report.link,
                "status": report.status, "comment": report.comment,
            });
            *place = Some(report);
            Ok(vec![told(format!("{}.reported", it.name), more, [])])
        }
        Some(_) if triggered => Err(Refused::TooLate(it.name.clone())),
        Some(_) | None => {
            let turn = turn.unwrap_or_else(|| it.name.clone());
            Err(Refused::NotYet(it.name.clone(), turn))
        }
    }
}

fn approve(pipeline: &Pipeline, release: &mut Release, act: Act, groups: &[Word]) -> Result<Vec<Told>, Refused> {
    let waits = release.waits_for(pipeline).0;
    let submitter = release.by.clone();
    let Some((stage, at, step)) = current(release).filter(|(_, _, step)| step.is_open()) else {
        return Err(Refused::NoApproval(waits));
    };
    let kind = pipeline.stage(&stage).and_then(|(_, stage)| stage.steps.get(at)).map(|step| &step.kind);
    let (Work::Approval { given }, Some(Kind::Approval { groups: wanted, .. })) = (&mut step.work, kind) else {
        return Err(Refused::NoApproval(waits));
    };
    let Some(by) = act.by.clone() else { return Err(Refused::NoApproval(waits)) };
    if !groups.iter().any(|group| wanted.contains(group)) {
        return Err(Refused::NotOfGroup(super::listed(wanted)));
    } else if by == submitter {
        return Err(Refused::OwnRelease(by));
    } else if given.contains_key(&by) {
        return Err(Refused::ApprovedAlready(by));
    }
    let more = json!({"stage": stage, "step": step.name, "by": by, "reason": act.reason});
    given.insert(by, act);
    Ok(vec![told(format!("{}.approved", step.name), more, [])])
}

fn withdraw(release: &mut Release, act: Act) -> Result<Vec<Told>, Refused> {
    let Some(by) = act.by.clone() else { return Ok(Vec::new()) };
    let nothing = || Refused::NothingGiven(by.clone());
    let (stage, _, step) = current(release).filter(|(_, _, step)| step.is_open()).ok_or_else(nothing)?;
    let Work::Approval { given } = &mut step.work else { return Err(nothing()) };
    given.remove(&by).ok_or_else(nothing)?;
    let more = json!({"stage": stage, "step": step.name, "by": by, "reason": act.reason});
    Ok(vec![told(format!("{}.withdrawn", step.name), more, [])])
}

fn promote(pipeline: &Pipeline, release: &mut Release, act: Act, to: Option<Word>) -> Result<Vec<Told>, Refused> {
    unheld(release)?;
    let Some(visit) = release.visit().filter(|_| release.entering.is_none()) else {
        return Err(Refused::NotDone(release.waits_for(pipeline).0));
    };
    let Some(next) = release.next_stage(pipeline) else { return Err(Refused::LastStage(visit.stage.clone())) };
    if let Some(to) = to.filter(|to| *to != next.name) {
        return Err(Refused::OutOfOrder { to, next: next.name.clone() });
    } else if visit.current().is_some() {
        return Err(Refused::NotDone(release.waits_for(pipeline).0));
    }
    Ok(send_on(release, &next.name, act))
}

fn reject(release: &mut Release, act: Act) -> Vec<Told> {
    // What a bracket has begun is undone; it goes on until that is settled.
    for step in release.visits.iter_mut().flat_map(|visit| &mut visit.steps) {
        let deploying = step.is_deploying();
        if let Work::Deploy { undoing, .. } = &mut step.work {
            *undoing |= deploying;
        }
    }
    release.suspended = None;
    decide(release, Verdict::Rejected, act)
}

fn unheld(release: &Release) -> Result<(), Refused> {
    if let Some(why) = &release.suspended {
        return Err(Refused::Suspended(why.clone()));
    }
    match &release.hold {
        Some((_, act)) => Err(Refused::Held(act.reason.clone())),
        None => Ok(()),
    }
}

fn retry(pipeline: &Pipeline, release: &mut Release, act: Act) -> Result<Vec<Told>, Refused> {
    unheld(release)?;
    let waits = release.waits_for(pipeline).0;
    let Some((stage, at, step)) = current(release).filter(|(_, _, step)| step.result.is_some()) else {
        return Err(Refused::NothingFailed(waits));
    };
    afresh(step);
    let more = json!({"stage": stage, "step": step.name, "by": act.by, "reason": act.reason});
    let mut events = vec![told(format!("{}.retried", step.name), more, [])];
    if let Some(visit) = release.visits.last_mut() {
        // What it and later steps have set before is not what they will set.
        let again: BTreeSet<&Word> = visit.steps[at..].iter().map(|step| &step.name).collect();
        visit.outputs.retain(|name, _| !again.contains(name));
    }
    events.extend(give_back(pipeline, release, &stage));
    Ok(events)
}

/// Whoever it was given to because it failed has said what is to be done: it is its stage's again, or nobody's if that assigns it to nobody.
fn give_back(pipeline: &Pipeline, release: &mut Release, stage: &Word) -> Option<Told> {
    let (_, of_stage) = pipeline.stage(stage)?;
    let before = std::mem::replace(&mut release.assigned, of_stage.assign.clone());
    let group = of_stage.assign.clone().filter(|group| before.as_ref() != Some(group))?;
    Some(told("assigned", json!({"stage": stage, "group": group}), [group]))
}

/// Makes a step as if it had not begun, but for what is good of it.
fn afresh(step: &mut StepRun) {
    (step.triggered_ms, step.started_ms, step.ended_ms) = (None, None, None);
    (step.result, step.note, step.blocked, step.bypass) = (None, None, None, None);
    match &mut step.work {
        Work::Deploy { turn, undoing, not_before_ms, services } => {
            (*turn, *undoing, *not_before_ms) = (0, false, None);
            for it in services.values_mut().filter(|it| it.state != DeploymentState::Deployed) {
                (it.state, it.job, it.trouble) = (DeploymentState::Pending, None, None);
            }
        }
        Work::Run { job } => *job = None,
        Work::Check { reporters, deadline_ms } => {
            *deadline_ms = None;
            for place in reporters.values_mut() {
                if place.as_ref().is_some_and(|report| !report.result.goes_on()) {
                    *place = None;
                }
            }
        }
        Work::Approval { given } => given.clear(),
        Work::Soak { since_ms, until_ms } => (*since_ms, *until_ms) = (None, None),
    }
}

fn bypass(pipeline: &Pipeline, release: &mut Release, act: Act) -> Result<Vec<Told>, Refused> {
    unheld(release)?;
    let waits = release.waits_for(pipeline).0;
    let Some((stage, _, step)) = current(release) else { return Err(Refused::NothingFailed(waits)) };
    let kind = match &step.work {
        Work::Deploy { .. } => return Err(Refused::NoBypass("deploy")),
        Work::Approval { .. } => return Err(Refused::NoBypass("approval")),
        Work::Run { job: Some(_) } => return Err(Refused::JobsRun),
        Work::Run { job: None } => "run",
        Work::Check { .. } => "check",
        Work::Soak { .. } => "soak",
    };
    let by = act.by.as_ref().map_or("nobody", Word::as_str);
    let note = format!("passed over by {by}: {}", act.reason);
    step.triggered_ms.get_or_insert(act.at_ms);
    (step.ended_ms, step.result, step.blocked) = (Some(act.at_ms), Some(Finding::Warning), None);
    let more = json!({
        "stage": stage, "step": step.name, "kind": kind, "result": Finding::Warning, "note": note, "by": act.by,
        "reason": act.reason,
    });
    (step.note, step.bypass) = (Some(note), Some(act));
    let finished = told(format!("{}.finished", step.name), more, []);
    Ok([finished].into_iter().chain(give_back(pipeline, release, &stage)).collect())
}

/// The step of a stage whose deployment a roll-back would undo.
fn deployed(visit: &Visit) -> Option<usize> {
    // A later one that waits for locks has not replaced anything yet.
    let begun = |step: &StepRun| match &step.work {
        Work::Deploy { turn, services, .. } => {
            *turn > 0 || services.values().any(|it| it.state != DeploymentState::Pending)
        }
        _ => false,
    };
    let at = visit.steps.iter().rposition(begun)?;
    match &visit.steps[at].work {
        Work::Deploy { services, .. } if services.values().any(|it| it.state != DeploymentState::Undone) => Some(at),
        _ => None,
    }
}

impl Release {
    /// Whether there is something in its stage that a roll-back would undo. After one, that is what could not be put back: it may be tried
    /// again while automation is held, because lifting that hands the stage to the next release.
    pub(super) fn can_be_rolled_back(&self) -> bool {
        let Some(visit) = self.visit() else { return false };
        let Some(at) = deployed(visit) else { return false };
        let not_undone = |step: &StepRun| match &step.work {
            Work::Deploy { services, .. } => services.values().any(|it| it.state == DeploymentState::NotUndone),
            _ => false,
        };
        self.hold.is_none() || (visit.steps[at].result.is_some() && not_undone(&visit.steps[at]))
    }
}

fn roll_back(release: &mut Release, act: Act) -> Result<Vec<Told>, Refused> {
    if release.suspended.is_some() || !release.can_be_rolled_back() {
        unheld(release)?;
    }
    let Some(visit) = release.visits.last_mut() else { return Err(Refused::NothingDeployed) };
    let Some(at) = deployed(visit) else { return Err(Refused::NothingDeployed) };
    if visit.steps[at + 1..].iter().any(|step| !step.busy_jobs().is_empty()) {
        return Err(Refused::JobsRun);
    }
    let Work::Deploy { undoing, services, .. } = &mut visit.steps[at].work else {
        return Err(Refused::NothingDeployed);
    };
    *undoing = true;
    // What could not be put back before is tried once more.
    for it in services.values_mut().filter(|it| it.state == DeploymentState::NotUndone) {
        it.state = DeploymentState::Failed;
    }
    let step = &mut visit.steps[at];
    (step.result, step.ended_ms, step.note) = (None, None, None);
    visit.steps[at + 1..].iter_mut().for_each(|step| {
        afresh(step);
        if let Work::Check { reporters, .. } = &mut step.work {
            reporters.values_mut().for_each(|place| *place = None);
        }
    });
    visit.finished_ms = None;
    let stage = visit.stage.clone();
    let to: BTreeSet<Word> = release.assigned.iter().cloned().chain([release.by.clone()]).collect();
    let more = json!({"stage": stage, "step": visit.steps[at].name, "by": act.by, "reason": act.reason});
    release.entering = None;
    // Who held it first holds it still.
    release.hold.get_or_insert((stage, act));
    Ok(vec![told("rollback.triggered", more, to)])
}

fn lift(pipeline: &Pipeline, release: &mut Release, act: &Act) -> Vec<Told> {
    let held = release.hold.take().map(|(stage, _)| stage);
    if release.suspended.take().is_some()
        && let Some((stage, at, step)) = current(release).filter(|(_, _, step)| step.is_open())
        && let Work::Check { deadline_ms, .. } = &mut step.work
        && let Some(Kind::Check { deadline, .. }) =
            pipeline.stage(&stage).and_then(|(_, stage)| stage.steps.get(at)).map(|step| &step.kind)
    {
        *deadline_ms = Some(act.at_ms.saturating_add(millis(*deadline)));
    }
    vec![told("lifted", json!({"stage": held, "by": act.by, "reason": act.reason}), [])]
}

fn supersede(release: &mut Release, by: ReleaseId, stage: &Word) -> Result<Vec<Told>, Refused> {
    // One that is rejected may be about to put back what was there before.
    if release.is_deploying_in(stage) {
        return Err(Refused::Deploying);
    } else if release.is_settled() || !release.is_in(stage) {
        return Ok(Vec::new());
    }
    release.superseded_by = Some(by);
    release.entering = None;
    let to = release.assigned.iter().cloned().chain([release.by.clone()]);
    Ok(vec![told("superseded", json!({"by": by, "stage": release.visit().map(|visit| &visit.stage)}), to)])
}

fn suspend(release: &mut Release, why: &str, at_ms: u64) -> Vec<Told> {
    if release.is_over() || release.suspended.is_some() {
        return Vec::new();
    }
    let to: Vec<Word> = release.assigned.iter().cloned().chain([release.by.clone()]).collect();
    let more = json!({"reason": why, "at_ms": at_ms});
    release.suspended = Some(why.to_owned());
    // No reporter is late because of it: lifting it gives them their full time anew.
    if let Some((_, _, step)) = current(release).filter(|(_, _, step)| step.is_open())
        && let Work::Check { deadline_ms, .. } = &mut step.work
    {
        *deadline_ms = None;
    }
    vec![told("suspended", more, to)]
}
