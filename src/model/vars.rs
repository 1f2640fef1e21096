//! Extra variables of a request: refused unless the app's entry names them.

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::{Map, Value};

use super::app::VarRule;
use super::ids::Word;

/// The longest value of one variable, in bytes of its text.
pub const VALUE_MAX: usize = 4096;
/// A secret value must be long enough for masking it to leave the rest of the output readable, in bytes.
pub const SECRET_VALUE_MIN: usize = 4;

/// Whether a name is kept from requests: `ansible_*` would turn a deployment into something else, `lockstep_*` is ours.
pub fn is_reserved(name: &Word) -> bool {
    let name = name.as_str().to_ascii_lowercase();
    name.starts_with("ansible_") || name.starts_with("lockstep_")
}

/// Whether Ansible takes it for a variable's name.
pub fn is_identifier(name: &Word) -> bool {
    let name = name.as_str();
    !name.starts_with(|first: char| first.is_ascii_digit())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// The pattern, anchored at both ends, with a bound on its size.
pub fn compile(pattern: &str) -> Result<Regex, regex::Error> {
    // It must be one expression before it is wrapped: `a)|(b` is none, and would get out of the anchors.
    bounded(pattern)?;
    bounded(&format!(r"\A(?:{pattern})\z"))
}

fn bounded(pattern: &str) -> Result<Regex, regex::Error> {
    regex::RegexBuilder::new(pattern).size_limit(1 << 20).build()
}

/// Why variables were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VarError {
    /// The app's entry does not name it.
    #[error("variable \"{0}\" is not one that this app accepts; its entry in the feed must name it under vars")]
    NotAccepted(String),
    /// Not a string, a number or a boolean.
    #[error("variable \"{0}\" must be a string, a number or true/false")]
    NotScalar(String),
    /// Too long.
    #[error("variable \"{0}\" is longer than {VALUE_MAX} bytes")]
    TooLong(String),
    /// A secret that cannot be masked.
    #[error("variable \"{0}\" is declared secret and must have at least {SECRET_VALUE_MIN} bytes")]
    TooShort(String),
    /// The value does not match.
    #[error("variable \"{0}\" does not match the pattern that the app's entry gives for it")]
    Mismatch(String),
}

/// Checks a request's variables against the app's rules. Returns the values to be masked in the output.
pub fn check(vars: &Map<String, Value>, rules: &BTreeMap<Word, VarRule>) -> Result<Vec<String>, VarError> {
    let mut masks = Vec::new();
    for (name, value) in vars {
        let shown = || name.chars().filter(|c| !c.is_control()).take(64).collect::<String>();
        let rule = Word::try_from(name.clone())
            .ok()
            .filter(|word| !is_reserved(word))
            .and_then(|word| rules.get(&word))
            .ok_or_else(|| VarError::NotAccepted(shown()))?;
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            Value::Bool(flag) => flag.to_string(),
            Value::Null | Value::Array(_) | Value::Object(_) => return Err(VarError::NotScalar(shown())),
        };
        if text.len() > VALUE_MAX {
            return Err(VarError::TooLong(shown()));
        }
        let matches =
            rule.pattern.as_deref().is_none_or(|pattern| compile(pattern).is_ok_and(|regex| regex.is_match(&text)));
        if !matches {
            return Err(VarError::Mismatch(shown()));
        }
        if rule.secret {
            if text.len() < SECRET_VALUE_MIN {
                return Err(VarError::TooShort(shown()));
            }
            masks.push(text);
        }
    }
    Ok(masks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pattern_cannot_get_out_of_its_anchors() {
        for pattern in ["a)|(b", "a)|(?:b", ")(", "(?x:a"] {
            assert!(compile(pattern).is_err(), "{pattern}");
        }
        assert!(!compile("a|b").expect("a pattern").is_match("ax"));
    }

    #[test]
    fn only_named_and_matching_variables_pass() {
        let rules: BTreeMap<Word, VarRule> = serde_json::from_value(json!({
            "version": {"pattern": "[0-9]+\\.[0-9]+"}, "key": {"secret": true}, "ansible_user": {},
        }))
        .expect("rules");
        let check = |vars: Value| check(vars.as_object().expect("an object"), &rules);
        assert_eq!(check(json!({})), Ok(vec![]));
        assert_eq!(check(json!({"version": "1.2"})), Ok(vec![]));
        assert_eq!(check(json!({"version": 1.2, "key": "hush"})), Ok(vec!["hush".to_owned()]));
        assert_eq!(check(json!({"version": "1.2\n"})), Err(VarError::Mismatch("version".into())));
        assert_eq!(check(json!({"version": "x1.2"})), Err(VarError::Mismatch("version".into())));
        assert_eq!(check(json!({"version": [1]})), Err(VarError::NotScalar("version".into())));
        assert_eq!(check(json!({"other": "1"})), Err(VarError::NotAccepted("other".into())));
        assert_eq!(check(json!({"ansible_user": "root"})), Err(VarError::NotAccepted("ansible_user".into())));
        assert_eq!(check(json!({"ANSIBLE_USER": "root"})), Err(VarError::NotAccepted("ANSIBLE_USER".into())));
        assert_eq!(check(json!({"key": "abc"})), Err(VarError::TooShort("key".into())));
        assert_eq!(check(json!({"key": "x".repeat(5000)})), Err(VarError::TooLong("key".into())));
    }
}
