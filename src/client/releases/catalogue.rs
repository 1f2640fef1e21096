//! The catalogue of products, and who is subscribed to which of them.

use reqwest::Method;

use super::args::{Catalogue, Reporters, ReportersSet};
use super::words::{kind, services, state, when};
use crate::client::args::{Listed, Removed};
use crate::client::escape::plain;
use crate::client::exit::{Exit, Fault};
use crate::client::http::Http;
use crate::client::manage::{head, remove, row, show};
use crate::client::operate::say_json;
use crate::client::screen::Screen;
use crate::wire::{self, ReporterList, ReporterRequest, ReporterView};

/// `catalogue`
pub(in crate::client) async fn catalogue(args: Catalogue, http: &Http, screen: &mut Screen) -> Result<Exit, Fault> {
    let fault = |error| http.fault(&error, "the catalogue");
    let mut query = Vec::new();
    query.extend(args.product.as_ref().map(|name| ("product", name.as_str())));
    query.extend(args.service.as_ref().map(|name| ("service", name.as_str())));
    query.extend(args.version.as_deref().map(|version| ("version", version)));
    query.extend(args.ready.then_some(("ready", "true")));
    let answer = http.send(http.request(Method::GET, &["catalogue"], &query)).await.map_err(fault)?;
    if args.json {
        say_json(screen, &answer);
        return Ok(Exit::Done);
    }
    let catalogue: wire::Catalogue = answer.json().map_err(fault)?;
    if catalogue.products.is_empty() {
        screen.say("the catalogue has no such release");
        return Ok(Exit::Done);
    }
    screen.shield();
    show(screen, &rows(&catalogue));
    Ok(Exit::Done)
}

fn rows(catalogue: &wire::Catalogue) -> Vec<Vec<String>> {
    let mut rows =
        vec![head(["product", "pipeline", "release", "services", "kind", "stage", "state", "ready", "submitted"])];
    for of in &catalogue.products {
        rows.extend(of.versions.iter().map(|it| {
            let state = state(it.state, it.shown_as.as_deref(), it.decision);
            let (stage, ready) = (it.stage.as_deref().unwrap_or_default(), if it.ready_to_deploy { "yes" } else { "" });
            let (services, submitted) = (services(&it.services).join(", "), when(&it.created_at));
            let cells =
                [&of.product, &of.pipeline, &it.release, services.as_str(), kind(it.kind), stage, &state, ready];
            let mut cells = row(cells);
            cells.push(submitted);
            cells
        }));
    }
    rows
}

/// `reporters`
pub(in crate::client) async fn reporters(args: Reporters, http: &Http, screen: &mut Screen) -> Result<Exit, Fault> {
    match args {
        Reporters::Set(set) => set_reporter(set, http, screen).await,
        Reporters::List(list) => list_reporters(list, http, screen).await,
        Reporters::Remove(Removed { name, reason }) => {
            remove(http, &["reporters", name.as_str()], reason, &format!("the reporter {name}")).await?;
            screen.note(&format!(
                "the reporter {name} is removed; checks that ask it already go on asking, and its token opens what it did"
            ));
            Ok(Exit::Done)
        }
    }
}

async fn set_reporter(args: ReportersSet, http: &Http, screen: &mut Screen) -> Result<Exit, Fault> {
    let ReportersSet { name, products, reason } = args;
    let request = ReporterRequest { products: products.into_iter().map(Into::into).collect(), reason };
    let answer = http.send_json(Method::PUT, &["reporters", name.as_str()], &request).await;
    let view: ReporterView =
        answer.and_then(|answer| answer.json()).map_err(|error| http.fault(&error, &format!("the reporter {name}")))?;
    screen.say(&format!("the reporter {name} is subscribed to {}", plain(&view.products.join(", "))));
    Ok(Exit::Done)
}

async fn list_reporters(args: Listed, http: &Http, screen: &mut Screen) -> Result<Exit, Fault> {
    let fault = |error| http.fault(&error, "the reporters");
    let answer = http.send(http.request(Method::GET, &["reporters"], &[])).await.map_err(fault)?;
    if args.json {
        say_json(screen, &answer);
        return Ok(Exit::Done);
    }
    let list: ReporterList = answer.json().map_err(fault)?;
    let mut rows = vec![head(["name", "products", "by"])];
    rows.extend(list.reporters.iter().map(|it| row([&it.name, &it.products.join(" "), &it.by])));
    show(screen, &rows);
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::client::recap::table;

    #[test]
    fn the_catalogue_is_a_table() {
        let catalogue = json!({"products": [
            {"product": "soup", "pipeline": "kitchen", "versions": [
                {
                    "release": "01GZEC5GJHFKWMK4Z5A1NM9DPG", "services": {"lid": {"version": "3"}, "pot": {"version": "1.3"}},
                    "kind": "update", "state": "waiting", "stage": "dev", "shown_as": "Tasting", "ready_to_deploy": false,
                    "created_at": "2026-11-28T15:00:00.123Z",
                },
                {
                    "release": "01GZEC5GJHFKWMK4Z5A1NM9DPF", "services": {"pot": {"version": "1.2"}}, "kind": "initial",
                    "state": "decided", "stage": "prod", "ready_to_deploy": true, "decision": "accepted",
                    "created_at": "2026-11-27T15:00:00.123Z",
                },
            ]},
        ]});
        let catalogue: wire::Catalogue = serde_json::from_value(catalogue).expect("a catalogue");
        insta::assert_snapshot!(table(&rows(&catalogue), 9).join("\n"), @r"
        product  pipeline  release                     services        kind     stage  state              ready  submitted
        soup     kitchen   01GZEC5GJHFKWMK4Z5A1NM9DPG  lid 3, pot 1.3  update   dev    Tasting (waiting)  -      2026-11-28T15:00:00Z
        soup     kitchen   01GZEC5GJHFKWMK4Z5A1NM9DPF  pot 1.2         initial  prod   accepted           yes    2026-11-27T15:00:00Z
        ");
    }
}
