//! An order for people: what it is and where, task by task what was done, and how it ended.

use std::time::Duration;

use reqwest::Method;

use super::args::Shown;
use super::follow::{Following, after, task_name};
use crate::client::escape::{lines, plain};
use crate::client::exit::{Exit, Fault};
use crate::client::http::Http;
use crate::client::operate::say_json;
use crate::client::recap::table;
use crate::client::releases::{took, when};
use crate::client::screen::{Screen, Tone};
use crate::client::signals::Signals;
use crate::wire::{
    OrderAction, OrderJobView, OrderOperation, OrderState, OrderSummary, OrderView, Outcome, TaskState, TaskView,
};

/// The most lines of what went wrong that are shown; the job's output has the rest.
const TROUBLE_LINES: usize = 20;
/// So much of a commit is shown.
const COMMIT: usize = 12;

/// `order show`
pub(super) async fn show(args: Shown, http: &Http, screen: &mut Screen) -> Result<Exit, Fault> {
    let id = args.order;
    if args.follow {
        let mut signals = Signals::listen();
        return after(Following { http, id, json: args.json }, None, screen, &mut signals).await;
    }
    let fault = |error| http.fault(&error, &format!("order {id}"));
    let number = id.number.to_string();
    let mut path = vec!["orders", id.environment.as_str(), &number];
    if args.file {
        path.push("file");
        let answer = http.send(http.request(Method::GET, &path, &[])).await.map_err(fault)?;
        screen.shield();
        for line in lines(&String::from_utf8_lossy(&answer.body)) {
            screen.say(&line);
        }
        return Ok(Exit::Done);
    }
    let answer = http.send(http.request(Method::GET, &path, &[])).await.map_err(fault)?;
    if args.json {
        say_json(screen, &answer);
        return Ok(Exit::Done);
    }
    let view = answer.json().and_then(|view| super::about(view, &id)).map_err(fault)?;
    screen.shield();
    for line in sheet(&view, screen.look().colour) {
        screen.say(&line);
    }
    Ok(Exit::Done)
}

/// How a state stands out.
pub(super) fn tone(state: OrderState) -> Tone {
    match state {
        OrderState::Succeeded => Tone::Good,
        OrderState::Incomplete | OrderState::Failed | OrderState::Canceled => Tone::Bad,
        OrderState::Superseded => Tone::Quiet,
        OrderState::Queued | OrderState::Running | OrderState::Canceling => Tone::Plain,
    }
}

/// How many services are as ordered.
pub(super) fn services(it: &OrderSummary) -> String {
    format!("{} of {}", it.services_done, it.services)
}

fn state(it: &OrderSummary) -> String {
    let why = it.reason.as_deref().map(|why| format!(": {}", plain(why))).unwrap_or_default();
    format!("{}{why}", it.state.word())
}

/// In one sentence: which order is where.
pub(super) fn whereabouts(it: &OrderSummary) -> String {
    whereabouts_after(it, "")
}

fn whereabouts_after(it: &OrderSummary, after: &str) -> String {
    let of = plain(&format!("order {} for environment {} ({})", it.id, it.environment, it.mode));
    let why = it.reason.as_deref().map(|why| format!(": {}", plain(why))).unwrap_or_default();
    format!("{of}: {}{after}{why}", it.state.word())
}

/// How long it goes on already, by this machine's clock.
pub(super) fn took_so_far(it: &OrderSummary) -> Option<Duration> {
    let from: jiff::Timestamp = it.started_at.as_deref()?.parse().ok()?;
    let now = jiff::Timestamp::from_millisecond(i64::try_from(crate::clock::wall_ms()).ok()?).ok()?;
    Duration::try_from(now.duration_since(from)).ok()
}

/// How a job ended, in a word.
pub(super) fn outcome_word(job: &OrderJobView) -> &'static str {
    job.outcome.map_or("not over", Outcome::word)
}

/// What a job waits for, if it does.
pub(super) fn waits(job: &OrderJobView) -> Option<String> {
    Some(format!("waits: {}", plain(job.waits_for.as_deref()?)))
}

/// An order, one thing a line, and its tasks.
pub(super) fn sheet(view: &OrderView, colour: bool) -> Vec<String> {
    let it = &view.summary;
    let mut rows = Vec::new();
    let mut tones = Vec::new();
    let mut row = |name: &str, value: Option<String>, tone| {
        if let Some(value) = value {
            rows.push(vec![name.to_owned(), value]);
            tones.push(tone);
        }
    };
    let action = match it.action {
        OrderAction::Update => "update",
        OrderAction::Remove => "remove",
    };
    let ended = it.ended_at.as_deref().map(|at| {
        let took = took(it.started_at.as_deref(), Some(at)).map(|took| format!(" ({took})")).unwrap_or_default();
        format!("{}{took}", when(at))
    });
    row("order", Some(plain(&it.id)), Tone::Plain);
    row("environment", Some(plain(&format!("{} ({})", it.environment, it.mode))), Tone::Plain);
    row("action", Some(action.to_owned()), Tone::Plain);
    row("state", Some(state(it)), tone(it.state));
    row("services", Some(format!("{} as ordered", services(it))), Tone::Plain);
    row("given", Some(format!("{} by {}", when(&it.created_at), plain(&it.by))), Tone::Plain);
    row("begun", it.started_at.as_deref().map(when), Tone::Plain);
    row("ended", ended, Tone::Plain);
    row("attempt", (view.attempt > 1).then(|| view.attempt.to_string()), Tone::Plain);
    for (at, (service, commit)) in view.commits.iter().enumerate() {
        let commit: String = commit.chars().take(COMMIT).collect();
        row(if at == 0 { "commits" } else { "" }, Some(plain(&format!("{service} {commit}"))), Tone::Plain);
    }
    let mut shown: Vec<String> =
        table(&rows, 2).iter().zip(tones).map(|(line, tone)| tone.paint(colour, line)).collect();
    shown.push(String::new());
    for task in &view.tasks {
        shown.extend(of_task(task, view.attempt, colour));
    }
    shown
}

fn of_task(task: &TaskView, attempt: u32, colour: bool) -> Vec<String> {
    let (word, tone) = match task.state {
        TaskState::Waiting => ("waiting", Tone::Quiet),
        TaskState::Running => ("running", Tone::Plain),
        TaskState::Done if task.jobs.is_empty() => ("nothing to do", Tone::Quiet),
        TaskState::Done => ("done", Tone::Good),
        TaskState::Failed => ("failed", Tone::Bad),
    };
    let mut shown = vec![tone.paint(colour, &format!("{:<21}  {word}", task_name(task.task)))];
    for job in &task.jobs {
        let what = what(job).map(|what| format!("  {what}")).unwrap_or_default();
        let why = job.trouble.as_deref().map(|why| format!(": {}", plain(why))).unwrap_or_default();
        let earlier = if job.attempt < attempt { format!("  (attempt {})", job.attempt) } else { String::new() };
        let tone = match job.outcome {
            _ if job.attempt < attempt => Tone::Quiet,
            None | Some(Outcome::Succeeded) => Tone::Plain,
            Some(_) => Tone::Bad,
        };
        let waits = waits(job).map(|waits| format!(", {waits}")).unwrap_or_default();
        let line = format!("    job {}{what}: {}{waits}{why}{earlier}", plain(&job.job_id), outcome_word(job));
        shown.push(tone.paint(colour, &line));
    }
    shown
}

/// What a job does with which service where; none: what its task does.
fn what(job: &OrderJobView) -> Option<String> {
    let verb = match job.operation {
        OrderOperation::Configure => return None,
        OrderOperation::Deploy => "deploy",
        OrderOperation::Remove => "remove",
    };
    let service = job.service.as_deref().unwrap_or("-");
    let host = job.host.as_deref().map(|host| format!(" on {host}")).unwrap_or_default();
    Some(plain(&format!("{verb} {service}{host}")))
}

/// The end of an order: what did not succeed and where it is said why, then how it ended. `logs` is the command that shows a job's output.
pub(super) fn end(view: &OrderView, colour: bool, logs: impl Fn(&str) -> String) -> Vec<String> {
    let it = &view.summary;
    let mut shown = vec![String::new()];
    for task in &view.tasks {
        let jobs = task.jobs.iter().filter(|job| job.attempt == view.attempt);
        for job in jobs.filter(|job| job.outcome.is_some_and(|outcome| outcome != Outcome::Succeeded)) {
            let what = what(job).map(|what| format!(", {what}")).unwrap_or_default();
            let head = format!("{}{what}: {}", task_name(task.task), outcome_word(job));
            shown.push(Tone::Bad.paint(colour, &head));
            let trouble = lines(job.trouble.as_deref().unwrap_or_default());
            // What is wrong stands at the beginning, or at the end of what a program has said.
            let left_out = trouble.len().saturating_sub(TROUBLE_LINES);
            let (begin, rest) = trouble.split_at(trouble.len().min(TROUBLE_LINES / 2));
            shown.extend(begin.iter().map(|line| format!("  | {line}")));
            if left_out > 0 {
                shown.push(format!("  | … {left_out} lines …"));
            }
            shown.extend(rest[left_out..].iter().map(|line| format!("  | {line}")));
            shown.push(format!("  its output: {}", logs(&job.job_id)));
            shown.push(String::new());
        }
    }
    let took = took(it.started_at.as_deref(), it.ended_at.as_deref()).map(|took| format!(" after {took}"));
    shown.push(tone(it.state).paint(colour, &whereabouts_after(it, &took.unwrap_or_default())));
    if matches!(it.state, OrderState::Incomplete | OrderState::Failed | OrderState::Canceled) {
        shown.push(format!("to try again what has not succeeded: lockstep order retry {}", plain(&it.id)));
    }
    shown
}
