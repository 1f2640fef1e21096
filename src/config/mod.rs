//! Configuration: `lockstep.toml`, every key also in the environment, read once, before a port opens.
//!
//! Everything that is wrong is told at once: each error names the key, where it was given, and what would be valid; never the
//! value of a secret. What makes no sense together is refused as well. The default file, with a comment on every key, is
//! part of the binary ([`DEFAULT`]), and is where the defaults are read from, so the two cannot differ.

mod source;
mod units;

use std::collections::HashSet;
use std::str::FromStr;

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
        use std::net::IpAddr::{V4, V6};
        match (self.address.to_canonical(), address.to_canonical()) {
            (V4(network), V4(address)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                (u32::from(network) ^ u32::from(address)) & mask == 0
            }
            (V6(network), V6(address)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                (u128::from(network) ^ u128::from(address)) & mask == 0
            }
            (V4(_), V6(_)) | (V6(_), V4(_)) => false,
        }
    }
}

impl FromStr for IpNetwork {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("\"{text}\" is not a network such as 10.0.0.0/8 or ::1/128");
        let (address, prefix) = text.split_once('/').map_or((text, None), |(a, p)| (a, Some(p)));
        let address: std::net::IpAddr = address.parse().map_err(|_| wrong())?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(bits), str::parse).map_err(|_| wrong())?;
        if prefix > bits { Err(wrong()) } else { Ok(Self { address, prefix }) }
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

/// The default file: every key, its default and what it means.
pub const DEFAULT: &str = include_str!("default.toml");

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
        let mut source = source::Source::new(DEFAULT, file, environment);
        let config = read(&mut source, docker_host);
        if let Some(config) = &config {
            cross_check(config, &mut source.errors);
        }
        match config {
            Some(config) if source.errors.is_empty() => Ok(config),
            _ => Err(ConfigError(source.errors)),
        }
    }
}

/// Reads every key, noting all errors; None if one is missing.
fn read(source: &mut source::Source, docker_host: Option<String>) -> Option<Config> {
    let instance = source.read("instance", |text| text.parse::<Instance>().map_err(|error| error.to_string()));
    let listen = source.read("listen", |text| {
        text.parse().map_err(|_| format!("\"{text}\" is not an address and a port such as 0.0.0.0:8443"))
    });
    let public_url = source.read("public_url", |text| {
        let host = text.strip_prefix("https://").unwrap_or_default().trim_end_matches('/');
        let plain = !host.is_empty() && !host.contains(['/', '?', '#', '@', ' ']);
        plain.then(|| format!("https://{host}")).ok_or_else(|| "must be https://host[:port], without a path".to_owned())
    });
    let certificate = source.text("tls.certificate").map(|(text, _)| PathBuf::from(text));
    let key = source.text("tls.key").map(|(text, _)| PathBuf::from(text));
    let redis_url = read_redis(source);
    source.read("engine.kind", |text| if text == "docker" { Ok(()) } else { Err("must be docker".into()) });
    let engine_host = source
        .read("engine.host", |text| {
            let known = ["unix://", "tcp://", "http://"].iter().any(|scheme| text.starts_with(scheme));
            known.then(|| text.to_owned()).ok_or_else(|| "must begin with unix:// or tcp://".to_owned())
        })
        .or(docker_host);
    let runner = read_runner(source);
    let job = read_job(source);
    let auth = read_auth(source);
    let final_status = source.read("compat.final_status", |text| match text {
        "finished" => Ok(FinalStatus::Finished),
        "outcome" => Ok(FinalStatus::Outcome),
        _ => Err("must be finished or outcome".into()),
    });
    let feed_at_start = source.read("feed.at_start", units::flag);
    Some(Config {
        instance: instance?,
        listen: listen?,
        public_url: public_url?,
        tls: Tls { certificate: certificate?, key: key? },
        redis_url: redis_url?,
        engine_host,
        runner: runner?,
        job: job?,
        auth: auth?,
        final_status: final_status?,
        feed_at_start: feed_at_start?,
    })
}

/// The URL with `redis.password` put into it, so that the URL itself needs no secret.
fn read_redis(source: &mut source::Source) -> Option<Secret> {
    let (url, place) = source.text("redis.url")?;
    let Some((scheme, rest)) = url.split_once("://").filter(|(scheme, _)| ["redis", "rediss"].contains(scheme)) else {
        source.wrong(&place, "must begin with redis:// or rediss://");
        return None;
    };
    let password = source.text("redis.password");
    match (password, rest.rsplit_once('@')) {
        (None, _) => Some(Secret::new(url.clone())),
        (Some((password, _)), None) => {
            Some(Secret::new(format!("{scheme}://:{}@{rest}", units::percent_encode(&password))))
        }
        (Some((password, place)), Some((user, rest))) => {
            if user.contains(':') {
                source.wrong(&place, "is given, and redis.url holds a password too; give one of them");
            }
            Some(Secret::new(format!("{scheme}://{user}:{}@{rest}", units::percent_encode(&password))))
        }
    }
}

fn read_runner(source: &mut source::Source) -> Option<Runner> {
    let image = source.text("runner.image").map(|(text, _)| text);
    let pull = source.read("runner.pull", |text| match text {
        "always" => Ok(Pull::Always),
        "missing" => Ok(Pull::Missing),
        "never" => Ok(Pull::Never),
        _ => Err("must be always, missing or never".into()),
    });
    let user = source.text("runner.registry_user");
    let password = source.text("runner.registry_password");
    let login = match (user, password) {
        (Some((user, _)), Some((password, _))) => Some(RegistryLogin { user, password: Secret::new(password) }),
        (None, None) => None,
        (Some((_, place)), None) | (None, Some((_, place))) => {
            source.wrong(&place, "runner.registry_user and runner.registry_password go together");
            None
        }
    };
    let network = source.text("runner.network").map(|(text, _)| text).filter(|text| !text.is_empty());
    let (texts, place) = source.list("runner.mounts");
    let mut mounts = Vec::new();
    for text in texts {
        match read_mount(&text) {
            Ok(mount) => mounts.push(mount),
            Err(what) => source.wrong(&place, what),
        }
    }
    let (texts, place) = source.list("runner.env");
    let mut env = BTreeMap::new();
    for text in texts {
        match text.split_once('=') {
            Some((name, _)) if name.starts_with("LOCKSTEP_") => {
                source.wrong(&place, format_args!("{name} is set by Lockstep itself"))
            }
            Some((name, value)) if !name.is_empty() => {
                env.insert(name.to_owned(), value.to_owned());
            }
            _ => source.wrong(&place, "each entry must be NAME=value"),
        }
    }
    let actions = read_actions(source);
    let memory = source.read("runner.memory", |text| units::size(text, 16 << 20));
    let millicpus = source.read("runner.cpus", units::millicpus);
    let pids = source.read("runner.pids", |text| match text.parse() {
        Ok(pids) if (16..=1_000_000).contains(&pids) => Ok(pids),
        _ => Err("must be a number from 16 to 1000000".into()),
    });
    let keep = source.read("runner.keep", units::duration);
    Some(Runner {
        image: image?,
        pull: pull?,
        login,
        actions,
        network,
        mounts,
        env,
        memory: memory?,
        millicpus: millicpus?,
        pids: pids?,
        keep: keep?,
    })
}

fn read_mount(text: &str) -> Result<Mount, String> {
    let mut parts = text.split(':');
    let (Some(from), Some(to)) = (parts.next(), parts.next()) else {
        return Err(format!("\"{text}\" is not source:target[:ro][:secret]"));
    };
    if !from.starts_with('/') || !to.starts_with('/') {
        return Err(format!("\"{text}\": both paths must be absolute"));
    }
    if from.ends_with("docker.sock") || from.ends_with("containerd.sock") {
        return Err(format!(
            "\"{text}\": a runner container must not have the engine's socket, which is as good as root"
        ));
    }
    let mut mount = Mount { source: from.into(), target: to.into(), read_only: false, secret: false };
    for option in parts {
        match option {
            "ro" => mount.read_only = true,
            "secret" => mount.secret = true,
            _ => return Err(format!("\"{text}\": options are ro and secret, not \"{option}\"")),
        }
    }
    Ok(mount)
}

fn read_actions(source: &mut source::Source) -> BTreeMap<Action, Vec<String>> {
    let Some(given) = source.get("runner.actions") else { return BTreeMap::new() };
    let pairs: Vec<(String, String)> = match given.value {
        toml::Value::String(text) if given.is_text => text
            .split(';')
            .filter(|entry| !entry.trim().is_empty())
            .map(|entry| entry.split_once('=').unwrap_or((entry, "")))
            .map(|(name, template)| (name.trim().to_owned(), template.trim().to_owned()))
            .collect(),
        toml::Value::Table(table) => {
            table.into_iter().map(|(name, value)| (name, value.as_str().unwrap_or_default().to_owned())).collect()
        }
        _ => Vec::new(),
    };
    let mut actions = BTreeMap::new();
    for (name, template) in pairs {
        let words: Vec<String> = template.split_whitespace().map(str::to_owned).collect();
        let left =
            ["{inventory}", "{job_id}", "{deployment_id}"].iter().fold(template, |text, known| text.replace(known, ""));
        match Action::from_str(&name) {
            Err(error) => source.wrong(&given.place, format_args!("the action's name \"{name}\" {error}")),
            Ok(_) if words.is_empty() => {
                source.wrong(&given.place, format_args!("action {name} must be a text: its argv"))
            }
            Ok(_) if left.contains(['{', '}']) => {
                source.wrong(
                    &given.place,
                    format_args!("action {name}: known are {{inventory}}, {{job_id}} and {{deployment_id}}"),
                );
            }
            Ok(action) => {
                actions.insert(action, words);
            }
        }
    }
    if actions.is_empty() {
        source.wrong(
            &given.place,
            "at least one action is needed, such as app-deploy = \"app-deploy {inventory} {job_id}\"",
        );
    }
    actions
}

fn read_job(source: &mut source::Source) -> Option<Job> {
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

fn read_auth(source: &mut source::Source) -> Option<Auth> {
    let pepper = match source.text("auth.pepper") {
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
    let (texts, place) = source.list("auth.feed_networks");
    let mut feed_networks = Vec::new();
    for text in texts {
        match text.parse() {
            Ok(network) => feed_networks.push(network),
            Err(what) => source.wrong(&place, what),
        }
    }
    Some(Auth { feed_token, operators, pepper: pepper?, feed_networks })
}

/// The shortest token that is taken, in bytes.
const TOKEN_MIN: usize = 16;

/// What makes no sense together.
fn cross_check(config: &Config, errors: &mut Vec<String>) {
    let mut wrong = |what: &str| errors.push(what.to_owned());
    let job = &config.job;
    if job.idle_timeout.is_some_and(|idle| idle >= job.run_timeout) {
        wrong("job.idle_timeout is not shorter than job.run_timeout, so it would never come first");
    }
    if job.start_timeout.is_zero() || job.run_timeout.is_zero() {
        wrong("job.start_timeout and job.run_timeout must be longer than 0");
    }
    if job.output_limit > crate::model::output::LIMIT_MAX {
        wrong("job.output_limit must be at most 256MiB");
    }
    if job.retention < config.runner.keep {
        wrong(
            "job.retention must not be shorter than runner.keep, so that a container's job is never forgotten before it",
        );
    }
    let operators = &config.auth.operators;
    if operators.iter().map(|operator| &operator.name).collect::<HashSet<_>>().len() < operators.len() {
        wrong("auth.operators names an operator twice");
    }
    let tokens: Vec<&Secret> =
        operators.iter().map(|operator| &operator.token).chain(&config.auth.feed_token).collect();
    if tokens.iter().map(|token| token.expose()).collect::<HashSet<_>>().len() < tokens.len() {
        wrong("auth.operators and auth.feed_token hold a token twice; each needs one of its own");
    }
    if tokens.iter().any(|token| token.expose() == config.auth.pepper.expose()) {
        wrong("auth.pepper is also used as a token; it must be nowhere else");
    }
}
