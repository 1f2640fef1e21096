//! Releases while dispatchers and Redis die: no step done twice, none forgotten.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn another_dispatcher_carries_on_where_one_has_died() {
    let here = Installation::new().await;
    let one = here.start("one").await;
    let id = one.create("foo", &[("backend", "2"), ("frontend", "3")]).await;
    let (backend, frontend) = (here.engine.begun("i-app-b").await, here.engine.begun("i-app-f").await);
    one.crash();
    here.engine.exit(&backend, 0);
    here.engine.exit(&frontend, 0);
    let two = here.start("two").await;
    let tests = here.engine.begun("i-app-t").await;
    here.engine.exit(&tests, 0);
    two.enters(id, "production").await;
    let told = two.told(id).await;
    for once in ["deploy.started", "tests.started", "promote.finished"] {
        let production = usize::from(once == "deploy.started" && told.iter().filter(|what| *what == once).count() == 2);
        assert_eq!(told.iter().filter(|what| *what == once).count() - production, 1, "{once}: {told:?}");
    }
    assert_eq!(here.engine.violations(), Vec::<String>::new());
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_dispatchers_do_nothing_twice() {
    let here = Installation::new().await;
    let (one, two) = (here.start("one").await, here.start("two").await);
    let id = one.create("foo", &[("backend", "2"), ("frontend", "3")]).await;
    for (inventory, left) in [("i-app-b", 0), ("i-app-f", 0), ("i-app-t", 0), ("i-prod-b", 0), ("i-prod-f", 0)] {
        let container = here.engine.begun(inventory).await;
        here.engine.exit(&container, left);
    }
    let release = two.stands(id, Standing::Undecided).await;
    let jobs: Vec<_> = release.visits.iter().flat_map(|visit| &visit.steps).flat_map(|step| &step.jobs).collect();
    assert_eq!(jobs.len(), 5, "{jobs:?}");
    assert_eq!(two.told(id).await.iter().filter(|what| what.ends_with(".finished")).count(), 6);
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_goes_on_over_a_redis_that_was_killed() {
    let mut here = Installation::new().await;
    let one = here.start("one").await;
    let id = one.create("foo", &[("backend", "2"), ("frontend", "3")]).await;
    let (backend, frontend) = (here.engine.begun("i-app-b").await, here.engine.begun("i-app-f").await);
    here.redis.kill();
    here.engine.exit(&backend, 0);
    here.engine.exit(&frontend, 0);
    here.redis.restart().await;
    let tests = here.engine.begun("i-app-t").await;
    here.engine.exit(&tests, 0);
    one.enters(id, "production").await;
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_in_an_older_redis_is_suspended_until_somebody_has_looked() {
    let mut here = Installation::new().await;
    let one = here.start("one").await;
    let id = one.create("foo", &[("backend", "2"), ("frontend", "3")]).await;
    let (backend, frontend) = (here.engine.begun("i-app-b").await, here.engine.begun("i-app-f").await);
    here.engine.exit(&backend, 0);
    here.redis.kill();
    let aside = here.redis.save();
    here.redis.restart().await;
    here.engine.exit(&frontend, 0);
    here.engine.begun("i-app-t").await;
    here.redis.restart_on(&aside).await;
    let release = one.stands(id, Standing::Suspended).await;
    assert!(release.suspended.expect("why").contains("older"));
    one.dispatcher.change_release(id, |at_ms| Command::Lift { act: act("ada", at_ms) }).await.expect("lifted");
    assert_ne!(one.standing(id).await, Standing::Suspended);
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_is_gone_with_redis_is_unknown_and_its_jobs_reach_their_end() {
    let mut here = Installation::new().await;
    let one = here.start("one").await;
    let id = one.create("foo", &[("backend", "2")]).await;
    let job = one.release(id).await.busy_jobs()[0];
    let backend = here.engine.begun("i-app-b").await;
    here.redis.restart_empty().await;
    here.engine.exit(&backend, 0);
    eventually("the job is over", async || {
        one.store().record(job).await.ok()?.filter(|record| record.state.is_ended())
    })
    .await;
    assert!(matches!(one.dispatcher.seen_release(id).await, Err(ReleaseRefusal::Unknown)));
    one.stop().await;
}
