//! `lockstep doctor`: looks at everything the service stands on, and says what to do.

use std::path::Path;

use redis::AsyncCommands as _;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::Serialize;

use crate::config::Config;
use crate::engine::Engine;
use crate::engine::docker::Docker;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Works, with something at risk.
    Warning,
    /// Does not work.
    Problem,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub about: &'static str,
    /// How it came out.
    pub verdict: Verdict,
    /// What was seen, and what to do.
    pub says: String,
}

fn check(about: &'static str, verdict: Verdict, says: impl Into<String>) -> Check {
    Check { about, verdict, says: says.into() }
}

/// All checks.
pub async fn examine(config: &Config) -> Vec<Check> {
    let mut checks = vec![certificate(&config.tls.certificate, &config.tls.key)];
    checks.extend(redis(config.redis_url.expose()).await);
    checks.extend(engine(config).await);
    checks
}

fn certificate(certificate: &Path, key: &Path) -> Check {
    let shown = certificate.display();
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect);
    let Ok(chain) = chain else {
        return check(
            "certificate",
            Verdict::Problem,
            format!("{shown} cannot be read as PEM; run: make generate-selfsigned-cert"),
        );
    };
    let Ok(key) = PrivateKeyDer::from_pem_file(key) else {
        return check("certificate", Verdict::Problem, format!("{} cannot be read as a PEM key", key.display()));
    };
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    match rustls::sign::CertifiedKey::from_der(chain, key, &provider) {
        Ok(_) => check("certificate", Verdict::Ok, format!("{shown} and its key belong together")),
        Err(error) => check("certificate", Verdict::Problem, format!("{shown} and its key cannot be used: {error}")),
    }
}

/// What Redis does with memory and disk. The first check says whether it answers.
pub async fn redis(url: &str) -> Vec<Check> {
    let connected = async {
        let client = redis::Client::open(url)?;
        let config = redis::AsyncConnectionConfig::new()
            .set_connection_timeout(Some(std::time::Duration::from_secs(2)))
            .set_response_timeout(Some(std::time::Duration::from_secs(2)));
        client.get_multiplexed_async_connection_with_config(&config).await
    };
    let mut connection = match connected.await {
        Ok(connection) => connection,
        Err(error) => {
            let says = format!("Redis is not reached: {error}. Check redis.url, and that it runs");
            return vec![check("redis", Verdict::Problem, says)];
        }
    };
    let mut setting = async |name: &str| -> Option<String> {
        let reply: Result<Vec<String>, _> =
            redis::cmd("CONFIG").arg("GET").arg(name).query_async(&mut connection).await;
        reply.ok()?.into_iter().nth(1)
    };
    let policy = setting("maxmemory-policy").await;
    let (append_only, fsync) = (setting("appendonly").await, setting("appendfsync").await);
    let info: String = redis::cmd("INFO").arg("server").query_async(&mut connection).await.unwrap_or_default();
    let version = info.lines().find_map(|line| line.strip_prefix("redis_version:")).unwrap_or("?").to_owned();
    let _: Result<(), _> = connection.ping().await;
    vec![
        check("redis", Verdict::Ok, format!("Redis {version} answers")),
        eviction(policy.as_deref()),
        durability(append_only.as_deref(), fsync.as_deref()),
    ]
}

/// A Redis that evicts keys could throw a lock away.
pub fn eviction(policy: Option<&str>) -> Check {
    match policy {
        Some("noeviction") => check("redis eviction", Verdict::Ok, "nothing is evicted"),
        Some(policy) => check(
            "redis eviction",
            Verdict::Problem,
            format!("maxmemory-policy is {policy}: a lock could be thrown away. Set maxmemory-policy noeviction"),
        ),
        None => check(
            "redis eviction",
            Verdict::Warning,
            "CONFIG GET is not allowed, so it is not known whether keys are evicted. See to it that maxmemory-policy is noeviction",
        ),
    }
}

fn durability(append_only: Option<&str>, fsync: Option<&str>) -> Check {
    let about = "redis durability";
    match (append_only, fsync) {
        (Some("yes"), Some("always")) => check(about, Verdict::Ok, "every answered write is on disk"),
        (Some("yes"), Some(fsync)) => check(
            about,
            Verdict::Warning,
            format!(
                "appendfsync is {fsync}: after a loss of power the last second's jobs may be lost. Set appendfsync always"
            ),
        ),
        (Some(_), _) => check(
            about,
            Verdict::Warning,
            "appendonly is off: jobs since the last snapshot are lost when Redis dies. Set appendonly yes and appendfsync always",
        ),
        (None, _) => check(about, Verdict::Warning, "CONFIG GET is not allowed, so it is not known what is on disk"),
    }
}

async fn engine(config: &Config) -> Vec<Check> {
    let docker = match Docker::connect(config.engine_host.as_deref()) {
        Ok(docker) => docker,
        Err(error) => return vec![check("engine", Verdict::Problem, error.to_string())],
    };
    if let Err(error) = docker.id().await {
        return vec![check(
            "engine",
            Verdict::Problem,
            format!("{error}. Check engine.host, and that this user may use its socket"),
        )];
    }
    let image = match docker.ensure_image(&config.runner.image, crate::engine::Pull::Never, None).await {
        Ok(digest) => check("image", Verdict::Ok, format!("{} is there ({digest})", config.runner.image)),
        Err(error) if config.runner.pull == crate::engine::Pull::Never => {
            check("image", Verdict::Problem, error.to_string())
        }
        Err(_) => check(
            "image",
            Verdict::Warning,
            format!("{} is not there yet; the first job pulls it", config.runner.image),
        ),
    };
    vec![check("engine", Verdict::Ok, "the engine answers"), image]
}
