//! The words of releases: what is found, and how they end.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::model::job::UnknownWord;

/// Whether a product is deployed anew or changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ReleaseKind)]
pub enum Kind {
    /// The first deployment.
    Initial,
    /// A change of what is there.
    #[default]
    Update,
}

/// What a step, a job or a reporter has found.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema, clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// Good.
    Pass,
    /// Good enough, with something to be said.
    Warning,
    /// Nothing that can be said, which is never taken for good.
    Inconclusive,
    /// Not good.
    Fail,
}

impl Finding {
    /// Whether a release goes on by itself after it.
    pub fn goes_on(self) -> bool {
        matches!(self, Self::Pass | Self::Warning)
    }

    /// The word for it in API, events and files.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Warning => "warning",
            Self::Inconclusive => "inconclusive",
            Self::Fail => "fail",
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Finding {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        [Self::Pass, Self::Warning, Self::Inconclusive, Self::Fail]
            .into_iter()
            .find(|finding| finding.word() == text)
            .ok_or(UnknownWord { what: "result" })
    }
}

/// How a release ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Good.
    Accepted,
    /// Good enough, with something to be said.
    #[value(name = "accepted_with_warnings")]
    AcceptedWithWarnings,
    /// Not good.
    Rejected,
}

impl Verdict {
    /// The word for it in API, events and files.
    pub fn word(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::AcceptedWithWarnings => "accepted_with_warnings",
            Self::Rejected => "rejected",
        }
    }
}
