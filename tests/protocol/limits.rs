//! Limits of the protocol, and what some of its parts are good for: each test shows a way to what does not hold, and, where there
//! is a remedy, that it closes it.

use super::properties::{NOTICED, ONCE, OVER, SETTLES, TOLD};
use super::world::Faults;
use super::{Mended, NONE, ONE_JOB, Protocol, TWO, breaks, holds};

/// An adopter looks (never started), forgets the container; the late start of the one before comes, the container runs and ends
/// at once; the adopter removes it, for it does not run, and launches again. No engine removes only what was never started.
#[test]
fn a_container_that_starts_and_ends_between_look_and_removal_is_run_again() {
    let protocol = Protocol::new(&ONE_JOB, Faults { hangs: 1, ..NONE });
    breaks(Protocol { lasting: false, ..protocol }, ONCE);
}

/// A launch is impossible, its `finish` gets no answer; the next try succeeds; then that `finish` takes effect, under the same
/// lease: the job is over and its container runs.
#[test]
fn a_late_finish_of_a_failed_launch_ends_a_job_that_runs() {
    let protocol = || Protocol::new(&ONE_JOB, Faults { lost: 1, refusals: 1, intents: 1, ..NONE });
    breaks(Protocol { mended: Mended { finish_compares: false, ..Mended::default() }, ..protocol() }, OVER);
    holds(protocol());
}

/// Two rebuild. One removes a container that was never started, which the other does not list any more; the other's script wins;
/// nobody has recorded the job.
#[test]
fn two_rebuilders_forget_a_job_that_was_confirmed_and_not_started() {
    let protocol = || Protocol { strict: true, ..Protocol::new(&ONE_JOB, Faults { wipes: 1, ..NONE }) };
    breaks(Protocol { mended: Mended { keep_created: false, ..Mended::default() }, ..protocol() }, SETTLES);
    holds(protocol());
}

/// A job succeeds; Redis comes back empty; the rebuild takes the job up by its ended container, which is removed, because
/// `runner.keep` has passed, before its exit code is seen again: the job is lost.
#[test]
fn a_job_that_has_succeeded_is_lost_if_its_container_goes_while_redis_forgets() {
    breaks(Protocol::new(&ONE_JOB, Faults { wipes: 1, ..NONE }), TOLD);
}

/// Redis comes back older by a change that one dispatcher has seen; the other, which had not, makes one: the counter is again
/// as high as it was.
#[test]
fn a_counter_that_has_caught_up_hides_that_redis_is_older() {
    breaks(Protocol::new(&TWO, Faults { restores: 1, ..NONE }), NOTICED);
}

/// Redis comes back older and nobody remembers. A container that has ended is found, by its ended name; once it has been removed as
/// well, nobody can know that the job was run. (`appendfsync always` is there to keep Redis from coming back older.)
#[test]
fn a_job_whose_container_is_gone_is_run_again_by_an_older_record() {
    let faults = Faults { restores: 1, crashes: 1, ..NONE };
    breaks(Protocol { dispatchers: 1, ..Protocol::new(&ONE_JOB, faults) }, ONCE);
}

#[test]
#[ignore = "takes minutes: 4.9 million states"]
fn at_length_two_jobs_are_not_forgotten_when_redis_is() {
    holds(Protocol { strict: true, ..Protocol::new(&TWO, Faults { wipes: 1, ..NONE }) });
}

#[test]
#[ignore = "takes minutes: 3.2 million states"]
fn at_length_all_that_befalls_one_job() {
    holds(Protocol::new(&ONE_JOB, Faults { crashes: 1, hangs: 1, lost: 1, refusals: 1, intents: 1, ..NONE }));
}
