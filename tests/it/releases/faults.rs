//! Releases while dispatchers and Redis die: no step done twice, none forgotten.

use lockstep::store::{RELEASES_PAGE, ReleaseFilter};

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

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_of_another_holds_a_release_up_and_does_not_stop_it() {
    let here = Installation::new().await;
    let one = here.start("one").await;
    let first = one.create("foo", &[("backend", "1")]).await;
    here.engine.exit(&here.engine.begun("i-app-b").await, 0);
    here.engine.exit(&here.engine.begun("i-app-t").await, 1);
    one.stands(first, Standing::Failed).await;
    // Neither the release whose place it takes, nor what is to be put back, is taken for nothing.
    let occupant = key(&format!("release:{first}"));
    let json: String = here.ask("HGET", &[&occupant, "json"]).await;
    let there: String = here.ask("HGET", &[&key("there"), "app-b"]).await;
    let () = here.ask("HSET", &[&occupant, "json", "nonsense"]).await;
    let () = here.ask("HSET", &[&key("there"), "app-b", "nonsense"]).await;
    let id = one.create("foo", &[("backend", "2")]).await;
    assert_eq!(one.standing(id).await, Standing::Entering);
    let due = async || here.ask::<Option<f64>>("ZSCORE", &[&key("releases:due"), &id.to_string()]).await;
    let at = due().await.expect("it is looked at");
    eventually("its time has come", async || (one.store().now_ms().await.ok()? as f64 > at + 500.0).then_some(()))
        .await;
    assert_eq!((one.standing(id).await, due().await), (Standing::Entering, Some(at)), "it is looked at again");
    let () = here.ask("HSET", &[&occupant, "json", &json]).await;
    let () = here.ask("HSET", &[&key("there"), "app-b", &there]).await;
    let backend = here.engine.begun("i-app-b").await;
    assert_eq!(variables(&here, &backend)["previous"]["version"], "1");
    assert_eq!(one.release(first).await.superseded_by, Some(id));
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_hears_of_the_end_of_a_job_whose_record_was_made_anew() {
    let here = Installation::new().await;
    let one = here.start("one").await;
    let id = one.create("foo", &[("backend", "2"), ("frontend", "3")]).await;
    let (backend, frontend) = (here.engine.begun("i-app-b").await, here.engine.begun("i-app-f").await);
    let jobs = one.release(id).await.busy_jobs();
    // Of one a part is left, of the other nothing.
    let () = here.ask("HSET", &[&key(&format!("job:{}", jobs[0])), "lease", "nonsense"]).await;
    let () = here.ask("DEL", &[&key(&format!("job:{}", jobs[1]))]).await;
    let () = here.ask("SET", &[&key(&format!("job:{}", jobs[1])), "nonsense"]).await;
    for job in &jobs {
        let of = async || one.store().record(*job).await.ok()?.and_then(|record| record.release);
        assert_eq!(eventually("its record is made anew", of).await, id);
    }
    here.engine.exit(&backend, 0);
    here.engine.exit(&frontend, 0);
    here.engine.begun("i-app-t").await;
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_cannot_be_read_keeps_nobody_from_a_lock() {
    let here = Installation::new().await;
    let one = here.start("one").await;
    one.deploy("app-f").await;
    let held = here.engine.begun("i-app-f").await;
    let id = one.create("foo", &[("backend", "2"), ("frontend", "3")]).await;
    let later = one.deploy("app-f").await;
    let () = here.ask("HSET", &[&key(&format!("release:{id}")), "json", "nonsense"]).await;
    here.engine.exit(&held, 0);
    eventually("it is the turn of who came later", async || {
        let running = here.engine.running();
        running.iter().any(|container| here.engine.spec(container).labels.job == later).then_some(())
    })
    .await;
    let due = here.ask::<Option<f64>>("ZSCORE", &[&key("releases:due"), &id.to_string()]).await;
    assert_eq!(due, None, "it is left as it is");
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_kept_as_long_as_its_release() {
    let here = Installation::new().await;
    let one = here.start("one").await;
    let id = one.create("checked", &[("product", "1")]).await;
    let logs = async |id: ReleaseId| here.ask::<i64>("PTTL", &[&key(&format!("release_logs:{id}"))]).await;
    one.store().keep_log(id, "d1", b"one").await.expect("Redis answers");
    assert_eq!((logs(id).await, one.store().log(id, "d1").await.expect("Redis answers")), (-1, Some(b"one".to_vec())));
    let late = one.create("checked", &[("product", "2")]).await;
    one.says(late, |act| Command::Reject { act }).await;
    one.store().keep_log(late, "d2", b"two").await.expect("Redis answers");
    assert!(logs(late).await > 0);
    let unknown: ReleaseId = "01GZEC5GJHFKWMK4Z5A1NM9DPF".parse().expect("an id");
    one.store().keep_log(unknown, "d3", b"three").await.expect("Redis answers");
    assert_eq!(logs(unknown).await, -2);
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn releases_are_looked_at_piece_by_piece_whatever_fits() {
    let here = Installation::new().await;
    let one = here.start("one").await;
    let mut add = vec![key("releases")];
    for number in 0..RELEASES_PAGE as u64 + 1 {
        add.extend(["0".to_owned(), ReleaseId::new(number + 1, 0).to_string()]);
    }
    let () = here.ask("ZADD", &add.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut filter = ReleaseFilter { active: false, products: Some([word("none")].into()), before: None };
    let mut ends = Vec::new();
    loop {
        let (found, next) = one.store().releases(&filter).await.expect("Redis answers");
        assert!(found.is_empty());
        let Some(next) = next else { break };
        ends.push(next.ms());
        filter.before = Some(next);
    }
    assert_eq!(ends, [2, 1], "each call looks at one piece");
    one.stop().await;
}
