use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use buttress_circuit_breaker::{
    CircuitBreaker, CircuitBreakerLayer, KeyedCircuitBreaker, KeyedCircuitBreakerLayer,
};
use buttress_core::{ConfigError, Mode, Observe};
use buttress_deadline::{Deadline, DeadlineLayer};
use buttress_http::{Http, HttpReplay, Vendor};
use buttress_retry::{Retry, RetryLayer};
use tower_layer::Layer;

use crate::explain::Explanation;

/// Builds a stack for one HTTP dependency, always in the order that works: total deadline, retry, circuit breaker,
/// attempt deadline, client. Starts with [`http`](crate::http()).
///
/// ```
/// use std::time::Duration;
/// use buttress::circuit_breaker::{Config, Ratio, Trip, Window};
///
/// # fn main() -> Result<(), buttress::ConfigError> {
/// let layer = buttress::http("datadog")
///     .datadog()
///     .total(Duration::from_secs(20))
///     .circuit_breaker(Config::standard().trip(Trip::FailureRate {
///         window: Window::Time(Duration::from_secs(30)),
///         at_least: Ratio::percent(50),
///         minimum_calls: 20,
///     }))
///     .build()?;
/// println!("{}", layer.explain());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct HttpBuilder {
    name: Arc<str>,
    http: Http,
    replay: HttpReplay,
    total: Duration,
    attempt: Duration,
    retry: buttress_retry::Config,
    breaker: buttress_circuit_breaker::Config,
    observers: Vec<Arc<dyn Observe>>,
    silent: bool,
}

impl fmt::Debug for HttpBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, total, attempt, retry, breaker, .. } = self;
        let mut debug = f.debug_struct("HttpBuilder");
        debug.field("name", name).field("total", total).field("attempt", attempt);
        debug.field("retry", retry).field("breaker", breaker).finish_non_exhaustive()
    }
}

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

impl HttpBuilder {
    pub(crate) fn new(name: Arc<str>) -> Self {
        let builder = Self {
            name,
            http: Http::new(),
            replay: HttpReplay::new(),
            total: Duration::ZERO,
            attempt: Duration::ZERO,
            retry: buttress_retry::Config::user_facing(),
            breaker: buttress_circuit_breaker::Config::standard(),
            observers: Vec::new(),
            silent: false,
        };
        builder.user_facing()
    }

    /// Somebody is waiting: 10 s in all, 2.5 s an attempt,
    /// [`retry::Config::user_facing`](buttress_retry::Config::user_facing). The default.
    #[must_use]
    pub fn user_facing(self) -> Self {
        let attempt = Duration::from_millis(2500);
        Self { total: secs(10), attempt, retry: buttress_retry::Config::user_facing(), ..self }
    }

    /// Nobody is waiting: 10 min in all, 30 s an attempt,
    /// [`retry::Config::background`](buttress_retry::Config::background).
    #[must_use]
    pub fn background(self) -> Self {
        Self { total: secs(600), attempt: secs(30), retry: buttress_retry::Config::background(), ..self }
    }

    /// Datadog's API: its rate-limit headers, one throttled answer holds back all calls, and 30 s in all, 8 s an
    /// attempt, since queries take their time.
    #[must_use]
    pub fn datadog(mut self) -> Self {
        self.retry = self.retry.max_total_wait(None).rate_gate(true);
        Self { http: self.http.vendor(Vendor::Datadog), total: secs(30), attempt: secs(8), ..self }
    }

    /// PagerDuty's APIs: their rate-limit headers, and a page that may take its time but has to arrive: 5 min in all,
    /// 10 s an attempt, [`retry::Config::background`](buttress_retry::Config::background).
    ///
    /// Give each event a `dedup_key`, and its request the same key with
    /// [`with_idempotency_key`](buttress_http::RequestExt::with_idempotency_key): only then is a `POST` whose answer was
    /// lost sent again.
    #[must_use]
    pub fn pagerduty(self) -> Self {
        let retry = buttress_retry::Config::background().rate_gate(true);
        Self { http: self.http.vendor(Vendor::PagerDuty), total: secs(300), attempt: secs(10), retry, ..self }
    }

    /// AWS's APIs without an SDK: [`retry::Config::aws_standard`](buttress_retry::Config::aws_standard), any method,
    /// since AWS's requests carry tokens where repeating them matters; 60 s in all, 15 s an attempt.
    ///
    /// Beneath an AWS SDK, which retries by itself, switch this retry off: `.retry(config.max_retries(0))`.
    #[must_use]
    pub fn aws(self) -> Self {
        let (http, replay) = (self.http.vendor(Vendor::Aws), self.replay.every_method());
        Self {
            http,
            replay,
            total: secs(60),
            attempt: secs(15),
            retry: buttress_retry::Config::aws_standard(),
            ..self
        }
    }

    /// The time for the whole call, all attempts and waits included, until the response's head. Default 10 s.
    #[must_use]
    pub fn total(self, limit: Duration) -> Self {
        Self { total: limit, ..self }
    }

    /// The time for each attempt. Default 2.5 s.
    #[must_use]
    pub fn attempt(self, limit: Duration) -> Self {
        Self { attempt: limit, ..self }
    }

    /// How failed attempts are retried.
    #[must_use]
    pub fn retry(self, config: buttress_retry::Config) -> Self {
        Self { retry: config, ..self }
    }

    /// When the circuit opens.
    #[must_use]
    pub fn circuit_breaker(self, config: buttress_circuit_breaker::Config) -> Self {
        Self { breaker: config, ..self }
    }

    /// What responses and errors mean.
    #[must_use]
    pub fn policy(self, http: Http) -> Self {
        Self { http, ..self }
    }

    /// How requests are kept for a retry.
    #[must_use]
    pub fn replay(self, replay: HttpReplay) -> Self {
        Self { replay, ..self }
    }

    /// Reports to this observer too.
    #[must_use]
    pub fn observe(mut self, observer: Arc<dyn Observe>) -> Self {
        self.observers.push(observer);
        self
    }

    /// Reports nothing to `tracing` and `metrics`, which otherwise hear of everything if their features are on.
    #[must_use]
    pub fn silent(self) -> Self {
        Self { silent: true, ..self }
    }

    /// The stack, with one circuit.
    ///
    /// # Errors
    ///
    /// If a configuration breaks a rule: the field, its value and the rule.
    pub fn build(self) -> Result<HttpLayer, ConfigError> {
        let breaker =
            CircuitBreakerLayer::new(Arc::clone(&self.name), self.breaker.clone())?.policy(self.http.clone());
        let observer = self.observer();
        let breaker =
            observer.iter().fold(breaker, |breaker, observer| breaker.observe(Arc::clone(observer)));
        self.finish(observer, breaker)
    }

    /// The stack, with one circuit for each host, for a client that talks to many.
    ///
    /// # Errors
    ///
    /// As [`build`](HttpBuilder::build).
    pub fn build_per_host(self) -> Result<HttpLayer<KeyedCircuitBreakerLayer<Http>>, ConfigError> {
        let (name, http) = (Arc::clone(&self.name), self.http.clone());
        let breaker = KeyedCircuitBreakerLayer::new(name, self.breaker.clone(), http)?;
        let observer = self.observer();
        let breaker =
            observer.iter().fold(breaker, |breaker, observer| breaker.observe(Arc::clone(observer)));
        self.finish(observer, breaker)
    }

    fn observer(&self) -> Option<Arc<dyn Observe>> {
        let mut observers = self.observers.clone();
        if !self.silent {
            #[cfg(feature = "tracing")]
            observers.push(Arc::new(buttress_core::observe::Tracing));
            #[cfg(feature = "metrics")]
            observers.push(Arc::new(buttress_core::observe::Metrics::new(&*self.name)));
        }
        match observers.len() {
            0 => None,
            1 => observers.pop(),
            _ => Some(Arc::new(observers)),
        }
    }

    fn finish<C>(self, observer: Option<Arc<dyn Observe>>, breaker: C) -> Result<HttpLayer<C>, ConfigError> {
        let explanation = Explanation::of(&self.name, self.total, self.attempt, &self.retry, &self.breaker);
        let total = DeadlineLayer::total(Arc::clone(&self.name), self.total)?;
        let attempt = DeadlineLayer::attempt(Arc::clone(&self.name), self.attempt)?;
        let retry = RetryLayer::new(self.name, self.retry)?;
        let mut layer = HttpLayer {
            total: total.carry(self.http.clone()),
            retry: retry.policy(self.http.clone()).replay(self.replay),
            breaker,
            attempt: attempt.carry(self.http),
            explanation,
        };
        if let Some(observer) = observer {
            layer.total = layer.total.observe(Arc::clone(&observer));
            layer.retry = layer.retry.observe(Arc::clone(&observer));
            layer.attempt = layer.attempt.observe(observer);
        }
        Ok(layer)
    }
}

/// The stack for one HTTP dependency; made by [`HttpBuilder`].
///
/// All services made by it, and all their clones, share its circuit and its retry budget. Errors are
/// [`BoxError`](buttress_core::BoxError)s; [`find`](crate::find) finds what is in them.
#[derive(Clone, Debug)]
pub struct HttpLayer<C = CircuitBreakerLayer<Http>> {
    total: DeadlineLayer<Http>,
    retry: RetryLayer<Http, HttpReplay>,
    breaker: C,
    attempt: DeadlineLayer<Http>,
    explanation: Explanation,
}

/// What [`HttpLayer`] makes of a client `S`: the type to name in a struct.
///
/// `S` is called with `http::Request<ReplayBody<B>>`; for hyper-util that is
/// `Client<HttpConnector, ReplayBody<Full<Bytes>>>`, which the compiler infers.
pub type HttpService<S> = Deadline<Retry<CircuitBreaker<Deadline<S, Http>, Http>, Http, HttpReplay>, Http>;

/// What [`HttpLayer`] makes of a client `S` with one circuit for each host.
pub type HttpServicePerHost<S> =
    Deadline<Retry<KeyedCircuitBreaker<Deadline<S, Http>, Http>, Http, HttpReplay>, Http>;

impl<C> HttpLayer<C> {
    /// What the stack does, one line a layer, and what looks wrong about it.
    pub fn explain(&self) -> &Explanation {
        &self.explanation
    }

    /// The retry: its budget and its mode.
    pub fn retry(&self) -> &RetryLayer<Http, HttpReplay> {
        &self.retry
    }

    /// The total deadline.
    pub fn total(&self) -> &DeadlineLayer<Http> {
        &self.total
    }

    /// The attempt deadline.
    pub fn attempt(&self) -> &DeadlineLayer<Http> {
        &self.attempt
    }

    /// The circuit breaker; its `handle()` reads and controls the circuit.
    pub fn circuit_breaker(&self) -> &C {
        &self.breaker
    }
}

impl HttpLayer {
    /// Switches the mode of all four layers.
    pub fn set_mode(&self, mode: Mode) {
        self.total.set_mode(mode);
        self.retry.set_mode(mode);
        self.breaker.handle().set_mode(mode);
        self.attempt.set_mode(mode);
    }
}

impl<S, C> Layer<S> for HttpLayer<C>
where
    C: Layer<Deadline<S, Http>>,
    C::Service: Clone,
{
    type Service = Deadline<Retry<C::Service, Http, HttpReplay>, Http>;

    fn layer(&self, client: S) -> Self::Service {
        self.total.layer(self.retry.layer(self.breaker.layer(self.attempt.layer(client))))
    }
}
