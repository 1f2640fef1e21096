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
//! There is one way for all of them, on any dispatcher, and nothing is remembered between two looks. A release that waits is looked at
//! and not written: Redis tells when a job of it has ended or a lock came free, and the executor sleeps until the next deadline of all.
//!
//! Releases live in Redis alone. One that was last written in another memory than the present one has an old copy: what it says of its jobs
//! cannot be trusted, so it is suspended until somebody has looked.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use futures::FutureExt as _;
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
    /// As it was read,
    stored: &'a StoredRelease,
    /// and as it is without what follows.
    release: Release,
    told: Vec<Told>,
    pipeline: &'a Pipeline,
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
        let now_ms = self.noting(self.parts.store.now_ms().await)?;
        let NewRelease { kind, services, metadata, by, idempotency_key, .. } = new;
        let pipeline = &stored.pipeline;
        let mut release =
            Release::new(id, pipeline, stored.version, kind, services, metadata, by, stage.clone(), now_ms);
        let told = rule::begin(&mut release);
        let what = release.services.iter().map(|(name, artifact)| format!("{name} {}", artifact.version));
        let audited = format!("{}: {}", release.pipeline, what.collect::<Vec<_>>().join(", "));
        let first = ReleaseWrite {
            release: &release,
            revision: 0,
            woken: 0,
            as_read: false,
            // Should this dispatcher not take it any further.
            due_ms: rule::due_ms(&release, now_ms),
            asks: BTreeSet::new(),
            wants: BTreeSet::new(),
            retention_ms: self.release_retention_ms(),
            idempotency: idempotency_key.as_deref().map(|key| (key, digest.as_str())),
            audited: &audited,
            told: told.iter().map(|told| written(&release, told)).collect(),
            there: &[],
            occupies: None,
            places: &BTreeMap::new(),
            holds: Vec::new(),
            jobs: &[],
        };
        // It makes its way only once it is recorded: a request that comes again finds the release that it has made, and changes nothing.
        let id = match self.write_first(&first).await? {
            Written::Exists(before) => before,
            Written::KeyReused => return Err(ReleaseRefusal::KeyReused),
            // The first reply was lost.
            Written::Raced => id,
            Written::Done(_) | Written::Busy { .. } | Written::Free => {
                tracing::info!(release.id = %id, release = audited, %stage, by = %release.by, "a release was made");
                id
            }
        };
        let seen = match self.transact(id, None).await {
            Ok(seen) => seen,
            Err(error) => {
                tracing::warn!(release.id = %id, %error, "a new release goes on later");
                self.seen_release(id).await?
            }
        };
        if stored.pipeline.stages.first().is_none_or(|first| first.name != stage)
            && let Err(error) = self.take_along(&seen.release, &stage).await
        {
            tracing::warn!(release.id = %id, %error, "releases that go on with it could not be looked for");
        }
        Ok(seen)
    }

    /// Records a new release. Asking twice with one id is harmless, and makes good a first reply that was lost.
    async fn write_first(&self, first: &ReleaseWrite<'_>) -> Result<Written, ReleaseRefusal> {
        for _ in 1..TRIES {
            match self.parts.store.write_release(first).await {
                Err(StoreError::NotReached(_)) => {}
                answer => return Ok(self.noting(answer)?),
            }
        }
        Ok(self.noting(self.parts.store.write_release(first).await)?)
    }

    /// Supersedes those releases that rest in stages before the one in which a new release begins, and are wholly contained in it.
    async fn take_along(self: &Arc<Self>, new: &Release, begins: &Word) -> Result<(), ReleaseRefusal> {
        if new.is_settled() {
            return Ok(());
        }
        let products = Some(BTreeSet::from([new.product.clone()]));
        let mut filter = ReleaseFilter { active: true, products, before: Some(new.id) };
        loop {
            let (piece, next) = self.seen_releases(&filter).await?;
            for SeenRelease { release: old, pipeline } in piece {
                let within = old.services.iter().all(|(name, artifact)| new.services.get(name) == Some(artifact));
                let rests = old.standing(&pipeline) == Standing::Ready && old.pipeline == new.pipeline;
                let Some(visit) = old.visit().filter(|_| rests && within) else { continue };
                let place = |stage: &Word| pipeline.stage(stage).map(|(place, _)| place);
                if place(&visit.stage) < place(begins) {
                    let (by, stage) = (new.id, visit.stage.clone());
                    let superseding = move |_| Command::Supersede { by, stage: stage.clone() };
                    if let Err(error) = self.transact(old.id, Some(&superseding)).await {
                        tracing::warn!(release.id = %old.id, %by, %error, "a release does not go on with a new one");
                    }
                }
            }
            if next.is_none() {
                return Ok(());
            }
            filter.before = next;
        }
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

    /// A piece of the releases, newest first, each with its pipeline, and where to read on; none: there are no more.
    pub async fn seen_releases(
        &self,
        filter: &ReleaseFilter,
    ) -> Result<(Vec<SeenRelease>, Option<ReleaseId>), ReleaseRefusal> {
        let (found, next) = self.noting(self.parts.store.releases(filter).await)?;
        let version = |release: &Release| (release.pipeline.clone(), release.version);
        let versions: BTreeSet<_> = found.iter().map(|stored| version(&stored.release)).collect();
        let pipelines = self.noting(self.parts.store.pipelines_of(&versions).await)?;
        let pipelines: HashMap<_, _> =
            pipelines.into_iter().map(|(which, pipeline)| (which, Arc::new(pipeline))).collect();
        let seen = found.into_iter().filter_map(|StoredRelease { release, .. }| {
            let pipeline = pipelines.get(&version(&release))?.clone();
            Some(SeenRelease { release, pipeline })
        });
        Ok((seen.collect(), next))
    }

    fn release_retention_ms(&self) -> u64 {
        u64::try_from(self.parts.release_retention.as_millis()).unwrap_or(u64::MAX >> 12)
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
                let draft = Draft { stored: &stored, release, told, pipeline: &pipeline };
                if let Some(release) = self.settle(draft).await? {
                    return Ok(SeenRelease { release, pipeline: Arc::new(pipeline) });
                }
            }
            Err(Refusal::NotReady("the release is being changed by others all the time").into())
        })
    }

    /// Takes a release as far as it goes, and writes it with all that follows; none: another was first.
    async fn settle(self: &Arc<Self>, draft: Draft<'_>) -> Result<Option<Release>, ReleaseRefusal> {
        let store = &self.parts.store;
        let pipeline = draft.pipeline;
        let next = match &draft.release.entering {
            Some(entering) => pipeline.stage(&entering.stage).map(|(_, stage)| stage),
            None => draft.release.next_stage(pipeline),
        };
        // One list for what is decided and for what is launched.
        let listed = self.noting(store.apps().await)?;
        let unlisted = listed.is_none();
        let apps = listed.unwrap_or_default().into_iter().map(|stored| (stored.app.deployment_id.clone(), stored.app));
        let apps: HashMap<_, _> = apps.collect();
        let mut facts: Facts = self.noting(store.facts(pipeline, &draft.release, next, &apps).await)?;
        if unlisted {
            facts.blocked = Some(Blocked { inventory: None, why: "the list of apps, which is not known".into() });
        }
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
            let told = draft.told.iter().chain(&change.told);
            let write = ReleaseWrite {
                release: &release,
                revision: draft.stored.revision,
                woken: draft.stored.woken,
                as_read: draft.told.is_empty() && change == Change::default() && release == draft.stored.release,
                due_ms: rule::due_ms(&release, facts.now_ms),
                asks: rule::asked(&release),
                wants: rule::wanted(pipeline, &release, &facts.apps),
                retention_ms: self.release_retention_ms(),
                idempotency: None,
                audited: "",
                told: told.map(|told| written(&release, told)).collect(),
                there: &change.there,
                occupies: change.occupies.as_ref(),
                places: &facts.places,
                holds: holds(&release),
                jobs: &jobs,
            };
            match self.noting(store.write_release(&write).await)? {
                Written::Done(held) => {
                    for held in held {
                        tracing::info!(release.id = %release.id, job.id = %held.job(), inventory = %held.inventory(), "a job of a release");
                        self.supervise(held, Start::Fresh);
                    }
                    return Ok(Some(release));
                }
                Written::Busy { inventory, why } => facts.blocked = Some(Blocked { inventory: Some(inventory), why }),
                Written::Free => facts.blocked = None,
                // The last two are for new ones.
                Written::Raced | Written::Exists(_) | Written::KeyReused => return Ok(None),
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
        let Some(stage) = &change.occupies else { return Ok(None) };
        let by = release.id;
        for other in &change.supersede {
            let command = |_| Command::Supersede { by, stage: stage.clone() };
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
        let news = self.parts.store.any_release_news();
        self.keep_looking("releases", news, |store| store.due_releases().boxed(), |this, id| this.look_at(id).boxed())
            .await;
    }

    /// Takes a release as far as it goes; false: there was trouble.
    async fn look_at(self: &Arc<Self>, id: ReleaseId) -> bool {
        let Err(error) = self.transact(id, None).await else { return true };
        // What cannot be read may be another's: a job that is made anew, or a release whose place it takes.
        match self.seen_release(id).await {
            Err(ReleaseRefusal::Unknown) => {
                tracing::debug!(release.id = %id, "a release that is not kept any more is not looked at");
            }
            Err(ReleaseRefusal::Other(Refusal::Store(StoreError::Unreadable(what)))) => {
                tracing::error!(release.id = %id, what, "a release cannot be read; it is left as it is");
            }
            Err(ReleaseRefusal::UnknownPipeline) => {
                tracing::error!(release.id = %id, "a release goes through a pipeline that is not there; it is left as it is");
            }
            Ok(_) | Err(_) => {
                if let ReleaseRefusal::Other(Refusal::Store(StoreError::Unreadable(what))) = error {
                    tracing::error!(release.id = %id, what, "a release waits for something that cannot be read");
                } else {
                    tracing::debug!(release.id = %id, %error, "a release is looked at again later");
                }
                return false;
            }
        }
        self.noting(self.parts.store.forget_due_release(id).await).is_ok()
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
