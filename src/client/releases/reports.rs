//! The reporter's side: what it is asked, what it has found, and the logs of that.

use std::path::Path;
use std::time::Duration;

use reqwest::Method;
use tokio::time::Instant;

use super::args::{Log, Pending, Report};
use super::history::patiently;
use super::words::{services, when, whereabouts};
use super::{about, words};
use crate::client::deploy::{persist, read};
use crate::client::exit::{Exit, Fault};
use crate::client::http::Http;
use crate::client::manage::{head, row, show};
use crate::client::operate::say_json;
use crate::client::screen::Screen;
use crate::client::signals::Signals;
use crate::wire::{self, PendingRequest, ReportRequest};

/// The most bytes of a log, as the dispatcher has it.
const LOG_MAX: usize = 1024 * 1024;

/// `release report`
pub(super) async fn report(args: Report, http: &Http, screen: &mut Screen) -> Result<Exit, Fault> {
    let Report { release, stage, step, result, link, status, comment, log } = args;
    let id = release.to_string();
    let about_what = format!("the report on release {id}");
    let log = log
        .map(|path| {
            let text = text_of(read(&path, "log")?, &path)?;
            if text.len() > LOG_MAX {
                return Err(Fault::usage(
                    format!("the log {} has more than 1 MiB", path.display()),
                    "Give the part that matters, and say by --link where the rest is.",
                ));
            }
            Ok(text)
        })
        .transpose()?;
    let request =
        ReportRequest { stage: stage.to_string(), step: step.map(Into::into), result, link, status, comment, log };
    // What has been reported already may be reported again.
    let make = || http.request(Method::POST, &["releases", &id, "reports"], &[]).json(&request);
    let answer = persist(http, screen, make).await.map_err(|it| it.error);
    let view = answer.and_then(|answer| answer.json()).and_then(|view| about(view, release));
    let view = view.map_err(|error| http.fault(&error, &about_what))?;
    screen.say(&format!("reported {result} in {stage}: {}", whereabouts(&view.summary)));
    Ok(Exit::Done)
}

/// A log is a text, and is kept as it is: nothing is put in the place of what is none.
fn text_of(bytes: Vec<u8>, path: &Path) -> Result<String, Fault> {
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to() + 1;
        Fault::usage(
            format!("the log {} is not UTF-8: byte {at} begins no character", path.display()),
            "Convert it, such as with iconv -f latin1 -t utf8, and give it as --log -.",
        )
    })
}

/// `release log`
pub(super) async fn log(args: Log, http: &Http, screen: &mut Screen) -> Result<Exit, Fault> {
    let id = args.release.to_string();
    let request = http.request(Method::GET, &["releases", &id, "logs", &args.digest], &[]);
    let answer = http.send(request).await.map_err(|error| http.fault(&error, &format!("the log of release {id}")))?;
    if screen.is_exact() {
        screen.exact(&answer.body);
    } else {
        screen.shield();
        screen.output(&answer.body);
        screen.output_ends();
    }
    Ok(Exit::Done)
}

/// `release pending`
pub(super) async fn pending(args: Pending, http: &Http, screen: &mut Screen) -> Result<Exit, Fault> {
    let mut signals = Signals::listen();
    let Pending { reporter, wait, json } = args;
    let until = Instant::now() + wait.unwrap_or_default();
    let mut known = false;
    loop {
        let left = until.saturating_duration_since(Instant::now()).as_secs_f64().ceil();
        let seconds = (left as u64).min(http.patience.wait_s);
        let ask = async || {
            let text = seconds.to_string();
            let request = http.request(Method::GET, &["reporters", reporter.as_str(), "pending"], &[("wait", &text)]);
            let answer = http.send(request.timeout(http.patience.call + Duration::from_secs(seconds))).await?;
            let pending = answer.json::<wire::Pending>()?;
            Ok((answer, pending.requests))
        };
        let asked = async {
            // Who does not wait is told at once what is wrong.
            if wait.is_none() { ask().await } else { patiently(http, screen, known, ask).await }
        };
        let asked = tokio::select! {
            asked = asked => asked,
            number = signals.next() => return Ok(Exit::Signal(number)),
        };
        let (answer, requests) =
            asked.map_err(|error| http.fault(&error, &format!("what awaits the reporter {reporter}")))?;
        known = true;
        if requests.is_empty() && Instant::now() < until {
            continue;
        }
        if json {
            say_json(screen, &answer);
        } else if requests.is_empty() {
            screen.say(&format!("nothing awaits {reporter}"));
        } else {
            screen.shield();
            show(screen, &rows(&requests));
        }
        return Ok(Exit::Done);
    }
}

fn rows(requests: &[PendingRequest]) -> Vec<Vec<String>> {
    let mut rows = vec![head(["release", "product", "kind", "stage", "step", "asked to", "deadline", "services"])];
    rows.extend(requests.iter().map(|it| {
        let deadline = it.deadline.as_deref().map(when).unwrap_or_default();
        let (kind, action) = (words::kind(it.kind), it.action.as_deref().unwrap_or_default());
        let services = services(&it.services).join(", ");
        row([&it.release, &it.product, kind, &it.stage, &it.step, action, &deadline, &services])
    }));
    rows
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::client::recap::table;

    #[test]
    fn a_log_is_sent_as_it_is_or_not_at_all() {
        let of = |bytes: &[u8]| text_of(bytes.to_vec(), Path::new("log.txt"));
        assert_eq!(of(b"\x1b[31mr\xc3\xa9d\r\n\0").expect("a text"), "\u{1b}[31mréd\r\n\0");
        let fault = of(b"caf\xe9\n").expect_err("Latin-1");
        assert!(fault.exit == Exit::Usage && fault.what.contains("is not UTF-8: byte 4"), "{fault:?}");
    }

    #[test]
    fn what_awaits_a_reporter_is_a_table() {
        let requests = json!([
            {
                "release": "01GZEC5GJHFKWMK4Z5A1NM9DPF", "pipeline": "kitchen", "product": "soup", "kind": "update", "stage": "dev",
                "step": "tests", "deadline": "2026-11-28T16:02:00.000Z", "action": "Taste",
                "services": {"pot": {"version": "1.2"}, "lid": {"version": "3"}},
            },
            {
                "release": "01GZEC5GJHFKWMK4Z5A1NM9DPG", "pipeline": "kitchen", "product": "soup", "kind": "initial", "stage": "pre",
                "step": "look", "services": {"pot": {"version": "1.3\u{1b}[2J"}},
            },
        ]);
        let requests: Vec<PendingRequest> = serde_json::from_value(requests).expect("requests");
        insta::assert_snapshot!(table(&rows(&requests), 8).join("\n"), @r"
        release                     product  kind     stage  step   asked to  deadline              services
        01GZEC5GJHFKWMK4Z5A1NM9DPF  soup     update   dev    tests  Taste     2026-11-28T16:02:00Z  lid 3, pot 1.2
        01GZEC5GJHFKWMK4Z5A1NM9DPG  soup     initial  pre    look   -         -                     pot 1.3
        ");
    }
}
