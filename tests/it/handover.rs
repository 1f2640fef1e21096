//! A dispatcher is replaced while clients open a connection for each request, as fast as they can: none is refused, none is cut off.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::support::redis::free_port;
use super::support::service::{Service, secret_of};
use super::support::{PATIENCE, eventually};

/// Prints numbered lines until it is told that it is enough, and exits with its argument.
const JOB: &str = r#"
n=0
while [ ! -e /marks/enough ]; do n=$((n + 1)); echo "line $n: é € 😀"; sleep 0.05; done
echo "last after $n"
exit ${1:-0}
"#;

/// Holds a listening socket, as systemd does, and passes it on to one process after the other.
const HOLDER: &str = r#"
import os, socket, sys
held = socket.create_server(("0.0.0.0", int(sys.argv[1])), backlog=1024)
for _ in range(2):
    pid = os.fork()
    if pid == 0:
        os.dup2(held.fileno(), 3)
        os.set_inheritable(3, True)
        os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
        os.execv(sys.argv[2], sys.argv[2:])
    print("started", pid, flush=True)
    print("ended", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"#;

/// Connects as another user and says what comes back.
const INTRUDER: &str = r#"
import os, socket, sys
os.setuid(65534)
connection = socket.socket(socket.AF_UNIX)
connection.settimeout(30)
connection.connect(sys.argv[1])
try:
    connection.sendall(b"lockstep-handover 1 " + sys.argv[2].encode() + b"\n")
    print(connection.recvmsg(256, 256)[:2])
except (BrokenPipeError, ConnectionResetError):
    print((b"", []))
"#;

/// A service that hands over, with a folder that its containers have.
pub(super) struct Stage {
    pub(super) service: Service,
    folder: tempfile::TempDir,
}

impl Stage {
    async fn set() -> Self {
        Self::set_with(&[]).await
    }

    pub(super) async fn set_with(settings: &[(&str, &str)]) -> Self {
        let mut stage = Self::prepare(settings).await;
        stage.service.spawn();
        stage.service.ready().await;
        stage
    }

    async fn prepare(settings: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("job.sh"), JOB).expect("written");
        let socket = folder.path().join("socket").display().to_string();
        let mounts = format!("{}:/marks:ro", folder.path().display());
        let usual = [
            ("LOCKSTEP_HANDOVER_SOCKET", socket.as_str()),
            ("LOCKSTEP_RUNNER_MOUNTS", &mounts),
            ("LOCKSTEP_RUNNER_ACTIONS", "app-deploy=sh /marks/job.sh"),
        ];
        Self { service: Service::prepare(&[&usual, settings].concat()).await, folder }
    }

    fn socket(&self) -> std::path::PathBuf {
        self.folder.path().join("socket")
    }

    /// Makes the app `one` known.
    pub(super) async fn feed(&self) {
        self.service.feed(&[("one", "i-one", "app-deploy")]).await;
    }

    /// Lets the job end.
    pub(super) fn let_end(&self) {
        std::fs::write(self.folder.path().join("enough"), "").expect("written");
    }

    /// What a job has printed that ended with this.
    pub(super) fn whole_output(output: &str) -> String {
        let count = output.lines().count() - 1;
        let lines: String = (1..=count).map(|n| format!("line {n}: é € 😀\n")).collect();
        format!("{lines}last after {count}\n")
    }

    /// Begins a deployment; its job's id.
    async fn deploy(&self) -> String {
        self.feed().await;
        let (_, answer) = self.service.post("/app-deploy/", &credentials()).await;
        answer["job_id"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    }

    async fn status(&self, job: &str) -> Value {
        self.service.post("/job-status/", &about(job)).await.1
    }

    /// Lets the job end, and sees that its output is whole.
    async fn finish(&self, job: &str) {
        self.let_end();
        let answer = eventually("the job is finished", async || {
            let answer = self.status(job).await;
            (answer["status"] == "finished").then_some(answer)
        })
        .await;
        assert_eq!(answer["outcome"], "success", "{answer}");
        let output = answer["output"].as_str().expect("a text");
        assert_eq!(output, Self::whole_output(output));
    }

    async fn logged(&self, what: &str) {
        eventually(what, async || self.service.log().contains(what).then_some(())).await;
    }
}

fn credentials() -> Value {
    json!({"deployment_id": "one", "deployment_secret": secret_of("one")})
}

fn about(job: &str) -> Value {
    json!({"deployment_id": "one", "deployment_secret": secret_of("one"), "job_id": job})
}

pub(super) async fn ended(mut child: Child) -> ExitStatus {
    eventually("the process has ended", async || child.try_wait().expect("a child")).await
}

/// Clients that ask about a job, each request on a connection of its own, one after the other.
struct Clients {
    tasks: JoinSet<()>,
    enough: Arc<AtomicBool>,
    answers: Arc<AtomicU64>,
}

impl Clients {
    /// Starts some. Anything but a whole answer of the right form is a panic.
    fn start(service: &Service, job: &str) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(service.certificate()).expect("a certificate")).expect("a root");
        let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        config.resumption = rustls::client::Resumption::disabled();
        let connector = TlsConnector::from(Arc::new(config));
        let address = SocketAddr::from(([127, 0, 0, 1], service.port));
        let body = about(job).to_string();
        let request = format!(
            "POST /job-status/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut clients = Self { tasks: JoinSet::new(), enough: Arc::default(), answers: Arc::default() };
        for _ in 0..4 {
            let (connector, request) = (connector.clone(), request.clone());
            let (enough, answers) = (clients.enough.clone(), clients.answers.clone());
            clients.tasks.spawn(async move {
                let mut seen = String::new();
                while !enough.load(Ordering::Relaxed) {
                    let output = ask(&connector, address, &request).await;
                    assert!(output.starts_with(&seen), "it only grows: {seen:?} {output:?}");
                    seen = output;
                    answers.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        clients
    }

    /// Waits until some more requests have been answered.
    async fn go_on(&mut self) {
        let wanted = self.answers.load(Ordering::Relaxed) + 50;
        eventually("the clients are answered", async || {
            if let Some(ended) = self.tasks.try_join_next() {
                ended.expect("no client meets anything but answers");
            }
            (self.answers.load(Ordering::Relaxed) >= wanted).then_some(())
        })
        .await;
    }

    async fn stop(mut self) {
        self.go_on().await;
        self.enough.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("no client meets anything but answers");
        }
    }
}

/// Asks once, on a connection of its own; the output.
async fn ask(connector: &TlsConnector, address: SocketAddr, request: &str) -> String {
    let asking = async {
        let stream = TcpStream::connect(address).await.expect("no connection is refused");
        let name = ServerName::try_from("localhost").expect("a name");
        let mut stream = connector.connect(name, stream).await.expect("no handshake is cut off");
        stream.write_all(request.as_bytes()).await.expect("no request is cut off");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("no answer is cut off");
        String::from_utf8(answer).expect("text")
    };
    let answer = timeout(PATIENCE, asking).await.expect("an answer in time");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{answer}");
    let body: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"));
    body["output"].as_str().unwrap_or_else(|| panic!("no output: {body}")).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_dispatcher_after_the_other_is_replaced_and_no_client_notices() {
    let mut stage = Stage::set().await;
    let job = stage.deploy().await;
    let mut clients = Clients::start(&stage.service, &job);
    clients.go_on().await;
    for _ in 0..3 {
        let before = stage.status(&job).await["output"].as_str().map(str::len);
        let old = stage.service.succeed(&[]);
        assert_eq!(ended(old).await.code(), Some(0));
        clients.go_on().await;
        // Its job goes on under the new one.
        eventually("there is more output", async || {
            (stage.status(&job).await["output"].as_str().map(str::len) > before).then_some(())
        })
        .await;
    }
    clients.stop().await;
    stage.finish(&job).await;
    let log = stage.service.log();
    assert_eq!(log.matches("the predecessor has ended").count(), 3, "{log}");
    assert!(!log.contains("ERROR"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_that_dies_before_it_is_ready_has_changed_nothing() {
    let mut stage = Stage::set().await;
    let job = stage.deploy().await;
    let mut clients = Clients::start(&stage.service, &job);
    // Without an engine it does not come to be ready.
    let old = stage.service.succeed(&[("LOCKSTEP_ENGINE_HOST", "unix:///nowhere/docker.sock")]);
    stage.logged("a successor starts; it gets the listening socket").await;
    clients.go_on().await;
    stage.service.kill();
    stage.logged("a successor did not come to be ready; this dispatcher goes on").await;
    clients.go_on().await;
    stage.service.take(old);
    let old = stage.service.succeed(&[]);
    assert_eq!(ended(old).await.code(), Some(0));
    clients.stop().await;
    stage.finish(&job).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_serves_at_once_when_the_other_dies_before_its_time() {
    let mut stage = Stage::set().await;
    let mut old = stage.service.succeed(&[("LOCKSTEP_ENGINE_HOST", "unix:///nowhere/docker.sock")]);
    stage.logged("a successor starts; it gets the listening socket").await;
    old.kill().expect("killed");
    old.wait().expect("it ends");
    let client = stage.service.client();
    let alive = client.get(stage.service.url("/healthz")).send().await.expect("no connection is refused");
    assert_eq!(alive.status().as_u16(), 200);
    let ready = client.get(stage.service.url("/readyz")).send().await.expect("no connection is refused");
    assert_eq!(ready.status().as_u16(), 503);
    // It offers the socket in its turn, although it is not ready.
    eventually("the socket is offered", async || {
        tokio::net::UnixStream::connect(stage.socket()).await.is_ok().then_some(())
    })
    .await;
    let old = stage.service.succeed(&[]);
    assert_eq!(ended(old).await.code(), Some(0));
    stage.service.ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_leaves_behind_is_replaced_and_is_its_users_alone() {
    let mut stage = Stage::set().await;
    let mode = |path: &Path| std::fs::metadata(path).map(|found| found.permissions().mode() & 0o7777).ok();
    eventually("the socket is offered", async || mode(&stage.socket())).await;
    stage.service.kill();
    assert_eq!(mode(&stage.socket()), Some(0o600), "left behind");
    std::fs::write(stage.socket().with_extension("new"), "half of a socket").expect("written");
    stage.service.spawn();
    stage.service.ready().await;
    stage.logged("serving").await;
    let old = stage.service.succeed(&[]);
    assert_eq!(ended(old).await.code(), Some(0));
    stage.service.ready().await;
    eventually("the socket is offered", async || {
        tokio::net::UnixStream::connect(stage.socket()).await.is_ok().then_some(())
    })
    .await;
    assert_eq!(mode(&stage.socket()), Some(0o600));

    // Another user gets nothing, even one who may connect.
    let open = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode));
    open(stage.folder.path(), 0o755).expect("as root or the owner");
    open(&stage.socket(), 0o666).expect("as root or the owner");
    let mut python = Command::new("python3");
    let said = python.args(["-c", INTRUDER]).arg(stage.socket()).arg(&stage.service.instance).output();
    let said = said.expect("python3 runs");
    let text = String::from_utf8_lossy(&said.stderr);
    if text.contains("PermissionError") && text.contains("setuid") {
        eprintln!("not tried as another user: that takes root");
    } else {
        assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), "(b'', [])", "{text}");
        stage.logged("it is of user 65534").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_same_instance_is_handed_anything() {
    let mut stage = Stage::set().await;
    let old = stage.service.succeed(&[("LOCKSTEP_INSTANCE", "another")]);
    assert_eq!(stage.service.ended().code(), Some(1));
    let log = stage.service.log();
    assert!(log.contains(&format!("belongs to instance {}", stage.service.instance)), "{log}");
    stage.service.take(old);
    stage.service.ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_address_is_bound_and_the_old_one_is_left() {
    let mut stage = Stage::set().await;
    let before = stage.service.port;
    stage.service.port = free_port();
    let old = stage.service.succeed(&[("LOCKSTEP_LISTEN", &format!("0.0.0.0:{}", stage.service.port))]);
    assert_eq!(ended(old).await.code(), Some(0));
    stage.service.ready().await;
    assert!(TcpStream::connect(("127.0.0.1", before)).await.is_err(), "nobody listens there any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_was_passed_on_outlives_the_process() {
    let stage = Stage::prepare(&[("LOCKSTEP_HANDOVER_SOCKET", "")]).await;
    let mut python = Command::new("python3");
    python.args(["-c", HOLDER]).arg(stage.service.port.to_string()).arg(env!("CARGO_BIN_EXE_lockstep")).arg("serve");
    let mut holder = tokio::process::Command::from(stage.service.dress(python))
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("python3 runs");
    let mut said = tokio::io::BufReader::new(holder.stdout.take().expect("piped")).lines();
    let mut next = async |word: &str| {
        let line = timeout(PATIENCE, said.next_line()).await.expect("in time").expect("text").expect("a line");
        line.strip_prefix(word).unwrap_or_else(|| panic!("{line}")).trim().to_owned()
    };
    let first = next("started").await;
    stage.service.ready().await;
    let job = stage.deploy().await;
    let mut clients = Clients::start(&stage.service, &job);
    clients.go_on().await;
    let terminate = |pid: &str| {
        assert!(Command::new("kill").args(["-TERM", pid]).status().expect("kill runs").success());
    };
    terminate(&first);
    assert_eq!(next("ended").await, "0");
    let second = next("started").await;
    clients.stop().await;
    stage.finish(&job).await;
    terminate(&second);
    assert_eq!(next("ended").await, "0");
    assert_eq!(stage.service.log().matches("passed on by LISTEN_FDS").count(), 2);
}
