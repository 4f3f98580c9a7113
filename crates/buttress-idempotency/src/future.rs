use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use buttress_core::clock::after;
use pin_project_lite::pin_project;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::error::Error;
use crate::protocol::Protocol;
use crate::tasks::{BoxFuture, Tasks};

pin_project! {
    /// The response of an [`Idempotent`](crate::Idempotent) or an [`Inline`](crate::Inline) service.
    ///
    /// Dropping it drops a call that has not begun, and gives its key back. A call of the former that has begun is carried on
    /// without it, so that its answer is there for whoever asks again; one of the latter is dropped, and so is one that is
    /// not guarded, or unprotected.
    pub struct ResponseFuture<F, P, C> {
        #[pin]
        state: State<F, P, C>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F, P, C> {
        Passing { #[pin] inner: F, protocol: P },
        Guarded { #[pin] call: C },
        Refused { error: Option<Error>, protocol: P },
    }
}

impl<F, P, C> fmt::Debug for ResponseFuture<F, P, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.state {
            State::Passing { .. } => "ResponseFuture(passing)",
            State::Guarded { .. } => "ResponseFuture(guarded)",
            State::Refused { .. } => "ResponseFuture(refused)",
        })
    }
}

impl<F, P, C> ResponseFuture<F, P, C> {
    pub(crate) fn passing(inner: F, protocol: P) -> Self {
        Self { state: State::Passing { inner, protocol } }
    }

    pub(crate) fn guarded(call: C) -> Self {
        Self { state: State::Guarded { call } }
    }

    pub(crate) fn refused(error: Error, protocol: P) -> Self {
        Self { state: State::Refused { error: Some(error), protocol } }
    }
}

impl<F, P, C, Res, E> Future for ResponseFuture<F, P, C>
where
    F: Future<Output = Result<Res, E>>,
    P: Protocol<Res, E>,
    C: Future<Output = Result<P::Response, P::Error>>,
{
    type Output = Result<P::Response, P::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProj::Passing { inner, protocol } => {
                let (_, answer) = protocol.judge(ready!(inner.poll(cx)));
                Poll::Ready(answer.map(|response| protocol.unstored(response, false)))
            }
            StateProj::Guarded { call } => call.poll(cx),
            StateProj::Refused { error, protocol } => {
                let error = error.take().expect("a future is not polled again after it was ready");
                Poll::Ready(protocol.refuse(error))
            }
        }
    }
}

/// A call that goes on without its caller once its effect has begun.
pub struct Detachable<R> {
    work: Option<BoxFuture<()>>,
    /// It panicked if this is still set after a poll.
    polled: bool,
    reply: oneshot::Receiver<R>,
    begun: Arc<AtomicBool>,
    tasks: Arc<Tasks>,
    runtime: Handle,
    limit: Duration,
    /// So long, from when the call began.
    ends: Option<Instant>,
}

impl<R> fmt::Debug for Detachable<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Detachable")
    }
}

impl<R> Detachable<R> {
    pub(crate) fn new(
        work: BoxFuture<()>,
        reply: oneshot::Receiver<R>,
        begun: Arc<AtomicBool>,
        tasks: Arc<Tasks>,
        (runtime, limit): (Handle, Duration),
    ) -> Self {
        Self { work: Some(work), polled: false, reply, begun, tasks, runtime, limit, ends: None }
    }
}

impl<R> Future for Detachable<R> {
    type Output = R;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<R> {
        let this = self.get_mut();
        if let Some(work) = &mut this.work {
            this.polled = true;
            let ended = work.as_mut().poll(cx).is_ready();
            this.polled = false;
            if ended {
                this.work = None;
            } else if this.ends.is_none() && this.begun.load(Ordering::Acquire) {
                this.ends = Some(after(Instant::now(), this.limit));
            }
        }
        let reply = ready!(Pin::new(&mut this.reply).poll(cx)).expect("a call ends with a reply");
        if let Some(work) = this.work.take() {
            // A body that streams, or a record that the store has not taken yet.
            this.tasks.spawn(&this.runtime, this.limit, work);
        }
        Poll::Ready(reply)
    }
}

impl<R> Drop for Detachable<R> {
    fn drop(&mut self) {
        if self.polled {
            return;
        }
        if let (Some(work), Some(ends)) = (self.work.take(), self.ends) {
            let left = ends.saturating_duration_since(Instant::now());
            self.tasks.detach(&self.runtime, left, work);
        }
    }
}
