//! Releases over HTTP: who may do what, and that what is wrong is said and changes nothing.

use super::*;

const FOO: &str = "\
pipeline: foo
product: foo
services:
  backend: {hardening: one}
metadata: [release_notes, changelog]
stages:
  - stage: vendor
    shown_as: With the vendor
    steps:
      - {name: validation, check: [ci-a, ci-b], deadline: 1h, action: Validate}
    promote: auto
  - stage: certification
    entry: true
    assign: sysadmins
    steps:
      - {name: certified, approval: [sysadmins]}
    promote: manual
  - stage: hardening
    shown_as: Rolling-out
    ready_to_deploy: true
    steps:
      - {name: deploy, deploy: direct}
";

/// Tokens of those who take part.
struct Cast {
    service: Service,
    manager: String,
    ci_a: String,
    ci_b: String,
    sysadmin: String,
}

impl Cast {
    async fn start() -> Self {
        let service = Service::start().await;
        let ask = Ask::new("PUT", "/api/v1/pipelines/foo").token(OPERATOR).body(FOO);
        assert_eq!(service.call(ask).await.status, StatusCode::OK);
        let manager = service.issue("tim", json!({"role": "releaser", "groups": ["sysadmins"]})).await;
        let ci_a = service.issue("ci-a", json!({"role": "reporter"})).await;
        let ci_b = service.issue("ci-b", json!({"role": "reporter"})).await;
        let sysadmin = service.issue("grace", json!({"role": "viewer", "groups": ["sysadmins"]})).await;
        Self { service, manager, ci_a, ci_b, sysadmin }
    }

    async fn post(&self, token: &str, path: &str, body: &Value) -> Answer {
        self.service.call(Ask::post(path).token(token).json(body)).await
    }

    async fn get(&self, token: &str, path: &str) -> Answer {
        self.service.call(Ask::get(path).token(token)).await
    }

    /// Makes a release; its path.
    async fn create(&self, more: &Value) -> String {
        let mut body = json!({
            "pipeline": "foo", "services": {"backend": "1.0"}, "metadata": {"release_notes": "new", "changelog": "all"},
        });
        for (name, value) in more.as_object().expect("an object") {
            body[name] = value.clone();
        }
        let made = self.post(&self.manager, "/api/v1/releases", &body).await;
        assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
        made.header("location").to_owned()
    }

    async fn state(&self, path: &str) -> String {
        self.get(OPERATOR, path).await.json()["state"].as_str().expect("a state").to_owned()
    }
}

#[tokio::test]
async fn a_release_goes_from_its_submitter_over_reporters_and_approvers_to_its_decision() {
    let cast = Cast::start().await;
    let path = cast.create(&json!({})).await;
    // Reporters pull what awaits them, each its own.
    let pending = cast.get(&cast.ci_a, "/api/v1/reporters/ci-a/pending?wait=5").await.json();
    let request = &pending["requests"][0];
    assert_eq!(
        (&request["stage"], &request["step"], &request["action"]),
        (&json!("vendor"), &json!("validation"), &json!("Validate")),
        "{pending}"
    );
    assert_eq!(cast.get(&cast.ci_a, "/api/v1/reporters/ci-b/pending").await.status, StatusCode::FORBIDDEN);
    let report =
        json!({"stage": "vendor", "result": "pass", "link": "https://ci.example.org/1", "log": "all is well\n"});
    assert_eq!(cast.post(&cast.ci_a, &format!("{path}/reports"), &report).await.status, StatusCode::OK);
    assert_eq!(cast.get(&cast.ci_a, "/api/v1/reporters/ci-a/pending").await.json(), json!({"requests": []}));
    // What one reports is not another's to read; people see all, with the log.
    let seen = cast.get(&cast.ci_b, &path).await;
    assert!(!seen.text().contains("ci-a") && !seen.text().contains("ci.example.org"), "{seen:?}");
    let shown = cast.get(OPERATOR, &path).await.json();
    let of_a = &shown["stages"][0]["steps"][0]["reports"]["ci-a"];
    assert_eq!((&of_a["result"], &of_a["link"]), (&json!("pass"), &json!("https://ci.example.org/1")), "{shown}");
    let log = format!("{path}/logs/{}", of_a["log"].as_str().expect("a digest"));
    assert_eq!(cast.get(OPERATOR, &log).await.text(), "all is well\n");
    assert_eq!(cast.get(&cast.ci_a, &log).await.text(), "all is well\n");
    assert_eq!(cast.get(&cast.ci_b, &log).await.problem(), is(404, "unknown-log"));
    let warning = json!({"stage": "vendor", "result": "warning", "comment": "slow"});
    assert_eq!(cast.post(&cast.ci_b, &format!("{path}/reports"), &warning).await.status, StatusCode::OK);
    let shown = cast.get(OPERATOR, &path).await.json();
    assert_eq!((&shown["stage"], &shown["assigned"]), (&json!("certification"), &json!("sysadmins")));
    assert_eq!((&shown["waits_for"], &shown["waits_for_whom"]), (&json!("1 approval"), &json!(["sysadmins"])));
    // Not by the submitter, though of the group.
    let own = cast.post(&cast.manager, &format!("{path}/approvals"), &json!({})).await;
    assert_eq!(own.status, StatusCode::FORBIDDEN, "{own:?}");
    let approved = cast.post(&cast.sysadmin, &format!("{path}/approvals"), &json!({"reason": "seen"})).await;
    assert_eq!(approved.status, StatusCode::OK, "{approved:?}");
    assert_eq!(cast.state(&path).await, "ready");
    let wrong = cast.post(&cast.manager, &format!("{path}/promote"), &json!({"to": "vendor"})).await;
    assert_eq!(wrong.problem(), is(409, "release-refused"));
    assert_eq!(cast.post(&cast.manager, &format!("{path}/promote"), &json!({})).await.status, StatusCode::OK);
    let ready = cast.get(OPERATOR, "/api/v1/catalogue?ready=true").await.json();
    assert_eq!(ready["products"][0]["versions"][0]["services"]["backend"]["version"], "1.0", "{ready}");
    assert_eq!(ready["products"][0]["versions"][0]["shown_as"], "Rolling-out");
    cast.service.engine.running("i-one").await;
    cast.service.engine.end("i-one", 0);
    eventually("it waits for its decision", async || (cast.state(&path).await == "undecided").then_some(())).await;
    let decision = json!({"decision": "accepted_with_warnings", "reason": "slow"});
    assert_eq!(cast.post(&cast.manager, &format!("{path}/decision"), &decision).await.status, StatusCode::OK);
    assert_eq!(cast.state(&path).await, "decided");
    // Its history is complete from its events, whose subject it is.
    let events = cast.get(OPERATOR, &format!("{path}/events?limit=1000")).await.json();
    let events = events.as_array().expect("a list");
    let id = path.rsplit('/').next().expect("an id");
    assert!(events.iter().all(|event| event["subject"] == id && event["specversion"] == "1.0"), "{events:?}");
    let told: Vec<_> =
        events.iter().map(|event| event["data"]["customData"]["event"].as_str().expect("a word")).collect();
    assert_eq!(told.first(), Some(&"configuration-change.triggered"));
    assert_eq!(told.last(), Some(&"accepted_with_warnings"));
    assert_eq!(told.iter().filter(|word| **word == "validation.reported").count(), 2, "{told:?}");
    let audit = cast.get(OPERATOR, "/api/v1/audit?limit=1").await.json();
    assert_eq!((&audit["lines"][0]["by"], &audit["lines"][0]["reason"]), (&json!("tim"), &json!("slow")));
    cast.service.stop().await;
}

#[tokio::test]
async fn what_is_wrong_is_said_and_changes_nothing() {
    let cast = Cast::start().await;
    let complete = json!({"release_notes": "new", "changelog": "all"});
    for (body, status, word, says) in [
        (json!({"pipeline": "bar", "services": {"backend": "1"}}), 404, "unknown-pipeline", "pipelines"),
        (
            json!({"pipeline": "foo", "services": {}, "metadata": complete}),
            422,
            "invalid-release",
            "at least one service",
        ),
        (
            json!({"pipeline": "foo", "services": {"nobody": "1"}, "metadata": complete}),
            422,
            "invalid-release",
            "no service nobody",
        ),
        (json!({"pipeline": "foo", "services": {"backend": "1"}}), 422, "invalid-release", "changelog, release_notes"),
        (
            json!({"pipeline": "foo", "services": {"backend": "1"}, "metadata": complete, "stage": "nowhere"}),
            422,
            "invalid-release",
            "no stage nowhere",
        ),
        (
            json!({"pipeline": "foo", "services": {"backend": "1"}, "metadata": complete, "stage": "hardening"}),
            422,
            "invalid-release",
            "vendor, certification",
        ),
        (
            json!({"pipeline": "foo", "services": {"backend": "1"}, "metadata": complete, "colour": "red"}),
            422,
            "invalid",
            "colour",
        ),
    ] {
        let refused = cast.post(&cast.manager, "/api/v1/releases", &body).await;
        assert_eq!(refused.problem(), is(status, word), "{body}");
        assert!(refused.json()["detail"].as_str().expect("a text").contains(says), "{refused:?}");
    }
    assert_eq!(cast.get(OPERATOR, "/api/v1/releases").await.json()["releases"], json!([]));
    let audit = cast.get(OPERATOR, "/api/v1/audit").await;
    assert!(audit.text().contains("set-pipeline") && !audit.text().contains("make-release"), "{audit:?}");
    let path = cast.create(&json!({})).await;
    let other = cast.create(&json!({"stage": "certification"})).await;
    let before = cast.get(OPERATOR, &path).await.json();
    let reports = format!("{path}/reports");
    let pass = |stage: &str| json!({"stage": stage, "result": "pass"});
    for (token, to, body, status, word) in [
        // Another stage; another release, which is in another stage; a stage that there is not.
        (&cast.ci_a, &reports, pass("certification"), 409, "release-refused"),
        (&cast.ci_a, &reports, pass("nowhere"), 409, "release-refused"),
        (&cast.ci_a, &reports, json!({"stage": "vendor"}), 422, "invalid"),
        (&cast.ci_a, &reports, json!({"stage": "vendor", "result": "splendid"}), 422, "invalid"),
        (&cast.sysadmin, &reports, pass("vendor"), 403, "forbidden"),
        (&cast.ci_a, &format!("{path}/approvals"), json!({}), 403, "forbidden"),
        (&cast.sysadmin, &format!("{path}/approvals"), json!({}), 409, "release-refused"),
        (&cast.sysadmin, &format!("{path}/promote"), json!({}), 403, "forbidden"),
        (&cast.manager, &format!("{path}/promote"), json!({}), 409, "release-refused"),
        (&cast.manager, &format!("{path}/decision"), json!({"decision": "accepted"}), 409, "release-refused"),
        (&cast.manager, &format!("{path}/reject"), json!({}), 422, "invalid"),
        (&cast.manager, &format!("{path}/rollback"), json!({"reason": "why"}), 409, "release-refused"),
        (&cast.manager, &format!("{path}/retry"), json!({}), 409, "release-refused"),
        (&cast.manager, &format!("{path}/lift"), json!({"reason": "why"}), 409, "release-refused"),
    ] {
        let refused = cast.post(token, to, &body).await;
        assert_eq!(refused.problem(), is(status, word), "{to} {body}");
    }
    // A stranger to this release: it is as unknown to it as a random one.
    let stranger = cast.service.issue("ci-x", json!({"role": "reporter"})).await;
    let random = "/api/v1/releases/01GZEC5GJHFKWMK4Z5A1NM9DPF";
    for path in [&path, &other, random] {
        assert_eq!(cast.get(&stranger, path).await.problem(), is(404, "unknown-release"), "{path}");
        let refused = cast.post(&stranger, &format!("{path}/reports"), &pass("vendor")).await;
        assert_eq!(refused.problem(), is(404, "unknown-release"), "{path}");
    }
    assert_eq!(cast.get(&stranger, "/api/v1/releases").await.json()["releases"], json!([]));
    // A log of 100 MB is refused before it has arrived, and one that is a little too long as well.
    let large = Ask::post(&reports)
        .token(&cast.ci_a)
        .header("content-type", "application/json")
        .header("content-length", "104857600");
    let large = large
        .body(Body::from_stream(futures::stream::iter((0..1600).map(|_| Ok::<_, std::io::Error>(vec![b'x'; 65536])))));
    assert_eq!(cast.service.call(large).await.problem().0, 413);
    let long = json!({"stage": "vendor", "result": "pass", "log": "x".repeat((1 << 20) + 1)});
    assert_eq!(cast.post(&cast.ci_a, &reports, &long).await.problem().0, 413);
    assert_eq!(cast.get(OPERATOR, &path).await.json(), before, "nothing was changed");
    // Twice: the same is as if once, another one is refused.
    assert_eq!(cast.post(&cast.ci_a, &reports, &pass("vendor")).await.status, StatusCode::OK);
    assert_eq!(cast.post(&cast.ci_a, &reports, &pass("vendor")).await.status, StatusCode::OK);
    let twice = cast.post(&cast.ci_a, &reports, &json!({"stage": "vendor", "result": "fail"})).await;
    assert_eq!(twice.problem(), is(409, "release-refused"));
    let rejected =
        cast.post(&cast.manager, &format!("{path}/reject"), &json!({"reason": "withdrawn by its author"})).await;
    assert_eq!(rejected.status, StatusCode::OK, "{rejected:?}");
    let late = cast.post(&cast.ci_b, &reports, &pass("vendor")).await;
    assert_eq!(late.problem(), is(409, "release-refused"));
    let shown = cast.get(OPERATOR, &path).await.json();
    assert_eq!(
        (&shown["decision"]["verdict"], &shown["decision"]["reason"]),
        (&json!("rejected"), &json!("withdrawn by its author"))
    );
    cast.service.stop().await;
}

#[tokio::test]
async fn roles_open_what_is_theirs_and_nothing_else() {
    let cast = Cast::start().await;
    let path = cast.create(&json!({})).await;
    for view in [
        "/api/v1/jobs",
        "/api/v1/apps",
        "/api/v1/locks",
        "/api/v1/events",
        "/api/v1/tokens",
        "/api/v1/webhooks",
        "/api/v1/audit",
        "/api/v1/pipelines",
        "/api/v1/reporters",
    ] {
        let refused = cast.get(&cast.ci_a, view).await;
        assert!([401, 403].contains(&refused.status.as_u16()), "{view}: {refused:?}");
    }
    for view in [
        "/api/v1/jobs",
        "/api/v1/releases",
        "/api/v1/pipelines",
        "/api/v1/reporters",
        "/api/v1/catalogue",
        "/api/v1/events",
        &path,
    ] {
        assert_eq!(cast.get(&cast.manager, view).await.status, StatusCode::OK, "{view}");
    }
    // Who moves releases does not move anything else.
    for ask in [
        Ask::new("PUT", "/api/v1/pipelines/foo").body(FOO),
        Ask::new("DELETE", "/api/v1/locks/i-one").json(&json!({"reason": "why"})),
        Ask::new("PUT", "/api/v1/freezes/i-one").json(&json!({"reason": "why"})),
        Ask::post("/api/v1/tokens").json(&json!({"name": "x", "role": "operator"})),
        Ask::post("/api/v1/apps/one/jobs"),
        Ask::new("PUT", "/api/v1/reporters/ci-a").json(&json!({"products": ["foo"]})),
    ] {
        let refused = cast.service.call(ask.token(&cast.manager)).await;
        assert_eq!(refused.status, StatusCode::FORBIDDEN, "{refused:?}");
    }
    let app = cast.service.call(Ask::get("/api/v1/releases").app("one")).await;
    assert_eq!(app.status, StatusCode::FORBIDDEN);
    // Who has the wrong token is told which one it takes.
    let making = cast.service.call(Ask::post("/api/v1/releases").app("one").json(&json!({}))).await;
    assert_eq!(making.json()["detail"], "This needs the token of a releaser or an operator.");
    let report = json!({"stage": "vendor", "result": "pass"});
    let reporting = cast.post(&cast.manager, &format!("{path}/reports"), &report).await;
    let detail = reporting.json()["detail"].as_str().expect("a text").to_owned();
    assert!(detail.starts_with("This needs the token of the reporter"), "{detail}");
    // An app's events are its own: none of releases.
    let events = cast.service.call(Ask::get("/api/v1/events").app("one")).await.json();
    assert_eq!(events, json!([]));
    cast.service.stop().await;
}

#[tokio::test]
async fn a_customer_sees_the_products_that_it_is_subscribed_to() {
    let cast = Cast::start().await;
    let customer = cast.service.issue("customer", json!({"role": "reporter"})).await;
    let path = cast.create(&json!({})).await;
    assert_eq!(cast.get(&customer, &path).await.problem(), is(404, "unknown-release"));
    let set = Ask::new("PUT", "/api/v1/reporters/customer")
        .token(OPERATOR)
        .json(&json!({"products": ["foo"], "reason": "why"}));
    assert_eq!(cast.service.call(set).await.status, StatusCode::OK);
    assert_eq!(cast.get(&customer, &path).await.status, StatusCode::OK);
    let catalogue = cast.get(&customer, "/api/v1/catalogue").await.json();
    assert_eq!(catalogue["products"][0]["product"], "foo", "{catalogue}");
    let none = cast.get(&customer, "/api/v1/catalogue?product=bar").await.json();
    assert_eq!(none, json!({"products": []}));
    let gone = cast.service.call(Ask::new("DELETE", "/api/v1/reporters/customer?reason=why").token(OPERATOR)).await;
    assert!(gone.status.is_success(), "{gone:?}");
    assert_eq!(cast.get(&customer, &path).await.problem(), is(404, "unknown-release"));
    cast.service.stop().await;
}
