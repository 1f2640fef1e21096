//! Webhooks: which events are sent where, and what follows from a delivery that failed.
//!
//! Each webhook gets its events in order, one at a time, at least once. What follows from a failure:
//!
//! * A receiver that is *away* (not reached, or it says so: 408, 425, 429, 502, 503, 504) is tried again after 5 s, twice as long each
//!   time, at most every 15 minutes. After a day of that what is older than a day becomes a dead letter.
//! * An event that is *refused* (any other answer than 2xx; a redirect is one) is tried 8 times, which takes 10 minutes; then it becomes a
//!   dead letter, and the next one is sent.

use std::time::Duration;

use serde::{Deserialize, Serialize};
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
    /// Only events that concern this person, group or reporter.
    pub recipient: Option<Word>,
}

impl Webhook {
    /// Whether an event is for it.
    pub fn wants(&self, event: &Event) -> bool {
        let of_app = self.deployment_id.as_ref().is_none_or(|app| event.deployment_id.as_ref() == Some(app));
        let concerns = self.recipient.as_ref().is_none_or(|whom| event.concerns(whom));
        let kind = event.kind_of_cloud_event();
        of_app && concerns && (self.types.is_empty() || self.types.iter().any(|prefix| kind.starts_with(prefix)))
    }
}

/// An address as it is shown: what may be a secret in its path is left out.
pub fn shown(url: &Url) -> String {
    let more = if url.path() == "/" && url.query().is_none() { "" } else { "…" };
    format!("{}/{more}", url.origin().ascii_serialization())
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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Streak {
    /// How often the event that is next was refused.
    pub refusals: u32,
    /// How often in a row the receiver was away.
    pub away: u32,
    /// When the first of these was.
    pub away_since_ms: u64,
    /// Failures since the last success, of whichever kind and event.
    pub failures: u32,
    /// When the first of them was.
    pub since_ms: u64,
    /// Not to be tried again before.
    pub next_ms: u64,
}

impl Streak {
    /// What follows from a failure with an event that happened then: the streak, and whether the event is given up.
    pub fn after(self, failure: Failure, happened_ms: u64, now_ms: u64, pace: &Pace) -> (Self, bool) {
        let since = |count: u32, since_ms: u64| if count == 0 { now_ms } else { since_ms };
        let mut next =
            Self { failures: self.failures.saturating_add(1), since_ms: since(self.failures, self.since_ms), ..self };
        let wait = match failure {
            Failure::Away => {
                (next.away, next.away_since_ms) = (self.away.saturating_add(1), since(self.away, self.away_since_ms));
                pace.wait_ms(next.away)
            }
            Failure::Refused => {
                (next.away, next.away_since_ms) = (0, 0);
                next.refusals = self.refusals.saturating_add(1);
                pace.wait_ms(next.refusals)
            }
        };
        let given_up = next.refusals >= pace.tries || next.gives_up(happened_ms, now_ms, pace);
        // A receiver that answers can be sent the next event at once.
        let wait = if given_up && failure == Failure::Refused { 0 } else { wait };
        let next = Self { next_ms: now_ms.saturating_add(wait), ..next };
        (if given_up { next.with_next_event() } else { next }, given_up)
    }

    /// Whether an event that happened then is given up without being tried: nobody has answered for too long.
    pub fn gives_up(self, happened_ms: u64, now_ms: u64, pace: &Pace) -> bool {
        self.away > 0 && pace.older(self.away_since_ms, now_ms) && pace.older(happened_ms, now_ms)
    }

    /// The same, once another event is next.
    pub fn with_next_event(self) -> Self {
        Self { refusals: 0, ..self }
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
    use serde_json::{Map, Value, json};

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

    /// A streak after so many failures of a kind with an event that has just happened, and whether it is given up by the last.
    fn failing(mut streak: Streak, failure: Failure, times: u32, now: u64) -> (Streak, bool) {
        let mut given_up = false;
        for _ in 0..times {
            assert!(!given_up);
            (streak, given_up) = streak.after(failure, now, now, &PACE);
        }
        (streak, given_up)
    }

    #[test]
    fn what_is_refused_is_given_up_after_eight_tries_and_so_is_the_next_one() {
        let mut streak = Streak::default();
        for event in 1..=3 {
            let (before, given_up) = failing(streak, Failure::Refused, 7, 1000);
            assert!(!given_up && before.refusals == 7, "{event}");
            assert_eq!(before.next_ms, 321_000, "the seventh wait is the same for each event");
            let (next, given_up) = before.after(Failure::Refused, 1000, 9000, &PACE);
            assert!(given_up);
            assert_eq!((next.refusals, next.next_ms, next.since_ms, next.failures), (0, 9000, 1000, event * 8));
            // However long that goes on: it answers, so the next one is tried.
            assert!(!next.gives_up(0, 9 * DAY, &PACE));
            streak = next;
        }
    }

    #[test]
    fn a_receiver_that_was_away_may_refuse_as_often_as_any() {
        let (streak, _) = failing(Streak::default(), Failure::Away, 20, 1000);
        let (streak, given_up) = failing(streak, Failure::Refused, 7, 1000);
        assert!(!given_up && streak.away == 0);
        assert!(streak.after(Failure::Refused, 1000, 1000, &PACE).1);
    }

    #[test]
    fn a_receiver_that_is_away_gets_a_day_for_each_event() {
        let (streak, given_up) = Streak::default().after(Failure::Away, 0, 10, &PACE);
        assert!(!given_up);
        let (streak, given_up) = streak.after(Failure::Away, 0, DAY + 10, &PACE);
        assert!(!given_up);
        let (streak, given_up) = streak.after(Failure::Away, 0, DAY + 11, &PACE);
        assert!(given_up);
        // What has waited as long goes with it; what is younger is tried, and kept when that fails.
        let now = DAY + 12;
        assert!(streak.gives_up(0, now, &PACE) && !streak.gives_up(now - DAY, now, &PACE));
        assert!(!streak.after(Failure::Away, now - DAY, now, &PACE).1);
        // Once it has answered, the time begins anew.
        let (streak, _) = streak.after(Failure::Refused, now, now, &PACE);
        assert!(!streak.after(Failure::Away, 0, now, &PACE).1);
        // What is sent again by hand has a new day before it.
        assert!(!Streak::default().gives_up(0, now, &PACE));
        assert!(!Streak::default().after(Failure::Away, 0, now, &PACE).1);
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
        let shown_as = |url: &str| shown(&receiver(url, false).expect("a receiver"));
        assert_eq!(shown_as("https://example.org"), "https://example.org/");
        assert_eq!(shown_as("https://example.org:8443/hooks/T0/B0/key?token=x"), "https://example.org:8443/…");
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
        let hook = |app: Option<&str>, types: &[&str], whom: Option<&str>| Webhook {
            name: "w".parse().expect("a name"),
            url: "https://example.org".parse().expect("a URL"),
            deployment_id: app.map(|app| app.parse().expect("a name")),
            types: types.iter().map(|kind| (*kind).to_owned()).collect(),
            recipient: whom.map(|whom| whom.parse().expect("a name")),
        };
        assert!(hook(None, &[], None).wants(&event("one", "queued")));
        assert!(
            hook(Some("one"), &[], None).wants(&event("one", "queued"))
                && !hook(Some("one"), &[], None).wants(&event("two", "queued"))
        );
        let finished = hook(None, &["x", "dev.cdevents.pipelinerun.finished"], None);
        assert!(finished.wants(&event("one", "failed")) && !finished.wants(&event("one", "running")));
        assert!(!hook(Some("one"), &[], None).wants(&event("", "queued")));
        // What concerns nobody in particular is for those alone who ask for all.
        let to = |to: Value| Event { data: Map::from_iter([("to".into(), to)]), ..event("", "assigned") };
        let testers = hook(None, &[], Some("testers"));
        assert!(testers.wants(&to(json!(["ada", "testers"]))) && !testers.wants(&to(json!(["ada"]))));
        assert!(!testers.wants(&to(json!("testers"))) && !testers.wants(&event("one", "queued")));
        assert!(hook(None, &[], None).wants(&to(json!(["ada"]))));
    }
}
