//! What to do next with a job, by what is recorded about it and what the engine shows.
//!
//! This is the whole rule, for a fresh job, an adopted one and one after a rebuild alike: the supervisor asks it again after
//! every step that it takes. It decides nothing on a clock, and nothing on an engine that was not reached or is another one.

use super::ids::JobId;
use super::job::{Outcome, Record, State, outcome_of};

/// What the engine shows of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Created, never started.
    Created,
    /// Running (or paused, or restarting: it may act).
    Running,
    /// Ended with this exit code.
    Ended {
        /// The exit code.
        exit_code: i64,
    },
    /// Being removed or stuck in removal: may neither be used nor counted as gone.
    Dying,
}

/// What the engine shows of the containers that matter to a job: its recorded one, or, when none is recorded, the one that
/// bears the name of its inventory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Evidence {
    /// The engine was not reached, or it is not the engine that the record names: nothing is known.
    Unknown,
    /// This engine has no such container.
    Absent,
    /// There is one, of this job.
    Own {
        /// Its id.
        container: String,
        /// What it does.
        phase: Phase,
    },
    /// The inventory's name is taken by another job's container.
    Foreign {
        /// Its id.
        container: String,
        /// What it does.
        phase: Phase,
        /// The job on its label.
        job: JobId,
        /// Whether that job's record says that it is over, or there is none.
        over: bool,
    },
}

/// The next step for a job's supervisor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing can be said now: look again later.
    Wait,
    /// Create, confirm and start a container.
    Launch,
    /// Forget and remove, without force, a container that was never started; then look again.
    Discard {
        /// Which one.
        container: String,
    },
    /// Record this container, which runs or ran without being recorded, as the job's own; then look again.
    Recognize {
        /// Which one.
        container: String,
    },
    /// Take in the output of the recorded container to its end, and its exit code.
    Follow,
    /// The exit code is recorded: rename the container, complete the output, set the outcome and free the lock.
    Finish(Outcome),
    /// There is no container: set the outcome and free the lock.
    End {
        /// The outcome.
        outcome: Outcome,
        /// Why, for people.
        reason: &'static str,
    },
    /// Move another job's ended container out of the way; then look again.
    Clear {
        /// Which one.
        container: String,
    },
    /// The job is over; nothing is left to do for it.
    Leave,
}

/// The rule.
pub fn next_step(record: &Record, evidence: &Evidence) -> Step {
    match record.state {
        State::Ended(_) | State::Queued => return Step::Leave,
        State::Starting | State::Running | State::Canceling => {}
    }
    // Once the exit code is recorded the outcome is settled, whatever has become of the container since.
    if let Some(exit_code) = record.exit_code {
        return Step::Finish(outcome_of(record.intent, exit_code));
    }
    match (&record.container, evidence) {
        (_, Evidence::Unknown) => Step::Wait,
        (Some(_), Evidence::Absent) => {
            Step::End { outcome: Outcome::Lost, reason: "the container is gone and nobody saw its exit code" }
        }
        (None, Evidence::Absent) => match record.intent {
            None => Step::Launch,
            Some(intent) => Step::End { outcome: intent.outcome(), reason: "ended before its container was started" },
        },
        (recorded, Evidence::Own { container, phase }) => match phase {
            Phase::Created => Step::Discard { container: container.clone() },
            Phase::Dying => Step::Wait,
            Phase::Running | Phase::Ended { .. } => match recorded {
                Some(_) => Step::Follow,
                None => Step::Recognize { container: container.clone() },
            },
        },
        // A recorded container is looked at by its id, so it is never foreign; should it be, nothing is known.
        (Some(_), Evidence::Foreign { .. }) => Step::Wait,
        (None, Evidence::Foreign { container, phase, over, .. }) => match (phase, over) {
            (Phase::Ended { .. }, true) => Step::Clear { container: container.clone() },
            (Phase::Created, true) => Step::Discard { container: container.clone() },
            // Its own supervisor, or the one that adopts it, will settle it.
            (Phase::Created | Phase::Ended { .. }, false) | (Phase::Running | Phase::Dying, _) => Step::Wait,
        },
    }
}
