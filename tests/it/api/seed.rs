//! The endpoints of existing clients: form, words and statuses, key by key.

use futures::StreamExt as _;
use lockstep::config::FinalStatus;

use super::*;

fn credentials(id: &str) -> Value {
    json!({"deployment_id": id, "deployment_secret": format!("secret-of-{id}")})
}

fn about(id: &str, job: &str) -> Value {
    json!({"deployment_id": id, "deployment_secret": format!("secret-of-{id}"), "job_id": job})
}

impl Service {
    async fn status(&self, id: &str, job: &str) -> Value {
        let answer = self.call(Ask::post("/job-status/").json(&about(id, job))).await;
        assert_eq!((answer.status.as_u16(), answer.header("content-type")), (200, "application/json"), "{answer:?}");
        answer.json()
    }
}

#[tokio::test]
async fn a_deployment_goes_as_existing_clients_know_it() {
    let service = Service::start().await;
    let answer = service.call(Ask::post("/app-deploy/").json(&credentials("one"))).await;
    assert_eq!((answer.status.as_u16(), answer.header("content-type")), (200, "application/json"));
    let job = answer.json()["job_id"].as_str().expect("an id").to_owned();
    assert_eq!(answer.json(), json!({"job_id": job, "output": "", "status": "starting"}));
    assert!(answer.text().starts_with("{\"job_id\":"), "keys in the known order: {}", answer.text());

    let again = service.call(Ask::post("/app-deploy/").json(&credentials("one"))).await;
    assert_eq!(again.status.as_u16(), 200);
    assert_eq!(again.json(), json!({"error": "App deployment is already running", "status": "error"}));

    service.engine.running("i-one").await;
    service.reaches(&job, "running").await;
    assert_eq!(service.status("one", &job).await, json!({"job_id": job, "output": "", "status": "running"}));
    service.engine.print("i-one", "PLAY [all] é\n\u{1b}[32mok\n");
    service.printed(&job, 22).await;
    let answer = service.status("one", &job).await;
    assert_eq!(answer, json!({"job_id": job, "output": "PLAY [all] é\n\u{1b}[32mok\n", "status": "running"}));

    service.end("one", &job, 0).await;
    assert_eq!(
        service.status("one", &job).await,
        json!({"job_id": job, "outcome": "success", "output": "PLAY [all] é\n\u{1b}[32mok\n", "status": "finished"})
    );
    // Without the slash at the end, with fields that are not known, without a content type.
    let mut body = about("one", &job);
    body["colour"] = json!(["x"]);
    let answer = service.call(Ask::post("/job-status").body(format!(" {body}"))).await;
    assert_eq!(answer.json()["status"], "finished");
    service.stop().await;
}

#[tokio::test]
async fn long_output_is_whole_and_why_a_job_ended_is_said() {
    let service = Service::start().await;
    let job = service.running("one").await;
    // Longer than what is read at a time, and every kind of character on the borders.
    let line = "\u{0}\"é€😀\\\u{1b}[0m\n";
    let text = line.repeat(300_000 / line.len());
    service.engine.print("i-one", &text);
    service.printed(&job, text.len() as u64).await;
    let answer = service.status("one", &job).await;
    assert!(answer["output"] == text.as_str() && answer["status"] == "running");
    assert_eq!(answer["reason"], Value::Null);
    service.call(Ask::post(&format!("/api/v1/jobs/{job}/cancel")).app("one")).await;
    service.reaches(&job, "finished").await;
    let answer = service.status("one", &job).await;
    assert!(answer["output"] == text.as_str(), "the whole output");
    assert_eq!((&answer["outcome"], &answer["reason"]), (&json!("error"), &json!("canceled by app one")));
    service.stop().await;
}

#[tokio::test]
async fn an_answer_that_was_begun_waits_for_redis() {
    let mut service = Service::start().await;
    let job = service.running("one").await;
    let text = "a line of output\n".repeat(20_000);
    service.engine.print("i-one", &text);
    service.printed(&job, text.len() as u64).await;
    let answer = service.send(Ask::post("/job-status/").json(&about("one", &job))).await;
    assert_eq!(answer.status().as_u16(), 200);
    let mut body = answer.into_body().into_data_stream();
    let mut read = body.next().await.expect("a piece").expect("which can be read").to_vec();
    service.redis.kill();
    assert!(tokio::time::timeout(Duration::from_millis(600), body.next()).await.is_err(), "it is not broken off");
    service.redis.restart().await;
    while let Some(piece) = body.next().await {
        read.extend_from_slice(&piece.expect("which can be read"));
    }
    let answer: Value = serde_json::from_slice(&read).expect("a whole answer");
    assert!(answer["output"] == text.as_str(), "the whole output");
    service.stop().await;
}

#[tokio::test]
async fn the_outcome_can_stand_in_place_of_finished() {
    let service = Service::empty(FinalStatus::Outcome).await;
    service.feed(&json!([app("one")])).await;
    let job = service.running("one").await;
    service.end("one", &job, 3).await;
    assert_eq!(
        service.status("one", &job).await,
        json!({"job_id": job, "outcome": "error", "output": "", "status": "error"})
    );
    service.stop().await;
}

#[tokio::test]
async fn refusals_are_200_and_say_no_more_than_they_must() {
    let service = Service::start().await;
    let job = service.running("one").await;
    let refused = |error: &str| json!({"error": error, "status": "error"});
    let refused_with_output = |error: &str| json!({"error": error, "output": "", "status": "error"});
    let no_app = "Unknown deployment_id or wrong deployment_secret";
    for body in [
        json!({"deployment_id": "one", "deployment_secret": "wrong"}),
        json!({"deployment_id": "nobody", "deployment_secret": "secret-of-one"}),
        json!({"deployment_id": "two", "deployment_secret": "secret-of-one"}),
    ] {
        let answer = service.call(Ask::post("/app-deploy/").json(&body)).await;
        assert_eq!((answer.status.as_u16(), answer.json()), (200, refused(no_app)));
        let mut body = body;
        body["job_id"] = json!(job);
        let answer = service.call(Ask::post("/job-status/").json(&body)).await;
        assert_eq!((answer.status.as_u16(), answer.json()), (200, refused_with_output(no_app)));
    }
    // Another app's job is as unknown as one that never was.
    let another = service.status("two", &job).await;
    assert_eq!(another["status"], "error");
    assert_eq!(another, service.status("two", "01GZEC5GJHFKWMK4Z5A1NM9DPF").await);
    assert_eq!(another["output"], "");

    let freeze = json!({"reason": "audit until noon"});
    service.call(Ask::new("PUT", "/api/v1/freezes/i-two").token(OPERATOR).json(&freeze)).await;
    let frozen = service.call(Ask::post("/app-deploy/").json(&credentials("two"))).await;
    assert_eq!(
        (frozen.status.as_u16(), frozen.json()),
        (200, refused("Deployments are frozen by ada: audit until noon"))
    );
    service.stop().await;
}

#[tokio::test]
async fn what_is_not_of_the_right_form_is_4xx_in_the_same_form() {
    let service = Service::start().await;
    let long = "x".repeat(100_000);
    let too_long = json!({"deployment_id": "x".repeat(60_000), "deployment_secret": "s"}).to_string();
    for (body, status, part) in [
        ("", 400, "Send a JSON document"),
        ("deployment_id=one&deployment_secret=secret-of-one", 400, "Send a JSON document"),
        ("{\"deployment_id\":", 400, "Send a JSON document"),
        ("[]", 422, "must be a JSON object"),
        ("{}", 422, "deployment_id is missing"),
        (r#"{"deployment_id":7,"deployment_secret":"s"}"#, 422, "deployment_id must be a string"),
        (r#"{"deployment_id":"../x","deployment_secret":"s"}"#, 422, "must begin with a letter"),
        (r#"{"deployment_id":"-i","deployment_secret":"s"}"#, 422, "must begin with a letter"),
        (r#"{"deployment_id":"a b","deployment_secret":"s"}"#, 422, "not allowed"),
        (r#"{"deployment_id":"a\u0000","deployment_secret":"s"}"#, 422, "not allowed"),
        (too_long.as_str(), 422, "60000 characters"),
        (long.as_str(), 413, "65536 bytes"),
    ] {
        for path in ["/app-deploy/", "/job-status/"] {
            let answer = service.call(Ask::post(path).body(body.to_owned())).await;
            let shown = &body[..body.len().min(60)];
            assert_eq!(answer.status.as_u16(), status, "{path} {shown}: {answer:?}");
            let answer = answer.json();
            assert_eq!(answer["status"], "error");
            assert_eq!(answer.get("output").is_some(), path == "/job-status/", "{path} {shown}");
            // A body that lacks several things is told the first.
            let error = answer["error"].as_str().expect("a text");
            assert!(error.contains(part) || error.contains("job_id is missing"), "{path} {shown}: {error}");
        }
    }
    for job in ["", "x", "01gzec5gjhfkwmk4z5a1nm9dpf", "01GZEC5GJHFKWMK4Z5A1NM9DPFF"] {
        let answer = service.call(Ask::post("/job-status/").json(&about("one", job))).await;
        assert_eq!(answer.status.as_u16(), 422);
        assert!(answer.text().contains("is not a ULID"), "{answer:?}");
    }
    let answer = service.call(Ask::get("/job-status/")).await;
    assert_eq!((answer.status.as_u16(), answer.header("allow")), (405, "POST"));
    assert_eq!((&answer.json()["output"], &answer.json()["status"]), (&json!(""), &json!("error")));
    service.stop().await;
}

#[tokio::test]
async fn a_page_in_a_browser_does_not_use_the_right_of_its_readers_network() {
    let service = Service::start().await;
    for (name, value) in [("origin", "https://elsewhere.example"), ("sec-fetch-site", "cross-site")] {
        let ask = Ask::post("/set-available-apps/?force=true").header(name, value).body("[]");
        let answer = service.call(ask).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["status"]), (200, &json!("error")), "{answer:?}");
    }
    let typed = Ask::get("/get-available-apps/").header("sec-fetch-site", "none");
    assert_eq!(service.call(typed).await.json()["inventory"].as_array().map(Vec::len), Some(3));
    service.stop().await;
}

#[tokio::test]
async fn the_list_of_apps_is_taken_whole_from_who_may_give_it() {
    let service = Service::empty(FinalStatus::Finished).await;
    // Nothing can be said about credentials while there is no list, and asking is not held against anybody.
    for _ in 0..30 {
        let answer = service.call(Ask::post("/app-deploy/").json(&credentials("one"))).await;
        assert_eq!((answer.status.as_u16(), answer.json()["status"].as_str()), (503, Some("error")), "{answer:?}");
        assert_ne!(answer.header("retry-after"), "");
    }
    assert_eq!(service.call(Ask::get("/get-available-apps/")).await.status.as_u16(), 503);

    let outside = [192, 0, 2, 1];
    let set = |ask: Ask, apps: &Value| service.call(ask.json(apps));
    let taken = json!({"status": "ok"});
    let apps = json!([app("one"), app("two"), app("three")]);
    let refused = set(Ask::post("/set-available-apps/").from(outside), &apps).await;
    assert_eq!((refused.status.as_u16(), refused.json()["status"].as_str()), (200, Some("error")));
    // A token that is given must be right, from wherever.
    let refused = set(Ask::post("/set-available-apps/").token("a wrong token"), &apps).await;
    assert_eq!(refused.json()["status"], "error");
    assert_eq!(set(Ask::post("/set-available-apps/").from(outside).token(FEED), &apps).await.json(), taken);
    assert_eq!(set(Ask::post("/set-available-apps").token(OPERATOR).from(outside), &apps).await.json(), taken);

    let available = service.call(Ask::get("/get-available-apps/")).await;
    let entry = |id: &str| json!({"deployment_id": id, "inventory": format!("i-{id}")});
    assert_eq!(available.json(), json!({"inventory": [entry("one"), entry("three"), entry("two")], "status": "ok"}));
    let refused = service.call(Ask::get("/get-available-apps").from(outside)).await;
    assert_eq!((refused.status.as_u16(), refused.json()["status"].as_str()), (200, Some("error")));

    let mut odd = apps.clone();
    odd[0]["colour"] = json!("red");
    let answer = set(Ask::post("/set-available-apps/"), &odd).await.json();
    assert_eq!(answer["status"], "ok");
    assert!(answer["warnings"][0].as_str().is_some_and(|text| text.contains("colour")), "{answer}");

    for (apps, status, part) in [
        (json!({}), 422, "JSON array"),
        (json!([app("one"), app("one")]), 422, "twice"),
        (json!([{"deployment_id": "x"}]), 422, "number 1 of the list: inventory is missing"),
        (json!([]), 200, "?force=true"),
        (json!([app("one")]), 200, "?force=true"),
    ] {
        let answer = set(Ask::post("/set-available-apps/"), &apps).await;
        assert_eq!((answer.status.as_u16(), answer.json()["status"].as_str()), (status, Some("error")), "{apps}");
        assert!(answer.json()["error"].as_str().is_some_and(|text| text.contains(part)), "{answer:?}");
    }
    assert_eq!(service.call(Ask::get("/get-available-apps/")).await.json(), available.json());
    let large = format!("[{}]", " ".repeat(5 << 20));
    let answer = service.call(Ask::post("/set-available-apps/").body(large)).await;
    assert_eq!((answer.status.as_u16(), answer.json()["status"].as_str()), (413, Some("error")));
    assert_eq!(set(Ask::post("/set-available-apps/?force=true"), &json!([app("one")])).await.json(), taken);
    service.stop().await;
}

#[tokio::test]
async fn a_feed_job_gives_the_list_with_its_own_token_while_it_lives() {
    let service = Service::start().await;
    let outside = [192, 0, 2, 1];
    let apps = json!([app("one"), app("two"), app("feeder")]);
    let give = |token: String| service.call(Ask::post("/set-available-apps/").from(outside).token(&token).json(&apps));
    service.running("one").await;
    let token = service.engine.file("i-one", "/run/lockstep/token");
    let answer = give(token).await;
    assert_eq!(
        (answer.status.as_u16(), answer.json()["status"].as_str()),
        (200, Some("error")),
        "not a feed: {answer:?}"
    );

    let job = service.running("feeder").await;
    let token = service.engine.file("i-feeder", "/run/lockstep/token");
    assert_eq!(give(token.clone()).await.json(), json!({"status": "ok"}));
    service.end("feeder", &job, 0).await;
    assert_eq!(give(token).await.json()["status"], "error");
    service.stop().await;
}

#[tokio::test]
async fn redis_out_of_reach_is_503_and_never_a_refusal() {
    let mut service = Service::start().await;
    let job = service.running("one").await;
    service.redis.kill();
    let deploy = service.call(Ask::post("/app-deploy/").json(&credentials("two"))).await;
    assert_eq!((deploy.status.as_u16(), deploy.json()["status"].as_str()), (503, Some("error")), "{deploy:?}");
    let status = service.call(Ask::post("/job-status/").json(&about("one", &job))).await;
    assert_eq!((status.status.as_u16(), &status.json()["output"]), (503, &json!("")));
    assert_ne!(status.header("retry-after"), "");
    let ready = service.call(Ask::get("/readyz")).await;
    assert_eq!((ready.status.as_u16(), &ready.json()["redis"]), (503, &json!("unavailable")));
    assert_eq!(service.call(Ask::get("/healthz")).await.status.as_u16(), 200);
    let metrics = service.call(Ask::get("/metrics")).await;
    assert!(metrics.text().contains("lockstep_redis_up 0\n"), "{}", metrics.text());

    service.redis.restart().await;
    let answer = eventually("the job is known again", async || {
        let answer = service.call(Ask::post("/job-status/").json(&about("one", &job))).await;
        (answer.status == StatusCode::OK).then_some(answer)
    })
    .await;
    assert_eq!(answer.json(), json!({"job_id": job, "output": "", "status": "running"}));
    service.stop().await;
}
