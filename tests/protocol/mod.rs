//! A model check of the protocol: every order of single calls, with crashes, hangs, lost replies and a Redis that forgets.
//!
//! ```text
//!  supervisor ─▶ next_step (the real one) ─▶ one call ─▶ Redis' scripts / the engine's rules ─▶ reply ─▶ supervisor …
//!       ▲                                       │
//!       └── anything may come between ──────────┴── lost: takes effect at any later moment, or never
//! ```
//!
//! **Modelled.** Two dispatchers; up to three jobs on one or two inventories. Each call of a supervisor and of the reconciler
//! (`supervisor.rs`, `reconciler.rs`) is a step of its own, with what it remembers between two of them. What to do next is
//! decided by `model::settle::next_step`, outcomes come from `model::job`, fences from `model::lock::Fence::next`: the real ones.
//! Redis' scripts (`redis.rs`) and the engine's rules (`world.rs`) are written out as small state machines: a name is unique,
//! nothing that runs is removed, an id never comes back, and an ended container that is started runs once more.
//!
//! **Faults** (`world::Faults`), each with a budget, which keeps the world finite: a dispatcher dies and starts again without
//! its memory; it hangs, so that its job is adopted while it goes on later where it was; a reply is lost and the call takes
//! effect at any later moment or never; Redis comes back empty, or as it was; the engine refuses a start, or dies in the middle
//! of one and knows nothing of it afterwards; a container is removed by force; somebody cancels, or a deadline passes. A
//! container may end with 0 or 1 at any moment, which covers every signal.
//!
//! **Not modelled.** Output; images and files; more than one engine; freezes; retention; a record that cannot be read (`mend`);
//! `unlock`, whose steps are those of a cancel. A hang is the moment of the adoption; signs of life have no clock. Redis' clock
//! stands still within a memory (the worst for fences), and moves on while memory is lost. The counter of changes is counted
//! only where Redis may come back older. A second try of a submission follows the first before another memory is known.
//!
//! **Assumed** ([`Protocol::lasting`]): a container is not started, and ended or removed by force, all between another's look
//! at it (never started) and its removal or its being recorded again. Of a job whose container was never started, Redis alone
//! knows ([`Protocol::strict`] is otherwise). What happens without either, and further limits, `limits.rs` shows.
//!
//! What would be noticed is shown in `without.rs`: each test leaves one thing out and names the property that breaks.

mod actions;
mod calls;
mod limits;
mod properties;
mod reconciler;
mod redis;
mod supervisor;
mod without;
mod world;

use lockstep::model::ids::JobId;
use lockstep::model::job::{Record, State, WhenBusy};
use lockstep::model::output::Position;
use stateright::{Checker, Expectation, HasDiscoveries, Model, Property};

use actions::Action;
use properties::{LOST, NOTICED, ONCE, SETTLES, TOLD};
use world::{DISPATCHERS, Dispatcher, Faults, JOBS, Place, Redis, TRIES, Truth, World, small};

/// What is left out, to see that the check notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Without {
    Nothing,
    /// `confirm` always says yes.
    Confirm,
    /// Neither scripts nor reads look at the epoch.
    Epoch,
    /// An ended container keeps its name until somebody else comes by.
    Rename,
    /// A container is renamed before it has ended.
    EndFirst,
    /// The engine takes a second container of the same name.
    UniqueName,
    /// Redis' clock stands still while its memory is lost.
    Clock,
    /// What ran unseen cannot be told from what never ran.
    Evidence,
    /// A job whose container the engine has lost sight of ends without making sure that it does not run.
    Rest,
}

/// What the check has led to: in force, but for the tests that show what each is good for.
#[derive(Debug, Clone, Copy)]
struct Mended {
    /// A rebuild removes nothing: a container that was never started is handed to the script like one that was.
    keep_created: bool,
    /// `finish` is refused if another container is recorded than its caller knew of.
    finish_compares: bool,
    /// Before it launches, an adopter looks for the job's container under its ended name too; and an ended container that Redis does
    /// not know is no refuse, unless it is as old as jobs are kept.
    look_aside: bool,
}

impl Default for Mended {
    fn default() -> Self {
        Self { keep_created: true, finish_compares: true, look_aside: true }
    }
}

/// A job to be submitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Plan {
    inventory: usize,
    app: u8,
}

/// What is checked.
struct Protocol {
    dispatchers: usize,
    jobs: Vec<Plan>,
    faults: Faults,
    without: Without,
    mended: Mended,
    /// See the module.
    lasting: bool,
    /// A recorded container that was never started counts as known to the engine when Redis loses its memory.
    strict: bool,
    /// Properties that are not looked at.
    except: &'static [&'static str],
    /// The one property that is looked at.
    only: Option<&'static str>,
    ids: Vec<JobId>,
    records: Vec<Record>,
}

impl Protocol {
    /// `jobs`: inventory and app of each.
    fn new(jobs: &[(usize, u8)], faults: Faults) -> Self {
        let ids: Vec<_> = (0..jobs.len()).map(|job| JobId::new(1, u128::from(small(job)))).collect();
        Self {
            dispatchers: DISPATCHERS,
            jobs: jobs.iter().map(|(inventory, app)| Plan { inventory: *inventory, app: *app }).collect(),
            faults,
            without: Without::Nothing,
            mended: Mended::default(),
            lasting: true,
            strict: false,
            // See `limits.rs`.
            except: &[TOLD],
            only: None,
            records: ids.iter().copied().map(record).collect(),
            ids,
        }
    }
}

/// A record, but for what the world keeps of it.
fn record(id: JobId) -> Record {
    Record {
        id,
        deployment_id: "app".parse().expect("a name"),
        inventory: "inventory".parse().expect("a name"),
        action: "app-deploy".parse().expect("a name"),
        when_busy: WhenBusy::Queue,
        state: State::Queued,
        lease: 0,
        owner: None,
        fence: None,
        engine: None,
        container: None,
        image_digest: None,
        intent: None,
        intent_ms: None,
        exit_code: None,
        reason: None,
        superseded_by: None,
        release: None,
        order: None,
        created_ms: 0,
        locked_ms: None,
        started_ms: None,
        ended_ms: None,
        output: Position::default(),
    }
}

impl Model for Protocol {
    type State = World;
    type Action = Action;

    /// Dispatchers that know Redis' first memory, in which there is nothing yet.
    fn init_states(&self) -> Vec<World> {
        let known = Dispatcher { known: 1, ..Dispatcher::default() };
        vec![World {
            redis: Redis { epoch: 1, ..Redis::default() },
            kept: None,
            outages: 0,
            drawn: 1,
            engine: [[Place::Never; TRIES]; JOBS],
            dispatchers: [known; DISPATCHERS],
            late: None,
            left: self.faults,
            truth: Truth::default(),
        }]
    }

    fn actions(&self, w: &World, out: &mut Vec<Action>) {
        self.candidates(w, out);
    }

    fn next_state(&self, w: &World, action: Action) -> Option<World> {
        let mut next = w.clone();
        self.perform(&mut next, action).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut demands = self.demands();
        match self.only {
            Some(only) => demands.retain(|demand| demand.name == only),
            None => demands.retain(|demand| !self.except.contains(&demand.name)),
        }
        demands
    }
}

/// Explores until something is broken, or everything was seen. Prints how much that was, and the way to what is broken.
fn explore(protocol: Protocol) -> Vec<&'static str> {
    let checker = protocol.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let found = checker.discoveries();
    let (states, depth) = (checker.unique_state_count(), checker.max_depth());
    println!("{states} states, at most {depth} steps");
    let mut broken = Vec::new();
    for demand in checker.model().properties() {
        match (demand.expectation, found.get(demand.name)) {
            (Expectation::Always, Some(path)) => {
                println!("broken: {}", demand.name);
                for line in path.clone().into_vec().iter().filter_map(|(w, action)| w.told((*action)?)) {
                    println!("    {line}");
                }
                broken.insert(0, demand.name);
            }
            (Expectation::Sometimes, None) => broken.push(demand.name),
            _ => {}
        }
    }
    broken
}

fn holds(protocol: Protocol) {
    assert_eq!(explore(protocol), [""; 0]);
}

fn breaks(protocol: Protocol, property: &'static str) {
    assert_eq!(explore(Protocol { only: Some(property), ..protocol }), [property]);
}

/// One job; two on one inventory; two of one app that wait for a third; two inventories.
const ONE_JOB: [(usize, u8); 1] = [(0, 0)];
const TWO: [(usize, u8); 2] = [(0, 0), (0, 1)];
const DISPLACED: [(usize, u8); 3] = [(0, 0), (0, 1), (0, 1)];
const APART: [(usize, u8); 3] = [(0, 0), (1, 1), (0, 1)];
const NONE: Faults =
    Faults { crashes: 0, hangs: 0, lost: 0, wipes: 0, restores: 0, refusals: 0, deaths: 0, removals: 0, intents: 0 };

#[test]
fn dispatchers_die() {
    holds(Protocol::new(&TWO, Faults { crashes: 2, ..NONE }));
}

#[test]
fn a_dispatcher_hangs() {
    holds(Protocol::new(&TWO, Faults { hangs: 1, ..NONE }));
}

#[test]
fn a_reply_is_lost() {
    holds(Protocol::new(&TWO, Faults { lost: 1, ..NONE }));
}

#[test]
fn a_dispatcher_dies_one_hangs_and_a_reply_is_lost() {
    holds(Protocol::new(&ONE_JOB, Faults { crashes: 1, hangs: 1, lost: 1, ..NONE }));
}

#[test]
fn a_dispatcher_dies_one_hangs_a_job_is_canceled_and_its_start_refused() {
    holds(Protocol::new(&ONE_JOB, Faults { crashes: 1, hangs: 1, refusals: 1, intents: 1, ..NONE }));
}

#[test]
fn the_engine_dies_in_the_middle_of_a_start() {
    holds(Protocol::new(&ONE_JOB, Faults { deaths: 1, crashes: 1, hangs: 1, intents: 1, ..NONE }));
    holds(Protocol::new(&TWO, Faults { deaths: 1, crashes: 1, ..NONE }));
}

#[test]
fn the_engine_dies_in_the_middle_of_a_start_and_redis_comes_back_empty() {
    holds(Protocol::new(&ONE_JOB, Faults { deaths: 1, wipes: 1, crashes: 1, ..NONE }));
}

#[test]
fn a_container_is_removed_by_force() {
    holds(Protocol::new(&ONE_JOB, Faults { crashes: 1, hangs: 1, removals: 1, ..NONE }));
}

#[test]
fn redis_comes_back_empty() {
    holds(Protocol::new(&TWO, Faults { wipes: 1, ..NONE }));
}

#[test]
fn redis_comes_back_empty_a_dispatcher_dies_and_a_reply_is_lost() {
    holds(Protocol::new(&ONE_JOB, Faults { wipes: 1, crashes: 1, lost: 1, ..NONE }));
}

#[test]
fn redis_comes_back_empty_and_a_dispatcher_hangs() {
    holds(Protocol::new(&ONE_JOB, Faults { wipes: 1, hangs: 1, ..NONE }));
}

/// Its one dispatcher has seen what Redis has lost. For two, and for one that has died meanwhile, see `limits.rs`.
#[test]
fn redis_comes_back_older() {
    holds(Protocol { dispatchers: 1, ..Protocol::new(&TWO, Faults { restores: 1, ..NONE }) });
}

/// Then nobody remembers what Redis has lost: a job may be forgotten, lost, or run again. But never two at once, under fences that
/// grow, and nothing that is stale is taken.
#[test]
fn redis_comes_back_older_and_the_dispatcher_dies() {
    let faults = Faults { restores: 1, crashes: 1, ..NONE };
    holds(Protocol { dispatchers: 1, except: &[TOLD, ONCE, LOST, NOTICED, SETTLES], ..Protocol::new(&TWO, faults) });
}

#[test]
fn a_newer_request_displaces_one_that_waits() {
    holds(Protocol::new(&DISPLACED, Faults { intents: 1, ..NONE }));
}

#[test]
fn two_inventories() {
    holds(Protocol::new(&APART, NONE));
}

#[test]
#[ignore = "takes a minute: 1.7 million states"]
fn at_length_all_that_befalls_one_job() {
    holds(Protocol::new(&ONE_JOB, Faults { crashes: 1, hangs: 1, lost: 1, intents: 1, ..NONE }));
}

#[test]
#[ignore = "takes a minute: 2.6 million states"]
fn at_length_redis_comes_back_empty_a_dispatcher_hangs_and_a_reply_is_lost() {
    holds(Protocol::new(&ONE_JOB, Faults { wipes: 1, hangs: 1, lost: 1, ..NONE }));
}

#[test]
#[ignore = "takes minutes: 10 million states"]
fn at_length_two_inventories_and_a_dispatcher_that_dies() {
    holds(Protocol::new(&APART, Faults { crashes: 1, ..NONE }));
}
