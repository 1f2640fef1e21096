//! Launching: create, confirm, start.
//!
//! Whatever goes wrong on the way, the job's supervisor looks again and [`next_step`](crate::model::settle::next_step) settles
//! it; so this may be dropped at any await. The container is created under the name of its inventory, so that the engine
//! refuses a second one; it is started only after Redis has confirmed, by its id, that the lock is this job's still.

use std::collections::BTreeMap;

use super::Dispatcher;
use super::supervise::Trouble;
use crate::engine::{EngineError, File, Labels, Spec};
use crate::model::job::{Intent, Outcome, Record};
use crate::model::lock::Held;
use crate::model::settle::{Evidence, Phase};
use crate::store::StoreError;

/// Where a container finds its files.
const FOLDER: &str = "/run/lockstep";
/// The job's sealed secrets, in the container's own layer: for a rebuild, when Redis has lost them.
pub(super) const SEALED: &str = "/run/lockstep/sealed";
/// Its largest size in bytes: variables and secrets of a request of bounded size.
pub(super) const SEALED_MAX: u64 = 1024 * 1024;
/// Where a container leaves its last report, if nobody has heard it.
pub(super) const REPORT: &str = "/run/lockstep/report.json";
/// Its largest size in bytes, as over the API.
pub(super) const REPORT_MAX: u64 = 64 * 1024;

/// What came of a launch.
pub(super) enum Launched {
    /// This is what is shown by it.
    Shown(Evidence),
    /// It was not to be, or not now: a look says what next.
    LookAgain,
    /// It cannot be done, for a reason that will not pass. A confirmed container is to be removed.
    Impossible {
        /// The confirmed container.
        container: Option<String>,
        /// What the job ends with.
        outcome: Outcome,
        /// Why.
        reason: String,
    },
}

fn impossible(reason: impl std::fmt::Display) -> Result<Launched, Trouble> {
    Ok(Launched::Impossible { container: None, outcome: Outcome::Failed, reason: reason.to_string() })
}

/// The engine will not have it. Clients are told what to do about it, the log what the engine said.
fn refused(held: &Held, container: Option<String>, error: &EngineError) -> Launched {
    tracing::warn!(job.id = %held.job(), container, %error, "a launch was refused");
    Launched::Impossible { container, outcome: Outcome::Failed, reason: error.told() }
}

impl Dispatcher {
    /// Launches, unless the job is to be ended or `job.start_timeout` passes first.
    pub(super) async fn launch(&self, held: &Held, record: &Record) -> Result<Launched, Trouble> {
        let mut news = self.parts.store.news(held.job());
        // What happened between reading the record and listening must not be missed.
        news.state.mark_changed();
        let waited = self.since(record.locked_ms).await?;
        let deadline = tokio::time::sleep(self.parts.job.start_timeout.saturating_sub(waited));
        tokio::pin!(deadline);
        let launch = self.create_confirm_start(held, record);
        tokio::pin!(launch);
        loop {
            tokio::select! {
                launched = &mut launch => return launched,
                () = &mut deadline => {
                    let reason = format!("the container did not run within {} s", self.parts.job.start_timeout.as_secs());
                    self.parts.store.deadline(held, Intent::StartTimeout, &reason).await?;
                    return Ok(Launched::LookAgain);
                }
                changed = news.state.changed() => {
                    if self.own_record(held).await?.intent.is_some() || changed.is_err() {
                        return Ok(Launched::LookAgain);
                    }
                }
            }
        }
    }

    /// Time since a moment of Redis' clock.
    pub(super) async fn since(&self, ms: Option<u64>) -> Result<std::time::Duration, Trouble> {
        let Some(ms) = ms else { return Ok(std::time::Duration::ZERO) };
        let now = self.parts.store.now_ms().await?;
        Ok(std::time::Duration::from_millis(now.saturating_sub(ms)))
    }

    async fn create_confirm_start(&self, held: &Held, record: &Record) -> Result<Launched, Trouble> {
        let (engine, runner) = (&self.parts.engine, &self.parts.runner);
        let Some(sealed) = self.parts.store.sealed(held.job()).await? else {
            let reason = "Redis lost its memory before the container was started, and with it the job's variables";
            return Ok(Launched::Impossible { container: None, outcome: Outcome::Lost, reason: reason.to_owned() });
        };
        let Some(secrets) = self.parts.pepper.open(held.job(), &sealed) else {
            return impossible(
                "the job's variables could not be read (was the pepper changed?); ask for the deployment again",
            );
        };
        let digest = match engine.ensure_image(&runner.image, runner.pull, runner.login.as_ref()).await {
            Ok(digest) => digest,
            Err(error) if error.is_transient() => return Err(error.into()),
            Err(error) => return Ok(refused(held, None, &error)),
        };
        let Some(template) = runner.actions.get(&record.action) else {
            return impossible(format!("action {} is not one of runner.actions any more", record.action));
        };
        let files = self.files(held, &secrets.vars, sealed).await?;
        let container = match engine.create(held, &self.spec(held, record, template)).await {
            Ok(container) => container,
            // Whose container it is, is for a later look to say: the engine may show it a little after it has reserved the name.
            Err(EngineError::NameTaken { .. }) => return Ok(Launched::Shown(Evidence::Unknown)),
            Err(error) if error.is_transient() => return Err(error.into()),
            Err(error) => return Ok(refused(held, None, &error)),
        };
        // The engine is asked who it is now, beside the files: it may be another one since the last pass.
        let (put, engine_id) = tokio::join!(engine.put_files(&container, &files), engine.id());
        match put {
            Ok(()) => {}
            // Somebody else has removed it.
            Err(EngineError::NoContainer { .. }) => return Ok(Launched::LookAgain),
            Err(error) if error.is_transient() => return Err(error.into()),
            Err(error) => {
                engine.remove(&container).await?;
                return Ok(refused(held, None, &error));
            }
        }
        match self.parts.store.confirm(held, &engine_id?, &container, &digest).await {
            Ok(()) => {}
            Err(StoreError::Stale(why)) => {
                tracing::info!(job.id = %held.job(), why, "the launch was not confirmed; its container is removed");
                engine.remove(&container).await?;
                return Ok(Launched::LookAgain);
            }
            Err(error) => return Err(error.into()),
        }
        match engine.start(&container).await {
            Ok(()) => {}
            Err(EngineError::NoContainer { .. }) => return Ok(Launched::LookAgain),
            Err(error) if error.is_transient() => return Err(error.into()),
            Err(error) => {
                return Ok(refused(held, Some(container), &error));
            }
        }
        self.parts.store.started(held).await?;
        Ok(Launched::Shown(Evidence::Own { container, phase: Phase::Running }))
    }

    /// Ends a job that cannot be launched. A confirmed container is removed first.
    pub(super) async fn fail(
        &self,
        held: &Held,
        confirmed: Option<&str>,
        outcome: Outcome,
        reason: &str,
    ) -> Result<Option<Held>, Trouble> {
        tracing::warn!(job.id = %held.job(), reason, "the job cannot be started");
        if let Some(container) = confirmed {
            self.parts.store.unconfirm(held, container).await?;
            self.parts.engine.remove(container).await?;
        }
        let intent = self.own_record(held).await?.intent;
        let outcome = intent.map_or(outcome, Intent::outcome);
        let next = self.parts.store.finish_unlaunched(held, outcome, reason).await?;
        self.note_end(held, outcome);
        Ok(next)
    }

    fn spec(&self, held: &Held, record: &Record, template: &[String]) -> Spec {
        let runner = &self.parts.runner;
        let argv = template
            .iter()
            .map(|word| {
                word.replace("{inventory}", record.inventory.as_str())
                    .replace("{job_id}", &record.id.to_string())
                    .replace("{deployment_id}", record.deployment_id.as_str())
            })
            .collect();
        let mut env: BTreeMap<String, String> = runner.env.clone();
        env.extend(
            [
                ("LOCKSTEP_JOB_ID", record.id.to_string()),
                ("LOCKSTEP_INVENTORY", record.inventory.to_string()),
                ("LOCKSTEP_DEPLOYMENT_ID", record.deployment_id.to_string()),
                ("LOCKSTEP_FENCE", held.fence().to_string()),
                ("LOCKSTEP_URL", self.parts.public_url.clone()),
            ]
            .map(|(name, value)| (name.to_owned(), value)),
        );
        Spec {
            image: runner.image.clone(),
            argv,
            env,
            labels: Labels {
                instance: self.parts.instance.clone(),
                job: record.id,
                deployment_id: record.deployment_id.clone(),
                inventory: record.inventory.clone(),
                fence: held.fence(),
                action: record.action.clone(),
            },
            network: runner.network.clone(),
            mounts: runner.mounts.clone(),
            memory: runner.memory,
            millicpus: runner.millicpus,
            pids: runner.pids,
        }
    }

    async fn files(
        &self,
        held: &Held,
        vars: &serde_json::Map<String, serde_json::Value>,
        sealed: Vec<u8>,
    ) -> Result<Vec<File>, Trouble> {
        let ca = &self.parts.ca;
        let ca = tokio::fs::read(ca).await.map_err(|cause| Trouble::File { what: ca.display().to_string(), cause })?;
        let token = self.parts.pepper.job_token(held.job()).expose().as_bytes().to_vec();
        let vars = serde_json::to_vec(vars).unwrap_or_else(|_| b"{}".to_vec());
        let file = |path: String, content, writable| File { path, content, writable };
        Ok(vec![
            file(format!("{FOLDER}/vars.json"), vars, false),
            file(format!("{FOLDER}/token"), token, false),
            file(format!("{FOLDER}/ca.crt"), ca, false),
            file(SEALED.to_owned(), sealed, false),
            file(REPORT.to_owned(), Vec::new(), true),
        ])
    }
}
