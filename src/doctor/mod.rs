//! `lockstep doctor`: looks at everything that the service stands on, and says what to do.
//!
//! Every check is one line: `ok`; `warning`: it works, and something is at risk; `problem`: it does not work. Nothing is changed
//! by looking. The start of the service makes the checks of Redis' durability and eviction as well ([`redis::standing`]).
//!
//! - `redis.rs`: reached, version, eviction, durability, rights
//! - `engine.rs`: reached, version, live-restore, limits, network, image
//! - `certificate.rs`, `x509.rs`: certificate, its names and its end, and how runner containers reach the API

use serde::Serialize;

use crate::config::Config;

mod certificate;
mod engine;
pub mod redis;
mod x509;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
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
    /// What was seen, and what to do. No secret.
    pub says: String,
}

impl Check {
    /// As it should be.
    fn ok(about: &'static str, says: impl Into<String>) -> Self {
        Self { about, verdict: Verdict::Ok, says: says.into() }
    }

    /// Works, with something at risk.
    fn warning(about: &'static str, says: impl Into<String>) -> Self {
        Self { about, verdict: Verdict::Warning, says: says.into() }
    }

    /// Does not work.
    fn problem(about: &'static str, says: impl Into<String>) -> Self {
        Self { about, verdict: Verdict::Problem, says: says.into() }
    }

    /// The check that there is a configuration; a problem for each thing that is wrong with it.
    pub fn of_configuration(errors: &[String]) -> Vec<Self> {
        const ABOUT: &str = "configuration";
        match errors {
            [] => vec![Self::ok(ABOUT, "every key can be used")],
            _ => errors.iter().map(|error| Self::problem(ABOUT, error.clone())).collect(),
        }
    }
}

/// All checks. `now_ms`: milliseconds since 1970.
pub async fn examine(config: &Config, now_ms: u64) -> Vec<Check> {
    let mut checks = Check::of_configuration(&[]);
    checks.extend(certificate::examine(config, now_ms));
    let (of_redis, of_engine) = tokio::join!(redis::examine(config), engine::examine(config));
    checks.extend(of_redis);
    checks.extend(of_engine);
    checks
}

/// The checks for people, a line each.
pub fn report(checks: &[Check]) -> String {
    let mut text = String::new();
    for Check { about, verdict, says } in checks {
        let verdict = match verdict {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Problem => "PROBLEM",
        };
        text.push_str(&format!("{verdict:<8} {about:<19} {says}\n"));
    }
    text
}
