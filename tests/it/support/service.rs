//! The real binary as a service: its own Redis, certificate, secrets and instance, on the machine's engine.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use reqwest::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::eventually;
use super::redis::{RedisServer, free_port};

/// The feed's and an operator's token.
pub(crate) const FEED_TOKEN: &str = "a feed token for tests";
pub(crate) const OPERATOR_TOKEN: &str = "an operator token for tests";

/// A running service; what it leaves on the engine is removed with it.
pub(crate) struct Service {
    pub(crate) redis: RedisServer,
    pub(crate) folder: TempDir,
    pub(crate) instance: String,
    pub(crate) port: u16,
    environment: BTreeMap<String, String>,
    child: Option<Child>,
    client: reqwest::Client,
}

impl Service {
    /// Starts one with these settings beside the usual ones, and waits until it is ready.
    pub(crate) async fn start(settings: &[(&str, &str)]) -> Self {
        let mut service = Self::prepare(settings).await;
        service.spawn();
        service.ready().await;
        service
    }

    /// Everything but the process.
    pub(crate) async fn prepare(settings: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let names = ["localhost", "127.0.0.1", "host.docker.internal"].map(str::to_owned);
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
        std::fs::write(folder.path().join("certificate.crt"), made.cert.pem()).expect("written");
        std::fs::write(folder.path().join("certificate.key"), made.signing_key.serialize_pem()).expect("written");
        std::fs::write(folder.path().join("pepper"), "a pepper for tests, long enough\n").expect("written");
        let redis = RedisServer::start().await;
        let port = free_port();
        let instance = format!("test-{}", &lockstep::clock::draw_name()[..12]);
        let path = |name: &str| folder.path().join(name).display().to_string();
        let mut environment: BTreeMap<String, String> = [
            ("LOCKSTEP_INSTANCE", instance.clone()),
            ("LOCKSTEP_LISTEN", format!("0.0.0.0:{port}")),
            ("LOCKSTEP_PUBLIC_URL", format!("https://host.docker.internal:{port}")),
            ("LOCKSTEP_TLS_CERTIFICATE", path("certificate.crt")),
            ("LOCKSTEP_TLS_KEY", path("certificate.key")),
            ("LOCKSTEP_REDIS_URL", redis.url()),
            ("LOCKSTEP_AUTH_PEPPER_FILE", path("pepper")),
            ("LOCKSTEP_AUTH_FEED_TOKEN", FEED_TOKEN.to_owned()),
            ("LOCKSTEP_AUTH_OPERATORS", format!("tester:{OPERATOR_TOKEN}")),
            ("LOCKSTEP_FEED_AT_START", "false".to_owned()),
            ("LOCKSTEP_RUNNER_IMAGE", "lockstep-base:bookworm".to_owned()),
            ("LOCKSTEP_RUNNER_PULL", "never".to_owned()),
            ("LOCKSTEP_RUNNER_KEEP", "500ms".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        environment.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let root = reqwest::Certificate::from_pem(made.cert.pem().as_bytes()).expect("a certificate");
        let client = reqwest::Client::builder().tls_certs_only([root]).build().expect("a client");
        Self { redis, folder, instance, port, environment, child: None, client }
    }

    /// Its settings, a `NAME=value` a line.
    pub(crate) fn environment(&self) -> String {
        self.environment.iter().map(|(name, value)| format!("{name}={value}\n")).collect()
    }

    /// Starts the process.
    pub(crate) fn spawn(&mut self) {
        let child = self.dress(Command::new(env!("CARGO_BIN_EXE_lockstep"))).arg("serve").stdout(Stdio::null()).spawn();
        self.child = Some(child.expect("the binary runs"));
    }

    /// Gives a command the service's settings and log.
    pub(crate) fn dress(&self, mut command: Command) -> Command {
        let log = std::fs::File::options().create(true).append(true).open(self.log_path()).expect("a log");
        command.current_dir(self.folder.path()).envs(&self.environment).stdin(Stdio::null()).stderr(log);
        command
    }

    /// Starts another process, with these settings beside the usual ones, which is the service from now on; the one before goes on.
    pub(crate) fn succeed(&mut self, settings: &[(&str, &str)]) -> Child {
        let mut command = self.dress(Command::new(env!("CARGO_BIN_EXE_lockstep")));
        let child = command.arg("serve").envs(settings.iter().copied()).stdout(Stdio::null()).spawn();
        self.child.replace(child.expect("the binary runs")).expect("a running service")
    }

    /// Makes a process the service again that another one was to replace.
    pub(crate) fn take(&mut self, child: Child) {
        self.child = Some(child);
    }

    /// Waits until it is ready.
    pub(crate) async fn ready(&self) {
        eventually("the service is ready", async || {
            let answer = self.client.get(self.url("/readyz")).send().await.ok()?;
            (answer.status() == StatusCode::OK).then_some(())
        })
        .await;
    }

    /// Ends the process as a crash would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            child.wait().expect("it ends");
        }
    }

    /// Waits until the process has ended by itself.
    pub(crate) fn ended(&mut self) -> std::process::ExitStatus {
        self.child.take().expect("a running service").wait().expect("it ends")
    }

    /// The process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("a running service").id()
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// What it logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Where its certificate is.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.folder.path().join("certificate.crt")
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.port)
    }

    /// A client that trusts it.
    pub(crate) fn client(&self) -> &reqwest::Client {
        &self.client
    }

    /// Sends a JSON body to one of the seed's endpoints; status and answer.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let answer = self.client.post(self.url(path)).json(body).send().await.expect("an answer");
        (answer.status().as_u16(), answer.json().await.expect("JSON"))
    }

    /// Posts a list of apps, each `(id, inventory, action)`, with the secret `secret-of-<id>`.
    pub(crate) async fn feed(&self, apps: &[(&str, &str, &str)]) {
        let list: Vec<Value> = apps
            .iter()
            .map(|(id, inventory, action)| {
                json!({"deployment_id": id, "deployment_secret": secret_of(id), "inventory": inventory, "action": action})
            })
            .collect();
        let (status, answer) = self.post("/set-available-apps/?force=true", &Value::from(list)).await;
        assert_eq!((status, &answer["status"]), (200, &json!("ok")), "{answer}");
    }

    /// The binary as a client, with this service's address and certificate.
    pub(crate) fn command(&self) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_lockstep"));
        command
            .current_dir(self.folder.path())
            .env("LOCKSTEP_URL", self.url(""))
            .env("LOCKSTEP_CA_CERT", self.certificate())
            .env_remove("CI")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Runs the client to its end.
    pub(crate) async fn run(&self, environment: &[(&str, &str)], arguments: &[&str]) -> Output {
        self.command().args(arguments).envs(environment.iter().copied()).output().await.expect("the client runs")
    }
}

/// The secret that [`Service::feed`] gives an app.
pub(crate) fn secret_of(id: &str) -> String {
    format!("secret-of-{id}")
}

impl Drop for Service {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- the service's log ---\n{}", self.log());
        }
        super::remove_containers(&format!("lockstep.instance={}", self.instance));
    }
}
