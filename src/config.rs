//! Configuration: read once, before a port opens.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::engine::{Mount, Pull, RegistryLogin};
use crate::model::app::Secret;
use crate::model::ids::{Action, Instance, Word};

/// Everything that can be configured.
#[derive(Debug, Clone)]
pub struct Config {
    /// `instance`
    pub instance: Instance,
    /// `listen`
    pub listen: SocketAddr,
    /// `public_url`, without a slash at the end.
    pub public_url: String,
    /// `tls`
    pub tls: Tls,
    /// `redis.url`; holds a password.
    pub redis_url: Secret,
    /// `engine.host`: `unix:///…` or `tcp://…`; none: the engine's usual socket.
    pub engine_host: Option<String>,
    /// `runner`
    pub runner: Runner,
    /// `job`
    pub job: Job,
    /// `auth`
    pub auth: Auth,
    /// `compat.final_status`
    pub final_status: FinalStatus,
    /// `feed.at_start`: run the feed (action `announce-apps`) at start and whenever no app is known.
    pub feed_at_start: bool,
}

/// `tls`
#[derive(Debug, Clone)]
pub struct Tls {
    /// `tls.certificate`: PEM, the chain.
    pub certificate: PathBuf,
    /// `tls.key`: PEM.
    pub key: PathBuf,
}

/// `runner`
#[derive(Debug, Clone)]
pub struct Runner {
    /// `runner.image`
    pub image: String,
    /// `runner.pull`
    pub pull: Pull,
    /// `runner.registry_user`, `runner.registry_password`
    pub login: Option<RegistryLogin>,
    /// `runner.actions`: argv templates, already split into words.
    pub actions: BTreeMap<Action, Vec<String>>,
    /// `runner.network`
    pub network: Option<String>,
    /// `runner.mounts`: `source:target[:ro][:secret]`
    pub mounts: Vec<Mount>,
    /// `runner.env`: `NAME=value`
    pub env: BTreeMap<String, String>,
    /// `runner.memory`, in bytes
    pub memory: u64,
    /// `runner.cpus`, in thousandths
    pub millicpus: u64,
    /// `runner.pids`
    pub pids: u64,
    /// `runner.keep`
    pub keep: Duration,
}

/// `job`
#[derive(Debug, Clone)]
pub struct Job {
    /// `job.start_timeout`
    pub start_timeout: Duration,
    /// `job.run_timeout`
    pub run_timeout: Duration,
    /// `job.idle_timeout`; none: off
    pub idle_timeout: Option<Duration>,
    /// `job.stop_grace`
    pub stop_grace: Duration,
    /// `job.output_limit`, in bytes
    pub output_limit: u64,
    /// `job.retention`
    pub retention: Duration,
}

/// `auth`
#[derive(Debug, Clone)]
pub struct Auth {
    /// `auth.feed_token`
    pub feed_token: Option<Secret>,
    /// `auth.operators`: `name:token`
    pub operators: Vec<Operator>,
    /// `auth.pepper`
    pub pepper: Secret,
    /// `auth.feed_networks`
    pub feed_networks: Vec<IpNetwork>,
}

/// An operator and the token by which he is known.
#[derive(Debug, Clone)]
pub struct Operator {
    /// Name, for the audit log.
    pub name: Word,
    /// Token, at least 16 bytes.
    pub token: Secret,
}

/// A network: an address and how many of its leading bits count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IpNetwork {
    /// Address.
    pub address: std::net::IpAddr,
    /// Leading bits that count.
    pub prefix: u8,
}

impl IpNetwork {
    /// Whether the network holds the address (an IPv4 address written as IPv6 counts as IPv4).
    pub fn contains(&self, address: std::net::IpAddr) -> bool {
        todo!()
    }
}

/// `compat.final_status`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinalStatus {
    /// The seed's: `finished`, with `outcome` beside it.
    Finished,
    /// `success` or `error` in place of it.
    Outcome,
}
