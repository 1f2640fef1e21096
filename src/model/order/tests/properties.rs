//! Whatever happens, in whatever order, what must hold holds.

use proptest::prelude::*;

use super::*;

/// What may happen.
#[derive(Debug, Clone)]
enum Step {
    Give(usize),
    End(usize, u8),
    Look(usize),
    Cancel(usize),
    Retry(usize),
    Register(usize),
    Move(usize),
    Lose(usize),
}

fn files() -> [String; 5] {
    let front = ORDER.find("front:").expect("it is there");
    [
        ORDER.to_owned(),
        ORDER.replace("path: /core", "path: /kernel"),
        ORDER[..front].to_owned(),
        "action: remove\nenvironment_id: '3'\nx:\n  services: [{id: '7'}]\n".to_owned(),
        "action: remove\nenvironment_id: '3'\n".to_owned(),
    ]
}

fn environments() -> [String; 3] {
    let two = "      - {name: two, address: two.lab.example, user: deploy, memory: 600}\n";
    [ENVIRONMENT.to_owned(), ENVIRONMENT.replace("memory: 1000", "memory: 300"), ENVIRONMENT.replace(two, "")]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => (0_usize..5).prop_map(Step::Give),
        10 => (any::<usize>(), 0_u8..10).prop_map(|(which, how)| Step::End(which, how)),
        2 => any::<usize>().prop_map(Step::Look),
        1 => any::<usize>().prop_map(Step::Cancel),
        2 => any::<usize>().prop_map(Step::Retry),
        1 => (0_usize..3).prop_map(Step::Register),
        1 => any::<usize>().prop_map(Step::Move),
        1 => any::<usize>().prop_map(Step::Lose),
    ]
}

impl Play {
    fn nth(&self, which: usize) -> Option<u64> {
        let numbers: Vec<_> = self.orders.keys().copied().collect();
        (!numbers.is_empty()).then(|| numbers[which % numbers.len()])
    }

    fn look_at_all(&mut self) {
        let numbers: Vec<_> = self.orders.keys().copied().collect();
        for number in numbers.iter().chain(&numbers) {
            if !self.orders[number].state.is_over() {
                self.look(*number);
            }
        }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Give(which) => {
                let number = self.give(&files()[*which]);
                self.look(number);
            }
            Step::End(which, how) => {
                let jobs: Vec<_> = self.running.keys().copied().collect();
                if !jobs.is_empty() {
                    let outcome = match how {
                        0 => Outcome::Failed,
                        1 => Outcome::Lost,
                        _ => Outcome::Succeeded,
                    };
                    self.end(jobs[which % jobs.len()], outcome);
                }
            }
            Step::Look(which) => {
                if let Some(number) = self.nth(*which).filter(|number| !self.orders[number].state.is_over()) {
                    self.look(number);
                }
            }
            Step::Cancel(which) => {
                if let Some(number) = self.nth(*which) {
                    let order = self.orders.get_mut(&number).expect("it is there");
                    if command::cancel(order, &word("ada"), "").is_ok() {
                        self.look(number);
                    }
                }
            }
            Step::Retry(which) => {
                if let Some(number) = self.nth(*which) {
                    let newest = self.facts().newest;
                    let order = self.orders.get_mut(&number).expect("it is there");
                    if command::retry(order, newest, &word("ada"), "").is_ok() {
                        self.look(number);
                    }
                }
            }
            Step::Register(which) => self.environment = registered(&environments()[*which]),
            Step::Move(which) => {
                let id = ["6", "7", "8"][which % 3].to_owned();
                self.commits.insert(id, commit(u8::try_from(which % 200).unwrap_or_default()));
            }
            Step::Lose(which) => {
                let id = ["6", "7", "8"][which % 3].to_owned();
                let gone = [vec!["port", "variables", "release"], vec!["variables"], vec!["release"]];
                self.lost = BTreeMap::from([(id, gone[which / 3 % 3].clone())]);
            }
        }
    }

    fn check(&self) {
        let holding = self.orders.values().filter(|order| rule::holds(order)).count();
        assert!(holding <= 1, "one order at a time");
        for order in self.orders.values() {
            assert!(!order.state.is_over() || order.busy_jobs().is_empty(), "what has ended has no jobs: {order:?}");
        }
        // What listens on one port of a host is one service.
        let mut listens = BTreeSet::new();
        for (id, placed) in &self.deployed.services {
            let mut at: BTreeSet<_> = placed.port.map(|port| (&placed.host, port)).into_iter().collect();
            at.extend(placed.running.iter().map(|runs| (&runs.host, runs.port)));
            for place in at {
                assert!(listens.insert(place), "{id} and another one have {place:?}: {:?}", self.deployed);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_what_must_hold_holds(steps in prop::collection::vec(step(), 0..120)) {
        let mut play = Play::new();
        for step in &steps {
            play.take(step);
            play.check();
        }
        // In the end all comes to rest, and the environment is as the last order says.
        play.environment = registered(ENVIRONMENT);
        let last = play.give(ORDER);
        play.look_at_all();
        for _ in 0..100 {
            play.play(&[]);
            play.look_at_all();
        }
        assert_eq!(play.state(last), State::Succeeded, "{:?}", play.orders[&last]);
        assert_eq!(play.holder, None);
        assert_eq!(play.deployed.services.len(), 3);
        assert!(play.deployed.services.values().all(|placed| placed.left_on.is_empty() && !placed.doubtful));
        assert!(play.deployed.services.values().all(|placed| placed.secrets.is_some() && !placed.unnoted));
        assert_eq!(play.deployed.routes.len(), 3);
        assert_eq!(play.deployed.routes, super::super::plan::routes(&play.orders[&last].spec, &play.deployed));
    }
}
