//! What the commands about releases take.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};

use crate::client::args::{Listed, Removed, duration, idempotency_key, reason};
use crate::model::ids::{ReleaseId, Word};
use crate::model::release::{Finding, Standing, Verdict};

/// `release`
#[derive(Debug, Clone, Subcommand)]
pub enum Release {
    /// Make a release: a frozen set of versions, which enters its pipeline.
    #[command(after_help = FOLLOW_CODES)]
    Create(Box<Create>),
    /// Show the releases on a board of their stages; as a list where that does not fit.
    List(Box<List>),
    /// Show a release, and step by step what was done in its stages.
    Show(Shown),
    /// Report on a release what was found, as a reporter.
    Report(Box<Report>),
    /// Print the log of a report.
    Log(Log),
    /// Show what a reporter is asked and has not reported yet.
    Pending(Pending),
    /// Certify a release, where its step asks for approvals.
    Approve(Moved),
    /// Take one's approval back, as long as others are waited for.
    Withdraw(Moved),
    /// Send a release on to the next stage, once all is done in its own.
    Promote(Promote),
    /// End a release: accepted at the end of its last stage, or rejected.
    Decide(Decide),
    /// Reject a release at any time; what it has begun to deploy is undone first.
    Reject(MovedBecause),
    /// Try the step again that failed or is inconclusive.
    Retry(Moved),
    /// Pass over a check, a run or a soak: it ends as a warning.
    Bypass(MovedBecause),
    /// Put back what was there before, and hold automation until that is lifted.
    Rollback(MovedBecause),
    /// Lift what a roll-back holds, or what suspends a release.
    Lift(MovedBecause),
    /// Show what has happened to a release, one event a line.
    Events(Events),
}

/// `reporters`
#[derive(Debug, Clone, Subcommand)]
pub enum Reporters {
    /// Subscribe a reporter to these products, and to no others.
    Set(ReportersSet),
    /// Show the reporters and their products.
    List(Listed),
    /// Remove the subscriptions of a reporter; its token is revoked by itself.
    Remove(Removed),
}

const FOLLOW_CODES: &str = "\
Exit codes with --follow:
  0  the release was accepted, is ready or undecided, or waits for reports, approvals or time
  1  it failed, was rejected or rolled back, or is suspended
  2  wrong usage or configuration
  3  refused
  5  superseded by another release
  6  the dispatcher could not be reached";

/// `release create`
#[derive(Debug, Clone, Args)]
pub struct Create {
    /// The pipeline that it is to go through.
    #[arg(long, value_name = "NAME")]
    pub pipeline: Word,
    /// The stage that it enters, where the pipeline allows that; the first otherwise.
    #[arg(long, value_name = "NAME")]
    pub stage: Option<Word>,
    /// The product is deployed for the first time, not changed.
    #[arg(long)]
    pub initial: bool,
    /// A service and its version; may be given several times.
    #[arg(long = "service", value_name = "NAME=VERSION", required = true, value_parser = named)]
    pub services: Vec<(Word, String)>,
    /// Where the artifact of a service is found; may be given several times.
    #[arg(long = "reference", value_name = "NAME=REFERENCE", value_parser = named)]
    pub references: Vec<(Word, String)>,
    /// What the content of a service's artifact must be, such as sha256:…; may be given several times.
    #[arg(long = "digest", value_name = "NAME=DIGEST", value_parser = named)]
    pub digests: Vec<(Word, String)>,
    /// File with what is said of the release, such as release notes: texts by name, in YAML or JSON; - is standard input.
    #[arg(long, value_name = "FILE")]
    pub metadata: Option<PathBuf>,
    /// One such text; may be given several times.
    #[arg(long = "meta", value_name = "NAME=TEXT", value_parser = named)]
    pub metas: Vec<(Word, String)>,
    /// Requests with the same key within a day are one request; otherwise one is drawn.
    #[arg(long, value_name = "KEY", value_parser = idempotency_key)]
    pub idempotency_key: Option<String>,
    /// Show what happens to it until it is decided, or waits for somebody or for time.
    #[arg(long, short)]
    pub follow: bool,
    /// Print the dispatcher's JSON.
    #[arg(long, conflicts_with = "follow")]
    pub json: bool,
}

/// `release list`
#[derive(Debug, Clone, Args)]
#[command(disable_version_flag = true)]
pub struct List {
    /// Only of this pipeline.
    #[arg(long, value_name = "NAME")]
    pub pipeline: Option<Word>,
    /// Only of this product.
    #[arg(long, value_name = "NAME")]
    pub product: Option<Word>,
    /// Only with this service.
    #[arg(long, value_name = "NAME")]
    pub service: Option<Word>,
    /// Only with this version of that service, or of any.
    #[arg(long, value_name = "VERSION")]
    pub version: Option<String>,
    /// Only in this stage, or about to enter it.
    #[arg(long, value_name = "NAME")]
    pub stage: Option<Word>,
    /// Only in this state.
    #[arg(long, value_parser = PossibleValuesParser::new(STATES.map(Standing::word)))]
    pub state: Option<String>,
    /// Only those that are ready to deploy.
    #[arg(long)]
    pub ready: bool,
    /// Those that are over as well.
    #[arg(long)]
    pub all: bool,
    /// At most so many, the newest ones.
    #[arg(long, short = 'n', value_name = "NUMBER", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub limit: u32,
    /// Print the dispatcher's JSON.
    #[arg(long)]
    pub json: bool,
}

/// The states that are asked for by name.
const STATES: [Standing; 10] = [
    Standing::Entering,
    Standing::Working,
    Standing::Waiting,
    Standing::Failed,
    Standing::RolledBack,
    Standing::Ready,
    Standing::Undecided,
    Standing::Suspended,
    Standing::Superseded,
    Standing::Decided,
];

/// `release show`
#[derive(Debug, Clone, Args)]
pub struct Shown {
    /// Which release.
    pub release: ReleaseId,
    /// Print the dispatcher's JSON.
    #[arg(long)]
    pub json: bool,
}

/// `release report`
#[derive(Debug, Clone, Args)]
pub struct Report {
    /// Which release.
    pub release: ReleaseId,
    /// The stage that was looked at: a report is about exactly one release and stage.
    #[arg(long, value_name = "NAME")]
    pub stage: Word,
    /// The step that asks; the one that does now otherwise.
    #[arg(long, value_name = "NAME")]
    pub step: Option<Word>,
    /// What was found.
    #[arg(long, value_enum)]
    pub result: Finding,
    /// Where more is to be seen: an http or https URL.
    #[arg(long, value_name = "URL")]
    pub link: Option<String>,
    /// A status in the reporter's own words, such as Unverified.
    #[arg(long, value_name = "TEXT")]
    pub status: Option<String>,
    /// What is to be said.
    #[arg(long, value_name = "TEXT")]
    pub comment: Option<String>,
    /// File with the log, at most 1 MiB; - is standard input.
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
}

/// `release log`
#[derive(Debug, Clone, Args)]
pub struct Log {
    /// Which release.
    pub release: ReleaseId,
    /// Which log: the digest that release show prints.
    #[arg(value_parser = digest)]
    pub digest: String,
}

/// `release pending`
#[derive(Debug, Clone, Args)]
pub struct Pending {
    /// Whom it awaits: a reporter sees its own.
    pub reporter: Word,
    /// Wait so long for something, for instance 60s.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub wait: Option<Duration>,
    /// Print the dispatcher's JSON.
    #[arg(long)]
    pub json: bool,
}

/// What is done to a release, and perhaps why.
#[derive(Debug, Clone, Args)]
pub struct Moved {
    /// Which release.
    pub release: ReleaseId,
    /// Why; it is recorded.
    #[arg(long, value_parser = reason)]
    pub reason: Option<String>,
}

/// What is done to a release, and why.
#[derive(Debug, Clone, Args)]
pub struct MovedBecause {
    /// Which release.
    pub release: ReleaseId,
    /// Why; it is recorded.
    #[arg(long, value_parser = reason)]
    pub reason: String,
}

/// `release promote`
#[derive(Debug, Clone, Args)]
pub struct Promote {
    /// Which release.
    pub release: ReleaseId,
    /// The stage that is meant: refused where the next one is another.
    #[arg(long, value_name = "STAGE")]
    pub to: Option<Word>,
    /// Why; it is recorded.
    #[arg(long, value_parser = reason)]
    pub reason: Option<String>,
}

/// `release decide`
#[derive(Debug, Clone, Args)]
pub struct Decide {
    /// Which release.
    pub release: ReleaseId,
    /// How it ends.
    #[arg(value_enum)]
    pub decision: Verdict,
    /// Why; it is recorded. A rejection must have it.
    #[arg(long, value_parser = reason)]
    pub reason: Option<String>,
}

/// `release events`
#[derive(Debug, Clone, Args)]
pub struct Events {
    /// Which release.
    pub release: ReleaseId,
    /// Go on until the release is over.
    #[arg(long, short)]
    pub follow: bool,
    /// Only after this event, or now: those to come; all from the first otherwise.
    #[arg(long, value_name = "EVENT", value_parser = after)]
    pub after: Option<String>,
    /// Print the dispatcher's JSON, one event a line.
    #[arg(long)]
    pub json: bool,
}

/// `catalogue`
#[derive(Debug, Clone, Args)]
#[command(disable_version_flag = true)]
pub struct Catalogue {
    /// Only this product.
    #[arg(long, value_name = "NAME")]
    pub product: Option<Word>,
    /// Only with this service.
    #[arg(long, value_name = "NAME")]
    pub service: Option<Word>,
    /// Only with this version of that service, or of any.
    #[arg(long, value_name = "VERSION")]
    pub version: Option<String>,
    /// Only those that are ready to deploy.
    #[arg(long)]
    pub ready: bool,
    /// Print the dispatcher's JSON.
    #[arg(long)]
    pub json: bool,
}

/// `reporters set`
#[derive(Debug, Clone, Args)]
pub struct ReportersSet {
    /// Its name, which is that of the token with which it reports.
    pub name: Word,
    /// A product that it reports on; may be given several times.
    #[arg(long = "product", value_name = "NAME", required = true)]
    pub products: Vec<Word>,
    /// Why; it is recorded.
    #[arg(long, value_parser = reason)]
    pub reason: Option<String>,
}

/// NAME=TEXT
fn named(text: &str) -> Result<(Word, String), String> {
    let (name, value) = text.split_once('=').filter(|(_, value)| !value.is_empty()).ok_or("is not NAME=TEXT")?;
    let name = name.parse().map_err(|error| format!("the name {error}"))?;
    Ok((name, value.to_owned()))
}

/// A SHA-256 in hexadecimal digits.
fn digest(text: &str) -> Result<String, String> {
    let text = text.strip_prefix("sha256:").unwrap_or(text);
    let good = text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if good { Ok(text.to_owned()) } else { Err("is not a SHA-256 in 64 hexadecimal digits".into()) }
}

/// The id of an event, or `now`.
fn after(text: &str) -> Result<String, String> {
    if text == "now" {
        return Ok(text.to_owned());
    }
    let at: crate::model::event::Cursor = text.parse().map_err(|error| format!("{error}, or now"))?;
    Ok(at.to_string())
}

#[cfg(test)]
mod tests;
