use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use buttress_core::{BoxError, Classify, Now, Plain, Settle, Verdict, Watch};
use pin_project_lite::pin_project;

use crate::permit::{OnPanic, Permit};

pin_project! {
    /// The response of a [`CircuitBreaker`](crate::CircuitBreaker).
    ///
    /// Dropping it at any moment ends the call as abandoned.
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
        Calling { #[pin] inner: F, permit: Option<Permit>, policy: P, watch: W },
    }
}

impl<F, P, W> ResponseFuture<F, P, W> {
    pub(crate) fn refused(error: BoxError) -> Self {
        Self { state: State::Refused { error: Some(error) } }
    }

    pub(crate) fn calling(inner: F, permit: Permit, policy: P, watch: W) -> Self {
        Self { state: State::Calling { inner, permit: Some(permit), policy, watch } }
    }
}

/// Apart, so that the way of a good answer is short.
#[cold]
fn settle_error(permit: Permit, verdict: Verdict) {
    permit.settle(verdict);
}

impl<F, P, W, Res, E> Future for ResponseFuture<F, P, W>
where
    F: Future<Output = Result<Res, E>>,
    E: Into<BoxError>,
    P: Classify<Res>,
    W: Watch<Res>,
{
    type Output = Result<W::Response<Permit>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (inner, permit, policy, watch) = match self.project().state.project() {
            StateProj::Refused { error } => {
                return Poll::Ready(Err(error
                    .take()
                    .expect("a future is not polled again after it was ready")));
            }
            StateProj::Calling { inner, permit, policy, watch } => (inner, permit, policy, watch),
        };
        let guard = OnPanic(permit);
        let polled = inner.poll(cx).map_err(Into::into);
        let verdict = match &polled {
            Poll::Pending => None,
            Poll::Ready(Ok(response)) => Some(policy.classify(Ok(response))),
            Poll::Ready(Err(error)) => Some(policy.classify(Err(&**error))),
        };
        mem::forget(guard);
        let Some(verdict) = verdict else {
            if let Some(permit) = permit {
                permit.wait(cx)?;
            }
            return Poll::Pending;
        };
        let permit = permit.take().expect("a future is not polled again after it was ready");
        Poll::Ready(match ready!(polled) {
            Ok(response) => Ok(watch.watch(response, permit, verdict)),
            Err(error) => {
                settle_error(permit, verdict);
                Err(error)
            }
        })
    }
}
