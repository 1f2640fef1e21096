//! What goes over HTTP in v1: request and response types, shared by server, client and the OpenAPI document.
//!
//! The seed's endpoints have a form of their own, which lives with them in `api::seed`. Times are RFC 3339 in UTC with
//! milliseconds. Fields that have no value yet are left out.

mod apps;
mod jobs;
mod orders;
mod pipelines;
mod releases;
mod tokens;
mod webhooks;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use apps::*;
pub use jobs::*;
pub use orders::*;
pub use pipelines::*;
pub use releases::*;
pub use tokens::*;
pub use webhooks::*;

/// Milliseconds since 1970 as RFC 3339 in UTC.
pub fn time(ms: u64) -> String {
    let ms = i64::try_from(ms).unwrap_or(i64::MAX);
    let at = Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX);
    format!("{at:.3}")
}

/// Body of a request that may say why.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Because {
    /// Why, for the audit log. 1 to 500 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 500, pattern = r"^[^\u0000-\u001F\u007F-\u009F]*$")]
    pub reason: Option<String>,
}

/// An error as in RFC 9457; `type` is stable, `detail` says what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `urn:lockstep:error:` and a word that does not change between versions.
    #[serde(rename = "type")]
    pub kind: String,
    /// The error in general.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// What happened here, and what to do.
    pub detail: String,
    /// The job in the way, where one is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id: Option<String>,
}

impl Problem {
    /// What `kind` begins with.
    pub const PREFIX: &'static str = "urn:lockstep:error:";
}
