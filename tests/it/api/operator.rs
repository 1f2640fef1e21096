//! What operators do: apps, locks, freezes; and what is written down about it.

use super::*;

impl Service {
    async fn audit(&self) -> Vec<String> {
        let mut connection = self.redis.connect().await;
        let keys: Vec<String> = redis::cmd("KEYS").arg("*:audit").query_async(&mut connection).await.expect("keys");
        let Some(key) = keys.first() else { return vec![] };
        let entries: Vec<(String, Vec<String>)> =
            redis::cmd("XRANGE").arg(key).arg("-").arg("+").query_async(&mut connection).await.expect("a stream");
        // by, what, about, reason: the values, without the names.
        entries
            .into_iter()
            .map(|(_, fields)| fields.chunks(2).map(|pair| pair[1].clone()).collect::<Vec<_>>().join("|"))
            .collect()
    }
}

#[tokio::test]
async fn an_operator_submits_reads_and_cancels_for_any_app_on_the_record() {
    let service = Service::start().await;
    let unknown = service.call(Ask::post("/api/v1/apps/nobody/jobs").token(OPERATOR)).await;
    assert_eq!(unknown.problem(), is(404, "unknown-app"));
    let accepted = service.call(Ask::post("/api/v1/apps/one/jobs").token(OPERATOR)).await;
    let job = accepted.json()["job_id"].as_str().expect("an id").to_owned();
    service.engine.running("i-one").await;
    let canceled = service.call(Ask::post(&format!("/api/v1/jobs/{job}/cancel")).token(OPERATOR)).await;
    assert_eq!(canceled.status.as_u16(), 202);
    assert_eq!(service.reaches(&job, "finished").await["reason"], "canceled by operator ada");
    assert!(service.audit().await.contains(&format!("ada|cancel|{job}|")), "{:?}", service.audit().await);
    service.stop().await;
}

#[tokio::test]
async fn the_list_of_apps_is_swapped_and_shown() {
    let service = Service::start().await;
    let apps = json!([{
        "deployment_id": "one", "deployment_secret": "secret-of-one", "inventory": "i-one", "colour": "red",
        "vars": {"version": {"pattern": "[0-9.]+"}, "key": {"secret": true}},
    }]);
    let set = |query: &str| Ask::new("PUT", &format!("/api/v1/apps{query}")).token(OPERATOR).json(&apps);
    assert_eq!(service.call(set("")).await.problem(), is(409, "shrunken-list"));
    let taken = service.call(set("?force=true")).await;
    assert_eq!((taken.status.as_u16(), &taken.json()["apps"]), (200, &json!(1)));
    assert_eq!(taken.json()["warnings"].as_array().map(Vec::len), Some(1));
    let list = service.call(Ask::get("/api/v1/apps").token(FEED)).await;
    assert_eq!(
        list.json(),
        json!({"apps": [{"deployment_id": "one", "inventory": "i-one", "action": "app-deploy",
            "vars": {"version": {"pattern": "[0-9.]+"}, "key": {"secret": true}}}]})
    );
    assert_eq!(
        service.call(Ask::new("PUT", "/api/v1/apps").token(FEED).json(&json!({}))).await.problem(),
        is(422, "invalid-feed")
    );

    let vars = json!({"vars": {"version": "1.2", "key": "hush-hush"}});
    let accepted = service.call(Ask::post("/api/v1/apps/one/jobs").app("one").json(&vars)).await;
    let job = accepted.json()["job_id"].as_str().expect("an id").to_owned();
    service.engine.running("i-one").await;
    assert_eq!(
        serde_json::from_str::<Value>(&service.engine.file("i-one", "/run/lockstep/vars.json")).expect("JSON"),
        vars["vars"]
    );
    service.engine.print("i-one", "key is hush-hush, secret is secret-of-one\n");
    let ended = service.end("one", &job, 0).await;
    assert!(!ended.to_string().contains("hush"));
    let output = service.call(Ask::get(&format!("/api/v1/jobs/{job}/output")).token(OPERATOR)).await;
    assert_eq!(output.text(), "key is ***, secret is ***\n");
    assert!(service.audit().await.contains(&"ada|set-apps --force|1 apps|".to_owned()), "{:?}", service.audit().await);
    service.stop().await;
}

#[tokio::test]
async fn a_freeze_refuses_or_holds_back_until_it_is_lifted() {
    let service = Service::start().await;
    let path = "/api/v1/freezes/i-one";
    assert_eq!(service.call(Ask::new("DELETE", path).token(OPERATOR)).await.problem(), is(404, "not-frozen"));
    for bad in [
        json!({}),
        json!({"reason": ""}),
        json!({"reason": "x".repeat(501)}),
        json!({"reason": "a\nb"}),
        json!({"reason": "x", "expires_in": 0}),
    ] {
        assert_eq!(
            service.call(Ask::new("PUT", path).token(OPERATOR).json(&bad)).await.problem(),
            is(422, "invalid"),
            "{bad}"
        );
    }
    let frozen =
        service.call(Ask::new("PUT", path).token(OPERATOR).json(&json!({"reason": "audit", "expires_in": 3600}))).await;
    assert_eq!((frozen.status.as_u16(), &frozen.json()["by"]), (200, &json!("ada")));
    assert!(frozen.json()["until"].is_string());
    let refused =
        service.call(Ask::post("/api/v1/apps/one/jobs").app("one").json(&json!({"when_busy": "reject"}))).await;
    assert_eq!(refused.problem(), is(409, "frozen"));
    let job = service.submit("one").await;
    let locks = service.call(Ask::get("/api/v1/locks").token(OPERATOR)).await.json();
    assert_eq!(
        (&locks["locks"][0]["waiting"], &locks["locks"][0]["freeze"]["reason"]),
        (&json!([job]), &json!("audit"))
    );
    assert_eq!(service.call(Ask::new("DELETE", path).token(OPERATOR)).await.status.as_u16(), 204);
    service.reaches(&job, "running").await;
    let audit = service.audit().await;
    assert!(
        audit.contains(&"ada|freeze|i-one|audit".to_owned()) && audit.contains(&"ada|unfreeze|i-one|".to_owned()),
        "{audit:?}"
    );
    service.stop().await;
}

#[tokio::test]
async fn a_lock_is_freed_by_force_with_a_reason_only() {
    let service = Service::start().await;
    let job = service.running("one").await;
    let locks = service.call(Ask::get("/api/v1/locks").token(OPERATOR)).await.json();
    let lock = &locks["locks"][0];
    assert_eq!(
        (&lock["inventory"], &lock["job_id"], &lock["state"]),
        (&json!("i-one"), &json!(job), &json!("running"))
    );
    assert!(lock["age_seconds"].is_u64() && lock["since"].is_string() && lock["fence"].is_u64(), "{lock}");

    let unlock = |inventory: &str, body: Value| {
        service.call(Ask::new("DELETE", &format!("/api/v1/locks/{inventory}")).token(OPERATOR).json(&body))
    };
    assert_eq!(unlock("i-one", json!({})).await.problem(), is(422, "invalid"));
    assert_eq!(unlock("i-two", json!({"reason": "stuck"})).await.problem(), is(404, "not-locked"));
    let runs = unlock("i-one", json!({"reason": "stuck"})).await;
    assert_eq!((runs.problem(), &runs.json()["job_id"]), (is(409, "still-running"), &json!(job)));
    let freed = unlock("i-one", json!({"reason": "stuck", "force": true})).await;
    assert_eq!((freed.status.as_u16(), freed.json()), (200, json!({"inventory": "i-one", "job_id": job})));
    let ended = service.reaches(&job, "finished").await;
    assert_eq!((&ended["outcome"], &ended["reason"]), (&json!("canceled"), &json!("unlocked by ada: stuck")));
    assert!(service.audit().await.contains(&"ada|unlock --force|i-one|stuck".to_owned()));
    service.stop().await;
}

#[tokio::test]
async fn metrics_count_by_route_and_never_by_path() {
    let service = Service::start().await;
    service.running("one").await;
    service.call(Ask::get("/api/v1/jobs/01GZEC5GJHFKWMK4Z5A1NM9DPF").app("one")).await;
    service.call(Ask::get("/no/such/path")).await;
    let metrics = service.call(Ask::get("/metrics")).await;
    assert!(metrics.header("content-type").starts_with("application/openmetrics-text"));
    for line in [
        "lockstep_http_requests_total{route=\"/api/v1/jobs/{job_id}\",method=\"GET\",status=\"404\"} 1",
        "lockstep_http_requests_total{route=\"none\",method=\"GET\",status=\"404\"} 1",
        "lockstep_live_jobs 1",
        "lockstep_waiting_jobs 0",
        "lockstep_redis_up 1",
    ] {
        assert!(metrics.text().contains(&format!("{line}\n")), "{line}\n{}", metrics.text());
    }
    assert!(!metrics.text().contains("01GZEC5GJHFKWMK4Z5A1NM9DPF") && !metrics.text().contains("/no/such"));
    service.stop().await;
}
