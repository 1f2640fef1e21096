//! The client's commands about releases, against a dispatcher that fails.

use lockstep::wire::Problem;
use serde_json::{Value, json};

use super::support::faulty::{Fault, Faulty, Kind, RELEASE, problem_body};

async fn run(faulty: &Faulty, arguments: &[&str]) -> (i32, String, String) {
    let output = faulty.command(arguments).env("LOCKSTEP_TOKEN", "a token").output().await.expect("the client runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code().expect("an exit code"), text(output.stdout), text(output.stderr))
}

/// The release, in a state.
fn release(state: &str, more: Value) -> Value {
    let mut release = json!({
        "id": RELEASE, "pipeline": "foo", "version": 1, "product": "foobar", "kind": "update",
        "services": {"web": {"version": "1.4"}}, "by": "ada", "created_at": "2026-11-28T15:00:00.000Z", "state": state,
        "stage": "dev", "ready_to_deploy": false, "waits_for": "its jobs", "stages": [],
    });
    release.as_object_mut().expect("an object").extend(more.as_object().cloned().expect("an object"));
    release
}

fn event(number: u64, what: &str) -> Value {
    json!({
        "specversion": "1.0", "id": format!("170000000000{number}-0"), "source": "/lockstep/x", "type": "x", "subject": RELEASE,
        "time": "2026-11-28T15:00:00.000Z", "datacontenttype": "application/json",
        "data": {"customData": {"event": what, "stage": "dev"}},
    })
}

fn answers(faulty: &Faulty, answers: &[(&str, u16, Value)]) {
    faulty.change(|world| {
        for (call, status, body) in answers {
            world.answers.insert((*call).to_owned(), (*status, body.clone()));
        }
    });
}

#[tokio::test]
async fn a_release_is_made_once_and_followed_across_trouble() {
    let faulty = Faulty::start().await;
    let show = format!("GET /api/v1/releases/{RELEASE}");
    let accepted = json!({"decision": {"verdict": "accepted", "at": "2026-11-28T16:00:00.000Z"}});
    let reasons = json!({"waits_for": "retry, bypass, rollback or reject", "waits_for_whom": ["ops"]});
    for (state, more, code) in [
        ("decided", accepted.clone(), 0),
        ("waiting", json!({"waits_for": "reports", "waits_for_whom": ["ci"]}), 0),
        ("decided", json!({"decision": {"verdict": "rejected", "at": "2026-11-28T16:00:00.000Z"}}), 1),
        ("failed", reasons, 1),
        ("superseded", json!({"superseded_by": "01GZEC5GJHFKWMK4Z5A1NM9DPZ"}), 5),
    ] {
        faulty.reset([
            (Kind::Other, Fault::Problem(503, "unavailable", Some(0))),
            (Kind::Other, Fault::AnswerLost),
            (Kind::Events, Fault::Hangup),
            (Kind::Events, Fault::Cut(20)),
            (Kind::Events, Fault::Page(502)),
        ]);
        faulty.change(|world| {
            world.events = (1..=5).map(|number| event(number, &format!("step{number}.started"))).collect()
        });
        answers(
            &faulty,
            &[("POST /api/v1/releases", 201, release("working", json!({}))), (&show, 200, release(state, more))],
        );
        let (got, out, err) =
            run(&faulty, &["release", "create", "--pipeline", "foo", "--service", "web=1.4", "--follow"]).await;
        assert_eq!(got, code, "{state}: {out}{err}");
        // Each event once, in order.
        assert_eq!(out, format!("{RELEASE}\n"), "what is handed on is the id");
        let words: Vec<&str> = err
            .lines()
            .filter_map(|line| line.split_whitespace().nth(1))
            .filter(|it| it.ends_with(".started"))
            .collect();
        assert_eq!(
            words,
            ["step1.started", "step2.started", "step3.started", "step4.started", "step5.started"],
            "{err}"
        );
        assert!(
            err.lines().last().expect("a line").starts_with(&format!("release {RELEASE} of foobar in dev: ")),
            "{err}"
        );
        let world = faulty.world();
        let made: Vec<_> = world.calls.iter().filter(|(_, call, _)| call.starts_with("POST")).collect();
        assert_eq!(made.len(), 3, "{made:?}");
        assert_eq!(made[0].2, json!({"pipeline": "foo", "kind": "update", "services": {"web": {"version": "1.4"}}}));
    }
}

#[tokio::test]
async fn what_happens_last_is_seen_before_the_watch_ends() {
    let faulty = Faulty::start().await;
    let show = format!("GET /api/v1/releases/{RELEASE}");
    faulty.change(|world| world.events = vec![event(1, "one.started")]);
    answers(&faulty, &[(&show, 200, release("working", json!({})))]);
    let watched = async {
        faulty.asked(Kind::Other, 1).await;
        faulty.change(|world| world.events.push(event(2, "one.finished")));
        let decision = json!({"decision": {"verdict": "accepted", "at": "2026-11-28T16:00:00.000Z"}});
        answers(&faulty, &[(&show, 200, release("decided", decision))]);
        faulty.change(|world| world.events.push(event(3, "accepted")));
    };
    let ((code, out, err), ()) = tokio::join!(run(&faulty, &["release", "events", RELEASE, "--follow"]), watched);
    assert_eq!(code, 0, "{err}");
    let words: Vec<&str> = out.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
    assert_eq!(words, ["one.started", "one.finished", "accepted"], "{out}");
    // As JSON, one in a line; without --follow to what there is.
    let (code, out, _) = run(&faulty, &["release", "events", RELEASE, "--json", "--after", "1700000000001-0"]).await;
    let ids: Vec<Value> =
        out.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")["id"].clone()).collect();
    assert_eq!((code, ids), (0, vec![json!("1700000000002-0"), json!("1700000000003-0")]));
}

#[tokio::test]
async fn a_thousand_releases_come_in_pages() {
    let faulty = Faulty::start().await;
    let page = |from: usize| {
        let releases: Vec<Value> = (from..from + 200)
            .map(|number| release("waiting", json!({"id": format!("01GZEC5GJHFKWMK4Z5A1NM{:04}", 9999 - number)})))
            .collect();
        json!({"releases": releases, "cursor": format!("01GZEC5GJHFKWMK4Z5A1NM{:04}", 9800 - from)})
    };
    // The simulator answers by path alone: the same page again does not lead on, and is noticed.
    answers(&faulty, &[("GET /api/v1/releases", 200, page(0))]);
    let (code, _, err) = run(&faulty, &["release", "list"]).await;
    assert!(code == 6 && err.contains("its cursor does not lead on"), "{err}");
    let (code, out, err) = run(&faulty, &["release", "list", "--limit", "200", "--state", "waiting"]).await;
    assert_eq!((code, out.lines().count()), (0, 201), "{err}");
    assert!(err.contains("the newest 200"), "{err}");
    assert!(faulty.world().calls.iter().any(|(_, call, _)| call.ends_with("?state=waiting&active=true&limit=200")));
}

#[tokio::test]
async fn what_changes_a_release_is_asked_once() {
    let faulty = Faulty::start().await;
    let path = format!("POST /api/v1/releases/{RELEASE}/promote");
    answers(&faulty, &[(&path, 200, release("entering", json!({"stage": "prod", "waits_for": "its turn"})))]);
    let (code, out, err) = run(&faulty, &["release", "promote", RELEASE, "--to", "prod", "--reason", "good"]).await;
    let said = format!("promoted: release {RELEASE} of foobar in prod: entering, waits for its turn\n");
    assert_eq!((code, out), (0, said), "{err}");
    let call = faulty.world().calls.last().map(|(_, _, body)| body.clone());
    assert_eq!(call, Some(json!({"to": "prod", "reason": "good"})));

    faulty.reset([(Kind::Other, Fault::AnswerLost)]);
    answers(&faulty, &[(&path, 200, release("entering", json!({})))]);
    let (code, _, err) = run(&faulty, &["release", "promote", RELEASE]).await;
    assert!(code == 6 && err.contains("may have been carried out"), "{code} {err}");
    assert_eq!(faulty.world().count(Kind::Other), 1);

    answers(&faulty, &[(&path, 409, problem_body(409, "not-now"))]);
    let (code, _, err) = run(&faulty, &["release", "promote", RELEASE]).await;
    assert!(code == 3 && err.contains("detail of not-now"), "{code} {err}");
    assert!(!err.contains(Problem::PREFIX));
}

#[tokio::test]
async fn a_report_is_sent_again_with_its_log() {
    let faulty = Faulty::start().await;
    std::fs::write(faulty.certificate().with_file_name("log.txt"), "all good\n").expect("written");
    faulty.reset([(Kind::Other, Fault::AnswerLost)]);
    let path = format!("POST /api/v1/releases/{RELEASE}/reports");
    answers(&faulty, &[(&path, 200, release("waiting", json!({"waits_for": "reports"})))]);
    let arguments = ["release", "report", RELEASE, "--stage", "dev", "--result", "warning", "--log", "log.txt"];
    let (code, out, err) = run(&faulty, &arguments).await;
    assert_eq!(code, 0, "{err}");
    assert!(out.starts_with("reported warning in dev: "), "{out}");
    let world = faulty.world();
    let bodies: Vec<&Value> = world.calls.iter().map(|(_, _, body)| body).collect();
    let body = json!({"stage": "dev", "result": "warning", "log": "all good\n"});
    assert_eq!(bodies, [&body, &body]);
}
