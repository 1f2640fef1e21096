//! How a dispatcher calls Redis, and what comes of requests, adoptions and deadlines.

use lockstep::model::job::State;

use super::actions::spend;
use super::supervisor::{Assumed, At, Supervisor};
use super::world::{Call, Op, Reply, Script, World};
use super::{Protocol, Without};

impl Protocol {
    /// Whether Redis holds the memory that this dispatcher knows, as every read checks it.
    pub(super) fn known(&self, w: &World, by: u8) -> bool {
        let unchecked = self.without == Without::Epoch && w.dispatchers[usize::from(by)].known != 0;
        unchecked || self.familiar(w, by)
    }

    pub(super) fn familiar(&self, w: &World, by: u8) -> bool {
        let it = &w.dispatchers[usize::from(by)];
        it.known != 0 && it.known == w.redis.epoch && w.redis.counter >= it.seen
    }

    pub(super) fn see(&self, w: &mut World, by: u8) {
        w.dispatchers[usize::from(by)].seen = w.dispatchers[usize::from(by)].seen.max(w.redis.counter);
    }

    pub(super) fn script_of(&self, w: &World, by: u8, job: u8, lease: u8, op: Op) -> Call {
        let it = &w.dispatchers[usize::from(by)];
        Call::Script(Script { by: Some(by), epoch: it.known, seen: it.seen, job, lease, op })
    }

    /// Calls a script. Without a known memory it is not even sent.
    pub(super) fn call(&self, w: &mut World, by: u8, job: u8, lease: u8, op: Op) -> Reply {
        if w.dispatchers[usize::from(by)].known == 0 {
            return Reply::Epoch;
        }
        let reply = self.apply(w, self.script_of(w, by, job, lease, op));
        if reply != Reply::Epoch {
            self.see(w, by);
        }
        reply
    }

    pub(super) fn lose(&self, w: &mut World, call: Call) -> bool {
        w.late.is_none() && spend(&mut w.left.lost) && {
            w.late = Some(call);
            true
        }
    }

    /// Asks for something that may answer with a held lock, which is then supervised.
    pub(super) fn ask(&self, w: &mut World, by: u8, job: u8, op: Op, lost: bool) -> bool {
        let lease = w.job(job).map_or(0, |it| it.lease);
        if lost {
            return self.lose(w, self.script_of(w, by, job, lease, op));
        }
        let reply = self.call(w, by, job, lease, op);
        self.supervise(w, by, reply, op != Op::Adopt);
        true
    }

    pub(super) fn supervise(&self, w: &mut World, by: u8, reply: Reply, fresh: bool) {
        if let Reply::Held { job, fence, lease } = reply {
            let at = At::Read(if fresh { Assumed::Absent } else { Assumed::Nothing });
            // One that has a task here already, from before, gets no second one.
            let place = &mut w.dispatchers[usize::from(by)].supervisors[usize::from(job)];
            place.get_or_insert(Supervisor { lease, fence, at });
        }
    }

    pub(super) fn submit_at(&self, w: &mut World, by: u8, job: u8, lost: bool) -> bool {
        let again = w.dispatchers[usize::from(by)].again == Some(job);
        // In order, the first at the first: it makes no difference which is called so.
        let turn = w.truth.drawn == (1 << job) - 1 && (job > 0 || by == 0);
        if !(again || turn) || w.dispatchers[usize::from(by)].known == 0 || (again && lost) {
            return false;
        }
        let epoch = w.redis.epoch;
        if !again && w.dispatchers[usize::from(by)].known != epoch && self.without != Without::Epoch {
            // Refused with 503; the request was not accepted.
            return false;
        }
        if !self.ask(w, by, job, Op::Submit, lost) {
            return false;
        }
        w.dispatchers[usize::from(by)].again = lost.then_some(job);
        w.truth.drawn |= 1 << job;
        if turn {
            for dispatcher in w.dispatchers.iter_mut().filter(|it| it.known != 0) {
                dispatcher.spans |= 1 << job;
            }
        }
        true
    }

    pub(super) fn adopt_at(&self, w: &mut World, by: u8, job: u8, lost: bool) -> bool {
        let Some(it) = w.job(job) else { return false };
        if !it.live() || it.state == State::Queued || !self.known(w, by) {
            return false;
        }
        match it.owner {
            Some(owner) if owner == by => {
                let supervised = w.dispatchers[usize::from(by)].supervisors[usize::from(job)].is_some();
                !supervised && self.ask(w, by, job, Op::Adopt, lost)
            }
            Some(_) if lost || w.left.hangs == 0 => false,
            Some(_) => {
                w.left.hangs -= 1;
                self.ask(w, by, job, Op::Adopt, false)
            }
            None => self.ask(w, by, job, Op::Adopt, lost),
        }
    }

    pub(super) fn deadline(&self, w: &mut World, by: u8, job: u8) -> bool {
        let Some(it) = w.dispatchers[usize::from(by)].supervisors[usize::from(job)] else { return false };
        let launching = matches!(it.at, At::Create | At::Confirm(_) | At::StartLook(_) | At::Start(_));
        if !(launching || matches!(it.at, At::Follow(_))) || !spend(&mut w.left.intents) {
            return false;
        }
        let reply = self.call(w, by, job, it.lease, Op::Deadline);
        match reply {
            Reply::Stale | Reply::Epoch => self.leave(w, by, job),
            _ if launching => self.go(w, by, job, At::Read(Assumed::Nothing)),
            _ => {}
        }
        true
    }
}
