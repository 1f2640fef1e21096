//! The files of pipelines: the examples, and the schema against what is taken.

use jsonschema::Validator;
use lockstep::model::pipeline::file::read;
use serde_json::Value;

const SCHEMA: &str = include_str!("../../docs/pipeline.schema.json");
const EXAMPLES: [&str; 3] = [
    include_str!("../../examples/brackets.yml"),
    include_str!("../../examples/kitchen.yml"),
    include_str!("../../examples/staged-rollout.yml"),
];

fn schema() -> Validator {
    jsonschema::validator_for(&serde_json::from_str(SCHEMA).expect("JSON")).expect("a schema")
}

fn valid(schema: &Validator, file: &str) -> bool {
    schema.is_valid(&serde_saphyr::from_str::<Value>(file).expect("YAML"))
}

#[test]
fn the_examples_are_pipelines() {
    let schema = schema();
    for file in EXAMPLES {
        let pipeline = read(file).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        assert!(pipeline.stages.len() >= 3 && valid(&schema, file), "{}", pipeline.name);
    }
}

/// What an editor says is what `apply` says, but for what a schema cannot say.
#[test]
fn the_schema_refuses_what_is_refused() {
    let schema = schema();
    for (example, from, to) in [
        (0, "pipeline: foo", "pipeline: a b"),
        (0, "product: foo", "colour: red"),
        (0, "{name: deploy_direct, deploy: direct}", "{name: deploy_direct, deploy: carefully}"),
        (0, "{name: deploy_direct, deploy: direct}", "{name: deploy_direct}"),
        (0, "{name: deploy_direct, deploy: direct}", "{deploy: direct}"),
        (0, "{name: deploy_direct, deploy: direct}", "{name: x, deploy: direct, run: a}"),
        (0, "{name: deploy_direct, deploy: direct}", "{name: x, deploy: direct, count: 1}"),
        (0, "{name: deploy_direct, deploy: direct}", "{name: x, deploy: canary}"),
        (0, "{name: deploy_direct, deploy: direct}", "{name: x, deploy: canary, shares: [100]}"),
        (0, "{name: deploy_direct, deploy: direct}", "{name: rollback, deploy: direct}"),
        (0, "promote: auto", "promote: perhaps"),
        (0, "entry: true", "entry: perhaps"),
        (1, "check: [vendor-ci]", "check: []"),
        (1, "check: [vendor-ci]", "check: everybody"),
        (1, "deadline: 2d", "deadline: soon"),
        (1, "approval: [sysadmins]", "approval: []"),
        (2, "soak: 7d", "soak: a while"),
        (2, "shown_as: Certified", "shown_as: ''"),
        (2, "metadata: [release_notes, ", "metadata: [a, a, "),
    ] {
        let file = EXAMPLES[example].replacen(from, to, 1);
        assert_ne!(file, EXAMPLES[example], "{from}");
        assert!(read(&file).is_err() && !valid(&schema, &file), "{to}");
    }
    for (example, from, to) in [
        (0, "{name: deploy_direct, deploy: direct}", "{name: x, deploy: canary, shares: [5, 50], on_failure: team}"),
        (1, "approval: [sysadmins]", "approval: [sysadmins, others], count: 2"),
        (1, "check: [vendor-ci], deadline: 2d", "check: [vendor-ci]"),
    ] {
        let file = EXAMPLES[example].replacen(from, to, 1);
        assert!(read(&file).is_ok() && valid(&schema, &file), "{to}");
    }
}
