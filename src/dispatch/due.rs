//! Releases and orders alike: looked at whenever one is due, by every dispatcher.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use tokio::sync::watch;

use super::Dispatcher;
use crate::store::{Store, StoreError};

/// So many are looked at beside each other.
const AT_ONCE: usize = 8;
/// How long to wait when nothing is known to be due.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// How long to wait after trouble.
const PAUSE: Duration = Duration::from_secs(1);
/// How long to wait for a memory that is being rebuilt.
const OPEN_PACE: Duration = Duration::from_millis(100);

/// What is due now, and in how many milliseconds the next one is; none: there is none.
type Due<T> = Result<(Vec<T>, Option<u64>), StoreError>;

impl Dispatcher {
    /// Looks at what is due, until the stop. `look` takes one as far as it goes; false: there was trouble, and it stays due.
    pub(super) async fn keep_looking<T: Send>(
        self: Arc<Self>,
        what: &'static str,
        mut news: watch::Receiver<u64>,
        due: impl for<'a> Fn(&'a Store) -> BoxFuture<'a, Due<T>> + Send + Sync,
        look: impl for<'a> Fn(&'a Arc<Self>, T) -> BoxFuture<'a, bool> + Send + Sync,
    ) {
        let looking = async {
            loop {
                if self.check_open().is_err() {
                    tokio::time::sleep(OPEN_PACE).await;
                    continue;
                }
                news.mark_unchanged();
                let pause = match self.noting(due(&self.parts.store).await) {
                    Ok((due, next)) if due.is_empty() => next.map_or(LOOK_AGAIN, Duration::from_millis).min(LOOK_AGAIN),
                    Ok((due, _)) => {
                        let looks = futures::stream::iter(due).map(|one| look(&self, one)).buffer_unordered(AT_ONCE);
                        if looks.fold(true, |all, good| std::future::ready(all && good)).await {
                            continue;
                        }
                        PAUSE
                    }
                    Err(error) => {
                        tracing::debug!(%error, "it is not known which {what} are due");
                        PAUSE
                    }
                };
                let _ = tokio::time::timeout(pause, news.changed()).await;
            }
        };
        self.stop.run_until_cancelled(looking).await;
    }
}
