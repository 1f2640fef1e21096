//! What Redis does with memory and disk, and whether this user may do what the service does.

use std::collections::BTreeMap;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ErrorKind, FromRedisValue, RedisError, RedisResult, ServerErrorKind};

use super::Check;
use crate::config::Config;
use crate::model::ids::Instance;

/// How long Redis may take to be reached, and to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// `EXPIRE … NX` and `redis.acl_check_cmd` came with it.
const OLDEST: u32 = 7;

/// Every command that the store uses, in scripts or not.
const COMMANDS: [&str; 56] = [
    "append",
    "del",
    "eval",
    "evalsha",
    "exists",
    "expire",
    "get",
    "getrange",
    "hdel",
    "hexists",
    "hget",
    "hkeys",
    "hgetall",
    "hincrby",
    "hlen",
    "hmget",
    "hset",
    "hsetnx",
    "incr",
    "lindex",
    "linsert",
    "llen",
    "lpop",
    "lpos",
    "lrange",
    "lrem",
    "lset",
    "mget",
    "persist",
    "pexpire",
    "ping",
    "pttl",
    "publish",
    "rpush",
    "sadd",
    "scard",
    "script load",
    "set",
    "setrange",
    "sismember",
    "smembers",
    "srem",
    "strlen",
    "subscribe",
    "time",
    "xadd",
    "xinfo stream",
    "xdel",
    "xlen",
    "xrange",
    "xrevrange",
    "xtrim",
    "zadd",
    "zrandmember",
    "zrange",
    "zrem",
];

/// Which of the commands in ARGV, from the third on, the calling user may not use on the key ARGV[1] or the channel ARGV[2]. Every
/// argument is that key or channel, because some commands take several. Nothing is run.
const LACKING: &str = "
local channels = { publish = true, subscribe = true }
local lacking = {}
for i = 3, #ARGV do
  local name, part = string.match(ARGV[i], '(%S+) ?(%S*)')
  local on = channels[name] and ARGV[2] or ARGV[1]
  local may
  if part == '' then may = redis.acl_check_cmd(name, on, on, on, on) else may = redis.acl_check_cmd(name, part, on) end
  if not may then lacking[#lacking + 1] = ARGV[i] end
end
return lacking";

/// What Redis told about itself.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    /// Fields of INFO; empty: this user may not ask.
    info: BTreeMap<String, String>,
    policy: Option<String>,
    append_only: Option<bool>,
    fsync: Option<String>,
}

/// A Redis as it stands, for the start of the service.
#[derive(Debug)]
pub struct Standing {
    /// What was seen.
    pub checks: Vec<Check>,
    /// Why the service must not use it at all: it throws keys away.
    pub evicts: Option<String>,
}

/// All checks of `lockstep doctor`.
pub(super) async fn examine(config: &Config) -> Vec<Check> {
    let url = config.redis_url.expose();
    let mut connection = match connect(url).await {
        Ok(connection) => connection,
        Err(check) => return vec![check],
    };
    let told = match ask(&mut connection).await {
        Ok(told) => told,
        Err(error) => return vec![unreached(&error)],
    };
    let mut checks = judge(&told).checks;
    checks.push(rights(&mut connection, &config.instance).await);
    checks
}

/// What Redis does with memory and disk.
///
/// # Errors
/// The check that says why it is not known: Redis is not reached, or refuses the password.
pub async fn standing(url: &str) -> Result<Standing, Check> {
    let mut connection = connect(url).await?;
    ask(&mut connection).await.map(|told| judge(&told)).map_err(|error| unreached(&error))
}

async fn connect(url: &str) -> Result<MultiplexedConnection, Check> {
    let connected = async {
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(Some(PATIENCE)).set_response_timeout(Some(PATIENCE));
        let mut connection = Client::open(url)?.get_multiplexed_async_connection_with_config(&config).await?;
        redis::cmd("PING").query_async::<()>(&mut connection).await?;
        Ok(connection)
    };
    connected.await.map_err(|error| unreached(&error))
}

fn unreached(error: &RedisError) -> Check {
    let says = match (error.kind(), error.code()) {
        (ErrorKind::AuthenticationFailed, _) | (_, Some("NOAUTH" | "WRONGPASS")) => {
            "Redis wants another user or password: check redis.url and redis.password".to_owned()
        }
        (ErrorKind::Server(ServerErrorKind::BusyLoading), _) => "Redis is still loading its data; wait".to_owned(),
        (ErrorKind::Server(ServerErrorKind::NoPerm), _) => {
            format!(
                "this user of Redis may not even PING ({error}); see the rights that are needed in docs/configuration.md"
            )
        }
        _ => format!("Redis is not reached: {error}. Check redis.url, and that it runs"),
    };
    Check::problem("redis", says)
}

async fn ask(connection: &mut MultiplexedConnection) -> RedisResult<Told> {
    let info: Option<String> = permitted(redis::cmd("INFO").query_async(connection).await)?;
    let info: BTreeMap<String, String> = info
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect();
    let mut setting = async |name: &str| -> RedisResult<Option<String>> {
        let reply: Option<Vec<String>> =
            permitted(redis::cmd("CONFIG").arg("GET").arg(name).query_async(connection).await)?;
        Ok(reply.and_then(|pair| pair.into_iter().nth(1)))
    };
    let policy = setting("maxmemory-policy").await?.or_else(|| info.get("maxmemory_policy").cloned());
    let append_only = setting("appendonly").await?.map(|value| value == "yes");
    let fsync = setting("appendfsync").await?;
    let append_only = append_only.or_else(|| info.get("aof_enabled").map(|value| value == "1"));
    Ok(Told { info, policy, append_only, fsync })
}

/// None where the answer is that the command is not allowed, or not there (hosted services rename or remove some).
fn permitted<T: FromRedisValue>(reply: RedisResult<T>) -> RedisResult<Option<T>> {
    match reply {
        Ok(value) => Ok(Some(value)),
        Err(error) => match error.kind() {
            ErrorKind::Server(ServerErrorKind::NoPerm | ServerErrorKind::ResponseError) => Ok(None),
            _ => Err(error),
        },
    }
}

fn judge(told: &Told) -> Standing {
    let eviction = eviction(told.policy.as_deref());
    let evicts = (eviction.verdict == super::Verdict::Problem).then(|| eviction.says.clone());
    Standing { checks: vec![server(told), eviction, durability(told)], evicts }
}

fn server(told: &Told) -> Check {
    const ABOUT: &str = "redis";
    let field = |name: &str| told.info.get(name).map(String::as_str);
    let Some(version) = field("redis_version") else {
        return Check::warning(
            ABOUT,
            "Redis answers; INFO is not allowed, so it is not known what it is. 7.0 is needed",
        );
    };
    let major: Option<u32> = version.split('.').next().and_then(|major| major.parse().ok());
    if major.is_some_and(|major| major < OLDEST) {
        Check::problem(ABOUT, format!("Redis {version} is too old; 7.0 or later is needed"))
    } else if field("redis_mode") == Some("cluster") {
        Check::problem(ABOUT, "a Redis Cluster cannot be used: each step is one script over several keys")
    } else if field("role") == Some("slave") {
        Check::problem(ABOUT, "this Redis is a replica, which takes no writes; redis.url must lead to its master")
    } else if field("aof_last_write_status") == Some("err") {
        Check::problem(ABOUT, "Redis could not write to its append-only file; is its disk full?")
    } else {
        Check::ok(ABOUT, format!("Redis {version} answers"))
    }
}

/// A Redis that evicts keys could throw a lock away.
fn eviction(policy: Option<&str>) -> Check {
    const ABOUT: &str = "redis eviction";
    match policy {
        Some("noeviction") => Check::ok(ABOUT, "nothing is evicted"),
        Some(policy) => Check::problem(
            ABOUT,
            format!(
                "Redis' maxmemory-policy is {policy}: it could throw a lock away, so it is not used. Set maxmemory-policy noeviction"
            ),
        ),
        None => Check::warning(
            ABOUT,
            "neither CONFIG GET nor INFO is allowed, so it is not known whether keys are evicted. See to it that maxmemory-policy is noeviction",
        ),
    }
}

fn durability(told: &Told) -> Check {
    const ABOUT: &str = "redis durability";
    match (told.append_only, told.fsync.as_deref()) {
        (Some(true), Some("always")) => Check::ok(ABOUT, "every answered write is on disk"),
        (Some(true), Some(fsync)) => Check::warning(
            ABOUT,
            format!(
                "appendfsync is {fsync}: the jobs of the last moments are lost when the machine loses power. Set appendfsync always"
            ),
        ),
        (Some(true), None) => Check::warning(
            ABOUT,
            "appendonly is on; how often it is brought to the disk is not known, because CONFIG GET is not allowed. See to it that appendfsync is always",
        ),
        (Some(false), _) => Check::warning(
            ABOUT,
            "appendonly is off: jobs since the last snapshot are lost when Redis dies. Set appendonly yes and appendfsync always",
        ),
        (None, _) => Check::warning(
            ABOUT,
            "neither CONFIG GET nor INFO is allowed, so it is not known what is on disk. See to it that appendonly is yes and appendfsync always",
        ),
    }
}

async fn rights(connection: &mut MultiplexedConnection, instance: &Instance) -> Check {
    const ABOUT: &str = "redis rights";
    let mut ask = redis::cmd("EVAL");
    ask.arg(LACKING).arg(0).arg(format!("lockstep:{instance}:doctor")).arg(format!("lockstep:{instance}:news"));
    ask.arg(&COMMANDS);
    let lacking: RedisResult<Vec<String>> = ask.query_async(connection).await;
    match lacking {
        Ok(lacking) if lacking.is_empty() => Check::ok(ABOUT, "this user may do what the service does"),
        Ok(lacking) => Check::problem(
            ABOUT,
            format!(
                "this user of Redis lacks, on keys and channels lockstep:{instance}:*, the right to: {}. See docs/configuration.md",
                lacking.join(", ")
            ),
        ),
        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm) => {
            Check::problem(ABOUT, "this user of Redis may not run scripts (EVAL). See docs/configuration.md")
        }
        Err(error) => Check::warning(ABOUT, format!("not known: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict::{Ok, Problem, Warning};

    fn told(info: &[(&str, &str)], policy: Option<&str>, append_only: Option<bool>, fsync: Option<&str>) -> Told {
        Told {
            info: info.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            policy: policy.map(str::to_owned),
            append_only,
            fsync: fsync.map(str::to_owned),
        }
    }

    #[test]
    fn a_redis_is_judged_by_what_it_tells() {
        const SEVEN: (&str, &str) = ("redis_version", "7.0.15");
        let best = (Some("noeviction"), Some(true), Some("always"));
        for (info, (policy, append_only, fsync), expected) in [
            (&[SEVEN][..], best, [Ok, Ok, Ok]),
            (&[("redis_version", "6.2.1")], best, [Problem, Ok, Ok]),
            (&[("redis_version", "10.0.0")], best, [Ok, Ok, Ok]),
            (&[SEVEN, ("redis_mode", "cluster")], best, [Problem, Ok, Ok]),
            (&[SEVEN, ("role", "slave")], best, [Problem, Ok, Ok]),
            (&[SEVEN, ("aof_last_write_status", "err")], best, [Problem, Ok, Ok]),
            (&[], best, [Warning, Ok, Ok]),
            (&[SEVEN], (Some("volatile-lru"), Some(true), Some("always")), [Ok, Problem, Ok]),
            (&[SEVEN], (Some("noeviction"), Some(true), Some("everysec")), [Ok, Ok, Warning]),
            (&[SEVEN], (Some("noeviction"), Some(true), None), [Ok, Ok, Warning]),
            (&[SEVEN], (Some("noeviction"), Some(false), Some("always")), [Ok, Ok, Warning]),
            (&[], (None, None, None), [Warning, Warning, Warning]),
        ] {
            let standing = judge(&told(info, policy, append_only, fsync));
            let verdicts: Vec<_> = standing.checks.iter().map(|check| check.verdict).collect();
            assert_eq!(verdicts, expected, "{standing:?}");
            assert_eq!(standing.evicts.is_some(), policy.is_some_and(|policy| policy != "noeviction"), "{standing:?}");
        }
    }

    /// The list of commands is that of the store: none is missing.
    #[test]
    fn no_command_of_the_store_is_left_out() {
        fn collect(folder: &std::path::Path, into: &mut String) {
            for entry in std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
                match entry.is_dir() {
                    true => collect(&entry, into),
                    false => into.push_str(&std::fs::read_to_string(&entry).expect("a text")),
                }
            }
        }
        let mut source = String::new();
        collect(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store"), &mut source);
        let used = regex::Regex::new(r#"\b(?:p?call|cmd)\(\s*["']([A-Za-z]+)["']"#).expect("a pattern");
        let names: std::collections::BTreeSet<_> =
            used.captures_iter(&source).map(|found| found[1].to_ascii_lowercase()).collect();
        assert!(names.len() > 20, "{names:?}");
        let missing: Vec<_> = names
            .iter()
            .filter(|name| !COMMANDS.iter().any(|known| known.split(' ').next() == Some(name.as_str())))
            .collect();
        assert!(missing.is_empty(), "{missing:?} stand in src/store and not in COMMANDS");
    }
}
