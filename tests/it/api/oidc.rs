//! ID tokens in place of a secret: a real issuer on this machine, tokens that are right, and tokens that are wrong in every way.

use super::super::support::issuer::{AUDIENCE, Ill, Issuer, Key, message};
use super::*;
use aws_lc_rs::hmac;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Keys soon have to be asked for again.
const QUICK: Pace = Pace {
    fresh: Duration::from_millis(100),
    stale: Duration::from_secs(86_400),
    unknown: Duration::from_millis(100),
    failed: Duration::from_millis(100),
};

fn checker(pace: Pace) -> Oidc {
    let egress = Egress::new(&["127.0.0.0/8".parse().expect("a network")]);
    Oidc::new(egress, pace)
}

/// Apps `one` (secret, project 7), `two` (no secret, project 8) and `three` (a secret alone), of the same issuer.
async fn service(issuer: &Issuer, pace: Pace) -> Service {
    let service = Service::with(FinalStatus::Finished, checker(pace)).await;
    let mut one = app("one");
    one["oidc"] = json!([issuer.rule()]);
    let mut rule = issuer.rule();
    rule["claims"]["project_id"] = json!(8);
    let two = json!({"deployment_id": "two", "inventory": "i-two", "oidc": [rule]});
    service.feed(&json!([one, two, app("three")])).await;
    service
}

fn submit(app: &str, token: &str) -> Ask {
    Ask::post(&format!("/api/v1/apps/{app}/jobs")).token(token)
}

/// Something that a token of an app opens and that changes nothing.
fn look(app: &str, token: &str) -> Ask {
    Ask::get(&format!("/api/v1/jobs?deployment_id={app}")).token(token)
}

#[tokio::test]
async fn a_token_deploys_follows_and_cancels() {
    let keys = ["ES256", "ES384", "RS256", "PS512", "EdDSA"].map(|algorithm| Key::new(algorithm, algorithm));
    let issuer = Issuer::start(&keys.each_ref()).await;
    let service = service(&issuer, Pace::default()).await;
    for key in &keys {
        let token = key.token(&issuer.claims(&json!({"sub": format!("by {}", key.id)})));
        let accepted = service.call(submit("one", &token)).await;
        assert_eq!(accepted.status.as_u16(), 202, "{}: {accepted:?}", key.id);
        let job = accepted.json()["job_id"].as_str().expect("an id").to_owned();
        service.engine.running("i-one").await;
        service.reaches(&job, "running").await;
        service.engine.print("i-one", "deploying\n");
        service.printed(&job, 10).await;
        let path = format!("/api/v1/jobs/{job}");
        assert_eq!(service.call(Ask::get(&path).token(&token)).await.json()["deployment_id"], "one");
        assert_eq!(service.call(Ask::get(&format!("{path}/output")).token(&token)).await.text(), "deploying\n");
        assert_eq!(service.send(Ask::get(&format!("{path}/events")).token(&token)).await.status(), StatusCode::OK);
        let list = service.call(look("one", &token)).await.json();
        assert_eq!(list["jobs"][0]["job_id"], job);
        assert_eq!(service.call(Ask::post(&format!("{path}/cancel")).token(&token)).await.status.as_u16(), 202);
        let ended = service.reaches(&job, "finished").await;
        assert_eq!(ended["reason"], format!("canceled by oidc {} by {}", issuer.url, key.id));
    }
    // However many ask, the issuer is asked once.
    assert_eq!(issuer.calls(), ["/.well-known/openid-configuration", "/keys"]);

    // What has a secret is still opened by it, what has none is not; rules are shown, secrets are not.
    assert_eq!(service.call(Ask::post("/api/v1/apps/one/jobs").app("one")).await.status.as_u16(), 202);
    for secret in ["", "secret-of-two"] {
        let answer = service.call(Ask::get("/api/v1/jobs").basic("two", secret)).await;
        assert_eq!(answer.problem(), is(401, "unauthorized"));
    }
    let apps = service.call(Ask::get("/api/v1/apps").token(FEED)).await;
    assert_eq!(apps.json()["apps"][0]["oidc"][0]["claims"], json!({"project_id": ["7"], "ref": ["main", "next"]}));
    assert!(!apps.text().contains("secret-of"), "{apps:?}");
    // The list is of an app, which a token does not name.
    let token = keys[0].token(&issuer.claims(&json!({})));
    assert_eq!(service.call(Ask::get("/api/v1/jobs").token(&token)).await.problem(), is(422, "invalid"));
    // An ID token is not an operator's or the feed's.
    for path in ["/api/v1/locks", "/api/v1/apps"] {
        assert_eq!(service.call(Ask::get(path).token(&token)).await.problem(), is(401, "unauthorized"), "{path}");
    }
    service.stop().await;
}

#[tokio::test]
async fn a_token_that_is_wrong_in_any_way_is_refused_like_a_wrong_secret() {
    let (key, rsa) = (Key::new("k", "ES256"), Key::new("r", "RS256"));
    let issuer = Issuer::start(&[&key, &rsa]).await;
    let other = Issuer::start(&[&key]).await;
    let service = service(&issuer, Pace::default()).await;
    let good = issuer.claims(&json!({}));
    let now = good["iat"].as_u64().expect("a time");
    let hmac_of = |with: &[u8], header: &Value| {
        let message = message(header, &good);
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, with), message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag.as_ref()))
    };
    let signed = key.token(&good);
    let (head, signature) = signed.rsplit_once('.').expect("parts");
    let (header, _) = head.split_once('.').expect("parts");
    let bent = URL_SAFE_NO_PAD.encode(issuer.claims(&json!({"extra": 1})).to_string());
    let with = |changes: Value| key.token(&issuer.claims(&changes));
    let cases: Vec<(&str, String)> = vec![
        ("expired", with(json!({"exp": now - 61, "iat": now - 400, "nbf": now - 400}))),
        ("without an end", with(json!({"exp": null}))),
        ("without a beginning", with(json!({"iat": null}))),
        ("not yet valid", with(json!({"nbf": now + 120}))),
        ("from the future", with(json!({"iat": now + 120}))),
        ("another audience", with(json!({"aud": "https://other.test"}))),
        ("no audience", with(json!({"aud": null}))),
        ("another issuer", with(json!({"iss": other.url}))),
        ("nearly the issuer", with(json!({"iss": format!("{}/", issuer.url)}))),
        ("no issuer", with(json!({"iss": null}))),
        ("another project", with(json!({"project_id": "8"}))),
        ("another branch", with(json!({"ref": "feature"}))),
        ("a missing claim", with(json!({"ref": null}))),
        ("a list for a claim", with(json!({"ref": ["main"]}))),
        ("pull_request_target", with(json!({"event_name": "pull_request_target"}))),
        ("alg none, unsigned", format!("{}.", message(&json!({"alg": "none", "kid": "k"}), &good))),
        ("alg none, signed", key.token_with(&json!({"alg": "none", "kid": "k"}), &good)),
        ("HMAC with the public key (DER)", hmac_of(&rsa.public_bytes(), &json!({"alg": "HS256", "kid": "r"}))),
        (
            "HMAC with the public key (JSON)",
            hmac_of(rsa.public().to_string().as_bytes(), &json!({"alg": "HS256", "kid": "r"})),
        ),
        ("HMAC that says RS256", hmac_of(&rsa.public_bytes(), &json!({"alg": "RS256", "kid": "r"}))),
        ("the algorithm of another key", key.token_with(&json!({"alg": "RS256", "kid": "k"}), &good)),
        ("the key of another algorithm", rsa.token_with(&json!({"alg": "PS256", "kid": "r"}), &good)),
        ("an unknown key", Key::new("unknown", "ES256").token(&good)),
        ("no key id", key.token_with(&json!({"alg": "ES256"}), &good)),
        ("another key under its id", Key::new("k", "ES256").token(&good)),
        ("a key that it brings itself", {
            let own = Key::new("k", "ES256");
            own.token_with(
                &json!({"alg": "ES256", "kid": "k", "jwk": own.public(), "jku": format!("{}/keys", other.url)}),
                &good,
            )
        }),
        ("bent claims", format!("{header}.{bent}.{signature}")),
        ("no signature", format!("{head}.")),
        ("crit", key.token_with(&json!({"alg": "ES256", "kid": "k", "crit": ["x"]}), &good)),
    ];
    let wrong_secret =
        service.call(Ask::post("/api/v1/apps/one/jobs").basic("one", "wrong-secret").from([10, 0, 1, 1])).await;
    assert_eq!(wrong_secret.problem(), is(401, "unauthorized"));
    for (number, (what, token)) in cases.iter().enumerate() {
        let from = [10, 0, 0, u8::try_from(number).expect("few")];
        let answer = service.call(submit("one", token).from(from)).await;
        assert_eq!(answer.problem(), is(401, "unauthorized"), "{what}");
        assert_eq!(answer.body, wrong_secret.body, "{what}: the caller is told no more");
    }
    // The same ones do nothing through the other doors, and what is right does.
    for (number, (what, token)) in cases.iter().enumerate() {
        let answer = service.call(look("one", token).from([10, 0, 2, u8::try_from(number).expect("few")])).await;
        assert_eq!(answer.status.as_u16(), 401, "{what}");
    }
    assert_eq!(service.call(look("one", &signed)).await.status.as_u16(), 200);
    assert_eq!(other.calls(), Vec::<String>::new(), "whom no rule of the app names is not asked");

    // It counts: who goes on is barred, even with what is right.
    let guesser = [192, 0, 2, 1];
    for _ in 0..20 {
        assert_eq!(service.call(look("three", &cases[0].1).from(guesser)).await.status.as_u16(), 401);
    }
    assert_eq!(service.call(look("one", &signed).from(guesser)).await.problem(), is(429, "barred"));
    service.stop().await;
}

#[tokio::test]
async fn a_token_of_one_app_opens_nothing_of_another() {
    let key = Key::new("k", "ES256");
    let issuer = Issuer::start(&[&key]).await;
    let service = service(&issuer, Pace::default()).await;
    let one = key.token(&issuer.claims(&json!({})));
    let two = key.token(&issuer.claims(&json!({"project_id": "8"})));
    let accepted = service.call(submit("two", &two)).await;
    assert_eq!(accepted.status.as_u16(), 202, "{accepted:?}");
    let job = accepted.json()["job_id"].as_str().expect("an id").to_owned();
    let of_three = service.submit("three").await;

    let refused = service.call(submit("two", &one)).await;
    assert_eq!(refused.problem(), is(401, "unauthorized"));
    for app in ["three", "nobody"] {
        assert_eq!(service.call(submit(app, &one)).await.body, refused.body, "{app}");
        assert_eq!(service.call(look(app, &one)).await.body, refused.body, "{app}");
    }
    for part in ["", "/output", "/events", "/cancel"] {
        let ask = |job: &str, from: u8| {
            let path = format!("/api/v1/jobs/{job}{part}");
            let ask = if part == "/cancel" { Ask::post(&path) } else { Ask::get(&path) };
            service.call(ask.token(&one).from([10, 1, 0, from]))
        };
        let unknown = ask("01GZEC5GJHFKWMK4Z5A1NM9DPF", 1).await;
        assert_eq!(unknown.problem(), is(404, "unknown-job"), "{part}");
        // Of an app with other rules, and of one with none.
        for job in [&job, &of_three] {
            let answer = ask(job, 2).await;
            assert_eq!((answer.status, &answer.body), (unknown.status, &unknown.body), "{part}");
            let headers = |answer: &Answer| answer.headers.keys().map(ToString::to_string).collect::<Vec<_>>();
            assert_eq!(headers(&answer), headers(&unknown), "{part}");
        }
    }
    // A token that is over says so wherever it is used, whether there is such a job or not.
    let over = key.token(&issuer.claims(&json!({"exp": 1})));
    for job in [job.as_str(), "01GZEC5GJHFKWMK4Z5A1NM9DPF"] {
        let answer = service.call(Ask::get(&format!("/api/v1/jobs/{job}")).token(&over)).await;
        assert_eq!(answer.problem(), is(401, "unauthorized"));
    }
    // Each such try counts, as one with a wrong secret does.
    let guesser = [192, 0, 2, 7];
    for _ in 0..20 {
        let answer = service.call(Ask::get(&format!("/api/v1/jobs/{job}")).token(&one).from(guesser)).await;
        assert_eq!(answer.problem(), is(404, "unknown-job"));
    }
    let barred = service.call(Ask::get(&format!("/api/v1/jobs/{job}")).token(&two).from(guesser)).await;
    assert_eq!(barred.problem(), is(429, "barred"));
    assert_eq!(service.call(Ask::get(&format!("/api/v1/jobs/{job}")).token(&two)).await.status.as_u16(), 200);
    service.stop().await;
}

#[tokio::test]
async fn a_new_key_works_at_once_and_an_old_one_is_gone_with_the_cache() {
    let (old, new) = (Key::new("old", "ES256"), Key::new("new", "ES256"));
    let issuer = Issuer::start(&[&old]).await;
    let (with_old, with_new) = (old.token(&issuer.claims(&json!({}))), new.token(&issuer.claims(&json!({}))));
    let first = service(&issuer, Pace::default()).await;
    assert_eq!(first.call(look("one", &with_old)).await.status.as_u16(), 200);
    issuer.has(&[&old, &new]);
    // A key id that is not known makes the issuer be asked again, although its keys are fresh.
    assert_eq!(first.call(look("one", &with_new)).await.status.as_u16(), 200);
    assert_eq!(issuer.calls().len(), 4, "{:?}", issuer.calls());
    // One that only vanishes is known for as long as keys are good.
    issuer.has(&[&new]);
    assert_eq!(first.call(look("one", &with_old)).await.status.as_u16(), 200);
    assert_eq!(issuer.calls().len(), 4, "{:?}", issuer.calls());
    first.stop().await;

    issuer.has(&[&old]);
    let second = service(&issuer, QUICK).await;
    assert_eq!(second.call(look("one", &with_old)).await.status.as_u16(), 200);
    issuer.has(&[&new]);
    eventually("the old key is gone", async || {
        (second.call(look("one", &with_old)).await.status.as_u16() == 401).then_some(())
    })
    .await;
    assert_eq!(second.call(look("one", &with_new)).await.status.as_u16(), 200);
    second.stop().await;
}

#[tokio::test]
async fn requests_share_a_call_and_made_up_keys_cost_one() {
    let key = Key::new("k", "ES256");
    let issuer = Issuer::start(&[&key]).await;
    let service = service(&issuer, Pace::default()).await;
    let token = key.token(&issuer.claims(&json!({})));
    let all = futures::future::join_all((0..20).map(|_| service.call(look("one", &token)))).await;
    assert!(all.iter().all(|answer| answer.status.as_u16() == 200), "{all:?}");
    assert_eq!(issuer.calls().len(), 2);
    let unknown = |number: u8| {
        let token = Key::new(&format!("made up {number}"), "EdDSA").token(&issuer.claims(&json!({})));
        service.call(look("one", &token).from([10, 0, 0, number]))
    };
    // At once, and again later.
    for round in [0..20, 20..40] {
        let all = futures::future::join_all(round.map(unknown)).await;
        assert!(all.iter().all(|answer| answer.status.as_u16() == 401), "{all:?}");
        assert_eq!(issuer.calls().len(), 4);
    }
    service.stop().await;
}

#[tokio::test]
async fn an_issuer_that_is_down_is_not_a_wrong_token() {
    let key = Key::new("k", "ES256");
    let mut issuer = Issuer::start(&[&key]).await;
    let service = service(&issuer, QUICK).await;
    issuer.go_down();
    let token = key.token(&issuer.claims(&json!({})));
    let down = service.call(submit("one", &token)).await;
    assert_eq!((down.problem(), down.header("retry-after")), (is(503, "issuer-not-reached"), "5"));
    // Not counted: after more than enough of them, one that is right is looked at.
    for _ in 0..25 {
        assert_eq!(service.call(look("one", &token)).await.status.as_u16(), 503);
    }
    issuer.come_back().await;
    eventually("the issuer is asked again", async || {
        (service.call(look("one", &token)).await.status.as_u16() == 200).then_some(())
    })
    .await;

    issuer.go_down();
    // Once the keys are not fresh any more, a made-up one cannot be said to be wrong; those that were known go on.
    let unknown = Key::new("u", "ES256").token(&issuer.claims(&json!({})));
    let mut number = 0;
    eventually("it is asked again in vain", async || {
        number += 1;
        let answer = service.call(look("one", &unknown).from([10, 0, number / 200, number % 200])).await;
        (answer.status.as_u16() == 503).then_some(())
    })
    .await;
    assert_eq!(service.call(look("one", &token)).await.status.as_u16(), 200);
    // Nor does the answer tell whether there is an app whose rules name that issuer.
    for app in ["one", "three", "nobody"] {
        assert_eq!(service.call(submit(app, &unknown)).await.problem(), is(503, "issuer-not-reached"), "{app}");
    }
    let wrong = key.token(&issuer.claims(&json!({"ref": "feature"})));
    assert_eq!(service.call(look("one", &wrong)).await.problem(), is(401, "unauthorized"));
    service.stop().await;
}

#[tokio::test]
async fn keys_are_forgotten_when_the_issuer_stays_down() {
    let key = Key::new("k", "ES256");
    let issuer = Issuer::start(&[&key]).await;
    let service = service(&issuer, Pace { stale: Duration::from_millis(500), ..QUICK }).await;
    let token = key.token(&issuer.claims(&json!({})));
    assert_eq!(service.call(look("one", &token)).await.status.as_u16(), 200);
    issuer.go_down();
    eventually("its keys are too old", async || {
        (service.call(look("one", &token)).await.status.as_u16() == 503).then_some(())
    })
    .await;
    service.stop().await;
}

#[tokio::test]
async fn an_issuer_that_answers_strangely_is_not_believed() {
    let key = Key::new("k", "ES256");
    let inside = "http://169.254.169.254/latest/meta-data".to_owned();
    let ills = [
        Ill::ConfigurationRedirects,
        Ill::KeysRedirect,
        Ill::KeysTooLarge,
        Ill::AnotherIssuer,
        Ill::KeysAt(inside.replace("http:", "https:")),
        Ill::KeysAt(inside),
        Ill::KeysAt("file:///etc/passwd".into()),
        Ill::Broken,
        Ill::Silent,
    ];
    let mut issuers = Vec::new();
    for ill in &ills {
        let issuer = Issuer::start(&[&key]).await;
        issuer.falls(ill.clone());
        issuers.push(issuer);
    }
    let service = Service::with(FinalStatus::Finished, checker(Pace::default())).await;
    let mut one = app("one");
    one["oidc"] = issuers.iter().map(Issuer::rule).collect();
    service.feed(&json!([one])).await;
    let asked = issuers.iter().map(|issuer| {
        let token = key.token(&issuer.claims(&json!({})));
        service.call(look("one", &token))
    });
    let answers = futures::future::join_all(asked).await;
    for ((answer, ill), issuer) in answers.iter().zip(&ills).zip(&issuers) {
        assert_eq!(answer.problem(), is(503, "issuer-not-reached"), "{ill:?}");
        let calls = issuer.calls();
        assert!(!calls.iter().any(|call| call == "/elsewhere" || call == "/other-keys"), "{ill:?}: {calls:?}");
    }
    service.stop().await;
}

#[tokio::test]
async fn this_machine_and_its_link_are_not_called_unless_that_is_configured() {
    let key = Key::new("k", "ES256");
    let issuer = Issuer::start_tls(&[&key]).await;
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), &issuer.certificate).expect("written");
    // Its certificate is trusted: what stands between is the guard alone.
    let strict = Oidc::new(Egress::new(&[]).trusting(file.path()).expect("a file"), Pace::default());
    let service = Service::with(FinalStatus::Finished, strict).await;
    let mut one = app("one");
    let rule = |url: &str| json!({"issuer": url, "audience": AUDIENCE, "claims": {"project_id": 7}});
    let urls = [issuer.url.as_str(), "https://169.254.169.254", "https://[fe80::1]", "https://127.0.0.1:1"];
    one["oidc"] = urls.iter().map(|url| rule(url)).collect();
    // Every branch may deploy by these rules, which is told.
    let answer = service.call(Ask::new("PUT", "/api/v1/apps").token(FEED).json(&json!([one]))).await;
    assert_eq!(answer.json()["warnings"].as_array().map(Vec::len), Some(urls.len()), "{answer:?}");
    for url in urls {
        let token = key.token(&issuer.claims(&json!({"iss": url})));
        assert_eq!(service.call(look("one", &token)).await.problem(), is(503, "issuer-not-reached"), "{url}");
    }
    assert_eq!(issuer.calls(), Vec::<String>::new());
    one["oidc"] = json!([rule("http://127.0.0.1:1")]);
    let refused = service.call(Ask::new("PUT", "/api/v1/apps").token(FEED).json(&json!([one]))).await;
    assert_eq!(refused.problem(), is(422, "invalid-feed"));
    assert!(refused.text().contains("egress.allow"), "{refused:?}");
    service.stop().await;
}

#[tokio::test]
async fn an_issuer_cannot_point_at_what_is_not_allowed() {
    let key = Key::new("k", "ES256");
    let issuer = Issuer::start(&[&key]).await;
    let inside = tokio::net::TcpListener::bind("127.0.0.2:0").await.expect("a port");
    issuer.falls(Ill::KeysAt(format!("http://{}/keys", inside.local_addr().expect("an address"))));
    let egress = Egress::new(&["127.0.0.1".parse().expect("a network")]);
    let oidc = Oidc::new(egress, Pace::default());
    let service = Service::with(FinalStatus::Finished, oidc).await;
    let mut one = app("one");
    one["oidc"] = json!([issuer.rule()]);
    service.feed(&json!([one])).await;
    let token = key.token(&issuer.claims(&json!({})));
    let answer = tokio::select! {
        answer = service.call(look("one", &token)) => answer,
        _ = inside.accept() => panic!("it was called"),
    };
    assert_eq!(answer.problem(), is(503, "issuer-not-reached"));
    assert_eq!(issuer.calls(), ["/.well-known/openid-configuration"]);
    service.stop().await;
}

#[tokio::test]
async fn an_issuer_is_verified_by_the_configured_authority() {
    let key = Key::new("k", "ES256");
    let issuer = Issuer::start_tls(&[&key]).await;
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), &issuer.certificate).expect("written");
    let egress = Egress::new(&["127.0.0.0/8".parse().expect("a network")]);
    let trusting = |ca: &std::path::Path| egress.clone().trusting(ca);
    for (egress, expected) in [(trusting(file.path()).expect("a file"), 200), (egress.clone(), 503)] {
        let service = Service::with(FinalStatus::Finished, Oidc::new(egress, Pace::default())).await;
        let mut one = app("one");
        one["oidc"] = json!([issuer.rule()]);
        service.feed(&json!([one])).await;
        let token = key.token(&issuer.claims(&json!({})));
        assert_eq!(service.call(look("one", &token)).await.status.as_u16(), expected);
        service.stop().await;
    }
    let missing = trusting(std::path::Path::new("/nowhere/ca.crt")).expect_err("an error");
    assert!(missing.contains("egress.ca (/nowhere/ca.crt)"), "{missing}");
    std::fs::write(file.path(), "nonsense").expect("written");
    assert!(trusting(file.path()).expect_err("an error").contains("holds no certificate"));
}
