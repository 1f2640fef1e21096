//! What must hold, and what must be possible.
//!
//! "Everything settles" stands for "no accepted job is lost": a supervisor that waits looks again and again, so that there is no
//! state without a next one, and `eventually` of the checker does not see a cycle. Instead, whenever nobody is in the middle of
//! anything, everybody's doing in turn, without a further fault, must bring every accepted job to its end, free every lock,
//! empty every queue and remove every container. Whoever waited in vain for ever would pass through such a state.

use lockstep::model::job::{Outcome, State};
use lockstep::model::settle::Phase;
use stateright::Property;

use super::Protocol;
use super::reconciler::Pass;
use super::redis::LEASES;
use super::supervisor::{Assumed, At};
use super::world::{Cid, Faults, INVENTORIES, World, small};

pub(super) const ONE: &str = "one inventory, one container that runs";
pub(super) const STALE: &str = "no stale write is taken";
pub(super) const ONCE: &str = "no job is started twice";
pub(super) const OUTCOME: &str = "an outcome stays";
pub(super) const TOLD: &str = "an outcome by exit code stays, even when Redis has forgotten it";
pub(super) const SUCCESS: &str = "succeeded means exit code 0 and no intent before it";
pub(super) const FENCE: &str = "fences grow";
pub(super) const LOST: &str = "lost is never guessed";
pub(super) const OVER: &str = "what is over does not run";
pub(super) const NOTICED: &str = "who has seen what Redis has lost notices";
pub(super) const SETTLES: &str = "everything settles";

/// Rounds in which everything has to settle; the longest way needs about thirty.
const ROUNDS: usize = 60;

type Holds = fn(&Protocol, &World) -> bool;

fn outcome(w: &World, job: u8) -> Option<Outcome> {
    w.job(job).and_then(|it| it.state.outcome())
}

fn succeeded(w: &World, job: u8) -> bool {
    outcome(w, job) == Some(Outcome::Succeeded)
}

impl Protocol {
    pub(super) fn demands(&self) -> Vec<Property<Self>> {
        let always: [(_, Holds); 11] = [
            (ONE, |it, w| (0..INVENTORIES).all(|inventory| it.running(w, inventory) <= 1)),
            (STALE, |_, w| !w.truth.stale_write),
            (ONCE, |_, w| w.truth.starts.iter().all(|starts| *starts <= 1)),
            (OUTCOME, |_, w| !w.truth.outcome_changed),
            (TOLD, |_, w| !w.truth.told_otherwise),
            (SUCCESS, |_, w| !w.truth.false_success),
            (FENCE, |_, w| !w.truth.fence_fell),
            (LOST, |_, w| !w.truth.guessed),
            (OVER, |_, w| {
                let over = |at: Cid| w.job(at.job).is_some_and(|it| it.state.is_ended());
                Cid::all().all(|at| w.phase(at) != Some(Phase::Running) || !over(at))
            }),
            (NOTICED, |_, w| !w.truth.unnoticed),
            (SETTLES, |it, w| !it.calm(w) || it.settles(w)),
        ];
        let mut demands: Vec<_> = always.into_iter().map(|(name, holds)| Property::always(name, holds)).collect();
        let mut sometimes = |when: bool, name, seen: Holds| {
            if when {
                demands.push(Property::sometimes(name, seen));
            }
        };
        let faults = self.faults;
        sometimes(true, "a job succeeds", |_, w| succeeded(w, 0));
        sometimes(faults.hangs + faults.crashes > 0, "a job that was taken over succeeds", |_, w| {
            succeeded(w, 0) && w.job(0).is_some_and(|it| it.lease > 1)
        });
        sometimes(faults.wipes > 0, "a job succeeds after a rebuild", |_, w| {
            succeeded(w, 0) && w.job(0).is_some_and(|it| it.lease >= LEASES)
        });
        sometimes(self.jobs.len() > 1, "the next in the queue succeeds too", |_, w| succeeded(w, 0) && succeeded(w, 1));
        sometimes(faults.intents > 0, "a job is canceled before its start", |_, w| {
            w.job(0).is_some_and(|it| it.state == State::Ended(Outcome::Canceled) && it.exit_code.is_none())
        });
        sometimes(faults.intents > 0, "a running job is canceled", |_, w| {
            w.job(0).is_some_and(|it| it.state == State::Ended(Outcome::Canceled) && it.exit_code.is_some())
        });
        let displaces = self.jobs.len() == 3 && self.jobs[1] == self.jobs[2];
        sometimes(displaces, "a newer request takes the place of one that waits", |_, w| {
            outcome(w, 1) == Some(Outcome::Superseded) && succeeded(w, 2)
        });
        demands
    }

    fn running(&self, w: &World, inventory: usize) -> usize {
        let of = |at: &Cid| usize::from(at.job) < self.jobs.len() && self.inventory(at.job) == inventory;
        Cid::all()
            .filter(of)
            .filter(|at| w.phase(*at) == Some(Phase::Running) || w.truth.ghosts & at.bit() != 0)
            .count()
    }

    /// Whether nobody is in the middle of anything: supervisors and reconcilers are about to look.
    fn calm(&self, w: &World) -> bool {
        let about_to_look = |at: At| matches!(at, At::Read(Assumed::Nothing) | At::Follow(_));
        w.late.is_none()
            && w.dispatchers.iter().all(|it| {
                it.pass == Pass::Idle && it.supervisors.iter().flatten().all(|supervisor| about_to_look(supervisor.at))
            })
    }

    fn settles(&self, w: &World) -> bool {
        let mut w = World { left: Faults::default(), ..w.clone() };
        let mut todo = Vec::new();
        for _ in 0..ROUNDS {
            if self.settled(&w) {
                return true;
            }
            todo.clear();
            self.candidates(&w, &mut todo);
            for action in todo.iter().filter(|action| action.goes_on()) {
                self.perform(&mut w, *action);
            }
        }
        false
    }

    fn settled(&self, w: &World) -> bool {
        let over = |job: u8| match w.job(job) {
            Some(it) => it.state.is_ended(),
            None => w.truth.accepted & !w.truth.forgettable & (1 << job) == 0,
        };
        w.redis.epoch != 0
            && (0..small(self.jobs.len())).all(over)
            && w.redis.locks.iter().all(Option::is_none)
            && w.redis.queues.iter().all(Vec::is_empty)
            && Cid::all().all(|at| w.phase(at).is_none())
    }
}
