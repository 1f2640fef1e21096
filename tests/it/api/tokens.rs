//! Tokens that operators issue, what their roles open, and the audit log.

use super::*;

impl Service {
    /// Issues a token with these settings beside its name.
    pub(super) async fn issue(&self, name: &str, settings: Value) -> String {
        let mut body = settings;
        body["name"] = json!(name);
        let issued = self.call(Ask::post("/api/v1/tokens").token(OPERATOR).json(&body)).await;
        assert_eq!(issued.status, StatusCode::CREATED, "{issued:?}");
        issued.json()["token"].as_str().expect("a token").to_owned()
    }

    /// Everything that Redis holds, as text.
    pub(super) async fn dump(&self) -> String {
        let mut connection = self.redis.connect().await;
        let keys: Vec<Vec<u8>> = redis::cmd("KEYS").arg("*").query_async(&mut connection).await.expect("keys");
        let mut text = String::new();
        for key in keys {
            text.push_str(&String::from_utf8_lossy(&key));
            let kind: String = redis::cmd("TYPE").arg(&key).query_async(&mut connection).await.expect("a type");
            let mut ask = match kind.as_str() {
                "string" => redis::cmd("GET"),
                "hash" => redis::cmd("HGETALL"),
                "set" => redis::cmd("SMEMBERS"),
                "list" => redis::cmd("LRANGE"),
                "zset" => redis::cmd("ZRANGE"),
                "stream" => redis::cmd("XRANGE"),
                other => panic!("{other}"),
            };
            ask.arg(&key);
            match kind.as_str() {
                "list" | "zset" => drop(ask.arg(0).arg(-1)),
                "stream" => drop(ask.arg("-").arg("+")),
                _ => {}
            }
            let value: redis::Value = ask.query_async(&mut connection).await.expect("a value");
            text.push_str(&format!("{value:?}"));
        }
        text
    }
}

/// Reading operations that are everybody's who looks after the installation.
const VIEWS: [&str; 7] = [
    "/api/v1/jobs",
    "/api/v1/events",
    "/api/v1/locks",
    "/api/v1/apps",
    "/api/v1/tokens",
    "/api/v1/webhooks",
    "/api/v1/audit",
];

#[tokio::test]
async fn a_viewer_sees_everything_and_changes_nothing() {
    let service = Service::start().await;
    let viewer = service.issue("vera", json!({"role": "viewer", "groups": ["testers"]})).await;
    let job = service.running("one").await;
    service.engine.print("i-one", "deploying\n");
    service.printed(&job, 10).await;
    let of_job = [format!("/api/v1/jobs/{job}"), format!("/api/v1/jobs/{job}/output")];
    for path in VIEWS.iter().copied().chain(of_job.iter().map(String::as_str)) {
        let answer = service.call(Ask::get(path).token(&viewer)).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {answer:?}");
        assert_eq!(
            service.call(Ask::get(path).token("lso_nobody's")).await.problem(),
            is(401, "unauthorized"),
            "{path}"
        );
    }
    let because = json!({"reason": "why"});
    let hook = json!({"url": "https://example.org"});
    for (method, path, body) in [
        ("POST", "/api/v1/apps/one/jobs", json!({})),
        ("POST", &format!("/api/v1/jobs/{job}/cancel"), json!({})),
        ("PUT", "/api/v1/apps", json!([app("one")])),
        ("DELETE", "/api/v1/locks/i-one", because.clone()),
        ("PUT", "/api/v1/freezes/i-one", because.clone()),
        ("DELETE", "/api/v1/freezes/i-one", json!({})),
        ("POST", "/api/v1/tokens", json!({"name": "x", "role": "operator"})),
        ("DELETE", "/api/v1/tokens/vera", json!({})),
        ("PUT", "/api/v1/webhooks/chat", hook.clone()),
        ("DELETE", "/api/v1/webhooks/chat", json!({})),
        ("POST", "/api/v1/webhooks/chat/replay", json!({"after": "0-0"})),
    ] {
        let answer = service.call(Ask::new(method, path).token(&viewer).json(&body)).await;
        assert_eq!(answer.problem(), is(403, "forbidden"), "{method} {path}");
    }
    let apps = service.call(Ask::post("/set-available-apps/").token(&viewer).json(&json!([app("one")]))).await;
    assert_eq!(apps.json()["status"], "error");
    assert_eq!(service.call(Ask::get("/get-available-apps/").token(&viewer)).await.status, StatusCode::OK);
    // Nothing of it has happened, and nothing is said to have.
    assert_eq!(service.reaches(&job, "running").await["state"], "running");
    let audit = service.call(Ask::get("/api/v1/audit").token(&viewer)).await.json();
    let lines = audit["lines"].as_array().expect("lines").iter();
    assert!(lines.clone().count() > 0 && lines.clone().all(|line| line["by"] != "vera"), "{audit}");
    service.stop().await;
}

#[tokio::test]
async fn a_token_opens_from_its_issue_to_its_end_and_is_kept_as_a_hash() {
    let service = Service::start().await;
    let issue = json!({"role": "operator", "groups": ["release-managers", "qa"], "reason": "on call this week"});
    let token = service.issue("olga", issue.clone()).await;
    let submitted = service.call(Ask::post("/api/v1/apps/one/jobs").token(&token)).await;
    assert_eq!(submitted.status, StatusCode::ACCEPTED);
    let list = service.call(Ask::get("/api/v1/tokens").token(&token)).await;
    let olga = &list.json()["tokens"][0];
    assert_eq!(
        (&olga["name"], &olga["role"], &olga["groups"], &olga["by"]),
        (&json!("olga"), &json!("operator"), &json!(["qa", "release-managers"]), &json!("ada"))
    );
    assert!(!list.text().contains(&token) && !service.dump().await.contains(&token));

    // One name, one token; that of the configuration is taken too.
    for name in ["olga", "ada"] {
        let again = Ask::post("/api/v1/tokens").token(OPERATOR).json(&json!({"name": name, "role": "viewer"}));
        assert_eq!(service.call(again).await.problem(), is(409, "name-taken"));
    }
    for wrong in [
        json!({"name": "a b", "role": "viewer"}),
        json!({"name": "x"}),
        json!({"name": "x", "role": "root"}),
        json!({"name": "x", "role": "viewer", "groups": ["../x"]}),
        json!({"name": "x", "role": "viewer", "groups": vec!["g"; 33]}),
        json!({"name": "x", "role": "viewer", "expires_in": 0}),
        json!({"name": "x", "role": "viewer", "expires_in": u64::MAX}),
        json!({"name": "x", "role": "viewer", "reason": ""}),
        json!({"name": "x", "role": "viewer", "admin": true}),
    ] {
        let answer = service.call(Ask::post("/api/v1/tokens").token(OPERATOR).json(&wrong)).await;
        assert_eq!(answer.problem(), is(422, "invalid"), "{wrong}");
    }

    let revoke = |name: &str| Ask::new("DELETE", &format!("/api/v1/tokens/{name}")).token(OPERATOR);
    let revoked = service.call(revoke("olga").json(&json!({"reason": "has left"}))).await;
    assert_eq!(revoked.status, StatusCode::NO_CONTENT);
    assert_eq!(service.call(Ask::get("/api/v1/tokens").token(&token)).await.problem(), is(401, "unauthorized"));
    assert_eq!(service.call(revoke("olga")).await.problem(), is(404, "unknown-token"));
    assert_eq!(service.call(revoke("ada")).await.problem(), is(404, "unknown-token"));

    // One that expires does so by itself, and its name is free again.
    let brief = service.issue("olga", json!({"role": "viewer", "expires_in": 1})).await;
    assert_eq!(service.call(Ask::get("/api/v1/locks").token(&brief)).await.status, StatusCode::OK);
    eventually("it has expired", async || {
        let answer = service.call(Ask::get("/api/v1/locks").token(&brief)).await;
        (answer.status == StatusCode::UNAUTHORIZED).then_some(())
    })
    .await;
    service.issue("olga", issue).await;
    assert_eq!(
        service.call(Ask::get("/api/v1/tokens").token(OPERATOR)).await.json()["tokens"].as_array().map(Vec::len),
        Some(1)
    );
    service.stop().await;
}

#[tokio::test]
async fn what_operators_do_is_read_from_the_audit_log() {
    let service = Service::start().await;
    let freeze = json!({"reason": "audit week"});
    assert_eq!(
        service.call(Ask::new("PUT", "/api/v1/freezes/i-one").token(OPERATOR).json(&freeze)).await.status,
        StatusCode::OK
    );
    let lift = Ask::new("DELETE", "/api/v1/freezes/i-one").token(OPERATOR).json(&json!({"reason": "over"}));
    assert_eq!(service.call(lift).await.status, StatusCode::NO_CONTENT);
    let apps =
        Ask::new("PUT", "/api/v1/apps?force=true&reason=two%20are%20gone").token(OPERATOR).json(&json!([app("one")]));
    assert_eq!(service.call(apps).await.status, StatusCode::OK);
    let job = service.call(Ask::post("/api/v1/apps/one/jobs").token(OPERATOR)).await.json()["job_id"].clone();
    let job = job.as_str().expect("an id");
    let cancel =
        Ask::post(&format!("/api/v1/jobs/{job}/cancel")).token(OPERATOR).json(&json!({"reason": "wrong version"}));
    assert_eq!(service.call(cancel).await.status, StatusCode::ACCEPTED);
    let page = service.call(Ask::get("/api/v1/audit?limit=5").token(OPERATOR)).await.json();
    let lines = page["lines"].as_array().expect("lines").iter();
    let read =
        lines.map(|it| ["by", "what", "about", "reason"].map(|field| it[field].as_str().expect("a text").to_owned()));
    let expected = [
        ["ada", "cancel", job, "wrong version"],
        ["ada", "deploy", "one", ""],
        ["ada", "set-apps --force", "1 apps", "two are gone"],
        ["ada", "unfreeze", "i-one", "over"],
        ["ada", "freeze", "i-one", "audit week"],
    ];
    assert_eq!(read.collect::<Vec<_>>(), expected.map(|line| line.map(str::to_owned)));
    // Page by page it is the same, to its end.
    let mut seen = vec![];
    let mut cursor = String::new();
    loop {
        let page = service.call(Ask::get(&format!("/api/v1/audit?limit=2{cursor}")).token(OPERATOR)).await.json();
        seen.extend(page["lines"].as_array().expect("lines").iter().map(|line| line["id"].to_string()));
        let Some(next) = page["cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    let whole = service.call(Ask::get("/api/v1/audit?limit=1000").token(OPERATOR)).await.json();
    let whole: Vec<_> = whole["lines"].as_array().expect("lines").iter().map(|line| line["id"].to_string()).collect();
    assert_eq!(seen, whole);
    for query in ["limit=0", "limit=1001", "cursor=x"] {
        let answer = service.call(Ask::get(&format!("/api/v1/audit?{query}")).token(OPERATOR)).await;
        assert_eq!(answer.problem(), is(422, "invalid"), "{query}");
    }
    assert_eq!(service.call(Ask::get("/api/v1/audit").app("one")).await.problem(), is(403, "forbidden"));
    service.stop().await;
}
