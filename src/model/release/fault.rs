//! What a release may consist of and where it may begin, by its pipeline.

use std::collections::{BTreeMap, BTreeSet};

use super::{Artifact, METADATA_MAX, listed};
use crate::model::ids::Word;
use crate::model::pipeline::Pipeline;

/// Why a release cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It consists of nothing.
    #[error("a release consists of at least one service: name it with its version")]
    Nothing,
    /// The pipeline has no such service.
    #[error("the pipeline {pipeline} has no service {service}; it has {known}")]
    UnknownService {
        /// The pipeline.
        pipeline: Word,
        /// The service.
        service: Word,
        /// Those that there are.
        known: String,
    },
    /// Something is wrong with an artifact.
    #[error("service {service}: {what}")]
    Artifact {
        /// The service.
        service: Word,
        /// What.
        what: &'static str,
    },
    /// Metadata that the pipeline requires is missing.
    #[error("the pipeline {pipeline} requires metadata that is missing or empty: {missing}")]
    Metadata {
        /// The pipeline.
        pipeline: Word,
        /// What, as a list.
        missing: String,
    },
    /// There is too much metadata.
    #[error("metadata may have {} bytes each and {} in all; give links to what is longer", METADATA_MAX.0, METADATA_MAX.1)]
    TooMuchMetadata,
    /// The pipeline has no such stage.
    #[error("the pipeline {pipeline} has no stage {stage}; it has {known}")]
    UnknownStage {
        /// The pipeline.
        pipeline: Word,
        /// The stage.
        stage: Word,
        /// Those that there are.
        known: String,
    },
    /// A release does not begin in this stage.
    #[error("a release does not begin in the stage {stage}; the pipeline allows {known}")]
    NoEntry {
        /// The stage.
        stage: Word,
        /// Where it may.
        known: String,
    },
}

/// Checks what a release is to consist of and where it is to begin. Returns the stage that it enters.
///
/// # Errors
/// The first thing that is wrong.
pub fn fault(
    pipeline: &Pipeline,
    services: &BTreeMap<Word, Artifact>,
    metadata: &BTreeMap<Word, String>,
    stage: Option<&Word>,
) -> Result<Word, Fault> {
    if services.is_empty() {
        return Err(Fault::Nothing);
    }
    for (service, artifact) in services {
        if !pipeline.services.contains_key(service) {
            let known = listed(pipeline.services.keys());
            return Err(Fault::UnknownService { pipeline: pipeline.name.clone(), service: service.clone(), known });
        } else if let Some(what) = artifact.fault() {
            return Err(Fault::Artifact { service: service.clone(), what });
        }
    }
    let given: BTreeSet<&Word> =
        metadata.iter().filter(|(_, text)| !text.trim().is_empty()).map(|(name, _)| name).collect();
    let missing: Vec<&Word> = pipeline.metadata.iter().filter(|name| !given.contains(name)).collect();
    if !missing.is_empty() {
        return Err(Fault::Metadata { pipeline: pipeline.name.clone(), missing: listed(missing) });
    }
    let all: usize = metadata.iter().map(|(name, text)| name.as_str().len() + text.len()).sum();
    if all > METADATA_MAX.1 || metadata.values().any(|text| text.len() > METADATA_MAX.0) {
        return Err(Fault::TooMuchMetadata);
    }
    let entries = || pipeline.stages.iter().enumerate().filter(|(place, stage)| *place == 0 || stage.entry);
    match stage {
        None => Ok(pipeline.stages[0].name.clone()),
        Some(name) => match pipeline.stage(name) {
            None => {
                let known = listed(pipeline.stages.iter().map(|stage| &stage.name));
                Err(Fault::UnknownStage { pipeline: pipeline.name.clone(), stage: name.clone(), known })
            }
            Some(_) if !entries().any(|(_, stage)| stage.name == *name) => {
                Err(Fault::NoEntry { stage: name.clone(), known: listed(entries().map(|(_, stage)| &stage.name)) })
            }
            Some(_) => Ok(name.clone()),
        },
    }
}
