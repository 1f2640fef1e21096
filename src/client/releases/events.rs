//! `lockstep release events`, and the watching of a release until it stands still.

use serde_json::Value;

use super::args::Events;
use super::history::{History, Piece, patiently};
use super::look;
use super::words::when;
use crate::client::escape::plain;
use crate::client::exit::{Exit, Fault};
use crate::client::http::{CallError, Http};
use crate::client::operate::say_value;
use crate::client::screen::{Screen, Tone};
use crate::client::signals::Signals;
use crate::model::ids::ReleaseId;
use crate::wire::{CloudEvent, DeploymentState, ReleaseView, Standing};

/// How far a release is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// To the last event that there is now.
    Now,
    /// Until it does not go on by itself.
    StandsStill,
    /// Until nothing follows any more.
    Over,
}

/// How events are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    /// As lines on standard output.
    Lines,
    /// As the dispatcher's JSON.
    Json,
    /// As lines on standard error.
    Aside,
}

/// Why the watching ended.
pub(super) enum Watched {
    /// It is as far as was asked for.
    Stands(Box<ReleaseView>),
    /// There was no more to show, or nobody reads it any more.
    Closed,
    /// A signal of this number came.
    Signal(u8),
}

impl Until {
    fn is_met(self, view: &ReleaseView) -> bool {
        let state = view.summary.state;
        let over = matches!(state, Standing::Decided | Standing::Superseded);
        let stands = over || !matches!(state, Standing::Entering | Standing::Working);
        match self {
            Self::Now => true,
            Self::StandsStill => stands && !is_deploying(view),
            Self::Over => over && !is_deploying(view),
        }
    }
}

/// Whether a deployment of it is under way, or a job of it runs: what was begun is undone also after the end.
fn is_deploying(view: &ReleaseView) -> bool {
    let mut steps = view.stages.iter().flat_map(|stage| &stage.steps);
    steps.any(|step| {
        if step.kind != "deploy" {
            return step.jobs.iter().any(|job| job.outcome.is_none());
        }
        let mut services = step.services.values();
        services.any(|it| it.state.is_busy())
            || (step.result.is_none()
                && (step.undoing || step.services.values().any(|it| it.state != DeploymentState::Pending)))
    })
}

/// `release events`
pub(super) async fn events(args: Events, http: &Http, screen: &mut Screen) -> Result<Exit, Fault> {
    let mut signals = Signals::listen();
    let until = if args.follow { Until::Over } else { Until::Now };
    if !args.json {
        screen.shield();
    }
    let shown = if args.json { Shown::Json } else { Shown::Lines };
    match watch(http, screen, &mut signals, args.release, args.after, until, shown).await {
        Ok(Watched::Signal(number)) => Ok(Exit::Signal(number)),
        Ok(Watched::Stands(_) | Watched::Closed) => Ok(Exit::Done),
        Err(error) => Err(http.fault(&error, &format!("the events of release {}", args.release))),
    }
}

/// Shows what happens to a release, from an event on, until it is as far as was asked for. When that is so is read from the release itself;
/// then the events are read once more, so that none of those that led there is left out.
pub(super) async fn watch(
    http: &Http,
    screen: &mut Screen,
    signals: &mut Signals,
    release: ReleaseId,
    after: Option<String>,
    until: Until,
    shown: Shown,
) -> Result<Watched, CallError> {
    let mut history = History::new(http, release, after);
    let mut settled: Option<Box<ReleaseView>> = None;
    let mut wait = 0;
    loop {
        let piece = tokio::select! {
            biased;
            number = signals.next() => return Ok(Watched::Signal(number)),
            piece = history.next(wait, screen) => piece?,
        };
        wait = 0;
        show(&piece, screen, shown);
        // Who follows for the exit code goes on without a reader.
        if screen.is_closed() && until != Until::StandsStill {
            return Ok(Watched::Closed);
        } else if !piece.events.is_empty() {
            settled = None;
            continue;
        } else if until == Until::Now {
            return Ok(Watched::Closed);
        } else if let Some(view) = settled.take() {
            return Ok(Watched::Stands(view));
        }
        let view = tokio::select! {
            biased;
            number = signals.next() => return Ok(Watched::Signal(number)),
            view = patiently(http, screen, true, async || look(http, release).await) => view?,
        };
        if until.is_met(&view) {
            settled = Some(Box::new(view));
        } else {
            wait = http.patience.wait_s;
        }
    }
}

fn show(piece: &Piece, screen: &mut Screen, shown: Shown) {
    if piece.missed {
        screen.note("events before these may have been missed: they are not kept any more");
    }
    for told in &piece.events {
        if shown == Shown::Json {
            say_value(screen, &told.json);
            continue;
        }
        let (line, tone) = line(&told.event);
        let line = tone.paint(screen.look().colour, &line);
        if shown == Shown::Aside { screen.aside(&line) } else { screen.say(&line) }
    }
}

/// An event in one line: when, what, where, and what is to be said of it.
fn line(event: &CloudEvent) -> (String, Tone) {
    let none = Value::Null;
    let custom = event.data.get("customData").unwrap_or(&none);
    let text = |name: &str| custom.get(name).and_then(Value::as_str).map(plain);
    let what = text("event").unwrap_or_else(|| plain(&event.kind));
    let stage = text("stage").unwrap_or_else(|| "-".to_owned());
    let result = text("result");
    let mut said = Vec::new();
    said.extend(result.clone());
    said.extend(text("status").map(|status| format!("\"{status}\"")));
    for (name, before) in [
        ("reporter", "reporter "),
        ("action", "asked to "),
        ("group", "to "),
        // Of a promotion, the stage that it leads to.
        ("next", "to "),
        ("app", "app "),
        ("job", "job "),
        ("by", "by "),
    ] {
        said.extend(text(name).map(|text| format!("{before}{text}")));
    }
    if let Some(groups) = custom.get("groups").and_then(Value::as_array) {
        let groups: Vec<_> = groups.iter().filter_map(Value::as_str).map(plain).collect();
        let count = custom.get("count").and_then(Value::as_u64).map(|count| format!("{count} of ")).unwrap_or_default();
        said.push(format!("{count}{}", groups.join(", ")));
    }
    let (note, reason) = (text("note"), text("reason"));
    // A note names services and reporters already, and the reason for which a step was passed over.
    for name in ["services", "results", "jobs"].into_iter().filter(|_| note.is_none()) {
        said.extend(custom.get(name).map(by_name).filter(|text| !text.is_empty()));
    }
    let reason = reason.filter(|reason| note.as_ref().is_none_or(|note| !note.contains(reason.as_str())));
    said.extend([text("link"), reason, note, text("comment")].into_iter().flatten());
    let tone = match (result.as_deref(), what.as_str()) {
        (Some("fail" | "inconclusive"), _) | (None, "rejected" | "suspended" | "rollback.triggered") => Tone::Bad,
        (None, "accepted" | "accepted_with_warnings") => Tone::Good,
        _ => Tone::Plain,
    };
    let line = format!("{}  {what:<30}  {stage:<12}  {}", when(&event.time), said.join("; "));
    (line.trim_end().to_owned(), tone)
}

/// What is said of each: a version, a state, a result, a job.
fn by_name(map: &Value) -> String {
    let Some(map) = map.as_object() else { return String::new() };
    let parts = map.iter().map(|(name, it)| {
        let text = it.as_str().or_else(|| it.get("version")?.as_str()).unwrap_or("-");
        plain(&format!("{name} {text}"))
    });
    parts.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::super::history::tests::event;
    use super::super::timeline::tests::release;
    use super::*;
    use crate::model::ids::{JobId, Word};
    use crate::model::pipeline::file;
    use crate::model::release::command::{Command, apply};
    use crate::model::release::rule::{Facts, advance};
    use crate::model::release::{Act, Artifact, Kind, Release};

    /// What is told of a promotion.
    fn promoted() -> Value {
        let text = "{pipeline: p, product: p, services: {a: {}}, stages: \
                    [{stage: dev, steps: [{name: s, soak: 1h}]}, {stage: prod, steps: [{name: s, soak: 1h}]}]}";
        let pipeline = file::read(text).expect("a pipeline");
        let word = |text: &str| text.parse::<Word>().expect("a name");
        let artifact = Artifact { version: "1".into(), reference: None, digest: None };
        let services = BTreeMap::from([(word("a"), artifact)]);
        let (id, kind, by) = (ReleaseId::new(1, 1), Kind::Update, word("eve"));
        let mut release = Release::new(id, &pipeline, 1, kind, services, BTreeMap::new(), by, word("dev"), 1);
        advance(&pipeline, &mut release, &Facts::default(), &mut || JobId::new(1, 1));
        let act = |reason: &str| Act { by: Some(word("ada")), reason: reason.into(), at_ms: 2 };
        apply(&pipeline, &mut release, Command::Bypass { act: act("soon") }).expect("passed over");
        let promote = Command::Promote { act: act("looks good"), to: None };
        let told = apply(&pipeline, &mut release, promote).expect("promoted");
        Value::Object(told.into_iter().find(|told| told.what == "promote.started").expect("told").data)
    }

    #[test]
    fn an_event_is_one_line() {
        let events = [
            event(
                1,
                "configuration-change.triggered",
                json!({"services": {"web": {"version": "0.22.3.rc"}}, "by": "ada"}),
            ),
            event(2, "deploy.started", json!({"step": "deploy", "jobs": {"web": "01GZEC5GJHFKWMK4Z5A1NM9DPG"}})),
            event(3, "deploy.finished", json!({"result": "pass", "services": {"web": "deployed"}})),
            event(4, "tests.triggered", json!({"action": "Test", "to": ["ci-a", "ci-b"]})),
            event(
                5,
                "tests.reported",
                json!({"reporter": "ci-a", "result": "fail", "status": "Broken\x1b[2J", "comment": "two\nlines", "link": "https://ci/1"}),
            ),
            event(
                6,
                "tests.finished",
                json!({"result": "fail", "note": "ci-a: fail", "results": {"ci-a": "fail", "ci-b": null}}),
            ),
            event(7, "assigned", json!({"group": "sysadmins", "result": "fail"})),
            event(8, "sign.requested", json!({"groups": ["chefs", "cooks"], "count": 2})),
            event(9, "promote.started", promoted()),
            event(10, "accepted", json!({"by": "ada", "submitter": "eve"})),
        ];
        let lines = events.map(|json| line(&serde_json::from_value(json).expect("an event")).0);
        insta::assert_snapshot!(lines.join("\n"), @r#"
        2023-11-14T22:13:21Z  configuration-change.triggered  dev           by ada; web 0.22.3.rc
        2023-11-14T22:13:22Z  deploy.started                  dev           web 01GZEC5GJHFKWMK4Z5A1NM9DPG
        2023-11-14T22:13:23Z  deploy.finished                 dev           pass; web deployed
        2023-11-14T22:13:24Z  tests.triggered                 dev           asked to Test
        2023-11-14T22:13:25Z  tests.reported                  dev           fail; "Broken"; reporter ci-a; https://ci/1; two lines
        2023-11-14T22:13:26Z  tests.finished                  dev           fail; ci-a: fail
        2023-11-14T22:13:27Z  assigned                        dev           fail; to sysadmins
        2023-11-14T22:13:28Z  sign.requested                  dev           2 of chefs, cooks
        2023-11-14T22:13:29Z  promote.started                 dev           to prod; by ada; looks good
        2023-11-14T22:13:30Z  accepted                        dev           by ada
        "#);
    }

    #[test]
    fn a_watch_ends_when_nothing_goes_on_by_itself() {
        let in_state = |state| {
            let mut view = release();
            view.summary.state = state;
            view
        };
        for (state, stands, over) in [
            (Standing::Entering, false, false),
            (Standing::Working, false, false),
            (Standing::Waiting, true, false),
            (Standing::Failed, true, false),
            (Standing::Ready, true, false),
            (Standing::Superseded, true, true),
            (Standing::Decided, true, true),
        ] {
            let view = in_state(state);
            assert_eq!((Until::StandsStill.is_met(&view), Until::Over.is_met(&view)), (stands, over), "{state:?}");
        }
        // What was begun is undone first.
        let mut view = in_state(Standing::Decided);
        view.stages[0].steps[0].services.values_mut().for_each(|it| it.state = DeploymentState::Undoing);
        assert!(!Until::Over.is_met(&view) && !Until::StandsStill.is_met(&view));
    }
}
