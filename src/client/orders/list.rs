//! `lockstep order list`.

use reqwest::Method;

use super::args::List;
use super::show::{services, tone};
use crate::client::exit::{Exit, Fault};
use crate::client::http::Http;
use crate::client::manage::{head, row};
use crate::client::operate::say_json;
use crate::client::recap::table;
use crate::client::releases::when;
use crate::client::screen::{Screen, Tone};
use crate::wire::{OrderAction, OrderList, OrderSummary};

/// `order list`
pub(super) async fn list(args: List, http: &Http, screen: &mut Screen) -> Result<Exit, Fault> {
    let fault = |error| http.fault(&error, "the orders");
    let limit = args.limit.to_string();
    let mut query = vec![("limit", limit.as_str())];
    query.extend(args.environment.as_ref().map(|environment| ("environment", environment.as_str())));
    let answer = http.send(http.request(Method::GET, &["orders"], &query)).await.map_err(fault)?;
    if args.json {
        say_json(screen, &answer);
        return Ok(Exit::Done);
    }
    let list: OrderList = answer.json().map_err(fault)?;
    screen.shield();
    for line in rows(&list.orders, screen.look().colour) {
        screen.say(&line);
    }
    if !list.unreadable.is_empty() {
        screen.say(&format!("cannot be read, and are left as they are: {}", list.unreadable.join(", ")));
    }
    Ok(Exit::Done)
}

/// One order a line.
pub(super) fn rows(orders: &[OrderSummary], colour: bool) -> Vec<String> {
    if orders.is_empty() {
        return vec!["there is no order".into()];
    }
    let mut rows = vec![head(["order", "mode", "action", "state", "services", "given", "by", "reason"])];
    rows.extend(orders.iter().map(|it| {
        let action = match it.action {
            OrderAction::Update => "update",
            OrderAction::Remove => "remove",
        };
        let reason = it.reason.as_deref().unwrap_or_default();
        let given = when(&it.created_at);
        row([&it.id, &it.mode, action, it.state.word(), &services(it), &given, &it.by, reason])
    }));
    let tones = std::iter::once(Tone::Quiet).chain(orders.iter().map(|it| tone(it.state)));
    table(&rows, 8).iter().zip(tones).map(|(line, tone)| tone.paint(colour, line)).collect()
}
