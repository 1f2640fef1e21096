//! Redis' memory: whether it is the one known here, and what to do when it is not.
//!
//! A memory is named by its *epoch*, a random name, and dated by its *counter*, which every change of state raises. A rebuild
//! gives it a new epoch and lifts the counter above Redis' clock in microseconds, which no sequence of changes outruns. So a
//! memory with another epoch and a higher counter than any seen here was rebuilt by another dispatcher and is taken up; one with
//! a lower counter is old, whatever its epoch.

use std::collections::HashSet;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redis::Value;

use super::link::Trouble;
use super::record::{self, FIELDS};
use super::value::{items, number, text};
use super::{Memory, Rescued, Result, Store, StoreError, scripts};
use crate::clock;
use crate::model::ids::{JobId, ReleaseId};
use crate::model::job::{Intent, Outcome, State};
use crate::model::lock::Fence;

/// A memory as it is known here.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) epoch: String,
    seen: AtomicU64,
    /// When it was first seen here, by this machine's clock.
    since_ms: u64,
}

impl Known {
    fn new(epoch: &str, counter: u64) -> Self {
        Self { epoch: epoch.to_owned(), seen: AtomicU64::new(counter), since_ms: clock::wall_ms() }
    }

    /// The highest counter seen so far.
    pub(super) fn seen(&self) -> u64 {
        self.seen.load(Ordering::Acquire)
    }

    pub(super) fn see(&self, counter: u64) {
        self.seen.fetch_max(counter, Ordering::AcqRel);
    }

    /// Compares `state` with what is known; `seen` is the counter that was seen before sending.
    pub(super) fn check(&self, state: &Value, seen: u64) -> Result<()> {
        match text(state).and_then(memory_of) {
            Some((epoch, counter)) if epoch == self.epoch && counter >= seen => {
                self.see(counter);
                Ok(())
            }
            Some(_) | None => Err(StoreError::Epoch),
        }
    }
}

/// What stands where a record should be: some of it may be readable.
#[derive(Debug)]
pub struct Damage {
    job: JobId,
    values: Vec<Value>,
}

impl Damage {
    fn word(&self, field: &str) -> Option<&str> {
        let at = FIELDS.iter().position(|name| *name == field)?;
        text(self.values.get(at)?).filter(|word| !word.is_empty())
    }

    fn read<T: FromStr>(&self, field: &str) -> Option<T> {
        self.word(field)?.parse().ok()
    }

    /// A name as it was recorded, or one that says that it is not known any more.
    fn name<T: FromStr>(&self, field: &str) -> Result<T> {
        let name = self.read(field).or_else(|| "unknown".parse().ok());
        name.ok_or_else(|| StoreError::Unreadable(format!("job:{}", self.job)))
    }

    fn without_container(&self) -> Result<Rescued> {
        Ok(Rescued {
            job: self.job,
            deployment_id: self.name("deployment_id")?,
            inventory: self.name("inventory")?,
            action: self.name("action")?,
            fence: Fence(0),
            container: None,
            holds: false,
        })
    }
}

/// Epoch and counter, as they stand in `state`.
fn memory_of(state: &str) -> Option<(&str, u64)> {
    let (epoch, counter) = state.split_once(' ')?;
    Some((epoch, counter.parse().ok()?))
}

impl Store {
    pub(super) fn known(&self) -> Option<Arc<Known>> {
        self.shared.known.load_full()
    }

    /// Whether there is an explanation for a job without a record other than that this memory is older than it should be: the memory
    /// was known here before the job was accepted, or that is so long ago that the job has been forgotten in good order.
    pub fn spans(&self, job: JobId) -> bool {
        let known_since = self.known().map_or(u64::MAX, |known| known.since_ms);
        job.ms() > known_since || self.may_have_forgotten(job)
    }

    /// Whether a job is older than ended jobs are kept.
    pub fn may_have_forgotten(&self, job: JobId) -> bool {
        job.ms() < clock::wall_ms().saturating_sub(self.retention_ms())
    }

    /// The memory known here, as `rebuild` takes it in `found`: with the count of its changes, so that a rebuild which was decided
    /// on an older look at it does not take place.
    pub fn epoch(&self) -> Option<String> {
        self.known().map(|known| format!("{} {}", known.epoch, known.seen()))
    }

    /// Compares Redis' epoch and count with what is known here; knows the epoch that it finds when another has rebuilt it.
    pub async fn memory(&self) -> Result<Memory> {
        let known = self.known();
        let seen = known.as_ref().map_or(0, |known| known.seen());
        // What is no string is no memory: `MGET` does not fail on it.
        let mut ask = redis::cmd("MGET");
        ask.arg(self.keys().state());
        let state = self.quick().send(&ask).await.map_err(|trouble| trouble.at("state"))?;
        let found = items(state).first().and_then(text).map(str::to_owned);
        let Some((epoch, counter)) = found.as_deref().and_then(memory_of) else {
            return Ok(Memory::Strange { found });
        };
        match known {
            Some(known) if known.epoch == epoch && counter >= seen => known.see(counter),
            Some(known) if known.epoch == epoch || counter <= seen => {
                return Ok(Memory::Strange { found });
            }
            // Nothing was known, or another dispatcher has rebuilt it.
            before @ (None | Some(_)) => {
                self.shared.known.compare_and_swap(&before, Some(Arc::new(Known::new(epoch, counter))));
            }
        }
        Ok(Memory::Known)
    }

    /// Replaces what Redis believes by what the engine shows, in one script, if what stands there is still `found`; false: another
    /// dispatcher was first, or state has changed since. Jobs in Redis that have not ended, are of this `engine` or have none, and
    /// are not among `rescued`, become `lost`; locks, fences and queues follow. `epoch` is a new random name. Retried whole by its
    /// caller, which looks at the memory and the engine anew.
    pub async fn rebuild(&self, found: Option<&str>, epoch: &str, engine: &str, rescued: &[Rescued]) -> Result<bool> {
        let known = self.known();
        let seen = known.as_ref().map_or(0, |known| known.seen());
        let reply = self
            .eval(&scripts::REBUILD, self.quick(), found.unwrap_or_default(), seen, |call| {
                call.arg(epoch).arg(engine).arg(self.retention_ms());
                rescued.iter().for_each(|it| put(call, it));
            })
            .await?;
        match reply.word.as_str() {
            "OK" => {
                self.shared.known.store(Some(Arc::new(Known::new(epoch, reply.counter))));
                Ok(true)
            }
            "LOST" => Ok(false),
            _ => reply.unexpected(),
        }
    }

    /// What stands where a job's record should be and cannot be read. None: it can be, or it is of another engine than `engine` or
    /// under another dispatcher that lives, whose it is to mend.
    pub async fn damage(&self, engine: &str, job: JobId) -> Result<Option<Damage>> {
        let key = self.keys().job(job);
        let mut ask = redis::cmd("HMGET");
        ask.arg(&key).arg(&FIELDS);
        // What is no hash has no fields.
        let values = match self.quick().send(&ask).await {
            Ok(values) => items(values),
            Err(Trouble::Unreadable(_)) => vec![Value::Nil; FIELDS.len()],
            Err(trouble) => return Err(trouble.at(&key)),
        };
        if let Ok(Some(_)) = record::read(job, &values) {
            return Ok(None);
        }
        let damage = Damage { job, values };
        if damage.word("engine").is_some_and(|of| of != engine) {
            return Ok(None);
        }
        if let Some(owner) = damage.word("owner").filter(|owner| *owner != self.dispatcher())
            && !self.alive(HashSet::from([owner])).await?.is_empty()
        {
            return Ok(None);
        }
        Ok(Some(damage))
    }

    /// Makes a record anew from what the job's container says: the job goes on under nobody's supervision. Without a container it
    /// becomes `lost`, and if it could be read that it has ended, it stays ended. `engine` is the one that was looked at. False:
    /// somebody has written there meanwhile.
    pub async fn mend(&self, engine: &str, damage: &Damage, container: Option<&Rescued>) -> Result<bool> {
        let lost;
        let it = match container {
            Some(container) => container,
            None => {
                lost = damage.without_container()?;
                &lost
            }
        };
        let reply = self.run(&scripts::MEND, self.quick(), |call| {
            call.arg(engine).arg(self.retention_ms());
            put(call, it);
            for value in &damage.values {
                match value {
                    Value::BulkString(bytes) => call.arg(bytes),
                    _ => call.arg(""),
                };
            }
            let outcome = damage.read::<State>("state").and_then(State::outcome);
            call.arg(outcome.map(Outcome::word).unwrap_or_default());
            if let Some(release) = damage.read::<ReleaseId>("release") {
                call.arg("release").arg(release.to_string());
            }
            if let Some(intent) = damage.read::<Intent>("intent") {
                call.arg("intent").arg(intent.word());
            }
            for field in ["intent_ms", "exit_code", "created_ms", "locked_ms", "started_ms"] {
                if let Some(number) = damage.read::<i64>(field) {
                    call.arg(field).arg(number);
                }
            }
        });
        Ok(reply.await?.word == "OK")
    }

    /// Gives a sign of life of this dispatcher, good for `ttl`. Learns on the way how often state has changed.
    pub async fn heartbeat(&self, ttl: Duration) -> Result<()> {
        let known = self.known();
        let key = self.keys().dispatcher(self.dispatcher());
        let mut pipe = redis::pipe();
        pipe.cmd("SET").arg(&key).arg(1).arg("PX").arg(millis(ttl));
        pipe.cmd("GET").arg(self.keys().state());
        let mut replies = self.quick().send_all(&pipe).await.map_err(|trouble| trouble.at(&key))?.into_iter();
        let set = replies.next().unwrap_or_default().extract_error();
        set.map_err(|error| Trouble::from(error).at(&key))?;
        if let Some(known) = known {
            let seen = known.seen();
            // A strange memory is found by whoever reads or writes it; a sign of life may be given in any.
            let _strange = known.check(&replies.next().unwrap_or_default(), seen);
        }
        Ok(())
    }

    /// Takes the sign of life back, so that others adopt at once.
    pub async fn goodbye(&self) -> Result<()> {
        let key = self.keys().dispatcher(self.dispatcher());
        let mut command = redis::cmd("DEL");
        command.arg(&key);
        self.quick().send(&command).await.map(drop).map_err(|trouble| trouble.at(&key))
    }

    /// A round trip, for readiness.
    pub async fn ping(&self) -> Result<()> {
        self.quick().send(&redis::cmd("PING")).await.map(drop).map_err(|trouble| trouble.at("PING"))
    }

    /// Redis' clock in milliseconds since 1970.
    pub async fn now_ms(&self) -> Result<u64> {
        let time = self.quick().send(&redis::cmd("TIME")).await.map_err(|trouble| trouble.at("TIME"))?;
        time_ms(time).ok_or_else(|| StoreError::Unreadable("TIME".to_owned()))
    }

    /// How long ended jobs are kept, in milliseconds.
    pub(super) fn retention_ms(&self) -> u64 {
        millis(self.shared.retention)
    }
}

/// Puts a rescued job among a script's arguments, as `rescued_at` reads it there.
fn put(call: &mut redis::Cmd, it: &Rescued) {
    call.arg(it.job.to_string()).arg(it.deployment_id.as_str()).arg(it.inventory.as_str());
    call.arg(it.action.as_str()).arg(it.fence.0).arg(it.container.as_deref().unwrap_or_default());
    call.arg(u8::from(it.holds)).arg(it.job.ms());
}

/// Milliseconds as Redis takes them for an expiry: at least 1.
fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).clamp(1, 1 << 52)
}

/// The reply to `TIME` in milliseconds.
pub(super) fn time_ms(time: Value) -> Option<u64> {
    let [seconds, micros]: [Value; 2] = items(time).try_into().ok()?;
    Some(number::<u64>(&seconds)? * 1000 + number::<u64>(&micros)? / 1000)
}
