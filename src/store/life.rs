//! A job's way from the lock to its end. Every write carries the lease of its supervisor.

use redis::Cmd;
use serde_json::{Map, Value};

use super::admission::held;
use super::scripts::{self, Reply, Script};
use super::value::items;
use super::{Result, Store, record};
use crate::model::ids::JobId;
use crate::model::job::{Intent, Outcome, Record};
use crate::model::lock::Held;

impl Store {
    /// Runs a script about a job under the lease of its supervisor.
    async fn write(&self, script: &Script, held: &Held, args: impl FnOnce(&mut Cmd)) -> Result<Reply> {
        let with_lease = |call: &mut Cmd| {
            call.arg(held.job().to_string()).arg(held.lease());
            args(call);
        };
        self.run(script, self.quick(), with_lease).await
    }

    /// Records the container, if lock, lease and epoch are this job's still and no intent is recorded; else `Stale`.
    pub async fn confirm(&self, held: &Held, engine: &str, container: &str, digest: &str) -> Result<()> {
        let reply = self.write(&scripts::CONFIRM, held, |call| {
            call.arg(held.inventory().as_str()).arg(held.fence().0).arg(engine).arg(container).arg(digest);
        });
        reply.await.map(drop)
    }

    /// The container (of any phase) that was found without being recorded is recorded; else as `confirm`, intents allowed.
    pub async fn recognize(&self, held: &Held, engine: &str, container: &str) -> Result<()> {
        let reply = self.write(&scripts::RECOGNIZE, held, |call| {
            call.arg(held.inventory().as_str()).arg(held.fence().0).arg(engine).arg(container);
        });
        reply.await.map(drop)
    }

    /// Forgets a recorded container that was never started.
    pub async fn unconfirm(&self, held: &Held, container: &str) -> Result<()> {
        let reply = self.write(&scripts::UNCONFIRM, held, |call| {
            call.arg(container);
        });
        reply.await.map(drop)
    }

    /// `starting → running` (an intent recorded meanwhile stays). Repeating is harmless.
    pub async fn started(&self, held: &Held) -> Result<()> {
        self.write(&scripts::STARTED, held, |_| {}).await.map(drop)
    }

    /// Records what somebody wants, if the job has not ended and neither an intent nor the exit code is recorded; returns the record
    /// after it. A queued job ends at once. It is asked for by people, so no lease is.
    pub async fn intend(&self, job: JobId, intent: Intent, reason: Option<&str>) -> Result<Option<Record>> {
        self.record_intent(job, "", intent, reason).await
    }

    /// Records a deadline that its supervisor has seen pass; as `intend`, and `Stale` if the job is another's by now.
    pub async fn deadline(&self, held: &Held, intent: Intent, reason: &str) -> Result<()> {
        self.record_intent(held.job(), &held.lease().to_string(), intent, Some(reason)).await.map(drop)
    }

    async fn record_intent(
        &self,
        job: JobId,
        lease: &str,
        intent: Intent,
        reason: Option<&str>,
    ) -> Result<Option<Record>> {
        let mut reply = self
            .run(&scripts::INTEND, self.quick(), |call| {
                call.arg(job.to_string()).arg(lease).arg(intent.word()).arg(intent.outcome().word());
                call.arg(reason.unwrap_or_default()).arg(self.retention_ms());
            })
            .await?;
        match reply.word.as_str() {
            "OK" => record::read(job, &items(reply.next())),
            "NONE" => Ok(None),
            _ => reply.unexpected(),
        }
    }

    /// Step 1 of the end: records the exit code (once; a later one is ignored). Returns the record after it.
    pub async fn exited(&self, held: &Held, exit_code: i64, reason: Option<&str>) -> Result<Record> {
        let reply = self.write(&scripts::EXITED, held, |call| {
            call.arg(exit_code).arg(reason.unwrap_or_default());
        });
        let mut reply = reply.await?;
        match record::read(held.job(), &items(reply.next()))? {
            Some(record) => Ok(record),
            None => reply.unexpected(),
        }
    }

    /// Records why a job does not get on, unless something is recorded.
    pub async fn remark(&self, held: &Held, reason: &str) -> Result<()> {
        let reply = self.write(&scripts::REMARK, held, |call| {
            call.arg(reason);
        });
        reply.await.map(drop)
    }

    /// Step 3 of the end, one script: sets the outcome (once), drops the ring, frees the lock or hands it to the next in the queue
    /// (unless frozen), starts the retention. Returns the next holder, which the caller supervises. Repeating is harmless.
    pub async fn finish(&self, held: &Held, outcome: Outcome, reason: Option<&str>) -> Result<Option<Held>> {
        self.set_outcome(held, outcome, reason, false).await
    }

    /// As `finish`, for a job that could not be launched: `Stale` if a container is recorded. For a call whose reply is lost may take
    /// effect late, when another try has succeeded.
    pub async fn finish_unlaunched(&self, held: &Held, outcome: Outcome, reason: &str) -> Result<Option<Held>> {
        self.set_outcome(held, outcome, Some(reason), true).await
    }

    async fn set_outcome(
        &self,
        held: &Held,
        outcome: Outcome,
        reason: Option<&str>,
        unlaunched: bool,
    ) -> Result<Option<Held>> {
        let reply = self.write(&scripts::FINISH, held, |call| {
            call.arg(outcome.word()).arg(reason.unwrap_or_default()).arg(self.retention_ms()).arg(u8::from(unlaunched));
        });
        self::held(reply.await?, Some(held.inventory()))
    }

    /// Stores what the container reports, merged over what is there; false: no such live job.
    pub async fn progress(&self, job: JobId, report: &Map<String, Value>) -> Result<bool> {
        let reply = self.run(&scripts::PROGRESS, self.quick(), |call| {
            call.arg(job.to_string());
            for (member, value) in report {
                call.arg(member).arg(value.to_string());
            }
        });
        Ok(reply.await?.word == "OK")
    }
}
