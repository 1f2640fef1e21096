//! What the client's side of the command line takes.
//!
//! A secret is never an argument: arguments are seen by everybody on the machine (`ps`) and end up in logs. It comes from a
//! file that is named, or from the environment; variables of the environment that hold one are read by
//! [`credential`](super::credential) and unknown to clap, so that `--help` can't show their values.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::orders::args::{Environment, Order};
use super::releases::args::{Catalogue, Release, Reporters};
use crate::model::ids::{DeploymentId, Inventory, JobId, Word};
use crate::model::job::WhenBusy;

/// How the dispatcher is reached and with which credential; taken before or after the command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Dispatcher and credentials")]
pub struct Options {
    /// The dispatcher. HTTPS only.
    #[arg(long, global = true, env = "LOCKSTEP_URL", hide_env_values = true, default_value = "https://localhost:8443")]
    pub url: String,
    /// Certificates (PEM) to trust in addition to the system's, for instance the dispatcher's self-signed one.
    #[arg(long, global = true, env = "LOCKSTEP_CA_CERT", hide_env_values = true, value_name = "FILE")]
    pub ca_cert: Option<PathBuf>,
    /// File with the app's deployment secret [or the secret itself in the environment: LOCKSTEP_DEPLOYMENT_SECRET].
    #[arg(long, global = true, value_name = "FILE", conflicts_with_all = ["token_file", "id_token_file"])]
    pub secret_file: Option<PathBuf>,
    /// File with an ID token of this CI job, read again for each request, so that it can be renewed [or the token itself in the
    /// environment: LOCKSTEP_ID_TOKEN].
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "token_file")]
    pub id_token_file: Option<PathBuf>,
    /// File with a token: an operator's, a viewer's, a releaser's, a reporter's or the feed's [or the token itself in the environment: LOCKSTEP_TOKEN].
    #[arg(long, global = true, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

/// The commands of the client's side.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Ask for a deployment, follow it live, exit with its outcome.
    #[command(after_help = DEPLOY_CODES)]
    Deploy(Deploy),
    /// Show a job.
    Status(Status),
    /// Print a job's output.
    Logs(Logs),
    /// End a job before its time.
    Cancel(Cancel),
    /// The list of apps that may be deployed.
    #[command(subcommand)]
    Apps(Apps),
    /// Show who holds which deploy lock, who waits, and what is frozen.
    Locks(Locks),
    /// Free the deploy lock of an inventory.
    Unlock(Unlock),
    /// Refuse deployments to an inventory until it is unfrozen.
    Freeze(Freeze),
    /// Allow deployments to an inventory again.
    Unfreeze(Unfreeze),
    /// Tokens of operators and viewers.
    #[command(subcommand)]
    Tokens(Tokens),
    /// Receivers to which events are sent.
    #[command(subcommand)]
    Webhooks(Webhooks),
    /// Pipelines: the stages that releases go through.
    #[command(subcommand)]
    Pipeline(Pipeline),
    /// Releases: what goes through the stages of a pipeline.
    #[command(subcommand)]
    Release(Release),
    /// Show which versions there are of which product.
    Catalogue(Catalogue),
    /// Reporters: who reports on which products.
    #[command(subcommand)]
    Reporters(Reporters),
    /// Orders: an environment as a file describes it, carried out in five tasks.
    #[command(subcommand)]
    Order(Order),
    /// Environments: the hosts on which orders are carried out.
    #[command(subcommand)]
    Environment(Environment),
    /// Show what operators did.
    Audit(Audit),
}

const DEPLOY_CODES: &str = "\
Exit codes:
  0  the job succeeded
  1  it failed, was canceled, timed out, or is lost
  2  wrong usage or configuration
  3  refused: credentials, frozen, busy with --when-busy reject, too many attempts
  4  --timeout passed; the job goes on
  5  superseded by a newer request
  6  the dispatcher could not be reached";

/// `deploy`
#[derive(Debug, Clone, Args)]
pub struct Deploy {
    /// Which app.
    pub deployment_id: DeploymentId,
    /// What to do if another job has the inventory.
    #[arg(long, value_enum, default_value_t)]
    pub when_busy: WhenBusy,
    /// Extra variable for the playbook. Other users of this machine can see it: use --vars-file for secrets.
    #[arg(long = "var", value_name = "NAME=VALUE", value_parser = variable)]
    pub vars: Vec<(String, String)>,
    /// File with extra variables as a JSON object; - is standard input.
    #[arg(long, value_name = "FILE")]
    pub vars_file: Option<PathBuf>,
    /// Stop following so long after the request was accepted, for instance 30m; the job goes on.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub timeout: Option<Duration>,
    /// Requests with the same key within a day are one request; otherwise one is drawn.
    #[arg(long, value_name = "KEY", value_parser = idempotency_key)]
    pub idempotency_key: Option<String>,
    /// Print the job's id once the request is accepted, and leave.
    #[arg(long, conflicts_with = "timeout")]
    pub detach: bool,
}

/// A job, and the app whose secret opens it.
#[derive(Debug, Clone, Args)]
pub struct OfJob {
    /// Which job.
    pub job: JobId,
    /// The job's app: needed with a deployment secret, not with a token.
    #[arg(long, value_name = "DEPLOYMENT_ID", env = "LOCKSTEP_DEPLOYMENT_ID")]
    pub app: Option<DeploymentId>,
}

/// `status`
#[derive(Debug, Clone, Args)]
pub struct Status {
    /// Which job.
    #[command(flatten)]
    pub of: OfJob,
    /// Print the dispatcher's JSON.
    #[arg(long)]
    pub json: bool,
}

/// `logs`
#[derive(Debug, Clone, Args)]
pub struct Logs {
    /// Which job.
    #[command(flatten)]
    pub of: OfJob,
    /// Go on until the job ends.
    #[arg(long, short)]
    pub follow: bool,
}

/// `cancel`
#[derive(Debug, Clone, Args)]
pub struct Cancel {
    /// Which job.
    #[command(flatten)]
    pub of: OfJob,
    /// Leave once the wish is recorded; otherwise wait until the job has ended.
    #[arg(long)]
    pub no_wait: bool,
    /// Why; recorded where an operator cancels.
    #[arg(long, value_parser = reason)]
    pub reason: Option<String>,
}

/// `apps`
#[derive(Debug, Clone, Subcommand)]
pub enum Apps {
    /// Replace the list by that of a file.
    Set(AppsSet),
    /// Show the list, without secrets.
    List(AppsList),
}

/// `apps set`
#[derive(Debug, Clone, Args)]
pub struct AppsSet {
    /// The list: a JSON array such as sample_inventory.json; - is standard input.
    pub file: PathBuf,
    /// Take the list even if it is empty or much shorter than the present one.
    #[arg(long)]
    pub force: bool,
    /// Why; it is recorded.
    #[arg(long, value_parser = reason)]
    pub reason: Option<String>,
}

/// `apps list`
#[derive(Debug, Clone, Args)]
pub struct AppsList {
    /// Print the dispatcher's JSON.
    #[arg(long)]
    pub json: bool,
}

/// `locks`
#[derive(Debug, Clone, Args)]
pub struct Locks {
    /// Print the dispatcher's JSON.
    #[arg(long)]
    pub json: bool,
}

/// `unlock`
#[derive(Debug, Clone, Args)]
pub struct Unlock {
    /// Whose lock.
    pub inventory: Inventory,
    /// Why; it is recorded.
    #[arg(long, value_parser = reason)]
    pub reason: String,
    /// Kill the holder's container if it still runs, and see it gone, before the lock is freed.
    #[arg(long)]
    pub force: bool,
    /// The holder's container is on an engine that will not come back: give the job up as lost.
    #[arg(long, requires = "force")]
    pub engine_gone: bool,
}

/// `freeze`
#[derive(Debug, Clone, Args)]
pub struct Freeze {
    /// What to freeze.
    pub inventory: Inventory,
    /// Why; shown to whoever is refused.
    #[arg(long, value_parser = reason)]
    pub reason: String,
    /// Ends by itself after this time, for instance 2h; otherwise it lasts until it is lifted.
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    pub lasting: Option<Duration>,
}

/// `unfreeze`
#[derive(Debug, Clone, Args)]
pub struct Unfreeze {
    /// What to unfreeze.
    pub inventory: Inventory,
    /// Why; it is recorded.
    #[arg(long, value_parser = reason)]
    pub reason: Option<String>,
}

/// `tokens`
#[derive(Debug, Clone, Subcommand)]
pub enum Tokens {
    /// Issue a token, and print it: it is shown this once.
    Issue(TokensIssue),
    /// Show the tokens that were issued.
    List(Listed),
    /// Take a token back.
    Revoke(Removed),
}

/// `tokens issue`
#[derive(Debug, Clone, Args)]
pub struct TokensIssue {
    /// Whose it is: the name that stands in the audit log.
    pub name: Word,
    /// What it opens: a viewer sees everything and changes nothing, a releaser moves releases and gives orders besides; a
    /// reporter reports on releases alone.
    #[arg(long, value_parser = ["viewer", "releaser", "reporter", "operator"])]
    pub role: String,
    /// A group that its bearer belongs to, for approvals; may be given several times.
    #[arg(long = "group", value_name = "GROUP")]
    pub groups: Vec<Word>,
    /// How long it is good, for instance 90d; otherwise until it is revoked.
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    pub lasting: Option<Duration>,
    /// Why; it is recorded.
    #[arg(long, value_parser = reason)]
    pub reason: Option<String>,
}

/// `webhooks`
#[derive(Debug, Clone, Subcommand)]
pub enum Webhooks {
    /// Make a webhook or change one; the secret of a new one is printed this once.
    Set(WebhooksSet),
    /// Show the webhooks, and how far each one is.
    List(Listed),
    /// Show the events that a webhook has given up.
    DeadLetters(WebhooksDeadLetters),
    /// Send all events after a certain one once more.
    Replay(WebhooksReplay),
    /// Remove a webhook.
    Remove(Removed),
}

/// `webhooks set`
#[derive(Debug, Clone, Args)]
pub struct WebhooksSet {
    /// Its name.
    pub name: Word,
    /// The receiver: https://…
    #[arg(long, value_name = "URL")]
    pub to: String,
    /// Only events of this app.
    #[arg(long, value_name = "DEPLOYMENT_ID")]
    pub app: Option<DeploymentId>,
    /// Only events whose type begins with this; may be given several times.
    #[arg(long = "type", value_name = "PREFIX")]
    pub types: Vec<String>,
    /// Only events that concern this person, group or reporter.
    #[arg(long = "for", value_name = "NAME")]
    pub recipient: Option<Word>,
    /// File with the key that signs (whsec_…), - is standard input; otherwise one is drawn for a new webhook.
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// Begin after this event; otherwise a new webhook begins with what happens next.
    #[arg(long, value_name = "EVENT")]
    pub after: Option<String>,
    /// Why; it is recorded.
    #[arg(long, value_parser = reason)]
    pub reason: Option<String>,
}

/// `webhooks dead-letters`
#[derive(Debug, Clone, Args)]
pub struct WebhooksDeadLetters {
    /// Which webhook.
    pub name: Word,
    /// Print the dispatcher's JSON.
    #[arg(long)]
    pub json: bool,
}

/// `webhooks replay`
#[derive(Debug, Clone, Args)]
pub struct WebhooksReplay {
    /// Which webhook.
    pub name: Word,
    /// Go on after this event; 0-0: from the oldest that is kept.
    #[arg(long, value_name = "EVENT")]
    pub after: String,
    /// Why; it is recorded.
    #[arg(long, value_parser = reason)]
    pub reason: Option<String>,
}

/// `pipeline`
#[derive(Debug, Clone, Subcommand)]
pub enum Pipeline {
    /// Record the pipeline of a file, as a new version if it says something else than the newest.
    Apply(PipelineApply),
    /// Check a file, without a dispatcher.
    Validate(PipelineValidate),
    /// Print the file of a pipeline.
    Show(PipelineShow),
    /// Show the pipelines and their newest versions.
    List(Listed),
    /// Print the JSON Schema of the file, for editors.
    Schema,
}

/// `pipeline apply`
#[derive(Debug, Clone, Args)]
pub struct PipelineApply {
    /// The file: YAML; - is standard input.
    pub file: PathBuf,
    /// Why; it is recorded.
    #[arg(long, value_parser = reason)]
    pub reason: Option<String>,
}

/// `pipeline validate`
#[derive(Debug, Clone, Args)]
pub struct PipelineValidate {
    /// The file: YAML; - is standard input.
    pub file: PathBuf,
}

/// `pipeline show`
#[derive(Debug, Clone, Args)]
pub struct PipelineShow {
    /// Which pipeline.
    pub name: Word,
    /// Which version; the newest otherwise.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    pub revision: Option<u64>,
    /// Print the dispatcher's JSON.
    #[arg(long)]
    pub json: bool,
}

/// What is listed.
#[derive(Debug, Clone, Args)]
pub struct Listed {
    /// Print the dispatcher's JSON.
    #[arg(long)]
    pub json: bool,
}

/// What is taken away.
#[derive(Debug, Clone, Args)]
pub struct Removed {
    /// Its name.
    pub name: Word,
    /// Why; it is recorded.
    #[arg(long, value_parser = reason)]
    pub reason: Option<String>,
}

/// `audit`
#[derive(Debug, Clone, Args)]
pub struct Audit {
    /// So many lines, the newest ones.
    #[arg(long, short = 'n', default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub lines: u16,
    /// Print the dispatcher's JSON.
    #[arg(long)]
    pub json: bool,
}

fn variable(text: &str) -> Result<(String, String), String> {
    let wrong = || "is not NAME=VALUE".to_owned();
    let (name, value) = text.split_once('=').ok_or_else(wrong)?;
    if name.is_empty() { Err(wrong()) } else { Ok((name.to_owned(), value.to_owned())) }
}

pub(super) fn idempotency_key(text: &str) -> Result<String, String> {
    let good = (1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    if good { Ok(text.to_owned()) } else { Err("must have 1 to 255 visible ASCII characters without blanks".into()) }
}

pub(super) fn reason(text: &str) -> Result<String, String> {
    let good = (1..=500).contains(&text.chars().count()) && !text.trim().is_empty();
    if good { Ok(text.to_owned()) } else { Err("must have 1 to 500 characters".into()) }
}

/// A number and s, m, h or d.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "is not a time such as 30s, 5m, 2h or 1d".to_owned();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        _ => return Err(wrong()),
    };
    let number: u32 = number.parse().map_err(|_| wrong())?;
    Ok(Duration::from_secs(u64::from(number) * seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Whole {
        #[command(flatten)]
        options: Options,
        #[command(subcommand)]
        command: Command,
    }

    fn parse(line: &str) -> Result<Whole, clap::Error> {
        clap::Parser::try_parse_from(std::iter::once("lockstep").chain(line.split_whitespace()))
    }

    #[test]
    fn options_stand_before_or_after_the_command() {
        for line in
            ["--url https://a --token-file t apps set f --force", "apps set --token-file t f --url https://a --force"]
        {
            let whole = parse(line).expect("it is right");
            assert_eq!(whole.options.url, "https://a");
            assert_eq!(whole.options.token_file, Some("t".into()));
            let Command::Apps(Apps::Set(set)) = whole.command else { panic!("another command") };
            assert!(set.force);
        }
    }

    #[test]
    fn what_is_wrong_is_found_before_anything_is_sent() {
        for line in [
            "deploy",
            "deploy ../x",
            "deploy -i",
            "deploy app --when-busy later",
            "deploy app --timeout 5",
            "deploy app --timeout 5w",
            "deploy app --timeout 99999999999s",
            "deploy app --var novalue",
            "deploy app --var =x",
            "deploy app --detach --timeout 5m",
            "deploy app --secret-file a --token-file b",
            "deploy app --secret-file a --id-token-file b",
            "deploy app --id-token-file a --token-file b",
            "status 01gzec5gjhfkwmk4z5a1nm9dpf",
            "status x",
            "freeze a/b/c --reason r",
            "freeze inventory",
            "unlock inventory --reason=",
            "tokens issue ada",
            "tokens issue ada --role root",
            "tokens issue a/b --role viewer",
            "webhooks set chat",
            "webhooks replay chat",
            "audit -n 0",
            "order apply",
            "order apply order.yml",
            "order apply order.yml --mode a/b",
            "order apply order.yml --mode production --order 3/1",
            "order apply order.yml --mode production --environment 3",
            "order apply --order 3/0",
            "order apply --order three",
            "order apply --order 3/1 --detach --json",
            "order plan order.yml",
            "order show 3",
            "order show 3/7 --file --follow",
            "order show 3/7 --file --json",
            "order list --limit 0",
            "order cancel 3/07",
            "order retry 3/7 --reason=",
            "environment show",
            "environment show a/b",
        ] {
            assert_eq!(parse(line).expect_err(line).exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn durations() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("30m"), Ok(Duration::from_secs(1800)));
        assert_eq!(duration("2h"), Ok(Duration::from_secs(7200)));
        assert_eq!(duration("1d"), Ok(Duration::from_secs(86400)));
    }

    #[test]
    fn the_definition_is_consistent() {
        <Whole as clap::CommandFactory>::command().debug_assert();
    }
}
