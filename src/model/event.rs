//! Events: every change of state, as a CloudEvent 1.0 whose data is a CDEvent 0.4.1.
//!
//! A job is a `pipelineRun` of CDEvents, the pipeline its app. CDEvents knows that one is queued, started and finished; for what it has no
//! type (`starting`, `canceling`) there are types of its custom kind, `dev.cdeventsx.lockstep-job.…`. All that Lockstep itself says of the
//! job stands in `customData`, the same in each.
//!
//! | a job's state | type |
//! |---|---|
//! | `queued` | `dev.cdevents.pipelinerun.queued.0.2.0` |
//! | `starting` | `dev.cdeventsx.lockstep-job.starting.0.1.0` |
//! | `running` | `dev.cdevents.pipelinerun.started.0.2.0` |
//! | `canceling` | `dev.cdeventsx.lockstep-job.canceling.0.1.0` |
//! | an outcome | `dev.cdevents.pipelinerun.finished.0.2.0` |
//!
//! A release is a `pipelineRun` as well, once for each stage that it is sent to, and each of its steps a `taskRun` of it; so is its promotion
//! to the next stage. What is finished has an outcome by its `result`: `pass` and `warning` are a success, `fail` is a failure,
//! `inconclusive` an error. In `customData`, `event` is the word itself, beside all that is said of it.
//!
//! | what happens to a release | type |
//! |---|---|
//! | `configuration-change.triggered` | `dev.cdevents.pipelinerun.queued.0.2.0` |
//! | `configuration-change.finished` | `dev.cdevents.pipelinerun.finished.0.2.0` |
//! | `STEP.started`, `promote.started` | `dev.cdevents.taskrun.started.0.2.0` |
//! | `STEP.finished`, `promote.finished` | `dev.cdevents.taskrun.finished.0.2.0` |
//! | anything else, such as `STEP.triggered`, `assigned`, `accepted` | `dev.cdeventsx.lockstep-release.LAST-WORD.0.1.0` |
//!
//! So is an order, whose pipeline is its environment; `taskRun`s are its tasks, and each service in them (`services.ID`).
//!
//! | what happens to an order | type |
//! |---|---|
//! | `queued` | `dev.cdevents.pipelinerun.queued.0.2.0` |
//! | `started` | `dev.cdevents.pipelinerun.started.0.2.0` |
//! | `finished` | `dev.cdevents.pipelinerun.finished.0.2.0` |
//! | `TASK.started`, `TASK.SERVICE.started` | `dev.cdevents.taskrun.started.0.2.0` |
//! | `TASK.finished`, `TASK.SERVICE.finished` | `dev.cdevents.taskrun.finished.0.2.0` |
//! | anything else: `canceling`, `left` | `dev.cdeventsx.lockstep-order.WORD.0.1.0` |

use std::fmt;
use std::str::FromStr;

use serde_json::{Map, Value, json};

use super::ids::{DeploymentId, Inventory, Word};
use super::job::{Outcome, State};
use super::release::Finding;

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
    /// What it is about: `job`, `release` or `order`.
    pub kind: String,
    /// Which one.
    pub about: String,
    /// The app concerned.
    pub deployment_id: Option<DeploymentId>,
    /// The inventory concerned.
    pub inventory: Option<Inventory>,
    /// What has happened to it: a job's new state, or a word of a release such as `tests.finished`.
    pub what: String,
    /// What else is to be said.
    pub data: Map<String, Value>,
}

impl Event {
    /// Whether it names somebody among those whom it concerns: a person, a group or a reporter.
    pub fn concerns(&self, whom: &Word) -> bool {
        let named = self.data.get("to").and_then(Value::as_array);
        named.is_some_and(|names| names.iter().any(|name| name.as_str() == Some(whom.as_str())))
    }

    /// What it is to CDEvents.
    fn form(&self) -> Form<'_> {
        match (self.kind.as_str(), self.what.parse()) {
            ("job", Ok(State::Queued)) => return Form::Run("queued"),
            ("job", Ok(State::Running)) => return Form::Run("started"),
            ("job", Ok(State::Ended(_))) => return Form::Run("finished"),
            ("release" | "order", _) => {}
            _ => return Form::Own(&self.what),
        }
        let Some((whose, word)) = self.what.rsplit_once('.') else {
            return match (self.kind.as_str(), self.what.as_str()) {
                ("order", "queued") => Form::Run("queued"),
                ("order", "started") => Form::Run("started"),
                ("order", "finished") => Form::Run("finished"),
                (_, word) => Form::Own(word),
            };
        };
        match (whose, word) {
            // A step may be called so as well, and says which it is.
            ("configuration-change", "triggered") if !self.data.contains_key("step") => Form::Run("queued"),
            ("configuration-change", "finished") if !self.data.contains_key("step") => Form::Run("finished"),
            (task, "started" | "finished") => Form::Task(task, word),
            (_, word) => Form::Own(word),
        }
    }

    /// Its CloudEvents type.
    pub fn kind_of_cloud_event(&self) -> String {
        match self.form() {
            Form::Run(word) => format!("dev.cdevents.pipelinerun.{word}.0.2.0"),
            Form::Task(_, word) => format!("dev.cdevents.taskrun.{word}.0.2.0"),
            Form::Own(word) => format!("dev.cdeventsx.lockstep-{}.{word}.0.1.0", self.kind),
        }
    }

    /// The CDEvent, which is the CloudEvent's data. `source` names the installation; `url` is where clients reach it, `time` when it
    /// happened, as RFC 3339.
    pub fn cd_event(&self, source: &str, url: &str, time: &str) -> Value {
        let url = format!("{}/api/v1/{}s/{}", url.trim_end_matches('/'), self.kind, self.about);
        let of_job = self.kind == "job";
        let form = self.form();
        let mut content = match form {
            Form::Task(name, _) => {
                json!({"taskName": name, "url": url, "pipelineRun": {"id": self.about, "source": source}})
            }
            Form::Run(_) | Form::Own(_) if of_job => json!({"pipelineName": self.deployment_id, "url": url}),
            Form::Run(_) | Form::Own(_) => {
                let pipeline = self.data.get("pipeline").or_else(|| self.data.get("environment"));
                json!({"pipelineName": pipeline, "url": url})
            }
        };
        if let (Some(outcome), Value::Object(content)) = (self.outcome(form), &mut content) {
            content.insert("outcome".into(), outcome.into());
            let why = self.data.get(if self.kind == "release" { "note" } else { "reason" });
            content.extend(why.filter(|_| outcome != "success").map(|why| ("errors".to_owned(), why.clone())));
        }
        if let (false, Value::Object(content)) = (of_job, &mut content) {
            content.retain(|_, value| !value.is_null());
        }
        let (id, kind) = match form {
            Form::Run(_) => (self.about.clone(), "pipelineRun".to_owned()),
            // Each has an id of its own: a release is in several stages, and has several steps.
            Form::Task(name, _) => {
                let stage = self.data.get("stage").and_then(Value::as_str);
                let stage = stage.map(|stage| format!("{stage}/")).unwrap_or_default();
                (format!("{}/{stage}{name}", self.about), "taskRun".to_owned())
            }
            Form::Own(_) => (self.about.clone(), format!("lockstep-{}", self.kind)),
        };
        json!({
            "context": {
                "version": CDEVENTS, "id": self.at.to_string(), "source": source, "type": self.kind_of_cloud_event(),
                "timestamp": time,
            },
            "subject": {"id": id, "source": source, "type": kind, "content": content},
            "customData": self.custom(),
            "customDataContentType": "application/json",
        })
    }

    /// What Lockstep itself says of it.
    fn custom(&self) -> Map<String, Value> {
        let mut custom = self.data.clone();
        if self.kind != "job" {
            custom.insert("event".into(), self.what.as_str().into());
            return custom;
        }
        for name in ["fence", "exit_code"] {
            // Redis keeps texts.
            if let Some(number) = custom.get(name).and_then(Value::as_str).and_then(|text| text.parse::<i64>().ok()) {
                custom.insert(name.into(), number.into());
            }
        }
        custom.insert("state".into(), self.what.as_str().into());
        custom.insert("deployment_id".into(), json!(self.deployment_id));
        custom.insert("inventory".into(), json!(self.inventory));
        custom
    }

    /// How it ended, in CDEvents' words; none: it is not an end.
    fn outcome(&self, form: Form<'_>) -> Option<&'static str> {
        if self.kind == "job" {
            return self.what.parse().ok().and_then(State::outcome).map(cd_outcome);
        }
        let (Form::Run("finished") | Form::Task(_, "finished")) = form else { return None };
        let result = self.data.get("result").and_then(Value::as_str).and_then(|text| text.parse().ok());
        Some(match result {
            // What has no result, such as a promotion, cannot fail.
            None | Some(Finding::Pass | Finding::Warning) => "success",
            Some(Finding::Fail) => "failure",
            Some(Finding::Inconclusive) => "error",
        })
    }
}

/// What an event is to CDEvents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form<'a> {
    /// A `pipelineRun`, and what has happened to it.
    Run(&'static str),
    /// A `taskRun` of this name, and what has happened to it.
    Task(&'a str, &'a str),
    /// Something that it does not know.
    Own(&'a str),
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

    #[test]
    fn what_happens_to_a_release_is_a_run_a_task_or_its_own() {
        let event = |what: &str, data: Value| Event {
            at: "1700000000000-1".parse().expect("a cursor"),
            kind: "release".into(),
            about: "01GZEC5GJHFKWMK4Z5A1NM9DPF".into(),
            deployment_id: None,
            inventory: None,
            what: what.into(),
            data: data.as_object().cloned().expect("an object"),
        };
        let (queued, ended) = ("dev.cdevents.pipelinerun.queued.0.2.0", "dev.cdevents.pipelinerun.finished.0.2.0");
        let (begun, done) = ("dev.cdevents.taskrun.started.0.2.0", "dev.cdevents.taskrun.finished.0.2.0");
        let own = |word: &str| format!("dev.cdeventsx.lockstep-release.{word}.0.1.0");
        for (what, data, kind, subject, outcome) in [
            ("configuration-change.triggered", json!({"stage": "dev"}), queued.to_owned(), "pipelineRun", None),
            (
                "configuration-change.finished",
                json!({"stage": "dev", "result": "warning"}),
                ended.to_owned(),
                "pipelineRun",
                Some("success"),
            ),
            (
                "configuration-change.finished",
                json!({"stage": "dev", "result": "fail"}),
                ended.to_owned(),
                "pipelineRun",
                Some("failure"),
            ),
            ("deploy_blue_green.started", json!({"stage": "dev"}), begun.to_owned(), "taskRun", None),
            ("tests.finished", json!({"stage": "dev", "result": "pass"}), done.to_owned(), "taskRun", Some("success")),
            (
                "tests.finished",
                json!({"stage": "dev", "result": "inconclusive"}),
                done.to_owned(),
                "taskRun",
                Some("error"),
            ),
            (
                "configuration-change.finished",
                json!({"step": "configuration-change", "result": "pass"}),
                done.to_owned(),
                "taskRun",
                Some("success"),
            ),
            ("promote.triggered", json!({"stage": "dev"}), own("triggered"), "lockstep-release", None),
            ("promote.finished", json!({"stage": "dev"}), done.to_owned(), "taskRun", Some("success")),
            ("a.b.requested", json!({}), own("requested"), "lockstep-release", None),
            // Words that a job's state has as well.
            ("failed", json!({}), own("failed"), "lockstep-release", None),
            ("accepted_with_warnings", json!({}), own("accepted_with_warnings"), "lockstep-release", None),
        ] {
            let event = event(what, data);
            assert_eq!(event.kind_of_cloud_event(), kind);
            let data = event.cd_event("/lockstep/x", "https://h/", "2026-01-01T00:00:00Z");
            assert_eq!(data["context"]["type"], kind);
            assert_eq!(data["subject"]["type"], subject, "{what}");
            assert_eq!(data["subject"]["content"]["outcome"].as_str(), outcome, "{what}");
            assert_eq!(data["customData"]["event"], what);
            assert_eq!((data["customData"].get("state"), data["customData"].get("inventory")), (None, None));
        }
        let data = event("tests.finished", json!({"stage": "dev", "step": "tests", "result": "fail", "note": "why"}));
        let data = data.cd_event("/lockstep/x", "https://h/", "2026-01-01T00:00:00Z");
        let about = "01GZEC5GJHFKWMK4Z5A1NM9DPF";
        assert_eq!(
            data["subject"],
            json!({
                "id": format!("{about}/dev/tests"), "source": "/lockstep/x", "type": "taskRun",
                "content": {
                    "taskName": "tests", "url": format!("https://h/api/v1/releases/{about}"), "outcome": "failure",
                    "pipelineRun": {"id": about, "source": "/lockstep/x"}, "errors": "why",
                },
            })
        );
        assert_eq!(
            data["customData"],
            json!({"event": "tests.finished", "stage": "dev", "step": "tests", "result": "fail", "note": "why"})
        );
    }

    #[test]
    fn what_happens_to_an_order_is_a_run_or_a_task() {
        for (what, data, kind, id, outcome) in [
            ("queued", json!({}), "pipelinerun.queued", "3/7", None),
            ("started", json!({}), "pipelinerun.started", "3/7", None),
            ("finished", json!({"result": "fail", "reason": "why"}), "pipelinerun.finished", "3/7", Some("failure")),
            ("domains.started", json!({}), "taskrun.started", "3/7/domains", None),
            ("services.6.finished", json!({"result": "pass"}), "taskrun.finished", "3/7/services.6", Some("success")),
        ] {
            let mut data = data.as_object().cloned().expect("an object");
            data.insert("environment".into(), "3".into());
            let event = Event {
                at: "1700000000000-1".parse().expect("a cursor"),
                kind: "order".into(),
                about: "3/7".into(),
                deployment_id: None,
                inventory: None,
                what: what.into(),
                data,
            };
            let kind = format!("dev.cdevents.{kind}.0.2.0");
            let event = event.cd_event("/lockstep/x", "https://h/", "2026-01-01T00:00:00Z");
            let content = &event["subject"]["content"];
            assert_eq!((&event["context"]["type"], &event["subject"]["id"]), (&json!(kind), &json!(id)));
            assert_eq!(content["url"], "https://h/api/v1/orders/3/7");
            assert_eq!(content["outcome"].as_str(), outcome, "{what}");
            assert_eq!(content["errors"].as_str(), outcome.filter(|word| *word == "failure").map(|_| "why"));
            assert_eq!(event["customData"]["event"], what);
        }
    }

    #[test]
    fn whom_an_event_concerns_is_said_as_a_list() {
        let to = |to: Value| Event {
            at: Cursor::START,
            kind: "release".into(),
            about: String::new(),
            deployment_id: None,
            inventory: None,
            what: "assigned".into(),
            data: Map::from_iter([("to".into(), to)]),
        };
        let ada: Word = "ada".parse().expect("a name");
        assert!(to(json!(["bob", "ada"])).concerns(&ada));
        assert!(
            !to(json!(["bob"])).concerns(&ada) && !to(json!("ada")).concerns(&ada) && !to(json!(null)).concerns(&ada)
        );
    }
}
