use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use buttress_core::{BoxError, Carry, Classify, Event, Kind, Level, Verdict, within};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tower_service::Service;

use super::{Shared, for_all};
use crate::error::{SharedFailure, TooLarge};
use crate::fallen::{cause_of, elapsed, is_failure};
use crate::grade::IntoAnswer;
use crate::primary::{Ended, run, start};
use crate::recall::{Accepts, Keep, Kept, Recall, Renewal};
use crate::served::{Cause, Freshness};
use crate::shared::Holder;
use crate::store::{Entry, Flight, LastGood, Lifetime, Outcome, Place};

/// For so long others wait for a body that somebody else reads.
const READING: Duration = Duration::from_secs(1);

/// What the one who made the call hears of it.
pub(super) enum Live<A, V> {
    /// The response itself; whether it is a failure.
    Answer(A, Result<(), Cause>),
    /// What was kept is still good; how good.
    Renewed(Arc<Entry<V>>, Level),
    /// Another process has kept it.
    Stored(Arc<Entry<V>>, Freshness),
    Failed(Cause, BoxError),
}

/// Where a call leaves what it finds for whoever made it.
pub(super) type Found<V> = Arc<OnceLock<Arc<Entry<V>>>>;

/// A call that is made for all who ask for the same, and for the store.
pub(super) struct ForAll<P: 'static, Req: 'static, A: 'static, L: 'static, R: Kept> {
    pub(super) shared: Shared<P, Req, A, L, R>,
    pub(super) flight: Flight<R::Record>,
    /// How long it may take.
    pub(super) bound: Duration,
    /// What there was before.
    pub(super) old: Option<Arc<Entry<R::Record>>>,
    /// Tells whoever made it; nobody, if it is a refresh.
    pub(super) live: Option<oneshot::Sender<Live<A, R::Record>>>,
    /// What is found of it in the store behind the memory, for whoever made it.
    pub(super) found: Option<Found<R::Record>>,
    /// Among the refreshes; or, once nobody waits for it, among those.
    pub(super) place: Option<Place>,
}

/// A panic is a failure of the service.
struct Panics<V>(Option<Arc<Entry<V>>>);

impl<V> Drop for Panics<V> {
    fn drop(&mut self) {
        if let Some(old) = self.0.as_ref().filter(|_| std::thread::panicking()) {
            old.fails(Instant::now());
        }
    }
}

impl<P, Req, A, L, R: Kept> ForAll<P, Req, A, L, R> {
    /// The call itself. It goes on when those who wait for it have gone, if it gets a place then; dropped or panicking, it lets them
    /// know.
    pub(super) async fn fly<S>(mut self, mut inner: S, mut request: Req)
    where
        S: Service<Req, Future: Send + 'static, Error: Into<BoxError>> + Clone + Send + 'static,
        S::Response: IntoAnswer<A>,
        P: Classify<S::Response> + Carry<Req>,
        R: Recall<Req, S::Response, Answer = A>,
        Req: Send + 'static,
    {
        self.flight.begins();
        let (shared, key) = (self.shared.clone(), Arc::clone(self.flight.key()));
        let recalled = shared.chain.store.recall(&key, self.old.as_deref(), &shared.told).await;
        if let Some((record, lifetime)) = recalled {
            let accepts = |record: &R::Record| shared.chain.store.rules.accepts(record, &request);
            if accepts(&record) != Accepts::No {
                let Some(call) = self.recalls(record, lifetime, accepts) else { return };
                self = call;
            }
        }
        let _panics = Panics(self.old.clone());
        let rules = &self.shared.chain.store.rules;
        let asked = rules.asked(&request);
        for_all(&self.shared, &mut request, self.bound);
        if let Some(old) = &self.old {
            rules.revalidate(&mut request, &old.record);
        }
        let made = start(&mut inner, request);
        drop(inner);
        let ended = within(self.bound, self.while_it_matters(run(made))).await;
        let (cause, error) = match ended {
            Some(None) => return,
            Some(Some(Ended::Outcome(Ok(response)))) => return self.land(asked, response).await,
            Some(Some(Ended::NotReady(error))) => (Cause::NotReady, error),
            Some(Some(Ended::Outcome(Err(error)))) => {
                (cause_of(self.shared.policy.classify(Err(&*error)), Some(&error)), error)
            }
            None => elapsed(&self.shared.told.name, self.bound),
        };
        self.fail(&asked, cause, error);
    }

    /// Goes by what the store behind the memory has; the call is still to be made, unless that is fresh.
    fn recalls(
        mut self,
        record: R::Record,
        lifetime: Lifetime,
        accepts: impl Fn(&R::Record) -> Accepts,
    ) -> Option<Self> {
        let adopted = self.shared.chain.store.adopt(&self.flight, record, lifetime);
        let Some(entry) = adopted.filter(|entry| accepts(&entry.record) != Accepts::No) else {
            return Some(self);
        };
        let confirmed = accepts(&entry.record) == Accepts::Yes;
        let serves = entry.serves(entry.age(Instant::now())).filter(|_| confirmed);
        self.old = Some(Arc::clone(&entry));
        if let Some(found) = self.found.as_ref().filter(|_| confirmed) {
            let _ = found.set(Arc::clone(&entry));
        }
        match serves {
            Some(Freshness::Fresh) => {
                let background = self.tell(Live::Stored(Arc::clone(&entry), Freshness::Fresh));
                let shared = self.shared.clone();
                self.flight.land(Outcome::Found(entry));
                refreshed(&shared, background, true);
                None
            }
            // They get it now, and it is refreshed.
            Some(stale) => {
                self.tell(Live::Stored(Arc::clone(&entry), stale));
                self.flight.release(Outcome::Found(entry));
                Some(self)
            }
            None => Some(self),
        }
    }

    /// What a call gives; `None` if nobody waits for it any more and there is no place for it.
    async fn while_it_matters<T>(&mut self, call: impl Future<Output = T>) -> Option<T> {
        let Self { shared, flight, place, .. } = self;
        let flight = &*flight;
        let (mut call, mut left) = (pin!(call), pin!(flight.is_left()));
        std::future::poll_fn(|cx| {
            while place.is_none() && left.as_mut().poll(cx).is_ready() {
                *place = if flight.is_alone() { None } else { shared.chain.store.abandoned_place() };
                if place.is_none() && flight.gives_up() {
                    return Poll::Ready(None);
                }
                // Somebody has come meanwhile.
                left.set(flight.is_left());
            }
            call.as_mut().poll(cx).map(Some)
        })
        .await
    }

    /// What another call has brought since this one began, and may be served without asking.
    fn brought_meanwhile<T>(&self, asked: &R::Asked) -> Option<(Arc<Entry<R::Record>>, Freshness)>
    where
        R: Recall<Req, T, Answer = A>,
    {
        let store = &self.shared.chain.store;
        let entry = store.entry(self.flight.key())?;
        if self.old.as_ref().is_some_and(|old| Arc::ptr_eq(old, &entry)) {
            return None;
        }
        let serves = entry.serves(entry.age(Instant::now()))?;
        (store.rules.answers(&entry.record, asked) == Accepts::Yes).then_some((entry, serves))
    }

    fn fail<T>(mut self, asked: &R::Asked, cause: Cause, error: BoxError)
    where
        R: Recall<Req, T, Answer = A>,
    {
        // What is the fault of one request says nothing of the service, nor of the others' requests.
        let answered = cause.is_answer();
        if let Some((entry, freshness)) = self.brought_meanwhile(asked).filter(|_| !answered) {
            let background = self.tell(Live::Stored(Arc::clone(&entry), freshness));
            let shared = self.shared.clone();
            self.flight.land(Outcome::Found(entry));
            return refreshed(&shared, background, false);
        }
        if let Some(old) = self.old.as_ref().filter(|_| !answered) {
            old.fails(Instant::now());
        }
        let others =
            self.flight.close() - usize::from(self.live.as_ref().is_some_and(|live| !live.is_closed()));
        // Whoever asked alone gets the error as it is.
        let (error, outcome) = if others == 0 || answered {
            (error, Outcome::Again)
        } else {
            let error = Arc::new(error);
            (SharedFailure(Arc::clone(&error)).into(), Outcome::Failed(cause, error))
        };
        let background = self.tell(Live::Failed(cause, error));
        self.flight.land(outcome);
        refreshed(&self.shared, background, false);
    }

    /// Tells whoever made the call, who may have gone; whether it was made in the background.
    fn tell(&mut self, live: Live<A, R::Record>) -> bool {
        let background = self.live.is_none();
        let _ = self.live.take().map(|told| told.send(live));
        background
    }

    /// What is done with the response.
    async fn land<T>(mut self, asked: R::Asked, mut response: T)
    where
        T: IntoAnswer<A>,
        P: Classify<T>,
        R: Recall<Req, T, Answer = A>,
    {
        let shared = self.shared.clone();
        let store = &shared.chain.store;
        if shared.needs.foreign {
            response.disbelieve();
        }
        let verdict = shared.policy.classify(Ok(&response));
        let grade = if is_failure(&verdict) {
            Err(cause_of(verdict, None))
        } else {
            Ok(store.rules.level(&response).min(Level::Minimal))
        };
        let renewed = grade.ok().and_then(|level| Some((level, self.renewed(&asked, &response, level)?)));
        if let Some((level, (entry, outcome))) = renewed {
            let background = self.tell(Live::Renewed(entry, level));
            self.flight.land(outcome);
            return refreshed(&shared, background, level == Level::Full);
        }
        let good = verdict == Verdict::Success && grade == Ok(Level::Full);
        let keep = store.rules.keep(&asked, &response, good, store.lifetime());
        if let Some(old) = self.old.as_ref().filter(|_| grade.is_err()) {
            old.fails(Instant::now());
        }
        if matches!(keep, Keep::Forget | Keep::Withdraw) {
            store.forget(self.flight.key());
        }
        if matches!(keep, Keep::Alone | Keep::Withdraw) {
            let background = self.tell(Live::Answer(response.into_answer(), grade.map(drop)));
            let outcome = alone(store, &self.flight, grade);
            self.flight.land(outcome);
            return refreshed(&shared, background, false);
        }
        let (answer, recording) = store.rules.capture(asked, response);
        let (background, mut kept) = (self.tell(Live::Answer(answer, grade.map(drop))), false);
        let outcome = match (self.recorded(recording).await, keep) {
            (Some(Ok(record)), Keep::Store(lifetime)) if good => {
                kept = true;
                let entry = store.insert(&self.flight, record, lifetime);
                self.for_others(entry, Level::Full)
            }
            (Some(Ok(record)), _) => Outcome::Shared(Arc::new(record), grade),
            (Some(Err(error)), keep) => self.unrecorded(error, keep, grade),
            // It takes too long, or nobody reads it.
            (None, _) => Outcome::Again,
        };
        refreshed(&shared, background, kept);
        if self.flight.released().is_none() {
            self.flight.release(outcome);
        }
    }

    /// What others hear of what is kept now: it may be that each of them has to ask.
    fn for_others(&self, entry: Arc<Entry<R::Record>>, level: Level) -> Outcome<R::Record> {
        let is_for_all = self.shared.chain.store.rules.is_for_all(&entry.lifetime);
        if is_for_all { Outcome::Kept(entry, level) } else { Outcome::Alone(None) }
    }

    /// The body was too large, or has broken off.
    fn unrecorded(&self, error: BoxError, keep: Keep, grade: Result<Level, Cause>) -> Outcome<R::Record> {
        let store = &self.shared.chain.store;
        if !error.is::<TooLarge>() {
            self.old.iter().for_each(|old| old.fails(Instant::now()));
            return Outcome::Failed(Cause::Failed(Kind::Transient), Arc::new(error));
        }
        if matches!(keep, Keep::Store(_)) {
            store.forget(self.flight.key());
        }
        alone(store, &self.flight, grade)
    }

    /// What was kept and is still good, and what the others hear, if that is what the response says.
    #[allow(clippy::type_complexity, reason = "an answer for the one, and an outcome for the others")]
    fn renewed<T>(
        &self,
        asked: &R::Asked,
        response: &T,
        level: Level,
    ) -> Option<(Arc<Entry<R::Record>>, Outcome<R::Record>)>
    where
        R: Recall<Req, T, Answer = A>,
    {
        let (store, old) = (&self.shared.chain.store, self.old.as_ref()?);
        let kept = |entry| (Arc::clone(&entry), self.for_others(entry, level));
        match store.rules.renewed(asked, &old.record, response, store.lifetime()) {
            Renewal::Not => None,
            // What is degraded itself renews nothing.
            _ if level.is_degraded() => Some(kept(Arc::clone(old))),
            Renewal::Kept(record, lifetime) => Some(kept(store.insert(&self.flight, record, lifetime))),
            Renewal::Once => {
                store.forget(self.flight.key());
                Some((Arc::clone(old), Outcome::Again))
            }
        }
    }

    /// Waits for the body, which the one who made the call reads. The others do not wait for a slow reader; and once he has gone,
    /// too, the rest is read for the store only if there is a place.
    async fn recorded<T>(&mut self, recording: R::Recording) -> Option<Result<R::Record, BoxError>>
    where
        R: Recall<Req, T, Answer = A>,
    {
        let Self { shared, flight, place, .. } = self;
        let (bound, mut recording) = (self.bound, pin!(recording));
        let mut poll = |cx: &mut Context<'_>| {
            let polled = recording.as_mut().poll(cx).map(Some);
            let left = || <R as Recall<Req, T>>::is_left(&recording) && flight.waits() == 0;
            if polled.is_pending() && place.is_none() && left() {
                *place = if flight.is_alone() { None } else { shared.chain.store.abandoned_place() };
                if place.is_none() {
                    return Poll::Ready(None);
                }
            }
            polled
        };
        if let Some(recorded) = within(READING.min(bound / 2), std::future::poll_fn(&mut poll)).await {
            return recorded;
        }
        flight.release(Outcome::Again);
        within(bound, std::future::poll_fn(poll)).await.flatten()
    }
}

/// Nobody waits any more for the answers of this key, unless it is a failure: that may be another's tomorrow.
fn alone<R: Kept>(
    store: &LastGood<R>,
    flight: &Flight<R::Record>,
    grade: Result<Level, Cause>,
) -> Outcome<R::Record> {
    if grade.is_ok() {
        store.flights().set_alone(flight.key(), true);
    }
    Outcome::Alone(grade.err())
}

fn refreshed<P, C>(shared: &Holder<P, C>, background: bool, success: bool) {
    if background {
        shared.told.emit(|| Event::Refreshed { success });
    }
}
