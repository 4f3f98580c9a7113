use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use buttress_core::clock::after;
use buttress_core::{BoxError, Carry, Classify, Discard, Effect, Elapsed, Timer, Verdict};
use pin_project_lite::pin_project;
use tokio::time::Instant;

use crate::chain::{Chain, DRILL, Last, descend};
use crate::error::NotAsked;
use crate::fallen::{Failure, Fallen, cause_of, effect_of};
use crate::grade::{Grade, IntoAnswer, no_failure};
use crate::primary::{Ended, Primary};
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
    enum State<F, C: Rungs, P: 'static> {
        Calling { #[pin] primary: Primary<F>, call: Call<C, P> },
        Falling { future: BoxFuture<Result<C::Answer, C::Error>> },
        Done { answer: Option<C::Answer> },
    }
}

impl<F, C: Rungs, P> fmt::Debug for ResponseFuture<F, C, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.state {
            State::Calling { .. } => "ResponseFuture(calling)",
            State::Falling { .. } => "ResponseFuture(falling)",
            State::Done { .. } => "ResponseFuture(done)",
        })
    }
}

/// What a call needs when it falls.
pub(crate) struct Call<C: Rungs, P: 'static> {
    pub(crate) shared: Holder<P, C>,
    pub(crate) request: Option<C::Request>,
    pub(crate) deadline: Option<Instant>,
    pub(crate) timer: Timer,
}

impl<F, C: Rungs, P> ResponseFuture<F, C, P> {
    #[inline]
    pub(crate) fn calling(primary: Primary<F>, call: Call<C, P>) -> Self {
        Self { state: State::Calling { primary, call } }
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
    /// Nothing bounds what is waited for here.
    #[inline]
    fn is_unbounded(&self, waiting: bool) -> bool {
        !waiting && self.shared.limits.budget.is_none() && self.deadline.is_none()
    }

    /// The time is over: the error that says so.
    #[cold]
    fn poll_elapsed(&mut self, waiting: bool, cx: &mut Context<'_>) -> Poll<(Cause, BoxError)> {
        if !self.timer.is_set() {
            let limits = &self.shared.limits;
            let limit = limits.budget.or(waiting.then(|| limits.patience()));
            let end = limit.map(|limit| after(Instant::now(), limit));
            let end = end.into_iter().chain(self.deadline).min().unwrap_or_else(Instant::now);
            match Timer::at(end) {
                Ok(timer) => self.timer = timer,
                Err(error) => return Poll::Ready((Cause::Rejected, error.into())),
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
            return if self.is_unbounded(waiting) { Poll::Pending } else { self.poll_elapsed(waiting, cx) };
        }
        let elapsed = Elapsed::new(Arc::clone(&self.shared.told.name), limits.bound());
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

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let falling = match self.as_mut().project().state.project() {
            StateProj::Calling { mut primary, call } => match primary.as_mut().poll(cx) {
                Poll::Ready(Ended::Outcome(Ok(mut response))) => {
                    if call.shared.foreign {
                        response.disbelieve();
                    }
                    let verdict = call.shared.policy.classify(Ok(&response));
                    let mut answer = response.into_answer();
                    if !verdict.is_failure() {
                        answer = no_failure(answer);
                        call.shared.told.answered(answer.level(), || "upstream".into());
                        return Poll::Ready(Ok(answer));
                    }
                    call.fall(cause_of(verdict, None), effect_of(verdict), Failure::Response(answer))
                }
                Poll::Ready(ended) => call.fall_by(ended),
                Poll::Pending => {
                    let waiting = primary.is_waiting();
                    if call.is_unbounded(waiting) {
                        return Poll::Pending;
                    }
                    let (cause, error) = ready!(call.poll_elapsed(waiting, cx));
                    // What has not become ready was not called.
                    let effect = if waiting { Effect::NotSent } else { Effect::Unknown };
                    call.fall(cause, effect, Failure::Error(error))
                }
            },
            StateProj::Falling { future } => return future.as_mut().poll(cx),
            StateProj::Done { answer } => {
                return Poll::Ready(Ok(answer
                    .take()
                    .expect("a future is not polled again after it was ready")));
            }
        };
        self.poll_falling(falling, cx)
    }
}

impl<F, C: Rungs, P> ResponseFuture<F, C, P> {
    /// The call below is dropped now, before a rung is asked, and not only with this future.
    #[cold]
    fn poll_falling(
        mut self: Pin<&mut Self>,
        falling: BoxFuture<Result<C::Answer, C::Error>>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<C::Answer, C::Error>> {
        self.as_mut().project().state.set(State::Falling { future: falling });
        match self.project().state.project() {
            StateProj::Falling { future } => future.as_mut().poll(cx),
            _ => unreachable!("it has just been set"),
        }
    }
}

impl<C: Rungs, P> Call<C, P> {
    #[cold]
    fn fall_by<T>(&mut self, ended: Ended<T>) -> BoxFuture<Result<C::Answer, C::Error>>
    where
        C: Fall<P>,
        P: Classify<T> + Carry<C::Request>,
    {
        let (cause, effect, error) = match ended {
            Ended::NotReady(error) => (Cause::NotReady, Effect::NotSent, error),
            Ended::Outcome(Err(error)) => {
                let verdict: Verdict = self.shared.policy.classify(Err(&*error));
                (cause_of(verdict, Some(&error)), effect_of(verdict), error)
            }
            Ended::Outcome(Ok(_)) => unreachable!("a response is no error"),
        };
        self.fall(cause, effect, Failure::Error(error))
    }
}
