use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use buttress_core::clock::after;
use buttress_core::{
    BoxError, Classify, CloneReplay, ConfigError, ErrorRef, Mode, Observe, Plain, Timer, Verdict,
};
use tokio::time::Instant;
use tower_layer::Layer;

use crate::budget::{Budget, Prepaid};
use crate::config::Config;
use crate::retry_if::RetryIf;
use crate::service::Retry;
use crate::session::Facts;
use crate::shared::{Above, Judgement, Log, Settings};

/// Retries calls that fail in a way that may pass.
///
/// The budget, the rate gate and the mode live in the layer: all services made by it, and all their clones, share them.
///
/// ```
/// use buttress_retry::{Config, RetryLayer};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), tower::BoxError> {
/// let attempts = std::sync::atomic::AtomicU32::new(0);
/// let service = ServiceBuilder::new()
///     .layer(RetryLayer::new("datadog", Config::background())?)
///     .service(service_fn(|query: &'static str| {
///         let attempt = attempts.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
///         async move { if attempt == 0 { Err("connection reset") } else { Ok(query.len()) } }
///     }));
/// assert_eq!(service.oneshot("avg:system.load.1{*}").await?, 20);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct RetryLayer<P = Plain, R = CloneReplay> {
    settings: Arc<Settings>,
    policy: P,
    replay: R,
}

impl RetryLayer {
    /// `name` says in errors, events and metrics which dependency it calls.
    ///
    /// Until told otherwise, errors are retried, every response is a success, and requests are replayed by cloning.
    ///
    /// # Errors
    ///
    /// If the configuration breaks a rule; see each setter of [`Config`].
    pub fn new(name: impl Into<Arc<str>>, config: Config) -> Result<Self, ConfigError> {
        config.check()?;
        let settings = Arc::new(Settings::new(name.into(), config));
        Ok(Self { settings, policy: Plain::default(), replay: CloneReplay })
    }
}

impl<P, R> RetryLayer<P, R> {
    /// Judges outcomes with this policy; for HTTP that is `buttress_http::Http`.
    #[must_use]
    pub fn policy<Q>(self, policy: Q) -> RetryLayer<Q, R> {
        RetryLayer { settings: self.settings, policy, replay: self.replay }
    }

    /// Retries what this closure says, in place of the policy's own choice; call it after [`policy`](RetryLayer::policy).
    ///
    /// It is given each outcome, and what the policy says of it. Where it says `true` of what the policy holds to be no failure,
    /// or one that will not pass, this is retried as a [transient](buttress_core::Kind::Transient) failure that may have had an effect; where it
    /// says `false` of a failure, this is [permanent](buttress_core::Kind::Permanent) here. All other rules hold: nothing is retried that may not
    /// be repeated, that the server or the budget forbids, or that a layer below refused without
    /// [`Config::retry_refused`].
    ///
    /// It must not block; a panic in it is one of the call, and passes on.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), buttress_core::BoxError> {
    /// use buttress_core::Verdict;
    /// use buttress_retry::{Config, RetryLayer};
    ///
    /// enum Job { Pending, Done(u32) }
    ///
    /// let retry = RetryLayer::new("jobs", Config::background())?
    ///     .retry_if(|outcome: Result<&Job, _>, verdict: Verdict| match outcome {
    ///         Ok(job) => matches!(job, Job::Pending),
    ///         Err(_) => verdict.is_failure(),
    ///     });
    /// let mut asked = 0;
    /// let job = retry.run(|| {
    ///     asked += 1;
    ///     let job = if asked < 3 { Job::Pending } else { Job::Done(42) };
    ///     async { Ok::<_, std::io::Error>(job) }
    /// });
    /// assert!(matches!(job.await?, Job::Done(42)));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn retry_if<Res, F>(self, retry_if: F) -> RetryLayer<RetryIf<P, F>, R>
    where
        F: for<'a> Fn(Result<&'a Res, ErrorRef<'a>>, Verdict) -> bool,
    {
        let policy = RetryIf { policy: self.policy, retry_if };
        RetryLayer { settings: self.settings, policy, replay: self.replay }
    }

    /// Keeps requests in this way; for HTTP that is `buttress_http::HttpReplay`.
    #[must_use]
    pub fn replay<Q>(self, replay: Q) -> RetryLayer<P, Q> {
        RetryLayer { settings: self.settings, policy: self.policy, replay }
    }

    /// Reports to this observer. The first one stays; a `Vec` of several is one.
    #[must_use]
    pub fn observe(self, observer: Arc<dyn Observe>) -> Self {
        self.settings.observer.set(observer);
        self
    }

    /// Asks this, when a call's first attempt has failed, how much time a deadline above gives the call from its beginning:
    /// what the retry has to know where that deadline does not travel with requests. No attempt is planned that would start
    /// later, and from the second attempt on the deadline does travel. `None` stands for no limit. One that has travelled
    /// here counts in place of it. The first one set stays.
    #[must_use]
    pub fn deadline_above(self, limit: impl Fn() -> Option<Duration> + Send + Sync + 'static) -> Self {
        let _ = self.settings.above.set(Above(Box::new(limit)));
        self
    }

    /// The budget: always the same one, whatever its rule becomes.
    pub fn budget(&self) -> &Budget {
        &self.settings.budget
    }

    /// The configuration in force. Its mode is the one to start in; [`mode`](RetryLayer::mode) says the present one.
    pub fn config(&self) -> Config {
        Config::clone(&self.settings.config())
    }

    /// Puts another configuration in force, for all services of this layer and all their clones, without losing the state.
    ///
    /// * A call keeps the number of retries that it began with. All else it takes when its first attempt fails, or when the rate
    ///   gate first holds it back, and keeps to its end.
    /// * The layer keeps its budget, which then [obeys the new one's rule](Budget::become_like): tokens stay in hand as far
    ///   as the new size goes. Layers that share the budget share its rule.
    /// * The rate gate goes on holding what it holds, unless it is switched off, which lets go of everything.
    /// * Who hears of retries ([`Config::on_retry`]) goes on hearing of them, unless the new configuration names another.
    /// * The mode stays as it is: [`set_mode`](RetryLayer::set_mode) switches it.
    ///
    /// ```
    /// use buttress_retry::{Config, RetryLayer};
    ///
    /// # fn main() -> Result<(), buttress_core::ConfigError> {
    /// let retry = RetryLayer::new("datadog", Config::user_facing())?;
    /// retry.set_config(retry.config().max_retries(1))?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// If the configuration breaks a rule; the old one then stays.
    pub fn set_config(&self, config: Config) -> Result<(), ConfigError> {
        config.check()?;
        self.settings.set_config(config);
        Ok(())
    }

    /// The mode that calls obey.
    pub fn mode(&self) -> Mode {
        self.settings.mode.get()
    }

    /// Switches the mode; calls that are under way obey it from their next decision on.
    pub fn set_mode(&self, mode: Mode) {
        self.settings.mode.set(mode);
    }

    /// Lets go of all that the rate gate holds back.
    pub fn open_rate_gate(&self) {
        if let Some(gate) = self.settings.gate() {
            gate.open();
        }
    }

    /// Retries an action, without a service: the function form. The action is taken to be one that may be repeated.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), buttress_core::BoxError> {
    /// use buttress_retry::{Config, RetryLayer};
    ///
    /// let retry = RetryLayer::new("pagerduty", Config::background())?;
    /// let mut attempts = 0;
    /// let answer = retry.run(|| {
    ///     attempts += 1;
    ///     let attempt = attempts;
    ///     async move { if attempt < 3 { Err("HTTP 503") } else { Ok(attempt) } }
    /// });
    /// assert_eq!(answer.await?, 3);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The action's own, if it is not retried, or [`Exhausted`](buttress_core::Exhausted) with the last one below it.
    pub async fn run<F, Res, E>(&self, mut action: impl FnMut() -> F) -> Result<Res, BoxError>
    where
        F: Future<Output = Result<Res, E>>,
        E: Into<BoxError>,
        P: Classify<Res>,
    {
        let facts = Facts { deadline: None, max_retries: None, repeatable: true, own_time: false };
        let settings = &*self.settings;
        let key = settings.gate().map_or(0, |gate| gate.hash(None));
        let mut log = Log { started: Some(Instant::now()), ..Log::default() };
        let mut prepaid = Prepaid::default();
        loop {
            loop {
                match settings.held(&mut log, key, facts) {
                    Ok(None) => break,
                    Ok(Some(delay)) => Timer::at(after(Instant::now(), delay))?.await,
                    Err(refused) => return Err(settings.refused(log, facts, refused)),
                }
            }
            prepaid.spend();
            if log.session.is_some() {
                log.started = settings.attempt_start();
            }
            let outcome = action().await.map_err(Into::into);
            let verdict = self.policy.classify(outcome.as_ref().map_err(|error: &BoxError| &**error));
            settings.hold(key, verdict);
            match settings.judge(&mut log, verdict, facts, || Some(())) {
                Judgement::Final => return outcome,
                Judgement::GaveUp(stop) => {
                    return outcome.map_err(|error| settings.exhausted(log, verdict, facts, stop, error));
                }
                Judgement::Retry((), delay) => {
                    drop(outcome);
                    prepaid = settings.prepaid(&log);
                    if !delay.is_zero() {
                        Timer::at(after(Instant::now(), delay))?.await;
                    }
                }
            }
        }
    }
}

impl<S: Clone, P: Clone, R: Clone> Layer<S> for RetryLayer<P, R> {
    type Service = Retry<S, P, R>;

    fn layer(&self, inner: S) -> Self::Service {
        Retry::new(inner, Arc::clone(&self.settings), self.policy.clone(), self.replay.clone())
    }
}
