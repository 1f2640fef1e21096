//! A job's way, step by step: each is one script.

use serde_json::{Map, Value};

use super::keys::sha256_hex;
use super::link::{Arg, Reply, Step};
use super::{Freeze, Live, NewJob, Result, Store, StoreError, Submitted};
use crate::model::ids::{Inventory, JobId};
use crate::model::job::{Intent, Outcome, Record, State};
use crate::model::lock::{Fence, Held};
use crate::model::output::{Position, Write};

impl Store {
    /// Admission: one script.
    pub async fn submit(&self, job: &NewJob) -> Result<Submitted> {
        let (key, digest) = match &job.idempotency {
            Some((key, digest)) => (sha256_hex(key.as_bytes()), digest.as_str()),
            None => (String::new(), ""),
        };
        let args = vec![
            job.id.to_string().into(),
            job.deployment_id.as_str().into(),
            job.inventory.as_str().into(),
            job.action.as_str().into(),
            job.when_busy.word().into(),
            job.sealed.as_slice().into(),
            key.into(),
            digest.into(),
        ];
        let mut reply = self.run(Step::submit, args).await?;
        match reply.status.as_str() {
            "STARTED" => {
                let (fence, lease) = (Fence(reply.parse()?), reply.parse()?);
                Ok(Submitted::Started(Held::granted(job.id, job.inventory.clone(), fence, lease)))
            }
            "QUEUED" => Ok(Submitted::Queued { position: reply.parse()? }),
            "EXISTS" => Ok(Submitted::Exists(reply.parse()?)),
            "KEYREUSED" => Ok(Submitted::KeyReused),
            "BUSY" => Ok(Submitted::Busy { holder: reply.parse()? }),
            "FROZEN" => Ok(Submitted::Frozen(read_freeze(&reply.text().unwrap_or_default())?)),
            other => Err(StoreError::Unreadable(format!("the reply {other} of submit"))),
        }
    }

    /// Records the container, if lock, lease and epoch are this job's still and no intent is recorded; else `Stale`.
    pub async fn confirm(&self, held: &Held, engine: &str, container: &str, digest: &str) -> Result<()> {
        self.of(held, Step::confirm, vec![engine.into(), container.into(), digest.into()]).await
    }

    /// The container (of any phase) that was found without being recorded is recorded; else as `confirm`, intents allowed.
    pub async fn recognize(&self, held: &Held, engine: &str, container: &str) -> Result<()> {
        self.of(held, Step::recognize, vec![engine.into(), container.into()]).await
    }

    /// Forgets a recorded container that was never started.
    pub async fn unconfirm(&self, held: &Held, container: &str) -> Result<()> {
        self.of(held, Step::unconfirm, vec![container.into()]).await
    }

    /// `starting → running` (an intent recorded meanwhile stays). Repeating is harmless.
    pub async fn started(&self, held: &Held) -> Result<()> {
        self.of(held, Step::started, vec![]).await
    }

    /// Appends output: `at` is the position the writer believes in, `write.after` (with its `raw`) the one after. `Stale` if Redis
    /// stands elsewhere; a write that has been applied already (its reply was lost) is success.
    pub async fn append(&self, held: &Held, at: Position, write: &Write<'_>) -> Result<()> {
        let mut args: Vec<Arg<'_>> = Vec::with_capacity(7 + 2 * write.ring.len());
        for position in [at, write.after] {
            args.extend([position.raw.into(), position.text.into(), position.head.into()]);
        }
        args.push(write.head.into());
        for (place, bytes) in &write.ring {
            args.push((*place).into());
            args.push((*bytes).into());
        }
        self.of(held, Step::append, args).await
    }

    /// Records an intent, if the job has not ended and none is recorded; returns the record after it. A queued job ends
    /// at once. Anyone may call it; no lease is asked for.
    pub async fn intend(&self, job: JobId, intent: Intent, reason: Option<&str>) -> Result<Option<Record>> {
        let args = vec![job.to_string().into(), intent.word().into(), reason.unwrap_or_default().into()];
        self.run(Step::intend, args).await?;
        self.record(job).await
    }

    /// Step 1 of the end: records the exit code (once; a later one is ignored).
    pub async fn exited(&self, held: &Held, exit_code: i64, reason: Option<&str>) -> Result<()> {
        self.of(held, Step::exited, vec![exit_code.to_string().into(), reason.unwrap_or_default().into()]).await
    }

    /// Appends the announcement behind exactly `readable` bytes; else `Stale`.
    pub async fn announce(&self, held: &Held, readable: u64, line: &str) -> Result<()> {
        self.of(held, Step::behind, vec![readable.into(), "line".into(), line.into()]).await
    }

    /// Appends a piece of the ring behind exactly `readable` bytes; else `Stale`.
    pub async fn move_ring(&self, held: &Held, readable: u64, at: u64, count: u64) -> Result<()> {
        self.of(held, Step::behind, vec![readable.into(), "ring".into(), at.into(), count.into()]).await
    }

    /// Step 3 of the end, one script: sets the outcome (once), drops the ring, frees the lock or hands it to the next in the queue (unless
    /// frozen), starts the retention. Returns the next holder, which the caller supervises. Repeating is harmless.
    pub async fn finish(&self, held: &Held, outcome: Outcome, reason: Option<&str>) -> Result<Option<Held>> {
        let args = vec![
            held.job().to_string().into(),
            held.lease().into(),
            outcome.word().into(),
            reason.unwrap_or_default().into(),
        ];
        next_holder(self.run(Step::finish, args).await?)
    }

    /// Gives the free, unfrozen lock of an inventory to the first that waits; the caller supervises it.
    pub async fn grant(&self, inventory: &Inventory) -> Result<Option<Held>> {
        next_holder(self.run(Step::grant, vec![inventory.as_str().into()]).await?)
    }

    /// Takes over a live job whose supervisor gives no sign of life (or which is this dispatcher's already but has no task), by
    /// raising its lease. None: somebody else was first, or it has ended.
    pub async fn adopt(&self, job: JobId, lease: u64) -> Result<Option<Held>> {
        let mut reply = self.run(Step::adopt, vec![job.to_string().into(), lease.into()]).await?;
        if reply.status != "OK" {
            return Ok(None);
        }
        let (fence, lease) = (Fence(reply.parse()?), reply.parse()?);
        Ok(Some(Held::granted(job, reply.parse()?, fence, lease)))
    }

    /// All live jobs (queued ones too), with whether their supervisors live; unreadable ones are named.
    pub async fn live(&self) -> Result<(Vec<Live>, Vec<String>)> {
        let (ids,): (Vec<String>,) = self
            .read(|pipe, keys| {
                pipe.cmd("SMEMBERS").arg(keys.active());
            })
            .await?;
        let mut unreadable: Vec<String> =
            ids.iter().filter(|id| id.parse::<JobId>().is_err()).map(|id| format!("active, entry {id}")).collect();
        let ids: Vec<JobId> = ids.iter().filter_map(|id| id.parse().ok()).collect();
        let mut records = Vec::with_capacity(ids.len());
        for (id, record) in ids.iter().zip(self.records(&ids).await?) {
            match record {
                Ok(Some(record)) if record.state.is_ended() => {}
                Ok(Some(record)) => records.push(record),
                Ok(None) => unreadable.push(format!("job:{id}")),
                Err(error) => unreadable.push(error.to_string()),
            }
        }
        let alive: Vec<bool> = self
            .read(|pipe, keys| {
                for record in &records {
                    pipe.cmd("EXISTS").arg(keys.dispatcher(record.owner.as_deref().unwrap_or_default()));
                }
            })
            .await?;
        let live = records.into_iter().zip(alive).map(|(record, owner_alive)| Live { record, owner_alive }).collect();
        Ok((live, unreadable))
    }

    /// Inventories with jobs that wait.
    pub async fn waiting(&self) -> Result<Vec<Inventory>> {
        let (names,): (Vec<String>,) = self
            .read(|pipe, keys| {
                pipe.cmd("SMEMBERS").arg(keys.queues());
            })
            .await?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// Stores what the container reports, merged over what is there; false: no such live job.
    pub async fn progress(&self, job: JobId, report: &Map<String, Value>) -> Result<bool> {
        let mut args = vec![Arg::from(job.to_string())];
        for (name, value) in report {
            args.push(name.as_str().into());
            args.push(value.to_string().into());
        }
        Ok(self.run(Step::progress, args).await?.status == "OK")
    }

    /// Frees a lock whose holder has no readable record; the caller has seen that the engine has no such container.
    pub async fn free_orphan(&self, inventory: &Inventory, holder: &str) -> Result<bool> {
        let reply = self.run(Step::free_orphan, vec![inventory.as_str().into(), holder.into()]).await?;
        Ok(reply.status == "OK")
    }

    /// Runs a script about a job under its lease; nothing is read from its reply.
    async fn of(&self, held: &Held, step: Step, args: Vec<Arg<'_>>) -> Result<()> {
        let mut all: Vec<Arg<'_>> = vec![held.job().to_string().into(), held.lease().into()];
        all.extend(args);
        self.run(step, all).await.map(drop)
    }

    /// Whether a job has ended, for callers who hold no record.
    pub(super) fn has_ended(state: Option<&str>) -> bool {
        state.and_then(|state| state.parse::<State>().ok()).is_some_and(State::is_ended)
    }
}

/// A reply that names the next holder of a lock, or none.
fn next_holder(mut reply: Reply) -> Result<Option<Held>> {
    let Some(id) = reply.text() else { return Ok(None) };
    let id = id.parse().map_err(|_| StoreError::Unreadable(format!("the queued job {id}")))?;
    let (fence, lease) = (Fence(reply.parse()?), reply.parse()?);
    Ok(Some(Held::granted(id, reply.parse()?, fence, lease)))
}

/// Reads a freeze.
pub(super) fn read_freeze(text: &str) -> Result<Freeze> {
    serde_json::from_str(text).map_err(|_| StoreError::Unreadable("freezes".into()))
}
