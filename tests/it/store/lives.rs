//! A job's way from the lock to its end, step by step, and who may take each step.

use std::time::Duration;

use lockstep::model::ids::JobId;
use lockstep::model::job::{Intent, Outcome, State, WhenBusy};
use lockstep::model::lock::Held;
use lockstep::model::output::{Position, lay_out};
use lockstep::store::{Store, StoreError};
use serde_json::json;

use super::{WEEK_MS, everything, key, new_job, record, run, start, wait_in_line};
use crate::support::eventually;
use crate::support::redis::{RedisServer, WEEK};

fn assert_stale<T: std::fmt::Debug>(what: &str, result: Result<T, StoreError>) {
    assert!(matches!(result, Err(StoreError::Stale(_))), "{what}: {result:?}");
}

#[tokio::test]
async fn a_job_goes_its_way_from_lock_to_end() {
    let server = RedisServer::start().await;
    let store = server.store("d1").await;
    let job = new_job("a", "i", WhenBusy::Queue);
    let Ok(lockstep::store::Submitted::Started(held)) = store.submit(&job).await else { panic!("not started") };
    let before = record(&store, job.id).await;
    assert_eq!((before.state, before.lease, before.owner.as_deref()), (State::Starting, 1, Some("d1")));
    assert_eq!((before.fence, before.locked_ms.is_some()), (Some(held.fence()), true));
    assert!(held.fence().0 > before.created_ms);
    assert_eq!(store.sealed(job.id).await.expect("an answer"), Some(job.sealed.clone()));

    store.confirm(&held, "engine", "c1", "sha256:1").await.expect("confirmed");
    store.started(&held).await.expect("started");
    store.started(&held).await.expect("started again");
    let running = record(&store, job.id).await;
    assert_eq!((running.state, running.container.as_deref()), (State::Running, Some("c1")));
    assert_eq!((running.engine.as_deref(), running.image_digest.as_deref()), (Some("engine"), Some("sha256:1")));
    let write = lay_out(Position::default(), 1 << 20, "zwei €\n");
    store.append(&held, Position::default(), &write).await.expect("appended");
    let ended = store.exited(&held, 0, None).await.expect("recorded");
    assert_eq!((ended.state, ended.exit_code, ended.output), (State::Running, Some(0), write.after));
    assert!(store.finish(&held, Outcome::Succeeded, None).await.expect("finished").is_none());

    let (view, _) = store.job(job.id, None).await.expect("an answer");
    let view = view.expect("a job");
    assert_eq!(view.record.state, State::Ended(Outcome::Succeeded));
    assert!(view.record.ended_ms >= view.record.started_ms && view.record.started_ms >= view.record.locked_ms);
    assert_eq!((view.output_bytes, view.queue_position, view.progress), (9, None, None));
    assert!(store.live().await.expect("an answer").0.is_empty());
    let next = start(&store, "a", "i").await;
    assert!(next.fence() > held.fence());
}

#[tokio::test]
async fn confirm_is_refused_when_the_lock_is_not_this_jobs() {
    let server = RedisServer::start().await;
    let store = server.store("d1").await;
    let mut redis = server.connect().await;
    let held = start(&store, "a", "i").await;
    let locks = key("locks");
    let other = JobId::new(1, 1).to_string();
    let _: () = redis::cmd("HSET").arg(&locks).arg("i").arg(other).query_async(&mut redis).await.expect("set");
    assert_stale("another's lock", store.confirm(&held, "engine", "c", "d").await);
    assert_stale("another's lock", store.recognize(&held, "engine", "c").await);
    let _: () = redis::cmd("HDEL").arg(&locks).arg("i").query_async(&mut redis).await.expect("deleted");
    assert_stale("no lock", store.confirm(&held, "engine", "c", "d").await);
    assert_eq!(record(&store, held.job()).await.container, None);
}

#[tokio::test]
async fn confirm_is_refused_when_the_job_is_to_end() {
    let server = RedisServer::start().await;
    let store = server.store("d1").await;
    let held = start(&store, "a", "i").await;
    let canceling = store.intend(held.job(), Intent::Cancel, None).await.expect("an answer").expect("a job");
    assert_eq!((canceling.state, canceling.intent), (State::Canceling, Some(Intent::Cancel)));
    assert_stale("canceling", store.confirm(&held, "engine", "c", "d").await);
    // What runs unrecorded must be known in order to be ended.
    store.recognize(&held, "engine", "c").await.expect("recognized");
    store.started(&held).await.expect("started");
    assert_eq!(record(&store, held.job()).await.state, State::Canceling);
    store.finish(&held, Outcome::Canceled, None).await.expect("finished");
    assert_stale("ended", store.confirm(&held, "engine", "c", "d").await);
    assert_stale("ended", store.recognize(&held, "engine", "c").await);
}

#[tokio::test]
async fn confirm_is_refused_when_another_supervisor_has_taken_over() {
    let server = RedisServer::start().await;
    let (store, other) = (server.store("d1").await, server.store("d2").await);
    let held = start(&store, "a", "i").await;
    let adopted = other.adopt(held.job(), 1).await.expect("an answer").expect("d1 gives no sign of life");
    assert_eq!((adopted.lease(), adopted.fence(), adopted.inventory()), (2, held.fence(), held.inventory()));
    assert_stale("lease", store.confirm(&held, "engine", "c", "d").await);
    other.confirm(&adopted, "engine", "c2", "d").await.expect("confirmed");
}

#[tokio::test]
async fn confirm_records_one_container() {
    let server = RedisServer::start().await;
    let store = server.store("d1").await;
    let held = start(&store, "a", "i").await;
    store.confirm(&held, "engine", "c1", "d").await.expect("confirmed");
    store.confirm(&held, "engine", "c1", "d").await.expect("its reply was lost");
    store.recognize(&held, "engine", "c1").await.expect("it is this one");
    assert_stale("another container", store.confirm(&held, "engine", "c2", "d").await);
    assert_stale("another container", store.recognize(&held, "engine", "c2").await);
    assert_stale("another container", store.unconfirm(&held, "c2").await);
    store.unconfirm(&held, "c1").await.expect("forgotten");
    store.unconfirm(&held, "c1").await.expect("its reply was lost");
    assert_stale("no container", store.started(&held).await);
    let without = record(&store, held.job()).await;
    assert_eq!((without.container, without.engine, without.image_digest), (None, None, None));
    store.confirm(&held, "engine", "c2", "d").await.expect("confirmed");
}

#[tokio::test]
async fn every_write_of_a_stale_supervisor_is_refused_and_changes_nothing() {
    let server = RedisServer::start().await;
    let (store, other) = (server.store("d1").await, server.store("d2").await);
    let mut redis = server.connect().await;
    let held = run(&store, "a", "i").await;
    other.adopt(held.job(), 1).await.expect("an answer").expect("adopted");
    let before = everything(&mut redis).await;
    refuse_all_writes(&store, &held).await;
    assert_eq!(everything(&mut redis).await, before);

    // A job that is not there at all.
    let _: () =
        redis::cmd("DEL").arg(key(&format!("job:{}", held.job()))).query_async(&mut redis).await.expect("deleted");
    refuse_all_writes(&store, &held).await;
}

async fn refuse_all_writes(store: &Store, held: &Held) {
    let at = Position::default();
    assert_stale("confirm", store.confirm(held, "engine", "c", "d").await);
    assert_stale("recognize", store.recognize(held, "engine", "c").await);
    assert_stale("unconfirm", store.unconfirm(held, "c").await);
    assert_stale("started", store.started(held).await);
    assert_stale("append", store.append(held, at, &lay_out(at, 100, "x")).await);
    assert_stale("exited", store.exited(held, 0, None).await);
    assert_stale("announce", store.announce(held, 0, "x").await);
    assert_stale("move_ring", store.move_ring(held, 0, 0, 1).await);
    assert_stale("finish", store.finish(held, Outcome::Failed, None).await);
}

#[tokio::test]
async fn what_was_recorded_first_stays_intent_or_exit_code() {
    let server = RedisServer::start().await;
    let store = server.store("d1").await;
    let held = run(&store, "a", "i").await;
    store.intend(held.job(), Intent::RunTimeout, Some("an hour")).await.expect("an answer").expect("a job");
    let second = store.intend(held.job(), Intent::Cancel, Some("by ada")).await.expect("an answer").expect("a job");
    assert_eq!((second.intent, second.reason.as_deref()), (Some(Intent::RunTimeout), Some("an hour")));
    let ended = store.exited(&held, 143, Some("killed")).await.expect("recorded");
    assert_eq!((ended.exit_code, ended.intent), (Some(143), Some(Intent::RunTimeout)));
    assert_eq!(ended.reason.as_deref(), Some("an hour"));
    store.finish(&held, Outcome::TimedOut, Some("seen at the end")).await.expect("finished");
    assert_eq!(record(&store, held.job()).await.reason.as_deref(), Some("an hour"));

    let held = run(&store, "a", "i").await;
    store.exited(&held, 0, None).await.expect("recorded");
    let late = store.intend(held.job(), Intent::Cancel, None).await.expect("an answer").expect("a job");
    assert_eq!((late.state, late.intent), (State::Running, None));
    assert_eq!(store.exited(&held, 1, None).await.expect("ignored").exit_code, Some(0));
    store.finish(&held, Outcome::Succeeded, None).await.expect("finished");
    store.finish(&held, Outcome::Failed, Some("late")).await.expect("repeated");
    let over = store.intend(held.job(), Intent::Cancel, None).await.expect("an answer").expect("a job");
    assert_eq!((over.state, over.reason), (State::Ended(Outcome::Succeeded), None));
    assert!(store.intend(JobId::new(1, 1), Intent::Cancel, None).await.expect("an answer").is_none());

    let held = run(&store, "a", "i").await;
    store.intend(held.job(), Intent::Cancel, Some("by ada")).await.expect("an answer");
    store.finish(&held, Outcome::Lost, Some("it is gone")).await.expect("finished");
    assert_eq!(record(&store, held.job()).await.reason.as_deref(), Some("it is gone"));
}

#[tokio::test]
async fn a_deadline_is_its_supervisors_alone() {
    let server = RedisServer::start().await;
    let (store, other) = (server.store("d1").await, server.store("d2").await);
    let held = run(&store, "a", "i").await;
    store.goodbye().await.expect("gone");
    let theirs = other.adopt(held.job(), held.lease()).await.expect("an answer").expect("adopted");
    assert_stale("deadline", store.deadline(&held, Intent::IdleTimeout, "silent").await);
    assert_eq!(record(&store, held.job()).await.intent, None);
    other.deadline(&theirs, Intent::RunTimeout, "an hour").await.expect("recorded");
    assert_eq!(record(&store, held.job()).await.intent, Some(Intent::RunTimeout));
}

#[tokio::test]
async fn the_lock_is_handed_to_the_next_and_not_a_second_time() {
    let server = RedisServer::start().await;
    let (store, other) = (server.store("d1").await, server.store("d2").await);
    let held = run(&store, "a", "i").await;
    let (next, _) = wait_in_line(&other, "b", "i", WhenBusy::Fifo).await;
    let (last, _) = wait_in_line(&other, "b", "i", WhenBusy::Fifo).await;
    let mut news = other.news(next);
    let given = store.finish(&held, Outcome::Failed, None).await.expect("finished").expect("the next");
    assert_eq!((given.job(), given.lease(), given.inventory().as_str()), (next, 1, "i"));
    assert!(given.fence() > held.fence());
    news.state.changed().await.expect("news");
    // Whose reply was lost asks again, and leaves the next holder to whoever adopts it.
    assert!(store.finish(&held, Outcome::Failed, None).await.expect("repeated").is_none());
    let theirs = record(&store, next).await;
    assert_eq!((theirs.state, theirs.owner.as_deref()), (State::Starting, Some("d1")));

    // What cannot be read in the queue is passed over.
    let mut redis = server.connect().await;
    let _: () = redis::cmd("LPUSH").arg(key("queue:i")).arg("rubbish").query_async(&mut redis).await.expect("pushed");
    let given = store.finish(&given, Outcome::Failed, None).await.expect("finished").expect("the next");
    assert_eq!(given.job(), last);
    assert!(store.waiting().await.expect("an answer").is_empty());
}

#[tokio::test]
async fn ended_jobs_expire_but_the_newest_success_of_an_app() {
    let server = RedisServer::start().await;
    let store = server.store("d1").await;
    let mut redis = server.connect().await;
    let mut jobs = Vec::new();
    for outcome in [Outcome::Succeeded, Outcome::Failed, Outcome::Succeeded, Outcome::Failed] {
        let held = run(&store, "a", "i").await;
        let at = Position::default();
        store.append(&held, at, &lay_out(at, 8, "0123456789")).await.expect("appended");
        store.progress(held.job(), json!({"task": "x"}).as_object().expect("an object")).await.expect("stored");
        store.finish(&held, outcome, None).await.expect("finished");
        jobs.push(held.job());
    }
    let held = run(&store, "b", "i").await;
    store.finish(&held, Outcome::Succeeded, None).await.expect("finished");
    for (job, expires) in jobs.iter().zip([true, true, false, true]) {
        for kind in ["job", "brief", "out", "progress"] {
            let name = key(&format!("{kind}:{job}"));
            let left: i64 = redis::cmd("PTTL").arg(&name).query_async(&mut redis).await.expect("a time");
            assert_eq!(left > WEEK_MS - 60_000 && left <= WEEK_MS, expires, "{name}: {left}");
            assert!(expires || left == -1, "{name}: {left}");
        }
        let rings: i64 =
            redis::cmd("EXISTS").arg(key(&format!("ring:{job}"))).query_async(&mut redis).await.expect("a count");
        assert_eq!(rings, 0);
    }
    // What has expired is unknown, and leaves the lists.
    let held = run(&store, "c", "i").await;
    let forgetful = server.store_that_keeps("d1", Duration::ZERO).await;
    forgetful.finish(&held, Outcome::Failed, None).await.expect("finished");
    let gone = held.job();
    eventually("expired", async || store.record(gone).await.expect("an answer").is_none().then_some(())).await;
    for _ in 0..40 {
        let held = run(&store, "c", "i").await;
        store.finish(&held, Outcome::Failed, None).await.expect("finished");
        let listed: Option<i64> = redis::cmd("ZSCORE")
            .arg(key("jobs:app:c"))
            .arg(gone.to_string())
            .query_async(&mut redis)
            .await
            .expect("a score");
        if listed.is_none() {
            return;
        }
    }
    panic!("40 later jobs have not taken the forgotten one out of the list");
}

#[tokio::test]
async fn a_job_is_adopted_once_and_only_from_a_dead_supervisor() {
    let server = RedisServer::start().await;
    let stores = [server.store("d1").await, server.store("d2").await, server.store("d3").await];
    let held = run(&stores[0], "a", "i").await;
    let job = held.job();
    stores[0].heartbeat(WEEK).await.expect("a sign of life");
    let (live, _) = stores[1].live().await.expect("an answer");
    assert!(live.len() == 1 && live[0].owner_alive);
    assert!(stores[1].adopt(job, 1).await.expect("an answer").is_none(), "its supervisor lives");
    let own = stores[0].adopt(job, 1).await.expect("an answer").expect("its own");
    assert_eq!(own.lease(), 2);
    stores[0].goodbye().await.expect("taken back");
    assert!(!stores[1].live().await.expect("an answer").0[0].owner_alive);
    assert!(stores[1].adopt(job, 1).await.expect("an answer").is_none(), "the lease has been raised since");
    let (second, third) = tokio::join!(stores[1].adopt(job, 2), stores[2].adopt(job, 2));
    let adopted: Vec<_> = [second, third].into_iter().filter_map(|held| held.expect("an answer")).collect();
    assert_eq!(adopted.len(), 1);
    assert_eq!((adopted[0].lease(), adopted[0].fence()), (3, held.fence()));

    let (waiting, _) = wait_in_line(&stores[0], "b", "i", WhenBusy::Queue).await;
    assert!(stores[0].adopt(waiting, 0).await.expect("an answer").is_none(), "it waits");
    stores[0].finish(&adopted[0], Outcome::Lost, None).await.expect("finished").expect("the next");
    assert!(stores[0].adopt(job, 3).await.expect("an answer").is_none(), "it has ended");
    assert!(stores[0].adopt(JobId::new(1, 1), 0).await.expect("an answer").is_none(), "there is none");

    stores[0].heartbeat(Duration::from_millis(1)).await.expect("a sign of life");
    eventually("run out", async || stores[1].adopt(waiting, 1).await.expect("an answer")).await;
}

#[tokio::test]
async fn reports_are_merged_and_kept_exactly() {
    let server = RedisServer::start().await;
    let store = server.store("d1").await;
    let held = run(&store, "a", "i").await;
    let first =
        json!({"task": "one", "tasks_done": 1, "recap": {}, "outputs": {"big": 9007199254740993u64, "list": []}});
    assert!(store.progress(held.job(), first.as_object().expect("an object")).await.expect("an answer"));
    let second = json!({"task": "two", "failures": []});
    assert!(store.progress(held.job(), second.as_object().expect("an object")).await.expect("an answer"));
    let merged = json!({"task": "two", "tasks_done": 1, "recap": {}, "failures": [],
        "outputs": {"big": 9007199254740993u64, "list": []}});
    let (view, _) = store.job(held.job(), None).await.expect("an answer");
    assert_eq!(view.expect("a job").progress.as_ref(), merged.as_object());
    store.finish(&held, Outcome::Succeeded, None).await.expect("finished");
    assert!(!store.progress(held.job(), second.as_object().expect("an object")).await.expect("an answer"));
    assert!(!store.progress(JobId::new(1, 1), second.as_object().expect("an object")).await.expect("an answer"));
}
