//! The router in this process, on a real Redis and an engine whose containers do what the test says.

mod abuse;
mod documents;
mod follow;
mod oidc;
mod operator;
mod pipelines;
mod releases;
mod seed;
mod stream;
mod tokens;
mod trouble;
mod v1;
mod webhooks;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::ConnectInfo;
use axum::http::{HeaderMap, Request, StatusCode, header};
use base64::Engine as _;
use lockstep::api;
use lockstep::config::{Auth, FinalStatus, Job, Operator, Runner};
use lockstep::dispatch::{Dispatcher, Parts};
use lockstep::egress::Egress;
use lockstep::engine::Pull;
use lockstep::metrics::Metrics;
use lockstep::model::app::Secret;
use lockstep::oidc::{Oidc, Pace};
use lockstep::pepper::Pepper;
use lockstep::store::Store;
use lockstep::webhooks::{Pace as Patience, Webhooks};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::support::eventually;
use super::support::puppet::Puppet;
use super::support::redis::RedisServer;

const OPERATOR: &str = "an operator's token";
const FEED: &str = "the feed's own token";

/// Failures soon have their consequences.
const PACE: Patience = Patience {
    wait: Duration::from_millis(50),
    longest: Duration::from_millis(200),
    tries: 3,
    patience: Duration::from_secs(4),
};

/// A whole service but for its sockets.
struct Service {
    redis: RedisServer,
    engine: Arc<Puppet>,
    router: Router,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

fn secret(text: &str) -> Secret {
    Secret::new(text.to_owned())
}

impl Service {
    /// One that knows the apps `one` and `two` (of inventories `i-one` and `i-two`), and `feeder` (action `announce-apps`).
    async fn start() -> Self {
        let service = Self::empty(FinalStatus::Finished).await;
        service.feed(&json!([app("one"), app("two"), {
            "deployment_id": "feeder", "deployment_secret": "secret-of-feeder", "inventory": "i-feeder", "action": "announce-apps",
        }])).await;
        service
    }

    /// One that knows no app yet.
    async fn empty(final_status: FinalStatus) -> Self {
        Self::with(final_status, Oidc::new(Egress::new(&[]), Pace::default())).await
    }

    /// One that knows no app yet, and checks ID tokens in this way.
    async fn with(final_status: FinalStatus, oidc: Oidc) -> Self {
        Self::calling(final_status, oidc, Egress::new(&[])).await
    }

    /// One that knows no app yet, and calls receivers of webhooks through this guard.
    async fn calling(final_status: FinalStatus, oidc: Oidc, egress: Egress) -> Self {
        let redis = RedisServer::start().await;
        let instance = "test".parse().expect("a name");
        let store = Store::connect(&redis.url(), &instance, "here", Duration::from_secs(3600)).await.expect("a store");
        let engine = Arc::new(Puppet::new());
        let actions =
            ["app-deploy", "announce-apps"].map(|name| (name.parse().expect("a name"), vec!["true".to_owned()]));
        let auth = Auth {
            feed_token: Some(secret(FEED)),
            operators: vec![Operator { name: "ada".parse().expect("a name"), token: secret(OPERATOR) }],
            pepper: secret("0123456789abcdef"),
            feed_networks: vec!["127.0.0.0/8".parse().expect("a network")],
        };
        let metrics = Arc::new(Metrics::default());
        let dispatcher = Dispatcher::new(Parts {
            instance,
            store,
            engine: engine.clone(),
            pepper: Pepper::new(&auth.pepper),
            runner: Runner {
                image: "image".into(),
                pull: Pull::Never,
                login: None,
                actions: actions.into(),
                network: None,
                mounts: vec![],
                env: BTreeMap::new(),
                memory: 1 << 30,
                millicpus: 1000,
                pids: 64,
                keep: Duration::from_millis(100),
            },
            job: Job {
                start_timeout: Duration::from_secs(60),
                run_timeout: Duration::from_secs(600),
                idle_timeout: None,
                stop_grace: Duration::from_secs(5),
                output_limit: 8 << 20,
                retention: Duration::from_secs(3600),
            },
            public_url: "https://host.docker.internal:8443".into(),
            ca: concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml").into(),
            release_retention: Duration::from_secs(3600),
            order_parallel: 4,
            feed_at_start: false,
            metrics: metrics.clone(),
        });
        let stop = CancellationToken::new();
        let task = tokio::spawn({
            let (dispatcher, stop) = (dispatcher.clone(), stop.clone());
            async move { dispatcher.run(stop).await.expect("no part dies") }
        });
        let sending = Webhooks::new(dispatcher.clone(), egress.clone(), PACE).run(stop.clone());
        let task = tokio::spawn(async move { tokio::join!(task, sending).0.expect("it ends well") });
        let api = api::Api::new(dispatcher, &auth, oidc, egress, final_status, metrics, stop.clone());
        let service = Self { redis, engine, router: api::router(api), stop, task };
        eventually("the service is ready", async || {
            (service.call(Ask::get("/readyz")).await.status == StatusCode::OK).then_some(())
        })
        .await;
        service
    }

    async fn send(&self, ask: Ask) -> axum::response::Response {
        self.router.clone().oneshot(ask.0).await.expect("a router does not fail")
    }

    async fn call(&self, ask: Ask) -> Answer {
        let (parts, body) = self.send(ask).await.into_parts();
        let body = to_bytes(body, 16 << 20).await.expect("a body");
        Answer { status: parts.status, headers: parts.headers, body: body.to_vec() }
    }

    async fn feed(&self, apps: &Value) {
        let answer = self.call(Ask::post("/set-available-apps/").json(apps)).await;
        assert_eq!((answer.status, answer.json()), (StatusCode::OK, json!({"status": "ok"})));
    }

    /// Asks for a deployment in v1; its job id.
    async fn submit(&self, id: &str) -> String {
        let answer = self.call(Ask::post(&format!("/api/v1/apps/{id}/jobs")).app(id)).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
        answer.json()["job_id"].as_str().expect("an id").to_owned()
    }

    /// A job of the app whose container runs.
    async fn running(&self, id: &str) -> String {
        let job = self.submit(id).await;
        self.engine.running(&format!("i-{id}")).await;
        self.reaches(&job, "running").await;
        job
    }

    async fn reaches(&self, job: &str, state: &str) -> Value {
        eventually(&format!("job {job} is {state}"), async || {
            let job = self.call(Ask::get(&format!("/api/v1/jobs/{job}")).token(OPERATOR)).await.json();
            (job["state"] == state).then_some(job)
        })
        .await
    }

    /// Lets the container end, and waits for the outcome.
    async fn end(&self, id: &str, job: &str, exit_code: i64) -> Value {
        self.engine.end(&format!("i-{id}"), exit_code);
        self.reaches(job, "finished").await
    }

    /// Waits until so many bytes of output can be read.
    async fn printed(&self, job: &str, bytes: u64) {
        eventually(&format!("{bytes} bytes of output"), async || {
            let job = self.call(Ask::get(&format!("/api/v1/jobs/{job}")).token(OPERATOR)).await.json();
            (job["output_bytes"] == bytes).then_some(())
        })
        .await;
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.expect("it ends well");
    }
}

/// An entry of the feed: secret and inventory follow from the id.
fn app(id: &str) -> Value {
    json!({"deployment_id": id, "deployment_secret": format!("secret-of-{id}"), "inventory": format!("i-{id}")})
}

/// A request.
struct Ask(Request<Body>);

impl Ask {
    fn new(method: &str, path: &str) -> Self {
        let peer = ConnectInfo(SocketAddr::from(([127, 0, 0, 1], 40_000)));
        let request = Request::builder().method(method).uri(path).extension(peer).body(Body::empty());
        Self(request.expect("a request"))
    }

    fn get(path: &str) -> Self {
        Self::new("GET", path)
    }

    fn post(path: &str) -> Self {
        Self::new("POST", path)
    }

    fn header(mut self, name: &'static str, value: &str) -> Self {
        self.0.headers_mut().insert(name, value.parse().expect("a header"));
        self
    }

    fn basic(self, id: &str, secret: &str) -> Self {
        let text = base64::engine::general_purpose::STANDARD.encode(format!("{id}:{secret}"));
        self.header("authorization", &format!("Basic {text}"))
    }

    /// With the app's own credentials.
    fn app(self, id: &str) -> Self {
        self.basic(id, &format!("secret-of-{id}"))
    }

    fn token(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    fn from(mut self, address: [u8; 4]) -> Self {
        self.0.extensions_mut().insert(ConnectInfo(SocketAddr::from((address, 40_000))));
        self
    }

    fn body(mut self, body: impl Into<Body>) -> Self {
        *self.0.body_mut() = body.into();
        self
    }

    fn json(self, body: &Value) -> Self {
        self.body(body.to_string()).header("content-type", "application/json")
    }
}

/// An answer, read to its end.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

/// Readable, and never so long that the rest of a failed test's report is lost in it.
impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let begin = String::from_utf8_lossy(&self.body[..self.body.len().min(2000)]);
        write!(f, "{} {:?} {} bytes: {begin}", self.status, self.headers, self.body.len())
    }
}

impl Answer {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("JSON: {self:?}"))
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }

    /// Status and word of a problem, after checking that it is a whole one.
    fn problem(&self) -> (u16, String) {
        let problem = self.json();
        assert_eq!(self.header(header::CONTENT_TYPE.as_str()), "application/problem+json", "{self:?}");
        assert_eq!(problem["status"], self.status.as_u16());
        for field in ["title", "detail"] {
            assert!(problem[field].as_str().is_some_and(|text| !text.is_empty()), "{problem}");
        }
        let kind = problem["type"].as_str().expect("a type");
        (self.status.as_u16(), kind.strip_prefix("urn:lockstep:error:").expect("the prefix").to_owned())
    }
}

fn is(status: u16, word: &str) -> (u16, String) {
    (status, word.to_owned())
}
