//! What people do to an order: it is given, ended, or tried again. What follows is the [rule](super::rule)'s.

use serde_json::json;

use super::rule::{Told, told};
use super::{Order, State, TaskState};
use crate::model::ids::Word;

/// The jobs of so many attempts are kept in the order.
const ATTEMPTS_MAX: u32 = 5;

/// Why a person's wish is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is nothing to end.
    #[error("the order has ended: {0}")]
    Over(&'static str),
    /// There is nothing to try again.
    #[error("only an order that is incomplete, failed or canceled can be tried again; this one is {0}")]
    NotFailed(&'static str),
    /// Something newer is wanted.
    #[error("order {0} of this environment is newer; what an older one asks for can be given anew by its number")]
    Newer(u64),
}

/// Somebody ends an order.
///
/// # Errors
/// It has ended.
pub fn cancel(order: &mut Order, by: &Word, reason: &str) -> Result<Vec<Told>, Refused> {
    if order.state.is_over() {
        return Err(Refused::Over(order.state.word()));
    }
    if order.state == State::Canceling {
        return Ok(Vec::new());
    }
    order.state = State::Canceling;
    order.canceled_by = Some(by.clone());
    order.reason = Some(format!("canceled by {by}{}{reason}", if reason.is_empty() { "" } else { ": " }));
    Ok(vec![told("canceling", json!({"by": by, "reason": reason}))])
}

/// Somebody has an order tried again: what has not succeeded, and what follows it.
///
/// # Errors
/// It has not failed, or a newer one is there.
pub fn retry(order: &mut Order, newest: u64, by: &Word, reason: &str) -> Result<Vec<Told>, Refused> {
    if !matches!(order.state, State::Incomplete | State::Failed | State::Canceled) {
        return Err(Refused::NotFailed(order.state.word()));
    }
    if newest > order.id.number {
        return Err(Refused::Newer(newest));
    }
    // A task that has nothing to do costs no job; which have, the environment may have changed meanwhile.
    for task in &mut order.tasks {
        task.state = TaskState::Waiting;
        task.runs.retain(|run| run.attempt + ATTEMPTS_MAX > order.attempt);
    }
    order.state = State::Queued;
    order.reason = None;
    order.ended_ms = None;
    (order.canceled_by, order.overtaken) = (None, false);
    order.attempt += 1;
    Ok(vec![told("queued", json!({"by": by, "reason": reason, "attempt": order.attempt}))])
}

/// What is told of a new order.
pub fn given(order: &Order) -> Vec<Told> {
    vec![told("queued", json!({"by": order.by, "action": order.spec.action, "attempt": order.attempt}))]
}
