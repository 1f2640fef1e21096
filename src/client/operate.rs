//! The other commands: a job's status, output and end; the list of apps; locks and freezes.

use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use reqwest::header::CONTENT_TYPE;

use super::args::{Apps, AppsList, AppsSet, Cancel, Freeze, Locks, Logs, Status, Unfreeze, Unlock};
use super::deploy::{persist, read};
use super::escape::plain;
use super::exit::{Exit, Fault};
use super::follow::Until;
use super::http::{Answer, Http};
use super::recap::{self, span, table};
use super::screen::Screen;
use super::signals::Signals;
use super::watch::{Left, Show, Watch};
use crate::wire::{
    AppList, Because, FeedTaken, FreezeRequest, FreezeView, Job, JobState, LockList, LockView, Outcome, UnlockRequest,
    Unlocked,
};

/// How long the dispatcher may take to free a lock: with force it waits until a container is gone.
const UNLOCKING: Duration = Duration::from_secs(120);
/// How long it may take to take in a list of apps.
const FEEDING: Duration = Duration::from_secs(60);

/// `status`
pub(super) async fn status(args: Status, http: &Http, screen: &mut Screen) -> Result<Exit, Fault> {
    let id = args.of.job.to_string();
    let about = format!("job {id}");
    let answer = http.send(http.request(Method::GET, &["jobs", &id], &[])).await;
    let answer = answer.map_err(|error| http.fault(&error, &about))?;
    if args.json {
        say_json(screen, &answer);
        return Ok(Exit::Done);
    }
    let job: Job = answer.json().map_err(|error| http.fault(&error, &about))?;
    screen.shield();
    for line in describe(&job, screen.look().colour) {
        screen.say(&line);
    }
    Ok(Exit::Done)
}

/// A job, one thing a line.
fn describe(job: &Job, colour: bool) -> Vec<String> {
    let mut rows = Vec::new();
    let mut row = |name: &str, value: Option<String>| {
        rows.extend(value.map(|value| vec![name.to_owned(), plain(&value)]));
    };
    row("job", Some(job.job_id.clone()));
    row("app", Some(job.deployment_id.clone()));
    row("inventory", Some(job.inventory.clone()));
    row("action", Some(job.action.clone()));
    row("state", Some(recap::standing(job)));
    row("doing", recap::doing(job).filter(|_| job.state != JobState::Finished));
    row("exit code", job.exit_code.map(|code| code.to_string()));
    row("reason", job.reason.clone());
    row("superseded by", job.superseded_by.clone());
    row("accepted", Some(job.created_at.clone()));
    row("started", job.started_at.clone());
    row("ended", job.ended_at.clone());
    row("fence", job.fence.map(|fence| fence.to_string()));
    row("image", job.image_digest.clone());
    row("output", Some(format!("{} bytes", job.output_bytes)));
    let mut lines = table(&rows, 2);
    if job.state == JobState::Finished {
        lines.extend(recap::end(job, colour));
    }
    lines
}

/// `logs`
pub(super) async fn logs(args: Logs, http: Arc<Http>, screen: &mut Screen) -> Result<Exit, Fault> {
    let mut signals = Signals::listen();
    screen.shield();
    let until = if args.follow { Until::End } else { Until::Now };
    let mut watch = Watch { http: &http, job: args.of.job, screen, signals: &mut signals, standing: String::new() };
    let left = watch.run(Show::Output, until, None).await;
    watch.screen.output_ends();
    match &left {
        Left::Signal(number) => Ok(Exit::Signal(*number)),
        Left::Lost(error) => Err(http.fault(error, &format!("the output of job {}", args.of.job))),
        Left::Ended(_) | Left::Deadline | Left::Closed | Left::Over => Ok(Exit::Done),
    }
}

/// `cancel`
pub(super) async fn cancel(args: Cancel, http: Arc<Http>, screen: &mut Screen) -> Result<Exit, Fault> {
    let mut signals = Signals::listen();
    screen.shield();
    let id = args.of.job.to_string();
    let about = format!("the cancel of job {id}");
    let body = Because { reason: args.reason.clone() };
    let make = || http.request(Method::POST, &["jobs", &id, "cancel"], &[]).json(&body);
    // To wish for the end twice is to wish for it once.
    let recorded = tokio::select! {
        recorded = persist(&http, screen, make) => recorded,
        number = signals.next() => return Ok(Exit::Signal(number)),
    };
    let job: Job = recorded
        .and_then(|answer| answer.json().map_err(|error| super::deploy::Unanswered { error, sent: true }))
        .map_err(|unanswered| http.fault(&unanswered.error, &about))?;
    if args.no_wait && job.state != JobState::Finished {
        screen.say(&format!("job {id} is being canceled"));
        return Ok(Exit::Done);
    }
    let job = if job.state == JobState::Finished {
        Box::new(job)
    } else {
        let mut watch = Watch { http: &http, job: args.of.job, screen, signals: &mut signals, standing: String::new() };
        match watch.run(Show::Nothing, Until::End, None).await {
            Left::Ended(job) => job,
            Left::Signal(number) => {
                screen.note(&format!("interrupted; job {id} is being canceled all the same"));
                return Ok(Exit::Signal(number));
            }
            Left::Lost(error) => {
                let hint = "The wish to cancel it is recorded and will be carried out.".to_owned();
                return Err(Fault {
                    hint: Some(hint),
                    ..http.fault(&error, &format!("waiting for the end of job {id}"))
                });
            }
            Left::Deadline | Left::Closed | Left::Over => return Ok(Exit::NotReached),
        }
    };
    screen.say(&recap::outcome(&job));
    // Who asks for the end of a job wants to know if it had succeeded before.
    Ok(if job.outcome == Some(Outcome::Canceled) { Exit::Done } else { Exit::NotSucceeded })
}

/// `apps`
pub(super) async fn apps(args: Apps, http: &Http, screen: &mut Screen) -> Result<Exit, Fault> {
    match args {
        Apps::Set(set) => set_apps(set, http, screen).await,
        Apps::List(list) => list_apps(list, http, screen).await,
    }
}

async fn set_apps(args: AppsSet, http: &Http, screen: &mut Screen) -> Result<Exit, Fault> {
    let shown = args.file.display();
    let body = read(&args.file, "list of apps")?;
    if let Err(error) = serde_json::from_slice::<Vec<serde::de::IgnoredAny>>(&body) {
        let at = format!("line {}, column {}", error.line(), error.column());
        return Err(Fault::usage(
            format!("the list of apps {shown} is no JSON array ({at})"),
            "It must be an array of objects, such as sample_inventory.json.",
        ));
    }
    let mut query = Vec::new();
    if args.force {
        query.push(("force", "true"));
    }
    query.extend(args.reason.as_deref().map(|reason| ("reason", reason)));
    let request = http.request(Method::PUT, &["apps"], &query).header(CONTENT_TYPE, "application/json").body(body);
    let answer = http.send(request.timeout(FEEDING)).await;
    let taken: FeedTaken = answer
        .and_then(|answer| answer.json())
        .map_err(|error| http.fault(&error, &format!("the list of apps {shown}")))?;
    for warning in &taken.warnings {
        screen.note(&format!("warning: {}", plain(warning)));
    }
    let plural = if taken.apps == 1 { "" } else { "s" };
    screen.say(&format!("the list is in force: {} app{plural}", taken.apps));
    Ok(Exit::Done)
}

async fn list_apps(args: AppsList, http: &Http, screen: &mut Screen) -> Result<Exit, Fault> {
    let fault = |error| http.fault(&error, "the list of apps");
    let answer = http.send(http.request(Method::GET, &["apps"], &[])).await.map_err(fault)?;
    if args.json {
        say_json(screen, &answer);
        return Ok(Exit::Done);
    }
    let list: AppList = answer.json().map_err(fault)?;
    let mut rows = vec![["deployment id", "inventory", "action", "vars"].map(str::to_owned).to_vec()];
    for app in &list.apps {
        let vars: Vec<_> = app.vars.keys().map(ToString::to_string).collect();
        let cells = [&app.deployment_id, &app.inventory, &app.action, &vars.join(" ")];
        rows.push(cells.map(|cell| plain(cell)).to_vec());
    }
    for line in table(&rows, 4) {
        screen.say(&line);
    }
    Ok(Exit::Done)
}

/// `locks`
pub(super) async fn locks(args: Locks, http: &Http, screen: &mut Screen) -> Result<Exit, Fault> {
    let fault = |error| http.fault(&error, "the deploy locks");
    let answer = http.send(http.request(Method::GET, &["locks"], &[])).await.map_err(fault)?;
    if args.json {
        say_json(screen, &answer);
        return Ok(Exit::Done);
    }
    let list: LockList = answer.json().map_err(fault)?;
    for line in describe_locks(&list.locks) {
        screen.say(&line);
    }
    Ok(Exit::Done)
}

fn describe_locks(locks: &[LockView]) -> Vec<String> {
    if locks.is_empty() {
        return vec!["no lock is held and nothing is frozen".into()];
    }
    let mut rows =
        vec![["inventory", "held by", "app", "state", "for", "fence", "waiting", "reason"].map(str::to_owned).to_vec()];
    for lock in locks {
        let cell = |value: Option<String>| value.map_or_else(|| "-".to_owned(), |value| plain(&value));
        rows.push(vec![
            plain(&lock.inventory),
            cell(lock.job_id.clone()),
            cell(lock.deployment_id.clone()),
            cell(lock.state.map(|state| recap::state_word(state).to_owned())),
            cell(lock.age_seconds.map(|age| span(Duration::from_secs(age)))),
            cell(lock.fence.map(|fence| fence.to_string())),
            lock.waiting.len().to_string(),
            cell(lock.reason.clone()),
        ]);
    }
    let mut lines = table(&rows, 8);
    for lock in locks {
        if let Some(freeze) = &lock.freeze {
            lines.push(frozen(&lock.inventory, freeze));
        }
        if let Some(release) = &lock.reserved_for {
            lines.push(format!("{}: the next to get it is release {}", plain(&lock.inventory), plain(release)));
        }
        if !lock.waiting.is_empty() {
            let waiting: Vec<_> = lock.waiting.iter().map(|job| plain(job)).collect();
            lines.push(format!("{}: waiting: {}", plain(&lock.inventory), waiting.join(", ")));
        }
    }
    lines
}

fn frozen(inventory: &str, freeze: &FreezeView) -> String {
    let until = freeze
        .until
        .as_deref()
        .map_or_else(|| "until it is lifted".to_owned(), |until| format!("until {}", plain(until)));
    format!("{}: frozen by {} {until}: {}", plain(inventory), plain(&freeze.by), plain(&freeze.reason))
}

/// `unlock`
pub(super) async fn unlock(args: Unlock, http: &Http, screen: &mut Screen) -> Result<Exit, Fault> {
    let inventory = args.inventory.as_str();
    let body = UnlockRequest { reason: args.reason, force: args.force, engine_gone: args.engine_gone };
    let request = http.request(Method::DELETE, &["locks", inventory], &[]).json(&body).timeout(UNLOCKING);
    let answer = http.send(request).await.map_err(|error| http.fault(&error, &format!("the lock of {inventory}")))?;
    let freed: Unlocked = answer.json().map_err(|error| http.fault(&error, &format!("the lock of {inventory}")))?;
    screen.say(&format!("the lock of {inventory}, which job {} held, is free", plain(&freed.job_id)));
    Ok(Exit::Done)
}

/// `freeze`
pub(super) async fn freeze(args: Freeze, http: &Http, screen: &mut Screen) -> Result<Exit, Fault> {
    let inventory = args.inventory.as_str();
    let request = FreezeRequest { reason: args.reason.clone(), expires_in: args.lasting.map(|time| time.as_secs()) };
    let answer = http.send_json(Method::PUT, &["freezes", inventory], &request).await;
    let answer = answer.map_err(|error| http.fault(&error, &format!("the freeze of {inventory}")))?;
    match answer.json::<FreezeView>() {
        Ok(freeze) => screen.say(&frozen(inventory, &freeze)),
        Err(_) => screen.say(&format!("{inventory} is frozen")),
    }
    Ok(Exit::Done)
}

/// `unfreeze`
pub(super) async fn unfreeze(args: Unfreeze, http: &Http, screen: &mut Screen) -> Result<Exit, Fault> {
    let inventory = args.inventory.as_str();
    let request = http.request(Method::DELETE, &["freezes", inventory], &[]).json(&Because { reason: args.reason });
    http.send(request).await.map_err(|error| http.fault(&error, &format!("the freeze of {inventory}")))?;
    screen.say(&format!("{inventory} is not frozen any more"));
    Ok(Exit::Done)
}

/// The dispatcher's JSON as it came; control characters, which JSON allows in part, are written as escapes.
pub(super) fn say_json(screen: &mut Screen, answer: &Answer) {
    say_text(screen, &String::from_utf8_lossy(&answer.body));
}

/// Parts of the dispatcher's JSON, in one line.
pub(super) fn say_value(screen: &mut Screen, value: &serde_json::Value) {
    say_text(screen, &value.to_string());
}

fn say_text(screen: &mut Screen, text: &str) {
    let mut shown = String::with_capacity(text.len());
    for character in text.trim_end().chars() {
        if character.is_control() && character != '\n' {
            shown.push_str(&format!("\\u{:04x}", u32::from(character)));
        } else {
            shown.push(character);
        }
    }
    screen.say(&shown.replace("##[", "##\\u005b"));
}
