//! Logs, to standard error: a readable message and dotted fields (`job.id`, `inventory`), never a secret.
//!
//! `error`: somebody has to do something. `warn`: something did not work and is tried again or passed over. `info`: what
//! happened to which job, and the life of this process. `debug`: every step. The filter is `LOCKSTEP_LOG` in the form of
//! `RUST_LOG`, `info` by default; `LOCKSTEP_LOG_FORMAT=json` gives a JSON object a line.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// Begins logging. `filter` and `format` are the values of the two variables. Errors name what is wrong with the filter.
pub fn start(filter: Option<&str>, format: Option<&str>) -> Result<(), String> {
    let filter = EnvFilter::try_new(filter.unwrap_or("info"))
        .map_err(|error| format!("LOCKSTEP_LOG: {error}; valid is, for instance, info or lockstep=debug"))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        None | Some("text") => builder.with_ansi(std::io::stderr().is_terminal()).init(),
        Some("json") => builder.json().flatten_event(true).init(),
        Some(_) => return Err("LOCKSTEP_LOG_FORMAT must be text or json".into()),
    }
    Ok(())
}
