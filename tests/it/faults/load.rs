//! Clients: each asks for one deployment after the other and follows it to its end, whatever happens meanwhile. They behave as the
//! contract tells clients to: trouble that may pass is tried again, under the same `Idempotency-Key` where there is one.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Chance;
use super::installation::{APPS, Installation};
use super::releases::Managed;
use crate::support::service::secret_of;

/// Clients at a time.
const CLIENTS: u64 = 10;
/// Between two tries and two polls.
pub(super) const PACE: Duration = Duration::from_millis(250);
/// Without any answer about a job for so long, something is broken that no fault explains.
pub(super) const PATIENCE: Duration = Duration::from_secs(180);

/// What a client knows of a deployment that was accepted.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    /// When it was asked for, and when its end (or that it is not known any more) was seen.
    pub(super) asked: Instant,
    pub(super) settled: Option<Instant>,
    pub(super) end: End,
    /// What differed between its output and the engine's log.
    pub(super) output: Option<String>,
}

impl Seen {
    /// When its end was seen, or now.
    pub(super) fn settled(&self) -> Instant {
        self.settled.unwrap_or_else(Instant::now)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// None was seen.
    None,
    /// Outcome and exit code.
    Outcome(String, Option<i64>),
    /// The service knows no such job.
    Unknown,
}

/// All clients.
pub(super) struct Load {
    pub(super) here: Arc<Installation>,
    chance: Mutex<Chance>,
    wanted: u64,
    asked: AtomicU64,
    pub(super) enough: AtomicBool,
    seen: Mutex<BTreeMap<String, Seen>>,
    /// Jobs whose id was answered to two requests.
    pub(super) twice: Mutex<Vec<String>>,
    /// Releases that were made.
    pub(super) managed: Mutex<Vec<Managed>>,
}

impl Load {
    pub(super) fn new(here: Arc<Installation>, chance: Chance, wanted: u64) -> Self {
        let (asked, enough, seen, twice, managed) = Default::default();
        Self { here, chance: Mutex::new(chance), wanted, asked, enough, seen, twice, managed }
    }

    /// Deployments asked for so far.
    pub(super) fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// Whether as many deployments have been asked for as were wanted. Clients go on until they are told that it is enough, so that no
    /// fault strikes a service at rest.
    pub(super) fn has_asked_for_all(&self) -> bool {
        self.asked() >= self.wanted
    }

    /// Nothing more is to be asked for.
    pub(super) fn enough(&self) {
        self.enough.store(true, Ordering::Relaxed);
    }

    pub(super) fn seen(&self) -> MutexGuard<'_, BTreeMap<String, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs the clients; the future ends with the last of them.
    pub(super) fn run(self: Arc<Self>) -> impl Future<Output = ()> {
        let mut clients: Vec<_> = (0..CLIENTS).map(|_| tokio::spawn(self.clone().client())).collect();
        clients.extend(self.manage());
        async move {
            for client in clients {
                client.await.expect("a client does not die");
            }
        }
    }

    fn draw(&self, bound: u64) -> u64 {
        self.chance.lock().unwrap_or_else(PoisonError::into_inner).below(bound)
    }

    async fn client(self: Arc<Self>) {
        while !self.enough.load(Ordering::Relaxed) {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let app = format!("app-{}", self.draw(APPS));
            let which = usize::from(self.draw(2) == 1);
            match self.draw(10) {
                // Hangs up without waiting for the answer: what becomes of it is between the service and the observer.
                0 => self.hang_up(&app, which).await,
                1..=3 => self.old(&app, which).await,
                _ => self.v1(&app, which).await,
            }
        }
    }

    async fn hang_up(&self, app: &str, which: usize) {
        let asked = self.here.http().post(self.here.url(which, &format!("/api/v1/apps/{app}/jobs")));
        let asked = asked.basic_auth(app, Some(secret_of(app))).json(&json!({"when_busy": "fifo"}));
        let wait = Duration::from_millis(self.draw(20));
        let _ = tokio::time::timeout(wait, asked.send()).await;
    }

    /// By the endpoints of existing clients: refused if somebody else is at it.
    async fn old(&self, app: &str, mut which: usize) {
        let body = json!({"deployment_id": app, "deployment_secret": secret_of(app)});
        let since = Instant::now();
        loop {
            let asked = self.here.http().post(self.here.url(which, "/app-deploy/")).json(&body).timeout(PATIENCE / 10);
            match asked.send().await {
                Ok(answer) if answer.status() == StatusCode::OK => {
                    // An answer that breaks off is an unknown one; this client has no key to ask again under.
                    let Ok(answer) = answer.json::<Value>().await else { return };
                    let Some(job) = answer["job_id"].as_str() else { return };
                    return self.follow(app, job.to_owned(), since, which).await;
                }
                Ok(answer) if answer.status() == StatusCode::SERVICE_UNAVAILABLE => self.fed(answer).await,
                Ok(answer) => panic!("/app-deploy/ answered {}", answer.status()),
                // Sent and not answered: it may be under way, so this client must not ask again.
                Err(error) if !error.is_connect() => return,
                Err(_) => {}
            }
            assert!(since.elapsed() < PATIENCE, "nobody answers /app-deploy/");
            which = 1 - which;
            tokio::time::sleep(PACE).await;
        }
    }

    async fn v1(&self, app: &str, mut which: usize) {
        let key = lockstep::clock::draw_name();
        let when_busy = if self.draw(2) == 0 { "fifo" } else { "queue" };
        let since = Instant::now();
        loop {
            let asked = self.here.http().post(self.here.url(which, &format!("/api/v1/apps/{app}/jobs")));
            let asked = asked.basic_auth(app, Some(secret_of(app))).header("Idempotency-Key", &key);
            match asked.json(&json!({"when_busy": when_busy})).timeout(PATIENCE / 10).send().await {
                Ok(answer) if answer.status() == StatusCode::ACCEPTED => {
                    if let Ok(answer) = answer.json::<Value>().await {
                        let job = answer["job_id"].as_str().expect("an id").to_owned();
                        return self.follow(app, job, since, which).await;
                    }
                }
                Ok(answer) if answer.status() == StatusCode::SERVICE_UNAVAILABLE => self.fed(answer).await,
                Ok(answer) => panic!("a request was answered with {}", answer.status()),
                Err(_) => {}
            }
            assert!(since.elapsed() < PATIENCE, "nobody answers a request");
            which = 1 - which;
            tokio::time::sleep(PACE).await;
        }
    }

    /// Does what the feed does after Redis was wiped.
    pub(super) async fn fed(&self, refused: reqwest::Response) {
        if refused.text().await.is_ok_and(|text| text.contains("list of apps")) {
            self.here.feed().await;
        }
    }

    /// Follows a job to its end, and compares its output with what the engine has.
    async fn follow(&self, app: &str, job: String, asked: Instant, mut which: usize) {
        let new = Seen { asked, settled: None, end: End::None, output: None };
        if self.seen().insert(job.clone(), new).is_some() {
            self.twice.lock().unwrap_or_else(PoisonError::into_inner).push(job.clone());
        }
        let mut heard = Instant::now();
        let path = format!("/api/v1/jobs/{job}");
        let end = loop {
            let asked = self.here.http().get(self.here.url(which, &path)).basic_auth(app, Some(secret_of(app)));
            match asked.timeout(PATIENCE / 10).send().await {
                Ok(answer) if answer.status() == StatusCode::OK => {
                    if let Ok(answer) = answer.json::<Value>().await {
                        heard = Instant::now();
                        if let Some(outcome) = answer["outcome"].as_str() {
                            break End::Outcome(outcome.to_owned(), answer["exit_code"].as_i64());
                        }
                    }
                }
                Ok(answer) if answer.status() == StatusCode::NOT_FOUND => break End::Unknown,
                Ok(answer) if answer.status() == StatusCode::SERVICE_UNAVAILABLE => self.fed(answer).await,
                Ok(answer) => panic!("{path} answered {}", answer.status()),
                Err(_) => {}
            }
            if heard.elapsed() > PATIENCE {
                break End::None;
            }
            which = 1 - which;
            tokio::time::sleep(PACE).await;
        };
        let output = match &end {
            End::Outcome(_, exit_code) => self.compare(&job, exit_code.is_some()).await,
            End::None | End::Unknown => None,
        };
        let mut seen = self.seen();
        let it = seen.get_mut(&job).expect("it was put there");
        (it.settled, it.end, it.output) = (Some(Instant::now()), end, output);
    }

    /// What is wrong with a job's output, by the engine's log. A job without a container must have none; one whose record was wiped
    /// since is not asked about.
    async fn compare(&self, job: &str, ended: bool) -> Option<String> {
        let since = Instant::now();
        let told = loop {
            // Ended containers are kept for a while; an engine that is away is waited for.
            let filter = format!("label=lockstep.job={job}");
            let listed = self.here.engine.docker(&["ps", "-aq", "--filter", &filter]);
            if listed.status.success() {
                let id = String::from_utf8_lossy(&listed.stdout).trim().to_owned();
                if id.is_empty() && ended {
                    // It has been removed meanwhile: there is nothing to compare with.
                    return None;
                } else if id.is_empty() {
                    break Vec::new();
                }
                let log = self.here.engine.docker(&["logs", &id]);
                if log.status.success() {
                    break log.stdout;
                }
            }
            assert!(since.elapsed() < PATIENCE, "the engine's log of {job} cannot be read");
            tokio::time::sleep(PACE).await;
        };
        // What was served before, and found wanting.
        let mut wanting = None;
        for round in 0.. {
            let Some(served) = self.here.shown(round % 2, &format!("/api/v1/jobs/{job}/output")).await else {
                let gone = self.here.shown(round % 2, "/readyz").await.is_some();
                if gone || since.elapsed() > PATIENCE {
                    return None;
                }
                tokio::time::sleep(PACE).await;
                continue;
            };
            if served.as_bytes() == told {
                return None;
            }
            // A job that a rebuild has taken up again is live, and its output is being read once more: only what is served before
            // and after it was seen to be over counts.
            let shown = self.here.shown(round % 2, &format!("/api/v1/jobs/{job}")).await;
            let over =
                shown.is_some_and(|job| !serde_json::from_str::<Value>(&job).expect("JSON")["outcome"].is_null());
            if wanting.as_ref() != Some(&served) || !over {
                if since.elapsed() > PATIENCE {
                    return Some("the job that was over stays without its outcome".to_owned());
                }
                wanting = over.then_some(served);
                tokio::time::sleep(PACE).await;
                continue;
            }
            let same = served.bytes().zip(&told).take_while(|(a, b)| a == *b).count();
            return Some(format!("{} bytes served, {} told, the same up to {same}", served.len(), told.len()));
        }
        None
    }
}
