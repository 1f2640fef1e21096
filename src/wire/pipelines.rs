//! Pipelines.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One version of a pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PipelineView {
    /// Its name.
    pub name: String,
    /// Which version, counted from 1. A release keeps the one that it started with.
    pub version: u64,
    /// The product that its releases are versions of.
    pub product: String,
    /// The names of its stages, in order.
    pub stages: Vec<String>,
    /// Who has recorded it.
    pub by: String,
    /// When.
    pub made_at: String,
    /// The file as it was written.
    pub file: String,
}

/// Answer to `PUT /api/v1/pipelines/{name}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PipelineSet {
    /// Its name.
    pub name: String,
    /// Its newest version.
    pub version: u64,
    /// Whether that is new; otherwise it says what the file says already.
    pub new: bool,
    /// What is no mistake and perhaps not meant, such as an app that the feed does not list.
    pub warnings: Vec<String>,
}

/// A pipeline in the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PipelineEntry {
    /// Its name.
    pub name: String,
    /// Its newest version.
    pub version: u64,
}

/// The pipelines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PipelineList {
    /// By name.
    pub pipelines: Vec<PipelineEntry>,
}
