//! Webhooks: where they are kept, and how far each one is.

use std::collections::HashMap;

use redis::Value;

use super::value::{bytes, items, number, pairs, text};
use super::{DeadLetter, Delivery, Recorded, Result, Store, StoreError, StoredWebhook, scripts};
use crate::model::event::Cursor;
use crate::model::ids::Word;
use crate::model::webhook::{Streak, Webhook};

impl Store {
    /// Makes a webhook or changes one: [`Recorded::New`], `Changed` or `Many`. `sealed` is used for a new one, and otherwise if `replace`
    /// says so. `after`: where it is to go on; none: a new one begins with what happens next.
    pub async fn set_webhook(
        &self,
        webhook: &Webhook,
        sealed: &[u8],
        replace: bool,
        by: &str,
        after: Option<Cursor>,
    ) -> Result<Recorded> {
        let Webhook { name, url, deployment_id, types, recipient } = webhook;
        let types = serde_json::to_string(types).expect("texts can be written as JSON");
        let app = deployment_id.as_ref().map_or("", |app| app.as_str());
        let whom = recipient.as_ref().map_or("", |whom| whom.as_str());
        let reply = self.run(&scripts::SET_WEBHOOK, self.quick(), |call| {
            call.arg(name.as_str()).arg(u8::from(replace)).arg(sealed);
            call.arg(after.map(|after| after.to_string()).unwrap_or_default());
            let fields = [("url", url.as_str()), ("app", app), ("types", &types), ("for", whom), ("by", by)];
            for (field, value) in fields {
                call.arg(field).arg(value);
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

    /// Removes a webhook; false: there is none of that name.
    pub async fn remove_webhook(&self, name: &Word) -> Result<bool> {
        let reply = self.run(&scripts::REMOVE_WEBHOOK, self.quick(), |call| {
            call.arg(name.as_str());
        });
        Ok(reply.await?.word == "OK")
    }

    /// Has a webhook go on after an event that may lie behind it; false: there is none of that name.
    pub async fn replay(&self, name: &Word, after: Cursor) -> Result<bool> {
        let reply = self.run(&scripts::REPLAY, self.quick(), |call| {
            call.arg(name.as_str()).arg(after.to_string());
        });
        Ok(reply.await?.word == "OK")
    }

    /// The webhooks, ordered by name; one that cannot be read is left out.
    pub async fn webhooks(&self) -> Result<Vec<StoredWebhook>> {
        let key = self.keys().webhooks();
        let answers = self.read(self.quick(), &key, |pipe| {
            pipe.cmd("HKEYS").arg(&key);
        });
        let names = items(answers.await?.next()?);
        let mut names: Vec<Word> = names.iter().filter_map(|name| text(name)?.parse().ok()).collect();
        names.sort();
        let found = self.webhooks_named(&names).await?.into_iter();
        Ok(found
            .filter_map(|found| found.inspect_err(|error| tracing::error!(%error, "a webhook is left out")).ok())
            .collect())
    }

    /// One webhook; none: there is none of that name.
    pub async fn webhook(&self, name: &Word) -> Result<Option<StoredWebhook>> {
        self.webhooks_named(std::slice::from_ref(name)).await?.pop().transpose()
    }

    async fn webhooks_named(&self, names: &[Word]) -> Result<Vec<Result<StoredWebhook>>> {
        let answers = self.read(self.quick(), "webhooks", |pipe| {
            for name in names {
                pipe.cmd("HGETALL").arg(self.keys().webhook(name));
                pipe.cmd("XLEN").arg(self.keys().dead(name));
            }
        });
        let mut answers = answers.await?;
        let mut webhooks = Vec::new();
        for name in names {
            let (fields, dead) = (pairs(answers.next()?), number(&answers.next()?).unwrap_or(0));
            if fields.is_empty() {
                continue;
            }
            match stored_webhook(name, fields, dead) {
                Some(webhook) => webhooks.push(Ok(webhook)),
                None => webhooks.push(Err(StoreError::Unreadable(self.keys().webhook(name)))),
            }
        }
        Ok(webhooks)
    }

    /// Whether this dispatcher is the one that delivers, which it becomes if nobody else is: then the versions of all webhooks.
    pub async fn deliverer(&self) -> Result<Option<HashMap<Word, String>>> {
        let mut reply = self.run(&scripts::DELIVER, self.quick(), |_| {}).await?;
        if reply.word != "MINE" {
            return Ok(None);
        }
        let read = |(name, version): (Value, Value)| Some((text(&name)?.parse().ok()?, text(&version)?.to_owned()));
        Ok(Some(pairs(reply.next()).into_iter().filter_map(read).collect()))
    }

    /// The version of a webhook; none: there is none of that name.
    pub async fn webhook_version(&self, name: &Word) -> Result<Option<String>> {
        let key = self.keys().webhooks();
        let answers = self.read(self.quick(), &key, |pipe| {
            pipe.cmd("HGET").arg(&key).arg(name.as_str());
        });
        Ok(text(&answers.await?.next()?).map(str::to_owned))
    }

    /// Records what came of sending to a webhook of this version.
    pub async fn delivered(&self, name: &Word, version: &str, delivery: &Delivery<'_>) -> Result<()> {
        let Delivery { after, streak, error, arrived, dead } = delivery;
        let reply = self.run(&scripts::DELIVERED, self.quick(), |call| {
            call.arg(name.as_str()).arg(version).arg(after.to_string());
            call.arg(serde_json::to_string(streak).expect("numbers can be written as JSON"));
            call.arg(error.unwrap_or_default()).arg(u8::from(*arrived));
            for (event, why) in *dead {
                call.arg(event.to_string()).arg(why);
            }
        });
        reply.await.map(drop)
    }

    /// The events that a webhook has given up, oldest first: the last 1,000.
    pub async fn dead_letters(&self, name: &Word) -> Result<Vec<DeadLetter>> {
        let key = self.keys().dead(name);
        let answers = self.read(self.quick(), &key, |pipe| {
            pipe.cmd("XRANGE").arg(&key).arg("-").arg("+");
        });
        let entries = items(answers.await?.next()?).into_iter();
        entries.map(|entry| dead_letter(entry).ok_or_else(|| StoreError::Unreadable(key.clone()))).collect()
    }
}

fn stored_webhook(name: &Word, fields: Vec<(Value, Value)>, dead: u64) -> Option<StoredWebhook> {
    let mut fields: HashMap<String, Value> =
        fields.into_iter().filter_map(|(field, value)| Some((text(&field)?.to_owned(), value))).collect();
    let sealed = bytes(fields.remove("sealed")?)?;
    let word = |field: &str| fields.get(field).and_then(text);
    Some(StoredWebhook {
        webhook: Webhook {
            name: name.clone(),
            url: word("url")?.parse().ok()?,
            deployment_id: match word("app")? {
                "" => None,
                app => Some(app.parse().ok()?),
            },
            types: serde_json::from_str(word("types")?).ok()?,
            // One that was recorded by an earlier version has no such field.
            recipient: match word("for").unwrap_or_default() {
                "" => None,
                whom => Some(whom.parse().ok()?),
            },
        },
        by: word("by")?.to_owned(),
        after: word("after")?.parse().ok()?,
        streak: word("streak").map_or(Some(Streak::default()), |streak| serde_json::from_str(streak).ok())?,
        error: word("error").filter(|error| !error.is_empty()).map(str::to_owned),
        delivered_ms: word("delivered_ms").and_then(|text| text.parse().ok()),
        dead,
        sealed,
    })
}

fn dead_letter(entry: Value) -> Option<DeadLetter> {
    let mut parts = items(entry).into_iter();
    let at: Cursor = text(&parts.next()?)?.parse().ok()?;
    let (mut event, mut error) = (None, None);
    for (name, value) in pairs(parts.next()?) {
        match text(&name)? {
            "event" => event = text(&value)?.parse().ok(),
            "error" => error = text(&value).map(str::to_owned),
            _ => {}
        }
    }
    Some(DeadLetter { event: event?, given_up_ms: at.ms(), error: error? })
}
