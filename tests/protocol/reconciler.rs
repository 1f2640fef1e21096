//! The reconciler, one call a step: `dispatch::reconcile`.

use lockstep::model::settle::Phase;

use super::Protocol;
use super::world::{Call, Cid, Place, Reply, Rescued, World};

/// The reconciler's place, container by container: what it has listed of one, or what it does to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) enum Pass {
    #[default]
    Idle,
    Listed(Cid, Phase, bool),
    Remove(Cid),
    Rename(Cid),
    /// To rebuild: list the containers. `current`: nothing has changed in Redis since it was found strange.
    List {
        current: bool,
    },
    /// To rebuild: remove these, which were listed as created; then the script.
    Rescue {
        current: bool,
        created: u16,
        rescued: Rescued,
    },
}

impl Protocol {
    pub(super) fn memory(&self, w: &mut World, by: u8) -> bool {
        let (epoch, counter) = (w.redis.epoch, w.redis.counter);
        let it = &mut w.dispatchers[usize::from(by)];
        if it.pass != Pass::Idle || self.familiar(w, by) {
            return false;
        }
        let it = &mut w.dispatchers[usize::from(by)];
        if epoch == 0 || (it.known != 0 && (it.known == epoch || (self.counted() && counter <= it.seen))) {
            it.pass = Pass::List { current: true };
        } else {
            it.know(epoch, counter);
        }
        true
    }

    pub(super) fn pass(&self, w: &mut World, by: u8) -> bool {
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
                    let (Place::Here { aside, .. }, Some(phase)) = (w.place(container), w.listed(container)) else {
                        continue;
                    };
                    let of_job = |at: &Cid| at.job == container.job;
                    let ran = |at: Cid| w.listed(at).is_some_and(|phase| phase != Phase::Created);
                    if phase != Phase::Created {
                        rescued.started |= container.bit();
                    } else if !self.mended.keep_created {
                        created |= container.bit();
                    } else if !Cid::all().filter(of_job).any(ran) {
                        rescued.started |= container.bit();
                    } else {
                        // What was never started says nothing about a job that has another one.
                        continue;
                    }
                    if !aside {
                        rescued.holds |= container.bit();
                    }
                }
                Pass::Rescue { current, created, rescued }
            }
            Pass::Rescue { current, mut created, mut rescued } => match Cid::all().find(|at| created & at.bit() != 0) {
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
                        let counter = w.redis.counter;
                        w.dispatchers[at].know(epoch, counter);
                    }
                    Pass::Idle
                }
            },
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
            // Nothing here is as old as jobs are kept.
            None if ended && aside && !self.mended.look_aside => Pass::Remove(container),
            // Making a single record anew is not modelled: what it mends is damage, and nothing here damages a record.
            None if w.dispatchers[usize::from(by)].spans & (1 << container.job) != 0 => Pass::Idle,
            None => Pass::List { current: true },
        }
    }
}
