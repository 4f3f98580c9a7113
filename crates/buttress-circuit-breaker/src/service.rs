use std::mem;
use std::task::{Context, Poll};

use buttress_core::{BoxError, Classify, Now, Plain, Watch};
use tower_service::Service;

use crate::future::ResponseFuture;
use crate::permit::Permit;
use crate::shared::{Holder, Look, Refusal};

/// Refuses calls while the service inside is ill; made by [`CircuitBreakerLayer`](crate::CircuitBreakerLayer).
///
/// `P` judges outcomes, `W` says when a call is over. Clones share one circuit.
#[derive(Debug)]
pub struct CircuitBreaker<S, P = Plain, W = Now> {
    inner: S,
    breaker: Holder,
    policy: P,
    watch: W,
    /// What `poll_ready` found: the next call is refused, whatever has happened since.
    refusal: Option<Refusal>,
    /// The service inside was asked whether it is ready: it may have reserved something, or queue for it.
    asked: bool,
}

impl<S, P, W> CircuitBreaker<S, P, W> {
    pub(crate) fn new(inner: S, breaker: Holder, policy: P, watch: W) -> Self {
        Self { inner, breaker, policy, watch, refusal: None, asked: false }
    }

    /// The same circuit through a reference count of this service's own, for one service per worker thread: calls on
    /// different workers then write no common cache line while the circuit is closed. Clones share the new count.
    #[must_use]
    pub fn per_worker(self) -> Self {
        Self { breaker: self.breaker.per_worker(), ..self }
    }

    /// The service inside.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The service inside.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The service inside.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S: Clone, P: Clone, W: Clone> Clone for CircuitBreaker<S, P, W> {
    fn clone(&self) -> Self {
        // What `poll_ready` found holds for the instance that was asked, not for its clones.
        Self {
            breaker: self.breaker.clone(),
            policy: self.policy.clone(),
            watch: self.watch.clone(),
            refusal: None,
            asked: false,
            // The large one last, where it is to stay.
            inner: self.inner.clone(),
        }
    }
}

impl<S, P, W, Req> Service<Req> for CircuitBreaker<S, P, W>
where
    S: Service<Req> + Clone,
    S::Error: Into<BoxError>,
    P: Classify<S::Response> + Clone,
    W: Watch<S::Response> + Clone,
{
    type Response = W::Response<Permit>;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future, P, W>;

    /// Ready at once while the circuit refuses: the refusal comes from [`call`](Service::call). A probe that is due and
    /// whose service is not ready is not consumed; the call is refused instead, until nobody has got through for the time
    /// of a probe's lease: then callers wait for the service, as they do while the circuit is closed. A caller that waits
    /// already when the circuit opens is refused as soon as the service is ready.
    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.refusal = None;
        let probe = match self.breaker.look() {
            Look::Flow => None,
            Look::Probe(refusal) => Some(refusal),
            Look::Refuse(refusal) => {
                self.refusal = Some(refusal);
                return Poll::Ready(Ok(()));
            }
        };
        self.asked = true;
        match (self.inner.poll_ready(cx).map_err(Into::into), probe) {
            (Poll::Pending, Some(refusal)) => {
                self.refusal = Some(refusal);
                Poll::Ready(Ok(()))
            }
            (Poll::Ready(Err(error)), _) => {
                let error: BoxError = error;
                // A service that cannot become ready has failed, as much as one that fails a call.
                if let Ok(mut permit) = self.breaker.admit() {
                    permit.settle(self.policy.classify(Err(&*error)));
                }
                Poll::Ready(Err(error))
            }
            (polled, _) => polled,
        }
    }

    // Requests and futures are large, and moved once less for it.
    #[inline(always)]
    fn call(&mut self, request: Req) -> Self::Future {
        if let (Some(token), None) = (self.breaker.flow(), &self.refusal) {
            self.asked = false;
            // References are counted before the call, whose stores a locked operation would have to wait for.
            let (breaker, policy, watch) = (self.breaker.clone(), self.policy.clone(), self.watch.clone());
            let called = Called(&self.breaker, token);
            let inner = self.inner.call(request);
            called.returned();
            return ResponseFuture::calling(inner, Permit::new(breaker, token, None), policy, watch);
        }
        self.call_guarded(request)
    }
}

impl<S, P: Clone, W: Clone> CircuitBreaker<S, P, W> {
    /// A call that is refused, or asks the state machine for admission.
    #[cold]
    fn call_guarded<Req>(&mut self, request: Req) -> ResponseFuture<S::Future, P, W>
    where
        S: Service<Req> + Clone,
    {
        let admitted = match self.refusal.take() {
            Some(refusal) => Err(refusal),
            None => self.breaker.admit(),
        };
        let asked = mem::take(&mut self.asked);
        match admitted {
            Ok(permit) => {
                let (inner, permit) = call_with(&mut self.inner, request, permit);
                ResponseFuture::calling(inner, permit, self.policy.clone(), self.watch.clone())
            }
            Err(refusal) => {
                // A fresh clone, so that nothing stays reserved for a call that was not made.
                if asked {
                    self.inner = self.inner.clone();
                }
                ResponseFuture::refused(self.breaker.refuse(refusal))
            }
        }
    }
}

/// While the service is called where calls flow: a panic in `call` itself is a failed call. The permit is made only after it, where
/// it stays: it is too large to be moved for nothing.
pub(crate) struct Called<'a>(pub(crate) &'a Holder, pub(crate) u64);

impl Called<'_> {
    /// It did not panic.
    #[inline(always)]
    pub(crate) fn returned(self) {
        mem::forget(self);
    }
}

impl Drop for Called<'_> {
    #[cold]
    fn drop(&mut self) {
        Permit::new(self.0.clone(), self.1, None).enter();
    }
}

/// Calls the service with a permit that may be a probe's; a panic in `call` itself is a failed call.
#[cold]
pub(crate) fn call_with<S: Service<Req>, Req>(
    inner: &mut S,
    request: Req,
    mut permit: Permit,
) -> (S::Future, Permit) {
    permit.enter();
    let future = inner.call(request);
    permit.leave();
    (future, permit)
}
