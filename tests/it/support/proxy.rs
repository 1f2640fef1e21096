//! A TCP proxy that breaks and restores: what lies between Lockstep and a server can fail in ways that the server cannot.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What the proxy does, with connections that stand too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Passes everything on.
    Pass,
    /// Passes requests on and loses the replies: the connection breaks at the first reply.
    LoseReplies,
    /// Holds every piece back for a while.
    Slow,
    /// Takes everything and passes nothing on: the other end has vanished, and the connection does not tell.
    Silent,
    /// Breaks every connection.
    Broken,
}

/// How long a slow proxy holds a request back.
const SLOW: Duration = Duration::from_millis(300);

/// A proxy on a port of its own. Dropping it breaks all connections.
pub(crate) struct Proxy {
    port: u16,
    mode: Arc<watch::Sender<Mode>>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Stands before a port of 127.0.0.1, and passes.
    pub(crate) async fn before(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let mode = Arc::new(watch::Sender::new(Mode::Pass));
        let (modes, keep) = (mode.subscribe(), Arc::downgrade(&mode));
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if keep.upgrade().is_none() {
                    return;
                }
                tokio::spawn(carry(client, target, modes.clone()));
            }
        });
        Self { port, mode, accepting }
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Does this from now on.
    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Breaks every connection that stands, and passes from then on.
    pub(crate) async fn cut(&self) {
        self.set(Mode::Broken);
        // Each connection that is carried listens to the mode.
        super::eventually("the connections are cut", async || (self.mode.receiver_count() <= 1).then_some(())).await;
        self.set(Mode::Pass);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.set(Mode::Broken);
    }
}

async fn carry(mut client: TcpStream, target: u16, modes: watch::Receiver<Mode>) {
    let mut broken = modes.clone();
    if *modes.borrow() == Mode::Broken {
        return;
    }
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", target)).await else { return };
    let (mut request, mut reply) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    loop {
        tokio::select! {
            biased;
            () = async { drop(broken.wait_for(|mode| *mode == Mode::Broken).await) } => return,
            read = server.read(&mut reply) => match read {
                Ok(count) if count > 0 => {
                    match *modes.borrow() {
                        Mode::Pass | Mode::Slow => {}
                        Mode::Silent => continue,
                        Mode::LoseReplies | Mode::Broken => return,
                    }
                    if client.write_all(&reply[..count]).await.is_err() {
                        return;
                    }
                }
                _ => return,
            },
            read = client.read(&mut request) => match read {
                Ok(count) if count > 0 => {
                    let mode = *modes.borrow();
                    match mode {
                        Mode::Silent => continue,
                        Mode::Slow => tokio::time::sleep(SLOW).await,
                        Mode::Pass | Mode::LoseReplies | Mode::Broken => {}
                    }
                    if server.write_all(&request[..count]).await.is_err() {
                        return;
                    }
                }
                _ => return,
            },
        }
    }
}
