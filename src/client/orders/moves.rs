//! What people do to an order that was given: they have it tried again, or end it. Neither is repeated by itself.

use reqwest::Method;

use super::args::{Moved, Retry};
use super::follow::{Following, after};
use super::show::whereabouts;
use crate::client::exit::{Exit, Fault};
use crate::client::http::Http;
use crate::client::screen::Screen;
use crate::client::signals::Signals;
use crate::wire::{OrderMove, OrderView};

/// `order retry`
pub(super) async fn retry(args: Retry, http: &Http, screen: &mut Screen) -> Result<Exit, Fault> {
    let mut signals = Signals::listen();
    let id = args.moved.order.clone();
    let view = tokio::select! {
        view = carry_out("retry", args.moved, http) => view?,
        number = signals.next() => {
            screen.note(&format!("interrupted; whether order {id} is tried again: lockstep order show {id}"));
            return Ok(Exit::Signal(number));
        }
    };
    if args.detach {
        screen.say(&whereabouts(&view.summary));
        return Ok(Exit::Done);
    }
    after(Following { http, id, json: false }, Some(view), screen, &mut signals).await
}

/// `order cancel`
pub(super) async fn cancel(args: Moved, http: &Http, screen: &mut Screen) -> Result<Exit, Fault> {
    let view = carry_out("cancel", args, http).await?;
    screen.say(&whereabouts(&view.summary));
    Ok(Exit::Done)
}

/// Asks once.
async fn carry_out(what: &'static str, args: Moved, http: &Http) -> Result<OrderView, Fault> {
    let Moved { order, reason } = args;
    let number = order.number.to_string();
    let path = ["orders", order.environment.as_str(), &number, what];
    let answer = http.send_json(Method::POST, &path, &OrderMove { reason }).await;
    answer.and_then(|answer| answer.json()).and_then(|view| super::about(view, &order)).map_err(|error| {
        let mut fault = http.fault(&error, &format!("{what} of order {order}"));
        if error.may_be_done() {
            fault.hint = Some(format!(
                "It may have been carried out all the same: see lockstep order show {order} before you repeat it."
            ));
        }
        fault
    })
}
