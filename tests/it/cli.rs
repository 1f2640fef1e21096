//! The client's side of the command line, against a dispatcher that fails in every way a client can meet.

use std::collections::BTreeMap;
use std::process::Output;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use lockstep::client::follow::{Seen, Until, follow};
use lockstep::client::http::CallError;
use lockstep::client::patience::Patience;
use lockstep::wire::{Failure, HostRecap, JobState, Outcome, Progress};
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::support::faulty::{APP, Fault, Faulty, JOB, Kind, SECRET, problem_body};

async fn run(faulty: &Faulty, arguments: &[&str]) -> (i32, String, String) {
    said(faulty.command(arguments).output().await.expect("the client runs"))
}

/// Exit code, standard output and standard error, in which no secret stands.
fn said(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    let (out, err) = (text(output.stdout), text(output.stderr));
    assert!(!out.contains(SECRET) && !err.contains(SECRET), "the secret is shown:\n{out}\n{err}");
    (output.status.code().expect("an exit code"), out, err)
}

#[tokio::test]
async fn the_outcome_is_the_exit_code() {
    let faulty = Faulty::start().await;
    for (outcome, code) in [
        (Outcome::Succeeded, 0),
        (Outcome::Failed, 1),
        (Outcome::Canceled, 1),
        (Outcome::TimedOut, 1),
        (Outcome::Lost, 1),
        (Outcome::Superseded, 5),
    ] {
        faulty.reset([]);
        faulty.change(|world| {
            world.outcome(Some(outcome));
            world.output = b"some output\n".to_vec();
        });
        let (got, out, err) = run(&faulty, &["deploy", APP]).await;
        assert_eq!(got, code, "{outcome}: {out}{err}");
        assert!(
            out.contains("some output\n") && out.contains(&format!("\n{outcome}: app-one on app-one.epfl.ch")),
            "{out}"
        );
    }
}

#[tokio::test]
async fn a_log_is_plain_and_ends_with_the_recap() {
    let faulty = Faulty::start().await;
    faulty.change(|world| {
        world.outcome(Some(Outcome::Failed));
        world.output = "PLAY [all]\n\u{1b}[31mfatal\u{1b}[0m: é\u{1b}]0;title\u{7}\r\n::error::no".into();
        world.piece = 3;
        world.job.progress = Some(Progress {
            recap: Some(BTreeMap::from([("h".into(), HostRecap { ok: 3, failed: 1, ..HostRecap::default() })])),
            failures: Some(vec![Failure { host: "h".into(), task: "unpack".into(), message: "no space".into() }]),
            ..Progress::default()
        });
    });
    let mut command = faulty.command(&["deploy", APP]);
    let (code, out, err) = said(command.env("GITHUB_ACTIONS", "true").output().await.expect("it runs"));
    assert_eq!((code, err.as_str()), (1, ""), "{out}");
    let token = out.strip_prefix("::stop-commands::").and_then(|rest| rest.get(..32)).expect("a token").to_owned();
    insta::assert_snapshot!(out.replace(&token, "TOKEN"), @r#"
    ::stop-commands::TOKEN
    lockstep: job 01GZEC5GJHFKWMK4Z5A1NM9DPF accepted: app-one on app-one.epfl.ch, failed
    PLAY [all]
    fatal: é
    ::error::no

    host  ok  changed  unreachable  failed  skipped  rescued  ignored
    h      3        0            0       1        0        0        0

    failed on h, task "unpack":
      | no space

    failed: app-one on app-one.epfl.ch, exit code 2, 42 s (job 01GZEC5GJHFKWMK4Z5A1NM9DPF)
    ::TOKEN::
    "#);
}

#[tokio::test]
async fn refusals_are_told_apart() {
    let faulty = Faulty::start().await;
    for (fault, code, part) in [
        (
            Fault::Problem(401, "unauthorized", None),
            3,
            "deployment id app-one with the secret from LOCKSTEP_DEPLOYMENT_SECRET",
        ),
        (Fault::Problem(403, "forbidden", None), 3, "no right"),
        (Fault::Problem(409, "busy", None), 3, "--when-busy"),
        (Fault::Problem(409, "frozen", None), 3, "lockstep unfreeze"),
        (Fault::Problem(429, "barred", Some(3600)), 3, "3600 s"),
        (Fault::Problem(400, "malformed-body", None), 2, "detail of malformed-body"),
        (Fault::Problem(404, "unknown-app", None), 2, "detail of unknown-app"),
        (Fault::Problem(422, "vars", None), 2, "detail of vars"),
        (Fault::Problem(503, "unavailable", Some(3600)), 6, "--idempotency-key"),
        (Fault::Page(404), 2, "not as Lockstep does"),
        (Fault::Page(302), 2, "redirects"),
    ] {
        faulty.reset([(Kind::Submit, fault.clone())]);
        let (got, out, err) = run(&faulty, &["deploy", APP]).await;
        assert_eq!((got, out.as_str()), (code, ""), "{fault:?}: {err}");
        assert!(err.starts_with("error: the deployment of app-one: ") && err.contains(part), "{fault:?}: {err}");
        assert_eq!(faulty.world().count(Kind::Submit), 1);
    }
}

#[tokio::test]
async fn wrong_usage_and_configuration_are_2_and_ask_nothing() {
    let faulty = Faulty::start().await;
    std::fs::write(faulty.certificate().with_file_name("vars.json"), r#"{"version": "secret value", }"#)
        .expect("written");
    for (arguments, part) in [
        (&["deploy", "../x"][..], "must begin with a letter"),
        (&["deploy", APP, "--url", "http://localhost"], "https://"),
        (&["deploy", APP, "--secret-file", "nowhere"], "nowhere cannot be opened"),
        (&["deploy", APP, "--ca-cert", "vars.json"], "holds no certificate"),
        (&["deploy", APP, "--vars-file", "vars.json"], "vars.json is no JSON object (line 1, column 29)"),
        (&["deploy", APP, "--var", "a=1", "--var", "a=2"], "given twice"),
        (&["status", JOB], "--app"),
        (&["locks"], "--token-file"),
        (&["apps", "set", "vars.json", "--token-file", "ca.crt"], "more than one line"),
    ] {
        let (code, out, err) = run(&faulty, arguments).await;
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}: {err}");
        assert!(err.contains(part) && !err.contains("secret value"), "{arguments:?}: {err}");
    }
    let untrusted = faulty.command(&["deploy", APP]).env_remove("LOCKSTEP_CA_CERT").output().await;
    let (code, _, err) = said(untrusted.expect("it runs"));
    assert!(code == 2 && err.contains("is not trusted") && err.contains("--ca-cert"), "{code}: {err}");
    assert!(faulty.world().calls.is_empty());
    for arguments in [&["--help"][..], &["deploy", "--help"], &["help", "status"]] {
        let (code, out, _) = run(&faulty, arguments).await;
        assert!(code == 0 && out.contains("Usage:"), "{out}");
    }
}

#[tokio::test]
async fn a_request_whose_answer_was_lost_is_one_deployment() {
    let faulty = Faulty::start().await;
    faulty.reset([
        (Kind::Submit, Fault::AnswerLost),
        (Kind::Submit, Fault::Problem(503, "unavailable", None)),
        (Kind::Submit, Fault::Cut(20)),
        (Kind::Submit, Fault::Hangup),
        (Kind::Submit, Fault::Page(502)),
    ]);
    let (code, out, err) = run(&faulty, &["deploy", APP, "--when-busy", "fifo"]).await;
    assert_eq!(code, 0, "{out}{err}");
    assert_eq!(err.matches("trying again").count(), 1, "{err}");
    let world = faulty.world();
    assert_eq!(world.count(Kind::Submit), 6);
    let accepted: Vec<_> = world.accepted.iter().collect();
    assert_eq!(accepted.len(), 1, "{accepted:?}");
    assert_eq!(accepted[0].0.len(), 32);
    assert_eq!(accepted[0].1, &json!({"when_busy": "fifo"}));
}

#[tokio::test]
async fn a_secret_variable_need_not_be_an_argument() {
    let faulty = Faulty::start().await;
    std::fs::write(faulty.certificate().with_file_name("vars.json"), r#"{"token": "t0p", "count": 3}"#)
        .expect("written");
    let arguments =
        ["deploy", APP, "--vars-file", "vars.json", "--var", "v=a=b", "--idempotency-key", "mine", "--detach"];
    let (code, out, err) = run(&faulty, &arguments).await;
    assert_eq!((code, out, err.as_str()), (0, format!("{JOB}\n"), ""));
    let vars = json!({"token": "t0p", "count": 3, "v": "a=b"});
    assert_eq!(
        faulty.world().accepted,
        BTreeMap::from([("mine".to_owned(), json!({"vars": vars, "when_busy": "queue"}))])
    );
    assert_eq!(faulty.world().count(Kind::Output), 0);
}

#[tokio::test]
async fn output_is_exact_across_a_restart_of_the_dispatcher() {
    let mut faulty = Faulty::start().await;
    let lines: Vec<String> = (0..200).map(|number| format!("line {number} – ünïcödé\n")).collect();
    let (first, second) = lines.split_at(100);
    faulty.reset([(Kind::Output, Fault::Cut(7)), (Kind::Output, Fault::Hangup), (Kind::Job, Fault::Page(502))]);
    faulty.change(|world| {
        world.outcome(None);
        world.output = first.concat().into_bytes();
        world.piece = 250;
    });
    let running = faulty.command(&["deploy", APP]).spawn().expect("it runs");
    faulty.asked(Kind::Output, 6).await;
    faulty.go_away().await;
    faulty.change(|world| {
        world.outcome(Some(Outcome::Succeeded));
        world.output.extend(second.concat().bytes());
    });
    faulty.come_back().await;
    let (code, out, err) = said(running.wait_with_output().await.expect("it ends"));
    assert_eq!(code, 0, "{out}{err}");
    let shown: Vec<_> = out.split_inclusive('\n').filter(|line| line.starts_with("line ")).collect();
    assert_eq!(shown.concat(), lines.concat());
    assert!(err.matches("trying again").count() <= 1, "{err}");
}

#[tokio::test]
async fn what_could_not_be_printed_is_said_to_be_lost() {
    let faulty = Faulty::start().await;
    std::fs::write(faulty.certificate().with_file_name("token"), "an operator's token").expect("written");
    let full = || std::fs::File::options().write(true).open("/dev/full").expect("a disk that is always full");
    faulty.change(|world| {
        world.answers.insert("POST /api/v1/tokens".to_owned(), (
            201,
            json!({"token": "lso_x", "name": "vera", "role": "viewer", "groups": [], "issued_at": "now", "by": "ada"}),
        ));
        world.outcome(Some(Outcome::Succeeded));
        world.output = b"done\n".to_vec();
    });
    for (arguments, code, part) in [
        (&["tokens", "issue", "vera", "--role", "viewer", "--token-file", "token"][..], 1, "revoke it"),
        (&["logs", JOB, "--app", APP], 1, "not all could be printed"),
        // What became of the deployment is known all the same.
        (&["deploy", APP], 0, "not all could be printed"),
    ] {
        let mut command = faulty.command(arguments);
        let running = command.stdout(full()).stderr(Stdio::piped()).spawn().expect("it runs");
        let ended = running.wait_with_output().await.expect("it ends");
        let err = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(code), "{arguments:?}: {err}");
        assert!(err.contains(part), "{arguments:?}: {err}");
    }
}

/// GitHub's runner takes `##[` anywhere in a line for a command, and `::` at its beginning.
#[tokio::test]
async fn nothing_that_comes_from_a_job_is_a_command_to_github() {
    let faulty = Faulty::start().await;
    let bad = "##[set-output name=version]evil";
    faulty.change(|world| {
        world.outcome(Some(Outcome::Failed));
        world.output = format!("one {bad}\n#{bad}\ntwo ###").into();
        world.piece = 2;
        world.job.reason = Some(bad.into());
        world.job.progress = Some(Progress {
            failures: Some(vec![Failure { host: bad.into(), task: "t".into(), message: format!("no space {bad}") }]),
            ..Progress::default()
        });
    });
    for arguments in [
        &["deploy", APP][..],
        &["status", JOB, "--app", APP],
        &["status", JOB, "--app", APP, "--json"],
        &["logs", JOB, "--app", APP],
        &["cancel", JOB, "--app", APP],
    ] {
        let mut command = faulty.command(arguments);
        let (_, out, err) = said(command.env("GITHUB_ACTIONS", "true").output().await.expect("it runs"));
        assert!(!out.contains("##["), "{arguments:?}: {out}{err}");
        assert!(arguments[0] == "cancel" || out.contains("evil"), "{arguments:?}: {out}{err}");
        if arguments.contains(&"--json") {
            let json: Value = serde_json::from_str(&out).expect("JSON");
            assert_eq!(json["reason"], bad);
        }
        if arguments[0] == "logs" {
            assert!(out.contains("one # #[set-output") && out.contains("\ntwo ###\n"), "{out:?}");
        }
    }
}

#[tokio::test]
async fn the_own_timeout_and_signals_leave_the_job_alone() {
    let faulty = Faulty::start().await;
    faulty.change(|world| world.outcome(None));
    let (code, _, err) = run(&faulty, &["deploy", APP, "--timeout", "0s"]).await;
    assert_eq!(code, 4, "{err}");
    insta::assert_snapshot!(err, @r"
    lockstep: not over after 0 s; job 01GZEC5GJHFKWMK4Z5A1NM9DPF goes on without this command
    lockstep: to follow it: lockstep logs -f 01GZEC5GJHFKWMK4Z5A1NM9DPF --app app-one
    lockstep: to end it:    lockstep cancel 01GZEC5GJHFKWMK4Z5A1NM9DPF --app app-one
    ");
    for (signal, expected) in [("-INT", 130), ("-TERM", 143)] {
        let before = faulty.world().count(Kind::Output);
        let running = faulty.command(&["deploy", APP]).spawn().expect("it runs");
        faulty.asked(Kind::Output, before + 1).await;
        let pid = running.id().expect("it runs").to_string();
        let kill = tokio::process::Command::new("kill").args([signal, &pid]).status().await;
        assert!(kill.expect("kill runs").success());
        let (code, _, err) = said(running.wait_with_output().await.expect("it ends"));
        assert_eq!(code, expected, "{err}");
        assert!(err.contains(&format!("lockstep cancel {JOB} --app app-one")), "{err}");
    }
    assert_eq!(faulty.world().count(Kind::Cancel), 0);
}

#[tokio::test]
async fn a_credential_that_stops_to_open_the_job_ends_the_following() {
    let faulty = Faulty::start().await;
    faulty.reset([(Kind::Output, Fault::Problem(401, "unauthorized", None))]);
    let (code, out, err) = run(&faulty, &["deploy", APP]).await;
    assert_eq!(code, 3, "{out}{err}");
    assert!(err.contains("its outcome is not known here"), "{err}");
}

#[tokio::test]
async fn one_job_is_shown_printed_and_canceled() {
    let faulty = Faulty::start().await;
    faulty.change(|world| {
        world.outcome(None);
        world.output = b"begun\n".to_vec();
        world.job.queue_position = Some(2);
        world.job.state = JobState::Queued;
    });
    let of = ["--app", APP];
    let (code, out, _) = run(&faulty, &["status", JOB, of[0], of[1]]).await;
    assert_eq!(code, 0);
    insta::assert_snapshot!(out, @r"
    job        01GZEC5GJHFKWMK4Z5A1NM9DPF
    app        app-one
    inventory  app-one.epfl.ch
    action     app-deploy
    state      queued, number 2 in line
    accepted   2023-05-02T13:37:00.000Z
    started    2023-05-02T13:37:01.000Z
    ended      2023-05-02T13:37:43.000Z
    fence      1683034620000
    output     6 bytes
    ");
    let (code, out, _) = run(&faulty, &["status", JOB, "--json", of[0], of[1]]).await;
    let json: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, &json["state"]), (0, &json!("queued")));
    let (code, out, err) = run(&faulty, &["logs", JOB, of[0], of[1]]).await;
    assert_eq!((code, out.as_str(), err.as_str()), (0, "begun\n", ""));

    let following = faulty.command(&["logs", "-f", JOB, of[0], of[1]]).spawn().expect("it runs");
    faulty.asked(Kind::Output, 3).await;
    let (code, out, err) = run(&faulty, &["cancel", JOB, of[0], of[1]]).await;
    assert_eq!((code, err.as_str()), (0, ""));
    insta::assert_snapshot!(out, @"canceled: app-one on app-one.epfl.ch, 42 s (job 01GZEC5GJHFKWMK4Z5A1NM9DPF)");
    let (code, out, err) = said(following.wait_with_output().await.expect("it ends"));
    assert_eq!((code, out.as_str(), err.as_str()), (0, "begun\n", ""));

    faulty.change(|world| world.outcome(Some(Outcome::Succeeded)));
    let (code, out, _) = run(&faulty, &["cancel", JOB, of[0], of[1]]).await;
    assert!(code == 1 && out.starts_with("succeeded: "), "{code}: {out}");
    faulty.reset([(Kind::Job, Fault::Problem(404, "unknown-job", None))]);
    let (code, _, err) = run(&faulty, &["status", JOB, of[0], of[1]]).await;
    assert!(code == 2 && err.contains("detail of unknown-job"), "{code}: {err}");
}

#[tokio::test]
async fn what_operators_do() {
    let faulty = Faulty::start().await;
    let file =
        |name: &str, text: &str| std::fs::write(faulty.certificate().with_file_name(name), text).expect("written");
    file("token", "an operator's token\n");
    file("apps.json", r#"[{"deployment_id": "a"}]"#);
    let answer = |call: &str, status: u16, body: Value| {
        faulty.change(|world| {
            world.answers.insert(call.to_owned(), (status, body));
        });
    };
    let ask = async |arguments: &[&str]| run(&faulty, &[arguments, &["--token-file", "token"]].concat()).await;

    answer("PUT /api/v1/apps", 409, problem_body(409, "shrunken-list"));
    let (code, _, err) = ask(&["apps", "set", "apps.json"]).await;
    assert!(code == 3 && err.contains("--force"), "{code}: {err}");
    answer("PUT /api/v1/apps", 200, json!({"apps": 1, "warnings": ["field \"x\" is\u{1b}[2J not known"]}));
    let (code, out, err) = ask(&["apps", "set", "apps.json", "--force"]).await;
    assert_eq!((code, out.as_str()), (0, "the list is in force: 1 app\n"));
    assert_eq!(err, "lockstep: warning: field \"x\" is not known\n");

    answer(
        "GET /api/v1/apps",
        200,
        json!({"apps": [
            {"deployment_id": "app-one", "inventory": "i1", "action": "app-deploy", "vars": {"version": {}, "tag": {}}},
            {"deployment_id": "a", "inventory": "i2.example.org", "action": "announce-apps"},
        ]}),
    );
    insta::assert_snapshot!(ask(&["apps", "list"]).await.1, @r"
    deployment id  inventory       action         vars
    app-one        i1              app-deploy     tag version
    a              i2.example.org  announce-apps
    ");

    answer("GET /api/v1/locks", 200, json!({"locks": []}));
    insta::assert_snapshot!(ask(&["locks"]).await.1, @"no lock is held and nothing is frozen");
    answer(
        "GET /api/v1/locks",
        200,
        json!({"locks": [
            {"inventory": "i1", "job_id": JOB, "deployment_id": "app-one", "state": "running", "since": "2023-05-02T13:37:01.000Z",
             "age_seconds": 125, "fence": 1_683_034_620_000u64, "reason": "its container runs", "waiting": ["01GZEC5GJHFKWMK4Z5A1NM9DPG"]},
            {"inventory": "i2", "waiting": [], "freeze": {"reason": "audit", "by": "ann", "until": "2023-05-02T15:00:00.000Z"}},
        ]}),
    );
    insta::assert_snapshot!(ask(&["locks"]).await.1, @r"
    inventory  held by                     app      state    for        fence          waiting  reason
    i1         01GZEC5GJHFKWMK4Z5A1NM9DPF  app-one  running  2 min 5 s  1683034620000  1        its container runs
    i2         -                           -        -        -          -              0        -
    i1: waiting: 01GZEC5GJHFKWMK4Z5A1NM9DPG
    i2: frozen by ann until 2023-05-02T15:00:00.000Z: audit
    ");
    let (_, out, _) = ask(&["locks", "--json"]).await;
    assert!(serde_json::from_str::<Value>(&out).is_ok_and(|json| json["locks"][1]["freeze"]["by"] == "ann"), "{out}");

    answer("DELETE /api/v1/locks/i1", 409, problem_body(409, "still-running"));
    let (code, _, err) = ask(&["unlock", "i1", "--reason", "stuck & old"]).await;
    assert!(code == 3 && err.contains("--force"), "{code}: {err}");
    answer("DELETE /api/v1/locks/i1", 200, json!({"inventory": "i1", "job_id": JOB}));
    insta::assert_snapshot!(ask(&["unlock", "i1", "--reason", "stuck & old", "--force"]).await.1, @"the lock of i1, which job 01GZEC5GJHFKWMK4Z5A1NM9DPF held, is free");
    answer("PUT /api/v1/freezes/i1", 200, json!({"reason": "audit", "by": "ann"}));
    insta::assert_snapshot!(ask(&["freeze", "i1", "--reason", "audit", "--for", "2h"]).await.1, @"i1: frozen by ann until it is lifted: audit");
    answer("DELETE /api/v1/freezes/i1", 204, Value::Null);
    insta::assert_snapshot!(ask(&["unfreeze", "i1"]).await.1, @"i1 is not frozen any more");
    let calls: Vec<_> = faulty.world().calls.iter().map(|(_, call, body)| format!("{call} {body}")).collect();
    insta::assert_snapshot!(calls.join("\n"), @r#"
    PUT /api/v1/apps [{"deployment_id":"a"}]
    PUT /api/v1/apps?force=true [{"deployment_id":"a"}]
    GET /api/v1/apps null
    GET /api/v1/locks null
    GET /api/v1/locks null
    GET /api/v1/locks null
    DELETE /api/v1/locks/i1 {"force":false,"reason":"stuck & old"}
    DELETE /api/v1/locks/i1 {"force":true,"reason":"stuck & old"}
    PUT /api/v1/freezes/i1 {"expires_in":7200,"reason":"audit"}
    DELETE /api/v1/freezes/i1 {}
    "#);
}

/// Paces and bounds for tests: no pause that anybody would notice.
fn quick() -> Patience {
    Patience {
        asking: Duration::from_secs(20),
        silence: Duration::from_secs(20),
        first_pause: Duration::from_millis(1),
        longest_pause: Duration::from_millis(2),
        ..Patience::default()
    }
}

/// Follows the job and collects what was told.
async fn followed(faulty: &Faulty, patience: Patience) -> (Vec<u8>, Option<Outcome>, Result<(), CallError>) {
    let (tell, mut seen) = mpsc::channel(4);
    let http = Arc::new(faulty.http(patience));
    let following = tokio::spawn(follow(http, JOB.parse().expect("an id"), Until::End, tell));
    let (mut output, mut outcome) = (Vec::new(), None);
    while let Some(next) = seen.recv().await {
        match next {
            Seen::Output(bytes) => output.extend(bytes),
            Seen::Ended(job) => outcome = job.outcome,
            Seen::Job(_) | Seen::Trouble(_) | Seen::Back => {}
        }
    }
    (output, outcome, following.await.expect("no panic"))
}

#[tokio::test]
async fn who_is_not_answered_gives_up_and_never_says_green() {
    let mut faulty = Faulty::start().await;
    let brief = Patience { asking: Duration::ZERO, silence: Duration::ZERO, ..quick() };
    for (kind, fault) in [
        (Kind::Job, Fault::OtherJob),
        (Kind::Job, Fault::Hangup),
        (Kind::Output, Fault::Problem(404, "unknown-job", None)),
        (Kind::Output, Fault::Later(1)),
        (Kind::Output, Fault::Page(200)),
        (Kind::Output, Fault::Page(404)),
        (Kind::Output, Fault::Problem(503, "unavailable", Some(1))),
    ] {
        faulty.reset([(kind, fault.clone())]);
        faulty.change(|world| world.output = b"output".to_vec());
        let (_, outcome, ended) = followed(&faulty, brief).await;
        assert!(outcome.is_none() && ended.is_err(), "{fault:?}");
    }
    faulty.reset([(Kind::Output, Fault::Complete)]);
    faulty.change(|world| world.outcome(None));
    let (_, outcome, ended) = followed(&faulty, brief).await;
    assert!(outcome.is_none() && ended.is_err(), "a job that is not over was said to be");
    faulty.go_away().await;
    let (_, outcome, ended) = followed(&faulty, brief).await;
    assert!(outcome.is_none() && matches!(ended, Err(CallError::NotReached { sent: false, .. })));
}

fn faults() -> impl Strategy<Value = Vec<(Kind, Fault)>> {
    let fault = prop_oneof![
        (0usize..40).prop_map(Fault::Cut),
        (1usize..40).prop_map(Fault::Earlier),
        (1usize..40).prop_map(Fault::Later),
        Just(Fault::Hangup),
        Just(Fault::AnswerLost),
        Just(Fault::Complete),
        Just(Fault::Page(502)),
        Just(Fault::Page(200)),
        Just(Fault::Page(404)),
        Just(Fault::Problem(503, "unavailable", None)),
        Just(Fault::Problem(500, "internal", None)),
        Just(Fault::Problem(429, "barred", None)),
        Just(Fault::Problem(404, "unknown-job", None)),
        Just(Fault::Problem(416, "offset-beyond-end", None)),
    ];
    let other = prop_oneof![Just(Fault::Hangup), Just(Fault::OtherJob), (0usize..40).prop_map(Fault::Cut)];
    prop::collection::vec(
        prop_oneof![4 => fault.prop_map(|fault| (Kind::Output, fault)), 1 => other.prop_map(|fault| (Kind::Job, fault))],
        0..12,
    )
}

/// Whatever goes wrong in between: every byte once, in order, and the outcome that the dispatcher gives.
#[test]
fn following_is_exact() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let faulty = runtime.block_on(Faulty::start());
    proptest!(ProptestConfig::with_cases(64), |(text in "[a-zé€𝄞\n]{0,300}", piece in 1usize..60, faults in faults(), failed: bool)| {
        let outcome = if failed { Outcome::Failed } else { Outcome::Succeeded };
        // Output that is shorter than what was asked for ends the following of a job that has ended; so it goes on here.
        let short = faults.iter().any(|(_, fault)| matches!(fault, Fault::Problem(416, ..)));
        faulty.reset(faults);
        faulty.change(|world| {
            world.outcome((!short).then_some(outcome));
            world.output = text.clone().into_bytes();
            world.piece = piece;
        });
        let (output, seen, ended) = runtime.block_on(async {
            let ending = async {
                if short {
                    faulty.all_read().await;
                    faulty.change(|world| world.outcome(Some(outcome)));
                }
            };
            tokio::join!(followed(&faulty, quick()), ending).0
        });
        prop_assert!(ended.is_ok(), "{:?}", ended);
        prop_assert_eq!(String::from_utf8(output).expect("UTF-8"), text);
        prop_assert_eq!(seen, Some(outcome));
    });
}

/// By bash itself: what it offers for the beginning of a command and of an option.
#[tokio::test]
async fn a_shell_completes_commands_and_options() {
    let program = env!("CARGO_BIN_EXE_lockstep");
    let script = format!(
        r#"set -eu
        source <("{program}" completions bash)
        offered() {{ COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _lockstep lockstep "${{@: -1}}" "${{@: -2:1}}"; echo "${{COMPREPLY[@]}}"; }}
        offered lockstep dep
        offered lockstep deploy --when-busy re
        offered lockstep apps s
        offered lockstep release pro
        offered lockstep release report 01GZEC5GJHFKWMK4Z5A1NM9DPF --result inc
        offered lockstep release list --state rol"#
    );
    let output = tokio::process::Command::new("bash").args(["-c", &script]).output().await.expect("bash");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "deploy\nreject\nset\npromote\ninconclusive\nrolled_back\n",
        "{output:?}"
    );
}
