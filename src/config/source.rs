//! Where values come from: the environment first, then the file, then the default file. Collects what is wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use toml::{Table, Value};

use super::file::File;

/// What variables that are ours begin with.
const PREFIX: &str = "LOCKSTEP_";
/// Secrets, which can also be given as `…_FILE`.
const SECRETS: [&str; 6] =
    ["auth.pepper", "auth.feed_token", "auth.operators", "redis.url", "redis.password", "runner.registry_password"];
/// Keys without a default, next to those of the default file.
const WITHOUT_DEFAULT: [&str; 10] = [
    "handover.socket",
    "tls.ca",
    "redis.password",
    "engine.host",
    "runner.registry_user",
    "runner.registry_password",
    "runner.network",
    "auth.pepper",
    "auth.feed_token",
    "egress.ca",
];
/// Variables that are the client's, or say where the configuration is.
const OTHER_VARIABLES: [&str; 10] = [
    "LOCKSTEP_CONFIG",
    "LOCKSTEP_LOG",
    "LOCKSTEP_LOG_FORMAT",
    "LOCKSTEP_URL",
    "LOCKSTEP_CA_CERT",
    "LOCKSTEP_TOKEN",
    "LOCKSTEP_DEPLOYMENT_ID",
    "LOCKSTEP_DEPLOYMENT_SECRET",
    "LOCKSTEP_ID_TOKEN",
    "LOCKSTEP_SSH_DIR",
];

/// What a configuration is read from, and what was wrong so far.
pub(super) struct Source {
    defaults: File,
    file: File,
    file_name: String,
    environment: BTreeMap<String, String>,
    /// The file has no form: what it was to say is not known.
    pub(super) broken: bool,
    /// What is wrong, a sentence each.
    pub(super) errors: Vec<String>,
}

/// A value and how to name the place it came from.
pub(super) struct Given {
    pub(super) value: Value,
    pub(super) place: String,
    /// From the environment: a text, whatever is wanted.
    pub(super) is_text: bool,
}

fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace(['.', '-'], "_").to_ascii_uppercase())
}

fn lookup<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    let mut parts = key.split('.');
    let mut value = table.get(parts.next()?)?;
    for part in parts {
        value = value.as_table()?.get(part)?;
    }
    Some(value)
}

impl Source {
    pub(super) fn new(
        defaults: &str,
        file: Option<(&str, &str)>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Self {
        let (file_name, text) = file.unwrap_or(("", ""));
        let (file, faults) =
            File::read(text).map_or_else(|faults| (File::default(), faults), |file| (file, Vec::new()));
        let mut source = Self {
            defaults: File::read(defaults).expect("the default file is part of the binary and is tested"),
            file,
            broken: !faults.is_empty(),
            file_name: file_name.to_owned(),
            environment: environment.into_iter().filter(|(name, _)| name.starts_with(PREFIX)).collect(),
            errors: faults.into_iter().map(|(line, what)| format!("{file_name}:{line}: {what}")).collect(),
        };
        source.refuse_unknown();
        source
    }

    /// A key or variable that is not known is an error, not a wish unheard: a misspelt limit would be no limit.
    fn refuse_unknown(&mut self) {
        let known: BTreeSet<&str> = self.defaults.lines.keys().map(String::as_str).chain(WITHOUT_DEFAULT).collect();
        for (key, line) in self.file.lines.iter().filter(|(key, _)| !known.contains(key.as_str())) {
            let hint = nearest(key, known.iter().copied());
            self.errors.push(format!("{}:{line}: {key} is not a key; {hint}", self.file_name));
        }
        let mut variables: BTreeSet<String> = known.iter().map(|key| variable(key)).collect();
        variables.extend(SECRETS.map(|key| format!("{}_FILE", variable(key))));
        variables.extend(OTHER_VARIABLES.map(str::to_owned));
        for name in self.environment.keys().filter(|name| !variables.contains(*name)) {
            let hint = nearest(name, variables.iter().map(String::as_str));
            self.errors.push(format!("environment: {name} is not known; {hint}"));
        }
    }

    /// Notes an error about a key.
    pub(super) fn wrong(&mut self, place: &str, what: impl std::fmt::Display) {
        self.errors.push(format!("{place}: {what}"));
    }

    /// The value of a key, from wherever it is given first. None: nowhere, or its file could not be read (noted).
    pub(super) fn get(&mut self, key: &str) -> Option<Given> {
        let name = variable(key);
        let file_variable = format!("{name}_FILE");
        let by_file = SECRETS.contains(&key).then(|| self.environment.get(&file_variable)).flatten().cloned();
        if let Some(text) = self.environment.get(&name).cloned() {
            if by_file.is_some() {
                self.wrong(&name, format_args!("is given, and so is {file_variable}; give one of them"));
            }
            return Some(Given { value: Value::String(text), place: name, is_text: true });
        }
        if let Some(path) = by_file {
            return match std::fs::read_to_string(Path::new(&path)) {
                Ok(text) => Some(Given {
                    value: Value::String(text.trim_end_matches(['\r', '\n']).to_owned()),
                    place: file_variable,
                    is_text: true,
                }),
                Err(error) => {
                    self.wrong(&file_variable, format_args!("{path} cannot be read: {error}"));
                    None
                }
            };
        }
        if let Some(value) = lookup(&self.file.values, key).cloned() {
            let line = self.file.lines.get(key).map(|line| format!(":{line}")).unwrap_or_default();
            return Some(Given { value, place: format!("{}{line} ({key})", self.file_name), is_text: false });
        }
        let value = lookup(&self.defaults.values, key)?.clone();
        Some(Given { value, place: format!("{key} (default)"), is_text: false })
    }

    /// A text; numbers and booleans of the file count as their text. None: not given (or noted as wrong).
    pub(super) fn text(&mut self, key: &str) -> Option<(String, String)> {
        let given = self.get(key)?;
        match given.value {
            Value::String(text) => Some((text, given.place)),
            Value::Integer(number) => Some((number.to_string(), given.place)),
            Value::Float(number) => Some((number.to_string(), given.place)),
            Value::Boolean(flag) => Some((flag.to_string(), given.place)),
            Value::Datetime(_) | Value::Array(_) | Value::Table(_) => {
                self.wrong(&given.place, "must be a text or a number");
                None
            }
        }
    }

    /// A text made into something by `read`; an error of it is noted. None: not given or wrong.
    pub(super) fn read<T>(&mut self, key: &str, read: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let (text, place) = self.text(key)?;
        match read(&text) {
            Ok(value) => Some(value),
            Err(what) => {
                self.wrong(&place, what);
                None
            }
        }
    }

    /// A list: an array in the file; commas (or lines) in the environment.
    pub(super) fn list(&mut self, key: &str) -> (Vec<String>, String) {
        let Some(given) = self.get(key) else { return (Vec::new(), key.to_owned()) };
        let items = match given.value {
            Value::String(text) if given.is_text => {
                let items = text.split([',', '\n']).map(str::trim);
                Some(items.filter(|item| !item.is_empty()).map(str::to_owned).collect())
            }
            Value::Array(items) => items.into_iter().map(|item| item.as_str().map(str::to_owned)).collect(),
            _ => None,
        };
        match items {
            Some(items) => (items, given.place),
            None => {
                self.wrong(&given.place, "must be a list of texts");
                (Vec::new(), given.place)
            }
        }
    }
}

/// A hint at the known word that is nearest to another: its last part in another section, or else the fewest edits. What is
/// far from all of them is not guessed at.
fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> String {
    let distance = |known: &&str| edits(word, known);
    let last = |key: &str| key.rsplit('.').next().map(str::to_owned);
    let known: Vec<&str> = known.collect();
    let moved = known.iter().find(|known| last(known) == last(word));
    let close = known
        .iter()
        .min_by_key(|known| distance(known))
        .filter(|known| distance(known) <= 1 + word.trim_start_matches(PREFIX).len() / 4);
    match close.or(moved) {
        Some(known) => format!("did you mean {known}?"),
        None => "lockstep serve --print-default-config shows all".to_owned(),
    }
}

fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let change = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}
