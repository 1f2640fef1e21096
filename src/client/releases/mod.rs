//! The commands about releases.
//!
//! ```text
//!  args ──▶ create, moves, reports: what changes ──▶ whereabouts of the release ─┐
//!       ├─▶ board, timeline, catalogue: what is shown ───────────────────────────┼──▶ screen
//!       └─▶ events ── history: read on at the cursor, nothing twice ─────────────┘
//! ```
//!
//! A request is repeated by itself only where twice is once: a release that is made has its `Idempotency-Key`, a report may be sent again.
//! All else is asked once, and what may have been carried out although no answer came says so.

pub(super) mod args;
mod board;
mod catalogue;
mod create;
mod events;
mod history;
mod list;
mod moves;
mod reports;
mod timeline;
mod words;

use reqwest::Method;

use super::exit::{Exit, Fault};
use super::http::{CallError, Http};
use super::operate::say_json;
use super::screen::Screen;
use crate::model::ids::ReleaseId;
use crate::wire::ReleaseView;
use args::{Release, Shown};
pub(super) use catalogue::{catalogue, reporters};
pub(super) use history::patiently;
pub(super) use timeline::took;
pub(super) use words::when;

/// `release`
pub(super) async fn release(args: Release, http: &Http, screen: &mut Screen) -> Result<Exit, Fault> {
    match args {
        Release::Create(args) => create::create(*args, http, screen).await,
        Release::List(args) => list::list(*args, http, screen).await,
        Release::Show(args) => show(args, http, screen).await,
        Release::Report(args) => reports::report(*args, http, screen).await,
        Release::Log(args) => reports::log(args, http, screen).await,
        Release::Pending(args) => reports::pending(args, http, screen).await,
        Release::Events(args) => events::events(args, http, screen).await,
        Release::Approve(args) => moves::approve(args, http, screen).await,
        Release::Withdraw(args) => moves::withdraw(args, http, screen).await,
        Release::Promote(args) => moves::promote(args, http, screen).await,
        Release::Decide(args) => moves::decide(args, http, screen).await,
        Release::Reject(args) => moves::because("reject", "rejected", args, http, screen).await,
        Release::Retry(args) => moves::retry(args, http, screen).await,
        Release::Bypass(args) => moves::because("bypass", "its step is passed over", args, http, screen).await,
        Release::Rollback(args) => moves::because("rollback", "is being rolled back", args, http, screen).await,
        Release::Lift(args) => moves::because("lift", "lifted", args, http, screen).await,
    }
}

/// `release show`
async fn show(args: Shown, http: &Http, screen: &mut Screen) -> Result<Exit, Fault> {
    let id = args.release.to_string();
    let fault = |error| http.fault(&error, &format!("release {id}"));
    let answer = http.send(http.request(Method::GET, &["releases", &id], &[])).await.map_err(fault)?;
    if args.json {
        say_json(screen, &answer);
        return Ok(Exit::Done);
    }
    let view = answer.json().and_then(|view| about(view, args.release)).map_err(fault)?;
    screen.shield();
    for line in timeline::timeline(&view, screen.look().colour) {
        screen.say(&line);
    }
    Ok(Exit::Done)
}

/// Asks for a release.
async fn look(http: &Http, release: ReleaseId) -> Result<ReleaseView, CallError> {
    let view = http.get(&["releases", &release.to_string()]).await?;
    about(view, release)
}

/// Makes sure that an answer is about that release.
fn about(view: ReleaseView, release: ReleaseId) -> Result<ReleaseView, CallError> {
    if words::is(&view.summary, release) {
        Ok(view)
    } else {
        Err(CallError::Garbled("it is about another release".into()))
    }
}
