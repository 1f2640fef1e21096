//! A release as a timeline: what it is, then stage by stage what was done, when, and what came of it.

use std::time::Duration;

use super::words::{kind, services, state_of, tone, waits, when};
use crate::client::escape::{lines, plain};
use crate::client::recap::{span, table};
use crate::client::screen::Tone;
use crate::wire::{ActView, Finding, ReleaseSummary, ReleaseView, ReportView, StageView, StepJob, StepState, StepView};

/// So many characters of a piece of metadata are shown; the JSON has the rest.
const METADATA_SHOWN: usize = 200;
/// The most lines of a comment that are shown; the JSON has the rest.
const COMMENT_LINES: usize = 20;

/// A release, for people.
pub(super) fn timeline(view: &ReleaseView, colour: bool) -> Vec<String> {
    let mut shown = top(view, colour);
    for stage in &view.stages {
        shown.push(String::new());
        shown.extend(of_stage(stage, &view.summary, colour));
    }
    shown
}

/// What it is and where it is, one thing a line.
fn top(view: &ReleaseView, colour: bool) -> Vec<String> {
    let it = &view.summary;
    let mut rows = Vec::new();
    let mut tones = Vec::new();
    let mut row = |name: &str, value: Option<String>, tone| {
        if let Some(value) = value {
            rows.push(vec![name.to_owned(), value]);
            tones.push(tone);
        }
    };
    let verdict = it.decision.as_ref().map(|it| it.verdict);
    let pipeline = format!("pipeline {}, version {}, {}", it.pipeline, it.version, kind(it.kind));
    row("release", Some(plain(&it.id)), Tone::Plain);
    row("product", Some(plain(&format!("{} ({pipeline})", it.product))), Tone::Plain);
    for (at, (service, name)) in it.services.values().zip(services(&it.services)).enumerate() {
        let more = [&service.reference, &service.digest].into_iter().flatten();
        let more: Vec<_> = std::iter::once(name).chain(more.map(|text| plain(text))).collect();
        row(if at == 0 { "services" } else { "" }, Some(more.join("  ")), Tone::Plain);
    }
    for (at, (name, text)) in view.metadata.iter().enumerate() {
        row(if at == 0 { "metadata" } else { "" }, Some(metadata(name, text)), Tone::Plain);
    }
    row("submitted", Some(format!("{} by {}", when(&it.created_at), plain(&it.by))), Tone::Plain);
    row("stage", it.stage.as_deref().map(plain), Tone::Plain);
    row("state", Some(state_of(it)), tone(it.state, verdict));
    row("waits for", waits(it), Tone::Plain);
    row("assigned", it.assigned.as_deref().map(plain), Tone::Plain);
    row("ready", it.ready_to_deploy.then(|| "to deploy".to_owned()), Tone::Plain);
    let held = it.hold.as_ref().map(|hold| format!("automation in {}, {}", plain(&hold.stage), act(&hold.act)));
    row("held", held, Tone::Bad);
    row("suspended", it.suspended.as_deref().map(plain), Tone::Bad);
    row("superseded", it.superseded_by.as_deref().map(|by| format!("by {}", plain(by))), Tone::Plain);
    let decision = it.decision.as_ref().map(|it| format!("{}, {}", it.verdict.word(), act(&it.act)));
    row("decision", decision, tone(it.state, verdict));
    table(&rows, 2).iter().zip(tones).map(|(line, tone)| tone.paint(colour, line)).collect()
}

/// One piece of metadata, in one line, as much of it as is read there.
fn metadata(name: &str, text: &str) -> String {
    let text = plain(text);
    match text.char_indices().nth(METADATA_SHOWN) {
        Some((end, _)) => format!("{}: {}…", plain(name), &text[..end]),
        None => format!("{}: {text}", plain(name)),
    }
}

/// When, by whom and why.
fn act(act: &ActView) -> String {
    let by = act.by.as_deref().map(|by| format!(" by {}", plain(by))).unwrap_or_default();
    let why = act.reason.as_deref().map(|why| format!(": {}", plain(why))).unwrap_or_default();
    format!("{}{by}{why}", when(&act.at))
}

/// How long it took, where it is over.
pub(in crate::client) fn took(from: Option<&str>, to: Option<&str>) -> Option<String> {
    let from: jiff::Timestamp = from?.parse().ok()?;
    let to: jiff::Timestamp = to?.parse().ok()?;
    Some(span(Duration::try_from(to.duration_since(from)).ok()?))
}

fn of_stage(stage: &StageView, release: &ReleaseSummary, colour: bool) -> Vec<String> {
    let name = match &stage.shown_as {
        Some(shown_as) => plain(&format!("{} ({shown_as})", stage.stage)),
        None => plain(&stage.stage),
    };
    let entered = ActView { by: stage.by.clone(), reason: stage.reason.clone(), at: stage.entered_at.clone() };
    let until = stage.finished_at.as_deref().map(|at| {
        let took = took(Some(&stage.entered_at), Some(at)).map(|took| format!(" ({took})")).unwrap_or_default();
        format!(", finished {}{took}", when(at))
    });
    let mut shown = vec![format!("── {name}: entered {}{}", act(&entered), until.unwrap_or_default())];
    let width = |of: fn(&StepView) -> &str| stage.steps.iter().map(|it| plain(of(it)).chars().count()).max();
    let widths = [width(|it| &it.name), width(|it| &it.kind)].map(Option::unwrap_or_default);
    for step in &stage.steps {
        shown.extend(of_step(step, widths, release, colour));
    }
    shown
}

fn state_word(state: StepState) -> &'static str {
    match state {
        StepState::Pending => "pending",
        StepState::Running => "running",
        StepState::Waiting => "waiting",
        StepState::Blocked => "blocked",
        StepState::Done => "done",
        StepState::Failed => "failed",
    }
}

fn tone_of(result: Option<Finding>) -> Tone {
    match result {
        Some(Finding::Pass | Finding::Warning) => Tone::Good,
        Some(Finding::Fail | Finding::Inconclusive) => Tone::Bad,
        None => Tone::Plain,
    }
}

/// A step: where it is and since when; below, all that is known of it.
fn of_step(step: &StepView, [name, kind]: [usize; 2], release: &ReleaseSummary, colour: bool) -> Vec<String> {
    let word = step.result.map_or(state_word(step.state), Finding::word);
    let begun = step.started_at.as_deref().or(step.triggered_at.as_deref());
    let times = match (begun, step.ended_at.as_deref()) {
        (Some(begun), Some(ended)) => {
            let took = took(Some(begun), Some(ended)).map(|took| format!("  ({took})")).unwrap_or_default();
            format!("{}  {}{took}", when(begun), when(ended))
        }
        (Some(begun), None) => format!("since {}", when(begun)),
        (None, Some(ended)) => when(ended),
        (None, None) => String::new(),
    };
    let tone =
        if step.result.is_none() && step.state == StepState::Pending { Tone::Quiet } else { tone_of(step.result) };
    let line = format!("  {:<name$}  {:<kind$}  {word:<12}  {times}", plain(&step.name), plain(&step.kind));
    let mut shown = vec![tone.paint(colour, line.trim_end())];
    let mut add = |text: String| shown.push(format!("      {text}"));
    match (&step.bypass, &step.note) {
        // Its note says the same.
        (Some(bypass), _) => add(format!("passed over {}", act(bypass))),
        (None, Some(note)) => add(plain(note)),
        (None, None) => {}
    }
    if let Some(blocked) = &step.blocked {
        add(plain(&match &blocked.inventory {
            Some(inventory) => format!("waits for the lock of {inventory}: {}", blocked.why),
            None => format!("waits for {}", blocked.why),
        }));
    }
    if step.result.is_none() && step.triggered_at.is_some() {
        step.deadline.iter().for_each(|at| add(format!("inconclusive without all reports at {}", when(at))));
        step.soak_until.iter().for_each(|at| add(format!("until {}", when(at))));
    }
    if step.undoing && step.result.is_none() {
        add("what was deployed is being undone".to_owned());
    }
    for (name, it) in &step.services {
        let before = it.previous.as_deref().map(|version| format!(", before {version}")).unwrap_or_default();
        let trouble = it.trouble.as_deref().map(|what| format!(": {what}")).unwrap_or_default();
        add(plain(&format!("{name}: {} by {}{before}{trouble}", it.state.word(), it.app)));
    }
    step.jobs.iter().for_each(|job| add(of_job(job)));
    for (reporter, report) in &step.reports {
        match report {
            None => add(format!("{}: silent", plain(reporter))),
            Some(report) => of_report(reporter, report, release).into_iter().for_each(&mut add),
        }
    }
    step.approvals.iter().for_each(|approval| add(format!("approved {}", act(approval))));
    shown
}

fn of_job(job: &StepJob) -> String {
    let service = job.service.as_deref().map(|service| format!(" {service}")).unwrap_or_default();
    let outcome = job.outcome.map_or("not over", crate::wire::Outcome::word);
    plain(&format!("job {}  {}{service}: {outcome}", job.job_id, job.operation.word()))
}

/// What a reporter found, its words, and how its log is read.
fn of_report(reporter: &str, report: &ReportView, release: &ReleaseSummary) -> Vec<String> {
    let status = report.status.as_deref().map(|status| format!(" \"{status}\"")).unwrap_or_default();
    let link = report.link.as_deref().map(|link| format!("  {link}")).unwrap_or_default();
    let mut shown = vec![plain(&format!("{reporter}: {}{status}  {}{link}", report.result, when(&report.at)))];
    let comment = lines(report.comment.as_deref().unwrap_or_default());
    shown.extend(comment.iter().take(COMMENT_LINES).map(|line| format!("  | {line}")));
    if comment.len() > COMMENT_LINES {
        shown.push(format!("  | … and {} more lines", comment.len() - COMMENT_LINES));
    }
    let log = report.log.as_deref().map(|digest| plain(&format!("log: lockstep release log {} {digest}", release.id)));
    shown.extend(log.map(|text| format!("  {text}")));
    shown
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::wire::{Artifact, Standing};

    /// A release that waits for a reporter in `dev`.
    pub(in super::super) fn summary() -> ReleaseSummary {
        let artifact = |version: &str| Artifact { version: version.into(), reference: None, digest: None };
        let services =
            [("foobar-backend".to_owned(), artifact("0.22.3.rc")), ("foobar-web".to_owned(), artifact("1.4"))];
        ReleaseSummary {
            id: "01GZEC5GJHFKWMK4Z5A1NM9DPF".into(),
            pipeline: "foo".into(),
            version: 3,
            product: "foobar".into(),
            kind: crate::wire::ReleaseKind::Update,
            services: BTreeMap::from(services),
            by: "eve".into(),
            created_at: "2026-11-28T15:00:00.123Z".into(),
            state: Standing::Waiting,
            stage: Some("dev".into()),
            shown_as: Some("Unverified".into()),
            ready_to_deploy: false,
            waits_for: "reports".into(),
            waits_for_whom: vec!["ci-b".into()],
            assigned: None,
            hold: None,
            suspended: None,
            superseded_by: None,
            decision: None,
        }
    }

    /// The same, with all that can be seen of it.
    pub(in super::super) fn release() -> ReleaseView {
        let stage = json!({
            "stage": "dev", "shown_as": "Unverified", "entered_at": "2026-11-28T15:00:00.200Z", "by": "eve",
            "steps": [
                {
                    "name": "deploy", "kind": "deploy", "state": "done", "triggered_at": "2026-11-28T15:00:00.300Z",
                    "started_at": "2026-11-28T15:00:01.000Z", "ended_at": "2026-11-28T15:01:43.000Z", "result": "pass",
                    "services": {
                        "foobar-backend": {"state": "deployed", "app": "backend-dev", "job_id": "01GZEC5GJHFKWMK4Z5A1NM9DP1", "previous": "0.22.2"},
                        "foobar-web": {"state": "deployed", "app": "web-dev", "job_id": "01GZEC5GJHFKWMK4Z5A1NM9DP2"},
                    },
                    "jobs": [
                        {"job_id": "01GZEC5GJHFKWMK4Z5A1NM9DP1", "service": "foobar-backend", "operation": "deploy", "outcome": "succeeded"},
                        {"job_id": "01GZEC5GJHFKWMK4Z5A1NM9DP2", "service": "foobar-web", "operation": "deploy", "outcome": "succeeded"},
                    ],
                },
                {
                    "name": "smoke", "kind": "run", "state": "done", "triggered_at": "2026-11-28T15:01:43.000Z",
                    "ended_at": "2026-11-28T15:02:00.000Z", "result": "warning", "note": "passed over by ada: flaky",
                    "bypass": {"by": "ada", "reason": "flaky", "at": "2026-11-28T15:02:00.000Z"},
                },
                {
                    "name": "tests", "kind": "check", "state": "waiting", "triggered_at": "2026-11-28T15:02:00.000Z",
                    "started_at": "2026-11-28T15:02:00.000Z", "deadline": "2026-11-28T16:02:00.000Z",
                    "reports": {
                        "ci-a": {
                            "result": "pass", "link": "https://ci.example.org/1", "status": "Verified", "at": "2026-11-28T15:05:00.000Z",
                            "comment": "all good\n::error::\u{1b}[31mno", "log": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
                        },
                        "ci-b": null,
                    },
                },
                {"name": "sign", "kind": "approval", "state": "pending"},
            ],
        });
        ReleaseView {
            summary: summary(),
            metadata: ["changelog", "release_notes"].map(|name| (name.to_owned(), "text".to_owned())).into(),
            stages: vec![serde_json::from_value(stage).expect("a stage")],
        }
    }

    #[test]
    fn a_release_is_shown_step_by_step() {
        insta::assert_snapshot!(timeline(&release(), false).join("\n"), @r#"
        release    01GZEC5GJHFKWMK4Z5A1NM9DPF
        product    foobar (pipeline foo, version 3, update)
        services   foobar-backend 0.22.3.rc
                   foobar-web 1.4
        metadata   changelog: text
                   release_notes: text
        submitted  2026-11-28T15:00:00Z by eve
        stage      dev
        state      Unverified (waiting)
        waits for  reports: ci-b

        ── dev (Unverified): entered 2026-11-28T15:00:00Z by eve
          deploy  deploy    pass          2026-11-28T15:00:01Z  2026-11-28T15:01:43Z  (1 min 42 s)
              foobar-backend: deployed by backend-dev, before 0.22.2
              foobar-web: deployed by web-dev
              job 01GZEC5GJHFKWMK4Z5A1NM9DP1  deploy foobar-backend: succeeded
              job 01GZEC5GJHFKWMK4Z5A1NM9DP2  deploy foobar-web: succeeded
          smoke   run       warning       2026-11-28T15:01:43Z  2026-11-28T15:02:00Z  (17 s)
              passed over 2026-11-28T15:02:00Z by ada: flaky
          tests   check     waiting       since 2026-11-28T15:02:00Z
              inconclusive without all reports at 2026-11-28T16:02:00Z
              ci-a: pass "Verified"  2026-11-28T15:05:00Z  https://ci.example.org/1
                | all good
                | ::error::no
                log: lockstep release log 01GZEC5GJHFKWMK4Z5A1NM9DPF ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad
              ci-b: silent
          sign    approval  pending
        "#);
    }

    #[test]
    fn metadata_is_shown_in_one_line_without_what_acts_on_a_terminal() {
        assert_eq!(metadata("notes", "one\n\u{1b}[2Jtwo\r\n::error::"), "notes: one two ::error::");
        let most = "é".repeat(METADATA_SHOWN);
        assert_eq!(metadata("notes", &most), format!("notes: {most}"));
        assert_eq!(metadata("notes", &format!("{most}x")), format!("notes: {most}…"));
    }

    #[test]
    fn what_went_wrong_is_shown() {
        let act = json!({"by": "ada", "reason": "5xx\u{1b}]0;t\u{7}", "at": "2026-11-28T16:00:00.000Z"});
        let mut view = release();
        let service = view.summary.services.get_mut("foobar-web").expect("it is there");
        (service.reference, service.digest) = (Some("registry.example.org/web:1.4".into()), Some("sha256:00".into()));
        view.summary.state = Standing::RolledBack;
        view.summary.waits_for = "retry, bypass, rollback or reject".into();
        view.summary.waits_for_whom = vec!["sysadmins".into()];
        view.summary.assigned = Some("sysadmins".into());
        let mut hold = act.clone();
        hold["stage"] = json!("dev");
        view.summary.hold = Some(serde_json::from_value(hold).expect("a hold"));
        let steps = json!([
            {
                "name": "deploy", "kind": "deploy", "state": "failed", "result": "fail", "undoing": true,
                "triggered_at": "2026-11-28T15:00:00.300Z", "ended_at": "2026-11-28T15:01:43.000Z", "note": "rolled back",
                "services": {"foobar-web": {"state": "not_undone", "app": "web-dev", "trouble": "its job is lost"}},
                "jobs": [{"job_id": "01GZEC5GJHFKWMK4Z5A1NM9DP2", "service": "foobar-web", "operation": "undo", "outcome": "lost"}],
            },
            {
                "name": "load", "kind": "run", "state": "blocked", "triggered_at": "2026-11-28T15:01:43.000Z",
                "blocked": {"inventory": "web.example.org", "why": "job 01GZEC5GJHFKWMK4Z5A1NM9DP3 has it"},
            },
            {
                "name": "sign", "kind": "approval", "state": "waiting", "triggered_at": "2026-11-28T15:01:43.000Z",
                "started_at": "2026-11-28T15:01:43.000Z", "approvals": [{"by": "bob", "at": "2026-11-28T15:03:00.000Z"}],
            },
            {
                "name": "soak", "kind": "soak", "state": "waiting", "triggered_at": "2026-11-28T15:01:43.000Z",
                "soak_until": "2026-11-29T15:01:43.000Z",
            },
        ]);
        view.stages[0].steps = serde_json::from_value(steps).expect("steps");
        view.stages[0].finished_at = Some("2026-11-28T16:00:00.000Z".into());
        insta::assert_snapshot!(timeline(&view, false).join("\n"), @r"
        release    01GZEC5GJHFKWMK4Z5A1NM9DPF
        product    foobar (pipeline foo, version 3, update)
        services   foobar-backend 0.22.3.rc
                   foobar-web 1.4  registry.example.org/web:1.4  sha256:00
        metadata   changelog: text
                   release_notes: text
        submitted  2026-11-28T15:00:00Z by eve
        stage      dev
        state      Unverified (rolled_back)
        waits for  retry, bypass, rollback or reject: sysadmins
        assigned   sysadmins
        held       automation in dev, 2026-11-28T16:00:00Z by ada: 5xx

        ── dev (Unverified): entered 2026-11-28T15:00:00Z by eve, finished 2026-11-28T16:00:00Z (59 min 59 s)
          deploy  deploy    fail          2026-11-28T15:00:00Z  2026-11-28T15:01:43Z  (1 min 42 s)
              rolled back
              foobar-web: not_undone by web-dev: its job is lost
              job 01GZEC5GJHFKWMK4Z5A1NM9DP2  undo foobar-web: lost
          load    run       blocked       since 2026-11-28T15:01:43Z
              waits for the lock of web.example.org: job 01GZEC5GJHFKWMK4Z5A1NM9DP3 has it
          sign    approval  waiting       since 2026-11-28T15:01:43Z
              approved 2026-11-28T15:03:00Z by bob
          soak    soak      waiting       since 2026-11-28T15:01:43Z
              until 2026-11-29T15:01:43Z
        ");
        assert!(timeline(&view, true).join("\n").contains("\x1b[1;31m  deploy"));
    }
}
