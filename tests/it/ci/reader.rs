//! GitHub's runner and GitLab's, as far as action.yml and templates/deploy.yml need them: they fill in inputs, set the environment
//! and run the steps as these stand in the files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use regex::{Captures, Regex};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Whose CI it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reader {
    GitHub,
    GitLab,
}

pub(super) const BOTH: [Reader; 2] = [Reader::GitHub, Reader::GitLab];

/// A CI job to be: its inputs, and what else is in its environment.
#[derive(Clone)]
pub(super) struct CiJob {
    reader: Reader,
    inputs: BTreeMap<String, String>,
    environment: BTreeMap<String, String>,
    script: Option<String>,
    left: Vec<(String, String)>,
}

/// A CI job that runs.
pub(super) struct Running {
    pub(super) child: Child,
    folder: TempDir,
    reader: Reader,
    secret: String,
}

/// A CI job that has ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) code: i32,
    /// GitHub was asked to mask the secret, before anything else.
    pub(super) masked: bool,
    /// Without that.
    pub(super) log: String,
    pub(super) outputs: BTreeMap<String, String>,
    pub(super) summary: String,
}

fn read<T: serde::de::DeserializeOwned>(text: &str) -> T {
    serde_saphyr::from_str(text).expect("YAML")
}

/// A text in which each place that names an input holds its value.
fn filled(pattern: &str, text: &str, value: impl Fn(&str) -> String) -> String {
    let place = Regex::new(pattern).expect("a pattern");
    place.replace_all(text, |found: &Captures<'_>| value(&found[1])).into_owned()
}

/// Texts by name.
fn texts(of: &Value) -> BTreeMap<String, String> {
    let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned();
    of.as_object().expect("a table").iter().map(|(name, value)| (name.clone(), text(value))).collect()
}

impl CiJob {
    pub(super) fn new(reader: Reader, url: &str, ca_cert: &Path, app: &str, secret: &str) -> Self {
        let ca_cert = ca_cert.display().to_string();
        let job = Self { reader, inputs: BTreeMap::new(), environment: BTreeMap::new(), script: None, left: vec![] };
        let job = job.input("url", url).input("deployment-id", app).input("ca-cert", &ca_cert);
        match reader {
            Reader::GitHub => job.input("secret", secret),
            Reader::GitLab => job.variable("LOCKSTEP_DEPLOYMENT_SECRET", secret),
        }
    }

    pub(super) fn input(mut self, name: &str, value: &str) -> Self {
        self.inputs.insert(name.to_owned(), value.to_owned());
        self
    }

    pub(super) fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    /// What an earlier job has left in the folder: file and text.
    pub(super) fn left(mut self, file: &str, text: &str) -> Self {
        self.left.push((file.to_owned(), text.to_owned()));
        self
    }

    /// Runs this in place of the action's own script.
    pub(super) fn script(mut self, script: &str) -> Self {
        self.script = Some(script.to_owned());
        self
    }

    /// What a declared input is; an input that nobody declared is a mistake in the file.
    fn value(&self, declared: &Value, name: &str) -> String {
        let declared = declared.get(name).unwrap_or_else(|| panic!("the input {name} is not declared"));
        let default = || declared.get("default").and_then(Value::as_str).map(str::to_owned);
        let given = self.inputs.get(name).cloned().or_else(default);
        given.unwrap_or_else(|| panic!("the input {name} is wanted"))
    }

    pub(super) async fn start(&self) -> Running {
        let folder = tempfile::tempdir().expect("a folder");
        for (file, text) in &self.left {
            std::fs::write(folder.path().join(file), text).expect("written");
        }
        let mut command = match self.reader {
            Reader::GitHub => self.github(folder.path()),
            Reader::GitLab => Command::new("sh"),
        };
        command.current_dir(folder.path()).env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("CI", "true");
        let script = match self.reader {
            Reader::GitHub => {
                command.envs(self.github_environment(folder.path()));
                None
            }
            Reader::GitLab => {
                let (environment, script) = self.gitlab();
                command.envs(environment);
                Some(script)
            }
        };
        command.envs(&self.environment).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command.stdin(if script.is_some() { Stdio::piped() } else { Stdio::null() });
        let mut child = command.spawn().expect("a shell");
        if let Some(script) = script {
            // As GitLab's runner does it: what the script leaves unread of its own text would be run next.
            let mut stdin = child.stdin.take().expect("it is piped");
            stdin.write_all(script.as_bytes()).await.expect("taken");
        }
        let secret = self.inputs.get("secret").or_else(|| self.environment.get("LOCKSTEP_DEPLOYMENT_SECRET"));
        Running { child, folder, reader: self.reader, secret: secret.cloned().unwrap_or_default() }
    }

    pub(super) async fn run(&self) -> Ended {
        self.start().await.ended().await
    }

    fn action() -> Value {
        read(&std::fs::read_to_string(Path::new(ROOT).join("action.yml")).expect("the action"))
    }

    /// The one step of the action, in the shell that GitHub takes for `bash`.
    fn step() -> Value {
        let action = Self::action();
        assert_eq!(action["runs"]["using"], "composite");
        let steps = action["runs"]["steps"].as_array().expect("steps");
        assert_eq!(steps.len(), 1, "one process, which gets the signals");
        steps[0].clone()
    }

    fn github(&self, folder: &Path) -> Command {
        let step = Self::step();
        assert_eq!(step["shell"], "bash");
        let run = step["run"].as_str().expect("a script");
        assert!(!run.contains("${{"), "an input in a script would be run");
        std::fs::write(folder.join("step.sh"), self.script.as_deref().unwrap_or(run)).expect("written");
        let mut command = Command::new("bash");
        command.args(["--noprofile", "--norc", "-eo", "pipefail"]).arg(folder.join("step.sh"));
        command
    }

    fn github_environment(&self, folder: &Path) -> BTreeMap<String, String> {
        let declared = &Self::action()["inputs"];
        for name in self.inputs.keys() {
            assert!(declared.get(name).is_some(), "the input {name} is not declared");
        }
        let mut environment = texts(&Self::step()["env"]);
        for value in environment.values_mut() {
            *value = filled(r"\$\{\{ inputs\.([a-z-]+) \}\}", value, |name| self.value(declared, name));
        }
        for name in ["GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY", "GITHUB_ENV"] {
            std::fs::write(folder.join(name), "").expect("written");
            environment.insert(name.to_owned(), folder.join(name).display().to_string());
        }
        environment.insert("GITHUB_ACTIONS".to_owned(), "true".to_owned());
        environment.insert("GITHUB_ACTION_PATH".to_owned(), ROOT.to_owned());
        environment
    }

    /// Environment and script of the component's one job.
    fn gitlab(&self) -> (BTreeMap<String, String>, String) {
        let text = std::fs::read_to_string(Path::new(ROOT).join("templates/deploy.yml")).expect("the component");
        let mut documents: Vec<Value> = serde_saphyr::from_multiple(&text).expect("YAML");
        let jobs = documents.pop().expect("the jobs");
        let declared = &documents[0]["spec"]["inputs"];
        let fill = |text: &str| filled(r"\$\[\[ inputs\.([a-z-]+) \]\]", text, |name| self.value(declared, name));
        let (name, job) = jobs.as_object().expect("jobs").iter().next().expect("a job");
        assert_eq!((jobs.as_object().map(serde_json::Map::len), fill(name).as_str()), (Some(1), "deploy"));
        let mut environment = texts(&job["variables"]);
        for value in environment.values_mut() {
            *value = fill(value);
        }
        // GitLab fills in variables here, and would make the token out of it.
        let audience = fill(job["id_tokens"]["LOCKSTEP_ID_TOKEN"]["aud"].as_str().expect("an audience"));
        let audience = filled(r"\$([A-Z_]+)", &audience, |name| environment[name].clone());
        environment.insert("LOCKSTEP_ID_TOKEN".to_owned(), format!("an ID token for {audience}"));
        environment.insert("GITLAB_CI".to_owned(), "true".to_owned());
        let lines = job["script"].as_array().expect("a script");
        let lines: Vec<&str> = lines.iter().map(|line| line.as_str().expect("a line")).collect();
        let script = lines.join("\n");
        assert!(!script.contains("$[["), "an input in a script would be run");
        (environment, format!("set -e\n{script}\n"))
    }
}

impl Running {
    /// Waits until a text stands in the file of outputs or, of GitLab, of variables for later jobs.
    pub(super) async fn output(&self, name: &str) -> String {
        crate::support::eventually("the output is set", async || outputs(self.reader, self.folder.path()).remove(name))
            .await
    }

    pub(super) async fn signal(&self, signal: &str) {
        let pid = self.child.id().expect("it runs").to_string();
        let told = Command::new("kill").args([signal, &pid]).status().await.expect("kill runs");
        assert!(told.success());
    }

    pub(super) async fn ended(self) -> Ended {
        let output = self.child.wait_with_output().await.expect("it ends");
        let (log, err) = (String::from_utf8(output.stdout).expect("UTF-8"), String::from_utf8_lossy(&output.stderr));
        assert_eq!(err, "", "a fault of the script: {log}");
        let mask = format!("::add-mask::{}\n", self.secret);
        let masked = log.starts_with(&mask);
        let shown = log.strip_prefix(&mask).unwrap_or(&log).to_owned();
        assert!(self.secret.is_empty() || !shown.contains(&self.secret), "the secret is shown: {shown}");
        let summary = std::fs::read_to_string(self.folder.path().join("GITHUB_STEP_SUMMARY")).unwrap_or_default();
        let outputs = outputs(self.reader, self.folder.path());
        Ended { code: output.status.code().expect("an exit code"), masked, log: shown, outputs, summary }
    }
}

/// The outputs so far, under GitHub's names.
fn outputs(reader: Reader, folder: &Path) -> BTreeMap<String, String> {
    let file: PathBuf = folder.join(if reader == Reader::GitHub { "GITHUB_OUTPUT" } else { "lockstep.env" });
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let pairs = text.lines().map(|line| line.split_once('=').unwrap_or_else(|| panic!("no output: {line}")));
    let set: BTreeMap<_, _> =
        pairs.map(|(name, value)| (name.trim_start_matches("LOCKSTEP_").to_lowercase(), value.to_owned())).collect();
    let declared = &CiJob::action()["outputs"];
    for name in set.keys() {
        assert_eq!(declared[name]["value"], format!("${{{{ steps.deploy.outputs.{name} }}}}"));
    }
    set
}

impl Ended {
    /// The log as GitHub's runner would take it: lines that are shown, and commands that are carried out.
    pub(super) fn taken(&self) -> (Vec<&str>, Vec<&str>) {
        let (mut shown, mut commands, mut stopped) = (Vec::new(), Vec::new(), None);
        for line in self.log.lines() {
            let trimmed = line.trim_start();
            if let Some(token) = &stopped {
                if trimmed == format!("::{token}::") {
                    stopped = None;
                } else {
                    shown.push(line);
                }
            } else if let Some(token) = trimmed.strip_prefix("::stop-commands::") {
                stopped = Some(token.to_owned());
            } else if trimmed.starts_with("::") || line.contains("##[") {
                commands.push(line);
            } else {
                shown.push(line);
            }
        }
        assert!(stopped.is_none(), "commands of later steps would not be carried out: {}", self.log);
        (shown, commands)
    }
}
