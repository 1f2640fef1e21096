//! The listening socket, and how it passes from one dispatcher to the next: an upgrade refuses no connection.
//!
//! Existing clients open a connection for each request, and give up when one is refused. So the socket is never closed and bound
//! anew while a service runs. Whoever starts the process may keep it and pass it on (`LISTEN_FDS`, as systemd does); or, with the
//! key `handover.socket`, a dispatcher that starts gets it from the one that runs:
//!
//! ```text
//!  the one that runs                      handover.socket                        the one that starts
//!    accepts connections            ◀── lockstep-handover 1 <instance> ──  same user? same instance?
//!    goes on as before              ── listener, with the socket ───────▶  connects to Redis and engine, first pass made:
//!        │                          ◀── ready ──────────────────────────  accepts from the same queue of the kernel
//!    accepts nothing more,          ── leaving ─────────────────────────▶  offers the socket in its turn
//!    finishes requests, detaches
//!    from jobs, exit code 0         ── end of file ─────────────────────▶  adopts the jobs at once
//! ```
//!
//! Until it has read `ready`, the one that runs has changed nothing: should the other end before, it goes on. Once the other has the
//! socket, it needs nobody: should the one that runs end without a word, the other accepts at once. The socket's file is
//! never removed, only replaced, whole, by one's own; one that nobody listens on is as good as none. Each side checks that the
//! other is of its own user, since whoever listens there could have the service's connections.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::model::ids::Instance;

/// How long the other side may take for a message that it has no reason to think about.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long connections may wait in a socket that is kept while a service starts. After that they are told why it is not ready.
const KEPT_PATIENCE: Duration = Duration::from_secs(5);
/// Pause after an `accept` that failed for want of something: it would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The longest message, in bytes.
const MESSAGE_MAX: usize = 256;

/// Begins the first message. The number is the protocol's.
const HELLO: &str = "lockstep-handover 1";
const LISTENER: &str = "listener";
const REFUSED: &str = "refused";
const READY: &str = "ready";
const LEAVING: &str = "leaving";

/// Why there is no socket to listen on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Neither given nor free.
    #[error("cannot listen on {address}: {error}. Is another service there? See the key listen")]
    Bind {
        /// `listen`
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// What was passed on by `LISTEN_FDS` is of no use.
    #[error("LISTEN_FDS passes on {0}; it must be one TCP socket that listens")]
    Inherited(String),
    /// The folder of `handover.socket` is of no use.
    #[error(
        "handover.socket: the folder of {path} cannot be used: {error}. Make it, for the user of the service alone"
    )]
    Folder {
        /// `handover.socket`
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Whoever listens at `handover.socket` is not to be replaced by this one.
    #[error("handover.socket: {path} belongs to {whose}; give each installation a socket of its own")]
    Foreign {
        /// `handover.socket`
        path: PathBuf,
        /// Whom.
        whose: String,
    },
}

/// Takes what was passed on by `LISTEN_FDS`, if anything was.
///
/// It changes the environment, so call it while there is but one thread.
///
/// # Errors
/// When that is not one listening TCP socket.
pub fn inherited() -> Result<Option<TcpListener>, ListenError> {
    let mut passed = listenfd::ListenFd::from_env();
    match passed.len() {
        0 => return Ok(None),
        1 => {}
        many => return Err(ListenError::Inherited(format!("{many} sockets"))),
    }
    match passed.take_tcp_listener(0) {
        Ok(Some(listener)) if rustix::net::sockopt::socket_acceptconn(&listener).unwrap_or(false) => Ok(Some(listener)),
        Ok(_) => Err(ListenError::Inherited("a socket that does not listen".to_owned())),
        Err(error) => Err(ListenError::Inherited(error.to_string())),
    }
}

/// A socket to accept from, and what is to be done so that nobody misses it.
#[derive(Debug)]
pub struct Listening {
    /// The socket.
    pub listener: tokio::net::TcpListener,
    /// What came before and what comes after.
    pub succession: Succession,
}

/// Listens: on what was inherited, on what the dispatcher at `socket` hands over, or on `address` itself.
///
/// # Errors
/// When there is no socket to be had, or the other one must not be replaced.
pub async fn listen(
    inherited: Option<TcpListener>,
    address: SocketAddr,
    socket: Option<PathBuf>,
    instance: &Instance,
) -> Result<Listening, ListenError> {
    let wrong = |error| ListenError::Bind { address, error };
    let ready_made = |listener: TcpListener| {
        listener.set_nonblocking(true)?;
        tokio::net::TcpListener::from_std(listener)
    };
    if let Some(listener) = inherited {
        tracing::info!(listen = ?listener.local_addr().ok(), "the listening socket was passed on by LISTEN_FDS");
        let listener = ready_made(listener).map_err(wrong)?;
        return Ok(Listening { listener, succession: Succession { kept: true, predecessor: None, offer: None } });
    }
    let (mut handed, mut predecessor) = (None, None);
    if let Some(path) = &socket {
        check_folder(path)?;
        if let Some((listener, found)) = ask(path, instance).await? {
            predecessor = Some(found);
            // Another address is what the operator wants now.
            handed = Some(listener).filter(|listener| listener.local_addr().is_ok_and(|local| local == address));
        }
    }
    let listener = match handed {
        Some(listener) => ready_made(listener).map_err(wrong)?,
        None => tokio::net::TcpListener::bind(address).await.map_err(wrong)?,
    };
    let offer = match socket {
        None => None,
        Some(path) => {
            let listener = listener.as_fd().try_clone_to_owned().map_err(wrong)?;
            Some(Offer { path, instance: instance.clone(), listener })
        }
    };
    Ok(Listening { listener, succession: Succession { kept: false, predecessor, offer } })
}

fn check_folder(path: &Path) -> Result<(), ListenError> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let wrong = |error| ListenError::Folder { path: path.to_owned(), error };
    match std::fs::metadata(folder).map_err(wrong)? {
        found if found.is_dir() => Ok(()),
        _ => Err(wrong(io::ErrorKind::NotADirectory.into())),
    }
}

/// Asks whoever listens at `path` for its socket. None: nobody does, or there was no answer.
async fn ask(path: &Path, instance: &Instance) -> Result<Option<(TcpListener, Predecessor)>, ListenError> {
    let foreign = |whose: String| ListenError::Foreign { path: path.to_owned(), whose };
    let stream = match UnixStream::connect(path).await {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(foreign(format!("somebody who cannot be spoken to ({error})"))),
    };
    if let Some(user) = other_user(&stream) {
        return Err(foreign(user));
    }
    let asking = async {
        send(&stream, &format!("{HELLO} {instance}"), None).await?;
        receive(&stream).await
    };
    match timeout(PATIENCE, asking).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok((message, Some(socket))) if message == LISTENER => {
            let listener = TcpListener::from(socket);
            tracing::info!(listen = ?listener.local_addr().ok(), "the dispatcher that runs has handed over its listening socket");
            Ok(Some((listener, Predecessor(stream))))
        }
        Ok((message, _)) => match message.strip_prefix(REFUSED) {
            Some(why) => Err(foreign(why.trim().to_owned())),
            None => Err(foreign("a service of another kind".to_owned())),
        },
        // It may be ending, or another one is about to replace it. If it holds the port, that will show.
        Err(error) => {
            tracing::warn!(socket = %path.display(), %error, "the dispatcher that runs did not hand over its listening socket");
            Ok(None)
        }
    }
}

/// What came before this dispatcher, and what comes after it.
#[derive(Debug)]
pub struct Succession {
    /// Whoever started the process keeps the socket: connections wait in it.
    kept: bool,
    predecessor: Option<Predecessor>,
    offer: Option<Offer>,
}

impl Succession {
    /// Takes over when `ready` says so, and hands over when the time has come.
    ///
    /// Cancels `open` once connections are to be accepted, calls `alone` when the predecessor's process has ended, and cancels `stop`
    /// when a successor has taken over. Ends when `stop` is cancelled by somebody else; after handing over, never: the successor
    /// takes the end of its connection for the end of this process.
    pub async fn carry_out(
        self,
        ready: impl Future<Output = ()>,
        alone: impl FnOnce(),
        open: CancellationToken,
        stop: CancellationToken,
    ) {
        let Self { kept, mut predecessor, offer } = self;
        let succeeding = async {
            if let Some(found) = predecessor.take() {
                predecessor = found.succeed(ready, &open).await;
            } else if kept {
                let _ = timeout(KEPT_PATIENCE, ready).await;
            }
            open.cancel();
            let watching = async {
                if let Some(found) = predecessor {
                    found.gone().await;
                    tracing::info!("the predecessor has ended");
                    alone();
                }
            };
            let offering = async {
                match offer {
                    Some(offer) => offer.until_taken().await,
                    None => std::future::pending().await,
                }
            };
            let ((), successor) = tokio::join!(watching, offering);
            successor
        };
        if let Some(successor) = stop.run_until_cancelled(succeeding).await {
            stop.cancel();
            let () = std::future::pending().await;
            drop(successor);
        }
    }
}

/// The connection to the dispatcher that is to be replaced.
#[derive(Debug)]
struct Predecessor(UnixStream);

impl Predecessor {
    /// Waits until this dispatcher is ready, opens, and tells the other to leave. None: it ended before it was told.
    async fn succeed(self, ready: impl Future<Output = ()>, open: &CancellationToken) -> Option<Self> {
        tokio::select! {
            () = ready => {}
            () = self.gone() => {
                tracing::warn!("the dispatcher that was to be replaced has ended by itself; connections are accepted at once");
                return None;
            }
        }
        open.cancel();
        let telling = async {
            send(&self.0, READY, None).await?;
            receive(&self.0).await
        };
        match timeout(PATIENCE, telling).await {
            Ok(Ok((answer, _))) if answer == LEAVING => tracing::info!("the predecessor leaves"),
            Ok(Ok((answer, _))) => tracing::warn!(answer, "the predecessor does not say that it leaves"),
            Ok(Err(error)) => tracing::warn!(%error, "the predecessor did not say that it leaves"),
            Err(_) => tracing::warn!("the predecessor does not answer; it may go on to accept connections"),
        }
        Some(self)
    }

    /// Waits for its end.
    async fn gone(&self) {
        // It has nothing to say of its own accord.
        let _ = receive(&self.0).await;
    }
}

/// The socket, for a successor.
#[derive(Debug)]
struct Offer {
    path: PathBuf,
    instance: Instance,
    listener: OwnedFd,
}

impl Offer {
    /// Offers the socket until a successor has taken over; the connection to it.
    async fn until_taken(self) -> UnixStream {
        let listener = match publish(&self.path) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(socket = %self.path.display(), %error, "the listening socket cannot be offered: an upgrade would refuse connections for a moment. See the key handover.socket");
                return std::future::pending().await;
            }
        };
        loop {
            // One after the other: there can be but one successor.
            match listener.accept().await {
                Ok((stream, _)) => match self.hand_over(&stream).await {
                    Ok(()) => return stream,
                    Err(error) => {
                        tracing::warn!(%error, "a successor did not come to be ready; this dispatcher goes on");
                    }
                },
                Err(error) => {
                    tracing::warn!(%error, "a successor cannot be heard");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Hands over to one successor, and waits until it is ready.
    async fn hand_over(&self, stream: &UnixStream) -> io::Result<()> {
        if let Some(user) = other_user(stream) {
            return Err(io::Error::other(format!("it is of {user}")));
        }
        let heard = timeout(PATIENCE, receive(stream)).await;
        let (hello, _) = heard.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
        let whose = hello.strip_prefix(HELLO).and_then(|rest| rest.strip_prefix(' '));
        let why = match whose {
            Some(name) if name == self.instance.as_str() => None,
            Some(_) => Some(format!("instance {}", self.instance)),
            None => Some(format!("a version of Lockstep that hands over in another way ({HELLO})")),
        };
        if let Some(why) = why {
            send(stream, &format!("{REFUSED} {why}"), None).await?;
            return Err(io::Error::other(format!("it was refused, because this is {why}")));
        }
        tracing::info!("a successor starts; it gets the listening socket");
        send(stream, LISTENER, Some(&self.listener)).await?;
        match receive(stream).await? {
            (message, _) if message == READY => {}
            (message, _) => return Err(io::Error::other(format!("it said {message:?}"))),
        }
        tracing::info!("the successor is ready; this dispatcher ends, containers go on and are adopted");
        // It is ready whether or not it hears this.
        let _ = send(stream, LEAVING, None).await;
        Ok(())
    }
}

/// Listens at `path`, in place of what is there. It appears there whole, and for its own user alone.
fn publish(path: &Path) -> io::Result<UnixListener> {
    if std::fs::symlink_metadata(path).is_ok_and(|found| !found.file_type().is_socket()) {
        return Err(io::Error::other("there is a file that is no socket"));
    }
    let mut staged = path.as_os_str().to_owned();
    staged.push(".new");
    let staged = PathBuf::from(staged);
    match std::fs::remove_file(&staged) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&staged)?;
    std::fs::set_permissions(&staged, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&staged, path)?;
    Ok(listener)
}

/// The user at the other end, in words, unless it is one's own.
fn other_user(stream: &UnixStream) -> Option<String> {
    match stream.peer_cred() {
        Ok(peer) if peer.uid() == rustix::process::geteuid().as_raw() => None,
        Ok(peer) => Some(format!("user {}", peer.uid())),
        Err(error) => Some(format!("an unknown user ({error})")),
    }
}

/// Sends a message, a line, with a socket beside it.
async fn send(stream: &UnixStream, message: &str, socket: Option<&OwnedFd>) -> io::Result<()> {
    let line = format!("{message}\n");
    let sent = stream.async_io(Interest::WRITABLE, || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        let sockets = socket.map(|socket| [socket.as_fd()]);
        if let Some(sockets) = &sockets {
            beside.push(SendAncillaryMessage::ScmRights(sockets));
        }
        let parts = [IoSlice::new(line.as_bytes())];
        Ok(rustix::net::sendmsg(stream, &parts, &mut beside, SendFlags::NOSIGNAL)?)
    });
    // A message is far shorter than a socket's buffer, so it is sent whole or not at all.
    if sent.await? == line.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Receives a message, and the socket that came beside it.
async fn receive(stream: &UnixStream) -> io::Result<(String, Option<OwnedFd>)> {
    let mut buffer = [0; MESSAGE_MAX];
    let received = stream.async_io(Interest::READABLE, || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut beside = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let received = rustix::net::recvmsg(stream, &mut parts, &mut beside, RecvFlags::CMSG_CLOEXEC)?;
        let mut sockets = beside.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
            _ => None,
        });
        let socket = sockets.next();
        Ok((received.bytes, socket))
    });
    let (length, socket) = received.await?;
    if length == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    // One waits for the other's answer before one speaks again, and a line is sent whole.
    let line = std::str::from_utf8(&buffer[..length]).ok().and_then(|text| text.strip_suffix('\n'));
    let line = line.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok((line.to_owned(), socket))
}
