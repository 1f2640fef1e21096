//! The stories of `examples/`, played by their own scripts against the real binary: several reporters, real runner containers, and for the
//! brackets two real services on a host behind a proxy that is switched.

use std::process::Stdio;
use std::time::Duration;

use super::e2e::{Target, with_ansible};
use super::support::service::{OPERATOR_TOKEN, Service};

/// The longest that a play may take.
const PATIENCE: Duration = Duration::from_secs(900);

fn folder() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")
}

/// Plays a story to its end.
async fn play(service: &Service, name: &str, environment: &[(&str, &str)]) {
    let script = folder().join(name).join("play.sh");
    let playing = tokio::process::Command::new("bash")
        .arg(&script)
        .env("LOCKSTEP_URL", service.url(""))
        .env("LOCKSTEP_CA_CERT", service.certificate())
        .env("LOCKSTEP_TOKEN", OPERATOR_TOKEN)
        .env("LOCKSTEP", env!("CARGO_BIN_EXE_lockstep"))
        .env("PLAY_PATIENCE", "300")
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let played = tokio::time::timeout(PATIENCE, playing).await.expect("the play comes to its end").expect("bash runs");
    let said = format!("{}{}", String::from_utf8_lossy(&played.stdout), String::from_utf8_lossy(&played.stderr));
    assert!(played.status.success(), "{said}\n{}", service.log());
    assert!(said.contains("All is as told."), "it comes to its end: {said}");
}

/// Takes a list of apps.
async fn feed(service: &Service, list: &serde_json::Value) {
    let (status, answer) = service.post("/set-available-apps/?force=true", list).await;
    assert_eq!((status, &answer["status"]), (200, &serde_json::json!("ok")), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kitchens_story() {
    let service = Service::start(&[("LOCKSTEP_RUNNER_ACTIONS", "app-deploy=echo deployed")]).await;
    service.feed(&[("app-one", "app-one", "app-deploy"), ("app-two", "app-two", "app-deploy")]).await;
    let apps = "app-one:secret-of-app-one app-two:secret-of-app-two";
    // Once more on the same service: a play leaves nothing behind.
    for _ in 0..2 {
        play(&service, "kitchen", &[("LOCKSTEP_APPS", apps)]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_story_of_the_staged_rollout() {
    let service = Service::start(&[("LOCKSTEP_EGRESS_ALLOW", "127.0.0.0/8")]).await;
    play(&service, "staged-rollout", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_story_of_the_brackets() {
    let target = Target::start(&["dev.foo.test", "hardening.foo.test", "production.foo.test"]);
    let root = folder().join("brackets");
    let mount = |from: &str, to: &str| format!("{}:{to}:ro", root.join(from).display());
    let mounts = [
        target.mount(),
        mount("inventories", "/ansible/inventories"),
        mount("services", "/ansible/services"),
        mount("playbooks/functional-tests.yml", "/ansible/playbooks/functional-tests.yml"),
        mount("playbooks/performance-tests.yml", "/ansible/playbooks/performance-tests.yml"),
        mount("playbooks/evaluation.yml", "/ansible/playbooks/evaluation.yml"),
    ]
    .join(",");
    let actions = "app-deploy=app-deploy {inventory} {job_id};announce-apps=announce-apps;\
        functional-tests=play functional-tests {inventory} {job_id};\
        performance-tests=play performance-tests {inventory} {job_id};evaluation=play evaluation {inventory} {job_id}";
    let settings = [("LOCKSTEP_RUNNER_MOUNTS", mounts.as_str()), ("LOCKSTEP_RUNNER_ACTIONS", actions)];
    let service = with_ansible(&target, &settings).await;
    let apps = std::fs::read(root.join("apps.json")).expect("a list of apps");
    feed(&service, &serde_json::from_slice(&apps).expect("JSON")).await;
    play(&service, "brackets", &[("TARGET", &target.address())]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_story_of_the_shop() {
    let root = folder().join("orders");
    let playing = tokio::process::Command::new("bash")
        .arg(root.join("with-hosts.sh"))
        .arg(root.join("play.sh"))
        .env("LOCKSTEP", env!("CARGO_BIN_EXE_lockstep"))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let played = tokio::time::timeout(PATIENCE, playing).await.expect("the play comes to its end").expect("bash runs");
    let said = format!("{}{}", String::from_utf8_lossy(&played.stdout), String::from_utf8_lossy(&played.stderr));
    assert!(played.status.success(), "{said}");
    assert!(said.contains("All is as told."), "{said}");
}
