//! An engine of one's own: data folder, socket and containerd beside the machine's, to be killed and started at will.
//!
//! All its processes live in one mount namespace, which outlives them: what containers have mounted is there for the next engine
//! process, and `/etc/docker`, where Docker keeps its id, is a folder of its own. Their network namespace keeps them from taking
//! the machine's engine its bridge away.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use super::eventually;

/// The engine.
pub(crate) struct PrivateEngine {
    folder: tempfile::TempDir,
    holder: Child,
}

impl PrivateEngine {
    /// Starts one that has the image of the machine's engine.
    pub(crate) async fn start(image: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        for part in ["etc", "data", "exec"] {
            std::fs::create_dir(folder.path().join(part)).expect("a folder");
        }
        std::fs::create_dir_all("/etc/docker").expect("tests run as root");
        let script = r#"mount --bind "$0/etc" /etc/docker && : > "$0/held" && exec sleep infinity"#;
        let holder = Command::new("unshare")
            .args(["-mn", "sh", "-c", script])
            .arg(folder.path())
            .spawn()
            .expect("unshare is installed");
        let engine = Self { folder, holder };
        eventually("the engine's namespace", async || engine.path("held").exists().then_some(())).await;
        engine.run(false).await;
        let load = format!("docker save {image} | docker -H {} load", engine.host());
        let loaded = Command::new("sh").args(["-c", &load]).output().expect("docker is installed");
        assert!(loaded.status.success(), "{}", String::from_utf8_lossy(&loaded.stderr));
        engine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What to connect to.
    pub(crate) fn host(&self) -> String {
        format!("unix://{}", self.path("docker.sock").display())
    }

    /// Starts its process and waits until it answers. With live-restore, containers go on under the new process; without, it ends
    /// those that it finds running.
    pub(crate) async fn run(&self, live_restore: bool) {
        let path = |name: &str| self.path(name).display().to_string();
        let log = std::fs::File::options().create(true).append(true).open(self.path("log")).expect("a log");
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.holder.id().to_string(), "-m", "-n", "setsid", "dockerd"]);
        command.args(["--data-root", &path("data"), "--exec-root", &path("exec"), "--pidfile", &path("pid")]);
        command.args(["--host", &self.host(), "--bridge", "none", "--iptables=false", "--ip-forward=false"]);
        command.args(live_restore.then_some("--live-restore"));
        let errors = log.try_clone().expect("a log");
        let mut child = command.stdin(Stdio::null()).stdout(log).stderr(errors).spawn().expect("dockerd is installed");
        // Whoever is killed has to be waited for, or stays a zombie that looks alive.
        std::thread::spawn(move || child.wait());
        eventually("the private engine answers", async || self.docker(&["info"]).status.success().then_some(())).await;
    }

    /// Kills it with SIGKILL, its containerd with it, and sees their end. Containers go on.
    pub(crate) async fn kill(&self) {
        let files = [self.path("pid"), self.path("exec/containerd/containerd.pid")];
        let pids: Vec<String> = files.iter().filter_map(|file| std::fs::read_to_string(file).ok()).collect();
        for pid in &pids {
            let _ = Command::new("kill").args(["-9", pid.trim()]).output();
        }
        for pid in &pids {
            eventually("the private engine is gone", async || (!lives(pid.trim())).then_some(())).await;
        }
        for file in &files {
            let _ = std::fs::remove_file(file);
        }
    }

    /// Containers whose process containerd has made and nobody has set going.
    pub(crate) fn parked(&self) -> Vec<String> {
        let listed = self.containerd(&["tasks", "ls"]);
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        let words = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        words.filter(|words| words.last() == Some(&"CREATED")).map(|words| words[0].to_owned()).collect()
    }

    /// Ends such a process, as somebody on the engine's host would.
    pub(crate) fn end_parked(&self, container: &str) {
        self.containerd(&["tasks", "delete", "--force", container]);
    }

    fn containerd(&self, arguments: &[&str]) -> Output {
        let socket = self.path("exec/containerd/containerd.sock").display().to_string();
        let mut command = Command::new("ctr");
        command.args(["-a", &socket, "-n", "moby"]).args(arguments);
        command.output().expect("containerd is installed")
    }

    /// Makes a container that runs look as if its start had never been noted, while the engine is away: what is left when it is killed
    /// between the two.
    pub(crate) fn forget_start(&self, container: &str) {
        let state = [("Running", false.into()), ("Pid", 0.into()), ("StartedAt", "0001-01-01T00:00:00Z".into())];
        self.rewrite_state(container, state);
    }

    /// Makes a container that has ended look as if its end had never been noted, in the same way.
    pub(crate) fn forget_end(&self, container: &str) {
        let state = [("Running", true.into()), ("Pid", 1.into()), ("ExitCode", 0.into())];
        self.rewrite_state(container, state);
    }

    fn rewrite_state(&self, container: &str, fields: [(&str, Value); 3]) {
        let path = self.path("data/containers").join(container).join("config.v2.json");
        let text = std::fs::read_to_string(&path).expect("Docker's record of the container");
        let mut record: Value = serde_json::from_str(&text).expect("JSON");
        for (name, value) in fields {
            record["State"][name] = value;
        }
        std::fs::write(&path, record.to_string()).expect("written");
    }

    /// Runs the engine's client.
    pub(crate) fn docker(&self, arguments: &[&str]) -> Output {
        Command::new("docker").args(["-H", &self.host()]).args(arguments).output().expect("docker is installed")
    }

    /// What it logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }
}

/// Whether there is such a process, and not only what is left of one.
fn lives(pid: &str) -> bool {
    let state = std::fs::read_to_string(Path::new("/proc").join(pid).join("stat")).unwrap_or_default();
    let state = state.rsplit(") ").next().unwrap_or_default();
    !state.is_empty() && !state.starts_with(['Z', 'X'])
}

impl Drop for PrivateEngine {
    fn drop(&mut self) {
        let listed = self.docker(&["ps", "-aq"]);
        for id in String::from_utf8_lossy(&listed.stdout).split_whitespace() {
            self.docker(&["rm", "-fv", id]);
        }
        if let Ok(pid) = std::fs::read_to_string(self.path("pid")) {
            let _ = Command::new("kill").arg(pid.trim()).output();
            let _ = Command::new("timeout").args(["10", "tail", "--pid", pid.trim(), "-f", "/dev/null"]).output();
        }
        // Killed in the middle of a start, it has left keepers of containers that it does not know.
        let namespace = |pid: &str| std::fs::read_link(Path::new("/proc").join(pid).join("ns/mnt")).ok();
        let own = namespace(&self.holder.id().to_string());
        let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        for pid in all.filter_map(|entry| entry.file_name().into_string().ok()) {
            if own.is_some() && namespace(&pid) == own {
                let _ = Command::new("kill").args(["-9", &pid]).output();
            }
        }
        let _ = self.holder.wait();
    }
}
