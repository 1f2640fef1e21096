//! Releases, their catalogue, and those who report on them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;
use utoipa::openapi::Ref;
use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Schema, Type};

use super::Outcome;
pub use crate::model::release::{
    Artifact, DeploymentState, Finding, Kind as ReleaseKind, Operation, Standing, Verdict,
};

/// One service of a release that is to be made: its version alone, or more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged, expecting = "a service must be its version as a text, or an object of version, reference and digest")]
pub enum ServiceRequest {
    /// Its version.
    Version(String),
    /// Its version, where it is found, and what its content must be.
    Artifact(Artifact),
}

impl From<ServiceRequest> for Artifact {
    fn from(request: ServiceRequest) -> Self {
        match request {
            ServiceRequest::Version(version) => Self { version, reference: None, digest: None },
            ServiceRequest::Artifact(artifact) => artifact,
        }
    }
}

/// Body of `POST /api/v1/releases`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReleaseRequest {
    /// The pipeline that it is to go through, in its newest version.
    #[schema(pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    pub pipeline: String,
    /// The stage that it is to enter; the first unless given. Only stages that the pipeline marks as `entry` may be named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    pub stage: Option<String>,
    /// Whether the product is deployed anew or changed.
    #[serde(default)]
    pub kind: ReleaseKind,
    /// What it consists of: by service, its version (a text), or its version, reference and digest.
    pub services: BTreeMap<String, ServiceRequest>,
    /// What is said of it: release notes, a change log, … At most 16 KiB each and 64 KiB in all; the pipeline says what is required.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

/// Who has done something to a release, why, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ActView {
    /// Who; absent where it followed by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Why, where that was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When.
    pub at: String,
}

/// How a release ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DecisionView {
    /// How.
    pub verdict: Verdict,
    /// Who said so, why, and when.
    #[serde(flatten)]
    pub act: ActView,
}

/// What holds automation after a roll-back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HoldView {
    /// The stage that no release enters by itself until it is lifted.
    pub stage: String,
    /// Who said so, why, and when.
    #[serde(flatten)]
    pub act: ActView,
}

/// A release in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReleaseSummary {
    /// Its id: a ULID.
    pub id: String,
    /// The pipeline that it goes through,
    pub pipeline: String,
    /// in the version that it started with.
    pub version: u64,
    /// What it is a version of.
    pub product: String,
    /// Whether that is deployed anew or changed.
    pub kind: ReleaseKind,
    /// What it consists of, frozen.
    pub services: BTreeMap<String, Artifact>,
    /// Who has submitted it.
    pub by: String,
    /// When.
    pub created_at: String,
    /// Where it is, in one word.
    pub state: Standing,
    /// The stage that it is in, or is about to enter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// What the installation calls its state: that of the stage which it has entered last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shown_as: Option<String>,
    /// Whether whoever deploys by himself may deploy it.
    pub ready_to_deploy: bool,
    /// What it waits for, in words.
    pub waits_for: String,
    /// For whom: names of people, groups or reporters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits_for_whom: Vec<String>,
    /// The group that it is assigned to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assigned: Option<String>,
    /// What holds automation after a roll-back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<HoldView>,
    /// Why nothing follows by itself until somebody lifts it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspended: Option<String>,
    /// The release that took its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub superseded_by: Option<String>,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<DecisionView>,
}

/// A release. A reporter is shown neither what others report nor people's approvals, jobs and notes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ReleaseView {
    /// As it stands in a list.
    #[serde(flatten)]
    pub summary: ReleaseSummary,
    /// What is said of it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// The stages that it was in, and the one that it is in, last.
    pub stages: Vec<StageView>,
}

/// A stage that a release is or was in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StageView {
    /// Which.
    pub stage: String,
    /// What the installation calls the state of a release there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shown_as: Option<String>,
    /// When it was sent there.
    pub entered_at: String,
    /// By whom; absent where that followed by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Why, where that was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When all was done, or it was given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<String>,
    /// Its steps, in order.
    pub steps: Vec<StepView>,
    /// What jobs have set for those after them: by step, then by service or app.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, BTreeMap<String, BTreeMap<String, Value>>>)]
    pub outputs: BTreeMap<String, BTreeMap<String, Map<String, Value>>>,
}

/// How far a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    /// It is not its turn yet.
    Pending,
    /// Jobs are at it, or about to be launched.
    Running,
    /// It waits for reporters, approvals, or time.
    Waiting,
    /// Its jobs cannot take their locks yet.
    Blocked,
    /// It has passed, or has warned.
    Done,
    /// It has failed, or is inconclusive.
    Failed,
}

/// A step of a stage, as far as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StepView {
    /// Its name.
    pub name: String,
    /// `deploy`, `run`, `check`, `approval` or `soak`.
    #[schema(pattern = "^(deploy|run|check|approval|soak)$")]
    pub kind: String,
    /// How far it is.
    pub state: StepState,
    /// When it came to be its turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub triggered_at: Option<String>,
    /// When its work began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
    /// What came of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Finding>,
    /// What is to be said of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Who has passed over it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bypass: Option<ActView>,
    /// Why its jobs cannot be launched yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked: Option<BlockedView>,
    /// `check`: when silence ends as inconclusive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<String>,
    /// `soak`: until when it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soak_until: Option<String>,
    /// `deploy`: whether what was deployed is being undone, or was.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub undoing: bool,
    /// `deploy`: each service.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub services: BTreeMap<String, StepService>,
    /// Jobs that were run for it, oldest first: the last 200.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub jobs: Vec<StepJob>,
    /// `check`: who is asked, and what they reported; null while one is silent.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(schema_with = reports)]
    pub reports: BTreeMap<String, Option<ReportView>>,
    /// `approval`: who has approved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvals: Vec<ActView>,
}

/// By reporter, a report or null; described by hand, because the macro knows no map of what may be null.
fn reports() -> Schema {
    let silent = ObjectBuilder::new().schema_type(Type::Null);
    let report = OneOfBuilder::new().item(silent).item(Ref::from_schema_name("ReportView"));
    ObjectBuilder::new()
        .schema_type(Type::Object)
        .description(Some("`check`: who is asked, and what they reported; null while one is silent."))
        .additional_properties(Some(Schema::from(report)))
        .into()
}

/// Why jobs cannot be launched yet: all locks are taken together, or none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BlockedView {
    /// Whose lock is in the way; absent where it is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inventory: Option<String>,
    /// Who holds it, or what else they wait for, in words.
    pub why: String,
}

/// One service of a step that deploys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StepService {
    /// How far it is.
    pub state: DeploymentState,
    /// The app whose job deploys it.
    pub app: String,
    /// The job that is at it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id: Option<String>,
    /// The version that was there before, where one was deployed for a release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// A job that was run for a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StepJob {
    /// Which.
    pub job_id: String,
    /// For which service; absent: for the whole release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// What it was to do.
    pub operation: Operation,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
}

/// What a reporter has reported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReportView {
    /// What was found.
    pub result: Finding,
    /// Where more is to be seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// In the reporter's own words: a status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// What is to be said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// SHA-256 of its log, in hexadecimal digits: read it at `/api/v1/releases/{release_id}/logs/{digest}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
    /// When it came.
    pub at: String,
}

/// One page of releases, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReleasePage {
    /// The releases.
    pub releases: Vec<ReleaseSummary>,
    /// Give this as `cursor` to get the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// What there is of which product.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Catalogue {
    /// By product, then by pipeline.
    pub products: Vec<CatalogueProduct>,
}

/// A product in the catalogue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CatalogueProduct {
    /// Which.
    pub product: String,
    /// The pipeline that its releases go through.
    pub pipeline: String,
    /// Its releases, newest first.
    pub versions: Vec<CatalogueVersion>,
}

/// A release in the catalogue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CatalogueVersion {
    /// Which release.
    pub release: String,
    /// What it consists of.
    pub services: BTreeMap<String, Artifact>,
    /// Whether the product is deployed anew or changed.
    pub kind: ReleaseKind,
    /// Where it is, in one word.
    pub state: Standing,
    /// The stage that it is in, or is about to enter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// What the installation calls its state: that of the stage which it has entered last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shown_as: Option<String>,
    /// Whether whoever deploys by himself may deploy it.
    pub ready_to_deploy: bool,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<Verdict>,
    /// When it was submitted.
    pub created_at: String,
}

/// Body of `POST /api/v1/releases/{release_id}/reports`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReportRequest {
    /// The stage that was looked at: a report is about exactly one release and stage.
    #[schema(pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    pub stage: String,
    /// The step that asks; unless given, the one that does now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    pub step: Option<String>,
    /// What was found.
    pub result: Finding,
    /// Where more is to be seen: an http or https URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 2048, pattern = r"^https?://[^\s]+$")]
    pub link: Option<String>,
    /// A status in the reporter's own words, such as `Unverified`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 64)]
    pub status: Option<String>,
    /// What is to be said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 2000)]
    pub comment: Option<String>,
    /// The log: at most 1 MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
}

/// Body of `POST /api/v1/releases/{release_id}/approvals`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApprovalRequest {
    /// Why. 1 to 500 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 500, pattern = r"^[^\u0000-\u001F\u007F-\u009F]*$")]
    pub reason: Option<String>,
}

/// Body of `POST /api/v1/releases/{release_id}/promote`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PromoteRequest {
    /// The stage that is meant; unless given, the next one. Refused where that is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    pub to: Option<String>,
    /// Why. 1 to 500 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 500, pattern = r"^[^\u0000-\u001F\u007F-\u009F]*$")]
    pub reason: Option<String>,
}

/// Body of `POST /api/v1/releases/{release_id}/decision`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DecisionRequest {
    /// How it ends.
    pub decision: Verdict,
    /// Why. 1 to 500 characters; a rejection must have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 500, pattern = r"^[^\u0000-\u001F\u007F-\u009F]*$")]
    pub reason: Option<String>,
}

/// Body of a request that must say why: to reject, bypass, roll back or lift.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReasonRequest {
    /// Why. 1 to 500 characters.
    #[schema(min_length = 1, max_length = 500, pattern = r"^[^\u0000-\u001F\u007F-\u009F]*$")]
    pub reason: String,
}

/// Body of `PUT /api/v1/reporters/{name}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReporterRequest {
    /// The products that it is subscribed to: all of them, those of before are replaced.
    #[schema(max_items = 100)]
    pub products: Vec<String>,
    /// Why, for the audit log. 1 to 500 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 500, pattern = r"^[^\u0000-\u001F\u007F-\u009F]*$")]
    pub reason: Option<String>,
}

/// Who reports, and on which products.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReporterView {
    /// The name, which is that of the token with which it reports.
    pub name: String,
    /// The products that it is subscribed to.
    pub products: Vec<String>,
    /// Who has said so.
    pub by: String,
}

/// The reporters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReporterList {
    /// By name.
    pub reporters: Vec<ReporterView>,
}

/// What awaits a reporter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Pending {
    /// Oldest first.
    pub requests: Vec<PendingRequest>,
}

/// A check that asks a reporter and has not heard from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PendingRequest {
    /// The release.
    pub release: String,
    /// Its pipeline.
    pub pipeline: String,
    /// What it is a version of.
    pub product: String,
    /// Whether that is deployed anew or changed.
    pub kind: ReleaseKind,
    /// The stage that it is in: name it in the report.
    pub stage: String,
    /// The step that asks.
    pub step: String,
    /// What the reporter is asked to do, in its own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// When silence ends as inconclusive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<String>,
    /// What the release consists of.
    pub services: BTreeMap<String, Artifact>,
    /// What is said of it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}
