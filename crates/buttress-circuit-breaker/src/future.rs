use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use buttress_core::{BoxError, Classify, Now, Plain, Watch};
use pin_project_lite::pin_project;

use crate::permit::Permit;

pin_project! {
    /// The response of a [`CircuitBreaker`](crate::CircuitBreaker).
    ///
    /// Dropping it at any moment ends the call as abandoned; dropping it after the service panicked in it, as failed.
    #[derive(Debug)]
    pub struct ResponseFuture<F, P = Plain, W = Now> {
        #[pin]
        state: State<F, P, W>,
    }
}

pin_project! {
    #[project = StateProj]
    #[derive(Debug)]
    enum State<F, P, W> {
        Refused { error: Option<BoxError> },
        Calling { #[pin] inner: F, permit: Permit, policy: P, watch: W },
    }
}

impl<F, P, W> ResponseFuture<F, P, W> {
    pub(crate) fn refused(error: BoxError) -> Self {
        Self { state: State::Refused { error: Some(error) } }
    }

    #[inline(always)]
    pub(crate) fn calling(inner: F, permit: Permit, policy: P, watch: W) -> Self {
        Self { state: State::Calling { inner, permit, policy, watch } }
    }
}

/// Apart, so that the way of a good answer is short.
#[cold]
fn failed<Res>(permit: &mut Permit, policy: &impl Classify<Res>, error: BoxError) -> BoxError {
    let verdict = policy.classify(Err(&*error));
    permit.leave();
    permit.settle(verdict);
    error
}

impl<F, P, W, Res, E> Future for ResponseFuture<F, P, W>
where
    F: Future<Output = Result<Res, E>>,
    E: Into<BoxError>,
    P: Classify<Res>,
    W: Watch<Res>,
{
    type Output = Result<W::Response<Permit>, BoxError>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (inner, permit, policy, watch) = match self.project().state.project() {
            StateProj::Refused { error } => {
                return Poll::Ready(Err(error
                    .take()
                    .expect("a future is not polled again after it was ready")));
            }
            StateProj::Calling { inner, permit, policy, watch } => (inner, permit, policy, watch),
        };
        permit.enter();
        match inner.poll(cx) {
            Poll::Pending => {
                permit.leave();
                permit.wait(cx)?;
                Poll::Pending
            }
            Poll::Ready(Ok(response)) => {
                let verdict = policy.classify(Ok(&response));
                permit.leave();
                Poll::Ready(Ok(watch.watch(response, permit, verdict)))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(failed(permit, policy, error.into()))),
        }
    }
}
