//! What may happen in a world, and whether it may: requests, steps, faults.

use lockstep::model::settle::Phase;

use super::reconciler::Pass;
use super::supervisor::{Assumed, At, Supervisor};
use super::world::{Call, Cid, Dispatcher, INVENTORIES, Op, Place, Redis, World, small};
use super::{Protocol, Without};

/// One thing that may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Action {
    /// A request arrives. `lost`: the reply of Redis is.
    Submit {
        by: u8,
        job: u8,
        lost: bool,
    },
    Cancel {
        by: u8,
        job: u8,
    },
    /// A supervisor sees a deadline pass.
    Deadline {
        by: u8,
        job: u8,
    },
    /// A supervisor makes its next call.
    Step {
        by: u8,
        job: u8,
    },
    /// Its reply is lost.
    Lose {
        by: u8,
        job: u8,
    },
    /// The news of an intent interrupts a launch.
    Interrupt {
        by: u8,
        job: u8,
    },
    /// The engine refuses its start.
    Refuse {
        by: u8,
        job: u8,
    },
    /// The engine dies in the middle of its start.
    Blind {
        by: u8,
        job: u8,
        /// Its process began.
        ran: bool,
    },
    /// A process of which the engine has lost sight ends.
    Fade {
        container: Cid,
    },
    /// A job without a supervisor is adopted; or one of a dispatcher that hangs.
    Adopt {
        by: u8,
        job: u8,
        lost: bool,
    },
    Grant {
        by: u8,
        inventory: u8,
        lost: bool,
    },
    /// The reconciler compares epochs, lists a container, makes its next call.
    Memory {
        by: u8,
    },
    List {
        by: u8,
        container: Cid,
    },
    Pass {
        by: u8,
    },
    LosePass {
        by: u8,
    },
    /// `runner.keep` has passed.
    RemoveLater {
        by: u8,
        container: Cid,
    },
    /// A container ends.
    End {
        container: Cid,
        exit_code: i64,
    },
    /// A call whose reply was lost takes effect; or never does.
    Late,
    Never,
    Crash {
        by: u8,
    },
    Wipe,
    /// Redis writes down what it may come back with; and does.
    Keep,
    Restore,
    RemoveByHand {
        container: Cid,
    },
}

impl Action {
    /// What happens without anybody's fault or wish, if one only waits.
    pub(super) fn goes_on(self) -> bool {
        match self {
            Self::Step { .. } | Self::Memory { .. } | Self::List { .. } | Self::Pass { .. } => true,
            Self::RemoveLater { .. } | Self::Late | Self::Fade { .. } => true,
            Self::End { exit_code, .. } => exit_code == 0,
            Self::Adopt { lost, .. } | Self::Grant { lost, .. } => !lost,
            _ => false,
        }
    }
}

impl World {
    /// An action in words, with the call that it makes.
    pub(super) fn told(&self, action: Action) -> Option<String> {
        let call = match action {
            Action::Step { by, job } | Action::Lose { by, job } => {
                format!(": {:?}", self.dispatchers[usize::from(by)].supervisors[usize::from(job)]?.at)
            }
            Action::Pass { by } | Action::LosePass { by } => format!(": {:?}", self.dispatchers[usize::from(by)].pass),
            Action::Late => format!(": {:?}", self.late?),
            _ => String::new(),
        };
        Some(format!("{action:?}{call}"))
    }
}

/// Spends one of a budget, if there is any.
pub(super) fn spend(budget: &mut u8) -> bool {
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
                if left.deaths > 0 {
                    out.push(Action::Blind { by, job, ran: true });
                    out.push(Action::Blind { by, job, ran: false });
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
            if w.truth.ghosts & container.bit() != 0 {
                out.push(Action::Fade { container });
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
            Action::Blind { by, job, ran } => {
                let Some(it) = w.dispatchers[usize::from(by)].supervisors[usize::from(job)] else { return false };
                let At::Start(nth) = it.at else { return false };
                let at = Cid { job, nth };
                let Place::Here { phase: Phase::Created, fence, aside } = w.place(at) else { return false };
                if self.lasting && self.about_to_remove(w, at) {
                    return false;
                }
                spend(&mut w.left.deaths) && {
                    if ran {
                        w.truth.starts[usize::from(job)] += 1;
                        w.truth.ghosts |= at.bit();
                    } else {
                        w.truth.idle |= at.bit();
                    }
                    if self.without != Without::Evidence {
                        w.put(at, Place::Here { phase: Phase::Unseen, fence, aside });
                    }
                    self.go(w, by, job, At::Read(Assumed::Nothing));
                    true
                }
            }
            Action::Fade { container } => {
                w.truth.ghosts &= !container.bit();
                true
            }
            Action::Adopt { by, job, lost } => self.adopt_at(w, by, job, lost),
            Action::Grant { by, inventory, lost } => {
                let at = usize::from(inventory);
                let waits = w.redis.locks[at].is_none() && !w.redis.queues[at].is_empty();
                waits && self.known(w, by) && self.ask(w, by, 0, Op::Grant(inventory), lost)
            }
            Action::Memory { by } => self.memory(w, by),
            Action::List { by, container } => {
                let (Place::Here { aside, .. }, Some(phase)) = (w.place(container), w.listed(container)) else {
                    return false;
                };
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
            Action::Crash { by } => {
                spend(&mut w.left.crashes) && {
                    self.crash(w, by);
                    true
                }
            }
            Action::Wipe => {
                w.redis.epoch != 0 && spend(&mut w.left.wipes) && {
                    w.lose_memory(Redis::default(), self.strict);
                    true
                }
            }
            Action::Keep => {
                w.redis.epoch != 0 && w.kept.is_none() && {
                    w.kept = Some(Box::new(w.redis.clone()));
                    true
                }
            }
            Action::Restore => match w.kept.take() {
                Some(kept) => {
                    spend(&mut w.left.restores) && {
                        w.lose_memory(*kept, self.strict);
                        true
                    }
                }
                None => false,
            },
            Action::RemoveByHand { container } => {
                let it = w.job(container.job).and_then(|it| it.container);
                let unrecorded = w.phase(container) != Some(Phase::Created) && it != Some(container.nth);
                if self.lasting && (unrecorded || self.about_to_remove(w, container)) {
                    return false;
                }
                w.phase(container).is_some() && spend(&mut w.left.removals) && {
                    w.vanish(container);
                    true
                }
            }
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
}
