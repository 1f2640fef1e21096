//! The scenarios, and how a run of one goes.

use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use super::calls::UNKNOWN;
use super::judge::judge;
use super::proxy::{Mode, Moment, Point, Stand};
use super::run::{PATIENCE, Run, Stage, Way};

/// What happens, strike or no strike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Scenario {
    /// One job, from its request to the removal of its container.
    Plain,
    /// Two jobs of two apps on one inventory: the lock is handed over.
    Queue,
    /// A running job is canceled.
    Cancel,
    /// The dispatcher was killed in mid-job; what counts are the calls of the one that adopts.
    Adoption,
    /// Redis comes back empty in mid-job.
    Rebuild,
}

impl Scenario {
    pub(super) const ALL: [Self; 5] = [Self::Plain, Self::Queue, Self::Cancel, Self::Adoption, Self::Rebuild];

    /// For how many tenths of a second its jobs are silent.
    fn silence(self) -> u32 {
        match self {
            Self::Plain | Self::Queue => 4,
            Self::Cancel => 50,
            Self::Adoption => 12,
            // A job that ends before Redis is emptied, its container removed by then, is known to nobody afterwards.
            Self::Rebuild => 20,
        }
    }

    /// What clients and operators do. From some moment on, calls count.
    async fn unfold(self, run: &Run) -> Result<Vec<Accepted>, String> {
        run.start(if self == Self::Adoption { Way::Direct } else { Way::Struck });
        run.feed().await?;
        if matches!(self, Self::Plain | Self::Queue) {
            run.gate.arm();
        }
        let mut jobs = vec![Accepted::new(run.submit("app-0").await?)];
        match self {
            Self::Plain => {}
            Self::Queue => jobs.push(Accepted::new(run.submit("app-1").await?)),
            Self::Cancel => {
                in_mid_job(run, &jobs[0].id).await?;
                run.gate.arm();
                let path = format!("/api/v1/jobs/{}/cancel", jobs[0].id);
                let answer: Value = serde_json::from_str(&run.post(&path).await?).map_err(|error| error.to_string())?;
                jobs[0].canceled = answer["state"] == "canceling" || answer["outcome"] == "canceled";
            }
            Self::Adoption => {
                in_mid_job(run, &jobs[0].id).await?;
                run.kill().await;
                run.gate.arm();
                run.start(Way::Struck);
            }
            Self::Rebuild => {
                in_mid_job(run, &jobs[0].id).await?;
                run.gate.arm();
                run.wipe().await;
            }
        }
        Ok(jobs)
    }
}

/// Waits until a job's container runs, is recorded as running, and has printed.
async fn in_mid_job(run: &Run, job: &str) -> Result<(), String> {
    run.until("the job runs", || async {
        let shown = run.shown(&format!("/api/v1/jobs/{job}")).await.ok()?;
        (shown["state"] == "running" && shown["output_bytes"].as_u64()? > 0).then_some(())
    })
    .await
}

/// A job that was accepted.
pub(super) struct Accepted {
    pub(super) id: String,
    /// The answer to a cancel said that it was recorded.
    pub(super) canceled: bool,
}

impl Accepted {
    fn new(id: String) -> Self {
        Self { id, canceled: false }
    }
}

/// What a run came to.
pub(super) struct Played {
    /// The calls that counted, in order.
    pub(super) met: Vec<Point>,
    /// Whether the point of the strike was met.
    pub(super) struck: bool,
    /// Promises that were broken, and where the logs are.
    pub(super) broken: Vec<String>,
}

/// Plays a scenario, struck at a point or not.
pub(super) async fn play(stage: Arc<Stage>, scenario: Scenario, strike: Option<(Point, Mode)>) -> Played {
    let mode = strike.as_ref().map(|(_, mode)| *mode);
    let (run, mut stands) = Run::new(stage, scenario.silence(), strike).await;
    let mut striker = Striker { run: &run, mode, struck: false, stopped: None };
    let mut broken = Vec::new();
    if let Err(what) = striker.carry(scenario, &mut stands, &mut broken).await {
        broken.push(what);
    }
    let met = run.gate.met();
    let struck = striker.struck;
    if met.iter().any(|point| point.kind == UNKNOWN) {
        broken.push("a script was called that is not among the product's".to_owned());
    }
    if run.gate.failed() {
        broken.push("the call at the point of the strike showed no effect".to_owned());
    }
    if !broken.is_empty() {
        broken.push(format!("logs: {}", run.keep_logs()));
    }
    Played { met, struck, broken }
}

struct Striker<'a> {
    run: &'a Run,
    mode: Option<Mode>,
    struck: bool,
    /// Lets the proxy pass on the call at which the dispatcher was stopped.
    stopped: Option<oneshot::Sender<()>>,
}

impl Striker<'_> {
    /// The run from its first request until nothing is left, the strike in between, and the judgement.
    async fn carry(
        &mut self,
        scenario: Scenario,
        stands: &mut mpsc::UnboundedReceiver<Stand>,
        broken: &mut Vec<String>,
    ) -> Result<(), String> {
        let run = self.run;
        let story = async {
            let jobs = scenario.unfold(run).await?;
            let before = settled(run, &jobs).await?;
            Ok::<_, String>((jobs, before))
        };
        let (jobs, before) = {
            let mut story = std::pin::pin!(story);
            loop {
                tokio::select! {
                    told = &mut story => break told?,
                    Some(stand) = stands.recv() => self.strike(stand).await?,
                }
            }
        };
        if let Some(go_on) = self.stopped.take() {
            let _ = go_on.send(());
            let done = tokio::time::timeout(PATIENCE, stands.recv()).await.ok().flatten();
            let done = done.ok_or("the held call could not be passed on")?;
            let woken = lockstep::clock::wall_ms();
            run.wake();
            let _ = done.go_on.send(());
            run.at_rest(woken).await?;
        }
        let after = settled(run, &jobs).await?;
        if before != after {
            broken.push(format!("an outcome changed: {before:?}, {after:?}"));
        }
        judge(scenario, run, &jobs, &after, broken).await
    }

    /// Does at a proxy's stand what the mode says.
    async fn strike(&mut self, stand: Stand) -> Result<(), String> {
        self.struck = true;
        match (self.mode, stand.moment) {
            (Some(Mode::KilledBefore), Moment::Held) | (Some(Mode::KilledAfter), Moment::Done) => {
                self.run.kill().await;
                self.run.start(Way::Direct);
            }
            (Some(Mode::Stopped), Moment::Held) => {
                self.run.stop().await?;
                self.run.start(Way::Direct);
                self.stopped = Some(stand.go_on);
                return Ok(());
            }
            _ => {}
        }
        let _ = stand.go_on.send(());
        Ok(())
    }
}

/// Waits until every job has its outcome, no lock is held, nobody waits and no container is left; returns outcomes and exit codes.
async fn settled(run: &Run, jobs: &[Accepted]) -> Result<Vec<Value>, String> {
    let last = Mutex::new(String::new());
    let settled = run.until("all is settled", || async {
        let mut outcomes = Vec::new();
        for job in jobs {
            outcomes.push(run.shown(&format!("/api/v1/jobs/{}", job.id)).await);
        }
        *last.lock().ok()? = format!("{outcomes:?}");
        let outcomes: Vec<_> = outcomes.into_iter().collect::<Result<_, _>>().ok()?;
        if outcomes.iter().any(|job| job["outcome"].is_null()) {
            return None;
        }
        let (locks, left) = (run.shown("/api/v1/locks").await, run.containers().await);
        *last.lock().ok()? = format!("{outcomes:?}, locks {locks:?}, containers {left:?}");
        (locks.ok()?["locks"].as_array()?.is_empty() && left? == 0).then_some(outcomes)
    });
    let settled = settled.await;
    settled.map_err(|what| format!("{what}: {last:?}"))
}
