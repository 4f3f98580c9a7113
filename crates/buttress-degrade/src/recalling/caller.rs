use std::sync::Arc;
use std::time::Duration;

use buttress_core::clock::after;
use buttress_core::{BoxError, Carry, Classify, Discard, Level, Verdict, within};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tower_service::Service;

use super::call::{ForAll, Found, Live};
use super::{Shared, answer, kept_for, which};
use crate::chain::{DRILL, Last, LastGood as StoredAnswer, descend};
use crate::error::{NotAsked, SharedFailure, Vanished};
use crate::fallen::{Failure, Fallen, cause_of, elapsed, is_failure};
use crate::falling::travels;
use crate::grade::{Grade, IntoAnswer, no_failure};
use crate::layer::Recalling;
use crate::primary::{Ended, run, start};
use crate::recall::{Accepts, Keep, Kept, Recall, Restore};
use crate::served::{Cause, Freshness, Served, Shortfall, Source};
use crate::store::{Entry, Joined, Look, Outcome, Waits};

/// Somebody who waits for an answer that the store does not have, or not yet.
pub(super) struct Caller<P: 'static, Req: 'static, A: 'static, L: 'static, R: Kept> {
    pub(super) shared: Shared<P, Req, A, L, R>,
    pub(super) key: String,
    /// The request, where the chain keeps it.
    pub(super) kept: Option<Req>,
    pub(super) deadline: Option<Instant>,
    /// How long it may take, if the request says so.
    pub(super) time_limit: Option<Duration>,
    /// What may be served if the service fails.
    pub(super) old: Option<Arc<Entry<R::Record>>>,
    /// What its call has found since then.
    pub(super) found: Option<Found<R::Record>>,
}

/// The time that a caller has in all.
#[derive(Clone, Copy)]
struct Limit {
    time: Duration,
    end: Instant,
}

impl Limit {
    fn left(self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }
}

/// What becomes of one who has waited for another's call.
enum Share {
    Yes,
    /// One of those for whom it was not makes the call: of this variant, if that made the difference.
    AskAgain(Option<u64>),
    /// Each of them makes one for itself.
    AskAlone,
}

impl<P, Req, A, L, R> Caller<P, Req, A, L, R>
where
    Req: Send + 'static,
    A: Grade + Send + 'static,
    L: Last<Req, A>,
    P: Discard<A, Future: Send + 'static> + Send + Sync + 'static,
    R: Restore<A>,
{
    fn limit(&self) -> Limit {
        let (now, bound) = (Instant::now(), self.shared.limits.bound(self.time_limit));
        let left = self.deadline.map(|deadline| deadline.saturating_duration_since(now));
        let time = left.map_or(bound, |left| left.min(bound));
        Limit { time, end: after(now, time) }
    }

    /// Makes one call for all who ask for the same, or waits for it as they do.
    pub(super) async fn ask<S>(mut self, inner: S, request: Req) -> Result<A, L::Error>
    where
        S: Service<Req, Future: Send + 'static, Error: Into<BoxError>> + Clone + Send + 'static,
        S::Response: IntoAnswer<A> + Send + 'static,
        P: Classify<S::Response> + Carry<Req>,
        R: Recall<Req, S::Response, Answer = A>,
    {
        let (limit, shared) = (self.limit(), self.shared.clone());
        let store = &shared.chain.store;
        let known = store.entry(&self.key);
        let variant = known.as_ref().and_then(|known| store.rules.variant(&known.record, &request));
        let mut which = which(&shared, &request, variant);
        which.alone = known.is_some_and(|known| !store.rules.is_for_all(&known.lifetime));
        // Whoever got nothing of another's call waits for one more, and for no third.
        for _ in 0..2 {
            if !store.can_spawn() {
                break;
            }
            let told = match store.flights().join(&self.key, &which) {
                Joined::Alone => break,
                Joined::Waits(told) => told,
                Joined::Leads(flight, _waits) => {
                    let accepts = |record: &R::Record| store.rules.accepts(record, &request);
                    // Another one may have landed between the look and the join.
                    let old = match store.look(&self.key, Instant::now(), accepts) {
                        Look::Serve { entry, served, .. } => {
                            // Nor do those who have joined since then.
                            if entry.serves(entry.age(Instant::now())).is_some() {
                                flight.land(Outcome::Found(Arc::clone(&entry)));
                            }
                            return Ok(answer(&shared, &entry, served));
                        }
                        Look::Ask(old) => old,
                    };
                    let (live, answered) = oneshot::channel();
                    self.found = store.is_backed().then(Found::default);
                    let (live, found, place, bound) = (Some(live), self.found.clone(), None, which.bound);
                    let call = ForAll { shared: shared.clone(), flight, bound, old, live, found, place };
                    store.spawn(call.fly(inner, request));
                    return self.lead(answered, limit).await;
                }
            };
            let outcome = within(limit.left(), landed(told)).await;
            // It may have been found in the store behind the memory meanwhile.
            self.old = kept_for(&shared, &self.key, &request).or(self.old);
            let Some(outcome) = outcome else {
                return self.elapsed(limit).await;
            };
            match self.may_share::<S::Response>(outcome.as_ref(), &request) {
                Share::Yes => return self.share(outcome).await,
                Share::AskAgain(of) => which.variant = of.or(which.variant),
                Share::AskAlone => break,
            }
            let accepts = |record: &R::Record| store.rules.accepts(record, &request);
            match store.look(&self.key, Instant::now(), accepts) {
                Look::Serve { entry, served, .. } => return Ok(answer(&shared, &entry, served)),
                Look::Ask(old) => self.old = old.filter(|old| accepts(&old.record) == Accepts::Yes),
            }
        }
        self.alone(inner, request, limit).await
    }

    /// Waits for the call that was made for it and others.
    async fn lead(
        &mut self,
        live: oneshot::Receiver<Live<A, R::Record>>,
        limit: Limit,
    ) -> Result<A, L::Error> {
        match within(limit.left(), live).await {
            Some(Ok(Live::Answer(answer, Ok(())))) => Ok(self.passed(answer)),
            Some(Ok(Live::Answer(answer, Err(cause)))) => self.fall(cause, Failure::Response(answer)).await,
            Some(Ok(Live::Renewed(entry, level))) => Ok(self.kept(&entry, Freshness::Confirmed, level)),
            Some(Ok(Live::Stored(entry, freshness))) => Ok(self.kept(&entry, freshness, level_of(freshness))),
            Some(Ok(Live::Failed(cause, error))) => self.fall(cause, Failure::Error(error)).await,
            Some(Err(_)) => self.fall(Cause::Panicked, Failure::Error(Vanished.into())).await,
            None => self.elapsed(limit).await,
        }
    }

    /// Whether what another one's call has given is for this one, too; `None` if it has vanished.
    fn may_share<T>(&self, outcome: Option<&Outcome<R::Record>>, request: &Req) -> Share
    where
        R: Recall<Req, T, Answer = A>,
    {
        let Recalling { chain, store } = &self.shared.chain;
        let record = match outcome {
            Some(Outcome::Kept(entry, _)) => &entry.record,
            Some(Outcome::Found(entry)) if store.rules.accepts(&entry.record, request) == Accepts::Yes => {
                return Share::Yes;
            }
            Some(Outcome::Found(entry)) => {
                return Share::AskAgain(store.rules.variant(&entry.record, request));
            }
            Some(Outcome::Shared(record, _)) => record,
            Some(Outcome::Again) => return Share::AskAgain(None),
            // A failure is one for all who have something else.
            Some(Outcome::Alone(failed))
                if failed.is_none() || self.old.is_none() && !chain.has_answers() =>
            {
                return Share::AskAlone;
            }
            Some(Outcome::Alone(_) | Outcome::Failed(..)) | None => return Share::Yes,
        };
        if store.rules.accepts(record, request) == Accepts::No {
            return Share::AskAgain(store.rules.variant(record, request));
        }
        Share::Yes
    }

    async fn share(&mut self, outcome: Option<Outcome<R::Record>>) -> Result<A, L::Error> {
        let (cause, failure) = match outcome {
            Some(Outcome::Kept(entry, level)) => return Ok(self.kept(&entry, Freshness::Shared, level)),
            Some(Outcome::Found(entry)) => {
                // It was good enough when it was found.
                let serves = entry.serves(entry.age(Instant::now()));
                let freshness = serves.unwrap_or(Freshness::WhileRevalidate);
                return Ok(self.kept(&entry, freshness, level_of(freshness)));
            }
            Some(Outcome::Shared(record, grade)) => {
                let mut answer = self.shared.chain.store.rules.restore(&record);
                match grade {
                    Ok(level) => {
                        if level > answer.level() {
                            let name = Arc::clone(&self.shared.told.name);
                            let shortfall = Shortfall::new(name, level, Cause::Upstream);
                            answer.grade(Served::new(level, Source::Primary).because(shortfall));
                        }
                        return Ok(self.passed(answer));
                    }
                    Err(cause) => (cause, Failure::Response(answer)),
                }
            }
            Some(Outcome::Failed(cause, error)) => (cause, Failure::Error(SharedFailure(error).into())),
            Some(Outcome::Alone(Some(cause))) => (cause, Failure::Error(NotAsked(cause).into())),
            Some(Outcome::Alone(None) | Outcome::Again) => unreachable!("these are not shared"),
            None => (Cause::Panicked, Failure::Error(Vanished.into())),
        };
        self.fall(cause, failure).await
    }

    /// Asks for itself, whatever others ask for.
    pub(super) async fn ask_alone<S>(&mut self, inner: S, request: Req) -> Result<A, L::Error>
    where
        S: Service<Req, Error: Into<BoxError>, Future: Send> + Clone + Send + 'static,
        S::Response: IntoAnswer<A> + Send,
        P: Classify<S::Response> + Carry<Req>,
        R: Recall<Req, S::Response, Answer = A>,
    {
        let limit = self.limit();
        self.alone(inner, request, limit).await
    }

    /// Calls the service for itself; nothing is kept of it.
    async fn alone<S>(&mut self, mut inner: S, mut request: Req, limit: Limit) -> Result<A, L::Error>
    where
        S: Service<Req, Error: Into<BoxError>, Future: Send> + Clone + Send + 'static,
        S::Response: IntoAnswer<A> + Send,
        P: Classify<S::Response> + Carry<Req>,
        R: Recall<Req, S::Response, Answer = A>,
    {
        let asked = self.shared.chain.store.rules.asked(&request);
        if P::ACTIVE {
            travels(&self.shared.policy, &mut request, limit.end);
        }
        let made = start(&mut inner, request);
        drop(inner);
        let Some(ended) = within(limit.left(), run(made)).await else {
            return self.elapsed(limit).await;
        };
        let (cause, failure) = match ended {
            Ended::Outcome(mut outcome) => {
                if let (Ok(response), true) = (&mut outcome, self.shared.needs.foreign) {
                    response.disbelieve();
                }
                let verdict = self.shared.policy.classify(outcome.as_ref().map_err(|error| &**error));
                match outcome {
                    Ok(response) if !is_failure(&verdict) => {
                        self.may_be_for_all(&asked, &response, verdict);
                        return Ok(self.passed(response.into_answer()));
                    }
                    Ok(response) => (cause_of(verdict, None), Failure::Response(response.into_answer())),
                    Err(error) => (cause_of(verdict, Some(&error)), Failure::Error(error)),
                }
            }
            Ended::NotReady(error) => (Cause::NotReady, Failure::Error(error)),
        };
        if let Some(old) = self.old.as_ref().filter(|_| !cause.passes()) {
            old.fails(Instant::now());
        }
        self.fall(cause, failure).await
    }

    /// What is for others after all is waited for again, and kept then.
    fn may_be_for_all<T>(&self, asked: &R::Asked, response: &T, verdict: Verdict)
    where
        R: Recall<Req, T, Answer = A>,
    {
        let store = &self.shared.chain.store;
        let good = verdict == Verdict::Success && store.rules.level(response) == Level::Full;
        if matches!(store.rules.keep(asked, response, good, store.lifetime()), Keep::Store(_)) {
            store.flights().set_alone(&self.key, false);
        }
    }

    /// The service's own answer.
    fn passed(&self, answer: A) -> A {
        let answer = no_failure(answer);
        self.shared.told.answered(answer.level(), || Source::Primary.name());
        answer
    }

    /// An answer that is in the store because it was asked for just now.
    fn kept(&self, entry: &Entry<R::Record>, freshness: Freshness, level: Level) -> A {
        let served = Served::stored(level, freshness, entry.told_age(), entry.lifetime.fresh);
        answer(&self.shared, entry, served)
    }

    /// As if the service had failed.
    pub(super) async fn drill(&mut self) -> Result<A, L::Error> {
        self.fall(DRILL, Failure::Error(NotAsked(DRILL).into())).await
    }

    async fn elapsed(&mut self, limit: Limit) -> Result<A, L::Error> {
        let (cause, error) = elapsed(&self.shared.told.name, limit.time);
        self.fall(cause, Failure::Error(error)).await
    }

    pub(super) async fn fall(&mut self, cause: Cause, failure: Failure<A>) -> Result<A, L::Error> {
        // What is looked for by a key is a read.
        let (request, deadline, may_repeat) = (self.kept.take(), self.deadline, true);
        let fallen = Fallen { request, failure, cause, deadline, may_repeat };
        let (shared, key) = (self.shared.clone(), std::mem::take(&mut self.key));
        let found = self.found.take().and_then(|found| found.get().cloned());
        let stored: Option<StoredAnswer<A>> = found.or(self.old.take()).map(|old| {
            let store = shared.chain.store.clone();
            let level = store.if_error_level();
            let stored = move || {
                let (entry, served) = store.after_failure(&key, &old)?;
                Some((store.rules.restore(&entry.record), served))
            };
            (level, Box::new(stored) as Box<dyn FnOnce() -> Option<(A, Served)> + Send>)
        });
        let discard = |response| shared.discard(response);
        descend(&shared.chain.chain, &shared.told, fallen, stored, discard).await
    }
}

fn level_of(freshness: Freshness) -> Level {
    if freshness == Freshness::Fresh { Level::Full } else { Level::Slight }
}

async fn landed<V>(mut told: Waits<V>) -> Option<Outcome<V>> {
    told.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone())
}
