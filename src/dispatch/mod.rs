//! The core: accepts a request, carries one job from lock to end, takes releases through their stages, carries out orders, reconciles.
//!
//! ```text
//!  request ──▶ submit ──▶ Redis decides ──▶ supervise (one task per job, its only writer)
//!                                              │  asks model::settle::next_step after every step
//!                                              ├─ launch: create, confirm, start
//!                                              ├─ follow: output into Redis, deadlines, signals, exit code
//!                                              └─ finish: rename, complete the output, outcome and lock in one script
//!  a command, a job's end, a free lock, a deadline ──▶ releases ──▶ supervise (all of its jobs, or none)
//!  start, timer, "told" ──▶ reconcile ──▶ adopt ──▶ supervise
//!                               └─ Redis empty or older ──▶ rebuild from the engine
//! ```
//!
//! A supervisor that meets trouble (Redis or engine out of reach) starts its job's step again from what is recorded: there is
//! no second way to recover. One that is told that its writes are stale goes away; whoever made them stale goes on.

mod due;
mod feed;
mod follow;
mod launch;
mod orders;
mod reconcile;
mod releases;
mod report;
mod supervise;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock;
use crate::config::{Job as JobConfig, Runner as RunnerConfig};
use crate::engine::{Engine, EngineError, Signal, container_name};
use crate::metrics::Metrics;
use crate::model::app::{App, Secret};
use crate::model::ids::{Instance, Inventory, JobId, ReleaseId};
use crate::model::job::{Intent, Record, WhenBusy};
use crate::model::lock::Held;
use crate::model::settle::{Evidence, Phase};
use crate::model::vars::{self, VarError};
use crate::pepper::{JobSecrets, Pepper};
use crate::store::{Freeze, NewJob, Store, StoreError, Submitted};
pub use orders::{NewOrder, OrderCommand, OrderRefusal};
pub use releases::{NewRelease, ReleaseRefusal, SeenRelease};
use supervise::Start;

/// How long a dispatcher's sign of life is good for; after that its jobs are adopted.
const LIFE: Duration = Duration::from_millis(2500);
/// How often the reconciler looks when nobody tells it to. With `LIFE`, it bounds how long a job may be without a supervisor.
const PASS: Duration = Duration::from_secs(1);
/// So many jobs of the past are read from the engine at a time after Redis has lost its memory: there may be hundreds, and whoever
/// runs or asks now needs the engine too.
const AFTERMATH: usize = 4;
/// How long Redis may take to answer when readiness is asked for.
const PING: Duration = Duration::from_secs(1);
/// How often a dispatcher that is to be ready looks whether it is.
const READY_PACE: Duration = Duration::from_millis(50);
/// How long `unlock` waits to see the job's end.
const UNLOCK_PATIENCE: Duration = Duration::from_secs(60);

/// What a dispatcher is made of.
pub struct Parts {
    /// `instance`
    pub instance: Instance,
    /// Redis.
    pub store: Store,
    /// The engine.
    pub engine: Arc<dyn Engine>,
    /// Keys.
    pub pepper: Pepper,
    /// `runner`
    pub runner: RunnerConfig,
    /// `job`
    pub job: JobConfig,
    /// `release.retention`
    pub release_retention: Duration,
    /// `order.parallel`
    pub order_parallel: usize,
    /// `public_url`
    pub public_url: String,
    /// `tls.ca`: the file that containers are given to trust.
    pub ca: PathBuf,
    /// `feed.at_start`
    pub feed_at_start: bool,
    /// Where ended jobs are counted.
    pub metrics: Arc<Metrics>,
}

/// The dispatcher: accepts requests, supervises jobs, reconciles. Shared by every handler.
pub struct Dispatcher {
    parts: Parts,
    /// Jobs that have a task here, and the lock under which the next one goes on once that has gone away.
    supervised: Mutex<HashMap<JobId, Option<Held>>>,
    /// Tells the reconciler to look now.
    told: Notify,
    /// Held while ended containers are moved away and removed.
    tidying: Arc<tokio::sync::Mutex<()>>,
    /// Turns at jobs of the past: see [`AFTERMATH`].
    aftermath: Semaphore,
    standing: Mutex<Standing>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// What the last pass of the reconciler saw.
#[derive(Debug, Clone, Default)]
struct Standing {
    redis: Option<String>,
    engine: Option<String>,
    last_pass: Option<tokio::time::Instant>,
    last_pass_ms: Option<u64>,
    adopted: u64,
    rebuilt: u64,
}

/// A request for a deployment whose credentials have been checked.
#[derive(Debug)]
pub struct Request {
    /// The app.
    pub app: App,
    /// Its secret, where the caller gave it: masked in the output.
    pub secret: Option<Secret>,
    /// Who asks, for logs.
    pub by: String,
    /// Extra variables.
    pub vars: Map<String, Value>,
    /// What to do if the inventory is taken.
    pub when_busy: WhenBusy,
    /// `Idempotency-Key`
    pub idempotency_key: Option<String>,
}

/// A request that was accepted (now, or before under the same key).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The job.
    pub job: JobId,
    /// Its place in the queue, counted from 1; none: it has the lock, or was accepted before.
    pub position: Option<u64>,
}

/// Why something was refused.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The inventory is taken.
    #[error("the inventory is taken by job {holder}")]
    Busy {
        /// Who holds it.
        holder: JobId,
    },
    /// A release waits for the inventory, and gets it next.
    #[error("the inventory is reserved for release {0}")]
    Reserved(ReleaseId),
    /// The inventory is frozen.
    #[error("the inventory is frozen by {}: {}", .0.by, .0.reason)]
    Frozen(Freeze),
    /// Variables that the app does not accept.
    #[error(transparent)]
    Vars(#[from] VarError),
    /// The `Idempotency-Key` was used with another request.
    #[error("this Idempotency-Key was used with another request")]
    KeyReused,
    /// No such job, or no such lock.
    #[error("there is none")]
    Unknown,
    /// The engine shows the holder's container running, and force was not given.
    #[error("the container of job {holder} is running")]
    StillRunning {
        /// Who holds it.
        holder: JobId,
    },
    /// Redis: unknown.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The engine: unknown.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// State is being rebuilt, or this dispatcher is shutting down.
    #[error("not ready: {0}")]
    NotReady(&'static str),
}

/// What readiness says, dependency by dependency: none is fine, else what is wrong in words for an operator.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct Readiness {
    /// Redis.
    pub redis: Option<String>,
    /// The engine.
    pub engine: Option<String>,
    /// The reconciler: state known, last pass recent.
    pub reconciler: Option<String>,
}

impl Readiness {
    /// Whether requests can be served.
    pub fn is_ready(&self) -> bool {
        *self == Self::default()
    }
}

/// Counts for `/metrics`.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// Jobs that have a task here.
    pub supervised: u64,
    /// Jobs adopted since the start.
    pub adopted: u64,
    /// Rebuilds of Redis' state since the start.
    pub rebuilt: u64,
    /// When the reconciler last passed, in milliseconds since 1970.
    pub last_pass_ms: Option<u64>,
}

impl Dispatcher {
    /// A dispatcher that does nothing yet: see [`Dispatcher::run`].
    pub fn new(parts: Parts) -> Arc<Self> {
        Arc::new(Self {
            parts,
            supervised: Mutex::default(),
            told: Notify::new(),
            tidying: Arc::default(),
            aftermath: Semaphore::new(AFTERMATH),
            standing: Mutex::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        })
    }

    /// Redis.
    pub fn store(&self) -> &Store {
        &self.parts.store
    }

    /// Keys.
    pub fn pepper(&self) -> &Pepper {
        &self.parts.pepper
    }

    /// Where clients reach this installation.
    pub fn public_url(&self) -> &str {
        &self.parts.public_url
    }

    /// What events name as their source.
    pub fn source(&self) -> String {
        format!("/lockstep/{}", self.parts.instance)
    }

    /// The configured actions.
    pub fn actions(&self) -> Vec<crate::model::ids::Action> {
        self.parts.runner.actions.keys().cloned().collect()
    }

    /// Signs of life, reconciler and feed, until `stop` is cancelled; then detaches from all jobs, whose containers go on.
    /// Returns early with an error if a part of it died, which must end the process.
    pub async fn run(self: &Arc<Self>, stop: CancellationToken) -> Result<(), tokio::task::JoinError> {
        let mut parts = tokio::task::JoinSet::new();
        parts.spawn(self.clone().live());
        parts.spawn(self.clone().reconcile());
        parts.spawn(self.clone().keep_feeding());
        parts.spawn(self.clone().keep_releasing());
        parts.spawn(self.clone().keep_ordering());
        let died = tokio::select! {
            () = stop.cancelled() => Ok(()),
            ended = parts.join_next() => ended.map_or(Ok(()), |ended| ended),
        };
        self.stop.cancel();
        while parts.join_next().await.is_some() {}
        self.tasks.close();
        self.tasks.wait().await;
        if let Err(error) = self.parts.store.goodbye().await {
            tracing::warn!(%error, "the sign of life could not be taken back; other dispatchers adopt once it has run out");
        }
        died
    }

    /// Gives signs of life.
    async fn live(self: Arc<Self>) {
        let mut timer = tokio::time::interval(LIFE / 3);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while self.stop.run_until_cancelled(timer.tick()).await.is_some() {
            if let Err(error) = self.parts.store.heartbeat(LIFE).await {
                tracing::debug!(%error, "no sign of life could be given");
            }
        }
    }

    /// Accepts a request: variables are checked, the job's id is drawn, and Redis decides. What is accepted is carried out
    /// whether or not the caller stays.
    pub async fn submit(self: &Arc<Self>, request: Request) -> Result<Accepted, Refusal> {
        self.check_open()?;
        let mut masks: Vec<Secret> =
            vars::check(&request.vars, &request.app.vars)?.into_iter().map(Secret::new).collect();
        masks.extend(request.secret);
        let id = clock::draw_job_id();
        let idempotency = request.idempotency_key.map(|key| {
            let text = format!("{}\0{}", request.when_busy, Value::Object(request.vars.clone()));
            (key, self.parts.pepper.request_digest(&text))
        });
        let secrets = JobSecrets { vars: request.vars, masks };
        let new = NewJob {
            id,
            deployment_id: request.app.deployment_id,
            inventory: request.app.inventory,
            action: request.app.action,
            when_busy: request.when_busy,
            sealed: self.parts.pepper.seal(id, &secrets),
            idempotency,
        };
        // Asking twice with one id is harmless, and makes good a first reply that was lost.
        let submitted = match self.parts.store.submit(&new).await {
            Err(StoreError::NotReached(_)) => self.noting(self.parts.store.submit(&new).await)?,
            first => self.noting(first)?,
        };
        tracing::info!(job.id = %id, app = %new.deployment_id, inventory = %new.inventory, by = request.by, answer = ?submitted, "request");
        match submitted {
            Submitted::Started(held) => {
                self.supervise(held, Start::Fresh);
                Ok(Accepted { job: id, position: None })
            }
            Submitted::Queued { position } => Ok(Accepted { job: id, position: Some(position) }),
            Submitted::Exists(job) => Ok(Accepted { job, position: None }),
            Submitted::KeyReused => Err(Refusal::KeyReused),
            Submitted::Busy { holder } => Err(Refusal::Busy { holder }),
            Submitted::Frozen(freeze) => Err(Refusal::Frozen(freeze)),
            Submitted::Reserved(release) => Err(Refusal::Reserved(release)),
        }
    }

    /// Records the wish to cancel a job; its supervisor, wherever it runs, carries it out. An ended job is left as it is.
    pub async fn cancel(&self, job: JobId, by: &str) -> Result<Record, Refusal> {
        let reason = format!("canceled by {by}");
        let record = self.noting(self.parts.store.intend(job, Intent::Cancel, Some(&reason)).await)?;
        record.ok_or(Refusal::Unknown)
    }

    /// Frees an inventory: refused while its container runs unless forced; forced, the container is killed and seen gone first.
    /// Returns the job that held it.
    /// With `engine_gone`, a holder whose container is on an engine other than the one connected here, or one of which the engine has
    /// lost sight, is given up as `lost`.
    pub async fn unlock(
        &self,
        inventory: &Inventory,
        reason: &str,
        by: &str,
        force: bool,
        engine_gone: bool,
    ) -> Result<JobId, Refusal> {
        let (locks, _) = self.noting(self.parts.store.locks().await)?;
        let lock = locks.into_iter().find(|lock| lock.inventory == *inventory).ok_or(Refusal::Unknown)?;
        let holder = lock.holder.ok_or(Refusal::Unknown)?;
        let mut intent = Intent::Cancel;
        let running = match &lock.record {
            Some(record) => match self.look(record).await? {
                Evidence::Own { phase: Phase::Unseen, .. } if engine_gone && force => {
                    intent = Intent::EngineGone;
                    None
                }
                Evidence::Own { phase: Phase::Unseen, .. } => {
                    return Err(Refusal::NotReady(
                        "the engine has lost sight of the holder's process; once it is seen on the engine's host that it does not run, force with engine_gone",
                    ));
                }
                Evidence::Own { container, phase } | Evidence::Foreign { container, phase, .. } if phase.may_run() => {
                    Some(container)
                }
                Evidence::Unknown if engine_gone && force && record.engine.is_some() => {
                    intent = Intent::EngineGone;
                    None
                }
                Evidence::Unknown => {
                    return Err(Refusal::NotReady(
                        "the lock's holder runs on another engine than the one connected here; if that one is gone for good, force with engine_gone",
                    ));
                }
                Evidence::Own { .. } | Evidence::Absent | Evidence::Foreign { .. } | Evidence::Taken => None,
            },
            None => {
                let name = container_name(&self.parts.instance, inventory);
                let found = self.parts.engine.inspect(&name).await?;
                found.filter(|found| found.phase.may_run()).map(|found| found.container)
            }
        };
        if running.is_some() && !force {
            return Err(Refusal::StillRunning { holder });
        }
        let mut news = self.parts.store.news(holder);
        if lock.record.is_some() {
            let reason = format!("unlocked by {by}: {reason}");
            self.noting(self.parts.store.intend(holder, intent, Some(&reason)).await)?;
        }
        if let Some(container) = running {
            self.parts.engine.signal(&container, Signal::Kill).await?;
            self.parts.engine.wait(&container, UNLOCK_PATIENCE).await?;
            // Neither says anything about what the engine has lost sight of.
            let found = self.parts.engine.inspect(&container).await?;
            if found.is_some_and(|found| found.phase == Phase::Unseen) {
                self.parts.engine.lay_to_rest(&container).await?;
            }
        }
        if lock.record.is_none() {
            return match self.noting(self.parts.store.free_orphan(inventory, &holder.to_string()).await)? {
                true => Ok(holder),
                false => Err(Refusal::NotReady("the lock has changed meanwhile; look at it again")),
            };
        }
        self.told.notify_one();
        let ended = async {
            loop {
                news.state.mark_unchanged();
                match self.parts.store.record(holder).await? {
                    Some(record) if !record.state.is_ended() => {}
                    Some(_) | None => return Ok(holder),
                }
                if news.state.changed().await.is_err() {
                    return Err(Refusal::NotReady("shutting down"));
                }
            }
        };
        tokio::time::timeout(UNLOCK_PATIENCE, ended)
            .await
            .unwrap_or(Err(Refusal::NotReady("the job's end has been asked for and has not been seen yet")))
    }

    /// Gives a free lock to the first that waits, after a freeze was lifted.
    pub async fn grant(self: &Arc<Self>, inventory: &Inventory) -> Result<(), Refusal> {
        if let Some(held) = self.noting(self.parts.store.grant(inventory).await)? {
            self.supervise(held, Start::Fresh);
        }
        Ok(())
    }

    /// Whether requests can be served.
    pub async fn readiness(&self) -> Readiness {
        let standing = self.standing();
        let redis = match tokio::time::timeout(PING, self.parts.store.ping()).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("no answer within {} s", PING.as_secs())),
        };
        let reconciler = match standing.last_pass {
            None => Some("the state of Redis has not been compared with the engine yet".to_owned()),
            Some(at) if at.elapsed() > PASS * 6 => Some(format!("the last pass was {} s ago", at.elapsed().as_secs())),
            Some(_) => None,
        };
        Readiness { redis, engine: standing.engine, reconciler }
    }

    /// Waits until requests can be served.
    pub async fn ready(&self) {
        let mut pace = tokio::time::interval(READY_PACE);
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            pace.tick().await;
            if self.readiness().await.is_ready() {
                return;
            }
        }
    }

    /// Tells the reconciler to look now: another dispatcher has left jobs behind.
    pub fn wake(&self) {
        self.told.notify_one();
    }

    /// Counts for `/metrics`.
    pub fn counts(&self) -> Counts {
        let standing = self.standing();
        Counts {
            supervised: self.supervised().len() as u64,
            adopted: standing.adopted,
            rebuilt: standing.rebuilt,
            last_pass_ms: standing.last_pass_ms,
        }
    }

    /// Requests are taken once state is known, and until the stop.
    fn check_open(&self) -> Result<(), Refusal> {
        if self.stop.is_cancelled() {
            return Err(Refusal::NotReady("shutting down"));
        }
        if self.standing().last_pass.is_none() {
            return Err(Refusal::NotReady("the state of Redis has not been compared with the engine yet"));
        }
        Ok(())
    }

    /// Passes a result on; one that says that Redis' memory is strange tells the reconciler.
    fn noting<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(StoreError::Epoch) = result {
            self.told.notify_one();
        }
        result
    }

    fn standing(&self) -> Standing {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn stand(&self, change: impl FnOnce(&mut Standing)) {
        change(&mut self.standing.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn supervised(&self) -> std::sync::MutexGuard<'_, HashMap<JobId, Option<Held>>> {
        self.supervised.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
