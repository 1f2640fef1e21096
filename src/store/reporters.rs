//! Reporters: who reports on releases, and on which products.

use std::collections::BTreeSet;

use redis::Value;

use super::releases::ids;
use super::value::{pairs, text};
use super::{Recorded, Result, Store, StoredReporter, scripts};
use crate::model::ids::{ReleaseId, Word};

impl Store {
    /// Records a reporter and its subscriptions: [`Recorded::New`], `Changed` or `Many`.
    pub async fn set_reporter(&self, name: &Word, products: &BTreeSet<Word>, by: &str) -> Result<Recorded> {
        let reply = self.run(&scripts::SET_REPORTER, self.quick(), |call| {
            call.arg(name.as_str()).arg(1).arg(by);
            for product in products {
                call.arg(product.as_str());
            }
        });
        let mut reply = reply.await?;
        match reply.word.as_str() {
            "NEW" => Ok(Recorded::New),
            "OK" => Ok(Recorded::Changed),
            "MANY" => Ok(Recorded::Many(reply.parse()?)),
            _ => reply.unexpected(),
        }
    }

    /// Removes a reporter; false: there is none of that name. Checks that ask it already go on asking.
    pub async fn remove_reporter(&self, name: &Word) -> Result<bool> {
        let reply = self.run(&scripts::SET_REPORTER, self.quick(), |call| {
            call.arg(name.as_str()).arg("").arg("");
        });
        Ok(reply.await?.word == "OK")
    }

    /// The reporters, ordered by name.
    pub async fn reporters(&self) -> Result<Vec<StoredReporter>> {
        let key = self.keys().reporters();
        let answers = self.read(self.quick(), &key, |pipe| {
            pipe.cmd("HGETALL").arg(&key);
        });
        let found = pairs(answers.await?.next()?).into_iter();
        let mut found: Vec<StoredReporter> = found.filter_map(|(name, stored)| reporter(&name, &stored)).collect();
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// The products that a reporter is subscribed to; none of that name: empty.
    pub async fn subscriptions(&self, name: &Word) -> Result<BTreeSet<Word>> {
        let key = self.keys().reporters();
        let answers = self.read(self.quick(), &key, |pipe| {
            pipe.cmd("HGET").arg(&key).arg(name.as_str());
        });
        let stored = answers.await?.next()?;
        let name = Value::BulkString(name.as_str().as_bytes().to_vec());
        Ok(reporter(&name, &stored).map(|reporter| reporter.products).unwrap_or_default())
    }

    /// Releases in which a check asks this reporter and has not heard from it, oldest first.
    pub async fn asking(&self, reporter: &Word) -> Result<Vec<ReleaseId>> {
        let key = self.keys().asking(reporter);
        let answers = self.read(self.quick(), &key, |pipe| {
            pipe.cmd("SMEMBERS").arg(&key);
        });
        let mut found = ids(answers.await?.next()?);
        found.sort();
        Ok(found)
    }
}

/// As it stands in Redis: who has recorded it, and products, with blanks between.
fn reporter(name: &Value, stored: &Value) -> Option<StoredReporter> {
    let mut words = text(stored)?.split(' ').filter(|word| !word.is_empty());
    let by = words.next()?.to_owned();
    Some(StoredReporter {
        name: text(name)?.parse().ok()?,
        products: words.filter_map(|word| word.parse().ok()).collect(),
        by,
    })
}
