//! A job's record and the hash that holds it.

use std::str::FromStr;

use redis::Value;

use super::value::{number, text};
use super::{Result, StoreError};
use crate::model::ids::JobId;
use crate::model::job::Record;
use crate::model::lock::Fence;
use crate::model::output::Position;

/// The fields of `job:{job}` that make up a record, in the order in which they are read. A field without a value is absent.
pub(super) const FIELDS: [&str; 23] = [
    "deployment_id",
    "inventory",
    "action",
    "when_busy",
    "state",
    "lease",
    "owner",
    "fence",
    "engine",
    "container",
    "image_digest",
    "intent",
    "intent_ms",
    "exit_code",
    "reason",
    "superseded_by",
    "release",
    "order",
    "created_ms",
    "locked_ms",
    "started_ms",
    "ended_ms",
    "output",
];

/// Reads a record from the values of [`FIELDS`]. None: there is no such job.
pub(super) fn read(job: JobId, values: &[Value]) -> Result<Option<Record>> {
    if !values.is_empty() && values.iter().all(|value| *value == Value::Nil) {
        return Ok(None);
    }
    take(job, values).map(Some).ok_or_else(|| StoreError::Unreadable(format!("job:{job}")))
}

fn take(id: JobId, values: &[Value]) -> Option<Record> {
    let [
        deployment_id,
        inventory,
        action,
        when_busy,
        state,
        lease,
        owner,
        fence,
        engine,
        container,
        image_digest,
        intent,
        intent_ms,
        exit_code,
        reason,
        superseded_by,
        release,
        order,
        created_ms,
        locked_ms,
        started_ms,
        ended_ms,
        output,
    ] = values
    else {
        return None;
    };
    Some(Record {
        id,
        deployment_id: parse(deployment_id)?,
        inventory: parse(inventory)?,
        action: parse(action)?,
        when_busy: parse(when_busy)?,
        state: parse(state)?,
        lease: number(lease)?,
        owner: optional(owner, word)?,
        fence: optional(fence, |value| number(value).map(Fence))?,
        engine: optional(engine, word)?,
        container: optional(container, word)?,
        image_digest: optional(image_digest, word)?,
        intent: optional(intent, parse)?,
        intent_ms: optional(intent_ms, number)?,
        exit_code: optional(exit_code, number)?,
        reason: optional(reason, word)?,
        superseded_by: optional(superseded_by, parse)?,
        release: optional(release, parse)?,
        order: optional(order, parse)?,
        created_ms: number(created_ms)?,
        locked_ms: optional(locked_ms, number)?,
        started_ms: optional(started_ms, number)?,
        ended_ms: optional(ended_ms, number)?,
        output: text(output).and_then(position)?,
    })
}

/// Absent is a value; there and not as it should be is none.
fn optional<T>(value: &Value, read: impl FnOnce(&Value) -> Option<T>) -> Option<Option<T>> {
    if *value == Value::Nil { Some(None) } else { read(value).map(Some) }
}

fn parse<T: FromStr>(value: &Value) -> Option<T> {
    text(value)?.parse().ok()
}

fn word(value: &Value) -> Option<String> {
    text(value).map(str::to_owned)
}

/// A position as it stands in the record: `raw text head limit`.
pub(super) fn position_text(at: Position) -> String {
    format!("{} {} {} {}", at.raw, at.text, at.head, at.limit)
}

fn position(text: &str) -> Option<Position> {
    let mut numbers = text.split(' ').map(str::parse);
    let mut next = || numbers.next()?.ok();
    Some(Position { raw: next()?, text: next()?, head: next()?, limit: next()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::job::{Intent, State, WhenBusy};

    fn values(of: &[(&str, &str)]) -> Vec<Value> {
        FIELDS
            .iter()
            .map(|field| match of.iter().find(|(name, _)| name == field) {
                Some((_, value)) => Value::BulkString(value.as_bytes().to_vec()),
                None => Value::Nil,
            })
            .collect()
    }

    const QUEUED: [(&str, &str); 8] = [
        ("deployment_id", "a"),
        ("inventory", "i"),
        ("action", "app-deploy"),
        ("when_busy", "fifo"),
        ("state", "queued"),
        ("lease", "0"),
        ("created_ms", "5"),
        ("output", "9 8 7 6"),
    ];

    #[test]
    fn a_record_is_read_whole_or_is_absent_or_is_unreadable() {
        let job = JobId::new(1, 1);
        assert!(matches!(read(job, &values(&[])), Ok(None)));
        let record = read(job, &values(&QUEUED)).expect("readable").expect("there");
        assert_eq!((record.state, record.when_busy, record.fence), (State::Queued, WhenBusy::Fifo, None));
        assert_eq!(record.output, Position { raw: 9, text: 8, head: 7, limit: 6 });

        let mut more = QUEUED.to_vec();
        more.extend([("intent", "run_timeout"), ("exit_code", "-1"), ("fence", "9007199254740991")]);
        let record = read(job, &values(&more)).expect("readable").expect("there");
        assert_eq!((record.intent, record.exit_code), (Some(Intent::RunTimeout), Some(-1)));
        assert_eq!(record.fence, Some(Fence(9_007_199_254_740_991)));

        for (field, bad) in
            [("state", "asleep"), ("lease", ""), ("intent", "whim"), ("output", "1 2 3"), ("exit_code", "x")]
        {
            let mut damaged: Vec<_> = more.iter().copied().filter(|(name, _)| *name != field).collect();
            damaged.push((field, bad));
            assert!(matches!(read(job, &values(&damaged)), Err(StoreError::Unreadable(_))), "{field}");
        }
        assert!(matches!(read(job, &values(&QUEUED[1..])), Err(StoreError::Unreadable(_))));
    }
}
