use std::task::{Context, Poll};

use buttress_core::{BoxError, Carry, Classify, Discard, Level};
use tower_service::Service;

use crate::chain::{Chain, Last};
use crate::falling::Call;
use crate::future::{Rare, ResponseFuture};
use crate::grade::{Grade, IntoAnswer};
use crate::primary::{Readiness, start};
use crate::shared::{Holder, Needs};

/// Answers by a chain where the service inside fails; made by [`DegradeLayer`](crate::DegradeLayer).
#[derive(Debug)]
pub struct Degrade<S, C: 'static, P: 'static> {
    pub(crate) inner: S,
    pub(crate) shared: Holder<P, C>,
    pub(crate) readiness: Readiness,
    pub(crate) needs: Needs,
}

impl<S, C, P> Degrade<S, C, P> {
    pub(crate) fn new(inner: S, shared: Holder<P, C>, needs: Needs) -> Self {
        Self { inner, shared, readiness: Readiness::Unasked, needs }
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
        self.needs.reports && self.shared.told.drill() > Level::Full
    }

    /// Asks the service inside, and is ready whatever it says.
    #[inline]
    pub(crate) fn ask<Req>(&mut self, cx: &mut Context<'_>)
    where
        S: Service<Req>,
        S::Error: Into<BoxError>,
    {
        self.readiness = match self.inner.poll_ready(cx) {
            Poll::Ready(Ok(())) => Readiness::Ready,
            Poll::Ready(Err(error)) => Readiness::Failed(error.into()),
            Poll::Pending => Readiness::Waiting,
        };
    }
}

impl<S: Clone, C, P> Clone for Degrade<S, C, P> {
    fn clone(&self) -> Self {
        // What the service inside has said holds for the instance that was asked, not for its clones.
        Self::new(self.inner.clone(), self.shared.clone(), self.needs)
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
    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), L::Error>> {
        self.ask(cx);
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        if matches!(self.readiness, Readiness::Ready) && !self.is_in_drill() {
            self.readiness = Readiness::Unasked;
            let call = Call::of(&self.shared, self.needs, |shared| shared.chain.copy, &request);
            return ResponseFuture::calling(self.inner.call(request), call);
        }
        ResponseFuture::rare(self.call_otherwise(request))
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
    /// In a drill, or where the service inside has yet to become ready.
    #[allow(clippy::type_complexity, reason = "it is what the future has, but for the box")]
    #[cold]
    fn call_otherwise(&mut self, request: Req) -> Box<Rare<S::Future, Chain<Req, A, L>, P>> {
        let call = Call::of(&self.shared, self.needs, |shared| shared.chain.copy, &request);
        // One that is ready was in a drill a moment ago.
        if matches!(self.readiness, Readiness::Ready) || self.is_in_drill() {
            return Rare::falling(call.drill());
        }
        Rare::starting(start(&mut self.inner, &mut self.readiness, request), call)
    }
}
