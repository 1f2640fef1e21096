//! Names: each is checked once, when it enters, and is a type of its own from then on.
//!
//! Names end up in argv, in Redis keys, in labels and in file paths. So the rule is narrow: letters, digits, `.`, `_` and
//! `-`, beginning with a letter or a digit. That excludes options (`-i`), paths (`../x`), blanks and control characters.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use ulid::{ULID_LEN, Ulid};

/// Why a text is not a name. The text itself is left out: it may be long or hostile; the caller knows which field it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing was given.
    #[error("is empty")]
    Empty,
    /// Longer than the rule allows.
    #[error("has {len} characters; at most {max} are allowed")]
    TooLong {
        /// Characters given.
        len: usize,
        /// Characters allowed.
        max: usize,
    },
    /// The first character is not a letter or a digit.
    #[error("must begin with a letter or a digit")]
    BadStart,
    /// A character outside the rule, by its position counted from 1.
    #[error("has a character at position {at} that is not allowed; allowed are letters, digits, '.', '_' and '-'")]
    BadCharacter {
        /// Position of the first such character.
        at: usize,
    },
    /// Not a ULID in its canonical form.
    #[error("is not a ULID (26 characters of Crockford's base 32, in upper case)")]
    NotUlid,
}

fn check_name(text: &str, max: usize) -> Result<(), NameError> {
    let first = text.bytes().next().ok_or(NameError::Empty)?;
    if text.len() > max {
        return Err(NameError::TooLong { len: text.chars().count(), max });
    }
    if !first.is_ascii_alphanumeric() {
        return Err(NameError::BadStart);
    }
    match text.bytes().position(|b| !(b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))) {
        None => Ok(()),
        Some(before) => Err(NameError::BadCharacter { at: before + 1 }),
    }
}

fn check_inventory(text: &str, max: usize) -> Result<(), NameError> {
    match text.split_once('/') {
        Some((environment, service)) => check_name(environment, Word::MAX).and(check_name(service, Word::MAX)),
        None => check_name(text, max - 1),
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $max:expr) => {
        name! { $(#[$doc])* $type, $max, check_name }
    };
    ($(#[$doc:meta])* $type:ident, $max:expr, $check:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// The most characters that this kind of name may have.
            pub const MAX: usize = $max;

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                $check(text, Self::MAX)?;
                Ok(Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                $check(&text, Self::MAX)?;
                Ok(Self(text))
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// Which app a request is about; unique in the feed. At most 128 characters.
    DeploymentId, 128
}
name! {
    /// The Ansible inventory that an app deploys to: the unit of mutual exclusion. At most 128 characters. That of a service of an
    /// environment is two names with a slash between, of at most 64 characters each.
    Inventory, 129, check_inventory
}
name! {
    /// What the container is asked to do, a key of `runner.actions`. At most 64 characters.
    Action, 64
}
name! {
    /// What separates one installation from another on the same engine and Redis. At most 32 characters.
    Instance, 32
}
name! {
    /// A variable of a playbook, the name of a person or a group, a part of a pipeline. At most 64 characters.
    Word, 64
}

impl Inventory {
    /// That of a service of an environment; `service` is a name.
    pub(super) fn of_environment(environment: &Word, service: &str) -> Self {
        Self(format!("{environment}/{service}"))
    }

    /// Whether it is that of a service of an environment, which no app deploys to.
    pub fn is_of_environment(&self) -> bool {
        self.0.contains('/')
    }
}

macro_rules! ulid {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $type(Ulid);

        impl $type {
            /// An id for a moment in milliseconds since 1970 and 80 bits of randomness (the upper bits of `random` are dropped).
            pub fn new(now_ms: u64, random: u128) -> Self {
                Self(Ulid::from_parts(now_ms, random))
            }

            /// The moment for which it was drawn, in milliseconds since 1970.
            pub fn ms(self) -> u64 {
                self.0.timestamp_ms()
            }
        }

        impl FromStr for $type {
            type Err = NameError;

            /// Takes the canonical form alone: one thing must not have two spellings, because its id is part of keys.
            fn from_str(text: &str) -> Result<Self, NameError> {
                let id = Ulid::from_string(text).map_err(|_| NameError::NotUlid)?;
                if id.array_to_str(&mut [0; ULID_LEN]) == text { Ok(Self(id)) } else { Err(NameError::NotUlid) }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.0.array_to_str(&mut [0; ULID_LEN]))
            }
        }

        impl Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

ulid! {
    /// The id of a job: a ULID, drawn by the dispatcher before anything is asked of Redis, so that a retry knows its own.
    JobId
}
ulid! {
    /// The id of a release: a ULID, drawn in the same way.
    ReleaseId
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_that_could_be_options_paths_or_noise_are_refused() {
        for (text, why) in [
            ("", NameError::Empty),
            ("-i", NameError::BadStart),
            ("../x", NameError::BadStart),
            (".hidden", NameError::BadStart),
            ("a b", NameError::BadCharacter { at: 2 }),
            ("a/../b", NameError::BadStart),
            ("a/b/c", NameError::BadCharacter { at: 2 }),
            ("a/", NameError::Empty),
            ("a\n", NameError::BadCharacter { at: 2 }),
            ("a\0", NameError::BadCharacter { at: 2 }),
            ("é", NameError::BadStart),
        ] {
            assert_eq!(text.parse::<Inventory>(), Err(why), "{text:?}");
        }
        assert_eq!("x".repeat(100_000).parse::<DeploymentId>(), Err(NameError::TooLong { len: 100_000, max: 128 }));
        assert!("app-one.epfl.ch".parse::<Inventory>().is_ok());
    }

    #[test]
    fn a_job_id_has_one_spelling() {
        let text = "01GZEC5GJHFKWMK4Z5A1NM9DPF";
        assert_eq!(text.parse::<JobId>().map(|id| id.to_string()), Ok(text.to_owned()));
        for bad in [
            "",
            "01GZEC5GJHFKWMK4Z5A1NM9DP",
            "01gzec5gjhfkwmk4z5a1nm9dpf",
            "01GZEC5GJHFKWMK4Z5A1NM9DPFF",
            "ZZZZZZZZZZZZZZZZZZZZZZZZZZ",
            "O1GZEC5GJHFKWMK4Z5A1NM9DPF",
        ] {
            assert_eq!(bad.parse::<JobId>(), Err(NameError::NotUlid), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_safe_name_or_an_error(text in any::<String>()) {
            if let Ok(name) = text.parse::<Inventory>() {
                prop_assert_eq!(name.as_str(), text.as_str());
                // One slash, between two names, is that of a service of an environment.
                let parts: Vec<&str> = text.split('/').collect();
                prop_assert!(parts.len() <= 2 && name.is_of_environment() == (parts.len() == 2));
                for part in parts {
                    let unsafe_part = part.contains([' ', '\n', ':', '{']) || part.starts_with(['-', '.']) || part.is_empty();
                    prop_assert!(!unsafe_part);
                }
            }
        }

        #[test]
        fn every_id_reads_back(ms in 0u64..(1 << 48), random in any::<u128>()) {
            let id = JobId::new(ms, random);
            prop_assert_eq!(id.to_string().parse::<JobId>(), Ok(id));
        }
    }
}
