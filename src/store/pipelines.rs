//! Pipelines: each version of each, never changed once it is recorded.

use super::value::{items, number, pairs, text};
use super::{Recorded, Result, Store, StoreError, StoredPipeline, scripts};
use crate::model::ids::Word;
use crate::model::pipeline::Pipeline;

impl Store {
    /// Records a pipeline; its version, and whether that is [`Recorded::New`] or was there (`Changed` is never said), or `Many`.
    pub async fn set_pipeline(&self, pipeline: &Pipeline, file: &str, by: &str) -> Result<(Recorded, u64)> {
        let json = serde_json::to_string(pipeline).expect("names, numbers and texts can be written as JSON");
        let reply = self.run(&scripts::SET_PIPELINE, self.quick(), |call| {
            call.arg(pipeline.name.as_str()).arg(json).arg(file).arg(by);
        });
        let mut reply = reply.await?;
        let version = reply.parse()?;
        match reply.word.as_str() {
            "NEW" => Ok((Recorded::New, version)),
            "OK" => Ok((Recorded::Taken, version)),
            "MANY" => Ok((Recorded::Many(version), 0)),
            _ => reply.unexpected(),
        }
    }

    /// A pipeline in one version, or in its newest; none: there is none.
    pub async fn pipeline(&self, name: &Word, version: Option<u64>) -> Result<Option<StoredPipeline>> {
        let version = match version {
            Some(version) => Some(version),
            None => {
                let key = self.keys().pipelines();
                let answers = self.read(self.quick(), &key, |pipe| {
                    pipe.cmd("HGET").arg(&key).arg(name.as_str());
                });
                number(&answers.await?.next()?)
            }
        };
        let Some(version) = version else { return Ok(None) };
        let key = self.keys().pipeline(name);
        let answers = self.read(self.quick(), &key, |pipe| {
            let fields = ["pipeline", "file", "by", "made_ms"].map(|field| format!("{version}:{field}"));
            pipe.cmd("HMGET").arg(&key).arg(&fields);
        });
        let fields = items(answers.await?.next()?);
        let word = |place: usize| fields.get(place).and_then(text);
        let Some(json) = word(0) else { return Ok(None) };
        let read = || {
            Some(StoredPipeline {
                pipeline: serde_json::from_str(json).ok()?,
                version,
                file: word(1)?.to_owned(),
                by: word(2)?.to_owned(),
                made_ms: word(3)?.parse().ok()?,
            })
        };
        read().map(Some).ok_or(StoreError::Unreadable(key))
    }

    /// Names and newest versions of all pipelines, ordered by name.
    pub async fn pipelines(&self) -> Result<Vec<(Word, u64)>> {
        let key = self.keys().pipelines();
        let answers = self.read(self.quick(), &key, |pipe| {
            pipe.cmd("HGETALL").arg(&key);
        });
        let found = pairs(answers.await?.next()?).into_iter();
        let mut found: Vec<(Word, u64)> =
            found.filter_map(|(name, version)| Some((text(&name)?.parse().ok()?, number(&version)?))).collect();
        found.sort();
        Ok(found)
    }
}
