//! The deploy lock and its fence.
//!
//! At most one job holds the lock of an inventory. The lock's value is the job's id and it has no expiry: it is freed by
//! evidence. A holder's fence is higher than that of every holder before it, also when Redis has lost its memory, because
//! it is never below the time.

use std::fmt;

use super::ids::{Inventory, JobId};

/// A number per inventory that only grows. At most 2^53 - 1, so that Lua, JSON and JavaScript all hold it exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fence(pub u64);

impl Fence {
    /// The fence that follows `last` at a moment in milliseconds since 1970: `max(last, now) + 1`.
    ///
    /// The script that takes the lock computes the same with Redis' own time.
    pub fn next(last: Option<Fence>, now_ms: u64) -> Fence {
        Fence(last.map_or(now_ms, |last| last.0.max(now_ms)) + 1)
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Proof that the deploy lock was given to this job under this lease. Launching takes a reference to one.
///
/// Its fields are private and only `store` can make one, so a launch without a lock does not compile:
///
/// ```compile_fail
/// use lockstep::model::lock::{Fence, Held};
/// let job = lockstep::model::ids::JobId::new(0, 0);
/// let forged = Held { job, inventory: "x".parse().unwrap(), fence: Fence(1), lease: 1 };
/// ```
///
/// It proves the past, not the present: that the lock is still this job's is what `confirm` asks Redis before a start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    job: JobId,
    inventory: Inventory,
    fence: Fence,
    lease: u64,
}

impl Held {
    /// For `store` alone: called where a script has just answered that the job holds the lock.
    pub(crate) fn granted(job: JobId, inventory: Inventory, fence: Fence, lease: u64) -> Self {
        Self { job, inventory, fence, lease }
    }

    /// The job that holds the lock.
    pub fn job(&self) -> JobId {
        self.job
    }

    /// The inventory that is locked.
    pub fn inventory(&self) -> &Inventory {
        &self.inventory
    }

    /// The fence given with it.
    pub fn fence(&self) -> Fence {
        self.fence
    }

    /// The supervisor's lease; every write about the job carries it.
    pub fn lease(&self) -> u64 {
        self.lease
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_fence_grows_past_the_last_one_and_past_the_clock(last in proptest::option::of(0u64..1 << 52), now in 0u64..1 << 52) {
            let last = last.map(Fence);
            let next = Fence::next(last, now);
            prop_assert!(Some(next) > last);
            prop_assert!(next.0 > now);
        }
    }
}
