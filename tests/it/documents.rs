//! The documents name every key, command and option that there is, and none that there is not.

use std::collections::BTreeSet;
use std::process::Command;

use lockstep::config::DEFAULT;
use regex::Regex;

fn found(pattern: &str, text: &str) -> BTreeSet<String> {
    let pattern = Regex::new(&format!("(?m){pattern}")).expect("a pattern");
    pattern.captures_iter(text).map(|found| found[1].to_owned()).collect()
}

/// The keys of the default file, those that are commented out as well, and the default as it stands there.
fn keys() -> Vec<(String, Option<String>)> {
    let mut section = String::new();
    let mut keys = Vec::new();
    let key = Regex::new("^(# )?([a-z_]+) = (.*)$").expect("a pattern");
    for line in DEFAULT.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name.to_owned();
            if name == "runner.actions" {
                keys.push((name.to_owned(), None));
            }
        } else if let Some(found) = key.captures(line).filter(|_| section != "runner.actions") {
            let name = &found[2];
            let name = if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") };
            let value = found[3].split("  #").next().unwrap_or_default().trim();
            let plain = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
            keys.push((name, found.get(1).is_none().then(|| plain.to_owned())));
        }
    }
    keys
}

#[test]
fn every_key_is_documented_with_its_default() {
    let document = include_str!("../../docs/configuration.md");
    let keys = keys();
    assert!(keys.len() > 30, "{keys:?}");
    for (key, default) in &keys {
        let row = match default {
            Some(default) => format!("| `{key}` | `{default}` | "),
            None => format!("| `{key}` | "),
        };
        assert!(document.lines().any(|line| line.starts_with(&row)), "docs/configuration.md lacks: {row}");
    }
    let keys: BTreeSet<String> = keys.into_iter().map(|(key, _)| key).collect();
    let documented = found(r"^\| `([a-z_]+(?:\.[a-z_]+)?)` \|", document);
    assert_eq!(documented.difference(&keys).collect::<Vec<_>>(), Vec::<&String>::new(), "not a key");
}

fn help(command: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_lockstep")).args(command).arg("--help").output().expect("it runs");
    assert!(output.status.success(), "{command:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The commands that a help lists.
fn commands(help: &str) -> Vec<String> {
    let list = help.split("Commands:\n").nth(1).unwrap_or_default();
    let names =
        list.lines().take_while(|line| line.starts_with("  ")).filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

#[test]
fn every_command_and_option_is_documented() {
    let document = include_str!("../../docs/commands.md");
    let mut lines = Vec::new();
    for name in commands(&help(&[])) {
        let inner = commands(&help(&[&name]));
        match inner.is_empty() {
            true => lines.push(vec![name]),
            false => lines.extend(inner.into_iter().map(|inner| vec![name.clone(), inner])),
        }
    }
    assert!(lines.len() >= 13, "{lines:?}");
    let mut options = BTreeSet::new();
    for line in &lines {
        let row = format!("| `lockstep {}", line.join(" "));
        let there = document
            .lines()
            .any(|text| text.strip_prefix(&row).is_some_and(|rest| rest.starts_with('`') || rest.starts_with(" <")));
        assert!(there, "docs/commands.md lacks: {row}");
        let words: Vec<&str> = line.iter().map(String::as_str).collect();
        // Some commands have a --version of their own; it has no -V.
        options.extend(found(r"^ +(?:-[^V], )?(--[a-z-]+)", &help(&words)));
    }
    options.remove("--help");
    let documented = found(r"(--[a-z][a-z-]+)", document);
    let documented: BTreeSet<String> = documented.into_iter().filter(|option| option != "--help").collect();
    assert_eq!(documented, options, "docs/commands.md and --help");
}
