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

impl Dispatcher {
    /// Launches, unless the job is to be ended or `job.start_timeout` passes first. Returns what has been shown by it, if anything.
    pub(super) async fn launch(
        self: &std::sync::Arc<Self>,
        held: &Held,
        record: &Record,
    ) -> Result<Option<Evidence>, Trouble> {
        let mut news = self.parts.store.news(held.job());
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
                    self.parts.store.intend(held.job(), Intent::StartTimeout, Some(&reason)).await?;
                    return Ok(None);
                }
                changed = news.state.changed() => {
                    let intent = self.parts.store.record(held.job()).await?.and_then(|record| record.intent);
                    if changed.is_err() || intent.is_some() {
                        return Ok(None);
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

    async fn create_confirm_start(
        self: &std::sync::Arc<Self>,
        held: &Held,
        record: &Record,
    ) -> Result<Option<Evidence>, Trouble> {
        let (engine, runner) = (&self.parts.engine, &self.parts.runner);
        let sealed = self.parts.store.sealed(held.job()).await?.unwrap_or_default();
        let Some(secrets) = self.parts.pepper.open(held.job(), &sealed) else {
            let reason =
                "the job's variables could not be read (was the pepper changed?); ask for the deployment again";
            return self.fail(held, None, reason).await;
        };
        let digest = match engine.ensure_image(&runner.image, runner.pull, runner.login.as_ref()).await {
            Ok(digest) => digest,
            Err(error) if error.is_transient() => return Err(error.into()),
            Err(error) => return self.fail(held, None, &error.to_string()).await,
        };
        let Some(template) = runner.actions.get(&record.action) else {
            let reason = format!("action {} is not one of runner.actions any more", record.action);
            return self.fail(held, None, &reason).await;
        };
        let files = self.files(held, &secrets.vars, sealed).await?;
        let container = match engine.create(held, &self.spec(held, record, template)).await {
            Ok(container) => container,
            // Whose container it is, is for the next look to say.
            Err(EngineError::NameTaken { .. }) => return Ok(None),
            Err(error) if error.is_transient() => return Err(error.into()),
            Err(error) => return self.fail(held, None, &error.to_string()).await,
        };
        match engine.put_files(&container, &files).await {
            Ok(()) => {}
            Err(error) if error.is_transient() => return Err(error.into()),
            Err(error) => {
                engine.remove(&container).await?;
                return self.fail(held, None, &error.to_string()).await;
            }
        }
        match self.parts.store.confirm(held, &self.engine_id().await?, &container, &digest).await {
            Ok(()) => {}
            Err(StoreError::Stale(why)) => {
                tracing::info!(job.id = %held.job(), why, "the launch was not confirmed; its container is removed");
                engine.remove(&container).await?;
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        }
        match engine.start(&container).await {
            Ok(()) => {}
            Err(error) if error.is_transient() => return Err(error.into()),
            Err(error) => return self.fail(held, Some(&container), &error.to_string()).await,
        }
        self.parts.store.started(held).await?;
        Ok(Some(Evidence::Own { container, phase: Phase::Running }))
    }

    /// Ends a job whose container cannot be started, for a reason that will not pass. A confirmed container is removed first.
    async fn fail(
        self: &std::sync::Arc<Self>,
        held: &Held,
        confirmed: Option<&str>,
        reason: &str,
    ) -> Result<Option<Evidence>, Trouble> {
        tracing::warn!(job.id = %held.job(), reason, "the job cannot be started");
        if let Some(container) = confirmed {
            self.parts.store.unconfirm(held, container).await?;
            self.parts.engine.remove(container).await?;
        }
        let record = self.parts.store.record(held.job()).await?;
        let intent = record.as_ref().and_then(|record| record.intent);
        let outcome = intent.map_or(Outcome::Failed, Intent::outcome);
        let next = self.parts.store.finish(held, outcome, Some(reason)).await?;
        self.parts.metrics.job_ended(outcome);
        if let Some(next) = next {
            self.supervise(next, true);
        }
        Ok(None)
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
        let certificate = &self.parts.certificate;
        let ca = tokio::fs::read(certificate)
            .await
            .map_err(|cause| Trouble::File { what: certificate.display().to_string(), cause })?;
        let token = self.parts.pepper.job_token(held.job()).expose().as_bytes().to_vec();
        let vars = serde_json::to_vec(vars).unwrap_or_else(|_| b"{}".to_vec());
        Ok(vec![
            File { path: format!("{FOLDER}/vars.json"), content: vars },
            File { path: format!("{FOLDER}/token"), content: token },
            File { path: format!("{FOLDER}/ca.crt"), content: ca },
            File { path: SEALED.to_owned(), content: sealed },
        ])
    }
}
