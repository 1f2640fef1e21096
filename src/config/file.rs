//! The file's text: its values, and on which line each of its keys stands.

use std::collections::BTreeMap;

use toml::Table;
use toml::de::{DeTable, DeValue};

/// Holds keys of its own, which are no settings by themselves.
const MAP: &str = "runner.actions";

/// A configuration file that was read.
#[derive(Debug, Default)]
pub(super) struct File {
    pub(super) values: Table,
    /// Every key, [`MAP`] as one, and its line, from 1.
    pub(super) lines: BTreeMap<String, usize>,
}

impl File {
    /// Reads a text. Otherwise every fault of its form, with its line; never the text of the line, which may hold a secret.
    pub(super) fn read(text: &str) -> Result<Self, Vec<(usize, String)>> {
        let line = |position: usize| 1 + text.bytes().take(position).filter(|byte| *byte == b'\n').count();
        let (table, faults) = DeTable::parse_recoverable(text);
        let mut faults: Vec<_> = faults
            .iter()
            .map(|fault| (fault.span().map_or(1, |span| line(span.start)), fault.message().to_owned()))
            .collect();
        let values = text.parse().unwrap_or_else(|error: toml::de::Error| {
            if faults.is_empty() {
                faults.push((error.span().map_or(1, |span| line(span.start)), error.message().to_owned()));
            }
            Table::new()
        });
        if !faults.is_empty() {
            return Err(faults);
        }
        let mut lines = BTreeMap::new();
        collect(table.get_ref(), "", &line, &mut lines);
        Ok(Self { values, lines })
    }
}

fn collect(table: &DeTable<'_>, prefix: &str, line: &dyn Fn(usize) -> usize, into: &mut BTreeMap<String, usize>) {
    for (name, value) in table {
        let key = if prefix.is_empty() { name.get_ref().to_string() } else { format!("{prefix}.{}", name.get_ref()) };
        match value.get_ref() {
            DeValue::Table(inner) if key != MAP => collect(inner, &key, line, into),
            _ => {
                into.insert(key, line(name.span().start));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_have_lines() {
        let file = File::read("a = 1\n[job]\n\nb = 2\n[runner.actions]\nx = \"y\"\n").expect("a file");
        let lines: Vec<_> = file.lines.iter().map(|(key, line)| (key.as_str(), *line)).collect();
        assert_eq!(lines, [("a", 1), ("job.b", 4), ("runner.actions", 5)]);
    }

    #[test]
    fn every_fault_has_a_line_and_shows_no_value() {
        for text in [
            "\n[auth]\npepper = \"hush-hush",
            "\n\npepper = hush-hush",
            "\n\npepper = \"hush-hush\" x",
            "\n\npepper \"hush-hush\"",
        ] {
            let faults = File::read(text).expect_err("it is wrong");
            assert!(faults.iter().all(|(line, _)| *line == 3), "{faults:?}");
            assert!(!format!("{faults:?}").contains("hush"), "{faults:?}");
        }
        let faults = File::read("a = \nb = 1\nb = 2\n").expect_err("two faults");
        assert_eq!(faults.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [1, 3], "{faults:?}");
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(text in any::<String>(), piece in "[a-z=\\[\\]\"'{}.\n 0-9]{0,40}") {
            let _ = File::read(&text).and(File::read(&piece));
        }
    }
}
