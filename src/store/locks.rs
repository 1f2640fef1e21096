//! What operators see and set: locks, queues and freezes.

use std::collections::BTreeMap;

use serde_json::json;

use super::admission::freeze;
use super::memory::time_ms;
use super::record::{self, FIELDS};
use super::value::{items, pairs, text};
use super::{Freeze, LockState, Result, Store, StoreError, scripts};
use crate::model::ids::{Inventory, JobId};
use crate::model::job::State;

/// Reads a freeze as it stands in Redis: when it ends (0: when lifted), a blank, the rest as JSON.
pub(super) fn stored_freeze(stored: &str) -> Option<Freeze> {
    let (ends, rest) = stored.split_once(' ')?;
    let ends: u64 = ends.parse().ok()?;
    let rest: serde_json::Value = serde_json::from_str(rest).ok()?;
    Some(Freeze {
        reason: rest["reason"].as_str()?.to_owned(),
        by: rest["by"].as_str()?.to_owned(),
        until_ms: (ends > 0).then_some(ends),
    })
}

/// A freeze that cannot be read is in force all the same.
pub(super) fn unreadable_freeze() -> Freeze {
    Freeze { reason: "its record cannot be read".to_owned(), by: "unknown".to_owned(), until_ms: None }
}

/// A freeze that stands in Redis, if it is in force.
fn freeze_at(stored: &str, now_ms: u64) -> Option<Freeze> {
    let freeze = stored_freeze(stored).unwrap_or_else(unreadable_freeze);
    freeze.until_ms.is_none_or(|until| until > now_ms).then_some(freeze)
}

impl LockState {
    /// A lock that nobody has and nobody waits for.
    fn free(inventory: Inventory) -> Self {
        Self { inventory, holder: None, record: None, reserved_for: None, waiting: Vec::new(), freeze: None }
    }
}

impl Store {
    /// Locks, reservations, queues and freezes, ordered by inventory, and Redis' time in milliseconds.
    pub async fn locks(&self) -> Result<(Vec<LockState>, u64)> {
        let answers = self.read(self.quick(), "locks", |pipe| {
            pipe.cmd("TIME");
            pipe.cmd("HGETALL").arg(self.keys().locks());
            pipe.cmd("HGETALL").arg(self.keys().reserved());
            pipe.cmd("HGETALL").arg(self.keys().freezes());
            pipe.cmd("SMEMBERS").arg(self.keys().queues());
        });
        let mut answers = answers.await?;
        let now = time_ms(answers.next()?).ok_or_else(|| StoreError::Unreadable("TIME".to_owned()))?;
        let mut states: BTreeMap<Inventory, LockState> = BTreeMap::new();
        let mut at = |name: &redis::Value, set: &mut dyn FnMut(&mut LockState)| {
            if let Some(inventory) = text(name).and_then(|name| name.parse::<Inventory>().ok()) {
                set(states.entry(inventory.clone()).or_insert_with(|| LockState::free(inventory)));
            }
        };
        for (name, holder) in pairs(answers.next()?) {
            at(&name, &mut |state| state.holder = text(&holder).and_then(|job| job.parse().ok()));
        }
        for (name, release) in pairs(answers.next()?) {
            at(&name, &mut |state| state.reserved_for = text(&release).and_then(|release| release.parse().ok()));
        }
        for (name, stored) in pairs(answers.next()?) {
            if let Some(freeze) = freeze_at(text(&stored).unwrap_or_default(), now) {
                at(&name, &mut |state| state.freeze = Some(freeze.clone()));
            }
        }
        for name in items(answers.next()?) {
            at(&name, &mut |_| {});
        }
        let mut states: Vec<_> = states.into_values().collect();
        let answers = self.read(self.quick(), "queue", |pipe| {
            for state in &states {
                pipe.cmd("LRANGE").arg(self.keys().queue(&state.inventory)).arg(0).arg(-1);
                if let Some(holder) = state.holder {
                    pipe.cmd("HMGET").arg(self.keys().job(holder)).arg(&FIELDS);
                }
            }
        });
        let mut answers = answers.await?;
        for state in &mut states {
            state.waiting = items(answers.next()?).iter().filter_map(|id| text(id)?.parse::<JobId>().ok()).collect();
            if let Some(holder) = state.holder {
                let fields = answers.next().map(items);
                state.record = fields.and_then(|fields| record::read(holder, &fields)).ok().flatten();
            }
        }
        Ok((states, now))
    }

    /// What jobs wait for: of each that has not its lock yet, the lock. Its queue and its holder's record are left out.
    pub async fn waits(&self, jobs: &[(JobId, Inventory)]) -> Result<BTreeMap<JobId, LockState>> {
        if jobs.is_empty() {
            return Ok(BTreeMap::new());
        }
        let inventories: Vec<&str> = jobs.iter().map(|(_, inventory)| inventory.as_str()).collect();
        let answers = self.read(self.quick(), "waits", |pipe| {
            pipe.cmd("TIME");
            pipe.cmd("HMGET").arg(self.keys().locks()).arg(&inventories);
            pipe.cmd("HMGET").arg(self.keys().freezes()).arg(&inventories);
            for (job, _) in jobs {
                pipe.cmd("HGET").arg(self.keys().job(*job)).arg("state");
            }
        });
        let mut answers = answers.await?;
        let now = time_ms(answers.next()?).ok_or_else(|| StoreError::Unreadable("TIME".to_owned()))?;
        let (holders, freezes) = (items(answers.next()?), items(answers.next()?));
        let mut waits = BTreeMap::new();
        for ((job, inventory), (holder, stored)) in jobs.iter().zip(holders.iter().zip(&freezes)) {
            if text(&answers.next()?) == Some(State::Queued.word()) {
                let holder = text(holder).and_then(|holder| holder.parse().ok());
                let freeze = text(stored).and_then(|stored| freeze_at(stored, now));
                waits.insert(*job, LockState { holder, freeze, ..LockState::free(inventory.clone()) });
            }
        }
        Ok(waits)
    }

    /// Freezes an inventory, for `expires_in` seconds or until lifted.
    pub async fn freeze(
        &self,
        inventory: &Inventory,
        reason: &str,
        by: &str,
        expires_in: Option<u64>,
    ) -> Result<Freeze> {
        let rest = json!({ "reason": reason, "by": by }).to_string();
        let expires_in = expires_in.map(|seconds| seconds.to_string()).unwrap_or_default();
        let reply = self.run(&scripts::FREEZE, self.quick(), |call| {
            call.arg(inventory.as_str()).arg(expires_in).arg(rest);
        });
        freeze(&mut reply.await?)
    }

    /// Lifts a freeze; false: there was none.
    pub async fn unfreeze(&self, inventory: &Inventory) -> Result<bool> {
        let reply = self.run(&scripts::UNFREEZE, self.quick(), |call| {
            call.arg(inventory.as_str());
        });
        Ok(reply.await?.word == "OK")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_freeze_reads_back() {
        let freeze = stored_freeze(r#"1700000000000 {"by":"ada","reason":"audit week"}"#).expect("a freeze");
        assert_eq!((freeze.by.as_str(), freeze.until_ms), ("ada", Some(1_700_000_000_000)));
        assert_eq!(stored_freeze(r#"0 {"by":"ada","reason":"x"}"#).expect("a freeze").until_ms, None);
        assert_eq!(stored_freeze("0 {}"), None);
        assert_eq!(stored_freeze("soon {}"), None);
    }
}
