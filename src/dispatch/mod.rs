//! The core.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::config::{Job as JobConfig, Runner as RunnerConfig};
use crate::engine::Engine;
use crate::model::app::{App, Secret};
use crate::model::ids::{Inventory, JobId};
use crate::model::job::{Record, WhenBusy};
use crate::model::vars::VarError;
use crate::pepper::Pepper;
use crate::store::{Freeze, Store, StoreError};

/// The dispatcher: accepts requests, supervises jobs, reconciles. Shared by every handler.
pub struct Dispatcher {
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
}

/// A request for a deployment whose credentials have been checked.
#[derive(Debug)]
pub struct Request {
    /// The app.
    pub app: App,
    /// Its secret, where the caller gave it: masked in the output.
    pub secret: Option<Secret>,
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
    Engine(#[from] crate::engine::EngineError),
    /// State is being rebuilt, or this dispatcher is shutting down.
    #[error("not ready: {0}")]
    NotReady(&'static str),
}

/// What readiness says, dependency by dependency: none is fine, else what is wrong in words for an operator.
#[derive(Debug, Clone, Default, serde::Serialize, utoipa::ToSchema)]
pub struct Readiness {
    /// Redis.
    pub redis: Option<String>,
    /// The engine.
    pub engine: Option<String>,
    /// The reconciler: state known, last pass recent.
    pub reconciler: Option<String>,
}

impl Dispatcher {
    /// Accepts a request: variables are checked, the job's id is drawn, and Redis decides. What is accepted is carried out
    /// whether or not the caller stays.
    pub async fn submit(self: &Arc<Self>, request: Request) -> Result<Accepted, Refusal> {
        todo!()
    }

    /// Records the wish to cancel a job; its supervisor, wherever it runs, carries it out. An ended job is left as it is.
    pub async fn cancel(self: &Arc<Self>, job: JobId, by: &str) -> Result<Record, Refusal> {
        todo!()
    }

    /// Frees an inventory: refused while its container runs unless forced; forced, the container is killed and seen gone first.
    /// Returns the job that held it.
    pub async fn unlock(
        self: &Arc<Self>,
        inventory: &Inventory,
        reason: &str,
        by: &str,
        force: bool,
    ) -> Result<JobId, Refusal> {
        todo!()
    }

    /// Gives a free lock to the first that waits, after a freeze was lifted.
    pub async fn grant(self: &Arc<Self>, inventory: &Inventory) -> Result<(), Refusal> {
        todo!()
    }

    /// Whether requests can be served.
    pub async fn readiness(&self) -> Readiness {
        todo!()
    }
}
