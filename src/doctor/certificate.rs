//! The certificate, and whether runner containers can reach the API under the name that they are given.

use rustls::server::ParsedCertificate;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};

use super::Check;
use super::x509::{Validity, validity};
use crate::api::tls::Certificate;
use crate::config::Config;

/// What renews a certificate should have done so by then.
const SOON_MS: i64 = 14 * DAY_MS;
const DAY_MS: i64 = 24 * 60 * 60 * 1000;
const RENEW: &str = "make generate-selfsigned-cert, or put a new one there; it is picked up without a restart";

pub(super) fn examine(config: &Config, now_ms: u64) -> Vec<Check> {
    let mut checks = Vec::new();
    match Certificate::load(&config.tls).map(|_| CertificateDer::from_pem_file(&config.tls.certificate)) {
        Ok(Ok(certificate)) => {
            let path = config.tls.certificate.display();
            checks.push(Check::ok("certificate", format!("{path} and its key belong together")));
            checks.push(time(validity(&certificate), i64::try_from(now_ms).unwrap_or(i64::MAX)));
            checks.push(names(&certificate, host(&config.public_url)));
        }
        Ok(Err(error)) => checks.push(Check::problem("certificate", format!("{error}. Run: {RENEW}"))),
        Err(error) => checks.push(Check::problem("certificate", format!("{error}. Run: {RENEW}"))),
    }
    checks.push(way(config));
    checks
}

fn time(validity: Option<Validity>, now_ms: i64) -> Check {
    const ABOUT: &str = "certificate time";
    let Some(Validity { from_ms, until_ms }) = validity else {
        return Check::warning(ABOUT, "from when until when it is good cannot be read");
    };
    let day = |ms: i64| {
        let day = jiff::Timestamp::from_millisecond(ms);
        day.map_or_else(|_| "a day beyond reckoning".to_owned(), |day| day.strftime("%Y-%m-%d").to_string())
    };
    if now_ms < from_ms {
        return Check::problem(ABOUT, format!("good only from {}; check this machine's clock", day(from_ms)));
    }
    let left = until_ms.saturating_sub(now_ms);
    let days = left / DAY_MS;
    if left < 0 {
        Check::problem(ABOUT, format!("it ended on {}: clients refuse it. Run: {RENEW}", day(until_ms)))
    } else if left < SOON_MS {
        Check::warning(ABOUT, format!("it ends on {}, in {days} days. Run: {RENEW}", day(until_ms)))
    } else {
        Check::ok(ABOUT, format!("good until {}, {days} days", day(until_ms)))
    }
}

/// Host of a public URL, which the configuration has checked.
fn host(public_url: &str) -> &str {
    let authority = public_url.trim_start_matches("https://");
    match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => authority.split_once(':').map_or(authority, |(host, _)| host),
    }
}

fn names(certificate: &CertificateDer<'_>, host: &str) -> Check {
    const ABOUT: &str = "certificate names";
    let (Ok(parsed), Ok(name)) = (ParsedCertificate::try_from(certificate), ServerName::try_from(host)) else {
        return Check::warning(ABOUT, "the names in it cannot be read");
    };
    match rustls::client::verify_server_name(&parsed, &name) {
        Ok(()) => Check::ok(ABOUT, format!("it is good for {host}, the host of public_url")),
        Err(_) => Check::problem(
            ABOUT,
            format!(
                "it is not good for {host}, the host of public_url: runner containers would refuse it, and the feed could not post. Make one with that name, or change public_url"
            ),
        ),
    }
}

/// Whether `public_url` leads to `listen`, as far as the two tell.
fn way(config: &Config) -> Check {
    const ABOUT: &str = "public_url";
    let (url, listen) = (&config.public_url, config.listen);
    let port = url.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(443);
    if listen.ip().is_loopback() {
        return Check::warning(
            ABOUT,
            format!(
                "the service listens on {listen} alone, which runner containers do not reach; is {url} forwarded to it?"
            ),
        );
    }
    if port != listen.port() {
        return Check::warning(
            ABOUT,
            format!("{url} has port {port}, the service listens on {}; is it forwarded?", listen.port()),
        );
    }
    Check::ok(ABOUT, format!("{url} has the port on which the service listens"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn hosts_of_urls() {
        for (url, expected) in [
            ("https://host.docker.internal:8443", "host.docker.internal"),
            ("https://example.org", "example.org"),
            ("https://[2001:db8::1]:8443", "2001:db8::1"),
            ("https://192.0.2.1", "192.0.2.1"),
        ] {
            assert_eq!(host(url), expected);
        }
    }

    #[test]
    fn time_runs_out() {
        let span = Validity { from_ms: 100 * DAY_MS, until_ms: 200 * DAY_MS };
        for (day, verdict, says) in [
            (99, Verdict::Problem, "good only from 1970-04-11"),
            (100, Verdict::Ok, "good until 1970-07-20, 100 days"),
            (186, Verdict::Ok, "14 days"),
            (187, Verdict::Warning, "in 13 days"),
            (201, Verdict::Problem, "it ended on 1970-07-20"),
        ] {
            let check = time(Some(span), day * DAY_MS);
            assert_eq!(check.verdict, verdict, "{check:?}");
            assert!(check.says.contains(says), "{check:?}");
        }
        assert_eq!(time(None, 0).verdict, Verdict::Warning);
    }
}
