//! A real `redis-server` for a test: on a free port, in a folder of its own, with a password, every write on disk before its reply.
//!
//! It dies with the test, also when the test process is killed: a shell holds the server and waits for the end of a pipe.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use lockstep::model::ids::Instance;
use lockstep::store::{Memory, Store};
use tempfile::TempDir;

/// How long stores keep ended jobs, if nothing else is asked for.
pub(crate) const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

/// Starts a server, says its process id, says when it is gone, and kills it when standard input ends.
const KEEPER: &str = r#"
redis-server "$@" & server=$!
echo "pid $server"
(while kill -0 $server 2>/dev/null; do sleep 0.2; done; echo "exiting") &
read -r _
kill -9 $server
wait"#;

/// A server. Dropping it kills it.
pub(crate) struct RedisServer {
    dir: TempDir,
    port: u16,
    password: String,
    extra: Vec<String>,
    running: Option<Running>,
}

struct Running {
    keeper: Child,
    pid: String,
}

impl Running {
    /// `kill -9`, and the end seen.
    fn kill(mut self) {
        drop(self.keeper.stdin.take());
        self.keeper.wait().expect("the shell around redis-server ends");
    }
}

impl RedisServer {
    /// Starts a server that is empty.
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same, with further options of `redis-server`.
    pub(crate) async fn start_with(extra: &[&str]) -> Self {
        let mut server = Self {
            dir: tempfile::tempdir().expect("a temporary folder"),
            port: 0,
            password: lockstep::clock::draw_name(),
            extra: extra.iter().map(ToString::to_string).collect(),
            running: None,
        };
        // A port that is free now may be taken a moment later by somebody else.
        for _ in 0..20 {
            server.port = free_port();
            if server.try_run().await {
                return server;
            }
        }
        panic!("redis-server did not start (is it installed?)");
    }

    /// What to connect to.
    pub(crate) fn url(&self) -> String {
        format!("redis://:{}@127.0.0.1:{}", self.password, self.port)
    }

    /// The TCP port on 127.0.0.1.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The password of the default user.
    pub(crate) fn password(&self) -> &str {
        &self.password
    }

    /// Kills it with SIGKILL and sees its end. What it has acknowledged is on disk.
    pub(crate) fn kill(&mut self) {
        if let Some(running) = self.running.take() {
            running.kill();
        }
    }

    /// Starts it again on what is on disk.
    pub(crate) async fn restart(&mut self) {
        self.kill();
        assert!(self.try_run().await, "redis-server did not start again on port {}", self.port);
    }

    /// Starts it again with nothing: the disk was lost.
    pub(crate) async fn restart_empty(&mut self) {
        self.remove_files();
        self.restart().await;
    }

    /// Puts what is on disk aside, to come back to. The server must not run.
    pub(crate) fn save(&self) -> TempDir {
        let aside = tempfile::tempdir().expect("a temporary folder");
        copy(&self.files(), aside.path());
        aside
    }

    /// Starts it again on what was put aside: an older state.
    pub(crate) async fn restart_on(&mut self, aside: &TempDir) {
        self.remove_files();
        copy(aside.path(), &self.files());
        self.restart().await;
    }

    fn remove_files(&mut self) {
        self.kill();
        std::fs::remove_dir_all(self.files()).expect("its files can be removed");
    }

    fn files(&self) -> std::path::PathBuf {
        self.dir.path().join("appendonlydir")
    }

    /// Stops it from answering, its connections staying open, until `resume`.
    pub(crate) fn pause(&self) {
        self.signal("-STOP");
    }

    /// Lets it go on.
    pub(crate) fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let pid = &self.running.as_ref().expect("it runs").pid;
        let sent = Command::new("kill").args([signal, pid]).status().expect("kill");
        assert!(sent.success());
    }

    async fn try_run(&mut self) -> bool {
        let mut keeper = Command::new("sh");
        keeper
            .args(["-c", KEEPER, "keeper", "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"])
            .args(["--appendfsync", "always", "--loglevel", "notice", "--daemonize", "no"])
            .args(["--port", &self.port.to_string(), "--requirepass", &self.password])
            .arg("--dir")
            .arg(self.dir.path())
            .args(&self.extra);
        self.running = tokio::task::spawn_blocking(|| run(keeper)).await.expect("no panic");
        self.running.is_some()
    }

    /// A store on it that knows its memory: the first that asks makes one.
    pub(crate) async fn store(&self, dispatcher: &str) -> Store {
        self.store_that_keeps(dispatcher, WEEK).await
    }

    /// The same, with ended jobs kept for so long.
    pub(crate) async fn store_that_keeps(&self, dispatcher: &str, retention: Duration) -> Store {
        let url = self.url();
        let store = Store::connect(&url, &instance(), dispatcher, retention).await.expect("a usable URL");
        if let Memory::Strange { found } = store.memory().await.expect("Redis answers") {
            let made = store.rebuild(found.as_deref(), &lockstep::clock::draw_name(), "engine", &[]).await;
            assert!(made.expect("Redis answers"));
        }
        store
    }

    /// A store on it that knows nothing yet.
    pub(crate) async fn stranger(&self, dispatcher: &str) -> Store {
        Store::connect(&self.url(), &instance(), dispatcher, WEEK).await.expect("a usable URL")
    }

    /// A connection of one's own, to look and to tamper.
    pub(crate) async fn connect(&self) -> redis::aio::MultiplexedConnection {
        let client = redis::Client::open(self.url()).expect("a usable URL");
        client.get_multiplexed_async_connection().await.expect("Redis answers")
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs a server until it is ready; none: it ended before.
fn run(mut keeper: Command) -> Option<Running> {
    let mut keeper = keeper.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("sh");
    let mut said = BufReader::new(keeper.stdout.take().expect("piped"));
    let mut pid = String::new();
    let mut lines = String::new();
    let ready = loop {
        let mut line = String::new();
        if said.read_line(&mut line).expect("text") == 0 {
            break false;
        }
        lines.push_str(&line);
        if let Some(number) = line.strip_prefix("pid ") {
            number.trim().clone_into(&mut pid);
        }
        if line.contains("Ready to accept connections") {
            break true;
        }
        if line.contains("Failed listening") || line.contains("exiting") {
            break false;
        }
    };
    // What it says later must not fill the pipe.
    std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
    let running = Running { keeper, pid };
    if ready {
        return Some(running);
    }
    running.kill();
    eprintln!("redis-server did not start:\n{lines}");
    None
}

/// The instance that tests of the store use.
pub(crate) fn instance() -> Instance {
    "test".parse().expect("a name")
}

/// A port that nobody listens on at this moment. It is not one that the kernel gives to outgoing connections, which could
/// otherwise take it while its server is down.
pub(crate) fn free_port() -> u16 {
    let drawn = || 15_000 + u16::from_le_bytes(lockstep::clock::random()) % 17_000;
    std::iter::repeat_with(drawn)
        .take(1000)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("one port in a thousand is free")
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        std::fs::copy(&path, to.join(path.file_name().expect("a file"))).expect("copied");
    }
}
