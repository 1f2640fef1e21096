//! Deployments: all together, undone together, and what is said of them.

use super::*;

/// Three services, and steps of a stage.
fn three(steps: &str) -> String {
    format!(
        "{{pipeline: p, product: p, services: {{a: {{s: da}}, b: {{s: db}}, c: {{s: dc}}}}, \
         stages: [{{stage: s, promote: manual, steps: [{steps}]}}]}}"
    )
}

fn bracket(steps: &str) -> Play {
    let pipeline = file::read(&three(steps)).expect("a pipeline");
    let mut play = Play::made(pipeline, &["a", "b", "c"], None).with_before(&["da", "db"]);
    play.go().heard();
    play
}

const DIRECT: &str = "{name: d, deploy: direct}";
const CANARY: &str = "{name: d, deploy: canary, shares: [10, 50], pause: 10m}";
const TESTED: &str = "{name: d, deploy: blue_green}, {name: t, run: tests}";

#[test]
fn all_are_launched_together_and_told_what_they_deploy() {
    let mut play = bracket(DIRECT);
    assert_eq!(play.running_apps(), ["da", "db", "dc"]);
    let vars = play.vars("da");
    for (name, is) in [
        ("service", json!("a")),
        ("version", json!("2")),
        ("strategy", json!("direct")),
        ("operation", json!("deploy")),
        ("stage", json!("s")),
        ("step", json!("d")),
        ("previous", json!({"version": "1"})),
    ] {
        assert_eq!(vars[name], is, "{name}");
    }
    assert_eq!(vars["services"]["b"], json!({"version": "2", "app": "db", "inventory": "on-db"}));
    assert!(!vars.contains_key("share"));
    assert_eq!(play.vars("dc")["previous"], Value::Null);
    play.good("da").good("dc");
    assert_eq!((play.result("d"), play.standing()), (None, Standing::Working));
    play.good("db");
    assert_eq!((play.result("d"), play.states("d").as_str()), (Some(Finding::Pass), "deployed deployed deployed"));
    assert_eq!(play.heard(), "d.finished configuration-change.finished");
    assert_eq!([play.there("da"), play.there("db"), play.there("dc")], [Some("2"); 3]);
}

#[test]
fn one_failure_undoes_the_others_and_each_is_said_to_be_what_it_is() {
    let mut play = bracket(DIRECT);
    play.good("da").bad("db");
    assert_eq!(play.running_apps(), ["dc"], "what has begun is brought to an end first");
    assert_eq!(play.there("da"), Some("2"));
    play.good("dc");
    assert_eq!(play.running_apps(), ["da", "db", "dc"]);
    assert_eq!(play.vars("da")["operation"], "undo");
    assert_eq!(play.vars("da")["previous"], json!({"version": "1"}));
    assert_eq!(play.standing(), Standing::Working);
    play.good("da").bad("dc").good("db");
    assert_eq!((play.result("d"), play.states("d").as_str()), (Some(Finding::Fail), "undone undone not_undone"));
    assert_eq!([play.there("da"), play.there("db"), play.there("dc")], [Some("1"), Some("1"), Some("2")]);
    let note = play.note("d");
    assert!(note.starts_with("a is undone; b is undone: job ") && note.contains("; c is not undone: job "), "{note}");
    assert_eq!(play.heard(), "d.undoing d.finished");
    assert_eq!(play.last_told("d.finished").data["services"], json!({"a": "undone", "b": "undone", "c": "not_undone"}));
    assert_eq!(play.standing(), Standing::Failed);
    assert_eq!(due_ms(&play.release, NOW), None);
}

#[test]
fn every_end_but_success_is_a_failure() {
    for outcome in [Outcome::Failed, Outcome::Canceled, Outcome::TimedOut, Outcome::Superseded, Outcome::Lost] {
        let mut play = bracket(DIRECT);
        play.good("da").good("db").end("dc", outcome).all_good();
        assert_eq!(play.states("d"), "undone undone undone", "{outcome}");
        assert!(play.note("d").contains(&format!(" {outcome}: it broke")), "{}", play.note("d"));
    }
}

#[test]
fn a_retry_after_an_undo_deploys_again_and_knows_what_was_there_before() {
    let mut play = bracket(DIRECT);
    play.good("da").good("db").bad("dc").good("da").bad("db").good("dc");
    assert_eq!((play.states("d").as_str(), play.there("db")), ("undone not_undone undone", Some("2")));
    play.says(|act| Command::Retry { act });
    assert_eq!(play.running_apps(), ["da", "db", "dc"]);
    for (app, before) in [("da", json!({"version": "1"})), ("db", json!({"version": "1"})), ("dc", Value::Null)] {
        assert_eq!(play.vars(app)["operation"], "deploy");
        assert_eq!(play.vars(app)["previous"], before, "{app}");
    }
    assert!(play.heard().ends_with("d.retried d.triggered d.started"));
    play.all_good();
    assert_eq!(play.result("d"), Some(Finding::Pass));
    assert_eq!(play.step("d").jobs.len(), 9);
    assert_eq!(play.note("d"), "");
}

#[test]
fn a_canary_goes_share_by_share_and_is_a_deployment_under_way_in_between() {
    let mut play = bracket(CANARY);
    assert_eq!(play.vars("da")["share"], 10);
    play.all_good();
    assert_eq!((play.running.len(), play.there("da"), play.result("d")), (0, Some("1"), None));
    assert!(play.release.is_deploying());
    // In between, services are what they are, and nobody is told that jobs run.
    assert_eq!((play.states("d").as_str(), play.standing()), ("deployed deployed deployed", Standing::Working));
    assert!(play.step("d").is_pausing());
    assert_eq!(play.release.waits_for(&play.pipeline).0, "the time of the next share (10 % is live)");
    let shared = &play.last_told("d.shared").data;
    assert_eq!((&shared["share"], &shared["next_ms"]), (&json!(10), &json!(NOW + 600_000)));
    let by = release_id(200);
    assert_eq!(play.refused(Command::Supersede { by, stage: word("s") }), Refused::Deploying);
    assert_eq!(due_ms(&play.release, NOW), Some(NOW + 600_000));
    play.wait(599_999);
    assert_eq!(play.running.len(), 0);
    play.wait(1);
    assert!(!play.step("d").is_pausing());
    assert_eq!(play.vars("db")["share"], 50);
    // What was there before is what the first share found.
    let mut play = play.with_before(&["dc"]);
    play.all_good().wait(600_000);
    assert_eq!(play.vars("dc")["share"], 100);
    assert_eq!(play.vars("dc")["previous"], Value::Null);
    play.all_good();
    assert_eq!((play.result("d"), play.there("dc")), (Some(Finding::Pass), Some("2")));
    assert_eq!(play.heard(), "d.shared d.shared d.finished configuration-change.finished");
}

#[test]
fn a_canary_that_fails_or_is_rejected_at_a_later_share_is_undone_wholly() {
    let mut play = bracket(CANARY);
    play.all_good().wait(600_000).good("da").bad("db").good("dc");
    assert_eq!(play.running_apps(), ["da", "db", "dc"]);
    assert_eq!(play.vars("dc")["operation"], "undo");
    play.all_good();
    assert_eq!(play.states("d"), "undone undone undone");

    let mut play = bracket(CANARY);
    play.all_good().says(|act| Command::Reject { act });
    assert_eq!(play.running_apps(), ["da", "db", "dc"], "a share of each is there");
    assert!(!play.release.is_over());
    play.all_good();
    assert!(play.release.is_over());
    assert_eq!(play.states("d"), "undone undone undone");
}

#[test]
fn what_cannot_be_deployed_together_is_not_begun() {
    let pipeline = file::read(&three(DIRECT)).expect("a pipeline");
    let mut play = Play::made(pipeline, &["a", "b"], None);
    play.facts.apps.remove(&app("db"));
    assert_eq!(play.go().note("d"), "the feed lists no app db, which deploys b");
    assert_eq!((play.launched.len(), play.states("d").as_str()), (0, "pending pending"));
    assert_eq!(play.heard(), "configuration-change.triggered d.triggered d.finished");
    play.facts.apps.insert(app("db"), "on-da".parse().expect("a name"));
    play.says(|act| Command::Retry { act });
    assert_eq!(play.note("d"), "a and b are deployed to one inventory, on-da; a bracket needs one for each service");
    assert!(matches!(play.may_not(|act| Command::RollBack { act }), Refused::NothingDeployed));
    play.facts.apps.insert(app("db"), "on-db".parse().expect("a name"));
    play.says(|act| Command::Retry { act });
    assert_eq!(play.running.len(), 2);
}

#[test]
fn a_list_of_apps_that_is_not_known_is_no_missing_app() {
    let pipeline = file::read(&three(TESTED)).expect("a pipeline");
    let mut play = Play::made(pipeline, &["a", "b"], None);
    let apps = std::mem::take(&mut play.facts.apps);
    play.block("lockstep.feed");
    assert_eq!((play.result("d"), play.running.len()), (None, 0));
    play.facts.apps = apps.clone();
    play.unblock().all_good().bad("tests").facts.apps.clear();
    play.block("lockstep.feed").says(|act| Command::Retry { act });
    assert_eq!(play.result("t"), None);
    play.facts.apps = apps;
    assert_eq!(play.unblock().running_apps(), ["tests"]);
}

#[test]
fn an_app_that_leaves_the_feed_keeps_no_other_from_being_undone() {
    let mut play = bracket(DIRECT);
    play.good("da").good("db").facts.apps.remove(&app("da"));
    play.bad("dc");
    assert_eq!(play.running_apps(), ["db", "dc"]);
    play.all_good();
    assert_eq!(play.states("d"), "not_undone undone undone");
    assert!(play.note("d").contains("a is not undone: the feed lists no app da"), "{}", play.note("d"));

    // Two that were moved to one inventory are undone one after the other.
    let mut play = bracket(DIRECT);
    play.good("da").good("db").facts.apps.insert(app("db"), "on-da".parse().expect("a name"));
    play.bad("dc");
    assert_eq!(play.running_apps(), ["da", "dc"]);
    play.all_good();
    assert_eq!(play.running_apps(), ["db"]);
    play.all_good();
    assert_eq!(play.states("d"), "undone undone undone");
}

#[test]
fn locks_are_waited_for_and_nothing_is_launched_meanwhile() {
    let pipeline = file::read(&three(DIRECT)).expect("a pipeline");
    let mut play = Play::made(pipeline, &["a", "b"], None);
    play.block("on-db");
    assert_eq!(play.heard(), "configuration-change.triggered d.triggered");
    let inventories = ["on-da", "on-db"].map(|name| name.parse().expect("a name"));
    assert_eq!(wanted(&play.pipeline, &play.release, &play.facts.apps), BTreeSet::from(inventories));
    assert_eq!(play.release.waits_for(&play.pipeline).0, "the lock of on-db: job X holds it");
    assert!(!play.release.is_deploying(), "nothing has begun, and another may take its place");
    // Meanwhile another pipeline deploys there.
    let mut play = play.with_before(&["da"]);
    play.unblock();
    assert_eq!((play.heard().as_str(), play.running.len()), ("d.started", 2));
    assert_eq!(play.vars("da")["previous"], json!({"version": "1"}), "what was there when it began");
    play.bad("da").block("on-da").good("db");
    assert_eq!((play.running.len(), play.release.is_deploying()), (0, true));
    assert_eq!(due_ms(&play.release, NOW), Some(NOW + 30_000));
    play.heard();
    // Somebody rolls it back while it waits to undo.
    play.says(|act| Command::RollBack { act }).unblock().all_good();
    assert_eq!(play.heard(), "rollback.triggered d.undoing d.finished rollback.finished");
    assert_eq!((play.states("d").as_str(), play.standing()), ("undone undone", Standing::RolledBack));
    assert_eq!(play.last_told("rollback.finished").data["result"], "pass");
}

#[test]
fn a_rejection_in_mid_deployment_undoes_first() {
    let mut play = bracket(DIRECT);
    play.good("da").says(|act| Command::Reject { act });
    assert_eq!((play.standing(), play.release.is_over()), (Standing::Decided, false));
    assert_eq!(play.release.waits_for(&play.pipeline).0, "its jobs");
    assert_eq!(play.refused(Command::Supersede { by: release_id(200), stage: word("s") }), Refused::Deploying);
    assert!(matches!(play.may_not(|act| Command::Retry { act }), Refused::Over("rejected")));
    play.good("db").good("dc");
    assert_eq!(play.running_apps(), ["da", "db", "dc"]);
    play.good("da").good("db").bad("dc");
    assert!(play.release.is_over());
    assert_eq!(play.heard(), "rejected d.undoing d.finished configuration-change.finished");
    assert_eq!(play.last_told("configuration-change.finished").data["result"], "fail");
    assert_eq!(play.states("d"), "undone undone not_undone");
    assert_eq!(play.wait(1).heard(), "");
}

#[test]
fn a_rollback_undoes_what_later_steps_have_judged_and_holds_automation() {
    let mut play = bracket(TESTED);
    play.all_good();
    assert!(matches!(play.may_not(|act| Command::RollBack { act }), Refused::JobsRun));
    play.bad("tests").heard();
    assert_eq!(play.standing(), Standing::Failed);
    play.says(|act| Command::RollBack { act });
    assert_eq!(play.heard(), "rollback.triggered d.undoing");
    assert_eq!((play.running.len(), play.result("t"), play.step("t").triggered_ms), (3, None, None));
    assert!(play.release.hold.is_some());
    assert!(matches!(play.may_not(|act| Command::RollBack { act }), Refused::Held(_)));
    play.all_good();
    assert_eq!((play.standing(), play.there("da"), play.there("dc")), (Standing::RolledBack, Some("1"), None));
    for command in [
        Command::Retry { act: play.act("olga") },
        Command::Bypass { act: play.act("olga") },
        Command::Promote { act: play.act("olga"), to: None },
        Command::Decide { act: play.act("olga"), verdict: Verdict::Accepted },
    ] {
        assert!(matches!(play.refused(command), Refused::Held(_)));
    }
    play.says(|act| Command::Lift { act });
    assert_eq!(play.standing(), Standing::Failed);
    assert!(matches!(play.may_not(|act| Command::Lift { act }), Refused::NothingHeld));
    assert!(matches!(play.may_not(|act| Command::RollBack { act }), Refused::NothingDeployed));
    play.says(|act| Command::Retry { act }).all_good().good("tests");
    assert_eq!(play.standing(), Standing::Undecided);
}

#[test]
fn a_rollback_that_fails_says_so_and_can_be_tried_again() {
    let mut play = bracket(DIRECT);
    play.all_good().says(|act| Command::RollBack { act }).good("da").bad("db").good("dc");
    assert_eq!(play.states("d"), "undone not_undone undone");
    assert_eq!(play.last_told("rollback.finished").data["result"], "fail");
    assert_eq!(play.release.waits_for(&play.pipeline).0, "rollback, lift or reject");
    let mut lifted = play.clone();
    lifted.says(|act| Command::Lift { act });
    assert_eq!(lifted.release.waits_for(&play.pipeline).0, "retry, rollback or reject");
    lifted.says(|act| Command::RollBack { act });
    assert_eq!(lifted.running_apps(), ["db"]);
    // Nothing is handed to the next release for that: the hold stays, and is whose it was.
    let hold = play.release.hold.clone();
    play.heard();
    play.may(Command::RollBack { act: play.act("bert") });
    assert_eq!((play.running_apps(), &play.release.hold), (vec!["db".to_owned()], &hold));
    assert!(matches!(play.may_not(|act| Command::RollBack { act }), Refused::Held(_)), "it is being tried");
    play.all_good();
    assert_eq!((play.states("d").as_str(), play.standing()), ("undone undone undone", Standing::RolledBack));
    assert_eq!(play.heard(), "rollback.triggered d.undoing d.finished rollback.finished");
    assert_eq!(play.last_told("rollback.finished").data["result"], "pass");
    assert_eq!(play.release.waits_for(&play.pipeline).0, "lift or reject");
    assert!(matches!(play.may_not(|act| Command::RollBack { act }), Refused::Held(_)), "all is undone");
}

#[test]
fn nothing_is_named_that_would_be_refused() {
    for (steps, broken, words) in [
        (DIRECT, "da", "retry or reject"),
        ("{name: t, run: tests}, {name: d, deploy: direct}", "tests", "retry, bypass or reject"),
        (TESTED, "tests", "retry, bypass, rollback or reject"),
    ] {
        let mut play = bracket(steps);
        if steps == TESTED {
            play.all_good();
        }
        play.bad(broken).all_good().all_good();
        assert_eq!((play.standing(), play.release.waits_for(&play.pipeline).0.as_str()), (Standing::Failed, words));
        let may = |command: Command| play.clone().command(command).is_ok();
        assert!(may(Command::Retry { act: play.act("olga") }) && may(Command::Reject { act: play.act("olga") }));
        assert_eq!(may(Command::Bypass { act: play.act("olga") }), words.contains("bypass"), "{words}");
        assert_eq!(may(Command::RollBack { act: play.act("olga") }), words.contains("rollback"), "{words}");
    }
}

#[test]
fn a_rollback_in_mid_deployment_waits_for_its_jobs() {
    let mut play = bracket(DIRECT);
    play.good("da").says(|act| Command::RollBack { act });
    assert_eq!(play.running_apps(), ["db", "dc"]);
    play.all_good();
    assert_eq!(play.running_apps(), ["da", "db", "dc"]);
    play.all_good();
    assert_eq!(play.states("d"), "undone undone undone");
}

#[test]
fn nothing_is_undone_over_the_head_of_who_deployed_there_since() {
    let mut play = bracket(DIRECT);
    play.all_good();
    let other = There { artifact: artifact("3"), release: release_id(200), service: word("b"), stage: word("s") };
    play.facts.there.insert(app("db"), other);
    play.says(|act| Command::RollBack { act });
    assert_eq!(play.running_apps(), ["da", "dc"]);
    play.all_good();
    assert_eq!((play.states("d").as_str(), play.there("db")), ("undone not_undone undone", Some("3")));
    assert!(play.note("d").contains("b is not undone: release "), "{}", play.note("d"));
}

#[test]
fn a_second_deployment_in_a_stage_is_undone_to_what_was_there_before_the_first() {
    let steps = "{name: d, deploy: blue_green}, {name: e, deploy: direct}";
    let mut play = bracket(steps);
    play.all_good();
    assert_eq!(play.vars("da")["step"], "e");
    assert_eq!(play.vars("da")["previous"], json!({"version": "1"}));
    play.good("da").good("db").bad("dc").all_good();
    assert_eq!((play.states("e").as_str(), play.there("da")), ("undone undone undone", Some("1")));

    // While the second waits for its locks, the first can be rolled back.
    let mut play = bracket(steps);
    play.good("da").good("db").block("on-da").good("dc");
    assert!(play.step("e").blocked.is_some());
    play.says(|act| Command::RollBack { act }).unblock();
    assert_eq!(play.vars("da")["step"], "d");
    play.all_good();
    assert_eq!(
        (play.states("d").as_str(), play.states("e").as_str()),
        ("undone undone undone", "pending pending pending")
    );
}

#[test]
fn outputs_reach_later_jobs_and_a_retry_forgets_them() {
    let mut play = bracket("{name: d, deploy: direct}, {name: t, run: tests}, {name: u, run: more}");
    play.end_with("da", Outcome::Succeeded, json!({"url": "x"})).good("db").good("dc");
    assert_eq!(play.vars("tests")["outputs"], json!({"d": {"a": {"url": "x"}}}));
    play.end_with("tests", Outcome::Failed, json!({"half": true}));
    play.says(|act| Command::Retry { act });
    assert_eq!(play.vars("tests")["outputs"], json!({"d": {"a": {"url": "x"}}}));
    // More than is kept is left out, and that is said; the result counts.
    play.end_with(
        "tests",
        Outcome::Succeeded,
        json!({"result": "warning", "comment": "slow", "big": "x".repeat(OUTPUTS_MAX)}),
    );
    assert!(play.note("t").starts_with("slow; outputs of tests are left out"), "{}", play.note("t"));
    assert_eq!(play.vars("more")["outputs"], json!({"d": {"a": {"url": "x"}}}));
}

#[test]
fn what_is_kept_of_a_release_does_not_grow_without_end() {
    let mut play = bracket("{name: t, run: tests}");
    for _ in 0..=JOBS_MAX {
        let outputs = json!({"result": "fail", "comment": "ä".repeat(NOTE_MAX)});
        play.end_with("tests", Outcome::Succeeded, outputs).says(|act| Command::Retry { act });
    }
    assert_eq!(play.step("t").jobs.len(), JOBS_MAX);
    play.end_with("tests", Outcome::Succeeded, json!({"result": "fail", "comment": "ä".repeat(NOTE_MAX)}));
    assert_eq!(play.note("t").len(), NOTE_MAX);
}
