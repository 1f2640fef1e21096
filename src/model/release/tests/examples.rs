//! The pipelines of `examples/`, each played to its decision.

use super::*;

const BRACKETS: &str = include_str!("../../../../examples/brackets.yml");
const KITCHEN: &str = include_str!("../../../../examples/kitchen.yml");
const ROLLOUT: &str = include_str!("../../../../examples/staged-rollout.yml");

#[test]
fn one_service_goes_through_dev_and_is_not_promoted() {
    let mut play = Play::new(BRACKETS, &["foobar-backend"], None);
    play.good("backend-dev").good("foo-functional-tests").good("foo-evaluation").good("foo-release-dev");
    let events = "configuration-change.triggered \
        deploy_direct.triggered deploy_direct.started deploy_direct.finished \
        functional_tests.triggered functional_tests.started functional_tests.finished \
        evaluation.triggered evaluation.started evaluation.finished \
        release.triggered release.started release.finished \
        configuration-change.finished";
    assert_eq!(play.heard(), events);
    assert_eq!((play.standing(), play.there("backend-dev")), (Standing::Ready, Some("2")));
    assert_eq!(play.wait(1_000_000).heard(), "");
}

#[test]
fn a_bracket_goes_through_hardening_and_production_by_itself() {
    let mut play = Play::new(BRACKETS, &["foobar-backend", "foobar-frontend"], Some("hardening"));
    assert_eq!(play.running_apps(), ["backend-hardening", "frontend-hardening"]);
    play.good("frontend-hardening").good("backend-hardening");
    play.good("foo-performance-tests").good("foo-evaluation").good("foo-release-hardening");
    let events = "configuration-change.triggered \
        deploy_blue_green.triggered deploy_blue_green.started deploy_blue_green.finished \
        performance_tests.triggered performance_tests.started performance_tests.finished \
        evaluation.triggered evaluation.started evaluation.finished \
        release.triggered release.started release.finished \
        promote.triggered promote.started promote.finished \
        configuration-change.finished ";
    let next = "configuration-change.triggered deploy_blue_green.triggered deploy_blue_green.started";
    assert_eq!(play.heard(), format!("{events}{next}"));
    play.all_good().good("foo-release-production");
    assert_eq!(play.standing(), Standing::Undecided);
    let verdict = Verdict::AcceptedWithWarnings;
    play.heard();
    let act = play.act("tom");
    play.may(Command::Decide { act, verdict });
    assert_eq!(play.heard(), "accepted_with_warnings");
    assert!(play.release.is_over());
    assert_eq!(play.last_told("accepted_with_warnings").to, BTreeSet::from([word("tim")]));
}

#[test]
fn a_product_is_validated_by_its_vendor_then_by_customers_and_is_certified() {
    let mut play = Play::new(KITCHEN, &["product"], None);
    play.facts.subscribers = BTreeSet::from([word("ci-a"), word("ci-b")]);
    assert_eq!(asked(&play.release), BTreeSet::from([word("vendor-ci")]));
    play.reports("vendor-ci", Finding::Pass);
    assert_eq!(play.release.assigned, Some(word("sysadmins")));
    assert_eq!(asked(&play.release), BTreeSet::from([word("ci-a"), word("ci-b")]));
    play.reports("ci-a", Finding::Pass).heard();
    assert!(!play.release.is_ready_to_deploy(&play.pipeline));
    play.reports("ci-b", Finding::Warning);
    assert_eq!(
        play.heard(),
        "customer_validation.reported customer_validation.finished certification.triggered certification.started \
         certification.requested"
    );
    play.approves("anna", "sysadmins");
    assert!(play.release.is_ready_to_deploy(&play.pipeline));
    assert_eq!(play.last_told("production_deployment.requested").data["action"], "Deploy");
    play.reports("ci-a", Finding::Pass).reports("ci-b", Finding::Pass);
    assert_eq!(play.standing(), Standing::Undecided);
    let act = play.act("anna");
    play.may(Command::Decide { act, verdict: Verdict::Accepted });
    assert!(play.release.is_over() && play.release.is_ready_to_deploy(&play.pipeline));
}

#[test]
fn software_is_carried_from_folder_to_folder_and_tried_by_early_adopters() {
    let mut play = Play::new(ROLLOUT, &["package"], None);
    // The repository fails first, and whoever verifies is told.
    play.reports("repository", Finding::Fail);
    assert_eq!((play.release.assigned.clone(), play.standing()), (Some(word("technical-unit")), Standing::Failed));
    play.may(Command::Retry { act: play.act("manager") });
    assert_eq!(play.release.assigned, Some(word("repository-managers")));
    play.reports("repository", Finding::Pass).may(Command::Approve {
        act: Act { by: Some(word("tanja")), reason: String::new(), at_ms: NOW },
        groups: vec![word("others"), word("technical-unit")],
    });
    play.reports("repository", Finding::Pass);
    play.reports("ea-glite", Finding::Warning).reports("ea-unicore", Finding::Pass);
    assert_eq!(play.standing(), Standing::Ready);
    play.may(Command::Promote { act: play.act("sr"), to: Some(word("grace")) });
    let week = 7 * 24 * 60 * 60 * 1000;
    assert_eq!(due_ms(&play.release, NOW), Some(NOW + week));
    play.wait(week - 1);
    assert_eq!(play.standing(), Standing::Waiting);
    play.wait(1).reports("repository", Finding::Pass).approves("sr", "staged-rollout");
    assert_eq!(play.standing(), Standing::Undecided);
    play.heard();
    play.may(Command::Reject { act: play.act("sr") });
    assert_eq!(play.heard(), "rejected");
    assert!(play.last_told("rejected").to.contains(&word("tim")), "who submitted it is told");
}
