//! The store against a real Redis.

use std::time::Duration;

use lockstep::clock;
use lockstep::model::ids::{DeploymentId, Inventory, JobId};
use lockstep::model::job::{Intent, Outcome, State, WhenBusy};
use lockstep::model::lock::Held;
use lockstep::model::output::{Position, lay_out};
use lockstep::store::{NewJob, Store, StoreError, Submitted};

use crate::support::redis::RedisServer;

const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

fn inventory(name: &str) -> Inventory {
    name.parse().expect("a name")
}

fn app(name: &str) -> DeploymentId {
    name.parse().expect("a name")
}

fn new_job(app: &str, inventory: &str, when_busy: WhenBusy) -> NewJob {
    NewJob {
        id: clock::draw_job_id(),
        deployment_id: app.parse().expect("a name"),
        inventory: inventory.parse().expect("a name"),
        action: "app-deploy".parse().expect("a name"),
        when_busy,
        sealed: vec![0, 159, 146, 150],
        idempotency: None,
    }
}

async fn start(store: &Store, app: &str, inventory: &str) -> Held {
    match store.submit(&new_job(app, inventory, WhenBusy::Reject)).await {
        Ok(Submitted::Started(held)) => held,
        other => panic!("not started: {other:?}"),
    }
}

#[tokio::test]
async fn a_job_goes_its_way_from_lock_to_end() {
    let server = RedisServer::start();
    let store = server.store("d1").await;
    let job = new_job("a", "i", WhenBusy::Queue);
    let Submitted::Started(held) = store.submit(&job).await.expect("an answer") else { panic!("not started") };
    let record = store.record(job.id).await.expect("an answer").expect("a record");
    assert_eq!((record.state, record.lease, record.owner.as_deref()), (State::Starting, 1, Some("d1")));
    assert_eq!(record.fence, Some(held.fence()));
    assert!(held.fence().0 > record.created_ms);
    assert_eq!(store.sealed(job.id).await.expect("an answer"), Some(job.sealed.clone()));

    store.confirm(&held, "engine", "c1", "sha256:1").await.expect("confirmed");
    store.started(&held).await.expect("started");
    let mut at = Position::default();
    for text in ["one\n", "zwei €\n"] {
        let mut write = lay_out(at, 1 << 20, text);
        write.after.raw += text.len() as u64;
        store.append(&held, at, &write).await.expect("appended");
        at = write.after;
    }
    assert_eq!(store.readable(job.id).await.expect("an answer"), 13);
    let record = store.exited(&held, 0, None).await.expect("recorded");
    assert_eq!((record.state, record.exit_code, record.output), (State::Running, Some(0), at));
    assert!(store.finish(&held, Outcome::Succeeded, None, WEEK).await.expect("finished").is_none());

    let (view, _) = store.job(job.id, None).await.expect("an answer");
    let view = view.expect("a job");
    assert_eq!(view.record.state, State::Ended(Outcome::Succeeded));
    assert_eq!((view.record.container.as_deref(), view.record.image_digest.as_deref()), (Some("c1"), Some("sha256:1")));
    assert_eq!((view.output_bytes, view.queue_position, view.progress), (13, None, None));
    let output = store.output(job.id, 4, 100).await.expect("an answer");
    assert_eq!(output, Some(("zwei €\n".as_bytes().to_vec(), true)));
    assert!(store.live().await.expect("an answer").0.is_empty());
    start(&store, "a", "i").await;
}

#[tokio::test]
async fn nothing_is_done_in_a_memory_that_is_not_known() {
    let server = RedisServer::start();
    let store = server.stranger("d1").await;
    let refused = store.submit(&new_job("a", "i", WhenBusy::Queue)).await;
    assert!(matches!(refused, Err(StoreError::Epoch)), "{refused:?}");
    let intended = store.intend(JobId::new(1, 1), Intent::Cancel, None).await;
    assert!(matches!(intended, Err(StoreError::Epoch)), "{intended:?}");
    let _ = (inventory("i"), app("a"));
}
