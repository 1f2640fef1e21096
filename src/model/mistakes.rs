//! What is wrong with a file that people write: YAML, checked as a whole, with every mistake named by line and key.
//!
//! Two passes: [`parse`] takes what has the right form, with the place of each thing; a reader makes a value of it and collects all that
//! is wrong in [`Found`]. What is read is bounded, so that a file whose aliases multiply costs nothing.

use std::fmt;
use std::str::FromStr;

use serde::de::DeserializeOwned;
use serde_saphyr::{Location, Options, Spanned};

use super::ids::NameError;

/// The longest file that is read, in bytes.
pub const FILE_MAX: usize = 256 * 1024;
/// The most mistakes that are told at once.
const MISTAKES_MAX: usize = 20;

/// What is wrong with a file, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Line and column, counted from 1; 0: unknown.
    pub line: u64,
    /// See `line`.
    pub column: u64,
    /// What, with the key that it is about.
    pub what: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.what),
            line => write!(f, "line {line}, column {}: {}", self.column, self.what),
        }
    }
}

/// All that is wrong with a file; never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct Mistakes(pub Vec<Mistake>);

/// Takes what has the right form.
///
/// # Errors
/// What is wrong with the form: the first such place.
pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T, Mistakes> {
    if text.len() > FILE_MAX {
        let what = format!("the file has more than {FILE_MAX} bytes");
        return Err(Mistakes(vec![Mistake { line: 0, column: 0, what }]));
    }
    serde_saphyr::from_str_with_options(text, Options::default()).map_err(|error| form(&error, text))
}

fn form(error: &serde_saphyr::Error, file: &str) -> Mistakes {
    let (line, column) = error.location().map_or((0, 0), |at| (at.line(), at.column()));
    let text = error.without_snippet().to_string();
    // The library says the place as well, and what its own caller could do, behind what is wrong.
    let what = text.lines().next().unwrap_or_default();
    let ends = [" at line ", "; use ", ", set "];
    let end = ends.iter().filter_map(|end| what.find(end)).min().unwrap_or(what.len());
    let what = what[..end]
        .replace("invalid u32", "not a whole number")
        .replace("invalid u8", "not a whole number up to 255")
        .replace("expected sequence start", "must be a list")
        .replace("expected mapping start", "must be a mapping");
    // What is wrong with a key itself names it already.
    let of_value = ["must be a ", "not a whole number", "expected "].iter().any(|begins| what.starts_with(begins));
    let key = key_before(file, line, column).filter(|_| of_value);
    let what = key.map_or_else(|| what.clone(), |key| format!("{key}: {what}"));
    Mistakes(vec![Mistake { line, column, what }])
}

/// The key whose value begins at this place, if it stands on the same line.
fn key_before(file: &str, line: u64, column: u64) -> Option<&str> {
    let line = file.lines().nth(usize::try_from(line.checked_sub(1)?).ok()?)?;
    let width = usize::try_from(column.checked_sub(1)?).ok()?;
    let end = line.char_indices().nth(width).map_or(line.len(), |(at, _)| at);
    let key = line[..end].trim_end().strip_suffix(':')?.trim_end().trim_end_matches(['"', '\'']);
    key.rsplit(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '-' | '.'))).next().filter(|key| !key.is_empty())
}

/// What was found wrong so far.
#[derive(Default)]
pub struct Found(Vec<Mistake>);

impl Found {
    /// Something is wrong here.
    pub fn wrong(&mut self, at: Location, what: String) {
        self.0.push(Mistake { line: at.line(), column: at.column(), what });
    }

    /// Reads a name; none: it is no name, which is noted.
    pub fn name<T: FromStr<Err = NameError>>(&mut self, key: &str, text: &Spanned<String>) -> Option<T> {
        match text.value.parse() {
            Ok(name) => Some(name),
            Err(error) => {
                self.wrong(text.referenced, format!("{key} {error}"));
                None
            }
        }
    }

    /// What was read, if nothing was found wrong.
    ///
    /// # Errors
    /// All that was found, in the order of the file.
    pub fn or<T>(self, read: Option<T>) -> Result<T, Mistakes> {
        let Self(mut mistakes) = self;
        mistakes.sort_by_key(|mistake| (mistake.line, mistake.column));
        mistakes.truncate(MISTAKES_MAX);
        match read {
            Some(read) if mistakes.is_empty() => Ok(read),
            Some(_) | None => Err(Mistakes(mistakes)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn what_has_the_wrong_form_is_told_with_its_key() {
        for (text, told) in [
            ("a:\n  \"b\": x\n", "line 2, column 8: b: must be a list"),
            ("a: {x: [], größe€: y}\n", "line 1, column 20: must be a list"),
            ("größe: x\n", "line 1, column 8: größe: must be a mapping"),
            ("é: x\n", "line 1, column 4: é: must be a mapping"),
        ] {
            let wrong = parse::<BTreeMap<String, BTreeMap<String, Vec<String>>>>(text).expect_err(text);
            assert_eq!(wrong.to_string(), told, "{text}");
        }
    }
}
