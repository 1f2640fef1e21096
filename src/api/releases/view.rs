//! From a release as it is recorded to what is shown of it.
//!
//! A reporter is often somebody else's machine: it is shown where a release is and what itself has reported, and nothing of what others
//! report, who approves and decides, which jobs run where, what is said of these, and which other releases there are. What is left out
//! is left out here, in one place.

use std::collections::BTreeMap;

use crate::api::view::time;
use crate::dispatch::SeenRelease;
use crate::model::ids::Word;
use crate::model::pipeline::{Kind, Pipeline};
use crate::model::release::{Act, Deployment, Release, Report, Standing, StepRun, Verdict, Visit, Work, rule};
use crate::wire::{
    ActView, BlockedView, CatalogueVersion, DecisionView, HoldView, PendingRequest, ReleaseSummary, ReleaseView,
    ReportView, StageView, StepJob, StepService, StepState, StepView,
};

/// Whose eyes a release is shown to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Eyes<'a> {
    /// Those of whoever may see everything.
    All,
    /// A reporter's.
    Reporter(&'a Word),
}

impl Eyes<'_> {
    /// What a reporter is not shown.
    fn only_all<T: Default>(self, it: impl FnOnce() -> T) -> T {
        match self {
            Self::All => it(),
            Self::Reporter(_) => T::default(),
        }
    }

    fn sees_reports_of(self, reporter: &Word) -> bool {
        match self {
            Self::All => true,
            Self::Reporter(own) => own == reporter,
        }
    }
}

/// Whether any check of a release asks this reporter, or has asked it.
pub(super) fn is_asked(release: &Release, reporter: &Word) -> bool {
    release.visits.iter().flat_map(|visit| &visit.steps).any(|step| match &step.work {
        Work::Check { reporters, .. } => reporters.contains_key(reporter),
        Work::Deploy { .. } | Work::Run { .. } | Work::Approval { .. } | Work::Soak { .. } => false,
    })
}

/// Whether a report of this reporter names this log.
pub(super) fn has_log(release: &Release, reporter: &Word, digest: &str) -> bool {
    release.visits.iter().flat_map(|visit| &visit.steps).any(|step| match &step.work {
        Work::Check { reporters, .. } => {
            let report = reporters.get(reporter).and_then(Option::as_ref);
            report.is_some_and(|report| report.log.as_deref() == Some(digest))
        }
        Work::Deploy { .. } | Work::Run { .. } | Work::Approval { .. } | Work::Soak { .. } => false,
    })
}

/// The stage that a release is in, or is about to enter.
pub(super) fn stage(release: &Release) -> Option<&Word> {
    release.entering.as_ref().map(|entering| &entering.stage).or(release.visit().map(|visit| &visit.stage))
}

/// What the installation calls its state: what the stage says that it has last entered.
fn shown_as(release: &Release, pipeline: &Pipeline) -> Option<String> {
    pipeline.stage(&release.visit()?.stage)?.1.shown_as.clone()
}

/// The words for what a release waits for.
fn waits_for(release: &Release, pipeline: &Pipeline, eyes: Eyes<'_>) -> (String, Vec<String>) {
    let (what, whom) = release.waits_for(pipeline);
    if eyes == Eyes::All {
        return (what, whom);
    }
    // Which other release is in the way, and whose lock, is not for a reporter.
    let blocked = || {
        let visit = release.visit()?;
        visit.steps.get(visit.current()?)?.blocked.as_ref()
    };
    let what = match release.standing(pipeline) {
        Standing::Entering => "its turn".to_owned(),
        Standing::Ready => "promotion".to_owned(),
        Standing::Working if blocked().is_some() => "its jobs".to_owned(),
        Standing::Working
        | Standing::Waiting
        | Standing::Failed
        | Standing::RolledBack
        | Standing::Undecided
        | Standing::Suspended
        | Standing::Superseded
        | Standing::Decided => what,
    };
    (what, Vec::new())
}

fn act(act: &Act) -> ActView {
    let Act { by, reason, at_ms } = act;
    ActView { by: by.clone().map(Into::into), reason: said(reason), at: time(*at_ms) }
}

fn said(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// By name.
fn named<T: Clone>(map: &BTreeMap<Word, T>) -> BTreeMap<String, T> {
    map.iter().map(|(name, it)| (name.to_string(), it.clone())).collect()
}

/// A release as it stands in a list.
pub(super) fn summary(seen: &SeenRelease, eyes: Eyes<'_>) -> ReleaseSummary {
    let SeenRelease { release, pipeline } = seen;
    let (waits_for, waits_for_whom) = waits_for(release, pipeline, eyes);
    ReleaseSummary {
        id: release.id.to_string(),
        pipeline: release.pipeline.to_string(),
        version: release.version,
        product: release.product.to_string(),
        kind: release.kind,
        services: named(&release.services),
        by: release.by.to_string(),
        created_at: time(release.created_ms),
        state: release.standing(pipeline),
        stage: stage(release).map(ToString::to_string),
        shown_as: shown_as(release, pipeline),
        ready_to_deploy: release.is_ready_to_deploy(pipeline),
        waits_for,
        waits_for_whom,
        assigned: eyes.only_all(|| release.assigned.as_ref().map(ToString::to_string)),
        hold: eyes.only_all(|| {
            release.hold.as_ref().map(|(stage, why)| HoldView { stage: stage.to_string(), act: act(why) })
        }),
        suspended: eyes.only_all(|| release.suspended.clone()),
        superseded_by: eyes.only_all(|| release.superseded_by.map(|other| other.to_string())),
        decision: release.decision.as_ref().map(|(verdict, why)| DecisionView {
            verdict: *verdict,
            act: match eyes {
                Eyes::All => act(why),
                Eyes::Reporter(_) => ActView { by: None, reason: None, at: time(why.at_ms) },
            },
        }),
    }
}

/// A release, with all of its stages.
pub(super) fn release(seen: &SeenRelease, eyes: Eyes<'_>) -> ReleaseView {
    ReleaseView {
        summary: summary(seen, eyes),
        metadata: named(&seen.release.metadata),
        stages: seen.release.visits.iter().map(|visit| stage_view(visit, &seen.pipeline, eyes)).collect(),
    }
}

fn stage_view(visit: &Visit, pipeline: &Pipeline, eyes: Eyes<'_>) -> StageView {
    let outputs = || visit.outputs.iter().map(|(step, set)| (step.to_string(), set.clone())).collect();
    StageView {
        stage: visit.stage.to_string(),
        shown_as: pipeline.stage(&visit.stage).and_then(|(_, stage)| stage.shown_as.clone()),
        entered_at: time(visit.act.at_ms),
        by: eyes.only_all(|| visit.act.by.as_ref().map(ToString::to_string)),
        reason: eyes.only_all(|| said(&visit.act.reason)),
        finished_at: visit.finished_ms.map(time),
        steps: visit.steps.iter().map(|step| step_view(step, eyes)).collect(),
        outputs: eyes.only_all(outputs),
    }
}

/// How far a step is.
fn state(step: &StepRun) -> StepState {
    match (step.result, &step.work) {
        (Some(result), _) if result.goes_on() => StepState::Done,
        (Some(_), _) => StepState::Failed,
        (None, _) if step.triggered_ms.is_none() => StepState::Pending,
        (None, _) if step.blocked.is_some() => StepState::Blocked,
        (None, Work::Deploy { .. }) if step.is_pausing() => StepState::Waiting,
        (None, Work::Deploy { .. } | Work::Run { .. }) => StepState::Running,
        (None, Work::Check { .. } | Work::Approval { .. } | Work::Soak { .. }) => StepState::Waiting,
    }
}

fn step_view(step: &StepRun, eyes: Eyes<'_>) -> StepView {
    let jobs = || {
        let jobs = step.jobs.iter().map(|ran| StepJob {
            job_id: ran.job.to_string(),
            service: ran.service.as_ref().map(ToString::to_string),
            operation: ran.operation,
            outcome: ran.outcome,
        });
        jobs.collect()
    };
    let blocked = || {
        let blocked = step.blocked.as_ref();
        blocked.map(|it| BlockedView { inventory: it.inventory.as_ref().map(ToString::to_string), why: it.why.clone() })
    };
    let mut view = StepView {
        name: step.name.to_string(),
        kind: String::new(),
        state: state(step),
        triggered_at: step.triggered_ms.map(time),
        started_at: step.started_ms.map(time),
        ended_at: step.ended_ms.map(time),
        result: step.result,
        note: eyes.only_all(|| step.note.clone()),
        bypass: eyes.only_all(|| step.bypass.as_ref().map(act)),
        blocked: eyes.only_all(blocked),
        deadline: None,
        soak_until: None,
        undoing: false,
        services: BTreeMap::new(),
        jobs: eyes.only_all(jobs),
        reports: BTreeMap::new(),
        approvals: Vec::new(),
    };
    let kind = match &step.work {
        Work::Deploy { undoing, services, .. } => {
            view.undoing = *undoing;
            let all = || services.iter().map(|(name, it)| (name.to_string(), service(it))).collect();
            view.services = eyes.only_all(all);
            "deploy"
        }
        Work::Run { .. } => "run",
        Work::Check { reporters, deadline_ms } => {
            view.deadline = deadline_ms.map(time);
            let seen = reporters.iter().filter(|(name, _)| eyes.sees_reports_of(name));
            view.reports = seen.map(|(name, it)| (name.to_string(), it.as_ref().map(report))).collect();
            if let Eyes::Reporter(own) = eyes {
                // The worst of all tells what others have found.
                view.result = reporters.get(own).and_then(|it| Some(it.as_ref()?.result));
            }
            "check"
        }
        Work::Approval { given } => {
            view.approvals = eyes.only_all(|| given.values().map(act).collect());
            "approval"
        }
        Work::Soak { until_ms, .. } => {
            view.soak_until = until_ms.map(time);
            "soak"
        }
    };
    StepView { kind: kind.to_owned(), ..view }
}

fn service(it: &Deployment) -> StepService {
    StepService {
        state: it.state,
        app: it.app.to_string(),
        job_id: it.job.map(|job| job.to_string()),
        previous: it.previous.as_ref().map(|there| there.artifact.version.clone()),
        trouble: it.trouble.clone(),
    }
}

fn report(report: &Report) -> ReportView {
    let Report { result, link, status, comment, log, at_ms } = report.clone();
    ReportView { result, link, status, comment, log, at: time(at_ms) }
}

/// A release in the catalogue.
pub(super) fn version(seen: &SeenRelease) -> CatalogueVersion {
    let SeenRelease { release, pipeline } = seen;
    CatalogueVersion {
        release: release.id.to_string(),
        services: named(&release.services),
        kind: release.kind,
        state: release.standing(pipeline),
        stage: stage(release).map(ToString::to_string),
        shown_as: shown_as(release, pipeline),
        ready_to_deploy: release.is_ready_to_deploy(pipeline),
        decision: verdict(release),
        created_at: time(release.created_ms),
    }
}

/// How a release was decided.
pub(super) fn verdict(release: &Release) -> Option<Verdict> {
    release.decision.as_ref().map(|(verdict, _)| *verdict)
}

/// What a release asks of a reporter now.
pub(in crate::api) fn pending(seen: &SeenRelease, reporter: &Word) -> Option<PendingRequest> {
    let SeenRelease { release, pipeline } = seen;
    if !rule::asked(release).contains(reporter) {
        return None;
    }
    let visit = release.visit()?;
    let at = visit.current()?;
    let step = visit.steps.get(at)?;
    let Work::Check { deadline_ms, .. } = &step.work else { return None };
    let action = match pipeline.stage(&visit.stage)?.1.steps.get(at).map(|step| &step.kind) {
        Some(Kind::Check { action, .. }) => action.as_ref().map(ToString::to_string),
        _ => None,
    };
    Some(PendingRequest {
        release: release.id.to_string(),
        pipeline: release.pipeline.to_string(),
        product: release.product.to_string(),
        kind: release.kind,
        stage: visit.stage.to_string(),
        step: step.name.to_string(),
        action,
        deadline: deadline_ms.map(time),
        services: named(&release.services),
        metadata: named(&release.metadata),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use super::*;
    use crate::model::ids::{JobId, ReleaseId};
    use crate::model::pipeline::file::read;
    use crate::model::release::command::{Command, apply};
    use crate::model::release::rule::{Facts, advance};
    use crate::model::release::{Artifact, Finding, Kind as ReleaseKind};

    const FILE: &str = "
pipeline: soup
product: kitchen
services:
  pot: {lab: pot-lab}
stages:
  - stage: lab
    shown_as: Tasting
    ready_to_deploy: true
    assign: cooks
    steps:
      - {name: taste, check: [ada, bob], deadline: 1h, action: Taste}
      - {name: sign, approval: [chefs]}
";

    fn word(text: &str) -> Word {
        text.parse().expect("a name")
    }

    fn tasted() -> SeenRelease {
        let pipeline = Arc::new(read(FILE).expect("a pipeline"));
        let artifact = Artifact { version: "1".into(), reference: None, digest: None };
        let services = BTreeMap::from([(word("pot"), artifact)]);
        let (id, update, lab) = (ReleaseId::new(1, 1), ReleaseKind::Update, word("lab"));
        let mut release =
            Release::new(id, &pipeline, 1, update, services, BTreeMap::new(), word("eve"), lab.clone(), 5);
        let facts = Facts { now_ms: 10, subscribers: BTreeSet::new(), ..Facts::default() };
        advance(&pipeline, &mut release, &facts, &mut || JobId::new(1, 1));
        let report = Report {
            result: Finding::Warning,
            link: None,
            status: None,
            comment: None,
            log: Some("d".into()),
            at_ms: 20,
        };
        apply(&pipeline, &mut release, Command::Report { reporter: word("bob"), stage: lab, step: None, report })
            .expect("he is asked");
        SeenRelease { release, pipeline }
    }

    #[test]
    fn a_reporter_is_shown_its_own_reports_alone() {
        let seen = tasted();
        let all = release(&seen, Eyes::All);
        assert_eq!(all.summary.waits_for_whom, ["ada"]);
        assert_eq!(
            (all.summary.assigned.as_deref(), all.summary.shown_as.as_deref()),
            (Some("cooks"), Some("Tasting"))
        );
        let step = &all.stages[0].steps[0];
        assert_eq!((step.kind.as_str(), step.state), ("check", StepState::Waiting));
        assert_eq!(step.reports.keys().collect::<Vec<_>>(), ["ada", "bob"]);
        assert_eq!(all.stages[0].steps[1].state, StepState::Pending);
        assert!(is_asked(&seen.release, &word("ada")) && !is_asked(&seen.release, &word("eve")));

        let ada = release(&seen, Eyes::Reporter(&word("ada")));
        let text = serde_json::to_string(&ada).expect("JSON");
        assert!(!text.contains("bob") && !text.contains("cooks"), "{text}");
        assert_eq!(ada.stages[0].steps[0].reports.get("ada"), Some(&None));
        assert!(serde_json::to_value(&ada).expect("JSON")["stages"][0]["steps"][0]["reports"]["ada"].is_null());
        let bob = release(&seen, Eyes::Reporter(&word("bob")));
        let report = bob.stages[0].steps[0].reports["bob"].as_ref().expect("he has reported");
        assert_eq!((report.result, report.log.as_deref()), (Finding::Warning, Some("d")));
        // And the log of that: what it is shown it may read.
        let has = |name, digest| has_log(&seen.release, &word(name), digest);
        assert!(has("bob", "d") && !has("bob", "e") && !has("ada", "d") && !has("eve", "d"));
        assert_eq!((ada.stages[0].steps[0].result, bob.stages[0].steps[0].result), (None, Some(Finding::Warning)));
        // What is written is what is read.
        assert_eq!(serde_json::from_str::<ReleaseView>(&text).expect("a release"), ada);
    }

    #[test]
    fn a_reporter_is_told_how_it_ended_and_not_by_whom() {
        let mut seen = tasted();
        let act = Act { by: Some(word("olga")), reason: "burnt".into(), at_ms: 30 };
        apply(&seen.pipeline, &mut seen.release, Command::Reject { act }).expect("rejected");
        seen.release.superseded_by = Some(ReleaseId::new(7, 7));
        let all = summary(&seen, Eyes::All).decision.expect("decided");
        assert_eq!((all.act.by.as_deref(), all.act.reason.as_deref()), (Some("olga"), Some("burnt")));
        let shown = summary(&seen, Eyes::Reporter(&word("bob")));
        let decision = shown.decision.clone().expect("decided");
        assert_eq!((decision.verdict, decision.act.at), (Verdict::Rejected, time(30)));
        let text = serde_json::to_string(&shown).expect("JSON");
        for hidden in ["olga", "burnt", &ReleaseId::new(7, 7).to_string()] {
            assert!(!text.contains(hidden), "{text}");
        }
    }

    #[test]
    fn what_awaits_a_reporter_is_what_it_has_not_reported_yet() {
        let seen = tasted();
        let asked = pending(&seen, &word("ada")).expect("she is asked");
        assert_eq!(
            (asked.stage.as_str(), asked.step.as_str(), asked.action.as_deref()),
            ("lab", "taste", Some("Taste"))
        );
        assert_eq!(asked.deadline, Some(time(10 + 3_600_000)));
        assert_eq!(pending(&seen, &word("bob")), None);
        assert_eq!(pending(&seen, &word("eve")), None);
    }
}
