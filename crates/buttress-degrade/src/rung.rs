use std::fmt;
use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use buttress_core::{BoxError, Classify, ConfigError, Level, within};
use tokio::time::Instant;
use tower_service::Service;

use crate::chain::DRILL;
use crate::error::Tried;
use crate::fallen::{Fallen, cause_of, is_failure};
use crate::grade::IntoAnswer;
use crate::served::Cause;

pub(crate) type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What a rung has for a call: an answer, or why it has none.
type Given<A> = Result<A, (Cause, Option<BoxError>)>;
/// The flag: whether what a service says of its answers is not believed.
type Ask<Req, A> = dyn Fn(&Fallen<Req, A>, bool) -> BoxFuture<Given<A>> + Send + Sync;
type Skip<Req, A> = dyn Fn(&Fallen<Req, A>) -> Option<(Cause, Option<BoxError>)> + Send + Sync;

/// The service may have done what was asked, and an alternate would do it again.
const TWICE: Cause = Cause::Skipped("might do for a second time what must be done once");

/// One way to answer when the service has failed.
///
/// It has a name for events, a level, a time in which it has to answer (1 s), and a number of calls that it may have at once (10,
/// as Hystrix's fallbacks have; those beyond go on to the next rung and wait for nothing). A panic in it passes on to the caller.
///
/// ```
/// use std::time::Duration;
/// use buttress_core::{ErrorsAreFailures, Level};
/// use buttress_degrade::{Chain, Degraded, Rung};
/// use tower::service_fn;
///
/// let replica = service_fn(|query: String| async move { Ok::<_, std::io::Error>(query.len()) });
/// let chain: Chain<String, Degraded<usize>> = Chain::new()
///     .rung(Rung::alternate("replica", replica, ErrorsAreFailures).timeout(Duration::from_millis(300)).at_most(50))
///     .rung(Rung::answer("last resort", |_| Some(0)).level(Level::Minimal));
/// # let _ = chain;
/// ```
pub struct Rung<Req, A> {
    pub(crate) name: Arc<str>,
    pub(crate) level: Level,
    time: Duration,
    at_most: usize,
    running: AtomicUsize,
    skip: Vec<Box<Skip<Req, A>>>,
    /// Whether it takes what may have been applied and must not be twice.
    repeats: bool,
    foreign: bool,
    /// How a request is copied for it.
    pub(crate) copy: Option<fn(&Req) -> Req>,
    ask: Box<Ask<Req, A>>,
}

impl<Req, A> fmt::Debug for Rung<Req, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, level, time, at_most, .. } = self;
        let mut debug = f.debug_struct("Rung");
        debug.field("name", name).field("level", level).field("timeout", time).field("at_most", at_most);
        debug.finish_non_exhaustive()
    }
}

impl<Req: 'static, A: Send + 'static> Rung<Req, A> {
    /// Another service that answers as well, or nearly: level 1. Its outcomes are judged by `policy`; a failure goes on to the
    /// next rung.
    ///
    /// It gets no request that the service may have applied already and that may not be applied twice
    /// ([`Fallen::may_repeat`], by the layer's policy): of HTTP, a `POST` without an idempotency key after a time-out or a 503.
    /// [`at_least_once`](Self::at_least_once) sends it all the same.
    ///
    /// A chain with such a rung keeps a copy of each request.
    pub fn alternate<S, P>(name: impl Into<Arc<str>>, service: S, policy: P) -> Self
    where
        Req: Clone + Send,
        S: Service<Req, Future: Send, Error: Into<BoxError>> + Clone + Send + 'static,
        S::Response: IntoAnswer<A> + Send,
        P: Classify<S::Response> + Clone + Send + Sync + 'static,
    {
        // A lock to clone it under, so that it need not be `Sync`.
        let service = Mutex::new(service);
        let ask = move |fallen: &Fallen<Req, A>, foreign: bool| -> BoxFuture<Given<A>> {
            let Some(request) = fallen.request.clone() else {
                return Box::pin(ready(Err((Cause::Nothing, None))));
            };
            let mut service = service.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let policy = policy.clone();
            Box::pin(async move {
                let ready = std::future::poll_fn(|cx| service.poll_ready(cx)).await.map_err(Into::into);
                if let Err(error) = ready {
                    return Err((Cause::NotReady, Some(error)));
                }
                let mut outcome = service.call(request).await.map_err(Into::into);
                if let (Ok(response), true) = (&mut outcome, foreign) {
                    response.disbelieve();
                }
                let verdict = policy.classify(outcome.as_ref().map_err(|error: &BoxError| &**error));
                match outcome {
                    Ok(response) if !is_failure(&verdict) => Ok(response.into_answer()),
                    Ok(_) => Err((cause_of(verdict, None), None)),
                    Err(error) => Err((cause_of(verdict, Some(&error)), Some(error))),
                }
            })
        };
        Self { copy: Some(Req::clone), repeats: false, ..Self::of(name.into(), Level::Slight, Box::new(ask)) }
    }

    /// A function of what is known of the call: level 3. `None` goes on to the next rung.
    pub fn answer<F, T>(name: impl Into<Arc<str>>, answer: F) -> Self
    where
        F: Fn(&Fallen<Req, A>) -> Option<T> + Send + Sync + 'static,
        T: IntoAnswer<A>,
    {
        let ask = move |fallen: &Fallen<Req, A>, _: bool| -> BoxFuture<Given<A>> {
            let answer = answer(fallen).map(IntoAnswer::into_answer);
            Box::pin(ready(answer.ok_or((Cause::Nothing, None))))
        };
        Self::of(name.into(), Level::Minimal, Box::new(ask))
    }

    /// A function that takes its time, and may fail: level 3.
    pub fn answer_with<F, Fut, T, E>(name: impl Into<Arc<str>>, answer: F) -> Self
    where
        F: Fn(&Fallen<Req, A>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
        T: IntoAnswer<A>,
        E: Into<BoxError>,
    {
        let ask = move |fallen: &Fallen<Req, A>, _: bool| -> BoxFuture<Given<A>> {
            let answer = answer(fallen);
            Box::pin(async move {
                match answer.await {
                    Ok(answer) => Ok(answer.into_answer()),
                    Err(error) => {
                        let error = error.into();
                        let cause = cause_of(buttress_core::error_verdict(&*error), Some(&error));
                        Err((cause, Some(error)))
                    }
                }
            })
        };
        Self::of(name.into(), Level::Minimal, Box::new(ask))
    }

    fn of(name: Arc<str>, level: Level, ask: Box<Ask<Req, A>>) -> Self {
        let (time, running) = (Duration::from_secs(1), AtomicUsize::new(0));
        let (skip, repeats, foreign, copy) = (Vec::new(), true, false, None);
        Self { name, level, time, at_most: 10, running, skip, repeats, foreign, copy, ask }
    }

    /// How good its answers are: 1 to 3. An answer that says itself that it is worse stays so.
    #[must_use]
    pub fn level(self, level: Level) -> Self {
        Self { level, ..self }
    }

    /// In how much time it has to answer; less where the request's deadline comes first. Default 1 s.
    #[must_use]
    pub fn timeout(self, time: Duration) -> Self {
        Self { time, ..self }
    }

    /// How many calls it may have at once. Default 10.
    #[must_use]
    pub fn at_most(self, calls: usize) -> Self {
        Self { at_most: calls, ..self }
    }

    /// Asks it whatever the service may have done: a request may be applied twice. For an alternate that recognises
    /// a repetition by itself, or whose effects do not add up with the service's. Functions are always asked.
    #[must_use]
    pub fn at_least_once(self) -> Self {
        Self { repeats: true, ..self }
    }

    /// The alternate service is somebody else's: what it says of the level of its answers is neither believed nor passed on, as with
    /// [`DegradeLayer::foreign`](crate::DegradeLayer::foreign).
    #[must_use]
    pub fn foreign(self) -> Self {
        Self { foreign: true, ..self }
    }

    /// Leaves the rung out where this gives a reason, which the events and the error then name. Of several, each counts.
    #[must_use]
    pub fn skip_if(
        mut self,
        reason: impl Fn(&Fallen<Req, A>) -> Option<&'static str> + Send + Sync + 'static,
    ) -> Self {
        let skip = move |fallen: &Fallen<Req, A>| Some((Cause::Skipped(reason(fallen)?), None));
        self.skip.push(Box::new(skip));
        self
    }

    /// Leaves the rung out where this gives a refusal.
    #[cfg(feature = "http")]
    pub(crate) fn refuse_if(
        mut self,
        refuses: impl Fn(&Fallen<Req, A>) -> Option<(&'static str, BoxError)> + Send + Sync + 'static,
    ) -> Self {
        let skip = move |fallen: &Fallen<Req, A>| {
            refuses(fallen).map(|(reason, refused)| (Cause::Skipped(reason), Some(refused)))
        };
        self.skip.push(Box::new(skip));
        self
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        if matches!(self.level, Level::Full | Level::Failed) {
            let rule = "must be 1 to 3: 0 is the service itself, and 4 is no answer";
            return Err(ConfigError::new("level", self.level, rule));
        }
        if self.time.is_zero() {
            return Err(ConfigError::new("timeout", self.time, "must be longer than zero"));
        }
        if self.at_most == 0 {
            return Err(ConfigError::new("at_most", 0, "must be at least 1, or the rung never answers"));
        }
        Ok(())
    }

    /// Begins to ask it. What is given back no longer needs the call, which need not be `Sync` therefore.
    pub(crate) fn begin(
        self: &Arc<Self>,
        fallen: &Fallen<Req, A>,
        drill: Level,
    ) -> Result<Asked<Req, A>, Tried> {
        if self.level < drill {
            return Err(self.tried((DRILL, None)));
        }
        if let Some(reason) = self.skip.iter().find_map(|skip| skip(fallen)) {
            return Err(self.tried(reason));
        }
        if !self.repeats && !fallen.may_repeat {
            return Err(self.tried((TWICE, None)));
        }
        let more = |running: usize| (running < self.at_most).then_some(running + 1);
        if self.running.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_err() {
            return Err(self.tried((Cause::Full, None)));
        }
        // From here on dropping it gives the place back, also if the function panics.
        let mut asked = Asked { rung: Arc::clone(self), time: self.time, future: None };
        asked.future = Some((self.ask)(fallen, self.foreign));
        if let Some(deadline) = fallen.deadline {
            asked.time = deadline.saturating_duration_since(Instant::now()).min(self.time);
        }
        Ok(asked)
    }

    fn tried(&self, (cause, error): (Cause, Option<BoxError>)) -> Tried {
        Tried { rung: Arc::clone(&self.name), cause, error }
    }
}

/// A call that a rung has under way.
pub(crate) struct Asked<Req, A> {
    rung: Arc<Rung<Req, A>>,
    time: Duration,
    future: Option<BoxFuture<Given<A>>>,
}

impl<Req: 'static, A: Send + 'static> Asked<Req, A> {
    pub(crate) async fn answer(mut self) -> Result<A, Tried> {
        let future = self.future.take().expect("it is awaited once");
        match within(self.time, future).await {
            Some(given) => given.map_err(|failed| self.rung.tried(failed)),
            None => Err(self.rung.tried((Cause::Elapsed, None))),
        }
    }
}

impl<Req, A> Drop for Asked<Req, A> {
    fn drop(&mut self) {
        self.rung.running.fetch_sub(1, Ordering::Relaxed);
    }
}
