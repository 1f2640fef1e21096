//! What the process says to the script that called it.

use std::process::ExitCode;

use crate::wire::Outcome;

/// The exit codes, each with one meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// The command did what it was asked; of `deploy`: the job succeeded.
    Done,
    /// The job ended otherwise: failed, canceled, timed out, lost.
    NotSucceeded,
    /// Wrong usage or configuration; asking again in the same way cannot help.
    Usage,
    /// Refused: credentials, frozen, busy, too many attempts.
    Refused,
    /// The client's own timeout passed; the job goes on.
    TimedOut,
    /// A newer request took the job's place.
    Superseded,
    /// The dispatcher could not be reached, or gave no usable answer.
    NotReached,
    /// Ended by a signal, of this number; the job goes on.
    Signal(u8),
}

impl Exit {
    /// The number, as the contract of the command line has it.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::NotSucceeded => 1,
            Self::Usage => 2,
            Self::Refused => 3,
            Self::TimedOut => 4,
            Self::Superseded => 5,
            Self::NotReached => 6,
            Self::Signal(number) => 128 + number,
        }
    }

    /// What a job's outcome comes to. Only `succeeded` is green.
    pub fn of(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Succeeded => Self::Done,
            Outcome::Failed | Outcome::Canceled | Outcome::TimedOut | Outcome::Lost => Self::NotSucceeded,
            Outcome::Superseded => Self::Superseded,
        }
    }
}

/// Why a command did not do what it was asked: for a person, on standard error. Never holds a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What it comes to.
    pub exit: Exit,
    /// What happened, and to which thing.
    pub what: String,
    /// What to do.
    pub hint: Option<String>,
}

impl Fault {
    /// Wrong usage or configuration.
    pub fn usage(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, what: what.into(), hint: Some(hint.into()) }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table() {
        for (outcome, code) in [
            (Outcome::Succeeded, 0),
            (Outcome::Failed, 1),
            (Outcome::Canceled, 1),
            (Outcome::TimedOut, 1),
            (Outcome::Lost, 1),
            (Outcome::Superseded, 5),
        ] {
            assert_eq!(Exit::of(outcome).code(), code, "{outcome}");
        }
        for (exit, code) in [
            (Exit::Usage, 2),
            (Exit::Refused, 3),
            (Exit::TimedOut, 4),
            (Exit::NotReached, 6),
            (Exit::Signal(2), 130),
            (Exit::Signal(15), 143),
        ] {
            assert_eq!(exit.code(), code, "{exit:?}");
        }
    }
}
