//! Events: every change of state, as a CloudEvent 1.0 whose data is a CDEvent 0.4.1.
//!
//! A job is a `pipelineRun` of CDEvents, the pipeline its app. CDEvents knows that one is queued, started and finished; for what it has no
//! type (`starting`, `canceling`) there are types of its custom kind, `dev.cdeventsx.lockstep-job.…`. All that Lockstep itself says of the
//! job stands in `customData`, the same in each.
//!
//! | state | type |
//! |---|---|
//! | `queued` | `dev.cdevents.pipelinerun.queued.0.2.0` |
//! | `starting` | `dev.cdeventsx.lockstep-job.starting.0.1.0` |
//! | `running` | `dev.cdevents.pipelinerun.started.0.2.0` |
//! | `canceling` | `dev.cdeventsx.lockstep-job.canceling.0.1.0` |
//! | an outcome | `dev.cdevents.pipelinerun.finished.0.2.0` |

use std::fmt;
use std::str::FromStr;

use serde_json::{Map, Value, json};

use super::ids::{DeploymentId, Inventory};
use super::job::{Outcome, State};

/// The version of CDEvents that events are written in.
const CDEVENTS: &str = "0.4.1";

/// A place among the events: milliseconds since 1970 by Redis' clock, and a number within them. Written `1700000000000-0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    ms: u64,
    number: u64,
}

/// Not two numbers with a hyphen in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be the id of an event, such as 1700000000000-0")]
pub struct NotACursor;

impl Cursor {
    /// Before every event.
    pub const START: Self = Self { ms: 0, number: 0 };

    /// Behind every event.
    pub const END: Self = Self { ms: u64::MAX, number: u64::MAX };

    /// When it was given, in milliseconds since 1970.
    pub fn ms(self) -> u64 {
        self.ms
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.number)
    }
}

impl FromStr for Cursor {
    type Err = NotACursor;

    fn from_str(text: &str) -> Result<Self, NotACursor> {
        let digits = |text: &str| {
            let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            if plain { text.parse().ok() } else { None }
        };
        let (ms, number) = text.split_once('-').ok_or(NotACursor)?;
        Ok(Self { ms: digits(ms).ok_or(NotACursor)?, number: digits(number).ok_or(NotACursor)? })
    }
}

/// Something that has happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its place among all events, which names it.
    pub at: Cursor,
    /// What it is about: `job`.
    pub kind: String,
    /// Which one.
    pub about: String,
    /// The app concerned.
    pub deployment_id: Option<DeploymentId>,
    /// The inventory concerned.
    pub inventory: Option<Inventory>,
    /// What has happened to it: a job's new state.
    pub what: String,
    /// What else is to be said.
    pub data: Map<String, Value>,
}

impl Event {
    /// Its CloudEvents type.
    pub fn kind_of_cloud_event(&self) -> String {
        let run = |word| format!("dev.cdevents.pipelinerun.{word}.0.2.0");
        match (self.kind.as_str(), self.what.parse()) {
            ("job", Ok(State::Queued)) => run("queued"),
            ("job", Ok(State::Running)) => run("started"),
            ("job", Ok(State::Ended(_))) => run("finished"),
            (kind, _) => format!("dev.cdeventsx.lockstep-{kind}.{}.0.1.0", self.what),
        }
    }

    /// The CDEvent, which is the CloudEvent's data. `source` names the installation; `url` is where clients reach it, `time` when it
    /// happened, as RFC 3339.
    pub fn cd_event(&self, source: &str, url: &str, time: &str) -> Value {
        let kind = self.kind_of_cloud_event();
        let state: Option<State> = self.what.parse().ok();
        let mut content = json!({
            "pipelineName": self.deployment_id,
            "url": format!("{}/api/v1/{}s/{}", url.trim_end_matches('/'), self.kind, self.about),
        });
        if let Some(outcome) = state.and_then(State::outcome) {
            content["outcome"] = cd_outcome(outcome).into();
            if let (true, Some(reason)) = (outcome != Outcome::Succeeded, self.data.get("reason")) {
                content["errors"] = reason.clone();
            }
        }
        let of_cdevents = kind.starts_with("dev.cdevents.");
        let mut custom = self.data.clone();
        for name in ["fence", "exit_code"] {
            // Redis keeps texts.
            if let Some(number) = custom.get(name).and_then(Value::as_str).and_then(|text| text.parse::<i64>().ok()) {
                custom.insert(name.into(), number.into());
            }
        }
        custom.insert("state".into(), self.what.as_str().into());
        custom.insert("deployment_id".into(), json!(self.deployment_id));
        custom.insert("inventory".into(), json!(self.inventory));
        json!({
            "context": {
                "version": CDEVENTS, "id": self.at.to_string(), "source": source, "type": kind, "timestamp": time,
            },
            "subject": {
                "id": self.about,
                "source": source,
                "type": if of_cdevents { "pipelineRun".to_owned() } else { format!("lockstep-{}", self.kind) },
                "content": content,
            },
            "customData": custom,
            "customDataContentType": "application/json",
        })
    }
}

/// CDEvents' words: `failure` is a run that ended and did not do what it should, `error` one that did not get to its end.
fn cd_outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Succeeded => "success",
        Outcome::Failed => "failure",
        Outcome::Canceled | Outcome::TimedOut | Outcome::Superseded | Outcome::Lost => "error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_written_one_way_and_ordered() {
        let cursor = |text: &str| text.parse::<Cursor>();
        assert_eq!(cursor("1700000000000-12").expect("a cursor").to_string(), "1700000000000-12");
        assert!(cursor("2-0").expect("a cursor") > cursor("1-9").expect("a cursor"));
        assert!(cursor("1-10").expect("a cursor") > cursor("1-9").expect("a cursor"));
        for bad in ["", "-", "1", "1-", "-1", "1-x", "+1-0", "1--0", "99999999999999999999-0", "$", "(1-0"] {
            assert_eq!(cursor(bad), Err(NotACursor), "{bad}");
        }
    }

    #[test]
    fn a_change_of_state_is_a_cd_event() {
        let event = |what: &str| Event {
            at: "1700000000000-1".parse().expect("a cursor"),
            kind: "job".into(),
            about: "01GZEC5GJHFKWMK4Z5A1NM9DPF".into(),
            deployment_id: Some("app-one".parse().expect("a name")),
            inventory: Some("app-one.epfl.ch".parse().expect("a name")),
            what: what.into(),
            data: json!({"fence": "7", "reason": "why"}).as_object().cloned().expect("an object"),
        };
        for (what, kind, subject, outcome) in [
            ("queued", "dev.cdevents.pipelinerun.queued.0.2.0", "pipelineRun", None),
            ("starting", "dev.cdeventsx.lockstep-job.starting.0.1.0", "lockstep-job", None),
            ("running", "dev.cdevents.pipelinerun.started.0.2.0", "pipelineRun", None),
            ("canceling", "dev.cdeventsx.lockstep-job.canceling.0.1.0", "lockstep-job", None),
            ("succeeded", "dev.cdevents.pipelinerun.finished.0.2.0", "pipelineRun", Some("success")),
            ("failed", "dev.cdevents.pipelinerun.finished.0.2.0", "pipelineRun", Some("failure")),
            ("lost", "dev.cdevents.pipelinerun.finished.0.2.0", "pipelineRun", Some("error")),
        ] {
            let event = event(what);
            assert_eq!(event.kind_of_cloud_event(), kind);
            let data = event.cd_event("/lockstep/x", "https://h/", "2026-01-01T00:00:00Z");
            assert_eq!(data["context"]["type"], kind);
            assert_eq!(data["context"]["id"], "1700000000000-1");
            assert_eq!(data["subject"]["type"], subject, "{what}");
            assert_eq!(data["subject"]["content"]["outcome"].as_str(), outcome, "{what}");
            assert_eq!(
                data["subject"]["content"]["errors"].as_str(),
                outcome.filter(|it| *it != "success").map(|_| "why")
            );
            assert_eq!(data["subject"]["content"]["url"], "https://h/api/v1/jobs/01GZEC5GJHFKWMK4Z5A1NM9DPF");
            assert_eq!((&data["customData"]["state"], &data["customData"]["fence"]), (&json!(what), &json!(7)));
            assert_eq!(data["customData"]["inventory"], "app-one.epfl.ch");
        }
    }
}
