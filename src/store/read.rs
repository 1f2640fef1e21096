//! Reading: credentials, polls, jobs and their output. Each is one round trip, and costs what it returns.

use std::net::IpAddr;

use redis::Value as Raw;

use super::keys::FIELDS;
use super::record::{self, Fields};
use super::{Brief, Door, JobFilter, JobView, Polled, Ranged, Result, Store, StoreError, StoredApp};
use crate::model::ids::{DeploymentId, Inventory, JobId};
use crate::model::job::Record;

/// Failed tries of one address in a minute, from which on it gets no further one.
const TRIES_OF_ADDRESS: u64 = 20;
/// Failed tries at one app in a minute, from wherever, from which on nobody gets a further one.
const TRIES_AT_APP: u64 = 100;
/// How long failed tries count, in seconds.
const TRIES_FOR: u64 = 60;
/// The most entries that one page of jobs looks at.
const SCAN_MAX: usize = 2000;

/// Failed tries of the address and at the app, and the app's entry.
type RawDoor = (Option<u64>, Option<u64>, Option<String>);

fn open_door(raw: RawDoor, id: &DeploymentId) -> Result<Door> {
    let (of_address, at_app, entry) = raw;
    let barred = of_address.unwrap_or(0) >= TRIES_OF_ADDRESS || at_app.unwrap_or(0) >= TRIES_AT_APP;
    let app = entry.map(|entry| StoredApp::read(id, &entry)).transpose()?;
    Ok(Door { app, barred: barred.then_some(TRIES_FOR) })
}

fn ask_door(pipe: &mut redis::Pipeline, keys: &super::keys::Keys, id: &DeploymentId, from: IpAddr) {
    pipe.cmd("GET").arg(keys.failures_of_address(from));
    pipe.cmd("GET").arg(keys.failures_of_app(id.as_str()));
    pipe.cmd("HGET").arg(keys.apps()).arg(id.as_str());
}

/// App, inventory and state of a job.
type RawBrief = (Option<String>, Option<String>, Option<String>);

fn ask_brief(pipe: &mut redis::Pipeline, keys: &super::keys::Keys, job: JobId) {
    pipe.cmd("HMGET").arg(keys.job(job)).arg("app").arg("inventory").arg("state");
}

fn read_brief(raw: RawBrief, job: JobId) -> Result<Option<Brief>> {
    let (Some(app), Some(inventory), Some(state)) = raw else { return Ok(None) };
    let unreadable = || StoreError::Unreadable(format!("job:{job}"));
    Ok(Some(Brief {
        deployment_id: app.try_into().map_err(|_| unreadable())?,
        inventory: inventory.try_into().map_err(|_| unreadable())?,
        state: state.parse().map_err(|_| unreadable())?,
    }))
}

impl Store {
    /// Credentials of an app, in one round trip.
    pub async fn door(&self, deployment_id: &DeploymentId, from: IpAddr) -> Result<Door> {
        let raw: RawDoor = self.read(|pipe, keys| ask_door(pipe, keys, deployment_id, from)).await?;
        open_door(raw, deployment_id)
    }

    /// The seed's poll, in one round trip: credentials, state, and the whole readable output (read after the state).
    pub async fn poll(&self, deployment_id: &DeploymentId, from: IpAddr, job: JobId) -> Result<Polled> {
        type Reply = (Option<u64>, Option<u64>, Option<String>, RawBrief, Option<Vec<u8>>);
        let (address, app, entry, brief, output): Reply = self
            .read(|pipe, keys| {
                ask_door(pipe, keys, deployment_id, from);
                ask_brief(pipe, keys, job);
                pipe.cmd("GET").arg(keys.out(job));
            })
            .await?;
        let output =
            String::from_utf8(output.unwrap_or_default()).map_err(|_| StoreError::Unreadable(format!("out:{job}")))?;
        Ok(Polled { door: open_door((address, app, entry), deployment_id)?, job: read_brief(brief, job)?, output })
    }

    /// A range of a job's output, with the app's credentials when `door` names one, in one round trip. Costs the range.
    pub async fn range(
        &self,
        door: Option<(&DeploymentId, IpAddr)>,
        job: JobId,
        offset: u64,
        limit: u64,
    ) -> Result<Ranged> {
        let mut replies: Vec<Raw> = self
            .read(|pipe, keys| {
                ask_brief(pipe, keys, job);
                let last = offset.saturating_add(limit.max(1)) - 1;
                pipe.cmd("GETRANGE").arg(keys.out(job)).arg(offset).arg(last);
                pipe.cmd("STRLEN").arg(keys.out(job));
                if let Some((id, from)) = door {
                    ask_door(pipe, keys, id, from);
                }
            })
            .await?;
        let raw_door = replies.split_off(3.min(replies.len()));
        let (brief, bytes, length): (RawBrief, Vec<u8>, u64) =
            redis::from_redis_value(Raw::Array(replies)).map_err(super::link::parse)?;
        let door = match door {
            None => Door::default(),
            Some((id, _)) => open_door(redis::from_redis_value(Raw::Array(raw_door)).map_err(super::link::parse)?, id)?,
        };
        Ok(Ranged { door, job: read_brief(brief, job)?, bytes, length })
    }

    /// A failed try: counted by address and by app. Returns whether there is an app list at all: without one nothing can be said
    /// about an app's credentials, and nothing is counted. An empty id stands for a token, which needs no list.
    pub async fn note_failure(&self, deployment_id: &str, from: IpAddr) -> Result<bool> {
        let (listed,): (bool,) = self
            .read(|pipe, keys| {
                pipe.cmd("EXISTS").arg(keys.apps_meta());
            })
            .await?;
        if !listed && !deployment_id.is_empty() {
            return Ok(false);
        }
        let _: Vec<Raw> = self
            .read(|pipe, keys| {
                let of_app = (!deployment_id.is_empty()).then(|| keys.failures_of_app(deployment_id));
                for key in [Some(keys.failures_of_address(from)), of_app].into_iter().flatten() {
                    pipe.cmd("INCR").arg(&key);
                    pipe.cmd("EXPIRE").arg(&key).arg(TRIES_FOR).arg("NX");
                }
            })
            .await?;
        Ok(listed)
    }

    /// Seconds for which an address gets no further try; for tokens.
    pub async fn barred(&self, from: IpAddr) -> Result<Option<u64>> {
        let (tries,): (Option<u64>,) = self
            .read(|pipe, keys| {
                pipe.cmd("GET").arg(keys.failures_of_address(from));
            })
            .await?;
        Ok((tries.unwrap_or(0) >= TRIES_OF_ADDRESS).then_some(TRIES_FOR))
    }

    /// A job's record.
    pub async fn record(&self, job: JobId) -> Result<Option<Record>> {
        let (fields,): (Fields,) = self
            .read(|pipe, keys| {
                pipe.cmd("HMGET").arg(keys.job(job)).arg(&FIELDS);
            })
            .await?;
        record::read(job, &fields)
    }

    /// Records of several jobs, each read on its own, so that one that is unreadable hides no other.
    pub(super) async fn records(&self, jobs: &[JobId]) -> Result<Vec<Result<Option<Record>>>> {
        let all: Vec<Fields> = self
            .read(|pipe, keys| {
                for job in jobs {
                    pipe.cmd("HMGET").arg(keys.job(*job)).arg(&FIELDS);
                }
            })
            .await?;
        Ok(jobs.iter().zip(&all).map(|(job, fields)| record::read(*job, fields)).collect())
    }

    /// A job as the API shows it, with the app's credentials when `door` names one, in one round trip.
    pub async fn job(&self, job: JobId, door: Option<(&DeploymentId, IpAddr)>) -> Result<(Option<JobView>, Door)> {
        let mut replies: Vec<Raw> = self
            .read(|pipe, keys| {
                pipe.cmd("HMGET").arg(keys.job(job)).arg(&FIELDS);
                pipe.cmd("STRLEN").arg(keys.out(job));
                if let Some((id, from)) = door {
                    ask_door(pipe, keys, id, from);
                }
            })
            .await?;
        let raw_door = replies.split_off(2.min(replies.len()));
        let (fields, output_bytes): (Fields, u64) =
            redis::from_redis_value(Raw::Array(replies)).map_err(super::link::parse)?;
        let door = match door {
            None => Door::default(),
            Some((id, _)) => open_door(redis::from_redis_value(Raw::Array(raw_door)).map_err(super::link::parse)?, id)?,
        };
        Ok((self.view(job, &fields, output_bytes).await?, door))
    }

    /// Only a job that waits costs a second round trip, for its place.
    async fn view(&self, job: JobId, fields: &Fields, output_bytes: u64) -> Result<Option<JobView>> {
        let Some(record) = record::read(job, fields)? else { return Ok(None) };
        let queue_position = match record.state {
            crate::model::job::State::Queued => self.place(job, &record.inventory).await?,
            _ => None,
        };
        Ok(Some(JobView { record, output_bytes, queue_position, progress: record::progress(fields) }))
    }

    async fn place(&self, job: JobId, inventory: &Inventory) -> Result<Option<u64>> {
        let (place,): (Option<u64>,) = self
            .read(|pipe, keys| {
                pipe.cmd("LPOS").arg(keys.queue(inventory)).arg(job.to_string());
            })
            .await?;
        Ok(place.map(|place| place + 1))
    }

    /// Readable output from `offset`, at most `limit` bytes, and whether the job has ended (read before the output).
    /// None: no such job. Costs the range.
    pub async fn output(&self, job: JobId, offset: u64, limit: u64) -> Result<Option<(Vec<u8>, bool)>> {
        let (state, bytes): (Option<String>, Vec<u8>) = self
            .read(|pipe, keys| {
                pipe.cmd("HGET").arg(keys.job(job)).arg("state");
                let last = offset.saturating_add(limit.max(1)) - 1;
                pipe.cmd("GETRANGE").arg(keys.out(job)).arg(offset).arg(last);
            })
            .await?;
        Ok(state.as_deref().map(|state| (bytes, Self::has_ended(Some(state)))))
    }

    /// Bytes of output that can be read.
    pub async fn readable(&self, job: JobId) -> Result<u64> {
        let (length,): (u64,) = self
            .read(|pipe, keys| {
                pipe.cmd("STRLEN").arg(keys.out(job));
            })
            .await?;
        Ok(length)
    }

    /// Bytes of the ring from a place of it (not wrapping).
    pub async fn ring(&self, job: JobId, at: u64, count: u64) -> Result<Vec<u8>> {
        let (bytes,): (Vec<u8>,) = self
            .read(|pipe, keys| {
                pipe.cmd("GETRANGE").arg(keys.ring(job)).arg(at).arg((at + count).saturating_sub(1));
            })
            .await?;
        Ok(bytes)
    }

    /// A job's secrets, encrypted. None: unknown, or the job has ended.
    pub async fn sealed(&self, job: JobId) -> Result<Option<Vec<u8>>> {
        let (sealed,): (Option<Vec<u8>>,) = self
            .read(|pipe, keys| {
                pipe.cmd("HGET").arg(keys.job(job)).arg("sealed");
            })
            .await?;
        Ok(sealed)
    }

    /// A page of jobs, newest first. Entries of jobs that have expired are dropped from the index on the way.
    pub async fn jobs(&self, filter: &JobFilter) -> Result<Vec<JobView>> {
        let keys = self.keys();
        let index = match (&filter.deployment_id, &filter.inventory) {
            (Some(id), _) => keys.jobs_of_app(id),
            (None, Some(inventory)) => keys.jobs_of_inventory(inventory),
            (None, None) => keys.jobs(),
        };
        let mut below = filter.before.map_or_else(|| "+".to_owned(), |job| format!("({job}"));
        let mut found = Vec::new();
        let mut scanned = 0;
        while found.len() < filter.limit && scanned < SCAN_MAX {
            let count = filter.limit.max(16);
            let (ids,): (Vec<String>,) = self
                .read(|pipe, _| {
                    pipe.cmd("ZRANGE")
                        .arg(&index)
                        .arg(&below)
                        .arg("-")
                        .arg("BYLEX")
                        .arg("REV")
                        .arg("LIMIT")
                        .arg(0)
                        .arg(count);
                })
                .await?;
            let Some(last) = ids.last() else { break };
            below = format!("({last}");
            scanned += ids.len();
            let ids: Vec<JobId> = ids.iter().filter_map(|id| id.parse().ok()).collect();
            let all: Vec<(Fields, u64)> = self.fields(&ids).await?;
            for (id, (fields, length)) in ids.into_iter().zip(all) {
                match self.view(id, &fields, length).await {
                    Ok(Some(view)) if matches(filter, &view.record) => found.push(view),
                    Ok(Some(_)) => {}
                    Ok(None) => self.forget(&index, id).await?,
                    Err(StoreError::Unreadable(what)) => tracing::warn!(what, "a job is left out of a list"),
                    Err(error) => return Err(error),
                }
            }
        }
        found.truncate(filter.limit);
        Ok(found)
    }

    async fn fields(&self, jobs: &[JobId]) -> Result<Vec<(Fields, u64)>> {
        let replies: Vec<Raw> = self
            .read(|pipe, keys| {
                for job in jobs {
                    pipe.cmd("HMGET").arg(keys.job(*job)).arg(&FIELDS);
                    pipe.cmd("STRLEN").arg(keys.out(*job));
                }
            })
            .await?;
        let pairs = replies.chunks(2).map(|pair| Raw::Array(pair.to_vec()));
        pairs.map(|pair| redis::from_redis_value(pair).map_err(super::link::parse)).collect()
    }

    async fn forget(&self, index: &str, job: JobId) -> Result<()> {
        let _: (Raw,) = self
            .read(|pipe, _| {
                pipe.cmd("ZREM").arg(index).arg(job.to_string());
            })
            .await?;
        Ok(())
    }
}

fn matches(filter: &JobFilter, record: &Record) -> bool {
    filter.inventory.as_ref().is_none_or(|inventory| *inventory == record.inventory)
        && filter.deployment_id.as_ref().is_none_or(|id| *id == record.deployment_id)
        && (filter.states.is_empty() || filter.states.iter().any(|state| state == record.state.word()))
}
