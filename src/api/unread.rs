//! What a handler leaves unread of a body: read and dropped before the answer goes out.
//!
//! A connection that is closed while the other end still writes is reset, and who is reset often never sees the answer: a refusal, which
//! needs no body to be read, would look like trouble with the network.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::header;
use axum::middleware::Next;
use axum::response::Response;
use futures::StreamExt as _;
use http_body::{Frame, SizeHint};

/// So many bytes are dropped at most.
const DROPPED_MAX: usize = 32 * 1024 * 1024;
/// And so long they are waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Has a request answered.
pub(super) async fn answered(request: Request, next: Next) -> Response {
    // Who asks first (Expect: 100-continue) has sent nothing, and is asked for it by the first look.
    if request.body().is_end_stream() || request.headers().contains_key(header::EXPECT) {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    let lent = Lent(Arc::new(Mutex::new(body)));
    let response = next.run(Request::from_parts(parts, Body::new(lent.clone()))).await;
    if !lent.is_end_stream() {
        let dropping = async {
            let mut dropped = 0;
            let mut chunks = Body::new(lent).into_data_stream();
            while let Some(Ok(chunk)) = chunks.next().await {
                dropped += chunk.len();
                if dropped > DROPPED_MAX {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(PATIENCE, dropping).await;
    }
    response
}

/// A body that comes back when the handler drops it.
#[derive(Clone)]
struct Lent(Arc<Mutex<Body>>);

impl Lent {
    fn look<T>(&self, look: impl FnOnce(&mut Body) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.look(|body| Pin::new(body).poll_frame(context))
    }

    fn is_end_stream(&self) -> bool {
        self.look(|body| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.look(|body| body.size_hint())
    }
}
