use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use buttress_core::{BoxError, Timer};
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::budget::Prepaid;

pin_project! {
    /// Before an attempt that is not made at once: the delay, while the last response is disposed of; then readiness; then
    /// the call.
    ///
    /// It is boxed, since it exists only beside a wait.
    pub(crate) struct Pause<S, Req, D> {
        timer: Timer,
        #[pin]
        discard: Option<D>,
        service: S,
        request: Option<Req>,
        prepaid: Prepaid,
    }
}

impl<S, Req, D> Pause<S, Req, D> {
    pub(crate) fn new(timer: Timer, discard: Option<D>, service: S, request: Req, prepaid: Prepaid) -> Self {
        Self { timer, discard, service, request: Some(request), prepaid }
    }

    /// Waits for this one instead.
    pub(crate) fn wait_for(self: Pin<&mut Self>, timer: Timer) {
        *self.project().timer = timer;
    }
}

impl<S, Req, D> Pause<S, Req, D>
where
    S: Service<Req>,
    S::Error: Into<BoxError>,
    D: Future<Output = ()>,
{
    pub(crate) fn poll_wait(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        if let Some(discard) = this.discard.as_mut().as_pin_mut() {
            if discard.poll(cx).is_ready() {
                this.discard.set(None);
            }
        }
        ready!(this.timer.poll(cx));
        if this.discard.is_some() { Poll::Pending } else { Poll::Ready(()) }
    }

    pub(crate) fn poll_call(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<S::Future, BoxError>> {
        let this = self.project();
        let ready = ready!(this.service.poll_ready(cx));
        // One whose service cannot become ready has been made, too.
        this.prepaid.spend();
        ready.map_err(Into::into)?;
        let request = this.request.take().expect("a future is not polled again after it was ready");
        Poll::Ready(Ok(this.service.call(request)))
    }
}
