//! The dispatcher on a real Redis and a real engine: a job's way, queueing, canceling, deadlines, adoption, rebuild.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lockstep::config::{Job, Runner};
use lockstep::dispatch::{Accepted, Dispatcher, Parts, Refusal, Request};
use lockstep::engine::docker::Docker;
use lockstep::engine::{Engine, Mount, Pull};
use lockstep::model::app::{App, Secret};
use lockstep::model::event::Cursor;
use lockstep::model::ids::{Action, Instance, JobId};
use lockstep::model::job::{Outcome, Record, State, WhenBusy};
use lockstep::pepper::Pepper;
use lockstep::store::Store;
use serde_json::{Map, Value};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::support::eventually;
use super::support::redis::RedisServer;

/// An installation of its own on the machine's engine: what it leaves there is removed at the end.
struct Installation {
    redis: RedisServer,
    instance: Instance,
    certificate: tempfile::NamedTempFile,
    job: Job,
    runner: Runner,
    running: Option<Running>,
}

struct Running {
    dispatcher: Arc<Dispatcher>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// Makes a waiting container go on. Detached: it may end, and all that runs in it, before the command that told it has.
async fn go_on(container: &str) {
    let status =
        tokio::process::Command::new("docker").args(["exec", "--detach", container, "touch", "/tmp/go"]).status().await;
    assert!(status.expect("docker is installed").success());
}

impl Installation {
    async fn new() -> Self {
        let instance = format!("test-{}", &lockstep::clock::draw_name()[..12]).parse().expect("a name");
        let shell = |script: &str| vec!["sh".to_owned(), "-c".to_owned(), script.to_owned()];
        let actions = [
            ("app-deploy", "echo hello; echo to standard error >&2; echo done"),
            ("fail", "echo oops; exit 7"),
            (
                "wait",
                "echo begun; trap 'echo stopping; exit 143' TERM; while [ ! -e /tmp/go ]; do sleep 0.05; done; echo gone on",
            ),
            ("deaf", "echo begun; trap '' TERM; while :; do sleep 0.05; done"),
            (
                "files",
                "cat /run/lockstep/vars.json; echo; cat /run/lockstep/token; echo; env | grep LOCKSTEP_ | sort; ls -l /run/lockstep",
            ),
            ("flood", "seq 1 40000"),
            ("flood-and-wait", "seq 1 40000; while [ ! -e /tmp/go ]; do sleep 0.05; done; echo gone on"),
        ];
        let runner = Runner {
            image: "lockstep-base:bookworm".into(),
            pull: Pull::Never,
            login: None,
            actions: actions.map(|(name, script)| (name.parse::<Action>().expect("a name"), shell(script))).into(),
            network: None,
            mounts: vec![],
            env: BTreeMap::new(),
            memory: 256 << 20,
            millicpus: 1000,
            pids: 64,
            keep: Duration::from_millis(500),
        };
        let job = Job {
            start_timeout: Duration::from_secs(60),
            run_timeout: Duration::from_secs(600),
            idle_timeout: None,
            stop_grace: Duration::from_secs(30),
            output_limit: 1 << 20,
            retention: Duration::from_secs(3600),
        };
        let certificate = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(certificate.path(), "no certificate\n").expect("written");
        let redis = RedisServer::start().await;
        let mut installation = Self { redis, instance, certificate, job, runner, running: None };
        installation.start().await;
        installation
    }

    /// Starts a dispatcher and waits until it is ready.
    async fn start(&mut self) {
        let name = lockstep::clock::draw_name();
        let store =
            Store::connect(&self.redis.url(), &self.instance, &name, self.job.retention).await.expect("a store");
        let dispatcher = Dispatcher::new(Parts {
            instance: self.instance.clone(),
            store,
            engine: Arc::new(Docker::connect(None).expect("an engine")),
            pepper: Pepper::new(&Secret::new("0123456789abcdef".into())),
            runner: self.runner.clone(),
            job: self.job.clone(),
            public_url: "https://host.docker.internal:8443".into(),
            ca: self.certificate.path().to_owned(),
            release_retention: Duration::from_secs(3600),
            order_parallel: 4,
            feed_at_start: false,
            metrics: Arc::default(),
        });
        let stop = CancellationToken::new();
        let task = tokio::spawn({
            let (dispatcher, stop) = (dispatcher.clone(), stop.clone());
            async move { dispatcher.run(stop).await.expect("no part dies") }
        });
        eventually("the dispatcher is ready", async || dispatcher.readiness().await.is_ready().then_some(())).await;
        self.running = Some(Running { dispatcher, stop, task });
    }

    async fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop.cancel();
            running.task.await.expect("it ends well");
        }
    }

    fn dispatcher(&self) -> &Arc<Dispatcher> {
        &self.running.as_ref().expect("a running dispatcher").dispatcher
    }

    fn store(&self) -> &Store {
        self.dispatcher().store()
    }

    async fn submit(&self, action: &str, inventory: &str, when_busy: WhenBusy) -> Result<Accepted, Refusal> {
        let app = App {
            deployment_id: format!("app-{inventory}").parse().expect("a name"),
            inventory: inventory.parse().expect("a name"),
            action: action.parse().expect("a name"),
            vars: serde_json::from_value(serde_json::json!({"version": {}})).expect("rules"),
            oidc: vec![],
        };
        let mut vars = Map::new();
        vars.insert("version".into(), Value::from("1.2"));
        let secret = Some(Secret::new("secret123".into()));
        self.dispatcher()
            .submit(Request { app, secret, by: "a test".into(), vars, when_busy, idempotency_key: None })
            .await
    }

    async fn accepted(&self, action: &str, inventory: &str) -> JobId {
        self.submit(action, inventory, WhenBusy::Fifo).await.expect("accepted").job
    }

    async fn record(&self, job: JobId) -> Record {
        self.store().record(job).await.expect("Redis answers").expect("a record")
    }

    async fn ended(&self, job: JobId) -> Record {
        eventually("the job ends", async || Some(self.record(job).await).filter(|record| record.state.is_ended())).await
    }

    async fn output(&self, job: JobId) -> String {
        let (bytes, _) = self.store().output(job, 0, 1 << 24).await.expect("Redis answers").expect("a job");
        String::from_utf8(bytes).expect("text")
    }

    async fn prints(&self, job: JobId, text: &str) {
        eventually("the job prints", async || self.output(job).await.contains(text).then_some(())).await;
    }

    /// Makes a waiting container go on.
    async fn let_go(&self, job: JobId) {
        go_on(&self.record(job).await.container.expect("a container")).await;
    }

    /// Nothing is left: no lock, no container.
    async fn leaves_nothing(&self) {
        let engine = Docker::connect(None).expect("an engine");
        eventually("no lock and no container is left", async || {
            let (locks, _) = self.store().locks().await.ok()?;
            let containers = engine.list(&self.instance).await.ok()?;
            (locks.is_empty() && containers.is_empty()).then_some(())
        })
        .await;
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        super::support::remove_containers(&format!("lockstep.instance={}", self.instance));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_runs_and_its_exit_code_is_the_outcome() {
    let here = Installation::new().await;
    let good = here.accepted("app-deploy", "one").await;
    let bad = here.accepted("fail", "two").await;
    let record = here.ended(good).await;
    assert_eq!(record.state, State::Ended(Outcome::Succeeded));
    assert_eq!(record.exit_code, Some(0));
    let output = here.output(good).await;
    let mut lines: Vec<_> = output.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["done", "hello", "to standard error"]);
    let record = here.ended(bad).await;
    assert_eq!((record.state, record.exit_code), (State::Ended(Outcome::Failed), Some(7)));
    assert_eq!(here.output(bad).await, "oops\n");
    here.leaves_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_gets_its_files_and_prints_none_of_its_secrets() {
    let here = Installation::new().await;
    let job = here.accepted("files", "one").await;
    assert_eq!(here.ended(job).await.exit_code, Some(0));
    let output = here.output(job).await;
    assert!(output.starts_with("{\"version\":\"1.2\"}\n***\n"), "{output}");
    for part in [
        &format!("LOCKSTEP_JOB_ID={job}\n"),
        "LOCKSTEP_INVENTORY=one\n",
        "LOCKSTEP_DEPLOYMENT_ID=app-one\n",
        "LOCKSTEP_URL=https://host.docker.internal:8443\n",
        "-r--r--r--",
        "ca.crt",
        "sealed",
    ] {
        assert!(output.contains(part), "{part:?} should be in {output}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_runs_and_the_newest_waits() {
    let here = Installation::new().await;
    let first = here.accepted("wait", "one").await;
    here.prints(first, "begun").await;
    assert!(matches!(
        here.submit("wait", "one", WhenBusy::Reject).await,
        Err(Refusal::Busy { holder }) if holder == first
    ));
    let second = here.submit("wait", "one", WhenBusy::Queue).await.expect("accepted");
    assert_eq!(second.position, Some(1));
    let third = here.submit("app-deploy", "one", WhenBusy::Queue).await.expect("accepted");
    assert_eq!(third.position, Some(2), "another action waits behind");
    let fourth = here.submit("wait", "one", WhenBusy::Queue).await.expect("accepted");
    assert_eq!(fourth.position, Some(1), "the newer takes the place of the older");
    let displaced = here.ended(second.job).await;
    assert_eq!(displaced.state, State::Ended(Outcome::Superseded));
    assert_eq!(displaced.superseded_by, Some(fourth.job));
    here.let_go(first).await;
    assert_eq!(here.ended(first).await.state, State::Ended(Outcome::Succeeded));
    here.prints(fourth.job, "begun").await;
    here.let_go(fourth.job).await;
    let last = here.ended(third.job).await;
    assert!(last.fence > here.record(fourth.job).await.fence);
    assert!(here.record(fourth.job).await.fence > here.record(first).await.fence);
    here.leaves_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_ends_a_job_politely_and_one_that_is_deaf_by_force() {
    let mut here = Installation::new().await;
    let polite = here.accepted("wait", "one").await;
    here.prints(polite, "begun").await;
    let waiting = here.accepted("app-deploy", "one").await;
    here.dispatcher().cancel(waiting, "somebody").await.expect("recorded");
    assert_eq!(here.record(waiting).await.state, State::Ended(Outcome::Canceled));
    here.dispatcher().cancel(polite, "somebody").await.expect("recorded");
    let record = here.ended(polite).await;
    assert_eq!((record.state, record.exit_code), (State::Ended(Outcome::Canceled), Some(143)));
    assert!(here.output(polite).await.ends_with("stopping\n"));

    here.stop().await;
    here.job.stop_grace = Duration::from_millis(300);
    here.start().await;
    let deaf = here.accepted("deaf", "one").await;
    here.prints(deaf, "begun").await;
    here.dispatcher().cancel(deaf, "somebody").await.expect("recorded");
    let record = here.ended(deaf).await;
    assert_eq!((record.state, record.exit_code), (State::Ended(Outcome::Canceled), Some(137)));
    here.leaves_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deadlines_end_a_job() {
    let mut here = Installation::new().await;
    here.stop().await;
    here.job.idle_timeout = Some(Duration::from_millis(400));
    here.job.stop_grace = Duration::from_millis(100);
    here.start().await;
    let idle = here.accepted("wait", "one").await;
    let record = here.ended(idle).await;
    assert_eq!(record.state, State::Ended(Outcome::TimedOut));
    assert!(record.reason.expect("a reason").contains("idle_timeout"));
    here.stop().await;
    here.job.idle_timeout = None;
    here.job.run_timeout = Duration::from_millis(1500);
    here.start().await;
    let long = here.accepted("wait", "two").await;
    let record = here.ended(long).await;
    assert_eq!(record.state, State::Ended(Outcome::TimedOut));
    assert!(record.reason.expect("a reason").contains("run_timeout"));
    here.leaves_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_or_an_image_that_is_not_there_fails_and_frees_the_lock() {
    let mut here = Installation::new().await;
    here.stop().await;
    here.runner.actions.insert("absent".parse().expect("a name"), vec!["/no/such/command".into()]);
    here.start().await;
    let job = here.accepted("absent", "one").await;
    let record = here.ended(job).await;
    assert_eq!(record.state, State::Ended(Outcome::Failed));
    let reason = record.reason.as_deref().expect("a reason");
    assert!(
        reason.contains("runner.actions") && !reason.contains("/no/such/command"),
        "{reason}: the engine says the rest to the log"
    );
    here.stop().await;
    here.runner.image = "lockstep-absent:none".into();
    here.start().await;
    let job = here.accepted("app-deploy", "one").await;
    let record = here.ended(job).await;
    assert_eq!(record.state, State::Ended(Outcome::Failed));
    assert!(record.reason.as_deref().is_some_and(|reason| reason.contains("lockstep-absent:none")), "{record:?}");
    here.leaves_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_in_mid_job_loses_nothing_and_repeats_nothing() {
    let mut here = Installation::new().await;
    let goes_on = here.accepted("wait", "one").await;
    let ends_meanwhile = here.accepted("wait", "two").await;
    here.prints(goes_on, "begun").await;
    here.prints(ends_meanwhile, "begun").await;
    let container = here.record(ends_meanwhile).await.container.expect("a container");
    here.let_go(goes_on).await;
    here.stop().await;
    go_on(&container).await;
    Docker::connect(None).expect("an engine").wait(&container, Duration::from_secs(30)).await.expect("it ends");
    here.start().await;
    for job in [goes_on, ends_meanwhile] {
        let record = here.ended(job).await;
        assert_eq!(record.state, State::Ended(Outcome::Succeeded));
        assert_eq!(here.output(job).await, "begun\ngone on\n");
    }
    here.leaves_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_cannot_be_read_is_made_anew() {
    let here = Installation::new().await;
    let spoil = async |job: JobId| {
        let key = format!("lockstep:{}:job:{job}", here.instance);
        let mut redis = here.redis.connect().await;
        redis::cmd("HSET").arg(key).arg("state").arg("nonsense").query_async::<()>(&mut redis).await.expect("set");
    };
    let runs = here.accepted("wait", "one").await;
    here.prints(runs, "begun").await;
    let waits = here.accepted("fail", "one").await;
    let next = here.accepted("fail", "one").await;
    spoil(runs).await;
    spoil(waits).await;
    // Nothing else is held up by it.
    let other = here.accepted("fail", "two").await;
    assert_eq!(here.ended(other).await.state, State::Ended(Outcome::Failed));
    // What runs goes on and loses nothing; of what never ran, nothing is known.
    eventually("the record is there again", async || here.store().record(runs).await.ok().flatten()).await;
    here.let_go(runs).await;
    assert_eq!(here.ended(runs).await.state, State::Ended(Outcome::Succeeded));
    assert_eq!(here.output(runs).await, "begun\ngone on\n");
    eventually("the one that waited is lost", async || {
        let record = here.store().record(waits).await.ok().flatten()?;
        (record.state == State::Ended(Outcome::Lost)).then_some(())
    })
    .await;
    assert_eq!(here.ended(next).await.state, State::Ended(Outcome::Failed));

    // How a job has ended is not told again when the rest of its record is made anew.
    let over = here.accepted("fail", "one").await;
    assert_eq!(here.ended(over).await.state, State::Ended(Outcome::Failed));
    let told = async || here.store().events(Cursor::START, 10_000).await.expect("events").events.len();
    let before = told().await;
    let key = format!("lockstep:{}:job:{over}", here.instance);
    let mut redis = here.redis.connect().await;
    redis::cmd("HSET").arg(key).arg("lease").arg("nonsense").query_async::<()>(&mut redis).await.expect("set");
    let mended = eventually("the record is there again", async || here.store().record(over).await.ok().flatten()).await;
    assert_eq!((mended.state, told().await), (State::Ended(Outcome::Failed), before));

    // So is one that is not there at all, and nobody else's is touched by it.
    let runs = here.accepted("wait", "one").await;
    here.prints(runs, "begun").await;
    let waits = here.accepted("app-deploy", "one").await;
    let mut redis = here.redis.connect().await;
    let key = format!("lockstep:{}:job:{runs}", here.instance);
    redis::cmd("DEL").arg(key).query_async::<()>(&mut redis).await.expect("deleted");
    eventually("the record is there again", async || here.store().record(runs).await.ok().flatten()).await;
    here.let_go(runs).await;
    assert_eq!(here.ended(runs).await.state, State::Ended(Outcome::Succeeded));
    assert_eq!(here.ended(waits).await.state, State::Ended(Outcome::Succeeded));
    here.leaves_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn output_beyond_the_cap_is_announced() {
    let mut here = Installation::new().await;
    here.stop().await;
    here.job.output_limit = 64 << 10;
    here.start().await;
    let job = here.accepted("flood", "one").await;
    assert_eq!(here.ended(job).await.exit_code, Some(0));
    let output = here.output(job).await;
    let all: String = (1..=40_000).map(|n| format!("{n}\n")).collect();
    let (head, rest) = output.split_once("\n[lockstep: ").expect("an announcement");
    let (said, tail) = rest.split_once('\n').expect("a line");
    let differs = |a: &str, b: &str| a.bytes().zip(b.bytes()).position(|(a, b)| a != b);
    assert_eq!(differs(head, &all), None, "the head is the beginning: {said}");
    assert_eq!(differs(tail, &all[all.len() - tail.len()..]), None, "the tail is the end: {said}");
    assert_eq!(head.len(), 32 << 10);
    let omitted = all.len() - head.len() - tail.len();
    assert!(said.starts_with(&format!("{omitted} bytes")), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_keeps_the_cap_that_it_began_with() {
    let mut here = Installation::new().await;
    here.stop().await;
    here.job.output_limit = 64 << 10;
    here.start().await;
    let job = here.accepted("flood-and-wait", "one").await;
    let all: String = (1..=40_000).map(|n| format!("{n}\n")).collect();
    let printed = all.len() as u64;
    eventually("all is taken in", async || (here.record(job).await.output.text == printed).then_some(())).await;
    here.stop().await;
    here.job.output_limit = 16 << 10;
    here.start().await;
    here.let_go(job).await;
    assert_eq!(here.ended(job).await.state, State::Ended(Outcome::Succeeded));
    let output = here.output(job).await;
    let (head, rest) = output.split_once("\n[lockstep: ").expect("an announcement");
    let (_, tail) = rest.split_once('\n').expect("a line");
    assert!(all.starts_with(head) && head.len() == 32 << 10, "{}", head.len());
    assert!(format!("{all}gone on\n").ends_with(tail) && tail.len() == 32 << 10, "{}", tail.len());
    here.leaves_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_somebody_else_has_taken_can_be_waited_for_and_given_up() {
    let here = Installation::new().await;
    let name = lockstep::engine::container_name(&here.instance, &"one".parse().expect("a name"));
    let label = format!("lockstep.instance={}", here.instance);
    let docker = async |arguments: &[&str]| {
        let done = tokio::process::Command::new("docker").args(arguments).output().await.expect("docker is installed");
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    };
    docker(&["create", "--name", &name, "--label", &label, "lockstep-base:bookworm", "true"]).await;
    let canceled = here.accepted("app-deploy", "one").await;
    here.dispatcher().cancel(canceled, "ada").await.expect("recorded");
    assert_eq!(here.ended(canceled).await.state, State::Ended(Outcome::Canceled));
    let waits = here.accepted("app-deploy", "one").await;
    docker(&["rm", &name]).await;
    assert_eq!(here.ended(waits).await.state, State::Ended(Outcome::Succeeded));
    here.leaves_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn output_is_withheld_when_a_secret_mount_cannot_be_masked() {
    let mut here = Installation::new().await;
    here.stop().await;
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("key"), "hush").expect("written");
    let target = "/run/secret-of-mount".to_owned();
    here.runner.mounts =
        vec![Mount { source: folder.path().display().to_string(), target, read_only: true, secret: true }];
    here.start().await;
    let job = here.accepted("app-deploy", "one").await;
    assert_eq!(here.ended(job).await.state, State::Ended(Outcome::Succeeded));
    assert!(here.output(job).await.starts_with("[lockstep: the output is withheld"));
    here.leaves_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_redis_is_rebuilt_from_the_engine() {
    let here = Installation::new().await;
    let job = here.accepted("wait", "one").await;
    here.prints(job, "begun").await;
    let fence = here.record(job).await.fence;
    let mut connection = here.redis.connect().await;
    redis::cmd("FLUSHALL").query_async::<()>(&mut connection).await.expect("flushed");
    eventually("the job is back", async || here.store().record(job).await.ok().flatten()).await;
    assert!(matches!(
        here.submit("wait", "one", WhenBusy::Reject).await,
        Err(Refusal::Busy { holder }) if holder == job
    ));
    here.prints(job, "begun").await;
    here.let_go(job).await;
    let record = here.ended(job).await;
    assert_eq!((record.state, record.fence), (State::Ended(Outcome::Succeeded), fence));
    assert_eq!(here.output(job).await, "begun\ngone on\n");
    let next = here.accepted("app-deploy", "one").await;
    assert!(here.ended(next).await.fence > fence);
    here.leaves_nothing().await;
}
