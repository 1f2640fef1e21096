//! The door: what a request's credentials are checked against, and the brake on guessing.
//!
//! Each is one round trip together with whatever was asked for, because existing clients poll.

use std::net::IpAddr;
use std::vec::IntoIter;

use redis::{Pipeline, Value};

use super::output::ask_range;
use super::value::{bytes, items, number, text};
use super::{Brief, Door, JobView, Ranged, Result, Store, StoreError, read, scripts};
use crate::model::ids::{DeploymentId, JobId};

/// Failed tries within a minute after which an address gets no further one.
pub(super) const TRIES_FROM_ADDRESS: u64 = 20;
/// Failed tries within a minute after which an app is given no further one, from wherever.
const TRIES_AT_APP: u64 = 100;

impl Store {
    /// Credentials of an app, in one round trip.
    pub async fn door(&self, deployment_id: &DeploymentId, from: IpAddr) -> Result<Door> {
        let answers = self.read_with_state(self.quick(), "a door", |pipe| self.ask_door(pipe, deployment_id, from));
        let (mut values, _) = answers.await?;
        self.take_door(&mut values, deployment_id, from).await
    }

    /// What an ID token is checked against that asks for a job of this app (none: there is no such job), in one round trip. What fails
    /// at it is not counted at the app, since nobody has named it: then every job's answer is the same.
    pub async fn token_door(&self, deployment_id: Option<&DeploymentId>, from: IpAddr) -> Result<Door> {
        let counter = self.keys().failures_from(from);
        let answers = self.read_with_state(self.quick(), "a door", |pipe| {
            pipe.arg(&counter).arg(self.keys().apps_version());
        });
        let (mut values, _) = answers.await?;
        let (count, version) = (values.next().unwrap_or_default(), values.next().unwrap_or_default());
        let shut = number(&count).unwrap_or(0) >= TRIES_FROM_ADDRESS;
        let barred = if shut { self.left(&[counter]).await? } else { None };
        let (app, listed) = match deployment_id {
            Some(id) => self.app_of(text(&version), id).await?,
            None => (None, text(&version).is_some()),
        };
        Ok(Door { app, listed, barred })
    }

    /// Readable output from `offset`, at most `limit` bytes of it, with state and, when `door` names an app, its credentials, in one
    /// round trip (two where the first `limit` bytes are not all). Costs the range.
    pub async fn range(
        &self,
        door: Option<(&DeploymentId, IpAddr)>,
        job: JobId,
        offset: u64,
        limit: u64,
    ) -> Result<Ranged> {
        let keys = self.keys();
        let answers = self.read_with_state(self.outlet(), "a job", |pipe| {
            pipe.arg(keys.brief(job));
            if let Some((deployment_id, from)) = door {
                self.ask_door(pipe, deployment_id, from);
            }
            ask_range(keys, pipe, job, offset, limit);
            if offset > 0 {
                pipe.cmd("STRLEN").arg(keys.output(job));
            }
        });
        let (mut values, mut answers) = answers.await?;
        let brief = values.next().unwrap_or_default();
        let door = match door {
            Some((deployment_id, from)) => self.take_door(&mut values, deployment_id, from).await?,
            None => Door::default(),
        };
        let piece = bytes(answers.next()?).filter(|_| limit > 0).unwrap_or_default();
        let length = match piece.len() as u64 {
            _ if offset > 0 => number(&answers.next()?).unwrap_or(0),
            // What begins at the beginning and did not fill its measure is all there is.
            length if length < limit => length,
            _ => self.readable(job).await?,
        };
        Ok(Ranged { door, job: take_brief(&brief, job)?, bytes: piece, length })
    }

    /// A job as the API shows it, with the app's credentials when `door` names one, in one round trip (two while it waits, for its
    /// place in the queue).
    pub async fn job(&self, job: JobId, door: Option<(&DeploymentId, IpAddr)>) -> Result<(Option<JobView>, Door)> {
        let answers = self.read(self.quick(), "a job", |pipe| {
            read::ask_view(self.keys(), pipe, job);
            if let Some((deployment_id, from)) = door {
                pipe.cmd("MGET");
                self.ask_door(pipe, deployment_id, from);
            }
        });
        let mut answers = answers.await?;
        let view = read::take_view(&mut answers, job);
        let door = match door {
            Some((deployment_id, from)) => {
                let mut values = items(answers.next()?).into_iter();
                self.take_door(&mut values, deployment_id, from).await?
            }
            None => Door::default(),
        };
        let mut views: Vec<_> = view?.into_iter().collect();
        self.place(&mut views).await?;
        Ok((views.pop(), door))
    }

    /// A failed try: counted by address and by app. Returns whether there is an app list at all: without one nothing can be said
    /// about an app's credentials, and nothing is counted. An empty id stands for a token, which needs no list.
    pub async fn note_failure(&self, deployment_id: &str, from: IpAddr) -> Result<bool> {
        let mut reply = self
            .run(&scripts::FAILURE, self.quick(), |call| {
                call.arg(u8::from(!deployment_id.is_empty())).arg(self.keys().failures_from(from));
                // What is no name is no app's: it is counted by address alone.
                if let Ok(app) = deployment_id.parse() {
                    call.arg(self.keys().failures_at(&app));
                }
            })
            .await?;
        Ok(number::<u64>(&reply.next()) == Some(1))
    }

    /// Adds what a door is made of to an `MGET`.
    fn ask_door(&self, pipe: &mut Pipeline, app: &DeploymentId, from: IpAddr) {
        let keys = self.keys();
        pipe.arg(keys.failures_from(from)).arg(keys.failures_at(app)).arg(keys.apps_version());
    }

    /// Takes what `ask_door` asked for. A further round trip is made only when the list of apps is a new one, or the door is shut.
    async fn take_door(&self, values: &mut IntoIter<Value>, app: &DeploymentId, from: IpAddr) -> Result<Door> {
        let mut next = || values.next().unwrap_or_default();
        let (from_address, at_app, version) = (next(), next(), next());
        let shut =
            number(&from_address).unwrap_or(0) >= TRIES_FROM_ADDRESS || number(&at_app).unwrap_or(0) >= TRIES_AT_APP;
        let barred = if shut {
            self.left(&[self.keys().failures_from(from), self.keys().failures_at(app)]).await?
        } else {
            None
        };
        let (app, listed) = self.app_of(text(&version), app).await?;
        Ok(Door { app, listed, barred })
    }

    /// Seconds until counters that are at their limits expire, at least 1; none: they have.
    pub(super) async fn left(&self, counters: &[String]) -> Result<Option<u64>> {
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

/// What `brief` says of a job; none: no such job.
fn take_brief(brief: &Value, job: JobId) -> Result<Option<Brief>> {
    if *brief == Value::Nil {
        return Ok(None);
    }
    let read = || {
        let mut words = text(brief)?.splitn(4, ' ');
        let (app, inventory, state) = (words.next()?, words.next()?, words.next()?);
        Some(Brief {
            deployment_id: app.parse().ok()?,
            inventory: inventory.parse().ok()?,
            state: state.parse().ok()?,
            reason: words.next().map(str::to_owned),
        })
    };
    read().map(Some).ok_or_else(|| StoreError::Unreadable(format!("brief:{job}")))
}
