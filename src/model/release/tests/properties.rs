//! Random moves through random pipelines: what must always hold is looked at after each by [`Play::go`]. That all of it is reached is
//! counted.

use std::cell::RefCell;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;
use crate::model::pipeline::{Promote, Reporters, Service, Stage, Step, Strategy as How};

/// What may happen. Numbers choose among what there is.
#[derive(Debug, Clone)]
enum Move {
    End(usize, Outcome, Option<Finding>),
    AllGood,
    Wait(u64),
    Block(bool),
    Unlist(usize),
    List,
    Occupied(Option<(bool, bool)>),
    Held(bool),
    DeployedByOthers(usize),
    Report(usize, Finding),
    Approve(usize),
    Withdraw(usize),
    Promote,
    Decide(Verdict),
    Reject,
    Retry,
    Bypass,
    RollBack,
    Lift,
    Supersede,
    Suspend,
}

fn some_move() -> impl Strategy<Value = Move> {
    use Finding::{Fail, Inconclusive, Pass, Warning};
    use Outcome::{Canceled, Failed, Lost, Succeeded, Superseded, TimedOut};
    let outcome = prop_oneof![6 => Just(Succeeded), 2 => prop::sample::select(vec![Failed, Canceled, Lost, Superseded, TimedOut])];
    let finding = prop_oneof![4 => Just(Pass), 2 => prop::sample::select(vec![Warning, Inconclusive, Fail])];
    let says = prop::option::weighted(0.2, finding.clone());
    let verdict = prop::sample::select(vec![Verdict::Accepted, Verdict::AcceptedWithWarnings, Verdict::Rejected]);
    prop_oneof![
        20 => (any::<usize>(), outcome, says).prop_map(|(which, outcome, says)| Move::End(which, outcome, says)),
        20 => Just(Move::AllGood),
        10 => prop::sample::select(vec![0, 1, 2_000, 60_000, 10_000_000]).prop_map(Move::Wait),
        4 => any::<bool>().prop_map(Move::Block),
        1 => any::<usize>().prop_map(Move::Unlist),
        3 => Just(Move::List),
        6 => prop::option::of((prop::bool::weighted(0.2), any::<bool>())).prop_map(Move::Occupied),
        3 => any::<bool>().prop_map(Move::Held),
        2 => any::<usize>().prop_map(Move::DeployedByOthers),
        20 => (0..3usize, finding).prop_map(|(which, finding)| Move::Report(which, finding)),
        12 => (0..3usize).prop_map(Move::Approve),
        1 => (0..3usize).prop_map(Move::Withdraw),
        12 => Just(Move::Promote),
        1 => verdict.prop_map(Move::Decide),
        1 => Just(Move::Reject),
        10 => Just(Move::Retry),
        3 => Just(Move::Bypass),
        4 => Just(Move::RollBack),
        6 => Just(Move::Lift),
        1 => Just(Move::Supersede),
        1 => Just(Move::Suspend),
    ]
}

fn some_kind() -> impl Strategy<Value = StepKind> {
    let pause = prop::sample::select(vec![0, 60]).prop_map(Duration::from_secs);
    let canary = pause.prop_map(|pause| How::Canary { shares: vec![10, 50], pause });
    let strategy = prop_oneof![Just(How::Direct), Just(How::BlueGreen), canary];
    let named = Reporters::Named(BTreeSet::from([word("r0"), word("r1")]));
    let reporters = prop_oneof![Just(named), Just(Reporters::Subscribers)];
    prop_oneof![
        3 => strategy.prop_map(|strategy| StepKind::Deploy { strategy }),
        2 => (0..2usize).prop_map(|which| StepKind::Run { app: app(&format!("run{which}")) }),
        2 => reporters.prop_map(|reporters| StepKind::Check { reporters, deadline: Duration::from_secs(3600), action: None }),
        1 => (1..=2u32).prop_map(|count| StepKind::Approval { groups: BTreeSet::from([word("ops")]), count }),
        1 => Just(StepKind::Soak { time: Duration::from_secs(600) }),
    ]
}

fn some_pipeline() -> impl Strategy<Value = Pipeline> {
    let promote = prop_oneof![Just(Promote::Auto), Just(Promote::Manual)];
    let stage = (prop::collection::vec((some_kind(), any::<bool>()), 1..4), promote);
    prop::collection::vec(stage, 1..4).prop_map(|stages| {
        let stages: Vec<Stage> =
            stages.into_iter().enumerate().map(|(at, (kinds, promote))| some_stage(at, kinds, promote)).collect();
        let service = |name: &str| {
            let of = |stage: &Stage| (stage.name.clone(), app(&format!("{name}-{}", stage.name)));
            (word(name), Service { apps: stages.iter().map(of).collect() })
        };
        Pipeline {
            name: word("p"),
            description: None,
            product: word("p"),
            services: BTreeMap::from([service("a"), service("b")]),
            metadata: BTreeSet::new(),
            stages,
        }
    })
}

fn some_stage(at: usize, kinds: Vec<(StepKind, bool)>, promote: Promote) -> Stage {
    let steps = kinds.into_iter().enumerate().map(|(step, (kind, given))| Step {
        name: word(&format!("s{at}-{step}")),
        kind,
        on_failure: given.then(|| word("fixers")),
    });
    Stage {
        name: word(&format!("s{at}")),
        shown_as: None,
        entry: false,
        ready_to_deploy: false,
        assign: at.is_multiple_of(2).then(|| word("ops")),
        steps: steps.collect(),
        promote,
    }
}

fn older_or_newer(newer: bool) -> ReleaseId {
    release_id(if newer { 200 } else { 50 })
}

/// Makes a move; what cannot be done now is not done.
fn make(play: &mut Play, it: Move, apps: &BTreeMap<DeploymentId, Inventory>) {
    let who = |which: usize| ["anna", "bert", "tim"][which % 3];
    let stage = play.release.visit().map(|visit| visit.stage.clone());
    let act = play.act("olga");
    let nth = |which: usize| apps.keys().nth(which % apps.len()).expect("an app");
    let command = match it {
        Move::End(which, outcome, says) => {
            let running = play.running_apps();
            if !running.is_empty() {
                let outputs = says.map_or_else(|| json!({"n": which}), |finding| json!({"result": finding}));
                play.end_with(&running[which % running.len()], outcome, outputs);
            }
            None
        }
        Move::AllGood => {
            play.all_good();
            None
        }
        Move::Wait(ms) => {
            play.wait(ms);
            None
        }
        Move::Block(blocked) => {
            if blocked {
                play.block("on-a-s0")
            } else {
                play.unblock()
            };
            None
        }
        Move::Unlist(which) => {
            play.facts.apps.remove(nth(which));
            None
        }
        Move::List => {
            play.facts.apps.clone_from(apps);
            None
        }
        Move::Occupied(None) => {
            play.facts.occupants.clear();
            None
        }
        Move::Occupied(Some((newer, deploying))) => {
            play.facts.occupants.insert(older_or_newer(newer), deploying);
            None
        }
        Move::Held(held) => {
            play.facts.held = held.then(|| older_or_newer(false));
            None
        }
        Move::DeployedByOthers(which) => {
            let name = nth(which).clone();
            let there =
                There { artifact: artifact("3"), release: release_id(7), service: word("a"), stage: word("s0") };
            play.facts.there.insert(name.clone(), there);
            play.facts.succeeded.insert(name, (JobId::new(NOW, u128::MAX), play.facts.now_ms));
            None
        }
        Move::Report(which, finding) => Some(play.report(&format!("r{which}"), finding)),
        Move::Approve(which) => Some(play.approval(who(which), "ops")),
        Move::Withdraw(which) => Some(Command::Withdraw { act: play.act(who(which)) }),
        Move::Promote => Some(Command::Promote { act, to: None }),
        Move::Decide(verdict) => Some(Command::Decide { act, verdict }),
        Move::Reject => Some(Command::Reject { act }),
        Move::Retry => Some(Command::Retry { act }),
        Move::Bypass => Some(Command::Bypass { act }),
        Move::RollBack => Some(Command::RollBack { act }),
        Move::Lift => Some(Command::Lift { act }),
        Move::Supersede => stage.map(|stage| Command::Supersede { by: older_or_newer(true), stage }),
        Move::Suspend => Some(Command::Suspend { why: "doubts".into(), at_ms: play.facts.now_ms }),
    };
    let Some(command) = command else {
        play.go();
        return;
    };
    let (before, standing) = (play.release.clone(), play.standing());
    let silent = matches!(command, Command::Supersede { .. } | Command::Suspend { .. } | Command::Report { .. });
    let told = play.all_told.len();
    if play.command(command).is_ok() {
        assert!(silent || play.all_told.len() > told, "what was done is told");
        let over = before.is_over();
        assert!(!over || play.standing() == standing || standing == Standing::Suspended, "over is over: {standing:?}");
    }
}

/// Whatever happened, people can bring it to an end: jobs end, locks and apps are there, and it is rejected.
fn end(play: &mut Play, apps: &BTreeMap<DeploymentId, Inventory>) {
    play.facts.apps.clone_from(apps);
    play.unblock();
    // It may be over already.
    let _ = play.command(Command::Reject { act: play.act("olga") });
    if play.release.suspended.is_some() {
        play.says(|act| Command::Lift { act });
    }
    for _ in 0..4 {
        play.all_good();
    }
    assert!(play.release.is_over(), "it does not come to its end: {:#?}", play.release);
    let ended = play.launched.iter().map(|launch| launch.job).collect::<BTreeSet<_>>();
    let steps = || play.release.visits.iter().flat_map(|visit| &visit.steps);
    let known: BTreeSet<JobId> =
        steps().flat_map(|step| &step.jobs).filter(|ran| ran.outcome.is_some()).map(|ran| ran.job).collect();
    assert!(known.is_subset(&ended) && (known.len() == ended.len() || ended.len() > JOBS_MAX), "every end is recorded");
}

#[test]
fn whatever_happens_what_must_hold_holds() {
    let reached: RefCell<BTreeMap<&'static str, usize>> = RefCell::default();
    let plays = (some_pipeline(), prop::collection::vec(some_move(), 1..60));
    // So many that each of the words below is reached.
    let cases = Config::default().cases.max(500);
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 20_000, ..Config::default() };
    let outcome = TestRunner::new(config).run(&plays, |(pipeline, moves)| {
        let mut play = Play::made(pipeline, &["a", "b"], None).with_before(&["a-s0"]);
        play.facts.subscribers = BTreeSet::from([word("r1"), word("r2")]);
        let apps = play.facts.apps.clone();
        play.go();
        for it in moves {
            make(&mut play, it, &apps);
            *reached.borrow_mut().entry(play.standing().word()).or_default() += 1;
        }
        let mut reached = reached.borrow_mut();
        let accepted = play.release.decision.as_ref().map(|(verdict, _)| verdict.word());
        let undone = play.all_told.iter().any(|it| it.what.ends_with(".undoing")).then_some("undoing");
        let there = (play.release.visits.len() > 2).then_some("third stage");
        for what in [accepted, undone, there].into_iter().flatten() {
            *reached.entry(what).or_default() += 1;
        }
        end(&mut play, &apps);
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
    let reached = reached.into_inner();
    for what in [
        "entering",
        "working",
        "waiting",
        "failed",
        "rolled_back",
        "ready",
        "undecided",
        "suspended",
        "superseded",
        "decided",
        "accepted",
        "accepted_with_warnings",
        "rejected",
        "undoing",
        "third stage",
    ] {
        assert!(reached.contains_key(what), "{what} was never reached: {reached:?}");
    }
}
