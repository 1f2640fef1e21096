//! A bracket and its locks: all together or none, in turn with everybody else.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_bracket_takes_all_its_locks_or_none() {
    let here = Installation::new().await;
    let one = here.start("one").await;
    let first = one.deploy("app-f").await;
    let held = here.engine.begun("i-app-f").await;
    let id = one.create("foo", &[("backend", "2"), ("frontend", "3")]).await;
    let release = one.release(id).await;
    let blocked = release.visit().expect("a stage").steps[0].blocked.clone().expect("it waits");
    assert_eq!((blocked.inventory.expect("a lock").as_str(), blocked.why), ("i-app-f", format!("held by job {first}")));
    // Nothing is taken meanwhile: what is free stays free for others.
    let other = one.deploy("app-b").await;
    let backend = here.engine.begun("i-app-b").await;
    // Who comes after it to the lock that it waits for waits behind it.
    let later = one.deploy("app-f").await;
    here.engine.exit(&held, 0);
    eventually("the first is over", async || {
        one.store().record(first).await.ok()?.filter(|record| record.state.is_ended())
    })
    .await;
    assert!(!one.store().record(later).await.expect("Redis answers").expect("a job").state.is_ended());
    assert_eq!(here.engine.running(), std::slice::from_ref(&backend), "the lock is kept for the release");
    here.engine.exit(&backend, 0);
    let (backend, frontend) = (here.engine.begun("i-app-b").await, here.engine.begun("i-app-f").await);
    for container in [&backend, &frontend] {
        assert_eq!(variables(&here, container)["operation"], "deploy");
    }
    here.engine.exit(&backend, 0);
    here.engine.exit(&frontend, 0);
    // Then it is the turn of the one that came later.
    let container = here.engine.begun("i-app-f").await;
    assert_eq!(here.engine.spec(&container).labels.job, later);
    here.engine.exit(&container, 0);
    let _ = other;
    here.engine.begun("i-app-t").await;
    assert_eq!(here.engine.violations(), Vec::<String>::new());
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_freeze_holds_a_bracket_up_and_keeps_nobody_else_from_its_locks() {
    let here = Installation::new().await;
    let one = here.start("one").await;
    let frozen = "i-app-b".parse().expect("a name");
    one.store().freeze(&frozen, "audit", "ada", None).await.expect("Redis answers");
    let id = one.create("foo", &[("backend", "2"), ("frontend", "3")]).await;
    let blocked = one.release(id).await.visit().expect("a stage").steps[0].blocked.clone().expect("it waits");
    assert_eq!(blocked.why, "frozen by ada: audit");
    one.deploy("app-f").await;
    let container = here.engine.begun("i-app-f").await;
    one.store().unfreeze(&frozen).await.expect("Redis answers");
    one.dispatcher.grant(&frozen).await.expect("granted");
    here.engine.exit(&container, 0);
    here.engine.begun("i-app-b").await;
    let frontend = here.engine.begun("i-app-f").await;
    assert_eq!(variables(&here, &frontend)["service"], "frontend");
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_brackets_that_share_locks_go_one_after_the_other() {
    let here = Installation::new().await;
    let one = here.start("one").await;
    one.deploy("app-f").await;
    let held = here.engine.begun("i-app-f").await;
    let first = one.create("foo", &[("backend", "2"), ("frontend", "3")]).await;
    let second = one.create("foo", &[("backend", "4"), ("frontend", "5")]).await;
    // The second one takes the place of the first, which has deployed nothing yet.
    assert_eq!(one.standing(first).await, Standing::Superseded);
    here.engine.exit(&held, 0);
    for inventory in ["i-app-b", "i-app-f"] {
        let container = here.engine.begun(inventory).await;
        assert_eq!(variables(&here, &container)["id"], second.to_string());
    }
    // Once it deploys, a third one has to wait, and says for whom.
    let third = one.create("foo", &[("backend", "6")]).await;
    let entering = one.release(third).await.entering.expect("it waits");
    assert_eq!(entering.blocked_by, Some(second));
    assert_eq!(one.standing(third).await, Standing::Entering);
    for inventory in ["i-app-b", "i-app-f"] {
        let container = here.engine.begun(inventory).await;
        here.engine.exit(&container, 0);
    }
    // And for its tests, which are about what stands there.
    let tests = here.engine.begun("i-app-t").await;
    assert_eq!(one.standing(third).await, Standing::Entering);
    here.engine.exit(&tests, 1);
    let container = here.engine.begun("i-app-b").await;
    assert_eq!(variables(&here, &container)["id"], third.to_string());
    assert_eq!(one.standing(second).await, Standing::Superseded);
    assert_eq!(here.engine.violations(), Vec::<String>::new());
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_keeps_what_it_has_reserved_until_it_has_all() {
    let here = Installation::new().await;
    let one = here.start("one").await;
    one.deploy("app-b").await;
    one.deploy("app-f").await;
    let (backend, frontend) = (here.engine.begun("i-app-b").await, here.engine.begun("i-app-f").await);
    let id = one.create("foo", &[("backend", "2"), ("frontend", "3")]).await;
    let reserved = async || {
        let (locks, _) = one.store().locks().await.expect("Redis answers");
        let of = locks.into_iter().filter(|lock| lock.reserved_for == Some(id));
        of.map(|lock| lock.inventory.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(reserved().await, ["i-app-b", "i-app-f"]);
    here.engine.exit(&backend, 0);
    eventually("it waits for the other one alone", async || {
        let release = one.release(id).await;
        let blocked = release.visit()?.steps[0].blocked.clone()?;
        (blocked.inventory?.as_str() == "i-app-f").then_some(())
    })
    .await;
    assert_eq!(reserved().await, ["i-app-b", "i-app-f"]);
    // Nobody comes in between, and whoever will not wait is told for whom he would.
    let later = one.deploy("app-b").await;
    let request = Request {
        app: app("app-b"),
        secret: None,
        by: "a test".into(),
        vars: Map::new(),
        when_busy: WhenBusy::Reject,
        idempotency_key: None,
    };
    assert!(one.dispatcher.submit(request).await.is_err());
    here.engine.exit(&frontend, 0);
    let (backend, frontend) = (here.engine.begun("i-app-b").await, here.engine.begun("i-app-f").await);
    assert_eq!(variables(&here, &backend)["id"], id.to_string());
    assert_eq!(reserved().await, Vec::<String>::new());
    here.engine.exit(&backend, 0);
    here.engine.exit(&frontend, 0);
    let container = here.engine.begun("i-app-b").await;
    assert_eq!(here.engine.spec(&container).labels.job, later);
    one.stop().await;
}
