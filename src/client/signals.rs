//! Ctrl-C and SIGTERM: the first is answered with what goes on without us, a second one ends the process at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// Signals that end the command.
pub(super) struct Signals {
    came: mpsc::Receiver<u8>,
}

impl Signals {
    /// Listens from now on.
    pub(super) fn listen() -> Self {
        let (tell, came) = mpsc::channel(1);
        for (kind, number) in [(SignalKind::interrupt(), 2), (SignalKind::terminate(), 15)] {
            // Where signals can't be listened to, they end the process, which is what they are for.
            if let Ok(mut signals) = signal(kind) {
                let tell = tell.clone();
                tokio::spawn(async move {
                    while signals.recv().await.is_some() {
                        if tell.try_send(number).is_err() {
                            // Whoever should have listened may be stuck writing to a terminal that takes nothing.
                            #[expect(
                                clippy::disallowed_methods,
                                reason = "nothing here is left behind: the job goes on"
                            )]
                            std::process::exit(128 + i32::from(number));
                        }
                    }
                });
            }
        }
        Self { came }
    }

    /// The number of the next one.
    pub(super) async fn next(&mut self) -> u8 {
        match self.came.recv().await {
            Some(number) => number,
            None => std::future::pending().await,
        }
    }
}
