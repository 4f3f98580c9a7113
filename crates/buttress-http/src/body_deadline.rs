use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use buttress_core::clock::after;
use buttress_core::{
    BoxError, ConfigError, Countdown, Elapsed, Event, Judged, Mode, ModeCell, Observe, Observer, Verdict,
};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

/// Bounds the time until the *end of the response's body*, counted from the call.
///
/// A deadline layer ends at the response's head; this goes on to the last byte. A body that takes longer fails with
/// [`Elapsed`], and what lies below is dropped; a breaker outside takes that for a time-out, or for neutral if it is the reader
/// who is late for what is there. It does not bound the wait for the head: put it outside of a deadline
/// layer. The timer registers when the body first has to be waited for.
///
/// ```
/// use std::time::Duration;
/// use buttress_http::BodyDeadlineLayer;
/// # fn main() -> Result<(), buttress_core::ConfigError> {
/// let layer = BodyDeadlineLayer::new("datadog", Duration::from_secs(30))?;
/// # tower::ServiceBuilder::new().layer(layer);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct BodyDeadlineLayer {
    settings: Arc<Settings>,
}

#[derive(Debug)]
struct Settings {
    name: Arc<str>,
    limit: Duration,
    mode: ModeCell,
    observer: Observer,
}

impl BodyDeadlineLayer {
    /// `name` says in errors which dependency is slow.
    ///
    /// # Errors
    ///
    /// If the limit is zero.
    pub fn new(name: impl Into<Arc<str>>, limit: Duration) -> Result<Self, ConfigError> {
        if limit.is_zero() {
            return Err(ConfigError::new("limit", limit, "must be longer than zero, or no body can be read"));
        }
        let (name, mode, observer) = (name.into(), ModeCell::default(), Observer::default());
        Ok(Self { settings: Arc::new(Settings { name, limit, mode, observer }) })
    }

    /// Reports to this observer. The first one stays; a `Vec` of several is one.
    #[must_use]
    pub fn observe(self, observer: Arc<dyn Observe>) -> Self {
        self.settings.observer.set(observer);
        self
    }

    /// The mode that bodies obey.
    pub fn mode(&self) -> Mode {
        self.settings.mode.get()
    }

    /// Switches the mode. A body whose time is running obeys it when the time is over.
    pub fn set_mode(&self, mode: Mode) {
        self.settings.mode.set(mode);
    }
}

impl<S> Layer<S> for BodyDeadlineLayer {
    type Service = BodyDeadline<S>;

    fn layer(&self, inner: S) -> BodyDeadline<S> {
        BodyDeadline { inner, settings: Arc::clone(&self.settings) }
    }
}

/// Bounds the time until the end of a response's body; made by [`BodyDeadlineLayer`].
#[derive(Clone, Debug)]
pub struct BodyDeadline<S> {
    inner: S,
    settings: Arc<Settings>,
}

impl<S, Req, B> Service<Req> for BodyDeadline<S>
where
    S: Service<Req, Response = http::Response<B>>,
{
    type Response = http::Response<DeadlineBody<B>>;
    type Error = S::Error;
    type Future = BodyDeadlineFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let deadline = after(Instant::now(), self.settings.limit);
        BodyDeadlineFuture { inner: self.inner.call(request), deadline, settings: Arc::clone(&self.settings) }
    }
}

pin_project! {
    /// The response of a [`BodyDeadline`].
    #[derive(Debug)]
    pub struct BodyDeadlineFuture<F> {
        #[pin]
        inner: F,
        deadline: Instant,
        settings: Arc<Settings>,
    }
}

impl<F, B, E> Future for BodyDeadlineFuture<F>
where
    F: Future<Output = Result<http::Response<B>, E>>,
{
    type Output = Result<http::Response<DeadlineBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(cx))?;
        let (deadline, settings) = (*this.deadline, Arc::clone(this.settings));
        let countdown = Countdown::default();
        Poll::Ready(Ok(response.map(|body| DeadlineBody { body: Some(body), countdown, deadline, settings })))
    }
}

pin_project! {
    /// A body that has to end in time.
    #[derive(Debug)]
    pub struct DeadlineBody<B> {
        #[pin]
        body: Option<B>,
        countdown: Countdown,
        deadline: Instant,
        settings: Arc<Settings>,
    }
}

impl<B> Body for DeadlineBody<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        let mut this = self.project();
        let Some(mut body) = this.body.as_mut().as_pin_mut() else { return Poll::Ready(None) };
        let polled = body.as_mut().poll_frame(cx).map(|frame| frame.map(|frame| frame.map_err(Into::into)));
        let goes_on = match &polled {
            Poll::Pending => true,
            // No timer wakes whoever never has to wait.
            Poll::Ready(Some(Ok(frame))) => {
                frame.is_data() && !body.is_end_stream() && *this.deadline <= Instant::now()
            }
            Poll::Ready(_) => false,
        };
        if !goes_on {
            return polled;
        }
        let Settings { name, limit, mode, observer } = &**this.settings;
        let Poll::Ready(enforced) = this.countdown.poll(cx, mode, || *this.deadline)? else { return polled };
        observer.emit(name, || Event::Elapsed { limit: *limit, enforced });
        if !enforced {
            return polled;
        }
        this.body.set(None);
        let elapsed = Elapsed::new(Arc::clone(name), *limit);
        Poll::Ready(Some(Err(match polled {
            Poll::Pending => elapsed.into(),
            Poll::Ready(_) => Judged::new(Verdict::Ignored, elapsed).into(),
        })))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use buttress_core::find;
    use bytes::Bytes;
    use http_body_util::{BodyExt, Channel};
    use std::convert::Infallible;
    use tower::ServiceExt;

    /// Answers after 400 ms with a body that trickles, a byte each 100 ms, so often.
    fn trickling(
        layer: &BodyDeadlineLayer,
        pieces: usize,
    ) -> impl Future<Output = DeadlineBody<Channel<Bytes>>> {
        let (mut sender, body) = Channel::<Bytes>::new(1);
        let body = std::sync::Mutex::new(Some(body));
        let inner = tower::service_fn(move |()| {
            let response = http::Response::new(body.lock().unwrap().take().unwrap());
            async move {
                tokio::time::sleep(Duration::from_millis(400)).await;
                Ok::<_, Infallible>(response)
            }
        });
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(400)).await;
            for _ in 0..pieces {
                if sender.send_data(Bytes::from_static(b".")).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        let response = layer.layer(inner).oneshot(());
        async { response.await.unwrap().into_body() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_trickles_is_cut_off_in_time_and_dropped() {
        let layer = BodyDeadlineLayer::new("slow", Duration::from_secs(1)).unwrap();
        let start = Instant::now();
        let mut body = trickling(&layer, usize::MAX).await;
        let mut read = 0;
        let error = loop {
            match body.frame().await.unwrap() {
                Ok(_) => read += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(find::<Elapsed>(&*error).unwrap().limit(), Duration::from_secs(1));
        assert_eq!(start.elapsed(), Duration::from_secs(1), "counted from the call");
        assert!((5..=7).contains(&read), "{read}");
        assert!(body.frame().await.is_none());
        assert_eq!(
            tokio::runtime::Handle::current().metrics().num_alive_tasks(),
            1,
            "the sender is still asleep"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(
            tokio::runtime::Handle::current().metrics().num_alive_tasks(),
            0,
            "and finds the body gone"
        );
    }

    /// A kilobyte at any time.
    struct AlwaysReady(usize);

    impl Body for AlwaysReady {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.0 -= 1;
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[0; 1024])))))
        }

        fn is_end_stream(&self) -> bool {
            self.0 == 0
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_lets_its_reader_wait_is_cut_off_too_but_not_at_its_last_frame() {
        let layer = BodyDeadlineLayer::new("slow", Duration::from_secs(1)).unwrap();
        let body = |frames| {
            let inner =
                move |()| async move { Ok::<_, Infallible>(http::Response::new(AlwaysReady(frames))) };
            layer.layer(tower::service_fn(inner)).oneshot(())
        };
        let mut endless = body(usize::MAX).await.unwrap().into_body();
        let mut read = 0;
        let error = loop {
            match endless.frame().await.unwrap() {
                Ok(_) => read += 1,
                Err(error) => break error,
            }
            assert!(read < 100, "it goes on for ever");
            tokio::time::advance(Duration::from_millis(100)).await;
        };
        assert_eq!(find::<Elapsed>(&*error).unwrap().limit(), Duration::from_secs(1));
        assert_eq!(buttress_core::error_verdict(&*error), Verdict::Ignored, "it is the reader that was slow");
        assert_eq!(read, 10);
        assert!(endless.frame().await.is_none());

        let mut whole = body(1).await.unwrap().into_body();
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(whole.frame().await.unwrap().is_ok(), "that is all of it");
    }

    #[tokio::test(start_paused = true)]
    async fn observed_it_is_reported_once_and_not_cut_off() {
        let events = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let record = std::sync::Arc::clone(&events);
        let observer = buttress_core::observe_fn(move |_, event| record.lock().unwrap().push(event.clone()));
        let layer = BodyDeadlineLayer::new("slow", Duration::from_secs(1)).unwrap().observe(observer);
        layer.set_mode(Mode::Observe);
        let body = trickling(&layer, 20).await;
        assert_eq!(body.collect().await.unwrap().to_bytes().len(), 20);
        assert_eq!(
            *events.lock().unwrap(),
            [Event::Elapsed { limit: Duration::from_secs(1), enforced: false }]
        );
    }
}
