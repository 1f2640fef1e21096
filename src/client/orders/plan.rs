//! How an order differs from what is deployed: asked for, and shown.

use reqwest::Method;
use reqwest::header::CONTENT_TYPE;

use super::FILE;
use super::args::Plan;
use crate::client::deploy::persist;
use crate::client::escape::plain;
use crate::client::exit::{Exit, Fault};
use crate::client::http::{Answer, CallError, Http};
use crate::client::operate::say_json;
use crate::client::recap::table;
use crate::client::screen::{Screen, Tone};
use crate::wire::{Change, OrderAction, PlanView, WayView};

/// `order plan`
pub(super) async fn plan(args: Plan, http: &Http, screen: &mut Screen) -> Result<Exit, Fault> {
    let (spec, text) = FILE.of(&args.file)?;
    let (answer, view) = ask(http, screen, &text, args.mode.as_str(), spec.environment.as_str()).await?;
    if args.json {
        say_json(screen, &answer);
    } else {
        screen.shield();
        for line in lines(&view, screen.look().colour) {
            screen.say(&line);
        }
    }
    Ok(if view.problems.is_empty() { Exit::Done } else { Exit::Refused })
}

/// Asks for the plan of a file. It changes nothing, so it is asked until there is an answer; that takes its time, because repositories are
/// asked for it.
pub(super) async fn ask(
    http: &Http,
    screen: &mut Screen,
    text: &str,
    mode: &str,
    environment: &str,
) -> Result<(Answer, PlanView), Fault> {
    let about = format!("the plan for environment {environment}");
    let make = || {
        let request = http.request(Method::POST, &["orders", "plan"], &[("mode", mode)]);
        request.header(CONTENT_TYPE, "application/yaml").body(text.to_owned()).timeout(http.patience.asking)
    };
    let answer = persist(http, screen, make).await.map_err(|it| http.fault(&it.error, &about))?;
    let view: PlanView = answer.json().map_err(|error| http.fault(&error, &about))?;
    if view.environment != environment {
        return Err(http.fault(&CallError::Garbled("it is about another environment".into()), &about));
    }
    Ok((answer, view))
}

/// What sets a change apart, and the word for it.
fn sign(change: Change) -> (&'static str, &'static str, Tone) {
    match change {
        Change::Create => ("+", "create", Tone::Good),
        Change::Update => ("~", "update", Tone::Plain),
        Change::Move => (">", "move", Tone::Plain),
        Change::Remove => ("-", "remove", Tone::Bad),
        Change::Keep => ("=", "keep", Tone::Quiet),
    }
}

/// How many services of each change, in one line.
pub(super) fn sum(view: &PlanView) -> String {
    let counts = [Change::Create, Change::Update, Change::Move, Change::Remove, Change::Keep].map(|change| {
        let count = view.services.iter().filter(|it| it.change == change).count();
        (count > 0).then(|| format!("{count} to {}", sign(change).1))
    });
    let counts: Vec<String> = counts.into_iter().flatten().collect();
    if counts.is_empty() { "no service".into() } else { counts.join(", ") }
}

/// A plan, for people.
pub(super) fn lines(view: &PlanView, colour: bool) -> Vec<String> {
    let action = match view.action {
        OrderAction::Update => "update",
        OrderAction::Remove => "remove",
    };
    let of = plain(&format!("{} ({})", view.environment, view.mode));
    let mut shown = vec![format!("plan for environment {of}, {action}: {}", sum(view))];
    let rows: Vec<Vec<String>> = view
        .services
        .iter()
        .map(|it| {
            let host = it.host.as_deref().map(plain).unwrap_or_default();
            let port = it.port.map(|port| format!(":{port}")).unwrap_or_default();
            let (sign, word, _) = sign(it.change);
            let why: Vec<_> = it.why.iter().map(|why| plain(why)).collect();
            vec![format!("  {sign}"), plain(&it.id), word.to_owned(), format!("{host}{port}"), why.join("; ")]
        })
        .collect();
    let tones = view.services.iter().map(|it| sign(it.change).2);
    shown.extend(table(&rows, 5).iter().zip(tones).map(|(line, tone)| tone.paint(colour, line)));
    let mut changed = |name: &str, sign: &str, tone: Tone, what: String| {
        shown.push(tone.paint(colour, &format!("  {sign}  {name} {what}")));
    };
    for (sign, tone, domains, routes) in [
        ("+", Tone::Good, &view.domains.add, &view.routes.add),
        ("-", Tone::Bad, &view.domains.remove, &view.routes.remove),
    ] {
        for domain in domains {
            changed("domain", sign, tone, plain(domain));
        }
        for WayView { domain, path, service } in routes {
            changed("route", sign, tone, plain(&format!("{domain}{path} to service {service}")));
        }
    }
    for name in &view.generate {
        changed("variable of the vault", "+", Tone::Good, format!("{}, which is drawn", plain(name)));
    }
    for what in &view.unchecked {
        shown.push(Tone::Quiet.paint(colour, &format!("not looked at yet: {}", plain(what))));
    }
    for problem in &view.problems {
        shown.push(Tone::Bad.paint(colour, &format!("it cannot be carried out: {}", plain(problem))));
    }
    shown
}
