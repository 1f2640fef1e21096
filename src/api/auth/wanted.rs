//! Whose credentials an endpoint asks for, and what is said to who brings none or others.

/// Whose credentials an endpoint asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::api) enum Wanted {
    /// An app's: deployment id and secret.
    App,
    /// An app's or an operator's.
    AppOrOperator,
    /// An operator's.
    Operator,
    /// That of somebody who may see everything,
    Viewer,
    /// who makes releases and orders and moves them,
    Releaser,
    /// who approves releases,
    Approver,
    /// who reports on them,
    Reporter,
    /// who reads of them.
    ReleaseReader,
    /// An operator's or the feed's.
    Feed,
    /// The token of this very job.
    JobToken,
}

impl Wanted {
    /// To who brings no credentials, or unknown ones.
    pub(in crate::api) fn missing(self) -> &'static str {
        match self {
            Self::App => "Unknown deployment_id or wrong deployment_secret",
            Self::AppOrOperator => {
                "Unknown credentials. Give deployment id and secret as Authorization: Basic, or as Authorization: Bearer a CI job's ID token that the app's rules fit, or an operator's token."
            }
            Self::Operator => "Unknown credentials. Give an operator's token as Authorization: Bearer.",
            Self::Viewer => {
                "Unknown credentials. Give the token of a viewer, a releaser or an operator as Authorization: Bearer."
            }
            Self::Releaser => {
                "Unknown credentials. Give the token of a releaser or an operator as Authorization: Bearer."
            }
            Self::Approver => {
                "Unknown credentials. Give the token of a viewer, a releaser or an operator of a group that is asked as Authorization: Bearer."
            }
            Self::Reporter => {
                "Unknown credentials. Give the token of the reporter, or an operator's, as Authorization: Bearer."
            }
            Self::ReleaseReader => {
                "Unknown credentials. Give the token of a releaser, a reporter, a viewer or an operator as Authorization: Bearer."
            }
            Self::Feed => {
                "Unknown credentials. Give the feed's, an operator's or the feed job's token as Authorization: Bearer."
            }
            Self::JobToken => {
                "Unknown credentials. Give the job's own token (/run/lockstep/token in its container) as Authorization: Bearer."
            }
        }
    }

    /// To who brings credentials that are known, and have no right to this.
    pub(in crate::api) fn others(self) -> &'static str {
        match self {
            Self::Viewer => "This needs the token of a viewer, a releaser or an operator.",
            Self::Releaser => "This needs the token of a releaser or an operator.",
            Self::Approver => "This needs the token of a viewer, a releaser or an operator of a group that is asked.",
            Self::Reporter => {
                "This needs the token of the reporter, or an operator's: a report counts under the token's name."
            }
            Self::ReleaseReader => "This needs the token of a releaser, a reporter, a viewer or an operator.",
            Self::Feed => "This needs the feed's or an operator's token.",
            Self::App | Self::AppOrOperator | Self::Operator | Self::JobToken => "This needs an operator's token.",
        }
    }
}
