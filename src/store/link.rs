//! The connection, the scripts, and how replies are read.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, ErrorKind, FromRedisValue, RedisError, RedisWrite, Script, ServerErrorKind, ToRedisArgs, Value};

use super::keys::Keys;
use super::news::Board;
use super::{Result, StoreError};
use crate::model::ids::Instance;

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(2);
/// How long a reply may take. A disk that is slow to fsync is waited for; a dead peer is not.
const REPLY: Duration = Duration::from_secs(5);

macro_rules! scripts {
    ($($name:ident),+ $(,)?) => {
        /// The scripts, loaded once.
        #[expect(non_camel_case_types, reason = "each is named as its file")]
        #[derive(Debug, Clone, Copy)]
        pub(super) enum Step { $($name),+, rebuild }

        impl Step {
            fn scripts() -> Vec<Script> {
                vec![
                    $(Script::new(concat!(
                        include_str!("scripts/_common.lua"),
                        include_str!("scripts/_epoch.lua"),
                        include_str!(concat!("scripts/", stringify!($name), ".lua")),
                    ))),+,
                    // A rebuild is asked for when the memory is not the one known.
                    Script::new(concat!(include_str!("scripts/_common.lua"), include_str!("scripts/rebuild.lua"))),
                ]
            }
        }
    };
}

scripts! {
    submit, confirm, recognize, unconfirm, started, append, behind, intend, exited, finish, grant, adopt, progress, free_orphan,
    apps, freeze, unfreeze,
}

/// The memory that is known here: its name, and the highest count of changes seen.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    pub(super) epoch: Option<String>,
    pub(super) seen: u64,
}

/// Redis, for one instance and one dispatcher. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    pub(super) connection: ConnectionManager,
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) keys: Keys,
    pub(super) dispatcher: String,
    pub(super) retention: Duration,
    pub(super) known: Mutex<Known>,
    pub(super) board: Arc<Board>,
    scripts: Vec<Script>,
}

/// One argument of a script or a command.
pub(super) struct Arg<'a>(std::borrow::Cow<'a, [u8]>);

impl<'a> From<&'a str> for Arg<'a> {
    fn from(text: &'a str) -> Self {
        Self(text.as_bytes().into())
    }
}
impl<'a> From<&'a [u8]> for Arg<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self(bytes.into())
    }
}
impl From<String> for Arg<'_> {
    fn from(text: String) -> Self {
        Self(text.into_bytes().into())
    }
}
impl From<u64> for Arg<'_> {
    fn from(number: u64) -> Self {
        number.to_string().into()
    }
}
impl ToRedisArgs for Arg<'_> {
    fn write_redis_args<W: ?Sized + RedisWrite>(&self, out: &mut W) {
        out.write_arg(&self.0);
    }
}

/// A script's reply behind status and counter.
pub(super) struct Reply {
    pub(super) status: String,
    rest: std::vec::IntoIter<Value>,
}

impl Reply {
    /// The next value, as text.
    pub(super) fn text(&mut self) -> Option<String> {
        self.rest.next().and_then(|value| String::from_redis_value(value).ok())
    }

    /// The next value, read from its text.
    pub(super) fn parse<T: std::str::FromStr>(&mut self) -> Result<T> {
        let text = self.text();
        text.as_deref()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| StoreError::Unreadable(format!("a reply of {:?}", self.status)))
    }
}

impl From<RedisError> for StoreError {
    fn from(error: RedisError) -> Self {
        match error.kind() {
            // Loading after a start, a fail-over, a disk that cannot be written to: it passes.
            ErrorKind::Server(ServerErrorKind::ResponseError) | ErrorKind::Parse | ErrorKind::UnexpectedReturnType => {
                Self::Unreadable(error.to_string())
            }
            _ => Self::NotReached(error.to_string()),
        }
    }
}

impl Store {
    /// Connects (with a bound on every reply) and begins to listen for news. Does not fail when Redis is away: calls will.
    /// `retention`: how long ended jobs are kept.
    pub async fn connect(url: &str, instance: &Instance, dispatcher: &str, retention: Duration) -> Result<Self> {
        let client = Client::open(url)
            .map_err(|error| StoreError::NotReached(format!("redis.url cannot be used: {}", error.category())))?;
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(Some(REPLY))
            .set_number_of_retries(1)
            .set_min_delay(Duration::from_millis(20))
            .set_max_delay(Duration::from_millis(200));
        let connection = ConnectionManager::new_lazy_with_config(client.clone(), config)?;
        let keys = Keys::new(instance);
        let board = Arc::new(Board::default());
        tokio::spawn(super::news::listen(client, keys.news(), Arc::downgrade(&board)));
        let shared = Shared {
            keys,
            dispatcher: dispatcher.to_owned(),
            retention,
            known: Mutex::default(),
            board,
            scripts: Step::scripts(),
        };
        Ok(Self { connection, shared: Arc::new(shared) })
    }

    /// The name under which this dispatcher supervises.
    pub fn dispatcher(&self) -> &str {
        &self.shared.dispatcher
    }

    pub(super) fn keys(&self) -> &Keys {
        &self.shared.keys
    }

    pub(super) fn known(&self) -> Known {
        self.shared.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Runs a script. What is known is read before it is sent, so replies that overtake each other cannot be misread.
    pub(super) async fn run(&self, step: Step, args: Vec<Arg<'_>>) -> Result<Reply> {
        let known = self.known();
        let epoch = known.epoch.ok_or(StoreError::Epoch).or_else(|error| match step {
            Step::rebuild => Ok(String::new()),
            _ => Err(error),
        })?;
        let retention = u64::try_from(self.shared.retention.as_millis()).unwrap_or(u64::MAX);
        let mut call = self.shared.scripts[step as usize].prepare_invoke();
        call.key(self.keys().state())
            .arg(&self.keys().prefix)
            .arg(&epoch)
            .arg(known.seen)
            .arg(self.dispatcher())
            .arg(retention);
        for arg in args {
            call.arg(arg);
        }
        let values: Vec<Value> = call.invoke_async(&mut self.connection.clone()).await?;
        let mut rest = values.into_iter();
        let status = rest.next().and_then(|value| String::from_redis_value(value).ok()).unwrap_or_default();
        let counter = rest.next().and_then(|value| u64::from_redis_value(value).ok()).unwrap_or_default();
        let mut reply = Reply { status, rest };
        match reply.status.as_str() {
            "EPOCH" => Err(StoreError::Epoch),
            "STALE" => Err(StoreError::Stale(reply.text().unwrap_or_default())),
            _ => {
                self.saw(&epoch, counter);
                Ok(reply)
            }
        }
    }

    /// Notes a count of the known memory.
    fn saw(&self, epoch: &str, counter: u64) {
        let mut known = self.shared.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.epoch.as_deref() == Some(epoch) {
            known.seen = known.seen.max(counter);
        }
    }

    /// Sends a pipeline that begins with reading the state, in one round trip; refuses what another memory says.
    pub(super) async fn read<T: FromRedisValue>(&self, fill: impl FnOnce(&mut redis::Pipeline, &Keys)) -> Result<T> {
        let known = self.known();
        let mut pipe = redis::pipe();
        pipe.cmd("HMGET").arg(self.keys().state()).arg("epoch").arg("counter");
        fill(&mut pipe, self.keys());
        let mut values: Vec<Value> = pipe.query_async(&mut self.connection.clone()).await?;
        if values.is_empty() {
            return Err(StoreError::Unreadable("a pipeline's reply".into()));
        }
        let (epoch, counter): (Option<String>, Option<u64>) =
            redis::from_redis_value(values.remove(0)).map_err(parse)?;
        if epoch.is_none() || epoch != known.epoch || counter.unwrap_or_default() < known.seen {
            return Err(StoreError::Epoch);
        }
        redis::from_redis_value(Value::Array(values)).map_err(parse)
    }
}

/// A reply that is not of the form that the command gives.
pub(super) fn parse(error: redis::ParsingError) -> StoreError {
    StoreError::Unreadable(error.to_string())
}
