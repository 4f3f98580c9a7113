use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use buttress_core::BoxError;
use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};

/// The body of a request that was read to be compared, or one that passes as it is.
pub struct RequestBody<B> {
    read: VecDeque<Frame<Bytes>>,
    /// What is left of the body, if it was not read to its end.
    rest: Option<B>,
    failed: Option<BoxError>,
}

impl<B> fmt::Debug for RequestBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.rest.is_some() { "RequestBody(streaming)" } else { "RequestBody(read)" })
    }
}

/// How reading a body ended.
pub(super) enum Read {
    Whole,
    TooLarge,
    Failed,
}

impl<B> RequestBody<B> {
    pub(super) fn passing(body: B) -> Self {
        Self { read: VecDeque::new(), rest: Some(body), failed: None }
    }

    /// The pieces that were read.
    pub(super) fn pieces(&self) -> impl Iterator<Item = &Bytes> {
        self.read.iter().filter_map(Frame::data_ref)
    }
}

impl<B> RequestBody<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    /// Reads the body, as long as no more than `left` bytes come. Nothing is lost: what was read is told again.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, left: &mut usize) -> Poll<Read> {
        while let Some(rest) = &mut self.rest {
            match ready!(Pin::new(rest).poll_frame(cx)) {
                None => self.rest = None,
                Some(Ok(frame)) => {
                    let frame = frame.map_data(|mut data| data.copy_to_bytes(data.remaining()));
                    let length = frame.data_ref().map_or(0, Bytes::len);
                    if length > 0 || frame.is_trailers() {
                        self.read.push_back(frame);
                    }
                    let Some(less) = left.checked_sub(length) else { return Poll::Ready(Read::TooLarge) };
                    *left = less;
                }
                Some(Err(error)) => {
                    self.rest = None;
                    self.failed = Some(error.into());
                    return Poll::Ready(Read::Failed);
                }
            }
        }
        Poll::Ready(Read::Whole)
    }

    /// Why it could not be read.
    pub(super) fn take_error(&mut self) -> Option<BoxError> {
        self.failed.take()
    }
}

impl<B> Body for RequestBody<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if let Some(frame) = this.read.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        if let Some(error) = this.failed.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let Some(rest) = &mut this.rest else { return Poll::Ready(None) };
        Pin::new(rest).poll_frame(cx).map(|frame| {
            frame.map(|frame| {
                let copy =
                    |frame: Frame<B::Data>| frame.map_data(|mut data| data.copy_to_bytes(data.remaining()));
                frame.map(copy).map_err(Into::into)
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.read.is_empty() && self.failed.is_none() && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let read: u64 = self.pieces().map(|data| data.len() as u64).sum();
        let rest = self.rest.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint);
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(read));
        if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(read)) {
            hint.set_upper(upper);
        }
        hint
    }
}
