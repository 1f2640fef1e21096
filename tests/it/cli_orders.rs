//! The client's commands about orders and environments, against a dispatcher that fails; and once against the service itself.

use serde_json::{Value, json};

use super::support::faulty::{Fault, Faulty, Kind, ORDER, problem_body};
use super::support::service::{OPERATOR_TOKEN, Service};

const FILE: &str = r#"action: update
environment_id: "3"
api:
  domains: [api.lab.example]
  services:
    - {id: "6", path: /core, repository: {url: 'https://git.example/6.git'}, type: node}
    - {id: "7", path: /, repository: {url: 'https://git.example/7.git'}, type: static}
"#;

const ENVIRONMENT: &str =
    "environment: \"3\"\nmodes:\n  m:\n    hosts: [{name: a, address: a, user: u, memory: 64}]\n    proxy: {host: a}\n";

async fn run(faulty: &Faulty, arguments: &[&str]) -> (i32, String, String) {
    let output = faulty.command(arguments).env("LOCKSTEP_TOKEN", "a token").output().await.expect("the client runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code().expect("an exit code"), text(output.stdout), text(output.stderr))
}

fn write(faulty: &Faulty, name: &str, text: &str) {
    std::fs::write(faulty.certificate().with_file_name(name), text).expect("written");
}

fn answers(faulty: &Faulty, answers: &[(&str, u16, Value)]) {
    faulty.change(|world| {
        for (call, status, body) in answers {
            world.answers.insert((*call).to_owned(), (*status, body.clone()));
        }
    });
}

fn plan(problems: &[&str]) -> Value {
    let services: Vec<Value> =
        ["6", "7"].iter().map(|id| json!({"id": id, "change": "create", "host": "host-a"})).collect();
    json!({
        "environment": "3", "mode": "production", "action": "update", "services": services,
        "domains": {"add": ["api.lab.example"], "remove": []}, "routes": {"add": [], "remove": []}, "generate": [],
        "problems": problems, "unchecked": [],
    })
}

/// The order in a revision; of its tasks, those that are named have that state and these jobs.
fn order(revision: u64, state: &str, of: &[(&str, &str, Value)], more: Value) -> Value {
    let tasks: Vec<Value> = ["domains", "resources", "variables", "services", "routes"]
        .into_iter()
        .map(|task| match of.iter().find(|(name, _, _)| *name == task) {
            Some((_, state, jobs)) => json!({"task": task, "state": state, "jobs": jobs}),
            None => json!({"task": task, "state": "waiting", "jobs": []}),
        })
        .collect();
    let mut order = json!({
        "id": ORDER, "environment": "3", "number": 7, "mode": "production", "action": "update", "state": state,
        "services": 2, "services_done": 0, "by": "ada", "created_at": "2026-11-28T15:00:00.123Z", "revision": revision,
        "attempt": 1, "tasks": tasks, "commits": {}, "failed": [],
    });
    order.as_object_mut().expect("an object").extend(more.as_object().cloned().expect("an object"));
    order
}

fn whole(outcome: Option<&str>) -> Value {
    json!([{"job_id": "01GZEC5GJHFKWMK4Z5A1NM9DP1", "operation": "configure", "outcome": outcome, "attempt": 1}])
}

fn services(six: Option<&str>, seven: Option<&str>) -> Value {
    json!([
        {"job_id": "01GZEC5GJHFKWMK4Z5A1NM9DP6", "service": "6", "host": "host-a", "operation": "deploy", "outcome": six, "attempt": 1},
        {"job_id": "01GZEC5GJHFKWMK4Z5A1NM9DP7", "service": "7", "host": "host-a", "operation": "deploy", "outcome": seven, "attempt": 1},
    ])
}

/// The way of an order in which service 6 comes to an outcome.
fn way(state: &str, six: &str, more: Value) -> Vec<Value> {
    let first = || ("domains", "done", whole(Some("succeeded")));
    let nothing = |task| (task, "done", json!([]));
    let good = six == "succeeded";
    let done = if good { "done" } else { "failed" };
    let mut last = more;
    last["services_done"] = json!(if good { 2 } else { 1 });
    last["failed"] = if good { json!([]) } else { json!(["6"]) };
    vec![
        order(1, "queued", &[], json!({})),
        order(2, "running", &[("domains", "running", whole(None))], json!({"task": 1})),
        order(3, "running", &[first(), ("resources", "running", whole(None))], json!({"task": 2})),
        order(
            4,
            "running",
            &[
                first(),
                nothing("resources"),
                nothing("variables"),
                ("services", "running", services(None, Some("succeeded"))),
            ],
            json!({"task": 4, "services_done": 1}),
        ),
        order(
            5,
            state,
            &[
                first(),
                nothing("resources"),
                nothing("variables"),
                ("services", done, services(Some(six), Some("succeeded"))),
                ("routes", "done", json!([])),
            ],
            last,
        ),
    ]
}

#[tokio::test]
async fn an_order_is_given_once_and_followed_across_trouble() {
    let faulty = Faulty::start().await;
    write(&faulty, "order.yml", FILE);
    for (state, six, code) in [
        ("succeeded", "succeeded", 0),
        ("incomplete", "failed", 1),
        ("failed", "lost", 1),
        ("canceled", "canceled", 1),
        ("superseded", "succeeded", 5),
    ] {
        faulty.reset([
            (Kind::Other, Fault::Problem(503, "unavailable", Some(0))),
            (Kind::Give, Fault::Hangup),
            (Kind::Give, Fault::AnswerLost),
            (Kind::Give, Fault::Cut(20)),
            (Kind::Order, Fault::Hangup),
            (Kind::Order, Fault::Cut(20)),
            (Kind::Order, Fault::Page(502)),
            (Kind::Order, Fault::Problem(404, "unknown-order", None)),
        ]);
        faulty.change(|world| world.order = way(state, six, json!({"reason": "so it ended"})));
        let given = order(1, "queued", &[], json!({}));
        answers(&faulty, &[("POST /api/v1/orders/plan", 200, plan(&[])), ("POST /api/v1/orders", 202, given)]);
        let (got, out, err) = run(&faulty, &["order", "apply", "order.yml", "--mode", "production"]).await;
        assert_eq!(got, code, "{state}: {out}{err}");
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!(lines[0], "plan for environment 3 (production), update: 2 to create");
        for line in [
            "order 3/7 for environment 3 (production): queued",
            "task 1 of 5 domains …",
            "task 1 of 5 domains: done",
            "task 2 of 5 resources …",
            "task 2 of 5 resources: nothing to do",
            "task 4 of 5 services …",
            "service 1 of 2: 7 on host-a: deployed",
        ] {
            assert_eq!(lines.iter().filter(|it| **it == line).count(), 1, "{line}: {out}");
        }
        let end = format!("order 3/7 for environment 3 (production): {state}: so it ended");
        assert!(lines.contains(&end.as_str()), "{out}");
        let says_why = lines.contains(&"  its output: lockstep logs 01GZEC5GJHFKWMK4Z5A1NM9DP6");
        assert_eq!(says_why, six != "succeeded", "{out}");
        let world = faulty.world();
        let posts = |path: &str| -> Vec<(&String, &Value)> {
            let calls = world.calls.iter().zip(&world.keys);
            calls.filter(|((_, call, _), _)| call == path).map(|((_, _, body), key)| (key, body)).collect()
        };
        let given = posts("POST /api/v1/orders?mode=production");
        assert!(given.len() == 4 && given.iter().all(|it| *it == given[0]), "{given:?}");
        assert!(given[0].0.len() >= 16 && given[0].1 == FILE, "{given:?}");
        assert_eq!(posts("POST /api/v1/orders/plan?mode=production").len(), 2);
    }
}

#[tokio::test]
async fn what_cannot_be_carried_out_is_not_given() {
    let faulty = Faulty::start().await;
    write(&faulty, "order.yml", FILE);
    write(&faulty, "wrong.yml", &FILE.replace("type: node", "type: php").replace("/core", "core"));
    write(&faulty, "wrong2.yml", &FILE.replace("/core", "core").replace("https://git.example/7", "git.example/7"));
    // A mistake of form comes alone.
    let (code, _, err) = run(&faulty, &["order", "apply", "wrong.yml", "--mode", "production"]).await;
    assert!(code == 2 && err.contains("\n  wrong.yml:6:"), "{err}");
    let (code, _, err) = run(&faulty, &["order", "plan", "wrong2.yml", "--mode", "production"]).await;
    assert!(
        code == 2
            && err.contains("\n  wrong2.yml:6:23: path ")
            && err.contains("\n  wrong2.yml:7:")
            && err.contains(": url must begin with "),
        "{err}"
    );
    assert_eq!(faulty.world().calls.len(), 0);

    answers(&faulty, &[("POST /api/v1/orders/plan", 200, plan(&["no host has room for service 7"]))]);
    for arguments in [
        ["order", "plan", "order.yml", "--mode", "production"].as_slice(),
        ["order", "apply", "order.yml", "--mode", "production"].as_slice(),
    ] {
        let (code, out, err) = run(&faulty, arguments).await;
        assert!(code == 3 && out.ends_with("it cannot be carried out: no host has room for service 7\n"), "{out}{err}");
    }
    let (code, out, err) = run(&faulty, &["order", "apply", "order.yml", "--mode", "production", "--json"]).await;
    assert!(code == 3 && out.is_empty() && err.contains("no host has room for service 7"), "{out}{err}");
    assert!(faulty.world().calls.iter().all(|(_, call, _)| call.starts_with("POST /api/v1/orders/plan?")));

    answers(&faulty, &[("POST /api/v1/orders/plan", 404, problem_body(404, "unknown-mode"))]);
    let (code, _, err) = run(&faulty, &["order", "apply", "order.yml", "--mode", "test"]).await;
    assert!(code == 2 && err.contains("detail of unknown-mode"), "{code} {err}");
    answers(
        &faulty,
        &[
            ("POST /api/v1/orders/plan", 200, plan(&[])),
            ("POST /api/v1/orders", 409, problem_body(409, "order-refused")),
        ],
    );
    let (code, _, err) = run(&faulty, &["order", "apply", "order.yml", "--mode", "production"]).await;
    assert!(code == 3 && err.contains("detail of order-refused"), "{code} {err}");
}

#[tokio::test]
async fn an_order_of_before_is_given_anew() {
    let faulty = Faulty::start().await;
    let before = order(9, "succeeded", &[], json!({"id": "3/1", "number": 1, "mode": "staging"}));
    answers(
        &faulty,
        &[
            ("GET /api/v1/orders/3/1", 200, before),
            ("GET /api/v1/orders/3/1/file", 200, json!("the file")),
            ("POST /api/v1/orders/plan", 200, plan(&[])),
            ("POST /api/v1/orders/3/1/again", 202, order(1, "queued", &[], json!({}))),
        ],
    );
    for (arguments, mode) in [
        (["--order", "3/1"].as_slice(), "staging"),
        (["--order=1", "--environment", "3", "--mode=production"].as_slice(), "production"),
    ] {
        faulty.change(|world| world.calls.clear());
        let arguments = [["order", "apply", "--detach"].as_slice(), arguments].concat();
        let (code, out, err) = run(&faulty, &arguments).await;
        assert_eq!((code, out.as_str()), (0, "3/7\n"), "{err}");
        let world = faulty.world();
        let last = world.calls.last().map(|(_, call, _)| call.clone());
        assert_eq!(last, Some(format!("POST /api/v1/orders/3/1/again?mode={mode}")));
        assert!(world.keys.last().is_some_and(|key| !key.is_empty()));
    }
    let (code, _, err) = run(&faulty, &["order", "apply", "--order", "1"]).await;
    assert!(code == 2 && err.contains("--order ENVIRONMENT/1"), "{err}");
}

#[tokio::test]
async fn who_goes_away_is_told_that_the_order_goes_on() {
    let faulty = Faulty::start().await;
    write(&faulty, "order.yml", FILE);
    let first = order(1, "queued", &[], json!({}));
    answers(&faulty, &[("POST /api/v1/orders/plan", 200, plan(&[])), ("POST /api/v1/orders", 202, first.clone())]);
    faulty.change(|world| world.order = vec![first]);
    for (signal, expected) in [("-INT", 130), ("-TERM", 143)] {
        let before = faulty.world().count(Kind::Order);
        let mut command = faulty.command(&["order", "apply", "order.yml", "--mode", "production"]);
        let running = command.env("LOCKSTEP_TOKEN", "a token").spawn().expect("it runs");
        faulty.asked(Kind::Order, before + 1).await;
        let pid = running.id().expect("it runs").to_string();
        let kill = tokio::process::Command::new("kill").args([signal, &pid]).status().await;
        assert!(kill.expect("kill runs").success());
        let output = running.wait_with_output().await.expect("it ends");
        assert_eq!(output.status.code(), Some(expected));
        insta::allow_duplicates! {
            insta::assert_snapshot!(String::from_utf8_lossy(&output.stderr), @r"
            lockstep: interrupted; order 3/7 goes on without this command
            lockstep: to follow it: lockstep order show 3/7 --follow
            lockstep: to end it:    lockstep order cancel 3/7
            ");
        }
    }
    // Nor does anything else than the order's own end make it green.
    faulty.reset([(Kind::Order, Fault::Problem(401, "unauthorized", None))]);
    let (code, _, err) = run(&faulty, &["order", "show", ORDER, "--follow"]).await;
    assert!(code == 3 && err.contains("lockstep order show 3/7 --follow"), "{code} {err}");
}

#[tokio::test]
async fn an_order_is_tried_again_and_ended_by_one_request() {
    let faulty = Faulty::start().await;
    faulty.change(|world| world.order = way("succeeded", "succeeded", json!({})));
    let retry = format!("POST /api/v1/orders/{ORDER}/retry");
    let cancel = format!("POST /api/v1/orders/{ORDER}/cancel");
    answers(
        &faulty,
        &[
            (&retry, 202, order(1, "queued", &[], json!({}))),
            (&cancel, 202, order(4, "canceling", &[], json!({"reason": "canceled by ada: no"}))),
        ],
    );
    let (code, out, err) = run(&faulty, &["order", "retry", ORDER, "--reason", "mended"]).await;
    assert!(code == 0 && out.ends_with("order 3/7 for environment 3 (production): succeeded\n"), "{out}{err}");
    assert_eq!(faulty.world().calls[0].2, json!({"reason": "mended"}));
    let (code, out, _) = run(&faulty, &["order", "retry", ORDER, "--detach"]).await;
    assert_eq!((code, out.as_str()), (0, "order 3/7 for environment 3 (production): queued\n"));
    let (code, out, _) = run(&faulty, &["order", "cancel", ORDER, "--reason", "no"]).await;
    let said = "order 3/7 for environment 3 (production): canceling: canceled by ada: no\n";
    assert_eq!((code, out.as_str()), (0, said));

    faulty.reset([(Kind::Other, Fault::AnswerLost)]);
    answers(&faulty, &[(&retry, 202, order(1, "queued", &[], json!({})))]);
    let (code, _, err) = run(&faulty, &["order", "retry", ORDER]).await;
    assert!(code == 6 && err.contains("may have been carried out"), "{code} {err}");
    assert_eq!(faulty.world().calls.len(), 1);
    answers(&faulty, &[(&retry, 409, problem_body(409, "order-refused"))]);
    let (code, _, err) = run(&faulty, &["order", "retry", ORDER]).await;
    assert!(code == 3 && err.contains("detail of order-refused"), "{code} {err}");
}

#[tokio::test]
async fn orders_and_environments_are_shown() {
    let faulty = Faulty::start().await;
    let last = way("incomplete", "failed", json!({})).pop().expect("a revision");
    faulty.change(|world| world.order = vec![last.clone()]);
    let environment = json!({
        "id": "3", "modes": {}, "newest_order": 7, "file": "", "by": "ada", "made_at": "2026-11-28T15:00:00.123Z",
    });
    answers(
        &faulty,
        &[
            ("GET /api/v1/orders", 200, json!({"orders": [last.clone()]})),
            ("PUT /api/v1/environments/3", 200, json!({"id": "3", "new": true})),
            ("GET /api/v1/environments/3", 200, environment),
            ("GET /api/v1/environments", 200, json!({"environments": ["3", "lab"]})),
        ],
    );
    let (code, out, _) = run(&faulty, &["order", "show", ORDER]).await;
    assert!(code == 0 && out.starts_with("order        3/7\n"), "{out}");
    // The whole order as JSON, once it has ended; the exit code is that of its end.
    let (code, out, _) = run(&faulty, &["order", "show", ORDER, "--follow", "--json"]).await;
    assert_eq!((code, serde_json::from_str::<Value>(&out).expect("JSON")), (1, last));
    let (code, out, _) = run(&faulty, &["order", "list", "--environment", "3", "--limit", "5"]).await;
    assert!(code == 0 && out.lines().count() == 2, "{out}");
    assert!(faulty.world().calls.iter().any(|(_, call, _)| call == "GET /api/v1/orders?limit=5&environment=3"));

    write(&faulty, "environment.yml", ENVIRONMENT);
    let (code, out, err) = run(&faulty, &["environment", "add", "environment.yml", "--reason", "new"]).await;
    assert_eq!((code, out.as_str()), (0, "environment 3 is registered\n"), "{err}");
    assert!(faulty.world().calls.iter().any(|(_, call, _)| call == "PUT /api/v1/environments/3?reason=new"));
    let (code, out, err) = run(&faulty, &["environment", "show", "3"]).await;
    assert!(code == 0 && out.starts_with("environment   3\n"), "{out}{err}");
    let (code, out, _) = run(&faulty, &["environment", "list"]).await;
    assert_eq!((code, out.as_str()), (0, "3\nlab\n"));

    let calls = faulty.world().calls.len();
    write(&faulty, "order.yml", FILE);
    for (arguments, said) in [
        (["order", "validate", "order.yml"].as_slice(), "order.yml: good: update environment 3 to 2 services\n"),
        (["environment", "validate", "environment.yml"].as_slice(), "environment.yml: good: environment 3 with m\n"),
        (["order", "schema"].as_slice(), include_str!("../../docs/order.schema.json")),
        (["environment", "schema"].as_slice(), include_str!("../../docs/environment.schema.json")),
    ] {
        let (code, out, err) = run(&faulty, arguments).await;
        assert_eq!((code, out.as_str()), (0, said), "{err}");
    }
    assert_eq!(faulty.world().calls.len(), calls);
}

/// The service itself, with jobs that succeed and say nothing.
#[tokio::test(flavor = "multi_thread")]
async fn the_service_is_understood() {
    let actions = ["domains", "resources", "variables", "service", "routes"].map(|task| format!("order-{task}=true"));
    let service = Service::start(&[("LOCKSTEP_RUNNER_ACTIONS", &actions.join(";"))]).await;
    let file = FILE.replace("https://git.example", "file:///srv");
    for (name, text) in [
        ("environment.yml", ENVIRONMENT),
        ("order.yml", &file),
        ("nothing.yml", "action: remove\nenvironment_id: \"3\"\n"),
    ] {
        std::fs::write(service.folder.path().join(name), text).expect("written");
    }
    let run = async |arguments: &[&str]| {
        let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_lockstep"))
            .args(arguments)
            .current_dir(service.folder.path())
            .env_clear()
            .env("LOCKSTEP_URL", service.url(""))
            .env("LOCKSTEP_CA_CERT", service.certificate())
            .env("LOCKSTEP_TOKEN", OPERATOR_TOKEN)
            .env("CI", "true")
            .output();
        let output = output.await.expect("the client runs");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        (output.status.code().expect("an exit code"), text(output.stdout), text(output.stderr))
    };
    let (code, _, err) = run(&["order", "plan", "order.yml", "--mode", "m"]).await;
    assert!(code == 2 && err.contains("environment"), "{code} {err}");
    let (code, out, err) = run(&["environment", "add", "environment.yml", "--reason", "for tests"]).await;
    assert_eq!((code, out.as_str()), (0, "environment 3 is registered\n"), "{err}");
    let (code, out, err) = run(&["environment", "show", "3"]).await;
    assert!(code == 0 && out.contains("── m: proxy on a, port 8080"), "{out}{err}");
    let (code, out, err) = run(&["order", "plan", "order.yml", "--mode", "m"]).await;
    assert!(code == 3 && out.contains("no host has room for service 7"), "{out}{err}");
    let roomy = ENVIRONMENT.replace("memory: 64", "memory: 512");
    std::fs::write(service.folder.path().join("environment.yml"), roomy).expect("written");
    assert_eq!(run(&["environment", "add", "environment.yml"]).await.0, 0);
    let (code, out, err) = run(&["order", "plan", "order.yml", "--mode", "m"]).await;
    assert!(code == 0 && out.contains("not looked at yet: repository of service 6"), "{out}{err}");
    let (code, out, err) = run(&["order", "apply", "nothing.yml", "--mode", "m"]).await;
    assert!(code == 0 && out.ends_with("order 3/1 for environment 3 (m): succeeded after 0 s\n"), "{out}{err}");
    // Its first job does not say the commits.
    let (code, out, err) = run(&["order", "apply", "order.yml", "--mode", "m"]).await;
    assert!(code == 1 && out.contains("\ntask 1 of 5 domains …\n"), "{out}{err}");
    assert!(out.contains("order 3/2 for environment 3 (m): failed after "), "{out}{err}");
    let (code, _, err) = run(&["order", "retry", "3/2", "--reason", "once more"]).await;
    assert_eq!(code, 1, "{err}");
    let (code, out, err) = run(&["order", "show", "3/2", "--follow", "--json"]).await;
    let view: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, view["attempt"].as_u64()), (1, Some(2)), "{err}");
    let (code, out, err) = run(&["order", "show", "3/2", "--file"]).await;
    assert_eq!((code, out), (0, file), "{err}");
    let (code, out, err) = run(&["order", "apply", "--order", "1", "--environment", "3", "--detach"]).await;
    assert_eq!((code, out.as_str()), (0, "3/3\n"), "{err}");
    assert_eq!(run(&["order", "show", "3/3", "--follow"]).await.0, 0);
    let (code, _, err) = run(&["order", "cancel", "3/3"]).await;
    assert!(code == 3 && err.contains("the order has ended"), "{err}");
    assert_eq!(run(&["freeze", "3/environment", "--reason", "a migration"]).await.0, 0);
    let (code, out, err) = run(&["order", "apply", "order.yml", "--mode", "m", "--detach"]).await;
    assert_eq!((code, out.as_str()), (0, "3/4\n"), "{err}");
    let (code, out, err) = run(&["order", "show", "3/4"]).await;
    let waits = ": not over, waits: 3/environment is frozen by tester: a migration\n";
    assert!(code == 0 && out.contains(waits), "{out}{err}");
    assert_eq!(run(&["unfreeze", "3/environment"]).await.0, 0);
    assert_eq!(run(&["order", "show", "3/4", "--follow"]).await.0, 1);
    let (code, out, err) = run(&["order", "list", "--environment", "3", "--limit", "2"]).await;
    assert!(code == 0 && out.lines().count() == 3, "{out}{err}");
    let (code, out, err) = run(&["environment", "list"]).await;
    assert_eq!((code, out.as_str()), (0, "3\n"), "{err}");
}
