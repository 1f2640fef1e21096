//! A job's hash and its [`Record`].

use serde_json::{Map, Value};

use super::keys::FIELDS;
use super::{Result, StoreError};
use crate::model::ids::JobId;
use crate::model::job::Record;
use crate::model::lock::Fence;
use crate::model::output::Position;

/// The values of [`FIELDS`], as read.
pub(super) type Fields = Vec<Option<String>>;

/// Reads a record. None: there is no such job.
pub(super) fn read(id: JobId, fields: &Fields) -> Result<Option<Record>> {
    let field = |name: &str| FIELDS.iter().position(|known| *known == name).and_then(|at| fields.get(at)?.as_deref());
    if field("id").is_none() && field("state").is_none() {
        return Ok(None);
    }
    let unreadable = |name: &str| StoreError::Unreadable(format!("job:{id}, field {name}"));
    macro_rules! need {
        ($name:literal) => {
            field($name).and_then(|text| text.parse().ok()).ok_or_else(|| unreadable($name))?
        };
    }
    macro_rules! may {
        ($name:literal) => {
            field($name).map(|text| text.parse().map_err(|_| unreadable($name))).transpose()?
        };
    }
    Ok(Some(Record {
        id,
        deployment_id: need!("app"),
        inventory: need!("inventory"),
        action: need!("action"),
        when_busy: need!("when_busy"),
        state: need!("state"),
        lease: need!("lease"),
        owner: may!("owner"),
        fence: may!("fence").map(Fence),
        engine: may!("engine"),
        container: may!("container"),
        image_digest: may!("image"),
        intent: may!("intent"),
        intent_ms: may!("intent_ms"),
        exit_code: may!("exit_code"),
        reason: may!("reason"),
        superseded_by: may!("superseded_by"),
        created_ms: need!("created_ms"),
        locked_ms: may!("locked_ms"),
        started_ms: may!("started_ms"),
        ended_ms: may!("ended_ms"),
        output: Position { raw: need!("raw"), text: need!("text"), head: need!("head") },
    }))
}

/// What a container last reported: names and JSON in turn, a line each.
pub(super) fn progress(fields: &Fields) -> Option<Map<String, Value>> {
    let at = FIELDS.iter().position(|known| *known == "progress")?;
    let mut lines = fields.get(at)?.as_deref()?.lines();
    let mut map = Map::new();
    while let (Some(name), Some(text)) = (lines.next(), lines.next()) {
        map.insert(name.to_owned(), serde_json::from_str(text).ok()?);
    }
    Some(map)
}
