//! What every engine promises: one suite, run on Docker and on the scripted engine.
//!
//! Tests of the dispatcher stand on the scripted one, so what they show holds on Docker only as far as this suite goes. Below it are
//! tests of what Docker alone can be asked, and of what the scripted engine adds.

mod docker;
mod scripted;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use lockstep::clock;
use lockstep::engine::docker::Docker;
use lockstep::engine::{
    Engine, EngineError, File, Labels, Mount, Output, Pull, Signal, Spec, container_name, ended_name,
};
use lockstep::model::ids::{Instance, Inventory};
use lockstep::model::job::WhenBusy;
use lockstep::model::lock::Held;
use lockstep::model::settle::Phase;
use lockstep::store::{Memory, NewJob, Store, Submitted};

use super::support::redis::RedisServer;
use super::support::scripted::{Command, Print, Program, Scripted};
use super::support::{PATIENCE, remove_containers};

/// Longer than anything takes, for waits that must not end by their patience.
const LONG: Duration = PATIENCE;
/// For waits that must.
const SHORT: Duration = Duration::from_millis(200);

/// What a container is made to do, in words that both engines understand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Play {
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
const WRITTEN: (&[u8], &[u8]) = (b"one\n\xff\x00\x1b[31m\xe2\x82\ntwo, without an end", b"\xfe to standard error\n");

impl Play {
    const ALL: [Self; 8] =
        [Self::Bytes, Self::Fails, Self::Waits, Self::Deaf, Self::Prints, Self::Long, Self::Flood, Self::Missing];

    fn argv(self) -> Vec<String> {
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

    fn command(self) -> Command {
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

fn flood() -> Vec<u8> {
    (1..=20_000).flat_map(|n| format!("{n}\n").into_bytes()).collect()
}

fn long() -> Vec<u8> {
    format!("x{}", "é".repeat(50_000)).into_bytes()
}

/// An engine to be tested, and a store that gives locks: nothing is launched without one.
struct Subject {
    engine: Arc<dyn Engine>,
    scripted: Option<Scripted>,
    instance: Instance,
    store: Store,
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
    async fn docker() -> Self {
        Self::new(Arc::new(Docker::connect(None).expect("an engine")), None).await
    }

    async fn scripted() -> Self {
        let scripted = Scripted::new(|spec| {
            let play = Play::ALL.into_iter().find(|play| play.argv() == spec.argv);
            play.expect("a play").command()
        });
        Self::new(Arc::new(scripted.clone()), Some(scripted)).await
    }

    async fn new(engine: Arc<dyn Engine>, scripted: Option<Scripted>) -> Self {
        let redis = RedisServer::start().await;
        let instance: Instance = format!("test-{}", &clock::draw_name()[..12]).parse().expect("a name");
        let store = Store::connect(&redis.url(), &instance, "tester", LONG).await.expect("a store");
        let Memory::Strange { found } = store.memory().await.expect("Redis answers") else { panic!("a fresh Redis") };
        assert!(store.rebuild(found.as_deref(), &clock::draw_name(), "engine", &[]).await.expect("Redis answers"));
        assert_eq!(store.memory().await.expect("Redis answers"), Memory::Known);
        Self { engine, scripted, instance, store, _redis: redis }
    }

    /// The lock of an inventory that is free.
    async fn held(&self, inventory: &str) -> Held {
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

    fn spec(&self, held: &Held, play: Play) -> Spec {
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
    async fn created(&self, inventory: &str, play: Play) -> String {
        let held = self.held(inventory).await;
        self.engine.create(&held, &self.spec(&held, play)).await.expect("created")
    }

    /// A container that was started.
    async fn started(&self, inventory: &str, play: Play) -> String {
        let container = self.created(inventory, play).await;
        self.engine.start(&container).await.expect("started");
        container
    }

    /// A container that has ended.
    async fn ended(&self, inventory: &str, play: Play) -> String {
        let container = self.started(inventory, play).await;
        self.engine.wait(&container, LONG).await.expect("it ends");
        container
    }

    async fn phase(&self, container: &str) -> Option<Phase> {
        self.engine.inspect(container).await.expect("the engine answers").map(|found| found.phase)
    }
}

/// Everything that a container printed, up to the end of its log.
async fn all(mut output: Output) -> Vec<u8> {
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
async fn first_line(output: &mut Output) -> Vec<u8> {
    let mut read = vec![];
    while !read.contains(&b'\n') {
        let piece = tokio::time::timeout(LONG, output.next()).await.expect("it prints");
        read.extend_from_slice(&piece.expect("no end yet").expect("readable"));
    }
    read
}

fn file(path: &str, content: &[u8]) -> File {
    File { path: path.into(), content: content.into() }
}

macro_rules! contract {
    ($($promise:ident,)*) => {
        mod on_docker {
            $(#[tokio::test] async fn $promise() { super::$promise(super::Subject::docker().await).await; })*
        }
        mod on_scripted {
            $(#[tokio::test] async fn $promise() { super::$promise(super::Subject::scripted().await).await; })*
        }
    };
}

contract! {
    an_engine_has_one_id,
    an_image_is_there_or_it_is_said,
    a_container_is_created_under_its_inventorys_name,
    a_second_container_of_an_inventory_is_refused,
    a_lock_is_good_for_its_own_container_only,
    files_are_there_before_the_start,
    a_file_is_read_up_to_the_limit,
    a_container_is_started_once,
    a_command_that_is_not_there_is_refused_for_good,
    output_is_what_was_written,
    output_is_read_from_the_first_byte_each_time,
    output_is_followed_while_it_is_written,
    a_flood_is_complete,
    waiting_ends_with_the_container_or_the_patience,
    signals_reach_what_runs_and_leave_the_rest,
    a_renamed_container_makes_way,
    what_runs_is_not_removed,
    what_does_not_run_is_removed_once,
    the_list_is_of_one_instance_in_any_phase,
    what_is_not_there_is_said,
}

async fn an_engine_has_one_id(subject: Subject) {
    let id = subject.engine.id().await.expect("it answers");
    assert!(!id.is_empty());
    assert_eq!(subject.engine.id().await.expect("it answers"), id);
}

async fn an_image_is_there_or_it_is_said(subject: Subject) {
    let engine = &subject.engine;
    let never = engine.ensure_image("lockstep-base:bookworm", Pull::Never, None).await.expect("there");
    let missing = engine.ensure_image("lockstep-base:bookworm", Pull::Missing, None).await.expect("there");
    assert!(never.starts_with("sha256:"), "{never}");
    assert_eq!(never, missing);
    for pull in [Pull::Never, Pull::Missing, Pull::Always] {
        // Nobody listens on port 1: such a registry is never reached.
        let refused = engine.ensure_image("127.0.0.1:1/nowhere:1", pull, None).await;
        assert!(matches!(refused, Err(EngineError::NoImage { .. })), "{pull:?}: {refused:?}");
    }
    let held = subject.held("inventory").await;
    let spec = Spec { image: "127.0.0.1:1/nowhere:1".into(), ..subject.spec(&held, Play::Fails) };
    let refused = engine.create(&held, &spec).await;
    assert!(matches!(refused, Err(EngineError::NoImage { .. })), "{refused:?}");
}

async fn a_container_is_created_under_its_inventorys_name(subject: Subject) {
    let held = subject.held("inventory").await;
    let spec = subject.spec(&held, Play::Waits);
    let container = subject.engine.create(&held, &spec).await.expect("created");
    let name = container_name(&subject.instance, held.inventory());
    for way in [&container, &name] {
        let found = subject.engine.inspect(way).await.expect("the engine answers").expect("there");
        assert_eq!(found.container, container);
        assert_eq!(found.name, name);
        assert_eq!(found.phase, Phase::Created);
        assert_eq!(found.labels.as_ref(), Some(&spec.labels));
        assert_eq!((found.ended_ms, found.out_of_memory), (None, false));
    }
}

async fn a_second_container_of_an_inventory_is_refused(subject: Subject) {
    let held = subject.held("inventory").await;
    let spec = subject.spec(&held, Play::Fails);
    let container = subject.engine.create(&held, &spec).await.expect("created");
    let name = container_name(&subject.instance, held.inventory());
    let taken = |refused: Result<String, EngineError>| match refused {
        Err(EngineError::NameTaken { name: taken }) => assert_eq!(taken, name),
        other => panic!("{other:?}"),
    };
    taken(subject.engine.create(&held, &spec).await);
    subject.engine.start(&container).await.expect("started");
    taken(subject.engine.create(&held, &spec).await);
    subject.engine.wait(&container, LONG).await.expect("it ends");
    taken(subject.engine.create(&held, &spec).await);
    // Another inventory is another name.
    subject.created("other", Play::Fails).await;
}

async fn a_lock_is_good_for_its_own_container_only(subject: Subject) {
    let (held, other) = (subject.held("inventory").await, subject.held("other").await);
    let refused = subject.engine.create(&other, &subject.spec(&held, Play::Fails)).await;
    assert!(matches!(refused, Err(EngineError::Refused { .. })), "{refused:?}");
}

async fn files_are_there_before_the_start(subject: Subject) {
    let container = subject.created("inventory", Play::Prints).await;
    let vars = b"{\"version\": \"1.2 \xe2\x82\xac\"}";
    let files = [file("/run/lockstep/vars.json", vars), file("/run/lockstep/empty", b"")];
    subject.engine.put_files(&container, &files).await.expect("put");
    let read = async |path: &str| subject.engine.read_file(&container, path, 1024).await.expect("the engine answers");
    assert_eq!(read("/run/lockstep/vars.json").await.as_deref(), Some(vars.as_slice()), "before the start");
    subject.engine.start(&container).await.expect("started");
    assert_eq!(all(subject.engine.follow(&container).await.expect("followed")).await, vars);
    subject.engine.wait(&container, LONG).await.expect("it ends");
    assert_eq!(subject.phase(&container).await, Some(Phase::Ended { exit_code: 0 }));
    assert_eq!(read("/run/lockstep/vars.json").await.as_deref(), Some(vars.as_slice()), "after the end");
    assert_eq!(read("/run/lockstep/empty").await.as_deref(), Some(b"".as_slice()));
    assert_eq!(read("/run/lockstep/none").await, None);
    assert_eq!(read("/none/none").await, None);
    assert_eq!(read("/run/lockstep").await, None, "a folder is no file");
}

async fn a_file_is_read_up_to_the_limit(subject: Subject) {
    let container = subject.created("inventory", Play::Prints).await;
    let content: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
    subject.engine.put_files(&container, &[file("/run/lockstep/large", &content)]).await.expect("put");
    for limit in [0, 10, 299_999, 300_000, 1 << 30] {
        let read =
            subject.engine.read_file(&container, "/run/lockstep/large", limit).await.expect("the engine answers");
        let expected = &content[..content.len().min(limit as usize)];
        assert!(read.as_deref() == Some(expected), "limit {limit}");
    }
}

async fn a_container_is_started_once(subject: Subject) {
    let container = subject.started("inventory", Play::Bytes).await;
    subject.engine.start(&container).await.expect("left as it is");
    subject.engine.wait(&container, LONG).await.expect("it ends");
    let ended = subject.engine.inspect(&container).await.expect("the engine answers");
    subject.engine.start(&container).await.expect("left as it is");
    subject.engine.wait(&container, LONG).await.expect("it has ended");
    assert_eq!(subject.engine.inspect(&container).await.expect("the engine answers"), ended);
    let written = all(subject.engine.follow(&container).await.expect("followed")).await;
    assert_eq!(written.len(), WRITTEN.0.len() + WRITTEN.1.len(), "it ran once");
}

async fn a_command_that_is_not_there_is_refused_for_good(subject: Subject) {
    let container = subject.created("inventory", Play::Missing).await;
    let refused = subject.engine.start(&container).await;
    let Err(EngineError::Refused { cause, .. }) = refused else { panic!("{refused:?}") };
    assert!(cause.contains("runner.actions"), "{cause}");
    assert_eq!(subject.phase(&container).await, Some(Phase::Created), "it never ran");
    subject.engine.remove(&container).await.expect("removed");
    assert_eq!(subject.phase(&container).await, None);
}

async fn output_is_what_was_written(subject: Subject) {
    let container = subject.ended("inventory", Play::Bytes).await;
    let written = all(subject.engine.follow(&container).await.expect("followed")).await;
    // The two streams reach the engine by two ways, each line by line.
    let (output, error) = WRITTEN;
    let places = [0, 4, output.len() - b"two, without an end".len(), output.len()];
    let orders = places.map(|at| [&output[..at], error, &output[at..]].concat());
    assert!(orders.contains(&written), "{}", written.escape_ascii());

    // Longer than the pieces in which engines take a line, and none of those ends where a character does.
    let container = subject.ended("long", Play::Long).await;
    assert!(all(subject.engine.follow(&container).await.expect("followed")).await == long());
}

async fn output_is_read_from_the_first_byte_each_time(subject: Subject) {
    let container = subject.started("inventory", Play::Flood).await;
    let while_it_runs = all(subject.engine.follow(&container).await.expect("followed")).await;
    subject.engine.wait(&container, LONG).await.expect("it ends");
    let afterwards = all(subject.engine.follow(&container).await.expect("followed")).await;
    assert!(while_it_runs == flood() && afterwards == flood());
}

async fn output_is_followed_while_it_is_written(subject: Subject) {
    let container = subject.started("inventory", Play::Waits).await;
    let mut output = subject.engine.follow(&container).await.expect("followed");
    assert_eq!(first_line(&mut output).await, b"begun\n");
    assert!(tokio::time::timeout(SHORT, output.next()).await.is_err(), "nothing more is written, and it runs");
    subject.engine.signal(&container, Signal::Term).await.expect("sent");
    assert_eq!(all(output).await, b"");
}

async fn a_flood_is_complete(subject: Subject) {
    let container = subject.started("inventory", Play::Flood).await;
    // Read by two at once, one of whom stops in the middle.
    let mut given_up = subject.engine.follow(&container).await.expect("followed");
    first_line(&mut given_up).await;
    drop(given_up);
    assert!(all(subject.engine.follow(&container).await.expect("followed")).await == flood());
}

async fn waiting_ends_with_the_container_or_the_patience(subject: Subject) {
    let created = subject.created("created", Play::Fails).await;
    subject.engine.wait(&created, LONG).await.expect("it does not run");
    let container = subject.started("inventory", Play::Deaf).await;
    let early = subject.engine.wait(&container, SHORT).await;
    assert!(matches!(early, Err(EngineError::NotReached { .. })), "{early:?}");
    let wait = subject.engine.wait(&container, LONG);
    let kill = subject.engine.signal(&container, Signal::Kill);
    let (waited, killed) = tokio::join!(wait, kill);
    waited.expect("it ends");
    killed.expect("sent");
    subject.engine.wait(&container, Duration::from_secs(10)).await.expect("it has ended");
    let found = subject.engine.inspect(&container).await.expect("the engine answers").expect("there");
    assert_eq!(found.phase, Phase::Ended { exit_code: 137 });
    assert!(found.ended_ms.is_some_and(|ended| ended.abs_diff(clock::wall_ms()) < 600_000), "{:?}", found.ended_ms);
}

async fn signals_reach_what_runs_and_leave_the_rest(subject: Subject) {
    let engine = &subject.engine;
    let created = subject.created("created", Play::Fails).await;
    engine.signal(&created, Signal::Kill).await.expect("left as it is");
    assert_eq!(subject.phase(&created).await, Some(Phase::Created));

    let ended = subject.ended("ended", Play::Fails).await;
    engine.signal(&ended, Signal::Term).await.expect("left as it is");
    assert_eq!(subject.phase(&ended).await, Some(Phase::Ended { exit_code: 7 }));

    let deaf = subject.started("deaf", Play::Deaf).await;
    first_line(&mut engine.follow(&deaf).await.expect("followed")).await;
    engine.signal(&deaf, Signal::Term).await.expect("sent");
    assert!(engine.wait(&deaf, SHORT).await.is_err(), "it does not hear");
    engine.signal(&deaf, Signal::Kill).await.expect("sent");
    engine.wait(&deaf, LONG).await.expect("it ends");
    assert_eq!(subject.phase(&deaf).await, Some(Phase::Ended { exit_code: 137 }));

    let waits = subject.started("waits", Play::Waits).await;
    first_line(&mut engine.follow(&waits).await.expect("followed")).await;
    engine.signal(&waits, Signal::Term).await.expect("sent");
    engine.wait(&waits, LONG).await.expect("it ends");
    assert_eq!(subject.phase(&waits).await, Some(Phase::Ended { exit_code: 143 }));

    engine.remove(&waits).await.expect("removed");
    engine.signal(&waits, Signal::Term).await.expect("it is gone, and does not run");
}

async fn a_renamed_container_makes_way(subject: Subject) {
    let engine = &subject.engine;
    let held = subject.held("inventory").await;
    let spec = subject.spec(&held, Play::Fails);
    let first = engine.create(&held, &spec).await.expect("created");
    engine.start(&first).await.expect("started");
    engine.wait(&first, LONG).await.expect("it ends");
    let name = container_name(&subject.instance, held.inventory());
    let away = ended_name(&subject.instance, held.inventory(), held.job());
    engine.rename(&first, &away).await.expect("renamed");
    engine.rename(&first, &away).await.expect("it bears that name");
    let found = engine.inspect(&away).await.expect("the engine answers").expect("there");
    assert_eq!((found.container.as_str(), found.name.as_str()), (first.as_str(), away.as_str()));
    assert_eq!(engine.inspect(&name).await.expect("the engine answers"), None);

    let second = engine.create(&held, &spec).await.expect("the name is free");
    let taken = engine.rename(&first, &name).await;
    assert!(matches!(taken, Err(EngineError::NameTaken { .. })), "{taken:?}");
    engine.rename(&second, &name).await.expect("it bears that name");
    engine.remove(&first).await.expect("removed");
    engine.rename(&first, &away).await.expect("it is gone");
}

async fn what_runs_is_not_removed(subject: Subject) {
    let container = subject.started("inventory", Play::Waits).await;
    let refused = subject.engine.remove(&container).await;
    assert!(matches!(refused, Err(EngineError::Refused { .. })), "{refused:?}");
    assert_eq!(subject.phase(&container).await, Some(Phase::Running));
}

async fn what_does_not_run_is_removed_once(subject: Subject) {
    let engine = &subject.engine;
    for container in [subject.created("created", Play::Fails).await, subject.ended("ended", Play::Fails).await] {
        engine.remove(&container).await.expect("removed");
        assert_eq!(engine.inspect(&container).await.expect("the engine answers"), None);
        engine.remove(&container).await.expect("it is gone");
    }
    subject.engine.id().await.expect("it answers");
    let inventory: Inventory = "created".parse().expect("a name");
    let name = container_name(&subject.instance, &inventory);
    assert_eq!(engine.inspect(&name).await.expect("the engine answers"), None);
}

async fn the_list_is_of_one_instance_in_any_phase(subject: Subject) {
    let containers = [
        (subject.created("created", Play::Fails).await, Phase::Created),
        (subject.started("running", Play::Waits).await, Phase::Running),
        (subject.ended("ended", Play::Fails).await, Phase::Ended { exit_code: 7 }),
    ];
    let listed = subject.engine.list(&subject.instance).await.expect("the engine answers");
    assert_eq!(listed.len(), containers.len());
    for (container, phase) in containers {
        let found = listed.iter().find(|found| found.container == container).expect("listed");
        assert_eq!(found.phase, phase);
        assert_eq!(Some(found), subject.engine.inspect(&container).await.expect("the engine answers").as_ref());
    }
    let other: Instance = format!("{}x", subject.instance).parse().expect("a name");
    assert_eq!(subject.engine.list(&other).await.expect("the engine answers"), []);
}

async fn what_is_not_there_is_said(subject: Subject) {
    let engine = &subject.engine;
    let gone = subject.created("inventory", Play::Fails).await;
    engine.remove(&gone).await.expect("removed");
    assert_eq!(engine.inspect(&gone).await.expect("the engine answers"), None);
    let answers = [
        engine.put_files(&gone, &[file("/x", b"")]).await.err(),
        engine.read_file(&gone, "/x", 1).await.err(),
        engine.start(&gone).await.err(),
        engine.follow(&gone).await.err(),
        engine.wait(&gone, LONG).await.err(),
    ];
    for answer in answers {
        assert!(matches!(answer, Some(EngineError::NoContainer { .. })), "{answer:?}");
    }
}
