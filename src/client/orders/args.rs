//! What the commands about orders and environments take.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::client::args::{Listed, idempotency_key, reason};
use crate::model::ids::Word;
use crate::model::order::OrderId;

/// `order`
#[derive(Debug, Clone, Subcommand)]
pub enum Order {
    /// Show how an order differs from what is deployed; changes nothing.
    #[command(after_help = PLAN_CODES)]
    Plan(Plan),
    /// Show the plan of an order, give the order, follow it to its end, exit with how it ended.
    #[command(after_help = FOLLOW_CODES)]
    Apply(Box<Apply>),
    /// Show an order: its tasks, their jobs, and what did not succeed.
    #[command(after_help = FOLLOW_CODES)]
    Show(Shown),
    /// Show the orders, newest first.
    List(List),
    /// Try an order again that is incomplete, failed or canceled: what has not succeeded, and what follows it.
    #[command(after_help = FOLLOW_CODES)]
    Retry(Retry),
    /// End an order before its time: the jobs that run are ended, no other begins.
    Cancel(Moved),
    /// Check a file, without a dispatcher.
    Validate(File),
    /// Print the JSON Schema of the file, for editors.
    Schema,
}

const PLAN_CODES: &str = "\
Exit codes:
  0  it could be carried out
  2  wrong usage, configuration or file
  3  refused, or it could not be carried out: the plan says why
  6  the dispatcher could not be reached";

const FOLLOW_CODES: &str = "\
Exit codes where the order is followed:
  0  it succeeded
  1  it failed, is incomplete, or was canceled
  2  wrong usage, configuration or file
  3  refused: credentials, or it cannot be carried out
  5  superseded by a newer order
  6  the dispatcher could not be reached";

/// `order plan`
#[derive(Debug, Clone, Args)]
pub struct Plan {
    /// The file: YAML; - is standard input.
    pub file: PathBuf,
    /// The set of hosts and variables of the environment.
    #[arg(long, value_name = "MODE")]
    pub mode: Word,
    /// Print the dispatcher's JSON.
    #[arg(long)]
    pub json: bool,
}

/// `order apply`
#[derive(Debug, Clone, Args)]
pub struct Apply {
    /// The file: YAML; - is standard input. With --order there is none.
    #[arg(required_unless_present = "order", conflicts_with = "order")]
    pub file: Option<PathBuf>,
    /// Give the file of that order anew, such as 3/1; or its number alone with --environment.
    #[arg(long, value_name = "ORDER", value_parser = which)]
    pub order: Option<Which>,
    /// The environment of the order, where that is named by its number alone.
    #[arg(long, value_name = "ENVIRONMENT", requires = "order", conflicts_with = "file")]
    pub environment: Option<Word>,
    /// The set of hosts and variables of the environment; of an order that is given anew, that of the old one otherwise.
    #[arg(long, value_name = "MODE", required_unless_present = "order")]
    pub mode: Option<Word>,
    /// Requests with the same key within a day are one order; otherwise one is drawn.
    #[arg(long, value_name = "KEY", value_parser = idempotency_key)]
    pub idempotency_key: Option<String>,
    /// Print the order as the dispatcher's JSON once it has ended, and nothing else.
    #[arg(long, conflicts_with = "detach")]
    pub json: bool,
    /// Print the order's id once it is accepted, and leave.
    #[arg(long)]
    pub detach: bool,
}

/// An order, or its number in an environment that is named elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// Environment and number.
    Order(OrderId),
    /// The number alone.
    Number(u64),
}

fn which(text: &str) -> Result<Which, String> {
    if let Ok(number) = text.parse::<u64>()
        && number > 0
        && number.to_string() == text
    {
        return Ok(Which::Number(number));
    }
    text.parse().map(Which::Order).map_err(|error: crate::model::order::NoOrder| error.to_string())
}

/// `order show`
#[derive(Debug, Clone, Args)]
pub struct Shown {
    /// Which order: environment and number, such as 3/7.
    pub order: OrderId,
    /// Show what happens to it until it has ended, and exit with how it ended.
    #[arg(long, short)]
    pub follow: bool,
    /// Print the dispatcher's JSON; with --follow once it has ended.
    #[arg(long)]
    pub json: bool,
    /// Print its file.
    #[arg(long, conflicts_with_all = ["follow", "json"])]
    pub file: bool,
}

/// `order list`
#[derive(Debug, Clone, Args)]
pub struct List {
    /// Only of this environment.
    #[arg(long, value_name = "ENVIRONMENT")]
    pub environment: Option<Word>,
    /// At most so many of each environment, the newest ones: up to 200, or 20 if none is named.
    #[arg(long, short = 'n', value_name = "NUMBER", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=200))]
    pub limit: u16,
    /// Print the dispatcher's JSON.
    #[arg(long)]
    pub json: bool,
}

/// `order retry`
#[derive(Debug, Clone, Args)]
pub struct Retry {
    /// Which order, why.
    #[command(flatten)]
    pub moved: Moved,
    /// Leave once the wish is recorded.
    #[arg(long)]
    pub detach: bool,
}

/// What is done to an order, and perhaps why.
#[derive(Debug, Clone, Args)]
pub struct Moved {
    /// Which order: environment and number, such as 3/7.
    pub order: OrderId,
    /// Why; it is recorded.
    #[arg(long, value_parser = reason)]
    pub reason: Option<String>,
}

/// A file.
#[derive(Debug, Clone, Args)]
pub struct File {
    /// The file: YAML; - is standard input.
    pub file: PathBuf,
}

/// `environment`
#[derive(Debug, Clone, Subcommand)]
pub enum Environment {
    /// Register the environment of a file, or change it.
    Add(Add),
    /// Show an environment: its hosts and their room, what is deployed there, and which orders it had.
    Show(ShownEnvironment),
    /// Show the environments.
    List(Listed),
    /// Check a file, without a dispatcher.
    Validate(File),
    /// Print the JSON Schema of the file, for editors.
    Schema,
}

/// `environment add`
#[derive(Debug, Clone, Args)]
pub struct Add {
    /// The file: YAML; - is standard input.
    pub file: PathBuf,
    /// Why; it is recorded.
    #[arg(long, value_parser = reason)]
    pub reason: Option<String>,
}

/// `environment show`
#[derive(Debug, Clone, Args)]
pub struct ShownEnvironment {
    /// Which environment.
    pub environment: Word,
    /// Print the dispatcher's JSON.
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_named_with_its_environment_or_by_its_number() {
        assert_eq!(which("1"), Ok(Which::Number(1)));
        assert_eq!(which("3/1"), Ok(Which::Order("3/1".parse().expect("an order"))));
        for bad in ["", "0", "01", "+1", "3/", "/1", "3/0", "3/1/1", "three"] {
            assert!(which(bad).is_err(), "{bad}");
        }
    }
}
