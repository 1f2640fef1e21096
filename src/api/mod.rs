//! HTTP: who may ask what, and how it is answered. What is done lies in `dispatch` and `store`.
//!
//! ```text
//!  serve ── TLS, limits, peer's address ──▶ observe ──▶ route ──▶ extractors (auth, extract) ──▶ handler ──▶ dispatch, store
//!                                              ▲                        │                            │
//!                                              └──────── error: one mapping, in two forms ◀──────────┘
//! ```
//!
//! * A handler that takes an `Operator` or a `Caller`, or makes one of a `Claim`, has the permission: there is no check to forget.
//! * What must be finished runs on a task of its own, and the handler awaits it: a client that hangs up changes nothing.
//! * The router is the source of the OpenAPI document. An answer that it does not name is a fault.

mod apps;
mod audit;
mod auth;
mod credentials;
mod docs;
mod error;
mod events;
mod extract;
mod jobs;
mod list;
mod locks;
mod observe;
mod ops;
mod orders;
mod output;
mod pipelines;
mod poll;
mod problem;
mod releases;
mod reporters;
mod seed;
pub mod serve;
mod stream;
pub mod tls;
mod tokens;
mod unread;
mod view;
mod webhooks;

use std::future::Future;
use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use utoipa::OpenApi as _;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use utoipa_swagger_ui::SwaggerUi;

use crate::config::{Auth, FinalStatus, IpNetwork};
use crate::dispatch::Dispatcher;
use crate::egress::Egress;
use crate::metrics::Metrics;
use crate::oidc::Oidc;
use crate::repositories::Repositories;

use error::ApiError;

type Shared = Arc<Api>;

/// What the handlers share.
pub struct Api {
    dispatcher: Arc<Dispatcher>,
    tokens: credentials::Tokens,
    oidc: Oidc,
    egress: Egress,
    repositories: Repositories,
    feed_networks: Vec<IpNetwork>,
    final_status: FinalStatus,
    metrics: Arc<Metrics>,
    requests: observe::Requests,
    gauges: ops::Gauges,
    /// Work that outlives the connection that asked for it.
    tasks: TaskTracker,
    /// Ends what waits for news: long-polls and followers.
    stop: CancellationToken,
}

impl Api {
    /// `stop` ends long-polls and followers; cancel it together with the token given to [`serve::serve`].
    pub fn new(
        dispatcher: Arc<Dispatcher>,
        auth: &Auth,
        oidc: Oidc,
        egress: Egress,
        final_status: FinalStatus,
        metrics: Arc<Metrics>,
        stop: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            tokens: credentials::Tokens::new(auth, dispatcher.pepper()),
            oidc,
            repositories: Repositories::new(egress.clone()),
            egress,
            feed_networks: auth.feed_networks.clone(),
            final_status,
            requests: observe::Requests::new(&metrics),
            gauges: ops::Gauges::new(&metrics),
            metrics,
            dispatcher,
            tasks: TaskTracker::new(),
            stop,
        })
    }

    /// Runs to its end what must be finished, whether or not the caller stays. Fails only when the task died.
    async fn finishing<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, &'static str> {
        self.tasks.spawn(work).await.map_err(|error| {
            tracing::error!(%error, "a task that was to finish a request died");
            "the request was begun, and how it ended is not known"
        })
    }

    /// Waits for what handlers have begun and their clients no longer wait for. Call it when no connection is left, and before
    /// the dispatcher is stopped.
    pub async fn finished(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

fn v1() -> OpenApiRouter<Shared> {
    OpenApiRouter::default()
        .routes(routes!(jobs::submit))
        .routes(routes!(list::list))
        .routes(routes!(jobs::job))
        .routes(routes!(jobs::cancel))
        .routes(routes!(jobs::progress))
        .routes(routes!(output::output))
        .routes(routes!(events::events))
        .routes(routes!(stream::events))
        .routes(routes!(apps::set, apps::list))
        .routes(routes!(locks::list))
        .routes(routes!(locks::unlock))
        .routes(routes!(locks::freeze, locks::unfreeze))
        .routes(routes!(webhooks::list))
        .routes(routes!(webhooks::set, webhooks::remove))
        .routes(routes!(webhooks::dead_letters))
        .routes(routes!(webhooks::replay))
        .routes(routes!(pipelines::list))
        .routes(routes!(pipelines::show, pipelines::set))
        .routes(routes!(releases::list, releases::create))
        .routes(routes!(releases::show))
        .routes(routes!(stream::release_events))
        .routes(routes!(releases::report))
        .routes(routes!(releases::log))
        .routes(routes!(releases::approve, releases::withdraw))
        .routes(routes!(releases::promote))
        .routes(routes!(releases::decide))
        .routes(routes!(releases::reject))
        .routes(routes!(releases::retry))
        .routes(routes!(releases::bypass))
        .routes(routes!(releases::rollback))
        .routes(routes!(releases::lift))
        .routes(routes!(releases::catalogue))
        .routes(routes!(orders::list, orders::give))
        .routes(routes!(orders::plan))
        .routes(routes!(orders::show))
        .routes(routes!(orders::file_of))
        .routes(routes!(orders::again))
        .routes(routes!(orders::cancel))
        .routes(routes!(orders::retry))
        .routes(routes!(orders::environments))
        .routes(routes!(orders::environment, orders::set_environment))
        .routes(routes!(reporters::list))
        .routes(routes!(reporters::set, reporters::remove))
        .routes(routes!(reporters::pending))
        .routes(routes!(tokens::list, tokens::issue))
        .routes(routes!(tokens::revoke))
        .routes(routes!(audit::lines))
        .routes(routes!(ops::healthz))
        .routes(routes!(ops::readyz))
        .routes(routes!(ops::metrics))
}

fn seed() -> OpenApiRouter<Shared> {
    OpenApiRouter::default()
        .routes(routes!(seed::app_deploy))
        .routes(routes!(poll::job_status))
        .routes(routes!(seed::set_available_apps))
        .routes(routes!(seed::get_available_apps))
}

/// The specification, made from the router.
pub fn openapi() -> utoipa::openapi::OpenApi {
    let mut document = docs::Document::openapi();
    document.merge(v1().into_openapi());
    document.merge(seed().into_openapi());
    document
}

/// Written when it is first asked for: most processes never are.
static DOCUMENT: LazyLock<bytes::Bytes> =
    LazyLock::new(|| bytes::Bytes::from(openapi().to_json().expect("the document can be written as JSON")));

/// Everything that is served.
pub fn router(api: Arc<Api>) -> Router {
    let v1: Router<Shared> = v1().into();
    let v1 = v1
        .method_not_allowed_fallback(|| async { ApiError::MethodNotAllowed })
        .layer(middleware::map_response(not_stored));
    let seed: Router<Shared> = seed().into();
    let seed = seed
        .route("/app-deploy", post(seed::app_deploy))
        .route("/job-status", post(poll::job_status))
        .route("/set-available-apps", post(seed::set_available_apps))
        .route("/get-available-apps", get(seed::get_available_apps))
        .method_not_allowed_fallback(seed::method_not_allowed);
    let specification = get(|| async { ([(header::CONTENT_TYPE, "application/json")], DOCUMENT.clone()) });
    let page: Router<Shared> = SwaggerUi::new("/docs").config(utoipa_swagger_ui::Config::from("/openapi.json")).into();
    let page = page
        .route("/openapi.json", specification)
        .method_not_allowed_fallback(|| async { ApiError::MethodNotAllowed })
        .layer(middleware::map_response(not_found_in_words));
    Router::new()
        .merge(v1)
        .merge(seed)
        .merge(page)
        .fallback(|| async { ApiError::UnknownPath })
        .layer(middleware::from_fn_with_state(api.clone(), observe::observe))
        .with_state(api)
}

/// A page that is not there is answered like any other path.
async fn not_found_in_words(response: Response) -> Response {
    if response.status() == StatusCode::NOT_FOUND { ApiError::UnknownPath.into_response() } else { response }
}

/// Answers of v1 are for whoever asked, now.
async fn not_stored(mut response: Response) -> Response {
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}
