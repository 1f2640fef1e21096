//! Output: written behind what is there, read at a cost of the range alone.

use redis::{Cmd, Pipeline};

use super::keys::Keys;
use super::record::position_text;
use super::value::{bytes, number, text};
use super::{Result, Store, StoreError, scripts};
use crate::model::ids::JobId;
use crate::model::job::State;
use crate::model::lock::Held;
use crate::model::output::{Position, Write};

/// Asks for a range of the readable output. For none at all a byte is asked for, which is not given out.
pub(super) fn ask_range(keys: &Keys, pipe: &mut Pipeline, job: JobId, offset: u64, limit: u64) {
    // Redis counts in signed 64 bits, and a negative end would be counted from the other side.
    let first = offset.min(1 << 62);
    let last = first.saturating_add(limit.clamp(1, 1 << 61) - 1);
    let mut command = Cmd::with_capacity(4, 128);
    command.arg("GETRANGE").arg(keys.output(job)).arg(first).arg(last);
    pipe.add_command(command);
}

impl Store {
    /// Appends output: `at` is the position the writer believes in, `write.after` (with its `raw`) the one after. `Stale` if Redis
    /// stands elsewhere; a write that has been applied already (its reply was lost) is success.
    pub async fn append(&self, held: &Held, at: Position, write: &Write<'_>) -> Result<()> {
        let reply = self.run(&scripts::APPEND, self.intake(), |call| {
            call.arg(held.job().to_string()).arg(held.lease());
            call.arg(position_text(at)).arg(position_text(write.after)).arg(write.head);
            for (place, piece) in &write.ring {
                call.arg(*place).arg(*piece);
            }
        });
        reply.await.map(drop)
    }

    /// Appends the announcement behind exactly `readable` bytes; else `Stale`.
    pub async fn announce(&self, held: &Held, readable: u64, line: &str) -> Result<()> {
        self.complete(held, readable, |call| {
            call.arg(line);
        })
        .await
    }

    /// Appends a piece of the ring behind exactly `readable` bytes; else `Stale`.
    pub async fn move_ring(&self, held: &Held, readable: u64, at: u64, count: u64) -> Result<()> {
        self.complete(held, readable, |call| {
            call.arg("").arg(at).arg(count);
        })
        .await
    }

    async fn complete(&self, held: &Held, readable: u64, args: impl FnOnce(&mut Cmd)) -> Result<()> {
        let reply = self.run(&scripts::COMPLETE, self.intake(), |call| {
            call.arg(held.job().to_string()).arg(held.lease()).arg(readable);
            args(call);
        });
        reply.await.map(drop)
    }

    /// Bytes of output that can be read.
    pub async fn readable(&self, job: JobId) -> Result<u64> {
        let key = self.keys().output(job);
        let answers = self.read(self.quick(), &key, |pipe| {
            pipe.cmd("STRLEN").arg(&key);
        });
        let length = answers.await?.next()?;
        number(&length).ok_or(StoreError::Unreadable(key))
    }

    /// Bytes of the ring from a place of it (not wrapping).
    pub async fn ring(&self, job: JobId, at: u64, count: u64) -> Result<Vec<u8>> {
        if count == 0 {
            return Ok(Vec::new());
        }
        let key = self.keys().ring(job);
        let answers = self.read(self.intake(), &key, |pipe| {
            pipe.cmd("GETRANGE").arg(&key).arg(at).arg(at.saturating_add(count - 1));
        });
        bytes(answers.await?.next()?).ok_or(StoreError::Unreadable(key))
    }

    /// Readable output from `offset`, at most `limit` bytes, and whether the job has ended (read before the output).
    /// None: no such job. Costs the range.
    pub async fn output(&self, job: JobId, offset: u64, limit: u64) -> Result<Option<(Vec<u8>, bool)>> {
        let key = self.keys().job(job);
        let answers = self.read(self.outlet(), &key, |pipe| {
            pipe.cmd("HGET").arg(&key).arg("state");
            ask_range(self.keys(), pipe, job, offset, limit);
        });
        let mut answers = answers.await?;
        let state = answers.next()?;
        if state == redis::Value::Nil {
            return Ok(None);
        }
        let Some(state) = text(&state).and_then(|word| word.parse::<State>().ok()) else {
            return Err(StoreError::Unreadable(key));
        };
        let piece = bytes(answers.next()?).ok_or(StoreError::Unreadable(key))?;
        Ok(Some((if limit == 0 { Vec::new() } else { piece }, state.is_ended())))
    }
}
