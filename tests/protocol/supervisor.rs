//! A supervisor, one call of Redis or the engine a step: `dispatch::supervise`, `launch` and `follow`.
//!
//! Its place is [`At`]; between two places anything may happen. What it decides, `model::settle::next_step` decides.

use lockstep::model::job::{Intent, Outcome, Record, State};
use lockstep::model::settle::{Evidence, Phase, Step, next_step};

use super::world::{Call, Cid, Job, Op, Place, Reply, World};
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
    /// Make sure that what the engine has lost sight of does not run: own, before its job ends, or another's, before it is moved away.
    Lay(u8, Outcome),
    LayOther(Cid),
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

impl Protocol {
    pub(super) fn go(&self, w: &mut World, by: u8, job: u8, at: At) {
        if let Some(it) = &mut w.dispatchers[usize::from(by)].supervisors[usize::from(job)] {
            it.at = at;
        }
    }

    pub(super) fn leave(&self, w: &mut World, by: u8, job: u8) {
        w.dispatchers[usize::from(by)].supervisors[usize::from(job)] = None;
    }

    /// The changing call that a supervisor is about to make, if it is one.
    pub(super) fn request(&self, w: &World, by: u8, job: u8, it: Supervisor) -> Option<Call> {
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
            At::Finish(container, outcome) => Op::Finish(container, outcome),
            At::Read(_) | At::Look(_) | At::Other(..) | At::StartLook(_) | At::Follow(_) | At::FailRead => return None,
            At::Lay(..) | At::LayOther(_) => return None,
        };
        Some(self.script_of(w, by, job, it.lease, op))
    }

    pub(super) fn step(&self, w: &mut World, by: u8, job: u8, it: Supervisor) -> bool {
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
                        None => self.set_aside(w, job).unwrap_or(Evidence::Absent),
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
                    Some(Phase::Dying | Phase::Unseen) | None => At::Read(Assumed::Nothing),
                };
                self.go(w, by, job, next);
            }
            At::Follow(nth) => match w.phase(Cid { job, nth }) {
                Some(Phase::Ended { exit_code }) => self.go(w, by, job, At::Exited(nth, exit_code)),
                Some(_) => return false,
                None => self.go(w, by, job, At::Read(Assumed::Nothing)),
            },
            // Refused as long as it runs, and tried again.
            At::Lay(nth, _) if w.truth.ghosts & Cid { job, nth }.bit() != 0 => return false,
            At::LayOther(at) if w.truth.ghosts & at.bit() != 0 => return false,
            At::Lay(nth, _) if w.truth.idle & Cid { job, nth }.bit() != 0 => {
                self.go(w, by, job, At::Unconfirm(Cid { job, nth }));
            }
            At::Lay(nth, outcome) if self.without == Without::Rename => {
                self.go(w, by, job, At::Finish(Some(nth), outcome))
            }
            At::Lay(nth, outcome) => self.go(w, by, job, At::Rename(nth, outcome)),
            At::LayOther(at) => self.go(w, by, job, At::Clear(at)),
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

    /// A container of the job that bears its ended name.
    fn set_aside(&self, w: &World, job: u8) -> Option<Evidence> {
        let aside = |at: &Cid| at.job == job && matches!(w.place(*at), Place::Here { aside: true, .. });
        let at = Cid::all().find(aside).filter(|_| self.mended.look_aside)?;
        Some(own_evidence(at.nth, w.phase(at)?))
    }

    /// Asks the rule, and goes to the first call of the step.
    fn decide(&self, w: &mut World, by: u8, job: u8, it: Job, evidence: &Evidence) {
        let at = match next_step(&self.record(job, it), evidence) {
            Step::Leave => return self.leave(w, by, job),
            Step::Wait => At::Read(Assumed::Nothing),
            Step::Launch if !it.sealed => At::Finish(None, Outcome::Lost),
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
            Step::Clear { container } => match evidence {
                Evidence::Foreign { phase: Phase::Unseen, .. } => At::LayOther(cid(&container, job)),
                _ => At::Clear(cid(&container, job)),
            },
            Step::End { outcome, .. } if self.without != Without::Rest && own_unseen(evidence) => {
                At::Lay(it.container.expect("what is unseen is recorded before its job ends"), outcome)
            }
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
}

fn own_unseen(evidence: &Evidence) -> bool {
    matches!(evidence, Evidence::Own { phase: Phase::Unseen, .. })
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
