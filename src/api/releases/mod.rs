//! Releases: made, listed, shown; their catalogue. What changes them is in `moves`, what is reported on them in `reports`.
//!
//! A release that a reporter may not see is as unknown to it as a random id.

mod catalogue;
mod moves;
mod reports;
mod view;

use std::collections::{BTreeMap, BTreeSet};

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use serde::Deserialize;

use super::auth::{ReleaseReader, Releaser};
use super::docs::{Guarded, OfRelease, ReleasePath, WithBody};
use super::error::ApiError;
use super::extract::{LargeJson, Named, Query, optional_version, optional_word, word};
use super::jobs::Ask;
use super::problem::answer;
use super::{Api, Shared};
use crate::dispatch::{NewRelease, SeenRelease};
use crate::model::ids::{ReleaseId, Word};
use crate::model::release::{Artifact, Standing, Verdict};
use crate::store::{RELEASES_PAGE, ReleaseFilter};
use crate::wire::{Problem, ReleasePage, ReleaseRequest, ReleaseSummary, ReleaseView};
pub(super) use catalogue::*;
pub(super) use moves::*;
pub(super) use reports::*;
use view::Eyes;
pub(super) use view::pending;

/// The most bytes of the body that makes a release: its metadata may have 64 KiB before they are written as JSON.
const RELEASE_MAX: usize = 512 * 1024;
/// How many releases a page has unless the request says otherwise.
const PAGE: usize = 50;
/// The most releases that a page may have.
const PAGE_MAX: usize = 200;
/// So many pieces of the releases are looked at for one answer, whether or not they fit: the next page reads on behind them.
const PIECES_MAX: usize = 5_000 / RELEASES_PAGE;

impl ReleaseReader {
    fn eyes(&self) -> Eyes<'_> {
        match self {
            Self::All => Eyes::All,
            Self::Reporter(name) => Eyes::Reporter(name),
        }
    }
}

/// Which releases a reader may see.
enum Sight {
    All,
    /// Those of these products, and those in which this reporter is or was asked.
    Of(BTreeSet<Word>, Word),
}

impl Sight {
    fn has(&self, seen: &SeenRelease) -> bool {
        match self {
            Self::All => true,
            Self::Of(products, name) => products.contains(&seen.release.product) || view::is_asked(&seen.release, name),
        }
    }
}

impl Api {
    async fn sight(&self, reader: &ReleaseReader) -> Result<Sight, ApiError> {
        match reader {
            ReleaseReader::All => Ok(Sight::All),
            ReleaseReader::Reporter(name) => {
                Ok(Sight::Of(self.dispatcher.store().subscriptions(name).await?, name.clone()))
            }
        }
    }

    /// A release that the reader may see.
    async fn release_for(&self, reader: &ReleaseReader, id: ReleaseId) -> Result<SeenRelease, ApiError> {
        let seen = self.dispatcher.seen_release(id).await?;
        if self.sight(reader).await?.has(&seen) { Ok(seen) } else { Err(ApiError::UnknownRelease) }
    }

    /// What `shown` makes of the newest releases, at most `limit`, and where to read on: a release that was shown, or the last that was
    /// looked at.
    async fn shown_releases<T>(
        &self,
        mut filter: ReleaseFilter,
        limit: usize,
        shown: impl Fn(&SeenRelease) -> Option<T> + Send + Sync,
    ) -> Result<(Vec<T>, Option<ReleaseId>), ApiError> {
        let mut found = Vec::new();
        for _ in 0..PIECES_MAX {
            let (piece, next) = self.dispatcher.seen_releases(&filter).await?;
            for seen in piece {
                found.extend(shown(&seen));
                if found.len() == limit {
                    return Ok((found, Some(seen.release.id)));
                }
            }
            if next.is_none() {
                return Ok((found, None));
            }
            filter.before = next;
        }
        Ok((found, filter.before))
    }
}

/// Make a release
///
/// A frozen set of artifacts, which enters the first stage of its pipeline, or the one that is named. Answered as soon as it is recorded.
#[utoipa::path(
    post, path = "/api/v1/releases", tag = "releases", operation_id = "make_release",
    params(
        ("Idempotency-Key" = Option<String>, Header, pattern = "^[!-~]{1,255}$",
            description = "A name for this very request: repeated within a day, it is answered with the same release"),
    ),
    request_body = ReleaseRequest,
    responses(
        (status = 201, description = "Made", body = ReleaseView, headers(("Location" = String, description = "The release"))),
        (status = 404, description = "There is no such pipeline", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "It may not be made now", body = Problem, content_type = "application/problem+json"),
        Guarded, WithBody,
    ),
    security(("operator" = []), ("releaser" = [])),
)]
pub(super) async fn create(
    State(api): State<Shared>,
    Releaser(by): Releaser,
    ask: Ask,
    LargeJson(request): LargeJson<ReleaseRequest, RELEASE_MAX>,
) -> Result<Response, ApiError> {
    let new = new_release(request, by, ask.idempotency_key)?;
    let dispatcher = api.dispatcher.clone();
    let making = async move { dispatcher.create_release(new).await.map_err(ApiError::from) };
    let seen = api.finishing(making).await.unwrap_or_else(|what| Err(ApiError::NotReady(what)))?;
    let mut response = answer(StatusCode::CREATED, "application/json", &view::release(&seen, Eyes::All));
    if let Ok(location) = HeaderValue::try_from(format!("/api/v1/releases/{}", seen.release.id)) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// What a request asks for, once its names are checked; the rest is the pipeline's to say.
fn new_release(request: ReleaseRequest, by: Word, idempotency_key: Option<String>) -> Result<NewRelease, ApiError> {
    let ReleaseRequest { pipeline, stage, kind, services, metadata } = request;
    let services = services.into_iter().map(|(name, it)| Ok((word("a name in services", name)?, it.into())));
    let metadata = metadata.into_iter().map(|(name, text)| Ok((word("a name in metadata", name)?, text)));
    Ok(NewRelease {
        pipeline: word("pipeline", pipeline)?,
        stage: optional_word("stage", stage)?,
        kind,
        services: services.collect::<Result<BTreeMap<Word, Artifact>, ApiError>>()?,
        metadata: metadata.collect::<Result<_, ApiError>>()?,
        by,
        idempotency_key,
    })
}

/// Filter of the list of releases.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    /// Only of this pipeline
    #[param(pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    pipeline: Option<String>,
    /// Only of this product
    #[param(pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    product: Option<String>,
    /// Only with this service
    #[param(pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    service: Option<String>,
    /// Only with this version of that service, or of any
    #[param(min_length = 1, max_length = 512)]
    version: Option<String>,
    /// Only in this stage, or about to enter it
    #[param(pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    stage: Option<String>,
    /// Only in this state
    #[param(inline)]
    state: Option<Standing>,
    /// Only those that are not over, or only those that are
    active: Option<bool>,
    /// Only those that are ready to deploy, or only those that are not
    ready: Option<bool>,
    /// Only those that were decided so
    #[param(inline)]
    decision: Option<Verdict>,
    /// `cursor` of the page before
    #[param(pattern = r"^[0-7][0-9A-HJKMNP-TV-Z]{25}$")]
    cursor: Option<String>,
    /// Releases per page; 50 unless given
    #[param(minimum = 1, maximum = 200)]
    limit: Option<usize>,
}

/// What a release must be to be listed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wish {
    pipeline: Option<Word>,
    service: Option<Word>,
    version: Option<String>,
    stage: Option<Word>,
    state: Option<Standing>,
    over: Option<bool>,
    ready: Option<bool>,
    decision: Option<Verdict>,
}

impl Wish {
    fn fits(&self, seen: &SeenRelease) -> bool {
        let SeenRelease { release, pipeline } = seen;
        let Self { pipeline: of, service, version, stage, state, over, ready, decision } = self;
        let has = |name: &Word, it: &Artifact| {
            service.as_ref().is_none_or(|wish| wish == name) && version.as_ref().is_none_or(|wish| *wish == it.version)
        };
        of.as_ref().is_none_or(|wish| *wish == release.pipeline)
            && ((service.is_none() && version.is_none()) || release.services.iter().any(|(name, it)| has(name, it)))
            && stage.as_ref().is_none_or(|wish| view::stage(release) == Some(wish))
            && state.is_none_or(|wish| wish == release.standing(pipeline))
            && over.is_none_or(|wish| wish == release.is_over())
            && ready.is_none_or(|wish| wish == release.is_ready_to_deploy(pipeline))
            && decision.is_none_or(|wish| view::verdict(release) == Some(wish))
    }
}

impl Filter {
    /// What Redis filters, what is filtered here, and how many are asked for.
    fn read(self) -> Result<(ReleaseFilter, Wish, usize), ApiError> {
        let Self { pipeline, product, service, version, stage, state, active, ready, decision, cursor, limit } = self;
        let limit = limit.unwrap_or(PAGE);
        if !(1..=PAGE_MAX).contains(&limit) {
            return Err(ApiError::Invalid(format!("limit must be 1 to {PAGE_MAX}")));
        }
        let before = cursor.map(|text| text.parse()).transpose();
        let filter = ReleaseFilter {
            active: active == Some(true),
            products: optional_word("product", product)?.map(|product| BTreeSet::from([product])),
            before: before.map_err(|error| ApiError::Invalid(format!("cursor {error}")))?,
        };
        let wish = Wish {
            pipeline: optional_word("pipeline", pipeline)?,
            service: optional_word("service", service)?,
            version: optional_version(version)?,
            stage: optional_word("stage", stage)?,
            state,
            over: active.map(|active| !active),
            ready,
            decision,
        };
        Ok((filter, wish, limit))
    }
}

/// List releases, newest first
///
/// A reporter sees those of the products that it is subscribed to, and those in which it is asked. A page may have fewer releases than asked
/// for, or none, and a cursor.
#[utoipa::path(
    get, path = "/api/v1/releases", tag = "releases", operation_id = "releases",
    params(Filter),
    responses((status = 200, description = "A page of releases", body = ReleasePage), Guarded),
    security(("operator" = []), ("viewer" = []), ("releaser" = []), ("reporter" = [])),
)]
pub(super) async fn list(
    State(api): State<Shared>,
    reader: ReleaseReader,
    Query(filter): Query<Filter>,
) -> Result<axum::Json<ReleasePage>, ApiError> {
    let (filter, wish, limit) = filter.read()?;
    let sight = api.sight(&reader).await?;
    let shown = |seen: &SeenRelease| (wish.fits(seen) && sight.has(seen)).then(|| view::summary(seen, reader.eyes()));
    let (releases, next) = api.shown_releases(filter, limit, shown).await?;
    let cursor = next.map(|id| cursor(id, &sight, &releases));
    Ok(axum::Json(ReleasePage { releases, cursor }))
}

/// Where the next page begins: behind a release. A reporter is not told one that it may not see; its next page begins with the
/// millisecond in which that was made, of which it is shown nothing twice unless two were made in it.
fn cursor(behind: ReleaseId, sight: &Sight, shown: &[ReleaseSummary]) -> String {
    let is_shown = shown.last().is_some_and(|last| last.id == behind.to_string());
    match sight {
        Sight::Of(..) if !is_shown => ReleaseId::new(behind.ms() + 1, 0).to_string(),
        Sight::All | Sight::Of(..) => behind.to_string(),
    }
}

/// Show a release
///
/// A reporter is shown its own reports, and neither others' nor approvals, jobs and notes.
#[utoipa::path(
    get, path = "/api/v1/releases/{release_id}", tag = "releases", operation_id = "release",
    params(ReleasePath),
    responses((status = 200, description = "The release", body = ReleaseView), Guarded, OfRelease),
    security(("operator" = []), ("viewer" = []), ("releaser" = []), ("reporter" = [])),
)]
pub(super) async fn show(
    State(api): State<Shared>,
    Named(id): Named<ReleaseId>,
    reader: ReleaseReader,
) -> Result<axum::Json<ReleaseView>, ApiError> {
    let seen = api.release_for(&reader, id).await?;
    Ok(axum::Json(view::release(&seen, reader.eyes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_its_version_or_more() {
        let made = |body: &str| {
            let request = super::super::extract::parse_object::<ReleaseRequest>(body.as_bytes())?;
            new_release(request, "ada".parse().expect("a name"), None)
        };
        let new = made(r#"{"pipeline": "foo", "services": {"a": "1.2", "b": {"version": "3", "digest": "sha256:x"}}}"#);
        let new = new.expect("a good one");
        let of = |name: &str| new.services[&name.parse::<Word>().expect("a name")].clone();
        assert_eq!(of("a"), Artifact { version: "1.2".into(), reference: None, digest: None });
        assert_eq!(of("b"), Artifact { version: "3".into(), reference: None, digest: Some("sha256:x".into()) });
        assert_eq!((new.kind, new.stage), (crate::model::release::Kind::Update, None));
        for bad in [
            r#"{"pipeline": "foo"}"#,
            r#"{"pipeline": "../foo", "services": {"a": "1"}}"#,
            r#"{"pipeline": "foo", "services": {"-a": "1"}}"#,
            r#"{"pipeline": "foo", "services": {"a": 1}}"#,
            r#"{"pipeline": "foo", "services": {"a": {"version": "1", "tag": "x"}}}"#,
            r#"{"pipeline": "foo", "services": {"a": "1"}, "stage": ""}"#,
            r#"{"pipeline": "foo", "services": {"a": "1"}, "kind": "new"}"#,
            r#"{"pipeline": "foo", "services": {"a": "1"}, "metadata": {"a b": "x"}}"#,
            r#"{"pipeline": "foo", "services": {"a": "1"}, "by": "bob"}"#,
        ] {
            assert!(matches!(made(bad), Err(ApiError::Invalid(_))), "{bad}");
        }
    }

    #[test]
    fn a_reporter_is_told_no_release_that_it_may_not_see() {
        let hidden = ReleaseId::new(5, 1 << 70);
        let of = Sight::Of(BTreeSet::new(), "ada".parse().expect("a name"));
        assert_eq!(cursor(hidden, &Sight::All, &[]), hidden.to_string());
        let told: ReleaseId = cursor(hidden, &of, &[]).parse().expect("an id");
        assert!(told > hidden && told.ms() == 6, "nothing is passed over: {told}");
    }

    #[test]
    fn the_filter_is_checked() {
        let read = |query: &str| {
            let uri = format!("/?{query}").parse().expect("a URI");
            let axum::extract::Query(filter) = axum::extract::Query::<Filter>::try_from_uri(&uri).map_err(|_| ())?;
            filter.read().map_err(|_| ())
        };
        let (filter, wish, limit) =
            read("product=foo&stage=dev&state=rolled_back&active=true&limit=3").expect("a filter");
        assert_eq!((filter.active, filter.products.map(|it| it.len()), limit), (true, Some(1), 3));
        assert_eq!((wish.state, wish.over, wish.ready), (Some(Standing::RolledBack), Some(false), None));
        let (filter, wish, _) = read("active=false&decision=accepted_with_warnings").expect("a filter");
        assert_eq!((filter.active, wish.over), (false, Some(true)));
        assert_eq!(wish.decision, Some(Verdict::AcceptedWithWarnings));
        for bad in ["limit=0", "limit=201", "state=done", "cursor=x", "app=a", "product=", "active=1", "decision=maybe"]
        {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
