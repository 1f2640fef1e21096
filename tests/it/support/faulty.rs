//! A dispatcher as its clients see one, over HTTPS, with faults that can be switched on: a simulator for tests of the client.
//!
//! It keeps one job. What the job prints is served as the real one serves it, at most `piece` bytes an answer; a fault is
//! used up by the next request of its kind.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::{Body, to_bytes};
use axum::http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use lockstep::client::{Credential, Need, Options, http::Http, patience::Patience};
use lockstep::wire::{Job, JobState, Outcome, Problem};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// The app that it knows, and its secret.
pub(crate) const APP: &str = "app-one";
pub(crate) const SECRET: &str = "a secret for tests";
/// The job that it has.
pub(crate) const JOB: &str = "01GZEC5GJHFKWMK4Z5A1NM9DPF";

/// The release that it has.
pub(crate) const RELEASE: &str = "01GZEC5GJHFKWMK4Z5A1NM9DPR";

/// The order that it has, as a path.
pub(crate) const ORDER: &str = "3/7";

/// What goes wrong with one request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Fault {
    /// A problem of this status and word, and Retry-After in seconds.
    Problem(u16, &'static str, Option<u64>),
    /// A page of somebody in between.
    Page(u16),
    /// The connection is closed without an answer, and nothing was done.
    Hangup,
    /// What was asked for is done, and the connection closed without an answer.
    AnswerLost,
    /// The answer breaks off after so many bytes of its body.
    Cut(usize),
    /// Output from so many bytes before what was asked for.
    Earlier(usize),
    /// Output from so many bytes after it.
    Later(usize),
    /// The job of somebody else.
    OtherJob,
    /// Output is said to be complete before it is.
    Complete,
}

/// Kinds of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Submit,
    Job,
    Output,
    Cancel,
    /// The events of the release.
    Events,
    /// The order, waited for.
    Order,
    /// An order that is given.
    Give,
    Other,
}

/// What it knows.
pub(crate) struct World {
    /// Requests that were accepted, by their Idempotency-Key, with their body.
    pub(crate) accepted: BTreeMap<String, Value>,
    /// The job, as it is once what was printed has been read.
    pub(crate) job: Job,
    pub(crate) output: Vec<u8>,
    /// The most bytes of output in an answer.
    pub(crate) piece: usize,
    /// Requests so far: kind, method and path with query, body.
    pub(crate) calls: Vec<(Kind, String, Value)>,
    /// The credential of each of them.
    pub(crate) credentials: Vec<String>,
    /// What has happened to the release.
    pub(crate) events: Vec<Value>,
    /// The order, revision by revision: who asks for what is newer than one is told the next.
    pub(crate) order: Vec<Value>,
    /// The `Idempotency-Key` of each call.
    pub(crate) keys: Vec<String>,
    /// Answers to requests of other kinds, by method and path.
    pub(crate) answers: BTreeMap<String, (u16, Value)>,
    faults: BTreeMap<Kind, VecDeque<Fault>>,
}

/// The simulator.
pub(crate) struct Faulty {
    world: Arc<Mutex<World>>,
    changed: watch::Sender<u64>,
    folder: TempDir,
    acceptor: TlsAcceptor,
    address: SocketAddr,
    up: Option<CancellationToken>,
}

impl Faulty {
    /// Starts one whose job has succeeded without a word.
    pub(crate) async fn start() -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("ca.crt"), made.cert.pem()).expect("written");
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .expect("a key that fits");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mut faulty = Self {
            world: Arc::new(Mutex::new(World::new())),
            changed: watch::Sender::new(0),
            folder,
            acceptor: TlsAcceptor::from(Arc::new(tls)),
            address: listener.local_addr().expect("an address"),
            up: None,
        };
        faulty.serve(listener);
        faulty
    }

    fn serve(&mut self, listener: TcpListener) {
        let up = CancellationToken::new();
        self.up = Some(up.clone());
        let (world, changed, acceptor) = (self.world.clone(), self.changed.clone(), self.acceptor.clone());
        tokio::spawn(async move {
            while let Some(Ok((stream, _))) = up.run_until_cancelled(listener.accept()).await {
                let (world, changed, acceptor) = (world.clone(), changed.clone(), acceptor.clone());
                let hangup = up.child_token();
                tokio::spawn(hangup.clone().run_until_cancelled_owned(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request| {
                        let (world, changed, hangup) = (world.clone(), changed.clone(), hangup.clone());
                        async move { Ok::<_, Infallible>(answer(&world, &changed, &hangup, request).await) }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                }));
            }
        });
    }

    /// Goes away: the port is closed and all connections are dropped.
    pub(crate) async fn go_away(&mut self) {
        if let Some(up) = self.up.take() {
            up.cancel();
        }
        super::eventually("nobody listens any more", async || {
            tokio::net::TcpStream::connect(self.address).await.is_err().then_some(())
        })
        .await;
    }

    /// Comes back at the same port.
    pub(crate) async fn come_back(&mut self) {
        let listener = TcpListener::bind(self.address).await.expect("the same port");
        self.serve(listener);
    }

    /// What it knows, to be looked at and changed.
    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what it knows, and wakes those who wait for news.
    pub(crate) fn change(&self, how: impl FnOnce(&mut World)) {
        how(&mut self.world());
        self.changed.send_modify(|version| *version += 1);
    }

    /// Begins anew, with these faults.
    pub(crate) fn reset(&self, faults: impl IntoIterator<Item = (Kind, Fault)>) {
        let mut world = self.world();
        *world = World::new();
        for (kind, fault) in faults {
            world.faults.entry(kind).or_default().push_back(fault);
        }
    }

    /// Waits until so many requests of a kind have come.
    pub(crate) async fn asked(&self, kind: Kind, times: usize) {
        let mut changed = self.changed.subscribe();
        let come = async {
            while self.world().count(kind) < times {
                changed.changed().await.expect("the sender is ours");
            }
        };
        tokio::time::timeout(super::PATIENCE, come).await.unwrap_or_else(|_| panic!("{times} requests {kind:?}"));
    }

    /// Waits until somebody has asked for what comes after all that was printed.
    pub(crate) async fn all_read(&self) {
        let mut changed = self.changed.subscribe();
        let come = async {
            let end = format!("offset={}&", self.world().output.len());
            while !self.world().calls.iter().any(|(kind, call, _)| *kind == Kind::Output && call.contains(&end)) {
                changed.changed().await.expect("the sender is ours");
            }
        };
        tokio::time::timeout(super::PATIENCE, come).await.expect("the output is read to its end");
    }

    pub(crate) fn url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    pub(crate) fn certificate(&self) -> PathBuf {
        self.folder.path().join("ca.crt")
    }

    /// The client's library, with this patience.
    pub(crate) fn http(&self, patience: Patience) -> Http {
        let options = Options {
            url: self.url(),
            ca_cert: Some(self.certificate()),
            secret_file: None,
            id_token_file: None,
            token_file: None,
        };
        let app = APP.parse().expect("a name");
        let credential = Credential::choose(&options, Need::App(&app), |name| {
            (name == "LOCKSTEP_DEPLOYMENT_SECRET").then(|| SECRET.to_owned())
        });
        Http::new(&options, &credential.expect("a credential"), patience).expect("a client")
    }

    /// The binary as a client, with the app's secret, as in CI.
    pub(crate) fn command(&self, arguments: &[&str]) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_lockstep"));
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env_clear()
            .env("LOCKSTEP_URL", self.url())
            .env("LOCKSTEP_CA_CERT", self.certificate())
            .env("LOCKSTEP_DEPLOYMENT_SECRET", SECRET)
            .env("CI", "true")
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .kill_on_drop(true);
        command
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        if let Some(up) = self.up.take() {
            up.cancel();
        }
    }
}

impl World {
    fn new() -> Self {
        let job = Job {
            job_id: JOB.into(),
            deployment_id: APP.into(),
            inventory: "app-one.epfl.ch".into(),
            action: "app-deploy".into(),
            state: JobState::Finished,
            outcome: Some(Outcome::Succeeded),
            exit_code: Some(0),
            reason: None,
            created_at: "2023-05-02T13:37:00.000Z".into(),
            started_at: Some("2023-05-02T13:37:01.000Z".into()),
            ended_at: Some("2023-05-02T13:37:43.000Z".into()),
            fence: Some(1_683_034_620_000),
            image_digest: None,
            queue_position: None,
            superseded_by: None,
            output_bytes: 0,
            progress: None,
        };
        Self {
            accepted: BTreeMap::new(),
            job,
            output: Vec::new(),
            piece: usize::MAX,
            calls: Vec::new(),
            credentials: Vec::new(),
            events: Vec::new(),
            order: Vec::new(),
            keys: Vec::new(),
            answers: BTreeMap::new(),
            faults: BTreeMap::new(),
        }
    }

    /// Lets the job end otherwise, or not yet.
    pub(crate) fn outcome(&mut self, outcome: Option<Outcome>) {
        self.job.outcome = outcome;
        self.job.state = if outcome.is_some() { JobState::Finished } else { JobState::Running };
        self.job.exit_code = match outcome {
            Some(Outcome::Succeeded) => Some(0),
            Some(Outcome::Failed) => Some(2),
            _ => None,
        };
    }

    /// How many requests of a kind have come.
    pub(crate) fn count(&self, kind: Kind) -> usize {
        self.calls.iter().filter(|call| call.0 == kind).count()
    }

    fn shown_job(&self) -> Job {
        Job { output_bytes: self.output.len() as u64, ..self.job.clone() }
    }
}

type Reply = Response<Body>;

async fn answer(
    world: &Mutex<World>,
    changed: &watch::Sender<u64>,
    hangup: &CancellationToken,
    request: Request<Incoming>,
) -> Reply {
    let (parts, body) = request.into_parts();
    let body = to_bytes(Body::new(body), 1 << 20).await.unwrap_or_default();
    let text = || String::from_utf8_lossy(&body).into_owned();
    let body =
        if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap_or_else(|_| text().into()) };
    let path = parts.uri.path().to_owned();
    let kind = match path.strip_prefix("/api/v1/").unwrap_or_default().split('/').collect::<Vec<_>>()[..] {
        ["apps", APP, "jobs"] => Kind::Submit,
        ["jobs", JOB] => Kind::Job,
        ["jobs", JOB, "output"] => Kind::Output,
        ["jobs", JOB, "cancel"] => Kind::Cancel,
        ["releases", RELEASE, "events"] => Kind::Events,
        ["orders"] if parts.method == Method::POST => Kind::Give,
        ["orders", environment, number] if ORDER == format!("{environment}/{number}") => Kind::Order,
        _ => Kind::Other,
    };
    let key = parts.headers.get("idempotency-key").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let lock = || world.lock().unwrap_or_else(PoisonError::into_inner);
    let credential = parts.headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let fault = {
        let mut world = lock();
        world.credentials.push(credential.to_owned());
        world.keys.push(key.to_owned());
        world.calls.push((kind, format!("{} {}", parts.method, parts.uri), body.clone()));
        world.faults.get_mut(&kind).and_then(VecDeque::pop_front)
    };
    changed.send_modify(|version| *version += 1);
    match fault {
        Some(Fault::Problem(status, word, after)) => return problem(status, word, after),
        Some(Fault::Page(status)) => {
            // Nobody listens there: who follows it is not answered.
            let location = [("location", "https://localhost:1/".to_owned())];
            return reply(status, "text/html", b"<h1>somebody else</h1>".to_vec(), &location);
        }
        Some(Fault::Hangup) => return hang_up(hangup).await,
        Some(_) | None => {}
    }
    let made = match kind {
        Kind::Submit => {
            let mut world = lock();
            world.accepted.entry(key.to_owned()).or_insert(body);
            json_reply(202, &world.shown_job())
        }
        Kind::Job => {
            let mut job = lock().shown_job();
            if fault == Some(Fault::OtherJob) {
                job.job_id = "01GZEC5GJHFKWMK4Z5A1NM9DPG".into();
            }
            json_reply(200, &job)
        }
        Kind::Cancel => {
            let mut world = lock();
            if world.job.outcome.is_none() {
                world.outcome(Some(Outcome::Canceled));
            }
            json_reply(202, &world.shown_job())
        }
        Kind::Output => output(world, changed, parts.uri.query().unwrap_or_default(), fault.as_ref()).await,
        Kind::Events => events(world, changed, parts.uri.query().unwrap_or_default()).await,
        Kind::Order => order(world, changed, parts.uri.query().unwrap_or_default()).await,
        Kind::Give | Kind::Other => match lock().answers.get(&format!("{} {path}", parts.method)) {
            Some((status @ 400.., body)) => {
                reply(*status, "application/problem+json", serde_json::to_vec(body).expect("JSON"), &[])
            }
            Some((204, _)) => reply(204, "text/plain", Vec::new(), &[]),
            Some((status, body)) => json_reply(*status, body),
            None => problem(404, "unknown-path", None),
        },
    };
    if kind == Kind::Cancel && parts.method == Method::POST {
        changed.send_modify(|version| *version += 1);
    }
    match fault {
        Some(Fault::AnswerLost) => hang_up(hangup).await,
        Some(Fault::Cut(after)) => cut(made, after).await,
        Some(_) | None => made,
    }
}

/// Output from an offset on, waited for as the real one does.
async fn output(world: &Mutex<World>, changed: &watch::Sender<u64>, query: &str, fault: Option<&Fault>) -> Reply {
    let number = |name: &str| -> usize {
        let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        value.and_then(|value| value.parse().ok()).unwrap_or_default()
    };
    let (offset, wait) = (number("offset"), number("wait"));
    let mut changed = changed.subscribe();
    loop {
        {
            let world = world.lock().unwrap_or_else(PoisonError::into_inner);
            let over = world.job.state == JobState::Finished;
            if offset > world.output.len() {
                return problem(416, "offset-beyond-end", None);
            }
            if offset < world.output.len() || over || wait == 0 || fault == Some(&Fault::Complete) {
                let start = match fault {
                    Some(Fault::Earlier(by)) => offset.saturating_sub(*by),
                    Some(Fault::Later(by)) => (offset + by).min(world.output.len()),
                    _ => offset,
                };
                let next = start.saturating_add(world.piece).min(world.output.len());
                let complete = fault == Some(&Fault::Complete) || (over && next == world.output.len());
                let state = if complete { "finished" } else { "running" };
                return reply(
                    200,
                    "text/plain; charset=utf-8",
                    world.output[start..next].to_vec(),
                    &[
                        ("lockstep-next-offset", next.to_string()),
                        ("lockstep-state", state.to_owned()),
                        ("lockstep-output-complete", complete.to_string()),
                    ],
                );
            }
        }
        changed.changed().await.expect("the sender is ours");
    }
}

/// Events of the release after a certain one, at most two at a time, waited for as the real one does.
async fn events(world: &Mutex<World>, changed: &watch::Sender<u64>, query: &str) -> Reply {
    let value = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    let after = value("after").unwrap_or("0-0");
    let mut changed = changed.subscribe();
    loop {
        {
            let world = world.lock().unwrap_or_else(PoisonError::into_inner);
            let place = |event: &Value| event["id"].as_str().expect("an id").to_owned();
            let events = world.events.iter().filter(|event| place(event).as_str() > after).take(2);
            let events: Vec<&Value> = events.collect();
            if !events.is_empty() || value("wait") == Some("0") {
                let next = events.last().map_or_else(|| after.to_owned(), |event| place(event));
                let body = serde_json::to_vec(&events).expect("JSON");
                return reply(200, "application/cloudevents-batch+json", body, &[("lockstep-next-cursor", next)]);
            }
        }
        changed.changed().await.expect("the sender is ours");
    }
}

/// The order as it is after a revision, waited for; the first of its revisions where none is named.
async fn order(world: &Mutex<World>, changed: &watch::Sender<u64>, query: &str) -> Reply {
    let after = query.split('&').find_map(|pair| pair.strip_prefix("after=")?.parse::<u64>().ok());
    let mut changed = changed.subscribe();
    loop {
        {
            let world = world.lock().unwrap_or_else(PoisonError::into_inner);
            if world.order.is_empty() {
                return problem(404, "unknown-order", None);
            }
            let newer = |view: &&Value| after.is_none_or(|after| view["revision"].as_u64() > Some(after));
            if let Some(view) = world.order.iter().find(newer) {
                return json_reply(200, view);
            }
        }
        changed.changed().await.expect("the sender is ours");
    }
}

async fn hang_up(hangup: &CancellationToken) -> Reply {
    hangup.cancel();
    std::future::pending().await
}

/// The same answer, whose body breaks off.
async fn cut(whole: Reply, after: usize) -> Reply {
    let (mut parts, body) = whole.into_parts();
    let body = to_bytes(body, usize::MAX).await.expect("it is in memory");
    parts.headers.insert("content-length", body.len().into());
    let part = body.slice(..after.min(body.len().saturating_sub(1)));
    let pieces = [Ok(part), Err(std::io::Error::other("broken off"))];
    Response::from_parts(parts, Body::from_stream(futures::stream::iter(pieces)))
}

fn reply(status: u16, kind: &str, body: Vec<u8>, headers: &[(&str, String)]) -> Reply {
    let mut reply =
        Response::builder().status(StatusCode::from_u16(status).expect("a status")).header("content-type", kind);
    for (name, value) in headers {
        reply = reply.header(*name, value);
    }
    reply.body(Body::from(body)).expect("an answer")
}

fn json_reply(status: u16, body: &impl serde::Serialize) -> Reply {
    reply(status, "application/json", serde_json::to_vec(body).expect("JSON"), &[])
}

fn problem(status: u16, word: &str, after: Option<u64>) -> Reply {
    let body = problem_body(status, word);
    let after: Vec<_> = after.iter().map(|seconds| ("retry-after", seconds.to_string())).collect();
    reply(status, "application/problem+json", serde_json::to_vec(&body).expect("JSON"), &after)
}

/// A problem as the dispatcher words one.
pub(crate) fn problem_body(status: u16, word: &str) -> Value {
    json!({
        "type": format!("{}{word}", Problem::PREFIX),
        "title": format!("title of {word}"),
        "status": status,
        "detail": format!("detail of {word}"),
    })
}
