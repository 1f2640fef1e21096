//! Tokens that operators issue: known by a keyed hash, so that a copy of Redis opens nothing.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::door::TRIES_FROM_ADDRESS;
use super::memory::time_ms;
use super::value::{number, pairs, text};
use super::{Recorded, Result, Store, StoreError, StoredToken, scripts};
use crate::model::ids::Word;
use crate::model::token::{Grant, Role};

/// What stands behind name and expiry.
#[derive(Serialize, Deserialize)]
struct Rest {
    role: Role,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    groups: Vec<Word>,
    issued_ms: u64,
    by: String,
}

fn hex(hash: &[u8]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads a token as it stands in Redis: whose, when it expires (0: never), the rest as JSON, with blanks between.
fn stored_token(stored: &str) -> Option<StoredToken> {
    let mut words = stored.splitn(3, ' ');
    let (name, expires, rest) = (words.next()?, words.next()?, words.next()?);
    let expires: u64 = expires.parse().ok()?;
    let Rest { role, groups, issued_ms, by } = serde_json::from_str(rest).ok()?;
    let grant = Grant { name: name.parse().ok()?, role, groups };
    Some(StoredToken { grant, issued_ms, by, expires_ms: (expires > 0).then_some(expires) })
}

impl Store {
    /// Records a token by its keyed hash: [`Recorded::New`], `Taken` or `Many`.
    pub async fn issue_token(&self, hash: &[u8], token: &StoredToken) -> Result<Recorded> {
        let Grant { name, role, groups } = token.grant.clone();
        let rest = Rest { role, groups, issued_ms: token.issued_ms, by: token.by.clone() };
        let rest = serde_json::to_string(&rest).expect("names and numbers can be written as JSON");
        let reply = self.run(&scripts::ISSUE, self.quick(), |call| {
            call.arg(hex(hash)).arg(name.as_str()).arg(token.expires_ms.unwrap_or(0)).arg(rest);
        });
        let mut reply = reply.await?;
        match reply.word.as_str() {
            "OK" => Ok(Recorded::New),
            "TAKEN" => Ok(Recorded::Taken),
            "MANY" => Ok(Recorded::Many(reply.parse()?)),
            _ => reply.unexpected(),
        }
    }

    /// Takes a token back; false: there is none of that name.
    pub async fn revoke_token(&self, name: &Word) -> Result<bool> {
        let reply = self.run(&scripts::REVOKE, self.quick(), |call| {
            call.arg(name.as_str());
        });
        Ok(reply.await?.word == "OK")
    }

    /// The tokens that were issued, ordered by name, those that have expired too; one that cannot be read is left out.
    pub async fn tokens(&self) -> Result<Vec<StoredToken>> {
        let key = self.keys().tokens();
        let answers = self.read(self.quick(), &key, |pipe| {
            pipe.cmd("HGETALL").arg(&key);
        });
        let mut tokens = Vec::new();
        for (_, stored) in pairs(answers.await?.next()?) {
            match text(&stored).and_then(stored_token) {
                Some(token) => tokens.push(token),
                None => tracing::error!(key, "a token that cannot be read is left out"),
            }
        }
        tokens.sort_by(|a, b| a.grant.name.cmp(&b.grant.name));
        Ok(tokens)
    }

    /// What a token opens, by its keyed hash, and the seconds for which its sender's address gets no further try: in one round trip.
    pub async fn token(&self, hash: &[u8], from: IpAddr) -> Result<(Option<Grant>, Option<u64>)> {
        let (counter, key) = (self.keys().failures_from(from), self.keys().tokens());
        let answers = self.read(self.quick(), &key, |pipe| {
            pipe.cmd("GET").arg(&counter);
            pipe.cmd("TIME");
            pipe.cmd("HGET").arg(&key).arg(hex(hash));
        });
        let mut answers = answers.await?;
        let shut = number(&answers.next()?).unwrap_or(0) >= TRIES_FROM_ADDRESS;
        let now = time_ms(answers.next()?).ok_or_else(|| StoreError::Unreadable("TIME".to_owned()))?;
        let stored = answers.next()?;
        let barred = if shut { self.left(&[counter]).await? } else { None };
        let Some(stored) = text(&stored) else { return Ok((None, barred)) };
        let Some(token) = stored_token(stored) else {
            tracing::error!(key, "a token that cannot be read opens nothing");
            return Ok((None, barred));
        };
        let good = token.expires_ms.is_none_or(|expires| now < expires);
        Ok((good.then_some(token.grant), barred))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back() {
        let read = |text: &str| stored_token(text).map(|it| (it.grant.name.to_string(), it.grant.role, it.expires_ms));
        let stored = r#"ada 7 {"role":"viewer","issued_ms":1,"by":"bob"}"#;
        assert_eq!(read(stored), Some(("ada".into(), Role::Viewer, Some(7))));
        assert_eq!(read(&stored.replace(" 7 ", " 0 ")).expect("a token").2, None);
        for bad in ["", "ada 7", "ada x {}", "ada 7 {}", r#"ada 7 {"role":"root","issued_ms":1,"by":"bob"}"#] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
