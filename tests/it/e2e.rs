//! From end to end: the real binary over HTTPS, Redis, Docker, and Ansible over SSH to a host with sshd and nginx.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

use super::support::eventually;
use super::support::service::{FEED_TOKEN, OPERATOR_TOKEN, Service};

/// A network with a host to deploy to, and the keys to reach it.
pub(crate) struct Target {
    pub(crate) name: String,
    keys: tempfile::TempDir,
}

pub(crate) fn docker(arguments: &[&str]) -> String {
    let output = Command::new("docker").args(arguments).output().expect("docker is installed");
    assert!(output.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn keygen(path: &Path) {
    let done =
        Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f"]).arg(path).status();
    assert!(done.expect("ssh-keygen is installed").success());
}

impl Target {
    pub(crate) fn start(names: &[&str]) -> Self {
        Self::start_with(names, &[])
    }

    /// Starts one under these names, with more options of `docker run`.
    pub(crate) fn start_with(names: &[&str], options: &[&str]) -> Self {
        let name = format!("lockstep-test-{}", &lockstep::clock::draw_name()[..12]);
        let keys = tempfile::tempdir().expect("a folder");
        let (ssh, target) = (keys.path().join("ssh"), keys.path().join("target"));
        std::fs::create_dir(&ssh).expect("made");
        std::fs::create_dir(&target).expect("made");
        keygen(&ssh.join("id_ed25519"));
        keygen(&target.join("ssh_host_ed25519_key"));
        std::fs::copy(ssh.join("id_ed25519.pub"), target.join("authorized_keys")).expect("copied");
        let host_key = std::fs::read_to_string(target.join("ssh_host_ed25519_key.pub")).expect("a key");
        let known: String = names.iter().map(|name| format!("{name} {host_key}")).collect();
        std::fs::write(ssh.join("known_hosts"), known).expect("written");
        let owned = Command::new("chown").args(["-R", "10001"]).arg(&ssh).status().expect("chown runs");
        assert!(owned.success(), "tests that run containers are run as root");
        let opened = Command::new("chmod").arg("755").arg(keys.path()).status().expect("chmod runs");
        assert!(opened.success());

        docker(&["network", "create", "--label", "lockstep.test=e2e", &name]);
        let mut run = vec!["run", "-d", "--name", &name, "--label", "lockstep.test=e2e", "--network", &name];
        for alias in names {
            run.extend(["--network-alias", alias]);
        }
        run.extend(options);
        let mount = format!("{}:/run/target:ro", target.display());
        run.extend(["-v", &mount, "lockstep-target:latest"]);
        docker(&run);
        Self { name, keys }
    }

    pub(crate) fn mount(&self) -> String {
        format!("{}:/home/runner/.ssh:ro", self.keys.path().join("ssh").display())
    }

    /// Where it is reached from the engine's host.
    pub(crate) fn address(&self) -> String {
        let format = format!("{{{{ (index .NetworkSettings.Networks \"{}\").IPAddress }}}}", self.name);
        docker(&["container", "inspect", "-f", &format, &self.name])
    }

    /// The page that a host of this container serves.
    async fn page(&self, host: &str) -> String {
        let address = self.address();
        let client = reqwest::Client::new();
        let answer = client.get(format!("http://{address}/")).header("Host", host).send().await.expect("nginx answers");
        assert_eq!(answer.status(), 200);
        answer.text().await.expect("a page")
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["rm", "-fv", &self.name]).output();
        let _ = Command::new("docker").args(["network", "rm", &self.name]).output();
    }
}

pub(crate) async fn with_ansible(target: &Target, more: &[(&str, &str)]) -> Service {
    let mount = target.mount();
    let mut settings = vec![
        ("LOCKSTEP_RUNNER_IMAGE", "lockstep-runner:latest"),
        ("LOCKSTEP_RUNNER_NETWORK", target.name.as_str()),
        ("LOCKSTEP_RUNNER_MOUNTS", mount.as_str()),
    ];
    settings.extend(more);
    Service::start(&settings).await
}

fn shows(output: &Output) -> String {
    format!("{}\n--- stderr\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn httpie(service: &Service, arguments: &[&str], stdin: Option<&Path>) -> Value {
    let mut command = Command::new("http");
    command.args(["--verify", "no", "--body"]).args(arguments).env("PYTHONWARNINGS", "ignore");
    match stdin {
        Some(path) => command.stdin(std::fs::File::open(path).expect("a file")),
        None => command.arg("--ignore-stdin").stdin(std::process::Stdio::null()),
    };
    let output = command.output().expect("httpie is installed");
    assert!(output.status.success(), "{arguments:?}: {}\n{}", shows(&output), service.log());
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn sample() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/sample_inventory.json"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_seeds_exchanges_work_as_written() {
    let target = Target::start(&["app-one.epfl.ch", "app-two.epfl.ch"]);
    let service = with_ansible(&target, &[]).await;
    let url = |path: &str| service.url(path);

    assert_eq!(httpie(&service, &["POST", &url("/set-available-apps/")], Some(sample())), json!({"status": "ok"}));
    let deploy = || {
        httpie(&service, &["POST", &url("/app-deploy/"), "deployment_id=app-one", "deployment_secret=secret123"], None)
    };
    let first = deploy();
    let job = first["job_id"].as_str().expect("an id").to_owned();
    assert_eq!(first, json!({"job_id": job, "output": "", "status": "starting"}));
    assert_eq!(deploy(), json!({"error": "App deployment is already running", "status": "error"}));

    let job_id = format!("job_id={job}");
    let status = || {
        let path = url("/job-status/");
        httpie(&service, &["POST", &path, "deployment_id=app-one", "deployment_secret=secret123", &job_id], None)
    };
    let mut seen = String::new();
    let finished = eventually("the job is finished", async || {
        let answer = status();
        let output = answer["output"].as_str().expect("output is a string").to_owned();
        assert!(output.starts_with(&seen), "output only grows");
        seen = output;
        (answer["status"] == "finished").then_some(answer)
    })
    .await;
    assert_eq!(finished["outcome"], "success", "{seen}");
    assert_eq!(
        finished.as_object().expect("an object").keys().collect::<Vec<_>>(),
        ["job_id", "outcome", "output", "status"]
    );
    assert!(seen.contains("PLAY RECAP"), "{seen}");
    assert!(!seen.contains("secret123"));
    assert!(target.page("app-one.epfl.ch").await.contains(&job), "the page was deployed by this job");

    let bearer = format!("Authorization:Bearer {OPERATOR_TOKEN}");
    let apps = httpie(&service, &[&url("/get-available-apps/"), &bearer], None);
    let listed = json!([
        {"deployment_id": "app-one", "inventory": "app-one.epfl.ch"},
        {"deployment_id": "app-two", "inventory": "app-two.epfl.ch"},
    ]);
    assert_eq!(apps, json!({"inventory": listed, "status": "ok"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_by_the_client_is_live_and_exits_with_the_outcome() {
    let target = Target::start(&["app-one.epfl.ch", "app-two.epfl.ch"]);
    // The feed is run at start: the list of apps comes from Ansible's own inventories.
    let service = with_ansible(&target, &[("LOCKSTEP_FEED_AT_START", "true")]).await;
    let output = eventually("the feed has announced the apps", async || {
        let output = service.run(&[("LOCKSTEP_TOKEN", OPERATOR_TOKEN)], &["apps", "list"]).await;
        String::from_utf8_lossy(&output.stdout).contains("app-two").then_some(output)
    })
    .await;
    assert!(output.status.success(), "{}", shows(&output));

    let output = service.run(&[("LOCKSTEP_DEPLOYMENT_SECRET", "secretABC")], &["deploy", "app-two"]).await;
    assert_eq!(output.status.code(), Some(0), "{}\n{}", shows(&output), service.log());
    let text = shows(&output);
    assert!(text.contains("PLAY RECAP") && !text.contains("secretABC"), "{text}");
    let page = target.page("app-two.epfl.ch").await;
    assert!(page.contains("app-two"), "{page}");

    let refused = service.run(&[("LOCKSTEP_DEPLOYMENT_SECRET", "wrong-secret")], &["deploy", "app-two"]).await;
    assert_eq!(refused.status.code(), Some(3), "{}", shows(&refused));

    // A host that cannot be reached is a failure, told as such.
    docker(&["stop", "-t", "0", &target.name]);
    let output = service.run(&[("LOCKSTEP_DEPLOYMENT_SECRET", "secret123")], &["deploy", "app-one"]).await;
    assert_eq!(output.status.code(), Some(1), "{}", shows(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_with_a_token_is_answered_ok_and_without_one_only_to_its_networks() {
    let service = Service::start(&[("LOCKSTEP_AUTH_FEED_NETWORKS", "192.0.2.0/24")]).await;
    let list: Value = serde_json::from_str(include_str!("../../sample_inventory.json")).expect("JSON");
    let send = async |token: Option<&str>| {
        let request = service.client().post(service.url("/set-available-apps/")).json(&list);
        let request = match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        let answer = request.send().await.expect("an answer");
        answer.json::<Value>().await.expect("JSON")["status"].clone()
    };
    assert_eq!(send(None).await, "error");
    assert_eq!(send(Some("not the feed's token")).await, "error");
    assert_eq!(send(Some(FEED_TOKEN)).await, "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_polite_stop_leaves_the_job_running_and_a_redis_that_is_away_is_not_an_answer() {
    let mut service = Service::start(&[("LOCKSTEP_RUNNER_ACTIONS", "nap=sleep 2")]).await;
    service.feed(&[("nap", "nap", "nap")]).await;
    let body = json!({"deployment_id": "nap", "deployment_secret": "secret-of-nap"});
    let (_, answer) = service.post("/app-deploy/", &body).await;
    let job = answer["job_id"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned();
    let body = json!({"deployment_id": "nap", "deployment_secret": "secret-of-nap", "job_id": job});
    eventually("it runs", async || (service.post("/job-status/", &body).await.1["status"] == "running").then_some(()))
        .await;
    let told = Command::new("kill").args(["-TERM", &service.pid().to_string()]).status().expect("kill runs");
    assert!(told.success());
    assert!(service.ended().success(), "a polite stop is no failure");
    service.spawn();
    service.ready().await;
    let finished = eventually("it is finished", async || {
        Some(service.post("/job-status/", &body).await.1).filter(|answer| answer["status"] == "finished")
    })
    .await;
    assert_eq!(finished["outcome"], "success");

    service.redis.kill();
    let (status, answer) = service.post("/job-status/", &body).await;
    assert_eq!((status, &answer["status"]), (503, &json!("error")), "{answer}");
    assert!(answer["output"].is_string(), "{answer}");
    let ready = service.client().get(service.url("/readyz")).send().await.expect("an answer");
    assert_eq!(ready.status(), 503);
    assert!(ready.text().await.expect("text").contains("redis"));
    service.redis.restart().await;
    eventually("it answers again", async || (service.post("/job-status/", &body).await.0 == 200).then_some(())).await;
    assert_eq!(service.post("/job-status/", &body).await.1, finished);
}
