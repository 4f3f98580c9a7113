//! Services with a store of last good answers.

mod call;
mod caller;

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::Guard;
use buttress_core::clock::after;
use buttress_core::{BoxError, Carry, Classify, Discard};
use tokio::time::Instant;
use tower_service::Service;

use crate::chain::{Chain, Last, descend};
use crate::fallen::Fallen;
use crate::falling::{Call, Fall, carried};
use crate::future::{Rare, ResponseFuture, Rungs};
use crate::grade::{Grade, IntoAnswer};
use crate::layer::Recalling;
use crate::primary::start;
use crate::recall::{Accepts, Kept, Recall, Restore};
use crate::rung::BoxFuture;
use crate::served::{Cause, Freshness, Served, Shortfall, Source};
use crate::service::Degrade;
use crate::shared::{Holder, Told};
use crate::store::{Entry, Joined, Look, Which};
use call::ForAll;
use caller::Caller;

impl<Req: 'static, A: 'static, L: Last<Req, A>, R: Kept> Rungs for Recalling<Chain<Req, A, L>, R> {
    type Request = Req;
    type Answer = A;
    type Error = L::Error;
    type AtOnce = A;

    #[inline]
    fn given(answer: A) -> A {
        answer
    }
}

/// A call that has nothing to do with the store falls as one without.
impl<Req, A, L, R, P> Fall<P> for Recalling<Chain<Req, A, L>, R>
where
    Req: Send + 'static,
    A: Grade + Send + 'static,
    L: Last<Req, A>,
    R: Kept,
    P: Discard<A, Future: Send + 'static> + Send + Sync + 'static,
{
    fn fall(shared: Holder<P, Self>, fallen: Fallen<Req, A>) -> BoxFuture<Result<A, L::Error>> {
        Box::pin(async move {
            let discard = |response| shared.discard(response);
            descend(&shared.chain.chain, &shared.told, fallen, None, discard).await
        })
    }
}

type Shared<P, Req, A, L, R> = Holder<P, Recalling<Chain<Req, A, L>, R>>;
type Answers<F, P, Req, A, L, R> = ResponseFuture<F, Recalling<Chain<Req, A, L>, R>, P>;

impl<S, P, Req, A, L, R> Service<Req> for Degrade<S, Recalling<Chain<Req, A, L>, R>, P>
where
    S: Service<Req, Future: Send + 'static> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Response: IntoAnswer<A> + Send + 'static,
    P: Classify<S::Response> + Carry<Req> + Discard<A, Future: Send + 'static> + Send + Sync + 'static,
    R: Recall<Req, S::Response, Answer = A>,
    Req: Send + 'static,
    A: Grade + Send + 'static,
    L: Last<Req, A>,
{
    type Response = A;
    type Error = L::Error;
    type Future = Answers<S::Future, P, Req, A, L, R>;

    /// Always ready: the service inside is asked when a call needs it.
    #[inline]
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), L::Error>> {
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        let store = &self.shared.chain.store;
        let Some(key) = store.rules.key(&request) else { return self.pass(request) };
        if self.is_in_drill() {
            let key = key.into_owned();
            return self.drill(key, &request);
        }
        let held = store.held(&key);
        if let Some(entry) = held.as_ref().and_then(|held| held.as_ref()) {
            let accepted = store.rules.accepts(&entry.record, &request) == Accepts::Yes;
            if let (true, Some((age, fresh))) = (accepted, entry.calm()) {
                return ResponseFuture::done(answer(&self.shared, entry, Served::fresh(age, fresh)));
            }
        }
        let (key, entry) = (key.into_owned(), held.and_then(Guard::into_inner));
        self.look_closer(key, request, entry)
    }
}

impl<S, P, Req, A, L, R> Degrade<S, Recalling<Chain<Req, A, L>, R>, P>
where
    S: Service<Req, Future: Send + 'static> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Response: IntoAnswer<A> + Send + 'static,
    P: Classify<S::Response> + Carry<Req> + Discard<A, Future: Send + 'static> + Send + Sync + 'static,
    R: Recall<Req, S::Response, Answer = A>,
    Req: Send + 'static,
    A: Grade + Send + 'static,
    L: Last<Req, A>,
{
    #[cold]
    fn drill(&self, key: String, request: &Req) -> Answers<S::Future, P, Req, A, L, R> {
        let old = kept_for(&self.shared, &key, request);
        let mut caller = caller(&self.shared, key, request, old);
        ResponseFuture::falling(Box::pin(async move { caller.drill().await }))
    }

    /// There is no fresh answer, or it is to be refreshed.
    #[cold]
    fn look_closer(
        &mut self,
        key: String,
        request: Req,
        entry: Option<Arc<Entry<R::Record>>>,
    ) -> Answers<S::Future, P, Req, A, L, R> {
        let store = &self.shared.chain.store;
        match store.look_at(entry, Instant::now(), |record| store.rules.accepts(record, &request)) {
            Look::Serve { entry, served, refresh } => {
                let answer = answer(&self.shared, &entry, served);
                if refresh && !entry.is_refreshing() {
                    self::refresh(&self.shared, &mut self.inner, &key, request, &entry);
                }
                ResponseFuture::done(answer)
            }
            Look::Ask(old) => self.ask_for(key, request, old),
        }
    }

    fn ask_for(
        &mut self,
        key: String,
        request: Req,
        old: Option<Arc<Entry<R::Record>>>,
    ) -> Answers<S::Future, P, Req, A, L, R> {
        let rules = &self.shared.chain.store.rules;
        let old = old.filter(|old| rules.accepts(&old.record, &request) == Accepts::Yes);
        let caller = caller(&self.shared, key, &request, old);
        ResponseFuture::falling(Box::pin(caller.ask(take(&mut self.inner), request)))
    }

    /// What has nothing to do with the store, but that it may make an answer obsolete.
    #[inline(never)]
    fn pass(&mut self, mut request: Req) -> Answers<S::Future, P, Req, A, L, R> {
        let store = &self.shared.chain.store;
        let drill = self.is_in_drill();
        if let Some(key) = store.rules.key_in_outage(&request) {
            let old = kept_for(&self.shared, &key, &request);
            let mut caller = caller(&self.shared, key.into_owned(), &request, old);
            let inner = take(&mut self.inner);
            return ResponseFuture::falling(Box::pin(async move {
                if drill { caller.drill().await } else { caller.ask_alone(inner, request).await }
            }));
        }
        let obsolete = store.rules.obsoletes(&request);
        let call = Call::of(&self.shared, |shared| shared.chain.chain.copy, &mut request);
        if drill {
            return ResponseFuture::falling(call.drill());
        }
        let made = start(&mut self.inner, request);
        let future = ResponseFuture::rare(Box::new(Rare::Waiting { made, call }));
        let Some(obsolete) = obsolete else { return future };
        let (store, shared) = (store.clone(), self.shared.clone());
        ResponseFuture::falling(Box::pin(async move {
            let answer = future.await;
            // What is fixed says nothing of the write.
            let of_service = |answer: &A| match answer.served().map(Served::source) {
                None | Some(Source::Primary) => true,
                Some(Source::Rung(name)) => shared.chain.chain.has_service(&name),
                Some(_) => false,
            };
            if let Some(done) = answer.as_ref().ok().filter(|it| of_service(it) && store.rules.done(it)) {
                store.invalidate(&obsolete);
                store.rules.obsoletes_too(&obsolete, done).iter().for_each(|key| _ = store.invalidate(key));
            }
            answer
        }))
    }
}

/// A call for all has the time of one for all, and not that of the caller who came first.
fn for_all<P: Carry<Req>, C, Req>(shared: &Holder<P, C>, request: &mut Req, bound: Duration) {
    if P::ACTIVE {
        shared.policy.carry(request, |carried| {
            carried.deadline = Some(after(Instant::now(), bound));
            carried.time_limit = carried.time_limit.map(|_| bound);
        });
    }
}

/// Which of the calls for its key a request may share.
fn which<P: Carry<Req>, C, Req>(shared: &Holder<P, C>, request: &Req, variant: Option<u64>) -> Which {
    let usual = shared.limits.bound_for_all(None);
    let usual = Which { variant, bound: usual, ..Which::default() };
    let Some(carried) = carried(&shared.policy, request) else { return usual };
    let bound = shared.limits.bound_for_all(carried.time_limit);
    let (long, backoff) = (bound > usual.bound, carried.backoff.clone());
    let (attempt_limit, max_retries) = (carried.attempt_limit, carried.max_retries);
    Which { long, bound, attempt_limit, max_retries, backoff, ..usual }
}

/// Somebody who asks for this key, and will be asked for when polled.
#[cold]
fn caller<P, Req, A, L, R>(
    shared: &Shared<P, Req, A, L, R>,
    key: String,
    request: &Req,
    old: Option<Arc<Entry<R::Record>>>,
) -> Caller<P, Req, A, L, R>
where
    P: Carry<Req>,
    R: Kept,
{
    let (kept, carried) =
        (shared.chain.chain.copy.map(|copy| copy(request)), carried(&shared.policy, request));
    let (deadline, time_limit) =
        carried.map_or((None, None), |carried| (carried.deadline, carried.time_limit));
    Caller { shared: shared.clone(), key, kept, deadline, time_limit, old, found: None }
}

/// What is kept under a key and answers this request, without a confirmation.
fn kept_for<T, P, Req, A, L, R>(
    shared: &Shared<P, Req, A, L, R>,
    key: &str,
    request: &Req,
) -> Option<Arc<Entry<R::Record>>>
where
    R: Recall<Req, T>,
{
    let store = &shared.chain.store;
    store.entry(key).filter(|entry| store.rules.accepts(&entry.record, request) == Accepts::Yes)
}

/// Refreshes a stale answer in the background, unless somebody does or too many are refreshed already.
#[cold]
fn refresh<S, P, Req, A, L, R>(
    shared: &Shared<P, Req, A, L, R>,
    inner: &mut S,
    key: &str,
    request: Req,
    old: &Arc<Entry<R::Record>>,
) where
    S: Service<Req, Future: Send + 'static, Error: Into<BoxError>> + Clone + Send + 'static,
    S::Response: IntoAnswer<A> + Send + 'static,
    P: Classify<S::Response> + Carry<Req> + Send + Sync + 'static,
    R: Recall<Req, S::Response, Answer = A>,
    Req: Send + 'static,
    A: Grade + Send + 'static,
    L: Last<Req, A>,
{
    let store = &shared.chain.store;
    if !store.can_spawn() {
        return;
    }
    let (Some(place), Some(refreshing)) = (store.refresh_place(), old.refreshing()) else { return };
    let which = which(shared, &request, store.rules.variant(&old.record, &request));
    let Joined::Leads(flight, _) = store.flights().join(key, &which) else { return };
    let old = Some(Arc::clone(old));
    let (bound, place) = (which.bound, Some(place));
    let call = ForAll { shared: shared.clone(), flight, bound, old, live: None, found: None, place };
    let inner = take(inner);
    store.spawn(async move {
        let _refreshing = refreshing;
        call.fly(inner, request).await;
    });
}

/// This instance, and a fresh clone in its place.
fn take<S: Clone>(inner: &mut S) -> S {
    let fresh = inner.clone();
    std::mem::replace(inner, fresh)
}

/// An answer from the store.
#[inline(always)]
fn answer<P, Req, A, L, R>(
    shared: &Shared<P, Req, A, L, R>,
    entry: &Entry<R::Record>,
    mut served: Served,
) -> A
where
    R: Restore<A>,
    A: Grade,
{
    let told = &shared.told;
    if served.level().is_degraded() {
        served = because_stored(told, served);
    }
    if shared.needs.reports || served.level().is_degraded() {
        told.answered(served.level(), || served.source().name());
    }
    shared.chain.store.rules.restore_graded(&entry.record, served)
}

#[cold]
fn because_stored(told: &Told, served: Served) -> Served {
    let cause = match served.freshness() {
        Some(Freshness::WhileRevalidate) => Cause::Stale,
        Some(Freshness::Confirmed | Freshness::Shared) => Cause::Upstream,
        _ => Cause::FailedBefore,
    };
    let shortfall = Shortfall::new(Arc::clone(&told.name), served.level(), cause);
    served.because(shortfall)
}
