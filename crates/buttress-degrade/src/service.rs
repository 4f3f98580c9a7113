use std::task::{Context, Poll};

use buttress_core::{BoxError, Carry, Classify, Discard, Effect, Level};
use tower_service::Service;

use crate::chain::{Chain, Last};
use crate::fallen::Failure;
use crate::falling::{Call, deadline};
use crate::future::{Rare, ResponseFuture};
use crate::grade::{Grade, IntoAnswer};
use crate::primary::start;
use crate::served::Cause;
use crate::shared::Holder;

/// Answers by a chain where the service inside fails; made by [`DegradeLayer`](crate::DegradeLayer).
#[derive(Debug)]
pub struct Degrade<S, C: 'static, P: 'static> {
    pub(crate) inner: S,
    pub(crate) shared: Holder<P, C>,
    readiness: Readiness,
    /// Of what it failed when it last did; apart from that it did, so that there is nothing to drop where it is ready.
    error: Option<BoxError>,
}

/// What the service inside said when it was asked whether it is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Readiness {
    /// Nothing yet, or that it is not.
    Unknown,
    Ready,
    Failed,
}

impl<S, C, P> Degrade<S, C, P> {
    pub(crate) fn new(inner: S, shared: Holder<P, C>) -> Self {
        Self { inner, shared, readiness: Readiness::Unknown, error: None }
    }

    /// The service inside.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The service inside.
    pub fn into_inner(self) -> S {
        self.inner
    }

    /// Whether an operator wants worse answers than the service's.
    #[inline]
    pub(crate) fn is_in_drill(&self) -> bool {
        !self.shared.is_idle() && self.shared.told.drill() > Level::Full
    }

    /// Asks the service inside, and is ready whatever it says.
    #[inline(always)]
    pub(crate) fn ask<Req>(&mut self, cx: &mut Context<'_>)
    where
        S: Service<Req>,
        S::Error: Into<BoxError>,
    {
        self.readiness = match self.inner.poll_ready(cx) {
            Poll::Ready(Ok(())) => {
                if self.error.is_some() {
                    self.forget_error();
                }
                Readiness::Ready
            }
            Poll::Ready(Err(error)) => {
                self.error = Some(error.into());
                Readiness::Failed
            }
            Poll::Pending => Readiness::Unknown,
        };
    }

    /// What an error owns may be wanted elsewhere.
    #[cold]
    fn forget_error(&mut self) {
        self.error = None;
    }
}

impl<S: Clone, C, P> Clone for Degrade<S, C, P> {
    fn clone(&self) -> Self {
        // What the service inside has said holds for the instance that was asked, not for its clones.
        Self::new(self.inner.clone(), self.shared.clone())
    }
}

impl<S, P, Req, A, L> Service<Req> for Degrade<S, Chain<Req, A, L>, P>
where
    S: Service<Req> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Response: IntoAnswer<A>,
    P: Classify<S::Response> + Carry<Req> + Discard<A, Future: Send + 'static> + Send + Sync + 'static,
    Req: Send + 'static,
    A: Grade + Send + 'static,
    L: Last<Req, A>,
{
    type Response = A;
    type Error = L::Error;
    type Future = ResponseFuture<S::Future, Chain<Req, A, L>, P>;

    /// Always ready: where the service inside is not, the call waits for it within its budget, and is degraded if that is over.
    #[inline(always)]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), L::Error>> {
        self.ask(cx);
        Poll::Ready(Ok(()))
    }

    #[inline(always)]
    fn call(&mut self, request: Req) -> Self::Future {
        if self.readiness != Readiness::Ready || self.is_in_drill() {
            return ResponseFuture::rare(self.call_otherwise(request));
        }
        self.readiness = Readiness::Unknown;
        if self.shared.is_idle() && deadline(&self.shared.policy, &request).is_none() {
            return ResponseFuture::idle(self.inner.call(request), &self.shared);
        }
        self.call_busy(request)
    }
}

impl<S, P, Req, A, L> Degrade<S, Chain<Req, A, L>, P>
where
    S: Service<Req> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    P: Carry<Req> + Discard<A, Future: Send + 'static> + Send + Sync + 'static,
    Req: Send + 'static,
    A: Grade + Send + 'static,
    L: Last<Req, A>,
{
    /// Apart, since a request that may be changed is moved once more.
    #[inline]
    fn call_busy(&mut self, mut request: Req) -> ResponseFuture<S::Future, Chain<Req, A, L>, P> {
        let call = Call::of(&self.shared, |shared| shared.chain.copy, &mut request);
        ResponseFuture::calling(self.inner.call(request), call)
    }

    /// In a drill, or where the service inside has yet to become ready.
    #[allow(clippy::type_complexity, reason = "it is what the future has, but for the box")]
    #[cold]
    fn call_otherwise(&mut self, mut request: Req) -> Box<Rare<S::Future, Chain<Req, A, L>, P>> {
        let mut call = Call::of(&self.shared, |shared| shared.chain.copy, &mut request);
        // One that is ready was in a drill a moment ago.
        if self.readiness == Readiness::Ready || self.is_in_drill() {
            return Rare::falling(call.drill());
        }
        let said = std::mem::replace(&mut self.readiness, Readiness::Unknown);
        match self.error.take().filter(|_| said == Readiness::Failed) {
            Some(error) => Rare::falling(call.fall(Cause::NotReady, Effect::NotSent, Failure::Error(error))),
            None => Box::new(Rare::Waiting { made: start(&mut self.inner, request), call }),
        }
    }
}
