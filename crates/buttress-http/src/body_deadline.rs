use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use buttress_core::clock::after;
use buttress_core::{BoxError, ConfigError, Elapsed, Timer};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

/// Bounds the time until the *end of the response's body*, counted from the call.
///
/// A deadline layer ends at the response's head; this goes on to the last byte. A body that takes longer fails with
/// [`Elapsed`], and what lies below is dropped. It does not bound the wait for the head: put it outside of a deadline
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
    name: Arc<str>,
    limit: Duration,
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
        Ok(Self { name: name.into(), limit })
    }
}

impl<S> Layer<S> for BodyDeadlineLayer {
    type Service = BodyDeadline<S>;

    fn layer(&self, inner: S) -> BodyDeadline<S> {
        BodyDeadline { inner, layer: self.clone() }
    }
}

/// Bounds the time until the end of a response's body; made by [`BodyDeadlineLayer`].
#[derive(Clone, Debug)]
pub struct BodyDeadline<S> {
    inner: S,
    layer: BodyDeadlineLayer,
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
        let deadline = after(Instant::now(), self.layer.limit);
        BodyDeadlineFuture { inner: self.inner.call(request), deadline, layer: self.layer.clone() }
    }
}

pin_project! {
    /// The response of a [`BodyDeadline`].
    #[derive(Debug)]
    pub struct BodyDeadlineFuture<F> {
        #[pin]
        inner: F,
        deadline: Instant,
        layer: BodyDeadlineLayer,
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
        let (deadline, layer) = (*this.deadline, this.layer.clone());
        Poll::Ready(Ok(response.map(|body| DeadlineBody { body: Some(body), timer: None, deadline, layer })))
    }
}

pin_project! {
    /// A body that has to end in time.
    #[derive(Debug)]
    pub struct DeadlineBody<B> {
        #[pin]
        body: Option<B>,
        timer: Option<Timer>,
        deadline: Instant,
        layer: BodyDeadlineLayer,
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
        let Some(body) = this.body.as_mut().as_pin_mut() else { return Poll::Ready(None) };
        if let Poll::Ready(frame) = body.poll_frame(cx) {
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let timer = match this.timer {
            Some(timer) => timer,
            None => this.timer.insert(Timer::at(*this.deadline)?),
        };
        ready!(timer.poll(cx));
        this.body.set(None);
        let elapsed = Elapsed::new(Arc::clone(&this.layer.name), this.layer.limit);
        Poll::Ready(Some(Err(Box::new(elapsed))))
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

    #[tokio::test(start_paused = true)]
    async fn a_body_that_trickles_is_cut_off_in_time_and_dropped() {
        let (mut sender, body) = Channel::<Bytes>::new(1);
        let body = std::sync::Mutex::new(Some(body));
        let inner = tower::service_fn(move |()| {
            let response = http::Response::new(body.lock().unwrap().take().unwrap());
            async move {
                tokio::time::sleep(Duration::from_millis(400)).await;
                Ok::<_, Infallible>(response)
            }
        });
        let service = BodyDeadlineLayer::new("slow", Duration::from_secs(1)).unwrap().layer(inner);
        let start = Instant::now();
        let trickle = tokio::spawn(async move {
            while sender.send_data(Bytes::from_static(b".")).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        let mut body = service.oneshot(()).await.unwrap().into_body();
        let mut read = 0;
        let error = loop {
            match body.frame().await.unwrap() {
                Ok(_) => read += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(find::<Elapsed>(&*error).unwrap().limit(), Duration::from_secs(1));
        assert_eq!(start.elapsed(), Duration::from_secs(1), "counted from the call");
        assert!((5..=11).contains(&read), "{read}");
        assert!(body.frame().await.is_none());
        trickle.await.unwrap();
    }
}
