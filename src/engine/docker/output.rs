//! A container's log as one stream of bytes, read straight from the engine's socket.
//!
//! Docker sends every piece that the container wrote, a line most often, as a chunk of its own, and hyper hands each chunk from
//! one task to another: that costs more than all the rest, and a flood of short lines is read at a third of the rate of `docker logs`.
//! So this one call, which is all about bytes, is not made through bollard: what has arrived is read and unpacked together. A line that
//! comes alone goes on at once, and a log that is silent holds no buffer.
//!
//! Docker up to 22 ends a follower as soon as the container has ended, whether it has read everything or not. So what is behind the last
//! frame is asked for once more when nothing can be added any more, and only then is the end an end. Docker's followers
//! have also been known not to end at all, and a connection to a host that vanished never does: a log that is silent for
//! [`SILENCE`] is compared with its container.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{FutureExt as _, stream};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

use super::errors::Failure;
use super::frames::{Frames, Garbled};
use super::{Docker, FOLLOW, QUESTION};
use crate::engine::{Engine as _, EngineError, Output, Result};
use crate::model::settle::Phase;

/// Bytes that are read at a time.
const READ: usize = 64 * 1024;
/// The longest head of a reply, or text of a refusal, that is read, in bytes.
const HEAD_MAX: usize = 16 * 1024;
/// Pause after a read that took all there was. Docker writes line by line, and a reader who waits for each of them makes both sides
/// spend more on waking up than on the line: in a flood, lines gather meanwhile.
const GATHER: Duration = Duration::from_millis(1);
/// Silence after which the container is looked at.
const SILENCE: Duration = Duration::from_secs(30);
/// How long a log may take to end after its container, or a container after its log.
const END_LAG: Duration = Duration::from_secs(15);
/// Frames that are looked at first for what is behind the last one. A frame has at most 16 KiB.
const WINDOW: u64 = 128;

enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Socket {
    async fn connect(host: &str) -> io::Result<Self> {
        if let Some(path) = host.strip_prefix("unix://") {
            return Ok(Self::Unix(UnixStream::connect(path).await?));
        }
        let address = host.split_once("://").map_or(host, |(_, address)| address).trim_end_matches('/');
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self::Tcp(stream))
    }

    async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.write_all(bytes).await,
            Self::Tcp(stream) => stream.write_all(bytes).await,
        }
    }

    /// Waits until there is something to read; only then is there a buffer for it.
    async fn receive(&mut self) -> io::Result<BytesMut> {
        loop {
            match self {
                Self::Unix(stream) => stream.readable().await?,
                Self::Tcp(stream) => stream.readable().await?,
            }
            let mut bytes = BytesMut::with_capacity(READ);
            let stream: &mut (dyn AsyncRead + Send + Unpin) = match self {
                Self::Unix(stream) => stream,
                Self::Tcp(stream) => stream,
            };
            match stream.read_buf(&mut bytes).now_or_never() {
                Some(Ok(0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Some(Ok(_)) => return Ok(bytes),
                Some(Err(error)) => return Err(error),
                // Nothing there after all, or the task has had its share of the thread: asking again at once would not end.
                None => tokio::task::yield_now().await,
            }
        }
    }
}

/// Opens a container's log.
pub(super) async fn follow(docker: Docker, container: &str) -> Result<Output> {
    let (socket, ahead) = ask(&docker, container, "follow=true&tail=all").await?;
    let reader = Reader {
        docker,
        container: container.to_owned(),
        stage: Stage::Following,
        socket: Some(socket),
        frames: Frames::default(),
        ahead,
        partly: false,
        trouble: None,
    };
    Ok(Box::pin(stream::unfold(reader, |mut reader| async move {
        let piece = reader.piece().await?;
        Some((piece, reader))
    })))
}

/// Asks for the log, within bounds.
async fn ask(docker: &Docker, container: &str, query: &str) -> Result<(Socket, BytesMut)> {
    let opened = tokio::time::timeout(QUESTION, open(&docker.host, container, query)).await;
    let opened = opened.unwrap_or_else(|_| Err(Failure::Silence(format!("no reply within {} s", QUESTION.as_secs()))));
    opened.map_err(|failure| failure.sort(FOLLOW, container))
}

/// Asks for the log; returns what follows the head of the reply, once it is known to be one.
async fn open(host: &str, container: &str, query: &str) -> std::result::Result<(Socket, BytesMut), Failure> {
    let lost = |error: io::Error| Failure::Silence(error.to_string());
    let mut socket = Socket::connect(host).await.map_err(lost)?;
    let request = format!(
        "GET /containers/{container}/logs?stdout=true&stderr=true&timestamps=true&{query} HTTP/1.1\r\nHost: docker\r\n\r\n"
    );
    socket.send(request.as_bytes()).await.map_err(lost)?;
    let mut head = BytesMut::new();
    let end = loop {
        head.extend_from_slice(&socket.receive().await.map_err(lost)?);
        if let Some(at) = head.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        if head.len() > HEAD_MAX {
            return Err(Failure::Silence("the head of its reply has no end".to_owned()));
        }
    };
    let mut body = head.split_off(end);
    let head = Head::read(&String::from_utf8_lossy(&head))
        .ok_or_else(|| Failure::Silence("its reply is not HTTP/1.1".to_owned()))?;
    match head.status {
        200 if head.chunked => Ok((socket, body)),
        200 => Err(Failure::Silence("its reply is not chunked, so that its end could not be told".to_owned())),
        status => {
            while body.len() < head.length.min(HEAD_MAX) {
                body.extend_from_slice(&socket.receive().await.map_err(lost)?);
            }
            Err(Failure::Answer { status, message: super::errors::message(&body) })
        }
    }
}

/// What matters in the head of a reply.
struct Head {
    status: u16,
    chunked: bool,
    length: usize,
}

impl Head {
    fn read(text: &str) -> Option<Self> {
        let mut lines = text.split("\r\n");
        let status = lines.next()?.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
        let mut head = Self { status, chunked: false, length: 0 };
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            if name.eq_ignore_ascii_case("transfer-encoding") {
                head.chunked = value.eq_ignore_ascii_case("chunked");
            } else if name.eq_ignore_ascii_case("content-length") {
                head.length = value.parse().ok()?;
            }
        }
        Some(head)
    }
}

/// How far the reading has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The container may still write.
    Following,
    /// It does not run any more; what is behind the last frame is read.
    Rest,
    /// Everything has been read.
    Over,
}

struct Reader {
    docker: Docker,
    container: String,
    stage: Stage,
    /// None once there is nothing more to read from it.
    socket: Option<Socket>,
    frames: Frames,
    /// Came together with the head.
    ahead: BytesMut,
    /// The last read took all there was.
    partly: bool,
    trouble: Option<EngineError>,
}

impl Reader {
    /// The next piece, or an error after which nothing follows, or none at the end.
    async fn piece(&mut self) -> Option<Result<Bytes>> {
        let mut output = BytesMut::new();
        while output.is_empty() {
            if let Some(trouble) = self.trouble.take() {
                self.stage = Stage::Over;
                return Some(Err(trouble));
            }
            let went_on = match (self.stage, self.socket.take()) {
                (Stage::Over, _) => return None,
                (Stage::Following | Stage::Rest, Some(socket)) => self.read(socket, &mut output).await,
                (Stage::Following, None) => self.rest(&mut output).await,
                (Stage::Rest, None) if self.frames.has_found() => {
                    self.stage = Stage::Over;
                    Ok(())
                }
                (Stage::Rest, None) => Err(lost("the log does not hold any more what was read of it".to_owned())),
            };
            // What came before the trouble is handed on first.
            self.trouble = went_on.err();
        }
        Some(Ok(output.freeze()))
    }

    /// Takes in what has arrived, and keeps the socket unless that was the end.
    async fn read(&mut self, mut socket: Socket, output: &mut BytesMut) -> Result<()> {
        let bytes = match self.ahead.is_empty() {
            true => self.receive(&mut socket).await?,
            false => std::mem::take(&mut self.ahead),
        };
        output.reserve(bytes.len());
        take_in(&mut self.frames, &bytes, output)?;
        if !self.frames.is_over() {
            self.socket = Some(socket);
        }
        Ok(())
    }

    /// What has arrived, once anything has.
    async fn receive(&mut self, socket: &mut Socket) -> Result<BytesMut> {
        if std::mem::take(&mut self.partly) {
            tokio::time::sleep(GATHER).await;
        }
        let received = self.await_bytes(socket).await?;
        self.partly = received.len() < READ;
        Ok(received)
    }

    async fn await_bytes(&self, socket: &mut Socket) -> Result<BytesMut> {
        loop {
            if let Ok(received) = tokio::time::timeout(SILENCE, socket.receive()).await {
                return received.map_err(|error| lost(error.to_string()));
            }
            match self.docker.inspect(&self.container).await?.map(|found| found.phase) {
                Some(Phase::Created | Phase::Running) => {}
                Some(Phase::Ended { .. } | Phase::Unseen | Phase::Dying) | None => {
                    return match tokio::time::timeout(END_LAG, socket.receive()).await {
                        Ok(received) => received.map_err(|error| lost(error.to_string())),
                        Err(_) => Err(lost("the container ended and its log did not".to_owned())),
                    };
                }
            }
        }
    }

    /// After the follower's end: makes sure that the container has ended, and reads what is behind the last frame, if that is in
    /// the last few; else goes on with a reading of the whole log.
    async fn rest(&mut self, output: &mut BytesMut) -> Result<()> {
        self.stage = Stage::Rest;
        // Whatever comes of the waiting, the next look tells.
        let _ = self.docker.wait(&self.container, END_LAG).await;
        match self.docker.inspect(&self.container).await?.map(|found| found.phase) {
            Some(Phase::Ended { .. } | Phase::Unseen) => {}
            Some(Phase::Created | Phase::Running) => {
                return Err(lost("the log ended and its container did not".to_owned()));
            }
            Some(Phase::Dying) => return Err(lost("the container is being removed".to_owned())),
            None => return Err(EngineError::NoContainer { container: self.container.clone() }),
        }
        let place = self.frames.place();
        if let Some(place) = place {
            let (mut socket, mut bytes) = ask(&self.docker, &self.container, &format!("tail={WINDOW}")).await?;
            let mut window = Frames::behind(place);
            let mut rest = BytesMut::new();
            loop {
                take_in(&mut window, &bytes, &mut rest)?;
                if window.is_over() {
                    break;
                }
                bytes = self.receive(&mut socket).await?;
            }
            if window.has_found() && (window.has_led_up() || window.count() < WINDOW) {
                self.frames = window;
                *output = rest;
                return Ok(());
            }
        }
        let (socket, ahead) = ask(&self.docker, &self.container, "tail=all").await?;
        self.frames = place.map_or_else(Frames::default, Frames::behind);
        (self.socket, self.ahead) = (Some(socket), ahead);
        Ok(())
    }
}

fn lost(cause: String) -> EngineError {
    EngineError::NotReached { doing: FOLLOW, cause }
}

fn take_in(frames: &mut Frames, bytes: &[u8], output: &mut BytesMut) -> Result<()> {
    frames.push(bytes, output).map_err(|garbled| match garbled {
        Garbled::Told(told) => lost(told),
        Garbled::Format(what) => lost(format!("its log is garbled: {what}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads() {
        let head = Head::read("HTTP/1.1 200 OK\r\nServer: x\r\ntransfer-encoding: chunked\r\n\r\n").expect("a head");
        assert_eq!((head.status, head.chunked), (200, true));
        let head = Head::read("HTTP/1.1 404 Not Found\r\nContent-Length: 12\r\n\r\n").expect("a head");
        assert_eq!((head.status, head.chunked, head.length), (404, false, 12));
        for bad in ["", "HTTP/1.1 ", "HTTP/1.1 2", "HTTP/2 200 OK", "SSH-2.0", "HTTP/1.1 abc"] {
            assert!(Head::read(bad).is_none(), "{bad}");
        }
    }
}
