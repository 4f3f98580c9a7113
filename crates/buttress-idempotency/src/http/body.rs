use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use buttress_core::BoxError;
use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

/// The body of a request that was read to be compared, or one that passes as it is.
pub struct RequestBody<B> {
    read: VecDeque<Bytes>,
    /// Small pieces that came last, together: each by itself would take more than it holds.
    small: BytesMut,
    trailers: Option<HeaderMap>,
    /// What is left of the body, if it was not read to its end.
    rest: Option<B>,
    failed: Option<BoxError>,
}

/// A piece that is smaller is copied, in bytes.
const SMALL: usize = 4096;

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
        Self { read: VecDeque::new(), small: BytesMut::new(), trailers: None, rest: Some(body), failed: None }
    }

    /// The pieces that were read.
    pub(super) fn pieces(&self) -> impl Iterator<Item = &Bytes> {
        self.read.iter()
    }

    /// Why it could not be read. Whoever reads on is told, too: after what has come.
    pub(super) fn error(&self) -> Option<BoxError> {
        self.failed.as_ref().map(|error| error.to_string().into())
    }

    fn keep(&mut self, data: Bytes) {
        if data.len() < SMALL {
            self.small.extend_from_slice(&data);
        } else {
            self.gather();
            self.read.push_back(data);
        }
    }

    /// Makes one piece of the small ones.
    fn gather(&mut self) {
        if !self.small.is_empty() {
            self.read.push_back(self.small.split().freeze());
        }
    }
}

impl<B> RequestBody<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    /// Reads the body, as long as no more than `left` bytes come. Nothing is lost: what was read is told again.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, left: &mut usize) -> Poll<Read> {
        let read = ready!(self.poll_to_end(cx, left));
        self.gather();
        Poll::Ready(read)
    }

    fn poll_to_end(&mut self, cx: &mut Context<'_>, left: &mut usize) -> Poll<Read> {
        while let Some(rest) = &mut self.rest {
            let frame = match ready!(Pin::new(rest).poll_frame(cx)) {
                None => {
                    self.rest = None;
                    break;
                }
                Some(Ok(frame)) => frame,
                Some(Err(error)) => {
                    self.rest = None;
                    self.failed = Some(error.into());
                    return Poll::Ready(Read::Failed);
                }
            };
            match frame.into_data() {
                Ok(mut data) => {
                    let length = data.remaining();
                    self.keep(data.copy_to_bytes(length));
                    let Some(less) = left.checked_sub(length) else { return Poll::Ready(Read::TooLarge) };
                    *left = less;
                }
                Err(frame) => self.trailers = frame.into_trailers().ok(),
            }
        }
        Poll::Ready(Read::Whole)
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
        if let Some(data) = this.read.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if let Some(trailers) = this.trailers.take() {
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
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
        let told = self.read.is_empty() && self.trailers.is_none() && self.failed.is_none();
        told && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let read: u64 = self.pieces().map(|data| data.len() as u64).sum();
        let mut hint = SizeHint::new();
        hint.set_lower(read);
        match &self.rest {
            // How much would have come, nobody knows.
            None if self.failed.is_some() => {}
            None => hint.set_upper(read),
            Some(rest) => {
                let rest = rest.size_hint();
                hint.set_lower(rest.lower().saturating_add(read));
                if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(read)) {
                    hint.set_upper(upper);
                }
            }
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use buttress_testkit::clock::poll_in_task;
    use http_body_util::{BodyExt, Channel};
    use std::future::poll_fn;

    async fn read(pieces: &[&'static [u8]], mut cap: usize) -> (Read, RequestBody<Channel<Bytes, BoxError>>) {
        let (mut sender, body) = Channel::new(pieces.len() + 1);
        for piece in pieces {
            sender.send_data(Bytes::from_static(piece)).await.unwrap();
        }
        let trailers = HeaderMap::from_iter([(http::header::ETAG, http::HeaderValue::from_static("x"))]);
        sender.send_trailers(trailers).await.unwrap();
        drop(sender);
        let mut body = RequestBody::passing(body);
        let read = poll_fn(|cx| body.poll_read(cx, &mut cap)).await;
        (read, body)
    }

    #[tokio::test]
    async fn a_body_in_tiny_pieces_takes_no_more_room_than_one_in_large_ones() {
        let (large, mut pieces): (&'static [u8], Vec<&'static [u8]>) = (&[b'x'; SMALL], vec![b"a"; 10_000]);
        pieces.extend([large, b"b", b"c"]);
        let (read, body) = read(&pieces, 1 << 20).await;
        assert!(matches!(read, Read::Whole));
        let lengths: Vec<_> = body.pieces().map(Bytes::len).collect();
        assert_eq!(lengths, [10_000, SMALL, 2]);
        assert_eq!(body.size_hint().exact(), Some(10_002 + SMALL as u64));
        let whole = body.collect().await.unwrap();
        assert!(whole.trailers().is_some());
        assert_eq!(whole.to_bytes(), pieces.concat());
    }

    #[tokio::test]
    async fn what_was_read_of_a_body_over_the_cap_is_told_before_its_rest() {
        let pieces: &[&'static [u8]] = &[b"one ", b"two ", b"three"];
        let (read, body) = read(pieces, 6).await;
        assert!(matches!(read, Read::TooLarge));
        let whole = body.collect().await.unwrap();
        assert!(whole.trailers().is_some());
        assert_eq!(whole.to_bytes(), "one two three");
    }

    #[tokio::test]
    async fn a_body_that_broke_off_breaks_off_again_after_what_has_come() {
        let (mut sender, body) = Channel::<Bytes, BoxError>::new(2);
        sender.send_data(Bytes::from_static(b"half")).await.unwrap();
        sender.abort("reset".into());
        let (mut body, mut cap) = (RequestBody::passing(body), 100);
        assert!(matches!(poll_fn(|cx| body.poll_read(cx, &mut cap)).await, Read::Failed));
        assert_eq!(body.error().unwrap().to_string(), "reset");
        assert_eq!((body.is_end_stream(), body.size_hint().exact()), (false, None));
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "half");
        assert_eq!(body.frame().await.unwrap().unwrap_err().to_string(), "reset");
        assert!(poll_in_task(&mut Box::pin(body.frame())).await.is_ready());
    }
}
