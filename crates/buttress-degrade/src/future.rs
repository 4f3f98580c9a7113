use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use buttress_core::clock::after;
use buttress_core::{BoxError, Carry, Classify, Discard, Effect, Elapsed, Timer, Verdict};
use pin_project_lite::pin_project;
use tokio::time::Instant;

use crate::chain::{Chain, DRILL, Last, descend};
use crate::error::NotAsked;
use crate::fallen::{Failure, Fallen, cause_of, effect_of};
use crate::grade::{Grade, IntoAnswer, no_failure};
use crate::primary::Primary;
use crate::rung::BoxFuture;
use crate::served::Cause;
use crate::shared::Holder;

/// What a chain is made for; [`Chain`] and [`Recalling`](crate::Recalling) are the two.
pub trait Rungs: 'static {
    /// The requests.
    type Request;
    /// The answers.
    type Answer;
    /// What a service with the chain fails with.
    type Error;
}

impl<Req: 'static, A: 'static, L: Last<Req, A>> Rungs for Chain<Req, A, L> {
    type Request = Req;
    type Answer = A;
    type Error = L::Error;
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
    #[project_replace = StateOwn]
    enum State<F, C: Rungs, P: 'static> {
        Calling { #[pin] inner: F, call: Call<C, P> },
        Waiting { made: BoxFuture<Result<F, BoxError>>, call: Call<C, P> },
        Falling { future: BoxFuture<Result<C::Answer, C::Error>> },
        Done { answer: Option<C::Answer> },
    }
}

impl<F, C: Rungs, P> fmt::Debug for ResponseFuture<F, C, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.state {
            State::Calling { .. } => "ResponseFuture(calling)",
            State::Waiting { .. } => "ResponseFuture(waiting)",
            State::Falling { .. } => "ResponseFuture(falling)",
            State::Done { .. } => "ResponseFuture(done)",
        })
    }
}

/// How a request is copied, for a chain that needs one.
type Copied<Req> = fn(&Req) -> Req;

/// How a call did not give an answer.
enum Fell<A, E> {
    Response(A, Verdict),
    Error(E),
    /// Not yet, and its time may be over.
    Late,
}

/// What a call needs when it falls.
pub(crate) struct Call<C: Rungs, P: 'static> {
    pub(crate) shared: Holder<P, C>,
    pub(crate) request: Option<C::Request>,
    pub(crate) deadline: Option<Instant>,
    timer: Timer,
    /// How long it waits, once the timer is set.
    limit: Duration,
}

impl<F, C: Rungs, P> ResponseFuture<F, C, P> {
    #[inline]
    pub(crate) fn calling(inner: F, call: Call<C, P>) -> Self {
        Self { state: State::Calling { inner, call } }
    }

    /// The same where it may still have to become ready.
    pub(crate) fn starting(primary: Primary<F>, mut call: Call<C, P>) -> Self
    where
        C: Fall<P>,
        P: Carry<C::Request>,
    {
        match primary {
            Primary::Calling { inner } => Self::calling(inner, call),
            Primary::Waiting { made } => Self { state: State::Waiting { made, call } },
            Primary::Failed { error } => {
                let error = error.expect("nobody has asked for it");
                Self::falling(call.fall(Cause::NotReady, Effect::NotSent, Failure::Error(error)))
            }
        }
    }

    pub(crate) fn falling(future: BoxFuture<Result<C::Answer, C::Error>>) -> Self {
        Self { state: State::Falling { future } }
    }

    pub(crate) fn done(answer: C::Answer) -> Self {
        Self { state: State::Done { answer: Some(answer) } }
    }
}

/// Chains that can be fallen down.
pub(crate) trait Fall<P>: Rungs {
    fn fall(
        shared: Holder<P, Self>,
        fallen: Fallen<Self::Request, Self::Answer>,
    ) -> BoxFuture<Result<Self::Answer, Self::Error>>
    where
        Self: Sized;
}

impl<Req, A, L, P> Fall<P> for Chain<Req, A, L>
where
    Req: Send + 'static,
    A: Grade + Send + 'static,
    L: Last<Req, A>,
    P: Discard<A, Future: Send + 'static> + Send + Sync + 'static,
{
    fn fall(shared: Holder<P, Self>, fallen: Fallen<Req, A>) -> BoxFuture<Result<A, L::Error>> {
        Box::pin(async move {
            let discard = |response| shared.discard(response);
            descend(&shared.chain, &shared.told, fallen, None, discard).await
        })
    }
}

impl<C: Rungs, P> Call<C, P> {
    #[allow(clippy::type_complexity, reason = "it is a function from a request to one")]
    #[inline]
    pub(crate) fn of(shared: &Holder<P, C>, copy: Option<Copied<C::Request>>, request: &C::Request) -> Self
    where
        P: Carry<C::Request>,
    {
        let deadline = if P::ACTIVE {
            shared.policy.carried(request).and_then(|carried| carried.deadline)
        } else {
            None
        };
        let request = copy.map(|copy| copy(request));
        let (timer, limit) = (Timer::default(), Duration::ZERO);
        Self { shared: shared.clone(), request, deadline, timer, limit }
    }

    /// Nothing bounds what is waited for here.
    #[inline]
    fn is_unbounded(&self) -> bool {
        self.shared.limits.budget.is_none() && self.deadline.is_none()
    }

    /// The time is over: the error that says so.
    #[cold]
    fn poll_elapsed(&mut self, waiting: bool, cx: &mut Context<'_>) -> Poll<(Cause, BoxError)> {
        if !self.timer.is_set() {
            let (now, limits) = (Instant::now(), &self.shared.limits);
            let limit = limits.budget.or(waiting.then(|| limits.patience()));
            let end =
                limit.map(|limit| after(now, limit)).into_iter().chain(self.deadline).min().unwrap_or(now);
            self.limit += end.saturating_duration_since(now);
            match Timer::at(end) {
                Ok(timer) => self.timer = timer,
                Err(error) => return Poll::Ready((Cause::NoTimer, error.into())),
            }
        }
        ready!(self.timer.poll(cx));
        let limits = &self.shared.limits;
        if limits.budget.is_none()
            && !waiting
            && self.deadline.is_none_or(|deadline| Instant::now() < deadline)
        {
            // It was for becoming ready, which is over.
            self.timer = Timer::default();
            return if self.is_unbounded() { Poll::Pending } else { self.poll_elapsed(waiting, cx) };
        }
        let elapsed = Elapsed::new(Arc::clone(&self.shared.told.name), self.limit);
        Poll::Ready((Cause::Elapsed, elapsed.into()))
    }

    #[cold]
    fn fall(
        &mut self,
        cause: Cause,
        effect: Effect,
        failure: Failure<C::Answer>,
    ) -> BoxFuture<Result<C::Answer, C::Error>>
    where
        C: Fall<P>,
        P: Carry<C::Request>,
    {
        let (request, deadline) = (self.request.take(), self.deadline);
        let is_repeatable = |request| self.shared.policy.may_repeat(request);
        let may_repeat = effect == Effect::NotSent || request.as_ref().is_none_or(is_repeatable);
        C::fall(self.shared.clone(), Fallen { request, failure, cause, deadline, may_repeat })
    }

    /// A drill leaves the service out.
    pub(crate) fn drill(mut self) -> BoxFuture<Result<C::Answer, C::Error>>
    where
        C: Fall<P>,
        P: Carry<C::Request>,
    {
        self.fall(DRILL, Effect::NotSent, Failure::Error(NotAsked(DRILL).into()))
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
                    if call.shared.foreign {
                        response.disbelieve();
                    }
                    let verdict = call.shared.policy.classify(Ok(&response));
                    let answer = response.into_answer();
                    if !verdict.is_failure() {
                        let answer = no_failure(answer);
                        call.shared.told.answered(answer.level(), || "upstream".into());
                        return Poll::Ready(Ok(answer));
                    }
                    Fell::Response(answer, verdict)
                }
                Poll::Ready(Err(error)) => Fell::Error(error),
                Poll::Pending if call.is_unbounded() => return Poll::Pending,
                Poll::Pending => Fell::Late,
            },
            StateProj::Done { answer } => {
                let answer = answer.take();
                return Poll::Ready(Ok(answer.expect("a future is not polled again after it was ready")));
            }
            _ => return self.poll_otherwise(cx),
        };
        self.poll_fell(fell, cx)
    }

    /// The call has failed, or may have taken too long.
    #[cold]
    fn poll_fell<T, E>(
        mut self: Pin<&mut Self>,
        fell: Fell<C::Answer, E>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<C::Answer, C::Error>>
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

    /// Where there is neither a call under way nor an answer.
    #[cold]
    fn poll_otherwise<T, E>(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<C::Answer, C::Error>>
    where
        F: Future<Output = Result<T, E>>,
        E: Into<BoxError>,
        T: IntoAnswer<C::Answer>,
        C: Fall<P>,
        C::Answer: Grade,
        P: Classify<T> + Carry<C::Request>,
    {
        let falling = match self.as_mut().project() {
            StateProj::Calling { .. } | StateProj::Done { .. } => return self.poll(cx),
            StateProj::Falling { future } => return future.as_mut().poll(cx),
            StateProj::Waiting { made, call } => match made.as_mut().poll(cx) {
                Poll::Ready(Ok(inner)) => {
                    let waited = self.as_mut().project_replace(Self::Done { answer: None });
                    if let StateOwn::Waiting { call, .. } = waited {
                        self.set(Self::Calling { inner, call });
                    }
                    return self.poll(cx);
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
        falling: BoxFuture<Result<C::Answer, C::Error>>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<C::Answer, C::Error>> {
        self.set(Self::Falling { future: falling });
        match self.project() {
            StateProj::Falling { future } => future.as_mut().poll(cx),
            _ => unreachable!("it has just been set"),
        }
    }
}
