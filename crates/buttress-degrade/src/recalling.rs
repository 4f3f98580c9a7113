//! Services with a store of last good answers.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use buttress_core::{BoxError, Carry, Classify, Discard, Elapsed, Event, Level, Timer, Verdict, within};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tower_service::Service;

use crate::chain::{Chain, Last, LastGood as StoredAnswer, descend};
use crate::error::{SharedFailure, Vanished};
use crate::fallen::{Failure, Fallen, cause_of};
use crate::future::{Call, Fall, ResponseFuture, Rungs};
use crate::grade::{Grade, IntoAnswer};
use crate::layer::Recalling;
use crate::primary::{Ended, Primary, Readiness, start};
use crate::recall::{Accepts, Keep, Kept, Recall, Restore};
use crate::rung::BoxFuture;
use crate::served::{Cause, Freshness, Served, Shortfall, Source};
use crate::service::Degrade;
use crate::shared::Holder;
use crate::store::{Entry, Flight, Joined, Look, Outcome};

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
            if answer.as_ref().is_ok_and(|answer| answer.level() == Level::Full) {
                store.invalidate(&obsolete);
            }
            answer
        }))
    }
}

fn deadline<P: Carry<Req>, C, Req>(shared: &Holder<P, C>, request: &Req) -> Option<Instant> {
    if P::ACTIVE { shared.policy.carried(request).and_then(|carried| carried.deadline) } else { None }
}

/// Somebody who waits for an answer that the store does not have, or not yet.
struct Caller<P: 'static, Req: 'static, A: 'static, L: 'static, R: Kept> {
    shared: Shared<P, Req, A, L, R>,
    key: String,
    /// The request, where the chain keeps it.
    kept: Option<Req>,
    deadline: Option<Instant>,
    /// What may be served if the service fails.
    old: Option<Arc<Entry<R::Record>>>,
}

/// What the one who made the call hears of it.
enum Live<A, V> {
    /// The response itself; whether it is a failure.
    Answer(A, Result<(), Cause>),
    /// What was kept is still good.
    Renewed(Arc<Entry<V>>),
    Failed(Cause, BoxError),
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
        let unconfirmed = served.freshness() == Some(Freshness::IfError);
        flight.land(if unconfirmed { Outcome::Alone } else { Outcome::Kept(Arc::clone(&entry)) });
        return Box::pin(std::future::ready(Ok(answer(shared, &entry, served))));
    }
    let asked = store.rules.asked(&request);
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
    P: Classify<S::Response> + Send + Sync + 'static,
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
        let stale = served.freshness() == Some(Freshness::WhileRevalidate);
        let cause = if stale { Cause::Stale } else { Cause::FailedBefore };
        let shortfall = Shortfall::new(Arc::clone(&told.name), served.level, cause);
        served = served.because(shortfall);
    }
    told.answered(served.level, || served.source().name());
    answer.grade(served);
    answer
}

/// The call itself. It goes on when those who wait for it have gone; dropped or panicking, it lets them know.
async fn fly<F, T, E, P, Req, A, L, R>(
    shared: Shared<P, Req, A, L, R>,
    flight: Flight<Outcome<R::Record>>,
    asked: R::Asked,
    old: Option<Arc<Entry<R::Record>>>,
    primary: Primary<F>,
    live: Option<oneshot::Sender<Live<A, R::Record>>>,
) where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
    T: IntoAnswer<A>,
    P: Classify<T>,
    R: Recall<Req, T, Answer = A>,
{
    let in_background = live.is_none();
    let ended = within(shared.limits.bound(), run(primary)).await;
    let failed = match ended {
        Some(Ended::Outcome(Ok(response))) => {
            return land(&shared, flight, asked, old, response, live).await;
        }
        Some(Ended::NotReady(error)) => (Cause::NotReady, error),
        Some(Ended::Outcome(Err(error))) => {
            (cause_of(shared.policy.classify(Err(&*error)), Some(&error)), error)
        }
        None => {
            let elapsed = Elapsed::new(Arc::clone(&shared.told.name), shared.limits.bound());
            (Cause::Elapsed, elapsed.into())
        }
    };
    if let Some(old) = &old {
        old.fails(Instant::now());
    }
    let (cause, error) = failed;
    // Whoever asked alone gets the error as it is.
    let (error, outcome) = if flight.close() == 0 {
        (error, Outcome::Alone)
    } else {
        let error = Arc::new(error);
        (SharedFailure(Arc::clone(&error)).into(), Outcome::Failed(cause, error))
    };
    if let Some(live) = live {
        // It may have gone.
        let _ = live.send(Live::Failed(cause, error));
    }
    flight.land(outcome);
    if in_background {
        shared.told.emit(|| Event::Refreshed { success: false });
    }
}

/// What is done with the response of a call.
async fn land<T, P, Req, A, L, R>(
    shared: &Shared<P, Req, A, L, R>,
    flight: Flight<Outcome<R::Record>>,
    asked: R::Asked,
    old: Option<Arc<Entry<R::Record>>>,
    response: T,
    live: Option<oneshot::Sender<Live<A, R::Record>>>,
) where
    T: IntoAnswer<A>,
    P: Classify<T>,
    R: Recall<Req, T, Answer = A>,
{
    let store = &shared.chain.store;
    let (rules, key) = (&store.rules, Arc::clone(flight.key()));
    let in_background = live.is_none();
    let tell = |answer| live.map(|live| live.send(answer));
    let refreshed = |success| {
        if in_background {
            shared.told.emit(|| Event::Refreshed { success });
        }
    };
    let verdict = shared.policy.classify(Ok(&response));
    let (level, lifetime) = (rules.level(&response), store.lifetime());
    if !verdict.is_failure() {
        let renew = |old: &Arc<Entry<_>>| rules.renewed(&asked, &old.record, &response, lifetime);
        if let Some((record, lifetime)) = old.as_ref().and_then(renew) {
            let entry = store.insert(&key, record, lifetime);
            tell(Live::Renewed(Arc::clone(&entry)));
            flight.land(Outcome::Kept(entry));
            return refreshed(true);
        }
    }
    let good = verdict == Verdict::Success && level == Level::Full;
    let keep = rules.keep(&asked, &response, good, lifetime);
    let grade = if verdict.is_failure() { Err(cause_of(verdict, None)) } else { Ok(level) };
    if let (Err(_), Some(old)) = (grade, &old) {
        old.fails(Instant::now());
    }
    if keep == Keep::Forget {
        store.invalidate(&key);
    }
    if keep == Keep::Alone {
        tell(Live::Answer(response.into_answer(), grade.map(drop)));
        flight.land(Outcome::Alone);
        return refreshed(grade.is_ok());
    }
    let (answer, recording) = rules.capture(asked, response);
    tell(Live::Answer(answer, grade.map(drop)));
    let outcome = match (within(shared.limits.bound(), recording).await, keep) {
        (Some(Ok(record)), Keep::Store(lifetime)) if good => {
            Outcome::Kept(store.insert(&key, record, lifetime))
        }
        (Some(Ok(record)), _) => Outcome::Shared(Arc::new(record), grade),
        // It did not arrive as a whole, or is too large.
        _ => Outcome::Alone,
    };
    refreshed(matches!(outcome, Outcome::Kept(_)));
    flight.land(outcome);
}

async fn run<F, T, E>(primary: Primary<F>) -> Ended<T>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    let mut primary = pin!(primary);
    std::future::poll_fn(|cx| primary.as_mut().poll(cx)).await
}

impl<P, Req, A, L, R> Caller<P, Req, A, L, R>
where
    Req: Send + 'static,
    A: Grade + Send + 'static,
    L: Last<Req, A>,
    P: Discard<A, Future: Send + 'static>,
    R: Restore<A>,
{
    /// How long it may wait from now on.
    fn limit(&self) -> Duration {
        let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        left.map_or(self.shared.limits.bound(), |left| left.min(self.shared.limits.bound()))
    }

    /// Waits for the call that was made for it and others.
    async fn lead(self, live: oneshot::Receiver<Live<A, R::Record>>) -> Result<A, L::Error> {
        match within(self.limit(), live).await {
            Some(Ok(Live::Answer(answer, Ok(())))) => Ok(self.passed(answer)),
            Some(Ok(Live::Answer(answer, Err(cause)))) => self.fall(cause, Failure::Response(answer)).await,
            Some(Ok(Live::Renewed(entry))) => Ok(self.kept(&entry, Freshness::Confirmed)),
            Some(Ok(Live::Failed(cause, error))) => self.fall(cause, Failure::Error(error)).await,
            Some(Err(_)) => self.fall(Cause::Panicked, Failure::Error(Vanished.into())).await,
            None => self.elapsed().await,
        }
    }

    /// Waits for the call that another one makes; makes one of its own if that was not for others.
    async fn wait<S, E>(
        self,
        mut told: watch::Receiver<Option<Outcome<R::Record>>>,
        inner: S,
        request: Req,
    ) -> Result<A, L::Error>
    where
        S: Service<Req, Error = E, Future: Send> + Clone + Send + 'static,
        S::Response: IntoAnswer<A> + Send,
        E: Into<BoxError>,
        P: Classify<S::Response>,
        R: Recall<Req, S::Response, Answer = A>,
    {
        let landed = async { told.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone()) };
        let Some(outcome) = within(self.limit(), landed).await else { return self.elapsed().await };
        let rules = &self.shared.chain.store.rules;
        let fits = match &outcome {
            Some(Outcome::Kept(entry)) => rules.accepts(&entry.record, &request) != Accepts::No,
            Some(Outcome::Shared(record, _)) => rules.accepts(record, &request) != Accepts::No,
            _ => false,
        };
        match outcome {
            Some(Outcome::Kept(entry)) if fits => Ok(self.kept(&entry, Freshness::Shared)),
            Some(Outcome::Shared(record, grade)) if fits => {
                let mut answer = rules.restore(&record);
                match grade {
                    Ok(level) => {
                        if level > answer.level() {
                            let name = Arc::clone(&self.shared.told.name);
                            let shortfall = Shortfall::new(name, level, Cause::Upstream);
                            answer.grade(Served::new(level, Source::Primary).because(shortfall));
                        }
                        Ok(self.passed(answer))
                    }
                    Err(cause) => self.fall(cause, Failure::Response(answer)).await,
                }
            }
            Some(Outcome::Failed(cause, error)) => {
                self.fall(cause, Failure::Error(SharedFailure(error).into())).await
            }
            Some(Outcome::Kept(_) | Outcome::Shared(..) | Outcome::Alone) => self.alone(inner, request).await,
            None => self.fall(Cause::Panicked, Failure::Error(Vanished.into())).await,
        }
    }

    /// Calls the service for itself; nothing is kept of it.
    async fn alone<S>(self, mut inner: S, request: Req) -> Result<A, L::Error>
    where
        S: Service<Req, Error: Into<BoxError>, Future: Send> + Clone + Send + 'static,
        S::Response: IntoAnswer<A> + Send,
        P: Classify<S::Response>,
    {
        let primary = start(&mut inner, &mut Readiness::Unasked, request);
        match within(self.limit(), run(primary)).await {
            Some(Ended::Outcome(outcome)) => {
                let verdict = self.shared.policy.classify(outcome.as_ref().map_err(|error| &**error));
                match outcome {
                    Ok(response) if !verdict.is_failure() => Ok(self.passed(response.into_answer())),
                    Ok(response) => {
                        let response = Failure::Response(response.into_answer());
                        self.fall(cause_of(verdict, None), response).await
                    }
                    Err(error) => self.fall(cause_of(verdict, Some(&error)), Failure::Error(error)).await,
                }
            }
            Some(Ended::NotReady(error)) => self.fall(Cause::NotReady, Failure::Error(error)).await,
            None => self.elapsed().await,
        }
    }

    /// The service's own answer.
    fn passed(&self, answer: A) -> A {
        self.shared.told.answered(answer.level(), || Source::Primary.name());
        answer
    }

    /// An answer that is in the store because it was asked for just now.
    fn kept(&self, entry: &Entry<R::Record>, freshness: Freshness) -> A {
        let served = Served::new(Level::Full, Source::LastGood { freshness });
        let served = served.aged(entry.age(Instant::now()), entry.lifetime.fresh);
        answer(&self.shared, entry, served)
    }

    async fn elapsed(self) -> Result<A, L::Error> {
        let elapsed = Elapsed::new(Arc::clone(&self.shared.told.name), self.limit());
        self.fall(Cause::Elapsed, Failure::Error(elapsed.into())).await
    }

    async fn fall(self, cause: Cause, failure: Failure<A>) -> Result<A, L::Error> {
        let Self { shared, key, kept: request, deadline, old } = self;
        let fallen = Fallen { request, failure, cause, deadline };
        let stored: Option<StoredAnswer<A>> = old.map(|old| {
            let store = shared.chain.store.clone();
            let level = store.if_error_level();
            let stored = move || {
                let served = store.after_failure(&key, &old)?;
                Some((store.rules.restore(&old.record), served))
            };
            (level, Box::new(stored) as Box<dyn FnOnce() -> Option<(A, Served)> + Send>)
        });
        let discard = |response| shared.discard(response);
        descend(&shared.chain.chain, &shared.told, fallen, stored, discard).await
    }
}
