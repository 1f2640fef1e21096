//! Redis: what is decided there, and how.
//!
//! Every step that must be whole is one Lua script under `scripts/`. A script first checks the *epoch*: the memory that this
//! dispatcher knows is named by a random id and counts its changes of state. When the id is missing or another one, or the
//! count is lower than one already seen, Redis came back empty or older, and the answer is [`StoreError::Epoch`] and nothing
//! has been changed. A write about a job carries the supervisor's lease number and is refused as [`StoreError::Stale`] when a
//! later supervisor has taken over.
//!
//! ```text
//!  admission  submit, grant, adopt ─┐
//!  life       confirm … finish ─────┼─▶ scripts ──▶ link: quick ───┐
//!  locks, apps, memory,              │                              │
//!  tokens, webhooks, audit,         │                              │
//!  pipelines, orders ───────────────┘                              │
//!  output     append, the move at the end ───────▶ link: intake ───┼──▶ Redis ──▶ news ──▶ whoever watches a job
//!  door, output, events   polls, ranges ─────────▶ link: outlet ───┤
//!  read       records, lists ────────────────────▶ link: quick ────┘
//! ```
//!
//! `keys` is the whole keyspace. Redis is not hidden behind an abstraction: callers know that there are round trips. Nothing is
//! ever sent twice from here: what a lost reply means, the caller knows, and every step may be repeated.

mod admission;
mod apps;
mod audit;
mod door;
mod events;
mod keys;
mod life;
mod link;
mod locks;
mod memory;
mod news;
mod orders;
mod output;
mod pipelines;
mod read;
mod record;
mod releases;
mod reporters;
mod scripts;
mod tokens;
mod types;
mod value;
mod webhooks;

use std::sync::Arc;
use std::time::Duration;
use std::vec::IntoIter;

use arc_swap::ArcSwapOption;
use redis::{Client, Cmd, IntoConnectionInfo as _, Pipeline, ProtocolVersion, Value};
use tokio::task::AbortHandle;

use crate::model::ids::Instance;
use apps::AppList;
use keys::Keys;
use link::{Link, Trouble};
use memory::Known;
use news::Watchers;

pub use admission::digest_of;
pub use memory::Damage;
pub use releases::RELEASES_PAGE;
pub use types::*;

/// Why Redis did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// Not reached, or the reply was lost: it may or may not have had its effect.
    #[error("Redis was not reached: {0}")]
    NotReached(String),
    /// Redis' memory is not the one known here: state has to be rebuilt (or was, by another dispatcher). Nothing was changed.
    #[error("Redis holds another state than the one known here")]
    Epoch,
    /// The write came from a supervisor that is not the job's any more, or at an offset that is not the next. Nothing was changed.
    #[error("the write is stale: {0}")]
    Stale(String),
    /// A record that cannot be read.
    #[error("Redis holds something unreadable at {0}")]
    Unreadable(String),
}

/// The result of a call to Redis.
pub type Result<T> = std::result::Result<T, StoreError>;

/// Redis, for one instance and one dispatcher. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

struct Shared {
    keys: Keys,
    dispatcher: String,
    retention: Duration,
    /// For what is small and must be quick.
    quick: Link,
    /// For output on its way in, and
    intake: Link,
    /// for output on its way out: so that a flood of it, or somebody who reads a large piece, holds up nothing else.
    outlet: Link,
    known: ArcSwapOption<Known>,
    /// A copy of the list of apps, good for as long as its version is the one in Redis.
    apps: ArcSwapOption<AppList>,
    watchers: Arc<Watchers>,
    listener: AbortHandle,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl Store {
    /// Connects (with a bound on every reply) and begins to listen for news. Does not fail when Redis is away: calls will.
    /// It fails when `url` cannot be used at all. `retention`: how long ended jobs are kept.
    pub async fn connect(url: &str, instance: &Instance, dispatcher: &str, retention: Duration) -> Result<Self> {
        let speaking = |protocol| {
            let info = url.into_connection_info()?;
            let settings = info.redis_settings().clone().set_protocol(protocol).set_skip_set_lib_name();
            Client::open(info.set_redis_settings(settings))
        };
        // The message of the library names what is wrong with the URL, without repeating it.
        let unusable = |error: redis::RedisError| StoreError::NotReached(format!("redis.url cannot be used: {error}"));
        let client = speaking(ProtocolVersion::RESP3).map_err(unusable)?;
        let listening = speaking(ProtocolVersion::RESP2).map_err(unusable)?;
        let keys = Keys::new(instance);
        let watchers = Arc::new(Watchers::default());
        let listener = tokio::spawn(news::listen(listening, keys.news(), watchers.clone())).abort_handle();
        let shared = Shared {
            keys,
            dispatcher: dispatcher.to_owned(),
            retention,
            quick: Link::new(client.clone()),
            intake: Link::new(client.clone()),
            outlet: Link::new(client),
            known: ArcSwapOption::empty(),
            apps: ArcSwapOption::empty(),
            watchers,
            listener,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The name under which this dispatcher supervises.
    pub fn dispatcher(&self) -> &str {
        &self.shared.dispatcher
    }

    fn keys(&self) -> &Keys {
        &self.shared.keys
    }

    fn quick(&self) -> &Link {
        &self.shared.quick
    }

    fn intake(&self) -> &Link {
        &self.shared.intake
    }

    fn outlet(&self) -> &Link {
        &self.shared.outlet
    }

    /// Reads in one `MGET` together with the check of the memory, and in commands behind it, in one round trip. `reads` adds keys,
    /// and then commands.
    async fn read_with_state(
        &self,
        link: &Link,
        place: &str,
        reads: impl FnOnce(&mut Pipeline),
    ) -> Result<(IntoIter<Value>, Answers)> {
        let known = self.known().ok_or(StoreError::Epoch)?;
        let seen = known.seen();
        let mut pipe = Pipeline::with_capacity(3);
        let mut command = Cmd::with_capacity(6, 384);
        command.arg("MGET").arg(self.keys().state());
        pipe.add_command(command);
        reads(&mut pipe);
        let mut replies = link.send_all(&pipe).await.map_err(|trouble| trouble.at(place))?.into_iter();
        let mut values = replies.next().map(value::items).unwrap_or_default().into_iter();
        known.check(&values.next().unwrap_or_default(), seen)?;
        Ok((values, Answers { replies, place: place.to_owned() }))
    }

    /// Reads, in one round trip: `reads` puts its commands behind the check of the memory, and the replies come in their order.
    async fn read(&self, link: &Link, place: &str, reads: impl FnOnce(&mut Pipeline)) -> Result<Answers> {
        let known = self.known().ok_or(StoreError::Epoch)?;
        let seen = known.seen();
        let mut pipe = Pipeline::with_capacity(6);
        pipe.cmd("GET").arg(self.keys().state());
        reads(&mut pipe);
        let mut replies = link.send_all(&pipe).await.map_err(|trouble| trouble.at(place))?.into_iter();
        known.check(&replies.next().unwrap_or_default(), seen)?;
        Ok(Answers { replies, place: place.to_owned() })
    }
}

/// Replies to reads, in order.
struct Answers {
    replies: IntoIter<Value>,
    place: String,
}

impl Answers {
    fn next(&mut self) -> Result<Value> {
        let value = self.replies.next().unwrap_or_default();
        value.extract_error().map_err(|error| Trouble::from(error).at(&self.place))
    }
}
