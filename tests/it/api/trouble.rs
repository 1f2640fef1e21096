//! An engine in trouble: what is lost by it is said, and nothing stays stuck.

use super::*;
use crate::support::puppet::Faults;

impl Service {
    async fn unlock(&self, inventory: &str, body: &Value) -> Answer {
        self.call(Ask::new("DELETE", &format!("/api/v1/locks/{inventory}")).token(OPERATOR).json(body)).await
    }

    async fn text_of(&self, job: &str) -> String {
        self.call(Ask::get(&format!("/api/v1/jobs/{job}/output")).token(OPERATOR)).await.text().to_owned()
    }
}

#[tokio::test]
async fn a_log_that_stays_unreadable_holds_up_no_end_and_is_announced() {
    let service = Service::start().await;
    let job = service.running("one").await;
    service.engine.print("i-one", "begun\n");
    service.printed(&job, 6).await;
    service.engine.trouble(Faults { logs: true, ..Faults::default() });
    // A second dispatcher's look, or a restart, begins with a log that cannot be opened.
    let other = service.running("two").await;
    service.engine.end("i-two", 3);
    let ended = service.reaches(&other, "finished").await;
    assert_eq!((&ended["outcome"], &ended["exit_code"]), (&json!("failed"), &json!(3)));
    assert!(service.text_of(&other).await.contains("the rest of the output is missing"));
    // Nor does it keep a job from being canceled.
    service.engine.trouble(Faults::default());
    let third = service.running("two").await;
    service.engine.trouble(Faults { logs: true, ..Faults::default() });
    service.call(Ask::post(&format!("/api/v1/jobs/{third}/cancel")).app("two")).await;
    assert_eq!(service.reaches(&third, "finished").await["outcome"], "canceled");
    service.engine.trouble(Faults::default());
    let ended = service.end("one", &job, 0).await;
    assert_eq!(ended["outcome"], "succeeded");
    assert_eq!(service.text_of(&job).await, "begun\n");
    service.stop().await;
}

#[tokio::test]
async fn a_container_that_cannot_be_removed_holds_up_nobody() {
    let service = Service::start().await;
    service.engine.trouble(Faults { removal: true, ..Faults::default() });
    for _ in 0..2 {
        let job = service.running("one").await;
        assert_eq!(service.end("one", &job, 0).await["outcome"], "succeeded");
    }
    assert_eq!(service.call(Ask::get("/readyz")).await.status, StatusCode::OK);
    service.engine.trouble(Faults::default());
    service.stop().await;
}

#[tokio::test]
async fn a_job_on_an_engine_that_is_gone_for_good_is_given_up_on_an_operators_word() {
    let service = Service::start().await;
    let job = service.running("one").await;
    service.engine.trouble(Faults { other: true, logs: true, ..Faults::default() });
    let why = |force: bool, engine_gone: bool| json!({"reason": "moved", "force": force, "engine_gone": engine_gone});
    assert_eq!(service.unlock("i-one", &why(true, false)).await.problem(), is(503, "unavailable"));
    assert_eq!(service.unlock("i-one", &why(false, true)).await.problem(), is(503, "unavailable"));
    let freed = service.unlock("i-one", &why(true, true)).await;
    assert_eq!((freed.status, &freed.json()["job_id"]), (StatusCode::OK, &json!(job)), "{freed:?}");
    assert_eq!(service.reaches(&job, "finished").await["outcome"], "lost");
    assert_eq!(service.call(Ask::get("/api/v1/locks").token(OPERATOR)).await.json(), json!({"locks": []}));
    service.stop().await;
}

#[tokio::test]
async fn readiness_says_when_the_reconciler_comes_to_nothing() {
    let service = Service::start().await;
    service.engine.trouble(Faults { silent: true, ..Faults::default() });
    let said = eventually("readiness says so", async || {
        let answer = service.call(Ask::get("/readyz")).await;
        (answer.status == StatusCode::SERVICE_UNAVAILABLE)
            .then(|| (answer.json(), answer.header("retry-after").to_owned()))
    })
    .await;
    let ready = json!({"ready": false, "redis": "ok", "engine": "ok", "reconciler": "unavailable"});
    assert_eq!(said, (ready, "2".to_owned()));
    service.stop().await;
}
