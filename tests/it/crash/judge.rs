//! What the promises allow of a run that is over.

use serde_json::Value;

use super::run::Run;
use super::story::{Accepted, Scenario};

/// What may stand in Redis when nothing lives, beside what is kept of the jobs: of a key that ends with a colon, the beginning.
const AT_REST: [&str; 12] = [
    "state",
    "jobs",
    "jobs:",
    "fences",
    "lastok:",
    "apps",
    "apps_version",
    "idem:",
    "dispatcher:",
    "audit",
    "events",
    "deliverer",
];
/// What is kept of a job.
const OF_A_JOB: [&str; 4] = ["job", "brief", "out", "progress"];

/// Compares what the API says, what stands in Redis, and what the containers did. `shown` are the jobs as the API shows them.
pub(super) async fn judge(
    scenario: Scenario,
    run: &Run,
    jobs: &[Accepted],
    shown: &[Value],
    broken: &mut Vec<String>,
) -> Result<(), String> {
    let ids: Vec<_> = jobs.iter().map(|job| job.id.as_str()).collect();
    let listed = run.shown("/api/v1/jobs").await?;
    let listed = listed["jobs"].as_array().into_iter().flatten().filter_map(|it| it["job_id"].as_str());
    // The newest comes first.
    let listed: Vec<_> = listed.collect::<Vec<_>>().into_iter().rev().collect();
    if listed != ids {
        broken.push(format!("accepted {ids:?}, listed {listed:?}"));
    }

    let marks = run.marks();
    let marks: Vec<Vec<&str>> = marks.lines().map(|line| line.split(' ').collect()).collect();
    let mut fence = 0_u64;
    let mut started = Vec::new();
    for mark in &marks {
        match mark[..] {
            ["start", job, its] => {
                started.push(job);
                let its = its.parse().unwrap_or(0);
                if its <= fence {
                    broken.push(format!("{job} started with fence {its} after {fence}"));
                }
                fence = its;
            }
            ["end", _, _] => {}
            _ => broken.push(format!("two containers at work: {mark:?}")),
        }
    }
    // Each once, none that was not accepted, in the order of the queue.
    if started != ids.iter().copied().filter(|id| started.contains(id)).collect::<Vec<_>>() {
        broken.push(format!("accepted {ids:?}, started {started:?}"));
    }

    for (job, shown) in jobs.iter().zip(shown) {
        let id = job.id.as_str();
        let marked = |what: &str| marks.iter().find(|mark| mark[..2] == [what, id]).map(|mark| mark[2]);
        let (start, end) = (marked("start"), marked("end"));
        let outcome = shown["outcome"].as_str().unwrap_or_default();
        let right = match (outcome, end) {
            // The exit code decides, unless a cancel was recorded first.
            ("succeeded", Some("0")) => !job.canceled && shown["exit_code"] == 0,
            ("canceled", Some(_)) => scenario == Scenario::Cancel && job.canceled,
            ("lost", None) => scenario == Scenario::Rebuild && start.is_none(),
            _ => false,
        };
        if !right {
            broken.push(format!("{id} is {outcome:?}, its container ended with {end:?}: {shown}"));
        }
        if let Some(its) = start
            && shown["fence"].as_u64() != its.parse().ok()
        {
            broken.push(format!("{id} ran with fence {its}: {shown}"));
        }
        let (served, said) = (run.text(&format!("/api/v1/jobs/{id}/output")).await?, run.said(id));
        if served != said {
            broken.push(format!("{id} printed {said:?}, served is {served:?}"));
        }
    }

    // Every state was told once, the outcome as well, and last.
    let told = run.shown("/api/v1/events?limit=1000").await?;
    let told = told.as_array().map_or(&[][..], Vec::as_slice);
    for (job, shown) in jobs.iter().zip(shown) {
        let of_job = told.iter().filter(|event| event["subject"] == job.id);
        let states: Vec<_> = of_job.map(|event| &event["data"]["customData"]["state"]).collect();
        let twice = states.iter().enumerate().any(|(at, state)| states[..at].contains(state));
        if twice || states.last() != Some(&&shown["outcome"]) {
            broken.push(format!("{} was told as {states:?}", job.id));
        }
    }

    let (keys, last_fence) = run.left_in_redis().await;
    for key in keys {
        let allowed = AT_REST.iter().any(|name| key == *name || name.ends_with(':') && key.starts_with(name));
        let kept = key.split_once(':').is_some_and(|(kind, job)| OF_A_JOB.contains(&kind) && ids.contains(&job));
        if !allowed && !kept {
            broken.push(format!("{key} is left in Redis"));
        }
    }
    if last_fence < fence {
        broken.push(format!("the last fence is {last_fence} in Redis, a container ran with {fence}"));
    }
    if !run.last_lives() {
        broken.push("the dispatcher has ended by itself".to_owned());
    }
    Ok(())
}
