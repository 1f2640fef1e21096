//! Connections: accept, TLS, HTTP/1.1 and HTTP/2, bounds, and an orderly end.
//!
//! Nobody who is slow holds up anybody else: handshakes run side by side, and each stage of a connection has its time. A
//! connection on which no byte has moved in either direction for a while is closed; that covers the idle, those who vanished,
//! and the follower that does not read what it asked for. (Followers get comments in between, and long-polls are shorter.)

use std::convert::Infallible;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service as _;

/// Bounds on connections.
#[derive(Debug, Clone)]
pub struct Limits {
    /// For the TLS handshake.
    pub handshake: Duration,
    /// For the head of an HTTP/1.1 request, counted from when the connection was ready for it.
    pub head: Duration,
    /// Without a byte in either direction. Longer than a long-poll and than the pause between a follower's comments.
    pub idle: Duration,
    /// For the first request of a connection that was taken before the stop came: its client has been told of no end.
    pub first: Duration,
    /// For requests under way when the stop comes.
    pub drain: Duration,
    /// Connections at a time. Further ones wait in the listener's backlog.
    pub connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            head: Duration::from_secs(30),
            idle: Duration::from_secs(120),
            first: Duration::from_secs(3),
            drain: Duration::from_secs(10),
            connections: 16_384,
        }
    }
}

/// Pause after an `accept` that failed for want of something (file descriptors, memory): it would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `shutdown`; then accepts nothing more, lets requests finish within a deadline, and returns. A connection that was
/// taken is served its first request, so that a client that opens one for each request never meets the stop. Requests that wait
/// for news are ended by the token that their handlers were given.
pub async fn serve(listener: TcpListener, tls: Arc<ServerConfig>, router: Router, shutdown: CancellationToken) {
    let limits = Limits::default();
    let connections = limits.connections.min(files() / 4 * 3);
    if connections < limits.connections {
        tracing::warn!(
            connections,
            "the process may open so few files that connections beyond this wait; raise its hard limit (nofile)"
        );
    }
    serve_within(Limits { connections, ..limits }, listener, tls, router, shutdown).await;
}

/// How many files the process may have open, raised as far as it may do that itself: a connection is a file, and what it is given to
/// begin with is often not more than 1024. Redis, the engine and followed containers need some as well: for want of them, those who
/// connect could stop what runs.
fn files() -> usize {
    let given = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: given.maximum, maximum: given.maximum };
    let limit = setrlimit(Resource::Nofile, raised).map_or(given, |()| raised);
    limit.current.map_or(usize::MAX, |files| usize::try_from(files).unwrap_or(usize::MAX))
}

/// [`serve`] within other bounds.
pub async fn serve_within(
    limits: Limits,
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    router: Router,
    shutdown: CancellationToken,
) {
    let server = Arc::new(Server {
        http1: builder(&limits).http1_only(),
        http2: builder(&limits).http2_only(),
        acceptor: TlsAcceptor::from(tls),
        router,
        shutdown: shutdown.clone(),
        cut: CancellationToken::new(),
        limits,
    });
    let places = Arc::new(Semaphore::new(server.limits.connections));
    let connections = TaskTracker::new();
    let accepting = async {
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let server = server.clone();
                    connections.spawn(async move {
                        server.connection(stream, peer).await;
                        drop(place);
                    });
                }
                // The connection was gone before it was taken; the next one is another matter.
                Err(error) if is_of_connection(&error) => {}
                Err(error) => {
                    tracing::error!(%error, "no connection can be accepted; trying again");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    shutdown.run_until_cancelled(accepting).await;
    drop(listener);
    connections.close();
    if timeout(server.limits.drain, connections.wait()).await.is_err() {
        tracing::warn!(
            connections = connections.len(),
            "requests were not finished in time; their connections are cut"
        );
        server.cut.cancel();
        connections.wait().await;
    }
}

fn is_of_connection(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::ConnectionAborted | Kind::ConnectionReset | Kind::ConnectionRefused | Kind::Interrupted
    )
}

/// What is kept per connection is bounded, because there may be thousands.
fn builder(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.head).max_buf_size(64 * 1024);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(100)
        .max_header_list_size(32 * 1024)
        .max_send_buf_size(64 * 1024);
    builder
}

struct Server {
    http1: auto::Builder<TokioExecutor>,
    http2: auto::Builder<TokioExecutor>,
    acceptor: TlsAcceptor,
    router: Router,
    shutdown: CancellationToken,
    /// The deadline has passed: end at once.
    cut: CancellationToken,
    limits: Limits,
}

impl Server {
    async fn connection(&self, stream: TcpStream, peer: SocketAddr) {
        // Answers are small and written whole: waiting for more to send would only delay them.
        let _ = stream.set_nodelay(true);
        let seen = Arc::new(Seen::default());
        let stream = Watched { stream, seen: seen.clone() };
        let handshake = tokio::select! {
            ended = timeout(self.limits.handshake, self.acceptor.accept(stream)) => ended,
            () = self.told(&seen) => return,
        };
        let stream = match handshake {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!(%peer, %error, "a TLS handshake failed");
                return;
            }
            Err(_) => {
                tracing::debug!(%peer, "a TLS handshake was not finished in time");
                return;
            }
        };
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let router = self.router.clone();
        let asked = seen.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            asked.note_request();
            request.extensions_mut().insert(ConnectInfo(peer));
            // A router is always ready.
            let answering = router.clone().call(request);
            async move { answering.await.map_err(|never: Infallible| never) }
        });
        let builder = if http2 { &self.http2 } else { &self.http1 };
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        // Apart from the connection, so that what moves on it does not ask each time after what seldom happens.
        let mut signs = FuturesUnordered::from_iter([self.sign(&seen, false)]);
        loop {
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(%peer, error = &*error, "a connection ended badly");
                    }
                    return;
                }
                Some(sign) = signs.next() => match sign {
                    Sign::Shutdown => {
                        connection.as_mut().graceful_shutdown();
                        signs.push(self.sign(&seen, true));
                    }
                    Sign::Cut => return,
                    Sign::Idle => {
                        tracing::debug!(%peer, "a connection was closed because nothing moved on it");
                        return;
                    }
                },
            }
        }
    }

    /// Waits for the next thing that concerns a connection from outside; `ending`: the shutdown has been seen.
    async fn sign(&self, seen: &Seen, ending: bool) -> Sign {
        let mut idle = interval_at(Instant::now() + self.limits.idle, self.limits.idle);
        idle.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.told(seen), if !ending => return Sign::Shutdown,
                () = self.cut.cancelled() => return Sign::Cut,
                _ = idle.tick() => {
                    if !seen.moved.swap(false, Ordering::Relaxed) {
                        return Sign::Idle;
                    }
                }
            }
        }
    }

    /// Waits for the stop, as far as it concerns a connection: before its first request, it has a while to bring that.
    async fn told(&self, seen: &Seen) {
        self.shutdown.cancelled().await;
        if !seen.asked.load(Ordering::Relaxed) {
            let _ = timeout(self.limits.first, seen.first.notified()).await;
        }
    }
}

/// What concerns a connection from outside.
enum Sign {
    Shutdown,
    Cut,
    /// Nothing has moved for as long as that may be.
    Idle,
}

/// What has been seen on a connection.
#[derive(Default)]
struct Seen {
    /// A byte has moved since this was last looked at.
    moved: AtomicBool,
    /// A request has come.
    asked: AtomicBool,
    /// Told of the first request.
    first: Notify,
}

impl Seen {
    fn note_request(&self) {
        if !self.asked.swap(true, Ordering::Relaxed) {
            self.first.notify_one();
        }
    }
}

/// A socket that remembers whether a byte has moved.
struct Watched {
    stream: TcpStream,
    seen: Arc<Seen>,
}

impl Watched {
    fn note(&self, result: io::Result<usize>) -> Poll<io::Result<usize>> {
        if matches!(result, Ok(1..)) {
            self.seen.moved.store(true, Ordering::Relaxed);
        }
        Poll::Ready(result)
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        let count = buffer.filled().len() - before;
        self.note(Ok(count)).map_ok(|_| ())
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes));
        self.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, bytes));
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
