//! Who gets the lock, who waits, who is displaced, who is refused.

use lockstep::model::job::{Intent, Outcome, State, WhenBusy};
use lockstep::store::{Freeze, NewJob, StoreError, Submitted};

use super::{WEEK_MS, inventory, key, new_job, queue, record, run, start, wait_in_line};
use crate::support::redis::RedisServer;

#[tokio::test]
async fn reject_is_told_who_is_in_the_way() {
    let server = RedisServer::start().await;
    let store = server.store("d1").await;
    let held = start(&store, "a", "i").await;
    let refused = store.submit(&new_job("b", "i", WhenBusy::Reject)).await.expect("an answer");
    assert!(matches!(refused, Submitted::Busy { holder } if holder == held.job()), "{refused:?}");
    start(&store, "a", "other").await;

    // The lock is free, but somebody waits: nobody is overtaken.
    store.freeze(&inventory("i"), "x", "ada", None).await.expect("frozen");
    let (waiting, _) = wait_in_line(&store, "b", "i", WhenBusy::Fifo).await;
    assert!(store.finish(&held, Outcome::Failed, None).await.expect("finished").is_none());
    store.unfreeze(&inventory("i")).await.expect("lifted");
    let refused = store.submit(&new_job("a", "i", WhenBusy::Reject)).await.expect("an answer");
    assert!(matches!(refused, Submitted::Busy { holder } if holder == waiting), "{refused:?}");
}

#[tokio::test]
async fn a_newer_request_displaces_the_waiting_one_of_the_same_app_and_action_and_takes_its_place() {
    let server = RedisServer::start().await;
    let store = server.store("d1").await;
    start(&store, "a", "i").await;
    let (first, place) = wait_in_line(&store, "a", "i", WhenBusy::Queue).await;
    assert_eq!(place, 1);
    let (others, place) = wait_in_line(&store, "b", "i", WhenBusy::Queue).await;
    assert_eq!(place, 2);
    let feed = NewJob { action: "announce-apps".parse().expect("a name"), ..new_job("a", "i", WhenBusy::Queue) };
    assert!(matches!(store.submit(&feed).await, Ok(Submitted::Queued { position: 3 })));
    let mut news = store.news(first);
    let (second, place) = wait_in_line(&store, "a", "i", WhenBusy::Queue).await;
    assert_eq!(place, 1);
    assert_eq!(queue(&store, "i").await, [second, others, feed.id]);

    let displaced = record(&store, first).await;
    assert_eq!(displaced.state, State::Ended(Outcome::Superseded));
    assert_eq!(displaced.superseded_by, Some(second));
    assert!(displaced.ended_ms >= Some(displaced.created_ms) && displaced.lease == 0 && displaced.fence.is_none());
    news.state.changed().await.expect("news");
    let mut redis = server.connect().await;
    let left: i64 = redis::cmd("PTTL").arg(key(&format!("job:{first}"))).query_async(&mut redis).await.expect("a time");
    assert!((1..=WEEK_MS).contains(&left), "{left}");
    assert_eq!(store.live().await.expect("an answer").0.len(), 4);
}

#[tokio::test]
async fn fifo_is_appended_and_never_displaced() {
    let server = RedisServer::start().await;
    let store = server.store("d1").await;
    start(&store, "a", "i").await;
    let (first, _) = wait_in_line(&store, "a", "i", WhenBusy::Fifo).await;
    let (second, place) = wait_in_line(&store, "a", "i", WhenBusy::Fifo).await;
    assert_eq!(place, 2);
    let (newest, place) = wait_in_line(&store, "a", "i", WhenBusy::Queue).await;
    assert_eq!(place, 3);
    let (fourth, _) = wait_in_line(&store, "a", "i", WhenBusy::Fifo).await;
    let (newer, place) = wait_in_line(&store, "a", "i", WhenBusy::Queue).await;
    assert_eq!(place, 3);
    assert_eq!(queue(&store, "i").await, [first, second, newer, fourth]);
    assert_eq!(record(&store, newest).await.superseded_by, Some(newer));
}

#[tokio::test]
async fn a_freeze_refuses_or_holds_back_and_lets_the_holder_go_on() {
    let server = RedisServer::start().await;
    let store = server.store("d1").await;
    let i = inventory("i");
    let held = run(&store, "a", "i").await;
    let freeze = store.freeze(&i, "audit \"week\"", "ada", Some(3600)).await.expect("frozen");
    let now = store.now_ms().await.expect("the time");
    assert_eq!((freeze.reason.as_str(), freeze.by.as_str()), ("audit \"week\"", "ada"));
    assert!(freeze.until_ms.is_some_and(|until| until > now + 3_500_000 && until <= now + 3_600_000));
    let refused = store.submit(&new_job("b", "i", WhenBusy::Reject)).await.expect("an answer");
    assert!(matches!(refused, Submitted::Frozen(told) if told == freeze));
    let (waiting, _) = wait_in_line(&store, "b", "i", WhenBusy::Queue).await;
    assert!(store.finish(&held, Outcome::Succeeded, None).await.expect("finished").is_none());
    assert!(store.grant(&i).await.expect("an answer").is_none());
    let (behind, place) = wait_in_line(&store, "a", "i", WhenBusy::Fifo).await;
    assert_eq!((place, store.waiting().await.expect("an answer")), (2, vec![i.clone()]));

    assert!(store.unfreeze(&i).await.expect("an answer"));
    assert!(!store.unfreeze(&i).await.expect("an answer"));
    let granted = store.grant(&i).await.expect("an answer").expect("a holder");
    assert_eq!((granted.job(), granted.lease()), (waiting, 1));
    assert!(granted.fence() > held.fence());
    assert!(store.grant(&i).await.expect("an answer").is_none());
    let next = store.finish(&granted, Outcome::Failed, None).await.expect("finished").expect("a holder");
    assert_eq!(next.job(), behind);
    assert!(store.waiting().await.expect("an answer").is_empty());
}

#[tokio::test]
async fn a_freeze_that_has_run_out_is_none() {
    let server = RedisServer::start().await;
    let store = server.store("d1").await;
    let i = inventory("i");
    store.freeze(&i, "x", "ada", None).await.expect("frozen");
    let (waiting, _) = wait_in_line(&store, "a", "i", WhenBusy::Queue).await;
    store.freeze(&i, "x", "ada", Some(0)).await.expect("frozen");
    assert!(!store.unfreeze(&i).await.expect("an answer"));
    store.freeze(&i, "x", "ada", Some(0)).await.expect("frozen");
    let (locks, _) = store.locks().await.expect("an answer");
    assert_eq!((locks.len(), locks[0].freeze.clone(), locks[0].holder), (1, None::<Freeze>, None));
    // Nobody has granted the lock yet: the newer request takes the first place, and with it the lock.
    let held = match store.submit(&new_job("a", "i", WhenBusy::Queue)).await {
        Ok(Submitted::Started(held)) => held,
        other => panic!("not started: {other:?}"),
    };
    assert_eq!(record(&store, waiting).await.superseded_by, Some(held.job()));
    assert!(store.waiting().await.expect("an answer").is_empty());
}

#[tokio::test]
async fn asking_again_with_the_same_job_makes_a_lost_reply_good() {
    let server = RedisServer::start().await;
    let store = server.store("d1").await;
    let other = server.store("d2").await;
    let job = new_job("a", "i", WhenBusy::Reject);
    let Ok(Submitted::Started(first)) = store.submit(&job).await else { panic!("not started") };
    let Ok(Submitted::Started(again)) = store.submit(&job).await else { panic!("not started again") };
    assert_eq!(first, again);
    let elsewhere = other.submit(&job).await.expect("an answer");
    assert!(matches!(elsewhere, Submitted::Exists(id) if id == job.id), "{elsewhere:?}");

    let waiting = new_job("a", "i", WhenBusy::Queue);
    for _ in 0..2 {
        assert!(matches!(store.submit(&waiting).await, Ok(Submitted::Queued { position: 1 })));
    }
    assert_eq!(queue(&store, "i").await, [waiting.id]);

    // Once it was adopted or started, somebody supervises it already.
    store.confirm(&first, "engine", "c", "sha256:1").await.expect("confirmed");
    store.started(&first).await.expect("started");
    assert!(matches!(store.submit(&job).await, Ok(Submitted::Exists(id)) if id == job.id));
    store.finish(&first, Outcome::Succeeded, None).await.expect("finished").expect("the next");
    assert!(matches!(store.submit(&job).await, Ok(Submitted::Exists(id)) if id == job.id));
    store.adopt(waiting.id, 1).await.expect("an answer").expect("adopted");
    assert!(matches!(store.submit(&waiting).await, Ok(Submitted::Exists(id)) if id == waiting.id));
}

#[tokio::test]
async fn an_idempotency_key_is_honoured_for_its_app_and_its_request() {
    let server = RedisServer::start().await;
    let store = server.store("d1").await;
    let keyed = |app: &str, inventory: &str, key: &str, digest: &str| NewJob {
        idempotency: Some((key.to_owned(), digest.to_owned())),
        ..new_job(app, inventory, WhenBusy::Reject)
    };
    let first = keyed("a", "i", "key 1", "d1");
    assert!(matches!(store.submit(&first).await, Ok(Submitted::Started(_))));
    assert!(matches!(store.submit(&first).await, Ok(Submitted::Started(_))));
    assert!(matches!(store.submit(&keyed("a", "i", "key 1", "d1")).await, Ok(Submitted::Exists(id)) if id == first.id));
    assert!(matches!(store.submit(&keyed("a", "i", "key 1", "d2")).await, Ok(Submitted::KeyReused)));
    // A refused request is not remembered: the same key may succeed later.
    let refused = keyed("b", "i", "key 1", "d1");
    assert!(matches!(store.submit(&refused).await, Ok(Submitted::Busy { .. })));
    assert!(matches!(store.submit(&keyed("b", "j", "key 1", "d1")).await, Ok(Submitted::Started(_))));

    let mut redis = server.connect().await;
    let keys: Vec<String> = redis::cmd("KEYS").arg(key("idem:a:*")).query_async(&mut redis).await.expect("keys");
    assert_eq!((keys.len(), keys[0].contains("key 1")), (1, false));
    let left: i64 = redis::cmd("TTL").arg(&keys[0]).query_async(&mut redis).await.expect("a time");
    assert!((86_390..=86_400).contains(&left), "{left}");
}

#[tokio::test]
async fn a_waiting_job_that_is_canceled_ends_at_once_and_leaves_the_queue() {
    let server = RedisServer::start().await;
    let store = server.store("d1").await;
    let held = start(&store, "a", "i").await;
    let (first, _) = wait_in_line(&store, "a", "i", WhenBusy::Fifo).await;
    let (second, _) = wait_in_line(&store, "b", "i", WhenBusy::Fifo).await;
    let canceled = store.intend(first, Intent::Cancel, Some("by ada")).await.expect("an answer").expect("a job");
    assert_eq!((canceled.state, canceled.reason.as_deref()), (State::Ended(Outcome::Canceled), Some("by ada")));
    assert_eq!(queue(&store, "i").await, [second]);
    let mut redis = server.connect().await;
    let left: i64 = redis::cmd("PTTL").arg(key(&format!("job:{first}"))).query_async(&mut redis).await.expect("a time");
    assert!((1..=WEEK_MS).contains(&left), "{left}");
    store.intend(second, Intent::Cancel, None).await.expect("an answer").expect("a job");
    assert!(store.waiting().await.expect("an answer").is_empty());
    assert!(store.finish(&held, Outcome::Succeeded, None).await.expect("finished").is_none());
}

#[tokio::test]
async fn an_orphaned_lock_is_freed_only_while_its_holder_cannot_be_read() {
    let server = RedisServer::start().await;
    let store = server.store("d1").await;
    let mut redis = server.connect().await;
    let (i, held) = (inventory("i"), run(&store, "a", "i").await);
    let holder = held.job().to_string();
    let (waiting, _) = wait_in_line(&store, "b", "i", WhenBusy::Queue).await;
    assert!(!store.free_orphan(&i, &holder).await.expect("an answer"), "its record can be read");

    let record = key(&format!("job:{holder}"));
    let _: () = redis::cmd("HSET").arg(&record).arg("state").arg("asleep").query_async(&mut redis).await.expect("set");
    let (live, unreadable) = store.live().await.expect("an answer");
    assert_eq!((live.len(), unreadable), (1, vec![held.job()]));
    let (locks, _) = store.locks().await.expect("an answer");
    assert!(locks[0].holder == Some(held.job()) && locks[0].record.is_none());
    assert!(matches!(store.record(held.job()).await, Err(StoreError::Unreadable(_))));
    assert!(!store.free_orphan(&inventory("j"), &holder).await.expect("an answer"), "not the holder there");
    assert!(store.free_orphan(&i, &holder).await.expect("an answer"));
    assert!(!store.free_orphan(&i, &holder).await.expect("an answer"));
    assert_eq!(store.grant(&i).await.expect("an answer").map(|held| held.job()), Some(waiting));
    assert!(store.live().await.expect("an answer").1.is_empty());

    // Something else altogether stands in the record's place.
    let holder = key(&format!("job:{waiting}"));
    let _: () = redis::cmd("DEL").arg(&holder).query_async(&mut redis).await.expect("deleted");
    let _: () = redis::cmd("SET").arg(&holder).arg("x").query_async(&mut redis).await.expect("set");
    assert_eq!(store.live().await.expect("an answer").1, [waiting]);
    assert!(store.free_orphan(&i, &waiting.to_string()).await.expect("an answer"));
    start(&store, "a", "i").await;
}
