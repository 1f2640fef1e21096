//! What there is: Redis' keys, the engine's containers, the dispatchers' memory, calls on their way. And the engine's rules.

use lockstep::model::job::{Intent, Outcome, State};
use lockstep::model::settle::Phase;

use super::reconciler::Pass;
use super::supervisor::Supervisor;
use super::{Protocol, Without};

/// Most jobs, inventories, dispatchers, and containers of one job.
pub(super) const JOBS: usize = 3;
pub(super) const INVENTORIES: usize = 2;
pub(super) const DISPATCHERS: usize = 2;
pub(super) const TRIES: usize = 5;

/// A container: whose it is, and the how many-th of that job. Never given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Cid {
    pub(super) job: u8,
    pub(super) nth: u8,
}

impl Cid {
    pub(super) fn bit(self) -> u16 {
        1 << (usize::from(self.job) * TRIES + usize::from(self.nth))
    }

    pub(super) fn all() -> impl Iterator<Item = Cid> {
        (0..JOBS * TRIES).map(|at| Cid { job: small(at / TRIES), nth: small(at % TRIES) })
    }
}

pub(super) fn small(number: usize) -> u8 {
    u8::try_from(number).expect("the world is small")
}

/// What is recorded about a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Job {
    pub(super) state: State,
    pub(super) lease: u8,
    pub(super) owner: Option<u8>,
    pub(super) fence: u8,
    pub(super) container: Option<u8>,
    pub(super) intent: Option<Intent>,
    pub(super) exit_code: Option<i64>,
    /// Redis has its variables, without which it cannot be launched.
    pub(super) sealed: bool,
}

impl Job {
    pub(super) fn live(&self) -> bool {
        !self.state.is_ended()
    }
}

/// Redis' keys. What `active` holds follows from the records.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Redis {
    /// 0: there is none.
    pub(super) epoch: u8,
    /// Counted only where Redis may come back older: elsewhere nothing depends on it but what `raise` sees to.
    pub(super) counter: u8,
    pub(super) jobs: [Option<Job>; JOBS],
    pub(super) locks: [Option<u8>; INVENTORIES],
    pub(super) fences: [u8; INVENTORIES],
    pub(super) queues: [Vec<u8>; INVENTORIES],
}

/// A place for a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) enum Place {
    #[default]
    Never,
    Here {
        phase: Phase,
        /// The fence on its label.
        fence: u8,
        /// It bears the ended name, not the inventory's.
        aside: bool,
    },
    /// Its id is never given again.
    Gone { fence: u8 },
}

/// What is true whatever Redis has kept, for the properties alone: nothing in the protocol reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Truth {
    /// Jobs whose ids were drawn, and those that were accepted.
    pub(super) drawn: u8,
    pub(super) accepted: u8,
    /// Accepted jobs of which Redis alone knew when it lost its memory, or that were over.
    pub(super) forgettable: u8,
    pub(super) starts: [u8; JOBS],
    pub(super) exit_code: [Option<i64>; JOBS],
    /// The outcome that was set first in this memory.
    pub(super) outcome: [Option<Outcome>; JOBS],
    /// The highest fence given.
    pub(super) given: [u8; INVENTORIES],
    pub(super) stale_write: bool,
    pub(super) outcome_changed: bool,
    /// The exit code's outcome that people were told, if memory was lost since; and whether they were told another.
    pub(super) told: [Option<Outcome>; JOBS],
    pub(super) told_otherwise: bool,
    pub(super) false_success: bool,
    pub(super) fence_fell: bool,
    pub(super) guessed: bool,
    /// A dispatcher has worked on in a memory that has lost what it had seen.
    pub(super) unnoticed: bool,
    /// Containers of which the engine has lost sight: those whose process is at work, and those that never had one.
    pub(super) ghosts: u16,
    pub(super) idle: u16,
}

/// Faults and wishes that may still happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Faults {
    /// A dispatcher dies and starts again.
    pub(super) crashes: u8,
    /// A dispatcher gives no sign of life for so long that one of its jobs is adopted; then it goes on where it was.
    pub(super) hangs: u8,
    /// A reply is lost; the call takes effect later, at any moment, or never.
    pub(super) lost: u8,
    /// Redis comes back empty.
    pub(super) wipes: u8,
    /// Redis comes back as it was at some moment before.
    pub(super) restores: u8,
    /// The engine refuses to start a container, and would again.
    pub(super) refusals: u8,
    /// The engine dies in the middle of a start, and does not know afterwards that the container ran.
    pub(super) deaths: u8,
    /// Somebody removes a container by force.
    pub(super) removals: u8,
    /// A cancel, or a deadline.
    pub(super) intents: u8,
}

/// All that a dispatcher keeps in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Dispatcher {
    /// The epoch that it knows; 0: none. And the highest counter it has seen in it, where that is counted.
    pub(super) known: u8,
    pub(super) seen: u8,
    /// Jobs whose ids were drawn after it first knew this memory.
    pub(super) spans: u8,
    pub(super) supervisors: [Option<Supervisor>; JOBS],
    pub(super) pass: Pass,
    /// Ended containers that it removes after `runner.keep`.
    pub(super) later: u16,
    /// Redis has lost something that was seen here, in a memory of the same name. For the properties alone.
    pub(super) ahead: bool,
    /// A job that was submitted here with its reply lost: it is submitted once more.
    pub(super) again: Option<u8>,
}

impl Dispatcher {
    /// Learns of a memory. A second try of a submission follows the first at once, so it is sent in the memory of the first.
    pub(super) fn know(&mut self, epoch: u8, seen: u8) {
        *self = Self { known: epoch, seen, spans: 0, ahead: false, again: None, ..*self };
    }
}

/// Everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct World {
    pub(super) redis: Redis,
    /// What Redis may come back with.
    pub(super) kept: Option<Box<Redis>>,
    /// How often Redis has lost memory, for its clock.
    pub(super) outages: u8,
    /// How many epochs were drawn.
    pub(super) drawn: u8,
    pub(super) engine: [[Place; TRIES]; JOBS],
    pub(super) dispatchers: [Dispatcher; DISPATCHERS],
    /// A call whose caller has given up on it.
    pub(super) late: Option<Call>,
    pub(super) left: Faults,
    pub(super) truth: Truth,
}

/// A call that changes something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Call {
    Create { job: u8, fence: u8 },
    Start(Cid),
    Remove(Cid),
    Rename(Cid),
    Script(Script),
}

/// A call of a script: who calls (none: a process that is dead by now), in which memory, and for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Script {
    pub(super) by: Option<u8>,
    pub(super) epoch: u8,
    pub(super) seen: u8,
    pub(super) job: u8,
    pub(super) lease: u8,
    pub(super) op: Op,
}

/// The scripts. Those of the supervisor carry its lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Op {
    Submit,
    Adopt,
    Grant(u8),
    Cancel,
    Deadline,
    Confirm {
        nth: u8,
        fence: u8,
    },
    Recognize {
        nth: u8,
        fence: u8,
    },
    Unconfirm(Cid),
    Started,
    Exited(i64),
    /// With the container that the caller's record named.
    Finish(Option<u8>, Outcome),
}

/// What a call answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reply {
    Done,
    Made(u8),
    NameTaken,
    NoContainer,
    Refused,
    Held { job: u8, fence: u8, lease: u8 },
    Stale,
    Epoch,
}

/// What a rebuild hands to its script, as sets of containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Rescued {
    pub(super) started: u16,
    pub(super) never_started: u16,
    /// Those that bear their inventory's name.
    pub(super) holds: u16,
}

impl World {
    pub(super) fn place(&self, at: Cid) -> Place {
        self.engine[usize::from(at.job)][usize::from(at.nth)]
    }

    pub(super) fn put(&mut self, at: Cid, place: Place) {
        self.engine[usize::from(at.job)][usize::from(at.nth)] = place;
    }

    /// As in the engine's list, where what ran unseen passes for never started.
    pub(super) fn listed(&self, at: Cid) -> Option<Phase> {
        let unless_unseen = |phase| if phase == Phase::Unseen { Phase::Created } else { phase };
        self.phase(at).map(unless_unseen)
    }

    pub(super) fn phase(&self, at: Cid) -> Option<Phase> {
        match self.place(at) {
            Place::Here { phase, .. } => Some(phase),
            Place::Never | Place::Gone { .. } => None,
        }
    }

    /// A container is removed.
    pub(super) fn vanish(&mut self, at: Cid) {
        let fence = self.label(at);
        self.put(at, Place::Gone { fence });
        for dispatcher in &mut self.dispatchers {
            dispatcher.later &= !at.bit();
        }
    }

    /// The fence on a container's label, as it was listed; it may be gone since.
    pub(super) fn label(&self, at: Cid) -> u8 {
        match self.place(at) {
            Place::Here { fence, .. } | Place::Gone { fence } => fence,
            Place::Never => 0,
        }
    }

    pub(super) fn job(&self, job: u8) -> Option<Job> {
        self.redis.jobs[usize::from(job)]
    }

    /// State changes: a rebuild that was decided on what stood before does not take place.
    pub(super) fn raise(&mut self, counted: bool) {
        if self.redis.epoch == 0 {
            return;
        }
        self.redis.counter += u8::from(counted);
        self.outdate();
    }

    pub(super) fn outdate(&mut self) {
        for dispatcher in &mut self.dispatchers {
            if let Pass::List { current } | Pass::Rescue { current, .. } = &mut dispatcher.pass {
                *current = false;
            }
        }
    }

    /// Redis loses its memory, wholly or back to `kept`.
    /// `strict`: a recorded container that was never started counts as the engine's knowledge of its job.
    pub(super) fn lose_memory(&mut self, kept: Redis, strict: bool) {
        for job in 0..small(JOBS) {
            let recorded = |nth| strict && self.job(job).is_some_and(|it| it.container == Some(nth));
            let idle = |nth| self.truth.idle & Cid { job, nth }.bit() != 0;
            let shows = |nth, phase| phase != Phase::Created && !idle(nth) || recorded(nth);
            let shown =
                (0..small(TRIES)).any(|nth| self.phase(Cid { job, nth }).is_some_and(|phase| shows(nth, phase)));
            // One that had its outcome has had it.
            if !shown || self.truth.outcome[usize::from(job)].is_some() {
                self.truth.forgettable |= self.truth.accepted & (1 << job);
            }
        }
        if self.redis != kept {
            self.outdate();
        }
        self.redis = kept;
        self.outages += 1;
        for (told, outcome) in self.truth.told.iter_mut().zip(self.truth.outcome) {
            *told = told.or(outcome.filter(|it| matches!(it, Outcome::Succeeded | Outcome::Failed)));
        }
        for dispatcher in &mut self.dispatchers {
            dispatcher.ahead = dispatcher.known == self.redis.epoch && dispatcher.seen > self.redis.counter;
        }
        self.truth.outcome = std::array::from_fn(|job| self.redis.jobs[job].and_then(|job| job.state.outcome()));
    }
}

impl Protocol {
    pub(super) fn inventory(&self, job: u8) -> usize {
        self.jobs[usize::from(job)].inventory
    }

    /// The container that bears the name of an inventory.
    pub(super) fn named(&self, w: &World, inventory: usize) -> Option<Cid> {
        Cid::all()
            .filter(|at| usize::from(at.job) < self.jobs.len() && self.inventory(at.job) == inventory)
            .find(|at| matches!(w.place(*at), Place::Here { aside: false, .. }))
    }

    pub(super) fn apply(&self, w: &mut World, call: Call) -> Reply {
        match call {
            Call::Create { job, fence } => {
                if self.without != Without::UniqueName && self.named(w, self.inventory(job)).is_some() {
                    return Reply::NameTaken;
                }
                let places = &mut w.engine[usize::from(job)];
                let nth =
                    places.iter().position(|place| *place == Place::Never).expect("as many places as faults need");
                places[nth] = Place::Here { phase: Phase::Created, fence, aside: false };
                Reply::Made(small(nth))
            }
            Call::Start(at) => match w.place(at) {
                // An engine starts an ended container once more.
                Place::Here { phase: Phase::Created | Phase::Ended { .. }, fence, aside } => {
                    w.put(at, Place::Here { phase: Phase::Running, fence, aside });
                    w.truth.starts[usize::from(at.job)] += 1;
                    Reply::Done
                }
                Place::Here { .. } => Reply::Done,
                Place::Never | Place::Gone { .. } => Reply::NoContainer,
            },
            Call::Remove(at) => match w.place(at) {
                Place::Here { phase: Phase::Running | Phase::Dying, .. } => Reply::Refused,
                Place::Here { .. } => {
                    w.vanish(at);
                    Reply::Done
                }
                Place::Never | Place::Gone { .. } => Reply::Done,
            },
            Call::Rename(at) => {
                if let Place::Here { phase, fence, .. } = w.place(at) {
                    w.put(at, Place::Here { phase, fence, aside: true });
                }
                Reply::Done
            }
            Call::Script(script) => self.script(w, script),
        }
    }
}

const _: () = assert!(JOBS * TRIES <= 16 && DISPATCHERS >= 2);
