//! The list of jobs, with its filter.

use axum::extract::State;
use serde::Deserialize;

use super::auth::{Caller, Claim};
use super::docs::Guarded;
use super::error::ApiError;
use super::extract::Query;
use super::{Shared, view};
use crate::model::ids::NameError;
use crate::model::job::{Outcome, State as JobState};
use crate::store::JobFilter;
use crate::wire::JobPage;

/// How many jobs a page has unless the request says otherwise.
const PAGE: usize = 50;
/// The most jobs that a page may have.
const PAGE_MAX: usize = 200;
/// Filter of the list of jobs.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    /// Only of this app
    #[param(pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
    deployment_id: Option<String>,
    /// Only of this inventory
    #[param(pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
    inventory: Option<String>,
    /// Only in one of these states or with one of these outcomes; several are separated by commas
    #[param(
        pattern = r"^(queued|starting|running|canceling|finished|succeeded|failed|canceled|timed_out|superseded|lost)(,(queued|starting|running|canceling|finished|succeeded|failed|canceled|timed_out|superseded|lost))*$"
    )]
    state: Option<String>,
    /// `cursor` of the page before
    #[param(pattern = r"^[0-7][0-9A-HJKMNP-TV-Z]{25}$")]
    cursor: Option<String>,
    /// Jobs per page; 50 unless given
    #[param(minimum = 1, maximum = 200)]
    limit: Option<usize>,
}

impl Filter {
    fn read(self) -> Result<JobFilter, ApiError> {
        fn name<T: TryFrom<String, Error = NameError>>(
            what: &str,
            text: Option<String>,
        ) -> Result<Option<T>, ApiError> {
            text.map(T::try_from).transpose().map_err(|error| ApiError::Invalid(format!("{what} {error}")))
        }
        let limit = self.limit.unwrap_or(PAGE);
        if !(1..=PAGE_MAX).contains(&limit) {
            return Err(ApiError::Invalid(format!("limit must be 1 to {PAGE_MAX}")));
        }
        let before = self.cursor.map(|text| text.parse()).transpose();
        Ok(JobFilter {
            deployment_id: name("deployment_id", self.deployment_id)?,
            inventory: name("inventory", self.inventory)?,
            states: self.state.as_deref().map_or(Ok(vec![]), states)?,
            before: before.map_err(|error| ApiError::Invalid(format!("cursor {error}")))?,
            limit,
        })
    }
}

fn states(text: &str) -> Result<Vec<String>, ApiError> {
    const OUTCOMES: [Outcome; 6] =
        [Outcome::Succeeded, Outcome::Failed, Outcome::Canceled, Outcome::TimedOut, Outcome::Superseded, Outcome::Lost];
    let mut words = Vec::new();
    for word in text.split(',') {
        if word == "finished" {
            words.extend(OUTCOMES.map(|outcome| outcome.word().to_owned()));
        } else if word.parse::<JobState>().is_ok() {
            words.push(word.to_owned());
        } else {
            let known = "queued, starting, running, canceling, finished, succeeded, failed, canceled, timed_out, superseded, lost";
            return Err(ApiError::Invalid(format!("state must be one or more of {known}, separated by commas")));
        }
    }
    words.sort();
    words.dedup();
    Ok(words)
}

/// List jobs, newest first
///
/// An app sees its own jobs, an operator all of them. An ID token sees those of the app that `deployment_id` names.
#[utoipa::path(
    get, path = "/api/v1/jobs", tag = "jobs", operation_id = "jobs",
    params(Filter),
    responses((status = 200, description = "A page of jobs", body = JobPage), Guarded),
    security(("app" = []), ("oidc" = []), ("operator" = []), ("viewer" = []), ("releaser" = [])),
)]
pub(super) async fn list(
    State(api): State<Shared>,
    Query(filter): Query<Filter>,
    claim: Claim,
) -> Result<axum::Json<JobPage>, ApiError> {
    let named = filter.deployment_id.as_deref().and_then(|id| id.parse().ok());
    let caller = api.admit_at(claim, named.as_ref()).await?;
    let mut filter = filter.read()?;
    if let Caller::App(own) = &caller {
        let app = &own.app;
        let others = filter.deployment_id.as_ref().is_some_and(|id| *id != app.deployment_id)
            || filter.inventory.as_ref().is_some_and(|inventory| *inventory != app.inventory);
        if others {
            return Ok(axum::Json(JobPage { jobs: vec![], cursor: None }));
        }
        filter.deployment_id = Some(app.deployment_id.clone());
        filter.inventory = Some(app.inventory.clone());
    }
    let found = api.dispatcher.store().jobs(&filter).await?;
    let cursor = (found.len() >= filter.limit).then(|| found.last().map(|last| last.record.id.to_string())).flatten();
    Ok(axum::Json(JobPage { jobs: found.into_iter().map(view::job).collect(), cursor }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_is_checked() {
        let read = |query: &str| {
            let uri = format!("/?{query}").parse().expect("a URI");
            let axum::extract::Query(filter) = axum::extract::Query::<Filter>::try_from_uri(&uri).map_err(|_| ())?;
            filter.read().map_err(|_| ())
        };
        let filter = read("deployment_id=a&inventory=i&state=running,finished&limit=3").expect("a filter");
        assert_eq!(filter.limit, 3);
        assert_eq!(filter.states.len(), 7);
        assert_eq!(read("").expect("a filter").limit, PAGE);
        for bad in [
            "limit=0",
            "limit=201",
            "limit=-1",
            "state=",
            "state=done",
            "cursor=x",
            "app=a",
            "inventory=../x",
            "deployment_id=",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
