//! What people do to a release: approve it, promote it, decide it, and what follows when something is wrong.
//!
//! None of these is repeated by itself: a second promotion would be one to the stage after the next.

use reqwest::Method;
use serde::Serialize;

use super::args::{Decide, Moved, MovedBecause, Promote};
use super::{about, words};
use crate::client::exit::{Exit, Fault};
use crate::client::http::Http;
use crate::client::screen::Screen;
use crate::model::ids::ReleaseId;
use crate::wire::{ApprovalRequest, Because, DecisionRequest, PromoteRequest, ReasonRequest, Verdict};

/// One request, and in a word what is done by it.
struct Move {
    release: ReleaseId,
    method: Method,
    path: &'static str,
    done: String,
}

impl Move {
    fn post(release: ReleaseId, path: &'static str, done: impl Into<String>) -> Self {
        Self { release, method: Method::POST, path, done: done.into() }
    }

    /// Asks for it, and says where the release is then.
    async fn carry_out(self, body: &impl Serialize, http: &Http, screen: &mut Screen) -> Result<Exit, Fault> {
        let Self { release, method, path, done } = self;
        let id = release.to_string();
        let what = if method == Method::DELETE { "withdraw" } else { path };
        let answer = http.send_json(method, &["releases", &id, path], body).await;
        let view = answer.and_then(|answer| answer.json()).and_then(|view| about(view, release)).map_err(|error| {
            let mut fault = http.fault(&error, &format!("{what} of release {id}"));
            if error.may_be_done() {
                fault.hint = Some(format!(
                    "It may have been carried out all the same: see lockstep release show {id} before you repeat it."
                ));
            }
            fault
        })?;
        screen.say(&format!("{done}: {}", words::whereabouts(&view.summary)));
        Ok(Exit::Done)
    }
}

/// `release approve`
pub(super) async fn approve(args: Moved, http: &Http, screen: &mut Screen) -> Result<Exit, Fault> {
    let Moved { release, reason } = args;
    Move::post(release, "approvals", "approved").carry_out(&ApprovalRequest { reason }, http, screen).await
}

/// `release withdraw`
pub(super) async fn withdraw(args: Moved, http: &Http, screen: &mut Screen) -> Result<Exit, Fault> {
    let Moved { release, reason } = args;
    let done = "the approval is withdrawn".to_owned();
    let it = Move { release, method: Method::DELETE, path: "approvals", done };
    it.carry_out(&Because { reason }, http, screen).await
}

/// `release promote`
pub(super) async fn promote(args: Promote, http: &Http, screen: &mut Screen) -> Result<Exit, Fault> {
    let Promote { release, to, reason } = args;
    let request = PromoteRequest { to: to.map(Into::into), reason };
    Move::post(release, "promote", "promoted").carry_out(&request, http, screen).await
}

/// `release decide`
pub(super) async fn decide(args: Decide, http: &Http, screen: &mut Screen) -> Result<Exit, Fault> {
    let Decide { release, decision, reason } = args;
    if decision == Verdict::Rejected && reason.is_none() {
        return Err(Fault::usage("a rejection needs a reason", "Say why with --reason: it is recorded, and told."));
    }
    Move::post(release, "decision", "decided").carry_out(&DecisionRequest { decision, reason }, http, screen).await
}

/// `release retry`
pub(super) async fn retry(args: Moved, http: &Http, screen: &mut Screen) -> Result<Exit, Fault> {
    let Moved { release, reason } = args;
    Move::post(release, "retry", "tried again").carry_out(&Because { reason }, http, screen).await
}

/// What must have a reason.
pub(super) async fn because(
    path: &'static str,
    done: &str,
    args: MovedBecause,
    http: &Http,
    screen: &mut Screen,
) -> Result<Exit, Fault> {
    let MovedBecause { release, reason } = args;
    Move::post(release, path, done).carry_out(&ReasonRequest { reason }, http, screen).await
}
