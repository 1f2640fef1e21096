//! What tests stand on: servers started for them, and simulators of faults.

pub(crate) mod faulty;
pub(crate) mod issuer;
pub(crate) mod private_engine;
pub(crate) mod proxy;
pub(crate) mod puppet;
pub(crate) mod redis;
pub(crate) mod scripted;
pub(crate) mod service;

use std::time::Duration;

/// How long a test waits for a condition before it gives up: a bound, not a pace.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Asks again and again until there is an answer.
pub(crate) async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        let mut pace = tokio::time::interval(Duration::from_millis(10));
        loop {
            pace.tick().await;
            if let Some(answer) = ask().await {
                return answer;
            }
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("waited {PATIENCE:?} in vain: {what}"))
}

/// Removes the containers that bear a label.
pub(crate) fn remove_containers(label: &str) {
    let listed =
        std::process::Command::new("docker").args(["ps", "-aq", "--filter", &format!("label={label}")]).output();
    let ids = listed.map(|listed| String::from_utf8_lossy(&listed.stdout).into_owned()).unwrap_or_default();
    for id in ids.split_whitespace() {
        let _ = std::process::Command::new("docker").args(["rm", "-fv", id]).output();
    }
}
