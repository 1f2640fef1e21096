//! `lockstep release list`: all pages, then the board.

use std::collections::BTreeSet;

use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::args::List;
use super::board::{Stages, board, rows};
use super::history::patiently;
use crate::client::escape::plain;
use crate::client::exit::{Exit, Fault};
use crate::client::http::{CallError, Http};
use crate::client::operate::say_value;
use crate::client::screen::Screen;
use crate::wire::{PipelineView, ReleaseSummary};

/// The most releases that are asked for at a time.
const PAGE: u32 = 200;

/// A page, whose releases are read once it is known that all pages are there.
#[derive(Deserialize)]
struct Page {
    releases: Vec<Value>,
    #[serde(default)]
    cursor: Option<String>,
}

/// `release list`
pub(super) async fn list(args: List, http: &Http, screen: &mut Screen) -> Result<Exit, Fault> {
    let fault = |error| http.fault(&error, "the releases");
    let (found, more) = pages(&args, http, screen).await.map_err(fault)?;
    if more {
        screen.note(&format!("these are the newest {}; --limit shows more", found.len()));
    }
    if args.json {
        say_value(screen, &json!({"releases": found}));
        return Ok(Exit::Done);
    }
    let releases: Vec<ReleaseSummary> = found
        .into_iter()
        .map(serde_json::from_value)
        .collect::<Result<_, _>>()
        .map_err(|error| fault(CallError::Garbled(plain(&error.to_string()))))?;
    if releases.is_empty() {
        screen.say(if args.all { "there is no such release" } else { "no such release is under way" });
        return Ok(Exit::Done);
    }
    screen.shield();
    let lines = match screen.width() {
        None => rows(&releases),
        Some(width) => {
            let stages = stages(&releases, http).await.map_err(fault)?;
            board(&releases, &stages, width, screen.look().colour)
        }
    };
    for line in lines {
        screen.say(&line);
    }
    Ok(Exit::Done)
}

/// The releases that were asked for, newest first, and whether there are more.
async fn pages(args: &List, http: &Http, screen: &mut Screen) -> Result<(Vec<Value>, bool), CallError> {
    let wished = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let filter = filter(args);
    let mut found = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let left = u32::try_from(wished - found.len()).unwrap_or(PAGE);
        let limit = left.min(PAGE).to_string();
        let mut query = filter.clone();
        query.push(("limit", &limit));
        query.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
        // Trouble in between does not cost the pages before it.
        let ask = async || http.send(http.request(Method::GET, &["releases"], &query)).await?.json::<Page>();
        let page = if cursor.is_none() { ask().await? } else { patiently(http, screen, false, ask).await? };
        found.extend(page.releases);
        found.truncate(wished);
        match page.cursor {
            None => return Ok((found, false)),
            Some(_) if found.len() == wished => return Ok((found, true)),
            // The next page is behind this one, also where this one is empty.
            Some(next) if cursor.as_ref().is_some_and(|cursor| *cursor <= next) => {
                return Err(CallError::Garbled("its cursor does not lead on".into()));
            }
            next => cursor = next,
        }
    }
}

fn filter(args: &List) -> Vec<(&'static str, &str)> {
    let words = [
        ("pipeline", args.pipeline.as_ref()),
        ("product", args.product.as_ref()),
        ("service", args.service.as_ref()),
        ("stage", args.stage.as_ref()),
    ];
    let texts = [("version", args.version.as_deref()), ("state", args.state.as_deref())];
    // One that is decided or superseded may be asked for by its state.
    let over = matches!(args.state.as_deref(), Some("decided" | "superseded"));
    let flags = [("ready", args.ready), ("active", !args.all && !over)];
    let words = words.into_iter().filter_map(|(name, word)| Some((name, word?.as_str())));
    let texts = texts.into_iter().filter_map(|(name, text)| Some((name, text?)));
    let flags = flags.into_iter().filter(|(_, set)| *set).map(|(name, _)| (name, "true"));
    words.chain(texts).chain(flags).collect()
}

/// The stages of the pipelines that the releases go through. A reporter may not read pipelines, and one that is gone has none.
async fn stages(releases: &[ReleaseSummary], http: &Http) -> Result<Stages, CallError> {
    let pipelines: BTreeSet<&str> = releases.iter().map(|it| it.pipeline.as_str()).collect();
    let mut stages = Stages::new();
    for pipeline in pipelines {
        match http.get::<PipelineView>(&["pipelines", pipeline]).await {
            Ok(view) => drop(stages.insert(pipeline.to_owned(), view.stages)),
            Err(CallError::Problem(problem, _)) if matches!(problem.status, 401 | 403 | 404) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(stages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_under_way_unless_it_is_asked_for() {
        let args = List {
            pipeline: None,
            product: Some("p".parse().expect("a name")),
            service: None,
            version: Some("1 2".into()),
            stage: None,
            state: None,
            ready: true,
            all: false,
            limit: 1,
            json: false,
        };
        assert_eq!(filter(&args), [("product", "p"), ("version", "1 2"), ("ready", "true"), ("active", "true")]);
        let decided =
            List { state: Some("decided".into()), product: None, version: None, ready: false, ..args.clone() };
        assert_eq!(filter(&decided), [("state", "decided")]);
        assert!(!filter(&List { all: true, ..args }).contains(&("active", "true")));
    }
}
