//! Against a dispatcher that fails in every way a client can meet, and a simulator of GitHub's ID tokens.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Json;
use axum::extract::RawQuery;
use axum::http::HeaderMap;
use base64::Engine as _;
use lockstep::wire::{Failure, HostRecap, Outcome, Progress};
use serde_json::json;

use super::reader::{BOTH, CiJob, Ended, Reader};
use crate::support::faulty::{APP, Fault, Faulty, JOB, Kind, SECRET};
use crate::support::redis::free_port;

fn job(reader: Reader, faulty: &Faulty) -> CiJob {
    CiJob::new(reader, &faulty.url(), &faulty.certificate(), APP, SECRET)
}

#[tokio::test]
async fn the_outcome_is_the_exit_code_and_an_output() {
    let faulty = Faulty::start().await;
    for reader in BOTH {
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
                world.output = b"some output".to_vec();
            });
            let ended = job(reader, &faulty).run().await;
            assert_eq!(ended.code, code, "{outcome}: {}", ended.log);
            assert!(ended.log.contains("\nsome output\n"), "{}", ended.log);
            assert!(ended.log.contains(&format!("\n{outcome}: app-one on app-one.epfl.ch")), "{}", ended.log);
            let set = [("job_id", JOB), ("outcome", outcome.word())];
            assert_eq!(ended.outputs, set.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
        }
    }
}

fn failed(faulty: &Faulty) {
    faulty.change(|world| {
        world.outcome(Some(Outcome::Failed));
        world.output = "PLAY [all]\n\u{1b}[31mfatal\u{1b}[0m: é\u{1b}]0;title\u{7}\r\n  ::error::no\n##[endgroup]\n\
                        half\rover\u{1b}[2J\nsection_end:1:x\r\u{1b}[0Ky\n\u{1b}[32mgreen"
            .into();
        world.piece = 5;
        let recap = HostRecap { ok: 3, failed: 1, ..HostRecap::default() };
        world.job.progress = Some(Progress {
            recap: Some(BTreeMap::from([("h|<b>".into(), recap), ("::error::h2".into(), HostRecap::default())])),
            failures: Some(vec![Failure {
                host: "h".into(),
                task: "un,pack: a\u{1b}[2Jll".into(),
                message: "no space\n::error::50% </pre><script>".into(),
            }]),
            ..Progress::default()
        });
    });
}

/// A log in which what was drawn at random, and the time, are words.
fn settled(log: &str) -> String {
    let drawn = regex::Regex::new("[0-9a-f]{32}|:[0-9]{10}:lockstep_[0-9a-f]{8}").expect("a pattern");
    drawn.replace_all(log, "DRAWN").replace('\u{1b}', "^[").replace('\r', "^M")
}

#[tokio::test]
async fn githubs_log_has_a_group_a_recap_and_an_annotation_and_no_command_of_the_jobs() {
    let faulty = Faulty::start().await;
    failed(&faulty);
    let ended = job(Reader::GitHub, &faulty).run().await;
    assert!(ended.code == 1 && ended.masked);
    insta::assert_snapshot!(settled(&ended.log), @r##"
    ::group::Lockstep: app-one on app-one.epfl.ch, job 01GZEC5GJHFKWMK4Z5A1NM9DPF
    ::stop-commands::DRAWN
    lockstep: job 01GZEC5GJHFKWMK4Z5A1NM9DPF accepted: failed
    PLAY [all]
    ^[[31mfatal^[[0m: é^[[0m
      ::error::no
    # #[endgroup]
    half
    over
    section_end:1:x
    y
    ^[[32mgreen^[[0m
    ::DRAWN::
    ::endgroup::
    ::stop-commands::DRAWN
    host         ok  changed  unreachable  failed  skipped  rescued  ignored
    ::error::h2   0        0            0       0        0        0        0
    h|<b>         3        0            0       1        0        0        0
    failed: app-one on app-one.epfl.ch, exit code 2 (job 01GZEC5GJHFKWMK4Z5A1NM9DPF)
    ::DRAWN::
    ::error title=Task "un%2Cpack%3A all" failed on h::no space%0A::error::50%25 </pre><script>
    "##);
    insta::assert_snapshot!(ended.summary, @r##"
    ### Lockstep: app-one failed

    failed&#58; app-one on app-one.epfl.ch, exit code 2 (job 01GZEC5GJHFKWMK4Z5A1NM9DPF)

    | host | ok | changed | unreachable | failed | skipped | rescued | ignored |
    |---|---:|---:|---:|---:|---:|---:|---:|
    | &#58;&#58;error&#58;&#58;h2 | 0 | 0 | 0 | 0 | 0 | 0 | 0 |
    | h&#124;&#60;b&#62; | 3 | 0 | 0 | 1 | 0 | 0 | 0 |

    Task "un,pack&#58; all" failed on h

    <pre>no space
    ::error::50% &lt;/pre&gt;&lt;script&gt;</pre>
    "##);
    let (shown, commands) = ended.taken();
    assert!(shown.contains(&"  ::error::no"), "{shown:?}");
    assert_eq!(commands.len(), 3, "{commands:?}");
}

#[tokio::test]
async fn gitlabs_log_has_a_section_that_the_job_cannot_end() {
    let faulty = Faulty::start().await;
    failed(&faulty);
    let ended = job(Reader::GitLab, &faulty).run().await;
    assert!(ended.code == 1 && !ended.masked);
    insta::assert_snapshot!(settled(&ended.log), @r##"
    ^[[0Ksection_startDRAWN^M^[[0KLockstep: app-one on app-one.epfl.ch, job 01GZEC5GJHFKWMK4Z5A1NM9DPF
    lockstep: job 01GZEC5GJHFKWMK4Z5A1NM9DPF accepted: failed
    PLAY [all]
    ^[[31mfatal^[[0m: é^[[0m
      ::error::no
    ##[endgroup]
    half
    over
    section_end:1:x
    y
    ^[[32mgreen^[[0m
    ^[[0Ksection_endDRAWN^M^[[0K
    host         ok  changed  unreachable  failed  skipped  rescued  ignored
    ::error::h2   0        0            0       0        0        0        0
    h|<b>         3        0            0       1        0        0        0
    failed: app-one on app-one.epfl.ch, exit code 2 (job 01GZEC5GJHFKWMK4Z5A1NM9DPF)
    ^[[1;31mTask "un,pack: all" failed on h: no space
      ::error::50% </pre><script>^[[0m
    "##);
}

#[tokio::test]
async fn a_lost_answer_is_one_deployment_and_lost_output_is_asked_for_again() {
    let faulty = Faulty::start().await;
    for reader in BOTH {
        faulty.reset([
            (Kind::Submit, Fault::AnswerLost),
            (Kind::Submit, Fault::Problem(503, "unavailable", Some(1))),
            (Kind::Submit, Fault::Cut(20)),
            (Kind::Submit, Fault::Problem(429, "barred", Some(1))),
            (Kind::Submit, Fault::Page(502)),
            (Kind::Output, Fault::Cut(7)),
            (Kind::Output, Fault::Hangup),
            (Kind::Output, Fault::Earlier(20)),
            (Kind::Output, Fault::Later(3)),
            (Kind::Output, Fault::Problem(429, "barred", None)),
            (Kind::Output, Fault::Problem(404, "unknown-job", None)),
            (Kind::Output, Fault::Page(404)),
            (Kind::Output, Fault::Complete),
            (Kind::Output, Fault::Complete),
            (Kind::Job, Fault::OtherJob),
        ]);
        let lines: Vec<String> = (0..50).map(|number| format!("line {number} – ünïcödé")).collect();
        faulty.change(|world| {
            world.output = (lines.join("\n") + "\n").into_bytes();
            world.piece = 100;
        });
        let vars = r#"{"version": "1.2.3", "n": 3}"#;
        let ended = job(reader, &faulty).input("vars", vars).input("when-busy", "fifo").run().await;
        assert_eq!(ended.code, 0, "{}", ended.log);
        let shown: Vec<&str> = ended.log.lines().filter(|line| line.starts_with("line ")).collect();
        assert_eq!(shown, lines);
        let world = faulty.world();
        let accepted: Vec<_> = world.accepted.iter().collect();
        assert_eq!(accepted.len(), 1, "{accepted:?}");
        assert_eq!((accepted[0].0.len(), world.count(Kind::Submit)), (32, 6));
        assert_eq!(accepted[0].1, &json!({"vars": {"version": "1.2.3", "n": 3}, "when_busy": "fifo"}));
        let basic = base64::engine::general_purpose::STANDARD.encode(format!("{APP}:{SECRET}"));
        assert!(world.credentials.iter().all(|given| *given == format!("Basic {basic}")));
    }
}

/// A folder may hold what an earlier job of another kind has made.
#[tokio::test]
async fn what_an_earlier_job_has_left_is_neither_run_nor_told_as_this_ones() {
    let faulty = Faulty::start().await;
    for reader in BOTH {
        faulty.reset([(Kind::Submit, Fault::Problem(409, "frozen", None))]);
        let refused = job(reader, &faulty)
            .left("json.py", "raise SystemExit('it was run')")
            .left("lockstep.env", "LOCKSTEP_JOB_ID=01GZEC5GJHFKWMK4Z5A1NM9DPG\nLOCKSTEP_OUTCOME=succeeded\n")
            .run()
            .await;
        assert_eq!(refused.code, 3, "{}", refused.log);
        assert!(!refused.log.contains("it was run"), "{}", refused.log);
        assert_eq!(refused.outputs, BTreeMap::new());
    }
}

#[tokio::test]
async fn an_ended_job_with_less_output_than_was_shown_has_its_outcome() {
    let faulty = Faulty::start().await;
    for reader in BOTH {
        faulty.reset([(Kind::Output, Fault::Problem(416, "offset-beyond-end", None))]);
        faulty.change(|world| world.outcome(Some(Outcome::Failed)));
        let ended = job(reader, &faulty).run().await;
        assert_eq!((ended.code, ended.outputs["outcome"].as_str()), (1, "failed"), "{}", ended.log);
        assert_eq!(faulty.world().count(Kind::Output), 1);
    }
}

#[tokio::test]
async fn refusals_and_wrong_usage_are_told_apart() {
    let faulty = Faulty::start().await;
    for (fault, code, part) in [
        (Fault::Problem(401, "unauthorized", None), 3, "detail of unauthorized"),
        (Fault::Problem(409, "frozen", None), 3, "detail of frozen"),
        (Fault::Problem(429, "barred", Some(3600)), 3, "detail of barred"),
        (Fault::Problem(422, "vars", None), 2, "detail of vars"),
        (Fault::Problem(503, "unavailable", Some(3600)), 6, "detail of unavailable"),
        (Fault::Page(404), 2, "not as Lockstep does"),
        (Fault::Page(302), 2, "not as Lockstep does"),
    ] {
        faulty.reset([(Kind::Submit, fault.clone())]);
        let ended = job(Reader::GitHub, &faulty).run().await;
        assert_eq!(ended.code, code, "{fault:?}: {}", ended.log);
        let told = format!("::error title=Lockstep::the deployment of {APP}: ");
        assert!(ended.log.starts_with(&told) && ended.log.contains(part), "{fault:?}: {}", ended.log);
        assert_eq!((faulty.world().count(Kind::Submit), ended.outputs.len()), (1, 0));
    }
    // Who is told when to come back comes back then, even if that takes more patience than there is.
    faulty.reset([(Kind::Submit, Fault::Problem(429, "barred", Some(2)))]);
    let ended = job(Reader::GitHub, &faulty).input("patience", "1s").run().await;
    assert_eq!(ended.code, 0, "{}", ended.log);
    faulty.reset([(Kind::Output, Fault::Problem(401, "unauthorized", None))]);
    let ended = job(Reader::GitHub, &faulty).run().await;
    assert!(ended.code == 3 && ended.log.contains("its outcome is not known here"), "{}", ended.log);
    faulty.reset([]);
    for (input, value, part) in [
        ("url", "http://localhost", "https://"),
        ("url", "https://user:password@localhost", "https://"),
        ("deployment-id", "$(touch injected)\"; touch injected; \"", "deployment-id must"),
        ("vars", "{\"secret value\"}", "vars must be a JSON object"),
        ("vars", "[]", "vars must be a JSON object"),
        ("when-busy", "later", "when-busy must"),
        ("timeout", "5", "timeout must"),
        ("ca-cert", "nowhere", "nowhere is no file of certificates"),
        ("ca-cert", "", "is not trusted"),
    ] {
        for reader in BOTH {
            let ended = job(reader, &faulty).input(input, value).run().await;
            assert_eq!(ended.code, 2, "{input}={value}: {}", ended.log);
            assert!(ended.log.contains(part) && !ended.log.contains("secret value"), "{input}: {}", ended.log);
        }
    }
    assert!(faulty.world().calls.is_empty());
}

#[tokio::test]
async fn who_is_not_reached_is_given_up_in_time() {
    let mut faulty = Faulty::start().await;
    let nobody = format!("https://localhost:{}", free_port());
    for reader in BOTH {
        let ended = job(reader, &faulty).input("url", &nobody).input("patience", "1s").run().await;
        assert!(ended.code == 6 && ended.log.contains("could not be reached"), "{}", ended.log);
    }
    faulty.change(|world| world.outcome(None));
    let running = job(Reader::GitHub, &faulty).input("patience", "1s").start().await;
    faulty.asked(Kind::Output, 1).await;
    faulty.go_away().await;
    let ended = running.ended().await;
    assert!(ended.code == 6 && ended.log.contains("its outcome is not known here"), "{}", ended.log);
    assert_eq!(ended.outputs, BTreeMap::from([("job_id".to_owned(), JOB.to_owned())]));
}

async fn signaled(faulty: &Faulty, signal: &str, cancel: &str) -> Ended {
    faulty.reset([]);
    faulty.change(|world| world.outcome(None));
    let running = job(Reader::GitHub, faulty).input("cancel-on-signal", cancel).start().await;
    faulty.asked(Kind::Output, 1).await;
    running.signal(signal).await;
    running.ended().await
}

#[tokio::test]
async fn a_canceled_ci_job_leaves_the_deployment_alone_unless_told_otherwise() {
    let faulty = Faulty::start().await;
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let ended = signaled(&faulty, signal, "false").await;
        assert_eq!(ended.code, code, "{}", ended.log);
        let told = format!("job {JOB} goes on. To end it: lockstep cancel {JOB} --app {APP} --url {}", faulty.url());
        assert!(ended.log.contains(&told) && ended.summary.contains("goes on"), "{}", ended.log);
        assert_eq!(faulty.world().count(Kind::Cancel), 0);
        let ended = signaled(&faulty, signal, "true").await;
        assert_eq!((ended.code, faulty.world().count(Kind::Cancel)), (code, 1), "{}", ended.log);
        assert!(ended.log.contains("is asked to end: canceled"), "{}", ended.log);
        ended.taken();
    }
}

/// What GitHub's token endpoint was asked: the query and the credential.
type Asked = Arc<Mutex<Vec<(String, String)>>>;

/// A simulator of it; its address.
async fn tokens(asked: Asked) -> String {
    let give = move |RawQuery(query): RawQuery, headers: HeaderMap| async move {
        let bearer = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let mut asked = asked.lock().expect("no panic");
        asked.push((query.unwrap_or_default(), bearer.to_owned()));
        Json(json!({"count": 1, "value": format!("an.id.token-{}", asked.len())}))
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let router = axum::Router::new().route("/token", axum::routing::get(give));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = hyper_util::service::TowerToHyperService::new(router.clone());
            let stream = hyper_util::rt::TokioIo::new(stream);
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(stream, service));
        }
    });
    format!("http://{address}/token?api-version=2.0")
}

#[tokio::test]
async fn without_a_secret_the_jobs_id_token_is_the_credential() {
    let faulty = Faulty::start().await;
    let asked = Asked::default();
    let github = CiJob::new(Reader::GitHub, &format!("{}/", faulty.url()), &faulty.certificate(), APP, "")
        .variable("ACTIONS_ID_TOKEN_REQUEST_URL", &tokens(asked.clone()).await)
        .variable("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "a request token");
    let ended = github.run().await;
    assert_eq!(ended.code, 0, "{}", ended.log);
    assert!(ended.log.starts_with("::add-mask::an.id.token-1\n"), "{}", ended.log);
    assert!(faulty.world().credentials.iter().all(|given| given == "Bearer an.id.token-1"));
    assert_eq!(github.clone().input("audience", "urn:other one").run().await.code, 0);
    let audience = faulty.url().replace(':', "%3A").replace('/', "%2F");
    let bearer = || "Bearer a request token".to_owned();
    assert_eq!(
        *asked.lock().expect("no panic"),
        [
            (format!("api-version=2.0&audience={audience}"), bearer()),
            ("api-version=2.0&audience=urn%3Aother+one".to_owned(), bearer()),
        ]
    );

    // One that is old is not sent again.
    faulty.reset([]);
    let aged =
        "import sys; sys.path.insert(0, sys.argv[1]); import deploy; deploy.TOKEN_AGE = 0; sys.exit(deploy.main())";
    let script = format!("exec python3 -B -c '{aged}' \"$GITHUB_ACTION_PATH/ci\"");
    let ended = github.script(&script).run().await;
    assert_eq!(ended.code, 0, "{}", ended.log);
    assert_eq!(faulty.world().credentials, ["Bearer an.id.token-3", "Bearer an.id.token-4", "Bearer an.id.token-5"]);

    faulty.reset([]);
    let gitlab = CiJob::new(Reader::GitLab, &faulty.url(), &faulty.certificate(), APP, "");
    let ended = gitlab.run().await;
    assert_eq!(ended.code, 0, "{}", ended.log);
    let bearer = format!("Bearer an ID token for {}", faulty.url());
    assert!(faulty.world().credentials.iter().all(|given| *given == bearer));

    faulty.reset([]);
    let ended = CiJob::new(Reader::GitHub, &faulty.url(), &faulty.certificate(), APP, "").run().await;
    assert!(ended.code == 2 && ended.log.contains("id-token: write"), "{}", ended.log);
    assert!(faulty.world().calls.is_empty());
}

#[test]
fn the_component_holds_the_script_of_the_action() {
    let (script, component) = (include_str!("../../../ci/deploy.py"), include_str!("../../../templates/deploy.yml"));
    let indented: String =
        script.lines().map(|line| if line.is_empty() { "\n".to_owned() } else { format!("      {line}\n") }).collect();
    assert!(
        component
            .ends_with(&format!("      python3 -I - <<'LOCKSTEP_DEPLOY_PY'\n{indented}      LOCKSTEP_DEPLOY_PY\n")),
        "run ci/embed.py"
    );
}
