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

impl<F> Primary<F> {
    /// Whether it has yet to become ready.
    pub(crate) fn is_waiting(&self) -> bool {
        matches!(self, Self::Waiting { .. })
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
        loop {
            match self.as_mut().project() {
                PrimaryProj::Calling { inner } => {
                    return inner.poll(cx).map(|outcome| Ended::Outcome(outcome.map_err(Into::into)));
                }
                PrimaryProj::Waiting { made } => match ready!(made.as_mut().poll(cx)) {
                    Ok(inner) => self.set(Self::Calling { inner }),
                    Err(error) => self.set(Self::Failed { error: Some(error) }),
                },
                PrimaryProj::Failed { error } => {
                    return Poll::Ready(Ended::NotReady(error.take().expect("polled once to its end")));
                }
            }
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
#[inline]
pub(crate) fn start<S, Req>(inner: &mut S, readiness: &mut Readiness, request: Req) -> Primary<S::Future>
where
    S: Service<Req> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    Req: Send + 'static,
{
    match std::mem::take(readiness) {
        Readiness::Ready => Primary::Calling { inner: inner.call(request) },
        Readiness::Failed(error) => Primary::Failed { error: Some(error) },
        Readiness::Unasked | Readiness::Waiting => {
            let fresh = inner.clone();
            let mut waiting = std::mem::replace(inner, fresh);
            Primary::Waiting {
                made: Box::pin(async move {
                    std::future::poll_fn(|cx| waiting.poll_ready(cx)).await.map_err(Into::into)?;
                    Ok(waiting.call(request))
                }),
            }
        }
    }
}
