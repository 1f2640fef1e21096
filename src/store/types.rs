//! What goes into the store and what comes out of it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::model::app::App;
use crate::model::event::{Cursor, Event};
use crate::model::ids::{Action, DeploymentId, Inventory, JobId, ReleaseId, Word};
use crate::model::job::{Record, State, WhenBusy};
use crate::model::lock::{Fence, Held};
use crate::model::order::environment::Environment;
use crate::model::order::{Deployed, Order};
use crate::model::pipeline::Pipeline;
use crate::model::release::{Release, There};
use crate::model::token::Grant;
use crate::model::webhook::{Streak, Webhook};

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
    /// A release waits for it and gets it next, and the request said `reject` (others wait).
    Reserved(ReleaseId),
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
    /// HMAC-SHA-256 of its secret, keyed with the pepper; none: no secret opens it.
    pub hash: Option<Vec<u8>>,
}

/// What a request's credentials are checked against, read in one round trip with whatever it asked for.
#[derive(Debug, Clone, Default)]
pub struct Door {
    /// The app, if the feed lists it.
    pub app: Option<StoredApp>,
    /// Whether there was a list of apps at that moment: without one nothing can be said about credentials.
    pub listed: bool,
    /// Seconds for which this address or this app gets no further try; none: go on.
    pub barred: Option<u64>,
}

/// What must be known of a job to show its output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Brief {
    /// The app that it was asked for.
    pub deployment_id: DeploymentId,
    /// What it deploys to.
    pub inventory: Inventory,
    /// Where it is.
    pub state: State,
    /// Why it ended as it did, or is about to.
    pub reason: Option<String>,
}

/// A range of a job's output, with credentials and state, read in one round trip.
#[derive(Debug, Clone, Default)]
pub struct Ranged {
    /// The credentials' side.
    pub door: Door,
    /// The job; none: no such job.
    pub job: Option<Brief>,
    /// The bytes, read after the state.
    pub bytes: Vec<u8>,
    /// Bytes of output that could be read then.
    pub length: u64,
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

/// One lock, reservation, freeze or queue, by inventory.
#[derive(Debug, Clone)]
pub struct LockState {
    /// The inventory.
    pub inventory: Inventory,
    /// The job that holds it.
    pub holder: Option<JobId>,
    /// That job's record; none: unreadable or gone.
    pub record: Option<Record>,
    /// The release that gets it next.
    pub reserved_for: Option<ReleaseId>,
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
    /// It is missing or older. `found` is what stands there now (epoch and count): what `rebuild` must still find.
    Strange {
        /// What stands there, if anything.
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
    /// The container; none: the engine has none of this job, which is `lost`.
    pub container: Option<String>,
    /// Whether it bears the inventory's name still, and so holds the lock.
    pub holds: bool,
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

/// A piece of the events.
#[derive(Debug)]
pub struct Events {
    /// In order; those that could not be read are left out.
    pub events: Vec<Event>,
    /// Where to read on.
    pub next: Cursor,
    /// Whether this is all there is so far.
    pub last: bool,
    /// Whether events behind the cursor that was given may have been forgotten: the one that it names has.
    pub missed: bool,
}

/// A token as it is stored, without its hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredToken {
    /// Whose it is, and what it opens.
    pub grant: Grant,
    /// When it was issued, in milliseconds since 1970.
    pub issued_ms: u64,
    /// Who issued it.
    pub by: String,
    /// When it stops to open anything, in milliseconds since 1970.
    pub expires_ms: Option<u64>,
}

/// What became of a token or a webhook that was to be recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// It is new.
    New,
    /// One that was there was changed.
    Changed,
    /// There is one of that name.
    Taken,
    /// There are so many that no further one is taken.
    Many(u64),
}

/// A webhook and where it is.
#[derive(Debug, Clone)]
pub struct StoredWebhook {
    /// Where events go, and which.
    pub webhook: Webhook,
    /// Its secret, encrypted (see `crate::pepper`).
    pub sealed: Vec<u8>,
    /// Who has made or changed it last.
    pub by: String,
    /// The last event that is dealt with.
    pub after: Cursor,
    /// Failures in a row.
    pub streak: Streak,
    /// What went wrong last, while there are failures.
    pub error: Option<String>,
    /// When an event last arrived, in milliseconds since 1970.
    pub delivered_ms: Option<u64>,
    /// How many dead letters there are.
    pub dead: u64,
}

/// An event that was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Which.
    pub event: Cursor,
    /// When it was given up, in milliseconds since 1970.
    pub given_up_ms: u64,
    /// Why.
    pub error: String,
}

/// What came of sending to a webhook.
#[derive(Debug, Clone)]
pub struct Delivery<'a> {
    /// The last event that is dealt with.
    pub after: Cursor,
    /// Failures in a row.
    pub streak: Streak,
    /// What went wrong; none: nothing.
    pub error: Option<&'a str>,
    /// Whether an event has just arrived.
    pub arrived: bool,
    /// Events that are given up, and why.
    pub dead: &'a [(Cursor, String)],
}

/// One version of a pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredPipeline {
    /// What it says.
    pub pipeline: Pipeline,
    /// Which version it is, counted from 1.
    pub version: u64,
    /// The file as it was written.
    pub file: String,
    /// Who has recorded it.
    pub by: String,
    /// When, in milliseconds since 1970.
    pub made_ms: u64,
}

/// A line of the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditLine {
    /// Its place in the log.
    pub at: Cursor,
    /// Who.
    pub by: String,
    /// Did what
    pub what: String,
    /// to what
    pub about: String,
    /// and why, where that was said.
    pub reason: String,
}

/// A release as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredRelease {
    /// The release.
    pub release: Release,
    /// How often it was written; whoever writes it names the revision that was read.
    pub revision: u64,
    /// How often it was woken: a job of it has ended, or a lock that it waits for came free.
    pub woken: u64,
    /// Whether it was last written in the memory that Redis has now. If not, Redis came back older than it was.
    pub of_this_memory: bool,
}

/// Filter of the list of releases.
#[derive(Debug, Clone, Default)]
pub struct ReleaseFilter {
    /// Only those that are not over.
    pub active: bool,
    /// Only of these products; none: of all.
    pub products: Option<BTreeSet<Word>>,
    /// Only older than this one.
    pub before: Option<ReleaseId>,
}

/// Who reports, and on which products.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredReporter {
    /// The name, which is that of the token.
    pub name: Word,
    /// The products that it is subscribed to.
    pub products: BTreeSet<Word>,
    /// Who has said so.
    pub by: String,
}

/// A release to be written, with what follows from it.
#[derive(Debug)]
pub struct ReleaseWrite<'a> {
    /// The release, as it is to be.
    pub release: &'a Release,
    /// The revision that was read; 0: it is new.
    pub revision: u64,
    /// How often it had been woken when it was read.
    pub woken: u64,
    /// Whether it is as it was read, and nothing is to follow: it waits on, and is not written.
    pub as_read: bool,
    /// When it is to be looked at again, in milliseconds since 1970.
    pub due_ms: Option<u64>,
    /// Reporters that it asks.
    pub asks: BTreeSet<Word>,
    /// Inventories whose locks it waits for.
    pub wants: BTreeSet<Inventory>,
    /// How long it is kept once it is over, in milliseconds.
    pub retention_ms: u64,
    /// `Idempotency-Key` of the request that makes it, and a digest of the request.
    pub idempotency: Option<(&'a str, &'a str)>,
    /// What the audit log says of the making of a new one.
    pub audited: &'a str,
    /// Events: what has happened, and what is to be said of it, as JSON.
    pub told: Vec<(String, String)>,
    /// What apps have deployed now.
    pub there: &'a [(DeploymentId, Option<There>)],
    /// The stage whose services it takes now,
    pub occupies: Option<&'a Word>,
    /// and who was read there: if that is somebody else by now, nothing is written.
    pub places: &'a BTreeMap<Word, ReleaseId>,
    /// Stages in which it holds automation, or does so no longer.
    pub holds: Vec<(Word, bool)>,
    /// Jobs that get their locks, all together or none.
    pub jobs: &'a [NewJob],
}

/// What became of a release that was to be written.
#[derive(Debug)]
pub enum Written {
    /// It is; its jobs have their locks, and the caller supervises them.
    Done(Vec<Held>),
    /// Somebody else has written it meanwhile, or taken a place that it was to take.
    Raced,
    /// A lock could not be had, so nothing was changed.
    Busy {
        /// Whose.
        inventory: Inventory,
        /// Why.
        why: String,
    },
    /// It was to wait for locks all of which can be had now.
    Free,
    /// This very request made that release before.
    Exists(ReleaseId),
    /// The `Idempotency-Key` was used with another request.
    KeyReused,
}

/// An environment as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEnvironment {
    /// What is registered.
    pub environment: Environment,
    /// The file as it was written.
    pub file: String,
    /// Who has registered it.
    pub by: String,
    /// When, in milliseconds since 1970.
    pub made_ms: u64,
    /// The number of its newest order; 0: it had none.
    pub newest: u64,
    /// The number of the order that is carried out.
    pub holder: Option<u64>,
    /// Of each mode: what is deployed, and the names of the variables in its vault.
    pub modes: BTreeMap<Word, (Deployed, BTreeSet<Word>)>,
}

/// An order as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredOrder {
    /// The order.
    pub order: Order,
    /// How often it was written; whoever writes it names the revision that was read.
    pub revision: u64,
    /// How often it was woken.
    pub woken: u64,
    /// Whether it was last written in the memory that Redis has now. If not, Redis came back older than it was.
    pub of_this_memory: bool,
}

/// An order to be written, with what follows from it.
#[derive(Debug)]
pub struct OrderWrite<'a> {
    /// The order, as it is to be.
    pub order: &'a Order,
    /// The revision that was read; 0: it is new.
    pub revision: u64,
    /// How often it had been woken when it was read.
    pub woken: u64,
    /// Whether it is as it was read, and nothing follows: then it is not written.
    pub as_read: bool,
    /// When it is to be looked at again, in milliseconds since 1970.
    pub due_ms: Option<u64>,
    /// Whether it holds the environment.
    pub holds: bool,
    /// What is deployed in its mode; none: that has not changed.
    pub deployed: Option<&'a Deployed>,
    /// How long it is kept once it is over, in milliseconds.
    pub retention_ms: u64,
    /// The file that a new one was given in.
    pub file: &'a str,
    /// `Idempotency-Key` of the request that gives it, and a digest of the request.
    pub idempotency: Option<(&'a str, &'a str)>,
    /// Events: what has happened, and what is to be said of it, as JSON.
    pub told: Vec<(String, String)>,
    /// Variables that were drawn for the vault, sealed.
    pub drawn: &'a BTreeMap<Word, Vec<u8>>,
    /// Jobs; each gets its lock or waits for it.
    pub jobs: &'a [NewJob],
}

/// What became of an order that was to be written.
#[derive(Debug)]
pub enum OrderWritten {
    /// It is; those of its jobs that have their locks are the caller's to supervise.
    Done(Vec<Held>),
    /// Somebody else has written it, or was first.
    Raced,
    /// This very request gave the order of that number before.
    Exists(u64),
    /// The `Idempotency-Key` was used with another request.
    KeyReused,
}
