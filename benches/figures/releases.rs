//! A thousand releases in flight: how soon a report and an approval move one, and what those cost that rest.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::support::service::{OPERATOR_TOKEN, Service};
use super::{median, quantile, row};

/// Releases in flight.
const MANY: usize = 1000;
/// Of these so many are moved.
const MOVED: usize = 200;
/// How long what happens in Redis is watched.
const WATCH: Duration = Duration::from_secs(10);

const PIPELINE: &str = "\
pipeline: many
product: many
services: {it: {}}
stages:
  - stage: first
    steps: [{name: validation, check: [ci], deadline: 7d}]
    promote: auto
  - stage: second
    steps: [{name: certification, approval: [sysadmins]}]
    promote: auto
  - stage: third
    steps: [{name: grace, soak: 7d}]
";

async fn token(service: &Service, name: &str, role: &str, groups: &[&str]) -> String {
    let body = json!({"name": name, "role": role, "groups": groups});
    let asked = service.client().post(service.url("/api/v1/tokens")).bearer_auth(OPERATOR_TOKEN).json(&body);
    let answer: Value = asked.send().await.expect("an answer").json().await.expect("JSON");
    answer["token"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

async fn post(service: &Service, token: &str, path: &str, body: &Value) -> Value {
    let asked = service.client().post(service.url(path)).bearer_auth(token).json(body);
    let answer = asked.send().await.expect("an answer");
    let status = answer.status();
    let answer: Value = answer.json().await.expect("JSON");
    assert!(matches!(status, StatusCode::OK | StatusCode::CREATED), "{path}: {status} {answer}");
    answer
}

/// Commands that Redis has carried out so far.
async fn commands(service: &Service) -> f64 {
    let mut connection = service.redis.connect().await;
    let info: String = redis::cmd("INFO").arg("stats").query_async(&mut connection).await.expect("an answer");
    let line = info.lines().find_map(|line| line.strip_prefix("total_commands_processed:")).expect("a count");
    line.trim().parse().expect("a number")
}

/// Commands per second while nobody asks for anything.
async fn idle(service: &Service) -> f64 {
    let before = commands(service).await;
    tokio::time::sleep(WATCH).await;
    (commands(service).await - before) / WATCH.as_secs_f64()
}

/// Milliseconds that a write of the same size takes in this Redis: the limit.
async fn written(service: &Service) -> f64 {
    let mut connection = service.redis.connect().await;
    let mut times = Vec::with_capacity(MOVED);
    for _ in 0..MOVED {
        let begun = Instant::now();
        let mut set = redis::cmd("SET");
        set.arg("a release").arg(vec![b'x'; 2048]);
        set.query_async::<()>(&mut connection).await.expect("written");
        times.push(begun.elapsed().as_secs_f64() * 1000.0);
    }
    median(&mut times)
}

pub(crate) async fn measure() {
    let service = Service::start(&[]).await;
    let asked = service.client().put(service.url("/api/v1/pipelines/many")).bearer_auth(OPERATOR_TOKEN);
    let set = asked.header("content-type", "application/yaml").body(PIPELINE).send().await.expect("an answer");
    assert_eq!(set.status(), StatusCode::OK);
    let reporter = token(&service, "ci", "reporter", &[]).await;
    let sysadmin = token(&service, "grace", "viewer", &["sysadmins"]).await;
    let alone = idle(&service).await;
    let mut releases = Vec::with_capacity(MANY);
    for n in 0..MANY {
        let body = json!({"pipeline": "many", "services": {"it": format!("1.{n}")}});
        let made = post(&service, OPERATOR_TOKEN, "/api/v1/releases", &body).await;
        releases.push(made["id"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned());
    }
    let with_many = idle(&service).await;
    let limit = written(&service).await;
    let move_each = async |what: &str, token: &str, path: &str, body: Value, stage: &str| {
        let mut times = Vec::with_capacity(MOVED);
        for id in &releases[..MOVED] {
            let begun = Instant::now();
            let moved = post(&service, token, &format!("/api/v1/releases/{id}/{path}"), &body).await;
            times.push(begun.elapsed().as_secs_f64() * 1000.0);
            // A reporter is told where the release is, too.
            assert_eq!(moved["stage"], stage, "{moved}");
        }
        let (middle, most) = (median(&mut times), quantile(&mut times, 0.99));
        row(
            &format!("{what} to the release moved, of {MANY}, median (limit: a write to Redis)"),
            format!("{limit:.1} ms"),
            format!("{middle:.1} ms"),
            format!("{:.1}", middle / limit),
            "<= 100 ms",
        );
        row("the same, 99th percentile", "-", format!("{most:.1} ms"), "-", "<= 250 ms");
    };
    let report = json!({"stage": "first", "result": "pass", "log": "all is well\n"});
    move_each("a report", &reporter, "reports", report, "second").await;
    move_each("an approval", &sysadmin, "approvals", json!({}), "third").await;
    row(
        &format!("commands to Redis per second with {MANY} idle releases (limit: none)"),
        format!("{alone:.1}/s"),
        format!("{with_many:.1}/s"),
        format!("{:+.1}", with_many - alone),
        "+0",
    );
}
