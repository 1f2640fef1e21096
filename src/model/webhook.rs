//! Webhooks: which events are sent where, and what follows from a delivery that failed.
//!
//! Each webhook gets its events in order, one at a time, at least once. What follows from a failure:
//!
//! * A receiver that is *away* (not reached, or it says so: 408, 425, 429, 502, 503, 504) is tried again after 5 s, twice as long each
//!   time, at most every 15 minutes. After a day of that what is older than a day becomes a dead letter.
//! * An event that is *refused* (any other answer than 2xx; a redirect is one) is tried 8 times, which takes 10 minutes; then it becomes a
//!   dead letter, and the next one is sent.

use std::time::Duration;

use url::Url;

use super::event::Event;
use super::ids::{DeploymentId, Word};

/// The longest address that is taken, in bytes.
pub const URL_MAX: usize = 2048;
/// The most types that a webhook may ask for, and the longest of them, in bytes.
pub const TYPES_MAX: (usize, usize) = (16, 128);

/// How patient a sender is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// The wait after the first failure; doubled from one to the next.
    pub wait: Duration,
    /// The longest wait.
    pub longest: Duration,
    /// So often an event is sent to a receiver that refuses it.
    pub tries: u32,
    /// After so long without an answer events are given up.
    pub patience: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        let minute = Duration::from_secs(60);
        Self { wait: Duration::from_secs(5), longest: 15 * minute, tries: 8, patience: 24 * 60 * minute }
    }
}

/// Where events are sent, and which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// Its name.
    pub name: Word,
    /// The receiver: `https`, on this machine also `http` where that may be called.
    pub url: Url,
    /// Only events of this app.
    pub deployment_id: Option<DeploymentId>,
    /// Only events whose type begins with one of these; none: all.
    pub types: Vec<String>,
}

impl Webhook {
    /// Whether an event is for it.
    pub fn wants(&self, event: &Event) -> bool {
        let of_app = self.deployment_id.as_ref().is_none_or(|app| event.deployment_id.as_ref() == Some(app));
        let kind = event.kind_of_cloud_event();
        of_app && (self.types.is_empty() || self.types.iter().any(|prefix| kind.starts_with(prefix)))
    }
}

/// Reads the address of a receiver. `http_on_loopback`: whether one on this machine may do without TLS.
///
/// # Errors
/// What is wrong with it.
pub fn receiver(text: &str, http_on_loopback: bool) -> Result<Url, String> {
    if text.len() > URL_MAX {
        return Err(format!("has more than {URL_MAX} bytes"));
    }
    let url: Url = text.parse().map_err(|_| "is not a URL".to_owned())?;
    let on_loopback = match url.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    };
    if url.scheme() != "https" && !(url.scheme() == "http" && on_loopback && http_on_loopback) {
        return Err("must begin with https://".into());
    }
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return Err("must have neither a user nor a fragment".into());
    }
    Ok(url)
}

/// How a delivery failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The receiver is not there for the moment.
    Away,
    /// It will not have this event.
    Refused,
}

impl Failure {
    /// By the status of an answer; none: it is a success.
    pub fn of_status(status: u16) -> Option<Self> {
        match status {
            200..=299 => None,
            408 | 425 | 429 | 502..=504 => Some(Self::Away),
            _ => Some(Self::Refused),
        }
    }
}

/// Failures in a row, up to now. Times are milliseconds since 1970.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Streak {
    /// How often the event that is next was tried.
    pub tries: u32,
    /// Failures since the last success, of whichever event.
    pub failures: u32,
    /// When the first of them was.
    pub since_ms: u64,
    /// Not to be tried again before.
    pub next_ms: u64,
}

impl Streak {
    /// What follows from a failure: the streak, and whether the event is given up.
    pub fn after(self, failure: Failure, now_ms: u64, pace: &Pace) -> (Self, bool) {
        let failures = self.failures.saturating_add(1);
        let tries = self.tries.saturating_add(1);
        let since_ms = if self.failures == 0 { now_ms } else { self.since_ms };
        let given_up = match failure {
            Failure::Away => pace.older(since_ms, now_ms),
            Failure::Refused => tries >= pace.tries,
        };
        // A receiver that answers can be sent the next event at once.
        let wait = if given_up && failure == Failure::Refused { 0 } else { pace.wait_ms(failures) };
        let tries = if given_up { 0 } else { tries };
        (Self { tries, failures, since_ms, next_ms: now_ms.saturating_add(wait) }, given_up)
    }

    /// Whether an event that happened then is given up without being tried: nobody has answered for too long.
    pub fn gives_up(self, happened_ms: u64, now_ms: u64, pace: &Pace) -> bool {
        self.failures > 0 && pace.older(self.since_ms, now_ms) && pace.older(happened_ms, now_ms)
    }
}

impl Pace {
    fn older(&self, then_ms: u64, now_ms: u64) -> bool {
        u128::from(now_ms.saturating_sub(then_ms)) > self.patience.as_millis()
    }

    fn wait_ms(&self, failures: u32) -> u64 {
        let doubled = self.wait.saturating_mul(1 << failures.saturating_sub(1).min(16));
        u64::try_from(doubled.min(self.longest).as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::*;

    const DAY: u64 = 24 * 60 * 60 * 1000;
    const MINUTE: Duration = Duration::from_secs(60);
    const PACE: Pace = Pace {
        wait: Duration::from_secs(5),
        longest: MINUTE.saturating_mul(15),
        tries: 8,
        patience: MINUTE.saturating_mul(1440),
    };

    #[test]
    fn waits_double_up_to_a_quarter_of_an_hour() {
        assert_eq!(Pace::default(), PACE);
        let waits: Vec<_> = (1..=10).map(|failures| PACE.wait_ms(failures) / 1000).collect();
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 320, 640, 900, 900]);
        assert_eq!(PACE.wait_ms(u32::MAX), 900_000);
    }

    #[test]
    fn what_is_refused_is_given_up_after_eight_tries_and_the_next_one_is_sent_at_once() {
        let mut streak = Streak::default();
        for tries in 1..8 {
            let (next, given_up) = streak.after(Failure::Refused, 1000, &PACE);
            assert!(!given_up && next.next_ms > 1000, "{tries}");
            assert_eq!(next.tries, tries);
            streak = next;
        }
        let (next, given_up) = streak.after(Failure::Refused, 9000, &PACE);
        assert!(given_up);
        assert_eq!((next.tries, next.next_ms, next.since_ms), (0, 9000, 1000));
        assert!(!next.gives_up(0, DAY, &PACE), "the next one is tried");
    }

    #[test]
    fn a_receiver_that_is_away_gets_a_day() {
        let (streak, given_up) = Streak::default().after(Failure::Away, 10, &PACE);
        assert!(!given_up);
        let (streak, given_up) = streak.after(Failure::Away, DAY + 10, &PACE);
        assert!(!given_up);
        let (streak, given_up) = streak.after(Failure::Away, DAY + 11, &PACE);
        assert!(given_up);
        // What has waited as long goes with it; what is younger is tried.
        let now = DAY + 12;
        assert!(streak.gives_up(0, now, &PACE) && !streak.gives_up(now - DAY, now, &PACE));
        // What is sent again by hand has a new day before it.
        assert!(!Streak::default().gives_up(0, now, &PACE));
        assert!(!Streak::default().after(Failure::Away, now, &PACE).1);
    }

    #[test]
    fn only_success_is_success() {
        for (status, failure) in [
            (200, None),
            (204, None),
            (301, Some(Failure::Refused)),
            (308, Some(Failure::Refused)),
            (400, Some(Failure::Refused)),
            (410, Some(Failure::Refused)),
            (429, Some(Failure::Away)),
            (500, Some(Failure::Refused)),
            (503, Some(Failure::Away)),
        ] {
            assert_eq!(Failure::of_status(status), failure, "{status}");
        }
    }

    #[test]
    fn a_receiver_is_an_https_address() {
        for good in ["https://example.org/hook?x=1", "https://10.0.0.1:8443"] {
            assert!(receiver(good, false).is_ok(), "{good}");
        }
        for bad in [
            "",
            "x",
            "http://example.org",
            "ftp://example.org",
            "https://a:b@example.org",
            "https://e.org/#f",
            "mailto:x",
        ] {
            assert!(receiver(bad, true).is_err(), "{bad}");
        }
        assert!(receiver("http://127.0.0.1:1/", true).is_ok() && receiver("http://127.0.0.1:1/", false).is_err());
        assert!(receiver(&format!("https://example.org/{}", "x".repeat(URL_MAX)), false).is_err());
    }

    #[test]
    fn a_webhook_takes_what_it_asks_for() {
        let event = |app: &str, what: &str| Event {
            at: "1-0".parse().expect("a cursor"),
            kind: "job".into(),
            about: "01GZEC5GJHFKWMK4Z5A1NM9DPF".into(),
            deployment_id: app.parse().ok(),
            inventory: Some("i".parse().expect("a name")),
            what: what.into(),
            data: Map::new(),
        };
        let hook = |app: Option<&str>, types: &[&str]| Webhook {
            name: "w".parse().expect("a name"),
            url: "https://example.org".parse().expect("a URL"),
            deployment_id: app.map(|app| app.parse().expect("a name")),
            types: types.iter().map(|kind| (*kind).to_owned()).collect(),
        };
        assert!(hook(None, &[]).wants(&event("one", "queued")));
        assert!(
            hook(Some("one"), &[]).wants(&event("one", "queued"))
                && !hook(Some("one"), &[]).wants(&event("two", "queued"))
        );
        let finished = hook(None, &["x", "dev.cdevents.pipelinerun.finished"]);
        assert!(finished.wants(&event("one", "failed")) && !finished.wants(&event("one", "running")));
        assert!(!hook(Some("one"), &[]).wants(&event("", "queued")));
    }
}
