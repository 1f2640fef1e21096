//! Events: what has happened, in one order.
//!
//! Scripts append an event in the same step in which what it tells becomes true, so there is none without the other. Its place in the
//! stream is its name and the cursor to read on from; places only grow, also over a Redis that was emptied, because they begin
//! with Redis' clock.

use redis::Value;

use super::value::{items, number, pairs, text};
use super::{Events, Result, Store, StoreError};
use crate::model::event::{Cursor, Event};

impl Store {
    /// The events after a cursor, at most `limit` of them. Costs what is read.
    pub async fn events(&self, after: Cursor, limit: usize) -> Result<Events> {
        self.events_at(&self.keys().events(), after, limit).await
    }

    /// Those of one stream.
    pub(super) async fn events_at(&self, key: &str, after: Cursor, limit: usize) -> Result<Events> {
        if after == Cursor::END {
            return Ok(Events { events: Vec::new(), next: after, last: true, missed: false });
        }
        let answers = self.read(self.outlet(), key, |pipe| {
            pipe.cmd("XRANGE").arg(key).arg(format!("({after}")).arg("+").arg("COUNT").arg(limit.max(1));
            pipe.cmd("XRANGE").arg(key).arg(after.to_string()).arg(after.to_string());
        });
        let mut answers = answers.await?;
        let entries = items(answers.next()?);
        // Where the last one that was seen is not there any more, those behind it may be gone as well.
        let gone = after > Cursor::START && items(answers.next()?).is_empty();
        let missed = gone && self.newest_event_ever(key).await? != Some(after);
        let last = entries.len() < limit.max(1);
        let mut next = after;
        let mut events = Vec::with_capacity(entries.len());
        for entry in entries {
            let mut parts = items(entry).into_iter();
            let at = parts.next().as_ref().and_then(text).and_then(|text| text.parse().ok());
            next = at.ok_or_else(|| StoreError::Unreadable(key.to_owned()))?;
            match read(next, parts.next().unwrap_or_default()) {
                Some(event) => events.push(event),
                None => tracing::warn!(event = %next, "an event that cannot be read is left out"),
            }
        }
        Ok(Events { events, next, last, missed })
    }

    /// The place of the newest event that was told in this memory, also if it is not kept any more; none: nothing was.
    async fn newest_event_ever(&self, key: &str) -> Result<Option<Cursor>> {
        let answers = self.read(self.quick(), key, |pipe| {
            pipe.cmd("EXISTS").arg(key);
        });
        if number::<u64>(&answers.await?.next()?) != Some(1) {
            return Ok(None);
        }
        let answers = self.read(self.quick(), key, |pipe| {
            pipe.cmd("XINFO").arg("STREAM").arg(key);
        });
        let mut fields = pairs(answers.await?.next()?).into_iter();
        let last = fields.find(|(name, _)| text(name) == Some("last-generated-id"));
        Ok(last.and_then(|(_, id)| text(&id)?.parse().ok()))
    }

    /// The place of the newest event so far.
    pub async fn newest_event(&self) -> Result<Cursor> {
        let key = self.keys().events();
        let answers = self.read(self.quick(), &key, |pipe| {
            pipe.cmd("XREVRANGE").arg(&key).arg("+").arg("-").arg("COUNT").arg(1);
        });
        let newest = items(answers.await?.next()?).into_iter().next();
        let at = newest.map(items).and_then(|parts| text(parts.first()?)?.parse().ok());
        Ok(at.unwrap_or(Cursor::START))
    }
}

fn read(at: Cursor, fields: Value) -> Option<Event> {
    let (mut kind, mut about, mut app, mut inventory, mut what, mut data) = (None, None, None, None, None, None);
    for (name, value) in pairs(fields) {
        let place = match text(&name)? {
            "kind" => &mut kind,
            "about" => &mut about,
            "app" => &mut app,
            "inventory" => &mut inventory,
            "what" => &mut what,
            "data" => &mut data,
            _ => continue,
        };
        *place = Some(text(&value)?.to_owned());
    }
    Some(Event {
        at,
        kind: kind?,
        about: about?,
        deployment_id: app.and_then(|app| app.parse().ok()),
        inventory: inventory.and_then(|inventory| inventory.parse().ok()),
        what: what?,
        data: serde_json::from_str(&data?).ok()?,
    })
}
