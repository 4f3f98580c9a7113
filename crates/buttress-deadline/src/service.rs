use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};

use buttress_core::clock::after;
use buttress_core::{BoxError, Carry, Event, Mode, Reason, Refused, Shared};
use tokio::time::Instant;
use tower_service::Service;

use crate::future::{Limit, ResponseFuture};
use crate::layer::{DeadlineLayer, Settings};

/// Bounds the time of a call; made by [`DeadlineLayer`](crate::DeadlineLayer).
///
/// A request whose deadline has passed is refused; what the service inside had reserved for it, such as a permit, is free again
/// at once, since a clone takes its place.
#[derive(Clone, Debug)]
pub struct Deadline<S, K = ()> {
    settings: Shared<Settings>,
    carry: K,
    /// Also with requests that bring nothing.
    travels: bool,
    leans: bool,
    // Cloned last, where it is to stay: what counts references in between would have it moved once more.
    inner: S,
}

impl<S, K> Deadline<S, K> {
    pub(crate) fn new(inner: S, layer: DeadlineLayer<K>) -> Self {
        let DeadlineLayer { settings, carry, travels, leans } = layer;
        Self { settings, carry, travels, leans, inner }
    }

    /// The service inside.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The service inside.
    pub fn into_inner(self) -> S {
        self.inner
    }

    #[cold]
    fn refuse<F>(&mut self, refused: BoxError) -> ResponseFuture<F>
    where
        S: Clone,
    {
        // A fresh clone, so that nothing stays reserved for a call that was not made.
        let fresh = self.inner.clone();
        drop(mem::replace(&mut self.inner, fresh));
        ResponseFuture::refused(refused)
    }

    /// The time that a request has, all things considered, which then travels on with it; a refusal if it has none left.
    fn carried_limit<Req>(&self, request: &mut Req) -> Result<Limit, BoxError>
    where
        K: Carry<Req>,
    {
        let mode = self.settings.mode.get();
        if mode == Mode::Off {
            return Ok(Limit::of(&self.settings, self.leans));
        }
        let now = Instant::now();
        let (carried, own) = self.carry.carried(request).map_or((None, None), |carried| {
            (carried.deadline, if self.settings.total { carried.time_limit } else { carried.attempt_limit })
        });
        let deadline = after(now, own.unwrap_or_else(|| self.settings.limit()));
        let deadline = carried.map_or(deadline, |carried| carried.min(deadline));
        let limit =
            Limit::of(&self.settings, self.leans).until(deadline, deadline.saturating_duration_since(now));
        if mode == Mode::Observe {
            return Ok(limit);
        }
        if deadline <= now {
            self.settings.observer.emit(&self.settings.name, || Event::Refused(Reason::DeadlinePassed));
            return Err(Box::new(Refused::new(
                "deadline",
                Arc::clone(&self.settings.name),
                Reason::DeadlinePassed,
            )));
        }
        if carried != Some(deadline) {
            self.carry.carry(request, |carried| carried.deadline = Some(deadline));
        }
        Ok(limit)
    }
}

impl<S, K, Req> Service<Req> for Deadline<S, K>
where
    S: Service<Req> + Clone,
    S::Error: Into<BoxError>,
    K: Carry<Req>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future>;

    /// That of the service inside; waiting for it does not count.
    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    // Requests and futures are large, and moved once less for it.
    #[inline(always)]
    fn call(&mut self, request: Req) -> Self::Future {
        if K::ACTIVE && (self.travels || self.carry.carried(&request).is_some()) {
            return self.call_carried(request);
        }
        let limit = Limit::of(&self.settings, self.leans);
        ResponseFuture::new(self.inner.call(request), limit)
    }
}

impl<S: Clone, K> Deadline<S, K> {
    /// A call whose request brings limits of its own, or takes its deadline with it.
    // Apart, since a request that may be changed is moved once more.
    #[inline(never)]
    fn call_carried<Req>(&mut self, mut request: Req) -> ResponseFuture<S::Future>
    where
        S: Service<Req>,
        K: Carry<Req>,
    {
        match self.carried_limit(&mut request) {
            Ok(limit) => ResponseFuture::new(self.inner.call(request), limit),
            Err(refused) => self.refuse(refused),
        }
    }
}
