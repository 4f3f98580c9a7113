//! Services with a store of last good answers.

mod call;
mod caller;

use std::sync::Arc;
use std::task::{Context, Poll};

use buttress_core::clock::after;
use buttress_core::{BoxError, Carry, Classify, Discard, Level, Timer};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tower_service::Service;

use crate::chain::{Chain, Last, descend};
use crate::fallen::Fallen;
use crate::future::{Call, Fall, ResponseFuture, Rungs};
use crate::grade::{Grade, IntoAnswer};
use crate::layer::Recalling;
use crate::primary::{Readiness, start};
use crate::recall::{Accepts, Kept, Recall, Restore};
use crate::rung::BoxFuture;
use crate::served::{Cause, Freshness, Served, Shortfall, Source};
use crate::service::Degrade;
use crate::shared::Holder;
use crate::store::{Entry, Joined, Look, Outcome};
use call::fly;
use caller::Caller;

impl<Req: 'static, A: 'static, L: Last<Req, A>, R: Kept> Rungs for Recalling<Chain<Req, A, L>, R> {
    type Request = Req;
    type Answer = A;
    type Error = L::Error;
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
    type Future = ResponseFuture<S::Future, Recalling<Chain<Req, A, L>, R>, P>;

    /// Always ready: the service inside is asked when a call needs it.
    #[inline]
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), L::Error>> {
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        let Recalling { chain, store } = &self.shared.chain;
        if self.shared.told.drill() == Level::Full {
            if let Some(key) = store.rules.key(&request) {
                let accepts = |record: &R::Record| store.rules.accepts(record, &request);
                match store.look(&key, Instant::now(), accepts) {
                    Look::Serve { entry, served, refresh } => {
                        let answer = answer(&self.shared, &entry, served);
                        if refresh && !store.flights().has(&key) {
                            let key = key.into_owned();
                            self::refresh(&self.shared, &mut self.inner, &key, request, &entry);
                        }
                        return ResponseFuture::done(answer);
                    }
                    Look::Ask(old) => {
                        let key = key.into_owned();
                        return ResponseFuture::falling(ask(
                            &self.shared,
                            &mut self.inner,
                            key,
                            request,
                            old,
                        ));
                    }
                }
            }
        }
        let obsolete = store.rules.obsoletes(&request);
        let kept = chain.copy.map(|copy| copy(&request));
        let call = Call {
            shared: self.shared.clone(),
            request: kept,
            deadline: deadline(&self.shared, &request),
            timer: Timer::default(),
        };
        if self.shared.told.drill() > Level::Full {
            return ResponseFuture::falling(call.drill());
        }
        let primary = start(&mut self.inner, &mut Readiness::Unasked, request);
        let future = ResponseFuture::calling(primary, call);
        let Some(obsolete) = obsolete else { return future };
        let store = store.clone();
        ResponseFuture::falling(Box::pin(async move {
            let answer = future.await;
            // What a rung answers says nothing of the write.
            let of_service =
                |answer: &A| answer.served().is_none_or(|served| served.source() == Source::Primary);
            if answer.as_ref().is_ok_and(|answer| of_service(answer) && store.rules.done(answer)) {
                store.invalidate(&obsolete);
            }
            answer
        }))
    }
}

fn deadline<P: Carry<Req>, C, Req>(shared: &Holder<P, C>, request: &Req) -> Option<Instant> {
    if P::ACTIVE { shared.policy.carried(request).and_then(|carried| carried.deadline) } else { None }
}

/// A call for all has the time of one for all, and not that of the caller who came first.
fn for_all<P: Carry<Req>, C, Req>(shared: &Holder<P, C>, request: &mut Req) {
    if deadline(shared, request).is_some() {
        let end = after(Instant::now(), shared.limits.bound());
        shared.policy.carry(request, |carried| carried.deadline = Some(end));
    }
}

/// Makes one call for all who ask for the same, and waits for it as they do.
#[cold]
fn ask<S, P, Req, A, L, R>(
    shared: &Shared<P, Req, A, L, R>,
    inner: &mut S,
    key: String,
    mut request: Req,
    old: Option<Arc<Entry<R::Record>>>,
) -> BoxFuture<Result<A, L::Error>>
where
    S: Service<Req, Future: Send + 'static, Error: Into<BoxError>> + Clone + Send + 'static,
    S::Response: IntoAnswer<A> + Send + 'static,
    P: Classify<S::Response> + Carry<Req> + Discard<A, Future: Send + 'static> + Send + Sync + 'static,
    R: Recall<Req, S::Response, Answer = A>,
    Req: Send + 'static,
    A: Grade + Send + 'static,
    L: Last<Req, A>,
{
    let Recalling { chain, store } = &shared.chain;
    let (kept, deadline) = (chain.copy.map(|copy| copy(&request)), deadline(shared, &request));
    let unconfirmed =
        |old: &Arc<Entry<R::Record>>| store.rules.accepts(&old.record, &request) == Accepts::Yes;
    let usable = old.clone().filter(unconfirmed);
    let caller = Caller { shared: shared.clone(), key, kept, deadline, old: usable };
    let flight = match store.flights().join(&caller.key) {
        Joined::Leads(flight) => flight,
        Joined::Waits(told) => return Box::pin(caller.wait(told, inner.clone(), request)),
    };
    // Another one may have landed between the look and the join.
    if let Look::Serve { entry, served, .. } =
        store.look(&caller.key, Instant::now(), |record| store.rules.accepts(record, &request))
    {
        let fresh = served.freshness() == Some(Freshness::Fresh);
        flight.land(if fresh { Outcome::Kept(Arc::clone(&entry), Level::Full) } else { Outcome::Alone });
        return Box::pin(std::future::ready(Ok(answer(shared, &entry, served))));
    }
    let asked = store.rules.asked(&request);
    for_all(shared, &mut request);
    if let Some(old) = &old {
        store.rules.revalidate(&mut request, &old.record);
    }
    let primary = start(inner, &mut Readiness::Unasked, request);
    let (live, answered) = oneshot::channel();
    let work = fly(shared.clone(), flight, asked, old, primary, Some(live));
    match store.spawn(work) {
        Ok(()) => Box::pin(caller.lead(answered)),
        // Without a runtime, or after a shutdown, it goes as far as its caller does.
        Err(work) => Box::pin(async move {
            let (mut work, mut lead) = (Box::pin(work), Box::pin(caller.lead(answered)));
            let mut over = false;
            std::future::poll_fn(|cx| {
                over = over || work.as_mut().poll(cx).is_ready();
                lead.as_mut().poll(cx)
            })
            .await
        }),
    }
}

/// Refreshes a stale answer in the background, unless somebody does or too many are refreshed already.
#[cold]
fn refresh<S, P, Req, A, L, R>(
    shared: &Shared<P, Req, A, L, R>,
    inner: &mut S,
    key: &str,
    mut request: Req,
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
    let (Some(place), Joined::Leads(flight)) = (store.refresh_place(), store.flights().join(key)) else {
        return;
    };
    let asked = store.rules.asked(&request);
    for_all(shared, &mut request);
    store.rules.revalidate(&mut request, &old.record);
    let primary = start(inner, &mut Readiness::Unasked, request);
    let work = fly(shared.clone(), flight, asked, Some(Arc::clone(old)), primary, None);
    // Without a runtime nothing is refreshed, and the next call that has to wait asks.
    let _ = store.spawn(async move {
        let _place = place;
        work.await;
    });
}

/// An answer from the store.
fn answer<P, Req, A, L, R>(
    shared: &Shared<P, Req, A, L, R>,
    entry: &Entry<R::Record>,
    mut served: Served,
) -> A
where
    R: Restore<A>,
    A: Grade,
{
    let mut answer = shared.chain.store.rules.restore(&entry.record);
    let told = &shared.told;
    if served.level.is_degraded() {
        let cause = match served.freshness() {
            Some(Freshness::WhileRevalidate) => Cause::Stale,
            Some(Freshness::Confirmed | Freshness::Shared) => Cause::Upstream,
            _ => Cause::FailedBefore,
        };
        let shortfall = Shortfall::new(Arc::clone(&told.name), served.level, cause);
        served = served.because(shortfall);
    }
    told.answered(served.level, || served.source().name());
    answer.grade(served);
    answer
}
