//! Releases, carried out: reads a release and what is known besides, asks `model::release` what follows, and writes both in one step.
//!
//! ```text
//!  command (a person, a reporter) ─┐
//!  a job of it ended, a lock free ─┼─▶ read release, pipeline, facts ─▶ command, rule ─▶ release.lua ─▶ supervise its jobs
//!  a deadline                     ─┘        ▲                                             │
//!                                           ├── another was first: read again ◀───────────┤
//!                                           └── a lock is taken: say so, and wait ◀───────┘
//! ```
//!
//! There is one way for all of them, on any dispatcher, and nothing is remembered between two looks. A release that waits costs nothing:
//! Redis tells when a job of it has ended or a lock came free, and the executor sleeps until the next deadline of all.
//!
//! Releases live in Redis alone. One that was last written in another memory than the present one has an old copy: what it says of its jobs
//! cannot be trusted, so it is suspended until somebody has looked.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;

use super::supervise::Start;
use super::{Dispatcher, Refusal};
use crate::clock;
use crate::model::ids::{ReleaseId, Word};
use crate::model::job::WhenBusy;
use crate::model::pipeline::Pipeline;
use crate::model::release::command::{Command, Refused, apply};
use crate::model::release::rule::{self, Change, Facts, Told};
use crate::model::release::{self, Artifact, Blocked, Fault, Kind, Release, Standing};
use crate::pepper::JobSecrets;
use crate::store::{NewJob, ReleaseFilter, ReleaseWrite, StoreError, StoredRelease, Written};

/// So often in a row others may be first before a change is given up.
const TRIES: usize = 20;
/// So many releases are looked at at a time.
const AT_ONCE: usize = 8;
/// The executor looks so often in any case, should a wake-up be missed.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// Pause after trouble.
const PAUSE: Duration = Duration::from_secs(1);
/// How long it waits until state is known.
const OPEN_PACE: Duration = Duration::from_millis(100);

/// A release to be made.
#[derive(Debug, Clone)]
pub struct NewRelease {
    /// The pipeline that it is to go through, in its newest version.
    pub pipeline: Word,
    /// The stage that it is to enter; none: the first.
    pub stage: Option<Word>,
    /// Initial or update.
    pub kind: Kind,
    /// What it consists of.
    pub services: BTreeMap<Word, Artifact>,
    /// What is said of it.
    pub metadata: BTreeMap<Word, String>,
    /// Who submits it.
    pub by: Word,
    /// `Idempotency-Key`
    pub idempotency_key: Option<String>,
}

/// A release, and the pipeline that it goes through.
#[derive(Debug, Clone)]
pub struct SeenRelease {
    /// The release.
    pub release: Release,
    /// In the version that it started with.
    pub pipeline: Arc<Pipeline>,
}

/// Why a release was not made or changed.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseRefusal {
    /// There is no such release.
    #[error("there is no such release")]
    Unknown,
    /// There is no such pipeline.
    #[error("there is no such pipeline")]
    UnknownPipeline,
    /// What it is to consist of is wrong.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// It may not be changed so.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The `Idempotency-Key` was used with another request.
    #[error("this Idempotency-Key was used with another request")]
    KeyReused,
    /// Anything else.
    #[error(transparent)]
    Other(#[from] Refusal),
}

impl From<StoreError> for ReleaseRefusal {
    fn from(error: StoreError) -> Self {
        Self::Other(error.into())
    }
}

type Commanding<'a> = &'a (dyn Fn(u64) -> Command + Send + Sync);

/// A release that is to be written.
struct Draft<'a> {
    /// As it is without what follows.
    release: Release,
    told: Vec<Told>,
    /// The revision that was read, and how often it had been woken then; 0: it is new.
    revision: u64,
    woken: u64,
    pipeline: &'a Pipeline,
    idempotency: Option<(&'a str, &'a str)>,
}

enum Settled {
    Done(Box<Release>),
    Raced,
    Exists(ReleaseId),
}

impl Dispatcher {
    /// Makes a release, which goes as far as it can at once. Releases that rest after an earlier stage with nothing but the same artifacts
    /// go on with it.
    pub async fn create_release(self: &Arc<Self>, new: NewRelease) -> Result<SeenRelease, ReleaseRefusal> {
        self.check_open()?;
        let stored = self.noting(self.parts.store.pipeline(&new.pipeline, None).await)?;
        let stored = stored.ok_or(ReleaseRefusal::UnknownPipeline)?;
        let stage = release::fault(&stored.pipeline, &new.services, &new.metadata, new.stage.as_ref())?;
        let request =
            serde_json::json!([stored.pipeline.name, stage, new.kind, new.services, new.metadata, new.by]).to_string();
        let digest = self.parts.pepper.request_digest(&request);
        let id = clock::draw_release_id();
        let mut made = None;
        for _ in 0..TRIES {
            let now_ms = self.noting(self.parts.store.now_ms().await)?;
            let (services, metadata) = (new.services.clone(), new.metadata.clone());
            let mut release = Release::new(
                id,
                &stored.pipeline,
                stored.version,
                new.kind,
                services,
                metadata,
                new.by.clone(),
                stage.clone(),
                now_ms,
            );
            let told = rule::begin(&mut release);
            let idempotency = new.idempotency_key.as_deref().map(|key| (key, digest.as_str()));
            let draft = Draft { release, told, revision: 0, woken: 0, pipeline: &stored.pipeline, idempotency };
            match self.settle(draft).await {
                Ok(Settled::Done(release)) => {
                    made = Some(*release);
                    break;
                }
                // The first reply was lost.
                Ok(Settled::Raced) => return self.seen_release(id).await,
                Ok(Settled::Exists(before)) => return self.seen_release(before).await,
                Err(ReleaseRefusal::Other(Refusal::Store(StoreError::NotReached(_)))) => {}
                Err(error) => return Err(error),
            }
        }
        let release = made.ok_or(Refusal::NotReady("Redis was not reached"))?;
        tracing::info!(release.id = %id, pipeline = %release.pipeline, stage = %stage, by = %new.by, "release made");
        if let Err(error) = self.take_along(&release).await {
            tracing::warn!(release.id = %id, %error, "releases that go on with it could not be looked for");
        }
        Ok(SeenRelease { release, pipeline: Arc::new(stored.pipeline) })
    }

    /// Supersedes those releases that rest after an earlier stage and are wholly contained in a new one.
    async fn take_along(self: &Arc<Self>, new: &Release) -> Result<(), ReleaseRefusal> {
        let filter = ReleaseFilter {
            active: true,
            products: Some(BTreeSet::from([new.product.clone()])),
            before: Some(new.id),
            limit: 1000,
        };
        for seen in self.seen_releases(&filter).await? {
            let old = &seen.release;
            let within = old.services.iter().all(|(name, artifact)| new.services.get(name) == Some(artifact));
            let stage_of = |release: &Release| {
                let entering = release.entering.as_ref().map(|entering| &entering.stage);
                entering
                    .or(release.visit().map(|visit| &visit.stage))
                    .and_then(|stage| seen.pipeline.stage(stage))
                    .map(|(place, _)| place)
            };
            let rests = seen.release.standing(&seen.pipeline) == Standing::Ready && old.pipeline == new.pipeline;
            if rests && within && stage_of(old) < stage_of(new) {
                let by = new.id;
                self.transact(old.id, Some(&move |_| Command::Supersede { by, stage: None })).await?;
            }
        }
        Ok(())
    }

    /// Changes a release, and carries out what follows. `command` is given the time by Redis' clock in milliseconds since 1970, and may
    /// be asked more than once.
    pub async fn change_release(
        self: &Arc<Self>,
        id: ReleaseId,
        command: impl Fn(u64) -> Command + Send + Sync,
    ) -> Result<SeenRelease, ReleaseRefusal> {
        self.check_open()?;
        self.transact(id, Some(&command)).await
    }

    /// A release and its pipeline.
    pub async fn seen_release(&self, id: ReleaseId) -> Result<SeenRelease, ReleaseRefusal> {
        let stored = self.noting(self.parts.store.release(id).await)?.ok_or(ReleaseRefusal::Unknown)?;
        let pipeline = self.pipeline_of(&stored.release).await?;
        Ok(SeenRelease { release: stored.release, pipeline: Arc::new(pipeline) })
    }

    /// Releases, newest first, each with its pipeline.
    pub async fn seen_releases(&self, filter: &ReleaseFilter) -> Result<Vec<SeenRelease>, ReleaseRefusal> {
        let found = self.noting(self.parts.store.releases(filter).await)?;
        let version = |release: &Release| (release.pipeline.clone(), release.version);
        let versions: BTreeSet<_> = found.iter().map(|stored| version(&stored.release)).collect();
        let pipelines = self.noting(self.parts.store.pipelines_of(&versions).await)?;
        let pipelines: HashMap<_, _> =
            pipelines.into_iter().map(|(which, pipeline)| (which, Arc::new(pipeline))).collect();
        let seen = found.into_iter().filter_map(|StoredRelease { release, .. }| {
            let pipeline = pipelines.get(&version(&release))?.clone();
            Some(SeenRelease { release, pipeline })
        });
        Ok(seen.collect())
    }

    async fn pipeline_of(&self, release: &Release) -> Result<Pipeline, ReleaseRefusal> {
        let stored = self.noting(self.parts.store.pipeline(&release.pipeline, Some(release.version)).await)?;
        Ok(stored.ok_or(ReleaseRefusal::UnknownPipeline)?.pipeline)
    }

    /// Reads a release, changes it if it is told to, takes it as far as it goes, and writes it.
    fn transact<'a>(
        self: &'a Arc<Self>,
        id: ReleaseId,
        command: Option<Commanding<'a>>,
    ) -> BoxFuture<'a, Result<SeenRelease, ReleaseRefusal>> {
        // Boxed, because a release that enters a stage has others superseded.
        Box::pin(async move {
            for _ in 0..TRIES {
                let stored = self.noting(self.parts.store.release(id).await)?.ok_or(ReleaseRefusal::Unknown)?;
                let pipeline = self.pipeline_of(&stored.release).await?;
                let mut release = stored.release.clone();
                let mut told = Vec::new();
                let now_ms = self.noting(self.parts.store.now_ms().await)?;
                if !stored.of_this_memory && !release.is_over() {
                    let why = "Redis came back older than it was; compare what the release says with what is deployed"
                        .to_owned();
                    told.extend(apply(&pipeline, &mut release, Command::Suspend { why, at_ms: now_ms })?);
                }
                if let Some(command) = command {
                    told.extend(apply(&pipeline, &mut release, command(now_ms))?);
                    if told.is_empty() && release == stored.release {
                        // It says nothing new, such as a report that comes once more.
                        return Ok(SeenRelease { release, pipeline: Arc::new(pipeline) });
                    }
                }
                let draft = Draft {
                    release,
                    told,
                    revision: stored.revision,
                    woken: stored.woken,
                    pipeline: &pipeline,
                    idempotency: None,
                };
                match self.settle(draft).await? {
                    Settled::Done(release) => {
                        return Ok(SeenRelease { release: *release, pipeline: Arc::new(pipeline) });
                    }
                    Settled::Raced => {}
                    Settled::Exists(_) => return Err(ReleaseRefusal::Unknown),
                }
            }
            Err(Refusal::NotReady("the release is being changed by others all the time").into())
        })
    }

    /// Takes a release as far as it goes, and writes it with all that follows.
    async fn settle(self: &Arc<Self>, draft: Draft<'_>) -> Result<Settled, ReleaseRefusal> {
        let store = &self.parts.store;
        let pipeline = draft.pipeline;
        let next = match &draft.release.entering {
            Some(entering) => pipeline.stage(&entering.stage).map(|(_, stage)| stage),
            None => draft.release.next_stage(pipeline),
        };
        let mut facts: Facts = self.noting(store.facts(pipeline, &draft.release, next).await)?;
        let apps = self.noting(store.apps().await)?;
        if apps.is_none() {
            let inventory = "lockstep.feed".parse().expect("a constant that is a name");
            facts.blocked = Some(Blocked { inventory, why: "no list of apps is known".into() });
        }
        let apps: HashMap<_, _> =
            apps.unwrap_or_default().into_iter().map(|stored| (stored.app.deployment_id.clone(), stored.app)).collect();
        for _ in 0..TRIES {
            let mut release = draft.release.clone();
            let change = rule::advance(pipeline, &mut release, &facts, &mut clock::draw_job_id);
            if let Some(deploying) = self.make_room(&release, &change).await? {
                facts.occupants.insert(deploying, true);
                continue;
            }
            let mut jobs = Vec::with_capacity(change.launches.len());
            for launch in &change.launches {
                let Some(app) = apps.get(&launch.app) else { continue };
                let secrets = JobSecrets { vars: launch.vars.clone(), masks: Vec::new() };
                jobs.push(NewJob {
                    id: launch.job,
                    deployment_id: app.deployment_id.clone(),
                    inventory: app.inventory.clone(),
                    action: app.action.clone(),
                    when_busy: WhenBusy::Queue,
                    sealed: self.parts.pepper.seal(launch.job, &secrets),
                    idempotency: None,
                });
            }
            if jobs.len() != change.launches.len() {
                return Err(Refusal::NotReady("the list of apps has changed meanwhile").into());
            }
            jobs.sort_by(|a, b| a.inventory.cmp(&b.inventory));
            let write = ReleaseWrite {
                release: &release,
                revision: draft.revision,
                woken: draft.woken,
                due_ms: rule::due_ms(&release, facts.now_ms),
                asks: rule::asked(&release),
                wants: rule::wanted(pipeline, &release, &facts.apps),
                retention_ms: u64::try_from(self.parts.release_retention.as_millis()).unwrap_or(u64::MAX >> 12),
                idempotency: draft.idempotency,
                told: draft.told.iter().chain(&change.told).map(|told| written(&release, told)).collect(),
                there: &change.there,
                occupies: change.occupies.as_ref(),
                holds: holds(&release),
                jobs: &jobs,
            };
            match self.noting(store.write_release(&write).await)? {
                Written::Done(held) => {
                    for held in held {
                        tracing::info!(release.id = %release.id, job.id = %held.job(), inventory = %held.inventory(), "a job of a release");
                        self.supervise(held, Start::Fresh);
                    }
                    return Ok(Settled::Done(Box::new(release)));
                }
                Written::Busy { inventory, why } => facts.blocked = Some(Blocked { inventory, why }),
                Written::Free => facts.blocked = None,
                Written::Raced => return Ok(Settled::Raced),
                Written::Exists(id) => return Ok(Settled::Exists(id)),
                Written::KeyReused => return Err(ReleaseRefusal::KeyReused),
            }
        }
        Err(Refusal::NotReady("its locks change hands all the time").into())
    }

    /// Supersedes those that are in the stage that a release enters; one that is being deployed there is named instead.
    async fn make_room(
        self: &Arc<Self>,
        release: &Release,
        change: &Change,
    ) -> Result<Option<ReleaseId>, ReleaseRefusal> {
        let by = release.id;
        for other in &change.supersede {
            let command = |_| Command::Supersede { by, stage: change.occupies.clone() };
            match self.transact(*other, Some(&command)).await {
                Ok(_) | Err(ReleaseRefusal::Unknown) => {}
                Err(ReleaseRefusal::Refused(Refused::Deploying)) => return Ok(Some(*other)),
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Looks at releases whenever one is due, until the stop.
    pub(super) async fn keep_releasing(self: Arc<Self>) {
        let releasing = async {
            let mut news = self.parts.store.any_release_news();
            loop {
                if self.check_open().is_err() {
                    tokio::time::sleep(OPEN_PACE).await;
                    continue;
                }
                news.mark_unchanged();
                let pause = match self.noting(self.parts.store.due_releases().await) {
                    Ok((due, next)) if due.is_empty() => next.map_or(LOOK_AGAIN, Duration::from_millis).min(LOOK_AGAIN),
                    Ok((due, _)) => {
                        let looks = futures::stream::iter(due).map(|id| self.look_at(id)).buffer_unordered(AT_ONCE);
                        if looks.fold(true, |all, good| std::future::ready(all && good)).await {
                            continue;
                        }
                        PAUSE
                    }
                    Err(error) => {
                        tracing::debug!(%error, "it is not known which releases are due");
                        PAUSE
                    }
                };
                let _ = tokio::time::timeout(pause, news.changed()).await;
            }
        };
        self.stop.run_until_cancelled(releasing).await;
    }

    /// Takes a release as far as it goes; false: there was trouble.
    async fn look_at(self: &Arc<Self>, id: ReleaseId) -> bool {
        let forgotten = match self.transact(id, None).await {
            Ok(_) => return true,
            Err(ReleaseRefusal::Unknown) => {
                tracing::debug!(release.id = %id, "a release that is not kept any more is not looked at");
                true
            }
            Err(ReleaseRefusal::Other(Refusal::Store(StoreError::Unreadable(what)))) => {
                tracing::error!(release.id = %id, what, "a release cannot be read; it is left as it is");
                true
            }
            Err(ReleaseRefusal::UnknownPipeline) => {
                tracing::error!(release.id = %id, "a release goes through a pipeline that is not there; it is left as it is");
                true
            }
            Err(error) => {
                tracing::debug!(release.id = %id, %error, "a release is looked at again later");
                false
            }
        };
        forgotten && self.parts.store.forget_due(id).await.is_ok()
    }
}

/// An event as it is kept.
fn written(release: &Release, told: &Told) -> (String, String) {
    let mut data = told.data.clone();
    data.insert("pipeline".into(), release.pipeline.as_str().into());
    data.insert("product".into(), release.product.as_str().into());
    if !told.to.is_empty() {
        data.insert("to".into(), serde_json::json!(told.to));
    }
    (told.what.clone(), serde_json::Value::Object(data).to_string())
}

/// The stage in which a release holds automation, or does so no longer: it cannot leave it before that.
fn holds(release: &Release) -> Vec<(Word, bool)> {
    match (&release.hold, release.visit()) {
        (Some((stage, _)), _) => vec![(stage.clone(), true)],
        (None, Some(visit)) => vec![(visit.stage.clone(), false)],
        (None, None) => Vec::new(),
    }
}
