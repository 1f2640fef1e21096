//! Existing clients, unchanged: one polls through handovers of the dispatcher and restarts of Redis, and prints the whole output once.

use std::process::Stdio;

use tokio::process::{Child, Command};

use super::handover::{Stage, ended};
use super::support::eventually;
use super::support::service::secret_of;

const CLIENT: &str = include_str!("existing/client.py");
/// Between two requests; in the field it is ten times as long.
const PAUSE: &str = "0.2";

/// The client, and what it has printed so far.
struct Client {
    child: Child,
    folder: tempfile::TempDir,
}

impl Client {
    fn start(stage: &Stage) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name| std::fs::File::create(folder.path().join(name)).expect("a file");
        let child = Command::new("python3")
            .args(["-c", CLIENT, &stage.service.url("")])
            .arg(stage.service.certificate())
            .args(["one", &secret_of("one"), PAUSE])
            .stdin(Stdio::null())
            .stdout(file("out"))
            .stderr(file("err"))
            .kill_on_drop(true)
            .spawn()
            .expect("python3 runs");
        Self { child, folder }
    }

    fn printed(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("out")).expect("text")
    }

    fn complained(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("err")).expect("text")
    }

    /// Waits until it has printed some more.
    async fn go_on(&mut self) {
        let wanted = self.printed().lines().count() + 10;
        eventually("the client prints more", async || {
            if let Some(status) = self.child.try_wait().expect("a child") {
                panic!("it gave up ({status}): {}", self.complained());
            }
            (self.printed().lines().count() >= wanted).then_some(())
        })
        .await;
    }

    async fn ended(mut self) -> (Option<i32>, String, String) {
        let status = eventually("the client ends", async || self.child.try_wait().expect("a child")).await;
        (status.code(), self.printed(), self.complained())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_sees_its_deployment_through_handovers_and_restarts_of_redis() {
    let mut stage = Stage::set_with(&[("LOCKSTEP_COMPAT_FINAL_STATUS", "outcome")]).await;
    stage.feed().await;
    let mut client = Client::start(&stage);
    for _ in 0..2 {
        client.go_on().await;
        let old = stage.service.succeed(&[]);
        client.go_on().await;
        assert_eq!(ended(old).await.code(), Some(0));
        stage.service.redis.kill();
        // Not back before the client has felt it.
        let felt = client.complained().len();
        eventually("the client meets trouble", async || (client.complained().len() > felt).then_some(())).await;
        stage.service.redis.restart().await;
    }
    client.go_on().await;
    stage.let_end();
    let (code, printed, complained) = client.ended().await;
    assert_eq!(code, Some(0), "{complained}");
    assert_eq!(printed, Stage::whole_output(&printed), "everything once");
    assert!(complained.lines().all(|line| line.starts_with("/job-status/ 503")), "{complained}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_tells_a_failure_from_a_success_and_is_refused_beside_another() {
    let stage = Stage::set_with(&[
        ("LOCKSTEP_COMPAT_FINAL_STATUS", "outcome"),
        ("LOCKSTEP_RUNNER_ACTIONS", "app-deploy=sh /marks/job.sh 3"),
    ])
    .await;
    stage.feed().await;
    let mut first = Client::start(&stage);
    first.go_on().await;
    let (code, printed, complained) = Client::start(&stage).ended().await;
    assert_eq!((code, printed.as_str()), (Some(1), ""));
    assert!(complained.contains("App deployment is already running"), "{complained}");
    stage.let_end();
    let (code, printed, complained) = first.ended().await;
    assert_eq!((code, complained.as_str()), (Some(1), ""));
    assert_eq!(printed, Stage::whole_output(&printed), "everything once");
}
