use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use buttress_core::clock::after;
use buttress_core::{BoxError, Kind, NoTimer, Timer, Verdict};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_service::Service;

use crate::fault::{Fault, FaultKind};
use crate::inject::Inject;
use crate::plan::Injection;

pin_project! {
    /// The response of a [`Chaos`](crate::Chaos).
    pub struct ResponseFuture<S, P, Req>
    where
        S: Service<Req>,
    {
        #[pin]
        state: State<S::Future, S::Response, (S, Req)>,
        injection: Option<Injection>,
        policy: P,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F, Res, Later> {
        // Before the fault; then the call is made, if there is one.
        Injecting { later: Option<Box<Later>>, wait: Wait },
        Calling { #[pin] inner: F },
        // Holds back an answer.
        Holding { response: Option<Res>, wait: Wait },
        Hanging,
        Ended,
    }
}

/// A time that begins when it is first polled.
#[derive(Debug)]
struct Wait {
    time: Duration,
    timer: Timer,
}

impl Wait {
    fn new(time: Duration) -> Self {
        Self { time, timer: Timer::default() }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), NoTimer>> {
        if self.time.is_zero() {
            return Poll::Ready(Ok(()));
        }
        if !self.timer.is_set() {
            self.timer = Timer::at(after(Instant::now(), self.time))?;
        }
        self.timer.poll(cx).map(Ok)
    }
}

impl<S: Service<Req>, P, Req> ResponseFuture<S, P, Req> {
    #[inline]
    pub(crate) fn calling(inner: S::Future, injection: Option<Injection>, policy: P) -> Self {
        Self { state: State::Calling { inner }, injection, policy }
    }

    /// `later` is the call that is passed on after the delay, if one is.
    pub(crate) fn injecting(later: Option<(S, Req)>, injection: Injection, policy: P) -> Self {
        let wait = Wait::new(injection.delay);
        let state = State::Injecting { later: later.map(Box::new), wait };
        Self { state, injection: Some(injection), policy }
    }
}

impl<S, P, Req> fmt::Debug for ResponseFuture<S, P, Req>
where
    S: Service<Req>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").field("injection", &self.injection).finish_non_exhaustive()
    }
}

impl<S, P, Req> Future for ResponseFuture<S, P, Req>
where
    S: Service<Req>,
    S::Error: Into<BoxError>,
    P: Inject<Req, S::Response>,
{
    type Output = Result<P::Response, BoxError>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProj::Calling { inner } => {
                    let response = match ready!(inner.poll(cx)) {
                        Ok(response) => response,
                        Err(error) => return Poll::Ready(Err(error.into())),
                    };
                    let Some(injection) = this.injection else {
                        return Poll::Ready(Ok(this.policy.pass(response)));
                    };
                    match injection.fault() {
                        Fault::LoseAnswer => {
                            this.state.set(State::Ended);
                            drop(response);
                            let lost = injection.error(FaultKind::LoseAnswer);
                            return Poll::Ready(Err(lost.judged(Verdict::failure(Kind::Transient))));
                        }
                        Fault::WithholdAnswer => this.state.set(State::Hanging),
                        Fault::ResponseLatency(_) => {
                            let wait = Wait::new(injection.latency);
                            this.state.set(State::Holding { response: Some(response), wait });
                        }
                        fault => {
                            return Poll::Ready(Ok(this.policy.spoil(response, fault, &injection.name)));
                        }
                    }
                }
                StateProj::Injecting { later, wait } => {
                    if let Err(no_timer) = ready!(wait.poll(cx)) {
                        return Poll::Ready(Err(no_timer.into()));
                    }
                    if let Some(mut later) = later.take().map(|later| *later) {
                        let inner = later.0.call(later.1);
                        this.state.set(State::Calling { inner });
                        continue;
                    }
                    this.state.set(State::Hanging);
                    let injection = this.injection.as_ref().expect("what is injected has a rule");
                    return act(injection, this.policy);
                }
                StateProj::Holding { response, wait } => {
                    if let Err(no_timer) = ready!(wait.poll(cx)) {
                        return Poll::Ready(Err(no_timer.into()));
                    }
                    let response = response.take().expect("a future is not polled again after it was ready");
                    return Poll::Ready(Ok(this.policy.pass(response)));
                }
                StateProj::Hanging => return Poll::Pending,
                StateProj::Ended => panic!("a future is not polled again after it was ready"),
            }
        }
    }
}

/// A fault that takes the place of the call.
fn act<Req, Res, P: Inject<Req, Res>>(
    injection: &Injection,
    policy: &P,
) -> Poll<Result<P::Response, BoxError>> {
    match injection.fault() {
        Fault::Error(verdict) => Poll::Ready(Err(injection.error(FaultKind::Error).judged(*verdict))),
        Fault::Io(kind) => Poll::Ready(Err(injection.error(FaultKind::IoError).io(*kind))),
        Fault::Respond(answer) => {
            let none = || injection.error(FaultKind::Status).judged(Verdict::failure(Kind::Permanent));
            Poll::Ready(policy.respond(answer).ok_or_else(none))
        }
        Fault::Panic => panic!("{}", injection.error(FaultKind::Panic)),
        _ => Poll::Pending,
    }
}
