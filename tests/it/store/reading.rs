//! Lists: jobs, locks, the audit log.

use std::collections::HashSet;
use std::time::Duration;

use lockstep::model::ids::JobId;
use lockstep::model::job::{Outcome, WhenBusy};
use lockstep::store::{JobFilter, Store};

use super::{app, inventory, key, run, wait_in_line};
use crate::support::eventually;
use crate::support::redis::RedisServer;

async fn list(store: &Store, filter: JobFilter) -> Vec<JobId> {
    store.jobs(&filter).await.expect("an answer").into_iter().map(|view| view.record.id).collect()
}

/// A job that is over: its app, inventory and outcome.
type Done = (JobId, &'static str, &'static str, Outcome);

fn filter() -> JobFilter {
    JobFilter { limit: 200, ..JobFilter::default() }
}

#[tokio::test]
async fn jobs_are_listed_newest_first_filtered_and_in_pages() {
    let server = RedisServer::start().await;
    let store = server.store("d1").await;
    let mut all: Vec<Done> = Vec::new();
    for n in 0..250 {
        let (name, place) = [("a", "i"), ("b", "i"), ("c", "j")][n % 3];
        let held = run(&store, name, place).await;
        let outcome = if n % 50 == 0 { Outcome::Failed } else { Outcome::Succeeded };
        store.finish(&held, outcome, None).await.expect("finished");
        all.push((held.job(), name, place, outcome));
    }
    let running = run(&store, "a", "i").await.job();
    let (first, _) = wait_in_line(&store, "a", "i", WhenBusy::Fifo).await;
    let (second, _) = wait_in_line(&store, "b", "i", WhenBusy::Fifo).await;
    let wanted = |want: &dyn Fn(&Done) -> bool| {
        let mut jobs: Vec<_> = all.iter().filter(|job| want(job)).map(|job| job.0).collect();
        jobs.sort();
        jobs.reverse();
        jobs
    };

    let mut cursor = None;
    let mut paged = Vec::new();
    loop {
        let page = list(&store, JobFilter { before: cursor, limit: 70, ..filter() }).await;
        let Some(last) = page.last().copied() else { break };
        cursor = Some(last);
        paged.extend(page);
    }
    let mut expected: HashSet<_> = wanted(&|_| true).into_iter().collect();
    expected.extend([running, first, second]);
    assert_eq!(paged.len(), 253);
    assert!(paged.is_sorted_by(|a, b| a > b));
    assert_eq!(paged.into_iter().collect::<HashSet<_>>(), expected);

    let of_c = list(&store, JobFilter { deployment_id: Some(app("c")), ..filter() }).await;
    assert_eq!(of_c, wanted(&|job| job.1 == "c"));
    let of_j = list(&store, JobFilter { inventory: Some(inventory("j")), ..filter() }).await;
    assert_eq!(of_j, wanted(&|job| job.2 == "j"));
    let both = JobFilter { deployment_id: Some(app("c")), inventory: Some(inventory("i")), ..filter() };
    assert!(list(&store, both).await.is_empty());
    let failed = list(&store, JobFilter { states: vec!["failed".into()], ..filter() }).await;
    assert_eq!(failed, wanted(&|job| job.3 == Outcome::Failed));
    let some = JobFilter { states: vec!["failed".into()], deployment_id: Some(app("a")), limit: 1, ..filter() };
    assert_eq!(list(&store, some).await, wanted(&|job| job.3 == Outcome::Failed && job.1 == "a")[..1]);
    assert!(list(&store, JobFilter { states: vec!["asleep".into()], ..filter() }).await.is_empty());

    let live = JobFilter { states: vec!["queued".into(), "running".into()], ..filter() };
    let mut expected = vec![running, first, second];
    expected.sort();
    expected.reverse();
    assert_eq!(list(&store, live.clone()).await, expected);
    let older = JobFilter { before: Some(expected[0]), limit: 1, ..live };
    assert_eq!(list(&store, older).await, expected[1..2]);
    let queued = JobFilter { states: vec!["queued".into()], deployment_id: Some(app("b")), ..filter() };
    let views = store.jobs(&queued).await.expect("an answer");
    assert_eq!((views.len(), views[0].record.id, views[0].queue_position), (1, second, Some(2)));
    let (view, _) = store.job(first, None).await.expect("an answer");
    assert_eq!(view.and_then(|view| view.queue_position), Some(1));
}

#[tokio::test]
async fn the_indexes_forget_what_has_expired() {
    let server = RedisServer::start().await;
    let store = server.store_that_keeps("d1", Duration::ZERO).await;
    let mut redis = server.connect().await;
    for _ in 0..60 {
        let held = run(&store, "a", "i").await;
        store.finish(&held, Outcome::Failed, None).await.expect("finished");
    }
    for index in ["jobs", "jobs:app:a", "jobs:inv:i"] {
        let count: u64 = redis::cmd("ZCARD").arg(key(index)).query_async(&mut redis).await.expect("a count");
        assert!(count < 20, "{index}: {count}");
    }
    eventually("expired", async || list(&store, filter()).await.is_empty().then_some(())).await;
}

#[tokio::test]
async fn locks_queues_and_freezes_are_shown_by_inventory() {
    let server = RedisServer::start().await;
    let store = server.store("d1").await;
    let held = run(&store, "a", "m").await;
    let (first, _) = wait_in_line(&store, "a", "m", WhenBusy::Fifo).await;
    let (second, _) = wait_in_line(&store, "b", "m", WhenBusy::Fifo).await;
    let freeze = store.freeze(&inventory("b"), "why", "ada", None).await.expect("frozen");
    let (alone, _) = wait_in_line(&store, "a", "b", WhenBusy::Queue).await;
    store.freeze(&inventory("c"), "why", "ada", Some(0)).await.expect("frozen");
    let (locks, now) = store.locks().await.expect("an answer");
    assert_eq!(locks.iter().map(|lock| lock.inventory.as_str()).collect::<Vec<_>>(), ["b", "m"]);
    assert_eq!((locks[0].holder, &locks[0].freeze, &locks[0].waiting), (None, &Some(freeze), &vec![alone]));
    assert_eq!((locks[1].holder, &locks[1].waiting), (Some(held.job()), &vec![first, second]));
    let since = locks[1].record.as_ref().and_then(|record| record.locked_ms).expect("a time");
    assert!(since <= now && now - since < 60_000);
}

#[tokio::test]
async fn the_audit_log_is_written_and_bounded() {
    let server = RedisServer::start().await;
    let store = server.store("d1").await;
    store.audit("ada", "unlock", "i", "it was stuck").await.expect("written");
    let mut redis = server.connect().await;
    let lines: Vec<(String, Vec<String>)> =
        redis::cmd("XRANGE").arg(key("audit")).arg("-").arg("+").query_async(&mut redis).await.expect("lines");
    assert_eq!(lines[0].1, ["by", "ada", "what", "unlock", "about", "i", "reason", "it was stuck"]);
    let many = (0..11_000).map(|_| store.audit("ada", "freeze", "i", "x"));
    futures::future::try_join_all(many).await.expect("written");
    let count: u64 = redis::cmd("XLEN").arg(key("audit")).query_async(&mut redis).await.expect("a count");
    assert!((10_000..10_200).contains(&count), "{count}");
}
