//! The commands about orders and environments.
//!
//! ```text
//!  args ──▶ give: the plan is shown, the order given once ─┬──▶ follow: what happens, from revision to revision ──▶ how it ended ──▶ exit code
//!       ├─▶ moves: retry ──────────────────────────────────┘
//!       ├─▶ show, list: what is shown of orders ───────────────▶ screen
//!       └─▶ environments: registered and shown ────────────────▶ screen
//! ```
//!
//! What a file has wrong is said before anything is sent. A new order has its `Idempotency-Key`, so that it is repeated by itself; retry
//! and cancel are asked once, and what may have been carried out although no answer came says so.

pub(super) mod args;
mod environments;
mod follow;
mod give;
mod list;
mod moves;
mod plan;
mod show;
#[cfg(test)]
mod tests;

use super::exit::{Exit, Fault};
use super::http::{CallError, Http};
use super::screen::Screen;
use super::written::Kind;
use crate::model::order::{self, OrderId, Spec};
use crate::wire::{OrderState, OrderSummary, OrderView};
use args::Order;
pub(super) use environments::{environment, environment_offline};

/// The JSON Schema of the file.
const SCHEMA: &str = include_str!("../../../docs/order.schema.json");

/// The file.
const FILE: Kind<Spec> =
    Kind { what: "order", hint: "See: lockstep order schema, and docs/orders.md.", read: order::file::read };

/// Carries out what needs no dispatcher.
pub(super) fn offline(args: &Order, screen: &mut Screen) -> Option<Result<Exit, Fault>> {
    match args {
        Order::Schema => {
            screen.say(SCHEMA.trim_end());
            Some(Ok(Exit::Done))
        }
        Order::Validate(args) => Some(FILE.of(&args.file).map(|(spec, _)| {
            screen.say(&format!("{}: good: {}", args.file.display(), asks(&spec)));
            Exit::Done
        })),
        Order::Plan(_) | Order::Apply(_) | Order::Show(_) | Order::List(_) | Order::Retry(_) | Order::Cancel(_) => None,
    }
}

/// What a file asks for, in a few words.
fn asks(spec: &Spec) -> String {
    let environment = &spec.environment;
    let count = |count: usize| format!("{count} service{}", if count == 1 { "" } else { "s" });
    match (spec.action, spec.removed.len()) {
        (order::Action::Update, _) => format!("update environment {environment} to {}", count(spec.services.len())),
        (order::Action::Remove, 0) => format!("remove all services of environment {environment}"),
        (order::Action::Remove, many) => format!("remove {} of environment {environment}", count(many)),
    }
}

/// `order`
pub(super) async fn order(args: Order, http: &Http, screen: &mut Screen) -> Result<Exit, Fault> {
    match args {
        Order::Plan(args) => plan::plan(args, http, screen).await,
        Order::Apply(args) => give::apply(*args, http, screen).await,
        Order::Show(args) => show::show(args, http, screen).await,
        Order::List(args) => list::list(args, http, screen).await,
        Order::Retry(args) => moves::retry(args, http, screen).await,
        Order::Cancel(args) => moves::cancel(args, http, screen).await,
        Order::Validate(_) | Order::Schema => Ok(Exit::Done),
    }
}

/// Makes sure that an answer is about that order.
fn about(view: OrderView, order: &OrderId) -> Result<OrderView, CallError> {
    if view.summary.id == order.to_string() {
        Ok(view)
    } else {
        Err(CallError::Garbled("it is about another order".into()))
    }
}

/// What the end of an order says to the script that asked. Only what is as ordered is green.
fn came_to(it: &OrderSummary) -> Exit {
    match it.state {
        OrderState::Succeeded => Exit::Done,
        OrderState::Incomplete | OrderState::Failed | OrderState::Canceled => Exit::NotSucceeded,
        OrderState::Superseded => Exit::Superseded,
        // These go on by themselves, and are not what a watch ends with.
        OrderState::Queued | OrderState::Running | OrderState::Canceling => Exit::NotReached,
    }
}
