//! News: one connection listens for all, and wakes those who watch a job.
//!
//! Redis forgets a message that nobody hears, so whoever watches is woken when the connection has been made anew: something may
//! have happened in between.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use redis::aio::PubSub;
use redis::{Client, RedisResult, Value};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::link::CONNECT;
use super::{News, Store};
use crate::model::ids::JobId;

/// How long the connection may be silent before it is asked whether it still stands.
const SILENCE: Duration = Duration::from_secs(10);
/// How long to wait before the second try to connect; doubled from try to try.
const FIRST_WAIT: Duration = Duration::from_millis(20);
/// The longest wait between two tries.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// Who watches which job, and the events.
#[derive(Default)]
pub(super) struct Watchers {
    jobs: Mutex<Watched>,
    events: watch::Sender<u64>,
}

#[derive(Default)]
struct Watched {
    jobs: HashMap<JobId, Senders>,
    /// At so many entries those that nobody watches any more are looked for.
    sweep_at: usize,
}

struct Senders {
    state: watch::Sender<u64>,
    output: watch::Sender<u64>,
}

impl Senders {
    fn watched(&self) -> bool {
        self.state.receiver_count() > 0 || self.output.receiver_count() > 0
    }
}

fn wake(sender: &watch::Sender<u64>) {
    sender.send_modify(|count| *count += 1);
}

impl Watchers {
    fn locked(&self) -> std::sync::MutexGuard<'_, Watched> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch(&self, job: JobId) -> News {
        let mut watched = self.locked();
        if watched.jobs.len() >= watched.sweep_at {
            watched.jobs.retain(|_, senders| senders.watched());
            watched.sweep_at = (watched.jobs.len() * 2).max(64);
        }
        let senders = watched
            .jobs
            .entry(job)
            .or_insert_with(|| Senders { state: watch::Sender::new(0), output: watch::Sender::new(0) });
        News { state: senders.state.subscribe(), output: senders.output.subscribe() }
    }

    /// Takes in a message: `o`, `s` or `e`, a blank, what it is about.
    fn hear(&self, message: &[u8]) {
        let Ok(text) = std::str::from_utf8(message) else { return };
        let Some((kind, job)) = text.split_once(' ') else { return };
        if kind == "e" {
            return wake(&self.events);
        }
        let Ok(job) = job.parse::<JobId>() else { return };
        let mut watched = self.locked();
        let Some(senders) = watched.jobs.get(&job) else { return };
        match kind {
            _ if !senders.watched() => {
                watched.jobs.remove(&job);
            }
            "o" => wake(&senders.output),
            "s" => wake(&senders.state),
            _ => {}
        }
    }

    fn wake_all(&self) {
        wake(&self.events);
        for senders in self.locked().jobs.values() {
            wake(&senders.state);
            wake(&senders.output);
        }
    }
}

/// Listens for as long as it is let.
pub(super) async fn listen(client: Client, channel: String, watchers: Arc<Watchers>) {
    let mut wait = Duration::ZERO;
    loop {
        match timeout(CONNECT, subscribe(&client, &channel)).await {
            Ok(Ok(connection)) => {
                wait = Duration::ZERO;
                watchers.wake_all();
                hear(connection, &watchers).await;
                tracing::debug!("the connection for news was lost; it is made anew");
            }
            Ok(Err(error)) => tracing::debug!(%error, "the connection for news could not be made"),
            Err(_) => tracing::debug!("the connection for news could not be made in time"),
        }
        sleep(wait).await;
        wait = (wait * 2).clamp(FIRST_WAIT, LONGEST_WAIT);
    }
}

async fn subscribe(client: &Client, channel: &str) -> RedisResult<PubSub> {
    let mut connection = client.get_async_pubsub().await?;
    connection.subscribe(channel).await?;
    Ok(connection)
}

/// Passes messages on until the connection is lost.
async fn hear(connection: PubSub, watchers: &Watchers) {
    let (mut sink, mut stream) = connection.split();
    loop {
        match timeout(SILENCE, stream.next()).await {
            Ok(Some(message)) => watchers.hear(message.get_payload_bytes()),
            Ok(None) => return,
            Err(_silent) => match timeout(CONNECT, sink.ping::<Value>()).await {
                Ok(Ok(_)) => {}
                Ok(Err(_)) | Err(_) => return,
            },
        }
    }
}

impl Store {
    /// Wakes when something is written about a job.
    pub fn news(&self, job: JobId) -> News {
        self.shared.watchers.watch(job)
    }

    /// Wakes with each event.
    pub fn event_news(&self) -> watch::Receiver<u64> {
        self.shared.watchers.events.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_watch_are_woken_and_those_who_left_are_forgotten() {
        let watchers = Watchers::default();
        let (job, other) = (JobId::new(1, 1), JobId::new(1, 2));
        let mut news = watchers.watch(job);
        let second = watchers.watch(job);
        watchers.hear(format!("s {other}").as_bytes());
        watchers.hear(b"s");
        watchers.hear(b"\xff");
        assert!(!news.state.has_changed().expect("open"));
        watchers.hear(format!("s {job}").as_bytes());
        assert!(news.state.has_changed().expect("open") && !news.output.has_changed().expect("open"));
        news.state.mark_unchanged();
        watchers.wake_all();
        assert!(news.state.has_changed().expect("open") && news.output.has_changed().expect("open"));
        drop(second);
        assert_eq!(watchers.locked().jobs.len(), 1);
        drop(news);
        watchers.hear(format!("o {job}").as_bytes());
        assert_eq!(watchers.locked().jobs.len(), 0);
        for n in 0..1000 {
            watchers.watch(JobId::new(2, n));
        }
        assert!(watchers.locked().jobs.len() <= 64);
    }
}
