use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use buttress_core::BoxError;
use bytes::Buf;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use crate::grpc::{End, error_verdict};

/// A response's body of which the beginning has been looked at, and is given back as it came.
///
/// A body that ends without a status fails with [`Truncated`]: a client such as tonic would take what came for all there is.
#[derive(Debug)]
pub struct PeekedBody<B: Body> {
    body: B,
    first: Option<B::Data>,
    second: Option<B::Data>,
    rest: Rest,
    /// The status is still to come.
    expects_status: bool,
}

/// A response ended without a status: its server, or a proxy, broke off, and what came is not all.
///
/// With the feature `tonic` it is the source of a status with the code `INTERNAL`, as gRPC's own clients have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncated;

impl fmt::Display for Truncated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the response ended without a gRPC status; it may be incomplete")
    }
}

impl std::error::Error for Truncated {}

#[cold]
fn truncated() -> BoxError {
    #[cfg(feature = "tonic")]
    {
        let mut status = tonic::Status::internal(Truncated.to_string());
        status.set_source(std::sync::Arc::new(Truncated));
        status.into()
    }
    #[cfg(not(feature = "tonic"))]
    Box::new(Truncated)
}

/// What follows the data that has been looked at.
#[derive(Debug)]
enum Rest {
    /// It is not known yet.
    More,
    Trailers(HeaderMap),
    Failed(BoxError),
    Nothing,
}

/// What a look at the next frame has found.
pub(crate) enum Look {
    /// A message, and nothing yet of what follows.
    Data,
    End(End),
    /// The body failed before its first message.
    Failed(BoxError),
}

impl<B> PeekedBody<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    /// `expects_status`: its head has none.
    pub(crate) fn new(body: B, expects_status: bool) -> Self {
        Self { body, first: None, second: None, rest: Rest::More, expects_status }
    }

    /// Whether it has ended without the status that its head lacks.
    pub(crate) fn is_truncated(&self) -> bool {
        self.expects_status && self.body.is_end_stream()
    }

    /// Waits for the first frame; if that is data, looks once whether its end is there too. A second message is looked at
    /// no further.
    pub(crate) fn poll_look(&mut self, cx: &mut Context<'_>) -> Poll<Look> {
        match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            Some(Err(error)) => {
                self.rest = Rest::Nothing;
                return Poll::Ready(Look::Failed(error.into()));
            }
            frame => {
                if let Some(end) = self.take(frame) {
                    return Poll::Ready(Look::End(end));
                }
            }
        }
        // Without waiting: a stream's first message is not held up.
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
            return Poll::Ready(Look::Data);
        };
        Poll::Ready(self.take(frame).map_or(Look::Data, Look::End))
    }

    /// Keeps a frame that has been looked at; how the response ended, if it is the last.
    fn take(&mut self, frame: Option<Result<Frame<B::Data>, B::Error>>) -> Option<End> {
        match frame {
            None => {
                self.rest = Rest::Failed(truncated());
                Some(End::Truncated)
            }
            Some(Err(error)) => {
                let error = error.into();
                let verdict = error_verdict(&*error);
                self.rest = Rest::Failed(error);
                Some(End::Failed(verdict))
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    let slot = if self.first.is_none() { &mut self.first } else { &mut self.second };
                    *slot = Some(data);
                    None
                }
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    let end = End::of_trailers(&trailers);
                    self.rest = Rest::Trailers(trailers);
                    Some(end)
                }
            },
        }
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
        if let Some(data) = this.first.take().or_else(|| this.second.take()) {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        match std::mem::replace(&mut this.rest, Rest::Nothing) {
            Rest::More => {
                this.rest = Rest::More;
                let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
                match &frame {
                    Some(Ok(frame)) if frame.is_data() => {}
                    None if this.expects_status => {
                        this.rest = Rest::Nothing;
                        return Poll::Ready(Some(Err(truncated())));
                    }
                    _ => this.rest = Rest::Nothing,
                }
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
            Rest::Trailers(trailers) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            Rest::Failed(error) => Poll::Ready(Some(Err(error))),
            Rest::Nothing => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none()
            && self.second.is_none()
            && match &self.rest {
                Rest::More => !self.expects_status && self.body.is_end_stream(),
                Rest::Trailers(_) | Rest::Failed(_) => false,
                Rest::Nothing => true,
            }
    }

    fn size_hint(&self) -> SizeHint {
        let ahead = [&self.first, &self.second].into_iter().flatten();
        let ahead = ahead.fold(0, |sum: u64, data| sum.saturating_add(data.remaining() as u64));
        let rest =
            if matches!(self.rest, Rest::More) { self.body.size_hint() } else { SizeHint::with_exact(0) };
        let mut hint = SizeHint::new();
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(ahead));
        }
        hint.set_lower(rest.lower().saturating_add(ahead));
        hint
    }
}
