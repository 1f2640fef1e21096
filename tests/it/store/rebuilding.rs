//! Redis' belief replaced by what the engine shows.

use lockstep::model::ids::JobId;
use lockstep::model::job::{Intent, Outcome, State, WhenBusy};
use lockstep::model::lock::{Fence, Held};
use lockstep::model::output::{Position, lay_out};
use lockstep::store::{Memory, Rescued, Store, StoreError};

use super::{everything, inventory, key, queue, record, run, start, stored_app, wait_in_line};
use crate::support::eventually;
use crate::support::redis::RedisServer;

/// What a job's container says.
fn rescued(held: &Held, app: &str) -> Rescued {
    Rescued {
        job: held.job(),
        deployment_id: app.parse().expect("a name"),
        inventory: held.inventory().clone(),
        action: "app-deploy".parse().expect("a name"),
        fence: held.fence(),
        container: Some(format!("container-{}", held.job())),
        holds: true,
    }
}

async fn rebuild(store: &Store, rescued: &[Rescued]) {
    let found = match store.memory().await.expect("an answer") {
        Memory::Known => store.epoch(),
        Memory::Strange { found } => found,
    };
    let epoch = lockstep::clock::draw_name();
    assert!(store.rebuild(found.as_deref(), &epoch, "engine", rescued).await.expect("an answer"));
    assert!(store.epoch().is_some_and(|mark| mark.starts_with(&epoch)));
}

#[tokio::test]
async fn from_nothing_what_runs_lives_again_and_can_be_adopted_and_ended() {
    let server = RedisServer::start().await;
    let store = server.store("d1").await;
    let held = run(&store, "a", "i").await;
    let renamed = run(&store, "b", "j").await;
    let unstarted = start(&store, "c", "k").await;
    let mut redis = server.connect().await;
    let _: () = redis::cmd("FLUSHALL").query_async(&mut redis).await.expect("flushed");
    let news = store.news(held.job());
    rebuild(
        &store,
        &[rescued(&held, "a"), Rescued { holds: false, ..rescued(&renamed, "b") }, rescued(&unstarted, "c")],
    )
    .await;
    eventually("woken", async || news.state.has_changed().expect("open").then_some(())).await;

    let before = record(&store, held.job()).await;
    assert_eq!((before.state, before.owner.clone(), before.fence), (State::Running, None, Some(held.fence())));
    assert_eq!(before.container, Some(format!("container-{}", held.job())));
    assert_eq!((before.engine.as_deref(), before.output), (Some("engine"), Position::default()));
    assert_eq!(before.created_ms, held.job().ms());
    assert_eq!(before.started_ms, Some(held.fence().0 - 1), "the run's deadline goes on from the lock");
    assert_eq!(store.sealed(held.job()).await.expect("an answer"), None, "they lie in the container");
    assert_eq!(store.sealed(renamed.job()).await.expect("an answer"), None);
    // Who supervised it in the memory that was lost is stale, whatever its lease was.
    assert!(before.lease > held.lease());
    assert!(matches!(store.exited(&held, 0, None).await, Err(StoreError::Stale(_))));

    let (locks, _) = store.locks().await.expect("an answer");
    assert_eq!(locks.iter().map(|lock| lock.holder).collect::<Vec<_>>(), [Some(held.job()), Some(unstarted.job())]);
    // Whether a container was ever started is for whoever adopts its job to see.
    let lease = record(&store, unstarted.job()).await.lease;
    let adopted = store.adopt(unstarted.job(), lease).await.expect("an answer").expect("adopted");
    store.unconfirm(&adopted, &format!("container-{}", unstarted.job())).await.expect("forgotten");
    assert_eq!(record(&store, unstarted.job()).await.state, State::Starting);
    store.finish_unlaunched(&adopted, Outcome::Lost, "its variables are gone").await.expect("finished");

    let adopted = store.adopt(held.job(), before.lease).await.expect("an answer").expect("adopted");
    let at = Position::default();
    store.append(&adopted, at, &lay_out(at, 100, "again\n")).await.expect("appended");
    store.exited(&adopted, 0, None).await.expect("recorded");
    assert!(store.finish(&adopted, Outcome::Succeeded, None).await.expect("finished").is_none());
    let lease = record(&store, renamed.job()).await.lease;
    let adopted = store.adopt(renamed.job(), lease).await.expect("an answer").expect("adopted");
    let next = start(&store, "b", "j").await;
    assert!(next.fence() > renamed.fence());
    assert!(store.finish(&adopted, Outcome::Failed, None).await.expect("finished").is_none());
    let (locks, _) = store.locks().await.expect("an answer");
    assert_eq!(locks.iter().map(|lock| lock.holder).collect::<Vec<_>>(), [Some(next.job())], "not its lock to free");
}

#[tokio::test]
async fn over_an_older_state_what_has_ended_stays_and_what_nobody_runs_is_lost() {
    let server = RedisServer::start().await;
    let store = server.store("d1").await;
    store.set_apps(&[stored_app("a", "i")], false).await.expect("an answer").expect("taken");
    store.freeze(&inventory("z"), "x", "ada", None).await.expect("frozen");
    let over = run(&store, "a", "i").await;
    store.finish(&over, Outcome::Failed, None).await.expect("finished");
    let ended = record(&store, over.job()).await;
    let running = run(&store, "a", "i").await;
    let at = Position::default();
    let write = lay_out(at, 100, "so far\n");
    store.append(&running, at, &write).await.expect("appended");
    store.intend(running.job(), Intent::Cancel, Some("by ada")).await.expect("an answer");
    let (waiting, _) = wait_in_line(&store, "b", "i", WhenBusy::Queue).await;
    let gone = run(&store, "c", "k").await;
    let starting = start(&store, "d", "l").await;
    let unrecorded = start(&store, "e", "m").await;

    let higher = Fence(running.fence().0 + 1_000_000_000);
    rebuild(
        &store,
        &[
            rescued(&over, "a"),
            rescued(&running, "a"),
            Rescued { fence: higher, holds: false, ..rescued(&gone, "c") },
            rescued(&unrecorded, "e"),
        ],
    )
    .await;

    assert_eq!(record(&store, over.job()).await, ended);
    let rescued = record(&store, running.job()).await;
    assert_eq!((rescued.state, rescued.intent), (State::Canceling, Some(Intent::Cancel)));
    assert_eq!((rescued.output, rescued.owner.as_deref()), (write.after, None));
    assert_eq!(store.sealed(running.job()).await.expect("an answer"), Some(vec![0, 159, 146, 150]), "what stood there");
    for job in [waiting, starting.job()] {
        assert_eq!(record(&store, job).await.state, State::Ended(Outcome::Lost));
    }
    let found = record(&store, unrecorded.job()).await;
    assert_eq!((found.state, found.container.is_some()), (State::Running, true));
    let (locks, _) = store.locks().await.expect("an answer");
    let holders: Vec<_> = locks.iter().map(|lock| (lock.inventory.as_str(), lock.holder)).collect();
    let held = [("i", Some(running.job())), ("k", Some(gone.job())), ("m", Some(unrecorded.job())), ("z", None)];
    assert_eq!(holders, held);
    assert!(locks[3].freeze.is_some());
    assert!(queue(&store, "i").await.is_empty() && store.waiting().await.expect("an answer").is_empty());
    assert_eq!(store.apps().await.expect("an answer").map(|apps| apps.len()), Some(1));
    assert_eq!(store.live().await.expect("an answer").0.len(), 3);
    let adopted =
        store.adopt(gone.job(), record(&store, gone.job()).await.lease).await.expect("an answer").expect("adopted");
    store.finish(&adopted, Outcome::Failed, None).await.expect("finished");
    assert_eq!(start(&store, "c", "k").await.fence(), Fence(higher.0 + 1), "the label is beyond the clock");
}

#[tokio::test]
async fn of_another_engine_nothing_is_known_and_its_jobs_go_on() {
    let server = RedisServer::start().await;
    let store = server.store("d1").await;
    let theirs = start(&store, "a", "i").await;
    store.confirm(&theirs, "another engine", "c", "d").await.expect("confirmed");
    store.started(&theirs).await.expect("started");
    let before = record(&store, theirs.job()).await;
    let other = start(&store, "b", "j").await;
    let claims = Rescued { inventory: inventory("i"), ..rescued(&other, "b") };
    rebuild(&store, &[claims]).await;
    assert_eq!(record(&store, theirs.job()).await, before);
    let (locks, _) = store.locks().await.expect("an answer");
    assert_eq!(locks[0].holder, Some(theirs.job()));
    store.exited(&theirs, 0, None).await.expect("its lease is as it was");
    store.finish(&theirs, Outcome::Succeeded, None).await.expect("finished");
}

#[tokio::test]
async fn one_rebuilder_wins_and_repeating_changes_nothing() {
    let server = RedisServer::start().await;
    let stores = [server.stranger("d1").await, server.stranger("d2").await];
    let held = {
        let elsewhere = RedisServer::start().await;
        run(&elsewhere.store("d").await, "a", "i").await
    };
    let all = [rescued(&held, "a")];
    let (first, second) =
        tokio::join!(stores[0].rebuild(None, "e1", "engine", &all), stores[1].rebuild(None, "e2", "engine", &all));
    let (first, second) = (first.expect("an answer"), second.expect("an answer"));
    assert!(first != second);
    let (winner, loser, epoch) = if first { (&stores[0], &stores[1], "e1") } else { (&stores[1], &stores[0], "e2") };
    let adopted = winner.adopt(held.job(), record(winner, held.job()).await.lease).await;
    adopted.expect("an answer").expect("adopted");
    let mut redis = server.connect().await;
    let before = everything(&mut redis).await;
    assert!(winner.rebuild(None, epoch, "engine", &all).await.expect("its first reply was lost"));
    assert!(!loser.rebuild(None, "e3", "engine", &all).await.expect("an answer"));
    assert_eq!(everything(&mut redis).await, before);
    assert_eq!(loser.memory().await.expect("an answer"), Memory::Known);
    start(loser, "b", "j").await;
}

#[tokio::test]
async fn what_stands_in_a_records_place_is_no_obstacle() {
    let server = RedisServer::start().await;
    let store = server.store("d1").await;
    let held = run(&store, "a", "i").await;
    let mut redis = server.connect().await;
    let name = key(&format!("job:{}", held.job()));
    let strange = JobId::new(1, 1);
    let _: () = redis::pipe()
        .cmd("DEL")
        .arg(&name)
        .cmd("SET")
        .arg(&name)
        .arg("rubbish")
        .cmd("SET")
        .arg(key(&format!("out:{}", held.job())))
        .arg("left over")
        .cmd("SADD")
        .arg(key("active"))
        .arg("rubbish")
        .arg(strange.to_string())
        .cmd("HSET")
        .arg(key("locks"))
        .arg("x")
        .arg("rubbish")
        .query_async(&mut redis)
        .await
        .expect("tampered with");
    rebuild(&store, &[rescued(&held, "a")]).await;
    let (live, unreadable) = store.live().await.expect("an answer");
    assert_eq!((live.len(), live[0].record.id, unreadable.len()), (1, held.job(), 0));
    assert_eq!(store.readable(held.job()).await.expect("an answer"), 0);
    let (locks, _) = store.locks().await.expect("an answer");
    assert_eq!((locks.len(), locks[0].holder), (1, Some(held.job())));
}
