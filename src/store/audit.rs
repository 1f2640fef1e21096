//! The audit log: what operators did, with name, time and reason.

use super::value::{items, pairs, text};
use super::{AuditLine, Result, Store, StoreError};
use crate::model::event::Cursor;

/// Lines that are kept.
pub(super) const LINES: u64 = 10_000;

impl Store {
    /// Writes a line (kept: the last 10,000). Written in any memory: what was done was done.
    pub async fn audit(&self, by: &str, what: &str, about: &str, reason: &str) -> Result<()> {
        let key = self.keys().audit();
        let mut line = redis::cmd("XADD");
        line.arg(&key).arg("MAXLEN").arg("~").arg(LINES).arg("*");
        line.arg("by").arg(by).arg("what").arg(what).arg("about").arg(about).arg("reason").arg(reason);
        self.quick().send(&line).await.map(drop).map_err(|trouble| trouble.at(&key))
    }

    /// Lines before a place, newest first, at most `limit` of them.
    pub async fn audit_lines(&self, before: Option<Cursor>, limit: usize) -> Result<Vec<AuditLine>> {
        let key = self.keys().audit();
        if before == Some(Cursor::START) {
            return Ok(Vec::new());
        }
        let end = before.map_or_else(|| "+".to_owned(), |before| format!("({before}"));
        let answers = self.read(self.quick(), &key, |pipe| {
            pipe.cmd("XREVRANGE").arg(&key).arg(end).arg("-").arg("COUNT").arg(limit);
        });
        let entries = items(answers.await?.next()?).into_iter();
        entries.map(|entry| line(entry).ok_or_else(|| StoreError::Unreadable(key.clone()))).collect()
    }
}

fn line(entry: redis::Value) -> Option<AuditLine> {
    let mut parts = items(entry).into_iter();
    let at = text(&parts.next()?)?.parse().ok()?;
    let mut line =
        AuditLine { at, by: String::new(), what: String::new(), about: String::new(), reason: String::new() };
    for (name, value) in pairs(parts.next()?) {
        let place = match text(&name)? {
            "by" => &mut line.by,
            "what" => &mut line.what,
            "about" => &mut line.about,
            "reason" => &mut line.reason,
            _ => continue,
        };
        text(&value)?.clone_into(place);
    }
    Some(line)
}
