//! A container's log as one stream of bytes.
//!
//! Docker frames every piece that the container wrote, a line most often, and sends each on its own. What has arrived together is
//! handed on together: a line that comes alone goes on at once, and a flood in pieces of [`PIECE`].
//!
//! Docker's followers have been known not to end with their container, and a connection to a host that vanished never
//! ends. So a log that is silent for [`SILENCE`] is compared with its container.

use std::time::Duration;

use bollard::container::LogOutput;
use bollard::errors::Error;
use bytes::{Bytes, BytesMut};
use futures::{FutureExt as _, Stream, StreamExt as _, stream};

use super::errors::Failure;
use super::{Docker, FOLLOW};
use crate::engine::{Engine as _, EngineError, Output, Result};
use crate::model::settle::Phase;

/// Bytes after which no more is gathered.
const PIECE: usize = 64 * 1024;
/// Silence after which the container is looked at.
const SILENCE: Duration = Duration::from_secs(30);
/// How long the log of a container that does not run may still take to end.
const END_LAG: Duration = Duration::from_secs(5);

struct Reader<S> {
    log: S,
    docker: Docker,
    container: String,
    /// What ended it, once there is nothing more to hand on before that: an error, or nothing.
    ended: Option<Option<EngineError>>,
}

/// Hands on what arrives, and sees to it that it ends.
pub(super) fn read<S>(docker: Docker, container: &str, log: S) -> Output
where
    S: Stream<Item = std::result::Result<LogOutput, Error>> + Send + Unpin + 'static,
{
    let reader = Reader { log, docker, container: container.to_owned(), ended: None };
    Box::pin(stream::unfold(reader, |mut reader| async move {
        let piece = reader.piece().await?;
        Some((piece, reader))
    }))
}

impl<S> Reader<S>
where
    S: Stream<Item = std::result::Result<LogOutput, Error>> + Send + Unpin,
{
    /// The next piece, or an error after which nothing follows, or none at the end.
    async fn piece(&mut self) -> Option<Result<Bytes>> {
        if let Some(end) = self.ended.take() {
            // An error is handed on once, and then the end.
            self.ended = Some(None);
            return end.map(Err);
        }
        let first = match self.first().await.and_then(|frame| self.content(frame)) {
            Ok(Some(first)) => first,
            Ok(None) => {
                self.ended = Some(None);
                return None;
            }
            Err(error) => {
                self.ended = Some(None);
                return Some(Err(error));
            }
        };
        let mut piece = BytesMut::new();
        while piece.len() + first.len() < PIECE && self.ended.is_none() {
            let Some(frame) = self.log.next().now_or_never() else { break };
            match self.content(frame) {
                Ok(Some(more)) => {
                    if piece.is_empty() {
                        piece.reserve(PIECE);
                        piece.extend_from_slice(&first);
                    }
                    piece.extend_from_slice(&more);
                }
                Ok(None) => self.ended = Some(None),
                Err(error) => self.ended = Some(Some(error)),
            }
        }
        Some(Ok(if piece.is_empty() { first } else { piece.freeze() }))
    }

    /// Waits for a frame, or the end.
    async fn first(&mut self) -> Result<Option<std::result::Result<LogOutput, Error>>> {
        loop {
            if let Ok(frame) = tokio::time::timeout(SILENCE, self.log.next()).await {
                return Ok(frame);
            }
            match self.docker.inspect(&self.container).await?.map(|found| found.phase) {
                Some(Phase::Created | Phase::Running) => {}
                Some(Phase::Ended { .. } | Phase::Dying) | None => {
                    return tokio::time::timeout(END_LAG, self.log.next()).await.map_err(|_| EngineError::NotReached {
                        doing: FOLLOW,
                        cause: "the container ended and its log did not".to_owned(),
                    });
                }
            }
        }
    }

    /// The bytes of a frame. Docker has a kind of frame for trouble in reading the log, which bollard hands on, header and all,
    /// as the output of a terminal: nothing that the container wrote.
    fn content(&self, frame: Option<std::result::Result<LogOutput, Error>>) -> Result<Option<Bytes>> {
        match frame {
            None => Ok(None),
            Some(Ok(LogOutput::StdOut { message } | LogOutput::StdErr { message })) => Ok(Some(message)),
            Some(Ok(LogOutput::StdIn { message } | LogOutput::Console { message })) => Err(EngineError::NotReached {
                doing: FOLLOW,
                cause: String::from_utf8_lossy(message.get(8..).unwrap_or_default()).trim().to_owned(),
            }),
            Some(Err(error)) => Err(Failure::from(error).sort(FOLLOW, &self.container)),
        }
    }
}
