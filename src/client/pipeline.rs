//! The commands about pipelines.

use reqwest::Method;
use reqwest::header::CONTENT_TYPE;

use super::args::{Listed, Pipeline, PipelineApply, PipelineShow};
use super::escape::plain;
use super::exit::{Exit, Fault};
use super::http::Http;
use super::manage::{head, row, show};
use super::operate::say_json;
use super::screen::Screen;
use super::written::Kind;
use crate::model::pipeline;
use crate::wire::{PipelineList, PipelineSet, PipelineView};

/// The JSON Schema of the file.
const SCHEMA: &str = include_str!("../../docs/pipeline.schema.json");

/// Carries out what needs no dispatcher.
pub(super) fn offline(args: &Pipeline, screen: &mut Screen) -> Option<Result<Exit, Fault>> {
    match args {
        Pipeline::Schema => {
            screen.say(SCHEMA.trim_end());
            Some(Ok(Exit::Done))
        }
        Pipeline::Validate(args) => Some(FILE.of(&args.file).map(|(pipeline, _)| {
            let stages: Vec<_> = pipeline.stages.iter().map(|stage| stage.name.as_str()).collect();
            screen.say(&format!("{}: good: {}", args.file.display(), stages.join(", ")));
            Exit::Done
        })),
        Pipeline::Apply(_) | Pipeline::Show(_) | Pipeline::List(_) => None,
    }
}

/// The file.
const FILE: Kind<pipeline::Pipeline> = Kind {
    what: "pipeline",
    hint: "See: lockstep pipeline schema, and docs/pipelines.md.",
    read: pipeline::file::read,
};

/// `pipeline`
pub(super) async fn pipeline(args: Pipeline, http: &Http, screen: &mut Screen) -> Result<Exit, Fault> {
    match args {
        Pipeline::Apply(args) => apply(args, http, screen).await,
        Pipeline::Show(args) => show_one(args, http, screen).await,
        Pipeline::List(args) => list(args, http, screen).await,
        Pipeline::Validate(_) | Pipeline::Schema => Ok(Exit::Done),
    }
}

async fn apply(args: PipelineApply, http: &Http, screen: &mut Screen) -> Result<Exit, Fault> {
    let (pipeline, text) = FILE.of(&args.file)?;
    let about = format!("the pipeline {}", pipeline.name);
    let query: Vec<_> = args.reason.as_deref().map(|reason| ("reason", reason)).into_iter().collect();
    let request = http.request(Method::PUT, &["pipelines", pipeline.name.as_str()], &query);
    let answer = http.send(request.header(CONTENT_TYPE, "application/yaml").body(text)).await;
    let set: PipelineSet = answer.and_then(|answer| answer.json()).map_err(|error| http.fault(&error, &about))?;
    for warning in &set.warnings {
        screen.note(&format!("warning: {}", plain(warning)));
    }
    let word = if set.new { "recorded as" } else { "is already" };
    screen.say(&format!("the pipeline {} {word} version {}", plain(&set.name), set.version));
    Ok(Exit::Done)
}

async fn show_one(args: PipelineShow, http: &Http, screen: &mut Screen) -> Result<Exit, Fault> {
    let about = format!("the pipeline {}", args.name);
    let fault = |error| http.fault(&error, &about);
    let version = args.revision.map(|number| number.to_string());
    let query: Vec<_> = version.as_deref().map(|version| ("version", version)).into_iter().collect();
    let answer =
        http.send(http.request(Method::GET, &["pipelines", args.name.as_str()], &query)).await.map_err(fault)?;
    if args.json {
        say_json(screen, &answer);
        return Ok(Exit::Done);
    }
    let view: PipelineView = answer.json().map_err(fault)?;
    screen.note(&format!("version {} of {}, by {}", view.version, plain(&view.made_at), plain(&view.by)));
    for line in view.file.lines() {
        screen.say(&plain(line));
    }
    Ok(Exit::Done)
}

async fn list(args: Listed, http: &Http, screen: &mut Screen) -> Result<Exit, Fault> {
    let fault = |error| http.fault(&error, "the pipelines");
    let answer = http.send(http.request(Method::GET, &["pipelines"], &[])).await.map_err(fault)?;
    if args.json {
        say_json(screen, &answer);
        return Ok(Exit::Done);
    }
    let list: PipelineList = answer.json().map_err(fault)?;
    let mut rows = vec![head(["name", "version"])];
    rows.extend(list.pipelines.iter().map(|it| row([&it.name, &it.version.to_string()])));
    show(screen, &rows);
    Ok(Exit::Done)
}
