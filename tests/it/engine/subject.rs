//! What the suite is run on: an engine, and a store that gives locks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use lockstep::clock;
use lockstep::engine::docker::Docker;
use lockstep::engine::{Engine, File, Labels, Output, Spec};
use lockstep::model::ids::Instance;
use lockstep::model::job::WhenBusy;
use lockstep::model::lock::Held;
use lockstep::model::settle::Phase;
use lockstep::store::{Memory, NewJob, Store, Submitted};

use super::super::support::redis::RedisServer;
use super::super::support::scripted::Scripted;
use super::super::support::scripted::world::{Command, Print, Program};
use super::super::support::{PATIENCE, remove_containers};

/// Longer than anything takes, for waits that must not end by their patience.
pub(super) const LONG: Duration = PATIENCE;
/// For waits that must.
pub(super) const SHORT: Duration = Duration::from_millis(200);

/// What a container is made to do, in words that both engines understand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Play {
    /// Prints bytes of every kind on both streams, the last line without an end, and ends with 0.
    Bytes,
    /// Ends with 7.
    Fails,
    /// Says `begun`, runs, and ends with 143 on SIGTERM.
    Waits,
    /// Says `begun`, and runs whatever SIGTERM says.
    Deaf,
    /// Prints the file `/run/lockstep/vars.json`.
    Prints,
    /// Prints a line of 100,001 bytes, of characters that take two each but for the first.
    Long,
    /// Prints 20,000 lines.
    Flood,
    /// Is not there.
    Missing,
}

/// What [`Play::Bytes`] prints on standard output, and on standard error.
pub(super) const WRITTEN: (&[u8], &[u8]) =
    (b"one\n\xff\x00\x1b[31m\xe2\x82\ntwo, without an end", b"\xfe to standard error\n");

impl Play {
    pub(super) const ALL: [Self; 8] =
        [Self::Bytes, Self::Fails, Self::Waits, Self::Deaf, Self::Prints, Self::Long, Self::Flood, Self::Missing];

    pub(super) fn argv(self) -> Vec<String> {
        let script = match self {
            Self::Bytes => {
                r"printf '\376 to standard error\n' >&2; printf 'one\n\377\000\033[31m\342\202\ntwo, without an end'"
            }
            Self::Fails => "exit 7",
            Self::Waits => "trap 'exit 143' TERM; echo begun; while :; do sleep 0.05; done",
            Self::Deaf => "trap '' TERM; echo begun; while :; do sleep 0.05; done",
            Self::Prints => "cat /run/lockstep/vars.json",
            Self::Long => r#"perl -e 'print "x", "\xc3\xa9" x 50000'"#,
            Self::Flood => "seq 1 20000",
            Self::Missing => return vec!["no-such-command".to_owned()],
        };
        ["sh", "-c", script].map(str::to_owned).into()
    }

    pub(super) fn command(self) -> Command {
        let (prints, exits, on_term) = match self {
            Self::Bytes => {
                let written = [WRITTEN.1, WRITTEN.0].map(|bytes| Print::Bytes(bytes.to_vec()));
                (written.into(), Some(0), None)
            }
            Self::Fails => (vec![], Some(7), None),
            Self::Waits => (vec![Print::Bytes(b"begun\n".into())], None, Some(143)),
            Self::Deaf => (vec![Print::Bytes(b"begun\n".into())], None, None),
            Self::Prints => (vec![Print::File("/run/lockstep/vars.json".into())], Some(0), None),
            Self::Long => (vec![Print::Bytes(long())], Some(0), None),
            Self::Flood => (vec![Print::Bytes(flood())], Some(0), None),
            Self::Missing => return Command::Missing,
        };
        Command::Runs(Program { prints, exits, on_term })
    }
}

pub(super) fn flood() -> Vec<u8> {
    (1..=20_000).flat_map(|n| format!("{n}\n").into_bytes()).collect()
}

pub(super) fn long() -> Vec<u8> {
    format!("x{}", "é".repeat(50_000)).into_bytes()
}

/// An engine to be tested, and a store that gives locks: nothing is launched without one.
pub(super) struct Subject {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) scripted: Option<Scripted>,
    pub(super) instance: Instance,
    pub(super) store: Store,
    _redis: RedisServer,
}

impl Drop for Subject {
    fn drop(&mut self) {
        if self.scripted.is_none() {
            remove_containers(&format!("lockstep.instance={}", self.instance));
        }
    }
}

impl Subject {
    pub(super) async fn docker() -> Self {
        Self::new(Arc::new(Docker::connect(None).expect("an engine")), None).await
    }

    pub(super) async fn scripted() -> Self {
        let scripted = Scripted::new(|spec| {
            let play = Play::ALL.into_iter().find(|play| play.argv() == spec.argv);
            play.expect("a play").command()
        });
        Self::new(Arc::new(scripted.clone()), Some(scripted)).await
    }

    pub(super) async fn new(engine: Arc<dyn Engine>, scripted: Option<Scripted>) -> Self {
        let redis = RedisServer::start().await;
        let instance: Instance = format!("test-{}", &clock::draw_name()[..12]).parse().expect("a name");
        let store = Store::connect(&redis.url(), &instance, "tester", LONG).await.expect("a store");
        let Memory::Strange { found } = store.memory().await.expect("Redis answers") else { panic!("a fresh Redis") };
        assert!(store.rebuild(found.as_deref(), &clock::draw_name(), "engine", &[]).await.expect("Redis answers"));
        assert_eq!(store.memory().await.expect("Redis answers"), Memory::Known);
        Self { engine, scripted, instance, store, _redis: redis }
    }

    /// The lock of an inventory that is free.
    pub(super) async fn held(&self, inventory: &str) -> Held {
        let job = NewJob {
            id: clock::draw_job_id(),
            deployment_id: "app".parse().expect("a name"),
            inventory: inventory.parse().expect("a name"),
            action: "app-deploy".parse().expect("a name"),
            when_busy: WhenBusy::Reject,
            sealed: vec![],
            idempotency: None,
        };
        match self.store.submit(&job).await.expect("Redis answers") {
            Submitted::Started(held) => held,
            other => panic!("the lock was free, and yet: {other:?}"),
        }
    }

    pub(super) fn spec(&self, held: &Held, play: Play) -> Spec {
        Spec {
            image: "lockstep-base:bookworm".into(),
            argv: play.argv(),
            env: BTreeMap::from([("LOCKSTEP_FENCE".to_owned(), held.fence().to_string())]),
            labels: Labels {
                instance: self.instance.clone(),
                job: held.job(),
                deployment_id: "app".parse().expect("a name"),
                inventory: held.inventory().clone(),
                fence: held.fence(),
                action: "app-deploy".parse().expect("a name"),
            },
            network: None,
            mounts: vec![],
            memory: 64 << 20,
            millicpus: 1500,
            pids: 32,
        }
    }

    /// A container that was not started.
    pub(super) async fn created(&self, inventory: &str, play: Play) -> String {
        let held = self.held(inventory).await;
        self.engine.create(&held, &self.spec(&held, play)).await.expect("created")
    }

    /// A container that was started.
    pub(super) async fn started(&self, inventory: &str, play: Play) -> String {
        let container = self.created(inventory, play).await;
        self.engine.start(&container).await.expect("started");
        container
    }

    /// A container that has ended.
    pub(super) async fn ended(&self, inventory: &str, play: Play) -> String {
        let container = self.started(inventory, play).await;
        self.engine.wait(&container, LONG).await.expect("it ends");
        container
    }

    pub(super) async fn phase(&self, container: &str) -> Option<Phase> {
        self.engine.inspect(container).await.expect("the engine answers").map(|found| found.phase)
    }
}

/// Everything that a container printed, up to the end of its log.
pub(super) async fn all(mut output: Output) -> Vec<u8> {
    let mut read = vec![];
    let reading = async {
        while let Some(piece) = output.next().await {
            read.extend_from_slice(&piece.expect("readable"));
        }
    };
    tokio::time::timeout(LONG, reading).await.expect("the log ends");
    read
}

/// The first line that a container printed.
pub(super) async fn first_line(output: &mut Output) -> Vec<u8> {
    let mut read = vec![];
    while !read.contains(&b'\n') {
        let piece = tokio::time::timeout(LONG, output.next()).await.expect("it prints");
        read.extend_from_slice(&piece.expect("no end yet").expect("readable"));
    }
    read
}

pub(super) fn file(path: &str, content: &[u8]) -> File {
    File { path: path.into(), content: content.into(), writable: false }
}
