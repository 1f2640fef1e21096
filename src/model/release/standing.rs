//! Where a release is, and for what and for whom it waits: nothing of it is recorded, all follows from the record.

use serde::{Deserialize, Serialize};

use super::{Finding, Release, Verdict, Work};
use crate::model::pipeline::{self, Pipeline};

/// Where a release is, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Waits for another release's deployment before it enters its stage.
    Entering,
    /// Jobs of it run, or are about to.
    Working,
    /// Waits for reporters, approvals, or time.
    Waiting,
    /// A step failed or is inconclusive; somebody has to say what is to be done.
    Failed,
    /// It was rolled back in its stage.
    RolledBack,
    /// All is done in its stage, and somebody has to promote it.
    Ready,
    /// All is done in the last stage, and somebody has to decide.
    Undecided,
    /// It needs somebody to lift what stops it.
    Suspended,
    /// Another release took its place.
    Superseded,
    /// It is decided.
    Decided,
}

impl Standing {
    /// The word for it in API and events.
    pub fn word(self) -> &'static str {
        match self {
            Self::Entering => "entering",
            Self::Working => "working",
            Self::Waiting => "waiting",
            Self::Failed => "failed",
            Self::RolledBack => "rolled_back",
            Self::Ready => "ready",
            Self::Undecided => "undecided",
            Self::Suspended => "suspended",
            Self::Superseded => "superseded",
            Self::Decided => "decided",
        }
    }
}

impl Release {
    /// Where it is, in one word.
    pub fn standing(&self, pipeline: &Pipeline) -> Standing {
        if self.superseded_by.is_some() {
            return Standing::Superseded;
        } else if self.decision.is_some() {
            return Standing::Decided;
        } else if self.suspended.is_some() {
            return Standing::Suspended;
        } else if self.entering.is_some() {
            return Standing::Entering;
        }
        let Some(visit) = self.visit() else { return Standing::Entering };
        match visit.current().and_then(|at| visit.steps.get(at)) {
            None if self.next_stage(pipeline).is_some() => Standing::Ready,
            None => Standing::Undecided,
            Some(step) if step.result.is_some() && self.hold.is_some() => Standing::RolledBack,
            Some(step) if step.result.is_some() => Standing::Failed,
            Some(step) => match step.work {
                Work::Deploy { .. } | Work::Run { .. } => Standing::Working,
                Work::Check { .. } | Work::Approval { .. } | Work::Soak { .. } => Standing::Waiting,
            },
        }
    }

    /// For what and for whom it waits, in words and as names of people, groups or reporters.
    pub fn waits_for(&self, pipeline: &Pipeline) -> (String, Vec<String>) {
        let nobody = |what: &str| (what.to_owned(), Vec::new());
        let assigned = || self.assigned.iter().map(ToString::to_string).collect::<Vec<_>>();
        if self.is_settled() {
            return nobody(if self.is_over() { "nothing" } else { "its jobs" });
        }
        let Some(visit) = self.visit().filter(|_| self.entering.is_none()) else {
            let deploying = self.entering.as_ref().and_then(|entering| entering.blocked_by);
            return match (deploying, self.held_by) {
                (Some(other), _) => nobody(&format!("release {other}, which is being deployed there")),
                (None, Some(holder)) => nobody(&format!("lift of release {holder}, which holds automation there")),
                (None, None) => nobody("its turn"),
            };
        };
        match self.standing(pipeline) {
            Standing::Decided | Standing::Superseded => nobody("nothing"),
            Standing::Suspended => ("lift".into(), assigned()),
            Standing::RolledBack if self.can_be_rolled_back() => ("rollback, lift or reject".into(), assigned()),
            Standing::RolledBack => ("lift or reject".into(), assigned()),
            Standing::Failed => {
                // Nothing is named that would be refused.
                let passable = visit.current().and_then(|at| visit.steps.get(at));
                let passable = passable.is_some_and(|step| !matches!(step.work, Work::Deploy { .. }));
                let words = ["retry"].into_iter().chain(passable.then_some("bypass"));
                let words: Vec<&str> = words.chain(self.can_be_rolled_back().then_some("rollback")).collect();
                (format!("{} or reject", words.join(", ")), assigned())
            }
            Standing::Ready => match self.held_by {
                Some(holder) => (
                    format!("promotion, or lift of release {holder}, which holds automation in the next stage"),
                    assigned(),
                ),
                None => ("promotion".into(), assigned()),
            },
            Standing::Undecided => ("decision".into(), assigned()),
            Standing::Entering => nobody("its turn"),
            Standing::Working | Standing::Waiting => {
                let step = visit.current().and_then(|at| visit.steps.get(at));
                let Some(step) = step else { return nobody("nothing") };
                let kind = pipeline
                    .stage(&visit.stage)
                    .and_then(|(_, stage)| stage.steps.iter().find(|it| it.name == step.name));
                match (&step.work, &step.blocked) {
                    (_, Some(blocked)) => nobody(&blocked.to_string()),
                    (Work::Deploy { undoing: true, .. }, None) => nobody("its services to be put back"),
                    (Work::Deploy { turn, .. }, None) if step.is_pausing() => {
                        let live = kind.and_then(|step| match &step.kind {
                            pipeline::Kind::Deploy { strategy } => strategy.share(*turn),
                            _ => None,
                        });
                        let live = live.map(|share| format!(" ({share} % is live)")).unwrap_or_default();
                        nobody(&format!("the time of the next share{live}"))
                    }
                    (Work::Deploy { .. } | Work::Run { .. }, None) => nobody("its jobs"),
                    (Work::Check { reporters, .. }, None) => {
                        let silent = reporters.iter().filter(|(_, report)| report.is_none());
                        ("reports".into(), silent.map(|(name, _)| name.to_string()).collect())
                    }
                    (Work::Approval { given }, None) => match kind.map(|step| &step.kind) {
                        Some(pipeline::Kind::Approval { groups, count }) => {
                            let left = (*count as usize).saturating_sub(given.len());
                            (
                                format!("{left} approval{}", if left == 1 { "" } else { "s" }),
                                groups.iter().map(ToString::to_string).collect(),
                            )
                        }
                        _ => nobody("approvals"),
                    },
                    (Work::Soak { .. }, None) => nobody("time to pass"),
                }
            }
        }
    }

    /// Whether whoever deploys by himself may deploy it: it is in a stage that says so, and nobody has said otherwise.
    pub fn is_ready_to_deploy(&self, pipeline: &Pipeline) -> bool {
        let rejected = self.decision.as_ref().is_some_and(|(verdict, _)| *verdict == Verdict::Rejected);
        let stage = self.visit().filter(|_| self.entering.is_none()).and_then(|visit| pipeline.stage(&visit.stage));
        self.superseded_by.is_none() && !rejected && stage.is_some_and(|(_, stage)| stage.ready_to_deploy)
    }

    /// The worst that was found in it so far.
    pub fn worst(&self) -> Finding {
        let steps = self.visits.iter().flat_map(|visit| &visit.steps);
        steps.filter_map(|step| step.result).max().unwrap_or(Finding::Pass)
    }
}
