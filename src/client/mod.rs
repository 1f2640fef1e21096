//! The client's side of the command line.

mod args;

pub use args::{Command, Options};

use std::process::ExitCode;

/// Carries out a command.
pub async fn run(command: Command, options: Options) -> ExitCode {
    let _ = (command, options);
    ExitCode::from(2)
}
