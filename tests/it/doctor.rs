//! `lockstep doctor`, and what the start of the service refuses: on a real Redis, with the real binary.

use std::collections::BTreeMap;
use std::process::{Command as Sync, Output, Stdio};

use redis::aio::MultiplexedConnection;
use serde_json::Value;
use tokio::process::{Child, Command};

use super::support::service::Service;
use super::support::{PATIENCE, eventually};

/// The binary with the settings of a service that was prepared, and some in place of them.
fn binary(service: &Service, settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lockstep"));
    let text = service.environment();
    let environment: BTreeMap<_, _> = text.lines().filter_map(|line| line.split_once('=')).collect();
    command.current_dir(service.folder.path()).envs(environment).envs(settings.iter().copied());
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

async fn ended(mut command: Command) -> Output {
    tokio::time::timeout(PATIENCE, command.output()).await.expect("it ends").expect("it runs")
}

/// Runs the doctor; its exit code, and the checks by what they are about: verdict and what is said.
async fn examine(service: &Service, settings: &[(&str, &str)]) -> (i32, BTreeMap<String, (String, String)>) {
    let mut command = binary(service, settings);
    command.args(["doctor", "--json"]);
    let output = ended(command).await;
    let checks: Vec<Value> = serde_json::from_slice(&output.stdout).expect("JSON");
    let text = |check: &Value, field: &str| check[field].as_str().expect("a text").to_owned();
    let checks = checks.iter().map(|check| (text(check, "about"), (text(check, "verdict"), text(check, "says"))));
    (output.status.code().expect("an exit code"), checks.collect())
}

fn port(service: &Service) -> String {
    service.redis.url().rsplit_once(':').expect("a port").1.to_owned()
}

async fn configure(redis: &mut MultiplexedConnection, name: &str, value: &str) {
    redis::cmd("CONFIG").arg("SET").arg(name).arg(value).query_async::<()>(redis).await.expect("set");
}

fn verdict<'a>(checks: &'a BTreeMap<String, (String, String)>, about: &str) -> &'a str {
    &checks.get(about).unwrap_or_else(|| panic!("no check of {about}: {checks:#?}")).0
}

fn says<'a>(checks: &'a BTreeMap<String, (String, String)>, about: &str) -> &'a str {
    &checks.get(about).unwrap_or_else(|| panic!("no check of {about}: {checks:#?}")).1
}

#[tokio::test]
async fn the_doctor_finds_what_is_wrong() {
    let service = Service::prepare(&[]).await;
    let (code, checks) = examine(&service, &[]).await;
    assert_eq!(code, 0, "{checks:#?}");
    for about in [
        "configuration",
        "certificate",
        "certificate time",
        "certificate names",
        "public_url",
        "redis",
        "redis eviction",
    ] {
        assert_eq!(verdict(&checks, about), "ok", "{checks:#?}");
    }
    for about in ["redis durability", "redis rights", "engine", "runner image"] {
        assert_eq!(verdict(&checks, about), "ok", "{checks:#?}");
    }

    let mut redis = service.redis.connect().await;
    configure(&mut redis, "maxmemory-policy", "volatile-ttl").await;
    configure(&mut redis, "appendfsync", "everysec").await;
    let (code, checks) = examine(
        &service,
        &[
            ("LOCKSTEP_PUBLIC_URL", "https://elsewhere.example:1"),
            ("LOCKSTEP_RUNNER_NETWORK", "no-such-network-of-lockstep"),
            ("LOCKSTEP_RUNNER_IMAGE", "lockstep.invalid/none"),
        ],
    )
    .await;
    assert_eq!(code, 1, "{checks:#?}");
    assert_eq!(verdict(&checks, "redis eviction"), "problem");
    assert_eq!(verdict(&checks, "redis durability"), "warning");
    assert_eq!(verdict(&checks, "certificate names"), "problem");
    assert_eq!(verdict(&checks, "public_url"), "warning");
    assert_eq!(verdict(&checks, "runner image"), "problem");
    assert_eq!(verdict(&checks, "runner network"), "problem");
    assert!(says(&checks, "runner network").contains("docker network create no-such-network-of-lockstep"));

    std::fs::write(service.certificate(), "nothing").expect("written");
    let away = [("LOCKSTEP_REDIS_URL", "redis://127.0.0.1:1"), ("LOCKSTEP_ENGINE_HOST", "unix:///no/such/socket")];
    let (code, checks) = examine(&service, &away).await;
    assert_eq!(code, 1, "{checks:#?}");
    for (about, part) in
        [("certificate", "tls.certificate"), ("redis", "Check redis.url"), ("engine", "Check engine.host")]
    {
        assert_eq!(verdict(&checks, about), "problem", "{checks:#?}");
        assert!(says(&checks, about).contains(part), "{checks:#?}");
    }
}

/// A user of Redis with the rights that docs/configuration.md names, and users that lack some.
#[tokio::test]
async fn the_doctor_knows_the_rights_that_are_needed() {
    let service = Service::prepare(&[]).await;
    let mut redis = service.redis.connect().await;
    let documentation = include_str!("../../docs/configuration.md");
    let documented =
        documentation.lines().find_map(|line| line.strip_prefix("ACL SETUSER lockstep ")).expect("the rights");
    let documented = documented.replace("…", "pw").replace("lockstep:*", &format!("lockstep:{}:*", service.instance));
    let url = format!("redis://lockstep@127.0.0.1:{}", port(&service));
    let settings = [("LOCKSTEP_REDIS_URL", url.as_str()), ("LOCKSTEP_REDIS_PASSWORD", "pw")];

    let mut give = async |rights: &str| {
        let mut command = redis::cmd("ACL");
        command.arg("SETUSER").arg("lockstep").arg("reset").arg(rights.split_whitespace().collect::<Vec<_>>());
        command.query_async::<()>(&mut redis).await.expect(rights);
    };
    give(&documented).await;
    let (code, checks) = examine(&service, &settings).await;
    assert_eq!((code, verdict(&checks, "redis rights")), (0, "ok"), "{checks:#?}");
    assert_eq!(verdict(&checks, "redis durability"), "ok", "{checks:#?}");

    give(&documented.replace("+config|get", "")).await;
    let (_, checks) = examine(&service, &settings).await;
    assert_eq!(verdict(&checks, "redis eviction"), "ok", "INFO tells it as well: {checks:#?}");
    assert_eq!(verdict(&checks, "redis durability"), "warning", "{checks:#?}");

    give(&format!("{documented} -xadd -incr")).await;
    let (code, checks) = examine(&service, &settings).await;
    assert_eq!((code, verdict(&checks, "redis rights")), (1, "problem"), "{checks:#?}");
    assert!(says(&checks, "redis rights").contains("incr, xadd"), "{checks:#?}");

    give(&documented.replace("~lockstep", "~other")).await;
    let (_, checks) = examine(&service, &settings).await;
    assert!(says(&checks, "redis rights").contains("hset"), "{checks:#?}");
    assert!(!says(&checks, "redis rights").contains("publish"), "{checks:#?}");

    give(&format!("{documented} -eval")).await;
    let (_, checks) = examine(&service, &settings).await;
    assert!(says(&checks, "redis rights").contains("scripts"), "{checks:#?}");

    let (_, checks) = examine(&service, &[settings[0], ("LOCKSTEP_REDIS_PASSWORD", "another")]).await;
    assert!(says(&checks, "redis").contains("redis.password"), "{checks:#?}");
}

#[tokio::test]
async fn a_wrong_configuration_is_told_whole_by_doctor_and_service() {
    let service = Service::prepare(&[]).await;
    let wrong = [("LOCKSTEP_LISTEN", "here"), ("LOCKSTEP_JOB_RUN_TIMEOUT", "soon"), ("LOCKSTEP_RUNER_IMAGE", "x")];
    let mut command = binary(&service, &wrong);
    command.arg("doctor");
    let output = ended(command).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(text.lines().filter(|line| line.starts_with("PROBLEM  configuration ")).count(), 3, "{text}");

    let mut command = binary(&service, &wrong);
    command.arg("serve");
    let output = ended(command).await;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{text}");
    for part in ["LOCKSTEP_LISTEN: ", "LOCKSTEP_JOB_RUN_TIMEOUT: ", "did you mean LOCKSTEP_RUNNER_IMAGE?"] {
        assert!(text.contains(part), "{text}");
    }

    let mut command = binary(&service, &[("LOCKSTEP_TLS_KEY", "/no/such/key")]);
    command.arg("serve");
    let output = ended(command).await;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("tls.key (/no/such/key)"), "{text}");
}

/// A service whose log goes to a file.
fn spawn(service: &Service, settings: &[(&str, &str)]) -> (Child, std::path::PathBuf) {
    let path = service.folder.path().join("own-log");
    let log = std::fs::File::create(&path).expect("a log");
    let child = binary(service, settings).arg("serve").stdout(Stdio::null()).stderr(log).spawn().expect("it runs");
    (child, path)
}

async fn exit_code(mut child: Child) -> Option<i32> {
    tokio::time::timeout(PATIENCE, child.wait()).await.expect("it ends").expect("it ran").code()
}

#[tokio::test]
async fn an_evicting_redis_is_refused() {
    let service = Service::prepare(&[]).await;
    configure(&mut service.redis.connect().await, "maxmemory-policy", "allkeys-lru").await;
    let (child, log) = spawn(&service, &[]);
    assert_eq!(exit_code(child).await, Some(1));
    let log = std::fs::read_to_string(log).expect("a log");
    assert!(
        log.contains("maxmemory-policy is allkeys-lru") && log.contains("Set maxmemory-policy noeviction"),
        "{log}"
    );
}

#[tokio::test]
async fn an_evicting_redis_that_comes_later_is_refused_as_well() {
    let mut service = Service::prepare(&[]).await;
    service.redis.kill();
    let (child, log) = spawn(&service, &[]);
    eventually("the absence of Redis is told", async || {
        std::fs::read_to_string(&log).ok().filter(|log| log.contains("Redis is not reached"))
    })
    .await;
    let url = service.redis.url();
    let password =
        url.strip_prefix("redis://:").and_then(|rest| rest.split_once('@')).map_or("", |(password, _)| password);
    let mut redis = Sync::new("redis-server")
        .args([
            "--port",
            &port(&service),
            "--requirepass",
            password,
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--maxmemory-policy",
            "allkeys-random",
        ])
        .current_dir(service.folder.path())
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server is installed");
    let code = exit_code(child).await;
    redis.kill().and_then(|()| redis.wait()).expect("Redis ends");
    let log = std::fs::read_to_string(log).expect("a log");
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("maxmemory-policy is allkeys-random"), "{log}");
}

#[tokio::test]
async fn a_signal_ends_the_service_in_order() {
    let mut service = Service::start(&[]).await;
    let (code, _) = examine(&service, &[]).await;
    assert_eq!(code, 0);
    for signal in ["TERM", "INT"] {
        service.kill();
        let (child, log) = spawn(&service, &[]);
        service.ready().await;
        let pid = child.id().expect("it runs").to_string();
        let told = Sync::new("kill").args([&format!("-{signal}"), &pid]).status().expect("kill is there");
        assert!(told.success());
        let log = std::fs::read_to_string(log).expect("a log");
        assert_eq!(exit_code(child).await, Some(0), "{log}");
    }
}

/// Whoever reads a document may leave before its end.
#[tokio::test]
async fn documents_are_printed_whole_or_as_far_as_wanted() {
    let run = async |line: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", line]).env("LOCKSTEP", env!("CARGO_BIN_EXE_lockstep")).kill_on_drop(true);
        ended(command).await
    };
    let output = run("\"$LOCKSTEP\" serve --print-default-config").await;
    assert_eq!(String::from_utf8_lossy(&output.stdout), lockstep::config::DEFAULT);
    let output = run("{ \"$LOCKSTEP\" openapi; echo $? >&2; } | true").await;
    assert_eq!(String::from_utf8_lossy(&output.stderr), "0\n");
}
