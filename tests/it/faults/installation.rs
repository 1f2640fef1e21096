//! What is struck: two dispatchers, one Redis behind a proxy, a private engine.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::StatusCode;
use serde_json::Value;
use tokio::sync::Mutex as AsyncMutex;

use crate::support::private_engine::PrivateEngine;
use crate::support::proxy::Proxy;
use crate::support::redis::{RedisServer, free_port};
use crate::support::service::{OPERATOR_TOKEN, Service, secret_of};

/// Apps, each with an inventory of its own.
pub(super) const APPS: u64 = 8;
/// How long an ended container stays: long enough to compare its log with the output, however often the engine is struck.
const KEEP: &str = "45s";

/// What every container runs. Its last character decides how a job ends, so that the observer knows without asking anybody.
const SCRIPT: &str = r#"
exec 9>>"/marks/$LOCKSTEP_INVENTORY.lock"
flock -n 9 || echo "overlap $LOCKSTEP_JOB_ID" >> /marks/log
echo "start $LOCKSTEP_JOB_ID $LOCKSTEP_INVENTORY" >> /marks/log
release=$(sed -n 's/.*"lockstep_release":{"id":"\([0-9A-Z]*\)".*/\1/p' /run/lockstep/vars.json)
[ -z "$release" ] || echo "release $LOCKSTEP_JOB_ID $release" >> /marks/log
case $LOCKSTEP_JOB_ID in *[0-7]) code=1 ;; *) code=0 ;; esac
n=0
while [ $n -lt 120 ]; do
  n=$((n + 1))
  echo "$LOCKSTEP_JOB_ID line $n, and some more text of no meaning: é € 😀"
  [ $((n % 10)) -ne 0 ] || sleep 0.1
done
echo "end $LOCKSTEP_JOB_ID $code" >> /marks/log
exit $code
"#;

/// How a job ends that is let alone.
pub(super) fn exit_code_of(job: &str) -> i64 {
    i64::from(job.ends_with(|last: char| ('0'..='7').contains(&last)))
}

/// The installation.
pub(super) struct Installation {
    service: Service,
    processes: [Mutex<Option<Child>>; 2],
    ports: [u16; 2],
    pub(super) proxy: Proxy,
    /// Taken by who strikes Redis.
    pub(super) redis: AsyncMutex<RedisServer>,
    pub(super) engine: PrivateEngine,
    marks: tempfile::TempDir,
    http: reqwest::Client,
}

impl Installation {
    pub(super) async fn start() -> Self {
        let marks = tempfile::tempdir().expect("a folder");
        std::fs::write(marks.path().join("job.sh"), SCRIPT).expect("written");
        let engine = PrivateEngine::start("lockstep-base:bookworm").await;
        let redis = RedisServer::start().await;
        let proxy = Proxy::before(redis.port()).await;
        let url = format!("redis://:{}@127.0.0.1:{}", redis.password(), proxy.port());
        let mounts = format!("{}:/marks", marks.path().display());
        let service = Service::prepare(&[
            ("LOCKSTEP_REDIS_URL", &url),
            ("LOCKSTEP_ENGINE_HOST", &engine.host()),
            ("LOCKSTEP_RUNNER_MOUNTS", &mounts),
            ("LOCKSTEP_RUNNER_ACTIONS", "app-deploy=sh /marks/job.sh"),
            ("LOCKSTEP_RUNNER_NETWORK", "none"),
            ("LOCKSTEP_RUNNER_KEEP", KEEP),
        ])
        .await;
        let http = service.client().clone();
        let ports = [free_port(), free_port()];
        let here = Self {
            service,
            processes: Default::default(),
            ports,
            proxy,
            redis: AsyncMutex::new(redis),
            engine,
            marks,
            http,
        };
        for which in 0..2 {
            here.run(which);
        }
        here.recovered().await;
        here.feed().await;
        here
    }

    fn process(&self, which: usize) -> MutexGuard<'_, Option<Child>> {
        self.processes[which].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a dispatcher.
    pub(super) fn run(&self, which: usize) {
        let path = self.log_path(which);
        let log = std::fs::File::options().create(true).append(true).open(path).expect("a log");
        let settings = self.service.environment();
        let settings = settings.lines().filter_map(|line| line.split_once('='));
        let child = Command::new(env!("CARGO_BIN_EXE_lockstep"))
            .arg("serve")
            .current_dir(self.service.folder.path())
            .envs(settings)
            .env("LOCKSTEP_LISTEN", format!("127.0.0.1:{}", self.ports[which]))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the binary runs");
        *self.process(which) = Some(child);
    }

    /// Sends a dispatcher a signal, and waits for its end if it is one that ends.
    pub(super) fn signal(&self, which: usize, signal: &str) {
        let mut process = self.process(which);
        let child = process.as_mut().expect("a dispatcher");
        let sent = Command::new("kill").args([signal, &child.id().to_string()]).status();
        assert!(sent.expect("kill is installed").success(), "{signal}");
        if ["-KILL", "-TERM"].contains(&signal) {
            child.wait().expect("it ends");
            *process = None;
        }
    }

    /// Gives the list of apps.
    pub(super) async fn feed(&self) {
        let list: Vec<Value> = (0..APPS)
            .map(|n| {
                let id = format!("app-{n}");
                serde_json::json!({"deployment_id": id, "deployment_secret": secret_of(&id), "inventory": format!("inventory-{n}")})
            })
            .collect();
        for which in 0..2 {
            let asked = self.http.post(self.url(which, "/set-available-apps/?force=true")).json(&list);
            if asked.timeout(PATIENCE).send().await.is_ok_and(|answer| answer.status() == StatusCode::OK) {
                return;
            }
        }
    }

    pub(super) fn url(&self, which: usize, path: &str) -> String {
        format!("https://localhost:{}{path}", self.ports[which])
    }

    pub(super) fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// What an operator is shown; none: no answer, or not with 200.
    pub(super) async fn shown(&self, which: usize, path: &str) -> Option<String> {
        let asked = self.http.get(self.url(which, path)).bearer_auth(OPERATOR_TOKEN).timeout(PATIENCE);
        let answer = asked.send().await.ok()?;
        if answer.status() == StatusCode::OK { answer.text().await.ok() } else { None }
    }

    /// Whether these dispatchers are ready, and supervise all that lives.
    pub(super) async fn in_charge(&self, which: &[usize]) -> bool {
        let (mut live, mut supervised) = (0.0_f64, 0.0);
        for &which in which {
            if self.shown(which, "/readyz").await.is_none() {
                return false;
            }
            let Some(metrics) = self.shown(which, "/metrics").await else { return false };
            let value = |name: &str| {
                let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
                line.and_then(|value| value.parse::<f64>().ok())
            };
            let up = value("lockstep_redis_up") == Some(1.0);
            let (Some(all), Some(own), true) = (value("lockstep_live_jobs"), value("lockstep_supervised_jobs"), up)
            else {
                return false;
            };
            live = all;
            supervised += own;
        }
        supervised >= live
    }

    /// Waits until both dispatchers are in charge.
    pub(super) async fn recovered(&self) {
        crate::support::eventually("both dispatchers are in charge", async || {
            self.in_charge(&[0, 1]).await.then_some(())
        })
        .await;
    }

    /// The marks that containers have left.
    pub(super) fn marks(&self) -> String {
        std::fs::read_to_string(self.marks.path().join("log")).unwrap_or_default()
    }

    /// Jobs whose containers run at this moment, by container.
    pub(super) fn running(&self) -> Vec<(String, String)> {
        let format = "{{.ID}} {{.Label \"lockstep.job\"}}";
        let listed = self.engine.docker(&["ps", "--no-trunc", "--format", format]);
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        text.lines().filter_map(|line| line.split_once(' ')).map(|(id, job)| (id.to_owned(), job.to_owned())).collect()
    }

    fn log_path(&self, which: usize) -> PathBuf {
        self.service.folder.path().join(format!("log-{which}"))
    }

    /// Copies what everybody logged to where it outlives the test.
    fn keep_logs(&self) {
        let folder = std::env::temp_dir().join(format!("lockstep-faults-{}", self.service.instance));
        std::fs::create_dir_all(&folder).expect("a folder");
        for which in 0..2 {
            let _ = std::fs::copy(self.log_path(which), folder.join(format!("dispatcher-{which}.log")));
        }
        std::fs::write(folder.join("engine.log"), self.engine.log()).expect("written");
        std::fs::write(folder.join("marks"), self.marks()).expect("written");
        println!("logs: {}", folder.display());
    }
}

/// How long an answer may take before the client looks elsewhere.
const PATIENCE: Duration = Duration::from_secs(10);

impl Drop for Installation {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.keep_logs();
        }
        for which in 0..2 {
            if let Some(child) = self.process(which).as_mut() {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}
