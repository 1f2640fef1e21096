//! Pipelines: recorded in versions, shown, refused with all that is wrong.

use super::*;

const FOO: &str = "\
pipeline: foo
product: foo
services:
  backend: {dev: one}
stages:
  - stage: dev
    steps:
      - {name: deploy, deploy: direct}
      - {name: tests, run: nobody}
";

impl Service {
    async fn apply(&self, name: &str, file: &str) -> Answer {
        let ask = Ask::new("PUT", &format!("/api/v1/pipelines/{name}?reason=why")).token(OPERATOR);
        self.call(ask.body(file.to_owned()).header("content-type", "application/yaml")).await
    }
}

#[tokio::test]
async fn a_pipeline_is_recorded_in_versions_that_stay() {
    let service = Service::start().await;
    let set = service.apply("foo", FOO).await;
    assert_eq!(set.status, StatusCode::OK, "{set:?}");
    assert_eq!(
        set.json(),
        json!({"name": "foo", "version": 1, "new": true, "warnings": ["the feed lists no app nobody"]})
    );
    // What says the same is the same version, however it is written.
    let same = service.apply("foo", &format!("# as before\n{FOO}")).await.json();
    assert_eq!((&same["version"], &same["new"]), (&json!(1), &json!(false)));
    let other = FOO.replace("run: nobody", "run: two");
    let set = service.apply("foo", &other).await.json();
    assert_eq!((&set["version"], &set["new"], &set["warnings"]), (&json!(2), &json!(true), &json!([])));
    let shown = async |query: &str| {
        let answer = service.call(Ask::get(&format!("/api/v1/pipelines/foo{query}")).token(OPERATOR)).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        answer.json()
    };
    let newest = shown("").await;
    assert_eq!(
        (&newest["version"], &newest["file"], &newest["by"], &newest["stages"]),
        (&json!(2), &json!(other), &json!("ada"), &json!(["dev"]))
    );
    assert_eq!(shown("?version=1").await["file"], FOO);
    let list = service.call(Ask::get("/api/v1/pipelines").token(OPERATOR)).await.json();
    assert_eq!(list, json!({"pipelines": [{"name": "foo", "version": 2}]}));
    for path in ["/api/v1/pipelines/foo?version=3", "/api/v1/pipelines/bar"] {
        assert_eq!(service.call(Ask::get(path).token(OPERATOR)).await.problem(), is(404, "unknown-pipeline"), "{path}");
    }
    let audit = service.call(Ask::get("/api/v1/audit?limit=1").token(OPERATOR)).await.json();
    assert_eq!((&audit["lines"][0]["what"], &audit["lines"][0]["reason"]), (&json!("set-pipeline"), &json!("why")));
    service.stop().await;
}

#[tokio::test]
async fn what_is_wrong_with_a_pipeline_is_told_and_changes_nothing() {
    let service = Service::start().await;
    let file = FOO.replace("deploy: direct", "deploy: carefully").replace("run: nobody", "soak: soon");
    let answer = service.apply("foo", &file).await;
    assert_eq!(answer.problem(), is(422, "invalid-pipeline"));
    for part in ["line 8", "deploy must be direct", "line 9", "soak must be a time"] {
        assert!(answer.text().contains(part), "{part}: {answer:?}");
    }
    for file in ["", "a: [", "[1, 2]", "\u{1b}[2J", &"[".repeat(10_000)] {
        let answer = service.apply("foo", file).await;
        assert_eq!(answer.problem(), is(422, "invalid-pipeline"), "{file:.20}");
        assert!(!answer.text().contains('\u{1b}'));
    }
    assert_eq!(service.apply("bar", FOO).await.problem(), is(422, "invalid"));
    let bytes = Ask::new("PUT", "/api/v1/pipelines/foo").token(OPERATOR).body(vec![0xff, 0xfe]);
    assert_eq!(service.call(bytes).await.problem(), is(422, "invalid"));
    let large = service.apply("foo", &"x".repeat(2 << 20)).await;
    assert_eq!(large.problem(), is(413, "too-large"));
    let list = service.call(Ask::get("/api/v1/pipelines").token(OPERATOR)).await.json();
    assert_eq!(list, json!({"pipelines": []}));
    assert_eq!(service.call(Ask::get("/api/v1/pipelines").app("one")).await.problem(), is(403, "forbidden"));
    service.stop().await;
}
