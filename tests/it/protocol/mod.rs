//! Model check.

mod dispatcher;
mod world;

use lockstep::model::ids::JobId;
use lockstep::model::job::{Outcome, Record, State, WhenBusy};
use lockstep::model::output::Position;
use lockstep::model::settle::Phase;
use stateright::{Checker, Expectation, Model, Property};

use dispatcher::{Action, Assumed, At, Dispatcher, Pass};
use world::{Cid, DISPATCHERS, Faults, INVENTORIES, JOBS, Place, Redis, Truth, World, small};

/// What the protocol is checked without, to see that the check would notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Without {
    Nothing,
    /// `confirm` always says yes.
    Confirm,
    /// Scripts do not look at the epoch.
    Epoch,
    /// An ended container keeps its name until the reconciler comes by.
    Rename,
    /// A container is renamed before it has ended.
    EndFirst,
    /// The engine takes a second container of the same name.
    UniqueName,
    /// Redis' clock stands still while its memory is lost.
    Clock,
}

/// A job to be submitted.
#[derive(Debug, Clone, Copy)]
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
    /// No container is started and ends between another's look at it, when it was not started yet, and its removal.
    lasting: bool,
    ids: Vec<JobId>,
    records: Vec<Record>,
}

impl Protocol {
    fn new(jobs: &[(usize, u8)], faults: Faults) -> Self {
        let jobs: Vec<_> = jobs.iter().map(|(inventory, app)| Plan { inventory: *inventory, app: *app }).collect();
        let ids: Vec<_> = (0..jobs.len()).map(|job| JobId::new(1, u128::from(small(job)))).collect();
        let records = ids.iter().map(|id| Record {
            id: *id,
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
            created_ms: 0,
            locked_ms: None,
            started_ms: None,
            ended_ms: None,
            output: Position::default(),
        });
        let records = records.collect();
        Self { dispatchers: DISPATCHERS, jobs, faults, without: Without::Nothing, lasting: true, ids, records }
    }

    /// Whether nobody is in the middle of anything: supervisors and reconcilers are about to look.
    fn calm(&self, w: &World) -> bool {
        let about_to_look = |at: At| matches!(at, At::Read(Assumed::Nothing) | At::Follow(_));
        w.late.is_none()
            && w.dispatchers.iter().all(|it| {
                it.pass == Pass::Idle && it.supervisors.iter().flatten().all(|supervisor| about_to_look(supervisor.at))
            })
    }

    /// Whether everybody's doing, in turn and without further faults, brings all to its end.
    fn settles(&self, w: &World) -> bool {
        let mut w = w.clone();
        w.left = Faults::default();
        let mut todo = Vec::new();
        for _ in 0..60 {
            if self.settled(&w) {
                return true;
            }
            todo.clear();
            self.candidates(&w, &mut todo);
            for action in todo.iter().filter(|action| action.goes_on()) {
                self.perform(&mut w, *action);
            }
        }
        false
    }

    fn settled(&self, w: &World) -> bool {
        let accepted = |job: u8| w.truth.accepted & (1 << job) != 0;
        let forgettable = |job: u8| w.truth.forgettable & (1 << job) != 0;
        let over = |job: u8| match w.job(job) {
            Some(it) => !it.live(),
            None => !accepted(job) || forgettable(job),
        };
        w.redis.epoch != 0
            && (0..small(self.jobs.len())).all(over)
            && w.redis.locks.iter().all(Option::is_none)
            && w.redis.queues.iter().all(Vec::is_empty)
            && Cid::all().all(|at| w.phase(at).is_none())
    }

    fn running(&self, w: &World, inventory: usize) -> usize {
        let of = |at: &Cid| usize::from(at.job) < self.jobs.len() && self.inventory(at.job) == inventory;
        Cid::all().filter(of).filter(|at| w.phase(*at) == Some(Phase::Running)).count()
    }
}

fn succeeded(w: &World, job: u8) -> bool {
    w.job(job).is_some_and(|it| it.state == State::Ended(Outcome::Succeeded))
}

impl Model for Protocol {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        // Two dispatchers that know Redis' first memory, in which there is nothing yet.
        let known = Dispatcher { known: 1, ..Dispatcher::default() };
        vec![World {
            redis: Redis { epoch: 1, ..Redis::default() },
            kept: None,
            outages: 0,
            drawn: 1,
            engine: [[Place::Never; world::TRIES]; JOBS],
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
        let mut properties = vec![
            Property::always(ONE, |it: &Self, w: &World| (0..INVENTORIES).all(|inventory| it.running(w, inventory) <= 1)),
            Property::always(STALE, |_: &Self, w: &World| !w.truth.stale_write),
            Property::always(ONCE, |_: &Self, w: &World| w.truth.starts.iter().all(|starts| *starts <= 1)),
            Property::always(OUTCOME, |_: &Self, w: &World| !w.truth.outcome_changed),
            Property::always(SUCCESS, |_: &Self, w: &World| !w.truth.false_success),
            Property::always(FENCE, |_: &Self, w: &World| !w.truth.fence_fell),
            Property::always(LOST, |_: &Self, w: &World| !w.truth.guessed),
            Property::always(OVER, |_: &Self, w: &World| {
                Cid::all().all(|at| {
                    w.phase(at) != Some(Phase::Running) || w.job(at.job).is_none_or(|it| it.live())
                })
            }),
            Property::always(SETTLES, |it: &Self, w: &World| !it.calm(w) || it.settles(w)),
        ];
        properties.push(Property::sometimes(SUCCEEDS, |_: &Self, w: &World| succeeded(w, 0)));
        if self.faults.hangs + self.faults.crashes > 0 {
            properties.push(Property::sometimes(TAKEN_OVER, |_: &Self, w: &World| {
                succeeded(w, 0) && w.job(0).is_some_and(|it| it.lease > 1)
            }));
        }
        if self.jobs.len() > 1 {
            properties.push(Property::sometimes(HANDED_OVER, |_: &Self, w: &World| succeeded(w, 0) && succeeded(w, 1)));
        }
        if self.faults.wipes > 0 {
            properties.push(Property::sometimes(REBUILT, |_: &Self, w: &World| succeeded(w, 0) && w.job(0).is_some_and(|it| it.lease >= 32)));
        }
        if self.faults.intents > 0 {
            properties.push(Property::sometimes(CANCELED, |_: &Self, w: &World| {
                w.job(0).is_some_and(|it| it.state == State::Ended(Outcome::Canceled) && it.exit_code.is_some())
            }));
        }
        properties
    }
}

const ONE: &str = "one inventory, one container that runs";
const STALE: &str = "no stale write is taken";
const ONCE: &str = "no job is started twice";
const OUTCOME: &str = "an outcome stays";
const SUCCESS: &str = "succeeded means exit code 0 and no intent before it";
const FENCE: &str = "fences grow";
const LOST: &str = "lost is never guessed";
const OVER: &str = "what is over does not run";
const SETTLES: &str = "everything settles";
const SUCCEEDS: &str = "a job succeeds";
const TAKEN_OVER: &str = "a job that was taken over succeeds";
const HANDED_OVER: &str = "the next in the queue succeeds too";
const REBUILT: &str = "a job succeeds after a rebuild";
const CANCELED: &str = "a running job is canceled";

/// Explores; returns the properties that do not hold, each with the shortest way to see it.
fn explore(name: &str, protocol: Protocol) -> Vec<(&'static str, Vec<String>)> {
    let begun = tokio::time::Instant::now();
    let checker = protocol.checker().threads(2).spawn_bfs().join();
    let properties = checker.model().properties();
    let found = checker.discoveries();
    let mut broken = Vec::new();
    for property in &properties {
        match (&property.expectation, found.get(property.name)) {
            (Expectation::Sometimes, None) => broken.push((property.name, Vec::new())),
            (Expectation::Always, Some(path)) => {
                let actions = path.clone().into_actions();
                broken.push((property.name, actions.iter().map(|action| format!("{action:?}")).collect()));
            }
            _ => {}
        }
    }
    println!("{name}: {} states, depth {}, {:?}", checker.unique_state_count(), checker.max_depth(), begun.elapsed());
    broken
}

fn holds(name: &str, protocol: Protocol) {
    let broken = explore(name, protocol);
    for (property, way) in &broken {
        println!("{property}:");
        way.iter().for_each(|action| println!("    {action}"));
    }
    assert!(broken.is_empty(), "{:?}", broken.iter().map(|(property, _)| property).collect::<Vec<_>>());
}

#[test]
fn plain() {
    holds("plain", Protocol::new(&[(0, 0), (0, 1)], Faults::default()));
}

#[test]
fn crash() {
    holds("crash", Protocol::new(&[(0, 0), (0, 1)], Faults { crashes: 1, ..Faults::default() }));
}

#[test]
fn hang() {
    holds("hang", Protocol::new(&[(0, 0), (0, 1)], Faults { hangs: 1, ..Faults::default() }));
}

#[test]
fn lost() {
    holds("lost", Protocol::new(&[(0, 0), (0, 1)], Faults { lost: 1, ..Faults::default() }));
}

#[test]
fn wipe() {
    holds("wipe", Protocol::new(&[(0, 0), (0, 1)], Faults { wipes: 1, ..Faults::default() }));
}

#[test]
fn intents() {
    holds("intents", Protocol::new(&[(0, 0), (0, 1)], Faults { intents: 1, ..Faults::default() }));
}
