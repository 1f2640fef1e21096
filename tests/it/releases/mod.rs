//! Releases on a real Redis and an engine in memory: what the rule wants done is done once, whoever does it and whatever dies in between.

mod faults;
mod locks;
mod turns;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lockstep::config::{Job, Runner};
use lockstep::dispatch::{Dispatcher, NewRelease, Parts, ReleaseRefusal, Request};
use lockstep::engine::Pull;
use lockstep::model::app::{App, Secret};
use lockstep::model::event::Cursor;
use lockstep::model::ids::{JobId, ReleaseId, Word};
use lockstep::model::job::WhenBusy;
use lockstep::model::order::rule::ACTIONS;
use lockstep::model::pipeline::file;
use lockstep::model::release::command::Command;
use lockstep::model::release::{Act, Artifact, Finding, Kind, Release, Report, Standing, Verdict};
use lockstep::pepper::Pepper;
use lockstep::store::{Store, StoredApp};
use serde_json::{Map, Value};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::support::eventually;
use super::support::redis::RedisServer;
use super::support::scripted::Scripted;

/// Two services that are deployed together, tested, and released.
pub(super) const FOO: &str = "\
pipeline: foo
product: foo
services:
  backend: {hardening: app-b, production: prod-b}
  frontend: {hardening: app-f, production: prod-f}
stages:
  - stage: hardening
    steps:
      - {name: deploy, deploy: blue_green}
      - {name: tests, run: app-t}
    promote: auto
  - stage: production
    steps:
      - {name: deploy, deploy: direct}
";

/// A product that two reporters look at, and people certify.
pub(super) const CHECKED: &str = "\
pipeline: checked
product: kitchen
services: {product: {}}
stages:
  - stage: vendor
    steps:
      - {name: validation, check: [ci-a, ci-b], deadline: 1h, action: Validate}
    promote: auto
  - stage: customers
    steps:
      - {name: validation, check: subscribers, deadline: 1h}
      - {name: certification, approval: [sysadmins]}
    promote: manual
  - stage: production
    ready_to_deploy: true
    steps:
      - {name: grace, soak: 1s}
";

const APPS: [&str; 5] = ["app-b", "app-f", "app-t", "prod-b", "prod-f"];

pub(super) fn word(text: &str) -> Word {
    text.parse().expect("a name")
}

/// An installation whose engine does what the test says. Apps `app-b` … have the inventories `i-app-b` ….
pub(super) struct Installation {
    pub(super) redis: RedisServer,
    pub(super) engine: Scripted,
    certificate: tempfile::NamedTempFile,
}

/// A dispatcher of it.
pub(super) struct Running {
    pub(super) dispatcher: Arc<Dispatcher>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    /// Stops it as a crash would: nothing is finished, nothing taken back.
    pub(super) fn crash(self) {
        self.task.abort();
    }

    pub(super) async fn stop(self) {
        self.stop.cancel();
        self.task.await.expect("it ends well");
    }
}

/// A key of the instance.
pub(super) fn key(name: &str) -> String {
    format!("lockstep:test:{name}")
}

impl Installation {
    /// What Redis answers to a command.
    pub(super) async fn ask<T: redis::FromRedisValue>(&self, command: &str, args: &[&str]) -> T {
        let mut connection = self.redis.connect().await;
        redis::cmd(command).arg(args).query_async(&mut connection).await.expect("Redis answers")
    }

    pub(super) async fn new() -> Self {
        let certificate = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(certificate.path(), "no certificate\n").expect("written");
        let engine = Scripted::by_hand();
        engine.image("image", "sha256:1", true);
        Self { redis: RedisServer::start().await, engine, certificate }
    }

    /// Starts a dispatcher and waits until it is ready; the first one records apps and pipelines.
    pub(super) async fn start(&self, name: &str) -> Running {
        let instance = "test".parse().expect("a name");
        let store =
            Store::connect(&self.redis.url(), &instance, name, Duration::from_secs(3600)).await.expect("a store");
        let dispatcher = Dispatcher::new(Parts {
            instance,
            store,
            engine: Arc::new(self.engine.clone()),
            pepper: Pepper::new(&Secret::new("0123456789abcdef".into())),
            runner: Runner {
                image: "image".into(),
                pull: Pull::Never,
                login: None,
                actions: std::iter::once("app-deploy")
                    .chain(ACTIONS)
                    .map(|action| (action.parse().expect("a name"), vec!["true".to_owned()]))
                    .collect(),
                network: None,
                mounts: vec![],
                env: BTreeMap::new(),
                memory: 1 << 30,
                millicpus: 1000,
                pids: 64,
                keep: Duration::from_millis(100),
            },
            job: Job {
                start_timeout: Duration::from_secs(60),
                run_timeout: Duration::from_secs(600),
                idle_timeout: None,
                stop_grace: Duration::from_secs(5),
                output_limit: 1 << 20,
                retention: Duration::from_secs(3600),
            },
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
        let running = Running { dispatcher, stop, task };
        running.prepare().await;
        running
    }
}

fn app(id: &str) -> App {
    App {
        deployment_id: id.parse().expect("a name"),
        inventory: format!("i-{id}").parse().expect("a name"),
        action: "app-deploy".parse().expect("a name"),
        vars: BTreeMap::new(),
        oidc: vec![],
    }
}

fn act(by: &str, at_ms: u64) -> Act {
    Act { by: Some(word(by)), reason: "because".into(), at_ms }
}

impl Running {
    pub(super) fn store(&self) -> &Store {
        self.dispatcher.store()
    }

    async fn prepare(&self) {
        let apps: Vec<_> = APPS.iter().map(|id| StoredApp { app: app(id), hash: Some(vec![0; 32]) }).collect();
        self.store().set_apps(&apps, true).await.expect("Redis answers").expect("taken");
        for text in [FOO, CHECKED] {
            self.record(text).await;
        }
    }

    pub(super) async fn record(&self, pipeline: &str) {
        let read = file::read(pipeline).expect("a pipeline");
        self.store().set_pipeline(&read, pipeline, "ada").await.expect("Redis answers");
    }

    pub(super) async fn create(&self, pipeline: &str, services: &[(&str, &str)]) -> ReleaseId {
        self.try_create(pipeline, None, services, None).await.expect("made").id
    }

    pub(super) async fn try_create(
        &self,
        pipeline: &str,
        stage: Option<&str>,
        services: &[(&str, &str)],
        key: Option<&str>,
    ) -> Result<Release, ReleaseRefusal> {
        let artifact = |version: &str| Artifact { version: version.to_owned(), reference: None, digest: None };
        let services = services.iter().map(|(name, version)| (word(name), artifact(version))).collect();
        let new = NewRelease {
            pipeline: word(pipeline),
            stage: stage.map(word),
            kind: Kind::Update,
            services,
            metadata: BTreeMap::new(),
            by: word("tim"),
            idempotency_key: key.map(str::to_owned),
        };
        self.dispatcher.create_release(new).await.map(|seen| seen.release)
    }

    pub(super) async fn release(&self, id: ReleaseId) -> Release {
        self.dispatcher.seen_release(id).await.expect("a release").release
    }

    pub(super) async fn standing(&self, id: ReleaseId) -> Standing {
        let seen = self.dispatcher.seen_release(id).await.expect("a release");
        seen.release.standing(&seen.pipeline)
    }

    pub(super) async fn stands(&self, id: ReleaseId, standing: Standing) -> Release {
        eventually(&format!("the release is {}", standing.word()), async || {
            let seen = self.dispatcher.seen_release(id).await.ok()?;
            (seen.release.standing(&seen.pipeline) == standing).then_some(seen.release)
        })
        .await
    }

    /// Waits until its current stage is this one.
    pub(super) async fn enters(&self, id: ReleaseId, stage: &str) -> Release {
        eventually(&format!("the release enters {stage}"), async || {
            let release = self.dispatcher.seen_release(id).await.ok()?.release;
            let visit = release.visit()?;
            (visit.stage.as_str() == stage && release.entering.is_none()).then(|| release.clone())
        })
        .await
    }

    /// What was told of it, in order.
    pub(super) async fn told(&self, id: ReleaseId) -> Vec<String> {
        let events = self.store().release_events(id, Cursor::START, 1000).await.expect("Redis answers");
        assert!(events.last && !events.missed);
        let global = self.store().events(Cursor::START, 10_000).await.expect("Redis answers").events;
        let global: Vec<_> = global.into_iter().filter(|event| event.about == id.to_string()).collect();
        assert_eq!(events.events, global, "its own events are those of all");
        events.events.into_iter().map(|event| event.what).collect()
    }

    pub(super) async fn deploy(&self, id: &str) -> JobId {
        let request = Request {
            app: app(id),
            secret: None,
            by: "a test".into(),
            vars: Map::new(),
            when_busy: WhenBusy::Fifo,
            idempotency_key: None,
        };
        self.dispatcher.submit(request).await.expect("accepted").job
    }

    pub(super) async fn says(&self, id: ReleaseId, command: impl Fn(Act) -> Command + Send + Sync) {
        self.dispatcher.change_release(id, |at_ms| command(act("ada", at_ms))).await.expect("it may be done");
    }

    async fn report(&self, id: ReleaseId, reporter: &str, stage: &str, result: Finding) -> Result<(), ReleaseRefusal> {
        let command = |at_ms| Command::Report {
            reporter: word(reporter),
            stage: word(stage),
            step: None,
            report: Report { result, link: None, status: None, comment: None, log: None, at_ms },
        };
        self.dispatcher.change_release(id, command).await.map(drop)
    }
}

/// The variables that a container was given.
fn variables(here: &Installation, container: &str) -> Value {
    let files = here.engine.content(container, "/run/lockstep/vars.json");
    let vars: Value = serde_json::from_slice(&files).expect("JSON");
    vars["lockstep_release"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bracket_goes_through_its_stages_and_every_step_is_told_in_order() {
    let here = Installation::new().await;
    let one = here.start("one").await;
    let id = one.create("foo", &[("backend", "2"), ("frontend", "3")]).await;
    let (backend, frontend) = (here.engine.begun("i-app-b").await, here.engine.begun("i-app-f").await);
    let vars = variables(&here, &backend);
    assert_eq!(
        (&vars["operation"], &vars["strategy"], &vars["service"]),
        (&"deploy".into(), &"blue_green".into(), &"backend".into())
    );
    assert_eq!((&vars["version"], &vars["previous"], &vars["id"]), (&"2".into(), &Value::Null, &id.to_string().into()));
    assert_eq!(
        (&vars["services"]["frontend"]["version"], &vars["services"]["frontend"]["inventory"]),
        (&"3".into(), &"i-app-f".into())
    );
    let job = one.release(id).await.busy_jobs()[0];
    assert_eq!(one.store().record(job).await.expect("Redis answers").expect("a job").release, Some(id));
    // What a job reports reaches those after it.
    let report = serde_json::json!({"outputs": {"uri": "http://green"}}).as_object().cloned().expect("an object");
    for job in one.release(id).await.busy_jobs() {
        one.store().progress(job, &report).await.expect("Redis answers");
    }
    here.engine.exit(&backend, 0);
    here.engine.exit(&frontend, 0);
    let tests = here.engine.begun("i-app-t").await;
    let vars = variables(&here, &tests);
    assert_eq!(vars["outputs"]["deploy"]["frontend"]["uri"], "http://green");
    here.engine.exit(&tests, 0);
    one.enters(id, "production").await;
    let (backend, frontend) = (here.engine.begun("i-prod-b").await, here.engine.begun("i-prod-f").await);
    here.engine.exit(&backend, 0);
    here.engine.exit(&frontend, 0);
    one.stands(id, Standing::Undecided).await;
    let decide = |at_ms| Command::Decide { act: act("ada", at_ms), verdict: Verdict::Accepted };
    one.dispatcher.change_release(id, decide).await.expect("decided");
    assert_eq!(
        one.told(id).await,
        [
            "configuration-change.triggered",
            "deploy.triggered",
            "deploy.started",
            "deploy.finished",
            "tests.triggered",
            "tests.started",
            "tests.finished",
            "promote.triggered",
            "promote.started",
            "promote.finished",
            "configuration-change.finished",
            "configuration-change.triggered",
            "deploy.triggered",
            "deploy.started",
            "deploy.finished",
            "configuration-change.finished",
            "accepted",
        ]
    );
    // The next one knows what was there.
    let next = one.create("foo", &[("backend", "4")]).await;
    let backend = here.engine.begun("i-app-b").await;
    assert_eq!(variables(&here, &backend)["previous"]["version"], "2");
    assert_eq!(one.standing(next).await, Standing::Working);
    assert_eq!(here.engine.violations(), Vec::<String>::new());
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_failure_undoes_the_others_and_says_so() {
    let here = Installation::new().await;
    let one = here.start("one").await;
    let id = one.create("foo", &[("backend", "2"), ("frontend", "3")]).await;
    let (backend, frontend) = (here.engine.begun("i-app-b").await, here.engine.begun("i-app-f").await);
    here.engine.exit(&backend, 0);
    here.engine.exit(&frontend, 7);
    for inventory in ["i-app-b", "i-app-f"] {
        let undo = here.engine.begun(inventory).await;
        assert_eq!(variables(&here, &undo)["operation"], "undo", "{inventory}");
        here.engine.exit(&undo, 0);
    }
    let release = one.stands(id, Standing::Failed).await;
    let step = &release.visit().expect("a stage").steps[0];
    let note = step.note.clone().expect("a note");
    assert!(note.contains("frontend is undone: job") && note.contains("failed"), "{note}");
    assert!(note.contains("backend is undone"), "{note}");
    // Whoever retries gets the whole bracket again.
    one.dispatcher.change_release(id, |at_ms| Command::Retry { act: act("ada", at_ms) }).await.expect("retried");
    let (backend, frontend) = (here.engine.begun("i-app-b").await, here.engine.begun("i-app-f").await);
    here.engine.exit(&backend, 0);
    here.engine.exit(&frontend, 0);
    here.engine.begun("i-app-t").await;
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_and_approvals_move_a_release() {
    let here = Installation::new().await;
    let one = here.start("one").await;
    for (name, product) in [("cust-a", "kitchen"), ("cust-b", "kitchen"), ("cust-c", "other")] {
        one.store().set_reporter(&word(name), &[word(product)].into(), "ada").await.expect("Redis answers");
    }
    let id = one.create("checked", &[("product", "1")]).await;
    assert_eq!(one.store().asking(&word("ci-a")).await.expect("Redis answers"), [id]);
    one.report(id, "ci-a", "vendor", Finding::Pass).await.expect("taken");
    assert_eq!(one.store().asking(&word("ci-a")).await.expect("Redis answers"), []);
    assert_eq!(one.standing(id).await, Standing::Waiting);
    // Once more is as if once; something else is refused; and so is whoever is not asked.
    one.report(id, "ci-a", "vendor", Finding::Pass).await.expect("taken");
    for (reporter, stage) in [("ci-a", "vendor"), ("cust-a", "vendor"), ("ci-b", "customers"), ("ci-b", "nowhere")] {
        let refused = one.report(id, reporter, stage, Finding::Fail).await;
        assert!(matches!(refused, Err(ReleaseRefusal::Refused(_))), "{reporter} {stage}: {refused:?}");
    }
    one.report(id, "ci-b", "vendor", Finding::Warning).await.expect("taken");
    let release = one.release(id).await;
    assert_eq!(release.visit().expect("a stage").stage, word("customers"));
    // The set is frozen: who comes later is not asked, who leaves is.
    one.store().set_reporter(&word("cust-d"), &[word("kitchen")].into(), "ada").await.expect("Redis answers");
    one.store().remove_reporter(&word("cust-b")).await.expect("Redis answers");
    assert!(one.report(id, "cust-d", "customers", Finding::Pass).await.is_err());
    one.report(id, "cust-a", "customers", Finding::Pass).await.expect("taken");
    one.report(id, "cust-b", "customers", Finding::Pass).await.expect("taken");
    let approve = |by: &str, group: &str| {
        let (by, groups) = (by.to_owned(), vec![word(group)]);
        let dispatcher = one.dispatcher.clone();
        async move {
            dispatcher
                .change_release(id, |at_ms| Command::Approve { act: act(&by, at_ms), groups: groups.clone() })
                .await
        }
    };
    assert!(matches!(approve("tim", "sysadmins").await, Err(ReleaseRefusal::Refused(_))), "his own");
    assert!(matches!(approve("eve", "others").await, Err(ReleaseRefusal::Refused(_))), "not of the group");
    approve("ada", "sysadmins").await.expect("approved");
    one.stands(id, Standing::Ready).await;
    one.dispatcher
        .change_release(id, |at_ms| Command::Promote { act: act("ada", at_ms), to: None })
        .await
        .expect("promoted");
    // The soak time passes by itself.
    let release = one.stands(id, Standing::Undecided).await;
    assert_eq!(release.visit().expect("a stage").steps[0].result, Some(Finding::Pass));
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_release_changes_nothing() {
    let here = Installation::new().await;
    let one = here.start("one").await;
    for (pipeline, stage, services) in [
        ("none", None, vec![("backend", "1")]),
        ("foo", None, vec![]),
        ("foo", None, vec![("nobody", "1")]),
        ("foo", None, vec![("backend", "")]),
        ("foo", None, vec![("backend", "a b")]),
        ("foo", Some("nowhere"), vec![("backend", "1")]),
        ("foo", Some("production"), vec![("backend", "1")]),
    ] {
        let refused = one.try_create(pipeline, stage, &services, None).await;
        assert!(refused.is_err(), "{pipeline} {stage:?} {services:?}");
    }
    let unknown: ReleaseId = "01GZEC5GJHFKWMK4Z5A1NM9DPF".parse().expect("an id");
    assert!(matches!(one.report(unknown, "ci-a", "vendor", Finding::Pass).await, Err(ReleaseRefusal::Unknown)));
    assert!(one.store().active_releases(None).await.expect("Redis answers").is_empty());
    // One request is one release, however often it is sent.
    let first = one.try_create("foo", None, &[("backend", "1")], Some("key")).await.expect("made");
    let again = one.try_create("foo", None, &[("backend", "1")], Some("key")).await.expect("made before");
    assert_eq!(first.id, again.id);
    let other = one.try_create("foo", None, &[("backend", "2")], Some("key")).await;
    assert!(matches!(other, Err(ReleaseRefusal::KeyReused)), "{other:?}");
    one.stop().await;
}
