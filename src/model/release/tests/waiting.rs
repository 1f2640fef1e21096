//! Steps that wait for others: run results, checks, approvals, soak.

use super::*;

fn steps(steps: &str) -> Play {
    let text = format!(
        "{{pipeline: p, product: p, services: {{a: {{s: da}}}}, \
         stages: [{{stage: s, promote: manual, steps: [{steps}]}}]}}"
    );
    let mut play = Play::made(file::read(&text).expect("a pipeline"), &["a"], None);
    play.facts.subscribers = BTreeSet::from([word("x"), word("v")]);
    play.go().heard();
    play
}

const CHECK: &str = "{name: c, check: [x, v], deadline: 1h}";
const HOUR: u64 = 60 * 60 * 1000;

#[test]
fn the_result_of_a_run_is_what_its_output_says_and_never_good_by_default() {
    use Finding::{Fail, Inconclusive, Pass, Warning};
    use Outcome::{Canceled, Failed, Lost, Succeeded, TimedOut};
    for (outcome, outputs, result) in [
        (Succeeded, json!({}), Pass),
        (Succeeded, json!({"other": "fail"}), Pass),
        (Succeeded, json!({"result": "pass"}), Pass),
        (Succeeded, json!({"result": "warning"}), Warning),
        (Succeeded, json!({"result": "fail"}), Fail),
        (Succeeded, json!({"result": "inconclusive"}), Inconclusive),
        (Succeeded, json!({"result": "Pass"}), Inconclusive),
        (Succeeded, json!({"result": true}), Inconclusive),
        (Succeeded, json!({"result": null}), Inconclusive),
        (Failed, json!({"result": "pass"}), Fail),
        (Canceled, json!({}), Fail),
        (TimedOut, json!({}), Fail),
        (Lost, json!({"result": "pass"}), Fail),
    ] {
        let mut play = steps("{name: t, run: tests}");
        play.end_with("tests", outcome, outputs.clone());
        assert_eq!(play.result("t"), Some(result), "{outcome} {outputs}");
        assert_eq!(play.note("t").is_empty(), result == Pass);
    }
}

#[test]
fn a_run_that_waits_for_its_lock_can_be_passed_over_and_one_that_runs_cannot() {
    let mut play = steps("{name: t, run: tests}, {name: u, run: tests}");
    assert!(matches!(play.may_not(|act| Command::Bypass { act }), Refused::JobsRun));
    play.block("on-tests").good("tests");
    assert_eq!(wanted(&play.pipeline, &play.release, &play.facts.apps).len(), 1);
    play.heard();
    play.says(|act| Command::Bypass { act });
    assert_eq!(play.heard(), "u.finished configuration-change.finished");
    assert_eq!((play.result("u"), play.note("u")), (Some(Finding::Warning), "passed over by olga: because"));
    assert_eq!(play.release.worst(), Finding::Warning);
}

#[test]
fn the_result_of_a_run_is_taken_in_while_its_release_is_suspended() {
    let mut play = steps("{name: t, run: tests}, {name: u, run: tests}");
    play.may(Command::Suspend { why: "doubts".into(), at_ms: NOW }).good("tests");
    assert_eq!((play.result("t"), play.running.len(), play.standing()), (Some(Finding::Pass), 0, Standing::Suspended));
    play.says(|act| Command::Lift { act });
    assert_eq!(play.running_apps(), ["tests"]);
}

#[test]
fn a_release_that_is_rejected_or_to_be_superseded_waits_for_its_run() {
    let mut play = steps("{name: t, run: tests}");
    assert_eq!(play.refused(Command::Supersede { by: release_id(200), stage: word("s") }), Refused::Deploying);
    play.says(|act| Command::Reject { act });
    assert!(!play.release.is_over());
    play.good("tests");
    assert!(play.release.is_over());
    assert_eq!(play.step("t").jobs[0].outcome, Some(Outcome::Succeeded));
    assert_eq!(play.heard(), "rejected t.finished configuration-change.finished");
}

#[test]
fn every_reporter_counts_and_the_worst_wins_in_whatever_order() {
    use Finding::{Fail, Inconclusive, Pass, Warning};
    let all = [Pass, Warning, Inconclusive, Fail];
    for (first, second) in all.iter().flat_map(|first| all.map(|second| (*first, second))) {
        let mut play = steps(CHECK);
        play.reports("x", first);
        assert_eq!(play.result("c"), None, "one of two");
        assert_eq!(asked(&play.release), BTreeSet::from([word("v")]));
        play.reports("v", second);
        assert_eq!(play.result("c"), Some(first.max(second)));
    }
}

#[test]
fn a_report_counts_once_for_one_stage_and_from_who_was_asked() {
    let mut play = steps("{name: c, check: [x, v], deadline: 1h}, {name: late, check: [z], deadline: 1h}");
    assert_eq!(play.heard(), "");
    let (good, bad) = (play.report("x", Finding::Pass), play.report("x", Finding::Fail));
    play.may(good.clone());
    assert_eq!(play.heard(), "c.reported");
    play.wait(5).reports("x", Finding::Pass);
    assert_eq!(play.heard(), "", "said again it is harmless");
    assert_eq!(play.refused(bad), Refused::Twice(word("x"), word("c")));
    let stranger = play.report("w", Finding::Pass);
    assert!(matches!(play.refused(stranger), Refused::NotAsked { .. }));
    let early = play.report("z", Finding::Pass);
    assert_eq!(play.refused(early), Refused::NotYet(word("late"), word("c")));
    let Command::Report { reporter, report, .. } = play.report("v", Finding::Pass) else { panic!("a report") };
    for (stage, step) in [(word("t"), None), (word("s"), Some(word("late"))), (word("s"), Some(word("none")))] {
        let elsewhere = Command::Report { reporter: reporter.clone(), stage, step, report: report.clone() };
        assert!(matches!(play.refused(elsewhere), Refused::OtherStage { .. } | Refused::NotAsked { .. }));
    }
    play.reports("v", Finding::Pass).reports("z", Finding::Pass);
    // Whoever did not hear that it arrived says it again, and the release is long further.
    play.may(good.clone()).says(|act| Command::Reject { act }).may(good);
    let other = play.report("x", Finding::Warning);
    assert_eq!(play.refused(other), Refused::Over("rejected"));
}

#[test]
fn the_same_report_for_another_step_must_name_it() {
    let mut play = steps("{name: c, check: [x], deadline: 1h}, {name: e, check: [x], deadline: 1h}");
    play.reports("x", Finding::Pass);
    let again = play.report("x", Finding::Pass);
    assert_eq!(play.refused(again.clone()), Refused::Twice(word("x"), word("c")), "it may be the first, once more");
    let Command::Report { reporter, stage, report, .. } = again else { panic!("a report") };
    let for_c = Command::Report {
        reporter: reporter.clone(),
        stage: stage.clone(),
        step: Some(word("c")),
        report: report.clone(),
    };
    play.may(for_c);
    assert_eq!(play.result("e"), None);
    play.may(Command::Report { reporter, stage, step: Some(word("e")), report });
    assert_eq!(play.result("e"), Some(Finding::Pass));
}

#[test]
fn silence_is_inconclusive_at_the_deadline_and_a_later_report_too_late() {
    let mut play = steps(CHECK);
    assert_eq!(due_ms(&play.release, NOW), Some(NOW + HOUR));
    play.reports("x", Finding::Pass).facts.now_ms += HOUR;
    let late = play.report("v", Finding::Pass);
    assert_eq!(play.refused(late.clone()), Refused::TooLate(word("c")), "nobody has looked at the clock yet");
    play.go();
    assert_eq!(play.result("c"), Some(Finding::Inconclusive));
    assert_eq!(play.note("c"), "nothing was heard from v until the deadline");
    assert_eq!(play.refused(late), Refused::TooLate(word("c")));
    assert_eq!((play.standing(), due_ms(&play.release, NOW)), (Standing::Failed, None));
    // Asked again is who did not pass, with time as at first.
    play.heard();
    play.says(|act| Command::Retry { act });
    assert_eq!(play.heard(), "c.retried c.triggered c.started c.requested");
    assert_eq!(asked(&play.release), BTreeSet::from([word("v")]));
    assert_eq!(due_ms(&play.release, NOW), Some(NOW + 2 * HOUR));
    play.reports("v", Finding::Warning);
    assert_eq!(play.result("c"), Some(Finding::Warning));

    let mut play = steps(CHECK);
    play.reports("x", Finding::Fail).wait(HOUR);
    assert_eq!(play.result("c"), Some(Finding::Fail), "silence makes nothing better");
}

#[test]
fn no_reporter_is_late_because_the_release_was_suspended() {
    let mut play = steps(CHECK);
    play.may(Command::Suspend { why: "doubts".into(), at_ms: NOW }).wait(2 * HOUR);
    assert_eq!(play.result("c"), None);
    play.reports("x", Finding::Pass);
    play.says(|act| Command::Lift { act });
    assert_eq!((play.result("c"), due_ms(&play.release, NOW)), (None, Some(NOW + 3 * HOUR)), "its full time anew");
    play.wait(HOUR - 1).reports("v", Finding::Pass);
    assert_eq!(play.result("c"), Some(Finding::Pass));

    // A hold that is lifted gives nobody more time.
    let mut play = steps("{name: d, deploy: direct}, {name: c, check: [x], deadline: 1h}");
    play.all_good().says(|act| Command::RollBack { act }).all_good().says(|act| Command::Lift { act });
    assert_eq!(due_ms(&play.release, NOW), None);
}

#[test]
fn a_check_that_nobody_is_asked_for_is_inconclusive_and_the_set_stays_as_it_was_on_entering() {
    let mut play = steps("{name: first, check: [x]}, {name: c, check: subscribers}");
    play.facts.subscribers = BTreeSet::from([word("z")]);
    play.reports("x", Finding::Pass);
    assert_eq!(asked(&play.release), BTreeSet::from([word("x"), word("v")]));
    let unasked = play.report("z", Finding::Pass);
    assert!(matches!(play.refused(unasked), Refused::NotAsked { .. }));

    let text =
        "{pipeline: p, product: p, services: {a: {}}, stages: [{stage: s, steps: [{name: c, check: subscribers}]}]}";
    let mut play = Play::new(text, &["a"], None);
    assert_eq!((play.result("c"), play.note("c")), (Some(Finding::Inconclusive), "there is nobody to report"));
    play.says(|act| Command::Retry { act });
    assert_eq!(play.result("c"), Some(Finding::Inconclusive));
    play.says(|act| Command::Bypass { act });
    assert_eq!(play.result("c"), Some(Finding::Warning));
}

#[test]
fn approvals_are_counted_of_others_in_the_groups() {
    let mut play = steps("{name: ok, approval: [ops, sec], count: 2}");
    assert_eq!(play.last_told("ok.requested").to, BTreeSet::from([word("ops"), word("sec")]));
    let of = |play: &Play, by: &str, groups: &[&str]| Command::Approve {
        act: play.act(by),
        groups: groups.iter().map(|name| word(name)).collect(),
    };
    let [stranger, own] = [of(&play, "anna", &["dev"]), of(&play, "tim", &["ops"])];
    assert_eq!(play.refused(stranger), Refused::NotOfGroup("ops, sec".into()));
    assert_eq!(play.refused(own), Refused::OwnRelease(word("tim")));
    play.approves("anna", "ops");
    let again = play.approval("anna", "sec");
    assert_eq!(play.refused(again), Refused::ApprovedAlready(word("anna")));
    assert_eq!(play.release.waits_for(&play.pipeline).0, "1 approval");
    let withdrawal = |play: &Play, by| Command::Withdraw { act: play.act(by) };
    let [other, own] = [withdrawal(&play, "bert"), withdrawal(&play, "anna")];
    assert_eq!(play.refused(other), Refused::NothingGiven(word("bert")));
    play.may(own.clone());
    assert_eq!(play.refused(own.clone()), Refused::NothingGiven(word("anna")));
    play.approves("bert", "sec").approves("anna", "ops");
    assert_eq!((play.result("ok"), play.note("ok")), (Some(Finding::Pass), "approved by anna, bert"));
    assert_eq!(play.refused(own), Refused::NothingGiven(word("anna")), "it has been used");
    assert!(matches!(play.may_not(|act| Command::Bypass { act }), Refused::NothingFailed(_)));
}

#[test]
fn approvals_are_void_when_another_release_takes_its_place_and_after_a_rollback() {
    let mut play = steps("{name: d, deploy: direct}, {name: ok, approval: [ops], count: 2}");
    play.all_good().approves("anna", "ops");
    assert!(matches!(play.may_not(|act| Command::Bypass { act }), Refused::NoBypass("approval")));
    play.says(|act| Command::RollBack { act }).all_good();
    play.says(|act| Command::Lift { act }).says(|act| Command::Retry { act }).all_good().approves("bert", "ops");
    assert_eq!(play.result("ok"), None, "what was approved before the roll-back is not this deployment");
    let by = release_id(200);
    play.heard();
    play.may(Command::Supersede { by, stage: word("s") });
    assert_eq!(play.heard(), "superseded configuration-change.finished");
    assert_eq!(play.last_told("configuration-change.finished").data["result"], "inconclusive");
    let approval = play.approval("carl", "ops");
    assert_eq!(play.refused(approval), Refused::Superseded(by));
}

#[test]
fn soak_time_counts_from_the_deployment_and_anew_from_a_redeployment_by_others() {
    let mut play = steps("{name: d, deploy: direct}, {name: ok, approval: [ops]}, {name: soak, soak: 1h}");
    play.all_good().wait(10).approves("anna", "ops");
    assert_eq!(due_ms(&play.release, NOW), Some(NOW + HOUR), "since it was deployed");
    // Its own job is no redeployment.
    let own = play.launched[0].job;
    play.facts.succeeded.insert(app("da"), (own, NOW + 20));
    assert_eq!(play.wait(20).heard().rsplit(' ').next(), Some("soak.started"));
    play.facts.succeeded.insert(app("da"), (JobId::new(NOW, 77 << 64), NOW + 25));
    assert_eq!(play.go().heard(), "soak.restarted");
    assert_eq!(due_ms(&play.release, NOW), Some(NOW + 25 + HOUR));
    play.facts.now_ms = NOW + HOUR + 24;
    assert_eq!(play.go().standing(), Standing::Waiting);
    play.wait(1);
    assert_eq!((play.result("soak"), play.standing()), (Some(Finding::Pass), Standing::Undecided));

    // A redeployment that is found long after: what is over since then is over.
    let mut play = steps("{name: d, deploy: direct}, {name: soak, soak: 1h}");
    play.all_good();
    play.facts.succeeded.insert(app("da"), (JobId::new(NOW, 77 << 64), NOW + 5));
    play.wait(3 * HOUR);
    assert_eq!(play.result("soak"), Some(Finding::Pass));

    let mut play = steps("{name: soak, soak: 1h}");
    play.says(|act| Command::Bypass { act });
    assert_eq!(play.step("soak").bypass.as_ref().map(|act| act.reason.as_str()), Some("because"));
    assert_eq!(play.last_told("soak.finished").data["kind"], "soak");
}

#[test]
fn what_fails_is_given_to_a_group_and_given_back_when_somebody_says_what_is_to_be_done() {
    let text = "{pipeline: p, product: p, services: {a: {}}, stages: [{stage: s, assign: managers, \
                steps: [{name: c, check: [x], on_failure: fixers}, {name: e, check: [v]}]}]}";
    for command in [|act| Command::Retry { act }, |act| Command::Bypass { act }] {
        let mut play = Play::new(text, &["a"], None);
        assert_eq!(play.last_told("assigned").to, BTreeSet::from([word("managers")]));
        play.reports("x", Finding::Inconclusive);
        assert_eq!(play.last_told("assigned").to, BTreeSet::from([word("fixers")]));
        assert_eq!(play.release.waits_for(&play.pipeline).1, ["fixers"]);
        play.says(command);
        assert_eq!(play.release.assigned, Some(word("managers")));
        assert_eq!(play.last_told("assigned").to, BTreeSet::from([word("managers")]));
    }
}
