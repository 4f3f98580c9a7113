use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};

use buttress_core::{BoxError, Settle, Verdict, Watch};
use bytes::Buf;
use http::{Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::grpc::{End, Grpc, Noted, error_verdict};

/// Ends a call with the trailers of its response. Give it to a breaker's `watch`.
///
/// * A status in the head, an HTTP error, and what [`AttemptLayer`](crate::AttemptLayer) has seen already end it at once.
/// * Trailers end it with their status; an end without trailers, and an error, as failures.
/// * A body that is dropped after its first message ends it as a success: the caller has had enough of a stream that flowed;
///   unless it had waited for the next message so long that a call counts as abandoned. One that is dropped before its first
///   message ends it as abandoned. What counts is the time since the last message: a stream may flow for hours.
/// * A method that is [called a stream](crate::ServiceConfig::stream) is a success with its head: it may be quiet, and a
///   circuit that is half-open does not wait for the end of one that is open for hours.
#[derive(Clone, Debug, Default)]
pub struct GrpcWatch {
    grpc: Grpc,
}

impl GrpcWatch {
    /// Judges trailers by this table: the one that the breaker's policy has.
    pub fn new(grpc: Grpc) -> Self {
        Self { grpc }
    }
}

impl<B: Body> Watch<Response<B>> for GrpcWatch {
    type Response<G: Settle> = Response<WatchBody<B, G>>;

    fn watch<G: Settle>(&self, response: Response<B>, permit: &mut G, verdict: Verdict) -> Self::Response<G> {
        let noted = response.extensions().get::<Noted>().copied().unwrap_or_default();
        let is_over = verdict != Verdict::Success
            || response.status() != StatusCode::OK
            || noted.end.is_some()
            || noted.stream
            || End::of(response.headers()).is_some();
        if is_over {
            permit.settle(verdict);
        }
        permit.resume();
        let (permit, grpc) = (mem::take(permit), self.grpc.clone());
        // With nothing to do in between the body is moved straight to where it stays.
        response.map(|body| WatchBody { body, permit, grpc, flowing: false, waiting: false })
    }
}

pin_project! {
    /// A body that holds the permit of the call it answers.
    #[derive(Debug)]
    pub struct WatchBody<B, G>
    where
        G: Settle,
    {
        #[pin]
        body: B,
        permit: G,
        grpc: Grpc,
        // A message has come.
        flowing: bool,
        waiting: bool,
    }

    impl<B, G> PinnedDrop for WatchBody<B, G>
    where
        G: Settle,
    {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            match (*this.flowing, *this.waiting) {
                (true, false) => this.permit.settle(Verdict::Success),
                (true, true) => this.permit.leave(Verdict::Success),
                // Dropped unsettled.
                (false, _) => {}
            }
        }
    }
}

impl<B, G> Body for WatchBody<B, G>
where
    B: Body,
    B::Error: Into<BoxError>,
    G: Settle,
{
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        let this = self.project();
        let frame = match this.body.poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => frame,
            Poll::Ready(Some(Err(error))) => {
                return Poll::Ready(Some(Err(failed(this.permit, this.waiting, error.into()))));
            }
            Poll::Ready(None) => {
                truncated(this.permit, this.waiting, this.grpc);
                return Poll::Ready(None);
            }
            Poll::Pending => {
                *this.waiting = true;
                this.permit.pause(cx)?;
                return Poll::Pending;
            }
        };
        *this.waiting = false;
        this.permit.resume();
        match frame.trailers_ref() {
            Some(trailers) => this.permit.settle(this.grpc.end_verdict(End::of_trailers(trailers))),
            // An empty frame is no message.
            None => *this.flowing |= frame.data_ref().is_some_and(Buf::has_remaining),
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Apart, as what follows, so that the way of a frame is short.
#[cold]
fn failed<G: Settle>(permit: &mut G, waiting: &mut bool, error: BoxError) -> BoxError {
    *waiting = false;
    permit.resume();
    permit.settle(error_verdict(&*error));
    error
}

/// Nothing changes, if its trailers have come.
#[cold]
fn truncated<G: Settle>(permit: &mut G, waiting: &mut bool, grpc: &Grpc) {
    *waiting = false;
    permit.resume();
    permit.settle(grpc.end_verdict(End::Truncated));
}
