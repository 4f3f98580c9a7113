use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use buttress_core::clock::{after, before_poll, first_wait};
use buttress_core::{BoxError, Countdown, Elapsed, Event};
use pin_project_lite::pin_project;
use tokio::time::Instant;

use crate::layer::Settings;

/// How long a call may take.
#[derive(Clone, Debug)]
pub(crate) struct Limit {
    settings: Arc<Settings>,
    /// Known from the start where it travels with the request, else when the call first has to wait.
    deadline: Option<(Instant, Duration)>,
}

impl Limit {
    #[inline]
    pub(crate) fn of(settings: &Arc<Settings>) -> Self {
        Self { settings: Arc::clone(settings), deadline: None }
    }

    pub(crate) fn until(settings: &Arc<Settings>, deadline: Instant, limit: Duration) -> Self {
        Self { settings: Arc::clone(settings), deadline: Some((deadline, limit)) }
    }

    /// The error of a call that still waits when its time is over.
    fn poll(&mut self, countdown: &mut Countdown, cx: &mut Context<'_>) -> Poll<BoxError> {
        let Self { settings, deadline: known } = self;
        // Once its time has begun, a call keeps the limit, whatever becomes of the layer's.
        let deadline = || {
            known
                .get_or_insert_with(|| {
                    let limit = settings.limit();
                    (after(first_wait(), limit), limit)
                })
                .0
        };
        let enforced = match ready!(countdown.poll(cx, &settings.mode, deadline)) {
            Ok(enforced) => enforced,
            Err(no_timer) => return Poll::Ready(no_timer.into()),
        };
        let limit = known.map_or_else(|| settings.limit(), |(_, limit)| limit);
        settings.observer.emit(&settings.name, || Event::Elapsed { limit, enforced });
        if !enforced {
            return Poll::Pending;
        }
        Poll::Ready(Box::new(Elapsed::new(Arc::clone(&settings.name), limit)))
    }
}

pin_project! {
    /// The response of a [`Deadline`](crate::Deadline).
    ///
    /// When the time is over, the call inside is dropped.
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = StateProj]
    #[derive(Debug)]
    enum State<F> {
        Calling { #[pin] inner: F, limit: Limit, countdown: Countdown },
        Refused { error: Option<BoxError> },
    }
}

impl<F> ResponseFuture<F> {
    #[inline(always)]
    pub(crate) fn new(inner: F, limit: Limit) -> Self {
        Self { state: State::Calling { inner, limit, countdown: Countdown::default() } }
    }

    pub(crate) fn refused(error: BoxError) -> Self {
        Self { state: State::Refused { error: Some(error) } }
    }
}

impl<F, Res, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Res, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Res, BoxError>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let error: BoxError = match this.state.as_mut().project() {
            StateProj::Refused { error } => {
                error.take().expect("a future is not polled again after it was ready")
            }
            StateProj::Calling { inner, limit, countdown } => {
                if !countdown.has_begun() {
                    before_poll();
                }
                match inner.poll(cx) {
                    Poll::Ready(outcome) => return Poll::Ready(outcome.map_err(Into::into)),
                    Poll::Pending => ready!(limit.poll(countdown, cx)),
                }
            }
        };
        // The call inside is dropped now, and not only with this future.
        this.state.set(State::Refused { error: None });
        Poll::Ready(Err(error))
    }
}
