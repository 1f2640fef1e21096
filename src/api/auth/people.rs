//! People, and machines with a token like theirs: what each role opens.
//!
//! A reporter is often somebody else's machine. It is in none of the types that see more than releases: whoever takes an [`Operator`] or a
//! [`Viewer`] (and so a [`Caller`](super::Caller)) turns it away.

use std::fmt;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use super::super::credentials::{Given, Holder, given};
use super::{Wanted, peer};
use crate::api::error::ApiError;
use crate::api::{Api, Shared};
use crate::model::ids::Word;
use crate::model::token::{Grant, Role};

/// Why a person whose token is good is turned away.
fn not_for(role: Role) -> ApiError {
    ApiError::Forbidden(match role {
        Role::Viewer => "This token's role is viewer: it sees everything and changes nothing.",
        Role::Releaser => "This token's role is releaser: it sees everything, and changes releases and orders alone.",
        Role::Reporter => "This token's role is reporter: it reports on releases, and opens nothing else.",
        Role::Operator => "This is not an operator's to do.",
    })
}

/// Whoever is responsible for the whole installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::api) struct Operator(pub(in crate::api) Word);

impl FromRequestParts<Shared> for Operator {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Shared) -> Result<Self, ApiError> {
        let Grant { name, role, .. } = person(parts, api, Wanted::Operator).await?;
        match role {
            Role::Operator => Ok(Self(name)),
            Role::Viewer | Role::Releaser | Role::Reporter => Err(not_for(role)),
        }
    }
}

/// Whoever may see the whole installation: a viewer, a releaser, or an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::api) struct Viewer(Grant);

impl TryFrom<Grant> for Viewer {
    type Error = ApiError;

    fn try_from(grant: Grant) -> Result<Self, ApiError> {
        match grant.role {
            Role::Viewer | Role::Releaser | Role::Operator => Ok(Self(grant)),
            Role::Reporter => Err(not_for(grant.role)),
        }
    }
}

impl Viewer {
    /// The answer where something is to be changed.
    pub(in crate::api) fn only_views(&self) -> ApiError {
        not_for(self.0.role)
    }
}

impl fmt::Display for Viewer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0.role, self.0.name)
    }
}

impl FromRequestParts<Shared> for Viewer {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Shared) -> Result<Self, ApiError> {
        person(parts, api, Wanted::Viewer).await?.try_into()
    }
}

/// Whoever makes releases and moves them: a releaser, or an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::api) struct Releaser(pub(in crate::api) Word);

impl FromRequestParts<Shared> for Releaser {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Shared) -> Result<Self, ApiError> {
        let Grant { name, role, .. } = person(parts, api, Wanted::Releaser).await?;
        match role {
            Role::Releaser | Role::Operator => Ok(Self(name)),
            Role::Viewer | Role::Reporter => Err(not_for(role)),
        }
    }
}

/// Whoever may be asked to approve a release, with the groups that he belongs to: anybody but a reporter, which is a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::api) struct Approver(pub(in crate::api) Grant);

impl FromRequestParts<Shared> for Approver {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Shared) -> Result<Self, ApiError> {
        let Viewer(grant) = person(parts, api, Wanted::Approver).await?.try_into()?;
        Ok(Self(grant))
    }
}

/// Whoever may report on a release under his own name: a reporter, or an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::api) struct Reporter {
    /// The name under which he reports.
    pub(in crate::api) name: Word,
    /// What he sees of releases.
    pub(in crate::api) sees: ReleaseReader,
}

impl FromRequestParts<Shared> for Reporter {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Shared) -> Result<Self, ApiError> {
        let Grant { name, role, .. } = person(parts, api, Wanted::Reporter).await?;
        match role {
            Role::Reporter => Ok(Self { sees: ReleaseReader::Reporter(name.clone()), name }),
            Role::Operator => Ok(Self { sees: ReleaseReader::All, name }),
            Role::Viewer | Role::Releaser => Err(ApiError::Forbidden(Wanted::Reporter.others())),
        }
    }
}

/// Whoever may see releases, and how much of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::api) enum ReleaseReader {
    /// All of all: a viewer, a releaser, an operator.
    All,
    /// Of those of its products, and of those in which it is asked, what concerns it.
    Reporter(Word),
}

impl FromRequestParts<Shared> for ReleaseReader {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Shared) -> Result<Self, ApiError> {
        let Grant { name, role, .. } = person(parts, api, Wanted::ReleaseReader).await?;
        match role {
            Role::Viewer | Role::Releaser | Role::Operator => Ok(Self::All),
            Role::Reporter => Ok(Self::Reporter(name)),
        }
    }
}

/// Whose token a request brings. What its role opens is for whoever asks to say.
async fn person(parts: &Parts, api: &Api, wanted: Wanted) -> Result<Grant, ApiError> {
    let from = peer(parts)?;
    match given(&parts.headers) {
        Given::Nothing => Err(ApiError::Unauthorized(wanted)),
        Given::Unreadable => Err(api.failed("", from, wanted).await),
        Given::Basic(id, secret) => Err(api.turn_away(id, &secret, from, wanted).await),
        Given::Bearer(token) => match api.open_token(&token, from, wanted).await? {
            Holder::Person(grant) => Ok(grant),
            Holder::Feed | Holder::Job(_) => Err(ApiError::Forbidden(wanted.others())),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::Caller;
    use super::*;

    #[test]
    fn a_reporter_sees_nothing_but_releases() {
        let grant = |role| Grant { name: "ada".parse().expect("a name"), role, groups: vec![] };
        for role in [Role::Viewer, Role::Releaser, Role::Operator] {
            assert!(Viewer::try_from(grant(role)).is_ok(), "{role}");
            let caller = Caller::try_from(grant(role)).expect("a caller");
            assert_eq!(matches!(caller, Caller::Operator(_)), role == Role::Operator);
            assert_eq!(caller.name(), format!("{role} ada"));
        }
        assert!(matches!(Viewer::try_from(grant(Role::Reporter)), Err(ApiError::Forbidden(_))));
        assert!(matches!(Caller::try_from(grant(Role::Reporter)), Err(ApiError::Forbidden(_))));
    }
}
