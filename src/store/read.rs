//! Reading jobs.

use std::collections::{HashMap, HashSet};

use redis::{Pipeline, Value};
use serde_json::Map;

use super::keys::Keys;
use super::record::{self, FIELDS};
use super::value::{bytes, items, number, pairs, text};
use super::{Answers, JobFilter, JobView, Live, Result, Store, StoreError};
use crate::model::ids::{Inventory, JobId};
use crate::model::job::{Record, State};

/// The most jobs that are looked at in one round trip.
const PAGE: usize = 200;

/// Asks for what a view of a job is made of.
pub(super) fn ask_view(keys: &Keys, pipe: &mut Pipeline, job: JobId) {
    pipe.cmd("HMGET").arg(keys.job(job)).arg(&FIELDS);
    pipe.cmd("STRLEN").arg(keys.output(job));
    pipe.cmd("HGETALL").arg(keys.progress(job));
}

/// Takes a view of a job, but for its place in the queue. All its answers are taken, whatever they are.
pub(super) fn take_view(answers: &mut Answers, job: JobId) -> Result<Option<JobView>> {
    let (fields, length, progress) = (answers.next(), answers.next(), answers.next());
    let Some(record) = record::read(job, &items(fields?))? else { return Ok(None) };
    let mut report = Map::new();
    for (member, value) in pairs(progress?) {
        if let (Some(member), Some(Ok(value))) = (text(&member), bytes(value).map(|json| serde_json::from_slice(&json)))
        {
            report.insert(member.to_owned(), value);
        }
    }
    Ok(Some(JobView {
        record,
        output_bytes: number(&length?).unwrap_or(0),
        queue_position: None,
        progress: (!report.is_empty()).then_some(report),
    }))
}

impl Store {
    /// A job's record.
    pub async fn record(&self, job: JobId) -> Result<Option<Record>> {
        let key = self.keys().job(job);
        let answers = self.read(self.quick(), &key, |pipe| {
            pipe.cmd("HMGET").arg(&key).arg(&FIELDS);
        });
        record::read(job, &items(answers.await?.next()?))
    }

    /// A job's secrets, encrypted.
    pub async fn sealed(&self, job: JobId) -> Result<Option<Vec<u8>>> {
        let key = self.keys().job(job);
        let answers = self.read(self.quick(), &key, |pipe| {
            pipe.cmd("HGET").arg(&key).arg("sealed");
        });
        Ok(bytes(answers.await?.next()?))
    }

    /// All live jobs (queued ones too), with whether their supervisors live; unreadable ones are named.
    pub async fn live(&self) -> Result<(Vec<Live>, Vec<JobId>)> {
        let mut unreadable = Vec::new();
        let mut records = Vec::new();
        // What is no id was never written by a dispatcher and stands for nothing.
        let jobs: Vec<JobId> = self.active().await?.iter().filter_map(|id| id.parse().ok()).collect();
        for page in jobs.chunks(PAGE) {
            let answers = self.read(self.quick(), "active", |pipe| {
                for job in page {
                    pipe.cmd("HMGET").arg(self.keys().job(*job)).arg(&FIELDS);
                }
            });
            let mut answers = answers.await?;
            for job in page {
                let fields = answers.next().map(items);
                match fields.and_then(|fields| record::read(*job, &fields)) {
                    // It has ended between the two reads.
                    Ok(Some(record)) if record.state.is_ended() => {}
                    Ok(Some(record)) => records.push(record),
                    Ok(None) | Err(StoreError::Unreadable(_)) => unreadable.push(*job),
                    Err(error) => return Err(error),
                }
            }
        }
        let owners: HashSet<&str> = records.iter().filter_map(|record| record.owner.as_deref()).collect();
        let alive = self.alive(owners).await?;
        let live = records
            .into_iter()
            .map(|record| {
                let owner_alive = record.owner.as_ref().is_some_and(|owner| alive.contains(owner));
                Live { record, owner_alive }
            })
            .collect();
        Ok((live, unreadable))
    }

    async fn active(&self) -> Result<Vec<String>> {
        let answers = self.read(self.quick(), "active", |pipe| {
            pipe.cmd("SMEMBERS").arg(self.keys().active());
        });
        let members = items(answers.await?.next()?);
        Ok(members.iter().filter_map(text).map(str::to_owned).collect())
    }

    /// Those of these dispatchers that give signs of life.
    pub(super) async fn alive(&self, names: HashSet<&str>) -> Result<HashSet<String>> {
        let names: Vec<_> = names.into_iter().collect();
        let answers = self.read(self.quick(), "dispatcher", |pipe| {
            for name in &names {
                pipe.cmd("EXISTS").arg(self.keys().dispatcher(name));
            }
        });
        let mut answers = answers.await?;
        let mut alive = HashSet::new();
        for name in names {
            if answers.next()? == Value::Int(1) {
                alive.insert(name.to_owned());
            }
        }
        Ok(alive)
    }

    /// Inventories with jobs that wait.
    pub async fn waiting(&self) -> Result<Vec<Inventory>> {
        let answers = self.read(self.quick(), "queues", |pipe| {
            pipe.cmd("SMEMBERS").arg(self.keys().queues());
        });
        let mut inventories: Vec<Inventory> =
            items(answers.await?.next()?).iter().filter_map(text).filter_map(|name| name.parse().ok()).collect();
        inventories.sort();
        Ok(inventories)
    }

    /// A page of jobs, newest first.
    pub async fn jobs(&self, filter: &JobFilter) -> Result<Vec<JobView>> {
        let limit = filter.limit.clamp(1, PAGE);
        let wanted = |record: &Record| {
            filter.deployment_id.as_ref().is_none_or(|app| *app == record.deployment_id)
                && filter.inventory.as_ref().is_none_or(|inventory| *inventory == record.inventory)
                && (filter.states.is_empty() || filter.states.iter().any(|state| *state == record.state.word()))
        };
        let mut found: Vec<JobView> = Vec::new();
        let mut before = filter.before;
        // Live jobs are few and known; to look for them among all that ended would cost those.
        let all_live = !filter.states.is_empty()
            && filter.states.iter().all(|state| state.parse().is_ok_and(|state: State| !state.is_ended()));
        let mut live = if all_live { Some(self.newest_live(before).await?) } else { None };
        while found.len() < limit {
            let page = match &mut live {
                Some(live) => live.split_off(live.len().saturating_sub(PAGE)),
                None => self.index_page(filter, before).await?,
            };
            let Some(last) = page.first().copied() else { break };
            before = Some(last);
            let newest_first: Vec<_> = page.into_iter().rev().collect();
            found.extend(self.views(&newest_first).await?.into_iter().filter(|view| wanted(&view.record)));
        }
        found.truncate(limit);
        self.place(&mut found).await?;
        Ok(found)
    }

    /// Live jobs, oldest first.
    async fn newest_live(&self, before: Option<JobId>) -> Result<Vec<JobId>> {
        let mut jobs: Vec<JobId> = self.active().await?.iter().filter_map(|id| id.parse().ok()).collect();
        jobs.retain(|job| before.is_none_or(|before| *job < before));
        jobs.sort();
        Ok(jobs)
    }

    /// The newest entries of the index that serves a filter, oldest first.
    async fn index_page(&self, filter: &JobFilter, before: Option<JobId>) -> Result<Vec<JobId>> {
        let keys = self.keys();
        let index = match (&filter.deployment_id, &filter.inventory) {
            (Some(app), _) => keys.jobs_of_app(app),
            (None, Some(inventory)) => keys.jobs_of_inventory(inventory),
            (None, None) => keys.jobs(),
        };
        let newest = before.map_or_else(|| "+".to_owned(), |before| format!("({before}"));
        let answers = self.read(self.quick(), &index, |pipe| {
            pipe.cmd("ZRANGE").arg(&index).arg(newest).arg("-").arg("BYLEX").arg("REV").arg("LIMIT").arg(0).arg(PAGE);
        });
        let mut page: Vec<JobId> =
            items(answers.await?.next()?).iter().filter_map(|id| text(id)?.parse().ok()).collect();
        page.reverse();
        Ok(page)
    }

    /// Views of those jobs that are there and can be read.
    async fn views(&self, jobs: &[JobId]) -> Result<Vec<JobView>> {
        let answers = self.read(self.quick(), "jobs", |pipe| {
            for job in jobs {
                ask_view(self.keys(), pipe, *job);
            }
        });
        let mut answers = answers.await?;
        let mut views = Vec::new();
        for job in jobs {
            match take_view(&mut answers, *job) {
                Ok(view) => views.extend(view),
                Err(StoreError::Unreadable(key)) => tracing::warn!(key, "a job that cannot be read is left out"),
                Err(error) => return Err(error),
            }
        }
        Ok(views)
    }

    /// Adds their places in the queue to those that wait.
    pub(super) async fn place(&self, views: &mut [JobView]) -> Result<()> {
        let waiting: Vec<_> = views.iter_mut().filter(|view| view.record.state == State::Queued).collect();
        if waiting.is_empty() {
            return Ok(());
        }
        let mut queues: HashMap<Inventory, Vec<JobId>> = HashMap::new();
        for view in &waiting {
            queues.entry(view.record.inventory.clone()).or_default();
        }
        let names: Vec<Inventory> = queues.keys().cloned().collect();
        let answers = self.read(self.quick(), "queue", |pipe| {
            for name in &names {
                pipe.cmd("LRANGE").arg(self.keys().queue(name)).arg(0).arg(-1);
            }
        });
        let mut answers = answers.await?;
        for name in names {
            let jobs = items(answers.next()?).iter().filter_map(|id| text(id)?.parse().ok()).collect();
            queues.insert(name, jobs);
        }
        for view in waiting {
            let place =
                queues.get(&view.record.inventory).and_then(|jobs| jobs.iter().position(|job| *job == view.record.id));
            view.queue_position = place.map(|place| place as u64 + 1);
        }
        Ok(())
    }
}
