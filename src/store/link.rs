//! A connection to Redis that is made when it is needed, and made anew after it was lost.
//!
//! Commands of all callers share it. While Redis is away every call tries once, together with the others that wait at that
//! moment, and fails as soon as that try has. Nothing is sent twice: what a lost reply means is the caller's to know.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, Pipeline, PushInfo, PushKind, RedisError, ServerErrorKind, Value};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::StoreError;

/// How long making a connection may take.
pub(super) const CONNECT: Duration = Duration::from_secs(2);
/// How long a reply may take.
const REPLY: Duration = Duration::from_secs(5);

/// See the module.
pub(super) struct Link(Arc<Inner>);

struct Inner {
    client: Client,
    slot: Arc<Slot>,
    /// Held while a connection is made; when and how that last failed.
    failed: Mutex<Option<(Instant, String)>>,
    made: AtomicU64,
}

#[derive(Default)]
struct Slot(ArcSwapOption<Connection>);

struct Connection {
    number: u64,
    redis: MultiplexedConnection,
}

impl Slot {
    /// Drops the connection of this number, if it is still the one.
    fn drop_connection(&self, number: u64) {
        self.0.rcu(|current| current.clone().filter(|connection| connection.number != number));
    }
}

impl Link {
    /// `client` speaks RESP3, in which the end of a connection is told at once instead of to the next who tries to use it.
    pub(super) fn new(client: Client) -> Self {
        Self(Arc::new(Inner { client, slot: Arc::default(), failed: Mutex::new(None), made: AtomicU64::new(0) }))
    }

    /// Sends one command.
    pub(super) async fn send(&self, command: &Cmd) -> Result<Value, Trouble> {
        let connection = self.connection().await?;
        let result = connection.redis.clone().send_packed_command(command).await;
        match result.and_then(Value::extract_error) {
            Ok(value) => Ok(value),
            Err(error) => Err(self.trouble(&connection, error)),
        }
    }

    /// Sends commands together; one that fails is a [`Value::ServerError`] among the replies.
    pub(super) async fn send_all(&self, commands: &Pipeline) -> Result<Vec<Value>, Trouble> {
        let connection = self.connection().await?;
        let result = connection.redis.clone().send_packed_commands(commands, 0, commands.len()).await;
        result.map_err(|error| self.trouble(&connection, error))
    }

    fn trouble(&self, connection: &Connection, error: RedisError) -> Trouble {
        if error.is_io_error() || error.is_unrecoverable_error() {
            self.0.slot.drop_connection(connection.number);
        }
        Trouble::from(error)
    }

    async fn connection(&self) -> Result<Arc<Connection>, Trouble> {
        if let Some(connection) = self.0.slot.0.load_full() {
            return Ok(connection);
        }
        // On a task of its own, so that it goes on also when this caller is not polled: one that waits in a `select!`, while what it
        // does there needs the connection too, would wait for itself.
        let inner = self.0.clone();
        let connected = tokio::spawn(async move { inner.connect().await }).await;
        connected.unwrap_or_else(|died| Err(Trouble::NotReached(format!("connecting: {died}"))))
    }
}

impl Inner {
    async fn connect(&self) -> Result<Arc<Connection>, Trouble> {
        let asked = Instant::now();
        let mut failed = self.failed.lock().await;
        if let Some(connection) = self.slot.0.load_full() {
            return Ok(connection);
        }
        if let Some((at, error)) = &*failed
            && *at >= asked
        {
            return Err(Trouble::NotReached(error.clone()));
        }
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let slot = self.slot.clone();
        let lost = move |push: PushInfo| {
            if push.kind == PushKind::Disconnection {
                slot.drop_connection(number);
            }
            Ok::<(), redis::aio::SendError>(())
        };
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(Some(REPLY))
            .set_push_sender(lost);
        match self.client.get_multiplexed_async_connection_with_config(&config).await {
            Ok(redis) => {
                *failed = None;
                let connection = Arc::new(Connection { number, redis });
                self.slot.0.store(Some(connection.clone()));
                Ok(connection)
            }
            Err(error) => {
                *failed = Some((Instant::now(), error.to_string()));
                Err(Trouble::NotReached(error.to_string()))
            }
        }
    }
}

/// Why a call failed, before it is known what it was about.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Redis was not reached, or has trouble of its own that may pass.
    NotReached(String),
    /// Redis has forgotten the scripts.
    NoScript,
    /// Redis answered, and what it holds is not what should be there.
    Unreadable(String),
}

impl From<RedisError> for Trouble {
    fn from(error: RedisError) -> Self {
        use redis::ErrorKind::{Parse, Server, UnexpectedReturnType};
        match error.kind() {
            Server(ServerErrorKind::NoScript) => Self::NoScript,
            Server(ServerErrorKind::ResponseError) | Parse | UnexpectedReturnType => {
                Self::Unreadable(error.to_string())
            }
            _ if error.code() == Some("WRONGTYPE") => Self::Unreadable(error.to_string()),
            // Loading, out of memory, read-only, wrong password, gone …: an operator's to mend, and nothing is known.
            _ => Self::NotReached(error.to_string()),
        }
    }
}

impl Trouble {
    /// The error that callers see; `place` is what the call was about.
    pub(super) fn at(self, place: &str) -> StoreError {
        match self {
            Self::NotReached(cause) => StoreError::NotReached(cause),
            Self::NoScript => StoreError::NotReached("Redis does not keep scripts".to_owned()),
            Self::Unreadable(cause) => StoreError::Unreadable(format!("{place} ({cause})")),
        }
    }
}
