//! The reconciler: compares Redis with the engine, at start, when told, and on a timer. The one way to recover.
//!
//! It takes no input and is idempotent: every pass reads both sides anew and does what is missing. What it does is little,
//! because a job's supervisor settles the rest: it sees to it that every live job has a supervisor, that free locks reach those who
//! wait, that nothing ended is left lying about, and that Redis' memory is the engine's truth.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::supervise::{Start, Trouble};
use super::{Dispatcher, PASS};
use crate::clock;
use crate::engine::{EngineError, Found, container_name, ended_name, unproven_name};
use crate::model::ids::JobId;
use crate::model::job::State;
use crate::model::settle::Phase;
use crate::store::{Memory, Rescued, StoreError};

/// What comes of looking at a container.
enum Seen {
    /// Nothing, or what there was to do has been done.
    Settled,
    /// Its job is over: it is to be moved away, and removed after a while.
    Over,
    /// Redis knows nothing of its job and should: it is older than the engine.
    Forgotten,
}

impl Dispatcher {
    /// Passes until the stop.
    pub(super) async fn reconcile(self: Arc<Self>) {
        loop {
            let passed = self.stop.run_until_cancelled(self.pass()).await;
            let retry = match passed {
                None => return,
                Some(Ok(())) => {
                    self.stand(|standing| {
                        standing.last_pass = Some(tokio::time::Instant::now());
                        standing.last_pass_ms = Some(clock::wall_ms());
                        standing.engine = None;
                        standing.redis = None;
                    });
                    PASS
                }
                Some(Err(trouble)) => {
                    tracing::warn!(error = %trouble, "the reconciler could not pass; it tries again");
                    self.stand(|standing| match &trouble {
                        Trouble::Store(error) => standing.redis = Some(error.to_string()),
                        Trouble::Engine(error) => standing.engine = Some(error.to_string()),
                        Trouble::File { .. } => {}
                    });
                    PASS / 3
                }
            };
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.told.notified() => {}
                () = tokio::time::sleep(retry) => {}
            }
        }
    }

    /// One pass.
    async fn pass(self: &Arc<Self>) -> Result<(), Trouble> {
        // The engine is looked at before Redis: what it shows of a job has then been recorded before, if it ever was.
        let engine_id = self.parts.engine.id().await?;
        let found = self.parts.engine.list(&self.parts.instance).await?;
        self.parts.store.heartbeat(super::LIFE).await?;
        if let Memory::Strange { found: epoch } = self.parts.store.memory().await? {
            return self.rebuild(epoch.as_deref(), &engine_id).await;
        }
        let mut over = Vec::new();
        for container in &found {
            match self.look_after(container, &engine_id).await {
                Ok(Seen::Settled) => {}
                Ok(Seen::Over) => over.push(container.clone()),
                Ok(Seen::Forgotten) => return self.rebuild(self.parts.store.epoch().as_deref(), &engine_id).await,
                Err(Trouble::Engine(error)) => self.has_trouble(container, &error),
                Err(trouble) => return Err(trouble),
            }
        }
        let aside = |container: &Found| Some((container.labels.as_ref()?.job, self.is_aside(container)));
        let shown = found.iter().filter_map(aside).collect();
        self.adopt_orphans(&engine_id, &shown).await?;
        for inventory in self.parts.store.waiting().await? {
            if let Some(held) = self.parts.store.grant(&inventory).await? {
                self.supervise(held, Start::Fresh);
            }
        }
        self.tidy_up(over);
        Ok(())
    }

    /// Tidies beside the passes, what one pass has found at a time: an engine takes its time over a removal, and nobody who needs a
    /// supervisor is to wait for it.
    fn tidy_up(self: &Arc<Self>, over: Vec<Found>) {
        let Ok(turn) = self.tidying.clone().try_lock_owned() else { return };
        let this = self.clone();
        self.tasks.spawn(async move {
            let _turn = turn;
            for container in over {
                if this.stop.is_cancelled() {
                    return;
                }
                match this.tidy(&container).await {
                    Ok(()) => {}
                    Err(Trouble::Engine(error)) => this.has_trouble(&container, &error),
                    Err(error) => return tracing::debug!(%error, "ended containers are left for the next pass"),
                }
            }
        });
    }

    /// Whether a container was moved out of the way after its end.
    fn is_aside(&self, container: &Found) -> bool {
        container.labels.as_ref().is_some_and(|labels| {
            [ended_name, unproven_name]
                .iter()
                .any(|name| container.name == name(&self.parts.instance, &labels.inventory, labels.job))
        })
    }

    /// One container that the engine has trouble with holds up no other.
    fn has_trouble(&self, container: &Found, error: &EngineError) {
        tracing::warn!(container = %container.container, %error, "the engine has trouble with a container; the next pass tries again");
    }

    /// Compares one container with its job's record.
    async fn look_after(&self, container: &Found, engine_id: &str) -> Result<Seen, Trouble> {
        let Some(labels) = &container.labels else { return Ok(Seen::Settled) };
        if !self.is_aside(container) && container.name != container_name(&self.parts.instance, &labels.inventory) {
            // Somebody's copy: an image made from a job's container hands its labels on.
            tracing::debug!(container = %container.container, name = container.name, "a container has a job's labels and not its name");
            return Ok(Seen::Settled);
        }
        match self.parts.store.record(labels.job).await {
            Ok(Some(record)) if record.state.is_ended() => return Ok(Seen::Over),
            Ok(Some(_)) => {}
            // Its job was kept for as long as jobs are.
            Ok(None)
                if matches!(container.phase, Phase::Ended { .. })
                    && self.parts.store.may_have_forgotten(labels.job) =>
            {
                self.parts.engine.remove(&container.container).await?;
            }
            Ok(None) => {
                let Memory::Known = self.parts.store.memory().await? else { return Err(StoreError::Epoch.into()) };
                tracing::warn!(job.id = %labels.job, container = %container.container, "Redis does not know this container's job");
                // A record is written before its container is made: either it is forgotten, or Redis is older than the engine.
                if !self.parts.store.spans(labels.job) {
                    return Ok(Seen::Forgotten);
                }
                self.mend(labels.job, Some(container), engine_id).await?;
            }
            Err(StoreError::Unreadable(what)) => {
                tracing::error!(job.id = %labels.job, container = %container.container, what, "a job's record cannot be read");
                self.mend(labels.job, Some(container), engine_id).await?;
            }
            Err(error) => return Err(error.into()),
        }
        Ok(Seen::Settled)
    }

    /// Makes a record anew, if that is for this dispatcher to do.
    async fn mend(&self, job: JobId, container: Option<&Found>, engine_id: &str) -> Result<(), Trouble> {
        let Some(damage) = self.parts.store.damage(engine_id, job).await? else { return Ok(()) };
        let rescued = container.and_then(|container| self.rescue(container));
        if self.parts.store.mend(engine_id, &damage, rescued.as_ref()).await? {
            tracing::warn!(job.id = %job, container = rescued.and_then(|it| it.container), "the job's record was made anew");
        }
        Ok(())
    }

    /// Gives a supervisor to every live job that has none. `shown`: the jobs of which the engine has a container, and whether that was
    /// moved aside after its end; those are adopted last.
    async fn adopt_orphans(self: &Arc<Self>, engine_id: &str, shown: &HashMap<JobId, bool>) -> Result<(), Trouble> {
        let (mut live, unreadable) = self.parts.store.live().await?;
        for job in unreadable.into_iter().filter(|job| !shown.contains_key(job)) {
            tracing::error!(job.id = %job, "a job's record cannot be read, and the engine has no container of it");
            self.mend(job, None, engine_id).await?;
        }
        let aside = |job: JobId| shown.get(&job).copied().unwrap_or(false);
        live.sort_by_key(|job| aside(job.record.id));
        for job in live {
            let id = job.record.id;
            let mine = job.record.owner.as_deref() == Some(self.parts.store.dispatcher());
            if job.record.state == State::Queued
                || (mine && self.supervised().contains_key(&id))
                || (!mine && job.owner_alive)
            {
                continue;
            }
            if let Some(held) = self.parts.store.adopt(id, job.record.lease).await? {
                tracing::info!(job.id = %id, lease = held.lease(), "job adopted");
                self.stand(|standing| standing.adopted += 1);
                self.supervise(held, if aside(id) { Start::Aftermath } else { Start::Adopted });
            }
        }
        Ok(())
    }

    /// Moves away and removes what is left of a job that is over.
    async fn tidy(&self, container: &Found) -> Result<(), Trouble> {
        let Some(labels) = &container.labels else { return Ok(()) };
        // Read anew: Redis may have been emptied and rebuilt since the pass, and then the container is all that knows of its job's end.
        let Some(record) = self.parts.store.record(labels.job).await?.filter(|record| record.state.is_ended()) else {
            return Ok(());
        };
        let engine = &self.parts.engine;
        let phase = match container.phase {
            // A list does not tell what ran unseen from what never ran.
            Phase::Created => match engine.inspect(&container.container).await? {
                Some(found) => found.phase,
                None => return Ok(()),
            },
            phase => phase,
        };
        match phase {
            // Its removal is under way, or stuck; the engine says so elsewhere.
            Phase::Dying => {}
            Phase::Running => {
                tracing::error!(job.id = %record.id, container = %container.container, "a container runs although its job is over; it is left to end by itself");
            }
            Phase::Created => engine.remove(&container.container).await?,
            Phase::Ended { .. } | Phase::Unseen => {
                if !self.is_aside(container) {
                    let name = ended_name(&self.parts.instance, &record.inventory, record.id);
                    engine.rename(&container.container, &name).await?;
                }
                let keep = u64::try_from(self.parts.runner.keep.as_millis()).unwrap_or(u64::MAX);
                let ended = record.ended_ms.unwrap_or_default();
                if self.parts.store.now_ms().await?.saturating_sub(ended) >= keep {
                    engine.remove(&container.container).await?;
                }
            }
        }
        Ok(())
    }

    /// Replaces what Redis believes by what the engine shows. The next pass adopts what runs.
    async fn rebuild(self: &Arc<Self>, epoch: Option<&str>, engine_id: &str) -> Result<(), Trouble> {
        tracing::warn!(?epoch, "Redis came back empty or older; its state is rebuilt from the engine");
        let found = self.parts.engine.list(&self.parts.instance).await?;
        // A job may have two: what was never started says nothing about it if the other was.
        let job_of = |container: &Found| container.labels.as_ref().map(|labels| labels.job);
        let ran: HashSet<_> = found.iter().filter(|it| it.phase != Phase::Created).filter_map(job_of).collect();
        let counts = |it: &&Found| it.phase != Phase::Created || job_of(it).is_none_or(|job| !ran.contains(&job));
        let rescued: Vec<_> = found.iter().filter(counts).filter_map(|container| self.rescue(container)).collect();
        if self.parts.store.rebuild(epoch, &clock::draw_name(), engine_id, &rescued).await? {
            tracing::warn!(rescued = rescued.len(), "the state of Redis was rebuilt");
            self.stand(|standing| standing.rebuilt += 1);
        }
        self.parts.store.memory().await?;
        self.told.notify_one();
        Ok(())
    }

    /// What a container says about its job. Nothing is removed here, not even what was never started: should this rebuild not be the
    /// one that counts, nobody would know of it. Its supervisor sees to it.
    fn rescue(&self, container: &Found) -> Option<Rescued> {
        let labels = container.labels.clone()?;
        Some(Rescued {
            job: labels.job,
            holds: !self.is_aside(container),
            deployment_id: labels.deployment_id,
            inventory: labels.inventory,
            action: labels.action,
            fence: labels.fence,
            container: Some(container.container.clone()),
        })
    }
}
