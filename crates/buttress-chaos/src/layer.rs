use std::borrow::Cow;
use std::future::Future;
use std::sync::{Arc, PoisonError, RwLock};

use buttress_core::{BoxError, ConfigError, Event, Mode, ModeCell, Observe, Observer, Plain};
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use crate::config::Config;
use crate::handle::{ChaosHandle, Counters};
use crate::inject::{Inject, Protocol};
use crate::plan::{Injection, Plan};
use crate::rule::{Field, Rule};
use crate::service::{Call, Chaos};

/// Injects faults into the calls through the services that it is applied to.
///
/// The numbers of calls live in the layer: all services made by it, and all their clones, share them. A
/// [`handle`](ChaosLayer::handle) reads and controls it.
///
/// ```
/// use buttress_chaos::{ChaosLayer, Config, Injected, Rule};
/// use buttress_core::{Kind, find};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower::BoxError> {
/// let chaos = ChaosLayer::new("datadog", Config::seeded(7).rule(Rule::error(Kind::Transient).first(1)))?;
/// let service = ServiceBuilder::new()
///     .layer(chaos)
///     .service(service_fn(|query: &'static str| async move { Ok::<_, std::io::Error>(query.len()) }));
/// let error = service.clone().oneshot("avg:system.load.1{*}").await.unwrap_err();
/// assert!(find::<Injected>(&*error).is_some());
/// assert_eq!(service.oneshot("avg:system.load.1{*}").await?, 20);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ChaosLayer<P = Plain> {
    shared: Arc<Shared>,
    policy: P,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) name: Arc<str>,
    pub(crate) mode: ModeCell,
    pub(crate) counters: Counters,
    pub(crate) check: fn(&Rule) -> Result<(), ConfigError>,
    seed: u64,
    plan: RwLock<Arc<Plan>>,
    observer: Observer,
}

impl ChaosLayer {
    /// Chaos for calls of any kind. `name` says in errors and events which dependency is ill.
    ///
    /// # Errors
    ///
    /// If a rule breaks a rule of its own, or needs to know the protocol; and in a release build, unless the configuration
    /// [allows it](Config::allow_in_release).
    pub fn new(name: impl Into<Arc<str>>, config: Config) -> Result<Self, ConfigError> {
        Self::with_policy(name, config, Plain::default())
    }
}

#[cfg(feature = "http")]
impl ChaosLayer<crate::Http> {
    /// Chaos for HTTP and gRPC.
    ///
    /// # Errors
    ///
    /// As for [`ChaosLayer::new`]; and if an answer is not one of HTTP.
    pub fn http(name: impl Into<Arc<str>>, config: Config) -> Result<Self, ConfigError> {
        Self::with_policy(name, config, crate::Http)
    }
}

impl<P: Protocol> ChaosLayer<P> {
    /// Chaos for a protocol of one's own, or with [keys](buttress_core::key_by) or [answers](crate::respond_with) of one's
    /// own.
    ///
    /// # Errors
    ///
    /// As for [`ChaosLayer::new`].
    pub fn with_policy(name: impl Into<Arc<str>>, config: Config, policy: P) -> Result<Self, ConfigError> {
        config.check(cfg!(debug_assertions), P::check)?;
        let Config { seed, rules, start, mode, .. } = config;
        let shared = Shared {
            name: name.into(),
            mode: ModeCell::new(mode),
            counters: Counters::default(),
            check: P::check,
            seed,
            plan: RwLock::new(Arc::new(Plan::new(seed, rules, start))),
            observer: Observer::default(),
        };
        Ok(Self { shared: Arc::new(shared), policy })
    }
}

impl<P> ChaosLayer<P> {
    /// Reports to this observer. The first one stays; a `Vec` of several is one.
    #[must_use]
    pub fn observe(self, observer: Arc<dyn Observe>) -> Self {
        self.shared.observer.set(observer);
        self
    }

    /// Reads and controls it.
    pub fn handle(&self) -> ChaosHandle {
        ChaosHandle::new(Arc::clone(&self.shared))
    }

    /// Injects into one future, without a service: the function form. The future is made when the call is passed on.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), buttress_core::BoxError> {
    /// # use std::time::Duration;
    /// use buttress_chaos::{ChaosLayer, Config, Rule};
    ///
    /// let chaos = ChaosLayer::new("pagerduty", Config::seeded(7).rule(Rule::latency(Duration::from_secs(2))))?;
    /// let start = tokio::time::Instant::now();
    /// let answer = chaos.run(|| async { Ok::<_, std::io::Error>(42) }).await?;
    /// assert_eq!((answer, start.elapsed()), (42, Duration::from_secs(2)));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The future's own, or an injected one.
    pub async fn run<F, Fut, Res, E>(&self, call: F) -> Result<P::Response, BoxError>
    where
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<Res, E>>,
        E: Into<BoxError>,
        P: Inject<(), Res> + Clone,
    {
        Chaos::once(Call(Some(call)), &self.shared, self.policy.clone()).await
    }
}

impl<S, P: Clone> Layer<S> for ChaosLayer<P> {
    type Service = Chaos<S, P>;

    fn layer(&self, inner: S) -> Self::Service {
        Chaos::new(inner, Arc::clone(&self.shared), self.policy.clone())
    }
}

impl Shared {
    /// What a call meets that starts now.
    pub(crate) fn decide<'a>(&self, field: impl Fn(&Field) -> Option<Cow<'a, str>>) -> Option<Injection> {
        let mode = self.mode.get();
        if mode == Mode::Off {
            return None;
        }
        let plan = Arc::clone(&self.plan.read().unwrap_or_else(PoisonError::into_inner));
        let injection = plan.decide(&self.name, field, Instant::now)?;
        let enforced = mode == Mode::Enforce;
        if let Some(kind) = injection.rule().kind() {
            self.counters.add(kind);
            self.observer.emit(&self.name, || Event::Injected { fault: kind.as_str(), enforced });
        }
        enforced.then_some(injection)
    }

    pub(crate) fn set_plan(&self, change: impl FnOnce(&Plan, u64) -> Plan) {
        let mut plan = self.plan.write().unwrap_or_else(PoisonError::into_inner);
        *plan = Arc::new(change(&plan, self.seed));
    }
}

impl<F, Fut, Res, E> Service<()> for Call<F>
where
    F: FnOnce() -> Fut,
    Fut: Future<Output = Result<Res, E>>,
{
    type Response = Res;
    type Error = E;
    type Future = Fut;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), E>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Fut {
        (self.0.take().expect("one future is made once"))()
    }
}
