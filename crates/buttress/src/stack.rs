mod layer;
mod plan;
mod preset;
mod slots;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use buttress_circuit_breaker::{CircuitBreakerLayer, KeyedCircuitBreakerLayer};
use buttress_core::{ConfigError, Mode, Now, Observe, Verdict};
use buttress_deadline::DeadlineLayer;
use buttress_http::{Http, HttpReplay, Vendor};
use buttress_retry::RetryLayer;
use http::{HeaderMap, StatusCode};
use tower_layer::Identity;

use crate::live::{Circuits, Layers, StackHandle, Written};
pub use layer::{HttpLayer, HttpService, HttpServicePerHost};
pub(crate) use preset::Preset;
use slots::Slots;
#[cfg(feature = "grpc")]
pub(crate) use slots::short_name;

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
///
/// What is set explicitly counts, whichever comes first; of several presets the last one counts.
///
/// `A` and `C` are layers of one's own, [for each attempt](HttpBuilder::per_attempt) and [for each call](HttpBuilder::per_call),
/// `W` says [when a call is over](HttpBuilder::watch_bodies) for the circuit.
#[derive(Clone)]
pub struct HttpBuilder<A = Identity, C = Identity, W = Now> {
    name: Arc<str>,
    http: Http,
    vendor: Vendor,
    replay: Option<HttpReplay>,
    preset: Preset,
    total: Option<Duration>,
    attempt: Option<Duration>,
    retry: Option<buttress_retry::Config>,
    breaker: Option<buttress_circuit_breaker::Config>,
    observers: Vec<Arc<dyn Observe>>,
    silent: bool,
    travels: bool,
    mode: Option<Mode>,
    written: Option<Arc<Written>>,
    slots: Slots<A, C, W>,
}

impl<A, C, W> fmt::Debug for HttpBuilder<A, C, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, vendor, preset, total, attempt, retry, breaker, .. } = self;
        let mut debug = f.debug_struct("HttpBuilder");
        debug
            .field("name", name)
            .field("vendor", vendor)
            .field("preset", preset)
            .field("total", total)
            .field("attempt", attempt);
        debug.field("retry", retry).field("breaker", breaker).finish_non_exhaustive()
    }
}

impl HttpBuilder {
    pub(crate) fn new(name: Arc<str>) -> Self {
        Self {
            name,
            http: Http::new(),
            vendor: Vendor::Generic,
            replay: None,
            preset: Preset::UserFacing,
            total: None,
            attempt: None,
            retry: None,
            breaker: None,
            observers: Vec::new(),
            silent: false,
            travels: false,
            mode: None,
            written: None,
            slots: Slots::default(),
        }
    }
}

impl<A, C, W> HttpBuilder<A, C, W> {
    #[cfg(feature = "degrade")]
    pub(crate) fn http(&self) -> Http {
        self.http.clone()
    }

    /// Whether the service is somebody else's.
    #[cfg(feature = "degrade")]
    pub(crate) fn is_foreign(&self) -> bool {
        self.vendor != Vendor::Generic
    }

    /// Somebody is waiting: 10 s in all, 2.5 s an attempt,
    /// [`retry::Config::user_facing`](buttress_retry::Config::user_facing). The default. Of presets the last one counts; what else
    /// has been set stays: the vendor, a time, a retry.
    #[must_use]
    pub fn user_facing(self) -> Self {
        Self { preset: Preset::UserFacing, ..self }
    }

    /// Nobody is waiting: 10 min in all, 30 s an attempt,
    /// [`retry::Config::background`](buttress_retry::Config::background), and an open circuit is waited for. After a preset for a
    /// vendor, only the vendor is left of that.
    #[must_use]
    pub fn background(self) -> Self {
        Self { preset: Preset::Background, ..self }
    }

    /// Datadog's API: its rate-limit headers, and 30 s in all, 8 s an attempt, since queries take their time.
    #[must_use]
    pub fn datadog(self) -> Self {
        Self { preset: Preset::Datadog, ..self }.vendor(Vendor::Datadog)
    }

    /// GitHub's API: its rate limits, primary and secondary, with the figures of [`user_facing`](HttpBuilder::user_facing).
    #[must_use]
    pub fn github(self) -> Self {
        Self { preset: Preset::UserFacing, ..self }.vendor(Vendor::GitHub)
    }

    /// PagerDuty's APIs: their rate-limit headers, and a page that may take its time but has to arrive: 5 min in all,
    /// 10 s an attempt, up to 20 retries after 1 s to 30 s, and an open circuit (10 failures, 15 s) is waited for.
    ///
    /// Give each event a `dedup_key`, and its request the same key with
    /// [`with_idempotency_key`](buttress_http::RequestExt::with_idempotency_key): only then is a `POST` whose answer was
    /// lost sent again.
    #[must_use]
    pub fn pagerduty(self) -> Self {
        Self { preset: Preset::PagerDuty, ..self }.vendor(Vendor::PagerDuty)
    }

    /// AWS's APIs without an SDK: [`retry::Config::aws_standard`](buttress_retry::Config::aws_standard), every method, as
    /// AWS's SDKs do; 60 s in all, 15 s an attempt.
    ///
    /// Where an operation is not idempotent and its request has no client token (sending to a queue, invoking a function),
    /// send it with [`with_max_retries(0)`](buttress_http::RequestExt::with_max_retries). Beneath an AWS SDK, which retries
    /// by itself, use [`aws_sdk`](HttpBuilder::aws_sdk).
    #[must_use]
    pub fn aws(self) -> Self {
        Self { preset: Preset::Aws, ..self }.vendor(Vendor::Aws)
    }

    /// AWS's APIs beneath an SDK of AWS's: as [`aws`](HttpBuilder::aws), but the SDK retries, which signs every attempt
    /// anew, and this stack does not. For `buttress-aws`.
    #[must_use]
    pub fn aws_sdk(self) -> Self {
        Self { preset: Preset::AwsSdk, ..self }.vendor(Vendor::Aws)
    }

    /// Understands this vendor's rate limits.
    #[must_use]
    pub fn vendor(self, vendor: Vendor) -> Self {
        Self { http: self.http.vendor(vendor), vendor, ..self }
    }

    /// The time for the whole call, all attempts and waits included, until the response's head; the body is not bounded
    /// ([`BodyDeadlineLayer`](buttress_http::BodyDeadlineLayer) does that). Default 10 s. Set, it takes the place of what a preset of the retry says
    /// of all attempts ([`default_max_total_wait`](buttress_retry::Config::default_max_total_wait)).
    #[must_use]
    pub fn total(self, limit: Duration) -> Self {
        Self { total: Some(limit), ..self }
    }

    /// Lets the total deadline travel with every request, in its extensions ([`Carried::deadline`]), to whatever lies below
    /// that obeys it, such as another stack.
    ///
    /// Otherwise it travels from the second attempt on, and with requests that bring limits of their own
    /// ([`RequestExt`](buttress_http::RequestExt)): carrying it costs a request several allocations. The stack obeys it in
    /// either case.
    ///
    /// [`Carried::deadline`]: buttress_core::Carried::deadline
    #[must_use]
    pub fn deadline_travels(self) -> Self {
        Self { travels: true, ..self }
    }

    /// The time for each attempt, until the response's head. Default 2.5 s.
    #[must_use]
    pub fn attempt(self, limit: Duration) -> Self {
        Self { attempt: Some(limit), ..self }
    }

    /// The mode that all four layers start in. Default [`Mode::Enforce`].
    #[must_use]
    pub fn mode(self, mode: Mode) -> Self {
        Self { mode: Some(mode), ..self }
    }

    /// How failed attempts are retried.
    #[must_use]
    pub fn retry(self, config: buttress_retry::Config) -> Self {
        Self { retry: Some(config), ..self }
    }

    /// Changes the preset's retry, or the one that was set, in some respect. Choose the preset first: one that follows
    /// keeps what was changed here.
    ///
    /// ```
    /// let builder = buttress::http("datadog").datadog().map_retry(|retry| retry.max_retries(4));
    /// ```
    #[must_use]
    pub fn map_retry(self, change: impl FnOnce(buttress_retry::Config) -> buttress_retry::Config) -> Self {
        let config = self.retry.clone().unwrap_or_else(|| self.preset.retry());
        self.retry(change(config))
    }

    /// When the circuit opens.
    #[must_use]
    pub fn circuit_breaker(self, config: buttress_circuit_breaker::Config) -> Self {
        Self { breaker: Some(config), ..self }
    }

    /// Changes the preset's circuit breaker, or the one that was set, in some respect.
    #[must_use]
    pub fn map_circuit_breaker(
        self,
        change: impl FnOnce(buttress_circuit_breaker::Config) -> buttress_circuit_breaker::Config,
    ) -> Self {
        let config = self.breaker_config();
        self.circuit_breaker(change(config))
    }

    /// Judges this status in this way; see [`Http::status`].
    #[must_use]
    pub fn status(self, status: StatusCode, verdict: Verdict) -> Self {
        Self { http: self.http.status(status, verdict), ..self }
    }

    /// Asks this first about every response; see [`Http::judge`].
    #[must_use]
    pub fn judge(
        self,
        judge: impl Fn(StatusCode, &HeaderMap) -> Option<Verdict> + Send + Sync + 'static,
    ) -> Self {
        Self { http: self.http.judge(judge), ..self }
    }

    /// How requests are kept for a retry, and which may be repeated. Default [`HttpReplay::new`], with every method for AWS.
    #[must_use]
    pub fn replay(self, replay: HttpReplay) -> Self {
        Self { replay: Some(replay), ..self }
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
    pub fn build(self) -> Result<HttpLayer<CircuitBreakerLayer<Http, W>, A, C>, ConfigError>
    where
        W: Clone,
    {
        let config = self.breaker_config();
        let breaker = CircuitBreakerLayer::new(Arc::clone(&self.name), config)?.policy(self.http.clone());
        let breaker = breaker.watch(self.slots.watch.clone());
        let observer = self.observer();
        let breaker =
            observer.iter().fold(breaker, |breaker, observer| breaker.observe(Arc::clone(observer)));
        let circuits = Circuits::One(breaker.handle());
        self.finish(observer, breaker, circuits)
    }

    /// The stack, with one circuit for each host, for a client that talks to many.
    ///
    /// # Errors
    ///
    /// As [`build`](HttpBuilder::build).
    pub fn build_per_host(self) -> Result<HttpLayer<KeyedCircuitBreakerLayer<Http, W>, A, C>, ConfigError>
    where
        W: Clone,
    {
        let (name, config) = (Arc::clone(&self.name), self.breaker_config());
        let breaker = KeyedCircuitBreakerLayer::new(name, config, self.http.clone())?;
        let breaker = breaker.watch(self.slots.watch.clone());
        let observer = self.observer();
        let breaker =
            observer.iter().fold(breaker, |breaker, observer| breaker.observe(Arc::clone(observer)));
        let circuits = Circuits::PerHost(breaker.handle());
        self.finish(observer, breaker, circuits)
    }

    pub(crate) fn breaker_config(&self) -> buttress_circuit_breaker::Config {
        self.breaker.clone().unwrap_or_else(|| self.preset.breaker())
    }

    pub(crate) fn observer(&self) -> Option<Arc<dyn Observe>> {
        observer(&self.name, self.observers.clone(), self.silent)
    }

    fn finish<B>(
        self,
        observer: Option<Arc<dyn Observe>>,
        breaker: B,
        circuits: Circuits,
    ) -> Result<HttpLayer<B, A, C>, ConfigError> {
        check_name(&self.name)?;
        let plan = self.plan();
        let (total, attempt, retry) = (plan.total, plan.attempt, plan.retry.clone());
        let (name, http) = (|| Arc::clone(&self.name), || self.http.clone());
        let attempt = DeadlineLayer::attempt(name(), attempt.min(total))?;
        let total = DeadlineLayer::total(name(), total)?;
        let retry = RetryLayer::new(name(), retry)?;
        let above = total.clone();
        let retry = retry.deadline_above(move || (above.mode() == Mode::Enforce).then(|| above.limit()));
        let retry = retry.policy(http()).replay(self.replay.unwrap_or_else(|| self.preset.replay()));
        let total = if self.travels { total.carry(http()) } else { total.obey(http()) };
        let attempt = attempt.obey(self.http);
        let (per_attempt, per_call) = (self.slots.per_attempt, self.slots.per_call);
        let layers = Layers::new(&total, &retry, circuits, &attempt);
        let (calls, attempts) = (self.slots.calls, self.slots.attempts);
        let bare = attempts.is_empty();
        let handle = StackHandle::new(("http", self.name), layers, &plan, move |layers| {
            layers.with_slots(&calls, &attempts)
        });
        let mut layer = HttpLayer { per_call, total, bare, retry, per_attempt, breaker, attempt, handle };
        if let Some(observer) = observer {
            layer.total = layer.total.observe(Arc::clone(&observer));
            layer.retry = layer.retry.observe(Arc::clone(&observer));
            layer.attempt = layer.attempt.observe(observer);
        }
        Ok(layer)
    }
}

/// All who are to hear of what a stack does, as one.
pub(crate) fn observer(
    name: &str,
    mut observers: Vec<Arc<dyn Observe>>,
    silent: bool,
) -> Option<Arc<dyn Observe>> {
    if !silent {
        #[cfg(feature = "tracing")]
        observers.push(Arc::new(buttress_core::observe::Tracing));
        #[cfg(feature = "metrics")]
        observers.push(Arc::new(buttress_core::observe::Metrics::new(name)));
    }
    let _ = name;
    match observers.len() {
        0 => None,
        1 => observers.pop(),
        _ => Some(Arc::new(observers)),
    }
}

pub(crate) fn check_name(name: &str) -> Result<(), ConfigError> {
    if name.is_empty() {
        return Err(ConfigError::new("name", "", "must not be empty: errors and metrics show it"));
    }
    Ok(())
}
