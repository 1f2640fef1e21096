//! Tokens of people and machines that look after the installation: a name, a role, and groups.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::ids::Word;

/// The most groups that a token may name.
pub const GROUPS_MAX: usize = 32;

/// What its bearer may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// See everything, change nothing.
    Viewer,
    /// See everything; make releases and move them.
    Releaser,
    /// Report on releases, of products that its name is subscribed to or where it is asked, and see no more than these.
    Reporter,
    /// Everything.
    Operator,
}

impl Role {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Releaser => "releaser",
            Self::Reporter => "reporter",
            Self::Operator => "operator",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "viewer" => Ok(Self::Viewer),
            "releaser" => Ok(Self::Releaser),
            "reporter" => Ok(Self::Reporter),
            "operator" => Ok(Self::Operator),
            _ => Err("must be viewer, releaser, reporter or operator"),
        }
    }
}

/// Whose token it is, and what it opens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Who: the name that stands in the audit log.
    pub name: Word,
    /// What they may do.
    pub role: Role,
    /// Groups that they belong to, by names of the installation's choice.
    pub groups: Vec<Word>,
}
