//! What would be noticed: the protocol without one of its parts, and the property that breaks then.

use super::properties::{FENCE, ONCE, ONE, OVER};
use super::world::Faults;
use super::{NONE, Protocol, TWO, Without, breaks, holds};

fn without(part: Without, faults: Faults) -> Protocol {
    Protocol { without: part, ..Protocol::new(&TWO, faults) }
}

/// A supervisor that hung before its create goes on after another has carried the job to its end.
#[test]
fn confirm() {
    breaks(without(Without::Confirm, Faults { hangs: 1, ..NONE }), ONCE);
}

/// A job is submitted in the empty memory and started after the rebuilder has listed the containers: the rebuild says that it
/// is lost. Leases do not help: a new job has none from before. Reads have to be unchecked too, or its supervisor goes away.
#[test]
fn the_epoch() {
    breaks(without(Without::Epoch, Faults { wipes: 1, ..NONE }), OVER);
}

/// Renamed while it runs: a rebuild takes it for one that holds no lock, and the name is free for the next.
#[test]
fn the_end_before_the_rename() {
    breaks(without(Without::EndFirst, Faults { wipes: 1, ..NONE }), ONE);
}

/// Whether it is renamed before the outcome is set, after, or not at all decides nothing: the next holder finds a container of a
/// job that is over and clears the way, and so does the reconciler. It spares the next holder that round.
#[test]
fn the_rename_itself_nothing_breaks() {
    holds(without(Without::Rename, Faults { crashes: 1, ..NONE }));
}

/// Redis older, and nobody alive who has seen more: the name is the one fence that is left. As long as Redis is empty or whole,
/// lock, lease and epoch were enough in all that was tried.
#[test]
fn the_unique_name() {
    let faults = Faults { restores: 1, crashes: 1, ..NONE };
    breaks(Protocol { dispatchers: 1, ..without(Without::UniqueName, faults) }, ONE);
}

/// A job that never had a container left no label by which a rebuild could raise the last fence.
#[test]
fn redis_clock() {
    breaks(without(Without::Clock, Faults { wipes: 1, ..NONE }), FENCE);
}

/// Docker, killed in the middle of a start, shows a container that ran as one that never did.
#[test]
fn the_evidence_of_a_start() {
    breaks(without(Without::Evidence, Faults { deaths: 1, ..NONE }), ONCE);
}

#[test]
fn making_sure_that_it_does_not_run() {
    breaks(without(Without::Rest, Faults { deaths: 1, ..NONE }), ONE);
}
