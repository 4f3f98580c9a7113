use std::sync::Arc;
use std::time::Duration;

use buttress_core::{BoxError, Classify, Discard, Elapsed, Level, within};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tower_service::Service;

use super::call::{Live, run};
use super::{Shared, answer};
use crate::chain::{Last, LastGood as StoredAnswer, descend};
use crate::error::{SharedFailure, Vanished};
use crate::fallen::{Failure, Fallen, cause_of};
use crate::grade::{Grade, IntoAnswer, no_failure};
use crate::primary::{Ended, Readiness, start};
use crate::recall::{Accepts, Kept, Recall, Restore};
use crate::served::{Cause, Freshness, Served, Shortfall, Source};
use crate::store::{Entry, Outcome};

/// Somebody who waits for an answer that the store does not have, or not yet.
pub(super) struct Caller<P: 'static, Req: 'static, A: 'static, L: 'static, R: Kept> {
    pub(super) shared: Shared<P, Req, A, L, R>,
    pub(super) key: String,
    /// The request, where the chain keeps it.
    pub(super) kept: Option<Req>,
    pub(super) deadline: Option<Instant>,
    /// What may be served if the service fails.
    pub(super) old: Option<Arc<Entry<R::Record>>>,
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
    pub(super) async fn lead(self, live: oneshot::Receiver<Live<A, R::Record>>) -> Result<A, L::Error> {
        match within(self.limit(), live).await {
            Some(Ok(Live::Answer(answer, Ok(())))) => Ok(self.passed(answer)),
            Some(Ok(Live::Answer(answer, Err(cause)))) => self.fall(cause, Failure::Response(answer)).await,
            Some(Ok(Live::Renewed(entry, level))) => Ok(self.kept(&entry, Freshness::Confirmed, level)),
            Some(Ok(Live::Failed(cause, error))) => self.fall(cause, Failure::Error(error)).await,
            Some(Err(_)) => self.fall(Cause::Panicked, Failure::Error(Vanished.into())).await,
            None => self.elapsed().await,
        }
    }

    /// Waits for the call that another one makes; makes one of its own if that was not for others.
    pub(super) async fn wait<S, E>(
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
            Some(Outcome::Kept(entry, _)) => rules.accepts(&entry.record, &request) != Accepts::No,
            Some(Outcome::Shared(record, _)) => rules.accepts(record, &request) != Accepts::No,
            _ => false,
        };
        match outcome {
            Some(Outcome::Kept(entry, level)) if fits => Ok(self.kept(&entry, Freshness::Shared, level)),
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
            Some(Outcome::Kept(..) | Outcome::Shared(..) | Outcome::Alone) => {
                self.alone(inner, request).await
            }
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
        let answer = no_failure(answer);
        self.shared.told.answered(answer.level(), || Source::Primary.name());
        answer
    }

    /// An answer that is in the store because it was asked for just now.
    fn kept(&self, entry: &Entry<R::Record>, freshness: Freshness, level: Level) -> A {
        let served = Served::new(level, Source::LastGood { freshness });
        let served = served.aged(entry.age(Instant::now()), entry.lifetime.fresh);
        answer(&self.shared, entry, served)
    }

    async fn elapsed(self) -> Result<A, L::Error> {
        let elapsed = Elapsed::new(Arc::clone(&self.shared.told.name), self.limit());
        self.fall(Cause::Elapsed, Failure::Error(elapsed.into())).await
    }

    async fn fall(self, cause: Cause, failure: Failure<A>) -> Result<A, L::Error> {
        let Self { shared, key, kept: request, deadline, old } = self;
        // What is looked for by a key is a read.
        let fallen = Fallen { request, failure, cause, deadline, may_repeat: true };
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
