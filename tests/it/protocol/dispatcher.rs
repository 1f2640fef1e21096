//! A dispatcher: supervisors and reconciler, one call of Redis or the engine a step.
//!
//! A supervisor's place in `dispatch::supervise` and `dispatch::launch` is [`At`]; between two places anything may happen.
//! What it decides, `model::settle::next_step` decides.

use lockstep::model::job::{Intent, Outcome, Record, State};
use lockstep::model::settle::{Evidence, Phase, Step, next_step};

use super::world::{Call, Cid, DISPATCHERS, INVENTORIES, JOBS, Job, Op, Place, Reply, Rescued, Script, TRIES, World, small};
use super::{Protocol, Without};

/// What the step before has just shown, as in `carry`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Assumed {
    Nothing,
    Absent,
    Unknown,
    Running(u8),
}

/// The call that a supervisor is about to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum At {
    Read(Assumed),
    Look(Job),
    /// Another's container bears the name: whether that job is over.
    Other(Job, Cid, Phase),
    Create,
    Confirm(u8),
    /// Remove what was not confirmed.
    Withdraw(u8),
    StartLook(u8),
    Start(u8),
    Started(u8),
    Unconfirm(Cid),
    Remove(Cid),
    Recognize(u8),
    /// Follow: it is recorded as started first, where it is not.
    Show(u8),
    Follow(u8),
    Exited(u8, i64),
    Clear(Cid),
    Rename(u8, Outcome),
    Finish(Option<u8>, Outcome),
    /// A launch that is impossible.
    FailUnconfirm(u8),
    FailRemove(u8),
    FailRead,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Supervisor {
    pub(super) lease: u8,
    pub(super) fence: u8,
    pub(super) at: At,
}

/// The reconciler's place, container by container: what it has listed of one, or what it does to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) enum Pass {
    #[default]
    Idle,
    Listed(Cid, Phase, bool),
    Remove(Cid),
    Rename(Cid),
    /// To rebuild: list the containers. `current`: nothing has changed in Redis since it was found strange.
    List { current: bool },
    /// To rebuild: remove these, which were listed as created; then the script.
    Rescue { current: bool, created: u16, rescued: Rescued },
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
    /// A job that was submitted here with its reply lost: it is submitted once more.
    pub(super) again: Option<u8>,
}

/// One thing that may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Action {
    /// A request arrives. `lost`: the reply of Redis is.
    Submit { by: u8, job: u8, lost: bool },
    Cancel { by: u8, job: u8 },
    /// A supervisor sees a deadline pass.
    Deadline { by: u8, job: u8 },
    /// A supervisor makes its next call.
    Step { by: u8, job: u8 },
    /// Its reply is lost.
    Lose { by: u8, job: u8 },
    /// The news of an intent interrupts a launch.
    Interrupt { by: u8, job: u8 },
    /// The engine refuses its start.
    Refuse { by: u8, job: u8 },
    /// A job without a supervisor is adopted; or one of a dispatcher that hangs.
    Adopt { by: u8, job: u8, lost: bool },
    Grant { by: u8, inventory: u8, lost: bool },
    /// The reconciler compares epochs, lists a container, makes its next call.
    Memory { by: u8 },
    List { by: u8, container: Cid },
    Pass { by: u8 },
    LosePass { by: u8 },
    /// `runner.keep` has passed.
    RemoveLater { by: u8, container: Cid },
    /// A container ends.
    End { container: Cid, exit_code: i64 },
    /// A call whose reply was lost takes effect; or never does.
    Late,
    Never,
    Crash { by: u8 },
    Wipe,
    /// Redis writes down what it may come back with; and does.
    Keep,
    Restore,
    RemoveByHand { container: Cid },
}

impl Action {
    /// What happens without anybody's fault or wish, if one only waits.
    pub(super) fn goes_on(self) -> bool {
        match self {
            Self::Step { .. } | Self::Memory { .. } | Self::List { .. } | Self::Pass { .. } => true,
            Self::RemoveLater { .. } | Self::Late => true,
            Self::End { exit_code, .. } => exit_code == 0,
            Self::Adopt { lost, .. } | Self::Grant { lost, .. } => !lost,
            _ => false,
        }
    }
}

/// Gives one up for another: a budget of faults.
fn spend(budget: &mut u8) -> bool {
    let any = *budget > 0;
    *budget -= u8::from(any);
    any
}

impl Protocol {
    /// All that might happen; [`Protocol::perform`] says whether it may.
    pub(super) fn candidates(&self, w: &World, out: &mut Vec<Action>) {
        let (left, jobs) = (w.left, small(self.jobs.len()));
        let free = w.late.is_none() && left.lost > 0;
        for by in 0..small(self.dispatchers) {
            for job in 0..jobs {
                out.push(Action::Step { by, job });
                out.push(Action::Submit { by, job, lost: false });
                out.push(Action::Adopt { by, job, lost: false });
                if free {
                    out.push(Action::Lose { by, job });
                    out.push(Action::Submit { by, job, lost: true });
                    out.push(Action::Adopt { by, job, lost: true });
                }
                if left.intents > 0 {
                    out.push(Action::Cancel { by, job });
                    out.push(Action::Deadline { by, job });
                }
                if self.faults.intents > 0 {
                    out.push(Action::Interrupt { by, job });
                }
                if left.refusals > 0 {
                    out.push(Action::Refuse { by, job });
                }
            }
            for inventory in 0..small(INVENTORIES) {
                out.push(Action::Grant { by, inventory, lost: false });
                if free {
                    out.push(Action::Grant { by, inventory, lost: true });
                }
            }
            out.push(Action::Memory { by });
            out.push(Action::Pass { by });
            if free {
                out.push(Action::LosePass { by });
            }
            if left.crashes > 0 {
                out.push(Action::Crash { by });
            }
        }
        for container in Cid::all().filter(|at| w.phase(*at).is_some()) {
            for by in 0..small(self.dispatchers) {
                out.push(Action::List { by, container });
                out.push(Action::RemoveLater { by, container });
            }
            out.push(Action::End { container, exit_code: 0 });
            out.push(Action::End { container, exit_code: 1 });
            if left.removals > 0 {
                out.push(Action::RemoveByHand { container });
            }
        }
        out.push(Action::Late);
        out.push(Action::Never);
        if left.wipes > 0 {
            out.push(Action::Wipe);
        }
        if left.restores > 0 {
            out.push(Action::Keep);
            out.push(Action::Restore);
        }
    }

    /// Does it, if it may happen now; nothing is changed if it may not.
    pub(super) fn perform(&self, w: &mut World, action: Action) -> bool {
        match action {
            Action::Submit { by, job, lost } => self.submit_at(w, by, job, lost),
            Action::Cancel { by, job } => {
                let may = w.job(job).is_some_and(|it| it.live() && it.intent.is_none() && it.exit_code.is_none());
                may && self.known(w, by) && spend(&mut w.left.intents) && {
                    self.call(w, by, job, 0, Op::Cancel);
                    true
                }
            }
            Action::Deadline { by, job } => self.deadline(w, by, job),
            Action::Step { by, job } => match w.dispatchers[usize::from(by)].supervisors[usize::from(job)] {
                Some(it) => self.step(w, by, job, it),
                None => false,
            },
            Action::Lose { by, job } => {
                let Some(it) = w.dispatchers[usize::from(by)].supervisors[usize::from(job)] else { return false };
                let Some(call) = self.request(w, by, job, it) else { return false };
                self.lose(w, call) && {
                    self.go(w, by, job, At::Read(Assumed::Nothing));
                    true
                }
            }
            Action::Interrupt { by, job } => {
                let Some(it) = w.dispatchers[usize::from(by)].supervisors[usize::from(job)] else { return false };
                let launching = matches!(
                    it.at,
                    At::Create | At::Confirm(_) | At::Withdraw(_) | At::StartLook(_) | At::Start(_) | At::Started(_)
                );
                let intended = w.job(job).is_some_and(|job| job.intent.is_some() && job.lease == it.lease);
                launching && intended && self.known(w, by) && {
                    self.go(w, by, job, At::Read(Assumed::Nothing));
                    true
                }
            }
            Action::Refuse { by, job } => {
                let Some(it) = w.dispatchers[usize::from(by)].supervisors[usize::from(job)] else { return false };
                let At::Start(nth) = it.at else { return false };
                spend(&mut w.left.refusals) && {
                    self.go(w, by, job, At::FailUnconfirm(nth));
                    true
                }
            }
            Action::Adopt { by, job, lost } => self.adopt_at(w, by, job, lost),
            Action::Grant { by, inventory, lost } => {
                let at = usize::from(inventory);
                let waits = w.redis.locks[at].is_none() && !w.redis.queues[at].is_empty();
                waits && self.known(w, by) && self.ask(w, by, 0, Op::Grant(inventory), lost)
            }
            Action::Memory { by } => self.memory(w, by),
            Action::List { by, container } => {
                let Place::Here { phase, aside, .. } = w.place(container) else { return false };
                let idle = w.dispatchers[usize::from(by)].pass == Pass::Idle && self.known(w, by);
                let over = w.job(container.job).is_none_or(|it| !it.live());
                let nothing_to_do = matches!(phase, Phase::Running | Phase::Dying) && w.job(container.job).is_some();
                idle && over && !nothing_to_do && {
                    w.dispatchers[usize::from(by)].pass = Pass::Listed(container, phase, aside);
                    true
                }
            }
            Action::Pass { by } => self.pass(w, by),
            Action::LosePass { by } => {
                let call = match w.dispatchers[usize::from(by)].pass {
                    Pass::Remove(at) => Call::Remove(at),
                    Pass::Rename(at) => Call::Rename(at),
                    Pass::Rescue { created, .. } => match Cid::all().find(|at| created & at.bit() != 0) {
                        Some(at) => Call::Remove(at),
                        None => return false,
                    },
                    Pass::Idle | Pass::Listed(..) | Pass::List { .. } => return false,
                };
                self.lose(w, call) && {
                    w.dispatchers[usize::from(by)].pass = Pass::Idle;
                    true
                }
            }
            Action::RemoveLater { by, container } => {
                let later = &mut w.dispatchers[usize::from(by)].later;
                if *later & container.bit() == 0 {
                    return false;
                }
                *later &= !container.bit();
                self.apply(w, Call::Remove(container));
                true
            }
            Action::End { container, exit_code } => {
                let Place::Here { phase: Phase::Running, fence, aside } = w.place(container) else { return false };
                if self.lasting && self.about_to_remove(w, container) {
                    return false;
                }
                w.put(container, Place::Here { phase: Phase::Ended { exit_code }, fence, aside });
                w.truth.exit_code[usize::from(container.job)] = Some(exit_code);
                true
            }
            Action::Late => match w.late.take() {
                Some(call) => {
                    self.apply(w, call);
                    true
                }
                None => false,
            },
            Action::Never => w.late.take().is_some(),
            Action::Crash { by } => spend(&mut w.left.crashes) && {
                self.crash(w, by);
                true
            },
            Action::Wipe => w.redis.epoch != 0 && spend(&mut w.left.wipes) && {
                w.lose_memory(super::world::Redis::default());
                true
            },
            Action::Keep => w.redis.epoch != 0 && w.kept.is_none() && {
                w.kept = Some(Box::new(w.redis.clone()));
                true
            },
            Action::Restore => match w.kept.take() {
                Some(kept) => spend(&mut w.left.restores) && {
                    w.lose_memory(*kept);
                    true
                },
                None => false,
            },
            Action::RemoveByHand { container } => match w.place(container) {
                Place::Here { .. } => spend(&mut w.left.removals) && {
                    w.vanish(container);
                    true
                },
                Place::Never | Place::Gone { .. } => false,
            },
        }
    }

    fn crash(&self, w: &mut World, by: u8) {
        w.dispatchers[usize::from(by)] = Dispatcher::default();
        // It comes back under another name, and the old one gives no sign of life any more.
        for it in w.redis.jobs.iter_mut().chain(w.kept.iter_mut().flat_map(|kept| kept.jobs.iter_mut())).flatten() {
            it.owner = it.owner.filter(|owner| *owner != by);
        }
        if let Some(Call::Script(script)) = &mut w.late {
            script.by = script.by.filter(|caller| *caller != by);
        }
    }

    /// Whether somebody has seen this container as created and is about to remove it.
    fn about_to_remove(&self, w: &World, it: Cid) -> bool {
        let removes = |supervisor: &Supervisor, job: usize| match supervisor.at {
            At::Unconfirm(at) | At::Remove(at) => at == it,
            At::Withdraw(nth) | At::FailUnconfirm(nth) | At::FailRemove(nth) => it == Cid { job: small(job), nth },
            _ => false,
        };
        w.late == Some(Call::Remove(it))
            || w.dispatchers.iter().any(|dispatcher| {
                let mut supervisors = dispatcher.supervisors.iter().enumerate();
                supervisors.any(|(job, at)| at.as_ref().is_some_and(|at| removes(at, job)))
                    || matches!(dispatcher.pass, Pass::Rescue { created, .. } if created & it.bit() != 0)
            })
    }

    /// Whether Redis holds the memory that this dispatcher knows, as every read checks it.
    fn known(&self, w: &World, by: u8) -> bool {
        let it = &w.dispatchers[usize::from(by)];
        it.known != 0 && it.known == w.redis.epoch && w.redis.counter >= it.seen
    }

    fn see(&self, w: &mut World, by: u8) {
        w.dispatchers[usize::from(by)].seen = w.dispatchers[usize::from(by)].seen.max(w.redis.counter);
    }

    fn script_of(&self, w: &World, by: u8, job: u8, lease: u8, op: Op) -> Call {
        let it = &w.dispatchers[usize::from(by)];
        Call::Script(Script { by: Some(by), epoch: it.known, seen: it.seen, job, lease, op })
    }

    /// Calls a script. Without a known memory it is not even sent.
    fn call(&self, w: &mut World, by: u8, job: u8, lease: u8, op: Op) -> Reply {
        if w.dispatchers[usize::from(by)].known == 0 {
            return Reply::Epoch;
        }
        let reply = self.apply(w, self.script_of(w, by, job, lease, op));
        if reply != Reply::Epoch {
            self.see(w, by);
        }
        reply
    }

    fn lose(&self, w: &mut World, call: Call) -> bool {
        w.late.is_none() && spend(&mut w.left.lost) && {
            w.late = Some(call);
            true
        }
    }

    /// Asks for something that may answer with a held lock, which is then supervised.
    fn ask(&self, w: &mut World, by: u8, job: u8, op: Op, lost: bool) -> bool {
        let lease = w.job(job).map_or(0, |it| it.lease);
        if lost {
            return self.lose(w, self.script_of(w, by, job, lease, op));
        }
        let reply = self.call(w, by, job, lease, op);
        self.supervise(w, by, reply, op != Op::Adopt);
        true
    }

    fn supervise(&self, w: &mut World, by: u8, reply: Reply, fresh: bool) {
        if let Reply::Held { job, fence, lease } = reply {
            let at = At::Read(if fresh { Assumed::Absent } else { Assumed::Nothing });
            // One that has a task here already, from before, gets no second one.
            let place = &mut w.dispatchers[usize::from(by)].supervisors[usize::from(job)];
            place.get_or_insert(Supervisor { lease, fence, at });
        }
    }

    fn submit_at(&self, w: &mut World, by: u8, job: u8, lost: bool) -> bool {
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

    fn adopt_at(&self, w: &mut World, by: u8, job: u8, lost: bool) -> bool {
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

    fn deadline(&self, w: &mut World, by: u8, job: u8) -> bool {
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

    fn go(&self, w: &mut World, by: u8, job: u8, at: At) {
        if let Some(it) = &mut w.dispatchers[usize::from(by)].supervisors[usize::from(job)] {
            it.at = at;
        }
    }

    fn leave(&self, w: &mut World, by: u8, job: u8) {
        w.dispatchers[usize::from(by)].supervisors[usize::from(job)] = None;
    }

    /// The changing call that a supervisor is about to make, if it is one.
    fn request(&self, w: &World, by: u8, job: u8, it: Supervisor) -> Option<Call> {
        let own = |nth| Cid { job, nth };
        let fence = it.fence;
        let op = match it.at {
            At::Create => return Some(Call::Create { job, fence }),
            At::Start(nth) => return Some(Call::Start(own(nth))),
            At::Withdraw(nth) | At::FailRemove(nth) => return Some(Call::Remove(own(nth))),
            At::Remove(at) => return Some(Call::Remove(at)),
            At::Clear(at) => return Some(Call::Rename(at)),
            At::Rename(nth, _) => return Some(Call::Rename(own(nth))),
            At::Confirm(nth) => Op::Confirm { nth, fence },
            At::Recognize(nth) => Op::Recognize { nth, fence },
            At::Unconfirm(at) => Op::Unconfirm(at),
            At::FailUnconfirm(nth) => Op::Unconfirm(own(nth)),
            At::Started(_) | At::Show(_) => Op::Started,
            At::Exited(_, exit_code) => Op::Exited(exit_code),
            At::Finish(_, outcome) => Op::Finish(outcome),
            At::Read(_) | At::Look(_) | At::Other(..) | At::StartLook(_) | At::Follow(_) | At::FailRead => return None,
        };
        Some(self.script_of(w, by, job, it.lease, op))
    }

    fn step(&self, w: &mut World, by: u8, job: u8, it: Supervisor) -> bool {
        if let Some(call) = self.request(w, by, job, it) {
            let reply = match call {
                Call::Script(script) => self.call(w, by, job, it.lease, script.op),
                _ => self.apply(w, call),
            };
            self.answered(w, by, job, it, reply);
            return true;
        }
        match it.at {
            At::Read(assumed) => {
                let Some(record) = self.own_record(w, by, job, it) else { return true };
                let evidence = match assumed {
                    Assumed::Absent => Evidence::Absent,
                    Assumed::Unknown => Evidence::Unknown,
                    Assumed::Running(nth) => own_evidence(nth, Phase::Running),
                    Assumed::Nothing if record.exit_code.is_some() => Evidence::Unknown,
                    Assumed::Nothing => {
                        self.go(w, by, job, At::Look(record));
                        return true;
                    }
                };
                self.decide(w, by, job, record, &evidence);
            }
            At::Look(record) => {
                let evidence = match record.container {
                    Some(nth) => match w.phase(Cid { job, nth }) {
                        Some(phase) => own_evidence(nth, phase),
                        None => Evidence::Absent,
                    },
                    None => match self.named(w, self.inventory(job)).and_then(|at| Some((at, w.phase(at)?))) {
                        None => Evidence::Absent,
                        Some((at, phase)) if at.job == job => own_evidence(at.nth, phase),
                        Some((at, phase)) => {
                            self.go(w, by, job, At::Other(record, at, phase));
                            return true;
                        }
                    },
                };
                self.decide(w, by, job, record, &evidence);
            }
            At::Other(record, at, phase) => {
                let evidence = if self.known(w, by) {
                    self.see(w, by);
                    let over = w.job(at.job).is_none_or(|other| !other.live());
                    Evidence::Foreign { container: word(at), phase, job: self.ids[usize::from(at.job)], over }
                } else {
                    Evidence::Unknown
                };
                self.decide(w, by, job, record, &evidence);
            }
            At::StartLook(nth) => {
                let next = match w.phase(Cid { job, nth }) {
                    Some(Phase::Created) => At::Start(nth),
                    Some(Phase::Running | Phase::Ended { .. }) => At::Started(nth),
                    Some(Phase::Dying) | None => At::Read(Assumed::Nothing),
                };
                self.go(w, by, job, next);
            }
            At::Follow(nth) => match w.phase(Cid { job, nth }) {
                Some(Phase::Ended { exit_code }) => self.go(w, by, job, At::Exited(nth, exit_code)),
                Some(_) => return false,
                None => self.go(w, by, job, At::Read(Assumed::Nothing)),
            },
            At::FailRead => {
                let Some(record) = self.own_record(w, by, job, it) else { return true };
                let outcome = record.intent.map_or(Outcome::Failed, Intent::outcome);
                self.go(w, by, job, At::Finish(None, outcome));
            }
            _ => unreachable!("a changing call was made above"),
        }
        true
    }

    /// The record, if it is this supervisor's still; else it goes away.
    fn own_record(&self, w: &mut World, by: u8, job: u8, it: Supervisor) -> Option<Job> {
        let record = if self.known(w, by) { w.job(job) } else { None };
        if self.known(w, by) {
            self.see(w, by);
        }
        let record = record.filter(|record| record.lease == it.lease);
        if record.is_none() {
            self.leave(w, by, job);
        }
        record
    }

    /// Asks the rule, and goes to the first call of the step.
    fn decide(&self, w: &mut World, by: u8, job: u8, it: Job, evidence: &Evidence) {
        let at = match next_step(&self.record(job, it), evidence) {
            Step::Leave => return self.leave(w, by, job),
            Step::Wait => At::Read(Assumed::Nothing),
            Step::Launch => At::Create,
            Step::Discard { container } => At::Unconfirm(cid(&container, job)),
            Step::Recognize { container } => At::Recognize(cid(&container, job).nth),
            Step::Follow => {
                let nth = it.container.expect("a recorded container is followed");
                if self.without == Without::EndFirst {
                    self.apply(w, Call::Rename(Cid { job, nth }));
                }
                if it.state == State::Starting { At::Show(nth) } else { At::Follow(nth) }
            }
            Step::Clear { container } => At::Clear(cid(&container, job)),
            Step::Finish(outcome) | Step::End { outcome, .. } => match it.container {
                Some(nth) if self.without != Without::Rename => At::Rename(nth, outcome),
                container => At::Finish(container, outcome),
            },
        };
        self.go(w, by, job, at);
    }

    fn record(&self, job: u8, it: Job) -> Record {
        Record {
            state: it.state,
            lease: u64::from(it.lease),
            container: it.container.map(|nth| word(Cid { job, nth })),
            intent: it.intent,
            exit_code: it.exit_code,
            ..self.records[usize::from(job)].clone()
        }
    }

    fn answered(&self, w: &mut World, by: u8, job: u8, it: Supervisor, reply: Reply) {
        let again = At::Read(Assumed::Nothing);
        let at = match (it.at, reply) {
            (At::Confirm(nth), Reply::Stale) => At::Withdraw(nth),
            (_, Reply::Stale | Reply::Epoch) => return self.leave(w, by, job),
            (At::Create, Reply::Made(nth)) => At::Confirm(nth),
            (At::Create, _) => At::Read(Assumed::Unknown),
            (At::Confirm(nth), _) => At::StartLook(nth),
            (At::Start(nth), Reply::Done) => At::Started(nth),
            (At::Started(nth), _) => At::Read(Assumed::Running(nth)),
            (At::Unconfirm(at), _) => At::Remove(at),
            (At::Show(nth), _) => At::Follow(nth),
            (At::Rename(nth, outcome), _) => At::Finish(Some(nth), outcome),
            (At::FailUnconfirm(nth), _) => At::FailRemove(nth),
            (At::FailRemove(_), Reply::Done) => At::FailRead,
            (At::Finish(container, _), reply) => {
                if let Some(nth) = container {
                    w.dispatchers[usize::from(by)].later |= Cid { job, nth }.bit();
                }
                self.leave(w, by, job);
                return self.supervise(w, by, reply, true);
            }
            // What was refused, or is done: a look says what next.
            _ => again,
        };
        self.go(w, by, job, at);
    }

    fn memory(&self, w: &mut World, by: u8) -> bool {
        let (epoch, counter) = (w.redis.epoch, w.redis.counter);
        let it = &mut w.dispatchers[usize::from(by)];
        if it.pass != Pass::Idle || self.known(w, by) {
            return false;
        }
        let it = &mut w.dispatchers[usize::from(by)];
        if epoch == 0 || (it.known != 0 && (it.known == epoch || (self.counted() && counter <= it.seen))) {
            it.pass = Pass::List { current: true };
        } else {
            (it.known, it.seen, it.spans) = (epoch, counter, 0);
        }
        true
    }

    fn pass(&self, w: &mut World, by: u8) -> bool {
        let at = usize::from(by);
        let next = match w.dispatchers[at].pass {
            Pass::Idle => return false,
            Pass::Listed(container, phase, aside) => self.look_after(w, by, container, phase, aside),
            Pass::Remove(container) => {
                self.apply(w, Call::Remove(container));
                Pass::Idle
            }
            Pass::Rename(container) => {
                self.apply(w, Call::Rename(container));
                Pass::Idle
            }
            Pass::List { current } => {
                let (mut created, mut rescued) = (0, Rescued::default());
                for container in Cid::all() {
                    let Place::Here { phase, aside, .. } = w.place(container) else { continue };
                    if phase == Phase::Created {
                        created |= container.bit();
                    } else {
                        rescued.started |= container.bit();
                    }
                    if !aside {
                        rescued.holds |= container.bit();
                    }
                }
                Pass::Rescue { current, created, rescued }
            }
            Pass::Rescue { current, mut created, mut rescued } => {
                match Cid::all().find(|at| created & at.bit() != 0) {
                    Some(container) => {
                        created &= !container.bit();
                        match self.apply(w, Call::Remove(container)) {
                            Reply::Done => rescued.never_started |= container.bit(),
                            _ => rescued.started |= container.bit(),
                        }
                        Pass::Rescue { current, created, rescued }
                    }
                    None => {
                        if current {
                            let epoch = self.rebuild(w, rescued);
                            let it = &mut w.dispatchers[at];
                            (it.known, it.seen, it.spans) = (epoch, w.redis.counter, 0);
                        }
                        Pass::Idle
                    }
                }
            }
        };
        w.dispatchers[at].pass = next;
        true
    }

    /// What the reconciler does about a container that it has listed so.
    fn look_after(&self, w: &mut World, by: u8, container: Cid, phase: Phase, aside: bool) -> Pass {
        if !self.known(w, by) {
            w.dispatchers[usize::from(by)].pass = Pass::Idle;
            self.memory(w, by);
            if !self.known(w, by) {
                return w.dispatchers[usize::from(by)].pass;
            }
        }
        self.see(w, by);
        let ended = matches!(phase, Phase::Ended { .. });
        match w.job(container.job) {
            Some(it) if it.live() => Pass::Idle,
            Some(_) if phase == Phase::Created || (ended && aside) => Pass::Remove(container),
            Some(_) if ended => Pass::Rename(container),
            Some(_) => Pass::Idle,
            None if ended && aside => Pass::Remove(container),
            // Making a single record anew is not modelled: what it mends is damage, and nothing here damages a record.
            None if w.dispatchers[usize::from(by)].spans & (1 << container.job) != 0 => Pass::Idle,
            None => Pass::List { current: true },
        }
    }
}

fn own_evidence(nth: u8, phase: Phase) -> Evidence {
    // The job is filled in by whoever reads it: see `cid`.
    Evidence::Own { container: format!("own {nth}"), phase }
}

fn word(at: Cid) -> String {
    format!("{} {}", at.job, at.nth)
}

/// Reads a container's id as it came back from the rule; `job` is whose own it is.
fn cid(text: &str, job: u8) -> Cid {
    let (whose, nth) = text.split_once(' ').expect("an id that was made here");
    Cid { job: whose.parse().unwrap_or(job), nth: nth.parse().expect("a number") }
}

const _: () = assert!(JOBS * TRIES <= 16 && DISPATCHERS >= 2);
