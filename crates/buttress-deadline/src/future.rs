use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use buttress_core::clock::{after, before_poll, first_wait, wakes_by, woken_by};
use buttress_core::{BoxError, Countdown, Elapsed, Event, Mode, Shared};
use pin_project_lite::pin_project;
use tokio::time::Instant;

use crate::layer::Settings;

/// How long a call may take.
#[derive(Clone, Debug)]
pub(crate) struct Limit {
    settings: Shared<Settings>,
    /// Known from the start where it travels with the request, else when the call first has to wait.
    deadline: Option<(Instant, Duration)>,
    /// No timer is set as long as a deadline below wakes the task in time.
    leans: bool,
}

impl Limit {
    #[inline]
    pub(crate) fn of(settings: &Shared<Settings>, leans: bool) -> Self {
        Self { settings: settings.clone(), deadline: None, leans }
    }

    pub(crate) fn until(self, deadline: Instant, limit: Duration) -> Self {
        Self { deadline: Some((deadline, limit)), ..self }
    }

    /// Whether a deadline below sees to it that the call is woken in time.
    #[inline]
    fn is_seen_to(&mut self, countdown: &Countdown) -> bool {
        if !self.leans || countdown.has_begun() {
            return false;
        }
        let Self { settings, deadline, .. } = self;
        // What is switched off when a call first has to wait does not bound it.
        let bounded = deadline.is_some() || settings.mode.get() != Mode::Off;
        bounded && woken_by().is_some_and(|moment| moment <= begun(settings, deadline))
    }

    /// The error of a call that still waits when its time is over.
    fn poll(&mut self, countdown: &mut Countdown, cx: &mut Context<'_>) -> Poll<BoxError> {
        let Self { settings, deadline, .. } = self;
        let polled = match *deadline {
            // It was seen to until now.
            Some((moment, _)) if !countdown.has_begun() => countdown.begin(moment),
            _ => Ok(()),
        };
        let polled = polled.map(|()| countdown.poll(cx, &settings.mode, || begun(settings, deadline)));
        let enforced = match polled {
            Ok(Poll::Ready(Ok(enforced))) => enforced,
            Ok(Poll::Pending) => {
                wakes_by(deadline.filter(|_| countdown.is_running()).map(|(moment, _)| moment));
                return Poll::Pending;
            }
            Ok(Poll::Ready(Err(no_timer))) | Err(no_timer) => return Poll::Ready(no_timer.into()),
        };
        let limit = deadline.map_or_else(|| settings.limit(), |(_, limit)| limit);
        settings.observer.emit(&settings.name, || Event::Elapsed { limit, enforced });
        if !enforced {
            // No deadline wakes the task any longer, whatever the service has polled.
            wakes_by(None);
            return Poll::Pending;
        }
        Poll::Ready(Box::new(Elapsed::new(Arc::clone(&settings.name), limit)))
    }
}

/// When the time is over of a call that has to wait. Once it has begun, the call keeps its limit, whatever becomes of the layer's.
#[inline]
fn begun(settings: &Settings, deadline: &mut Option<(Instant, Duration)>) -> Instant {
    let begin = || {
        let limit = settings.limit();
        (after(first_wait(), limit), limit)
    };
    deadline.get_or_insert_with(begin).0
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
                    wakes_by(None);
                }
                match inner.poll(cx) {
                    Poll::Ready(outcome) => return Poll::Ready(outcome.map_err(Into::into)),
                    Poll::Pending if limit.is_seen_to(countdown) => return Poll::Pending,
                    Poll::Pending => ready!(limit.poll(countdown, cx)),
                }
            }
        };
        // The call inside is dropped now, and not only with this future.
        this.state.set(State::Refused { error: None });
        Poll::Ready(Err(error))
    }
}
