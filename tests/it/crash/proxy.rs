//! The proxies before Redis and before the engine's socket. They know as much of RESP and HTTP as it takes to tell calls apart,
//! and hold the one call at which a run is struck.
//!
//! ```text
//!  dispatcher ──▶ up: one call after the other ──▶ gate: is this the one? ──▶ Redis, engine
//!             ◀── down: passes on, or swallows ◀────────────────────────────
//! ```
//!
//! What is no call that is counted passes unseen: signs of life, reads, lists, questions who somebody is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::calls;

/// The machine's engine.
const ENGINE: &str = "/var/run/docker.sock";
/// How long the effect of a call that is passed on may take to show.
const EFFECT: Duration = Duration::from_secs(20);

/// A call of a run: the `nth` of its kind, counted from 1.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Point {
    pub(super) kind: String,
    pub(super) nth: u32,
}

impl std::fmt::Display for Point {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}#{}", self.kind, self.nth)
    }
}

/// How a run is struck at its point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mode {
    /// Killed before the call reaches anybody.
    KilledBefore,
    /// Killed after the call had its effect, before its reply.
    KilledAfter,
    /// The call has its effect; its reply is lost together with the connection, and the dispatcher lives.
    ReplyLost,
    /// Stopped before the call; which has its effect once another dispatcher has carried everything to its end.
    Stopped,
}

impl Mode {
    pub(super) const ALL: [Self; 4] = [Self::KilledBefore, Self::KilledAfter, Self::ReplyLost, Self::Stopped];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::KilledBefore => "killed before",
            Self::KilledAfter => "killed after",
            Self::ReplyLost => "reply lost of",
            Self::Stopped => "stopped before",
        }
    }
}

/// The moment at which a proxy stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    /// The call has come and was not passed on.
    Held,
    /// The call has had its effect.
    Done,
}

/// A proxy stands at the point, and stays there until it is let go.
pub(super) struct Stand {
    pub(super) moment: Moment,
    pub(super) go_on: oneshot::Sender<()>,
}

/// Counts the calls of a run, and knows the one at which it is struck.
pub(super) struct Gate {
    target: Option<(Point, Mode)>,
    counted: Mutex<Counted>,
    stands: mpsc::UnboundedSender<Stand>,
}

#[derive(Default)]
struct Counted {
    armed: bool,
    kinds: BTreeMap<String, u32>,
    met: Vec<Point>,
    without_effect: bool,
}

impl Gate {
    pub(super) fn new(target: Option<(Point, Mode)>) -> (Arc<Self>, mpsc::UnboundedReceiver<Stand>) {
        let (stands, standing) = mpsc::unbounded_channel();
        (Arc::new(Self { target, counted: Mutex::default(), stands }), standing)
    }

    fn counted(&self) -> MutexGuard<'_, Counted> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls count from now on.
    pub(super) fn arm(&self) {
        self.counted().armed = true;
    }

    /// The calls so far, in order.
    pub(super) fn met(&self) -> Vec<Point> {
        self.counted().met.clone()
    }

    /// Whether the call at which the run was struck showed no effect in time, so that the strike was not what it should be.
    pub(super) fn failed(&self) -> bool {
        self.counted().without_effect
    }

    /// Counts a call; says how to strike if it is the one.
    fn count(&self, kind: &str) -> Option<Mode> {
        let mut counted = self.counted();
        if !counted.armed {
            return None;
        }
        let nth = counted.kinds.entry(kind.to_owned()).or_default();
        *nth += 1;
        let point = Point { kind: kind.to_owned(), nth: *nth };
        let mode = self.target.as_ref().filter(|(target, _)| *target == point).map(|(_, mode)| *mode);
        counted.met.push(point);
        mode
    }

    /// Stands still until let go.
    async fn stand(&self, moment: Moment) {
        let (go_on, gone_on) = oneshot::channel();
        if self.stands.send(Stand { moment, go_on }).is_ok() {
            let _ = gone_on.await;
        }
    }
}

/// Before whom a proxy stands.
#[derive(Clone, Copy)]
enum Server {
    Redis,
    Engine,
}

/// The proxies of a run. Dropping them ends them for whoever connects anew.
pub(super) struct Proxies {
    pub(super) redis_port: u16,
    pub(super) socket: PathBuf,
    accepting: [JoinHandle<()>; 2],
}

impl Proxies {
    /// Stands before a Redis on 127.0.0.1 and before the machine's engine, with a socket in this folder.
    pub(super) async fn before(redis: u16, folder: &Path, gate: &Arc<Gate>) -> Self {
        let tcp = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let redis_port = tcp.local_addr().expect("an address").port();
        let socket = folder.join("engine.sock");
        let unix = UnixListener::bind(&socket).expect("a socket");
        let (first, second) = (gate.clone(), gate.clone());
        let accepting = [
            tokio::spawn(async move {
                while let Ok((client, _)) = tcp.accept().await {
                    let gate = first.clone();
                    tokio::spawn(async move {
                        let Ok(server) = TcpStream::connect(("127.0.0.1", redis)).await else { return };
                        if client.set_nodelay(true).is_ok() && server.set_nodelay(true).is_ok() {
                            carry(client, server, &gate, Server::Redis).await;
                        }
                    });
                }
            }),
            tokio::spawn(async move {
                while let Ok((client, _)) = unix.accept().await {
                    let gate = second.clone();
                    tokio::spawn(async move {
                        let Ok(server) = UnixStream::connect(ENGINE).await else { return };
                        carry(client, server, &gate, Server::Engine).await;
                    });
                }
            }),
        ];
        Self { redis_port, socket, accepting }
    }
}

impl Drop for Proxies {
    fn drop(&mut self) {
        for accepting in &self.accepting {
            accepting.abort();
        }
    }
}

/// What has come back on a connection.
#[derive(Debug, Clone, Copy, Default)]
struct Down {
    bytes: u64,
    ended: bool,
}

/// Carries one connection until either side ends it, or the strike does.
async fn carry<T>(client: T, server: T, gate: &Gate, before: Server)
where
    T: AsyncRead + AsyncWrite + Send + 'static,
{
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let swallow = Arc::new(AtomicBool::new(false));
    let (told, mut down) = watch::channel(Down::default());
    let swallowing = swallow.clone();
    let back = tokio::spawn(async move {
        let mut piece = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from_server.read(&mut piece).await {
            let passes = !swallowing.load(Ordering::SeqCst);
            if passes && to_client.write_all(&piece[..count]).await.is_err() {
                break;
            }
            told.send_modify(|down| down.bytes += count as u64);
        }
        told.send_modify(|down| down.ended = true);
        // What is written to the client stays open until the other direction has seen the end.
        told.closed().await;
    });
    let up = async {
        let mut bytes = Vec::new();
        let mut piece = vec![0; 64 * 1024];
        loop {
            while let Some((length, kind)) = match before {
                Server::Redis => calls::of_redis(&bytes),
                Server::Engine => calls::of_engine(&bytes),
            } {
                let call: Vec<u8> = bytes.drain(..length).collect();
                let mode = kind.and_then(|kind| gate.count(&kind));
                if let Some(Mode::KilledBefore | Mode::Stopped) = mode {
                    gate.stand(Moment::Held).await;
                }
                if mode == Some(Mode::KilledBefore) {
                    return;
                }
                swallow.store(matches!(mode, Some(Mode::KilledAfter | Mode::ReplyLost)), Ordering::SeqCst);
                let so_far = down.borrow().bytes;
                if to_server.write_all(&call).await.is_err() {
                    return;
                }
                let Some(mode) = mode else { continue };
                let effect = async {
                    match (before, mode) {
                        // Redis sees the end of a connection only when it has done all that came before.
                        (Server::Redis, Mode::KilledAfter | Mode::ReplyLost) => {
                            let _ = to_server.shutdown().await;
                            let _ = down.wait_for(|down| down.ended).await;
                        }
                        _ => {
                            let _ = down.wait_for(|down| down.ended || down.bytes > so_far).await;
                        }
                    }
                };
                if tokio::time::timeout(EFFECT, effect).await.is_err() {
                    gate.counted().without_effect = true;
                }
                gate.stand(Moment::Done).await;
                if mode != Mode::Stopped {
                    return;
                }
            }
            tokio::select! {
                read = from_client.read(&mut piece) => match read {
                    Ok(count @ 1..) => bytes.extend_from_slice(&piece[..count]),
                    _ => return,
                },
                ended = down.wait_for(|down| down.ended) => {
                    let _ended = ended.is_ok();
                    return;
                }
            }
        }
    };
    up.await;
    back.abort();
}
