//! Sorting what goes wrong with Docker: "I don't know" apart from answers, and answers told so that one can act on them.
//!
//! Docker says which is which only in part. What it answers to a start that cannot be, by version 20.10: 400 for a command that is
//! not there or a mount that does not fit, 404 for a network that is not there, 500 for a user or a logging driver
//! that is not there; and 500 as well when memory or a file descriptor was wanting, which may pass. So the text decides there.

use bollard::errors::Error;

use crate::engine::{Cause, EngineError};

/// What a call came to when it did not do what it was asked: an answer with its HTTP status, or none.
#[derive(Debug)]
pub(super) enum Failure {
    /// The engine answered.
    Answer {
        /// HTTP status, from 400 on.
        status: u16,
        /// Its message.
        message: String,
    },
    /// No answer, or none that can be read.
    Silence(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::DockerResponseServerError { status_code, message } => Self::Answer { status: status_code, message },
            Error::RequestTimeoutError => Self::Silence("no reply in time".to_owned()),
            other => Self::Silence(chain(&other)),
        }
    }
}

impl Failure {
    /// Whether the container is there and the path in it is not.
    pub(super) fn is_missing_path(&self) -> bool {
        matches!(self, Self::Answer { status: 404, message } if !names_no_container(message))
    }

    /// For calls that have no answers of their own: a missing container, the engine's own trouble, else a refusal.
    pub(super) fn sort(self, doing: &'static str, container: &str) -> EngineError {
        match self {
            Self::Silence(cause) => EngineError::NotReached { doing, cause },
            Self::Answer { status: 404, message } if names_no_container(&message) => {
                EngineError::NoContainer { container: container.to_owned() }
            }
            Self::Answer { status: 408 | 429 | 500.., message } => EngineError::NotReached { doing, cause: message },
            Self::Answer { message, .. } => EngineError::Refused { doing, cause: message.into() },
        }
    }

    /// For create and start, where 500 is often an answer about what was asked for.
    pub(super) fn sort_launch(self, doing: &'static str, container: &str) -> EngineError {
        match self {
            Self::Answer { status: 400.., message } if may_pass(&message) => {
                EngineError::NotReached { doing, cause: message }
            }
            Self::Answer { status: 404, message } if names_no_container(&message) => {
                EngineError::NoContainer { container: container.to_owned() }
            }
            Self::Answer { status: 400..=500, message } => EngineError::Refused { doing, cause: explain(&message) },
            other => other.sort(doing, container),
        }
    }
}

/// The text of a refusal.
pub(super) fn message(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Refusal {
        message: String,
    }
    match serde_json::from_slice::<Refusal>(body) {
        Ok(refusal) => refusal.message,
        Err(_) => String::from_utf8_lossy(body).trim().to_owned(),
    }
}

/// Whether a start was given up before the container's process began: by runc, in words that every version of Docker hands on.
pub(super) fn never_ran(message: &str) -> bool {
    message.contains("OCI runtime create failed")
}

/// The network in which a container's name is taken by an endpoint that no container has.
pub(super) fn network_of_leftover(message: &str) -> Option<&str> {
    let (_, network) = message.split_once("endpoint with name ")?.1.split_once(" already exists in network ")?;
    Some(network.trim())
}

fn names_no_container(message: &str) -> bool {
    message.to_ascii_lowercase().contains("no such container")
}

/// Whether a refusal to launch is about the engine's condition of the moment rather than about what was asked for.
fn may_pass(message: &str) -> bool {
    const SIGNS: [&str; 15] = [
        "cannot allocate memory",
        "resource temporarily unavailable",
        "no space left on device",
        "too many open files",
        "device or resource busy",
        "deadline exceeded",
        "i/o timeout",
        "timed out",
        "connection refused",
        "connection reset",
        "transport is closing",
        "ttrpc: closed",
        "no available ipv4 addresses",
        "shutting down",
        // See `network_of_leftover`.
        "already exists in network",
    ];
    let message = message.to_ascii_lowercase();
    SIGNS.iter().any(|sign| message.contains(sign))
}

/// What to do about a refusal, and the engine's own words without the layers they came through.
fn explain(message: &str) -> Cause {
    let has = |text: &str| message.contains(text);
    let advice = if has("executable file not found") || (has("exec: ") && has("no such file or directory")) {
        "the image has no such command; see runner.actions and runner.image"
    } else if has("exec: ") && has("permission denied") {
        "the image's user may not execute the command; see runner.actions and runner.image"
    } else if has("network ") && has("not found") {
        "there is no such network; create it or see runner.network"
    } else if has("bind source path does not exist") || has("invalid mount") || has("error mounting") {
        "a mount cannot be made; see runner.mounts (sources are paths of the engine's host)"
    } else if has("inimum memory limit") {
        "see runner.memory"
    } else if has("max-buffer-size") {
        "the engine's own log-opts set max-buffer-size, which can lose output; take it out of daemon.json"
    } else if has("unable to find user") || has("unable to find group") {
        "the image names a user that it does not have; see runner.image"
    } else {
        ""
    };
    let said = message.rsplit("unable to start container process: ").next().unwrap_or(message);
    Cause { advice, said: said.trim_end_matches(": unknown").to_owned() }
}

/// An error with its sources, without saying anything twice.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let part = error.to_string();
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(status: u16, message: &str) -> EngineError {
        Failure::Answer { status, message: message.to_owned() }.sort_launch("start the container", "c")
    }

    #[test]
    fn a_launch_that_can_never_be_is_refused_with_advice() {
        let runc = "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: ";
        for (status, message, advice) in [
            (400, format!("{runc}exec: \"nope\": executable file not found in $PATH: unknown"), "runner.actions"),
            (400, format!("{runc}exec: \"/nope\": stat /nope: no such file or directory: unknown"), "runner.actions"),
            (400, format!("{runc}exec: \"/etc\": permission denied: unknown"), "runner.actions"),
            (404, "network nope not found".to_owned(), "runner.network"),
            (
                400,
                "invalid mount config for type \"bind\": bind source path does not exist: /x".to_owned(),
                "runner.mounts",
            ),
            (400, "Minimum memory limit allowed is 6MB".to_owned(), "runner.memory"),
            (500, "unable to find user nosuch: no matching entries in passwd file".to_owned(), "runner.image"),
        ] {
            let EngineError::Refused { cause, .. } = launch(status, &message) else { panic!("{message}") };
            assert!(cause.advice.contains(advice), "{cause}");
            assert!(!cause.said.contains("shim"), "{cause}");
            assert!(!launch(status, &message).told().contains(&cause.said), "its own words are for the log: {cause}");
        }
    }

    #[test]
    fn a_leftover_names_its_network() {
        let message = "endpoint with name lockstep-449a816f already exists in network none";
        assert_eq!(network_of_leftover(message), Some("none"));
        assert_eq!(network_of_leftover("network none not found"), None);
    }

    #[test]
    fn what_may_pass_is_not_an_answer() {
        for (status, message) in [
            (500, "runc create failed: fork/exec: resource temporarily unavailable"),
            (500, "mkdir /var/lib/docker/x: no space left on device"),
            (503, "anything"),
            (500, "context deadline exceeded"),
        ] {
            assert!(launch(status, message).is_transient(), "{message}");
        }
        assert!(Failure::Answer { status: 500, message: "driver failed".into() }.sort("remove", "c").is_transient());
        assert!(matches!(launch(404, "No such container: c"), EngineError::NoContainer { .. }));
    }
}
