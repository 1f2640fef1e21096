//! `lockstep deploy`: asks, follows, exits with the outcome.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, RequestBuilder};
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::args::Deploy;
use super::escape::plain;
use super::exit::{Exit, Fault};
use super::follow::Until;
use super::http::{Answer, CallError, Http};
use super::recap;
use super::screen::{Screen, Tone};
use super::signals::Signals;
use super::watch::{Left, Show, Watch};
use crate::clock;
use crate::model::ids::JobId;
use crate::wire::{Job, JobRequest};

/// The largest file that is read, in bytes.
const FILE_MAX: u64 = 64 * 1024 * 1024;

/// The longest bar of an address or an app that is waited out.
const BARRED_MAX: Duration = Duration::from_secs(90);

/// Carries the command out.
pub(super) async fn deploy(args: Deploy, http: Arc<Http>, screen: &mut Screen) -> Result<Exit, Fault> {
    let mut signals = Signals::listen();
    let request = JobRequest { vars: vars(&args)?, when_busy: args.when_busy };
    let key = args.idempotency_key.clone().unwrap_or_else(clock::draw_name);
    let app = args.deployment_id.as_str();
    let about = format!("the deployment of {app}");
    let make = || {
        let path = ["apps", app, "jobs"];
        http.request(Method::POST, &path, &[]).header("Idempotency-Key", &key).json(&request)
    };
    let asked = tokio::select! {
        asked = persist(&http, screen, make) => asked,
        number = signals.next() => {
            return Err(Fault {
                exit: Exit::Signal(number),
                what: format!("{about}: interrupted before the answer came"),
                hint: Some(repeat(&key)),
            });
        }
    };
    let accepted = asked.map_err(|Unanswered { error, sent }| {
        let mut fault = http.fault(&error, &about);
        if sent && fault.exit == Exit::NotReached {
            fault.hint = Some(repeat(&key));
        }
        fault
    });
    let (job, id) = accepted.and_then(|answer| {
        understood(&answer, app).map_err(|error| Fault { hint: Some(repeat(&key)), ..http.fault(&error, &about) })
    })?;
    if args.detach {
        screen.say(&id.to_string());
        return Ok(Exit::Done);
    }
    screen.shield();
    let colour = screen.look().colour;
    let standing = recap::standing(&job);
    let place = format!("{app} on {}", plain(&job.inventory));
    screen.say(&Tone::Quiet.paint(colour, &format!("lockstep: job {id} accepted: {place}, {standing}")));
    let deadline = args.timeout.map(|limit| Instant::now() + limit);
    let mut watch = Watch { http: &http, job: id, screen, signals: &mut signals, standing };
    let left = watch.run(Show::All, Until::End, deadline).await;
    let Left::Ended(job) = left else {
        watch.screen.output_ends();
        let exit = watch.leave(&left, args.timeout);
        screen.finish();
        return Ok(exit);
    };
    screen.output_ends();
    for line in recap::end(&job, colour) {
        screen.say(&line);
    }
    if let Some(by) = &job.superseded_by {
        screen.say(&format!("To follow that one: {}", http.command("logs -f", by)));
    }
    screen.finish();
    Ok(job.outcome.map_or(Exit::NotSucceeded, Exit::of))
}

fn repeat(key: &str) -> String {
    format!(
        "It may have been accepted all the same. To find out, give the same command with --idempotency-key {key}: \
         that can't start a second deployment."
    )
}

/// The job that was accepted, if the answer is about this app.
fn understood(answer: &Answer, app: &str) -> Result<(Job, JobId), CallError> {
    let job: Job = answer.json()?;
    let id = job.job_id.parse().map_err(|_| CallError::Garbled("its job_id is not a ULID".into()))?;
    if job.deployment_id != app {
        return Err(CallError::Garbled("it is about another app".into()));
    }
    Ok((job, id))
}

/// A request that was never answered as it should be.
pub(super) struct Unanswered {
    pub(super) error: CallError,
    /// One of the attempts may have been carried out.
    pub(super) sent: bool,
}

/// Repeats a request that can be repeated until it is answered, or for as long as `asking` allows.
pub(super) async fn persist(
    http: &Http,
    screen: &mut Screen,
    make: impl Fn() -> RequestBuilder,
) -> Result<Answer, Unanswered> {
    let patience = http.patience;
    let mut until = Instant::now() + patience.asking;
    let mut sent = false;
    let mut barred = false;
    let mut attempt = 0;
    loop {
        let error = match tokio::time::timeout_at(until, http.send(make())).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => error,
            Err(_) => CallError::NotReached { cause: "no answer in time".into(), sent: true },
        };
        sent |= match &error {
            CallError::NotReached { sent, .. } => *sent,
            CallError::Foreign(_) | CallError::Garbled(_) => true,
            CallError::Problem(problem, _) => problem.status >= 500,
            CallError::Untrusted(_) | CallError::Redirect(_) => false,
        };
        let pause = patience.pause(attempt).max(error.retry_after().unwrap_or_default());
        // Failed tries of others from the same address: they are waited out once, for however long the dispatcher says.
        if !barred && matches!(error.problem(), Some((429, _))) && pause <= BARRED_MAX {
            barred = true;
            until = until.max(Instant::now() + pause + patience.call);
            screen.note(&format!("{error}; trying again in {} s", pause.as_secs()));
        }
        if !error.passes() || Instant::now() + pause >= until {
            return Err(Unanswered { error, sent });
        }
        if attempt == 1 {
            screen.note(&format!("no answer from the dispatcher, trying again ({error})"));
        }
        attempt += 1;
        tokio::time::sleep(pause).await;
    }
}

/// Extra variables, from arguments and file.
fn vars(args: &Deploy) -> Result<Map<String, Value>, Fault> {
    let mut vars = match &args.vars_file {
        None => Map::new(),
        Some(path) => {
            let hint = "It must hold one JSON object, such as {\"version\": \"1.2.3\"}.";
            let text = read(path, "vars file")?;
            serde_json::from_slice(&text).map_err(|error| {
                // Not the error's own words: they may repeat a value.
                let at = format!("line {}, column {}", error.line(), error.column());
                Fault::usage(format!("the vars file {} is no JSON object ({at})", path.display()), hint)
            })?
        }
    };
    for (name, value) in &args.vars {
        if vars.insert(name.clone(), Value::String(value.clone())).is_some() {
            return Err(Fault::usage(
                format!("the variable {} is given twice", plain(name)),
                "Give each of them once.",
            ));
        }
    }
    Ok(vars)
}

/// Reads a file, or standard input where it is called `-`.
pub(super) fn read(path: &Path, what: &str) -> Result<Vec<u8>, Fault> {
    let mut bytes = Vec::new();
    let source: std::io::Result<Box<dyn Read>> = if path.as_os_str() == "-" {
        Ok(Box::new(std::io::stdin()))
    } else {
        File::open(path).map(|file| Box::new(file) as _)
    };
    let size = source.and_then(|source| source.take(FILE_MAX + 1).read_to_end(&mut bytes)).map_err(|error| {
        Fault::usage(
            format!("the {what} {} cannot be read: {error}", path.display()),
            "Check the path and that this user may read it.",
        )
    })?;
    if size as u64 > FILE_MAX {
        return Err(Fault::usage(
            format!("the {what} {} is too large", path.display()),
            "Check that it is the right file.",
        ));
    }
    Ok(bytes)
}
