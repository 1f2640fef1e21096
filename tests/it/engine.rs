//! What every engine promises: one suite, run on Docker and on the scripted engine.
//!
//! Tests of the dispatcher stand on the scripted one, so what they show holds on Docker only as far as this suite goes. Below it are
//! tests of what Docker alone can be asked, and of what the scripted engine adds.

mod docker;
mod scripted;
mod subject;

use std::time::Duration;

use futures::StreamExt as _;
use lockstep::engine::{EngineError, Pull, Signal, Spec, container_name, ended_name};
use lockstep::model::ids::{Instance, Inventory};
use lockstep::model::settle::Phase;

use self::subject::{LONG, Play, SHORT, Subject, WRITTEN, all, file, first_line, flood, long};

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
        assert!(!found.out_of_memory);
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
    assert!(cause.advice.contains("runner.actions"), "{cause}");
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
