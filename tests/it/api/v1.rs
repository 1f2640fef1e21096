//! v1 for apps: submit, read, list, cancel, report; credentials and their abuse.

use super::*;

#[tokio::test]
async fn a_job_is_accepted_read_and_ended() {
    let service = Service::start().await;
    let answer =
        service.call(Ask::post("/api/v1/apps/one/jobs").app("one").json(&json!({"when_busy": "reject"}))).await;
    let job = answer.json();
    let id = job["job_id"].as_str().expect("an id");
    assert_eq!((answer.status.as_u16(), answer.header("location")), (202, format!("/api/v1/jobs/{id}").as_str()));
    assert_eq!(job["deployment_id"], "one");
    assert_eq!(answer.header("cache-control"), "no-store");

    let busy = service.call(Ask::post("/api/v1/apps/one/jobs").app("one").json(&json!({"when_busy": "reject"}))).await;
    assert_eq!((busy.problem(), &busy.json()["job_id"]), (is(409, "busy"), &json!(id)));
    let waiting = service.call(Ask::post("/api/v1/apps/one/jobs").app("one")).await.json();
    assert_eq!((&waiting["state"], &waiting["queue_position"]), (&json!("queued"), &json!(1)));
    let newer = service.submit("one").await;
    let older = service.reaches(waiting["job_id"].as_str().expect("an id"), "finished").await;
    assert_eq!((&older["outcome"], &older["superseded_by"]), (&json!("superseded"), &json!(newer)));

    service.engine.running("i-one").await;
    service.reaches(id, "running").await;
    let ended = service.end("one", id, 4).await;
    assert_eq!(
        (&ended["outcome"], &ended["exit_code"], &ended["image_digest"]),
        (&json!("failed"), &json!(4), &json!("sha256:0123"))
    );
    assert!(ended["fence"].as_u64().is_some_and(|fence| fence > 0));
    for time in ["created_at", "started_at", "ended_at"] {
        assert!(ended[time].as_str().is_some_and(|text| text.len() == 24 && text.ends_with('Z')), "{ended}");
    }
    service.reaches(&newer, "running").await;
    service.stop().await;
}

#[tokio::test]
async fn a_key_makes_a_request_one_whatever_becomes_of_its_answer() {
    let service = Service::start().await;
    let ask =
        |id: &str, key: &str| Ask::post(&format!("/api/v1/apps/{id}/jobs")).app(id).header("idempotency-key", key);
    let first = service.call(ask("one", "push-1")).await.json();
    let again = service.call(ask("one", "push-1")).await;
    assert_eq!((again.status.as_u16(), &again.json()["job_id"]), (202, &first["job_id"]));
    let other = service.call(ask("one", "push-1").json(&json!({"when_busy": "fifo"}))).await;
    assert_eq!(other.problem(), is(422, "key-reused"));
    let of_another_app = service.call(ask("two", "push-1")).await.json();
    assert_eq!(of_another_app["deployment_id"], "two");
    assert_eq!(service.call(ask("one", &"k".repeat(256))).await.problem(), is(422, "invalid"));
    service.stop().await;
}

#[tokio::test]
async fn bad_bodies_and_paths_are_told_apart() {
    let service = Service::start().await;
    let ask = || Ask::post("/api/v1/apps/one/jobs").app("one");
    for (ask, expected) in [
        (ask().body("nope").header("content-type", "application/json"), is(400, "malformed-body")),
        (ask().body("{}").header("content-type", "text/plain"), is(415, "wrong-media-type")),
        (ask().json(&json!([])), is(422, "invalid")),
        (ask().json(&json!({"colour": 1})), is(422, "invalid")),
        (ask().json(&json!({"when_busy": "later"})), is(422, "invalid")),
        (ask().json(&json!({"vars": {"version": "1"}})), is(422, "vars")),
        (ask().json(&json!({"vars": {"x": "y".repeat(70_000)}})), is(413, "too-large")),
        (Ask::post("/api/v1/apps/..%2Fx/jobs").app("one"), is(422, "invalid")),
        (Ask::get("/api/v1/jobs/x").app("one"), is(422, "invalid")),
        (Ask::get("/api/v1/jobs/01GZEC5GJHFKWMK4Z5A1NM9DPF").app("one"), is(404, "unknown-job")),
        (Ask::get("/api/v1/jobs?limit=0").app("one"), is(422, "invalid")),
        (Ask::get("/api/v1/jobs?colour=red").app("one"), is(422, "invalid")),
        (Ask::get("/api/v1/nothing"), is(404, "unknown-path")),
        (Ask::new("DELETE", "/api/v1/jobs"), is(405, "method-not-allowed")),
        (Ask::post("/openapi.json"), is(405, "method-not-allowed")),
    ] {
        let shown = format!("{} {}", ask.0.method(), ask.0.uri());
        assert_eq!(service.call(ask).await.problem(), expected, "{shown}");
    }
    assert_eq!(service.call(Ask::new("DELETE", "/api/v1/jobs")).await.header("allow"), "GET,HEAD");
    service.stop().await;
}

#[tokio::test]
async fn credentials_open_their_own_app_alone() {
    let service = Service::start().await;
    let job = service.running("one").await;
    let path = format!("/api/v1/jobs/{job}");
    for part in ["", "/output", "/events"] {
        let path = format!("{path}{part}");
        assert_eq!(service.call(Ask::get(&path).app("two")).await.problem(), is(404, "unknown-job"), "{path}");
        assert_eq!(service.call(Ask::get(&path).token(FEED)).await.problem(), is(403, "forbidden"));
        let nobody = service.call(Ask::get(&path)).await;
        assert_eq!(nobody.problem(), is(401, "unauthorized"));
        assert!(nobody.header("www-authenticate").starts_with("Basic realm="), "{nobody:?}");
    }
    assert_eq!(service.call(Ask::post(&format!("{path}/cancel")).app("two")).await.problem(), is(404, "unknown-job"));
    assert_eq!(service.call(Ask::post("/api/v1/apps/two/jobs").app("one")).await.problem(), is(403, "forbidden"));
    assert_eq!(service.call(Ask::post("/api/v1/apps/x/jobs").app("one")).await.problem(), is(403, "forbidden"));
    assert_eq!(service.call(Ask::get("/api/v1/locks").app("one")).await.problem(), is(403, "forbidden"));
    assert_eq!(service.call(Ask::get("/api/v1/apps").app("one")).await.problem(), is(403, "forbidden"));
    // By its network a peer may feed through the old endpoint alone.
    assert_eq!(service.call(Ask::get("/api/v1/apps")).await.problem(), is(401, "unauthorized"));

    // Another app on the same inventory is told that it is busy, and not by whom.
    let mut shared = app("three");
    shared["inventory"] = json!("i-one");
    service.feed(&json!([app("one"), app("two"), shared])).await;
    let reject = json!({"when_busy": "reject"});
    let busy = service.call(Ask::post("/api/v1/apps/three/jobs").app("three").json(&reject)).await;
    assert_eq!((busy.problem(), busy.json().get("job_id")), (is(409, "busy"), None));
    // An id that is given to another inventory does not inherit its jobs.
    let mut moved = app("one");
    moved["inventory"] = json!("i-new");
    service.feed(&json!([moved, app("two")])).await;
    assert_eq!(service.call(Ask::get(&path).app("one")).await.problem(), is(404, "unknown-job"));
    assert_eq!(service.call(Ask::get("/api/v1/jobs").app("one")).await.json(), json!({"jobs": []}));
    assert_eq!(service.call(Ask::get(&path).token(OPERATOR)).await.status.as_u16(), 200);
    service.stop().await;
}

#[tokio::test]
async fn who_guesses_is_barred_and_others_are_not() {
    let service = Service::start().await;
    let (guesser, other) = ([192, 0, 2, 1], [192, 0, 2, 2]);
    let mut answers = Vec::new();
    for n in 0..21 {
        let ask = Ask::get("/api/v1/jobs").from(guesser);
        let ask = if n % 2 == 0 { ask.basic("one", "guess") } else { ask.token("a guess at a token") };
        answers.push(service.call(ask).await);
    }
    let (last, before) = answers.split_last().expect("answers");
    assert!(before.iter().all(|answer| answer.problem() == is(401, "unauthorized")));
    assert_eq!(last.problem(), is(429, "barred"));
    assert_ne!(last.header("retry-after"), "");
    // Even what is right is not looked at any more, in either form.
    assert_eq!(service.call(Ask::get("/api/v1/jobs").from(guesser).app("one")).await.status.as_u16(), 429);
    assert_eq!(service.call(Ask::get("/api/v1/locks").from(guesser).token(OPERATOR)).await.status.as_u16(), 429);
    let body = json!({"deployment_id": "one", "deployment_secret": "secret-of-one"});
    let seed = service.call(Ask::post("/app-deploy/").from(guesser).json(&body)).await;
    assert_eq!((seed.status.as_u16(), seed.json()["status"].as_str()), (429, Some("error")));
    assert_eq!(service.call(Ask::get("/api/v1/jobs").from(other).app("one")).await.status.as_u16(), 200);
    service.stop().await;
}

#[tokio::test]
async fn a_list_shows_ones_own_jobs_page_by_page() {
    let service = Service::start().await;
    let mut jobs = Vec::new();
    for _ in 0..3 {
        let job = service.running("one").await;
        service.end("one", &job, 0).await;
        jobs.insert(0, job);
    }
    let of_two = service.running("two").await;
    let ids = |answer: &Answer| -> Vec<String> {
        let page = answer.json();
        let jobs = page["jobs"].as_array().expect("a list");
        jobs.iter().map(|job| job["job_id"].as_str().expect("an id").to_owned()).collect()
    };
    let list = |query: &str| service.call(Ask::get(&format!("/api/v1/jobs?{query}")).app("one"));
    assert_eq!(ids(&list("").await), jobs);
    let page = list("limit=2").await;
    assert_eq!(ids(&page), jobs[..2]);
    let cursor = page.json()["cursor"].as_str().expect("a cursor").to_owned();
    let rest = list(&format!("limit=2&cursor={cursor}")).await;
    assert_eq!((ids(&rest), rest.json().get("cursor")), (jobs[2..].to_vec(), None));
    assert_eq!(ids(&list("state=failed,running").await), Vec::<String>::new());
    assert_eq!(ids(&list("deployment_id=two").await), Vec::<String>::new());
    let all = service.call(Ask::get("/api/v1/jobs?state=running").token(OPERATOR)).await;
    assert_eq!(ids(&all), [of_two]);
    service.stop().await;
}

#[tokio::test]
async fn a_cancel_is_recorded_and_carried_out() {
    let service = Service::start().await;
    let job = service.running("one").await;
    let cancel = format!("/api/v1/jobs/{job}/cancel");
    let answer = service.call(Ask::post(&cancel).app("one")).await;
    assert_eq!(answer.status.as_u16(), 202, "{answer:?}");
    let ended = service.reaches(&job, "finished").await;
    assert_eq!((&ended["outcome"], &ended["reason"]), (&json!("canceled"), &json!("canceled by app one")));
    let again = service.call(Ask::post(&cancel).app("one")).await;
    assert_eq!((again.status.as_u16(), &again.json()["outcome"]), (202, &json!("canceled")));
    service.stop().await;
}

#[tokio::test]
async fn a_container_reports_its_own_progress_without_secrets() {
    let service = Service::start().await;
    let job = service.running("one").await;
    let other = service.running("two").await;
    let token = service.engine.file("i-one", "/run/lockstep/token");
    let path = format!("/api/v1/jobs/{job}/progress");
    let report = |path: &str, body: &Value| service.call(Ask::post(path).token(&token).json(body));
    let counts =
        json!({"ok": 2, "changed": 1, "unreachable": 0, "failed": 0, "skipped": 0, "rescued": 0, "ignored": 0});
    let first = json!({"play": "all", "task": "Log in with secret-of-one", "tasks_done": 3, "recap": {"h1": counts}});
    assert_eq!(report(&path, &first).await.status.as_u16(), 204);
    let failure = json!({"host": "h1", "task": "x", "message": format!("token {token} is wrong")});
    assert_eq!(
        report(&path, &json!({"tasks_done": 4, "failures": [failure], "outputs": {"list": []}})).await.status.as_u16(),
        204
    );
    let shown = service.call(Ask::get(&format!("/api/v1/jobs/{job}")).app("one")).await.json();
    assert_eq!(
        shown["progress"],
        json!({
            "play": "all", "task": "Log in with ***", "tasks_done": 4, "recap": {"h1": counts},
            "failures": [{"host": "h1", "task": "x", "message": "token *** is wrong"}], "outputs": {"list": []},
        })
    );

    assert_eq!(report(&format!("/api/v1/jobs/{other}/progress"), &first).await.problem(), is(404, "unknown-job"));
    assert_eq!(report(&path, &json!({"tasks_done": -1})).await.problem(), is(422, "invalid"));
    assert_eq!(report(&path, &json!({"task": "x".repeat(70_000)})).await.problem(), is(413, "too-large"));
    let by_app = service.call(Ask::post(&path).app("one").json(&first)).await;
    assert_eq!(by_app.problem(), is(401, "unauthorized"));
    let bent = token.replace(&job, &other);
    let bent = service.call(Ask::post(&format!("/api/v1/jobs/{other}/progress")).token(&bent).json(&first)).await;
    assert_eq!(bent.problem(), is(401, "unauthorized"));
    service.end("one", &job, 0).await;
    assert_eq!(report(&path, &first).await.problem(), is(409, "job-ended"));
    service.stop().await;
}
