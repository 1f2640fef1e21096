//! News: who waits for something to change is woken by what any dispatcher writes.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError, Weak};
use std::time::Duration;

use futures::StreamExt as _;
use tokio::sync::watch;

use super::Store;
use crate::model::ids::JobId;

/// Pause before listening again when the connection was lost.
const AGAIN: Duration = Duration::from_millis(100);
/// From this many entries on, those that nobody waits for are dropped now and then.
const CLEAN_FROM: usize = 64;

/// News about a job: woken after something was written about it, by whichever dispatcher.
///
/// A wake-up says "look again", not what changed: a missed one is made good by the wake-up that follows a lost connection.
#[derive(Debug, Clone)]
pub struct News {
    /// Counts changes of state (intent, start, end …).
    pub state: watch::Receiver<u64>,
    /// Counts writes of output.
    pub output: watch::Receiver<u64>,
}

struct Bell {
    state: watch::Sender<u64>,
    output: watch::Sender<u64>,
}

impl Bell {
    fn waited_for(&self) -> bool {
        self.state.receiver_count() + self.output.receiver_count() > 0
    }
}

/// Who waits for news of which job.
#[derive(Default)]
pub(super) struct Board {
    bells: Mutex<(HashMap<JobId, Bell>, usize)>,
}

impl Board {
    fn wait_for(&self, job: JobId) -> News {
        let mut bells = self.bells.lock().unwrap_or_else(PoisonError::into_inner);
        let (bells, clean_at) = &mut *bells;
        if bells.len() >= (*clean_at).max(CLEAN_FROM) {
            bells.retain(|_, bell| bell.waited_for());
            *clean_at = bells.len() * 2;
        }
        let bell =
            bells.entry(job).or_insert_with(|| Bell { state: watch::Sender::new(0), output: watch::Sender::new(0) });
        News { state: bell.state.subscribe(), output: bell.output.subscribe() }
    }

    /// Takes in a message of the channel.
    fn ring(&self, message: &str) {
        let Some((kind, job)) = message.split_once(' ').and_then(|(kind, id)| Some((kind, id.parse::<JobId>().ok()?)))
        else {
            return self.ring_all();
        };
        let bells = self.bells.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bell) = bells.0.get(&job) {
            if kind == "o" { &bell.output } else { &bell.state }.send_modify(|count| *count += 1);
        }
    }

    fn ring_all(&self) {
        for bell in self.bells.lock().unwrap_or_else(PoisonError::into_inner).0.values() {
            bell.state.send_modify(|count| *count += 1);
            bell.output.send_modify(|count| *count += 1);
        }
    }
}

/// Listens for as long as there is a board. Everybody is woken after each new beginning, because something may have been missed.
pub(super) async fn listen(client: redis::Client, channel: String, board: Weak<Board>) {
    while board.strong_count() > 0 {
        if let Err(error) = listen_once(&client, &channel, &board).await {
            tracing::debug!(%error, "not listening for news; trying again");
        }
        if let Some(board) = board.upgrade() {
            board.ring_all();
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn listen_once(client: &redis::Client, channel: &str, board: &Weak<Board>) -> redis::RedisResult<()> {
    let mut subscription = client.get_async_pubsub().await?;
    subscription.subscribe(channel).await?;
    if let Some(board) = board.upgrade() {
        board.ring_all();
    }
    let mut messages = subscription.on_message();
    while let Some(message) = messages.next().await {
        let Some(board) = board.upgrade() else { break };
        let text: String = message.get_payload()?;
        board.ring(&text);
    }
    Ok(())
}

impl Store {
    /// Wakes when something is written about a job.
    pub fn news(&self, job: JobId) -> News {
        self.shared.board.wait_for(job)
    }
}
