//! Following an order to its end: what has happened is told from revision to revision, once, in order.
//!
//! It is read by long-poll, for the reasons that [`follow`](crate::client::follow) has. Each answer is all that is known, so nothing is
//! missed where a revision was: what lies between two of them is seen in the second.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use reqwest::Method;
use tokio::time::Instant;

use super::show::{end, outcome_word, services, took_so_far, waits, whereabouts};
use crate::client::escape::plain;
use crate::client::exit::{Exit, Fault};
use crate::client::http::{Answer, CallError, Http};
use crate::client::operate::say_json;
use crate::client::recap::span;
use crate::client::releases::patiently;
use crate::client::screen::{Screen, Tone};
use crate::client::signals::Signals;
use crate::model::order::OrderId;
use crate::wire::{OrderJobView, OrderOperation, OrderState, OrderView, Outcome, Task, TaskState};

/// Which order is followed.
pub(super) struct Following<'a> {
    pub(super) http: &'a Http,
    pub(super) id: OrderId,
    /// Its JSON is printed at the end, and nothing else.
    pub(super) json: bool,
}

/// Why the following ended.
enum Left {
    /// The order has ended; as it came, unless it had ended before.
    Ended(Box<OrderView>, Option<Answer>),
    /// A signal of this number came; the order goes on.
    Signal(u8),
    /// The dispatcher was lost sight of, or refuses.
    Lost(CallError),
}

/// Follows an order to its end, from what is known of it; says how it ended, and exits with that.
pub(super) async fn after(
    it: Following<'_>,
    known: Option<OrderView>,
    screen: &mut Screen,
    signals: &mut Signals,
) -> Result<Exit, Fault> {
    let Following { http, id, json } = &it;
    if !json {
        screen.shield();
    }
    match it.run(known, screen, signals).await {
        Left::Ended(view, answer) => {
            match (json, answer) {
                (true, Some(answer)) => say_json(screen, &answer),
                (true, None) => {
                    let value = serde_json::to_value(&view).unwrap_or_default();
                    crate::client::operate::say_value(screen, &value);
                }
                (false, _) => {
                    for line in end(&view, screen.look().colour, |job| http.command("logs", job)) {
                        screen.say(&line);
                    }
                }
            }
            Ok(super::came_to(&view.summary))
        }
        Left::Signal(number) => {
            screen.note(&format!("interrupted; order {id} goes on without this command"));
            screen.note(&format!("to follow it: lockstep order show {id} --follow"));
            screen.note(&format!("to end it:    lockstep order cancel {id}"));
            Ok(Exit::Signal(number))
        }
        Left::Lost(error) => {
            let fault = http.fault(&error, &format!("order {id}"));
            let exit = match error.problem() {
                Some((401 | 403, _)) => Exit::Refused,
                Some((404, _)) => Exit::NotSucceeded,
                _ => Exit::NotReached,
            };
            screen.fault(&Fault { exit, ..fault });
            screen.note(&format!("how it ended is not known here; order {id} goes on without this command"));
            screen.note(&format!("to follow it: lockstep order show {id} --follow"));
            Ok(exit)
        }
    }
}

impl Following<'_> {
    async fn run(&self, known: Option<OrderView>, screen: &mut Screen, signals: &mut Signals) -> Left {
        let patience = self.http.patience;
        let live = screen.look().live && !self.json;
        // Who watches a line of status wants to see the time go on.
        let wait = if live { patience.look.as_secs().max(1) } else { patience.wait_s };
        let mut told = Told::default();
        let mut quiet_since = Instant::now();
        let mut latest = known.map(|view| (view, None));
        loop {
            if let Some((view, _)) = &latest
                && !self.json
            {
                for (line, tone) in told.news(view) {
                    screen.say(&tone.paint(screen.look().colour, &line));
                    quiet_since = Instant::now();
                }
                if live {
                    screen.status(&status(view));
                } else if quiet_since.elapsed() >= patience.reassure && !view.summary.state.is_over() {
                    quiet_since = Instant::now();
                    screen.note(&status(view));
                }
            }
            let revision = match latest {
                Some((view, answer)) if view.summary.state.is_over() => return Left::Ended(Box::new(view), answer),
                Some((view, _)) => Some(view.revision),
                None => None,
            };
            let since = Instant::now();
            let asked = tokio::select! {
                biased;
                number = signals.next() => return Left::Signal(number),
                asked = patiently(self.http, screen, revision.is_some(), async || self.ask(revision, wait).await) => asked,
            };
            let (view, answer) = match asked {
                Ok(asked) => asked,
                Err(error) => return Left::Lost(error),
            };
            // Somebody in between does not let the dispatcher wait.
            if revision == Some(view.revision) && since.elapsed() < Duration::from_secs(wait).min(patience.look) {
                tokio::select! {
                    number = signals.next() => return Left::Signal(number),
                    () = tokio::time::sleep(patience.pause(2)) => {}
                }
            }
            latest = Some((view, Some(answer)));
        }
    }

    /// Asks for it as it is, or for what is newer than a revision.
    async fn ask(&self, revision: Option<u64>, wait: u64) -> Result<(OrderView, Answer), CallError> {
        let (number, seconds) = (self.id.number.to_string(), wait.to_string());
        let revision = revision.map(|revision| revision.to_string());
        let mut query = Vec::new();
        if let Some(revision) = &revision {
            query.extend([("after", revision.as_str()), ("wait", seconds.as_str())]);
        }
        let path = ["orders", self.id.environment.as_str(), &number];
        let request = self.http.request(Method::GET, &path, &query);
        let answer = self.http.send(request.timeout(self.http.patience.call + Duration::from_secs(wait))).await?;
        let view = super::about(answer.json()?, &self.id)?;
        Ok((view, answer))
    }
}

/// Where it is, in one line.
fn status(view: &OrderView) -> String {
    let time = took_so_far(&view.summary).map(|time| format!(", {}", span(time))).unwrap_or_default();
    let it = &view.summary;
    let Some(task) = it.task.and_then(|number| view.tasks.get(number.checked_sub(1)?)) else {
        return format!("order {}: {}{time}", plain(&it.id), it.state.word());
    };
    let at_it = |job: &OrderJobView| match (place(job), waits(job)) {
        (Some((_, place)), Some(waits)) => Some(format!("{place} ({waits})")),
        (Some((_, place)), None) => Some(place),
        (None, waits) => waits,
    };
    let busy: Vec<String> = task.jobs.iter().filter(|job| job.outcome.is_none()).filter_map(at_it).collect();
    let busy = if busy.is_empty() { String::new() } else { format!(" | {}", busy.join(", ")) };
    format!("order {}: {}, {}{time}{busy}", plain(&it.id), task_name(task.task), services(it))
}

/// A task among the five.
pub(super) fn task_name(task: Task) -> String {
    let number = Task::ALL.iter().position(|it| *it == task).unwrap_or_default() + 1;
    format!("task {number} of {} {}", Task::ALL.len(), task.word())
}

/// The service that a job is about, and with its host.
fn place(job: &OrderJobView) -> Option<(String, String)> {
    let service = plain(job.service.as_deref()?);
    let host = job.host.as_deref().map(|host| format!(" on {}", plain(host))).unwrap_or_default();
    Some((service.clone(), format!("{service}{host}")))
}

/// What has been told of an order.
#[derive(Default)]
pub(super) struct Told {
    attempt: Option<u32>,
    state: Option<OrderState>,
    tasks: BTreeMap<Task, TaskState>,
    jobs: BTreeSet<String>,
}

impl Told {
    /// What has happened since.
    pub(super) fn news(&mut self, view: &OrderView) -> Vec<(String, Tone)> {
        let mut news = Vec::new();
        let it = &view.summary;
        if self.attempt != Some(view.attempt) {
            // What an attempt before has done stays, and is told as such.
            self.tasks.clear();
            self.attempt = Some(view.attempt);
        }
        if self.state != Some(it.state) {
            if !it.state.is_over() && (self.state.is_none() || it.state != OrderState::Running) {
                news.push((whereabouts(it), Tone::Quiet));
            }
            self.state = Some(it.state);
        }
        let of_attempt = |job: &&OrderJobView| job.attempt == view.attempt;
        let mut number = self.first_number(view);
        for task in &view.tasks {
            let name = task_name(task.task);
            let seen = self.tasks.insert(task.task, task.state);
            let before = seen.unwrap_or(TaskState::Waiting);
            let ended: Vec<&OrderJobView> = task
                .jobs
                .iter()
                .filter(of_attempt)
                .filter(|job| job.service.is_some() && job.outcome.is_some() && !self.jobs.contains(&job.job_id))
                .collect();
            if before == TaskState::Waiting && (task.state == TaskState::Running || !ended.is_empty()) {
                news.push((format!("{name} …"), Tone::Plain));
            }
            for job in ended {
                self.jobs.insert(job.job_id.clone());
                let Some((_, place)) = place(job) else { continue };
                let (word, tone) = ended_as(job);
                let line = if job.operation == OrderOperation::Deploy {
                    number = (number + 1).min(it.services.max(1));
                    format!("service {number} of {}: {place}: {word}", it.services)
                } else {
                    format!("service {place}: {word}")
                };
                news.push((line, tone));
            }
            if before == task.state {
                continue;
            }
            let idle = !task.jobs.iter().any(|job| of_attempt(&job));
            match task.state {
                TaskState::Done if idle && seen.is_none() && !task.jobs.is_empty() => {
                    news.push((format!("{name}: done before"), Tone::Quiet));
                }
                TaskState::Done if idle => news.push((format!("{name}: nothing to do"), Tone::Quiet)),
                TaskState::Done => news.push((format!("{name}: done"), Tone::Good)),
                TaskState::Failed => {
                    let whole = task.jobs.iter().filter(of_attempt).rfind(|job| job.service.is_none());
                    let why = whole.and_then(|job| job.trouble.as_deref()).map(|why| format!("failed: {}", plain(why)));
                    let why = why.unwrap_or_else(|| "not all of it is done".to_owned());
                    news.push((format!("{name}: {why}"), Tone::Bad));
                }
                TaskState::Waiting | TaskState::Running => {}
            }
        }
        news
    }

    /// Services that are as ordered or have failed, before those that are told now.
    fn first_number(&self, view: &OrderView) -> usize {
        let new = view.tasks.iter().flat_map(|task| &task.jobs).filter(|job| {
            let deploys = job.operation == OrderOperation::Deploy && job.attempt == view.attempt;
            deploys && job.outcome.is_some() && !self.jobs.contains(&job.job_id)
        });
        (view.summary.services_done + view.failed.len()).saturating_sub(new.count())
    }
}

/// What a job of a service came to.
fn ended_as(job: &OrderJobView) -> (String, Tone) {
    match (job.outcome, job.operation) {
        (Some(Outcome::Succeeded), OrderOperation::Deploy) => ("deployed".into(), Tone::Good),
        (Some(Outcome::Succeeded), OrderOperation::Remove) => ("removed".into(), Tone::Good),
        _ => {
            let why = job.trouble.as_deref().map(|why| format!(": {}", plain(why))).unwrap_or_default();
            (format!("{}{why} (job {})", outcome_word(job), plain(&job.job_id)), Tone::Bad)
        }
    }
}
