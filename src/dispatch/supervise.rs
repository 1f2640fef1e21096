//! One job from lock to end: its single writer.
//!
//! The loop reads what is recorded, looks at the engine, asks [`next_step`] and does it, until the job has ended or is
//! somebody else's. Nothing is remembered between rounds but `assumed`, what the step before has just shown, so that the
//! plain way (create, confirm, start, follow) costs no extra look.

use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::SemaphorePermit;

use super::Dispatcher;
use super::launch::Launched;
use crate::engine::{EngineError, Rest, container_name, ended_name, unproven_name};
use crate::model::ids::JobId;
use crate::model::job::{Intent, Outcome, Record};
use crate::model::lock::Held;
use crate::model::output::{Move, next_move, tail_place};
use crate::model::settle::{Evidence, Phase, Step, killed, next_step};
use crate::store::StoreError;

/// Pause before a step that met trouble is tried again: the first, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// So often in a row the log of a container that has ended is read before its output is taken for unreadable.
const READINGS: u32 = 5;

/// What is said of a job while a process of it may be at work that the engine does not know.
const LOST_SIGHT: &str = "the engine died while it started the container, and cannot say whether it runs; once it is seen on the engine's host that it does not, unlock by force with engine_gone";

/// Why a job is lost whose container the engine shows as ended with 0.
const UNSEEN_END: &str = "the engine died as the container ended, and its word for exit code 0 is no proof";

/// Why a round came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// Redis.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A file of this machine that a container is to be given.
    #[error("{what} could not be read: {cause}")]
    File {
        /// Which one.
        what: String,
        /// Why.
        cause: std::io::Error,
    },
}

/// Where a supervisor begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// The lock has just been given, and nothing was tried yet.
    Fresh,
    /// Somebody may have tried something before.
    Adopted,
    /// The container has ended and was moved aside: nobody waits for the job, whose end is to be read and recorded once more.
    Aftermath,
}

impl Dispatcher {
    /// Starts the task that carries a job to its end.
    pub(super) fn supervise(self: &Arc<Self>, held: Held, start: Start) {
        match self.supervised().entry(held.job()) {
            Entry::Vacant(place) => place.insert(None),
            // Its lease is out of date; once it has noticed, this one goes on.
            Entry::Occupied(mut place) => return drop(place.insert(Some(held))),
        };
        let this = self.clone();
        self.tasks.spawn(async move {
            let job = held.job();
            let listed = Listed { dispatcher: &this, job };
            let carrying = async {
                let turn = match start {
                    Start::Aftermath => this.aftermath.acquire().await.ok(),
                    Start::Fresh | Start::Adopted => None,
                };
                this.carry(&held, start == Start::Fresh, turn).await
            };
            let next = this.stop.run_until_cancelled(carrying).await.flatten();
            drop(listed);
            if let Some(next) = next {
                this.supervise(next, Start::Fresh);
            }
        });
    }

    /// Carries a job to its end, through any trouble that passes. Returns the next holder of the lock, if it was handed over here.
    /// `turn`: see [`super::AFTERMATH`].
    async fn carry(self: &Arc<Self>, held: &Held, fresh: bool, mut turn: Option<SemaphorePermit<'_>>) -> Option<Held> {
        let mut pause = PAUSE.0;
        let mut assumed = fresh.then_some(Evidence::Absent);
        let mut unread = 0;
        loop {
            let begun = tokio::time::Instant::now();
            let trouble = match self.drive(held, assumed.take(), &mut unread).await {
                Ok(next) => return next,
                Err(trouble) => trouble,
            };
            // Trouble may last: others are not kept waiting for it.
            drop(turn.take());
            match &trouble {
                Trouble::Store(StoreError::Stale(why)) => {
                    tracing::info!(job.id = %held.job(), lease = held.lease(), why, "the job is not supervised here any more");
                    if self.supervised().get(&held.job()).is_none_or(Option::is_none) {
                        // Should nobody have taken over, the reconciler does; not at once, because nothing would be different.
                        tokio::time::sleep(PAUSE.1 / 2).await;
                        self.told.notify_one();
                    }
                    return None;
                }
                Trouble::Store(StoreError::Epoch) => {
                    tracing::info!(job.id = %held.job(), "Redis holds another state; the reconciler settles the job");
                    self.told.notify_one();
                    return None;
                }
                Trouble::Store(StoreError::Unreadable(_)) => {
                    tracing::error!(job.id = %held.job(), error = %trouble, "the reconciler is to make the job's record anew");
                    self.told.notify_one();
                }
                Trouble::Store(StoreError::NotReached(_)) | Trouble::Engine(_) | Trouble::File { .. } => {
                    tracing::warn!(job.id = %held.job(), error = %trouble, "trouble; the job's step is tried again");
                }
            }
            pause = if begun.elapsed() > PAUSE.1 { PAUSE.0 } else { (pause * 2).min(PAUSE.1) };
            tokio::time::sleep(pause).await;
        }
    }

    /// Step after step until the job has ended. `unread`: see [`Dispatcher::take_in`].
    async fn drive(
        self: &Arc<Self>,
        held: &Held,
        mut assumed: Option<Evidence>,
        unread: &mut u32,
    ) -> Result<Option<Held>, Trouble> {
        loop {
            let record = self.own_record(held).await?;
            let evidence = match assumed.take() {
                Some(evidence) => evidence,
                None if record.exit_code.is_some() => Evidence::Unknown,
                None => self.look(&record).await?,
            };
            let step = next_step(&record, &evidence);
            tracing::debug!(job.id = %held.job(), ?evidence, ?step, "next step");
            match step {
                Step::Leave => {
                    // It may have ended here, with the reply lost: then somebody waits for the lock that it left.
                    self.told.notify_one();
                    return Ok(None);
                }
                Step::Wait => self.wait(held, &record).await?,
                Step::Launch => match self.launch(held, &record).await? {
                    Launched::Shown(evidence) => assumed = Some(evidence),
                    Launched::LookAgain => {}
                    Launched::Impossible { container, outcome, reason } => {
                        return self.fail(held, container.as_deref(), outcome, &reason).await;
                    }
                },
                Step::Discard { container } => self.discard(held, &container).await?,
                Step::Recognize { container } => {
                    let engine = self.parts.engine.id().await?;
                    self.parts.store.recognize(held, &engine, &container).await?;
                }
                Step::Follow => {
                    if !self.take_in(held, &record, &evidence, unread).await? {
                        let record = self.own_record(held).await?;
                        return self.finish(held, &record, Outcome::Lost, Some(UNSEEN_END)).await;
                    }
                }
                Step::Clear { container } => self.clear(&container).await?,
                Step::Finish(outcome) => return self.finish(held, &record, outcome, killed(&record)).await,
                Step::End { outcome, reason } => {
                    let mut record = record;
                    if let Evidence::Own { container, phase: Phase::Unseen } = &evidence {
                        if self.rest(held, &record, container).await? == Rest::NeverRan {
                            self.parts.store.unconfirm(held, container).await?;
                            self.parts.engine.remove(container).await?;
                            continue;
                        }
                        // It may have printed.
                        self.take_in(held, &record, &evidence, unread).await?;
                        record = self.own_record(held).await?;
                    }
                    let reason = record.intent.is_none().then_some(reason);
                    return self.finish(held, &record, outcome, reason).await;
                }
            }
        }
    }

    /// Makes sure that a container which the engine has lost sight of does not run. As long as that is not sure the lock is held, and
    /// says why; an operator who has seen for himself that it does not may say so (`engine_gone`).
    async fn rest(&self, held: &Held, record: &Record, container: &str) -> Result<Rest, Trouble> {
        if record.intent == Some(Intent::EngineGone) {
            return Ok(Rest::MayHaveRun);
        }
        let rest = self.parts.engine.lay_to_rest(container).await;
        if let Err(error) = &rest {
            tracing::warn!(job.id = %held.job(), container, %error, "it is not known whether a container runs");
            self.parts.store.remark(held, LOST_SIGHT).await?;
        }
        Ok(rest?)
    }

    /// Follows the recorded container; false: its exit code is not to be believed. `unread` counts in a row how often the log of one
    /// that does not run any more could not be read.
    async fn take_in(
        &self,
        held: &Held,
        record: &Record,
        evidence: &Evidence,
        unread: &mut u32,
    ) -> Result<bool, Trouble> {
        let over = matches!(evidence, Evidence::Own { phase: Phase::Ended { .. } | Phase::Unseen, .. });
        match self.follow(held, record, over).await {
            Err(Trouble::Engine(error)) if over => {
                *unread += 1;
                if *unread < READINGS {
                    return Err(error.into());
                }
                self.give_up_reading(held, &error).await
            }
            followed => {
                *unread = 0;
                followed
            }
        }
    }

    /// The job's record, if it is supervised under this lease still.
    pub(super) async fn own_record(&self, held: &Held) -> Result<Record, Trouble> {
        let record = self.parts.store.record(held.job()).await?;
        let record = record.ok_or_else(|| StoreError::Stale("the job has no record".into()))?;
        if record.lease != held.lease() {
            return Err(StoreError::Stale(format!("lease {} has taken over", record.lease)).into());
        }
        Ok(record)
    }

    /// What the engine shows of a job's container.
    pub(super) async fn look(&self, record: &Record) -> Result<Evidence, EngineError> {
        if let Some(container) = &record.container {
            let found = self.parts.engine.inspect(container).await?;
            // Absence counts only on the engine that the record names, so that one is asked who it is.
            return Ok(match found {
                Some(found) => Evidence::Own { container: found.container, phase: found.phase },
                None if record.engine.as_ref() == Some(&self.parts.engine.id().await?) => Evidence::Absent,
                None => Evidence::Unknown,
            });
        }
        let name = container_name(&self.parts.instance, &record.inventory);
        let Some(found) = self.parts.engine.inspect(&name).await? else {
            // Redis may be older than its end.
            for name in [ended_name, unproven_name] {
                let aside = name(&self.parts.instance, &record.inventory, record.id);
                if let Some(found) = self.parts.engine.inspect(&aside).await? {
                    return Ok(Evidence::Own { container: found.container, phase: found.phase });
                }
            }
            return Ok(Evidence::Absent);
        };
        let Some(labels) = found.labels else {
            tracing::error!(container = %found.container, name, "a container that is not Lockstep's bears an inventory's name; remove it");
            return Ok(Evidence::Taken);
        };
        if labels.job == record.id {
            return Ok(Evidence::Own { container: found.container, phase: found.phase });
        }
        let over = match self.parts.store.record(labels.job).await {
            Ok(other) => other.is_none_or(|other| other.state.is_ended()),
            Err(_) => return Ok(Evidence::Unknown),
        };
        Ok(Evidence::Foreign { container: found.container, phase: found.phase, job: labels.job, over })
    }

    /// Waits for news of the job, or a while. A job that waits before its launch is held to `job.start_timeout`.
    async fn wait(&self, held: &Held, record: &Record) -> Result<(), Trouble> {
        let mut news = self.parts.store.news(held.job());
        let _ = tokio::time::timeout(PAUSE.1 / 4, news.state.changed()).await;
        if record.container.is_none() && self.since(record.locked_ms).await? > self.parts.job.start_timeout {
            let reason = "the inventory's container could not be settled within job.start_timeout";
            self.parts.store.deadline(held, Intent::StartTimeout, reason).await?;
        }
        Ok(())
    }

    /// Forgets and removes a container that was never started. It is forgotten first: should a late start by a supervisor of
    /// the past get in between, the container is found running under the inventory's name and recognized. And a supervisor of the
    /// past is told so by it, before it removes what is another's.
    async fn discard(&self, held: &Held, container: &str) -> Result<(), Trouble> {
        self.parts.store.unconfirm(held, container).await?;
        Ok(self.parts.engine.discard(container).await?)
    }

    /// Moves an ended container of a job that is over out of the way.
    async fn clear(&self, container: &str) -> Result<(), Trouble> {
        if let Some(found) = self.parts.engine.inspect(container).await?
            && let Some(labels) = found.labels
        {
            if found.phase == Phase::Unseen {
                self.parts.engine.lay_to_rest(container).await?;
            }
            let name = ended_name(&self.parts.instance, &labels.inventory, labels.job);
            self.parts.engine.rename(container, &name).await?;
        }
        Ok(())
    }

    /// The end of a job: container out of the way, output completed, then outcome and lock in one script.
    pub(super) async fn finish(
        self: &Arc<Self>,
        held: &Held,
        record: &Record,
        outcome: Outcome,
        reason: Option<&str>,
    ) -> Result<Option<Held>, Trouble> {
        if let Some(container) = &record.container {
            let name = if reason == Some(UNSEEN_END) { unproven_name } else { ended_name };
            self.parts.engine.rename(container, &name(&self.parts.instance, &record.inventory, record.id)).await?;
        }
        self.complete_output(held, record).await?;
        let next = self.parts.store.finish(held, outcome, reason).await?;
        self.note_end(held, outcome);
        if let Some(container) = record.container.clone() {
            self.remove_later(held.job(), container);
        }
        Ok(next)
    }

    pub(super) fn note_end(&self, held: &Held, outcome: Outcome) {
        self.parts.metrics.job_ended(outcome);
        tracing::info!(job.id = %held.job(), inventory = %held.inventory(), %outcome, "job ended");
    }

    /// Moves what the ring kept behind the head.
    async fn complete_output(&self, held: &Held, record: &Record) -> Result<(), Trouble> {
        let (at, job) = (record.output, held.job());
        if at.text == at.head {
            return Ok(());
        }
        let half = at.limit / 2;
        let place = tail_place(at);
        let mut start = self.parts.store.ring(job, place, 4.min(half - place)).await?;
        if start.len() < 4 {
            start.extend(self.parts.store.ring(job, 0, 4 - start.len() as u64).await?);
        }
        loop {
            let readable = self.parts.store.readable(job).await?;
            match next_move(at, readable, &start) {
                Move::Announce(line) => self.parts.store.announce(held, readable, &line).await?,
                Move::Copy { at, count } => self.parts.store.move_ring(held, readable, at, count).await?,
                Move::Done => return Ok(()),
            }
        }
    }

    /// Removes an ended container once `runner.keep` has passed, if the job's outcome is recorded still: a Redis that has lost its
    /// memory needs the evidence once more. The reconciler does it if this process does not.
    fn remove_later(self: &Arc<Self>, job: JobId, container: String) {
        let this = self.clone();
        self.tasks.spawn(async move {
            let removing = async {
                tokio::time::sleep(this.parts.runner.keep).await;
                if this.parts.store.record(job).await?.is_some_and(|record| record.state.is_ended()) {
                    this.parts.engine.remove(&container).await?;
                }
                Ok::<_, Trouble>(())
            };
            if let Some(Err(error)) = this.stop.run_until_cancelled(removing).await {
                tracing::warn!(container, %error, "an ended container could not be removed; the reconciler tries again");
            }
        });
    }
}

/// Takes a job off the list of those supervised here, however its task ends; what waits to go on with it does.
struct Listed<'a> {
    dispatcher: &'a Arc<Dispatcher>,
    job: JobId,
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        let successor = self.dispatcher.supervised().remove(&self.job).flatten();
        // Something was tried before: it has to look.
        if let Some(held) = successor {
            self.dispatcher.supervise(held, Start::Adopted);
        }
    }
}
