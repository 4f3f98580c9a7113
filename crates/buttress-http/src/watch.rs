use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};

use buttress_core::{BoxError, Settle, Verdict, Watch};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::transport::transport_verdict;

/// Ends a call with the body of its response. Give it to a breaker's `watch`.
///
/// * A head that is a failure or neutral, or of a body that is empty or a stream of events, ends the call at once.
/// * The body's end ends it with the head's verdict, its error as a failure.
/// * A body that is dropped unread, or between two frames, ends it with the head's verdict: its caller has had enough.
/// * One whose reader went away while it waited for the first frame ends it as abandoned; while it waited for a further one,
///   with the head's verdict, unless it had waited for that one frame so long that a call counts as abandoned.
///
/// Only the time for which the reader waits for one frame counts, as abandoned or as slow: a body may flow for hours.
#[derive(Clone, Copy, Debug, Default)]
pub struct HttpWatch;

impl<B: Body> Watch<http::Response<B>> for HttpWatch {
    type Response<G: Settle> = http::Response<WatchBody<B, G>>;

    fn watch<G: Settle>(
        &self,
        response: http::Response<B>,
        permit: &mut G,
        verdict: Verdict,
    ) -> Self::Response<G> {
        let is_over = !matches!(verdict, Verdict::Success | Verdict::Rejected) || is_event_stream(&response);
        response.map(|body| {
            if is_over || body.is_end_stream() {
                permit.settle(verdict);
            }
            permit.resume();
            WatchBody { body, permit: mem::take(permit), verdict, flowing: false, waiting: false }
        })
    }
}

/// Server-sent events: they may be hours apart, and have no end that one would wait for.
fn is_event_stream<B>(response: &http::Response<B>) -> bool {
    let media_type = response.headers().get(http::header::CONTENT_TYPE).map(http::HeaderValue::as_bytes);
    let name = media_type.and_then(|value| value.split(|&byte| byte == b';').next());
    name.is_some_and(|name| name.trim_ascii().eq_ignore_ascii_case(b"text/event-stream"))
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
        verdict: Verdict,
        flowing: bool,
        waiting: bool,
    }

    impl<B, G> PinnedDrop for WatchBody<B, G>
    where
        G: Settle,
    {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            match (*this.waiting, *this.flowing) {
                (false, _) => this.permit.settle(*this.verdict),
                (true, true) => this.permit.leave(*this.verdict),
                // Dropped unsettled.
                (true, false) => {}
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
        let mut this = self.project();
        let Poll::Ready(frame) = this.body.as_mut().poll_frame(cx) else {
            *this.waiting = true;
            this.permit.pause(cx)?;
            return Poll::Pending;
        };
        (*this.flowing, *this.waiting) = (true, false);
        this.permit.resume();
        let frame = frame.map(|frame| frame.map_err(Into::into));
        match &frame {
            Some(Err(error)) => this.permit.settle(transport_verdict(&**error)),
            // Whoever knows the length stops reading with the last frame.
            Some(Ok(_)) if !this.body.is_end_stream() => {}
            Some(Ok(_)) | None => this.permit.settle(*this.verdict),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use buttress_core::Kind;
    use buttress_testkit::{Permit, Settled};
    use bytes::Bytes;
    use http_body_util::{BodyExt, Channel, Empty, Full};

    fn watch<B: Body>(settled: &Settled, body: B, verdict: Verdict) -> WatchBody<B, Permit> {
        HttpWatch.watch(http::Response::new(body), &mut settled.permit(), verdict).into_body()
    }

    #[tokio::test]
    async fn a_body_settles_at_its_end_its_error_or_its_drop() {
        let settled = Settled::default();
        let failed = Verdict::failure(Kind::Transient);

        let mut body = watch(&settled, Full::new(Bytes::from_static(b"x")), Verdict::Success);
        assert_eq!(settled.take(), []);
        body.frame().await.unwrap().unwrap();
        assert_eq!(settled.take(), [Some(Verdict::Success)], "with the last frame");
        assert!(body.frame().await.is_none());
        drop(body);
        assert_eq!(settled.take(), []);

        let (mut sender, body) = Channel::<Bytes, BoxError>::new(2);
        let mut body = watch(&settled, body, Verdict::Success);
        sender.send_data(Bytes::from_static(b"x")).await.unwrap();
        body.frame().await.unwrap().unwrap();
        assert_eq!(settled.take(), []);
        sender.abort("reset".into());
        body.frame().await.unwrap().unwrap_err();
        assert_eq!(settled.take(), [Some(failed)], "with the error");

        let (sender, body) = Channel::<Bytes, BoxError>::new(2);
        drop(watch(&settled, body, Verdict::Rejected));
        assert_eq!(
            settled.take(),
            [Some(Verdict::Rejected)],
            "unread: the head is all that its caller wanted"
        );
        drop(sender);

        let (sender, body) = Channel::<Bytes, BoxError>::new(2);
        let mut body = watch(&settled, body, Verdict::Rejected);
        drop(sender);
        assert!(body.frame().await.is_none());
        assert_eq!(settled.take(), [Some(Verdict::Rejected)], "with the end");
    }

    #[tokio::test]
    async fn what_a_dropped_body_means_depends_on_what_its_reader_waited_for() {
        let settled = Settled::default();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let (mut sender, body) = Channel::<Bytes, BoxError>::new(2);
        let mut body = watch(&settled, body, Verdict::Success);
        assert!(Pin::new(&mut body).poll_frame(&mut cx).is_pending());
        drop(body);
        assert_eq!(settled.take(), [None], "for its first frame");
        assert!(sender.send_data(Bytes::new()).await.is_err());

        for waits in [false, true] {
            let (mut sender, body) = Channel::<Bytes, BoxError>::new(2);
            let mut body = watch(&settled, body, Verdict::Success);
            sender.send_data(Bytes::from_static(b"x")).await.unwrap();
            body.frame().await.unwrap().unwrap();
            if waits {
                assert!(Pin::new(&mut body).poll_frame(&mut cx).is_pending());
            }
            drop(body);
            let left = if waits { None } else { Some(Verdict::Success) };
            assert_eq!(settled.take(), [left], "for another, as the permit has it");
        }
    }

    #[tokio::test]
    async fn a_stream_of_events_and_a_neutral_head_settle_at_once() {
        let settled = Settled::default();
        let response = || http::Response::new(Channel::<Bytes, BoxError>::new(1).1);
        for media_type in ["text/event-stream", "Text/Event-Stream; charset=utf-8"] {
            let mut permit = settled.permit();
            let mut events = response();
            events.headers_mut().insert("content-type", media_type.parse().unwrap());
            let _body = HttpWatch.watch(events, &mut permit, Verdict::Success);
            assert_eq!(settled.take(), [Some(Verdict::Success)]);
        }
        let mut permit = settled.permit();
        let _body = HttpWatch.watch(response(), &mut permit, Verdict::Ignored);
        assert_eq!(settled.take(), [Some(Verdict::Ignored)]);
    }

    #[tokio::test]
    async fn a_failure_and_an_empty_body_settle_at_once() {
        let settled = Settled::default();
        let failed = Verdict::failure(Kind::Transient);
        let body = watch(&settled, Full::new(Bytes::from_static(b"x")), failed);
        assert_eq!(settled.take(), [Some(failed)]);
        assert_eq!(body.size_hint().exact(), Some(1));
        drop(body);
        drop(watch(&settled, Empty::<Bytes>::new(), Verdict::Success));
        assert_eq!(settled.take(), [Some(Verdict::Success)]);
    }
}
