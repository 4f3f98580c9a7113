use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use buttress_core::BoxError;
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::rung::BoxFuture;

pin_project! {
    /// A call of the service below, which may still have to become ready.
    #[project = PrimaryProj]
    pub(crate) enum Primary<F> {
        /// Seldom, hence boxed: it resolves to the call.
        Waiting { made: BoxFuture<Result<F, BoxError>> },
        Calling { #[pin] inner: F },
        Failed { error: Option<BoxError> },
    }
}

/// How a call of the service below failed before there was one.
pub(crate) enum Ended<T> {
    Outcome(Result<T, BoxError>),
    NotReady(BoxError),
}

impl<F, T, E> Primary<F>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    #[inline]
    pub(crate) fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended<T>> {
        if let PrimaryProj::Calling { inner } = self.as_mut().project() {
            return inner.poll(cx).map(|outcome| Ended::Outcome(outcome.map_err(Into::into)));
        }
        self.poll_waiting(cx)
    }

    #[cold]
    fn poll_waiting(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended<T>> {
        match self.as_mut().project() {
            PrimaryProj::Waiting { made } => match ready!(made.as_mut().poll(cx)) {
                Ok(inner) => {
                    self.set(Self::Calling { inner });
                    self.poll(cx)
                }
                Err(error) => Poll::Ready(Ended::NotReady(error)),
            },
            PrimaryProj::Failed { error } => {
                Poll::Ready(Ended::NotReady(error.take().expect("polled once to its end")))
            }
            PrimaryProj::Calling { .. } => unreachable!("it is polled where it is called"),
        }
    }
}

/// What the service below said when it was asked whether it is ready.
#[derive(Debug, Default)]
pub(crate) enum Readiness {
    #[default]
    Unasked,
    Ready,
    Waiting,
    Failed(BoxError),
}

/// Calls a service by what is known of its readiness.
///
/// One that has not been ready yet is driven by the call itself, and a fresh clone takes its place.
#[inline(always)]
pub(crate) fn start<S, Req>(inner: &mut S, readiness: &mut Readiness, request: Req) -> Primary<S::Future>
where
    S: Service<Req> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    Req: Send + 'static,
{
    if let Readiness::Ready = readiness {
        *readiness = Readiness::Unasked;
        return Primary::Calling { inner: inner.call(request) };
    }
    start_unready(inner, readiness, request)
}

#[cold]
fn start_unready<S, Req>(inner: &mut S, readiness: &mut Readiness, request: Req) -> Primary<S::Future>
where
    S: Service<Req> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    Req: Send + 'static,
{
    if let Readiness::Failed(error) = std::mem::take(readiness) {
        return Primary::Failed { error: Some(error) };
    }
    let fresh = inner.clone();
    let mut waiting = std::mem::replace(inner, fresh);
    Primary::Waiting {
        made: Box::pin(async move {
            std::future::poll_fn(|cx| waiting.poll_ready(cx)).await.map_err(Into::into)?;
            Ok(waiting.call(request))
        }),
    }
}
