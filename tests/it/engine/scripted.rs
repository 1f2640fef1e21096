//! What the scripted engine adds to the contract: faults, and an eye on what must never happen.

use super::super::support::scripted::{Call, Fault, Verb};
use super::*;

/// A scripted engine whose containers run until they are told to end, and one container on it that was not started.
async fn by_hand() -> (Subject, Scripted, String) {
    let scripted = Scripted::by_hand();
    let subject = Subject::new(Arc::new(scripted.clone()), Some(scripted.clone())).await;
    let container = subject.created("inventory", Play::Waits).await;
    (subject, scripted, container)
}

fn not_reached<T: std::fmt::Debug>(answer: Result<T, EngineError>) {
    assert!(matches!(answer, Err(EngineError::NotReached { .. })), "{answer:?}");
}

#[tokio::test]
async fn a_call_fails_before_its_effect_or_loses_its_reply_after_it() {
    let (subject, scripted, container) = by_hand().await;
    scripted.fault(Verb::Start, Fault::lost(Verb::Start));
    scripted.fault(Verb::Start, Fault::LoseReply);
    not_reached(subject.engine.start(&container).await);
    assert_eq!(subject.phase(&container).await, Some(Phase::Created));
    not_reached(subject.engine.start(&container).await);
    assert_eq!(subject.phase(&container).await, Some(Phase::Running));
    subject.engine.start(&container).await.expect("left as it is");
    let refusal = EngineError::Refused { doing: "remove the container", cause: "as the test says".into() };
    scripted.fault(Verb::Remove, Fault::Answer(refusal));
    assert!(subject.engine.remove(&container).await.is_err());
    let starts = scripted.journal().into_iter().filter(|call| call.verb == Verb::Start);
    assert!(starts.eq(vec![Call { verb: Verb::Start, about: container }; 3]));
}

#[tokio::test]
async fn a_held_call_has_its_effect_late_even_when_nobody_waits_any_more() {
    let (subject, scripted, container) = by_hand().await;
    let gate = scripted.hold(Verb::Start);
    tokio::select! {
        _ = subject.engine.start(&container) => panic!("it is held"),
        () = gate.reached() => {}
    }
    assert_eq!(subject.phase(&container).await, Some(Phase::Created));
    gate.open();
    assert_eq!(scripted.begun("inventory").await, container);

    let gate = scripted.hold(Verb::Start);
    let removed = subject.created("other", Play::Waits).await;
    tokio::select! {
        _ = subject.engine.start(&removed) => panic!("it is held"),
        () = gate.reached() => {}
    }
    subject.engine.remove(&removed).await.expect("removed");
    gate.open();
    // The late start finds nothing: the next one of that inventory is another.
    let held = subject.held("third").await;
    let next = subject.engine.create(&held, &subject.spec(&held, Play::Waits)).await.expect("created");
    subject.engine.start(&next).await.expect("started");
    assert_eq!(scripted.running(), [container, next]);

    let (late, gate) = (subject.created("late", Play::Waits).await, Default::default());
    scripted.fault(Verb::Start, Fault::HoldAfter(Clone::clone(&gate)));
    tokio::select! {
        _ = subject.engine.start(&late) => panic!("its reply is held"),
        () = gate.reached() => {}
    }
    assert_eq!(subject.phase(&late).await, Some(Phase::Running));
}

#[tokio::test]
async fn containers_do_by_hand_what_no_program_does() {
    let (subject, scripted, container) = by_hand().await;
    subject.engine.start(&container).await.expect("started");
    let mut output = subject.engine.follow(&container).await.expect("followed");
    scripted.print(&container, b"first\n");
    assert_eq!(first_line(&mut output).await, b"first\n");
    scripted.lose_logs();
    not_reached(output.next().await.expect("an error"));
    assert!(output.next().await.is_none());

    scripted.print(&container, b"last");
    scripted.starve(&container);
    assert_eq!(all(subject.engine.follow(&container).await.expect("followed")).await, b"first\nlast");
    let found = subject.engine.inspect(&container).await.expect("it answers").expect("there");
    assert_eq!((found.phase, found.out_of_memory), (Phase::Ended { exit_code: 137 }, true));
    scripted.stick(&container);
    subject.engine.remove(&container).await.expect("its removal goes on");
    assert_eq!(subject.phase(&container).await, Some(Phase::Dying));
    scripted.vanish(&container);
    assert_eq!((subject.phase(&container).await, scripted.count()), (None, 0));
}

#[tokio::test]
async fn an_engine_goes_away_crashes_or_is_another() {
    let (subject, scripted, container) = by_hand().await;
    subject.engine.start(&container).await.expect("started");
    let mut output = subject.engine.follow(&container).await.expect("followed");
    scripted.away(true);
    not_reached(output.next().await.expect("an error"));
    not_reached(subject.engine.inspect(&container).await);
    not_reached(subject.engine.id().await);
    scripted.away(false);
    let id = subject.engine.id().await.expect("it is back");
    assert_eq!(subject.phase(&container).await, Some(Phase::Running));

    scripted.crash(137);
    assert_eq!(subject.phase(&container).await, Some(Phase::Ended { exit_code: 137 }));
    scripted.replace();
    assert_ne!(subject.engine.id().await.expect("it answers"), id);
    assert_eq!(subject.phase(&container).await, None);
}

#[tokio::test]
async fn two_containers_of_an_inventory_that_run_at_once_are_a_violation() {
    let (subject, scripted, first) = by_hand().await;
    subject.engine.start(&first).await.expect("started");
    let labels = scripted.spec(&first).labels;
    let away = ended_name(&subject.instance, &labels.inventory, labels.job);
    subject.engine.rename(&first, &away).await.expect("renamed");
    assert!(scripted.violations().is_empty());
    // Somebody who believes that the lock is free, because Redis has forgotten it.
    let forgetful = Subject::new(Arc::new(scripted.clone()), Some(scripted.clone())).await;
    let held = forgetful.held("inventory").await;
    let mut spec = forgetful.spec(&held, Play::Waits);
    spec.labels.instance = subject.instance.clone();
    let second = subject.engine.create(&held, &spec).await.expect("the name is free");
    subject.engine.start(&second).await.expect("started");
    assert_eq!(scripted.violations().len(), 1, "{:?}", scripted.violations());
}

#[tokio::test]
async fn files_of_the_host_and_images_of_the_registry() {
    let (subject, scripted, _) = by_hand().await;
    scripted.host_file("/etc/key", b"a key");
    scripted.image("registry/runner:1", "sha256:1", false);
    let held = subject.held("mounts").await;
    let mut spec = subject.spec(&held, Play::Waits);
    spec.mounts = vec![Mount { source: "/etc/key".into(), target: "/run/key".into(), read_only: true, secret: true }];
    let container = subject.engine.create(&held, &spec).await.expect("created");
    let read = subject.engine.read_file(&container, "/run/key", 3).await.expect("it answers");
    assert_eq!(read.as_deref(), Some(b"a k".as_slice()));
    assert!(subject.engine.ensure_image("registry/runner:1", Pull::Never, None).await.is_err());
    for pull in [Pull::Missing, Pull::Never] {
        let digest = subject.engine.ensure_image("registry/runner:1", pull, None).await.expect("pulled");
        assert_eq!(digest, "sha256:1");
    }
    scripted.exit(
        &{
            subject.engine.start(&container).await.expect("started");
            container.clone()
        },
        3,
    );
    assert_eq!(subject.phase(&container).await, Some(Phase::Ended { exit_code: 3 }));
}
