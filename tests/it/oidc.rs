//! A CI job's whole way with an ID token and no secret: the real binary on both sides, a real container, an issuer on this machine.

use serde_json::json;

use super::support::issuer::{Issuer, Key};
use super::support::service::{FEED_TOKEN, Service};

#[tokio::test(flavor = "multi_thread")]
async fn a_ci_job_deploys_with_its_id_token_alone() {
    let key = Key::new("k", "RS256");
    let issuer = Issuer::start(&[&key]).await;
    let settings =
        [("LOCKSTEP_EGRESS_ALLOW", "127.0.0.0/8"), ("LOCKSTEP_RUNNER_ACTIONS", "app-deploy=echo it is deployed")];
    let service = Service::start(&settings).await;
    let list = json!([{"deployment_id": "a", "inventory": "i-a", "oidc": [issuer.rule()]}]);
    let fed = service.client().put(service.url("/api/v1/apps")).bearer_auth(FEED_TOKEN).json(&list).send().await;
    assert_eq!(fed.expect("an answer").status().as_u16(), 200);

    let file = service.folder.path().join("id-token");
    std::fs::write(&file, key.token(&issuer.claims(&json!({}))) + "\n").expect("written");
    let file = file.display().to_string();
    let deployed = service.run(&[], &["deploy", "a", "--id-token-file", &file]).await;
    let (out, err) = (String::from_utf8_lossy(&deployed.stdout), String::from_utf8_lossy(&deployed.stderr));
    assert!(deployed.status.success() && out.contains("it is deployed\n"), "{out}{err}");
    let who = format!("oidc {} project 7 on main", issuer.url);
    assert!(service.log().contains(&who), "the log says who asked");

    let wrong = key.token(&issuer.claims(&json!({"ref": "feature"})));
    let refused = service.run(&[("LOCKSTEP_ID_TOKEN", &wrong)], &["deploy", "a"]).await;
    let err = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(3), "{err}");
    assert!(
        err.contains("the ID token from LOCKSTEP_ID_TOKEN") && !err.contains(&wrong) && !err.contains("feature"),
        "{err}"
    );
    let log = service.log();
    assert!(log.contains("the claim ref does not have a value that the rule allows"), "{log}");
    assert!(!log.contains(&wrong), "no token is logged");
}
