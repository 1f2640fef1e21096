//! The life of a job: `queued → starting → running → (canceling) → one outcome`.
//!
//! ```text
//!            lock taken            confirmed, started
//!  queued ───────────────▶ starting ────────────────▶ running
//!    │                        │  │                       │ │
//!    │ displaced: superseded  │  │ intent                │ │ intent recorded
//!    │ canceled               │  ▼                       │ ▼
//!    │                        │ canceling ◀──────────────│─┘
//!    ▼                        ▼      │                   ▼
//!  ended                    ended ◀──┘                 ended
//! ```
//!
//! An outcome is set once. Which one it is follows from what was recorded first: an intent (cancel, deadline) or the exit
//! code; `lost` means that the container is gone and nobody saw its exit code, and is never guessed to be anything else.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::ids::{Action, DeploymentId, Inventory, JobId, ReleaseId};
use super::lock::Fence;
use super::order::OrderId;

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Exit code 0.
    Succeeded,
    /// Any other exit code, or the container could not be started for a reason that will not pass.
    Failed,
    /// A cancel was recorded before the container ended.
    Canceled,
    /// A deadline was recorded before the container ended.
    TimedOut,
    /// A newer request of the same app and action took its place in the queue.
    Superseded,
    /// The container is gone and nobody saw its exit code.
    Lost,
}

/// Where a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Waits for the deploy lock of its inventory.
    Queued,
    /// Holds the lock; its container is not running yet.
    Starting,
    /// Its container has been started.
    Running,
    /// An intent to end it has been recorded; its container may still run.
    Canceling,
    /// Over.
    Ended(Outcome),
}

impl State {
    /// Whether the job is over.
    pub fn is_ended(self) -> bool {
        matches!(self, Self::Ended(_))
    }

    /// The outcome, once there is one.
    pub fn outcome(self) -> Option<Outcome> {
        match self {
            Self::Ended(outcome) => Some(outcome),
            Self::Queued | Self::Starting | Self::Running | Self::Canceling => None,
        }
    }
}

macro_rules! words {
    ($type:ty, $($value:pat => $word:literal),+ $(,)?; $($parse:literal => $made:expr),+ $(,)?) => {
        impl $type {
            /// The word for it in Redis, in the API and in logs.
            pub fn word(self) -> &'static str {
                match self { $($value => $word),+ }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.word())
            }
        }

        impl FromStr for $type {
            type Err = UnknownWord;

            fn from_str(text: &str) -> Result<Self, UnknownWord> {
                match text {
                    $($parse => Ok($made),)+
                    _ => Err(UnknownWord { what: stringify!($type) }),
                }
            }
        }
    };
}

/// A word that none of the known ones equals; seen only when something else than Lockstep wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a {what}")]
pub struct UnknownWord {
    /// What was expected.
    pub what: &'static str,
}

words! { Outcome,
    Outcome::Succeeded => "succeeded", Outcome::Failed => "failed", Outcome::Canceled => "canceled",
    Outcome::TimedOut => "timed_out", Outcome::Superseded => "superseded", Outcome::Lost => "lost";
    "succeeded" => Outcome::Succeeded, "failed" => Outcome::Failed, "canceled" => Outcome::Canceled,
    "timed_out" => Outcome::TimedOut, "superseded" => Outcome::Superseded, "lost" => Outcome::Lost,
}

words! { State,
    State::Queued => "queued", State::Starting => "starting", State::Running => "running", State::Canceling => "canceling",
    State::Ended(Outcome::Succeeded) => "succeeded", State::Ended(Outcome::Failed) => "failed",
    State::Ended(Outcome::Canceled) => "canceled", State::Ended(Outcome::TimedOut) => "timed_out",
    State::Ended(Outcome::Superseded) => "superseded", State::Ended(Outcome::Lost) => "lost";
    "queued" => State::Queued, "starting" => State::Starting, "running" => State::Running, "canceling" => State::Canceling,
    "succeeded" => State::Ended(Outcome::Succeeded), "failed" => State::Ended(Outcome::Failed),
    "canceled" => State::Ended(Outcome::Canceled), "timed_out" => State::Ended(Outcome::TimedOut),
    "superseded" => State::Ended(Outcome::Superseded), "lost" => State::Ended(Outcome::Lost),
}

/// What to do with a request whose inventory is taken.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, utoipa::ToSchema, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum WhenBusy {
    /// One runs and the newest one waits: a waiting request of the same app and action is displaced.
    #[default]
    Queue,
    /// Wait for one's turn; nobody is displaced.
    Fifo,
    /// Refuse.
    Reject,
}

words! { WhenBusy,
    WhenBusy::Queue => "queue", WhenBusy::Fifo => "fifo", WhenBusy::Reject => "reject";
    "queue" => WhenBusy::Queue, "fifo" => WhenBusy::Fifo, "reject" => WhenBusy::Reject,
}

/// Why a job is to end before its container does. Recorded before any signal is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Intent {
    /// Somebody with the right to it asked for it.
    Cancel,
    /// `job.start_timeout` passed before the container ran.
    StartTimeout,
    /// `job.run_timeout` passed.
    RunTimeout,
    /// `job.idle_timeout` passed without output.
    IdleTimeout,
    /// An operator has said that the engine it runs on will not come back.
    EngineGone,
}

words! { Intent,
    Intent::Cancel => "cancel", Intent::StartTimeout => "start_timeout",
    Intent::RunTimeout => "run_timeout", Intent::IdleTimeout => "idle_timeout", Intent::EngineGone => "engine_gone";
    "cancel" => Intent::Cancel, "start_timeout" => Intent::StartTimeout,
    "run_timeout" => Intent::RunTimeout, "idle_timeout" => Intent::IdleTimeout,
    "engine_gone" => Intent::EngineGone,
}

impl Intent {
    /// The outcome that the intent leads to.
    pub fn outcome(self) -> Outcome {
        match self {
            Self::Cancel => Outcome::Canceled,
            Self::StartTimeout | Self::RunTimeout | Self::IdleTimeout => Outcome::TimedOut,
            Self::EngineGone => Outcome::Lost,
        }
    }
}

/// The outcome of a job whose container has ended, by what was recorded first.
///
/// `intent` is what the record held when the exit code was written, so an intent that came later is not in it.
pub fn outcome_of(intent: Option<Intent>, exit_code: i64) -> Outcome {
    match (intent, exit_code) {
        // An exit code is there, so the engine was not gone.
        (None | Some(Intent::EngineGone), 0) => Outcome::Succeeded,
        (None | Some(Intent::EngineGone), _) => Outcome::Failed,
        (Some(intent), _) => intent.outcome(),
    }
}

/// Everything recorded about a job, without its output. Times are milliseconds since 1970 by Redis' clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The job.
    pub id: JobId,
    /// The app that it was asked for.
    pub deployment_id: DeploymentId,
    /// What it deploys to.
    pub inventory: Inventory,
    /// What its container is asked to do.
    pub action: Action,
    /// What the request wanted if the inventory was taken.
    pub when_busy: WhenBusy,
    /// Where it is.
    pub state: State,
    /// The number of the current supervisor's lease; grows by one with every adoption. 0: never held the lock.
    pub lease: u64,
    /// The dispatcher that supervises it.
    pub owner: Option<String>,
    /// The fence it was given with the lock.
    pub fence: Option<Fence>,
    /// The engine's own id, recorded with the container.
    pub engine: Option<String>,
    /// The container, once confirmed.
    pub container: Option<String>,
    /// Digest (or id) of the image that the container was made from.
    pub image_digest: Option<String>,
    /// A recorded wish to end it.
    pub intent: Option<Intent>,
    /// When the intent was recorded.
    pub intent_ms: Option<u64>,
    /// The container's exit code, once seen.
    pub exit_code: Option<i64>,
    /// Why it ended as it did, in words for people, where the exit code does not say it.
    pub reason: Option<String>,
    /// The job that took its place.
    pub superseded_by: Option<JobId>,
    /// The release that it was run for.
    pub release: Option<ReleaseId>,
    /// The order that it was run for.
    pub order: Option<OrderId>,
    /// When it was accepted.
    pub created_ms: u64,
    /// When it was given the lock.
    pub locked_ms: Option<u64>,
    /// When its container was started.
    pub started_ms: Option<u64>,
    /// When its outcome was set.
    pub ended_ms: Option<u64>,
    /// Where taking in its output stands.
    pub output: super::output::Position,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_has_one_word_and_reads_back() {
        let outcomes = [
            Outcome::Succeeded,
            Outcome::Failed,
            Outcome::Canceled,
            Outcome::TimedOut,
            Outcome::Superseded,
            Outcome::Lost,
        ];
        let states = [State::Queued, State::Starting, State::Running, State::Canceling]
            .into_iter()
            .chain(outcomes.map(State::Ended));
        for state in states {
            assert_eq!(state.word().parse(), Ok(state));
            assert_eq!(state.outcome().is_some(), state.is_ended());
        }
        assert!("success".parse::<State>().is_err());
    }

    #[test]
    fn the_exit_code_decides_unless_an_intent_came_first() {
        assert_eq!(outcome_of(None, 0), Outcome::Succeeded);
        assert_eq!(outcome_of(None, 137), Outcome::Failed);
        assert_eq!(outcome_of(Some(Intent::Cancel), 0), Outcome::Canceled);
        assert_eq!(outcome_of(Some(Intent::IdleTimeout), 143), Outcome::TimedOut);
    }
}
