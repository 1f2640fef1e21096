//! News: one connection listens for all, and wakes those who watch a job.
//!
//! Redis forgets a message that nobody hears, so whoever watches is woken when the connection has been made anew: something may
//! have happened in between.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use redis::aio::PubSub;
use redis::{Client, RedisResult, Value};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::link::CONNECT;
use super::{News, Store};
use crate::model::ids::{JobId, ReleaseId};

/// How long the connection may be silent before it is asked whether it still stands.
const SILENCE: Duration = Duration::from_secs(10);
/// How long to wait before the second try to connect; doubled from try to try.
const FIRST_WAIT: Duration = Duration::from_millis(20);
/// The longest wait between two tries.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// Who watches which job, which release, and the events.
#[derive(Default)]
pub(super) struct Watchers {
    jobs: Mutex<Watched<JobId, Senders>>,
    releases: Mutex<Watched<ReleaseId, watch::Sender<u64>>>,
    events: watch::Sender<u64>,
    /// Releases that were written, or are to be looked at, whichever.
    any_release: watch::Sender<u64>,
    /// Orders that were written, or are to be looked at, whichever.
    any_order: watch::Sender<u64>,
    /// Releases that ask reporters.
    asking: watch::Sender<u64>,
}

/// Those that somebody watches.
struct Watched<K, S> {
    senders: HashMap<K, S>,
    /// At so many entries those that nobody watches any more are looked for.
    sweep_at: usize,
}

impl<K, S> Default for Watched<K, S> {
    fn default() -> Self {
        Self { senders: HashMap::new(), sweep_at: 0 }
    }
}

impl<K: Eq + Hash, S: Sender> Watched<K, S> {
    fn watch(&mut self, what: K) -> &mut S {
        if self.senders.len() >= self.sweep_at {
            self.senders.retain(|_, senders| senders.watched());
            self.sweep_at = (self.senders.len() * 2).max(64);
        }
        self.senders.entry(what).or_insert_with(S::new)
    }

    /// What wakes those who watch it, if anybody does.
    fn watched(&mut self, what: &K) -> Option<&S> {
        if self.senders.get(what)?.watched() {
            return self.senders.get(what);
        }
        self.senders.remove(what);
        None
    }
}

/// What wakes somebody.
trait Sender {
    fn new() -> Self;
    fn watched(&self) -> bool;
}

impl Sender for watch::Sender<u64> {
    fn new() -> Self {
        watch::Sender::new(0)
    }

    fn watched(&self) -> bool {
        self.receiver_count() > 0
    }
}

struct Senders {
    state: watch::Sender<u64>,
    output: watch::Sender<u64>,
}

impl Sender for Senders {
    fn new() -> Self {
        Self { state: watch::Sender::new(0), output: watch::Sender::new(0) }
    }

    fn watched(&self) -> bool {
        self.state.watched() || self.output.watched()
    }
}

fn wake(sender: &watch::Sender<u64>) {
    sender.send_modify(|count| *count += 1);
}

/// A lock that a panic has left is as good as any: what it guards is whole between two lines.
fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watchers {
    fn watch(&self, job: JobId) -> News {
        let mut jobs = locked(&self.jobs);
        let senders = jobs.watch(job);
        News { state: senders.state.subscribe(), output: senders.output.subscribe() }
    }

    /// Takes in a message: `o`, `s`, `e`, `r`, `d` or `a`, a blank, what it is about.
    fn hear(&self, message: &[u8]) {
        let Ok(text) = std::str::from_utf8(message) else { return };
        let Some((kind, about)) = text.split_once(' ') else { return };
        match kind {
            "e" => wake(&self.events),
            "a" => wake(&self.asking),
            "d" => wake(&self.any_order),
            "r" => {
                wake(&self.any_release);
                if let Ok(release) = about.parse() {
                    locked(&self.releases).watched(&release).into_iter().for_each(wake);
                }
            }
            "o" | "s" => {
                let Ok(job) = about.parse() else { return };
                if let Some(senders) = locked(&self.jobs).watched(&job) {
                    wake(if kind == "o" { &senders.output } else { &senders.state });
                }
            }
            _ => {}
        }
    }

    fn wake_all(&self) {
        [&self.events, &self.any_release, &self.any_order, &self.asking].into_iter().for_each(wake);
        locked(&self.releases).senders.values().for_each(wake);
        for senders in locked(&self.jobs).senders.values() {
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

    /// Wakes when a release was written, or is to be looked at.
    pub fn release_news(&self, release: ReleaseId) -> watch::Receiver<u64> {
        locked(&self.shared.watchers.releases).watch(release).subscribe()
    }

    /// Wakes when any release was written, or is to be looked at.
    pub fn any_release_news(&self) -> watch::Receiver<u64> {
        self.shared.watchers.any_release.subscribe()
    }

    /// Wakes when any order was written, or is to be looked at.
    pub fn any_order_news(&self) -> watch::Receiver<u64> {
        self.shared.watchers.any_order.subscribe()
    }

    /// Wakes when reporters are asked.
    pub fn asking_news(&self) -> watch::Receiver<u64> {
        self.shared.watchers.asking.subscribe()
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
        assert_eq!(locked(&watchers.jobs).senders.len(), 1);
        drop(news);
        watchers.hear(format!("o {job}").as_bytes());
        assert_eq!(locked(&watchers.jobs).senders.len(), 0);
        for n in 0..1000 {
            watchers.watch(JobId::new(2, n));
        }
        assert!(locked(&watchers.jobs).senders.len() <= 64);
    }
}
