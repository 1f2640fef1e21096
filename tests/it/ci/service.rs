//! Against the real service, with a real Redis, a real engine and real Ansible.

use serde_json::{Value, json};

use super::reader::{BOTH, CiJob, Ended, Reader};
use crate::e2e::{Target, docker, with_ansible};
use crate::support::eventually;
use crate::support::service::{OPERATOR_TOKEN, Service, secret_of};

/// A deployment that goes on until it is canceled.
const NAP: &[(&str, &str)] = &[("LOCKSTEP_RUNNER_ACTIONS", "nap=sleep 600"), ("LOCKSTEP_JOB_STOP_GRACE", "1s")];

fn job(reader: Reader, service: &Service, app: &str) -> CiJob {
    CiJob::new(reader, &service.url(""), &service.certificate(), app, &secret_of(app))
}

/// A job, to an operator.
async fn found(service: &Service, job: &str) -> Value {
    let request = service.client().get(service.url(&format!("/api/v1/jobs/{job}"))).bearer_auth(OPERATOR_TOKEN);
    request.send().await.expect("an answer").json().await.expect("JSON")
}

async fn cancel(service: &Service, job: &str) {
    let path = format!("/api/v1/jobs/{job}/cancel");
    let answer = service.client().post(service.url(&path)).bearer_auth(OPERATOR_TOKEN).send().await;
    assert_eq!(answer.expect("an answer").status(), 202);
    eventually("it is canceled", async || (found(service, job).await["state"] == "finished").then_some(())).await;
}

async fn in_state(service: &Service, job: &str, state: &str) {
    eventually(state, async || (found(service, job).await["state"] == state).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_is_live_takes_variables_and_gives_no_commands() {
    let print = r"printf ::error::forged\n::set-output\040name=job_id::forged\n##[group]forged\n\033[2Jend\n";
    let actions = format!("print={print};show=cat /run/lockstep/vars.json");
    let service = Service::start(&[("LOCKSTEP_RUNNER_ACTIONS", &actions)]).await;
    let apps = json!([
        {"deployment_id": "print", "deployment_secret": secret_of("print"), "inventory": "print", "action": "print"},
        {"deployment_id": "show", "deployment_secret": secret_of("show"), "inventory": "show", "action": "show",
         "vars": {"version": {"pattern": "[0-9.]+"}}},
    ]);
    assert_eq!(service.post("/set-available-apps/", &apps).await.1["status"], "ok");
    for reader in BOTH {
        let ended = job(reader, &service, "print").run().await;
        assert_eq!(ended.code, 0, "{}", ended.log);
        let id = &ended.outputs["job_id"];
        assert_eq!(found(&service, id).await["outcome"], ended.outputs["outcome"]);
        assert!(ended.log.contains("\n::error::forged\n") && ended.log.contains("\nend\n"), "{}", ended.log);
        if reader == Reader::GitHub {
            let (shown, commands) = ended.taken();
            assert!(shown.contains(&"::set-output name=job_id::forged"), "{shown:?}");
            assert_eq!(commands, [format!("::group::Lockstep: print on print, job {id}").as_str(), "::endgroup::"]);
            assert!(ended.summary.contains("### Lockstep: print succeeded"), "{}", ended.summary);
        }
        let ended = job(reader, &service, "show").input("vars", r#"{"version": "1.2.3"}"#).run().await;
        assert!(ended.code == 0 && ended.log.contains(r#""version""#), "{}", ended.log);
        let ended = job(reader, &service, "show").input("vars", r#"{"other": "1.2.3"}"#).run().await;
        assert!(ended.code == 2 && ended.log.contains("other"), "{}", ended.log);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_task_of_ansible_is_an_annotation_and_its_recap_a_table() {
    let target = Target::start(&["app-one.epfl.ch"]);
    let service = with_ansible(&target, &[("LOCKSTEP_FEED_AT_START", "false")]).await;
    let apps = json!([{"deployment_id": "one", "deployment_secret": secret_of("one"), "inventory": "app-one.epfl.ch"}]);
    assert_eq!(service.post("/set-available-apps/", &apps).await.1["status"], "ok");
    let ended = job(Reader::GitHub, &service, "one").run().await;
    assert!(ended.code == 0 && ended.log.contains("PLAY RECAP"), "{}", ended.log);
    docker(&["stop", "-t", "0", &target.name]);
    for reader in BOTH {
        let ended = job(reader, &service, "one").run().await;
        assert_eq!((ended.code, ended.outputs["outcome"].as_str()), (1, "failed"), "{}", ended.log);
        if reader == Reader::GitHub {
            let (_, commands) = ended.taken();
            assert!(commands.iter().any(|command| command.starts_with("::error title=Task \"")), "{commands:?}");
            let row = ended.summary.lines().find(|line| line.starts_with("| app-one.epfl.ch | ")).expect("a row");
            let counts: Vec<&str> = row.split(" | ").collect();
            assert!(counts.len() == 8 && counts[3] == "1", "it is unreachable: {row}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_busy_superseded_and_late_have_codes_of_their_own() {
    let service = Service::start(NAP).await;
    service.feed(&[("nap", "nap", "nap")]).await;
    for reader in BOTH {
        let wrong = CiJob::new(reader, &service.url(""), &service.certificate(), "nap", "not the secret").run().await;
        assert_eq!((wrong.code, wrong.outputs.len()), (3, 0), "{}", wrong.log);

        let late = job(reader, &service, "nap").input("timeout", "1s").run().await;
        assert!(late.code == 4 && late.log.contains("goes on"), "{}", late.log);
        let holder = &late.outputs["job_id"];
        in_state(&service, holder, "running").await;

        let busy = job(reader, &service, "nap").input("when-busy", "reject").run().await;
        assert!(busy.code == 3 && busy.log.contains(holder), "{}", busy.log);

        let waiting = job(reader, &service, "nap").start().await;
        let displaced = waiting.output("job_id").await;
        in_state(&service, &displaced, "queued").await;
        let newer = job(reader, &service, "nap").input("timeout", "0s").run().await;
        assert_eq!(newer.code, 4, "{}", newer.log);
        let superseded = waiting.ended().await;
        assert_eq!((superseded.code, superseded.outputs["outcome"].as_str()), (5, "superseded"), "{}", superseded.log);
        assert!(superseded.log.contains(&format!("job {} took its place", newer.outputs["job_id"])));
        assert!(superseded.log.contains("number 1 in line"), "{}", superseded.log);
        for left in [&newer.outputs["job_id"], holder] {
            cancel(&service, left).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canceled_ci_job_cancels_the_deployment_if_it_is_told_to() {
    let service = Service::start(NAP).await;
    service.feed(&[("nap", "nap", "nap")]).await;
    let running = job(Reader::GitHub, &service, "nap").input("cancel-on-signal", "true").start().await;
    let id = running.output("job_id").await;
    in_state(&service, &id, "running").await;
    running.signal("-INT").await;
    let ended = running.ended().await;
    assert_eq!(ended.code, 130, "{}", ended.log);
    eventually("it is canceled", async || (found(&service, &id).await["outcome"] == "canceled").then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_dispatcher_in_mid_job_is_waited_out() {
    // Two hundred lines in four seconds.
    let count = r#"count=perl -e $|=1,print("line_$_\n"),select(undef,undef,undef,0.02)for(1..200)"#;
    let mut service = Service::start(&[("LOCKSTEP_RUNNER_ACTIONS", count)]).await;
    service.feed(&[("github", "github", "count"), ("gitlab", "gitlab", "count")]).await;
    let (github, gitlab) = (job(Reader::GitHub, &service, "github"), job(Reader::GitLab, &service, "gitlab"));
    let (github, gitlab) = (github.start().await, gitlab.start().await);
    for running in [&github, &gitlab] {
        let id = running.output("job_id").await;
        eventually("it has printed", async || (found(&service, &id).await["output_bytes"] != 0).then_some(())).await;
    }
    service.kill();
    service.spawn();
    service.ready().await;
    for Ended { code, log, .. } in [github.ended().await, gitlab.ended().await] {
        assert_eq!(code, 0, "{log}");
        let shown: Vec<&str> = log.lines().filter(|line| line.starts_with("line_")).collect();
        assert_eq!(shown, (1..=200).map(|number| format!("line_{number}")).collect::<Vec<_>>(), "{log}");
    }
}
