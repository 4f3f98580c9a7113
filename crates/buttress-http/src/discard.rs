use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use buttress_core::clock::after;
use buttress_core::{Discard, Timer};
use bytes::Buf;
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::Instant;

use crate::Http;

/// What a frame without data counts, so that they have an end, too.
const EMPTY_FRAME: u64 = 64;

/// Reads the body to its end, within the bounds of [`Http::drain`], so that an HTTP/1 connection can be used again. A body
/// that says it is longer is dropped at once, and so is one over HTTP/2, whose connection does not wait for it.
impl<B: Body> Discard<http::Response<B>> for Http {
    type Future = Drain<B>;

    fn discard(&self, response: http::Response<B>) -> Drain<B> {
        let limits = self.drain_limits();
        let multiplexed = response.version() >= http::Version::HTTP_2;
        let body = response.into_body();
        let timer = if multiplexed || body.size_hint().lower() > limits.bytes {
            None
        } else {
            Timer::at(after(Instant::now(), limits.time)).ok()
        };
        let body = timer.is_some().then_some(body);
        Drain { body, timer, left: limits.bytes }
    }
}

pin_project! {
    /// Reads a body that nobody wants; resolves when it is at its end, fails, is too long or takes too long.
    #[derive(Debug)]
    pub struct Drain<B> {
        #[pin]
        body: Option<B>,
        timer: Option<Timer>,
        left: u64,
    }
}

impl<B: Body> Future for Drain<B> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        while let Some(body) = this.body.as_mut().as_pin_mut() {
            match body.poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    let read = frame.data_ref().map_or(0, |data| data.remaining() as u64);
                    match this.left.checked_sub(if read == 0 { EMPTY_FRAME } else { read }) {
                        Some(left) => *this.left = left,
                        None => this.body.set(None),
                    }
                }
                Poll::Ready(Some(Err(_)) | None) => this.body.set(None),
                Poll::Pending => {
                    if this.timer.as_mut().is_none_or(|timer| timer.poll(cx).is_ready()) {
                        this.body.set(None);
                        return Poll::Ready(());
                    }
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http_body_util::{BodyExt, Channel, Full};
    use std::time::Duration;

    /// Endless, and how many there were.
    struct EmptyFrames<'a>(&'a mut u64);

    impl Body for EmptyFrames<'_> {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
            *self.0 += 1;
            assert!(*self.0 < 1_000_000, "it is read for ever");
            Poll::Ready(Some(Ok(http_body::Frame::data(Bytes::new()))))
        }
    }

    #[tokio::test]
    async fn a_body_of_nothing_but_empty_frames_has_an_end() {
        let mut frames = 0;
        Http::new().discard(http::Response::new(EmptyFrames(&mut frames))).await;
        assert_eq!(frames, 256 * 1024 / 64 + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_is_read_to_its_end_or_to_its_bounds() {
        let http = Http::new().drain(10, Duration::from_millis(100));
        let start = Instant::now();
        http.discard(http::Response::new(Full::new(Bytes::from_static(b"0123456789")))).await;
        http.discard(http::Response::new(Full::new(Bytes::from_static(b"0123456789+")))).await;
        assert_eq!(start.elapsed(), Duration::ZERO);

        let (mut sender, body) = Channel::<Bytes>::new(4);
        sender.send_data(Bytes::from_static(b"01234567")).await.unwrap();
        let drain = tokio::spawn(http.discard(http::Response::new(body)));
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!drain.is_finished(), "the end may still come");
        sender.send_data(Bytes::from_static(b"too much")).await.unwrap();
        drain.await.unwrap();
        assert_eq!(start.elapsed(), Duration::from_millis(50));

        let (_sender, hanging) = Channel::<Bytes>::new(1);
        let mut response = http::Response::new(hanging);
        *response.version_mut() = http::Version::HTTP_2;
        http.discard(response).await;
        assert_eq!(start.elapsed(), Duration::from_millis(50), "not over HTTP/2");

        let (_sender, hanging) = Channel::<Bytes>::new(1);
        http.discard(http::Response::new(hanging.boxed())).await;
        assert_eq!(start.elapsed(), Duration::from_millis(150), "too slow");
    }
}
