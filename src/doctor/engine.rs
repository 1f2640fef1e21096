//! What the engine must have, and what it should.

use super::Check;
use crate::config::Config;
use crate::engine::docker::{About, Docker};
use crate::engine::{Engine as _, Pull};

/// The oldest engine on which all of it is known to work.
const OLDEST: (u32, u32) = (20, 10);

pub(super) async fn examine(config: &Config) -> Vec<Check> {
    let docker = match Docker::connect(config.engine_host.as_deref()) {
        Ok(docker) => docker,
        Err(error) => return vec![Check::problem("engine", error.to_string())],
    };
    let about = match docker.about().await {
        Ok(about) => about,
        Err(error) => {
            let says = format!("{error}. Check engine.host, that it runs, and that this user may use its socket");
            return vec![Check::problem("engine", says)];
        }
    };
    let mut checks = judge(&about);
    if let Some(network) = &config.runner.network {
        checks.push(match docker.has_network(network).await {
            Ok(true) => Check::ok("runner network", format!("{network} is there")),
            Ok(false) => Check::problem(
                "runner network",
                format!(
                    "the engine has no network {network}: docker network create {network}, or change runner.network"
                ),
            ),
            Err(error) => Check::problem("runner network", error.to_string()),
        });
    }
    let image = &config.runner.image;
    checks.push(match (docker.ensure_image(image, Pull::Never, None).await, config.runner.pull) {
        (Ok(digest), _) => Check::ok("runner image", format!("{image} is there ({digest})")),
        (Err(error), Pull::Never) => Check::problem("runner image", error.to_string()),
        (Err(_), Pull::Missing | Pull::Always) => Check::warning(
            "runner image",
            format!("{image} is not there yet; the first job pulls it, and waits for that"),
        ),
    });
    checks
}

fn judge(about: &About) -> Vec<Check> {
    let About { version, live_restore, keeps_logs, unlimited } = about;
    let mut checks = vec![match release(version) {
        Some(release) if release < OLDEST => {
            Check::problem("engine", format!("Docker {version} is too old; 20.10 or later is needed"))
        }
        _ => Check::ok("engine", format!("Docker {version} answers")),
    }];
    checks.push(if *live_restore {
        Check::ok("engine live-restore", "containers go on while the engine is restarted")
    } else {
        Check::warning(
            "engine live-restore",
            "off: running jobs end when the engine is restarted. Set \"live-restore\": true in its daemon.json and reload it",
        )
    });
    if !keeps_logs {
        let says = "the engine has no logging driver json-file, from which output is read";
        checks.push(Check::problem("engine logs", says));
    }
    if !unlimited.is_empty() {
        let says =
            format!("not enforced by this engine and kernel: {}; a job can take all there is", unlimited.join(", "));
        checks.push(Check::warning("engine limits", says));
    }
    checks
}

/// The first two numbers of a version.
fn release(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split(['.', '-', '+']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict::{self, Ok, Problem, Warning};

    #[test]
    fn engines_are_judged_by_what_they_have() {
        let good = || About { version: "27.3.1".into(), live_restore: true, keeps_logs: true, unlimited: Vec::new() };
        let verdicts = |about: About| judge(&about).iter().map(|check| check.verdict).collect::<Vec<Verdict>>();
        assert_eq!(verdicts(good()), [Ok, Ok]);
        assert_eq!(verdicts(About { version: "20.10.24+dfsg1".into(), ..good() }), [Ok, Ok]);
        assert_eq!(verdicts(About { version: "19.03.8".into(), ..good() }), [Problem, Ok]);
        assert_eq!(verdicts(About { version: "master".into(), ..good() }), [Ok, Ok]);
        assert_eq!(verdicts(About { live_restore: false, ..good() }), [Ok, Warning]);
        assert_eq!(verdicts(About { keeps_logs: false, ..good() }), [Ok, Ok, Problem]);
        assert_eq!(verdicts(About { unlimited: vec!["pids"], ..good() }), [Ok, Ok, Warning]);
    }
}
