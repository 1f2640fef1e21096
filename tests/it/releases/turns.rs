//! Who enters a stage when, who holds it, and who is taken along.

use super::*;

/// A stage that deploys and looks, and one that deploys.
const LOOKED_AT: &str = "\
pipeline: looked-at
product: looked-at
services: {web: {first: app-b, second: prod-b}}
stages:
  - stage: first
    steps:
      - {name: deploy, deploy: direct}
      - {name: look, check: [ci-a], deadline: 1h}
    promote: auto
  - stage: second
    steps:
      - {name: deploy, deploy: direct}
    promote: manual
";

/// Any number of releases can be looked at; one is live.
const GATE: &str = "\
pipeline: gate
product: gate
services: {web: {live: app-b}}
stages:
  - stage: look
    steps:
      - {name: look, check: [ci-a], deadline: 1h}
    promote: auto
  - stage: live
    steps:
      - {name: deploy, deploy: direct}
    promote: manual
";

/// What is tried alone goes on together.
const COUPLE: &str = "\
pipeline: couple
product: couple
services:
  backend: {dev: app-b}
  frontend: {dev: app-f}
stages:
  - stage: dev
    steps:
      - {name: deploy, deploy: direct}
    promote: manual
  - stage: certification
    entry: true
    steps:
      - {name: sign, approval: [sysadmins]}
    promote: manual
";

impl Running {
    async fn superseded(&self, id: ReleaseId) -> Option<ReleaseId> {
        self.release(id).await.superseded_by
    }

    /// A release of the gate that is good, and goes on if it can.
    async fn good(&self, version: &str) -> ReleaseId {
        let id = self.create("gate", &[("web", version)]).await;
        self.report(id, "ci-a", "look", Finding::Pass).await.expect("taken");
        id
    }

    /// A release that went live and was rolled back, which holds automation there.
    async fn rolled_back(&self, here: &Installation, version: &str) -> ReleaseId {
        let id = self.good(version).await;
        self.roll_back(here, id).await;
        id
    }

    async fn roll_back(&self, here: &Installation, id: ReleaseId) {
        here.engine.exit(&here.engine.begun("i-app-b").await, 0);
        self.stands(id, Standing::Undecided).await;
        self.says(id, |act| Command::RollBack { act }).await;
        here.engine.exit(&here.engine.begun("i-app-b").await, 0);
        self.stands(id, Standing::RolledBack).await;
    }

    async fn waits_for(&self, id: ReleaseId) -> String {
        let seen = self.dispatcher.seen_release(id).await.expect("a release");
        seen.release.waits_for(&seen.pipeline).0
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_comes_again_leaves_the_release_that_it_has_made_as_it_is() {
    let here = Installation::new().await;
    let one = here.start("one").await;
    one.record(LOOKED_AT).await;
    let ask = async |version| one.try_create("looked-at", None, &[("web", version)], Some("key")).await;
    let blocker = one.deploy("app-b").await;
    let container = here.engine.begun("i-app-b").await;
    let id = ask("1").await.expect("made").id;
    let again = async |standing| {
        assert_eq!(ask("1").await.expect("made before").id, id);
        assert!(matches!(ask("2").await, Err(ReleaseRefusal::KeyReused)));
        assert_eq!((one.superseded(id).await, one.standing(id).await), (None, standing));
    };
    // While it waits for a lock of another's job,
    assert!(one.waits_for(id).await.contains(&blocker.to_string()));
    again(Standing::Working).await;
    // and when it is deployed and looked at.
    here.engine.exit(&container, 0);
    here.engine.exit(&here.engine.begun("i-app-b").await, 0);
    one.stands(id, Standing::Waiting).await;
    again(Standing::Waiting).await;
    let all: i64 = here.ask("ZCARD", &[&key("releases")]).await;
    assert_eq!(all, 1, "none was made");
    let lines = one.store().audit_lines(None, 10).await.expect("Redis answers");
    let lines: Vec<_> = lines.iter().map(|line| (line.by.as_str(), line.what.as_str(), line.about.as_str())).collect();
    assert_eq!(lines, [("tim", "make-release", "looked-at: web 1")]);
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_those_that_a_lift_sets_free_at_once_one_is_in_the_stage_at_a_time() {
    let here = Installation::new().await;
    let one = here.start("one").await;
    one.record(GATE).await;
    let holder = one.rolled_back(&here, "0").await;
    let mut waiting = Vec::new();
    for version in 1..=8 {
        waiting.push(one.good(&version.to_string()).await);
    }
    let newest = *waiting.last().expect("some");
    for id in &waiting {
        assert_eq!(one.standing(*id).await, Standing::Ready);
        assert!(one.waits_for(*id).await.contains(&format!("lift of release {holder}")));
    }
    one.says(holder, |act| Command::Lift { act }).await;
    // Whoever comes first is let go live; the newest is there in the end, and all others have given way.
    eventually("the newest is live, alone", async || {
        for container in here.engine.running() {
            here.engine.exit(&container, 0);
        }
        let mut left = Vec::new();
        for id in &waiting {
            if one.superseded(*id).await.is_none() {
                left.push((*id, one.standing(*id).await));
            }
        }
        (left == [(newest, Standing::Undecided)]).then_some(())
    })
    .await;
    // Nobody deployed over the one that had read that it is alone.
    let mut live: Vec<(u64, u64)> = Vec::new();
    for id in &waiting {
        let release = one.release(*id).await;
        let visit = release.visits.into_iter().find(|visit| visit.stage == word("live"));
        live.extend(visit.map(|visit| (visit.act.at_ms, visit.steps[0].jobs.len() as u64)));
    }
    assert!(live.iter().all(|(_, jobs)| *jobs == 1), "who enters deploys once: {live:?}");
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_lasts_until_it_is_lifted_and_so_does_the_release_that_holds() {
    let here = Installation::new().await;
    let one = here.start("one").await;
    one.record(GATE).await;
    let first = one.rolled_back(&here, "1").await;
    let kept = async |id: ReleaseId| here.ask::<i64>("PTTL", &[&key(&format!("release:{id}"))]).await;
    let waiting = one.good("2").await;
    // One that is sent there by hand supersedes the one that holds, and is rolled back too.
    let second = one.good("3").await;
    one.says(second, |act| Command::Promote { act, to: None }).await;
    one.roll_back(&here, second).await;
    assert_eq!(one.superseded(first).await, Some(second));
    one.says(second, |act| Command::Reject { act }).await;
    for id in [first, second] {
        assert!(one.release(id).await.is_over());
        assert_eq!(kept(id).await, -1, "it is kept as long as it holds");
    }
    assert!(one.waits_for(waiting).await.contains("which holds automation in the next stage"));
    one.says(second, |act| Command::Lift { act }).await;
    assert!(kept(second).await > 0);
    eventually("the other one still holds, and is named", async || {
        one.waits_for(waiting).await.contains(&first.to_string()).then_some(())
    })
    .await;
    assert_eq!(one.standing(waiting).await, Standing::Ready);
    one.says(first, |act| Command::Lift { act }).await;
    assert!(kept(first).await > 0);
    here.engine.begun("i-app-b").await;
    assert_eq!(one.standing(waiting).await, Standing::Working);
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_waits_is_looked_at_and_not_written() {
    let here = Installation::new().await;
    let one = here.start("one").await;
    one.record(GATE).await;
    one.good("1").await;
    here.engine.begun("i-app-b").await;
    let id = one.good("2").await;
    assert_eq!(one.standing(id).await, Standing::Entering);
    let revision = async || here.ask::<u64>("HGET", &[&key(&format!("release:{id}")), "revision"]).await;
    let due = async || here.ask::<Option<f64>>("ZSCORE", &[&key("releases:due"), &id.to_string()]).await;
    let (written, mut looked) = (revision().await, due().await);
    for _ in 0..2 {
        looked = Some(eventually("it is looked at", async || due().await.filter(|at| Some(*at) > looked)).await);
    }
    assert_eq!(revision().await, written);
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_rests_is_taken_along_whatever_is_wrong_with_another() {
    let here = Installation::new().await;
    let one = here.start("one").await;
    one.record(COUPLE).await;
    let backend = one.create("couple", &[("backend", "1")]).await;
    let frontend = one.create("couple", &[("frontend", "1")]).await;
    let other = one.create("couple", &[("frontend", "2")]).await;
    for inventory in ["i-app-b", "i-app-f"] {
        here.engine.exit(&here.engine.begun(inventory).await, 0);
    }
    one.stands(backend, Standing::Ready).await;
    one.stands(frontend, Standing::Superseded).await;
    // In the end the newer one is there alone.
    here.engine.exit(&here.engine.begun("i-app-f").await, 0);
    one.stands(other, Standing::Ready).await;
    let there: String = here.ask("HGET", &[&key("there"), "app-f"]).await;
    let () = here.ask("HSET", &[&key("there"), "app-f", "nonsense"]).await;
    let services = [("backend", "1"), ("frontend", "2")];
    let ask = async || one.try_create("couple", Some("certification"), &services, Some("key")).await.expect("made").id;
    let both = ask().await;
    assert_eq!((one.superseded(backend).await, one.superseded(other).await), (Some(both), None));
    // A request that comes again makes good what was missed.
    let () = here.ask("HSET", &[&key("there"), "app-f", &there]).await;
    assert_eq!(ask().await, both);
    assert_eq!(one.superseded(other).await, Some(both));
    one.stop().await;
}
