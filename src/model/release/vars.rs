//! What a job of a release is told: the variable `lockstep_release` of its playbook. `ansible/README.md` describes it.

use serde_json::{Map, Value, json};

use super::{Artifact, Deployment, Operation, Release, Visit};
use crate::model::ids::{DeploymentId, Inventory, Word};
use crate::model::pipeline::{Pipeline, Strategy};

/// The name of the variable; names that begin so cannot be set by requests.
const VARIABLE: &str = "lockstep_release";

/// What is said to every job of a step: what the release is, and what jobs before it in the stage have set.
pub(super) fn common(
    pipeline: &Pipeline,
    release: &Release,
    visit: &Visit,
    step: &Word,
    operation: Operation,
    inventory_of: impl Fn(&DeploymentId) -> Option<Inventory>,
) -> Map<String, Value> {
    let services: Map<String, Value> = release
        .services
        .iter()
        .map(|(name, artifact)| {
            let app = pipeline.services.get(name).and_then(|service| service.apps.get(&visit.stage));
            let mut it = json!(artifact);
            if let Some(app) = app {
                it["app"] = json!(app);
                it["inventory"] = json!(inventory_of(app));
            }
            (name.to_string(), it)
        })
        .collect();
    let all = json!({
        "id": release.id,
        "pipeline": release.pipeline,
        "stage": visit.stage,
        "step": step,
        "operation": operation,
        "services": services,
        "outputs": visit.outputs,
    });
    match all {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// What is said besides to the job that deploys a service or undoes that.
pub(super) fn of_service(
    mut all: Map<String, Value>,
    name: &Word,
    artifact: &Artifact,
    deployment: &Deployment,
    strategy: &Strategy,
    turn: usize,
) -> Map<String, Value> {
    all.insert("service".into(), json!(name));
    all.insert("strategy".into(), strategy.word().into());
    if let Strategy::Canary { shares, .. } = strategy {
        all.insert("share".into(), shares.get(turn).copied().unwrap_or(100).into());
    }
    if let Value::Object(artifact) = json!(artifact) {
        all.extend(artifact);
    }
    all.insert("previous".into(), json!(deployment.previous.as_ref().map(|there| &there.artifact)));
    all
}

/// The variables of a job.
pub(super) fn variables(all: Map<String, Value>) -> Map<String, Value> {
    Map::from_iter([(VARIABLE.to_owned(), Value::Object(all))])
}
