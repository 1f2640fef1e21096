//! The OpenAPI document against the running service, by schemathesis (`make setup` puts it into `.tools/`).

use super::support::service::{OPERATOR_TOKEN, Service};

/// Requests made up for each operation.
const EXAMPLES: &str = "15";

#[tokio::test(flavor = "multi_thread")]
async fn the_service_keeps_to_its_document() {
    let service = Service::start(&[("LOCKSTEP_RUNNER_ACTIONS", "app-deploy=true")]).await;
    service.feed(&[("a", "a", "app-deploy")]).await;
    // Wrong credentials are among what is tried, and would get the address barred: the counts are taken away all the while.
    let mut redis = service.redis.connect().await;
    let pattern = format!("lockstep:{}:failures:*", service.instance);
    let unbar = tokio::spawn(async move {
        loop {
            let keys: Vec<String> = redis::cmd("KEYS").arg(&pattern).query_async(&mut redis).await.expect("keys");
            for key in keys {
                redis::cmd("DEL").arg(key).query_async::<()>(&mut redis).await.expect("deleted");
            }
            tokio::task::yield_now().await;
        }
    });
    let run =
        tokio::process::Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.tools/schemathesis/bin/schemathesis"))
            .current_dir(service.folder.path())
            .args(["run", &service.url("/openapi.json"), "--tls-verify=false", "--checks", "all", "-w", "1"])
            .args(["--max-examples", EXAMPLES, "-H", &format!("Authorization: Bearer {OPERATOR_TOKEN}")])
            // Followers do not end by themselves, and who waits for events or for what awaits a reporter waits long.
            .args(["--exclude-path-regex", "/(events|pending)$"])
            // Some endpoints need no credentials; and no schema can say that an offset is beyond the end or a key was used before.
            .args(["--exclude-checks", "ignored_auth,positive_data_acceptance"])
            .output()
            .await
            .expect("schemathesis is there: make setup");
    unbar.abort();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stdout));
}
