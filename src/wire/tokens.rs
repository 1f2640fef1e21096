//! Tokens, and the audit log of what was done with them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use crate::model::token::Role;

/// Body of `POST /api/v1/tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// Whose it is: the name that stands in the audit log.
    #[schema(pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    pub name: String,
    /// What it opens.
    pub role: Role,
    /// Groups that its bearer belongs to, for approvals.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 32)]
    pub groups: Vec<String>,
    /// Seconds until it opens nothing any more; none: until it is revoked. At most ten years.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 316_224_000)]
    pub expires_in: Option<u64>,
    /// Why, for the audit log. 1 to 500 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 500, pattern = r"^[^\u0000-\u001F\u007F-\u009F]*$")]
    pub reason: Option<String>,
}

/// Answer to `POST /api/v1/tokens`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenIssued {
    /// The token: shown this once, and kept as a hash.
    pub token: String,
    /// What it opens.
    #[serde(flatten)]
    pub view: TokenView,
}

/// A token as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenView {
    /// Whose it is.
    pub name: String,
    /// What it opens.
    pub role: Role,
    /// Groups that its bearer belongs to.
    pub groups: Vec<String>,
    /// When it was issued.
    pub issued_at: String,
    /// Who issued it.
    pub by: String,
    /// From then on it opens nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
}

/// The tokens that were issued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenList {
    /// By name.
    pub tokens: Vec<TokenView>,
}

/// A line of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditView {
    /// Its place in the log.
    #[schema(example = "1700000000000-0")]
    pub id: String,
    /// When.
    pub time: String,
    /// Who.
    pub by: String,
    /// Did what.
    pub what: String,
    /// To what.
    pub about: String,
    /// Why; empty where that was not said.
    pub reason: String,
}

/// A page of the audit log, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditPage {
    /// The lines.
    pub lines: Vec<AuditView>,
    /// Give this as `cursor` to get the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}
