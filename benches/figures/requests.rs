//! Requests per second, by wrk, against the limit server in turn.

use std::io::Write as _;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use super::row;
use super::support::eventually;
use super::support::redis::free_port;
use super::support::service::{Service, secret_of};

/// Length of one run of wrk, in seconds, and how many are taken of each; the best counts, because what disturbs only slows.
const RUN_S: &str = "2";
const ROUNDS: usize = 5;

/// One load: where, with what, over how many connections.
struct Load {
    url: String,
    script: tempfile::NamedTempFile,
    connections: u32,
}

impl Load {
    fn new(url: String, connections: u32, method: &str, body: &str, headers: &[(&str, &str)]) -> Self {
        let mut script = tempfile::NamedTempFile::new().expect("a file");
        writeln!(script, "wrk.method = '{method}'\nwrk.body = '{body}'").expect("written");
        for (name, value) in headers {
            writeln!(script, "wrk.headers['{name}'] = '{value}'").expect("written");
        }
        // An answer that is not 200 makes the whole run worthless.
        writeln!(
            script,
            "response = function(status) if status ~= 200 then wrk.thread:stop() print('refused', status) end end"
        )
        .expect("written");
        Self { url, script, connections }
    }

    /// Requests per second.
    async fn run(&self) -> f64 {
        let output = tokio::process::Command::new("wrk")
            .args(["-t", "1", "-d", RUN_S, "-c", &self.connections.to_string(), "-s"])
            .arg(self.script.path())
            .arg(&self.url)
            .output()
            .await
            .expect("wrk is installed");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(!text.contains("refused") && !text.contains("Non-2xx"), "{text}");
        let line = text.lines().find_map(|line| line.strip_prefix("Requests/sec:")).unwrap_or_else(|| panic!("{text}"));
        line.trim().parse().expect("a number")
    }
}

/// The best of some rounds of two loads taken in turn.
async fn against(limit: &Load, here: &Load) -> (f64, f64) {
    let mut best = (0.0f64, 0.0f64);
    for _ in 0..ROUNDS {
        best.0 = best.0.max(limit.run().await);
        best.1 = best.1.max(here.run().await);
    }
    best
}

fn print(what: &str, (limit, here): (f64, f64), goal: &str) {
    row(what, format!("{limit:.0}/s"), format!("{here:.0}/s"), format!("{:.2}", here / limit), goal);
}

struct LimitServer {
    child: Child,
    port: u16,
}

impl LimitServer {
    async fn start(service: &Service) -> Self {
        let port = free_port();
        let child = Command::new(std::env::current_exe().expect("this program"))
            .args(["limit", &port.to_string(), &service.folder.path().display().to_string(), &service.redis.url()])
            .stdout(Stdio::null())
            .spawn()
            .expect("it runs");
        eventually("the limit server answers", async || tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok())
            .await;
        Self { child, port }
    }

    fn load(&self, connections: u32, headers: &[(&str, &str)]) -> Load {
        Load::new(format!("https://127.0.0.1:{}/", self.port), connections, "POST", "{}", headers)
    }
}

impl Drop for LimitServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn start(service: &Service, app: &str) -> String {
    let body = json!({"deployment_id": app, "deployment_secret": secret_of(app)});
    let (_, answer) = service.post("/app-deploy/", &body).await;
    answer["job_id"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

async fn status(service: &Service, app: &str, job: &str) -> Value {
    let body = json!({"deployment_id": app, "deployment_secret": secret_of(app), "job_id": job});
    service.post("/job-status/", &body).await.1
}

pub(crate) async fn measure() {
    let scripts = tempfile::tempdir().expect("a folder");
    let script = |name: &str, text: &str| std::fs::write(scripts.path().join(name), text).expect("written");
    script("kilobyte.sh", "head -c 1024 /dev/zero | tr '\\0' x\n");
    script("megabyte.sh", "yes 'a line of output that is forty bytes wide' | head -c 1048576\n");
    script(
        "printing.sh",
        "i=0; while [ $i -lt 10 ]; do i=$((i + 1)); head -c 102 /dev/zero | tr '\\0' x; done\nwhile [ ! -e /scripts/enough ]; do echo; sleep 0.5; done\n",
    );
    let mount = format!("{}:/scripts:ro", scripts.path().display());
    let actions = "kilobyte=sh /scripts/kilobyte.sh;megabyte=sh /scripts/megabyte.sh;printing=sh /scripts/printing.sh";
    let service = Service::start(&[("LOCKSTEP_RUNNER_MOUNTS", &mount), ("LOCKSTEP_RUNNER_ACTIONS", actions)]).await;
    service.feed(&[("kilo", "kilo", "kilobyte"), ("mega", "mega", "megabyte"), ("prints", "prints", "printing")]).await;
    let mut connection = service.redis.connect().await;
    redis::cmd("SET").arg("limit").arg("x".repeat(1024)).query_async::<()>(&mut connection).await.expect("set");
    let limit = LimitServer::start(&service).await;

    let (kilo, mega, prints) =
        (start(&service, "kilo").await, start(&service, "mega").await, start(&service, "prints").await);
    for (app, job) in [("kilo", &kilo), ("mega", &mega)] {
        let finished = eventually("the job is finished", async || {
            Some(status(&service, app, job).await).filter(|answer| answer["status"] == "finished")
        })
        .await;
        assert_eq!(finished["outcome"], "success");
    }
    eventually("the job prints", async || {
        status(&service, "prints", &prints).await["output"].as_str().filter(|output| output.len() > 1000).map(drop)
    })
    .await;

    let address = format!("https://127.0.0.1:{}", service.port);
    let poll = |app: &str, job: &str, connections: u32, headers: &[(&str, &str)]| {
        let body = json!({"deployment_id": app, "deployment_secret": secret_of(app), "job_id": job}).to_string();
        Load::new(format!("{address}/job-status/"), connections, "POST", &body, headers)
    };
    let close = [("Connection", "close")];
    for connections in [2, 32] {
        let what = format!("POST /job-status/, 1 KB, keep-alive, {connections} connections");
        print(&what, against(&limit.load(connections, &[]), &poll("kilo", &kilo, connections, &[])).await, ">= 0.7");
    }
    let what = "the same, a new TLS connection for every request, 8 at a time";
    print(what, against(&limit.load(8, &close), &poll("kilo", &kilo, 8, &close)).await, ">= 0.85");
    let what = "the same for a job that runs and prints (limit: the finished one)";
    print(what, against(&poll("kilo", &kilo, 32, &[]), &poll("prints", &prints, 32, &[])).await, ">= 0.9");

    let read = |app: &str, job: &str, offset: usize| {
        use base64::Engine as _;
        let basic = base64::engine::general_purpose::STANDARD.encode(format!("{app}:{}", secret_of(app)));
        let url = format!("{address}/api/v1/jobs/{job}/output?offset={offset}");
        Load::new(url, 32, "GET", "", &[("Authorization", &format!("Basic {basic}"))])
    };
    let what = "1 KB at the end of 1 MB of output, v1 (limit: of 1 KB)";
    print(what, against(&read("kilo", &kilo, 0), &read("mega", &mega, 1_048_576 - 1024)).await, ">= 0.9");
    std::fs::write(scripts.path().join("enough"), "").expect("written");
}
