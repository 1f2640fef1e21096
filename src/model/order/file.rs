//! The file in which an order is written: YAML, checked as a whole, with every mistake named by line and key.
//!
//! ```yaml
//! action: update
//! environment_id: "3"
//! api:                                  # a group: its domains lead to its services
//!   domains: [manager-api.lab.example]
//!   services:
//!     - id: "6"
//!       path: /core
//!       repository: {url: 'https://git.example/auth.git', revision: v1.2}
//!       roles: [auth, discovery]
//!       variables: [database-password]
//!       type: node
//! ```
//!
//! Whatever is not `action` or `environment_id` is a group. Of a service that is to be removed, `id` alone is needed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Deserialize;
use serde::de::{self, MapAccess, Visitor};
use serde_saphyr::{Location, Spanned};

use super::environment::is_variable;
use super::{Action, Kind, Repository, Service, Spec, WHOLE};
use crate::model::ids::Word;
use crate::model::mistakes::{self, Found, Mistakes};

/// The most services of an order.
pub const SERVICES_MAX: usize = 200;
/// The most domains of a group, and the most groups.
pub const DOMAINS_MAX: usize = 50;
/// The room that a service takes unless the file says otherwise, in MiB.
const MEMORY: u32 = 128;

struct RawOrder {
    action: Spanned<Action>,
    environment_id: Spanned<String>,
    groups: Vec<(Spanned<String>, Spanned<RawGroup>)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawGroup {
    #[serde(default)]
    domains: Vec<Spanned<String>>,
    services: Vec<Spanned<RawService>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawService {
    id: Spanned<String>,
    path: Option<Spanned<String>>,
    repository: Option<Spanned<RawRepository>>,
    #[serde(default)]
    roles: Vec<Spanned<String>>,
    #[serde(default)]
    variables: Vec<Spanned<String>>,
    #[serde(rename = "type")]
    kind: Option<Spanned<Kind>>,
    memory: Option<Spanned<u32>>,
    health: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRepository {
    url: Spanned<String>,
    revision: Option<Spanned<String>>,
}

impl<'de> Deserialize<'de> for RawOrder {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;

        impl<'de> Visitor<'de> for Keys {
            type Value = RawOrder;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an order: action, environment_id, and groups of services")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawOrder, A::Error> {
                let (mut action, mut environment_id, mut groups) = (None, None, Vec::new());
                while let Some(key) = map.next_key::<Spanned<String>>()? {
                    match key.value.as_str() {
                        "action" => action = Some(map.next_value()?),
                        "environment_id" => environment_id = Some(map.next_value()?),
                        _ => groups.push((key, map.next_value()?)),
                    }
                }
                let action = action.ok_or_else(|| de::Error::missing_field("action"))?;
                let environment_id = environment_id.ok_or_else(|| de::Error::missing_field("environment_id"))?;
                Ok(RawOrder { action, environment_id, groups })
            }
        }

        deserializer.deserialize_map(Keys)
    }
}

/// Reads an order.
///
/// # Errors
/// Every mistake, in the order of the file; the form comes first: as long as that is wrong, nothing else is looked at.
pub fn read(text: &str) -> Result<Spec, Mistakes> {
    let raw: RawOrder = mistakes::parse(text)?;
    let mut reader = Reader::default();
    let spec = reader.order(&raw);
    reader.found.or(spec)
}

/// Collects what the file says, and what is wrong with it.
#[derive(Default)]
struct Reader {
    found: Found,
    services: BTreeMap<Word, Service>,
    removed: BTreeSet<Word>,
    /// By what others are told: the role, and whose it is.
    roles: BTreeMap<String, (Word, Word)>,
    routes: BTreeMap<(String, String), Word>,
    called: Vec<(String, Location)>,
}

impl Reader {
    fn order(&mut self, raw: &RawOrder) -> Option<Spec> {
        let environment = self.found.name("environment_id", &raw.environment_id);
        let action = raw.action.value;
        let mut groups = BTreeMap::new();
        if raw.groups.is_empty() && action == Action::Update {
            let what = "an order to update has at least one group, such as api, with domains and services; action: remove without groups removes all";
            self.found.wrong(raw.action.referenced, what.into());
        }
        if let Some((beyond, _)) = raw.groups.get(DOMAINS_MAX) {
            self.found.wrong(beyond.referenced, format!("groups must be at most {DOMAINS_MAX}"));
        }
        for (key, group) in &raw.groups {
            let Some(name) = self.found.name::<Word>("the name of a group", key) else { continue };
            let domains = self.domains(key, &group.value, action);
            for service in &group.value.services {
                self.service(&name, &domains, &service.value, service.referenced, action);
            }
            if group.value.services.is_empty() {
                self.found.wrong(group.referenced, format!("{name}: services must be at least one"));
            }
            if groups.insert(name, domains).is_some() {
                self.found.wrong(key.referenced, format!("{}: there are two groups of this name", key.value));
            }
        }
        for (variable, at) in std::mem::take(&mut self.called) {
            if let Some((role, _)) = self.roles.get(&variable) {
                self.found.wrong(at, format!("variables: {variable} says where the service with the role {role} is"));
            }
        }
        if let Some(beyond) = raw.groups.iter().flat_map(|(_, group)| &group.value.services).nth(SERVICES_MAX) {
            self.found.wrong(beyond.referenced, format!("services must be at most {SERVICES_MAX}"));
        }
        let (services, removed) = (std::mem::take(&mut self.services), std::mem::take(&mut self.removed));
        Some(Spec { action, environment: environment?, groups, services, removed })
    }

    fn domains(&mut self, key: &Spanned<String>, group: &RawGroup, action: Action) -> BTreeSet<String> {
        let mut domains = BTreeSet::new();
        for domain in &group.domains {
            let name = domain.value.to_ascii_lowercase();
            if !is_domain(&name) {
                self.found.wrong(
                    domain.referenced,
                    "domains: a domain is labels of letters, digits and '-' with dots between, such as api.lab.example"
                        .into(),
                );
            } else if !domains.insert(name) {
                self.found.wrong(domain.referenced, format!("domains names {} twice", domain.value));
            }
        }
        if domains.is_empty() && group.domains.is_empty() && action == Action::Update {
            self.found.wrong(key.referenced, format!("{}: domains must be at least one", key.value));
        }
        if let Some(beyond) = group.domains.get(DOMAINS_MAX) {
            self.found.wrong(beyond.referenced, format!("domains must be at most {DOMAINS_MAX}"));
        }
        domains
    }

    fn service(
        &mut self,
        group: &Word,
        domains: &BTreeSet<String>,
        raw: &RawService,
        at: Location,
        action: Action,
    ) -> Option<()> {
        let id: Word = self.found.name("id", &raw.id)?;
        if id.as_str() == WHOLE {
            self.found
                .wrong(raw.id.referenced, format!("id: {WHOLE} is the name of the lock of the whole environment"));
        }
        if self.services.contains_key(&id) || self.removed.contains(&id) {
            self.found.wrong(raw.id.referenced, format!("id: there are two services of the id {id}"));
        }
        if action == Action::Remove {
            self.removed.insert(id);
            return None;
        }
        let missing: Vec<&str> =
            [("path", raw.path.is_none()), ("repository", raw.repository.is_none()), ("type", raw.kind.is_none())]
                .into_iter()
                .filter_map(|(key, missing)| missing.then_some(key))
                .collect();
        if !missing.is_empty() {
            self.found.wrong(at, format!("service {id} lacks {}", missing.join(", ")));
        }
        let path = raw.path.as_ref().and_then(|path| self.path("path", path));
        let health = match &raw.health {
            Some(health) => self.path("health", health),
            None => Some("/".to_owned()),
        };
        let repository = raw.repository.as_ref().and_then(|repository| self.repository(&repository.value));
        let roles = self.names("roles", &raw.roles);
        for (role, at) in &roles {
            match self.roles.insert(address_of(role), (role.clone(), id.clone())) {
                Some((same, other)) if same == *role => {
                    self.found.wrong(*at, format!("roles: {role} is the role of {other} and {id}; one of them has it"))
                }
                Some((other, _)) => {
                    self.found.wrong(*at, format!("roles: {other} and {role} are both told as {}", address_of(role)))
                }
                None => {}
            }
        }
        let variables = self.names("variables", &raw.variables);
        let mut called: BTreeMap<String, &Word> = BTreeMap::new();
        for (name, at) in &variables {
            let variable = variable(name);
            if !is_variable(&variable) || is_reserved(&variable) {
                self.found.wrong(*at, format!("variables: {name} would be {variable}, which cannot be set"));
            }
            self.called.push((variable.clone(), *at));
            if let Some(other) = called.insert(variable.clone(), name) {
                self.found.wrong(*at, format!("variables: {other} and {name} are both {variable} to the service"));
            }
        }
        let memory = raw.memory.as_ref().map_or(MEMORY, |memory| memory.value);
        if let Some(given) = &raw.memory
            && !(1..=16 * 1024 * 1024).contains(&memory)
        {
            self.found.wrong(given.referenced, "memory must be 1 to 16777216 MiB".into());
        }
        let path = path?;
        for domain in domains {
            if let Some(other) = self.routes.insert((domain.clone(), path.clone()), id.clone()) {
                let at = raw.path.as_ref().map_or(at, |path| path.referenced);
                self.found.wrong(at, format!("path: {domain}{path} leads to {other} and {id}; it can lead to one"));
            }
        }
        let kind = raw.kind.as_ref()?.value;
        let [roles, variables] = [roles, variables].map(|all| all.into_iter().map(|(name, _)| name).collect());
        let (repository, health) = (repository?, health?);
        let group = group.clone();
        self.services.insert(id, Service { group, path, repository, roles, variables, kind, memory, health });
        None
    }

    /// In the order of the file, each once.
    fn names(&mut self, key: &str, texts: &[Spanned<String>]) -> Vec<(Word, Location)> {
        let (mut names, mut seen) = (Vec::new(), BTreeSet::new());
        for text in texts {
            let Some(name) = self.found.name::<Word>(key, text) else { continue };
            if seen.insert(name.clone()) {
                names.push((name, text.referenced));
            } else {
                self.found.wrong(text.referenced, format!("{key} names {} twice", text.value));
            }
        }
        names
    }

    /// A path without its slash at the end, unless that is all of it.
    fn path(&mut self, key: &str, text: &Spanned<String>) -> Option<String> {
        let path = text.value.trim_end_matches('/');
        let good = |segment: &str| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
            !matches!(segment, "" | "." | "..") && segment.bytes().all(plain)
        };
        let all = path.is_empty() || path.strip_prefix('/').is_some_and(|rest| rest.split('/').all(good));
        if !text.value.starts_with('/') || !all || path.len() > 200 {
            let what = "begins with '/' and consists of letters, digits, '-', '_', '.' and '~' between slashes; at most 200 characters";
            self.found.wrong(text.referenced, format!("{key} {what}"));
            return None;
        }
        Some(if path.is_empty() { "/".into() } else { path.to_owned() })
    }

    fn repository(&mut self, raw: &RawRepository) -> Option<Repository> {
        let url = &raw.url;
        let fault = url_fault(&url.value);
        if let Some(fault) = fault {
            self.found.wrong(url.referenced, format!("url {fault}"));
        }
        let revision = raw.revision.as_ref();
        if let Some(revision) = revision
            && !is_revision(&revision.value)
        {
            self.found.wrong(
                revision.referenced,
                "revision must be the name of a branch or a tag, without refs/, or a commit of 40 hexadecimal digits; leave it away for what the repository shows first (HEAD)".into(),
            );
            return None;
        }
        let revision = revision.map(|revision| revision.value.clone());
        fault.is_none().then(|| Repository { url: url.value.clone(), revision })
    }
}

/// Whether a service has a variable of that name of Lockstep, or its shell has it.
pub(super) fn is_reserved(variable: &str) -> bool {
    RESERVED.contains(&variable) || variable.starts_with("LOCKSTEP_")
}

const RESERVED: [&str; 18] = [
    "PORT",
    "HOST",
    "PATH",
    "HOME",
    "PWD",
    "IFS",
    "UID",
    "EUID",
    "PPID",
    "OPTIND",
    "SHELLOPTS",
    "BASHOPTS",
    "BASH_VERSINFO",
    "SERVICE_ID",
    "SERVICE_COMMIT",
    "SERVICE_ROLES",
    "ENVIRONMENT_ID",
    "ENVIRONMENT_MODE",
];

/// The variable that says where the service with a role is, such as `DISCOVERY_URL`.
pub(super) fn address_of(role: &Word) -> String {
    format!("{}_URL", variable(role))
}

/// What a variable of the vault is called in the environment of a process.
pub fn variable(name: &Word) -> String {
    name.as_str().to_ascii_uppercase().replace(['-', '.'], "_")
}

/// Whether a text is the name of a host in the DNS, in lower case.
pub(super) fn is_domain(text: &str) -> bool {
    let label = |label: &str| {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        (1..=63).contains(&label.len()) && label.bytes().all(plain) && !label.starts_with('-') && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

/// Whether git could be asked for it, and would take it for nothing else.
fn is_revision(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'/' | b'+');
    let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    // What git has names for itself is no branch's name, and none that a repository could be asked for.
    let names = !text.starts_with("refs/") && !["HEAD", "FETCH_HEAD", "ORIG_HEAD"].contains(&text);
    first
        && names
        && text.len() <= 200
        && text.bytes().all(plain)
        && !text.contains("..")
        && !text.ends_with(['/', '.'])
}

/// Whether there is a host in it, and the port is one where there is one: `[user@]host[:port]`.
fn names_host(authority: &str) -> bool {
    let place = authority.rsplit_once('@').map_or(authority, |(_, place)| place);
    let host_and_port = match place.strip_prefix('[') {
        Some(rest) => {
            rest.split_once(']').map(|(host, port)| (host, port.strip_prefix(':').or((!port.is_empty()).then_some(""))))
        }
        None => Some(place.split_once(':').map_or((place, None), |(host, port)| (host, Some(port)))),
    };
    host_and_port.is_some_and(|(host, port)| {
        let plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '.' | '_' | ':' | '~' | '%');
        !host.is_empty()
            && host.chars().all(plain)
            && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
    })
}

fn url_fault(text: &str) -> Option<&'static str> {
    let known = ["https://", "http://", "ssh://", "git://", "file:///"];
    let Some(scheme) = known.iter().find(|scheme| text.starts_with(**scheme)) else {
        return Some("must begin with https://, http://, ssh://, git:// or file:///");
    };
    let rest = &text[scheme.len()..];
    let odd =
        |c: char| c.is_control() || c.is_whitespace() || matches!(c, '"' | '\'' | '\\' | '<' | '>' | '`' | '?' | '#');
    if rest.is_empty() || rest.starts_with('-') || text.len() > 1024 || text.contains(odd) {
        return Some("must be an address of at most 1024 characters, without blanks, quotes, backslashes, '?' and '#'");
    }
    let authority = rest.split('/').next().unwrap_or_default();
    if !scheme.starts_with("file") && !names_host(authority) {
        return Some("must name a host behind ://, and perhaps a port from 1 to 65535");
    }
    // A password would stand in Redis, in plans and in answers.
    let secret = authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':') || !scheme.starts_with("ssh"));
    secret
        .then_some("must hold no credential: runner containers bring it in their own files, such as ~/.netrc or ~/.ssh")
}
