//! Orders and environments: an order is written with all that follows from it in one script, together with what is deployed.
//!
//! As with releases, an order is one JSON text with a revision: whoever changes it has read a revision and names it; of two who do so at
//! once one is told [`OrderWritten::Raced`], reads again and decides again. What is deployed in a mode is written by the order that holds
//! the environment alone.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use redis::Value;

use super::admission::digest_of;
use super::memory::time_ms;
use super::record::FIELDS;
use super::releases::end_of;
use super::value::{bytes, items, number, text};
use super::{OrderWrite, OrderWritten, Recorded, Result, Store, StoreError, StoredEnvironment, StoredOrder, scripts};
use crate::model::ids::Word;
use crate::model::lock::{Fence, Held};
use crate::model::order::environment::Environment;
use crate::model::order::rule::Facts;
use crate::model::order::{Deployed, Order, OrderId};

const FIELDS_OF_ORDER: [&str; 4] = ["json", "revision", "epoch", "woken"];

/// The fields of what is deployed in a mode, and of the memory in which that was recorded.
fn deployed_fields(mode: &Word) -> [String; 2] {
    [format!("deployed:{mode}"), format!("epoch:{mode}")]
}

/// What the fields of a vault's variables begin with.
fn vault_of(mode: &Word) -> String {
    format!("vault:{mode}/")
}

impl Store {
    /// Registers an environment: [`Recorded::New`], `Changed` or `Many`.
    pub async fn set_environment(&self, environment: &Environment, file: &str, by: &str) -> Result<Recorded> {
        let json = serde_json::to_string(environment).expect("names, numbers and texts can be written as JSON");
        let reply = self.run(&scripts::SET_ENVIRONMENT, self.quick(), |call| {
            call.arg(environment.id.as_str()).arg(json).arg(file).arg(by);
        });
        let mut reply = reply.await?;
        match reply.word.as_str() {
            "NEW" => Ok(Recorded::New),
            "OK" => Ok(Recorded::Changed),
            "MANY" => Ok(Recorded::Many(reply.parse()?)),
            _ => reply.unexpected(),
        }
    }

    /// The names of all environments, in order.
    pub async fn environments(&self) -> Result<BTreeSet<Word>> {
        let key = self.keys().environments();
        let answers = self.read(self.quick(), &key, |pipe| {
            pipe.cmd("SMEMBERS").arg(&key);
        });
        Ok(items(answers.await?.next()?).iter().filter_map(|name| text(name)?.parse().ok()).collect())
    }

    /// An environment, and all that is known of it but the values of its vaults; none: there is none.
    pub async fn environment(&self, name: &Word) -> Result<Option<StoredEnvironment>> {
        let key = self.keys().environment(name);
        let answers = self.read(self.quick(), &key, |pipe| {
            pipe.cmd("HMGET").arg(&key).arg(&["json", "file", "by", "made_ms", "newest", "holder"]);
            // Names alone: what is sealed stays where it is.
            pipe.cmd("HKEYS").arg(&key);
        });
        let mut answers = answers.await?;
        let fields = items(answers.next()?);
        let names: Vec<String> =
            items(answers.next()?).iter().filter_map(|name| text(name).map(str::to_owned)).collect();
        let [json, file, by, made_ms, newest, holder] = &fields[..] else { return Ok(None) };
        let Some(json) = text(json) else { return Ok(None) };
        let unreadable = || StoreError::Unreadable(key.clone());
        let environment: Environment = serde_json::from_str(json).map_err(|_| unreadable())?;
        let modes: Vec<Word> = environment.modes.keys().cloned().collect();
        let deployed = self.read(self.quick(), &key, |pipe| {
            pipe.cmd("HMGET").arg(&key).arg("").arg(modes.iter().flat_map(deployed_fields).collect::<Vec<_>>());
        });
        let deployed = items(deployed.await?.next()?);
        let mut all = BTreeMap::new();
        for (mode, stored) in modes.into_iter().zip(deployed[1..].chunks_exact(2)) {
            let deployed = self.deployed_of(&stored[0], &stored[1]).ok_or_else(unreadable)?;
            let prefix = vault_of(&mode);
            let vault = names.iter().filter_map(|name| name.strip_prefix(&prefix)?.parse().ok()).collect();
            all.insert(mode, (deployed, vault));
        }
        Ok(Some(StoredEnvironment {
            environment,
            file: text(file).unwrap_or_default().to_owned(),
            by: text(by).unwrap_or_default().to_owned(),
            made_ms: number(made_ms).unwrap_or_default(),
            newest: number(newest).unwrap_or_default(),
            holder: number(holder),
            modes: all,
        }))
    }

    /// The number of the newest order of each of these environments, 0 before its first; none: there is no such environment.
    pub async fn newest_orders(&self, environments: &[Word]) -> Result<Vec<Option<u64>>> {
        let answers = self.read(self.quick(), "newest orders", |pipe| {
            for name in environments {
                pipe.cmd("HMGET").arg(self.keys().environment(name)).arg(&["made_ms", "newest"]);
            }
        });
        let mut answers = answers.await?;
        let newest = |_| match &items(answers.next()?)[..] {
            [made, newest] if *made != Value::Nil => Ok(Some(number(newest).unwrap_or_default())),
            _ => Ok(None),
        };
        environments.iter().map(newest).collect()
    }

    /// An order; none: there is none.
    pub async fn order(&self, id: &OrderId) -> Result<Option<StoredOrder>> {
        self.orders(std::slice::from_ref(id)).await?.pop().map(|(_, read)| read).transpose()
    }

    /// Orders, in this order; those that are not there are left out, and one that cannot be read keeps none of the others back.
    pub async fn orders(&self, which: &[OrderId]) -> Result<Vec<(OrderId, Result<StoredOrder>)>> {
        let answers = self.read(self.quick(), "orders", |pipe| {
            for id in which {
                pipe.cmd("HMGET").arg(self.keys().order(id)).arg(&FIELDS_OF_ORDER);
            }
        });
        let mut answers = answers.await?;
        let known = self.known();
        let mut found = Vec::new();
        for id in which {
            let fields = items(answers.next()?);
            if fields.iter().all(|field| *field == Value::Nil) {
                continue;
            }
            let word = |at: usize| fields.get(at).and_then(text);
            let read = || {
                Some(StoredOrder {
                    order: serde_json::from_str(word(0)?).ok()?,
                    revision: word(1)?.parse().ok()?,
                    woken: word(3).map_or(Some(0), |count| count.parse().ok())?,
                    of_this_memory: known.as_ref().is_some_and(|known| Some(known.epoch.as_str()) == word(2)),
                })
            };
            found.push((id.clone(), read().ok_or_else(|| StoreError::Unreadable(self.keys().order(id)))));
        }
        Ok(found)
    }

    /// Whether a request with this `Idempotency-Key` gave an order to an environment before.
    pub async fn was_given(&self, environment: &Word, key: &str) -> Result<bool> {
        let key = self.keys().order_key(environment, &digest_of(key));
        let answers = self.read(self.quick(), &key, |pipe| {
            pipe.cmd("EXISTS").arg(&key);
        });
        Ok(number::<u64>(&answers.await?.next()?) == Some(1))
    }

    /// The file that an order was given in; none: there is no such order.
    pub async fn order_file(&self, id: &OrderId) -> Result<Option<String>> {
        let key = self.keys().order(id);
        let answers = self.read(self.quick(), &key, |pipe| {
            pipe.cmd("HGET").arg(&key).arg("file");
        });
        Ok(text(&answers.await?.next()?).map(str::to_owned))
    }

    /// Orders that are to be looked at now, and in how many milliseconds the next one is; none: there is none.
    pub async fn due_orders(&self) -> Result<(Vec<OrderId>, Option<u64>)> {
        self.due(self.keys().due_orders()).await
    }

    /// What is known besides an order, and what is deployed in its mode.
    pub async fn order_facts(&self, order: &Order, parallel: usize) -> Result<(Facts, Deployed)> {
        let jobs = order.busy_jobs();
        let keys = self.keys();
        let home = keys.environment(&order.id.environment);
        let answers = self.read(self.quick(), &home, |pipe| {
            pipe.cmd("TIME");
            let newest = format!("newest:{}", order.mode);
            pipe.cmd("HMGET").arg(&home).arg(&["json", &newest, "holder"]).arg(&deployed_fields(&order.mode));
            pipe.cmd("HKEYS").arg(&home);
            for job in &jobs {
                pipe.cmd("HMGET").arg(keys.job(*job)).arg(&FIELDS);
                pipe.cmd("HMGET").arg(keys.progress(*job)).arg(&["outputs", "failures"]);
            }
        });
        let mut answers = answers.await?;
        let now_ms = time_ms(answers.next()?).ok_or_else(|| StoreError::Unreadable("TIME".into()))?;
        let fields = items(answers.next()?);
        let unreadable = || StoreError::Unreadable(home.clone());
        let [json, newest, holder, deployed, epoch] = &fields[..] else { return Err(unreadable()) };
        let environment: Option<Environment> = match text(json) {
            Some(json) => Some(serde_json::from_str(json).map_err(|_| unreadable())?),
            None => None,
        };
        let deployed = self.deployed_of(deployed, epoch).ok_or_else(unreadable)?;
        let prefix = vault_of(&order.mode);
        let names = items(answers.next()?);
        let vault = names.iter().filter_map(|name| text(name)?.strip_prefix(&prefix)?.parse().ok()).collect();
        let mut ended = BTreeMap::new();
        for job in jobs {
            let (fields, reported) = (items(answers.next()?), items(answers.next()?));
            let mut reported = reported.into_iter();
            let outputs = reported.next().and_then(bytes);
            if let Some(mut end) = end_of(job, &fields, outputs)? {
                end.reason = end.reason.or_else(|| failure_of(reported.next().and_then(bytes)?.as_slice()));
                ended.insert(job, end);
            }
        }
        let facts = Facts {
            now_ms,
            newest: number(newest).unwrap_or_default(),
            holder: number(holder),
            mode: environment.and_then(|mut environment| environment.modes.remove(&order.mode)),
            vault,
            ended,
            parallel,
            older: false,
            sealed: false,
        };
        Ok((facts, deployed))
    }

    /// Sealed variables of a mode's vault; one that there is not is left out.
    pub async fn vault(
        &self,
        environment: &Word,
        mode: &Word,
        names: &BTreeSet<Word>,
    ) -> Result<BTreeMap<Word, Vec<u8>>> {
        let key = self.keys().environment(environment);
        let answers = self.read(self.quick(), &key, |pipe| {
            let fields: Vec<String> = names.iter().map(|name| format!("{}{name}", vault_of(mode))).collect();
            pipe.cmd("HMGET").arg(&key).arg("").arg(fields);
        });
        let sealed = items(answers.await?.next()?).into_iter().skip(1);
        Ok(names.iter().zip(sealed).filter_map(|(name, sealed)| Some((name.clone(), bytes(sealed)?))).collect())
    }

    /// What is deployed, as stored; nothing is stored before there is something. What was recorded in another memory may have changed
    /// since, so nothing of it is relied on. None: it cannot be read.
    fn deployed_of(&self, stored: &Value, epoch: &Value) -> Option<Deployed> {
        let Some(json) = text(stored) else { return (*stored == Value::Nil).then(Deployed::default) };
        let mut deployed: Deployed = serde_json::from_str(json).ok()?;
        if self.known().is_none_or(|known| text(epoch) != Some(&*known.epoch)) {
            deployed.doubt();
        }
        Some(deployed)
    }

    /// Takes an order that cannot be read off those that are to be looked at.
    pub async fn forget_due_order(&self, id: &OrderId) -> Result<()> {
        self.forget_due("order", &id.to_string()).await
    }

    /// Writes an order, and what follows from it.
    pub async fn write_order(&self, write: &OrderWrite<'_>) -> Result<OrderWritten> {
        let order = write.order;
        let unreadable = |error: serde_json::Error| StoreError::Unreadable(error.to_string());
        let json = serde_json::to_string(order).map_err(unreadable)?;
        let deployed = write.deployed.map(serde_json::to_string).transpose().map_err(unreadable)?;
        let (hash, digest) = write.idempotency.map_or((String::new(), ""), |(key, digest)| (digest_of(key), digest));
        let reply = self.run(&scripts::ORDER, self.quick(), |call| {
            call.arg(order.id.environment.as_str()).arg(order.id.number).arg(write.revision).arg(json);
            call.arg(u8::from(!order.state.is_over()));
            call.arg(write.due_ms.map(|due| due.to_string()).unwrap_or_default());
            call.arg(u8::from(write.holds)).arg(write.woken).arg(order.mode.as_str()).arg(deployed.unwrap_or_default());
            call.arg(write.retention_ms).arg(self.retention_ms()).arg(write.file).arg(hash).arg(digest);
            call.arg(if order.says_all() { "1" } else { "" }).arg(u8::from(write.as_read));
            call.arg(write.told.len());
            for (what, data) in &write.told {
                call.arg(what).arg(data);
            }
            call.arg(write.drawn.len());
            for (name, sealed) in write.drawn {
                call.arg(name.as_str()).arg(sealed);
            }
            call.arg(write.jobs.len());
            for job in write.jobs {
                call.arg(job.id.to_string()).arg(job.deployment_id.as_str()).arg(job.inventory.as_str());
                call.arg(job.action.as_str()).arg(&job.sealed);
            }
        });
        let mut reply = reply.await?;
        Ok(match reply.word.as_str() {
            "OK" => {
                let _revision: u64 = reply.parse()?;
                let mut held = Vec::new();
                for job in write.jobs {
                    let fence = reply.next();
                    if let Some(fence) = number(&fence) {
                        held.push(Held::granted(job.id, job.inventory.clone(), Fence(fence), 1));
                    }
                }
                OrderWritten::Done(held)
            }
            "RACED" => OrderWritten::Raced,
            "EXISTS" => OrderWritten::Exists(reply.parse()?),
            "KEYREUSED" => OrderWritten::KeyReused,
            _ => return reply.unexpected(),
        })
    }
}

/// The first failure that a playbook has reported: the task and what it said.
fn failure_of(json: &[u8]) -> Option<String> {
    let failures: Vec<HashMap<String, String>> = serde_json::from_slice(json).ok()?;
    let of = failures.into_iter().next()?;
    Some(format!("{}: {}", of.get("task")?, of.get("message")?))
}
