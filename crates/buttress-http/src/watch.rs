use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use buttress_core::{BoxError, Settle, Verdict, Watch};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::transport::transport_verdict;

/// Ends a call with the body of its response: at its end, when it fails, or, as abandoned, when it is dropped.
///
/// A response whose head is a failure ends its call at once. Give it to a breaker's `watch`.
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
        response.map(|body| {
            if verdict.is_failure() || body.is_end_stream() {
                permit.settle(verdict);
            }
            WatchBody { body, permit: mem::take(permit), verdict }
        })
    }
}

pin_project! {
    /// A body that holds the permit of the call it answers.
    #[derive(Debug)]
    pub struct WatchBody<B, G> {
        #[pin]
        body: B,
        permit: G,
        verdict: Verdict,
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
        let frame = ready!(this.body.as_mut().poll_frame(cx)).map(|frame| frame.map_err(Into::into));
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
        drop(watch(&settled, body, Verdict::Success));
        assert_eq!(settled.take(), [None], "abandoned");
        drop(sender);

        let (sender, body) = Channel::<Bytes, BoxError>::new(2);
        let mut body = watch(&settled, body, Verdict::Rejected);
        drop(sender);
        assert!(body.frame().await.is_none());
        assert_eq!(settled.take(), [Some(Verdict::Rejected)], "with the end");
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
