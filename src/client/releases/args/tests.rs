//! What is taken, and what is not.

use super::*;
use crate::client::args::Command;

#[derive(Debug, clap::Parser)]
#[command(version, propagate_version = true)]
struct Whole {
    #[command(subcommand)]
    command: Command,
}

const ID: &str = "01GZEC5GJHFKWMK4Z5A1NM9DPF";

fn parse(line: &str) -> Result<Command, clap::Error> {
    let words = line.split_whitespace().map(|word| if word == "ID" { ID } else { word });
    <Whole as clap::Parser>::try_parse_from(std::iter::once("lockstep").chain(words)).map(|it| it.command)
}

#[test]
fn the_definition_is_consistent() {
    <Whole as clap::CommandFactory>::command().debug_assert();
}

#[test]
fn a_release_is_named_service_by_service() {
    let line = "release create --pipeline foo --service foobar-backend=0.22.3.rc --service web=1 --reference web=r/w:1=x \
                --digest web=sha256:00 --meta notes=a=b --initial -f";
    let Ok(Command::Release(Release::Create(it))) = parse(line) else { panic!("another command") };
    let word = |text: &str| text.parse::<Word>().expect("a name");
    assert_eq!(it.services, [(word("foobar-backend"), "0.22.3.rc".into()), (word("web"), "1".into())]);
    assert_eq!(it.references, [(word("web"), "r/w:1=x".into())]);
    assert_eq!(it.metas, [(word("notes"), "a=b".into())]);
    assert!(it.initial && it.follow);
}

#[test]
fn what_is_right_is_taken() {
    for line in [
        "release list --state rolled_back --product p --service s --version 1.2 --stage dev --ready --all -n 5",
        "release show ID --json",
        "release report ID --stage dev --result inconclusive --link https://x --status s --comment c --log -",
        "release log ID sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        "release pending ci --wait 60s --json",
        "release approve ID",
        "release withdraw ID --reason r",
        "release promote ID --to prod",
        "release decide ID accepted_with_warnings",
        "release reject ID --reason r",
        "release retry ID",
        "release bypass ID --reason r",
        "release rollback ID --reason r",
        "release lift ID --reason r",
        "release events ID -f --json --after 1700000000000-0",
        "release events ID --after now",
        "catalogue --product p --version 1 --ready --json",
        "reporters set ci --product a --product b",
        "reporters list --json",
        "reporters remove ci --reason r",
    ] {
        assert!(parse(line).is_ok(), "{line}: {:?}", parse(line));
    }
}

#[test]
fn what_is_wrong_is_found_before_anything_is_sent() {
    for line in [
        "release",
        "release create --pipeline foo",
        "release create --service a=1",
        "release create --pipeline foo --service a",
        "release create --pipeline foo --service a=",
        "release create --pipeline foo --service ../a=1",
        "release create --pipeline foo --service a=1 --meta x",
        "release create --pipeline foo --service a=1 --json --follow",
        "release create --pipeline foo --service a=1 --stage=",
        "release list --state done",
        "release list -n 0",
        "release show x",
        "release show",
        "release report ID --result pass",
        "release report ID --stage dev --result good",
        "release log ID xyz",
        "release pending",
        "release pending ci --wait 5",
        "release decide ID",
        "release decide ID good",
        "release reject ID",
        "release bypass ID",
        "release rollback ID --reason=",
        "release lift ID",
        "release events ID --after yesterday",
        "reporters set ci",
        "reporters set a/b --product p",
        "catalogue p",
    ] {
        assert_eq!(parse(line).expect_err(line).exit_code(), 2, "{line}");
    }
}

#[test]
fn every_state_is_one_of_the_dispatchers() {
    for state in STATES {
        let word = serde_json::to_value(state).expect("JSON");
        assert_eq!(word, state.word());
    }
}
