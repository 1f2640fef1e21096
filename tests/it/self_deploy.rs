//! The dispatcher deploys itself: a job whose playbook reaches the dispatcher's host over SSH replaces the dispatcher's own
//! container in mid-job, runs the feed, and still succeeds with its whole output.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use serde_json::json;

use super::e2e::{Target, docker};
use super::support::eventually;
use super::support::service::{Service, secret_of};

const SOCKET: &str = "/var/run/docker.sock";

/// Plays `docker compose up -d` on the dispatcher's host: the container is stopped, removed and made anew from its own description.
const REPLACE: &str = r#"
import http.client, json, socket, sys

class Engine(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect("/var/run/docker.sock")

def call(method, path, body=None):
    engine = Engine("localhost")
    engine.request(method, path, body and json.dumps(body), {"Content-Type": "application/json"})
    answer = engine.getresponse()
    text = answer.read()
    if answer.status >= 400:
        sys.exit("%s %s: %s" % (method, path, text))
    return json.loads(text) if text else None

name = sys.argv[1]
old = call("GET", "/containers/%s/json" % name)
call("POST", "/containers/%s/stop?t=20" % name)
call("DELETE", "/containers/%s" % name)
body = dict(old["Config"], HostConfig=old["HostConfig"])
new = call("POST", "/containers/create?name=%s" % name, body)
call("POST", "/containers/%s/start" % new["Id"])
print("replaced", old["Id"][:12], "by", new["Id"][:12])
"#;

/// The dispatcher in a container of its own, removed with the value.
struct Contained {
    name: String,
}

impl Contained {
    fn start(service: &Service) -> Self {
        let name = format!("{}-dispatcher", service.instance);
        let folder = service.folder.path().display().to_string();
        let environment = service.folder.path().join("environment");
        std::fs::write(&environment, service.environment()).expect("written");
        docker(&[
            "run",
            "-d",
            "--name",
            &name,
            "--label",
            "lockstep.test=self",
            "--network",
            "host",
            "--env-file",
            &environment.display().to_string(),
            "-v",
            &format!("{SOCKET}:{SOCKET}"),
            "-v",
            &format!("{folder}:{folder}:ro"),
            "-v",
            &format!("{}:/usr/local/bin/lockstep:ro", env!("CARGO_BIN_EXE_lockstep")),
            "-w",
            "/",
            "lockstep-base:bookworm",
            "lockstep",
            "serve",
        ]);
        Self { name }
    }

    fn id(&self) -> String {
        docker(&["container", "inspect", "-f", "{{ .Id }}", &self.name])
    }
}

impl Drop for Contained {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let logs = std::process::Command::new("docker").args(["logs", &self.name]).output();
            eprintln!(
                "--- the dispatcher's log ---\n{}",
                logs.map(|o| String::from_utf8_lossy(&o.stderr).into_owned()).unwrap_or_default()
            );
        }
        let _ = std::process::Command::new("docker").args(["rm", "-fv", &self.name]).output();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dispatcher_replaces_itself_in_mid_job() {
    // Only this container, which plays the dispatcher's host, has the engine's socket; the runner container has none.
    let host = Target::start_with(
        &["lockstep.epfl.ch"],
        &["-v", &format!("{SOCKET}:{SOCKET}"), "--add-host", "host.docker.internal:host-gateway"],
    );
    let group = std::fs::metadata(SOCKET).expect("the engine's socket").gid();
    let join = format!(
        "getent group {group} >/dev/null || groupadd -g {group} engine; usermod -aG $(getent group {group} | cut -d: -f1) deploy"
    );
    docker(&["exec", &host.name, "sh", "-c", &join]);

    let inventory = tempfile::tempdir().expect("a folder");
    let mounts = format!("{},{}:/ansible/inventories/self.example:ro", host.mount(), inventory.path().display());
    let service = Service::prepare(&[
        ("LOCKSTEP_RUNNER_IMAGE", "lockstep-runner:latest"),
        ("LOCKSTEP_RUNNER_NETWORK", &host.name),
        ("LOCKSTEP_RUNNER_MOUNTS", &mounts),
        ("LOCKSTEP_AUTH_FEED_NETWORKS", "127.0.0.0/8,172.16.0.0/12,192.168.0.0/16"),
    ])
    .await;
    let name = format!("{}-dispatcher", service.instance);
    let hosts = json!({"dispatcher": {
        "hosts": {"lockstep.epfl.ch": null},
        "vars": {
            "ansible_user": "deploy",
            "dispatcher_folder": "/tmp",
            "dispatcher_command": ["python3", "-c", REPLACE, name],
            "dispatcher_url": format!("https://host.docker.internal:{}", service.port),
            "lockstep_deployment_id": "self",
            "lockstep_deployment_secret": secret_of("self"),
        },
    }});
    std::fs::write(inventory.path().join("hosts.json"), hosts.to_string()).expect("written");
    open(inventory.path());

    let contained = Contained::start(&service);
    service.ready().await;
    service.feed(&[("self", "self.example", "app-deploy")]).await;
    let before = contained.id();
    let body = json!({"deployment_id": "self", "deployment_secret": secret_of("self")});
    let (_, answer) = service.post("/app-deploy/", &body).await;
    let job = answer["job_id"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned();
    let body = json!({"deployment_id": "self", "deployment_secret": secret_of("self"), "job_id": job});
    let finished = eventually("the job is finished", async || {
        // While the dispatcher is being replaced, it is not reached; nothing else than that may go wrong.
        let answer = service.client().post(service.url("/job-status/")).json(&body).send().await.ok()?;
        let answer: serde_json::Value = answer.json().await.ok()?;
        (answer["status"] == "finished").then_some(answer)
    })
    .await;
    let output = finished["output"].as_str().expect("output");
    assert_eq!(finished["outcome"], "success", "{output}");
    assert_ne!(contained.id(), before, "the dispatcher was replaced");
    assert!(output.contains("Check the inventory") && output.contains("PLAY RECAP"), "{output}");
    for line in ["TASK [fence", "TASK [dispatcher : Replace the container of the dispatcher]", "PLAY RECAP"] {
        assert_eq!(output.matches(line).count(), output.lines().filter(|l| l.contains(line)).count());
        assert!(output.contains(line), "{line} is missing in {output}");
    }
    assert_eq!(output.matches("Replace the container of the dispatcher]").count(), 1, "nothing twice: {output}");
}

/// Readable for whoever the container runs as.
fn open(folder: &Path) {
    let opened = std::process::Command::new("chmod").args(["-R", "a+rX"]).arg(folder).status().expect("chmod runs");
    assert!(opened.success());
}
