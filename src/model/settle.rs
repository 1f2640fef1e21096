//! What to do next with a job, by what is recorded about it and what the engine shows.
//!
//! This is the whole rule, for a fresh job, an adopted one and one after a rebuild alike: the supervisor asks it again after
//! every step that it takes. It decides nothing on a clock, and nothing on an engine that was not reached or is another one.

use super::ids::JobId;
use super::job::{Intent, Outcome, Record, State, outcome_of};

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
    /// Started by an engine that died before it had noted so: it may have run, it may run still, and nobody will see an exit code.
    Unseen,
    /// Being removed or stuck in removal: may neither be used nor counted as gone.
    Dying,
}

impl Phase {
    /// Whether a process of it may be at work.
    pub fn may_run(self) -> bool {
        match self {
            Self::Running | Self::Dying | Self::Unseen => true,
            Self::Created | Self::Ended { .. } => false,
        }
    }
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
    /// The inventory's name is taken by a container that is not Lockstep's.
    Taken,
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
    /// There is no container, or one that the engine has lost sight of, which is laid to rest first: set the outcome and free the lock.
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

const UNSEEN: &str = "the engine died while it started the container, and cannot say whether it ran";

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
        (_, Evidence::Unknown) => match record.intent {
            Some(Intent::EngineGone) => {
                Step::End { outcome: Outcome::Lost, reason: "the engine that it ran on is gone for good" }
            }
            _ => Step::Wait,
        },
        (Some(_), Evidence::Absent) => {
            Step::End { outcome: Outcome::Lost, reason: "the container is gone and nobody saw its exit code" }
        }
        (None, Evidence::Absent) if record.intent.is_none() => Step::Launch,
        (None, Evidence::Absent) => ended_before_start(record),
        (recorded, Evidence::Own { container, phase }) => match phase {
            Phase::Created => Step::Discard { container: container.clone() },
            Phase::Dying => Step::Wait,
            Phase::Running | Phase::Ended { .. } | Phase::Unseen if recorded.is_none() => {
                Step::Recognize { container: container.clone() }
            }
            Phase::Running | Phase::Ended { .. } => Step::Follow,
            Phase::Unseen => Step::End { outcome: Outcome::Lost, reason: UNSEEN },
        },
        // A recorded container is looked at by its id, so it is never another's; should it be, nothing is known.
        (Some(_), Evidence::Foreign { .. } | Evidence::Taken) => Step::Wait,
        // Nothing of its own was confirmed, and nothing will be: whoever has the name need not be waited for.
        (None, Evidence::Foreign { .. } | Evidence::Taken) if record.intent.is_some() => ended_before_start(record),
        (None, Evidence::Taken) => Step::Wait,
        (None, Evidence::Foreign { container, phase, over, .. }) => match (phase, over) {
            (Phase::Ended { .. } | Phase::Unseen, true) => Step::Clear { container: container.clone() },
            (Phase::Created, true) => Step::Discard { container: container.clone() },
            // Its own supervisor, or the one that adopts it, will settle it.
            (Phase::Created | Phase::Ended { .. } | Phase::Unseen, false) | (Phase::Running | Phase::Dying, _) => {
                Step::Wait
            }
        },
    }
}

fn ended_before_start(record: &Record) -> Step {
    let outcome = record.intent.map_or(Outcome::Lost, Intent::outcome);
    Step::End { outcome, reason: "ended before its container was started" }
}

/// Why a job has failed, where its exit code says that and nothing is recorded: somebody or something has killed its container.
pub fn killed(record: &Record) -> Option<&'static str> {
    let of_itself = record.intent.is_none() && record.reason.is_none();
    (of_itself && record.exit_code == Some(137)).then_some("its container was killed (exit code 137)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::job::WhenBusy;
    use crate::model::output::Position;

    fn record(state: State) -> Record {
        Record {
            id: JobId::new(1, 1),
            deployment_id: "app".parse().expect("a name"),
            inventory: "inventory".parse().expect("a name"),
            action: "app-deploy".parse().expect("a name"),
            when_busy: WhenBusy::Queue,
            state,
            lease: 1,
            owner: None,
            fence: None,
            engine: None,
            container: None,
            image_digest: None,
            intent: None,
            intent_ms: None,
            exit_code: None,
            reason: None,
            superseded_by: None,
            release: None,
            order: None,
            created_ms: 0,
            locked_ms: None,
            started_ms: None,
            ended_ms: None,
            output: Position::default(),
        }
    }

    fn own(phase: Phase) -> Evidence {
        Evidence::Own { container: "c".into(), phase }
    }

    fn foreign(phase: Phase, over: bool) -> Evidence {
        Evidence::Foreign { container: "f".into(), phase, job: JobId::new(2, 2), over }
    }

    const ENDED: Phase = Phase::Ended { exit_code: 3 };

    #[test]
    fn without_a_recorded_container() {
        let fresh = record(State::Starting);
        let canceled = Record { intent: Some(Intent::Cancel), ..record(State::Canceling) };
        let c = || "c".to_owned();
        let f = || "f".to_owned();
        for (record, evidence, step) in [
            (&fresh, Evidence::Absent, Step::Launch),
            (&fresh, Evidence::Unknown, Step::Wait),
            (&fresh, own(Phase::Created), Step::Discard { container: c() }),
            (&fresh, own(Phase::Running), Step::Recognize { container: c() }),
            (&fresh, own(ENDED), Step::Recognize { container: c() }),
            (&fresh, own(Phase::Unseen), Step::Recognize { container: c() }),
            (&fresh, own(Phase::Dying), Step::Wait),
            (&fresh, foreign(Phase::Running, true), Step::Wait),
            (&fresh, foreign(Phase::Running, false), Step::Wait),
            (&fresh, foreign(ENDED, false), Step::Wait),
            (&fresh, foreign(ENDED, true), Step::Clear { container: f() }),
            (&fresh, foreign(Phase::Unseen, true), Step::Clear { container: f() }),
            (&fresh, foreign(Phase::Unseen, false), Step::Wait),
            (&fresh, foreign(Phase::Created, true), Step::Discard { container: f() }),
            (&fresh, foreign(Phase::Created, false), Step::Wait),
            (&fresh, Evidence::Taken, Step::Wait),
            (&canceled, own(Phase::Created), Step::Discard { container: c() }),
            (&canceled, own(Phase::Running), Step::Recognize { container: c() }),
        ] {
            assert_eq!(next_step(record, &evidence), step, "{evidence:?}");
        }
        for evidence in [Evidence::Absent, Evidence::Taken, foreign(Phase::Running, true), foreign(ENDED, false)] {
            let Step::End { outcome, .. } = next_step(&canceled, &evidence) else { panic!("should end: {evidence:?}") };
            assert_eq!(outcome, Outcome::Canceled);
        }
    }

    #[test]
    fn an_engine_that_is_gone_takes_its_jobs_along_only_on_an_operators_word() {
        let record =
            Record { container: Some("c".into()), intent: Some(Intent::EngineGone), ..record(State::Canceling) };
        let Step::End { outcome, .. } = next_step(&record, &Evidence::Unknown) else { panic!("should end") };
        assert_eq!(outcome, Outcome::Lost);
        // It is there after all.
        assert_eq!(next_step(&record, &own(Phase::Running)), Step::Follow);
        let ended = Record { exit_code: Some(0), ..record };
        assert_eq!(next_step(&ended, &own(ENDED)), Step::Finish(Outcome::Succeeded));
    }

    #[test]
    fn a_recorded_container_that_is_gone_or_was_not_seen_to_run_is_lost_and_never_launched_again() {
        for state in [State::Starting, State::Running, State::Canceling] {
            for intent in [None, Some(Intent::Cancel)] {
                let record = Record { container: Some("c".into()), intent, ..record(state) };
                for evidence in [Evidence::Absent, own(Phase::Unseen)] {
                    let Step::End { outcome, .. } = next_step(&record, &evidence) else { panic!("{evidence:?}") };
                    assert_eq!(outcome, Outcome::Lost);
                }
                assert_eq!(next_step(&record, &Evidence::Unknown), Step::Wait);
                assert_eq!(next_step(&record, &own(Phase::Running)), Step::Follow);
                assert_eq!(next_step(&record, &own(ENDED)), Step::Follow);
            }
        }
    }

    #[test]
    fn a_recorded_exit_code_settles_it_whatever_the_engine_shows() {
        let record = Record { container: Some("c".into()), exit_code: Some(0), ..record(State::Running) };
        for evidence in [Evidence::Unknown, Evidence::Absent, own(Phase::Running)] {
            assert_eq!(next_step(&record, &evidence), Step::Finish(Outcome::Succeeded));
        }
    }

    #[test]
    fn what_was_killed_says_so_unless_something_says_more() {
        let killed_by = |exit_code, intent, reason: Option<&str>| {
            let reason = reason.map(str::to_owned);
            killed(&Record { exit_code: Some(exit_code), intent, reason, ..record(State::Running) })
        };
        assert_eq!(killed_by(137, None, None), Some("its container was killed (exit code 137)"));
        assert_eq!(killed_by(137, Some(Intent::Cancel), None), None);
        assert_eq!(killed_by(137, None, Some("for want of memory")), None);
        assert_eq!(killed_by(1, None, None), None);
    }

    #[test]
    fn what_has_ended_or_waits_is_left() {
        for state in [State::Queued, State::Ended(Outcome::Failed)] {
            assert_eq!(next_step(&record(state), &own(Phase::Running)), Step::Leave);
        }
    }
}
