//! Who asks: credentials become values of a type, and a handler that takes such a value has the permission.
//!
//! | type | opened by | may |
//! |---|---|---|
//! | [`App`] | Basic: deployment id and secret | its own jobs |
//! | [`Operator`] | Bearer: an operator's token | everything |
//! | [`Caller`] | either of these | what they may |
//! | [`Claim`] | nothing yet: a token is checked, an app's secret is to be checked by what is read with the job | nothing |
//! | [`Feeder`] | an operator, the feed's token, a live feed job's token; in the seed's endpoints also a peer by its network | read and replace the list of apps |
//! | [`Reporter`] | the token of a job | report on that job |
//!
//! An unknown app and a wrong secret are one answer at one cost. Failed attempts count by the socket's address and by app; who
//! is barred is told so before anything is compared, so that guessing on is of no use.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, header};

use super::credentials::{Given, Holder, given};
use super::error::{ApiError, Wanted};
use super::extract::Named;
use super::{Api, Shared};
use crate::model::app::{self, FEED_ACTION, Secret};
use crate::model::ids::{DeploymentId, Inventory, JobId, Word};
use crate::store::Door;

/// The other end of the socket; never a header.
pub(super) fn peer(parts: &Parts) -> Result<IpAddr, ApiError> {
    match parts.extensions.get::<ConnectInfo<SocketAddr>>() {
        Some(ConnectInfo(peer)) => Ok(peer.ip().to_canonical()),
        None => Err(ApiError::Internal("a request came without its socket's address".into())),
    }
}

impl Api {
    /// Checks an app's credentials against what was read about it.
    pub(super) async fn check_door(
        &self,
        door: Door,
        id: &DeploymentId,
        secret: &str,
        from: IpAddr,
        wanted: Wanted,
    ) -> Result<app::App, ApiError> {
        if let Some(seconds) = door.barred {
            return Err(ApiError::Barred(seconds));
        }
        // Asked again later there may be a list: what was not found in none is no wrong secret.
        if !door.listed {
            return Err(ApiError::NoApps);
        }
        let hash = door.app.as_ref().map(|app| app.hash.as_slice());
        let opens = self.dispatcher.pepper().opens(id, secret, hash);
        match door.app {
            Some(stored) if opens => Ok(stored.app),
            Some(_) | None => Err(self.failed(id.as_str(), from, wanted).await),
        }
    }

    /// Counts a failed attempt.
    async fn failed(&self, id: &str, from: IpAddr, wanted: Wanted) -> ApiError {
        match self.dispatcher.store().note_failure(id, from).await {
            Ok(true) => {
                tracing::info!(peer = %from, app = id, "credentials were refused");
                ApiError::Unauthorized(wanted)
            }
            // Without a list of apps nothing can be said about an app's credentials; a token needs no list.
            Ok(false) if id.is_empty() => ApiError::Unauthorized(wanted),
            Ok(false) => ApiError::NoApps,
            Err(error) => error.into(),
        }
    }

    /// An app that asks for what is not an app's: told so if its credentials are right.
    async fn turn_away(
        &self,
        id: Option<DeploymentId>,
        secret: &Secret,
        from: IpAddr,
        wanted: Wanted,
        why: &'static str,
    ) -> ApiError {
        let Some(id) = id else { return self.failed("", from, wanted).await };
        let door = match self.dispatcher.store().door(&id, from).await {
            Ok(door) => door,
            Err(error) => return error.into(),
        };
        match self.check_door(door, &id, secret.expose(), from, wanted).await {
            Ok(_) => ApiError::Forbidden(why),
            Err(error) => error,
        }
    }

    async fn open_token(&self, token: &Secret, from: IpAddr, wanted: Wanted) -> Result<Holder, ApiError> {
        if let Some(seconds) = self.dispatcher.store().barred(from).await? {
            return Err(ApiError::Barred(seconds));
        }
        match self.tokens.holder(token.expose(), self.dispatcher.pepper()) {
            Some(holder) => Ok(holder),
            None => Err(self.failed("", from, wanted).await),
        }
    }

    /// Whether a job's token still opens the list of apps.
    async fn feeds(&self, job: JobId) -> Result<(), ApiError> {
        let record = self.dispatcher.store().record(job).await?;
        match record.filter(|record| !record.state.is_ended()) {
            Some(record) if record.action.as_str() == FEED_ACTION => Ok(()),
            Some(_) => Err(ApiError::Forbidden("This job's action is not the one that announces apps.")),
            None => Err(ApiError::Unauthorized(Wanted::Feed)),
        }
    }
}

/// An app whose secret was right.
#[derive(Debug)]
pub(super) struct App {
    pub(super) app: app::App,
    pub(super) secret: Secret,
}

/// Whoever is responsible for the whole installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Operator(pub(super) Word);

impl FromRequestParts<Shared> for Operator {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Shared) -> Result<Self, ApiError> {
        let from = peer(parts)?;
        match given(&parts.headers) {
            Given::Nothing => Err(ApiError::Unauthorized(Wanted::Operator)),
            Given::Unreadable => Err(api.failed("", from, Wanted::Operator).await),
            Given::Basic(id, secret) => {
                Err(api.turn_away(id, &secret, from, Wanted::Operator, "This needs an operator's token.").await)
            }
            Given::Bearer(token) => match api.open_token(&token, from, Wanted::Operator).await? {
                Holder::Operator(name) => Ok(Self(name)),
                Holder::Feed | Holder::Job(_) => Err(ApiError::Forbidden("This needs an operator's token.")),
            },
        }
    }
}

/// An app or an operator.
#[derive(Debug)]
pub(super) enum Caller {
    App(Box<App>),
    Operator(Operator),
}

impl Caller {
    /// Whether a job is this caller's to read and to cancel. A job outlives its app's entry in the feed: should its id be given
    /// to another inventory, the job stays the operators'.
    pub(super) fn owns(&self, deployment_id: &DeploymentId, inventory: &Inventory) -> bool {
        match self {
            Self::App(own) => own.app.deployment_id == *deployment_id && own.app.inventory == *inventory,
            Self::Operator(_) => true,
        }
    }

    /// For records and logs.
    pub(super) fn name(&self) -> String {
        match self {
            Self::App(own) => format!("app {}", own.app.deployment_id),
            Self::Operator(Operator(name)) => format!("operator {name}"),
        }
    }
}

/// Credentials of a [`Caller`] to be: an app's secret has not been checked, so that reading what it takes to check it can share
/// a round trip with reading the job. [`Api::admit`] makes a caller of it.
#[derive(Debug)]
pub(super) enum Claim {
    App { id: DeploymentId, secret: Secret, from: IpAddr },
    Operator(Operator),
}

impl Claim {
    /// Whose door is to be read.
    pub(super) fn door(&self) -> Option<(&DeploymentId, IpAddr)> {
        match self {
            Self::App { id, from, .. } => Some((id, *from)),
            Self::Operator(_) => None,
        }
    }
}

impl Api {
    /// Makes a caller of a claim, by the door that it names.
    pub(super) async fn admit(&self, claim: Claim, door: Door) -> Result<Caller, ApiError> {
        match claim {
            Claim::App { id, secret, from } => {
                let app = self.check_door(door, &id, secret.expose(), from, Wanted::AppOrOperator).await?;
                Ok(Caller::App(Box::new(App { app, secret })))
            }
            Claim::Operator(operator) => Ok(Caller::Operator(operator)),
        }
    }
}

impl FromRequestParts<Shared> for Claim {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Shared) -> Result<Self, ApiError> {
        let from = peer(parts)?;
        match given(&parts.headers) {
            Given::Nothing => Err(ApiError::Unauthorized(Wanted::AppOrOperator)),
            Given::Basic(Some(id), secret) => Ok(Self::App { id, secret, from }),
            Given::Unreadable | Given::Basic(None, _) => Err(api.failed("", from, Wanted::AppOrOperator).await),
            Given::Bearer(token) => match api.open_token(&token, from, Wanted::AppOrOperator).await? {
                Holder::Operator(name) => Ok(Self::Operator(Operator(name))),
                Holder::Feed => Err(ApiError::Forbidden("The feed's token opens the list of apps alone.")),
                Holder::Job(_) => Err(ApiError::Forbidden("A job's token opens that job's progress alone.")),
            },
        }
    }
}

impl FromRequestParts<Shared> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Shared) -> Result<Self, ApiError> {
        let claim = Claim::from_request_parts(parts, api).await?;
        let door = match claim.door() {
            Some((id, from)) => api.dispatcher.store().door(id, from).await?,
            None => Door::default(),
        };
        api.admit(claim, door).await
    }
}

/// Whether a page in a browser has sent it: one from anywhere could use the right that its reader's machine has by its network.
fn sent_by_a_page(headers: &HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    headers.contains_key(header::ORIGIN) || site.is_some_and(|site| site != b"none")
}

/// Who may read and replace the list of apps.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Feeder {
    Operator(Operator),
    Token,
    Job(JobId),
    /// By its network (`auth.feed_networks`), in the seed's endpoints alone.
    Peer(IpAddr),
}

impl Feeder {
    /// With or without the right that a peer has by its network; credentials that are given must be right in any case.
    pub(super) async fn find(parts: &Parts, api: &Api, by_network: bool) -> Result<Self, ApiError> {
        let from = peer(parts)?;
        match given(&parts.headers) {
            Given::Nothing
                if by_network
                    && !sent_by_a_page(&parts.headers)
                    && api.feed_networks.iter().any(|network| network.contains(from)) =>
            {
                Ok(Self::Peer(from))
            }
            Given::Nothing => Err(ApiError::Unauthorized(Wanted::Feed)),
            Given::Unreadable => Err(api.failed("", from, Wanted::Feed).await),
            Given::Basic(id, secret) => {
                let why = "This needs the feed's or an operator's token.";
                Err(api.turn_away(id, &secret, from, Wanted::Feed, why).await)
            }
            Given::Bearer(token) => match api.open_token(&token, from, Wanted::Feed).await? {
                Holder::Operator(name) => Ok(Self::Operator(Operator(name))),
                Holder::Feed => Ok(Self::Token),
                Holder::Job(job) => api.feeds(job).await.map(|()| Self::Job(job)),
            },
        }
    }
}

impl FromRequestParts<Shared> for Feeder {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Shared) -> Result<Self, ApiError> {
        Self::find(parts, api, false).await
    }
}

/// The container of the job that the path names.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reporter(pub(super) JobId);

impl FromRequestParts<Shared> for Reporter {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Shared) -> Result<Self, ApiError> {
        let Named(job) = Named::<JobId>::from_request_parts(parts, api).await?;
        let from = peer(parts)?;
        match given(&parts.headers) {
            Given::Nothing => Err(ApiError::Unauthorized(Wanted::JobToken)),
            Given::Unreadable | Given::Basic(..) => Err(api.failed("", from, Wanted::JobToken).await),
            Given::Bearer(token) => match api.open_token(&token, from, Wanted::JobToken).await? {
                Holder::Job(own) if own == job => Ok(Self(job)),
                // Another job's id is as unknown as a random one.
                Holder::Job(_) => Err(ApiError::UnknownJob),
                Holder::Operator(_) | Holder::Feed => {
                    Err(ApiError::Forbidden("Only the job itself reports its progress."))
                }
            },
        }
    }
}
