//! Releases: a frozen set of artifacts on its way through the stages of a pipeline.
//!
//! ```text
//!  create ─▶ enters a stage ─▶ step after step ─▶ all done ─▶ next stage … ─▶ all done in the last ─▶ decision
//!               │                    │                 │ promote: auto, or somebody says so
//!               │                    └─ fails or is inconclusive: waits for retry, bypass, rollback or reject
//!               └─ waits while jobs of another release run there; else takes its place (which is `superseded`)
//! ```
//!
//! * [`rule`] says what follows by itself: pipeline, release, facts, time → what has changed. `stages` is its part for the way from stage
//!   to stage, `steps` that for the five kinds of step. It is a pure function, asked again after every change, by whichever dispatcher.
//!   What it wants done (jobs under their locks) is carried out in the very step in which the release is recorded, so nothing is done
//!   twice and nothing is forgotten.
//! * [`command`] says what people, reporters and the reconciler may change, and why it is refused.
//! * This file is what is recorded. It is written as one JSON text with a revision; who writes names the revision that was read.
//!
//! A release is over once it is decided or superseded *and* no deployment of it is under way: what a bracket has begun is brought to an
//! end first, so that none is left half-deployed without saying so. The job of a step `run` counts as that too: it may be the one that
//! switches traffic.

pub mod command;
mod fault;
pub mod rule;
mod stages;
mod standing;
mod steps;
#[cfg(test)]
mod tests;
mod vars;
mod words;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::ids::{DeploymentId, Inventory, JobId, ReleaseId, Word};
use super::job::Outcome;
use super::pipeline::{self, Pipeline};
use super::text::acts;
pub use fault::{Fault, fault};
pub use standing::Standing;
pub use words::{Finding, Kind, Verdict};

/// The longest version, reference or digest, in bytes.
pub const ARTIFACT_MAX: usize = 512;
/// The longest value of one piece of metadata, and all of them together, in bytes.
pub const METADATA_MAX: (usize, usize) = (16 * 1024, 64 * 1024);
/// What jobs of one stage may hand on to later ones, in bytes of JSON.
pub const OUTPUTS_MAX: usize = 256 * 1024;
/// As much is kept of what a job says of its failure or its result, in bytes.
pub const NOTE_MAX: usize = 1024;
/// The last so many jobs of a step are kept in its history.
pub const JOBS_MAX: usize = 200;

/// What one service of a release is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Artifact {
    /// Its version.
    #[schema(example = "0.22.3.rc", min_length = 1, max_length = 512)]
    pub version: String,
    /// Where it is found: an image, an address, a path, in the playbook's own terms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 512)]
    pub reference: Option<String>,
    /// What its content must be, such as `sha256:…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 512)]
    pub digest: Option<String>,
}

impl Artifact {
    /// What is wrong with it.
    pub fn fault(&self) -> Option<&'static str> {
        let good = |text: &str| {
            (1..=ARTIFACT_MAX).contains(&text.len()) && !text.chars().any(|c| acts(c) || c.is_whitespace())
        };
        let optional = |text: &Option<String>| text.as_deref().is_none_or(good);
        let all = good(&self.version) && optional(&self.reference) && optional(&self.digest);
        (!all)
            .then_some("version, reference and digest must have 1 to 512 bytes, without blanks and control characters")
    }
}

/// Who has done something, why, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Act {
    /// Who; none: it followed by itself.
    pub by: Option<Word>,
    /// Why, where that was said.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
}

/// A release. Times are milliseconds since 1970 by Redis' clock.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Release {
    /// Its id.
    pub id: ReleaseId,
    /// The pipeline that it goes through,
    pub pipeline: Word,
    /// in the version that it started with.
    pub version: u64,
    /// What it is a version of.
    pub product: Word,
    /// Whether that is deployed anew.
    pub kind: Kind,
    /// What it consists of, frozen.
    pub services: BTreeMap<Word, Artifact>,
    /// What is said of it.
    pub metadata: BTreeMap<Word, String>,
    /// Who has submitted it.
    pub by: Word,
    /// When.
    pub created_ms: u64,
    /// The stage that it is to enter.
    pub entering: Option<Entering>,
    /// The stages that it was in, and the one that it is in, last.
    pub visits: Vec<Visit>,
    /// The group that it is assigned to.
    pub assigned: Option<Word>,
    /// The release that holds automation in the stage that this one would enter by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_by: Option<ReleaseId>,
    /// While automation is held after a roll-back: the stage that nothing enters by itself.
    pub hold: Option<(Word, Act)>,
    /// Why nothing follows by itself at all until somebody lifts it.
    pub suspended: Option<String>,
    /// The release that took its place.
    pub superseded_by: Option<ReleaseId>,
    /// How it ended, who said so, why and when.
    pub decision: Option<(Verdict, Act)>,
}

/// A stage that a release is to enter, and what keeps it from doing so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entering {
    /// Which.
    pub stage: Word,
    /// Who said so.
    pub act: Act,
    /// The release that is being deployed there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked_by: Option<ReleaseId>,
}

/// A stage that a release is or was in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Visit {
    /// Which.
    pub stage: Word,
    /// How it got there.
    pub act: Act,
    /// Its steps, in order.
    pub steps: Vec<StepRun>,
    /// What jobs have set for those after them: by step, then by service or app.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub outputs: BTreeMap<Word, BTreeMap<String, Map<String, Value>>>,
    /// When all was done, or it was given up.
    pub finished_ms: Option<u64>,
}

/// A step of a stage, as far as it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepRun {
    /// Its name.
    pub name: Word,
    /// When it came to be its turn.
    pub triggered_ms: Option<u64>,
    /// When its work began.
    pub started_ms: Option<u64>,
    /// When it ended.
    pub ended_ms: Option<u64>,
    /// What came of it, once it has ended.
    pub result: Option<Finding>,
    /// What is to be said of it.
    pub note: Option<String>,
    /// Who has passed over it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bypass: Option<Act>,
    /// What the release waits for before its jobs can be launched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked: Option<Blocked>,
    /// Jobs that were run for it, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub jobs: Vec<RanJob>,
    /// The work itself.
    pub work: Work,
}

/// Why locks could not be taken: all are taken together, or none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocked {
    /// Whose lock; none: there is something else that they wait for.
    pub inventory: Option<Inventory>,
    /// Who holds it, or what else it is, in words.
    pub why: String,
}

/// A job that was run for a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RanJob {
    /// Which.
    pub job: JobId,
    /// For which service; none: for the whole release.
    pub service: Option<Word>,
    /// What it was to do.
    pub operation: Operation,
    /// How it ended.
    pub outcome: Option<Outcome>,
}

/// What a job of a release is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// Deploy a service.
    Deploy,
    /// Undo that.
    Undo,
    /// Whatever its app does.
    Run,
}

impl Operation {
    /// The word for it in variables and events.
    pub fn word(self) -> &'static str {
        match self {
            Self::Deploy => "deploy",
            Self::Undo => "undo",
            Self::Run => "run",
        }
    }
}

/// The work of a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// `deploy`
    Deploy {
        /// Which share of a canary it is at.
        turn: usize,
        /// Whether what was deployed is being undone.
        undoing: bool,
        /// The next share of a canary is not to be deployed before; the one that is live is `turn`'s until then.
        not_before_ms: Option<u64>,
        /// Each service.
        services: BTreeMap<Word, Deployment>,
    },
    /// `run`
    Run {
        /// The job that runs.
        job: Option<JobId>,
    },
    /// `check`
    Check {
        /// Who reports, frozen when the release entered the stage, and what they reported.
        reporters: BTreeMap<Word, Option<Report>>,
        /// When silence ends as inconclusive; set when it came to be its turn.
        deadline_ms: Option<u64>,
    },
    /// `approval`
    Approval {
        /// Who has approved, and when.
        given: BTreeMap<Word, Act>,
    },
    /// `soak`
    Soak {
        /// Since when it counts.
        since_ms: Option<u64>,
        /// Until when.
        until_ms: Option<u64>,
    },
}

/// One service of a bracket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// The app whose job deploys it.
    pub app: DeploymentId,
    /// How far it is.
    pub state: DeploymentState,
    /// The job that is at it.
    pub job: Option<JobId>,
    /// What was there before.
    pub previous: Option<There>,
    /// What went wrong.
    pub trouble: Option<String>,
}

/// What an app has last deployed for a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct There {
    /// What.
    pub artifact: Artifact,
    /// For which release.
    pub release: ReleaseId,
    /// As which service,
    pub service: Word,
    /// in which stage.
    pub stage: Word,
}

/// How far a service of a bracket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeploymentState {
    /// Not begun.
    Pending,
    /// A job is at it.
    Deploying,
    /// The release's version is there.
    Deployed,
    /// Its job did not succeed: what is there is not known.
    Failed,
    /// A job puts back what was there before.
    Undoing,
    /// What was there before is there again.
    Undone,
    /// It could not be put back: what is there is not known.
    NotUndone,
}

impl DeploymentState {
    /// The word for it in API and events.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Deploying => "deploying",
            Self::Deployed => "deployed",
            Self::Failed => "failed",
            Self::Undoing => "undoing",
            Self::Undone => "undone",
            Self::NotUndone => "not_undone",
        }
    }

    /// Whether a job is at it.
    pub fn is_busy(self) -> bool {
        matches!(self, Self::Deploying | Self::Undoing)
    }
}

/// What a reporter has reported. Its log is kept beside the release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// What was found.
    pub result: Finding,
    /// Where more is to be seen.
    pub link: Option<String>,
    /// In the reporter's own words: a status, such as `Unverified`.
    pub status: Option<String>,
    /// What is to be said.
    pub comment: Option<String>,
    /// SHA-256 of its log, in hexadecimal digits; none: it has none.
    pub log: Option<String>,
    /// When it came.
    pub at_ms: u64,
}

impl Report {
    /// Whether it says the same as another, whenever that came.
    pub fn repeats(&self, other: &Self) -> bool {
        *self == Self { at_ms: self.at_ms, ..other.clone() }
    }
}

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.inventory {
            Some(inventory) => write!(f, "the lock of {inventory}: {}", self.why),
            None => f.write_str(&self.why),
        }
    }
}

impl StepRun {
    /// Whether it came to be its turn, and it has not ended.
    pub fn is_open(&self) -> bool {
        self.triggered_ms.is_some() && self.result.is_none()
    }

    /// Whether a later step may begin.
    pub fn is_done(&self) -> bool {
        self.result.is_some_and(Finding::goes_on)
    }

    /// Whether a deployment of it is under way: begun, and neither whole nor undone; or a job of it runs.
    pub fn is_deploying(&self) -> bool {
        match &self.work {
            Work::Deploy { turn, services, undoing, .. } => {
                // When the next share of a canary waits for locks all are pending, and the share before it is there.
                let begun = *turn > 0 || services.values().any(|it| it.state != DeploymentState::Pending);
                services.values().any(|service| service.state.is_busy())
                    || (self.result.is_none() && (*undoing || begun))
            }
            Work::Run { job } => job.is_some(),
            Work::Check { .. } | Work::Approval { .. } | Work::Soak { .. } => false,
        }
    }

    /// Whether it is a canary between two shares: one is live, and the time of the next has not come.
    pub fn is_pausing(&self) -> bool {
        let pausing = matches!(&self.work, Work::Deploy { undoing: false, not_before_ms: Some(_), .. });
        pausing && self.result.is_none() && self.busy_jobs().is_empty()
    }

    /// Jobs that are at it.
    pub fn busy_jobs(&self) -> Vec<JobId> {
        match &self.work {
            Work::Deploy { services, .. } => {
                services.values().filter(|it| it.state.is_busy()).filter_map(|it| it.job).collect()
            }
            Work::Run { job } => job.iter().copied().collect(),
            Work::Check { .. } | Work::Approval { .. } | Work::Soak { .. } => Vec::new(),
        }
    }

    fn note_job(&mut self, job: RanJob) {
        self.jobs.push(job);
        let surplus = self.jobs.len().saturating_sub(JOBS_MAX);
        self.jobs.drain(..surplus);
    }
}

impl Visit {
    /// The step that is next: the first that is not done.
    pub fn current(&self) -> Option<usize> {
        self.steps.iter().position(|step| !step.is_done())
    }
}

impl Release {
    /// A release that is to enter a stage. What it consists of was checked by [`fault`].
    #[expect(clippy::too_many_arguments, reason = "each is a part of it")]
    pub fn new(
        id: ReleaseId,
        pipeline: &Pipeline,
        version: u64,
        kind: Kind,
        services: BTreeMap<Word, Artifact>,
        metadata: BTreeMap<Word, String>,
        by: Word,
        stage: Word,
        now_ms: u64,
    ) -> Self {
        let act = Act { by: Some(by.clone()), reason: String::new(), at_ms: now_ms };
        Self {
            id,
            pipeline: pipeline.name.clone(),
            version,
            product: pipeline.product.clone(),
            kind,
            services,
            metadata,
            by,
            created_ms: now_ms,
            entering: Some(Entering { stage, act, blocked_by: None }),
            visits: Vec::new(),
            assigned: None,
            held_by: None,
            hold: None,
            suspended: None,
            superseded_by: None,
            decision: None,
        }
    }

    /// The stage that it is in.
    pub fn visit(&self) -> Option<&Visit> {
        self.visits.last()
    }

    /// Whether a deployment of it is under way, or any other job of it.
    pub fn is_deploying(&self) -> bool {
        self.visits.iter().flat_map(|visit| &visit.steps).any(StepRun::is_deploying)
    }

    /// Whether that is so in a stage.
    pub fn is_deploying_in(&self, stage: &Word) -> bool {
        self.visits
            .iter()
            .filter(|visit| visit.stage == *stage)
            .flat_map(|visit| &visit.steps)
            .any(StepRun::is_deploying)
    }

    /// Whether it is in a stage, and not about to leave it.
    pub fn is_in(&self, stage: &Word) -> bool {
        self.entering.is_none() && self.visit().is_some_and(|visit| visit.stage == *stage)
    }

    /// Whether it holds the places that its services took in stages: an older release does not take them by itself. One that is accepted
    /// does, one that is superseded or rejected does not.
    pub fn holds_place(&self) -> bool {
        let accepted = self.decision.as_ref().is_some_and(|(verdict, _)| *verdict != Verdict::Rejected);
        !self.is_over() || (accepted && self.superseded_by.is_none())
    }

    /// Whether it is decided or superseded. Jobs of it may run still.
    pub fn is_settled(&self) -> bool {
        self.decision.is_some() || self.superseded_by.is_some()
    }

    /// Whether nothing follows any more.
    pub fn is_over(&self) -> bool {
        self.is_settled() && !self.is_deploying()
    }

    /// Jobs whose end it waits for.
    pub fn busy_jobs(&self) -> Vec<JobId> {
        self.visits.iter().flat_map(|visit| &visit.steps).flat_map(StepRun::busy_jobs).collect()
    }

    /// The stage after the one that it is in.
    pub fn next_stage<'a>(&self, pipeline: &'a Pipeline) -> Option<&'a pipeline::Stage> {
        let (place, _) = pipeline.stage(&self.visit()?.stage)?;
        pipeline.stages.get(place + 1)
    }
}

fn listed<'a>(names: impl IntoIterator<Item = &'a Word>) -> String {
    names.into_iter().map(Word::as_str).collect::<Vec<_>>().join(", ")
}
