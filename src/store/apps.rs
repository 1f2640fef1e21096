//! The list of apps, locks and freezes as operators see them, and the audit log.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::life::read_freeze;
use super::link::{Arg, Step};
use super::{Freeze, LockState, Result, Store, StoreError, StoredApp};
use crate::model::app::{App, VarRule};
use crate::model::ids::{Action, DeploymentId, Inventory, JobId, Word};

/// Lines of the audit log that are kept.
const AUDIT_LINES: u64 = 10_000;

/// An app's entry in Redis; its id is the field's name.
#[derive(Serialize, Deserialize)]
struct Entry {
    hash: String,
    inventory: Inventory,
    action: Action,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    vars: BTreeMap<Word, VarRule>,
}

impl StoredApp {
    pub(super) fn read(id: &DeploymentId, text: &str) -> Result<Self> {
        let unreadable = || StoreError::Unreadable(format!("apps, entry {id}"));
        let entry: Entry = serde_json::from_str(text).map_err(|_| unreadable())?;
        let hash = STANDARD.decode(entry.hash).map_err(|_| unreadable())?;
        let app = App { deployment_id: id.clone(), inventory: entry.inventory, action: entry.action, vars: entry.vars };
        Ok(Self { app, hash })
    }

    fn write(&self) -> Result<String> {
        let entry = Entry {
            hash: STANDARD.encode(&self.hash),
            inventory: self.app.inventory.clone(),
            action: self.app.action.clone(),
            vars: self.app.vars.clone(),
        };
        serde_json::to_string(&entry).map_err(|error| StoreError::Unreadable(error.to_string()))
    }
}

impl Store {
    /// Replaces the list of apps in one step. `Err(count)`: the list would be empty or shrink to less than half of `count` apps
    /// and `force` was not given; nothing was changed.
    pub async fn set_apps(&self, apps: &[StoredApp], force: bool) -> Result<std::result::Result<(), u64>> {
        let mut args: Vec<Arg<'_>> = vec![if force { "1" } else { "" }.into()];
        for app in apps {
            args.push(app.app.deployment_id.as_str().into());
            args.push(app.write()?.into());
        }
        let mut reply = self.run(Step::apps, args).await?;
        Ok(if reply.status == "OK" { Ok(()) } else { Err(reply.parse()?) })
    }

    /// The apps, ordered by id; None: no list was ever posted (or it is gone).
    pub async fn apps(&self) -> Result<Option<Vec<StoredApp>>> {
        let (posted, apps): (bool, BTreeMap<String, String>) = self
            .read(|pipe, keys| {
                pipe.cmd("EXISTS").arg(keys.apps_meta());
                pipe.cmd("HGETALL").arg(keys.apps());
            })
            .await?;
        if !posted {
            return Ok(None);
        }
        let unreadable = |id: &str| StoreError::Unreadable(format!("apps, entry {id}"));
        let apps = apps.iter().map(|(id, text)| StoredApp::read(&id.parse().map_err(|_| unreadable(id))?, text));
        apps.collect::<Result<_>>().map(Some)
    }

    /// Locks, queues and freezes, ordered by inventory, and Redis' time in milliseconds.
    pub async fn locks(&self) -> Result<(Vec<LockState>, u64)> {
        type Reply = (BTreeMap<String, String>, BTreeSet<String>, BTreeMap<String, String>, (u64, u64));
        let (holders, queues, freezes, (s, us)): Reply = self
            .read(|pipe, keys| {
                pipe.cmd("HGETALL").arg(keys.locks());
                pipe.cmd("SMEMBERS").arg(keys.queues());
                pipe.cmd("HGETALL").arg(keys.freezes());
                pipe.cmd("TIME");
            })
            .await?;
        let now = s * 1000 + us / 1000;
        let mut inventories: BTreeSet<&String> = holders.keys().collect();
        inventories.extend(&queues);
        inventories.extend(freezes.keys());
        let mut locks = Vec::new();
        for name in inventories {
            let Ok(inventory) = name.parse::<Inventory>() else { continue };
            let holder: Option<JobId> = holders.get(name).and_then(|id| id.parse().ok());
            let record = match holder {
                Some(id) => self.record(id).await.or_else(|error| match error {
                    StoreError::Unreadable(_) => Ok(None),
                    other => Err(other),
                })?,
                None => None,
            };
            let (waiting,): (Vec<String>,) = self
                .read(|pipe, keys| {
                    pipe.cmd("LRANGE").arg(keys.queue(&inventory)).arg(0).arg(-1);
                })
                .await?;
            let waiting: Vec<JobId> = waiting.iter().filter_map(|id| id.parse().ok()).collect();
            let freeze = freezes.get(name).map(|text| read_freeze(text)).transpose()?;
            let freeze = freeze.filter(|freeze| freeze.until_ms.is_none_or(|until| until > now));
            if holder.is_some() || !waiting.is_empty() || freeze.is_some() {
                locks.push(LockState { inventory, holder, record, waiting, freeze });
            }
        }
        Ok((locks, now))
    }

    /// Freezes an inventory, for `expires_in` seconds or until lifted.
    pub async fn freeze(
        &self,
        inventory: &Inventory,
        reason: &str,
        by: &str,
        expires_in: Option<u64>,
    ) -> Result<Freeze> {
        let lasts = expires_in.map_or_else(String::new, |s| s.saturating_mul(1000).to_string());
        let args = vec![inventory.as_str().into(), reason.into(), by.into(), lasts.into()];
        let mut reply = self.run(Step::freeze, args).await?;
        read_freeze(&reply.text().unwrap_or_default())
    }

    /// Lifts a freeze; false: there was none.
    pub async fn unfreeze(&self, inventory: &Inventory) -> Result<bool> {
        Ok(self.run(Step::unfreeze, vec![inventory.as_str().into()]).await?.status == "OK")
    }

    /// Writes a line of the audit log.
    pub async fn audit(&self, by: &str, what: &str, about: &str, reason: &str) -> Result<()> {
        let _: (redis::Value,) = self
            .read(|pipe, keys| {
                pipe.cmd("XADD").arg(keys.audit()).arg("MAXLEN").arg("~").arg(AUDIT_LINES).arg("*");
                pipe.arg(&["by", by, "what", what, "about", about, "reason", reason]);
            })
            .await?;
        Ok(())
    }
}
