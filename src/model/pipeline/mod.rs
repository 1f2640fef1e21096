//! Pipelines: stages of steps that a release goes through, one after the other.
//!
//! A step is one of five kinds, and that is all of it: `deploy`, `run`, `check`, `approval`, `soak`. What a pipeline means for a release at
//! a moment is `model::release`'s to say; this is what may be written down, and [`read`](file::read) says with line and key what may not.
//!
//! A release keeps the pipeline that it started with: a pipeline is never changed, it gets a new version.

pub mod file;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ids::{DeploymentId, Word};

/// Stages of steps, and the services that go through them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pipeline {
    /// Its name.
    pub name: Word,
    /// What it is for, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The product that its releases are versions of: what customers subscribe to.
    pub product: Word,
    /// The services that a release may hold; of each, by which app it is deployed in which stage.
    pub services: BTreeMap<Word, Service>,
    /// Metadata that a release must bring.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub metadata: BTreeSet<Word>,
    /// The stages, in order; at least one.
    pub stages: Vec<Stage>,
}

impl Pipeline {
    /// A stage and its place.
    pub fn stage(&self, name: &Word) -> Option<(usize, &Stage)> {
        self.stages.iter().enumerate().find(|(_, stage)| stage.name == *name)
    }
}

/// One service of a pipeline.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// By stage, the app (an entry of the feed) whose job deploys it there.
    pub apps: BTreeMap<Word, DeploymentId>,
}

/// A stage: what is done there, and how a release leaves it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// Its name.
    pub name: Word,
    /// What its state is called where releases are shown, in the installation's own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shown_as: Option<String>,
    /// Whether a release may be created here instead of in the first stage.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub entry: bool,
    /// Whether a release that is here is ready to deploy, which whoever deploys by himself asks for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ready_to_deploy: bool,
    /// The group that a release is assigned to while it is here; told when it becomes theirs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assign: Option<Word>,
    /// What is done, in order; at least one.
    pub steps: Vec<Step>,
    /// How a release goes on to the next stage.
    pub promote: Promote,
}

/// How a release goes on to the next stage once all steps of this one are done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Promote {
    /// By itself.
    Auto,
    /// When somebody says so.
    #[default]
    Manual,
}

/// One step of a stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Its name, unique in its stage: what events say.
    pub name: Word,
    /// What it is.
    pub kind: Kind,
    /// The group that the release is assigned to when it fails here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_failure: Option<Word>,
}

/// The five kinds of step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Each service of the release is deployed by its app of this stage. All deploy locks are taken together or none; one failure undoes
    /// the others.
    Deploy {
        /// How.
        strategy: Strategy,
    },
    /// A job is run for the release.
    Run {
        /// Whose job.
        app: DeploymentId,
    },
    /// Every reporter reports a result.
    Check {
        /// Who.
        reporters: Reporters,
        /// Silence ends as `inconclusive` after so long.
        deadline: Duration,
        /// What a reporter is asked to do, in its own words, such as `MoveToUnverified`.
        action: Option<Word>,
    },
    /// People certify exactly this release.
    Approval {
        /// Members of any of these groups may.
        groups: BTreeSet<Word>,
        /// So many of them must; at least 1.
        count: u32,
    },
    /// The release has run in this stage for so long.
    Soak {
        /// How long.
        time: Duration,
    },
}

impl Kind {
    /// The word that it is written with.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Deploy { .. } => "deploy",
            Self::Run { .. } => "run",
            Self::Check { .. } => "check",
            Self::Approval { .. } => "approval",
            Self::Soak { .. } => "soak",
        }
    }
}

/// How services are deployed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// In place. Undone by deploying the version that was there before.
    Direct,
    /// Beside what is there (blue), as green. Undone by removing green; a later `run` step switches traffic.
    BlueGreen,
    /// To a growing share of traffic.
    Canary {
        /// The shares, in percent: growing, each 1 to 99. After the last of them all traffic follows.
        shares: Vec<u8>,
        /// How long each share is left before the next one.
        #[serde(default)]
        pause: Duration,
    },
}

impl Strategy {
    /// The word that it is written with.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::BlueGreen => "blue_green",
            Self::Canary { .. } => "canary",
        }
    }

    /// The share of traffic that is live after a turn, in percent; none: it goes in one.
    pub fn share(&self, turn: usize) -> Option<u8> {
        match self {
            Self::Direct | Self::BlueGreen => None,
            Self::Canary { shares, .. } => Some(shares.get(turn).copied().unwrap_or(100)),
        }
    }

    /// In how many turns it goes.
    pub fn turns(&self) -> usize {
        match self {
            Self::Direct | Self::BlueGreen => 1,
            Self::Canary { shares, .. } => shares.len() + 1,
        }
    }
}

/// Who reports in a check; frozen when a release enters it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reporters {
    /// These.
    Named(BTreeSet<Word>),
    /// Whoever is subscribed to the product then.
    Subscribers,
}
