//! Who asks: credentials become values of a type, and a handler that takes such a value has the permission.
//!
//! | type | opened by | may |
//! |---|---|---|
//! | [`App`] | Basic: deployment id and secret. Bearer: an ID token of a CI that the app's rules fit | its own jobs |
//! | [`Operator`] | Bearer: a token with the role operator | everything |
//! | [`Viewer`] | Bearer: a token with any role but reporter | see everything |
//! | [`Releaser`] | Bearer: a token with the role releaser or operator | make releases and move them |
//! | [`Approver`] | Bearer: a token with any role but reporter; whether one of its groups is asked is the release's to say | approve releases |
//! | [`Reporter`] | Bearer: a token with the role reporter or operator; whether its name is asked is the release's to say | report on releases |
//! | [`ReleaseReader`] | a [`Viewer`], or a reporter | see releases, a reporter those that are its business |
//! | [`Caller`] | an app, an operator or a viewer | what they may |
//! | [`Claim`] | nothing yet: a token of this installation's own is checked, an app's secret or an ID token is to be checked by what is read with the job | nothing |
//! | [`AtApp`] | as a caller, of the app that the path names | what that caller may |
//! | [`FeedReader`] | a [`Feeder`], or a viewer | read the list of apps |
//! | [`Feeder`] | an operator, the feed's token, a live feed job's token; in the seed's endpoints also a peer by its network | read and replace the list of apps |
//! | [`Container`] | the token of a job | report on that job |
//!
//! An unknown app and a wrong secret are one answer at one cost. Failed attempts count by the socket's address and by app; who
//! is barred is told so before anything is compared, so that guessing on is of no use.
//!
//! An ID token names no app. Where the path does, it is checked against that app's rules; where the path names a job, against those of the
//! job's app, and one that does not fit is answered as if there were no such job. What is wrong with a token by itself (its
//! form, its time) is said as wrong credentials in either case. What did not fit stands in the log alone.

mod people;
mod wanted;

use std::net::{IpAddr, SocketAddr};

use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, header};

use super::credentials::{Given, Holder, given};
use super::error::ApiError;
use super::extract::Named;
use super::{Api, Shared};
use crate::clock;
use crate::model::app::{self, FEED_ACTION, Secret};
use crate::model::ids::{DeploymentId, Inventory, JobId};
use crate::model::oidc;
use crate::model::token::{Grant, Role};
use crate::oidc::{Refusal, Token, is_token};
use crate::store::Door;
pub(super) use people::*;
pub(super) use wanted::Wanted;

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
        let hash = door.app.as_ref().and_then(|app| app.hash.as_deref());
        let opens = self.dispatcher.pepper().opens(id, secret, hash);
        match door.app {
            Some(stored) if opens => Ok(stored.app),
            Some(_) | None => Err(self.failed(id.as_str(), from, wanted).await),
        }
    }

    /// Checks an ID token against what was read about an app: the one that the path names, or that of the job which it names.
    async fn check_token(&self, door: Door, text: &Secret, from: IpAddr, at: Target<'_>) -> Result<App, ApiError> {
        if let Some(seconds) = door.barred {
            return Err(ApiError::Barred(seconds));
        }
        if !door.listed {
            return Err(ApiError::NoApps);
        }
        let wanted = Wanted::AppOrOperator;
        let counted = match at {
            Target::App(id) => id.as_str(),
            Target::Job => "",
        };
        let token = match Token::read(text) {
            Ok(token) => token,
            Err(error) => {
                tracing::info!(peer = %from, %error, "a text that is no ID token was refused");
                return Err(self.failed(counted, from, wanted).await);
            }
        };
        let app = door.app.map(|stored| stored.app);
        let refused = |error: &dyn std::fmt::Display| {
            let app = app.as_ref().map(|app| app.deployment_id.as_str());
            tracing::info!(peer = %from, app, by = token.who(), %error, "an ID token was refused");
        };
        if let Err(error) = oidc::in_time(token.claims(), clock::wall_ms()) {
            refused(&error);
            return Err(self.failed(counted, from, wanted).await);
        }
        let rules = app.as_ref().map_or(&[][..], |app| &app.oidc);
        match (self.oidc.check(&token, rules).await, &app) {
            (Ok(()), Some(app)) => Ok(App { app: app.clone(), secret: None, token: Some(token.who()) }),
            (Err(error @ Refusal::Unknown), _) => {
                refused(&error);
                Err(ApiError::IssuerNotReached)
            }
            (Err(error), _) => {
                refused(&error);
                match (self.failed(counted, from, wanted).await, at) {
                    // Another app's job is as unknown as a random one.
                    (ApiError::Unauthorized(_), Target::Job) => Err(ApiError::UnknownJob),
                    (error, _) => Err(error),
                }
            }
            (Ok(()), None) => Err(ApiError::Internal("a token fits the rules of no app".into())),
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
    async fn turn_away(&self, id: Option<DeploymentId>, secret: &Secret, from: IpAddr, wanted: Wanted) -> ApiError {
        let Some(id) = id else { return self.failed("", from, wanted).await };
        let door = match self.dispatcher.store().door(&id, from).await {
            Ok(door) => door,
            Err(error) => return error.into(),
        };
        match self.check_door(door, &id, secret.expose(), from, wanted).await {
            Ok(_) => ApiError::Forbidden(wanted.others()),
            Err(error) => error,
        }
    }

    async fn open_token(&self, token: &Secret, from: IpAddr, wanted: Wanted) -> Result<Holder, ApiError> {
        let pepper = self.dispatcher.pepper();
        let hash = pepper.token_hash(token.expose());
        let (grant, barred) = self.dispatcher.store().token(&hash, from).await?;
        if let Some(seconds) = barred {
            return Err(ApiError::Barred(seconds));
        }
        match self.tokens.holder(token.expose(), &hash, pepper).or(grant.map(Holder::Person)) {
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

/// An app whose secret was right, or which an ID token opens.
#[derive(Debug)]
pub(super) struct App {
    pub(super) app: app::App,
    /// The secret, where it was given.
    pub(super) secret: Option<Secret>,
    /// Otherwise the token's issuer and subject.
    token: Option<String>,
}

/// What an ID token is to open.
#[derive(Debug, Clone, Copy)]
enum Target<'a> {
    App(&'a DeploymentId),
    Job,
}

/// An app, an operator, or somebody who sees everything and may not change jobs.
#[derive(Debug)]
pub(super) enum Caller {
    App(App),
    Operator(Operator),
    Viewer(Viewer),
}

impl Caller {
    /// Whether a job is this caller's to read, and to cancel for all but viewers. A job outlives its app's entry in the feed: should its id be given
    /// to another inventory, the job stays the operators'.
    pub(super) fn owns(&self, deployment_id: &DeploymentId, inventory: &Inventory) -> bool {
        match self {
            Self::App(own) => own.app.deployment_id == *deployment_id && own.app.inventory == *inventory,
            Self::Operator(_) | Self::Viewer(_) => true,
        }
    }

    /// For records and logs.
    pub(super) fn name(&self) -> String {
        match self {
            Self::App(App { app, token: None, .. }) => format!("app {}", app.deployment_id),
            Self::App(App { token: Some(who), .. }) => who.clone(),
            Self::Operator(Operator(name)) => format!("operator {name}"),
            Self::Viewer(viewer) => viewer.to_string(),
        }
    }
}

impl TryFrom<Grant> for Caller {
    type Error = ApiError;

    fn try_from(grant: Grant) -> Result<Self, ApiError> {
        match grant.role {
            Role::Operator => Ok(Self::Operator(Operator(grant.name))),
            Role::Viewer | Role::Releaser | Role::Reporter => grant.try_into().map(Self::Viewer),
        }
    }
}

/// Credentials of a [`Caller`] to be: an app's secret or an ID token has not been checked, so that reading what it takes to check
/// a secret can share a round trip with reading the job, and because the job says whose rules a token is checked against.
/// [`Api::admit`] makes a caller of it, or [`Api::admit_at`] where no job is asked for.
#[derive(Debug)]
pub(super) enum Claim {
    App { id: DeploymentId, secret: Secret, from: IpAddr },
    Token { token: Secret, from: IpAddr },
    Person(Caller),
}

impl Claim {
    /// Whose door is to be read.
    pub(super) fn door(&self) -> Option<(&DeploymentId, IpAddr)> {
        match self {
            Self::App { id, from, .. } => Some((id, *from)),
            Self::Token { .. } | Self::Person(_) => None,
        }
    }
}

impl Api {
    /// Makes a caller of a claim to a job, by the door that the claim names, or by the job's app (none: there is no such job).
    pub(super) async fn admit(
        &self,
        claim: Claim,
        door: Door,
        job_of: Option<&DeploymentId>,
    ) -> Result<Caller, ApiError> {
        match claim {
            Claim::App { id, secret, from } => {
                let app = self.check_door(door, &id, secret.expose(), from, Wanted::AppOrOperator).await?;
                Ok(Caller::App(App { app, secret: Some(secret), token: None }))
            }
            Claim::Token { token, from } => {
                let door = self.dispatcher.store().token_door(job_of, from).await?;
                self.check_token(door, &token, from, Target::Job).await.map(Caller::App)
            }
            Claim::Person(caller) => Ok(caller),
        }
    }

    /// Makes a caller of a claim where no job is asked for. `app`: the app that the request names.
    pub(super) async fn admit_at(&self, claim: Claim, app: Option<&DeploymentId>) -> Result<Caller, ApiError> {
        let store = self.dispatcher.store();
        match (claim, app) {
            (Claim::Token { token, from }, Some(id)) => {
                let door = store.door(id, from).await?;
                self.check_token(door, &token, from, Target::App(id)).await.map(Caller::App)
            }
            (Claim::Token { .. }, None) => {
                Err(ApiError::Invalid("With an ID token the app must be named: deployment_id=…".into()))
            }
            (claim, _) => {
                let door = match claim.door() {
                    Some((id, from)) => store.door(id, from).await?,
                    None => Door::default(),
                };
                self.admit(claim, door, None).await
            }
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
            Given::Bearer(token) if is_token(token.expose()) => Ok(Self::Token { token, from }),
            Given::Bearer(token) => match api.open_token(&token, from, Wanted::AppOrOperator).await? {
                Holder::Person(grant) => grant.try_into().map(Self::Person),
                Holder::Feed => Err(ApiError::Forbidden("The feed's token opens the list of apps alone.")),
                Holder::Job(_) => Err(ApiError::Forbidden("A job's token opens that job's progress alone.")),
            },
        }
    }
}

/// Who asks something of the app that the path names; that it is his own is for the handler to see.
#[derive(Debug)]
pub(super) struct AtApp(pub(super) DeploymentId, pub(super) Caller);

impl FromRequestParts<Shared> for AtApp {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Shared) -> Result<Self, ApiError> {
        let Named(id) = Named::<DeploymentId>::from_request_parts(parts, api).await?;
        let claim = Claim::from_request_parts(parts, api).await?;
        let caller = api.admit_at(claim, Some(&id)).await?;
        Ok(Self(id, caller))
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

/// Who may read the list of apps: a [`Feeder`], or a viewer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FeedReader {
    Feeder(Feeder),
    Viewer(Viewer),
}

impl FeedReader {
    /// With or without the right that a peer has by its network; credentials that are given must be right in any case.
    pub(super) async fn find(parts: &Parts, api: &Api, by_network: bool) -> Result<Self, ApiError> {
        let from = peer(parts)?;
        let feeder = |feeder| Ok(Self::Feeder(feeder));
        match given(&parts.headers) {
            Given::Nothing
                if by_network
                    && !sent_by_a_page(&parts.headers)
                    && api.feed_networks.iter().any(|network| network.contains(from)) =>
            {
                feeder(Feeder::Peer(from))
            }
            Given::Nothing => Err(ApiError::Unauthorized(Wanted::Feed)),
            Given::Unreadable => Err(api.failed("", from, Wanted::Feed).await),
            Given::Basic(id, secret) => Err(api.turn_away(id, &secret, from, Wanted::Feed).await),
            Given::Bearer(token) => match api.open_token(&token, from, Wanted::Feed).await? {
                Holder::Person(Grant { name, role: Role::Operator, .. }) => feeder(Feeder::Operator(Operator(name))),
                Holder::Person(grant) => grant.try_into().map(Self::Viewer),
                Holder::Feed => feeder(Feeder::Token),
                Holder::Job(job) => api.feeds(job).await.and_then(|()| feeder(Feeder::Job(job))),
            },
        }
    }
}

impl FromRequestParts<Shared> for FeedReader {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Shared) -> Result<Self, ApiError> {
        Self::find(parts, api, false).await
    }
}

impl Feeder {
    /// As [`FeedReader::find`].
    pub(super) async fn find(parts: &Parts, api: &Api, by_network: bool) -> Result<Self, ApiError> {
        match FeedReader::find(parts, api, by_network).await? {
            FeedReader::Feeder(feeder) => Ok(feeder),
            FeedReader::Viewer(viewer) => Err(viewer.only_views()),
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
pub(super) struct Container(pub(super) JobId);

impl FromRequestParts<Shared> for Container {
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
                Holder::Person(_) | Holder::Feed => {
                    Err(ApiError::Forbidden("Only the job itself reports its progress."))
                }
            },
        }
    }
}
