//! Releases: written with all that follows from them in one script, read whole.
//!
//! A release is one JSON text with a revision. Whoever changes it has read a revision and names it; of two who do so at once one is told
//! [`Written::Raced`], reads again and decides again. What the change wants done (jobs under their locks, events) is in the same script, so
//! there is no release that says that a job runs which nobody has begun, nor the other way round.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use redis::Value;
use serde_json::Map;

use super::admission::digest_of;
use super::audit::LINES;
use super::memory::time_ms;
use super::record::{self, FIELDS};
use super::value::{bytes, items, pairs, text};
use super::{Events, ReleaseFilter, ReleaseWrite, Result, Store, StoreError, StoredRelease, Written, scripts};
use crate::model::app::App;
use crate::model::event::Cursor;
use crate::model::ids::{DeploymentId, JobId, ReleaseId, Word};
use crate::model::job::State;
use crate::model::lock::{Fence, Held};
use crate::model::pipeline::{Pipeline, Stage};
use crate::model::release::rule::{Ended, Facts};
use crate::model::release::{Release, There, Work};

/// So many releases are looked at at a time.
pub const RELEASES_PAGE: usize = 200;
/// The most releases, or orders, that are due at a time.
const DUE: usize = 64;

const FIELDS_OF_RELEASE: [&str; 4] = ["json", "revision", "epoch", "woken"];

impl Store {
    /// A release; none: there is none.
    pub async fn release(&self, id: ReleaseId) -> Result<Option<StoredRelease>> {
        let key = self.keys().release(id);
        let answers = self.read(self.quick(), &key, |pipe| {
            pipe.cmd("HMGET").arg(&key).arg(&FIELDS_OF_RELEASE);
        });
        let fields = answers.await?.next()?;
        self.stored_release(id, fields)
    }

    fn stored_release(&self, id: ReleaseId, fields: Value) -> Result<Option<StoredRelease>> {
        let fields = items(fields);
        if fields.iter().all(|field| *field == Value::Nil) {
            return Ok(None);
        }
        let word = |at: usize| fields.get(at).and_then(text);
        let known = self.known();
        let read = || {
            Some(StoredRelease {
                release: serde_json::from_str(word(0)?).ok()?,
                revision: word(1)?.parse().ok()?,
                woken: word(3).map_or(Some(0), |count| count.parse().ok())?,
                of_this_memory: known.as_ref().is_some_and(|known| Some(known.epoch.as_str()) == word(2)),
            })
        };
        read().map(Some).ok_or_else(|| StoreError::Unreadable(self.keys().release(id)))
    }

    /// Of the next [`RELEASES_PAGE`] releases, newest first, those that fit, and where to read on; none: there are no more. One that
    /// cannot be read is left out.
    pub async fn releases(&self, filter: &ReleaseFilter) -> Result<(Vec<StoredRelease>, Option<ReleaseId>)> {
        let page: Vec<ReleaseId> = if filter.active {
            let active = self.active_releases(filter.before).await?;
            active.into_iter().rev().take(RELEASES_PAGE).collect()
        } else {
            self.release_page(filter.before).await?
        };
        let wanted =
            |release: &Release| filter.products.as_ref().is_none_or(|products| products.contains(&release.product));
        let mut found = Vec::new();
        for read in self.releases_named(&page).await? {
            match read {
                Ok(stored) => found.extend(stored.filter(|stored| wanted(&stored.release))),
                Err(StoreError::Unreadable(key)) => tracing::warn!(key, "a release that cannot be read is left out"),
                Err(error) => return Err(error),
            }
        }
        Ok((found, page.last().copied()))
    }

    /// Releases of which something may follow, oldest first.
    pub async fn active_releases(&self, before: Option<ReleaseId>) -> Result<Vec<ReleaseId>> {
        let key = self.keys().active_releases();
        let answers = self.read(self.quick(), &key, |pipe| {
            pipe.cmd("SMEMBERS").arg(&key);
        });
        let mut active = ids(answers.await?.next()?);
        active.retain(|id| before.is_none_or(|before| *id < before));
        active.sort();
        Ok(active)
    }

    async fn release_page(&self, before: Option<ReleaseId>) -> Result<Vec<ReleaseId>> {
        let key = self.keys().releases();
        let newest = before.map_or_else(|| "+".to_owned(), |before| format!("({before}"));
        let answers = self.read(self.quick(), &key, |pipe| {
            pipe.cmd("ZRANGE")
                .arg(&key)
                .arg(newest)
                .arg("-")
                .arg("BYLEX")
                .arg("REV")
                .arg("LIMIT")
                .arg(0)
                .arg(RELEASES_PAGE);
        });
        Ok(ids(answers.await?.next()?))
    }

    /// These releases, in order, each as [`Store::release`] reads it.
    async fn releases_named(&self, page: &[ReleaseId]) -> Result<Vec<Result<Option<StoredRelease>>>> {
        let answers = self.read(self.outlet(), "releases", |pipe| {
            for id in page {
                pipe.cmd("HMGET").arg(self.keys().release(*id)).arg(&FIELDS_OF_RELEASE);
            }
        });
        let mut answers = answers.await?;
        Ok(page.iter().map(|id| answers.next().and_then(|fields| self.stored_release(*id, fields))).collect())
    }

    /// Releases that are to be looked at now, and in how many milliseconds the next one is; none: there is none.
    pub async fn due_releases(&self) -> Result<(Vec<ReleaseId>, Option<u64>)> {
        self.due(self.keys().due_releases()).await
    }

    /// The members of a sorted set whose time has come, and in how many milliseconds the next one is due; none: there is none.
    pub(super) async fn due<T: std::str::FromStr>(&self, key: String) -> Result<(Vec<T>, Option<u64>)> {
        let answers = self.read(self.quick(), &key, |pipe| {
            pipe.cmd("TIME");
            pipe.cmd("ZRANGE").arg(&key).arg(0).arg(DUE - 1).arg("WITHSCORES");
        });
        let mut answers = answers.await?;
        let now = time_ms(answers.next()?).ok_or_else(|| StoreError::Unreadable("TIME".into()))?;
        let mut due = Vec::new();
        for (id, score) in scored(answers.next()?) {
            if score > now {
                return Ok((due, Some(score - now)));
            }
            due.push(id);
        }
        Ok((due, None))
    }

    /// Takes a release off those that are to be looked at, which is not there any more or cannot be read, with all that it has reserved.
    pub async fn forget_due_release(&self, id: ReleaseId) -> Result<()> {
        self.forget_due("release", &id.to_string()).await
    }

    pub(super) async fn forget_due(&self, kind: &str, id: &str) -> Result<()> {
        let reply = self.run(&scripts::FORGET_DUE, self.quick(), |call| {
            call.arg(kind).arg(id);
        });
        reply.await.map(drop)
    }

    /// What is known besides a release. `next`: the stage that it enters next, if it goes on; `listed`: the list of apps.
    pub async fn facts(
        &self,
        pipeline: &Pipeline,
        release: &Release,
        next: Option<&Stage>,
        listed: &HashMap<DeploymentId, App>,
    ) -> Result<Facts> {
        let jobs = release.busy_jobs();
        let stages: BTreeSet<&Word> =
            release.visit().map(|visit| &visit.stage).into_iter().chain(next.map(|stage| &stage.name)).collect();
        let apps: Vec<&DeploymentId> = release
            .services
            .keys()
            .filter_map(|service| pipeline.services.get(service))
            .flat_map(|service| stages.iter().filter_map(|stage| service.apps.get(*stage)))
            .collect();
        let soaks = release
            .visit()
            .and_then(|visit| visit.steps.get(visit.current()?))
            .is_some_and(|step| matches!(step.work, Work::Soak { .. }));
        let services: Vec<&Word> = next.iter().flat_map(|_| release.services.keys()).collect();
        let place = |service: &&Word| format!("{}/{}/{service}", pipeline.name, next.map_or("", |it| it.name.as_str()));
        let places: Vec<String> = services.iter().map(place).collect();
        let keys = self.keys();
        let answers = self.read(self.quick(), "release", |pipe| {
            pipe.cmd("TIME");
            pipe.cmd("SMEMBERS").arg(keys.subscribers(&release.product));
            pipe.cmd("HMGET").arg(keys.there()).arg("").arg(apps.iter().map(|app| app.as_str()).collect::<Vec<_>>());
            pipe.cmd("HMGET").arg(keys.occupants()).arg("").arg(&places);
            pipe.cmd("HGET")
                .arg(keys.holds())
                .arg(next.map(|stage| format!("{}/{}", pipeline.name, stage.name)).unwrap_or_default());
            for job in &jobs {
                pipe.cmd("HMGET").arg(keys.job(*job)).arg(&FIELDS);
                pipe.cmd("HGET").arg(keys.progress(*job)).arg("outputs");
            }
            if soaks {
                for app in &apps {
                    pipe.cmd("GET").arg(keys.last_success(app));
                }
            }
        });
        let mut answers = answers.await?;
        let now_ms = time_ms(answers.next()?).ok_or_else(|| StoreError::Unreadable("TIME".into()))?;
        let subscribers = items(answers.next()?).iter().filter_map(|name| text(name)?.parse().ok()).collect();
        // What cannot be read is not nothing: a service would be removed that was to be put back, a place taken that is not free.
        let unreadable = |key: String, what: &str| StoreError::Unreadable(format!("{key} ({what})"));
        let mut there = BTreeMap::new();
        for (json, app) in items(answers.next()?).into_iter().skip(1).zip(&apps) {
            if let Some(json) = bytes(json) {
                let read: There = serde_json::from_slice(&json).map_err(|_| unreadable(keys.there(), app.as_str()))?;
                there.insert((*app).clone(), read);
            }
        }
        let mut places = BTreeMap::new();
        for (id, service) in items(answers.next()?).iter().skip(1).zip(services) {
            if *id != Value::Nil {
                let read = text(id).and_then(|id| id.parse::<ReleaseId>().ok());
                places.insert(service.clone(), read.ok_or_else(|| unreadable(keys.occupants(), service.as_str()))?);
            }
        }
        let holders = answers.next()?;
        let held = match text(&holders) {
            Some(holders) => {
                let first = holders.split(' ').next().and_then(|id| id.parse::<ReleaseId>().ok());
                Some(first.ok_or_else(|| unreadable(keys.holds(), holders))?)
            }
            None => None,
        };
        let mut ended = BTreeMap::new();
        for job in jobs {
            let (fields, outputs) = (items(answers.next()?), bytes(answers.next()?));
            if let Some(end) = end_of(job, &fields, outputs)? {
                ended.insert(job, end);
            }
        }
        let mut newest: Vec<(DeploymentId, JobId)> = Vec::new();
        if soaks {
            for app in &apps {
                let job = text(&answers.next()?).and_then(|job| job.parse().ok());
                newest.extend(job.map(|job| ((*app).clone(), job)));
            }
        }
        let mut succeeded = BTreeMap::new();
        for (app, job) in newest {
            if let Some(ended_ms) = self.record(job).await?.and_then(|record| record.ended_ms) {
                succeeded.insert(app, (job, ended_ms));
            }
        }
        let mut occupants = BTreeMap::new();
        let others: BTreeSet<ReleaseId> = places.values().copied().filter(|other| *other != release.id).collect();
        for other in self.releases_named(&Vec::from_iter(others)).await? {
            if let (Some(StoredRelease { release: other, .. }), Some(stage)) = (other?, next)
                && other.holds_place()
            {
                occupants.insert(other.id, other.is_deploying_in(&stage.name));
            }
        }
        let apps = listed.iter().map(|(id, app)| (id.clone(), app.inventory.clone())).collect();
        Ok(Facts { now_ms, ended, subscribers, apps, there, succeeded, occupants, places, held, blocked: None })
    }

    /// Writes a release, and what follows from it.
    pub async fn write_release(&self, write: &ReleaseWrite<'_>) -> Result<Written> {
        let release = write.release;
        let json = serde_json::to_string(release).map_err(|error| StoreError::Unreadable(error.to_string()))?;
        let (hash, digest) = match write.idempotency {
            Some((key, digest)) => (digest_of(key), digest),
            None => (String::new(), ""),
        };
        let joined = |names: Vec<&str>| names.join(" ");
        let reply = self.run(&scripts::RELEASE, self.quick(), |call| {
            call.arg(release.id.to_string()).arg(write.revision).arg(json).arg(u8::from(!release.is_over()));
            call.arg(write.due_ms.map(|due| due.to_string()).unwrap_or_default());
            call.arg(joined(write.asks.iter().map(Word::as_str).collect()));
            call.arg(joined(write.wants.iter().map(|inventory| inventory.as_str()).collect()));
            call.arg(write.retention_ms)
                .arg(self.retention_ms())
                .arg(format!("{}/{}", release.pipeline, release.version));
            call.arg(hash).arg(digest).arg(write.woken).arg(u8::from(write.as_read));
            call.arg(release.by.as_str()).arg(write.audited).arg(LINES);
            call.arg(write.told.len());
            for (what, data) in &write.told {
                call.arg(what).arg(data);
            }
            call.arg(write.there.len());
            for (app, there) in write.there {
                let json = there.as_ref().and_then(|there| serde_json::to_string(there).ok());
                call.arg(app.as_str()).arg(json.unwrap_or_default());
            }
            let services: Vec<&Word> = write.occupies.iter().flat_map(|_| release.services.keys()).collect();
            call.arg(services.len());
            for service in services {
                let stage = write.occupies.map_or("", Word::as_str);
                let before = write.places.get(service).map(ToString::to_string);
                call.arg(format!("{}/{stage}/{service}", release.pipeline)).arg(before.unwrap_or_default());
            }
            call.arg(write.holds.len());
            for (stage, held) in &write.holds {
                call.arg(format!("{}/{stage}", release.pipeline)).arg(if *held { "1" } else { "" });
            }
            call.arg(write.jobs.len());
            for job in write.jobs {
                call.arg(job.id.to_string()).arg(job.deployment_id.as_str()).arg(job.inventory.as_str());
                call.arg(job.action.as_str()).arg(&job.sealed);
            }
        });
        let mut reply = reply.await?;
        Ok(match reply.word.as_str() {
            "OK" => {
                let _revision: u64 = reply.parse()?;
                let mut held = Vec::with_capacity(write.jobs.len());
                for job in write.jobs {
                    held.push(Held::granted(job.id, job.inventory.clone(), Fence(reply.parse()?), 1));
                }
                Written::Done(held)
            }
            "RACED" => Written::Raced,
            "FREE" => Written::Free,
            "BUSY" => Written::Busy { inventory: reply.parse()?, why: reply.parse()? },
            "EXISTS" => Written::Exists(reply.parse()?),
            "KEYREUSED" => Written::KeyReused,
            _ => return reply.unexpected(),
        })
    }

    /// The events of a release after a cursor, at most `limit` of them: all that ever happened to it, as long as it is kept.
    pub async fn release_events(&self, id: ReleaseId, after: Cursor, limit: usize) -> Result<Events> {
        self.events_at(&self.keys().release_events(id), after, limit).await
    }

    /// Keeps the log of a report, before the report is recorded. `digest`: its SHA-256 in hexadecimal digits, which names it.
    pub async fn keep_log(&self, id: ReleaseId, digest: &str, log: &[u8]) -> Result<()> {
        let reply = self.run(&scripts::KEEP_LOG, self.intake(), |call| {
            call.arg(id.to_string()).arg(digest).arg(log);
        });
        reply.await.map(drop)
    }

    /// The log of a report; none: there is none.
    pub async fn log(&self, id: ReleaseId, digest: &str) -> Result<Option<Vec<u8>>> {
        let key = self.keys().release_logs(id);
        let answers = self.read(self.outlet(), &key, |pipe| {
            pipe.cmd("HGET").arg(&key).arg(digest);
        });
        Ok(bytes(answers.await?.next()?))
    }

    /// Pipelines in these versions.
    pub async fn pipelines_of(&self, versions: &BTreeSet<(Word, u64)>) -> Result<HashMap<(Word, u64), Pipeline>> {
        let answers = self.read(self.quick(), "pipelines", |pipe| {
            for (name, version) in versions {
                pipe.cmd("HGET").arg(self.keys().pipeline(name)).arg(format!("{version}:pipeline"));
            }
        });
        let mut answers = answers.await?;
        let mut found = HashMap::new();
        for which in versions {
            if let Some(json) = bytes(answers.next()?) {
                let pipeline = serde_json::from_slice(&json)
                    .map_err(|_| StoreError::Unreadable(self.keys().pipeline(&which.0)))?;
                found.insert(which.clone(), pipeline);
            }
        }
        Ok(found)
    }
}

/// How a job ended, if it has; one that is not there any more is lost.
pub(super) fn end_of(job: JobId, fields: &[Value], outputs: Option<Vec<u8>>) -> Result<Option<Ended>> {
    let gone = |reason: &str| Ended {
        outcome: crate::model::job::Outcome::Lost,
        reason: Some(reason.into()),
        outputs: Map::new(),
    };
    let Some(record) = record::read(job, fields)? else { return Ok(Some(gone("its record is gone"))) };
    let State::Ended(outcome) = record.state else { return Ok(None) };
    let outputs = outputs.and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default();
    Ok(Some(Ended { outcome, reason: record.reason, outputs }))
}

pub(super) fn ids(value: Value) -> Vec<ReleaseId> {
    items(value).iter().filter_map(|id| text(id)?.parse().ok()).collect()
}

/// Members of a sorted set and their scores. Both forms of a reply are taken: one list, or pairs.
fn scored<T: std::str::FromStr>(value: Value) -> Vec<(T, u64)> {
    let read = |(id, score): (Value, Value)| {
        let score = match score {
            Value::Double(score) if score >= 0.0 => score as u64,
            other => text(&other)?.parse::<f64>().ok()? as u64,
        };
        Some((text(&id)?.parse().ok()?, score))
    };
    let nested = items(value);
    if nested.iter().all(|item| matches!(item, Value::Array(_))) {
        let two = |item: Value| <[Value; 2]>::try_from(items(item)).ok().map(|[id, score]| (id, score));
        return nested.into_iter().filter_map(two).filter_map(read).collect();
    }
    pairs(Value::Array(nested)).into_iter().filter_map(read).collect()
}
