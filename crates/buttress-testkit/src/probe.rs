use std::task::{Context, Poll};

use tower_service::Service;

/// Fails the test when a layer calls an instance that it did not make ready.
///
/// A clone starts unready, as tower's contract has it, whatever the instance it was cloned from.
#[derive(Debug)]
pub struct ReadinessProbe<S> {
    inner: S,
    ready: bool,
}

impl<S> ReadinessProbe<S> {
    /// Watches how this service is used.
    pub fn new(inner: S) -> Self {
        Self { inner, ready: false }
    }
}

impl<S: Clone> Clone for ReadinessProbe<S> {
    fn clone(&self) -> Self {
        Self::new(self.inner.clone())
    }
}

impl<S: Service<Req>, Req> Service<Req> for ReadinessProbe<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        let polled = self.inner.poll_ready(cx);
        self.ready = matches!(polled, Poll::Ready(Ok(())));
        polled
    }

    fn call(&mut self, request: Req) -> S::Future {
        assert!(std::mem::take(&mut self.ready), "a layer called an instance that it had not made ready");
        self.inner.call(request)
    }
}
