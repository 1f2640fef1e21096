//! Webhooks: events on their way out, signed as Standard Webhooks say.
//!
//! ```text
//!  events (Redis) ──▶ one sender per webhook ──▶ model::webhook: is it wanted ──▶ send, through the guard of `egress`
//!                        ▲                                                            │
//!                        └── where it is, failures, dead letters (Redis) ◀── model::webhook: what follows from a failure
//! ```
//!
//! One dispatcher delivers for all, and another takes over when it gives no sign of life. Each webhook has a task of its own: a receiver
//! that is slow or away holds up nobody else. What has been sent is recorded after it has arrived, so an event may come twice, with the same
//! `webhook-id`, and is never left out.

mod send;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::clock;
use crate::dispatch::Dispatcher;
use crate::egress::Egress;
use crate::model::event::{Cursor, Event};
use crate::model::ids::Word;
pub use crate::model::webhook::Pace;
use crate::model::webhook::{Failure, Streak, Webhook};
use crate::store::{Delivery, Events, Store, StoreError};
use crate::wire::{self, CloudEvent};
use send::Post;
pub use send::signing_key;

/// How often it is looked who delivers, and what has changed.
const LOOK: Duration = Duration::from_millis(1500);
/// A sender that waits for events looks again after so long, should a wake-up be missed.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// And after so long, when Redis did not answer.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// So many events are read at a time.
const PIECE: usize = 100;
/// After so many events that are not for a webhook its place is recorded all the same.
const SKIPPED_MAX: usize = 500;

/// Sends events to webhooks, as long as it is this dispatcher's turn.
pub struct Webhooks {
    dispatcher: Arc<Dispatcher>,
    post: Post,
    pace: Pace,
}

impl Webhooks {
    /// Sends through this guard, at this pace.
    pub fn new(dispatcher: Arc<Dispatcher>, egress: Egress, pace: Pace) -> Arc<Self> {
        Arc::new(Self { dispatcher, post: Post::new(egress), pace })
    }

    /// Until the stop; what is being sent then is sent once more by whoever delivers next.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut senders: HashMap<Word, Sender> = HashMap::new();
        loop {
            match self.store().deliverer().await {
                Ok(Some(versions)) => {
                    senders.retain(|name, sender| {
                        versions.get(name) == Some(&sender.version) && !sender.task.is_finished()
                    });
                    for (name, version) in versions {
                        senders.entry(name.clone()).or_insert_with(|| {
                            let task = tokio::spawn(self.clone().deliver(name, version.clone()));
                            Sender { version, task: AbortOnDropHandle::new(task) }
                        });
                    }
                }
                Ok(None) => senders.clear(),
                // They cannot record anything, and wait.
                Err(error) => tracing::debug!(%error, "it is not known who delivers to webhooks"),
            }
            if stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_none() {
                return;
            }
        }
    }

    fn store(&self) -> &Store {
        self.dispatcher.store()
    }

    /// One webhook's sender.
    async fn deliver(self: Arc<Self>, name: Word, version: String) {
        loop {
            match self.go_on(&name, &version).await {
                Ok(()) | Err(StoreError::Epoch | StoreError::Stale(_)) => return,
                Err(StoreError::NotReached(error)) => {
                    tracing::debug!(webhook = %name, error, "a webhook waits for Redis");
                    tokio::time::sleep(TRY_AGAIN).await;
                }
                Err(StoreError::Unreadable(what)) => {
                    tracing::error!(webhook = %name, what, "a webhook cannot be read; remove it and set it anew");
                    return std::future::pending().await;
                }
            }
        }
    }

    /// Sends from where it was recorded to be, for as long as it is let; returns when there is no such webhook, or no such version of it.
    async fn go_on(&self, name: &Word, version: &str) -> Result<(), StoreError> {
        let Some(stored) = self.store().webhook(name).await? else { return Ok(()) };
        let mut place = Place {
            webhook: stored.webhook,
            version,
            streak: stored.streak,
            error: stored.error,
            arrived: false,
            at: stored.after,
            skipped: 0,
        };
        let secret = self.dispatcher.pepper().open_webhook(name, &stored.sealed);
        let Some(key) = secret.as_ref().and_then(signing_key) else {
            place.error = Some("its secret cannot be read with the present auth.pepper; set another one".to_owned());
            self.record(&mut place, &[]).await?;
            return std::future::pending().await;
        };
        let mut news = self.store().event_news();
        loop {
            news.mark_unchanged();
            // What has happened after a change is not sent as it was before.
            if self.store().webhook_version(name).await?.as_deref() != Some(version) {
                return Ok(());
            }
            let Events { events, next, last, missed } = self.store().events(place.at, PIECE).await?;
            if missed && !events.is_empty() {
                tracing::error!(webhook = %name, after = %place.at, "events are not kept any more that were not sent yet");
                let what = "events right after this one are not kept any more, and were not sent";
                let lost = [(place.at, what.to_owned())];
                self.record(&mut place, &lost).await?;
            }
            for event in events {
                if place.webhook.wants(&event) {
                    self.see_to(&mut place, &event, &key).await?;
                } else {
                    place.at = event.at;
                    place.skipped += 1;
                }
            }
            place.at = next;
            let idle = last && tokio::time::timeout(LOOK_AGAIN, news.changed()).await.is_err();
            // Its place is that of an event which is kept, as long as it keeps up.
            if place.skipped >= SKIPPED_MAX || (idle && place.skipped > 0) {
                self.record(&mut place, &[]).await?;
            }
        }
    }

    /// Sends an event until it has arrived or is given up.
    async fn see_to(&self, place: &mut Place<'_>, event: &Event, key: &[u8]) -> Result<(), StoreError> {
        loop {
            if place.streak.failures > 0 {
                let now = self.store().now_ms().await?;
                if place.streak.gives_up(event.at.ms(), now, &self.pace) {
                    let since = wire::time(place.streak.away_since_ms);
                    place.at = event.at;
                    place.streak = place.streak.with_next_event();
                    let dead = [(event.at, format!("not tried: the receiver has been away since {since}"))];
                    return self.record(place, &dead).await;
                }
                // Redis' clock may be set back.
                let wait = Duration::from_millis(place.streak.next_ms.saturating_sub(now));
                tokio::time::sleep(wait.min(self.pace.longest)).await;
            }
            let body = CloudEvent::new(event, &self.dispatcher.source(), self.dispatcher.public_url());
            let body = serde_json::to_vec(&body).map_err(|error| StoreError::Unreadable(error.to_string()))?;
            let (id, timestamp) = (event.at.to_string(), clock::wall_ms() / 1000);
            match self.post.send(&place.webhook.url, &id, timestamp, body, key).await {
                Ok(()) => {
                    (place.streak, place.error, place.arrived) = (Streak::default(), None, true);
                    place.at = event.at;
                    return self.record(place, &[]).await;
                }
                Err((failure, why)) => {
                    if self.failed(place, event, failure, why).await? {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Records a failure; true: the event is given up.
    async fn failed(
        &self,
        place: &mut Place<'_>,
        event: &Event,
        failure: Failure,
        why: String,
    ) -> Result<bool, StoreError> {
        let now = self.store().now_ms().await?;
        let (streak, given_up) = place.streak.after(failure, event.at.ms(), now, &self.pace);
        let (name, failures) = (&place.webhook.name, streak.failures);
        tracing::warn!(webhook = %name, event = %event.at, failures, given_up, error = why, "an event was not delivered");
        let dead = given_up.then(|| (event.at, why.clone()));
        (place.streak, place.error) = (streak, Some(why));
        if given_up {
            place.at = event.at;
        }
        self.record(place, dead.as_slice()).await?;
        Ok(given_up)
    }

    /// Records where a webhook is; waits for Redis, because what has arrived need not be sent again.
    async fn record(&self, place: &mut Place<'_>, dead: &[(Cursor, String)]) -> Result<(), StoreError> {
        let (arrived, error) = (std::mem::take(&mut place.arrived), place.error.as_deref());
        let delivery = Delivery { after: place.at, streak: place.streak, error, arrived, dead };
        loop {
            match self.store().delivered(&place.webhook.name, place.version, &delivery).await {
                Err(StoreError::NotReached(_)) => tokio::time::sleep(TRY_AGAIN).await,
                recorded => {
                    place.skipped = 0;
                    return recorded;
                }
            }
        }
    }
}

/// A webhook's task.
struct Sender {
    version: String,
    task: AbortOnDropHandle<()>,
}

/// Where a webhook is.
struct Place<'a> {
    webhook: Webhook,
    version: &'a str,
    streak: Streak,
    /// What went wrong last, while there are failures.
    error: Option<String>,
    /// Whether an event has arrived that is not recorded yet.
    arrived: bool,
    /// The last event that is dealt with.
    at: Cursor,
    /// Events that were not for it since its place was recorded.
    skipped: usize,
}
