//! What one run is made of: an instance of its own on the common Redis and the machine's engine, its dispatchers, a client.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lockstep::engine::Engine as _;
use lockstep::engine::docker::Docker;
use reqwest::{RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use super::calls::SCRIPTS;
use super::proxy::{Gate, Mode, Point, Proxies, Stand};
use crate::support::redis::free_port;
use crate::support::service::{OPERATOR_TOKEN, Service, secret_of};

/// How long a condition is waited for: a bound, not a pace.
pub(super) const PATIENCE: Duration = Duration::from_secs(45);
/// Between two looks at a condition.
const PACE: Duration = Duration::from_millis(100);
/// The inventory of every run.
const INVENTORY: &str = "inventory";

/// What a container runs, after `n` was set: some lines, so many tenths of a second of silence, some more lines. Whoever looks on is
/// told by marks, and in a file of the job's own what it printed.
const SCRIPT: &str = r#"
exec 9>>/marks/lock
flock -n 9 || echo "overlap $LOCKSTEP_JOB_ID" >> /marks/log
echo "start $LOCKSTEP_JOB_ID $LOCKSTEP_FENCE" >> /marks/log
said=/marks/$LOCKSTEP_JOB_ID.said
say() { echo "$1" >> $said; echo "$1"; }
stop=
trap 'stop=yes' TERM
say "one: $LOCKSTEP_JOB_ID
two: é € 😀
three"
while [ $n -gt 0 ] && [ -z "$stop" ]; do n=$((n - 1)); sleep 0.1; done
if [ -n "$stop" ]; then
  say "stopping"
  echo "end $LOCKSTEP_JOB_ID 143" >> /marks/log
  exit 143
fi
say "four"
say "five, the last"
echo "end $LOCKSTEP_JOB_ID 0" >> /marks/log
exit 0
"#;

/// What all runs share.
pub(super) struct Stage {
    service: Service,
    engine: Docker,
}

impl Stage {
    pub(super) async fn set() -> Self {
        let service = Service::prepare(&[]).await;
        let mut redis = service.redis.connect().await;
        for (hash, (name, text)) in SCRIPTS.iter() {
            let load = redis::cmd("SCRIPT").arg("LOAD").arg(text).query_async::<String>(&mut redis).await;
            assert_eq!(load.as_deref().ok(), Some(hash.as_str()), "{name}");
        }
        Self { service, engine: Docker::connect(None).expect("an engine") }
    }
}

/// How a dispatcher reaches Redis and the engine.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Through the proxies: it is the one that is struck.
    Struck,
    /// Without them.
    Direct,
}

struct Process {
    child: Child,
    way: Way,
    port: u16,
}

/// One run.
pub(super) struct Run {
    stage: Arc<Stage>,
    instance: String,
    folder: tempfile::TempDir,
    pub(super) gate: Arc<Gate>,
    proxies: Proxies,
    processes: Mutex<Vec<Process>>,
    /// The port of the dispatcher to be asked.
    port: watch::Sender<u16>,
    /// Containers that were there at the last look; none: it was not looked.
    left: Mutex<Option<usize>>,
}

impl Run {
    /// Everything but a dispatcher. Its jobs are silent for so many tenths of a second.
    pub(super) async fn new(
        stage: Arc<Stage>,
        silence: u32,
        strike: Option<(Point, Mode)>,
    ) -> (Self, mpsc::UnboundedReceiver<Stand>) {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("marks")).expect("a folder");
        std::fs::write(folder.path().join("marks/job.sh"), format!("n={silence}\n{SCRIPT}")).expect("written");
        let (gate, stands) = Gate::new(strike);
        let proxies = Proxies::before(stage.service.redis.port(), folder.path(), &gate).await;
        let instance = format!("test-{}", &lockstep::clock::draw_name()[..12]);
        let (processes, port, left) = (Mutex::default(), watch::Sender::new(0), Mutex::default());
        (Self { stage, instance, folder, gate, proxies, processes, port, left }, stands)
    }

    fn processes(&self) -> MutexGuard<'_, Vec<Process>> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a dispatcher, which is asked from then on.
    pub(super) fn start(&self, way: Way) {
        let port = free_port();
        let redis = &self.stage.service.redis;
        let mut settings = vec![
            ("LOCKSTEP_INSTANCE", self.instance.clone()),
            ("LOCKSTEP_LISTEN", format!("127.0.0.1:{port}")),
            ("LOCKSTEP_RUNNER_MOUNTS", format!("{}:/marks", self.folder.path().join("marks").display())),
            ("LOCKSTEP_RUNNER_ACTIONS", "app-deploy=sh /marks/job.sh".to_owned()),
            ("LOCKSTEP_RUNNER_NETWORK", "none".to_owned()),
            ("LOCKSTEP_LOG", "lockstep=debug".to_owned()),
        ];
        if way == Way::Struck {
            let url = format!("redis://:{}@127.0.0.1:{}", redis.password(), self.proxies.redis_port);
            settings.push(("LOCKSTEP_REDIS_URL", url));
            settings.push(("LOCKSTEP_ENGINE_HOST", format!("unix://{}", self.proxies.socket.display())));
        }
        let common = self.stage.service.environment();
        let mut processes = self.processes();
        let log = std::fs::File::create(self.log_path(processes.len())).expect("a log");
        let child = Command::new(env!("CARGO_BIN_EXE_lockstep"))
            .arg("serve")
            .current_dir(self.stage.service.folder.path())
            .envs(common.lines().filter_map(|line| line.split_once('=')))
            .envs(settings)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the binary runs");
        processes.push(Process { child, way, port });
        self.port.send_replace(port);
    }

    /// Kills the dispatcher that runs, and takes its sign of life away: those seconds would say nothing.
    pub(super) async fn kill(&self) {
        for process in self.processes().iter_mut() {
            let _ = process.child.kill();
            process.child.wait().expect("it ends");
        }
        self.take_signs_of_life().await;
    }

    /// Stops the struck dispatcher, sees it stopped, and takes its sign of life away.
    pub(super) async fn stop(&self) -> Result<(), String> {
        let pid = self.signal_struck("-STOP");
        let stat = format!("/proc/{pid}/stat");
        let stopped = || async {
            let stat = std::fs::read_to_string(&stat).ok()?;
            stat.rsplit(") ").next()?.starts_with('T').then_some(())
        };
        self.until("the dispatcher is stopped", stopped).await?;
        self.take_signs_of_life().await;
        Ok(())
    }

    /// Lets the struck dispatcher go on.
    pub(super) fn wake(&self) {
        self.signal_struck("-CONT");
    }

    /// Waits until the struck dispatcher has looked about since then and carries nothing any more.
    pub(super) async fn at_rest(&self, since_ms: u64) -> Result<(), String> {
        let port = self.processes().iter().find(|it| it.way == Way::Struck).map_or(0, |it| it.port);
        self.until("the woken dispatcher is at rest", || async {
            let url = format!("https://localhost:{port}/metrics");
            let asked = self.http().get(url).bearer_auth(OPERATOR_TOKEN).timeout(PATIENCE / 4);
            let metrics = asked.send().await.ok()?.text().await.ok()?;
            let value = |name: &str| {
                let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
                line.and_then(|value| value.parse::<f64>().ok())
            };
            let passed = value("lockstep_reconciler_last_pass_timestamp_seconds")? * 1000.0 > since_ms as f64;
            (passed && value("lockstep_supervised_jobs")? < 0.5).then_some(())
        })
        .await
    }

    fn signal_struck(&self, signal: &str) -> String {
        let processes = self.processes();
        let struck = processes.iter().find(|process| process.way == Way::Struck).expect("the struck one");
        let pid = struck.child.id().to_string();
        let sent = Command::new("kill").args([signal, &pid]).status();
        assert!(sent.expect("kill is installed").success(), "{signal}");
        pid
    }

    /// Whether the dispatcher that was started last lives still.
    pub(super) fn last_lives(&self) -> bool {
        let mut processes = self.processes();
        processes.last_mut().is_some_and(|last| last.child.try_wait().is_ok_and(|ended| ended.is_none()))
    }

    async fn take_signs_of_life(&self) {
        self.delete_keys("dispatcher:*").await;
    }

    /// Redis comes back empty, as far as this instance can see.
    pub(super) async fn wipe(&self) {
        self.delete_keys("*").await;
    }

    async fn delete_keys(&self, pattern: &str) {
        let script = "for _, key in ipairs(redis.call('KEYS', ARGV[1])) do redis.call('DEL', key) end";
        let mut redis = self.stage.service.redis.connect().await;
        let pattern = format!("lockstep:{}:{pattern}", self.instance);
        let deleted = redis::cmd("EVAL").arg(script).arg(0).arg(pattern).query_async::<()>(&mut redis).await;
        deleted.expect("Redis answers");
    }

    /// The instance's keys in Redis, without what all of them begin with, and the last fence that was given.
    pub(super) async fn left_in_redis(&self) -> (Vec<String>, u64) {
        let mut redis = self.stage.service.redis.connect().await;
        let prefix = format!("lockstep:{}:", self.instance);
        let (mut keys, fence): (Vec<String>, Option<u64>) = redis::pipe()
            .cmd("KEYS")
            .arg(format!("{prefix}*"))
            .cmd("HGET")
            .arg(format!("{prefix}fences"))
            .arg(INVENTORY)
            .query_async(&mut redis)
            .await
            .expect("Redis answers");
        for key in &mut keys {
            key.drain(..prefix.len());
        }
        (keys, fence.unwrap_or(0))
    }

    fn http(&self) -> &reqwest::Client {
        self.stage.service.client()
    }

    /// Asks whichever dispatcher is to be asked until one answers: what got no answer is asked again, as a client would.
    pub(super) async fn ask(&self, what: impl Fn(&reqwest::Client, &str) -> RequestBuilder) -> Result<String, String> {
        let mut ports = self.port.subscribe();
        let mut last = String::new();
        let asking = async {
            loop {
                let base = format!("https://localhost:{}", *ports.borrow_and_update());
                let send = what(self.http(), &base).timeout(PATIENCE / 2).send();
                tokio::select! {
                    answer = send => match answer {
                        Ok(answer) => {
                            let (status, text) = (answer.status(), answer.text().await);
                            match text {
                                Ok(text) if status.is_success() => return Ok(text),
                                Ok(text) if status != StatusCode::SERVICE_UNAVAILABLE => {
                                    return Err(format!("answered with {status}: {text}"));
                                }
                                text => last = format!("{status} {text:?}"),
                            }
                        }
                        Err(error) => last = error.to_string(),
                    },
                    _ = ports.changed() => continue,
                }
                tokio::time::sleep(PACE).await;
            }
        };
        let asked = tokio::time::timeout(PATIENCE, asking).await;
        asked.unwrap_or_else(|_| Err(format!("nobody answers: {last}")))
    }

    /// Asks as an operator, for JSON.
    pub(super) async fn shown(&self, path: &str) -> Result<Value, String> {
        let text = self.text(path).await?;
        serde_json::from_str(&text).map_err(|error| format!("{path}: {error} in {text}"))
    }

    pub(super) async fn text(&self, path: &str) -> Result<String, String> {
        let answer = self.ask(|http, base| http.get(format!("{base}{path}")).bearer_auth(OPERATOR_TOKEN)).await;
        answer.map_err(|what| format!("{path} {what}"))
    }

    /// Posts nothing, as an operator.
    pub(super) async fn post(&self, path: &str) -> Result<String, String> {
        let answer = self.ask(|http, base| http.post(format!("{base}{path}")).bearer_auth(OPERATOR_TOKEN)).await;
        answer.map_err(|what| format!("{path} {what}"))
    }

    /// Waits until a dispatcher is ready, and gives it the list of apps.
    pub(super) async fn feed(&self) -> Result<(), String> {
        self.ask(|http, base| http.get(format!("{base}/readyz"))).await?;
        let list: Vec<Value> = ["app-0", "app-1"]
            .iter()
            .map(|id| json!({"deployment_id": id, "deployment_secret": secret_of(id), "inventory": INVENTORY}))
            .collect();
        self.ask(|http, base| http.post(format!("{base}/set-available-apps/?force=true")).json(&list)).await.map(drop)
    }

    /// Asks for a deployment, always under one key; returns the job.
    pub(super) async fn submit(&self, app: &str) -> Result<String, String> {
        let key = lockstep::clock::draw_name();
        let request = |http: &reqwest::Client, base: &str| {
            let asked = http.post(format!("{base}/api/v1/apps/{app}/jobs")).basic_auth(app, Some(secret_of(app)));
            asked.header("Idempotency-Key", &key).json(&json!({"when_busy": "fifo"}))
        };
        let answer = self.ask(request).await?;
        let answer: Value = serde_json::from_str(&answer).map_err(|error| error.to_string())?;
        answer["job_id"].as_str().map(str::to_owned).ok_or_else(|| format!("no job: {answer}"))
    }

    /// Waits for something to be so.
    pub(super) async fn until<T, L>(&self, what: &str, look: impl Fn() -> L) -> Result<T, String>
    where
        L: Future<Output = Option<T>>,
    {
        let looking = async {
            let mut pace = tokio::time::interval(PACE);
            loop {
                pace.tick().await;
                if let Some(seen) = look().await {
                    return seen;
                }
            }
        };
        tokio::time::timeout(PATIENCE, looking).await.map_err(|_| format!("waited {PATIENCE:?} in vain: {what}"))
    }

    /// The containers of this instance, in any phase.
    pub(super) async fn containers(&self) -> Option<usize> {
        let instance = self.instance.parse().expect("a name");
        let left = self.stage.engine.list(&instance).await.ok().map(|found| found.len());
        *self.left.lock().unwrap_or_else(PoisonError::into_inner) = left;
        left
    }

    /// The marks that containers have left.
    pub(super) fn marks(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("marks/log")).unwrap_or_default()
    }

    /// What a job's containers have printed, by their own account.
    pub(super) fn said(&self, job: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(format!("marks/{job}.said"))).unwrap_or_default()
    }

    fn log_path(&self, which: usize) -> PathBuf {
        self.folder.path().join(format!("dispatcher-{which}.log"))
    }

    /// Copies what everybody logged to where it outlives the run; says where.
    pub(super) fn keep_logs(&self) -> String {
        let folder = std::env::temp_dir().join(format!("lockstep-crash-{}", self.instance));
        std::fs::create_dir_all(&folder).expect("a folder");
        for which in 0..self.processes().len() {
            let path = self.log_path(which);
            let _ = std::fs::copy(&path, folder.join(path.file_name().expect("a file")));
        }
        std::fs::write(folder.join("marks"), self.marks()).expect("written");
        folder.display().to_string()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        for process in self.processes().iter_mut() {
            let _ = process.child.kill();
            let _ = process.child.wait();
        }
        if *self.left.lock().unwrap_or_else(PoisonError::into_inner) != Some(0) {
            crate::support::remove_containers(&format!("lockstep.instance={}", self.instance));
        }
    }
}
