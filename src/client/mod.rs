//! The client's side of the command line.
//!
//! ```text
//!  args ──▶ credential, http ──▶ deploy: persist (ask, with an Idempotency-Key) ──▶ watch ──▶ recap ──▶ exit code
//!                          ├──▶ manage: tokens, webhooks, audit; pipeline          │
//!                          ├──▶ releases: create, board, timeline, events, …       │
//!                          ├──▶ orders: plan, give, follow, show; environments     │
//!                          └──▶ operate: status, logs, cancel, apps, locks, …      │
//!                                                   follow ── what is seen ────────┤
//!                                                   signals, deadline ─────────────┘──▶ screen ── escape ──▶ terminal or log
//! ```
//!
//! Two promises are kept here. *Green is about your push*: exit code 0 comes from one place, the outcome `succeeded` that the
//! dispatcher gives for the very job that it accepted. *Who goes away changes nothing*: whatever ends the command before the
//! job says that the job goes on, and how to follow or end it; a request whose answer was lost is repeated under the same
//! `Idempotency-Key`, so that it is one deployment.

mod args;
mod credential;
mod deploy;
pub mod escape;
pub mod exit;
pub mod follow;
pub mod http;
mod manage;
mod operate;
mod orders;
pub mod patience;
mod pipeline;
mod recap;
mod releases;
mod screen;
mod signals;
mod watch;
mod written;

use std::process::ExitCode;
use std::sync::Arc;

pub use args::{Command, Options};
pub use credential::{Credential, Need};
use exit::{Exit, Fault};
use http::Http;
use patience::Patience;
use screen::Screen;

/// Carries out a command; what it comes to is the exit code of the process.
pub async fn run(command: Command, options: Options) -> ExitCode {
    let mut screen = Screen::standard(env);
    let deploys = matches!(command, Command::Deploy(_));
    let exit = match carry_out(command, &options, &mut screen).await {
        Ok(exit) => exit,
        Err(fault) => {
            screen.fault(&fault);
            fault.exit
        }
    };
    screen.finish();
    let Some(why) = screen.unprinted().map(str::to_owned) else { return exit.into() };
    screen.fault(&Fault { exit, what: format!("not all could be printed: {why}"), hint: None });
    // What a deployment came to is known all the same.
    if exit == Exit::Done && !deploys { Exit::NotSucceeded.into() } else { exit.into() }
}

#[expect(clippy::disallowed_methods, reason = "this is where the client's environment enters, beside its options")]
fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

async fn carry_out(command: Command, options: &Options, screen: &mut Screen) -> Result<Exit, Fault> {
    // What needs no dispatcher needs no credential either.
    if let Command::Pipeline(args) = &command
        && let Some(done) = pipeline::offline(args, screen)
    {
        return done;
    }
    if let Command::Order(args) = &command
        && let Some(done) = orders::offline(args, screen)
    {
        return done;
    }
    if let Command::Environment(args) = &command
        && let Some(done) = orders::environment_offline(args, screen)
    {
        return done;
    }
    let need = match &command {
        Command::Deploy(args) => Need::App(&args.deployment_id),
        Command::Status(args) => Need::Job(args.of.app.as_ref()),
        Command::Logs(args) => Need::Job(args.of.app.as_ref()),
        Command::Cancel(args) => Need::Job(args.of.app.as_ref()),
        Command::Apps(_)
        | Command::Locks(_)
        | Command::Unlock(_)
        | Command::Freeze(_)
        | Command::Unfreeze(_)
        | Command::Tokens(_)
        | Command::Webhooks(_)
        | Command::Pipeline(_)
        | Command::Release(_)
        | Command::Catalogue(_)
        | Command::Reporters(_)
        | Command::Order(_)
        | Command::Environment(_)
        | Command::Audit(_) => Need::Operator,
    };
    let credential = Credential::choose(options, need, env)?;
    let http = Arc::new(Http::new(options, &credential, Patience::default())?);
    match command {
        Command::Deploy(args) => deploy::deploy(args, http, screen).await,
        Command::Status(args) => operate::status(args, &http, screen).await,
        Command::Logs(args) => operate::logs(args, http, screen).await,
        Command::Cancel(args) => operate::cancel(args, http, screen).await,
        Command::Apps(args) => operate::apps(args, &http, screen).await,
        Command::Locks(args) => operate::locks(args, &http, screen).await,
        Command::Unlock(args) => operate::unlock(args, &http, screen).await,
        Command::Freeze(args) => operate::freeze(args, &http, screen).await,
        Command::Unfreeze(args) => operate::unfreeze(args, &http, screen).await,
        Command::Tokens(args) => manage::tokens(args, &http, screen).await,
        Command::Webhooks(args) => manage::webhooks(args, &http, screen).await,
        Command::Pipeline(args) => pipeline::pipeline(args, &http, screen).await,
        Command::Release(args) => releases::release(args, &http, screen).await,
        Command::Catalogue(args) => releases::catalogue(args, &http, screen).await,
        Command::Reporters(args) => releases::reporters(args, &http, screen).await,
        Command::Order(args) => orders::order(args, &http, screen).await,
        Command::Environment(args) => orders::environment(args, &http, screen).await,
        Command::Audit(args) => manage::audit(args, &http, screen).await,
    }
}
