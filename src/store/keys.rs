//! The whole keyspace. Nothing else in Lockstep makes up a key.
//!
//! Every key begins with `lockstep:{instance}:`, so that installations which share a Redis never meet. `{…}` stands for a value;
//! a job's id is a ULID, so that ids sort by the time at which they were drawn. Times are milliseconds since 1970 by Redis' clock.
//!
//! | key | type | content | expires |
//! |---|---|---|---|
//! | `state` | string | the epoch, which is the random name of this memory, a blank, and how often state has changed in it | never |
//! | `job:{job}` | hash | the record: [`FIELDS`](super::record::FIELDS), and `sealed`, its secrets encrypted | after its end, see below |
//! | `brief:{job}` | string | of the record what readers of output need: app, inventory, state and, if there is one, reason, with blanks between | with `job` |
//! | `out:{job}` | string | its readable output | with `job` |
//! | `progress:{job}` | hash | what its container reported: one field per member of the report, as JSON | with `job` |
//! | `ring:{job}` | string | the last half of the output's cap, written in place; gone at the job's end | never |
//! | `active` | set | the jobs that have not ended, those that wait too | never |
//! | `locks` | hash | inventory → the job that holds its deploy lock | never |
//! | `fences` | hash | inventory → the last fence given | never |
//! | `queue:{inventory}` | list | the jobs that wait, the next one first | never |
//! | `queues` | set | the inventories whose queue is not empty | never |
//! | `freezes` | hash | inventory → when the freeze ends (0: when lifted), a blank, reason and author as JSON | taken out when met |
//! | `jobs` | sorted set | all jobs, by id (all scores are 0) | entries of forgotten jobs are taken out little by little |
//! | `jobs:app:{app}` | sorted set | those of one app | as `jobs` |
//! | `jobs:inv:{inventory}` | sorted set | those of one inventory | as `jobs` |
//! | `lastok:{app}` | string | the app's newest job that succeeded, which is kept | never |
//! | `apps` | hash | deployment id → the app and the keyed hash of its secret (none where ID tokens alone open it), as JSON; the empty field: the list's version | never |
//! | `apps_version` | string | the same version: a copy of the list that has it is the list; there exactly if one was ever posted | never |
//! | `idem:{app}:{hash}` | string | SHA-256 of an `Idempotency-Key` → job, a blank, digest of the request | a day |
//! | `tokens` | hash | keyed hash of a token → whose it is, when it expires (0: never), role, groups, issuer as JSON, with blanks between | never |
//! | `failures:addr:{address}` | string | failed tries from an address (of IPv6: from its /64) | 60 s after the first |
//! | `failures:app:{app}` | string | failed tries at an app | 60 s after the first |
//! | `dispatcher:{name}` | string | a dispatcher's sign of life | 3 s, as the caller says |
//! | `events` | stream | what has happened: `kind`, `about`, `app`, `inventory`, `what`, and the rest as JSON in `data` | one retention after it happened, or a little later |
//! | `webhooks` | hash | name → version, a new one with each change by an operator | never |
//! | `webhook:{name}` | hash | its address, filters and `sealed`, its secret encrypted; `after`, the last event that is dealt with; its failures in a row | never |
//! | `dead:{name}` | stream | events that were given up, and why: `event`, `error` | the last 1,000 |
//! | `deliverer` | string | the dispatcher that delivers to webhooks; another takes over when it gives no sign of life | never |
//! | `pipelines` | hash | name → newest version | never |
//! | `pipeline:{name}` | hash | of each version: `{version}:pipeline` as JSON, `{version}:file` as it was written, `{version}:by`, `{version}:made_ms` | never |
//! | `release:{release}` | hash | `json`, the release; `revision`, how often it was written; `epoch`, in which memory; `pipeline`, a slash, its version; `asks` and `wants`, of which sets below it is a member; `woken`, how often something happened that it waits for | one release retention after its end, or after its hold is lifted |
//! | `release_events:{release}` | stream | its events, as in `events`, at the same places | with `release` |
//! | `release_logs:{release}` | hash | SHA-256 of a reporter's log → the log | with `release` |
//! | `releases` | sorted set | all releases, by id (all scores are 0) | as `jobs` |
//! | `releases:active` | set | the releases of which something may follow | never |
//! | `releases:due` | sorted set | release → when it is to be looked at, in ms; 0: now | never |
//! | `environments` | set | the environments that are registered | never |
//! | `environment:{environment}` | hash | `json`, `file`, `by` and `made_ms`, its registration; `newest`, the number of its newest order; `newest:{mode}`, of the newest that says all of that mode, and `begun:{mode}`, of the newest of these that has held the environment; `holder`, that of the order that is carried out; `deployed:{mode}`, what is deployed there as JSON, and `epoch:{mode}`, the memory in which that was recorded; `vault:{mode}/{name}`, a variable of its vault, encrypted | never |
//! | `order:{environment}/{number}` | hash | `json`, the order; `file`, as it was given; `revision`, `epoch` and `woken`, as those of a release | one release retention after its end, but for the newest of its environment |
//! | `orders:active` | set | the orders of which something may follow | never |
//! | `orders:due` | sorted set | order → when it is to be looked at, in ms; 0: now | never |
//! | `asking:{reporter}` | set | releases in which a check asks that reporter and has not heard from it | never |
//! | `wanted:{inventory}` | set | releases that wait for its lock | never |
//! | `reserved` | hash | inventory → the release that gets its lock next | never |
//! | `there` | hash | app → what it has last deployed for a release, as JSON | never |
//! | `occupants` | hash | pipeline/stage/service → the release that was last deployed there | never |
//! | `holds` | hash | pipeline/stage → the releases that hold automation there after their roll-backs, with blanks between | never |
//! | `reporters` | hash | name → who has recorded it, a blank, the products that it is subscribed to, with blanks between | never |
//! | `subscribers:{product}` | set | the reporters that are subscribed to it | never |
//! | `idem:release:{hash}` | string | as `idem:{app}:{hash}`, of releases | a day |
//! | `idem:order:{environment}:{hash}` | string | the same, of orders: number and digest | a day |
//! | `audit` | stream | what operators did: `by`, `what`, `about`, `reason` | the last 10,000 or a few more |
//!
//! `job`, `brief`, `out` and `progress` expire together, one retention after the job's end; those of an app's newest success do so
//! only once there is a newer one.
//!
//! The channel `news` carries `o {job}` after output was written, `s {job}` after anything else was, `e {about}` with each event,
//! `r {release}` when a release was written or is to be looked at, `d {order}` the same for an order, and `a {release}` when it asks reporters.
//!
//! A poll begins with one `MGET`: `state`, `brief`, two counters of failures, `apps_version`. That is why these are strings.
//!
//! Scripts find keys by what they read (the next job in a queue), so this is for one Redis, with replicas if need be, not for
//! Redis Cluster. Redis 7 is the oldest that will do.

use std::net::IpAddr;

use crate::model::ids::{DeploymentId, Instance, Inventory, JobId, ReleaseId, Word};
use crate::model::order::OrderId;

/// The keys of one instance.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    pub(super) fn new(instance: &Instance) -> Self {
        Self { prefix: format!("lockstep:{instance}:") }
    }

    fn key(&self, name: &str) -> String {
        [self.prefix.as_str(), name].concat()
    }

    fn of(&self, kind: &str, whose: &str) -> String {
        [self.prefix.as_str(), kind, whose].concat()
    }

    pub(super) fn state(&self) -> String {
        self.key("state")
    }
    pub(super) fn job(&self, job: JobId) -> String {
        self.of("job:", &job.to_string())
    }
    pub(super) fn brief(&self, job: JobId) -> String {
        self.of("brief:", &job.to_string())
    }
    pub(super) fn output(&self, job: JobId) -> String {
        self.of("out:", &job.to_string())
    }
    pub(super) fn progress(&self, job: JobId) -> String {
        self.of("progress:", &job.to_string())
    }
    pub(super) fn ring(&self, job: JobId) -> String {
        self.of("ring:", &job.to_string())
    }
    pub(super) fn active(&self) -> String {
        self.key("active")
    }
    pub(super) fn locks(&self) -> String {
        self.key("locks")
    }
    pub(super) fn reserved(&self) -> String {
        self.key("reserved")
    }
    pub(super) fn queue(&self, inventory: &Inventory) -> String {
        self.of("queue:", inventory.as_str())
    }
    pub(super) fn queues(&self) -> String {
        self.key("queues")
    }
    pub(super) fn freezes(&self) -> String {
        self.key("freezes")
    }
    pub(super) fn jobs(&self) -> String {
        self.key("jobs")
    }
    pub(super) fn jobs_of_app(&self, app: &DeploymentId) -> String {
        self.of("jobs:app:", app.as_str())
    }
    pub(super) fn jobs_of_inventory(&self, inventory: &Inventory) -> String {
        self.of("jobs:inv:", inventory.as_str())
    }
    pub(super) fn apps(&self) -> String {
        self.key("apps")
    }
    pub(super) fn apps_version(&self) -> String {
        self.key("apps_version")
    }
    pub(super) fn failures_from(&self, address: IpAddr) -> String {
        let whose = match address.to_canonical() {
            IpAddr::V4(address) => address.to_string(),
            // Whoever has one address of a /64 has them all.
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
            }
        };
        self.of("failures:addr:", &whose)
    }
    pub(super) fn failures_at(&self, app: &DeploymentId) -> String {
        self.of("failures:app:", app.as_str())
    }
    pub(super) fn dispatcher(&self, name: &str) -> String {
        self.of("dispatcher:", name)
    }
    pub(super) fn events(&self) -> String {
        self.key("events")
    }
    pub(super) fn tokens(&self) -> String {
        self.key("tokens")
    }
    pub(super) fn webhooks(&self) -> String {
        self.key("webhooks")
    }
    pub(super) fn webhook(&self, name: &Word) -> String {
        self.of("webhook:", name.as_str())
    }
    pub(super) fn dead(&self, name: &Word) -> String {
        self.of("dead:", name.as_str())
    }
    pub(super) fn pipelines(&self) -> String {
        self.key("pipelines")
    }
    pub(super) fn pipeline(&self, name: &Word) -> String {
        self.of("pipeline:", name.as_str())
    }
    pub(super) fn release(&self, release: ReleaseId) -> String {
        self.of("release:", &release.to_string())
    }
    pub(super) fn release_events(&self, release: ReleaseId) -> String {
        self.of("release_events:", &release.to_string())
    }
    pub(super) fn release_logs(&self, release: ReleaseId) -> String {
        self.of("release_logs:", &release.to_string())
    }
    pub(super) fn releases(&self) -> String {
        self.key("releases")
    }
    pub(super) fn active_releases(&self) -> String {
        self.key("releases:active")
    }
    pub(super) fn due_releases(&self) -> String {
        self.key("releases:due")
    }
    pub(super) fn asking(&self, reporter: &Word) -> String {
        self.of("asking:", reporter.as_str())
    }
    pub(super) fn there(&self) -> String {
        self.key("there")
    }
    pub(super) fn occupants(&self) -> String {
        self.key("occupants")
    }
    pub(super) fn holds(&self) -> String {
        self.key("holds")
    }
    pub(super) fn reporters(&self) -> String {
        self.key("reporters")
    }
    pub(super) fn subscribers(&self, product: &Word) -> String {
        self.of("subscribers:", product.as_str())
    }
    pub(super) fn environments(&self) -> String {
        self.key("environments")
    }
    pub(super) fn environment(&self, name: &Word) -> String {
        self.of("environment:", name.as_str())
    }
    pub(super) fn order(&self, order: &OrderId) -> String {
        self.of("order:", &order.to_string())
    }
    pub(super) fn order_key(&self, environment: &Word, hash: &str) -> String {
        self.of("idem:order:", &format!("{environment}:{hash}"))
    }
    pub(super) fn due_orders(&self) -> String {
        self.key("orders:due")
    }
    pub(super) fn last_success(&self, app: &DeploymentId) -> String {
        self.of("lastok:", app.as_str())
    }
    pub(super) fn audit(&self) -> String {
        self.key("audit")
    }
    pub(super) fn news(&self) -> String {
        self.key("news")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_counted_once_whichever_way_it_is_written() {
        let keys = Keys::new(&"i".parse().expect("a name"));
        let key = |text: &str| keys.failures_from(text.parse().expect("an address"));
        assert_eq!(key("10.0.0.1"), "lockstep:i:failures:addr:10.0.0.1");
        assert_eq!(key("::ffff:10.0.0.1"), key("10.0.0.1"));
        assert_eq!(key("2001:db8:1:2::1"), key("2001:db8:1:2:ffff::9"));
        assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
    }
}
