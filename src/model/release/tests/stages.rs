//! From stage to stage: entering, superseding, promotion, holds, decisions.

use super::*;

const TWO: &str = "{pipeline: p, product: p, services: {a: {s: da, t: ea}}, stages: [\
    {stage: s, promote: auto, steps: [{name: d, deploy: direct}]}, \
    {stage: t, promote: auto, entry: true, steps: [{name: d, deploy: direct}, {name: c, check: [x]}]}]}";

fn two() -> Play {
    Play::made(file::read(TWO).expect("a pipeline"), &["a"], None)
}

fn by_hand() -> Play {
    let text = TWO.replace("promote: auto", "promote: manual");
    let mut play = Play::made(file::read(&text).expect("a pipeline"), &["a"], None);
    play.go();
    play
}

const OLDER: u128 = 50;
const NEWER: u128 = 200;

#[test]
fn at_the_end_of_the_last_stage_it_is_accepted_by_itself_or_by_hand() {
    for (found, verdict) in [(Finding::Pass, Verdict::Accepted), (Finding::Warning, Verdict::AcceptedWithWarnings)] {
        let mut play = two();
        play.go().all_good().all_good().reports("x", found);
        assert_eq!(
            play.release.decision.as_ref().map(|(verdict, act)| (*verdict, act.by.clone())),
            Some((verdict, None))
        );
        assert!(play.release.is_over() && play.release.holds_place());
        assert!(play.heard().ends_with(&format!("configuration-change.finished {}", verdict.word())));
        assert!(matches!(play.may_not(|act| Command::Reject { act }), Refused::Over(_)));
    }
    let accept = |play: &Play| Command::Decide { act: play.act("olga"), verdict: Verdict::Accepted };
    let mut play = by_hand();
    play.all_good();
    let early = accept(&play);
    assert_eq!(play.refused(early), Refused::NotAtTheEnd(word("s")));
    play.says(|act| Command::Promote { act, to: None }).all_good();
    let early = accept(&play);
    assert!(matches!(play.refused(early), Refused::NotDone(_)));
    play.reports("x", Finding::Pass);
    assert_eq!(play.standing(), Standing::Undecided);
    let now = accept(&play);
    play.may(now);
    assert_eq!(play.standing(), Standing::Decided);
}

#[test]
fn a_release_is_rejected_at_any_time() {
    let moments: [fn(&mut Play); 4] = [
        |_| {},
        |play| {
            play.all_good();
        },
        |play| {
            play.all_good().says(|act| Command::Promote { act, to: None }).all_good();
        },
        |play| {
            play.facts.occupants.insert(release_id(OLDER), true);
            play.all_good().says(|act| Command::Promote { act, to: None });
        },
    ];
    for moment in moments {
        let mut play = by_hand();
        moment(&mut play);
        play.says(|act| Command::Reject { act }).all_good().all_good();
        assert!(play.release.is_over() && !play.release.holds_place());
        assert_eq!((play.standing(), play.release.entering.as_ref()), (Standing::Decided, None));
        assert_eq!(due_ms(&play.release, NOW), None);
    }
}

#[test]
fn stages_are_entered_in_order_and_when_all_is_done() {
    let mut play = by_hand();
    let to = |play: &Play, stage: &str| Command::Promote { act: play.act("olga"), to: Some(word(stage)) };
    let [early, other] = [to(&play, "t"), to(&play, "s")];
    assert!(matches!(play.refused(early.clone()), Refused::NotDone(_)));
    assert!(matches!(play.refused(other), Refused::OutOfOrder { .. }));
    play.all_good().heard();
    play.may(early);
    assert_eq!(
        play.heard(),
        "promote.triggered promote.started promote.finished configuration-change.triggered d.triggered d.started"
    );
    play.all_good().reports("x", Finding::Pass);
    assert_eq!(play.may_not(|act| Command::Promote { act, to: None }), Refused::LastStage(word("t")));
}

#[test]
fn an_older_occupant_is_superseded_and_one_that_deploys_is_waited_for() {
    let mut play = two();
    play.facts.occupants.insert(release_id(OLDER), true);
    play.go();
    assert_eq!((play.standing(), due_ms(&play.release, NOW)), (Standing::Entering, Some(NOW + 2_000)));
    assert!(play.release.waits_for(&play.pipeline).0.starts_with(&format!("release {}", release_id(OLDER))));
    assert!(play.superseded.is_empty() && play.release.visits.is_empty());
    play.facts.occupants.insert(release_id(OLDER), false);
    play.go();
    assert_eq!((play.standing(), &play.superseded), (Standing::Working, &BTreeSet::from([release_id(OLDER)])));
}

#[test]
fn by_itself_nothing_goes_back_to_before_a_newer_release() {
    // Neither one that was made earlier and waited,
    let mut play = two();
    play.facts.occupants.insert(release_id(NEWER), false);
    play.go();
    assert_eq!((play.release.superseded_by, play.launched.len()), (Some(release_id(NEWER)), 0));
    assert_eq!(play.release.waits_for(&play.pipeline).0, "nothing");
    // nor one that goes on by itself;
    let mut play = two();
    play.go().facts.occupants.insert(release_id(NEWER), false);
    play.all_good();
    assert_eq!((play.release.superseded_by, play.launched.len()), (Some(release_id(NEWER)), 1));
    assert!(play.release.is_over());
    // but somebody may say so.
    let mut play = by_hand();
    play.all_good().facts.occupants.insert(release_id(NEWER), false);
    play.says(|act| Command::Promote { act, to: None });
    assert_eq!((play.standing(), &play.superseded), (Standing::Working, &BTreeSet::from([release_id(NEWER)])));
}

#[test]
fn who_has_left_a_stage_is_not_superseded_there() {
    let mut play = two();
    let there = |stage| Command::Supersede { by: release_id(NEWER), stage: word(stage) };
    play.go();
    assert_eq!(play.refused(there("s")), Refused::Deploying);
    play.all_good();
    assert!(play.release.is_deploying_in(&word("t")) && !play.release.is_deploying_in(&word("s")));
    play.may(there("s"));
    assert_eq!(play.release.superseded_by, None, "it is in t");
    assert_eq!(play.refused(there("t")), Refused::Deploying);
    play.all_good().may(there("t"));
    assert_eq!(play.standing(), Standing::Superseded);
    play.heard();
    play.may(there("t"));
    assert_eq!(play.heard(), "", "said again it is nothing new");
}

#[test]
fn a_hold_keeps_back_what_comes_by_itself() {
    let mut play = two();
    play.go().facts.held = Some(release_id(OLDER));
    play.all_good();
    assert_eq!((play.standing(), play.release.visits.len()), (Standing::Ready, 1));
    assert!(play.heard().ends_with("d.finished configuration-change.finished"));
    let holder = format!("lift of release {}, which holds automation", release_id(OLDER));
    assert!(play.release.waits_for(&play.pipeline).0.contains(&holder));
    let mut promoted = play.clone();
    promoted.says(|act| Command::Promote { act, to: None });
    assert_eq!((promoted.standing(), promoted.release.visits.len()), (Standing::Working, 2));
    play.facts.held = None;
    play.go();
    assert_eq!((play.standing(), play.release.visits.len()), (Standing::Working, 2));

    // Who makes a release in a held stage has said so.
    let mut play = two();
    play.facts.held = Some(release_id(OLDER));
    assert_eq!(play.go().standing(), Standing::Working);

    // It was sent there before the hold, and waited for the one that was rolled back.
    let mut play = two();
    play.go().facts.occupants.insert(release_id(OLDER), true);
    play.all_good().facts.occupants.insert(release_id(OLDER), false);
    play.facts.held = Some(release_id(OLDER));
    assert_eq!(play.go().standing(), Standing::Entering);
    assert!(play.release.waits_for(&play.pipeline).0.starts_with(&holder));
    assert_eq!(due_ms(&play.release, NOW), None, "whoever lifts that wakes it");
    play.facts.held = None;
    assert_eq!(play.go().standing(), Standing::Working);
}

#[test]
fn a_release_that_is_about_to_enter_the_next_stage_can_be_rolled_back() {
    let mut play = two().with_before(&["da"]);
    play.go().facts.occupants.insert(release_id(OLDER), true);
    play.all_good();
    assert_eq!((play.standing(), play.there("da")), (Standing::Entering, Some("2")));
    play.says(|act| Command::RollBack { act });
    assert_eq!(play.running_apps(), ["da"]);
    play.all_good();
    assert_eq!((play.standing(), play.there("da")), (Standing::RolledBack, Some("1")));
    assert_eq!(play.release.visits.len(), 1);
}

#[test]
fn a_suspended_release_stands_still_until_somebody_lifts_that() {
    let mut play = by_hand();
    play.heard();
    play.may(Command::Suspend { why: "doubts".into(), at_ms: NOW }).all_good();
    assert_eq!((play.heard().as_str(), play.standing(), play.result("d")), ("suspended", Standing::Suspended, None));
    // How its jobs end is taken in, as long as that is known.
    assert_eq!((play.states("d").as_str(), play.there("da")), ("deployed", Some("2")));
    assert!(matches!(play.may_not(|act| Command::Promote { act, to: None }), Refused::Suspended(_)));
    play.may(Command::Suspend { why: "more doubts".into(), at_ms: NOW });
    assert_eq!(play.release.suspended.as_deref(), Some("doubts"));
    play.says(|act| Command::Lift { act });
    assert_eq!((play.result("d"), play.standing()), (Some(Finding::Pass), Standing::Ready));

    // What is suspended can be rejected, and is brought to its end then.
    let mut play = by_hand();
    play.may(Command::Suspend { why: "doubts".into(), at_ms: NOW }).all_good();
    play.says(|act| Command::Reject { act }).all_good();
    assert_eq!((play.release.is_over(), play.states("d").as_str()), (true, "undone"));

    // At the end nobody accepts what is in doubt.
    let mut play = by_hand();
    play.all_good().says(|act| Command::Promote { act, to: None }).all_good().reports("x", Finding::Pass);
    play.may(Command::Suspend { why: "doubts".into(), at_ms: NOW });
    let verdict = Verdict::Accepted;
    assert!(matches!(play.may_not(|act| Command::Decide { act, verdict }), Refused::Suspended(_)));
}

#[test]
fn an_assignment_ends_with_its_stage_or_the_failure_that_it_was_for() {
    let text = "{pipeline: p, product: p, services: {a: {}}, stages: [\
        {stage: s, assign: ops, promote: auto, steps: [{name: t, run: tests, on_failure: devs}]}, \
        {stage: u, promote: manual, steps: [{name: t, run: tests, on_failure: devs}, {name: v, run: tests}]}]}";
    let mut play = Play::new(text, &["a"], None);
    let whose = |play: &Play| play.release.assigned.as_ref().map(ToString::to_string);
    let [ops, devs] = ["ops", "devs"].map(|group| Some(group.to_owned()));
    assert_eq!(whose(&play), ops);
    play.bad("tests");
    assert_eq!(whose(&play), devs);
    play.says(|act| Command::Retry { act });
    assert_eq!(whose(&play), ops);
    play.good("tests");
    assert_eq!((whose(&play), play.release.visits.len()), (None, 2), "the second stage names nobody");
    for step in ["retried", "passed over"] {
        play.bad("tests");
        assert_eq!(whose(&play), devs);
        match step {
            "retried" => play.says(|act| Command::Retry { act }),
            _ => play.says(|act| Command::Bypass { act }),
        };
        assert_eq!(whose(&play), None, "{step}");
    }
}

#[test]
fn a_report_is_about_one_stage() {
    let mut play = by_hand();
    let at = |play: &Play, stage: &str| match play.report("x", Finding::Pass) {
        Command::Report { reporter, report, .. } => {
            Command::Report { reporter, report, stage: word(stage), step: None }
        }
        other => other,
    };
    let [early, here] = [at(&play, "t"), at(&play, "s")];
    assert!(matches!(play.refused(early), Refused::OtherStage { .. }));
    assert!(matches!(play.refused(here), Refused::NotAsked { .. }));
    play.all_good().facts.occupants.insert(release_id(OLDER), true);
    play.says(|act| Command::Promote { act, to: None });
    let waiting = at(&play, "t");
    assert_eq!(play.refused(waiting), Refused::OtherStage { given: word("t"), is: "about to enter t".into() });
}
