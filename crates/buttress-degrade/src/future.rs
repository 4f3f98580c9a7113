use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use buttress_core::{BoxError, Carry, Classify, Effect, Level, Verdict};
use pin_project_lite::pin_project;

use crate::chain::{Chain, Last};
use crate::fallen::{Failure, cause_of, effect_of, is_failure};
use crate::falling::{Call, Fall, Seldom};
use crate::grade::{Grade, IntoAnswer, no_failure};
use crate::primary::Made;
use crate::rung::BoxFuture;
use crate::served::Cause;
use crate::shared::{Holder, Told};

/// What a chain is made for; [`Chain`] and [`Recalling`](crate::Recalling) are the two.
pub trait Rungs: 'static {
    /// The requests.
    type Request;
    /// The answers.
    type Answer;
    /// What a service with the chain fails with.
    type Error;
    /// An answer that is there without a call: only of a store.
    #[doc(hidden)]
    type AtOnce;

    #[doc(hidden)]
    fn given(answer: Self::AtOnce) -> Self::Answer;
}

impl<Req: 'static, A: 'static, L: Last<Req, A>> Rungs for Chain<Req, A, L> {
    type Request = Req;
    type Answer = A;
    type Error = L::Error;
    type AtOnce = Infallible;

    fn given(answer: Infallible) -> A {
        match answer {}
    }
}

pin_project! {
    /// The response of a [`Degrade`](crate::Degrade).
    ///
    /// Dropping it drops the call below, or the rung that is being asked; no rung is asked for a caller who has gone.
    pub struct ResponseFuture<F, C: Rungs, P: 'static> {
        #[pin]
        state: State<F, C, P>,
    }
}

pin_project! {
    #[project = StateProj]
    #[project_replace = StateWas]
    enum State<F, C: Rungs, P: 'static> {
        Calling { #[pin] inner: F, call: Call<C, P> },
        Done { answer: C::AtOnce },
        Rare { rare: Seldom<Rare<F, C, P>> },
    }
}

/// Where there is neither a call under way nor an answer.
///
/// What leads here is out of the way, and gives no more than a pointer: what is given in memory cannot be kept in registers where it is not
/// rare either.
pub(crate) enum Rare<F, C: Rungs, P: 'static> {
    Waiting { made: Made<F>, call: Call<C, P> },
    Falling { future: BoxFuture<Result<C::Answer, C::Error>> },
}

impl<F, C: Rungs, P> fmt::Debug for ResponseFuture<F, C, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.state {
            State::Calling { .. } => "ResponseFuture(calling)",
            State::Done { .. } => "ResponseFuture(done)",
            State::Rare { .. } => "ResponseFuture(waiting or falling)",
        })
    }
}

/// Of an answer that the service has graded itself. Takes it, and not a reference to it, which would have it in memory where it is full,
/// too.
#[cold]
#[inline(never)]
fn degraded<A: Grade>(answer: A, told: &Told) -> A {
    let answer = no_failure(answer);
    told.answered(answer.level(), || "upstream".into());
    answer
}

/// How a call did not give an answer.
enum Fell<A, E> {
    Response(A, Verdict),
    Error(E),
    /// Not yet, and its time may be over.
    Late,
}

impl<F, C: Rungs, P> ResponseFuture<F, C, P> {
    #[inline]
    pub(crate) fn calling(inner: F, call: Call<C, P>) -> Self {
        Self { state: State::Calling { inner, call } }
    }

    /// Of a call that needs nothing.
    #[inline(always)]
    pub(crate) fn idle(inner: F, shared: &Holder<P, C>) -> Self {
        Self { state: State::Calling { inner, call: Call::idle(shared) } }
    }

    #[inline]
    pub(crate) fn rare(rare: Box<Rare<F, C, P>>) -> Self {
        Self { state: State::Rare { rare: Seldom(Some(rare)) } }
    }

    pub(crate) fn falling(future: BoxFuture<Result<C::Answer, C::Error>>) -> Self {
        Self::rare(Rare::falling(future))
    }

    pub(crate) fn done(answer: C::AtOnce) -> Self {
        Self { state: State::Done { answer } }
    }
}

impl<F, C: Rungs, P> Rare<F, C, P> {
    pub(crate) fn falling(future: BoxFuture<Result<C::Answer, C::Error>>) -> Box<Self> {
        Box::new(Self::Falling { future })
    }
}

impl<F, C, P, T, E> Future for ResponseFuture<F, C, P>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
    T: IntoAnswer<C::Answer>,
    C: Fall<P>,
    C::Answer: Grade,
    P: Classify<T> + Carry<C::Request>,
{
    type Output = Result<C::Answer, C::Error>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().state.poll(cx)
    }
}

impl<F, C: Rungs, P> State<F, C, P> {
    /// In the caller's own code as a whole, but for what is rare: then neither the future nor the answer is moved through memory.
    #[inline(always)]
    fn poll<T, E>(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<C::Answer, C::Error>>
    where
        F: Future<Output = Result<T, E>>,
        E: Into<BoxError>,
        T: IntoAnswer<C::Answer>,
        C: Fall<P>,
        C::Answer: Grade,
        P: Classify<T> + Carry<C::Request>,
    {
        let fell = match self.as_mut().project() {
            StateProj::Calling { inner, call } => match inner.poll(cx) {
                Poll::Ready(Ok(mut response)) => {
                    let reports = !call.shared.is_idle() && call.shared.needs.reports;
                    if !call.shared.is_idle() && call.shared.needs.foreign {
                        response.disbelieve();
                    }
                    let verdict = call.shared.policy.classify(Ok(&response));
                    let answer = response.into_answer();
                    if !is_failure(&verdict) {
                        if answer.level().is_degraded() {
                            return Poll::Ready(Ok(degraded(answer, &call.shared.told)));
                        }
                        if reports {
                            call.shared.told.answered(Level::Full, || "upstream".into());
                        }
                        return Poll::Ready(Ok(answer));
                    }
                    Fell::Response(answer, verdict)
                }
                Poll::Ready(Err(error)) => Fell::Error(error),
                Poll::Pending if call.is_unbounded() => return Poll::Pending,
                Poll::Pending => Fell::Late,
            },
            StateProj::Done { .. } => match self.project_replace(Self::over()) {
                StateWas::Done { answer } => return Poll::Ready(Ok(C::given(answer))),
                _ => unreachable!("it has just been seen"),
            },
            StateProj::Rare { .. } => return self.poll_rare(cx).map(|ended| *ended),
        };
        self.poll_fell(fell, cx).map(|ended| *ended)
    }

    /// The call has failed, or may have taken too long.
    #[cold]
    fn poll_fell<T, E>(
        mut self: Pin<&mut Self>,
        fell: Fell<C::Answer, E>,
        cx: &mut Context<'_>,
    ) -> Poll<Box<Result<C::Answer, C::Error>>>
    where
        E: Into<BoxError>,
        C: Fall<P>,
        P: Classify<T> + Carry<C::Request>,
    {
        let StateProj::Calling { call, .. } = self.as_mut().project() else {
            unreachable!("it is the call that fell")
        };
        let falling = match fell {
            Fell::Response(answer, verdict) => {
                call.fall(cause_of(verdict, None), effect_of(verdict), Failure::Response(answer))
            }
            Fell::Error(error) => {
                let error = error.into();
                let verdict: Verdict = call.shared.policy.classify(Err(&*error));
                call.fall(cause_of(verdict, Some(&error)), effect_of(verdict), Failure::Error(error))
            }
            Fell::Late => {
                let (cause, error) = ready!(call.poll_elapsed(false, cx));
                call.fall(cause, Effect::Unknown, Failure::Error(error))
            }
        };
        self.poll_falling(falling, cx)
    }

    /// Not to be polled again.
    #[inline(always)]
    fn over() -> Self {
        Self::Rare { rare: Seldom(None) }
    }

    #[cold]
    fn poll_rare<T, E>(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Box<Result<C::Answer, C::Error>>>
    where
        F: Future<Output = Result<T, E>>,
        E: Into<BoxError>,
        T: IntoAnswer<C::Answer>,
        C: Fall<P>,
        C::Answer: Grade,
        P: Classify<T> + Carry<C::Request>,
    {
        let StateProj::Rare { rare } = self.as_mut().project() else { return self.poll(cx).map(Box::new) };
        let falling = match rare.0.as_deref_mut().expect("a future is not polled again after it was ready") {
            Rare::Falling { future } => return future.as_mut().poll(cx).map(Box::new),
            Rare::Waiting { made, call } => match made.as_mut().poll(cx) {
                Poll::Ready(Ok(inner)) => {
                    if let Some(Rare::Waiting { mut call, .. }) = rare.0.take().map(|rare| *rare) {
                        call.becomes_ready();
                        self.set(Self::Calling { inner, call });
                    }
                    return self.poll(cx).map(Box::new);
                }
                Poll::Ready(Err(error)) => call.fall(Cause::NotReady, Effect::NotSent, Failure::Error(error)),
                Poll::Pending => {
                    let (cause, error) = ready!(call.poll_elapsed(true, cx));
                    // What has not become ready was not called.
                    call.fall(cause, Effect::NotSent, Failure::Error(error))
                }
            },
        };
        self.poll_falling(falling, cx)
    }

    /// The call below is dropped now, before a rung is asked, and not only with this future.
    #[cold]
    fn poll_falling(
        mut self: Pin<&mut Self>,
        mut falling: BoxFuture<Result<C::Answer, C::Error>>,
        cx: &mut Context<'_>,
    ) -> Poll<Box<Result<C::Answer, C::Error>>> {
        self.set(Self::over());
        let polled = falling.as_mut().poll(cx);
        if polled.is_pending() {
            self.set(Self::Rare { rare: Seldom(Some(Rare::falling(falling))) });
        }
        polled.map(Box::new)
    }
}
