//! How a call falls down its chain, and what it needs for that.

use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use buttress_core::clock::after;
use buttress_core::{BoxError, Carried, Carry, Discard, Effect, Elapsed, Timer};
use tokio::time::Instant;

use crate::chain::{Chain, DRILL, Last, descend};
use crate::error::NotAsked;
use crate::fallen::{Failure, Fallen};
use crate::future::Rungs;
use crate::grade::Grade;
use crate::rung::BoxFuture;
use crate::served::Cause;
use crate::shared::Holder;

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

/// How a request is copied, for a chain that needs one.
type Copied<Req> = fn(&Req) -> Req;

/// What a call needs when it falls.
pub(crate) struct Call<C: Rungs, P: 'static> {
    pub(crate) shared: Holder<P, C>,
    request: Option<C::Request>,
    bound: Seldom<Bound>,
}

/// How long a call has, if that is bounded; apart from it, so that what is not is small.
#[derive(Default)]
struct Bound {
    deadline: Option<Instant>,
    timer: Timer,
    /// How long it waits, once the timer is set.
    limit: Duration,
}

impl<C: Rungs, P> Call<C, P> {
    /// Of a request without a deadline, where [nothing is needed](Holder::is_idle).
    #[inline(always)]
    pub(crate) fn idle(shared: &Holder<P, C>) -> Self {
        Self { shared: shared.clone(), request: None, bound: Seldom(None) }
    }

    #[allow(clippy::type_complexity, reason = "it is a function from a request to one")]
    #[inline(always)]
    pub(crate) fn of(
        shared: &Holder<P, C>,
        copy: impl FnOnce(&Holder<P, C>) -> Option<Copied<C::Request>>,
        request: &mut C::Request,
    ) -> Self
    where
        P: Carry<C::Request>,
    {
        let deadline = deadline(&shared.policy, request);
        if shared.is_idle() && deadline.is_none() {
            return Self::idle(shared);
        }
        let bound = deadline.map(|deadline| Box::new(Bound { deadline: Some(deadline), ..Bound::default() }));
        // What rungs get has the time of the whole call, and not that of the service.
        let kept = copy(shared).map(|copy| copy(request));
        if let Some(budget) = shared.limits.budget.filter(|_| P::ACTIVE) {
            travels(&shared.policy, request, after(Instant::now(), budget));
        }
        Self { shared: shared.busy(), request: kept, bound: Seldom(bound) }
    }

    /// A drill leaves the service out.
    pub(crate) fn drill(mut self) -> BoxFuture<Result<C::Answer, C::Error>>
    where
        C: Fall<P>,
        P: Carry<C::Request>,
    {
        self.fall(DRILL, Effect::NotSent, Failure::Error(NotAsked(DRILL).into()))
    }

    /// The time for that counts no longer, where it was all that there was.
    pub(crate) fn becomes_ready(&mut self) {
        self.bound.0 =
            self.bound.0.take().filter(|bound| self.shared.needs.budget || bound.deadline.is_some());
    }

    /// Nothing bounds what is waited for here.
    #[inline]
    pub(crate) fn is_unbounded(&self) -> bool {
        self.shared.is_idle() || !self.shared.needs.budget && self.bound.0.is_none()
    }

    /// The time is over: the error that says so.
    #[cold]
    pub(crate) fn poll_elapsed(&mut self, waiting: bool, cx: &mut Context<'_>) -> Poll<(Cause, BoxError)> {
        let limits = &self.shared.limits;
        let bound = self.bound.0.get_or_insert_default();
        if !bound.timer.is_set() {
            let now = Instant::now();
            let limit = limits.budget.or(waiting.then(|| limits.patience()));
            let end =
                limit.map(|limit| after(now, limit)).into_iter().chain(bound.deadline).min().unwrap_or(now);
            bound.limit += end.saturating_duration_since(now);
            match Timer::at(end) {
                Ok(timer) => bound.timer = timer,
                Err(error) => return Poll::Ready((Cause::NoTimer, error.into())),
            }
        }
        ready!(bound.timer.poll(cx));
        if limits.budget.is_none()
            && !waiting
            && bound.deadline.is_none_or(|deadline| Instant::now() < deadline)
        {
            // It was for becoming ready, which is over.
            bound.timer = Timer::default();
            return self.poll_elapsed(waiting, cx);
        }
        let elapsed = Elapsed::new(Arc::clone(&self.shared.told.name), bound.limit);
        Poll::Ready((Cause::Elapsed, elapsed.into()))
    }

    #[cold]
    pub(crate) fn fall(
        &mut self,
        cause: Cause,
        effect: Effect,
        failure: Failure<C::Answer>,
    ) -> BoxFuture<Result<C::Answer, C::Error>>
    where
        C: Fall<P>,
        P: Carry<C::Request>,
    {
        let (request, deadline) =
            (self.request.take(), self.bound.0.as_ref().and_then(|bound| bound.deadline));
        let is_repeatable = |request| self.shared.policy.may_repeat(request);
        let may_repeat = effect == Effect::NotSent || request.as_ref().is_none_or(is_repeatable);
        C::fall(self.shared.clone(), Fallen { request, failure, cause, deadline, may_repeat })
    }
}

/// When the whole call has to be over, if that travels with the request.
#[inline(always)]
pub(crate) fn deadline<P: Carry<Req>, Req>(policy: &P, request: &Req) -> Option<Instant> {
    carried(policy, request).and_then(|carried| carried.deadline)
}

/// What travels with the request.
#[inline(always)]
pub(crate) fn carried<'a, P: Carry<Req>, Req>(policy: &P, request: &'a Req) -> Option<&'a Carried> {
    if P::ACTIVE { policy.carried(request) } else { None }
}

/// Tells the layers below how much time they have: one that knows gives up by itself, and the circuit hears of a time-out, and not of a
/// caller who has gone.
#[cold]
pub(crate) fn travels<P: Carry<Req>, Req>(policy: &P, request: &mut Req, end: Instant) {
    policy.carry(request, |carried| {
        carried.deadline = Some(carried.deadline.map_or(end, |deadline| deadline.min(end)));
    });
}

/// What is seldom there, and costs nothing to drop where it is not: neither moves nor code in its owner's own.
pub(crate) struct Seldom<T>(pub(crate) Option<Box<T>>);

impl<T> Drop for Seldom<T> {
    #[inline(always)]
    fn drop(&mut self) {
        if let Some(there) = self.0.take() {
            drop_seldom(there);
        }
    }
}

#[cold]
#[inline(never)]
fn drop_seldom<T>(there: Box<T>) {
    drop(there);
}
