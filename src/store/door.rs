//! The door: what a request's credentials are checked against, and the brake on guessing.
//!
//! Each is one round trip together with whatever was asked for, because existing clients poll.

use std::net::IpAddr;

use redis::{Pipeline, Value};

use super::apps::stored_app;
use super::value::{bytes, items, number, readable, text};
use super::{Answers, Door, JobView, Polled, Result, Store, StoreError, read, scripts};
use crate::model::ids::{DeploymentId, JobId};

/// Failed tries within a minute after which an address gets no further one.
const TRIES_FROM_ADDRESS: u64 = 20;
/// Failed tries within a minute after which an app is given no further one, from wherever.
const TRIES_AT_APP: u64 = 100;

impl Store {
    /// Credentials of an app, in one round trip.
    pub async fn door(&self, deployment_id: &DeploymentId, from: IpAddr) -> Result<Door> {
        let answers = self.read(self.quick(), "apps", |pipe| self.ask_door(pipe, deployment_id, from, None));
        let mut answers = answers.await?;
        let (door, barred, _) = take_door(&mut answers, deployment_id)?;
        self.bar(door, barred, deployment_id, from).await
    }

    /// The seed's poll, in one round trip: credentials, state, and the whole readable output (read after the state).
    pub async fn poll(&self, deployment_id: &DeploymentId, from: IpAddr, job: JobId) -> Result<Polled> {
        let key = self.keys().job(job);
        let answers = self.read(self.quick(), &key, |pipe| {
            pipe.cmd("HMGET").arg(&key).arg("deployment_id").arg("state");
            self.ask_door(pipe, deployment_id, from, Some(job));
        });
        let mut answers = answers.await?;
        let asked = items(answers.next()?);
        let (door, barred, output) = take_door(&mut answers, deployment_id)?;
        let door = self.bar(door, barred, deployment_id, from).await?;
        let job = match asked.as_slice() {
            [Value::Nil, Value::Nil] => None,
            [app, state] => {
                let read = |value| text(value).ok_or_else(|| StoreError::Unreadable(key.clone()));
                let app = read(app)?.parse().map_err(|_| StoreError::Unreadable(key.clone()))?;
                Some((app, read(state)?.parse().map_err(|_| StoreError::Unreadable(key.clone()))?))
            }
            _ => return Err(StoreError::Unreadable(key)),
        };
        Ok(Polled { door, job, output: output.map(readable).unwrap_or_default() })
    }

    /// A job as the API shows it, with the app's credentials when `door` names one, in one round trip (two while it waits, for its
    /// place in the queue).
    pub async fn job(&self, job: JobId, door: Option<(&DeploymentId, IpAddr)>) -> Result<(Option<JobView>, Door)> {
        let answers = self.read(self.quick(), "a job", |pipe| {
            read::ask_view(self.keys(), pipe, job);
            if let Some((deployment_id, from)) = door {
                self.ask_door(pipe, deployment_id, from, None);
            }
        });
        let mut answers = answers.await?;
        let view = read::take_view(&mut answers, job);
        let door = match door {
            Some((deployment_id, from)) => {
                let (door, barred, _) = take_door(&mut answers, deployment_id)?;
                self.bar(door, barred, deployment_id, from).await?
            }
            None => Door::default(),
        };
        let mut views: Vec<_> = view?.into_iter().collect();
        self.place(&mut views).await?;
        Ok((views.pop(), door))
    }

    /// A failed try: counted by address and by app. Returns whether there is an app list at all.
    pub async fn note_failure(&self, deployment_id: &str, from: IpAddr) -> Result<bool> {
        let mut reply = self
            .run(&scripts::FAILURE, self.quick(), |call| {
                call.arg(self.keys().failures_from(from));
                // What is no name is no app's: it is counted by address alone.
                if let Ok(app) = deployment_id.parse() {
                    call.arg(self.keys().failures_at(&app));
                }
            })
            .await?;
        Ok(number::<u64>(&reply.next()) == Some(1))
    }

    /// Seconds for which an address gets no further try; for tokens.
    pub async fn barred(&self, from: IpAddr) -> Result<Option<u64>> {
        let key = self.keys().failures_from(from);
        let answers = self.read(self.quick(), &key, |pipe| {
            pipe.cmd("GET").arg(&key);
        });
        let count = number(&answers.await?.next()?).unwrap_or(0);
        if count < TRIES_FROM_ADDRESS { Ok(None) } else { self.left(&[key]).await }
    }

    /// Asks for the app, both counters and, with them, a job's output.
    fn ask_door(&self, pipe: &mut Pipeline, app: &DeploymentId, from: IpAddr, output_of: Option<JobId>) {
        let keys = self.keys();
        pipe.cmd("HGET").arg(keys.apps()).arg(app.as_str());
        pipe.cmd("MGET").arg(keys.failures_from(from)).arg(keys.failures_at(app));
        if let Some(job) = output_of {
            pipe.arg(keys.output(job));
        }
    }

    /// How long the door stays shut is asked only when it is.
    async fn bar(&self, door: Door, barred: bool, app: &DeploymentId, from: IpAddr) -> Result<Door> {
        if !barred {
            return Ok(door);
        }
        let barred = self.left(&[self.keys().failures_from(from), self.keys().failures_at(app)]).await?;
        Ok(Door { barred, ..door })
    }

    /// Seconds until counters that are at their limits expire, at least 1; none: they have.
    async fn left(&self, counters: &[String]) -> Result<Option<u64>> {
        let answers = self.read(self.quick(), "failures", |pipe| {
            for key in counters {
                pipe.cmd("GET").arg(key);
                pipe.cmd("PTTL").arg(key);
            }
        });
        let mut answers = answers.await?;
        let mut longest = None;
        for limit in [TRIES_FROM_ADDRESS, TRIES_AT_APP].into_iter().take(counters.len()) {
            let count: u64 = number(&answers.next()?).unwrap_or(0);
            let left: Option<u64> = number(&answers.next()?);
            if count >= limit {
                longest = longest.max(left.map(|ms| ms.div_ceil(1000).max(1)));
            }
        }
        Ok(longest)
    }
}

/// The door, whether it is shut, and the output that was asked for with it.
fn take_door(answers: &mut Answers, app: &DeploymentId) -> Result<(Door, bool, Option<Vec<u8>>)> {
    let entry = answers.next()?;
    let app = bytes(entry).map(|entry| stored_app(app.clone(), &entry)).transpose()?;
    let mut values = items(answers.next()?).into_iter();
    let mut next = || values.next().unwrap_or_default();
    let from_address: u64 = number(&next()).unwrap_or(0);
    let at_app: u64 = number(&next()).unwrap_or(0);
    let barred = from_address >= TRIES_FROM_ADDRESS || at_app >= TRIES_AT_APP;
    Ok((Door { app, barred: None }, barred, bytes(next())))
}
