//! Environments: where orders are carried out. Operators register them: hosts by mode, what each holds, and how it is reached.
//!
//! ```yaml
//! environment: "3"
//! modes:
//!   production:
//!     hosts:
//!       - name: host-a
//!         address: 10.1.2.3           # how runner containers and the proxy reach it
//!         user: deploy
//!         host_key: ssh-ed25519 AAAA… # without it, the known_hosts that is mounted into runner containers counts
//!         key: id_ed25519             # a file in their ~/.ssh; without it, ssh's own choice
//!         memory: 2048                # room for services, in MiB
//!     proxy: {host: host-a, port: 8080}
//!     ports: [20000, 20999]
//!     variables: {LOG_LEVEL: info}
//! ```
//!
//! Each of these values reaches a command line or a variable of Ansible's own, so the rule for each is narrow.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_saphyr::Spanned;

use super::Deployed;
use super::file::{is_domain, is_reserved};
use crate::model::ids::Word;
use crate::model::mistakes::{self, Found, Mistakes};

/// The most hosts of a mode.
const HOSTS_MAX: usize = 200;
/// The most modes of an environment.
const MODES_MAX: usize = 16;
/// What Ansible or its inventory calls something else.
const NO_HOSTS: [&str; 5] = ["all", "hosts", "localhost", "proxy", "ungrouped"];
/// The most variables of a mode, and the longest value in bytes.
const VARIABLES_MAX: (usize, usize) = (200, 4096);

/// A host, and how it is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Host {
    /// Its name.
    #[schema(value_type = String)]
    pub name: Word,
    /// Its name or address in the network.
    pub address: String,
    /// The port of its sshd.
    pub port: u16,
    /// Who services belong to on it.
    #[schema(value_type = String)]
    pub user: Word,
    /// The private key's file in the `~/.ssh` of runner containers; none: ssh's own choice.
    #[schema(value_type = Option<String>)]
    pub key: Option<Word>,
    /// Its public key; none: the mounted known_hosts counts.
    pub host_key: Option<String>,
    /// Room for services, in MiB.
    pub memory: u32,
}

/// The proxy of a mode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Proxy {
    /// The host that it is on.
    #[schema(value_type = String)]
    pub host: Word,
    /// Where it listens.
    pub port: u16,
}

/// A set of hosts and variables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Mode {
    /// Where services may go, in the order of the file.
    pub hosts: Vec<Host>,
    /// Who leads to them.
    pub proxy: Proxy,
    /// The ports that services may have, both ends included.
    pub ports: (u16, u16),
    /// What every service is told.
    pub variables: BTreeMap<String, String>,
}

impl Mode {
    /// A host.
    pub fn host(&self, name: &Word) -> Option<&Host> {
        self.hosts.iter().find(|host| host.name == *name)
    }

    /// Whether a service may be given this port of a machine.
    fn may_give(&self, address: &str, port: u16) -> bool {
        (self.ports.0..=self.ports.1).contains(&port) && self.hosts.iter().any(|host| host.address == address)
    }

    /// The proxy's host, its address, and the port.
    pub(super) fn proxy_at(&self) -> Option<(Word, String, u16)> {
        let host = self.host(&self.proxy.host)?;
        Some((host.name.clone(), host.address.clone(), self.proxy.port))
    }
}

/// An environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// Its id.
    pub id: Word,
    /// Its modes.
    pub modes: BTreeMap<Word, Mode>,
}

impl Environment {
    /// What lies on machines which the next registration does not name any more, in words: no order gets there.
    pub fn left_by(&self, next: &Self, deployed: &BTreeMap<Word, Deployed>) -> Vec<String> {
        let mut left = Vec::new();
        for (name, deployed) in deployed {
            let (Some(before), after) = (self.modes.get(name), next.modes.get(name)) else { continue };
            for (id, placed) in &deployed.services {
                let runs = placed.running.as_ref().map(|runs| (&runs.host, &runs.address));
                let known = |host| before.host(host).map(|host| (&host.name, &host.address));
                // A port, a file of secrets, or what a job has left that did not succeed.
                let lies = placed.port.is_some() || placed.secrets.is_some() || placed.doubtful;
                let there = placed.left_on.iter().chain(lies.then_some(&placed.host));
                let on: BTreeMap<&Word, &String> = there.filter_map(known).chain(runs).collect();
                for (host, address) in on {
                    let user = before.host(host).map(|host| &host.user);
                    let next = after.and_then(|mode| mode.host(host));
                    let same =
                        next.is_some_and(|next| next.address == *address && user.is_none_or(|user| *user == next.user));
                    if !same {
                        left.push(format!("{name}: service {id} on {host} ({address})"));
                    }
                }
            }
            if let Some((host, address, port)) = &deployed.proxy
                && !deployed.domains.is_empty()
                && after.and_then(Mode::proxy_at) != deployed.proxy
            {
                left.push(format!("{name}: the proxy on {host} ({address}), port {port}"));
            }
        }
        left
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEnvironment {
    environment: Spanned<String>,
    modes: Spanned<BTreeMap<String, Spanned<RawMode>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMode {
    hosts: Spanned<Vec<Spanned<RawHost>>>,
    proxy: Spanned<RawProxy>,
    ports: Option<Spanned<(u16, u16)>>,
    #[serde(default)]
    variables: BTreeMap<String, Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawProxy {
    host: Spanned<String>,
    port: Option<Spanned<u16>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHost {
    name: Spanned<String>,
    address: Spanned<String>,
    port: Option<Spanned<u16>>,
    user: Spanned<String>,
    key: Option<Spanned<String>>,
    host_key: Option<Spanned<String>>,
    memory: Spanned<u32>,
}

/// Reads an environment.
///
/// # Errors
/// Every mistake, in the order of the file; the form comes first.
pub fn read(text: &str) -> Result<Environment, Mistakes> {
    let raw: RawEnvironment = mistakes::parse(text)?;
    let mut found = Found::default();
    let environment = environment(&raw, &mut found);
    found.or(environment)
}

fn environment(raw: &RawEnvironment, found: &mut Found) -> Option<Environment> {
    let id = found.name("environment", &raw.environment);
    if raw.modes.value.is_empty() || raw.modes.value.len() > MODES_MAX {
        found.wrong(raw.modes.referenced, format!("modes must be 1 to {MODES_MAX}"));
    }
    let mut modes: BTreeMap<Word, Mode> = BTreeMap::new();
    for (name, raw) in &raw.modes.value {
        match name.parse::<Word>() {
            Ok(name) => {
                let Some(mode) = mode(&raw.value, found) else { continue };
                for (other, before) in &modes {
                    no_clash(&mode, &raw.value, other, before, found);
                }
                modes.insert(name, mode);
            }
            Err(error) => found.wrong(raw.referenced, format!("modes: the name of a mode {error}")),
        }
    }
    Some(Environment { id: id?, modes })
}

/// Modes may share machines, but no port of one: who comes second would not start.
fn no_clash(mode: &Mode, raw: &RawMode, other: &Word, before: &Mode, found: &mut Found) {
    let (Some((_, at, port)), Some((_, other_at, other_port))) = (mode.proxy_at(), before.proxy_at()) else { return };
    let proxy = raw.proxy.referenced;
    if (&at, port) == (&other_at, other_port) {
        found.wrong(proxy, format!("proxy: mode {other} has its proxy at this address and port already"));
    } else if before.may_give(&at, port) {
        found.wrong(proxy, format!("proxy: port {port} is one that services of mode {other} may have on this host"));
    } else if mode.may_give(&other_at, other_port) {
        let ports = raw.ports.as_ref().map_or(proxy, |ports| ports.referenced);
        found.wrong(ports, format!("ports: {other_port} is the port of mode {other}'s proxy on {other_at}"));
    }
}

fn mode(raw: &RawMode, found: &mut Found) -> Option<Mode> {
    if raw.hosts.value.is_empty() || raw.hosts.value.len() > HOSTS_MAX {
        found.wrong(raw.hosts.referenced, format!("hosts must be 1 to {HOSTS_MAX}"));
    }
    let mut hosts: Vec<Host> = Vec::new();
    for raw in &raw.hosts.value {
        let Some(host) = host(&raw.value, found) else { continue };
        if hosts.iter().any(|other| other.name == host.name) {
            found.wrong(raw.value.name.referenced, format!("name: there are two hosts of the name {}", host.name));
        }
        if let Some(other) = hosts.iter().find(|other| other.address == host.address) {
            // A service that moves from one to the other would be removed where it has just been deployed, whatever ports their sshds have.
            let what = format!("address: {} has this address already; one machine is one host", other.name);
            found.wrong(raw.value.address.referenced, what);
        }
        hosts.push(host);
    }
    let proxy: Option<Word> = found.name("proxy: host", &raw.proxy.value.host);
    if let Some(proxy) = &proxy
        && !raw.hosts.value.iter().any(|host| host.value.name.value == proxy.as_str())
    {
        found.wrong(raw.proxy.value.host.referenced, format!("proxy: host: {proxy} is none of the hosts"));
    }
    let ports = raw.ports.as_ref().map_or((20_000, 20_999), |ports| ports.value);
    if let Some(given) = &raw.ports
        && (ports.0 < 1024 || ports.0 > ports.1)
    {
        found.wrong(given.referenced, "ports must be two ports from 1024, the lower one first".into());
    }
    let port = raw.proxy.value.port.as_ref().map_or(8080, |port| port.value);
    if port == 0 || (ports.0..=ports.1).contains(&port) {
        let at = raw.proxy.value.port.as_ref().map_or(raw.proxy.referenced, |port| port.referenced);
        found.wrong(at, "port must not be 0, nor one of those that services may have".into());
    }
    let (many, long) = VARIABLES_MAX;
    if raw.variables.len() > many {
        found.wrong(raw.hosts.referenced, format!("variables must be at most {many}"));
    }
    for (name, value) in &raw.variables {
        if !is_variable(name) || is_reserved(name) {
            found.wrong(
                value.referenced,
                format!(
                    "variables: {name:?} must be letters, digits and '_', and none that Lockstep sets, such as PORT"
                ),
            );
        }
        if value.value.len() > long || value.value.contains('\0') {
            found.wrong(value.referenced, format!("variables: {name} must have at most {long} bytes, none of them 0"));
        }
    }
    let variables = raw.variables.iter().map(|(name, value)| (name.clone(), value.value.clone())).collect();
    Some(Mode { hosts, proxy: Proxy { host: proxy?, port }, ports, variables })
}

fn host(raw: &RawHost, found: &mut Found) -> Option<Host> {
    let name = found.name("name", &raw.name);
    if NO_HOSTS.contains(&raw.name.value.as_str()) {
        found.wrong(raw.name.referenced, format!("name: {} means something else to Ansible", raw.name.value));
    }
    let user = found.name("user", &raw.user);
    let key = raw.key.as_ref().and_then(|key| found.name("key", key));
    let address = &raw.address;
    // Services listen on IPv4. An address of it has the form of a name.
    if !is_domain(&address.value) {
        found.wrong(address.referenced, "address must be a host name in small letters, or an IPv4 address".into());
    }
    if let Some(port) = &raw.port
        && port.value == 0
    {
        found.wrong(port.referenced, "port must not be 0".into());
    }
    if let Some(key) = &raw.host_key
        && !is_host_key(&key.value)
    {
        found.wrong(
            key.referenced,
            "host_key must be a public key of the host as in its ssh_host_*_key.pub: ssh-ed25519 AAAA…".into(),
        );
    }
    if !(16..=16 * 1024 * 1024).contains(&raw.memory.value) {
        found.wrong(raw.memory.referenced, "memory must be 16 to 16777216 MiB".into());
    }
    let host_key = raw.host_key.as_ref().map(|key| {
        // Without the comment behind it.
        key.value.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
    });
    Some(Host {
        name: name?,
        address: address.value.clone(),
        port: raw.port.as_ref().map_or(22, |port| port.value),
        user: user?,
        key,
        host_key,
        memory: raw.memory.value,
    })
}

/// Whether a process can have an environment variable of that name, and may be given it here.
pub(super) fn is_variable(name: &str) -> bool {
    let mut bytes = name.bytes();
    let first = bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    first && name.len() <= 64 && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn is_host_key(text: &str) -> bool {
    let mut words = text.split_whitespace();
    let kind = words.next().unwrap_or_default();
    let key = words.next().unwrap_or_default();
    let one_line = !text.contains(['\n', '\r']);
    let known = ["ssh-ed25519", "ssh-rsa"].contains(&kind) || kind.starts_with("ecdsa-sha2-nistp");
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=');
    one_line && known && text.len() <= 2048 && key.len() >= 16 && key.bytes().all(plain)
}
