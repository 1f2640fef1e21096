//! The scripts of Redis. Each function follows the script of its name line by line; what it checks, the script checks, in that
//! order. What it writes into `truth` is for the properties alone.

use lockstep::model::job::{Intent, Outcome, State};
use lockstep::model::lock::Fence;
use lockstep::model::settle::Phase;

use super::world::{Cid, INVENTORIES, Job, Op, Reply, Rescued, Script, TRIES, World, small};
use super::{Protocol, Without};

/// How far Redis' clock moves on while its memory is lost: further than fences are given meanwhile.
const OUTAGE_MS: u64 = 20;
/// Leases in the first memory stay below this; those that a rebuild gives begin at a multiple of it, as its counter does.
pub(super) const LEASES: u8 = 32;

impl Protocol {
    pub(super) fn script(&self, w: &mut World, script: Script) -> Reply {
        let Script { by, epoch, seen, job, lease, op } = script;
        let known = epoch == w.redis.epoch && w.redis.counter >= seen;
        if !known && self.without != Without::Epoch {
            return Reply::Epoch;
        }
        w.truth.unnoticed |= by.is_some_and(|by| known && w.dispatchers[usize::from(by)].ahead);
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
            Op::Finish(container, outcome) => return self.finish(w, script, container, outcome),
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
            if own.state == State::Starting && by.is_some() && own.owner == by && own.lease == 1 && holder == Some(job)
            {
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
            sealed: true,
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

    fn finish(&self, w: &mut World, script: Script, container: Option<u8>, outcome: Outcome) -> Reply {
        let Some(it) = w.job(script.job) else { return Reply::Stale };
        if !it.live() {
            return Reply::Done;
        }
        if self.mended.finish_compares && it.container != container {
            return Reply::Stale;
        }
        w.truth.stale_write |= it.lease != script.lease || script.epoch != w.redis.epoch;
        let exited = w.truth.exit_code[usize::from(script.job)];
        w.truth.false_success |= outcome == Outcome::Succeeded && (exited != Some(0) || it.intent.is_some());
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
        w.truth.told_otherwise |= w.truth.told[at].is_some_and(|before| before != outcome);
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
            sealed: false,
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
        for (inventory, claim) in claims.into_iter().enumerate() {
            let jobs = w.redis.jobs;
            w.redis.queues[inventory].retain(|job| jobs[usize::from(*job)].is_some_and(|it| it.state == State::Queued));
            let kept = w.redis.locks[inventory].filter(|holder| keeps & (1 << holder) != 0);
            w.redis.locks[inventory] = claim.or(kept);
        }
        w.redis.epoch
    }

    pub(super) fn counted(&self) -> bool {
        self.faults.restores > 0
    }
}
