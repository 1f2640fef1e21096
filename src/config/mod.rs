//! Configuration: `lockstep.toml`, every key also in the environment, read once, before a port opens.
//!
//! Everything that is wrong is told at once: each error names the key, where it was given, and what would be valid; never the
//! value of a secret. What makes no sense together is refused as well. The default file, with a comment on every key, is
//! part of the binary ([`DEFAULT`]), and is where the defaults are read from, so the two cannot differ.
//!
//! - `source.rs`, `file.rs`: where values come from
//! - `units.rs`, `network.rs`: how values are written
//! - `runner.rs`: what containers are given
//! - `check.rs`: what makes no sense together

mod check;
mod file;
mod network;
mod runner;
mod source;
mod units;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use rustls_pki_types::ServerName;

pub use network::IpNetwork;

use crate::engine::{Mount, Pull, RegistryLogin};
use crate::model::app::Secret;
use crate::model::ids::{Action, Instance, Word};
use source::Source;

/// Everything that can be configured.
#[derive(Debug, Clone)]
pub struct Config {
    /// `instance`
    pub instance: Instance,
    /// `listen`
    pub listen: SocketAddr,
    /// `handover.socket`: where the listening socket is handed to the dispatcher that replaces this one.
    pub handover: Option<PathBuf>,
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
    /// `egress.ca`: certificates to trust beside the system's when addresses are called that others have named.
    pub egress_ca: Option<PathBuf>,
    /// `egress.allow`
    pub egress_allow: Vec<IpNetwork>,
    /// `compat.final_status`
    pub final_status: FinalStatus,
    /// `feed.at_start`: run the feed (action `announce-apps`) at start and whenever no app is known.
    pub feed_at_start: bool,
    /// `release.retention`
    pub release_retention: Duration,
    /// `order.parallel`
    pub order_parallel: usize,
}

/// `tls`
#[derive(Debug, Clone)]
pub struct Tls {
    /// `tls.certificate`: PEM, the chain.
    pub certificate: PathBuf,
    /// `tls.key`: PEM.
    pub key: PathBuf,
    /// `tls.ca`, otherwise `tls.certificate`: what runner containers are given to trust.
    pub ca: PathBuf,
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

/// `compat.final_status`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinalStatus {
    /// The seed's: `finished`, with `outcome` beside it.
    Finished,
    /// `success` or `error` in place of it.
    Outcome,
}

/// The default file: every key, its default and what it means.
pub const DEFAULT: &str = include_str!("default.toml");

/// The longest path of a Unix socket is 107 bytes.
const HANDOVER_SOCKET_MAX: usize = 100;

/// What is wrong with a configuration, all of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the configuration is wrong:\n  {}", .0.join("\n  "))]
pub struct ConfigError(pub Vec<String>);

impl Config {
    /// Reads the configuration from a file's text (with its name) and environment variables. `docker_host` is `DOCKER_HOST`.
    pub fn read(
        file: Option<(&str, &str)>,
        environment: impl IntoIterator<Item = (String, String)>,
        docker_host: Option<String>,
    ) -> Result<Self, ConfigError> {
        let mut source = Source::new(DEFAULT, file, environment);
        let config = read(&mut source, docker_host);
        if let Some(config) = &config {
            check::check(config, &mut source.errors);
        }
        match config {
            Some(config) if source.errors.is_empty() => Ok(config),
            _ => Err(ConfigError(source.errors)),
        }
    }
}

/// Reads every key, noting all errors; None if one is missing.
fn read(source: &mut Source, docker_host: Option<String>) -> Option<Config> {
    let instance = source.read("instance", |text| text.parse::<Instance>().map_err(|error| error.to_string()));
    let listen = source.read("listen", |text| {
        text.parse().map_err(|_| format!("\"{text}\" is not an address and a port such as 0.0.0.0:8443"))
    });
    let public_url = source.read("public_url", public_url);
    let certificate = source.text("tls.certificate").map(|(text, _)| PathBuf::from(text));
    let key = source.text("tls.key").map(|(text, _)| PathBuf::from(text));
    let ca = source.text("tls.ca").map(|(text, _)| PathBuf::from(text)).filter(|path| !path.as_os_str().is_empty());
    let handover = match source.text("handover.socket") {
        Some((text, _)) if text.is_empty() => None,
        _ => source.read("handover.socket", handover_socket),
    };
    let redis_url = read_redis(source);
    source.read("engine.kind", |text| if text == "docker" { Ok(()) } else { Err("must be docker".into()) });
    let engine_host = match source.read("engine.host", |text| engine_host(text).map(str::to_owned)) {
        Some(host) => Some(host),
        // Set to nothing is not set, as Docker's own tools take it.
        None => docker_host.filter(|host| !host.is_empty()).and_then(|host| match engine_host(&host) {
            Ok(_) => Some(host),
            Err(what) => {
                source.wrong("DOCKER_HOST", format_args!("{what}; the key engine.host goes before it"));
                None
            }
        }),
    };
    let runner = runner::read(source);
    let job = read_job(source);
    let auth = read_auth(source);
    let egress_ca =
        source.text("egress.ca").map(|(text, _)| PathBuf::from(text)).filter(|path| !path.as_os_str().is_empty());
    let egress_allow = networks(source, "egress.allow");
    let final_status = source.read("compat.final_status", |text| match text {
        "finished" => Ok(FinalStatus::Finished),
        "outcome" => Ok(FinalStatus::Outcome),
        _ => Err("must be finished or outcome".into()),
    });
    let feed_at_start = source.read("feed.at_start", units::flag);
    let release_retention = source.read("release.retention", units::duration);
    let order_parallel = source.read("order.parallel", |text| match text.parse::<usize>() {
        Ok(number) if (1..=100).contains(&number) => Ok(number),
        _ => Err("must be a number from 1 to 100".into()),
    });
    Some(Config {
        instance: instance?,
        listen: listen?,
        handover,
        public_url: public_url?,
        tls: Tls { ca: ca.or_else(|| certificate.clone())?, certificate: certificate?, key: key? },
        redis_url: redis_url?,
        engine_host,
        runner: runner?,
        job: job?,
        auth: auth?,
        egress_ca,
        egress_allow,
        final_status: final_status?,
        feed_at_start: feed_at_start?,
        release_retention: release_retention?,
        order_parallel: order_parallel?,
    })
}

/// `https://host[:port]`; returned without a slash at the end.
fn public_url(text: &str) -> Result<String, String> {
    let wrong = || "must be https://host[:port], without a path".to_owned();
    let authority = text.strip_prefix("https://").ok_or_else(wrong)?;
    let authority = authority.strip_suffix('/').unwrap_or(authority);
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let numbered = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|number| number > 0));
    let (bare, bracketed) = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(bare) => (bare, true),
        None => (host, false),
    };
    let named = match ServerName::try_from(bare) {
        Ok(ServerName::IpAddress(rustls_pki_types::IpAddr::V6(_))) => bracketed,
        Ok(_) => !bracketed,
        Err(_) => false,
    };
    if numbered && named { Ok(format!("https://{authority}")) } else { Err(wrong()) }
}

/// A path at which a Unix socket can be made, and another with `.new` at its end beside it.
fn handover_socket(text: &str) -> Result<PathBuf, String> {
    let wrong = || format!("must be the absolute path of a file, of at most {HANDOVER_SOCKET_MAX} bytes");
    let path = PathBuf::from(text);
    let usable = path.is_absolute() && path.file_name().is_some() && text.len() <= HANDOVER_SOCKET_MAX;
    usable.then_some(path).ok_or_else(wrong)
}

fn engine_host(text: &str) -> Result<&str, String> {
    let known = ["unix:///", "tcp://", "http://"].iter().any(|scheme| text.starts_with(scheme));
    known.then_some(text).ok_or_else(|| "must begin with unix:/// or tcp://".to_owned())
}

/// The URL with `redis.password` put into it, so that the URL itself needs no secret.
fn read_redis(source: &mut Source) -> Option<Secret> {
    let (url, place) = source.text("redis.url")?;
    let Some((scheme, rest)) = url.split_once("://").filter(|(scheme, _)| ["redis", "rediss"].contains(scheme)) else {
        source.wrong(&place, "must begin with redis:// or rediss://");
        return None;
    };
    let whole = match (source.text("redis.password"), rest.rsplit_once('@')) {
        (None, _) => url.clone(),
        (Some((password, place)), _) if password.is_empty() => {
            source.wrong(&place, "is empty; leave it out if Redis asks for no password");
            return None;
        }
        (Some((_, place)), Some((user, _))) if user.contains(':') => {
            source.wrong(&place, "is given, and redis.url holds a password too; give one of them");
            return None;
        }
        (Some((password, _)), Some((user, rest))) => {
            format!("{scheme}://{user}:{}@{rest}", units::percent_encode(&password))
        }
        (Some((password, _)), None) => format!("{scheme}://:{}@{rest}", units::percent_encode(&password)),
    };
    // The cause is not passed on: it may quote the URL.
    if redis::Client::open(whole.as_str()).is_err() {
        source.wrong(&place, "must be redis://[user@]host[:port][/database], or the same with rediss");
        return None;
    }
    Some(Secret::new(whole))
}

fn read_job(source: &mut Source) -> Option<Job> {
    let start_timeout = source.read("job.start_timeout", units::duration);
    let run_timeout = source.read("job.run_timeout", units::duration);
    let idle_timeout = source.read("job.idle_timeout", |text| match text {
        "off" => Ok(None),
        _ => units::duration(text).map(Some).map_err(|what| format!("{what}, or off")),
    });
    let stop_grace = source.read("job.stop_grace", units::duration);
    let output_limit = source.read("job.output_limit", |text| units::size(text, crate::model::output::LIMIT_MIN));
    let retention = source.read("job.retention", units::duration);
    Some(Job {
        start_timeout: start_timeout?,
        run_timeout: run_timeout?,
        idle_timeout: idle_timeout?,
        stop_grace: stop_grace?,
        output_limit: output_limit?,
        retention: retention?,
    })
}

fn read_auth(source: &mut Source) -> Option<Auth> {
    let pepper = match source.text("auth.pepper") {
        // What a file without form holds is not known.
        None if source.broken => None,
        None => {
            source.wrong(
                "auth.pepper",
                "is missing. Make one (openssl rand -hex 24), keep it in a file and set LOCKSTEP_AUTH_PEPPER_FILE",
            );
            None
        }
        Some((text, place)) if text.len() < crate::pepper::PEPPER_MIN => {
            source.wrong(&place, format_args!("must have at least {} bytes", crate::pepper::PEPPER_MIN));
            None
        }
        Some((text, _)) => Some(Secret::new(text)),
    };
    let feed_token = match source.text("auth.feed_token") {
        Some((text, place)) if text.len() < TOKEN_MIN => {
            source.wrong(&place, format_args!("must have at least {TOKEN_MIN} bytes"));
            None
        }
        token => token.map(|(text, _)| Secret::new(text)),
    };
    let (texts, place) = source.list("auth.operators");
    let mut operators = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        let number = index + 1;
        match text.split_once(':').map(|(name, token)| (Word::from_str(name), token)) {
            Some((Ok(name), token)) if token.len() >= TOKEN_MIN => {
                operators.push(Operator { name, token: Secret::new(token.to_owned()) });
            }
            Some((Ok(name), _)) => {
                source.wrong(&place, format_args!("the token of {name} must have at least {TOKEN_MIN} bytes"))
            }
            Some((Err(_), _)) | None => source.wrong(&place, format_args!("entry {number} must be name:token")),
        }
    }
    let feed_networks = networks(source, "auth.feed_networks");
    Some(Auth { feed_token, operators, pepper: pepper?, feed_networks })
}

fn networks(source: &mut Source, key: &str) -> Vec<IpNetwork> {
    let (texts, place) = source.list(key);
    let mut networks = Vec::new();
    for text in texts {
        match text.parse() {
            Ok(network) => networks.push(network),
            Err(what) => source.wrong(&place, what),
        }
    }
    networks
}

/// The shortest token that is taken, in bytes.
const TOKEN_MIN: usize = 16;
