//! The scripts: one per atomic step, each described in the head of its file.

use std::sync::LazyLock;

use redis::{Cmd, Value};

use super::link::{Link, Trouble};
use super::memory::Known;
use super::record::FIELDS;
use super::value::{bytes, number, text};
use super::{Result, Store, StoreError};

/// A script and the hash by which Redis knows it.
pub(super) struct Script {
    text: String,
    sha: String,
}

macro_rules! scripts {
    ($($name:ident = $($part:literal)+;)+) => {
        $(pub(super) static $name: LazyLock<Script> = LazyLock::new(|| {
            let fields: Vec<_> = FIELDS.iter().map(|field| format!("'{field}'")).collect();
            let mut text = format!("local FIELDS = {{ {} }}\n", fields.join(", "));
            $(text.push_str(include_str!(concat!("scripts/", $part, ".lua")));)+
            let sha = redis::Script::new(&text).get_hash().to_owned();
            Script { text, sha }
        });)+

        #[cfg(test)]
        pub(super) fn all() -> Vec<(&'static str, &'static Script)> {
            vec![$((stringify!($name), &*$name)),+]
        }
    };
}

scripts! {
    SUBMIT = "_words" "_epoch" "_order" "_lock" "submit";
    GRANT = "_words" "_epoch" "_order" "_lock" "grant";
    ADOPT = "_words" "_epoch" "adopt";
    CONFIRM = "_words" "_epoch" "confirm";
    RECOGNIZE = "_words" "_epoch" "recognize";
    UNCONFIRM = "_words" "_epoch" "unconfirm";
    REMARK = "_words" "_epoch" "remark";
    STARTED = "_words" "_epoch" "started";
    APPEND = "_words" "_epoch" "append";
    COMPLETE = "_words" "_epoch" "complete";
    INTEND = "_words" "_epoch" "_order" "_lock" "intend";
    EXITED = "_words" "_epoch" "exited";
    FINISH = "_words" "_epoch" "_order" "_lock" "finish";
    PROGRESS = "_words" "_epoch" "progress";
    FREE = "_words" "_epoch" "_order" "_lock" "free";
    FAILURE = "_words" "_epoch" "failure";
    APPS = "_words" "_epoch" "apps";
    FREEZE = "_words" "_epoch" "freeze";
    UNFREEZE = "_words" "_epoch" "_order" "_lock" "unfreeze";
    ISSUE = "_words" "_epoch" "issue";
    REVOKE = "_words" "_epoch" "revoke";
    SET_WEBHOOK = "_words" "_epoch" "_letters" "set_webhook";
    REMOVE_WEBHOOK = "_words" "_epoch" "remove_webhook";
    REPLAY = "_words" "_epoch" "_letters" "replay";
    SET_PIPELINE = "_words" "_epoch" "set_pipeline";
    RELEASE = "_words" "_epoch" "_order" "_lock" "_release" "release";
    ORDER = "_words" "_epoch" "_order" "_lock" "order";
    SET_ENVIRONMENT = "_words" "_epoch" "set_environment";
    FORGET_DUE = "_words" "_epoch" "_order" "_lock" "_release" "forget_due";
    KEEP_LOG = "_words" "_epoch" "keep_log";
    SET_REPORTER = "_words" "_epoch" "set_reporter";
    DELIVER = "_words" "_epoch" "deliver";
    DELIVERED = "_words" "_epoch" "delivered";
    REBUILD = "_words" "_order" "_lock" "_rescue" "rebuild";
    MEND = "_words" "_epoch" "_order" "_lock" "_rescue" "mend";
}

/// What a script answered.
pub(super) struct Reply {
    pub(super) word: String,
    pub(super) counter: u64,
    rest: std::vec::IntoIter<Value>,
}

impl Reply {
    /// What follows, in order.
    pub(super) fn next(&mut self) -> Value {
        self.rest.next().unwrap_or_default()
    }

    /// The next as text that can be read as `T`.
    pub(super) fn parse<T: std::str::FromStr>(&mut self) -> Result<T> {
        let next = self.next();
        let read = match &next {
            Value::Int(number) => number.to_string().parse().ok(),
            other => text(other).and_then(|text| text.parse().ok()),
        };
        read.ok_or_else(|| unexpected(&format!("{} … {next:?}", self.word)))
    }

    /// For words that the script is not known to say.
    pub(super) fn unexpected<T>(&self) -> Result<T> {
        Err(unexpected(&self.word))
    }
}

fn unexpected(reply: &str) -> StoreError {
    StoreError::Unreadable(format!("a script's reply ({reply})"))
}

impl Store {
    /// Runs a script in the memory known here. Nothing is known: [`StoreError::Epoch`], without a round trip.
    pub(super) async fn run(&self, script: &Script, link: &Link, args: impl FnOnce(&mut Cmd)) -> Result<Reply> {
        let known = self.known().ok_or(StoreError::Epoch)?;
        // Read before sending: a reply that overtakes this call must not make it look like one from the past.
        let seen = known.seen();
        let reply = self.eval(script, link, &known.epoch, seen, args).await?;
        self.sort(reply, &known)
    }

    /// Runs a script with an epoch of the caller's choice.
    pub(super) async fn eval(
        &self,
        script: &Script,
        link: &Link,
        epoch: &str,
        seen: u64,
        args: impl FnOnce(&mut Cmd),
    ) -> Result<Reply> {
        let state = self.keys().state();
        let mut call = redis::cmd("EVALSHA");
        call.arg(&script.sha).arg(1).arg(&state).arg(epoch).arg(seen).arg(self.dispatcher());
        args(&mut call);
        let value = match link.send(&call).await {
            Err(Trouble::NoScript) => {
                let mut load = redis::cmd("SCRIPT");
                load.arg("LOAD").arg(&script.text);
                link.send(&load).await.map_err(|trouble| trouble.at(&state))?;
                link.send(&call).await
            }
            sent => sent,
        };
        let Value::Array(parts) = value.map_err(|trouble| trouble.at(&state))? else {
            return Err(unexpected("no array"));
        };
        let mut rest = parts.into_iter();
        let word = rest.next().and_then(bytes).and_then(|word| String::from_utf8(word).ok());
        let counter = rest.next().as_ref().and_then(number).unwrap_or_default();
        Ok(Reply { word: word.ok_or_else(|| unexpected("no word"))?, counter, rest })
    }

    fn sort(&self, mut reply: Reply, known: &Known) -> Result<Reply> {
        match reply.word.as_str() {
            "EPOCH" => Err(StoreError::Epoch),
            "STALE" => {
                known.see(reply.counter);
                let why = reply.next();
                Err(StoreError::Stale(text(&why).unwrap_or_default().to_owned()))
            }
            _ => {
                known.see(reply.counter);
                Ok(reply)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_script_says_what_it_takes_answers_and_upholds() {
        for part in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/store/scripts")).expect("a folder") {
            let path = part.expect("an entry").path();
            let text = std::fs::read_to_string(&path).expect("a script");
            assert!(text.starts_with("-- "), "{path:?}");
            let step = !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('_'));
            assert!(text.contains("\n-- Invariant"), "{path:?}");
            assert!(!step || text.contains("\n-- replies  "), "{path:?}");
        }
        assert_eq!(super::all().len(), 35);
    }
}
