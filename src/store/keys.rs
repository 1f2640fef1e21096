//! The whole keyspace. Every key begins with `lockstep:{instance}:`, with the instance's name in the braces' place.
//!
//! | key | type | holds |
//! |---|---|---|
//! | `state` | hash | `epoch`: random id of this memory; `counter`: changes of state so far, only grows |
//! | `job:<id>` | hash | a job's record ([`FIELDS`]), `sealed` (its secrets, encrypted), `progress` (JSON) |
//! | `out:<id>` | string | a job's readable output |
//! | `ring:<id>` | string | the ring of a job's last output; only while it runs |
//! | `active` | set | ids of jobs that have not ended |
//! | `locks` | hash | inventory → id of the job that holds its deploy lock. No expiry |
//! | `fences` | hash | inventory → the last fence given. Never removed |
//! | `queue:<inventory>` | list | ids of jobs that wait, in order |
//! | `queues` | set | inventories whose queue is not empty |
//! | `freezes` | hash | inventory → JSON `{reason, by, until_ms?}`; one that has run out is dropped when it is met |
//! | `jobs`, `jobs:app:<deployment_id>`, `jobs:inv:<inventory>` | sorted set, score 0 | job ids, which sort by time; entries of expired jobs are dropped when they are met |
//! | `apps` | hash | deployment id → JSON `{hash, inventory, action, vars?}` |
//! | `apps_meta` | hash | there as soon as a list of apps was posted: `count`, `at_ms` |
//! | `lastok:<deployment_id>` | string | id of the app's last success, which has no expiry |
//! | `idem:<deployment_id>:<sha256 of the key>` | string, 1 day | `<job id>:<digest of the request>` |
//! | `dispatcher:<name>` | string, seconds | a dispatcher's sign of life |
//! | `failures:addr:<ip>`, `failures:app:<sha256 of the id>` | string, 1 minute | failed tries |
//! | `audit` | stream, 10,000 entries | who changed what, and why |
//! | `news` | channel | `s <id>`: a job's state changed; `o <id>`: its output grew; `*`: anything may have |

use crate::model::ids::{DeploymentId, Instance, Inventory, JobId};

/// The fields of `job:<id>` that make a [`Record`](crate::model::job::Record), in the order in which they are read.
pub(super) const FIELDS: [&str; 25] = [
    "app",
    "inventory",
    "action",
    "when_busy",
    "state",
    "lease",
    "owner",
    "fence",
    "engine",
    "container",
    "image",
    "intent",
    "intent_ms",
    "exit_code",
    "reason",
    "superseded_by",
    "created_ms",
    "locked_ms",
    "started_ms",
    "ended_ms",
    "raw",
    "text",
    "head",
    "id",
    "progress",
];

/// Makes keys of one instance.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    pub(super) prefix: String,
}

impl Keys {
    pub(super) fn new(instance: &Instance) -> Self {
        Self { prefix: format!("lockstep:{instance}:") }
    }

    fn key(&self, parts: &[&str]) -> String {
        let mut key = self.prefix.clone();
        parts.iter().for_each(|part| key.push_str(part));
        key
    }

    pub(super) fn state(&self) -> String {
        self.key(&["state"])
    }
    pub(super) fn job(&self, id: JobId) -> String {
        self.key(&["job:", &id.to_string()])
    }
    pub(super) fn out(&self, id: JobId) -> String {
        self.key(&["out:", &id.to_string()])
    }
    pub(super) fn ring(&self, id: JobId) -> String {
        self.key(&["ring:", &id.to_string()])
    }
    pub(super) fn active(&self) -> String {
        self.key(&["active"])
    }
    pub(super) fn locks(&self) -> String {
        self.key(&["locks"])
    }
    pub(super) fn queue(&self, inventory: &Inventory) -> String {
        self.key(&["queue:", inventory.as_str()])
    }
    pub(super) fn queues(&self) -> String {
        self.key(&["queues"])
    }
    pub(super) fn freezes(&self) -> String {
        self.key(&["freezes"])
    }
    pub(super) fn jobs(&self) -> String {
        self.key(&["jobs"])
    }
    pub(super) fn jobs_of_app(&self, id: &DeploymentId) -> String {
        self.key(&["jobs:app:", id.as_str()])
    }
    pub(super) fn jobs_of_inventory(&self, inventory: &Inventory) -> String {
        self.key(&["jobs:inv:", inventory.as_str()])
    }
    pub(super) fn apps(&self) -> String {
        self.key(&["apps"])
    }
    pub(super) fn apps_meta(&self) -> String {
        self.key(&["apps_meta"])
    }
    pub(super) fn dispatcher(&self, name: &str) -> String {
        self.key(&["dispatcher:", name])
    }
    pub(super) fn failures_of_address(&self, from: std::net::IpAddr) -> String {
        self.key(&["failures:addr:", &from.to_canonical().to_string()])
    }
    /// The id is hashed: it is whatever somebody sent.
    pub(super) fn failures_of_app(&self, deployment_id: &str) -> String {
        self.key(&["failures:app:", &sha256_hex(deployment_id.as_bytes())])
    }
    pub(super) fn audit(&self) -> String {
        self.key(&["audit"])
    }
    pub(super) fn news(&self) -> String {
        self.key(&["news"])
    }
}

/// SHA-256 in hexadecimal.
pub(super) fn sha256_hex(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
