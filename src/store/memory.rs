//! Whether Redis' memory is the one known here, and putting the engine's truth in its place.

use std::sync::PoisonError;
use std::time::Duration;

use super::link::{Arg, Known, Step};
use super::{Memory, Rescued, Result, Store};

impl Store {
    /// Compares Redis' epoch and count with what is known here; knows the epoch that it finds when another has rebuilt it.
    ///
    /// A rebuild never lowers the count below what its maker had seen, so an epoch that is not known but has a count at least
    /// as high is a newer memory; with a lower count it may be an older one, and is rebuilt once more.
    pub async fn memory(&self) -> Result<Memory> {
        let mut command = redis::cmd("HMGET");
        command.arg(self.keys().state()).arg("epoch").arg("counter");
        let (epoch, counter): (Option<String>, Option<u64>) = command.query_async(&mut self.connection.clone()).await?;
        let counter = counter.unwrap_or_default();
        let mut known = self.shared.known.lock().unwrap_or_else(PoisonError::into_inner);
        if epoch.is_none() || counter < known.seen {
            return Ok(Memory::Strange { found: epoch });
        }
        *known = Known { epoch, seen: counter };
        Ok(Memory::Known)
    }

    /// The epoch known here.
    pub fn epoch(&self) -> Option<String> {
        self.known().epoch
    }

    /// Replaces what Redis believes by what the engine shows, in one script, if the epoch is still `found`; false: another
    /// dispatcher was first. Jobs in Redis that have not ended, are of this `engine` or have none, and are not among
    /// `rescued`, become `lost`; locks, fences and queues follow. Retried whole by its caller.
    pub async fn rebuild(&self, found: Option<&str>, epoch: &str, engine: &str, rescued: &[Rescued]) -> Result<bool> {
        let mut args: Vec<Arg<'_>> =
            vec![found.unwrap_or_default().into(), epoch.into(), engine.into(), (rescued.len() as u64).into()];
        for one in rescued {
            args.push(one.job.to_string().into());
            args.push(one.job.ms().into());
            args.push(one.deployment_id.as_str().into());
            args.push(one.inventory.as_str().into());
            args.push(one.action.as_str().into());
            args.push(one.fence.0.into());
            args.push(one.container.as_deref().unwrap_or_default().into());
            args.push(if one.holds { "1" } else { "" }.into());
            args.push(one.sealed.as_deref().unwrap_or_default().into());
        }
        Ok(self.run(Step::rebuild, args).await?.status == "OK")
    }

    /// Gives a sign of life of this dispatcher, good for `ttl`.
    pub async fn heartbeat(&self, ttl: Duration) -> Result<()> {
        let key = self.keys().dispatcher(self.dispatcher());
        let ttl = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let mut command = redis::cmd("SET");
        command.arg(key).arg("1").arg("PX").arg(ttl);
        Ok(command.query_async(&mut self.connection.clone()).await?)
    }

    /// Takes the sign of life back, so that others adopt at once.
    pub async fn goodbye(&self) -> Result<()> {
        let key = self.keys().dispatcher(self.dispatcher());
        Ok(redis::cmd("DEL").arg(key).query_async(&mut self.connection.clone()).await?)
    }

    /// A round trip, for readiness.
    pub async fn ping(&self) -> Result<()> {
        Ok(redis::cmd("PING").query_async(&mut self.connection.clone()).await?)
    }

    /// Redis' clock in milliseconds since 1970.
    pub async fn now_ms(&self) -> Result<u64> {
        let (s, us): (u64, u64) = redis::cmd("TIME").query_async(&mut self.connection.clone()).await?;
        Ok(s * 1000 + us / 1000)
    }
}
