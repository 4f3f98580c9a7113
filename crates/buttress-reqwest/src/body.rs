//! Bodies on their way into reqwest and out of it.

use std::any::Any;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use buttress::BoxError;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// A request's body for reqwest.
///
/// One that is there as a whole is handed over as bytes: a body that is wrapped is a stream to reqwest, which then
/// neither follows a redirect that keeps the method (307, 308) nor repeats what an HTTP/2 server certainly did not process.
pub(crate) fn request_body<B>(body: B) -> reqwest::Body
where
    B: Body + Send + Sync + Unpin + 'static,
    B::Data: Into<Bytes>,
    B::Error: Into<BoxError>,
{
    let mut body = match same(body) {
        Ok(body) => return body,
        Err(body) => body,
    };
    if body.is_end_stream() {
        return reqwest::Body::default();
    }
    let Some(length) = body.size_hint().exact() else { return reqwest::Body::wrap(body) };
    // Whoever reads it later registers a waker of its own.
    let first = match Pin::new(&mut body).poll_frame(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Some(first)) => first.map(|frame| frame.map_data(Into::into)).map_err(Into::into),
        Poll::Ready(None) | Poll::Pending => return reqwest::Body::wrap(body),
    };
    let whole = |data: &Bytes| data.len() as u64 == length && body.is_end_stream();
    match first.as_ref().ok().and_then(Frame::data_ref).filter(|data| whole(data)) {
        Some(data) => reqwest::Body::from(data.clone()),
        None => reqwest::Body::wrap(Begun { first: Some(first), length, rest: body }),
    }
}

/// A response's body, whatever the layers have made of it.
#[cfg(feature = "middleware")]
pub(crate) fn response_body<B>(body: B) -> reqwest::Body
where
    B: Body + Send + Sync + 'static,
    B::Data: Into<Bytes>,
    B::Error: Into<BoxError>,
{
    same(body).unwrap_or_else(reqwest::Body::wrap)
}

/// What is reqwest's already.
fn same<B: 'static>(body: B) -> Result<reqwest::Body, B> {
    let mut slot = Some(body);
    let same = (&mut slot as &mut dyn Any).downcast_mut::<Option<reqwest::Body>>().and_then(Option::take);
    same.ok_or_else(|| slot.expect("it was not taken"))
}

/// A body whose first frame has been read.
struct Begun<B> {
    first: Option<Result<Frame<Bytes>, BoxError>>,
    /// Of the whole.
    length: u64,
    rest: B,
}

impl<B> Body for Begun<B>
where
    B: Body + Unpin,
    B::Data: Into<Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(first));
        }
        let frame = ready!(Pin::new(&mut self.rest).poll_frame(cx));
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(Into::into)).map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.first.is_some() { SizeHint::with_exact(self.length) } else { self.rest.size_hint() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt, Empty, Full};
    use std::collections::VecDeque;

    /// These pieces, of an exact length in all.
    struct Pieces(VecDeque<Result<Bytes, BoxError>>, u64);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            let piece = self.0.pop_front();
            self.1 -= piece.as_ref().map_or(0, |piece| piece.as_ref().map_or(0, |piece| piece.len() as u64));
            Poll::Ready(piece.map(|piece| piece.map(Frame::data)))
        }

        fn size_hint(&self) -> SizeHint {
            SizeHint::with_exact(self.1)
        }
    }

    #[test]
    fn what_is_in_memory_stays_bytes() {
        let full = request_body(Full::new(Bytes::from_static(b"whole")));
        assert_eq!(full.as_bytes(), Some(&b"whole"[..]));
        assert_eq!(request_body(Empty::<Bytes>::new()).as_bytes(), Some(&b""[..]));
        assert_eq!(request_body(reqwest::Body::from("ours")).as_bytes(), Some(&b"ours"[..]));
        let fork = buttress::core::Replay::once(
            &buttress::http::HttpReplay::new(),
            http::Request::new(reqwest::Body::from("replayed")),
        );
        assert_eq!(request_body(fork.into_body()).as_bytes(), Some(&b"replayed"[..]));
    }

    #[tokio::test]
    async fn what_comes_in_pieces_keeps_its_length_and_its_order() {
        let pieces = [Ok(Bytes::from_static(b"one ")), Ok(Bytes::from_static(b"two"))];
        let body = request_body(Pieces(pieces.into(), 7));
        assert_eq!((body.as_bytes(), body.size_hint().exact()), (None, Some(7)));
        assert_eq!(body.collect().await.unwrap().to_bytes(), "one two");

        let failing = request_body(Pieces([Err("lost".into())].into(), 7));
        assert!(failing.collect().await.is_err());

        let short = request_body(Pieces([].into(), 7));
        assert_eq!(short.size_hint().exact(), Some(7), "it does not pass for an empty one");
    }
}
