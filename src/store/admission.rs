//! Who gets a lock: admission, the queue's next, and who takes over from a dead supervisor.

use super::scripts::{self, Reply};
use super::value::{bytes, text};
use super::{Freeze, NewJob, Result, Store, StoreError, Submitted, locks};
use crate::model::ids::{Inventory, JobId};
use crate::model::lock::{Fence, Held};

impl Store {
    /// Admission: one script.
    pub async fn submit(&self, job: &NewJob) -> Result<Submitted> {
        let (hash, digest) = match &job.idempotency {
            Some((key, digest)) => (digest_of(key), digest.as_str()),
            None => (String::new(), ""),
        };
        let id = job.id.to_string();
        let mut reply = self
            .run(&scripts::SUBMIT, self.quick(), |call| {
                call.arg(&id).arg(job.deployment_id.as_str()).arg(job.inventory.as_str()).arg(job.action.as_str());
                call.arg(job.when_busy.word()).arg(&job.sealed).arg(hash).arg(digest).arg(self.retention_ms());
            })
            .await?;
        Ok(match reply.word.as_str() {
            "STARTED" => {
                let (fence, lease) = (Fence(reply.parse()?), reply.parse()?);
                Submitted::Started(Held::granted(job.id, job.inventory.clone(), fence, lease))
            }
            "QUEUED" => Submitted::Queued { position: reply.parse()? },
            "EXISTS" => Submitted::Exists(reply.parse()?),
            "KEYREUSED" => Submitted::KeyReused,
            "BUSY" => Submitted::Busy { holder: reply.parse()? },
            "RESERVED" => Submitted::Reserved(reply.parse()?),
            "FROZEN" => Submitted::Frozen(freeze(&mut reply)?),
            _ => return reply.unexpected(),
        })
    }

    /// Gives the free, unfrozen lock of an inventory to the first that waits; the caller supervises it.
    pub async fn grant(&self, inventory: &Inventory) -> Result<Option<Held>> {
        let reply = self.run(&scripts::GRANT, self.quick(), |call| {
            call.arg(inventory.as_str());
        });
        held(reply.await?, Some(inventory))
    }

    /// Takes over a live job whose supervisor gives no sign of life (or which is `mine` already but has no task), by raising its
    /// lease. None: somebody else was first, or it has ended.
    pub async fn adopt(&self, job: JobId, lease: u64) -> Result<Option<Held>> {
        let reply = self.run(&scripts::ADOPT, self.quick(), |call| {
            call.arg(job.to_string()).arg(lease);
        });
        held(reply.await?, None)
    }

    /// Frees a lock whose holder has no readable record; the caller has seen that the engine has no such container. What can be
    /// read is not freed. False: the lock is not that holder's, or its record can be read. Whatever is left of the holder goes the
    /// way of ended jobs, also when it holds no lock.
    pub async fn free_orphan(&self, inventory: &Inventory, holder: &str) -> Result<bool> {
        if let Ok(job) = holder.parse() {
            match self.record(job).await {
                Ok(None) | Err(StoreError::Unreadable(_)) => {}
                Ok(Some(_)) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        let reply = self.run(&scripts::FREE, self.quick(), |call| {
            call.arg(inventory.as_str()).arg(holder).arg(self.retention_ms());
        });
        Ok(reply.await?.word == "OK")
    }
}

/// The answer of a script that gives a lock: `HELD job fence lease`, followed by the inventory where the caller did not name it.
pub(super) fn held(mut reply: Reply, inventory: Option<&Inventory>) -> Result<Option<Held>> {
    match reply.word.as_str() {
        "HELD" => {
            let (job, fence, lease) = (reply.parse()?, Fence(reply.parse()?), reply.parse()?);
            let inventory = match inventory {
                Some(inventory) => inventory.clone(),
                None => reply.parse()?,
            };
            Ok(Some(Held::granted(job, inventory, fence, lease)))
        }
        "NONE" => Ok(None),
        _ => reply.unexpected(),
    }
}

pub(super) fn freeze(reply: &mut Reply) -> Result<Freeze> {
    let stored = reply.next();
    text(&stored)
        .and_then(locks::stored_freeze)
        .or_else(|| bytes(stored).map(|_| locks::unreadable_freeze()))
        .ok_or_else(|| StoreError::Unreadable("freezes".to_owned()))
}

/// SHA-256 in hexadecimal digits, of what is a client's and may be long.
pub fn digest_of(text: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
