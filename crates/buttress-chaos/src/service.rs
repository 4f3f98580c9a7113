use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};

use buttress_core::BoxError;
use tower_service::Service;

use crate::future::ResponseFuture;
use crate::inject::Inject;
use crate::layer::Shared;
use crate::plan::Injection;

/// Injects faults into calls; made by [`ChaosLayer`](crate::ChaosLayer).
#[derive(Clone, Debug)]
pub struct Chaos<S, P> {
    inner: S,
    shared: Arc<Shared>,
    policy: P,
}

/// One future as a service.
#[derive(Debug)]
pub(crate) struct Call<F>(pub(crate) Option<F>);

impl<S, P> Chaos<S, P> {
    pub(crate) fn new(inner: S, shared: Arc<Shared>, policy: P) -> Self {
        Self { inner, shared, policy }
    }

    /// The service inside.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The service inside.
    pub fn into_inner(self) -> S {
        self.inner
    }

    fn decide<Req>(&self, request: &Req) -> Option<Injection>
    where
        S: Service<Req>,
        P: Inject<Req, S::Response>,
    {
        self.shared.decide(|field| self.policy.field(request, field))
    }

    /// The one call of a service that can be called once.
    pub(crate) fn once(mut inner: S, shared: &Shared, policy: P) -> ResponseFuture<S, P, ()>
    where
        S: Service<()>,
        P: Inject<(), S::Response>,
    {
        let decided = shared.decide(|field| policy.field(&(), field));
        match decided {
            Some(injection) if !injection.delay.is_zero() || !injection.fault().calls() => {
                let later = injection.fault().calls().then_some((inner, ()));
                ResponseFuture::injecting(later, injection, policy)
            }
            decided => ResponseFuture::calling(inner.call(()), decided, policy),
        }
    }
}

impl<S, P, Req> Service<Req> for Chaos<S, P>
where
    S: Service<Req> + Clone,
    S::Error: Into<BoxError>,
    P: Inject<Req, S::Response> + Clone,
{
    type Response = P::Response;
    type Error = BoxError;
    type Future = ResponseFuture<S, P, Req>;

    /// That of the service inside.
    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    /// A call that is passed on later takes the instance that was made ready with it. Wherever that instance is not called
    /// now, a fresh clone takes its place, so that nothing stays reserved for a call that is not made.
    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        let decided = self.decide(&request);
        let policy = self.policy.clone();
        match decided {
            Some(injection) if !injection.delay.is_zero() || !injection.fault().calls() => {
                let fresh = self.inner.clone();
                let ready = mem::replace(&mut self.inner, fresh);
                let later = injection.fault().calls().then_some((ready, request));
                ResponseFuture::injecting(later, injection, policy)
            }
            decided => ResponseFuture::calling(self.inner.call(request), decided, policy),
        }
    }
}
