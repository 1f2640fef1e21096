//! Sequences of requests, ends, cancels, freezes and grants against a small oracle of the queue's rules.

use std::collections::BTreeMap;

use lockstep::model::ids::JobId;
use lockstep::model::job::{Intent, Outcome, State, WhenBusy};
use lockstep::model::lock::{Fence, Held};
use lockstep::store::{NewJob, Store, Submitted};
use proptest::prelude::*;

use super::{inventory, new_job};
use crate::support::redis::RedisServer;

const APPS: [(&str, &str); 3] = [("a", "i"), ("b", "i"), ("c", "j")];

#[derive(Debug, Clone)]
enum Step {
    /// A request for an app; a small number stands for its `Idempotency-Key`.
    Submit {
        app: usize,
        when_busy: WhenBusy,
        feed: bool,
        key: Option<u8>,
    },
    /// The same request again, as if its reply had been lost.
    Again(prop::sample::Index),
    Finish {
        inventory: usize,
        outcome: Outcome,
    },
    /// A supervisor finishes again what it has finished.
    FinishAgain(prop::sample::Index),
    Cancel(prop::sample::Index),
    Freeze(usize),
    Unfreeze(usize),
    Grant(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let when_busy = prop_oneof![3 => Just(WhenBusy::Queue), 2 => Just(WhenBusy::Fifo), 1 => Just(WhenBusy::Reject)];
    let outcome = prop_oneof![Just(Outcome::Succeeded), Just(Outcome::Failed), Just(Outcome::Lost)];
    prop_oneof![
        8 => (0..3usize, when_busy, prop::bool::weighted(0.2), prop::option::weighted(0.2, 0..3u8))
            .prop_map(|(app, when_busy, feed, key)| Step::Submit { app, when_busy, feed, key }),
        1 => any::<prop::sample::Index>().prop_map(Step::Again),
        4 => (0..2usize, outcome).prop_map(|(inventory, outcome)| Step::Finish { inventory, outcome }),
        1 => any::<prop::sample::Index>().prop_map(Step::FinishAgain),
        2 => any::<prop::sample::Index>().prop_map(Step::Cancel),
        1 => (0..2usize).prop_map(Step::Freeze),
        2 => (0..2usize).prop_map(Step::Unfreeze),
        2 => (0..2usize).prop_map(Step::Grant),
    ]
}

/// What the rules say.
#[derive(Debug, Default)]
struct Oracle {
    places: [Place; 2],
    jobs: BTreeMap<JobId, Job>,
    keys: BTreeMap<(usize, u8), JobId>,
}

#[derive(Debug, Default)]
struct Place {
    holder: Option<JobId>,
    queue: Vec<JobId>,
    frozen: bool,
}

#[derive(Debug)]
struct Job {
    new: NewJob,
    app: usize,
    state: State,
    superseded_by: Option<JobId>,
    held: Option<Held>,
}

/// What the oracle expects a request to be answered with.
#[derive(Debug, PartialEq)]
enum Expected {
    Started,
    Queued(u64),
    Exists(JobId),
    Busy(JobId),
    Frozen,
}

fn place_of(app: usize) -> usize {
    usize::from(APPS[app].1 == "j")
}

impl Oracle {
    fn submit(&mut self, new: &NewJob, app: usize, key: Option<u8>) -> Expected {
        if let Some(before) = key.and_then(|key| self.keys.get(&(app, key))) {
            return Expected::Exists(*before);
        }
        let place = &mut self.places[place_of(app)];
        if new.when_busy == WhenBusy::Reject {
            match (place.frozen, place.holder.or(place.queue.first().copied())) {
                (true, _) => return Expected::Frozen,
                (false, Some(other)) => return Expected::Busy(other),
                (false, None) => {}
            }
        }
        let displaced: Vec<JobId> = place
            .queue
            .iter()
            .copied()
            .filter(|other| {
                let other = &self.jobs[other];
                new.when_busy == WhenBusy::Queue
                    && other.new.when_busy == WhenBusy::Queue
                    && other.app == app
                    && other.new.action == new.action
            })
            .collect();
        let at = match displaced.first() {
            Some(first) => place.queue.iter().position(|job| job == first).expect("it waits"),
            None => place.queue.len(),
        };
        place.queue.insert(at, new.id);
        place.queue.retain(|job| !displaced.contains(job));
        for job in displaced {
            let job = self.jobs.get_mut(&job).expect("known");
            job.state = State::Ended(Outcome::Superseded);
            job.superseded_by = Some(new.id);
        }
        let mut state = State::Queued;
        if at == 0 && place.holder.is_none() && !place.frozen {
            place.queue.remove(0);
            place.holder = Some(new.id);
            state = State::Starting;
        }
        if let Some(key) = key {
            self.keys.insert((app, key), new.id);
        }
        self.jobs.insert(new.id, Job { new: new.clone(), app, state, superseded_by: None, held: None });
        if state == State::Starting { Expected::Started } else { Expected::Queued(at as u64 + 1) }
    }

    /// Gives a free lock to the first that waits.
    fn grant(&mut self, place: usize) -> Option<JobId> {
        let place = &mut self.places[place];
        if place.frozen || place.holder.is_some() || place.queue.is_empty() {
            return None;
        }
        let job = place.queue.remove(0);
        place.holder = Some(job);
        self.jobs.get_mut(&job).expect("known").state = State::Starting;
        Some(job)
    }

    fn nth(&self, index: &prop::sample::Index) -> Option<JobId> {
        (!self.jobs.is_empty()).then(|| *self.jobs.keys().nth(index.index(self.jobs.len())).expect("in range"))
    }
}

/// Carries the steps out on both sides and compares after each.
struct Run {
    stores: [Store; 2],
    oracle: Oracle,
    fences: BTreeMap<String, Fence>,
    turn: usize,
}

impl Run {
    fn store(&self) -> &Store {
        &self.stores[self.turn % 2]
    }

    /// Remembers who holds the lock now; its fence must be above every one before.
    fn holds(&mut self, held: Held) {
        let last = self.fences.insert(held.inventory().to_string(), held.fence());
        assert!(last < Some(held.fence()), "the fence must grow");
        let job = self.oracle.jobs.get_mut(&held.job()).expect("known");
        job.held = Some(held);
    }

    async fn take(&mut self, step: &Step) {
        match step {
            Step::Submit { app, when_busy, feed, key } => {
                let (name, place) = APPS[*app];
                let mut new = new_job(name, place, *when_busy);
                if *feed {
                    new.action = "announce-apps".parse().expect("a name");
                }
                new.idempotency = key.map(|key| (key.to_string(), "one request".to_owned()));
                let expected = self.oracle.submit(&new, *app, *key);
                let answer = self.store().submit(&new).await.expect("an answer");
                match (answer, expected) {
                    (Submitted::Started(held), Expected::Started) => self.holds(held),
                    (Submitted::Queued { position }, Expected::Queued(place)) => assert_eq!(position, place),
                    (Submitted::Exists(job), Expected::Exists(before)) => assert_eq!(job, before),
                    (Submitted::Busy { holder }, Expected::Busy(other)) => assert_eq!(holder, other),
                    (Submitted::Frozen(_), Expected::Frozen) => {}
                    (answer, expected) => panic!("{answer:?} where {expected:?} was expected"),
                }
            }
            Step::Again(index) => {
                let Some(id) = self.oracle.nth(index) else { return };
                let job = &self.oracle.jobs[&id];
                let answer = self.store().submit(&job.new).await.expect("an answer");
                match (job.state, answer) {
                    (State::Starting, Submitted::Started(held)) => assert_eq!(Some(&held), job.held.as_ref()),
                    (State::Queued, Submitted::Queued { position }) => {
                        let queue = &self.oracle.places[place_of(job.app)].queue;
                        assert_eq!(queue[usize::try_from(position).expect("small") - 1], id);
                    }
                    (State::Starting | State::Canceling | State::Ended(_), Submitted::Exists(same)) => {
                        assert_eq!(same, id)
                    }
                    (state, answer) => panic!("{answer:?} about a job that is {state}"),
                }
            }
            Step::Finish { inventory, outcome } => {
                let Some(job) = self.oracle.places[*inventory].holder.take() else { return };
                let job = self.oracle.jobs.get_mut(&job).expect("known");
                job.state = State::Ended(*outcome);
                let held = job.held.clone().expect("it held the lock");
                let next = self.store().finish(&held, *outcome, None).await.expect("finished");
                assert_eq!(next.as_ref().map(Held::job), self.oracle.grant(*inventory));
                if let Some(next) = next {
                    self.holds(next);
                }
            }
            Step::FinishAgain(index) => {
                let Some(id) = self.oracle.nth(index) else { return };
                let job = &self.oracle.jobs[&id];
                let (State::Ended(_), Some(held)) = (job.state, &job.held) else { return };
                let next = self.store().finish(held, Outcome::Lost, None).await.expect("repeated");
                if let Some(next) = next {
                    assert_eq!(self.oracle.places[place_of(job.app)].holder, Some(next.job()));
                    assert_eq!(self.oracle.jobs[&next.job()].held, Some(next));
                }
            }
            Step::Cancel(index) => {
                let Some(id) = self.oracle.nth(index) else { return };
                self.store().intend(id, Intent::Cancel, None).await.expect("an answer").expect("known");
                let job = self.oracle.jobs.get_mut(&id).expect("known");
                match job.state {
                    State::Queued => {
                        job.state = State::Ended(Outcome::Canceled);
                        self.oracle.places[place_of(job.app)].queue.retain(|other| *other != id);
                    }
                    State::Starting => job.state = State::Canceling,
                    State::Running | State::Canceling | State::Ended(_) => {}
                }
            }
            Step::Freeze(place) => {
                self.store().freeze(&inventory(["i", "j"][*place]), "x", "ada", None).await.expect("frozen");
                self.oracle.places[*place].frozen = true;
            }
            Step::Unfreeze(place) => {
                let there_was = self.store().unfreeze(&inventory(["i", "j"][*place])).await.expect("an answer");
                assert_eq!(there_was, std::mem::take(&mut self.oracle.places[*place].frozen));
            }
            Step::Grant(place) => {
                let held = self.store().grant(&inventory(["i", "j"][*place])).await.expect("an answer");
                assert_eq!(held.as_ref().map(Held::job), self.oracle.grant(*place));
                if let Some(held) = held {
                    self.holds(held);
                }
            }
        }
    }

    async fn compare(&self) {
        let (locks, _) = self.store().locks().await.expect("an answer");
        for (name, place) in ["i", "j"].into_iter().zip(&self.oracle.places) {
            let lock = locks.iter().find(|lock| lock.inventory.as_str() == name);
            assert_eq!(lock.and_then(|lock| lock.holder), place.holder);
            assert_eq!(lock.map(|lock| lock.waiting.clone()).unwrap_or_default(), place.queue);
            assert_eq!(lock.is_some_and(|lock| lock.freeze.is_some()), place.frozen);
        }
        let mut waiting: Vec<_> = self.store().waiting().await.expect("an answer");
        waiting.retain(|name| !self.oracle.places[usize::from(name.as_str() == "j")].queue.is_empty());
        assert_eq!(waiting.len(), self.oracle.places.iter().filter(|place| !place.queue.is_empty()).count());

        // Every accepted job is live, or has ended with the one outcome that it was given.
        let (live, unreadable) = self.store().live().await.expect("an answer");
        assert!(unreadable.is_empty());
        let live: BTreeMap<JobId, State> = live.into_iter().map(|live| (live.record.id, live.record.state)).collect();
        let from = "192.0.2.1".parse().expect("an address");
        for (id, job) in &self.oracle.jobs {
            let polled =
                self.store().range(Some((&job.new.deployment_id, from)), *id, 0, 1024).await.expect("an answer");
            let NewJob { deployment_id, inventory, .. } = job.new.clone();
            let brief = polled.job.expect("a job");
            assert_eq!((brief.deployment_id, brief.inventory, brief.state), (deployment_id, inventory, job.state));
            if job.state.is_ended() {
                assert!(!live.contains_key(id));
                let record = self.store().record(*id).await.expect("an answer").expect("a record");
                assert_eq!((record.state, record.superseded_by), (job.state, job.superseded_by));
            } else {
                assert_eq!(live.get(id), Some(&job.state));
            }
        }
        let expected = self.oracle.jobs.values().filter(|job| !job.state.is_ended()).count();
        assert_eq!(live.len(), expected);
    }
}

#[test]
fn any_sequence_of_steps_keeps_the_rules_of_lock_and_queue() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    // Durability is not what is asked here, and 1,500 flushes to the disk are slow.
    let server = runtime.block_on(RedisServer::start_with(&["--appendfsync", "no"]));
    let config = ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(steps in prop::collection::vec(step(), 1..40))| {
        runtime.block_on(async {
            let mut redis = server.connect().await;
            let _: () = redis::cmd("FLUSHALL").query_async(&mut redis).await.expect("flushed");
            let stores = [server.store("d1").await, server.store("d2").await];
            let mut run = Run { stores, oracle: Oracle::default(), fences: BTreeMap::new(), turn: 0 };
            for step in &steps {
                run.take(step).await;
                run.compare().await;
                run.turn += 1;
            }
        });
    });
}
