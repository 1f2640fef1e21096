//! The end of the process, in two steps.
//!
//! The first SIGTERM or SIGINT is a soft stop: no new connections, requests under way are answered, supervisors detach from
//! their containers, which go on and are adopted by the next dispatcher. A second signal, or [`DEADLINE`], ends it at once:
//! nothing is lost by that, because nothing is known here alone.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How long a soft stop may take.
pub const DEADLINE: Duration = Duration::from_secs(25);

/// Cancels `stop` at the first signal, and ends the process at the second or when the deadline has passed.
#[expect(clippy::disallowed_methods, reason = "this is the one place where the process is ended at once")]
pub async fn on_signal(stop: CancellationToken) -> std::io::Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let mut next = async || {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    };
    next().await;
    tracing::info!("stopping; containers go on and are adopted by the next dispatcher");
    stop.cancel();
    let _ = tokio::time::timeout(DEADLINE, next()).await;
    tracing::warn!("not stopped in time, or told twice; ending at once");
    std::process::exit(1);
}
