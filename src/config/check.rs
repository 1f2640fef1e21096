//! What is right by itself and makes no sense together.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use super::Config;
use crate::engine::Mount;
use crate::model::app::{FEED_ACTION, Secret};
use crate::model::output;

/// Where engines listen, beside the one that is configured. A mount of a folder above one of them is a mount of the socket.
const SOCKETS: [&str; 5] = [
    "/var/run/docker.sock",
    "/run/docker.sock",
    "/run/containerd/containerd.sock",
    "/var/run/containerd/containerd.sock",
    "/run/podman/podman.sock",
];

/// The longest time between SIGTERM and SIGKILL.
const STOP_GRACE_MAX: Duration = Duration::from_secs(3600);

/// The shortest retention: what `submit.lua` and `release.lua` keep an `Idempotency-Key` for.
const RETENTION_MIN: Duration = Duration::from_secs(86_400);

/// Notes every contradiction.
pub(super) fn check(config: &Config, errors: &mut Vec<String>) {
    job(config, errors);
    mounts(config, errors);
    tokens(config, errors);
    if config.feed_at_start && !config.runner.actions.keys().any(|action| action.as_str() == FEED_ACTION) {
        errors.push(format!(
            "feed.at_start: the feed is the action {FEED_ACTION}, which runner.actions does not have; add it, or set feed.at_start to false"
        ));
    }
}

fn job(config: &Config, errors: &mut Vec<String>) {
    let mut wrong = |what: &str| errors.push(what.to_owned());
    let job = &config.job;
    if job.start_timeout.is_zero() || job.run_timeout.is_zero() {
        wrong("job.start_timeout and job.run_timeout must be longer than 0");
    }
    if job.idle_timeout.is_some_and(|idle| idle.is_zero()) {
        wrong("job.idle_timeout must be longer than 0; off is written \"off\"");
    }
    if job.idle_timeout.is_some_and(|idle| idle >= job.run_timeout) {
        wrong("job.idle_timeout is not shorter than job.run_timeout, so it would never come first");
    }
    if job.stop_grace > STOP_GRACE_MAX {
        wrong("job.stop_grace must be at most 1h: a job that is canceled keeps the lock so long");
    }
    if job.output_limit > output::LIMIT_MAX {
        wrong(&format!("job.output_limit must be at most {}MiB", output::LIMIT_MAX >> 20));
    }
    if job.retention < RETENTION_MIN {
        wrong(
            "job.retention must be at least 1d: an Idempotency-Key is good for a day, and names a job that must be known",
        );
    }
    if config.release_retention < RETENTION_MIN {
        wrong(
            "release.retention must be at least 1d: an Idempotency-Key is good for a day, and names a release that must be known",
        );
    }
    if job.retention < config.runner.keep {
        wrong(
            "job.retention must not be shorter than runner.keep, so that a container's job is never forgotten before it",
        );
    }
}

fn mounts(config: &Config, errors: &mut Vec<String>) {
    let configured = config.engine_host.as_deref().and_then(|host| host.strip_prefix("unix://"));
    let mut targets = HashSet::new();
    for Mount { source, target, .. } in &config.runner.mounts {
        if let Some(socket) = SOCKETS.into_iter().chain(configured).find(|socket| Path::new(socket).starts_with(source))
        {
            errors.push(format!(
                "runner.mounts: {source} holds the engine's socket ({socket}), which is as good as root on the host; a runner container must not have it"
            ));
        }
        if !targets.insert(target) {
            errors.push(format!("runner.mounts: {target} is the target of two mounts"));
        }
    }
}

fn tokens(config: &Config, errors: &mut Vec<String>) {
    let mut wrong = |what: &str| errors.push(what.to_owned());
    let operators = &config.auth.operators;
    if operators.iter().map(|operator| &operator.name).collect::<HashSet<_>>().len() < operators.len() {
        wrong("auth.operators names an operator twice");
    }
    let tokens: Vec<&Secret> =
        operators.iter().map(|operator| &operator.token).chain(&config.auth.feed_token).collect();
    if tokens.iter().map(|token| token.expose()).collect::<HashSet<_>>().len() < tokens.len() {
        wrong("auth.operators and auth.feed_token hold a token twice; each needs one of its own");
    }
    if tokens.iter().any(|token| token.expose() == config.auth.pepper.expose()) {
        wrong("auth.pepper is also used as a token; it must be nowhere else");
    }
}
