//! Redis and the engine as small state machines, and the faults that befall them.
//!
//! Every function about Redis follows the script of its name line by line; what it checks, the script checks, in that order.

use lockstep::model::job::{Intent, Outcome, State};
use lockstep::model::lock::Fence;
use lockstep::model::settle::Phase;

use super::dispatcher::{Dispatcher, Pass};
use super::{Protocol, Without};

/// Most jobs, inventories, dispatchers, and containers of one job.
pub(super) const JOBS: usize = 3;
pub(super) const INVENTORIES: usize = 2;
pub(super) const DISPATCHERS: usize = 2;
pub(super) const TRIES: usize = 5;

/// How far Redis' clock moves on while its memory is lost: more than fences are given meanwhile.
const OUTAGE_MS: u64 = 20;
/// Leases in the first memory stay below this; those that a rebuild gives begin at a multiple of it, as its counter does.
const LEASES: u8 = 32;

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
    Gone {
        fence: u8,
    },
}

/// What is true whatever Redis has kept, for the properties alone: nothing in the protocol reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Truth {
    /// Jobs whose ids were drawn, and those that were accepted.
    pub(super) drawn: u8,
    pub(super) accepted: u8,
    /// Accepted jobs of which Redis alone knew when it lost its memory.
    pub(super) forgettable: u8,
    pub(super) starts: [u8; JOBS],
    pub(super) exit_code: [Option<i64>; JOBS],
    /// The outcome that was set first in this memory.
    pub(super) outcome: [Option<Outcome>; JOBS],
    /// The highest fence given.
    pub(super) given: [u8; INVENTORIES],
    pub(super) stale_write: bool,
    pub(super) outcome_changed: bool,
    pub(super) false_success: bool,
    pub(super) fence_fell: bool,
    pub(super) guessed: bool,
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
    /// Somebody removes a container by force.
    pub(super) removals: u8,
    /// A cancel, or a deadline.
    pub(super) intents: u8,
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
    Confirm { nth: u8, fence: u8 },
    Recognize { nth: u8, fence: u8 },
    Unconfirm(Cid),
    Started,
    Exited(i64),
    Finish(Outcome),
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
    fn label(&self, at: Cid) -> u8 {
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
    pub(super) fn lose_memory(&mut self, kept: Redis) {
        for job in 0..small(JOBS) {
            let shown = (0..small(TRIES)).any(|nth| self.phase(Cid { job, nth }).is_some());
            if !shown {
                self.truth.forgettable |= self.truth.accepted & (1 << job);
            }
        }
        if self.redis != kept {
            self.outdate();
        }
        self.redis = kept;
        self.outages += 1;
        self.truth.outcome = std::array::from_fn(|job| self.redis.jobs[job].and_then(|job| job.state.outcome()));
    }
}

impl Protocol {
    pub(super) fn inventory(&self, job: u8) -> usize {
        self.jobs[usize::from(job)].inventory
    }

    /// The container that bears the name of an inventory.
    pub(super) fn named(&self, w: &World, inventory: usize) -> Option<Cid> {
        Cid::all().filter(|at| usize::from(at.job) < self.jobs.len() && self.inventory(at.job) == inventory).find(|at| {
            matches!(w.place(*at), Place::Here { aside: false, .. })
        })
    }

    pub(super) fn apply(&self, w: &mut World, call: Call) -> Reply {
        match call {
            Call::Create { job, fence } => {
                if self.without != Without::UniqueName && self.named(w, self.inventory(job)).is_some() {
                    return Reply::NameTaken;
                }
                let places = &mut w.engine[usize::from(job)];
                let nth = places.iter().position(|place| *place == Place::Never).expect("as many places as faults need");
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

    fn script(&self, w: &mut World, script: Script) -> Reply {
        let Script { by, epoch, seen, job, lease, op } = script;
        let known = epoch == w.redis.epoch && w.redis.counter >= seen;
        if !known && self.without != Without::Epoch {
            return Reply::Epoch;
        }
        match op {
            Op::Submit => return self.submit(w, job, by),
            Op::Grant(inventory) => return self.grant(w, usize::from(inventory), by),
            Op::Adopt => return self.adopt(w, job, lease, by),
            _ => {}
        }
        let Some(mut it) = w.job(job) else { return Reply::Stale };
        let unchecked = matches!(op, Op::Confirm { .. }) && self.without == Without::Confirm;
        if op != Op::Cancel && it.lease != lease && !unchecked {
            return Reply::Stale;
        }
        let holds = w.redis.locks[self.inventory(job)] == Some(job);
        let before = it;
        match op {
            Op::Confirm { nth, fence } => {
                let refused = !holds
                    || it.fence != fence
                    || it.state != State::Starting
                    || it.intent.is_some()
                    || it.exit_code.is_some()
                    || it.container.is_some_and(|other| other != nth);
                if refused && !unchecked {
                    return Reply::Stale;
                }
                it.container = Some(nth);
            }
            Op::Recognize { nth, fence } => {
                let other = it.container.is_some_and(|other| other != nth);
                if !holds || it.fence != fence || !it.live() || it.exit_code.is_some() || other {
                    return Reply::Stale;
                }
                it.container = Some(nth);
            }
            Op::Unconfirm(at) => {
                let other = it.container.is_some_and(|nth| at != Cid { job, nth });
                if !it.live() || it.exit_code.is_some() || other {
                    return Reply::Stale;
                }
                if it.container.take().is_some() && it.state == State::Running {
                    it.state = State::Starting;
                }
            }
            Op::Started => {
                if !it.live() || it.container.is_none() {
                    return Reply::Stale;
                }
                if it.state == State::Starting {
                    it.state = State::Running;
                }
            }
            Op::Exited(exit_code) => {
                if it.live() && it.exit_code.is_none() {
                    it.exit_code = Some(exit_code);
                }
            }
            Op::Cancel | Op::Deadline => {
                let intent = if op == Op::Cancel { Intent::Cancel } else { Intent::RunTimeout };
                if it.live() && it.exit_code.is_none() && it.intent.is_none() {
                    it.intent = Some(intent);
                    if it.state == State::Queued {
                        w.redis.queues[self.inventory(job)].retain(|other| *other != job);
                        w.redis.jobs[usize::from(job)] = Some(it);
                        self.end(w, job, intent.outcome());
                        w.raise(self.counted());
                        return Reply::Done;
                    }
                    it.state = State::Canceling;
                }
            }
            Op::Finish(outcome) => return self.finish(w, script, outcome),
            Op::Submit | Op::Grant(_) | Op::Adopt => unreachable!("answered above"),
        }
        if it != before {
            w.truth.stale_write |= op != Op::Cancel && (before.lease != lease || !known);
            w.redis.jobs[usize::from(job)] = Some(it);
            w.raise(self.counted());
        }
        Reply::Done
    }

    fn submit(&self, w: &mut World, job: u8, by: Option<u8>) -> Reply {
        let plan = self.jobs[usize::from(job)];
        let holder = w.redis.locks[plan.inventory];
        if let Some(own) = w.job(job) {
            if own.state == State::Starting && by.is_some() && own.owner == by && own.lease == 1 && holder == Some(job) {
                return Reply::Held { job, fence: own.fence, lease: 1 };
            }
            return Reply::Done;
        }
        w.truth.accepted |= 1 << job;
        let waiting = w.redis.queues[plan.inventory].clone();
        let displaced: Vec<u8> =
            waiting.iter().copied().filter(|other| self.jobs[usize::from(*other)].app == plan.app).collect();
        let place = waiting.iter().position(|other| displaced.contains(other)).unwrap_or(waiting.len());
        w.redis.jobs[usize::from(job)] = Some(Job {
            state: State::Queued,
            lease: 0,
            owner: None,
            fence: 0,
            container: None,
            intent: None,
            exit_code: None,
        });
        let starts = holder.is_none() && place == 0;
        if !starts {
            w.redis.queues[plan.inventory].insert(place, job);
        }
        for other in displaced {
            w.redis.queues[plan.inventory].retain(|waits| *waits != other);
            self.end(w, other, Outcome::Superseded);
        }
        w.raise(self.counted());
        if starts { self.take(w, plan.inventory, job, by) } else { Reply::Done }
    }

    fn take(&self, w: &mut World, inventory: usize, job: u8, by: Option<u8>) -> Reply {
        let outages = if self.without == Without::Clock { 0 } else { u64::from(w.outages) };
        let last = w.redis.fences[inventory];
        let fence = Fence::next((last > 0).then_some(Fence(u64::from(last))), outages * OUTAGE_MS);
        let fence = u8::try_from(fence.0).expect("few fences");
        w.truth.fence_fell |= fence <= w.truth.given[inventory];
        w.truth.given[inventory] = w.truth.given[inventory].max(fence);
        w.redis.fences[inventory] = fence;
        w.redis.locks[inventory] = Some(job);
        if let Some(it) = &mut w.redis.jobs[usize::from(job)] {
            *it = Job { state: State::Starting, lease: 1, owner: by, fence, ..*it };
        }
        Reply::Held { job, fence, lease: 1 }
    }

    fn hand_over(&self, w: &mut World, inventory: usize, by: Option<u8>) -> Option<Reply> {
        while !w.redis.queues[inventory].is_empty() {
            let job = w.redis.queues[inventory].remove(0);
            if w.job(job).is_some_and(|it| it.state == State::Queued) {
                return Some(self.take(w, inventory, job, by));
            }
        }
        None
    }

    fn grant(&self, w: &mut World, inventory: usize, by: Option<u8>) -> Reply {
        if w.redis.locks[inventory].is_some() {
            return Reply::Done;
        }
        let Some(held) = self.hand_over(w, inventory, by) else { return Reply::Done };
        w.raise(self.counted());
        held
    }

    fn adopt(&self, w: &mut World, job: u8, seen: u8, by: Option<u8>) -> Reply {
        // Whether the owner gives signs of life is the caller's to choose: see `Action::Adopt`.
        let Some(it) = w.redis.jobs[usize::from(job)].as_mut() else { return Reply::Done };
        if !it.live() || it.state == State::Queued || it.lease != seen {
            return Reply::Done;
        }
        it.lease += 1;
        it.owner = by;
        let held = Reply::Held { job, fence: it.fence, lease: it.lease };
        w.raise(self.counted());
        held
    }

    fn finish(&self, w: &mut World, script: Script, outcome: Outcome) -> Reply {
        let Some(it) = w.job(script.job) else { return Reply::Stale };
        if !it.live() {
            return Reply::Done;
        }
        w.truth.stale_write |= it.lease != script.lease || script.epoch != w.redis.epoch;
        let exited = w.truth.exit_code[usize::from(script.job)];
        w.truth.false_success |=
            outcome == Outcome::Succeeded && (it.exit_code != Some(0) || exited != Some(0) || it.intent.is_some());
        self.end(w, script.job, outcome);
        w.raise(self.counted());
        let inventory = self.inventory(script.job);
        if w.redis.locks[inventory] == Some(script.job) {
            w.redis.locks[inventory] = None;
            if let Some(held) = self.hand_over(w, inventory, script.by) {
                return held;
            }
        }
        Reply::Done
    }

    fn end(&self, w: &mut World, job: u8, outcome: Outcome) {
        let at = usize::from(job);
        w.truth.outcome_changed |= w.truth.outcome[at].is_some_and(|before| before != outcome);
        w.truth.outcome[at] = Some(outcome);
        // There is a container that could have told, and `lost` was said instead.
        let telling = |nth| matches!(w.phase(Cid { job, nth }), Some(Phase::Running | Phase::Ended { .. }));
        w.truth.guessed |= outcome == Outcome::Lost && (0..small(TRIES)).any(telling);
        if let Some(it) = &mut w.redis.jobs[at] {
            it.state = State::Ended(outcome);
        }
    }

    /// The script `rebuild`, in a memory that is still the one on which it was decided. Returns the new epoch.
    pub(super) fn rebuild(&self, w: &mut World, rescued: Rescued) -> u8 {
        w.outdate();
        w.drawn += 1;
        w.redis.epoch = w.drawn;
        w.redis.counter = w.drawn * LEASES;
        let base = w.redis.counter;
        let has = |set: u16, job: u8| Cid::all().any(|at| at.job == job && set & at.bit() != 0);
        for at in Cid::all().filter(|at| (rescued.started | rescued.never_started) & at.bit() != 0) {
            let fence = w.label(at);
            let last = &mut w.redis.fences[self.inventory(at.job)];
            *last = fence.max(*last);
        }
        let fresh = Job {
            state: State::Starting,
            lease: 0,
            owner: None,
            fence: 0,
            container: None,
            intent: None,
            exit_code: None,
        };
        for at in Cid::all().filter(|at| rescued.never_started & at.bit() != 0) {
            if !has(rescued.started, at.job) && w.job(at.job).is_none_or(|it| it.live()) {
                w.redis.jobs[usize::from(at.job)].get_or_insert(fresh);
                self.end(w, at.job, Outcome::Lost);
            }
        }
        let mut keeps = 0u8;
        let mut claims = [None; INVENTORIES];
        for at in Cid::all().filter(|at| rescued.started & at.bit() != 0) {
            if w.job(at.job).is_none_or(|it| it.live()) {
                let fence = w.label(at);
                let it = w.redis.jobs[usize::from(at.job)].get_or_insert(fresh);
                let state = if it.state == State::Canceling { State::Canceling } else { State::Running };
                let lease = (it.lease + 1).max(base);
                *it = Job { state, lease, fence, container: Some(at.nth), owner: None, ..*it };
                keeps |= 1 << at.job;
                if rescued.holds & at.bit() != 0 {
                    claims[self.inventory(at.job)] = Some(at.job);
                }
            }
        }
        for job in 0..small(self.jobs.len()) {
            let Some(it) = &mut w.redis.jobs[usize::from(job)] else { continue };
            if has(rescued.started, job) || !it.live() {
                continue;
            }
            if it.exit_code.is_some() {
                it.owner = None;
                it.lease = (it.lease + 1).max(base);
                keeps |= 1 << job;
            } else {
                self.end(w, job, Outcome::Lost);
            }
        }
        for inventory in 0..INVENTORIES {
            let jobs = w.redis.jobs;
            w.redis.queues[inventory].retain(|job| jobs[usize::from(*job)].is_some_and(|it| it.state == State::Queued));
            let kept = w.redis.locks[inventory].filter(|holder| keeps & (1 << holder) != 0);
            w.redis.locks[inventory] = claims[inventory].or(kept);
        }
        w.redis.epoch
    }

    pub(super) fn counted(&self) -> bool {
        self.faults.restores > 0
    }
}
