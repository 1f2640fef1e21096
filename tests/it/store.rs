//! The store against a real Redis.

mod admission;
mod connection;
mod doors;
mod epochs;
mod lives;
mod orders;
mod outputs;
mod properties;
mod reading;
mod rebuilding;
mod webhooks;

use std::collections::BTreeMap;

use lockstep::clock;
use lockstep::model::app::App;
use lockstep::model::ids::{DeploymentId, Inventory, JobId};
use lockstep::model::job::{Record, WhenBusy};
use lockstep::model::lock::Held;
use lockstep::store::{NewJob, Store, StoredApp, Submitted};
use redis::aio::MultiplexedConnection;

use crate::support::redis::instance;

const WEEK_MS: i64 = 7 * 24 * 3600 * 1000;

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

fn stored_app(name: &str, inventory: &str) -> StoredApp {
    let app = App {
        deployment_id: name.parse().expect("a name"),
        inventory: inventory.parse().expect("a name"),
        action: "app-deploy".parse().expect("a name"),
        vars: [("version".parse().expect("a word"), lockstep::model::app::VarRule { pattern: None, secret: true })]
            .into(),
        oidc: vec![],
    };
    StoredApp { app, hash: Some(name.bytes().cycle().take(32).collect()) }
}

/// Submits a job that gets the lock at once.
async fn start(store: &Store, app: &str, inventory: &str) -> Held {
    match store.submit(&new_job(app, inventory, WhenBusy::Reject)).await {
        Ok(Submitted::Started(held)) => held,
        other => panic!("not started: {other:?}"),
    }
}

/// Submits a job that has to wait; returns it and its place.
async fn wait_in_line(store: &Store, app: &str, inventory: &str, when_busy: WhenBusy) -> (JobId, u64) {
    let job = new_job(app, inventory, when_busy);
    match store.submit(&job).await {
        Ok(Submitted::Queued { position }) => (job.id, position),
        other => panic!("not queued: {other:?}"),
    }
}

/// Starts a job and its container.
async fn run(store: &Store, app: &str, inventory: &str) -> Held {
    let held = start(store, app, inventory).await;
    store.confirm(&held, "engine", &format!("container-{}", held.job()), "sha256:1").await.expect("confirmed");
    store.started(&held).await.expect("started");
    held
}

async fn record(store: &Store, job: JobId) -> Record {
    store.record(job).await.expect("an answer").expect("a record")
}

/// The key that a name stands for in the instance of the tests.
fn key(name: &str) -> String {
    format!("lockstep:{}:{name}", instance())
}

/// The queue of an inventory, as operators see it.
async fn queue(store: &Store, name: &str) -> Vec<JobId> {
    let (locks, _) = store.locks().await.expect("an answer");
    locks.into_iter().find(|lock| lock.inventory.as_str() == name).map(|lock| lock.waiting).unwrap_or_default()
}

/// Everything that Redis holds: of every key whether it expires, and its content.
async fn everything(redis: &mut MultiplexedConnection) -> BTreeMap<String, (bool, Vec<String>)> {
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(redis).await.expect("keys");
    let mut all = BTreeMap::new();
    for key in keys {
        let expires: i64 = redis::cmd("PTTL").arg(&key).query_async(redis).await.expect("a time");
        let kind: String = redis::cmd("TYPE").arg(&key).query_async(redis).await.expect("a type");
        let mut read = match kind.as_str() {
            "string" => redis::cmd("GET"),
            "hash" => redis::cmd("HGETALL"),
            "set" => redis::cmd("SMEMBERS"),
            "list" => redis::cmd("LRANGE"),
            "zset" => redis::cmd("ZRANGE"),
            "stream" => redis::cmd("XRANGE"),
            other => panic!("{key} is a {other}"),
        };
        match kind.as_str() {
            "list" | "zset" => read.arg(&key).arg(0).arg(-1),
            "stream" => read.arg(&key).arg("-").arg("+"),
            _ => read.arg(&key),
        };
        let mut content = match read.query_async(redis).await.expect("content") {
            redis::Value::Array(items) | redis::Value::Set(items) => {
                items.iter().map(|item| format!("{item:?}")).collect()
            }
            other => vec![format!("{other:?}")],
        };
        match kind.as_str() {
            "set" => content.sort(),
            "hash" => {
                content = content.chunks(2).map(|pair| pair.join(" = ")).collect();
                content.sort();
            }
            _ => {}
        }
        all.insert(key, (expires >= 0, content));
    }
    all
}
