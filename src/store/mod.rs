//! Redis: what is decided there, and how.
//!
//! Every step that must be whole is one Lua script under `scripts/`. A script first checks the *epoch*: the memory that this
//! dispatcher knows is named by a random id and counts its changes of state. When the id is missing or another one, or the
//! count is lower than one already seen, Redis came back empty or older, and the answer is [`StoreError::Epoch`] and nothing
//! has been changed. A write about a job carries the supervisor's lease number and is refused as [`StoreError::Stale`] when a
//! later supervisor has taken over.
//!
//! `keys` is the whole keyspace. Redis is not hidden behind an abstraction: callers know that there are round trips.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::model::app::App;
use crate::model::ids::{Action, DeploymentId, Instance, Inventory, JobId};
use crate::model::job::{Intent, Outcome, Record, WhenBusy};
use crate::model::lock::{Fence, Held};
use crate::model::output::{Position, Write};

/// Why Redis did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// Not reached, or the reply was lost: it may or may not have had its effect.
    #[error("Redis was not reached: {0}")]
    NotReached(String),
    /// Redis' memory is not the one known here: state has to be rebuilt (or was, by another dispatcher). Nothing was changed.
    #[error("Redis holds another state than the one known here")]
    Epoch,
    /// The write came from a supervisor that is not the job's any more, or at an offset that is not the next. Nothing was changed.
    #[error("the write is stale: {0}")]
    Stale(String),
    /// A record that cannot be read.
    #[error("Redis holds something unreadable at {0}")]
    Unreadable(String),
}

/// The result of a call to Redis.
pub type Result<T> = std::result::Result<T, StoreError>;

/// A job to be accepted. The id is drawn before, so that asking again is harmless.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// Its id.
    pub id: JobId,
    /// The app.
    pub deployment_id: DeploymentId,
    /// The app's inventory.
    pub inventory: Inventory,
    /// The app's action.
    pub action: Action,
    /// What to do if the inventory is taken.
    pub when_busy: WhenBusy,
    /// The job's secrets and variables, encrypted (see `crate::pepper`).
    pub sealed: Vec<u8>,
    /// `Idempotency-Key` of the request, and a digest of the request.
    pub idempotency: Option<(String, String)>,
}

/// What became of a request.
#[derive(Debug)]
pub enum Submitted {
    /// It got the lock; the caller supervises it.
    Started(Held),
    /// It waits, in this place of the queue counted from 1.
    Queued {
        /// The place.
        position: u64,
    },
    /// This very request was accepted before, as this job (a retry by id or by `Idempotency-Key`).
    Exists(JobId),
    /// The `Idempotency-Key` was used with another request.
    KeyReused,
    /// The inventory is taken, and the request said `reject`.
    Busy {
        /// Who holds it.
        holder: JobId,
    },
    /// The inventory is frozen, and the request said `reject` (others wait).
    Frozen(Freeze),
}

/// A freeze in force.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Freeze {
    /// Why.
    pub reason: String,
    /// Who froze it.
    pub by: String,
    /// When it ends by itself, in milliseconds since 1970.
    pub until_ms: Option<u64>,
}

/// An app as it is stored: with the keyed hash of its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredApp {
    /// The app.
    pub app: App,
    /// HMAC-SHA-256 of its secret, keyed with the pepper.
    pub hash: Vec<u8>,
}

/// What a request's credentials are checked against, read in one round trip with whatever it asked for.
#[derive(Debug, Clone, Default)]
pub struct Door {
    /// The app, if the feed lists it.
    pub app: Option<StoredApp>,
    /// Seconds for which this address or this app gets no further try; none: go on.
    pub barred: Option<u64>,
}

/// A poll's answer: credentials, and the job's state and output, read in one round trip.
#[derive(Debug, Clone, Default)]
pub struct Polled {
    /// The credentials' side.
    pub door: Door,
    /// The app that the job was asked for and the job's state; none: no such job.
    pub job: Option<(DeploymentId, crate::model::job::State)>,
    /// The job's readable output, read after the state.
    pub output: String,
}

/// A job as the API shows it.
#[derive(Debug, Clone)]
pub struct JobView {
    /// The record.
    pub record: Record,
    /// Bytes of output that can be read.
    pub output_bytes: u64,
    /// Its place in the queue, counted from 1, while it waits.
    pub queue_position: Option<u64>,
    /// What the container last reported: a JSON object.
    pub progress: Option<Map<String, Value>>,
}

/// A live job as the reconciler sees it.
#[derive(Debug, Clone)]
pub struct Live {
    /// The record.
    pub record: Record,
    /// Whether the dispatcher that supervises it gives signs of life.
    pub owner_alive: bool,
}

/// Filter of the list of jobs.
#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    /// Only of this app.
    pub deployment_id: Option<DeploymentId>,
    /// Only of this inventory.
    pub inventory: Option<Inventory>,
    /// Only in one of these states (words of `State`); empty: any.
    pub states: Vec<String>,
    /// Only older than this job.
    pub before: Option<JobId>,
    /// At most so many (1 to 200).
    pub limit: usize,
}

/// One lock or freeze or queue, by inventory.
#[derive(Debug, Clone)]
pub struct LockState {
    /// The inventory.
    pub inventory: Inventory,
    /// The job that holds it.
    pub holder: Option<JobId>,
    /// That job's record; none: unreadable or gone.
    pub record: Option<Record>,
    /// Jobs that wait, in order.
    pub waiting: Vec<JobId>,
    /// The freeze in force.
    pub freeze: Option<Freeze>,
}

/// Whether Redis' memory is the one known here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Memory {
    /// It is (or another dispatcher has rebuilt it and this one now knows the new one).
    Known,
    /// It is missing or older. `found` is the epoch that stands there now: what `rebuild` must still find.
    Strange {
        /// The epoch that stands there, if any.
        found: Option<String>,
    },
}

/// A container found on the engine, as a rebuild takes it over: running or ended, and adopted from then on like any other.
#[derive(Debug, Clone)]
pub struct Rescued {
    /// The job on its label.
    pub job: JobId,
    /// Its app.
    pub deployment_id: DeploymentId,
    /// Its inventory.
    pub inventory: Inventory,
    /// Its action.
    pub action: Action,
    /// Its fence.
    pub fence: Fence,
    /// The container; none: it was never started and has been removed, so the job is `lost`.
    pub container: Option<String>,
    /// Whether it bears the inventory's name still, and so holds the lock.
    pub holds: bool,
    /// The job's secrets, encrypted, as read from the container's own layer.
    pub sealed: Option<Vec<u8>>,
}

/// News about a job: woken after something was written about it, by whichever dispatcher.
///
/// A wake-up says "look again", not what changed: a missed one is made good by the wake-up that follows a lost connection.
#[derive(Debug, Clone)]
pub struct News {
    /// Counts changes of state (intent, start, end …).
    pub state: tokio::sync::watch::Receiver<u64>,
    /// Counts writes of output.
    pub output: tokio::sync::watch::Receiver<u64>,
}

/// Redis, for one instance and one dispatcher. Cheap to clone.
#[derive(Clone)]
pub struct Store {}

impl Store {
    /// Connects (with a bound on every reply) and begins to listen for news. Does not fail when Redis is away: calls will.
    pub async fn connect(url: &str, instance: &Instance, dispatcher: &str) -> Result<Self> {
        todo!()
    }

    /// The name under which this dispatcher supervises.
    pub fn dispatcher(&self) -> &str {
        todo!()
    }
    /// The epoch known here.
    pub fn epoch(&self) -> Option<String> {
        todo!()
    }

    // ---- the memory -------------------------------------------------------------------------------------------------

    /// Compares Redis' epoch and count with what is known here; knows the epoch that it finds when another has rebuilt it.
    pub async fn memory(&self) -> Result<Memory> {
        todo!()
    }
    /// Replaces what Redis believes by what the engine shows, in one script, if the epoch is still `found`; false: another
    /// dispatcher was first. Jobs in Redis that have not ended, are of this `engine` or have none, and are not among
    /// `rescued`, become `lost`; locks, fences and queues follow. Retried whole by its caller.
    pub async fn rebuild(&self, found: Option<&str>, epoch: &str, engine: &str, rescued: &[Rescued]) -> Result<bool> {
        todo!()
    }
    /// Gives a sign of life of this dispatcher, good for `ttl`.
    pub async fn heartbeat(&self, ttl: Duration) -> Result<()> {
        todo!()
    }
    /// Takes the sign of life back, so that others adopt at once.
    pub async fn goodbye(&self) -> Result<()> {
        todo!()
    }
    /// A round trip, for readiness.
    pub async fn ping(&self) -> Result<()> {
        todo!()
    }
    /// Redis' clock in milliseconds since 1970.
    pub async fn now_ms(&self) -> Result<u64> {
        todo!()
    }

    // ---- a job's way ------------------------------------------------------------------------------------------------

    /// Admission: one script.
    pub async fn submit(&self, job: &NewJob) -> Result<Submitted> {
        todo!()
    }
    /// Records the container, if lock, lease and epoch are this job's still and no intent is recorded; else `Stale`.
    pub async fn confirm(&self, held: &Held, engine: &str, container: &str, digest: &str) -> Result<()> {
        todo!()
    }
    /// The container (of any phase) that was found without being recorded is recorded; else as `confirm`, intents allowed.
    pub async fn recognize(&self, held: &Held, engine: &str, container: &str) -> Result<()> {
        todo!()
    }
    /// Forgets a recorded container that was never started.
    pub async fn unconfirm(&self, held: &Held, container: &str) -> Result<()> {
        todo!()
    }
    /// `starting → running` (an intent recorded meanwhile stays). Repeating is harmless.
    pub async fn started(&self, held: &Held) -> Result<()> {
        todo!()
    }
    /// Appends output: `at` is the position the writer believes in, `write.after` (with its `raw`) the one after. `Stale` if Redis
    /// stands elsewhere; a write that has been applied already (its reply was lost) is success.
    pub async fn append(&self, held: &Held, at: Position, write: &Write<'_>) -> Result<()> {
        todo!()
    }
    /// Records an intent, if the job has not ended and none is recorded; returns the record after it. A queued job ends
    /// at once. Anyone may call it; no lease is asked for.
    pub async fn intend(&self, job: JobId, intent: Intent, reason: Option<&str>) -> Result<Option<Record>> {
        todo!()
    }
    /// Step 1 of the end: records the exit code (once; a later one is ignored). Returns the record after it.
    pub async fn exited(&self, held: &Held, exit_code: i64, reason: Option<&str>) -> Result<Record> {
        todo!()
    }
    /// Bytes of output that can be read.
    pub async fn readable(&self, job: JobId) -> Result<u64> {
        todo!()
    }
    /// Bytes of the ring from a place of it (not wrapping).
    pub async fn ring(&self, job: JobId, at: u64, count: u64) -> Result<Vec<u8>> {
        todo!()
    }
    /// Appends the announcement behind exactly `readable` bytes; else `Stale`.
    pub async fn announce(&self, held: &Held, readable: u64, line: &str) -> Result<()> {
        todo!()
    }
    /// Appends a piece of the ring behind exactly `readable` bytes; else `Stale`.
    pub async fn move_ring(&self, held: &Held, readable: u64, at: u64, count: u64) -> Result<()> {
        todo!()
    }
    /// Step 3 of the end, one script: sets the outcome (once), drops the ring, frees the lock or hands it to the next in the queue (unless
    /// frozen), starts the retention. Returns the next holder, which the caller supervises. Repeating is harmless.
    pub async fn finish(
        &self,
        held: &Held,
        outcome: Outcome,
        reason: Option<&str>,
        retention: Duration,
    ) -> Result<Option<Held>> {
        todo!()
    }
    /// Gives the free, unfrozen lock of an inventory to the first that waits; the caller supervises it.
    pub async fn grant(&self, inventory: &Inventory) -> Result<Option<Held>> {
        todo!()
    }
    /// Takes over a live job whose supervisor gives no sign of life (or which is `mine` already but has no task), by raising its
    /// lease. None: somebody else was first, or it has ended.
    pub async fn adopt(&self, job: JobId, lease: u64) -> Result<Option<Held>> {
        todo!()
    }
    /// All live jobs (queued ones too), with whether their supervisors live; unreadable ones are named.
    pub async fn live(&self) -> Result<(Vec<Live>, Vec<String>)> {
        todo!()
    }
    /// Inventories with jobs that wait.
    pub async fn waiting(&self) -> Result<Vec<Inventory>> {
        todo!()
    }
    /// Stores what the container reports, merged over what is there; false: no such live job.
    pub async fn progress(&self, job: JobId, report: &Map<String, Value>) -> Result<bool> {
        todo!()
    }
    /// Frees a lock whose holder has no readable record; the caller has seen that the engine has no such container.
    pub async fn free_orphan(&self, inventory: &Inventory, holder: &str) -> Result<bool> {
        todo!()
    }

    // ---- reading ----------------------------------------------------------------------------------------------------

    /// Credentials of an app, in one round trip.
    pub async fn door(&self, deployment_id: &DeploymentId, from: IpAddr) -> Result<Door> {
        todo!()
    }
    /// The seed's poll, in one round trip: credentials, state, and the whole readable output (read after the state).
    pub async fn poll(&self, deployment_id: &DeploymentId, from: IpAddr, job: JobId) -> Result<Polled> {
        todo!()
    }
    /// A failed try: counted by address and by app. Returns whether there is an app list at all.
    pub async fn note_failure(&self, deployment_id: &str, from: IpAddr) -> Result<bool> {
        todo!()
    }
    /// Seconds for which an address gets no further try; for tokens.
    pub async fn barred(&self, from: IpAddr) -> Result<Option<u64>> {
        todo!()
    }
    /// A job's record.
    pub async fn record(&self, job: JobId) -> Result<Option<Record>> {
        todo!()
    }
    /// A job as the API shows it, with the app's credentials when `door` names one, in one round trip.
    pub async fn job(&self, job: JobId, door: Option<(&DeploymentId, IpAddr)>) -> Result<(Option<JobView>, Door)> {
        todo!()
    }
    /// Readable output from `offset`, at most `limit` bytes, and whether the job has ended (read before the output).
    /// None: no such job. Costs the range.
    pub async fn output(&self, job: JobId, offset: u64, limit: u64) -> Result<Option<(Vec<u8>, bool)>> {
        todo!()
    }
    /// A job's secrets, encrypted.
    pub async fn sealed(&self, job: JobId) -> Result<Option<Vec<u8>>> {
        todo!()
    }
    /// A page of jobs, newest first.
    pub async fn jobs(&self, filter: &JobFilter) -> Result<Vec<JobView>> {
        todo!()
    }
    /// Wakes when something is written about a job.
    pub fn news(&self, job: JobId) -> News {
        todo!()
    }

    // ---- apps, locks, freezes ---------------------------------------------------------------------------------------

    /// Replaces the list of apps in one step. `Err(count)`: the list would be empty or shrink to less than half of `count` apps
    /// and `force` was not given; nothing was changed.
    pub async fn set_apps(&self, apps: &[StoredApp], force: bool) -> Result<std::result::Result<(), u64>> {
        todo!()
    }
    /// The apps, ordered by id; None: no list was ever posted (or it is gone).
    pub async fn apps(&self) -> Result<Option<Vec<StoredApp>>> {
        todo!()
    }
    /// Locks, queues and freezes, ordered by inventory, and Redis' time in milliseconds.
    pub async fn locks(&self) -> Result<(Vec<LockState>, u64)> {
        todo!()
    }
    /// Freezes an inventory, for `expires_in` seconds or until lifted.
    pub async fn freeze(
        &self,
        inventory: &Inventory,
        reason: &str,
        by: &str,
        expires_in: Option<u64>,
    ) -> Result<Freeze> {
        todo!()
    }
    /// Lifts a freeze; false: there was none.
    pub async fn unfreeze(&self, inventory: &Inventory) -> Result<bool> {
        todo!()
    }
    /// Writes a line of the audit log (kept: the last 10,000).
    pub async fn audit(&self, by: &str, what: &str, about: &str, reason: &str) -> Result<()> {
        todo!()
    }
}
