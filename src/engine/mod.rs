//! Containers: what the core asks of an engine, whichever it is.
//!
//! The verbs are small and separate, so that a step can fail, be repeated and be settled by evidence on its own. Errors are
//! sorted by what they say: `NotReached` is "I don't know", everything else is an answer of the engine.
//!
//! The container's name is a hash of instance and inventory: the engine itself refuses a second one. After creation every
//! call goes by container id, so that nothing is ever done to a namesake.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;

use crate::model::ids::{Action, DeploymentId, Instance, Inventory, JobId};
use crate::model::lock::{Fence, Held};
use crate::model::settle::Phase;

pub mod docker;

/// Why an engine did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EngineError {
    /// It was not reached, or the reply was lost, or it says that the trouble is its own (5xx that may pass). The call may or
    /// may not have had its effect.
    #[error("the engine was not reached while trying to {doing}: {cause}")]
    NotReached {
        /// The call.
        doing: &'static str,
        /// What went wrong.
        cause: String,
    },
    /// The container's name is taken.
    #[error("the name {name} is taken by another container")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// There is no such container.
    #[error("the engine has no container {container}")]
    NoContainer {
        /// Its id.
        container: String,
    },
    /// The image is not there and may not or cannot be pulled.
    #[error("image {image}: {cause}")]
    NoImage {
        /// The image.
        image: String,
        /// Why.
        cause: Cause,
    },
    /// The engine refuses, and would again: a command that is not there, a mount that cannot be, a wrong setting.
    #[error("the engine refused to {doing}: {cause}")]
    Refused {
        /// The call.
        doing: &'static str,
        /// Why.
        cause: Cause,
    },
}

/// Why an engine refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// What it comes to and what to do about it, fit for everybody. Empty: see what was said.
    pub advice: &'static str,
    /// The engine's or the registry's own words, for operators: they may name what is on its host.
    pub said: String,
}

impl From<String> for Cause {
    fn from(said: String) -> Self {
        Self { advice: "", said }
    }
}

impl From<&'static str> for Cause {
    fn from(advice: &'static str) -> Self {
        Self { advice, said: String::new() }
    }
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.advice, self.said.as_str()) {
            ("", said) => f.write_str(said),
            (advice, "") => f.write_str(advice),
            (advice, said) => write!(f, "{advice} (the engine says: {said})"),
        }
    }
}

impl EngineError {
    /// What a client is told: everything but the engine's own words, which are for the log.
    pub fn told(&self) -> String {
        let cause = |cause: &Cause| match cause.advice {
            "" => "why stands in the dispatcher's log",
            advice => advice,
        };
        match self {
            Self::NotReached { doing, .. } => format!("the engine was not reached while trying to {doing}"),
            Self::NoImage { image, cause: why } => format!("image {image}: {}", cause(why)),
            Self::Refused { doing, cause: why } => format!("the engine refused to {doing}: {}", cause(why)),
            Self::NameTaken { .. } | Self::NoContainer { .. } => self.to_string(),
        }
    }

    /// Whether trying again may help and nothing is known.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::NotReached { .. } => true,
            Self::NameTaken { .. } | Self::NoContainer { .. } | Self::NoImage { .. } | Self::Refused { .. } => false,
        }
    }
}

/// The result of a call to the engine.
pub type Result<T> = std::result::Result<T, EngineError>;

/// What a container is labelled with: all that is needed to rebuild a job's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labels {
    /// `lockstep.instance`
    pub instance: Instance,
    /// `lockstep.job`
    pub job: JobId,
    /// `lockstep.deployment`
    pub deployment_id: DeploymentId,
    /// `lockstep.inventory`
    pub inventory: Inventory,
    /// `lockstep.fence`
    pub fence: Fence,
    /// `lockstep.action`
    pub action: Action,
}

/// The name that an inventory's container bears until it has ended: the engine's own fence.
pub fn container_name(instance: &Instance, inventory: &Inventory) -> String {
    let text = format!("{instance}\0{inventory}");
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    let hex: String = digest.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("lockstep-{hex}")
}

/// The name that an ended container is moved to, out of the way of the next one.
pub fn ended_name(instance: &Instance, inventory: &Inventory, job: JobId) -> String {
    format!("{}-{job}", container_name(instance, inventory))
}

/// The same for one whose exit code is not to be believed: its name says so to whoever has to judge it anew.
pub fn unproven_name(instance: &Instance, inventory: &Inventory, job: JobId) -> String {
    format!("{}-unproven", ended_name(instance, inventory, job))
}

/// A container to be made.
#[derive(Debug, Clone)]
pub struct Spec {
    /// The image.
    pub image: String,
    /// Its command; entrypoint and user stay the image's.
    pub argv: Vec<String>,
    /// Environment, without secrets.
    pub env: BTreeMap<String, String>,
    /// What it is labelled with; its name follows from instance and inventory.
    pub labels: Labels,
    /// Network to join; none: the engine's default.
    pub network: Option<String>,
    /// Mounts.
    pub mounts: Vec<Mount>,
    /// Memory limit in bytes.
    pub memory: u64,
    /// CPU limit in thousandths of a CPU.
    pub millicpus: u64,
    /// Limit of processes.
    pub pids: u64,
}

/// A bind mount of the engine's host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Absolute path on the engine's host.
    pub source: String,
    /// Absolute path in the container.
    pub target: String,
    /// Whether the container may not write to it.
    pub read_only: bool,
    /// Whether its content (a file of at most 64 KiB) is masked in the output.
    pub secret: bool,
}

/// When an image is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pull {
    /// Before every job.
    Always,
    /// When the engine has none.
    Missing,
    /// Never.
    Never,
}

/// Who pulls.
#[derive(Debug, Clone)]
pub struct RegistryLogin {
    /// User name.
    pub user: String,
    /// Password or token.
    pub password: crate::model::app::Secret,
}

/// A file for a container, read-only to everybody in it.
#[derive(Debug, Clone)]
pub struct File {
    /// Absolute path.
    pub path: String,
    /// Content.
    pub content: Vec<u8>,
    /// Whether every user of the container may change it; else only root.
    pub writable: bool,
}

/// A container as the engine shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its id.
    pub container: String,
    /// Its name, without a slash.
    pub name: String,
    /// What it does.
    pub phase: Phase,
    /// Its labels; none when they are not ours or cannot be read.
    pub labels: Option<Labels>,
    /// Whether the kernel killed it for want of memory.
    pub out_of_memory: bool,
}

/// What is known of a container that was laid to rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// It never ran.
    NeverRan,
    /// It may have run.
    MayHaveRun,
}

/// What signal to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM
    Term,
    /// SIGKILL
    Kill,
}

/// A container's output: standard output and error in order of arrival, as written. Ends when the container has ended and this was
/// everything; any other end of the log is an error, after which nothing follows.
pub type Output = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;

/// An engine. Every verb may be repeated; what has been done already is success.
#[async_trait]
pub trait Engine: Send + Sync + 'static {
    /// The engine's own id. Evidence counts only on the engine whose id a job recorded.
    async fn id(&self) -> Result<String>;

    /// Sees to it that the image is there; returns its digest, or its id where it has no digest.
    async fn ensure_image(&self, image: &str, pull: Pull, login: Option<&RegistryLogin>) -> Result<String>;

    /// Creates a container, not started, under the name of its inventory; returns its id. Takes a held lock: without one
    /// there is no launching. `NameTaken` when another container bears the name.
    async fn create(&self, held: &Held, spec: &Spec) -> Result<String>;

    /// Puts files (mode 0444, their folders 0755) into a container.
    async fn put_files(&self, container: &str, files: &[File]) -> Result<()>;

    /// Reads one file of a container, mounts included; at most `limit` bytes. None: there is no such file.
    async fn read_file(&self, container: &str, path: &str, limit: u64) -> Result<Option<Vec<u8>>>;

    /// Starts a created container. One that runs or has ended already is left as it is.
    async fn start(&self, container: &str) -> Result<()>;

    /// What there is under a container's id, or under a name. None: this engine has none. `Created` only if it surely never ran.
    async fn inspect(&self, id_or_name: &str) -> Result<Option<Found>>;

    /// All containers, in any phase, that are labelled with the instance.
    async fn list(&self, instance: &Instance) -> Result<Vec<Found>>;

    /// Whether the exit code 0 that is shown of an ended container is one that the engine has seen.
    async fn vouches(&self, _container: &str) -> Result<bool> {
        Ok(true)
    }

    /// Reads a container's output from its first byte and goes on while it runs.
    async fn follow(&self, container: &str) -> Result<Output>;

    /// Waits until a container does not run; at most `patience`, then `NotReached`. Returns at once for one that ended.
    async fn wait(&self, container: &str, patience: Duration) -> Result<()>;

    /// Sends a signal. A container that does not run any more is left as it is.
    async fn signal(&self, container: &str, signal: Signal) -> Result<()>;

    /// Renames a container. One that bears the name already, or is gone, is left as it is.
    async fn rename(&self, container: &str, name: &str) -> Result<()>;

    /// Makes sure that a container that is `Unseen` does not run, and will not. `NotReached`: it runs still, or nothing is known.
    async fn lay_to_rest(&self, container: &str) -> Result<Rest>;

    /// Removes a container that was never started, and what a start that broke off has left of it. One that was started is left
    /// as it is. No engine removes only what was never started, so it is looked at as late as can be.
    async fn discard(&self, container: &str) -> Result<()> {
        if self.inspect(container).await?.is_some_and(|found| found.phase != Phase::Created) {
            return Ok(());
        }
        match self.remove(container).await {
            // It was started meanwhile: the next look says so.
            Ok(()) | Err(EngineError::Refused { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Removes a container that does not run, with its anonymous volumes; never by force: one that runs is `Refused`. One that is
    /// gone is success.
    async fn remove(&self, container: &str) -> Result<()>;
}
