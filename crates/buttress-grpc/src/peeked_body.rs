use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use buttress_core::{BoxError, Elapsed, Judged, Timer, Verdict};
use bytes::Buf;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use crate::grpc::{End, error_verdict};

/// A response's body of which the beginning has been looked at, and is given back as it came.
///
/// * A body that ends without a status fails with [`Truncated`]: a client such as tonic would take what came for all there is.
/// * A body that has not ended when the time of a call is over that has a `grpc-timeout`, or whose method has a `timeout`, fails
///   with [`Elapsed`], and what lies below is dropped. To a breaker that is a time-out of the server's, or neutral if its reader
///   comes too late for what is there.
///
/// With the feature `tonic` both are the source of a status: `INTERNAL` and `DEADLINE_EXCEEDED`, as gRPC's own clients have it.
#[derive(Debug)]
pub struct PeekedBody<B: Body> {
    /// Until it has ended.
    body: Option<B>,
    first: Option<B::Data>,
    /// What has been looked at behind it, or before any data.
    next: Option<Next<B::Data>>,
    /// The status is still to come.
    expects_status: bool,
    /// When it has to be over.
    time: Option<Box<Time>>,
}

/// More of a body, or its end.
#[derive(Debug)]
enum Next<D> {
    Data(D),
    Trailers(HeaderMap),
    Failed(BoxError),
}

/// Until when a call may take, its response's body included.
#[derive(Debug)]
pub(crate) struct Time {
    pub(crate) deadline: Instant,
    /// How long that was from the call on.
    pub(crate) limit: Duration,
    pub(crate) method: Arc<str>,
    pub(crate) timer: Timer,
}

/// What a look at the next frame has found.
pub(crate) enum Look {
    /// A message, and nothing yet of what follows.
    Data,
    End(End),
    /// The body failed before its first message.
    Failed(BoxError),
}

/// What a poll of a body has given, and the status in it.
type WithStatus<D> = (Option<Result<Frame<D>, BoxError>>, Option<End>);

/// A response ended without a status: its server, or a proxy, broke off, and what came may not be all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncated;

impl fmt::Display for Truncated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the response ended without a gRPC status; it may be incomplete")
    }
}

impl std::error::Error for Truncated {}

/// An error of ours in a body, as the client above understands it.
#[cold]
fn error(error: impl Into<BoxError>) -> BoxError {
    #[cfg(feature = "tonic")]
    return crate::to_status(error.into()).into();
    #[cfg(not(feature = "tonic"))]
    error.into()
}

impl<B> PeekedBody<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    /// `expects_status`: its head has none.
    pub(crate) fn new(body: B, expects_status: bool, time: Option<Box<Time>>) -> Self {
        Self { body: Some(body), first: None, next: None, expects_status, time }
    }

    /// Whether it has ended without the status that its head lacks.
    pub(crate) fn is_truncated(&self) -> bool {
        self.expects_status && self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    /// Waits for the first frame; if that is data, looks whether its end is there too: once, without waiting, or for as
    /// long as it takes if the message is the only one (`whole`). A second piece of data is looked at no further.
    pub(crate) fn poll_look(&mut self, whole: bool, cx: &mut Context<'_>) -> Poll<Look> {
        while self.next.is_none() {
            let flowing = self.first.is_some();
            match self.poll_body(cx) {
                Poll::Pending if flowing && !whole => break,
                Poll::Pending => return Poll::Pending,
                Poll::Ready((Some(Err(error)), _)) if !flowing => return Poll::Ready(Look::Failed(error)),
                Poll::Ready((frame, status)) => {
                    if let Some(end) = self.keep(frame, status) {
                        return Poll::Ready(Look::End(end));
                    }
                }
            }
        }
        Poll::Ready(Look::Data)
    }

    /// Keeps a frame that has been looked at; how the response ended, if it is the last, whose status this is.
    fn keep(&mut self, frame: Option<Result<Frame<B::Data>, BoxError>>, status: Option<End>) -> Option<End> {
        let (next, end) = match frame {
            None => (Next::Failed(error(Truncated)), Some(End::Truncated)),
            Some(Err(error)) => {
                let verdict = error_verdict(&*error);
                (Next::Failed(error), Some(End::Failed(verdict)))
            }
            Some(Ok(frame)) => match frame.into_data() {
                // HTTP/2 ends many a stream with one.
                Ok(data) if !data.has_remaining() => return None,
                Ok(data) if self.first.is_none() => {
                    self.first = Some(data);
                    return None;
                }
                Ok(data) => (Next::Data(data), None),
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    (Next::Trailers(trailers), Some(status.unwrap_or(End::Truncated)))
                }
            },
        };
        self.next = Some(next);
        end
    }

    /// The next frame of the body itself, which is let go with its last one; and the status in it, if it is trailers.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<WithStatus<B::Data>> {
        let Some(body) = &mut self.body else { return Poll::Ready((None, None)) };
        let frame = match (Pin::new(body).poll_frame(cx), &mut self.time) {
            // A slow reader of a fast stream never waits; that it is late is no fault of the server's.
            (Poll::Ready(Some(Ok(frame))), Some(time)) if frame.is_data() && time.is_over() => {
                Some(Err(error(Judged::new(Verdict::Ignored, time.elapsed()))))
            }
            (Poll::Ready(frame), _) => frame.map(|frame| frame.map_err(Into::into)),
            (Poll::Pending, None) => return Poll::Pending,
            (Poll::Pending, Some(time)) => Some(Err(ready!(time.poll(cx)))),
        };
        let mut frame = match frame {
            Some(Ok(frame)) if frame.is_data() => return Poll::Ready((Some(Ok(frame)), None)),
            last => last,
        };
        self.body = None;
        let Some(trailers) = frame.as_mut().and_then(|frame| frame.as_mut().ok()?.trailers_mut()) else {
            return Poll::Ready((frame, None));
        };
        match End::of(trailers) {
            // Trailers without a status are an end without one, whatever else they say.
            None if self.expects_status => Poll::Ready((None, None)),
            status => {
                #[cfg(feature = "tonic")]
                crate::status::without_broken_details(trailers);
                Poll::Ready((frame, status))
            }
        }
    }
}

impl Time {
    /// The error of a body that is too late.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<BoxError> {
        if !self.timer.is_set() {
            match Timer::at(self.deadline) {
                Ok(timer) => self.timer = timer,
                Err(no_timer) => return Poll::Ready(error(no_timer)),
            }
        }
        ready!(self.timer.poll(cx));
        Poll::Ready(error(self.elapsed()))
    }

    fn is_over(&self) -> bool {
        self.deadline <= Instant::now()
    }

    fn elapsed(&self) -> Elapsed {
        Elapsed::new(Arc::clone(&self.method), self.limit)
    }
}

impl<B> Body for PeekedBody<B>
where
    B: Body + Unpin,
    B::Data: Unpin,
    B::Error: Into<BoxError>,
{
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        let this = self.get_mut();
        if let Some(data) = this.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        match this.next.take() {
            Some(Next::Data(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
            Some(Next::Trailers(trailers)) => return Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            Some(Next::Failed(error)) => return Poll::Ready(Some(Err(error))),
            None if this.body.is_none() => return Poll::Ready(None),
            None => {}
        }
        let (frame, _) = ready!(this.poll_body(cx));
        Poll::Ready(match frame {
            None if this.expects_status => Some(Err(error(Truncated))),
            frame => frame,
        })
    }

    fn is_end_stream(&self) -> bool {
        let ahead = self.first.is_some() || self.next.is_some();
        !ahead && self.body.as_ref().is_none_or(|body| !self.expects_status && body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let first = self.first.as_ref().map_or(0, |data| data.remaining() as u64);
        let next = if let Some(Next::Data(data)) = &self.next { data.remaining() as u64 } else { 0 };
        let ahead = first.saturating_add(next);
        let rest = self.body.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint);
        let mut hint = SizeHint::new();
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(ahead));
        }
        hint.set_lower(rest.lower().saturating_add(ahead));
        hint
    }
}
