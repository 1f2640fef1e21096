//! Redis comes back empty, older, or rebuilt by another: nothing is done in a memory that is not the one known.

use std::net::IpAddr;
use std::time::Duration;

use lockstep::model::job::{Intent, Outcome, WhenBusy};
use lockstep::model::lock::Held;
use lockstep::model::output::{Position, lay_out};
use lockstep::store::{JobFilter, Memory, Store, StoreError};
use serde_json::Map;

use super::{app, everything, inventory, key, new_job, queue, record, run, start, stored_app, wait_in_line};
use crate::support::eventually;
use crate::support::redis::RedisServer;

/// Every call that reads or changes state, and what it answered, but for its value.
async fn every_call(store: &Store, held: &Held) -> Vec<(&'static str, Result<(), StoreError>)> {
    let (job, i, a, at) = (held.job(), inventory("i"), app("a"), Position::default());
    let from: IpAddr = "192.0.2.1".parse().expect("an address");
    let filter = JobFilter { limit: 10, ..JobFilter::default() };
    let live = JobFilter { limit: 10, states: vec!["running".to_owned()], ..JobFilter::default() };
    vec![
        ("submit", store.submit(&new_job("a", "i", WhenBusy::Queue)).await.map(drop)),
        ("confirm", store.confirm(held, "engine", "c", "d").await),
        ("recognize", store.recognize(held, "engine", "c").await),
        ("unconfirm", store.unconfirm(held, "c").await),
        ("started", store.started(held).await),
        ("append", store.append(held, at, &lay_out(at, 100, "x")).await),
        ("intend", store.intend(job, Intent::Cancel, None).await.map(drop)),
        ("exited", store.exited(held, 0, None).await.map(drop)),
        ("announce", store.announce(held, 0, "x").await),
        ("move_ring", store.move_ring(held, 0, 0, 1).await),
        ("finish", store.finish(held, Outcome::Failed, None).await.map(drop)),
        ("grant", store.grant(&i).await.map(drop)),
        ("adopt", store.adopt(job, 1).await.map(drop)),
        ("progress", store.progress(job, &Map::new()).await.map(drop)),
        ("free_orphan", store.free_orphan(&i, "nobody").await.map(drop)),
        ("note_failure", store.note_failure("a", from).await.map(drop)),
        ("set_apps", store.set_apps(&[stored_app("a", "i")], true).await.map(drop)),
        ("freeze", store.freeze(&i, "x", "ada", None).await.map(drop)),
        ("unfreeze", store.unfreeze(&i).await.map(drop)),
        ("readable", store.readable(job).await.map(drop)),
        ("ring", store.ring(job, 0, 1).await.map(drop)),
        ("output", store.output(job, 0, 1).await.map(drop)),
        ("live", store.live().await.map(drop)),
        ("waiting", store.waiting().await.map(drop)),
        ("door", store.door(&a, from).await.map(drop)),
        ("range", store.range(Some((&a, from)), job, 0, 1).await.map(drop)),
        ("token", store.token(b"nobody", from).await.map(drop)),
        ("record", store.record(job).await.map(drop)),
        ("job", store.job(job, Some((&a, from))).await.map(drop)),
        ("sealed", store.sealed(job).await.map(drop)),
        ("jobs", store.jobs(&filter).await.map(drop)),
        ("jobs that live", store.jobs(&live).await.map(drop)),
        ("apps", store.apps().await.map(drop)),
        ("locks", store.locks().await.map(drop)),
    ]
}

/// Every call says that this is another memory, and nothing in it is changed.
async fn assert_nothing_is_done(server: &RedisServer, store: &Store, held: &Held) {
    let mut redis = server.connect().await;
    let before = everything(&mut redis).await;
    for (call, answer) in every_call(store, held).await {
        assert!(matches!(answer, Err(StoreError::Epoch)), "{call}: {answer:?}");
    }
    assert_eq!(everything(&mut redis).await, before);
}

#[tokio::test]
async fn nothing_is_done_before_the_memory_is_known() {
    let server = RedisServer::start().await;
    let knows = server.store("d1").await;
    let held = run(&knows, "a", "i").await;
    let stranger = server.stranger("d2").await;
    assert_nothing_is_done(&server, &stranger, &held).await;
    assert_eq!(stranger.memory().await.expect("an answer"), Memory::Known);
    assert_eq!(record(&stranger, held.job()).await.lease, 1);
}

#[tokio::test]
async fn nothing_is_done_when_redis_came_back_empty() {
    let mut server = RedisServer::start().await;
    let store = server.store("d1").await;
    let held = run(&store, "a", "i").await;
    let mut redis = server.connect().await;
    let _: () = redis::cmd("FLUSHALL").query_async(&mut redis).await.expect("flushed");
    assert_nothing_is_done(&server, &store, &held).await;
    assert_eq!(store.memory().await.expect("an answer"), Memory::Strange { found: None });

    server.restart_empty().await;
    eventually("connected", async || store.ping().await.ok()).await;
    assert_nothing_is_done(&server, &store, &held).await;
}

#[tokio::test]
async fn nothing_is_done_when_redis_came_back_older() {
    let mut server = RedisServer::start().await;
    let store = server.store("d1").await;
    let held = run(&store, "a", "i").await;
    server.kill();
    let aside = server.save();
    server.restart().await;
    eventually("connected", async || store.ping().await.ok()).await;
    let after = run(&store, "b", "j").await;
    server.restart_on(&aside).await;
    eventually("connected", async || store.ping().await.ok()).await;
    assert_nothing_is_done(&server, &store, &held).await;
    let Memory::Strange { found: Some(found) } = store.memory().await.expect("an answer") else {
        panic!("it is older")
    };

    // One that starts now has seen nothing, and takes the older memory for the truth; the engine will tell it.
    let fresh = server.stranger("d2").await;
    assert_eq!(fresh.memory().await.expect("an answer"), Memory::Known);
    assert!(fresh.record(after.job()).await.expect("an answer").is_none());
    // A change that it makes is one that the first has not seen when it looked: its rebuild does not take place.
    start(&fresh, "c", "k").await;
    assert!(!store.rebuild(Some(&found), "e2", "engine", &[]).await.expect("an answer"));
}

#[tokio::test]
async fn nothing_is_done_in_a_memory_that_another_has_rebuilt_until_it_is_known() {
    let server = RedisServer::start().await;
    let (store, other) = (server.store("d1").await, server.store("d2").await);
    let held = run(&store, "a", "i").await;
    let mut redis = server.connect().await;
    let _: () = redis::cmd("FLUSHALL").query_async(&mut redis).await.expect("flushed");
    assert!(other.rebuild(None, "new", "engine", &[]).await.expect("an answer"));
    assert_nothing_is_done(&server, &store, &held).await;
    assert_eq!(store.memory().await.expect("an answer"), Memory::Known);
    assert!(store.epoch().is_some_and(|mark| mark.starts_with("new ")));
    assert!(store.record(held.job()).await.expect("an answer").is_none());
    assert!(matches!(store.started(&held).await, Err(StoreError::Stale(_))));
}

#[tokio::test]
async fn an_old_memory_is_not_taken_for_a_rebuilt_one() {
    let mut server = RedisServer::start().await;
    let store = server.store("d1").await;
    run(&store, "a", "i").await;
    server.kill();
    let aside = server.save();
    server.restart().await;
    let mark = eventually("connected", async || match store.memory().await {
        Ok(Memory::Known) => store.epoch(),
        _ => None,
    })
    .await;
    assert!(store.rebuild(Some(&mark), "new", "engine", &[]).await.expect("an answer"));
    server.restart_on(&aside).await;
    eventually("connected", async || store.ping().await.ok()).await;
    assert_eq!(store.memory().await.expect("an answer"), Memory::Strange { found: Some(mark) });
}

#[tokio::test]
async fn a_damaged_count_is_no_memory() {
    let server = RedisServer::start().await;
    let store = server.store("d1").await;
    let held = run(&store, "a", "i").await;
    let mut redis = server.connect().await;
    let _: () = redis::cmd("SET").arg(key("state")).arg("an-epoch many").query_async(&mut redis).await.expect("set");
    assert_nothing_is_done(&server, &store, &held).await;
    let Memory::Strange { found } = store.memory().await.expect("an answer") else { panic!("it is damaged") };
    assert!(store.rebuild(found.as_deref(), "new", "engine", &[]).await.expect("an answer"));
    run(&store, "a", "i").await;

    let _: () = redis::cmd("DEL").arg(key("state")).query_async(&mut redis).await.expect("deleted");
    let _: () = redis::cmd("HSET").arg(key("state")).arg("a").arg("b").query_async(&mut redis).await.expect("set");
    assert_eq!(store.memory().await.expect("an answer"), Memory::Strange { found: None });
    assert!(store.rebuild(None, "newer", "engine", &[]).await.expect("an answer"));
    run(&store, "a", "i").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn replies_that_cross_are_not_taken_for_another_memory() {
    let server = RedisServer::start().await;
    let (store, other) = (server.store("d1").await, server.store("d2").await);
    let calls = (0..200).map(|n| {
        let store = if n % 3 == 0 { other.clone() } else { store.clone() };
        tokio::spawn(async move {
            let held = start(&store, "a", &format!("i{n}")).await;
            let (waiting, _) = wait_in_line(&store, "a", &format!("i{n}"), WhenBusy::Queue).await;
            store.heartbeat(Duration::from_secs(1)).await.expect("a sign of life");
            // Reads of several tasks, whose replies are taken up in any order between those to writes.
            for _ in 0..10 {
                assert!(!record(&store, waiting).await.state.is_ended());
            }
            let next = store.finish(&held, Outcome::Succeeded, None).await.expect("finished");
            assert_eq!(next.map(|held| held.job()), Some(waiting));
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.expect("no panic");
    }
    assert_eq!(queue(&store, "i7").await, []);
    assert_eq!(store.memory().await.expect("an answer"), Memory::Known);
}
