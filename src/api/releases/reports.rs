//! Reports on a release, and their logs.
//!
//! A report counts for exactly one release and stage, from a reporter that is asked there, once. Reports are events; the audit log is about
//! people.

use std::borrow::Cow;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use url::Url;

use super::view;
use crate::api::Shared;
use crate::api::auth::{ReleaseReader, Reporter};
use crate::api::docs::{Guarded, LogPath, Moving, OfRelease, ReleasePath, WithBody};
use crate::api::error::ApiError;
use crate::api::extract::{LargeJson, LogOf, Named, optional_word, word};
use crate::model::ids::{ReleaseId, Word};
use crate::model::release::Report;
use crate::model::release::command::{Command, apply};
use crate::model::text::acts;
use crate::store::digest_of;
use crate::wire::{Problem, ReleaseView, ReportRequest};

/// The most bytes of a report: its log, written as JSON, may be four times as long.
const REPORT_MAX: usize = 4 * 1024 * 1024;
/// The most bytes of a log.
const LOG_MAX: usize = 1024 * 1024;
/// The longest link, in bytes.
const LINK_MAX: usize = 2048;
/// The longest status, in characters.
const STATUS_MAX: usize = 64;
/// The longest comment, in characters.
const COMMENT_MAX: usize = 2000;

/// A report that was read: what is recorded, and the log that is kept beside it.
#[derive(Debug, PartialEq, Eq)]
struct Given {
    stage: Word,
    step: Option<Word>,
    report: Report,
    log: Option<String>,
}

/// Reads a report; its time is still to be set.
fn read(request: ReportRequest) -> Result<Given, ApiError> {
    let ReportRequest { stage, step, result, link, status, comment, log } = request;
    if log.as_ref().is_some_and(|log| log.len() > LOG_MAX) {
        return Err(ApiError::LogTooLarge(LOG_MAX));
    }
    let log = log.filter(|log| !log.is_empty());
    if let Some(link) = &link {
        let plain = link.len() <= LINK_MAX && !link.chars().any(|c| acts(c) || c.is_whitespace());
        let url = Url::parse(link).ok().filter(|url| plain && matches!(url.scheme(), "http" | "https"));
        if url.is_none() {
            return Err(ApiError::Invalid(format!("link must be an http or https URL of at most {LINK_MAX} bytes")));
        }
    }
    let report = Report {
        result,
        link,
        status: status.map(|text| line("status", &text, STATUS_MAX, |_| false)).transpose()?,
        comment: comment.map(|text| line("comment", &text, COMMENT_MAX, |c| c == '\n')).transpose()?,
        log: log.as_deref().map(digest_of),
        at_ms: 0,
    };
    Ok(Given { stage: word("stage", stage)?, step: optional_word("step", step)?, report, log })
}

/// A text for people, without what acts on the text around it.
fn line(what: &str, text: &str, most: usize, except: impl Fn(char) -> bool) -> Result<String, ApiError> {
    let text = if text.contains("\r\n") { Cow::Owned(text.replace("\r\n", "\n")) } else { Cow::Borrowed(text) };
    let text = text.trim();
    if !(1..=most).contains(&text.chars().count()) || text.chars().any(|c| acts(c) && !except(c)) {
        let which = if except('\n') {
            "none of them a control character but line breaks"
        } else {
            "none of them a control character"
        };
        return Err(ApiError::Invalid(format!("{what} must have 1 to {most} characters, {which}")));
    }
    Ok(text.to_owned())
}

/// Report on a release
///
/// Under the name of the token. The same report may be sent again; another one is refused, because what was reported stays.
#[utoipa::path(
    post, path = "/api/v1/releases/{release_id}/reports", tag = "releases", operation_id = "report",
    params(ReleasePath),
    request_body = ReportRequest,
    responses((status = 200, description = "Recorded; the release as it is now", body = ReleaseView), Guarded, OfRelease, Moving, WithBody),
    security(("reporter" = []), ("operator" = [])),
)]
pub(in crate::api) async fn report(
    State(api): State<Shared>,
    Named(id): Named<ReleaseId>,
    Reporter { name, sees }: Reporter,
    LargeJson(request): LargeJson<ReportRequest, REPORT_MAX>,
) -> Result<axum::Json<ReleaseView>, ApiError> {
    let Given { stage, step, report, log } = read(request)?;
    let mut seen = api.release_for(&sees, id).await?;
    let (digest, reporter) = (report.log.clone(), name.clone());
    let command = move |at_ms| Command::Report {
        reporter: name.clone(),
        stage: stage.clone(),
        step: step.clone(),
        report: Report { at_ms, ..report.clone() },
    };
    // What would be refused leaves no log behind; it is asked again when it is recorded.
    apply(&seen.pipeline, &mut seen.release, command(0)).map_err(ApiError::Refused)?;
    let dispatcher = api.dispatcher.clone();
    let reporting = async move {
        if let (Some(log), Some(digest)) = (&log, &digest) {
            // Before it is named: a report never names a log that is not there.
            dispatcher.store().keep_log(id, digest, log.as_bytes()).await?;
        }
        let seen = dispatcher.change_release(id, command).await?;
        tracing::info!(release.id = %id, %reporter, "a report was taken");
        Ok(seen)
    };
    let seen = api.finishing(reporting).await.unwrap_or_else(|what| Err(ApiError::NotReady(what)))?;
    Ok(axum::Json(view::release(&seen, sees.eyes())))
}

/// Read the log of a report
///
/// A reporter reads those of its own reports.
#[utoipa::path(
    get, path = "/api/v1/releases/{release_id}/logs/{digest}", tag = "releases", operation_id = "log",
    params(LogPath),
    responses(
        (status = 200, description = "The log", body = String, content_type = "text/plain; charset=utf-8"),
        (status = 404, description = "There is no such release, or it has no such log", body = Problem, content_type = "application/problem+json"),
        Guarded,
    ),
    security(("reporter" = []), ("operator" = []), ("viewer" = []), ("releaser" = [])),
)]
pub(in crate::api) async fn log(
    State(api): State<Shared>,
    LogOf(id, digest): LogOf,
    reader: ReleaseReader,
) -> Result<Response, ApiError> {
    if let ReleaseReader::Reporter(name) = &reader {
        let seen = api.release_for(&reader, id).await?;
        // That others have one is not for it to know either.
        if !view::has_log(&seen.release, name, &digest) {
            return Err(ApiError::UnknownLog);
        }
    }
    let store = api.dispatcher.store();
    let Some(log) = store.log(id, &digest).await? else {
        store.release(id).await?.ok_or(ApiError::UnknownRelease)?;
        return Err(ApiError::UnknownLog);
    };
    let mut response = Response::new(Body::from(log));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    // A log is somebody else's text: a browser shall not make more of it.
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_report_is_checked_and_its_log_named_by_its_digest() {
        let given = |body: serde_json::Value| read(serde_json::from_value(body).expect("a report"));
        let all = json!({
            "stage": "dev", "step": "tests", "result": "warning", "link": "https://ci.example.org/1?x=2", "status": " Unverified ",
            "comment": "one\r\ntwo", "log": "abc",
        });
        let all = given(all).expect("a good one");
        assert_eq!((all.stage.as_str(), all.step.as_ref().map(Word::as_str)), ("dev", Some("tests")));
        assert_eq!(
            (all.report.status.as_deref(), all.report.comment.as_deref()),
            (Some("Unverified"), Some("one\ntwo"))
        );
        let sha = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!((all.report.log.as_deref(), all.log.as_deref()), (Some(sha), Some("abc")));
        let none = given(json!({"stage": "dev", "result": "pass", "log": ""})).expect("a good one");
        assert_eq!((none.report.log, none.log), (None, None));
        for (field, bad) in [
            ("link", json!("ftp://example.org")),
            ("link", json!("example.org")),
            ("link", json!("https://example.org/a b")),
            ("link", json!("https://example.org/\u{202e}")),
            ("link", json!(format!("https://example.org/{}", "x".repeat(LINK_MAX)))),
            ("status", json!("")),
            ("status", json!("a\nb")),
            ("status", json!("x".repeat(STATUS_MAX + 1))),
            ("comment", json!("\u{1b}[31m")),
            ("comment", json!("a\rb")),
            ("comment", json!("x".repeat(COMMENT_MAX + 1))),
            ("stage", json!("../x")),
            ("step", json!("")),
        ] {
            let mut body = json!({"stage": "dev", "result": "pass"});
            body[field] = bad;
            assert!(matches!(given(body.clone()), Err(ApiError::Invalid(_))), "{body}");
        }
        let long = given(json!({"stage": "dev", "result": "pass", "log": "x".repeat(LOG_MAX + 1)}));
        assert!(matches!(long, Err(ApiError::LogTooLarge(LOG_MAX))));
    }
}
