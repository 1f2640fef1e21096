//! `lockstep environment`: what operators register, and what is deployed there.

use std::collections::BTreeSet;

use reqwest::Method;
use reqwest::header::CONTENT_TYPE;

use super::args::{Add, Environment, ShownEnvironment};
use crate::client::args::Listed;
use crate::client::escape::plain;
use crate::client::exit::{Exit, Fault};
use crate::client::http::{CallError, Http};
use crate::client::manage::{head, row};
use crate::client::operate::say_json;
use crate::client::recap::table;
use crate::client::releases::when;
use crate::client::screen::{Screen, Tone};
use crate::client::written::Kind;
use crate::model::order::environment;
use crate::wire::{DeployedService, EnvironmentList, EnvironmentSet, EnvironmentView, ModeView};

/// The JSON Schema of the file.
const SCHEMA: &str = include_str!("../../../docs/environment.schema.json");

/// The file.
const FILE: Kind<environment::Environment> = Kind {
    what: "environment",
    hint: "See: lockstep environment schema, and docs/orders.md.",
    read: environment::read,
};

/// So much of a commit is shown.
const COMMIT: usize = 12;

/// Carries out what needs no dispatcher.
pub(in crate::client) fn environment_offline(args: &Environment, screen: &mut Screen) -> Option<Result<Exit, Fault>> {
    match args {
        Environment::Schema => {
            screen.say(SCHEMA.trim_end());
            Some(Ok(Exit::Done))
        }
        Environment::Validate(args) => Some(FILE.of(&args.file).map(|(environment, _)| {
            let modes: Vec<_> = environment.modes.keys().map(ToString::to_string).collect();
            screen.say(&format!(
                "{}: good: environment {} with {}",
                args.file.display(),
                environment.id,
                modes.join(", ")
            ));
            Exit::Done
        })),
        Environment::Add(_) | Environment::Show(_) | Environment::List(_) => None,
    }
}

/// `environment`
pub(in crate::client) async fn environment(args: Environment, http: &Http, screen: &mut Screen) -> Result<Exit, Fault> {
    match args {
        Environment::Add(args) => add(args, http, screen).await,
        Environment::Show(args) => show(args, http, screen).await,
        Environment::List(args) => list(args, http, screen).await,
        Environment::Validate(_) | Environment::Schema => Ok(Exit::Done),
    }
}

async fn add(args: Add, http: &Http, screen: &mut Screen) -> Result<Exit, Fault> {
    let (environment, text) = FILE.of(&args.file)?;
    let about = format!("environment {}", environment.id);
    let query: Vec<_> = args.reason.as_deref().map(|reason| ("reason", reason)).into_iter().collect();
    let request = http.request(Method::PUT, &["environments", environment.id.as_str()], &query);
    let answer = http.send(request.header(CONTENT_TYPE, "application/yaml").body(text)).await;
    let set: EnvironmentSet = answer.and_then(|answer| answer.json()).map_err(|error| http.fault(&error, &about))?;
    let word = if set.new { "registered" } else { "changed; the next order is compared with it" };
    screen.say(&format!("environment {} is {word}", plain(&set.id)));
    if !set.left.is_empty() {
        screen.say("Left as it is, and out of reach of orders, unless it is registered again before the next one:");
        for left in &set.left {
            screen.say(&format!("  {}", plain(left)));
        }
    }
    Ok(Exit::Done)
}

async fn show(args: ShownEnvironment, http: &Http, screen: &mut Screen) -> Result<Exit, Fault> {
    let id = args.environment.as_str();
    let fault = |error| http.fault(&error, &format!("environment {id}"));
    let answer = http.send(http.request(Method::GET, &["environments", id], &[])).await.map_err(fault)?;
    if args.json {
        say_json(screen, &answer);
        return Ok(Exit::Done);
    }
    let view: EnvironmentView = answer.json().map_err(fault)?;
    if view.id != id {
        return Err(fault(CallError::Garbled("it is about another environment".into())));
    }
    screen.shield();
    for line in sheet(&view, screen.look().colour) {
        screen.say(&line);
    }
    Ok(Exit::Done)
}

async fn list(args: Listed, http: &Http, screen: &mut Screen) -> Result<Exit, Fault> {
    let fault = |error| http.fault(&error, "the environments");
    let answer = http.send(http.request(Method::GET, &["environments"], &[])).await.map_err(fault)?;
    if args.json {
        say_json(screen, &answer);
        return Ok(Exit::Done);
    }
    let list: EnvironmentList = answer.json().map_err(fault)?;
    if list.environments.is_empty() {
        screen.say("no environment is registered");
    }
    for id in &list.environments {
        screen.say(&plain(id));
    }
    Ok(Exit::Done)
}

/// An environment, mode by mode.
pub(super) fn sheet(view: &EnvironmentView, colour: bool) -> Vec<String> {
    let order = |number: u64| plain(&format!("{}/{number}", view.id));
    let newest = if view.newest_order == 0 { "none yet".to_owned() } else { order(view.newest_order) };
    let mut rows = vec![
        vec!["environment".to_owned(), plain(&view.id)],
        vec!["registered".to_owned(), format!("{} by {}", when(&view.made_at), plain(&view.by))],
        vec!["newest order".to_owned(), newest],
    ];
    rows.extend(view.running_order.map(|number| vec!["carried out".to_owned(), format!("order {}", order(number))]));
    let mut shown = table(&rows, 2);
    for (name, mode) in &view.modes {
        shown.push(String::new());
        shown.extend(of_mode(name, mode, colour));
    }
    shown
}

fn of_mode(name: &str, mode: &ModeView, colour: bool) -> Vec<String> {
    let it = &mode.registration;
    let (from, to) = it.ports;
    let mut shown = vec![format!(
        "── {}: proxy on {}, port {}; services on ports {from} to {to}",
        plain(name),
        it.proxy.host,
        it.proxy.port
    )];
    let mut rows = vec![head(["host", "reached as", "room", "services"])];
    let mut tones = vec![Tone::Quiet];
    for host in &it.hosts {
        let there: Vec<&DeployedService> = mode.services.iter().filter(|it| it.host == host.name.as_str()).collect();
        let used: u64 = there.iter().map(|it| u64::from(it.memory)).sum();
        let reached = format!("{}@{}:{}", host.user, host.address, host.port);
        let room = format!("{used} of {} MiB", host.memory);
        rows.push(row([host.name.as_str(), &reached, &room, &there.len().to_string()]));
        tones.push(if used > u64::from(host.memory) { Tone::Bad } else { Tone::Plain });
    }
    paint(&mut shown, &rows, &tones, colour);
    if !mode.services.is_empty() {
        let mut rows = vec![head(["service", "host", "port", "type", "MiB", "commit", "repository", ""])];
        let mut tones = vec![Tone::Quiet];
        for it in &mode.services {
            let port = it.port.map(|port| port.to_string()).unwrap_or_default();
            let commit: String = it.commit.as_deref().unwrap_or_default().chars().take(COMMIT).collect();
            let kind = it.kind.map(crate::wire::ServiceKind::word).unwrap_or_default();
            let memory = it.memory.to_string();
            let repository = it.repository.as_deref().unwrap_or_default();
            let mut cells = row([&it.id, &it.host, &port, kind, &memory, &commit, repository]);
            if it.doubtful {
                cells.push("something else may run: a job that was at it did not succeed, or something of it was gone from its host".into());
            }
            rows.push(cells);
            tones.push(if it.doubtful { Tone::Bad } else { Tone::Plain });
        }
        paint(&mut shown, &rows, &tones, colour);
    }
    let routed: BTreeSet<&str> = mode.routes.iter().map(|it| it.domain.as_str()).collect();
    let mut rows = Vec::new();
    for it in &mode.routes {
        rows.push(row([
            &format!("{}{}", it.domain, it.path),
            &format!("service {}, {}:{}", it.service, it.address, it.port),
        ]));
    }
    let bare = mode.domains.iter().filter(|domain| !routed.contains(domain.as_str()));
    rows.extend(bare.map(|domain| row([domain, "nothing yet"])));
    if !rows.is_empty() {
        rows.insert(0, head(["route", "leads to"]));
        let tones = vec![Tone::Quiet];
        paint(&mut shown, &rows, &tones, colour);
    }
    let names = |names: Vec<&String>| names.into_iter().map(|name| plain(name)).collect::<Vec<_>>().join(", ");
    if !it.variables.is_empty() {
        shown.push(format!("  variables: {}", names(it.variables.keys().collect())));
    }
    if !mode.vault.is_empty() {
        shown.push(format!("  in the vault: {}", names(mode.vault.iter().collect())));
    }
    shown
}

/// A table, indented; rows beyond the tones are plain.
fn paint(shown: &mut Vec<String>, rows: &[Vec<String>], tones: &[Tone], colour: bool) {
    let columns = rows.first().map_or(0, Vec::len);
    let tones = tones.iter().copied().chain(std::iter::repeat(Tone::Plain));
    let lines = table(rows, columns);
    shown.extend(lines.iter().zip(tones).map(|(line, tone)| tone.paint(colour, &format!("  {line}"))));
}
