//! `runner`: image, actions, mounts, environment and limits of containers.

use std::collections::BTreeMap;
use std::path::{Component, Path};
use std::str::FromStr;

use super::source::Source;
use super::{Runner, units};
use crate::engine::{Mount, Pull, RegistryLogin};
use crate::model::app::Secret;
use crate::model::ids::Action;

/// Where Lockstep puts a job's own files.
const OWN_FOLDER: &str = "/run/lockstep";
/// The least memory that a container can be started in, in bytes.
const MEMORY_MIN: u64 = 16 << 20;

pub(super) fn read(source: &mut Source) -> Option<Runner> {
    let image = source.read("runner.image", |text| {
        let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()) && !text.starts_with('-');
        plain.then(|| text.to_owned()).ok_or_else(|| "must be an image such as lockstep-runner:latest".to_owned())
    });
    let pull = source.read("runner.pull", |text| match text {
        "always" => Ok(Pull::Always),
        "missing" => Ok(Pull::Missing),
        "never" => Ok(Pull::Never),
        _ => Err("must be always, missing or never".into()),
    });
    let login = login(source);
    let network = source.text("runner.network").map(|(text, _)| text).filter(|text| !text.is_empty());
    let (texts, place) = source.list("runner.mounts");
    let mut mounts = Vec::new();
    for text in texts {
        match mount(&text) {
            Ok(mount) => mounts.push(mount),
            Err(what) => source.wrong(&place, what),
        }
    }
    let env = env(source);
    let actions = actions(source);
    let memory = source.read("runner.memory", |text| units::size(text, MEMORY_MIN));
    let millicpus = source.read("runner.cpus", units::millicpus);
    let pids = source.read("runner.pids", |text| match text.parse() {
        Ok(pids) if (16..=1_000_000).contains(&pids) => Ok(pids),
        _ => Err("must be a number from 16 to 1000000".into()),
    });
    let keep = source.read("runner.keep", units::duration);
    Some(Runner {
        image: image?,
        pull: pull?,
        login,
        actions,
        network,
        mounts,
        env,
        memory: memory?,
        millicpus: millicpus?,
        pids: pids?,
        keep: keep?,
    })
}

fn login(source: &mut Source) -> Option<RegistryLogin> {
    let user = source.text("runner.registry_user");
    let password = source.text("runner.registry_password");
    match (user, password) {
        (Some((user, _)), Some((password, _))) => Some(RegistryLogin { user, password: Secret::new(password) }),
        (None, None) => None,
        (Some((_, place)), None) | (None, Some((_, place))) => {
            source.wrong(&place, "runner.registry_user and runner.registry_password go together");
            None
        }
    }
}

fn mount(text: &str) -> Result<Mount, String> {
    let mut parts = text.split(':');
    let (Some(from), Some(to)) = (parts.next(), parts.next()) else {
        return Err(format!("\"{text}\" is not source:target[:ro][:secret]"));
    };
    for path in [from, to] {
        if !path.starts_with('/') || Path::new(path).components().any(|part| part == Component::ParentDir) {
            return Err(format!("\"{text}\": both paths must be absolute, without .."));
        }
    }
    if from.ends_with("docker.sock") || from.ends_with("containerd.sock") {
        return Err(format!(
            "\"{text}\": a runner container must not have the engine's socket, which is as good as root"
        ));
    }
    if Path::new(OWN_FOLDER).starts_with(to) || Path::new(to).starts_with(OWN_FOLDER) {
        return Err(format!("\"{text}\": this would hide {OWN_FOLDER}, where Lockstep puts the job's own files"));
    }
    let mut mount = Mount { source: from.into(), target: to.into(), read_only: false, secret: false };
    for option in parts {
        match option {
            "ro" => mount.read_only = true,
            "secret" => mount.secret = true,
            _ => return Err(format!("\"{text}\": options are ro and secret, not \"{option}\"")),
        }
    }
    Ok(mount)
}

/// Values are not shown in errors: they may be more private than whoever wrote them thought.
fn env(source: &mut Source) -> BTreeMap<String, String> {
    let (texts, place) = source.list("runner.env");
    let mut env = BTreeMap::new();
    for (index, text) in texts.iter().enumerate() {
        let number = index + 1;
        let named = text.split_once('=').filter(|(name, value)| is_variable(name) && !value.contains('\0'));
        match named {
            Some((name, _)) if name.starts_with("LOCKSTEP_") => {
                source.wrong(&place, format_args!("{name} is set by Lockstep itself"));
            }
            Some((name, value)) => {
                if env.insert(name.to_owned(), value.to_owned()).is_some() {
                    source.wrong(&place, format_args!("{name} is given twice"));
                }
            }
            None => source.wrong(&place, format_args!("entry {number} must be NAME=value")),
        }
    }
    env
}

fn is_variable(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn actions(source: &mut Source) -> BTreeMap<Action, Vec<String>> {
    let Some(given) = source.get("runner.actions") else { return BTreeMap::new() };
    let pairs: Vec<(String, String)> = match given.value {
        toml::Value::String(text) if given.is_text => text
            .split(';')
            .filter(|entry| !entry.trim().is_empty())
            .map(|entry| entry.split_once('=').unwrap_or((entry, "")))
            .map(|(name, template)| (name.trim().to_owned(), template.trim().to_owned()))
            .collect(),
        toml::Value::Table(table) => {
            table.into_iter().map(|(name, value)| (name, value.as_str().unwrap_or_default().to_owned())).collect()
        }
        _ => Vec::new(),
    };
    if pairs.is_empty() {
        source.wrong(
            &given.place,
            "at least one action is needed, such as app-deploy = \"app-deploy {inventory} {job_id}\"",
        );
    }
    let mut actions = BTreeMap::new();
    for (name, template) in pairs {
        let words: Vec<String> = template.split_whitespace().map(str::to_owned).collect();
        let left =
            ["{inventory}", "{job_id}", "{deployment_id}"].iter().fold(template, |text, known| text.replace(known, ""));
        match Action::from_str(&name) {
            Err(error) => source.wrong(&given.place, format_args!("the action's name \"{name}\" {error}")),
            Ok(_) if words.is_empty() => {
                source.wrong(&given.place, format_args!("action {name} must be a text: its argv"));
            }
            Ok(_) if left.contains(['{', '}']) => {
                source.wrong(
                    &given.place,
                    format_args!("action {name}: known are {{inventory}}, {{job_id}} and {{deployment_id}}"),
                );
            }
            Ok(action) => {
                if actions.insert(action, words).is_some() {
                    source.wrong(&given.place, format_args!("action {name} is given twice"));
                }
            }
        }
    }
    actions
}
